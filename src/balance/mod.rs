//! Choosing among instances, and what is known of calls to them. Nodes and clients choose alike.
//!
//! Choosing is pure: randomness, turns and what is known of calls come in. Decisions are those of whoever
//! chooses: another node or client that knows of other calls chooses otherwise.

pub mod calls;
pub mod runs;
pub mod turns;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::model::registry::BalancePolicy;

/// An instance that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its share, greater than 0.
    pub weight: f64,
    /// How much of its share it gets by now, in (0, 1]: it grows after the instance became healthy.
    pub warmth: f64,
    /// Calls that are on their way to it, as far as this node knows.
    pub outstanding: u32,
    /// What a call took lately, microseconds; `None`: nobody told.
    pub latency_us: Option<f64>,
}

impl Candidate<'_> {
    fn share(&self) -> f64 {
        self.weight * self.warmth
    }
}

/// What a choice draws on.
pub struct Draw<'a> {
    /// A number that nobody foresees.
    pub dice: u64,
    /// The number of the choice among those from the same pool, from any number on.
    pub turn: u64,
    /// What the caller's calls belong to.
    pub key: &'a str,
}

/// 2^64 / golden ratio: multiples of it, modulo 2^64, are spread as evenly as can be (Knuth, The Art of
/// Computer Programming 3, 6.4).
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The best of the candidates, by a policy; `None`: there are none.
#[must_use]
pub fn choose(
    policy: BalancePolicy,
    candidates: &[Candidate<'_>],
    draw: &Draw<'_>,
) -> Option<usize> {
    let count = candidates.len();
    if count < 2 {
        return count.checked_sub(1);
    }
    Some(match policy {
        BalancePolicy::RoundRobin => below(draw.turn, count),
        BalancePolicy::Weighted => by_share(candidates, unit(draw.turn.wrapping_mul(GOLDEN))),
        BalancePolicy::Random => by_share(candidates, unit(scramble(draw.dice, 0))),
        BalancePolicy::P2cEwma => {
            let one = below(scramble(draw.dice, 1), count);
            let step = 1 + below(scramble(draw.dice, 2), count - 1);
            let other = (one + step) % count;
            let mean = mean_latency(candidates);
            let cost = |at: usize| {
                let c = &candidates[at];
                c.latency_us.unwrap_or(mean) * (f64::from(c.outstanding) + 1.0) / c.share()
            };
            if cost(other) < cost(one) { other } else { one }
        }
        BalancePolicy::LeastOutstanding => {
            let first = below(scramble(draw.dice, 3), count);
            let load = |at: usize| {
                let c = &candidates[at];
                (f64::from(c.outstanding) + 1.0) / c.share()
            };
            let order = (0..count).map(|n| (first + n) % count);
            order.min_by(|a, b| load(*a).total_cmp(&load(*b)))?
        }
        BalancePolicy::ConsistentHash => rendezvous(candidates, draw.key)?,
    })
}

/// Weighted rendezvous hashing: the largest −weight / ln u, where u in (0, 1) is a hash of key and id
/// (Schindelhauer, Schomaker: Weighted Distributed Hash Tables, 2005). It does not look at warmth: keys
/// would move twice.
fn rendezvous(candidates: &[Candidate<'_>], key: &str) -> Option<usize> {
    let score = |c: &Candidate<'_>| {
        let hash = xxh3_64_with_seed(c.id.as_bytes(), xxh3_64_with_seed(key.as_bytes(), 0));
        -c.weight / unit(hash).ln()
    };
    let scores = candidates.iter().map(score).enumerate();
    scores.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(at, _)| at)
}

