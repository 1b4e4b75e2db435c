//! Events that were found and whose lease is on its way. The searches after that take them as leased, so that one
//! round of dispatch can be searched for while the one before is being leased.

use std::collections::BTreeMap;

use super::cursor::Cursor;
use crate::machine::subscription::marks::{self, Bits};
use crate::model::delivery::Pick;
use crate::model::ids::{Offset, SubscriptionId, TopicId};
use crate::model::limits::MARKS_OFFSETS;
use crate::model::ranges::{OffsetRange, Ranges};

/// What is reserved, by topic and row of marks.
#[derive(Clone, Debug, Default)]
pub(super) struct Reserved(BTreeMap<TopicId, BTreeMap<u64, Bits>>);

impl Reserved {
    /// Of one topic.
    pub(super) fn of(&self, topic: TopicId) -> BTreeMap<u64, Bits> {
        self.0.get(&topic).cloned().unwrap_or_default()
    }

    fn add(&mut self, topic: TopicId, ranges: &Ranges) {
        let rows = self.0.entry(topic).or_default();
        for (row, from, until) in ranges.as_slice().iter().flat_map(in_rows) {
            rows.entry(row).or_default().set(from, until);
        }
    }

    fn take(&mut self, topic: TopicId, ranges: &Ranges) {
        let Some(rows) = self.0.get_mut(&topic) else { return };
        for (row, from, until) in ranges.as_slice().iter().flat_map(in_rows) {
            if let Some(bits) = rows.get_mut(&row) {
                bits.clear(from, until);
            }
        }
        rows.retain(|_, bits| !bits.is_empty());
        if rows.is_empty() {
            self.0.remove(&topic);
        }
    }
}

/// A range by rows of marks: each with the places `from..until` in it.
fn in_rows(range: &OffsetRange) -> impl Iterator<Item = (u64, u64, u64)> + use<> {
    let (mut at, end) = (range.first, range.end());
    std::iter::from_fn(move || {
        let row = marks::chunk_of(Offset(at));
        let base = row * MARKS_OFFSETS;
        let until = end.min(base + MARKS_OFFSETS);
        let places = (at < end).then_some((row, at - base, until - base));
        at = until;
        places
    })
}

/// Events that one lease command asks for.
#[derive(Debug)]
pub struct Reservation {
    taken: Vec<(TopicId, Ranges)>,
    /// How many events are to be leased.
    events: u64,
    /// What the cursor was about then, and what had come back.
    as_of: (Option<(SubscriptionId, u64)>, (u64, u64)),
}

impl Cursor {
    /// Takes what a search found as leased and skipped, until that is concluded.
    pub fn reserve(&mut self, picks: &[Pick], skips: &[Pick]) -> Reservation {
        let of = |pick: &Pick| (TopicId(pick.topic_id), pick.ranges.clone());
        let taken: Vec<_> = picks.iter().chain(skips).map(of).collect();
        taken.iter().for_each(|(topic, ranges)| self.reserved.add(*topic, ranges));
        Reservation { taken, events: picks.iter().map(Pick::count).sum(), as_of: self.as_of() }
    }

    /// So many events were granted, and the state tells which; whether these are all. Where they are not, or
    /// something came back meanwhile, searches may have passed events that are free, and begin anew.
    pub fn conclude(&mut self, reservation: &Reservation, granted: u64) -> bool {
        let Reservation { taken, events, as_of } = reservation;
        taken.iter().for_each(|(topic, ranges)| self.reserved.take(*topic, ranges));
        let all = granted >= *events;
        if !all || *as_of != self.as_of() {
            self.begin_anew();
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_lies_in_rows_of_marks_until_it_is_taken_back() {
        let (topic, mut reserved) = (TopicId(7), Reserved::default());
        let across = Ranges::from_iter((MARKS_OFFSETS - 2..2 * MARKS_OFFSETS + 1).map(Offset));
        let one = Ranges::from_iter([Offset(3)]);
        reserved.add(topic, &across);
        reserved.add(topic, &one);
        let counts = |reserved: &Reserved| {
            let rows = reserved.of(topic);
            rows.iter().map(|(row, bits)| (*row, bits.count())).collect::<Vec<_>>()
        };
        assert_eq!(counts(&reserved), [(0, 3), (1, MARKS_OFFSETS), (2, 1)]);
        assert!(reserved.of(TopicId(8)).is_empty());
        reserved.take(topic, &across);
        assert_eq!(counts(&reserved), [(0, 1)]);
        reserved.take(topic, &one);
        reserved.take(TopicId(8), &one);
        assert!(reserved.0.is_empty());
    }
}
