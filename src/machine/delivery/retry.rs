//! How long a failed event waits. Integers only, and randomness that is a hash of the event: the
//! same on every replica and every replay.

use xxhash_rust::xxh3::xxh3_64;

use crate::model::ids::{Offset, SubscriptionId, TopicId};
use crate::model::subscription::{RetryPolicy, RetryStrategy};

/// Which failure of which event.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// Whose event.
    pub topic: TopicId,
    /// Which.
    pub offset: Offset,
    /// For whom.
    pub subscription: SubscriptionId,
    /// From 1.
    pub number: u32,
    /// The delay before, milliseconds; 0 at the first.
    pub previous_ms: u64,
}

impl Failure {
    /// u: the numerator of a fraction of 2^64.
    fn hash(&self) -> u64 {
        let mut bytes = [0; 32];
        let numbers =
            [self.topic.get(), self.offset.get(), self.subscription.get(), self.number.into()];
        for (slot, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            slot.copy_from_slice(&number.to_le_bytes());
        }
        xxh3_64(&bytes)
    }

    /// u × `of`, rounded down.
    fn part(&self, of: u64) -> u64 {
        let product = u128::from(self.hash()) * u128::from(of);
        u64::try_from(product >> 64).unwrap_or(u64::MAX)
    }
}

/// The delay after a failure, milliseconds.
#[must_use]
pub fn delay_ms(policy: &RetryPolicy, failure: &Failure) -> u64 {
    let number = u64::from(failure.number.max(1));
    let (initial, max) = (policy.initial_ms, policy.max_ms);
    match policy.strategy() {
        RetryStrategy::FullJitter => failure.part(exponential(policy, number)).max(policy.min_ms),
        RetryStrategy::Decorrelated => {
            let previous = if failure.previous_ms == 0 { initial } else { failure.previous_ms };
            let span = previous.saturating_mul(3).saturating_sub(initial);
            initial.saturating_add(failure.part(span)).min(max).max(policy.min_ms)
        }
        RetryStrategy::Linear => initial.saturating_mul(number).min(max).max(policy.min_ms),
        RetryStrategy::Fixed => initial.max(policy.min_ms),
        RetryStrategy::Schedule => {
            let at = usize::try_from(number - 1).unwrap_or(usize::MAX);
            let delays = &policy.schedule_ms;
            let delay = delays.get(at).or(delays.last()).copied().unwrap_or(initial);
            delay.max(policy.min_ms)
        }
    }
}

/// min(max, initial × multiplier^(n−1)).
fn exponential(policy: &RetryPolicy, number: u64) -> u64 {
    let max = u128::from(policy.max_ms);
    let multiplier = u128::from(policy.multiplier_milli);
    let mut raw = u128::from(policy.initial_ms) * 1000;
    for _ in 1..number {
        if raw >= max * 1000 || multiplier <= 1000 {
            break;
        }
        raw = raw * multiplier / 1000;
    }
    u64::try_from((raw / 1000).min(max)).unwrap_or(policy.max_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::subscription::SubscriptionConfig;

    fn failure(number: u32, previous_ms: u64) -> Failure {
        Failure {
            topic: TopicId(1),
            offset: Offset(2),
            subscription: SubscriptionId(3),
            number,
            previous_ms,
        }
    }

    fn policy(strategy: RetryStrategy) -> RetryPolicy {
        RetryPolicy { strategy: strategy as i32, ..SubscriptionConfig::defaults("a").retry }
    }

    #[test]
    fn the_hash_never_changes() {
        assert_eq!(failure(1, 0).hash(), xxh3_64(&failure_bytes(1)));
        assert_eq!(delay_ms(&policy(RetryStrategy::FullJitter), &failure(1, 0)), GOLDEN_DELAY_MS);
    }

    const GOLDEN_DELAY_MS: u64 = 791;

    fn failure_bytes(number: u64) -> Vec<u8> {
        [1_u64, 2, 3, number].iter().flat_map(|n| n.to_le_bytes()).collect()
    }

    #[test]
    fn exponential_delays_grow_to_their_bound() {
        let policy = policy(RetryStrategy::FullJitter);
        let raws: Vec<_> = (1..=12).map(|n| exponential(&policy, n)).collect();
        assert_eq!(raws[..4], [1000, 2000, 4000, 8000]);
        assert_eq!(raws[9..], [300_000, 300_000, 300_000]);
        for n in 1..2000 {
            let delay = delay_ms(&policy, &failure(n, 0));
            assert!((100..=300_000).contains(&delay), "{n}: {delay}");
        }
        let odd = RetryPolicy { multiplier_milli: 1500, ..policy };
        assert_eq!(
            (1..=4).map(|n| exponential(&odd, n)).collect::<Vec<_>>(),
            [1000, 1500, 2250, 3375]
        );
    }

    #[test]
    fn jitter_spreads() {
        let policy = policy(RetryStrategy::FullJitter);
        let mut below = 0;
        for offset in 0..1000 {
            let failure = Failure { offset: Offset(offset), ..failure(8, 0) };
            below += u32::from(delay_ms(&policy, &failure) < 64_000);
        }
        assert!((400..600).contains(&below), "{below}");
    }

    #[test]
    fn decorrelated_delays_depend_on_the_one_before() {
        let policy = policy(RetryStrategy::Decorrelated);
        let mut previous = 0;
        for n in 1..500 {
            let delay = delay_ms(&policy, &failure(n, previous));
            let most = previous.max(1000) * 3;
            assert!((1000..=most.min(300_000)).contains(&delay), "{n}: {delay} after {previous}");
            previous = delay;
        }
    }

    #[test]
    fn the_other_strategies_are_plain() {
        let delays = |policy: &RetryPolicy, numbers: &[u32]| -> Vec<u64> {
            numbers.iter().map(|n| delay_ms(policy, &failure(*n, 0))).collect()
        };
        let linear = policy(RetryStrategy::Linear);
        assert_eq!(delays(&linear, &[1, 2, 3, 1000]), [1000, 2000, 3000, 300_000]);
        assert_eq!(delays(&policy(RetryStrategy::Fixed), &[1, 9]), [1000, 1000]);
        let schedule =
            RetryPolicy { schedule_ms: vec![0, 50, 700], ..policy(RetryStrategy::Schedule) };
        assert_eq!(delays(&schedule, &[1, 2, 3, 4, 99]), [100, 100, 700, 700, 700]);
        let at_once = RetryPolicy { min_ms: 0, ..schedule };
        assert_eq!(delays(&at_once, &[1, 2, 3]), [0, 50, 700]);
    }
}
