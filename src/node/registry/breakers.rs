//! Counting calls for circuit breakers, in the leader's memory: what follows from the counts is
//! proposed, and replicated. A new leader counts anew.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::balance::runs::Runs;
use crate::model::limits::{BREAKER_BUCKETS, BREAKERS_COUNTED_MAX};
use crate::model::registry::{BreakerPolicy, BreakerState, BreakerStatus};

/// How calls to one instance went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallOutcome {
    /// The service.
    pub service: String,
    /// The instance.
    pub instance: String,
    /// Which succeeded, and which failed.
    pub calls: Runs,
    /// Of those that failed, calls that could not connect and went to another instance: they say nothing of the
    /// service as a whole.
    pub not_connected: u32,
    /// How long one took in the mean, microseconds; 0: not told.
    pub latency_us: u64,
}

/// How calls went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) calls: Runs,
    /// Of those that failed, so many that do not count against the service.
    pub(super) not_connected: u64,
}

impl Counts {
    /// These, and then those.
    pub(super) fn then(self, next: Self) -> Self {
        Self {
            calls: self.calls.then(next.calls),
            not_connected: self.not_connected + next.not_connected,
        }
    }

    /// As far as they are about the service as a whole.
    pub(super) fn of_service(self) -> Self {
        let failed = self.calls.failed.saturating_sub(self.not_connected);
        Self { calls: Runs { failed, ..self.calls }, not_connected: 0 }
    }
}

/// Calls of one instance, or of a service.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// From when on, succeeded, failed; the oldest first.
    buckets: VecDeque<(Instant, u64, u64)>,
    failed_in_a_row: u64,
    /// Of those let through half-open.
    probed: u64,
}

/// Whose calls are counted: those of an instance open its breaker also by failures in a row; among all
/// calls of a service one bad instance would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    Instance,
    Service,
}

impl Window {
    /// Counts calls; where the breaker has to go, if it has to.
    pub(super) fn count(
        &mut self,
        (policy, status, of): (&BreakerPolicy, &BreakerStatus, Of),
        counts: Counts,
        now: Instant,
    ) -> Option<BreakerState> {
        match status.state() {
            _ if policy.disabled => None,
            BreakerState::Open | BreakerState::ForcedOpen | BreakerState::ForcedClosed => {
                *self = Self::default();
                None
            }
            BreakerState::HalfOpen => {
                self.probed += counts.calls.ok;
                match (counts.calls.failed > 0, self.probed >= u64::from(policy.probes)) {
                    (true, _) => Some(BreakerState::Open),
                    (false, true) => Some(BreakerState::Closed),
                    (false, false) => None,
                }
            }
            BreakerState::Closed => {
                self.probed = 0;
                let most_in_a_row = self.add(policy, counts.calls, now);
                let in_a_row = of == Of::Instance && most_in_a_row >= u64::from(policy.failures);
                let sum =
                    |part: fn(&(Instant, u64, u64)) -> u64| self.buckets.iter().map(part).sum();
                let (ok, failed): (u64, u64) = (sum(|b| b.1), sum(|b| b.2));
                let calls = ok + failed;
                let often = calls >= u64::from(policy.min_calls)
                    && failed * 100 >= calls * u64::from(policy.failure_percent);
                (in_a_row || often).then_some(BreakerState::Open)
            }
        }
    }

    /// Adds calls; the most failures in a row that there were up to any of them.
    fn add(&mut self, policy: &BreakerPolicy, calls: Runs, now: Instant) -> u64 {
        let Runs { ok, failed, at_start, longest, .. } = calls;
        let most_in_a_row = self.failed_in_a_row.saturating_add(at_start).max(longest);
        self.failed_in_a_row = calls.following(self.failed_in_a_row);
        let window = Duration::from_millis(policy.window_ms);
        while self.buckets.front().is_some_and(|(from, ..)| now - *from >= window) {
            self.buckets.pop_front();
        }
        match self.buckets.back_mut().filter(|(from, ..)| now - *from < window / BREAKER_BUCKETS) {
            Some((_, known_ok, known_failed)) => {
                *known_ok += ok;
                *known_failed += failed;
            }
            None => self.buckets.push_back((now, ok, failed)),
        }
        most_in_a_row
    }
}

