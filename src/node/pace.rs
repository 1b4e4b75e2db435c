//! How fast streams read the past while a node is written to.
//!
//! Where nobody writes, a stream reads as fast as its reader takes it. Where somebody does, each stream that is behind
//! reads somewhat more than is written, so that it catches up, or what a node has to spare; the rest is left to writes.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::model::limits::{
    PACED_FROM_BYTES_PER_SEC, PACED_OF_WRITES_PERCENT, PACED_TO_BYTES_PER_SEC,
};

/// How long writes are counted for a rate.
const WINDOW: Duration = Duration::from_millis(100);
/// After so long without a question, what was known is of no use.
const STALE: Duration = Duration::from_secs(1);

/// What is written to a node.
#[derive(Debug)]
pub(super) struct Writes {
    count: Mutex<Option<Count>>,
    /// Bytes a second that each stream may read in any case.
    spare: u64,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    since: Instant,
    /// Bytes that were written up to then.
    bytes: u64,
    /// Bytes a second before.
    rate: u64,
}

impl Writes {
    /// On a machine with so many cores.
    pub(super) fn new(cores: usize) -> Self {
        Self { count: Mutex::default(), spare: PACED_TO_BYTES_PER_SEC * cores.max(1) as u64 }
    }

    /// Bytes a second that a stream may read, when so many were written since the node started; `None`: as many as it
    /// can.
    pub(super) fn pace(&self, written: u64, now: Instant) -> Option<u64> {
        let rate = self.rate(written, now);
        let share = rate.saturating_mul(PACED_OF_WRITES_PERCENT) / 100;
        (rate >= PACED_FROM_BYTES_PER_SEC).then_some(share.max(self.spare))
    }

    /// Bytes that were written a second of late; 0 while that is unknown.
    fn rate(&self, written: u64, now: Instant) -> u64 {
        let mut known = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = Count { since: now, bytes: written, rate: 0 };
        let count = known.get_or_insert(begin);
        let took = now.saturating_duration_since(count.since);
        if took >= STALE {
            *count = begin;
        } else if took >= WINDOW {
            *count = Count { rate: rate(written.saturating_sub(count.bytes), took), ..begin };
        }
        count.rate
    }
}

fn rate(bytes: u64, took: Duration) -> u64 {
    let micros = took.as_micros().max(1);
    u64::try_from(u128::from(bytes) * 1_000_000 / micros).unwrap_or(u64::MAX)
}

/// When a stream may read on.
#[derive(Debug, Default)]
pub(super) struct Pace(Option<Instant>);

impl Pace {
    /// After a part of so many bytes that it began to read at an instant; `None`: now.
    pub(super) fn next(
        &mut self,
        bytes: usize,
        began: Instant,
        pace: Option<u64>,
    ) -> Option<Instant> {
        self.0 = pace.map(|pace| {
            let micros = bytes as u64 * 1_000_000 / pace.max(1);
            // Time that it did not use is not made up for.
            self.0.map_or(began, |next| next.max(began)) + Duration::from_micros(micros)
        });
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::clock;

    const MIB: u64 = 1 << 20;

    /// What streams may read, while so many bytes a second are written, once that is known.
    fn pace_beside(writes: &Writes, per_second: u64, from: Instant) -> Option<u64> {
        let mut pace = None;
        for tenth in 0..5 {
            pace =
                writes.pace(tenth * per_second / 10, from + WINDOW * u32::try_from(tenth).unwrap());
        }
        pace
    }

    #[test]
    fn streams_read_somewhat_more_than_is_written_where_much_is() {
        let start = clock::now();
        for (cores, written, pace) in [
            (2, 0, None),
            (2, MIB, None),
            (2, 10 * MIB, Some(32 * MIB)),
            (16, 10 * MIB, Some(256 * MIB)),
            (2, 60 * MIB, Some(90 * MIB)),
        ] {
            let writes = Writes::new(cores);
            assert_eq!(pace_beside(&writes, written, start), pace, "{cores} cores, {written}");
        }
    }

    #[test]
    fn a_rate_of_long_ago_is_forgotten() {
        let (writes, start) = (Writes::new(2), clock::now());
        assert!(pace_beside(&writes, 60 * MIB, start).is_some());
        let later = start + STALE * 3;
        assert_eq!(writes.pace(60 * MIB, later), None);
        assert_eq!(writes.pace(61 * MIB, later + WINDOW / 2), None, "it is not known yet");
        assert!(writes.pace(70 * MIB, later + WINDOW).is_some());
    }

    #[test]
    fn a_stream_keeps_its_pace_whatever_a_part_takes() {
        let (mut pace, start) = (Pace::default(), clock::now());
        let second = Duration::from_secs(1);
        let mut now = start;
        for part in 1..=10 {
            // Reading takes a part of the time that the bytes may take.
            let next = pace.next(1000, now, Some(4000)).unwrap();
            assert_eq!(next, start + part * second / 4);
            now = next;
        }
        let late = now + 10 * second;
        assert_eq!(pace.next(1000, late, Some(4000)), Some(late + second / 4));
        assert_eq!(pace.next(1000, late, None), None);
        assert_eq!(pace.next(1000, late, Some(4000)), Some(late + second / 4));
    }
}
