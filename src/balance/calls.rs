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
    outstanding: u32,
    resolved_at: Instant,
}

/// What is known of an instance; `None`: there are too many.
fn entry(known: &mut HashMap<u64, Calls>, number: u64, now: Instant) -> Option<&mut Calls> {
    if known.len() >= CALLS_INSTANCES_MAX && !known.contains_key(&number) {
        return None;
    }
    let new = Calls { latency_us: None, told_at: now, outstanding: 0, resolved_at: now };
    Some(known.entry(number).or_insert(new))
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
        let known = self.lock();
        let one = |number| {
            known.get(&number).map_or((None, 0), |calls| {
                // Whoever did not report for so long will not.
                let late = now - calls.resolved_at > Duration::from_millis(CALL_PATIENCE_MS);
                (calls.latency_us, if late { 0 } else { calls.outstanding })
            })
        };
        numbers.map(one).collect()
    }

    /// Notes that a caller was sent to an instance.
    pub fn resolved(&self, number: u64, now: Instant) {
        let mut known = self.lock();
        let Some(calls) = entry(&mut known, number, now) else { return };
        if now - calls.resolved_at > Duration::from_millis(CALL_PATIENCE_MS) {
            calls.outstanding = 0;
        }
        calls.outstanding = calls.outstanding.saturating_add(1);
        calls.resolved_at = now;
    }

    /// Notes how so many calls went that took so long in the mean, microseconds; 0: not told. Callers
    /// may have been sent there by somebody else.
    pub fn reported(&self, number: u64, count: u32, latency_us: u64, now: Instant) {
        let mut known = self.lock();
        let Some(calls) = entry(&mut known, number, now) else { return };
        calls.outstanding = calls.outstanding.saturating_sub(count);
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
            calls.outstanding = 0;
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
        let late = now + Duration::from_millis(CALL_PATIENCE_MS + 1);
        assert_eq!(of(late), (Some(500.0), 0));
        stats.resolved(7, late);
        assert_eq!(of(late).1, 1);
        stats.settle(7);
        assert_eq!(of(late), (Some(500.0), 0));
        stats.forget(7);
        assert_eq!(of(late), (None, 0));
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
