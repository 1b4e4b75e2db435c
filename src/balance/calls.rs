//! What is known of calls to instances: from what was resolved and what callers report.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::model::limits::{CALL_PATIENCE_MS, CALLS_INSTANCES_MAX, EWMA_MS};

/// Of one instance.
#[derive(Clone, Copy, Debug)]
struct Calls {
    /// Microseconds; `None`: nobody told yet.
    latency_us: Option<f64>,
    told_at: Instant,
    /// Those that nobody told of yet, by when they began: the oldest first.
    under_way: [u32; SPANS],
    /// When the newest of these spans began.
    began: Instant,
}

/// How many spans are told apart: the newest one, which is not over yet, and those of the time that an unreported
/// call counts for.
const SPANS: usize = 4;
const SPAN: Duration = Duration::from_millis(CALL_PATIENCE_MS / (SPANS as u64 - 1));

impl Calls {
    fn new(now: Instant) -> Self {
        Self { latency_us: None, told_at: now, under_way: [0; SPANS], began: now }
    }

    /// Begins new spans as time goes by, and forgets the calls of those that are long over.
    fn age(&mut self, now: Instant) {
        for _ in 0..SPANS {
            if now.saturating_duration_since(self.began) < SPAN {
                return;
            }
            self.began += SPAN;
            self.under_way.rotate_left(1);
            self.under_way[SPANS - 1] = 0;
        }
        self.began = now;
    }

    fn outstanding(&self) -> u32 {
        self.under_way.iter().fold(0, |sum, calls| sum.saturating_add(*calls))
    }

    /// So many calls are over, the oldest ones as far as anybody knows.
    fn end(&mut self, count: u32) {
        let mut left = count;
        for calls in &mut self.under_way {
            let ended = left.min(*calls);
            (*calls, left) = (*calls - ended, left - ended);
        }
    }
}

/// What is known of an instance; `None`: there are too many.
fn entry(known: &mut HashMap<u64, Calls>, number: u64, now: Instant) -> Option<&mut Calls> {
    if known.len() >= CALLS_INSTANCES_MAX && !known.contains_key(&number) {
        return None;
    }
    let calls = known.entry(number).or_insert_with(|| Calls::new(now));
    calls.age(now);
    Some(calls)
}

/// Of all instances, by incarnation.
#[derive(Debug, Default)]
pub struct CallStats {
    by_number: Mutex<HashMap<u64, Calls>>,
}

impl CallStats {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Calls>> {
        self.by_number.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What calls took lately, microseconds, and how many are on their way; one entry a number.
    #[must_use]
    pub fn of(&self, numbers: impl Iterator<Item = u64>, now: Instant) -> Vec<(Option<f64>, u32)> {
        let mut known = self.lock();
        let one = |number| {
            known.get_mut(&number).map_or((None, 0), |calls| {
                calls.age(now);
                (calls.latency_us, calls.outstanding())
            })
        };
        numbers.map(one).collect()
    }

    /// Notes that a caller was sent to an instance.
    pub fn resolved(&self, number: u64, now: Instant) {
        let mut known = self.lock();
        let Some(calls) = entry(&mut known, number, now) else { return };
        let newest = &mut calls.under_way[SPANS - 1];
        *newest = newest.saturating_add(1);
    }

    /// Notes how so many calls went that took so long in the mean, microseconds; 0: not told. Callers
    /// may have been sent there by somebody else.
    pub fn reported(&self, number: u64, count: u32, latency_us: u64, now: Instant) {
        let mut known = self.lock();
        let Some(calls) = entry(&mut known, number, now) else { return };
        calls.end(count);
        if latency_us > 0 {
            // Exact below 2^52 microseconds, which are 142 years.
            let latency = Duration::from_micros(latency_us).as_secs_f64() * 1e6;
            let passed = (now - calls.told_at).as_secs_f64();
            let fade = Duration::from_millis(EWMA_MS).as_secs_f64();
            // One report counts at least for so much as it would after a tenth of the time.
            let keep = (-passed / fade).exp().min((-0.1_f64).exp());
            let mean =
                calls.latency_us.map_or(latency, |known| known * keep + latency * (1.0 - keep));
            (calls.latency_us, calls.told_at) = (Some(mean), now);
        }
    }

    /// Counts calls to an instance anew: its breaker moved, and those from before say nothing of it.
    pub fn settle(&self, number: u64) {
        if let Some(calls) = self.lock().get_mut(&number) {
            calls.under_way = [0; SPANS];
        }
    }

