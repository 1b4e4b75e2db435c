//! The breaker of dead letters: when most of what ended lately died, the subscription pauses.

use crate::model::ids::UnixMs;
use crate::model::limits::{TRIP_DEAD_PERCENT, TRIP_OUTCOMES_MIN, TRIP_SLOTS, TRIP_WINDOW_MS};

const SLOT_MS: u64 = TRIP_WINDOW_MS / TRIP_SLOTS;

/// How deliveries ended lately: acknowledged or dead, in slots of a second.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TripWindow {
    /// The number of the newest slot: its beginning by its length.
    #[prost(uint64, tag = "1")]
    newest: u64,
    /// All, by slot number modulo the number of slots.
    #[prost(uint64, repeated, tag = "2")]
    ended: Vec<u64>,
    /// Of these, the dead.
    #[prost(uint64, repeated, tag = "3")]
    dead: Vec<u64>,
}

impl TripWindow {
    /// Takes note of what ended, and says whether the breaker trips.
    pub fn note(&mut self, now: UnixMs, acked: u64, dead: u64) -> bool {
        self.roll(now.get() / SLOT_MS);
        let at = usize::try_from(self.newest % TRIP_SLOTS).unwrap_or(0);
        self.ended[at] = self.ended[at].saturating_add(acked).saturating_add(dead);
        self.dead[at] = self.dead[at].saturating_add(dead);
        let sum = |slots: &[u64]| slots.iter().fold(0_u64, |sum, n| sum.saturating_add(*n));
        let (all, dead) = (sum(&self.ended), sum(&self.dead));
        all >= TRIP_OUTCOMES_MIN && dead.saturating_mul(100) > all.saturating_mul(TRIP_DEAD_PERCENT)
    }

    fn roll(&mut self, slot: u64) {
        let slots = usize::try_from(TRIP_SLOTS).unwrap_or(1);
        self.ended.resize(slots, 0);
        self.dead.resize(slots, 0);
        for passed in (self.newest + 1..=slot).rev().take(slots) {
            let at = usize::try_from(passed % TRIP_SLOTS).unwrap_or(0);
            (self.ended[at], self.dead[at]) = (0, 0);
        }
        self.newest = self.newest.max(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_trips_above_half_of_twenty() {
        let mut window = TripWindow::default();
        assert!(!window.note(UnixMs(1000), 9, 10));
        assert!(!window.note(UnixMs(2000), 1, 0));
        assert!(window.note(UnixMs(2999), 0, 1));
    }

    #[test]
    fn it_forgets_after_ten_seconds() {
        let mut window = TripWindow::default();
        assert!(window.note(UnixMs(1500), 0, 20));
        assert!(window.note(UnixMs(10_999), 0, 0));
        assert!(!window.note(UnixMs(11_000), 19, 0));
        assert!(!window.note(UnixMs(1_000_000), 0, 19));
    }
}