/// Whose window: a service, and the number of an instance; 0: the service as a whole.
type Key = (String, u64);

/// All that are counted.
#[derive(Debug, Default)]
pub(super) struct Breakers(HashMap<Key, Window>);

impl Breakers {
    /// The window of an instance (by its number) or of a service (0).
    pub(super) fn window(&mut self, service: &str, number: u64) -> Option<&mut Window> {
        let key = (service.to_owned(), number);
        if self.0.len() >= BREAKERS_COUNTED_MAX && !self.0.contains_key(&key) {
            return None;
        }
        Some(self.0.entry(key).or_default())
    }

    /// Forgets what is gone, or has moved.
    pub(super) fn forget(&mut self, service: &str, number: u64) {
        self.0.remove(&(service.to_owned(), number));
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::runs::InARow;
    use crate::model::registry::ServiceConfig;
    use crate::runtime::clock;

    fn policy() -> BreakerPolicy {
        ServiceConfig::defaults().breaker
    }

    fn status(state: BreakerState) -> BreakerStatus {
        BreakerStatus { state: state as i32, ..BreakerStatus::default() }
    }

    fn counts(ok: u64, failed: u64) -> Counts {
        Counts { calls: Runs::told(ok, failed, InARow::default()), not_connected: 0 }
    }

    /// All calls ever, looked through for each question.
    #[derive(Default)]
    struct Naive(Vec<(u64, bool)>);

    impl Naive {
        fn in_a_row(&self) -> u64 {
            self.0.iter().rev().take_while(|(_, ok)| !ok).count() as u64
        }

        fn opens(&self, now: u64, policy: &BreakerPolicy) -> bool {
            let recent: Vec<_> =
                self.0.iter().filter(|(at, _)| now - at < policy.window_ms).collect();
            let bad = recent.iter().filter(|(_, ok)| !ok).count();
            self.in_a_row() >= u64::from(policy.failures)
                || (recent.len() >= 20 && bad * 100 >= recent.len() * 50)
        }
    }

    proptest::proptest! {
        #[test]
        fn it_opens_when_the_naive_model_does(
            calls in proptest::collection::vec((0..1500_u64, 0..4_u64, 0..3_u64), 1..120)
        ) {
            let (start, policy) = (clock::now(), policy());
            let (mut window, mut naive, mut now) = (Window::default(), Naive::default(), 0);
            for (step, ok, failed) in calls {
                // The window is kept in tenths: within one the two may differ, at its edges not.
                now += step / 1000 * 1000;
                naive.0.extend((0..ok).map(|_| (now, true)));
                naive.0.extend((0..failed).map(|_| (now, false)));
                let at = start + Duration::from_millis(now);
                let closed = status(BreakerState::Closed);
                let to = window.count((&policy, &closed, Of::Instance), counts(ok, failed), at);
                let wanted = naive.opens(now, &policy).then_some(BreakerState::Open);
                proptest::prop_assert_eq!(to, wanted);
                if to.is_some() {
                    (window, naive) = (Window::default(), Naive::default());
                }
            }
        }
    }

    #[test]
    fn scattered_failures_open_nothing_and_five_in_a_row_do_wherever_they_were() {
        let (policy, closed, now) = (policy(), status(BreakerState::Closed), clock::now());
        let opens = |ok, failed, [start, longest, end]: [u64; 3]| {
            let row = InARow { at_start: Some(start), longest: Some(longest), at_end: Some(end) };
            let counts = Counts { calls: Runs::told(ok, failed, row), not_connected: 0 };
            let to = Window::default().count((&policy, &closed, Of::Instance), counts, now);
            to.is_some()
        };
        assert!(!opens(100, 10, [0, 1, 0]));
        assert_eq!([[5, 5, 0], [0, 5, 0], [0, 5, 5]].map(|row| opens(100, 10, row)), [true; 3]);
    }

    /// Calls of a service, by milliseconds since the first.
    struct Calls {
        policy: BreakerPolicy,
        window: Window,
        start: Instant,
    }

    impl Calls {
        fn new(change: impl FnOnce(&mut BreakerPolicy)) -> Self {
            let mut policy = policy();
            change(&mut policy);
            Self { policy, window: Window::default(), start: clock::now() }
        }

        fn at(&mut self, ms: u64, ok: u64, failed: u64) -> Option<BreakerState> {
            let (closed, at) =
                (status(BreakerState::Closed), self.start + Duration::from_millis(ms));
            self.window.count((&self.policy, &closed, Of::Service), counts(ok, failed), at)
        }
    }

    proptest::proptest! {
        #[test]
        fn a_call_counts_for_nine_to_ten_tenths_of_the_window(
            steps in proptest::collection::vec(0..1500_u64, 1..200)
        ) {
            // All fail, so that their number alone decides.
            let (mut calls, mut all, mut now) = (Calls::new(|_| ()), Vec::new(), 0);
            for step in steps {
                now += step;
                all.push(now);
                let within = |ms: u64| all.iter().filter(|at| now - **at < ms).count();
                let (surely, at_most) = (within(9000), within(10_000));
                let opens = calls.at(now, 0, 1).is_some();
                proptest::prop_assert!(opens || surely < 20, "{surely} in nine seconds");
                proptest::prop_assert!(!opens || at_most >= 20, "{at_most} in ten seconds");
                if opens {
                    (calls.window, all) = (Window::default(), Vec::new());
                }
            }
        }
    }

    #[test]
    fn a_call_counts_until_the_window_is_over_to_the_millisecond() {
        let last = |ms| {
            let mut calls = Calls::new(|_| ());
            assert_eq!(calls.at(0, 0, 19), None);
            calls.at(ms, 0, 1)
        };
        assert_eq!([9_999, 10_000].map(last), [Some(BreakerState::Open), None]);
        // What came within a tenth of it goes with the first of that tenth, what came after it does not.
        let gone = |ms| {
            let mut calls = Calls::new(|_| ());
            assert_eq!((calls.at(0, 0, 1), calls.at(ms, 0, 18)), (None, None));
            calls.at(10_500, 0, 2)
        };
        assert_eq!([999, 1000].map(gone), [None, Some(BreakerState::Open)]);
        let mut short = Calls::new(|policy| policy.window_ms = 1000);
        assert_eq!((short.at(0, 0, 10), short.at(999, 0, 9)), (None, None));
        assert_eq!((short.at(1000, 0, 10), short.at(1001, 0, 1)), (None, Some(BreakerState::Open)));
    }

    #[test]
    fn the_share_of_failures_counts_from_exactly_where_it_is_set() {
        let of = |percent, ok, failed| {
            let mut calls = Calls::new(|policy| policy.failure_percent = percent);
            calls.at(0, ok, failed).is_some()
        };
        assert_eq!([(11, 9), (10, 10), (9, 11)].map(|(ok, f)| of(50, ok, f)), [false, true, true]);
        // 33 of 99 are less than 34 percent, 34 of 100 are not.
        assert_eq!([(66, 33), (66, 34)].map(|(ok, f)| of(34, ok, f)), [false, true]);
        assert_eq!([(1, 999), (0, 20)].map(|(ok, f)| of(100, ok, f)), [false, true]);
        assert_eq!([(100, 1), (99, 1)].map(|(ok, f)| of(1, ok, f)), [false, true]);
    }

    #[test]
    fn fewer_calls_than_it_takes_open_nothing() {
        let mut one = Calls::new(|policy| policy.min_calls = 1);
        assert_eq!((one.at(0, 1, 0), one.at(1, 0, 1)), (None, Some(BreakerState::Open)));
        let mut many = Calls::new(|policy| policy.min_calls = 10_000);
        assert_eq!(many.at(0, 0, 9_999), None);
        // Those that went well count among them.
        assert_eq!(many.at(1, 1, 0), Some(BreakerState::Open));
    }

    #[test]
    fn probes_count_one_by_one_and_anew_each_time() {
        let (policy, now) = (policy(), clock::now());
        let mut window = Window::default();
        let mut count =
            |state, calls| window.count((&policy, &status(state), Of::Instance), calls, now);
        let half = BreakerState::HalfOpen;
        assert_eq!((count(half, counts(1, 0)), count(half, counts(1, 0))), (None, None));
        // It was opened again meanwhile: what went well before says nothing any more.
        assert_eq!(count(BreakerState::Open, counts(1, 0)), None);
        assert_eq!(count(half, counts(2, 0)), None);
        assert_eq!(count(half, counts(0, 0)), None);
        assert_eq!(count(half, counts(1, 0)), Some(BreakerState::Closed));
        assert_eq!(count(BreakerState::Closed, counts(2, 0)), None);
        assert_eq!(count(half, counts(2, 0)), None);
        // More went well than it takes, but one did not.
        assert_eq!(count(half, counts(9, 1)), Some(BreakerState::Open));
    }

    #[test]
    fn half_open_it_takes_all_probes_to_close_and_one_failure_to_open() {
        let (policy, half, now) = (policy(), status(BreakerState::HalfOpen), clock::now());
        let mut window = Window::default();
        let mut count = |calls| window.count((&policy, &half, Of::Instance), calls, now);
        assert_eq!(count(counts(2, 0)), None);
        assert_eq!(count(counts(1, 0)), Some(BreakerState::Closed));
        let mut window = Window::default();
        let failed = window.count((&policy, &half, Of::Instance), counts(2, 1), now);
        assert_eq!(failed, Some(BreakerState::Open));
    }

    #[test]
    fn what_is_forced_or_disabled_stays() {
        let (mut off, now) = (policy(), clock::now());
        let mut window = Window::default();
        for state in [BreakerState::Open, BreakerState::ForcedOpen, BreakerState::ForcedClosed] {
            let calls = counts(0, 99);
            assert_eq!(window.count((&off, &status(state), Of::Instance), calls, now), None);
        }
        off.disabled = true;
        let closed = status(BreakerState::Closed);
        assert_eq!(window.count((&off, &closed, Of::Instance), counts(0, 99), now), None);
    }

    #[test]
    fn a_service_does_not_open_by_failures_in_a_row() {
        let (policy, closed, now) = (policy(), status(BreakerState::Closed), clock::now());
        let mut window = Window::default();
        let mut count = |calls| window.count((&policy, &closed, Of::Service), calls, now);
        assert_eq!(count(counts(0, 19)), None);
        assert_eq!(count(counts(0, 1)), Some(BreakerState::Open));
    }

    #[test]
    fn what_could_not_connect_says_nothing_of_the_service() {
        let (policy, closed, now) = (policy(), status(BreakerState::Closed), clock::now());
        let calls = Counts { not_connected: 20, ..counts(20, 20) };
        let mut window = Window::default();
        let of_service = window.count((&policy, &closed, Of::Service), calls.of_service(), now);
        assert_eq!(of_service, None);
        let of_instance = Window::default().count((&policy, &closed, Of::Instance), calls, now);
        assert_eq!(of_instance, Some(BreakerState::Open));
    }

    proptest::proptest! {
        #[test]
        fn failures_in_a_row_count_however_calls_are_gathered(
            calls in proptest::collection::vec(
                (proptest::bool::weighted(0.3), proptest::bool::weighted(0.3)), 1..80
            )
        ) {
            // So many calls that their share never decides; whether a gathering ends comes with each.
            let policy = BreakerPolicy { min_calls: 10_000, ..policy() };
            let (mut window, now) = (Window::default(), clock::now());
            let closed = status(BreakerState::Closed);
            let (mut naive, mut opened) = (Naive::default(), false);
            let mut gathered = Counts::default();
            let last = calls.len() - 1;
            for (n, (ok, ends)) in calls.into_iter().enumerate() {
                naive.0.push((0, ok));
                opened |= naive.in_a_row() >= u64::from(policy.failures);
                gathered = gathered.then(Counts { calls: Runs::of(ok), not_connected: 0 });
                if !ends && n < last {
                    continue;
                }
                let to =
                    window.count((&policy, &closed, Of::Instance), std::mem::take(&mut gathered), now);
                proptest::prop_assert_eq!(to, opened.then_some(BreakerState::Open));
                if opened {
                    (window, naive, opened) = (Window::default(), Naive::default(), false);
                }
            }
        }
    }
}
