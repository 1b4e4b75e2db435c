//! The hub's time, as the leader gives it out.
//!
//! Wall clocks jump. A leader's time goes on from the last stamp that it applied, advances by the
//! monotonic clock, and follows the wall clock only by a bounded slew: a jump neither makes
//! everything due at once nor stops time. Only a node that has applied nothing new since it started
//! knows no better than its wall clock.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::model::ids::{Term, UnixMs};
use crate::model::limits::CLOCK_SLEW_PERCENT;
use crate::raft::{AppliedMark, RaftNode};
use crate::runtime::clock;

/// The clock of one node. What it says never goes back while the node leads, and is never before
/// what the state has seen.
#[derive(Debug, Default)]
pub(super) struct HubClock(Mutex<Option<Reading>>);

impl HubClock {
    /// The time now. On a node that does not lead it is a guess.
    pub(super) fn now(&self, raft: &RaftNode) -> UnixMs {
        let term = raft.leadership().term();
        let mark = *raft.applied().borrow();
        self.read(term, &mark, (clock::now(), clock::unix_ms()))
    }

    /// `clocks` are the monotonic and the wall clock.
    fn read(&self, term: Option<Term>, mark: &AppliedMark, clocks: (Instant, UnixMs)) -> UnixMs {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, wall) = clocks;
        let mut reading = match *last {
            Some(known) if known.term == term && term.is_some() => known.advance(at, wall),
            Some(_) | None => Reading::begin(term, mark, at, wall),
        };
        reading.time = reading.time.max(Duration::from_millis(mark.stamp.get()));
        *last = Some(reading);
        UnixMs(u64::try_from(reading.time.as_millis()).unwrap_or(u64::MAX))
    }
}

/// What the clock said last.
#[derive(Clone, Copy, Debug)]
struct Reading {
    /// The term that the node led in.
    term: Option<Term>,
    /// By the monotonic clock.
    at: Instant,
    /// Since the Unix epoch.
    time: Duration,
}

impl Reading {
    /// The first reading of a term: from the last stamp, unless that is of an earlier start.
    fn begin(term: Option<Term>, mark: &AppliedMark, at: Instant, wall: UnixMs) -> Self {
        let time = match mark.stamped_at {
            Some(stamped_at) => {
                Duration::from_millis(mark.stamp.get()) + at.saturating_duration_since(stamped_at)
            }
            None => Duration::from_millis(wall.get()),
        };
        Self { term, at, time }
    }

    fn advance(self, at: Instant, wall: UnixMs) -> Self {
        let elapsed = at.saturating_duration_since(self.at);
        let slew_max = elapsed * CLOCK_SLEW_PERCENT / 100;
        let (time, wall) = (self.time + elapsed, Duration::from_millis(wall.get()));
        let time = if wall >= time {
            time + (wall - time).min(slew_max)
        } else {
            time - (time - wall).min(slew_max)
        };
        Self { at, time, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;
    /// When the tests begin, by every clock that goes right.
    const START_MS: u64 = 1_000 * HOUR_MS;

    /// The clocks of a node that a test moves.
    struct Node {
        clock: HubClock,
        at: Instant,
        wall_ms: u64,
        mark: AppliedMark,
        term: Option<Term>,
    }

    impl Node {
        fn new() -> Self {
            let mark = AppliedMark { stamp: UnixMs(START_MS), ..AppliedMark::default() };
            let (clock, term) = (HubClock::default(), Some(Term(1)));
            Self { clock, at: clock::now(), wall_ms: START_MS, mark, term }
        }

        fn pass(&mut self, ms: u64) {
            self.at += Duration::from_millis(ms);
            self.wall_ms += ms;
        }

        fn read(&self) -> u64 {
            self.clock.read(self.term, &self.mark, (self.at, UnixMs(self.wall_ms))).get()
        }

        /// Applies an entry with a stamp, now.
        fn apply(&mut self, stamp_ms: u64) {
            self.mark.stamp = self.mark.stamp.max(UnixMs(stamp_ms));
            self.mark.stamped_at = Some(self.at);
        }
    }

    #[test]
    fn a_wall_clock_that_jumps_ahead_is_followed_slowly() {
        let mut node = Node::new();
        assert_eq!(node.read(), START_MS);
        node.wall_ms += HOUR_MS;
        assert_eq!(node.read(), START_MS);
        node.pass(1000);
        assert_eq!(node.read(), START_MS + 1050);
        // In the end it is reached, and kept to.
        for _ in 0..21 * 60 {
            node.pass(60_000);
            node.read();
        }
        assert_eq!(node.read(), node.wall_ms);
        node.pass(10);
        assert_eq!(node.read(), node.wall_ms);
    }

    #[test]
    fn a_wall_clock_that_jumps_back_does_not_stop_time() {
        let mut node = Node::new();
        node.read();
        node.wall_ms -= HOUR_MS;
        let mut last = node.read();
        assert_eq!(last, START_MS);
        for _ in 0..100 {
            node.pass(1000);
            let now = node.read();
            assert_eq!(now, last + 950);
            node.apply(now);
            last = now;
        }
    }

    #[test]
    fn a_long_idle_leader_goes_on_by_the_monotonic_clock() {
        let mut node = Node::new();
        node.read();
        node.apply(START_MS);
        node.pass(10 * HOUR_MS);
        assert_eq!(node.read(), START_MS + 10 * HOUR_MS);
    }

    #[test]
    fn a_new_leader_goes_on_from_the_last_stamp_whatever_its_wall_clock_says() {
        for wrong in [0, 2 * HOUR_MS] {
            let mut node = Node::new();
            node.wall_ms = START_MS - HOUR_MS + wrong;
            node.term = None;
            node.read();
            node.apply(START_MS + 5);
            node.pass(700);
            node.term = Some(Term(2));
            assert_eq!(node.read(), START_MS + 705);
            node.pass(100);
            assert_eq!(node.read(), if wrong == 0 { START_MS + 800 } else { START_MS + 810 });
        }
    }

    #[test]
    fn a_node_that_just_started_trusts_its_wall_clock_but_not_below_the_state() {
        let mut node = Node::new();
        // What it finds in its log was stamped before the stop.
        node.wall_ms = START_MS + HOUR_MS;
        assert_eq!(node.read(), START_MS + HOUR_MS);
        let mut node = Node::new();
        node.wall_ms = START_MS - HOUR_MS;
        assert_eq!(node.read(), START_MS);
    }

    #[test]
    fn entries_of_the_leader_before_that_are_applied_late_are_not_undercut() {
        let mut node = Node::new();
        node.apply(START_MS);
        node.read();
        node.wall_ms += 400;
        node.apply(START_MS + 400);
        assert_eq!(node.read(), START_MS + 400);
        node.pass(50);
        assert_eq!(node.read(), START_MS + 450);
    }
}