/// Whose part of the sum of all shares lies at a fraction of it.
fn by_share(candidates: &[Candidate<'_>], fraction: f64) -> usize {
    let total: f64 = candidates.iter().map(Candidate::share).sum();
    let mut left = fraction * total;
    for (at, candidate) in candidates.iter().enumerate() {
        left -= candidate.share();
        if left < 0.0 {
            return at;
        }
    }
    candidates.len() - 1
}

/// What those of whom something is known take in the mean: new ones are taken for average.
fn mean_latency(candidates: &[Candidate<'_>]) -> f64 {
    let known = candidates.iter().filter_map(|c| c.latency_us);
    let (sum, count) = known.fold((0.0, 0.0), |(sum, count), us| (sum + us, count + 1.0));
    if count > 0.0 { sum / count } else { 1.0 }
}

/// Different numbers out of one (the finalizer of SplitMix64).
fn scramble(dice: u64, nth: u64) -> u64 {
    let mut z = dice.wrapping_add(GOLDEN.wrapping_mul(nth + 1));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn below(number: u64, bound: usize) -> usize {
    usize::try_from(number % bound.max(1) as u64).unwrap_or(0)
}

/// A number in the open interval (0, 1), out of its upper 53 bits.
#[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
fn unit(number: u64) -> f64 {
    ((number >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const PICKS: u64 = 100_000;

    fn candidate(id: &str, weight: f64) -> Candidate<'_> {
        Candidate { id, weight, warmth: 1.0, outstanding: 0, latency_us: None }
    }

    /// How often each is chosen, as a share of all.
    fn shares(policy: BalancePolicy, candidates: &[Candidate<'_>], seed: u64) -> Vec<f64> {
        let mut counts = vec![0.0; candidates.len()];
        for turn in 0..PICKS {
            let key = turn.to_string();
            let draw = Draw { dice: scramble(seed, turn), turn, key: &key };
            counts[choose(policy, candidates, &draw).unwrap()] += 1.0;
        }
        counts.iter().map(|count| count / PICKS as f64).collect()
    }

    #[test]
    fn shares_follow_weights_within_two_percent() {
        let weights = [0.5, 1.0, 1.5, 3.0, 4.0];
        let ids = ["a", "b", "c", "d", "e"];
        let candidates: Vec<_> = ids.iter().zip(weights).map(|(i, w)| candidate(i, w)).collect();
        for policy in
            [BalancePolicy::Weighted, BalancePolicy::Random, BalancePolicy::ConsistentHash]
        {
            for (share, weight) in shares(policy, &candidates, 7).iter().zip(weights) {
                let wanted = weight / 10.0;
                assert!((share - wanted).abs() < 0.02 * wanted.max(0.2), "{policy:?}: {share}");
            }
        }
        for share in shares(BalancePolicy::RoundRobin, &candidates, 7) {
            assert!((share - 0.2).abs() < 1e-9);
        }
    }

    #[test]
    fn any_short_stretch_of_weighted_turns_is_even() {
        let candidates = [candidate("a", 1.0), candidate("b", 2.0)];
        let turn = |turn| Draw { dice: 0, turn, key: "" };
        for start in 0..1000 {
            let of_b = (start..start + 30)
                .filter(|t| choose(BalancePolicy::Weighted, &candidates, &turn(*t)) == Some(1))
                .count();
            assert!((18..=22).contains(&of_b), "{of_b} of 30 from {start}");
        }
    }

    #[test]
    fn when_one_leaves_only_its_keys_move() {
        let ids: Vec<String> = (0..10).map(|n| format!("host-{n}")).collect();
        let all: Vec<_> = ids.iter().map(|id| candidate(id, 1.0)).collect();
        let fewer = &all[1..];
        let (mut moved, mut of_the_gone) = (0.0, 0.0);
        for n in 0..PICKS {
            let key = format!("key-{n}");
            let draw = Draw { dice: n, turn: n, key: &key };
            let before = choose(BalancePolicy::ConsistentHash, &all, &draw).unwrap();
            let after = choose(BalancePolicy::ConsistentHash, fewer, &draw).unwrap();
            let stays = all[before].id == fewer[after].id;
            moved += f64::from(u8::from(!stays));
            of_the_gone += f64::from(u8::from(before == 0));
            assert!(stays || before == 0, "{key} moved for nothing");
        }
        assert!(moved / PICKS as f64 <= 0.11 && moved == of_the_gone);
    }

    #[test]
    fn a_cold_instance_gets_less() {
        let mut candidates = [candidate("a", 1.0), candidate("b", 1.0)];
        candidates[1].warmth = 0.25;
        for policy in [BalancePolicy::Weighted, BalancePolicy::Random] {
            let share = shares(policy, &candidates, 3)[1];
            assert!((share - 0.2).abs() < 0.01, "{policy:?}: {share}");
        }
    }

    /// Three instances of which one is ten times as slow, in a simulation of 20,000 calls that come
    /// every 100 microseconds: the 99th percentile of how long calls take, queueing included.
    fn p99(policy: BalancePolicy) -> f64 {
        let service_us = [200.0, 200.0, 2000.0];
        let ids = ["a", "b", "slow"];
        let (mut free_at, mut ends) = ([0.0_f64; 3], vec![Vec::<f64>::new(); 3]);
        let (mut ewma, mut took): ([Option<f64>; 3], Vec<f64>) = ([None; 3], Vec::new());
        for n in 0..20_000_u64 {
            let now = n as f64 * 100.0;
            let candidates: Vec<_> = (0..3)
                .map(|at| {
                    ends[at].retain(|end| *end > now);
                    let outstanding = u32::try_from(ends[at].len()).unwrap();
                    let latency_us = ewma[at];
                    Candidate { outstanding, latency_us, ..candidate(ids[at], 1.0) }
                })
                .collect();
            let draw = Draw { dice: scramble(5, n), turn: n, key: "" };
            let at = choose(policy, &candidates, &draw).unwrap();
            free_at[at] = free_at[at].max(now) + service_us[at];
            ends[at].push(free_at[at]);
            let latency = free_at[at] - now;
            ewma[at] = Some(ewma[at].map_or(latency, |known| known * 0.9 + latency * 0.1));
            took.push(latency);
        }
        took.sort_by(f64::total_cmp);
        took[took.len() * 99 / 100]
    }

    #[test]
    fn two_choices_beat_taking_turns_when_one_is_slow() {
        let (p2c, turns) = (p99(BalancePolicy::P2cEwma), p99(BalancePolicy::RoundRobin));
        assert!(p2c * 10.0 < turns, "{p2c} and {turns}");
        assert!(p99(BalancePolicy::LeastOutstanding) * 10.0 < turns);
    }

    #[test]
    fn there_may_be_one_or_none() {
        let draw = Draw { dice: 9, turn: 9, key: "k" };
        for policy in (0..6).map(|n| BalancePolicy::try_from(n).unwrap()) {
            assert_eq!(choose(policy, &[], &draw), None);
            assert_eq!(choose(policy, &[candidate("a", 1.0)], &draw), Some(0));
        }
    }
}