    /// Forgets those that are gone.
    pub fn forget(&self, number: u64) {
        self.lock().remove(&number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::{Candidate, Draw, choose};
    use crate::model::registry::BalancePolicy;

    #[expect(clippy::disallowed_methods, reason = "this room is below the clock's")]
    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn calls_are_on_their_way_until_they_are_reported_or_forgotten() {
        let (stats, now) = (CallStats::default(), now());
        let of = |at: Instant| stats.of([7].into_iter(), at)[0];
        assert_eq!(of(now), (None, 0));
        stats.resolved(7, now);
        stats.resolved(7, now);
        assert_eq!(of(now), (None, 2));
        stats.reported(7, 1, 500, now);
        assert_eq!(of(now), (Some(500.0), 1));
        assert_eq!(of(now + Duration::from_millis(CALL_PATIENCE_MS - 1)).1, 1);
        let late = now + Duration::from_millis(CALL_PATIENCE_MS) + SPAN;
        assert_eq!(of(late), (Some(500.0), 0));
        stats.resolved(7, late);
        assert_eq!(of(late).1, 1);
        stats.settle(7);
        assert_eq!(of(late), (Some(500.0), 0));
        stats.forget(7);
        assert_eq!(of(late), (None, 0));
    }

    #[test]
    fn calls_that_nobody_reports_do_not_add_up_and_a_new_instance_is_not_flooded() {
        let (stats, mut now) = (CallStats::default(), now());
        let ids = ["a", "b", "c"];
        // A call every 100 ms for so many seconds: how many each of the first so many instances gets.
        let mut call = |instances: usize, seconds: u64| {
            let mut got = [0_u64; 3];
            for n in 0..seconds * 10 {
                now += Duration::from_millis(100);
                let known = stats.of(0..instances as u64, now);
                let candidate = |(id, (latency_us, outstanding))| {
                    let warmth = 1.0;
                    Candidate { id, weight: 1.0, warmth, outstanding, latency_us }
                };
                let candidates: Vec<_> = ids.into_iter().zip(known).map(candidate).collect();
                let dice = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
                let draw = Draw { dice, turn: 0, key: "" };
                let at = choose(BalancePolicy::LeastOutstanding, &candidates, &draw).unwrap();
                stats.resolved(at as u64, now);
                got[at] += 1;
            }
            (got, stats.of(0..3, now).iter().map(|(_, calls)| u64::from(*calls)).sum::<u64>())
        };
        let (got, under_way) = call(2, 300);
        assert_eq!(got[0] + got[1], 3000);
        // As many as began while one counts, which is up to a span longer than it has to.
        assert!((300..=400).contains(&under_way), "{under_way}");
        let (got, _) = call(3, 120);
        assert!((380..=480).contains(&got[2]), "{got:?}");
    }

    #[test]
    fn the_oldest_calls_are_told_of_first() {
        let (stats, now) = (CallStats::default(), now());
        stats.resolved(7, now);
        let later = now + SPAN;
        stats.resolved(7, later);
        stats.resolved(7, later);
        stats.reported(7, 2, 0, later);
        let of = |at: Instant| stats.of([7].into_iter(), at)[0].1;
        assert_eq!([now + SPAN * 3, now + SPAN * 4, now + SPAN * 5].map(of), [1, 1, 0]);
        // Others may have been sent there by somebody else.
        stats.reported(7, 9, 0, now + SPAN * 5);
        assert_eq!(of(now + SPAN * 5), 0);
    }

    #[test]
    fn what_others_were_sent_to_is_known_by_reports() {
        let (stats, now) = (CallStats::default(), now());
        stats.reported(7, 3, 500, now);
        assert_eq!(stats.of([7].into_iter(), now)[0], (Some(500.0), 0));
    }

    #[test]
    fn old_latencies_fade_within_ten_seconds() {
        let (stats, now) = (CallStats::default(), now());
        stats.resolved(7, now);
        stats.reported(7, 1, 1000, now);
        stats.reported(7, 1, 2000, now + Duration::from_secs(10));
        let mean = stats.of([7].into_iter(), now)[0].0.unwrap();
        // 1000 e^-1 + 2000 (1 - e^-1).
        assert!((mean - 1632.1).abs() < 0.1, "{mean}");
    }
}
