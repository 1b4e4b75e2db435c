//! Events off the defaults: priority, times, fairness key of each.
//!
//! Those of one stored batch share rows: (topic id, offset of the first) → its columns, at most
//! `limits::SPECIALS_PER_ROW` events.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::machine::kv::{Kv, Order, Table};
use crate::machine::record::{Kind, decode_message, encode_message};
use crate::machine::{Fault, key};
use crate::model::ids::{Offset, TopicId, UnixMs};
use crate::model::ranges::OffsetRange;

/// An event's special attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialRecord {
    /// 0 to 9.
    pub priority: u32,
    /// When it may be delivered, Unix milliseconds.
    pub ready_at_ms: u64,
    /// Unix milliseconds; 0: none.
    pub deadline_ms: u64,
    /// The fairness key; may be empty.
    pub flow: String,
    /// It was called off.
    pub cancelled: bool,
    /// It is in `Scheduled`, and does not count as part of the log. Events that only have a
    /// deadline keep their place in the log.
    pub scheduled: bool,
}

impl SpecialRecord {
    /// Its deadline.
    #[must_use]
    pub fn deadline(&self) -> Option<UnixMs> {
        (self.deadline_ms > 0).then_some(UnixMs(self.deadline_ms))
    }
}

/// A row as stored, a column an attribute.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Columns {
    /// How far each is behind the offset in the row's key.
    #[prost(uint32, repeated, tag = "1")]
    at: Vec<u32>,
    #[prost(uint32, repeated, tag = "2")]
    priorities: Vec<u32>,
    /// Of the first that is ready.
    #[prost(uint64, tag = "3")]
    ready_at_ms: u64,
    /// How much later each is ready; empty: none is.
    #[prost(uint64, repeated, tag = "4")]
    waits_ms: Vec<u64>,
    /// Empty: none has one.
    #[prost(uint64, repeated, tag = "5")]
    deadlines_ms: Vec<u64>,
    /// Empty: none has one.
    #[prost(string, repeated, tag = "6")]
    flows: Vec<String>,
    /// A bit each, the lowest for the first.
    #[prost(fixed64, tag = "7")]
    cancelled: u64,
    #[prost(fixed64, tag = "8")]
    scheduled: u64,
}

/// Some special events of one batch, in the order of offsets.
pub(super) type Group = Vec<(Offset, SpecialRecord)>;

/// The row of up to `limits::SPECIALS_PER_ROW` events of one batch: its offset and its value.
pub(super) fn encode(group: &[(Offset, SpecialRecord)]) -> (Offset, Bytes) {
    let first = group.first().map_or(Offset(0), |(offset, _)| *offset);
    let ready_at_ms = group.iter().map(|(_, special)| special.ready_at_ms).min().unwrap_or(0);
    let mut columns = Columns { ready_at_ms, ..Columns::default() };
    for (bit, (offset, special)) in group.iter().enumerate() {
        columns.at.push(u32::try_from(offset.since(first)).unwrap_or(u32::MAX));
        columns.priorities.push(special.priority);
        columns.waits_ms.push(special.ready_at_ms - ready_at_ms);
        columns.deadlines_ms.push(special.deadline_ms);
        columns.flows.push(special.flow.clone());
        columns.cancelled |= u64::from(special.cancelled) << bit;
        columns.scheduled |= u64::from(special.scheduled) << bit;
    }
    if columns.waits_ms.iter().all(|wait| *wait == 0) {
        columns.waits_ms.clear();
    }
    if columns.deadlines_ms.iter().all(|deadline| *deadline == 0) {
        columns.deadlines_ms.clear();
    }
    if columns.flows.iter().all(String::is_empty) {
        columns.flows.clear();
    }
    (first, encode_message(Kind::Special, &columns))
}

fn decode(first: Offset, row: &[u8]) -> Result<Group, Fault> {
    let mut columns: Columns = decode_message(Kind::Special, row)?;
    let events = columns.at.iter().enumerate().map(|(index, at)| {
        let special = SpecialRecord {
            priority: columns.priorities.get(index).copied().unwrap_or(0),
            ready_at_ms: columns.ready_at_ms + columns.waits_ms.get(index).unwrap_or(&0),
            deadline_ms: columns.deadlines_ms.get(index).copied().unwrap_or(0),
            flow: columns.flows.get_mut(index).map(std::mem::take).unwrap_or_default(),
            cancelled: columns.cancelled >> index & 1 == 1,
            scheduled: columns.scheduled >> index & 1 == 1,
        };
        (first.plus(u64::from(*at)), special)
    });
    Ok(events.collect())
}

/// The key of a row.
#[must_use]
pub(super) fn row_key(topic: TopicId, first: Offset) -> Vec<u8> {
    [topic.to_key(), first.to_key()].concat()
}

/// The offset in a row's key.
fn first_of(row: &[u8]) -> Result<Offset, Fault> {
    let mut reader = key::Reader::new(Kind::Special, row);
    reader.number()?;
    let offset = Offset(reader.number()?);
    reader.end()?;
    Ok(offset)
}

/// The group that an event is in, if it is special.
pub(super) fn group_of(kv: &impl Kv, topic: TopicId, offset: Offset) -> Result<Group, Fault> {
    let mut group = Group::new();
    let (low, high) = (row_key(topic, Offset(0)), row_key(topic, offset.next()));
    kv.scan(Table::Specials, &low, &high, Order::Descending, &mut |row, value| {
        group = decode(first_of(row)?, value)?;
        Ok(ControlFlow::Break(()))
    })?;
    Ok(group)
}

/// The special attributes of an event; `None`: it has none.
///
/// # Errors
/// When the store fails or the row is corrupt.
pub fn get(kv: &impl Kv, topic: TopicId, offset: Offset) -> Result<Option<SpecialRecord>, Fault> {
    let group = group_of(kv, topic, offset)?;
    Ok(group.into_iter().find(|(at, _)| *at == offset).map(|(_, special)| special))
}

/// Visits the special events of a range, in order, until the visitor breaks.
///
/// # Errors
/// When the store fails or a row is corrupt, or the visitor's.
pub fn visit(
    kv: &impl Kv,
    topic: TopicId,
    range: OffsetRange,
    visitor: &mut impl FnMut(Offset, SpecialRecord) -> Result<ControlFlow<()>, Fault>,
) -> Result<(), Fault> {
    // The first of them may be in a row that begins before.
    let before = group_of(kv, topic, Offset(range.first))?;
    let first = before.first().map_or(Offset(range.first), |(first, _)| *first);
    let (low, high) = (row_key(topic, first), row_key(topic, Offset(range.end())));
    kv.scan(Table::Specials, &low, &high, Order::Ascending, &mut |row, value| {
        for (offset, special) in decode(first_of(row)?, value)? {
            if range.has(offset) && visitor(offset, special)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    })
}

/// The special events in a range, in order, at most `limit`.
///
/// # Errors
/// When the store fails or a row is corrupt.
pub fn within(
    kv: &impl Kv,
    topic: TopicId,
    range: OffsetRange,
    limit: usize,
) -> Result<Vec<(Offset, SpecialRecord)>, Fault> {
    let mut found = Vec::new();
    visit(kv, topic, range, &mut |offset, special| {
        found.push((offset, special));
        Ok(if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::kv::Write;
    use crate::machine::mem::MemKv;

    fn special(n: u64) -> SpecialRecord {
        SpecialRecord {
            priority: (n % 10) as u32,
            ready_at_ms: 1000 + n,
            deadline_ms: n % 3,
            flow: if n.is_multiple_of(2) { "even".to_owned() } else { String::new() },
            cancelled: n.is_multiple_of(5),
            scheduled: !n.is_multiple_of(7),
        }
    }

    /// Rows of events 10, 12 and 14, and of 20 and 21.
    fn stored() -> MemKv {
        let mut kv = MemKv::default();
        for offsets in [vec![10, 12, 14], vec![20, 21]] {
            let group: Group = offsets.into_iter().map(|n| (Offset(n), special(n))).collect();
            let (first, row) = encode(&group);
            kv.write(vec![Write::Put(Table::Specials, row_key(TopicId(3), first), row)]);
        }
        kv
    }

    #[test]
    fn each_event_is_found_in_its_row() {
        let kv = stored();
        for n in 0..30 {
            let expected = [10, 12, 14, 20, 21].contains(&n).then(|| special(n));
            assert_eq!(get(&kv, TopicId(3), Offset(n)).unwrap(), expected, "{n}");
            assert_eq!(get(&kv, TopicId(4), Offset(n)).unwrap(), None);
        }
    }

    #[test]
    fn a_range_may_begin_and_end_inside_of_rows() {
        let kv = stored();
        let within = |first, count, limit| -> Vec<u64> {
            let range = OffsetRange { first, count };
            let found = within(&kv, TopicId(3), range, limit).unwrap();
            found.into_iter().map(|(offset, _)| offset.get()).collect()
        };
        assert_eq!(within(0, 99, 9), [10, 12, 14, 20, 21]);
        assert_eq!(within(11, 10, 9), [12, 14, 20]);
        assert_eq!(within(11, 10, 2), [12, 14]);
        assert_eq!(within(15, 5, 9), [0; 0]);
    }
}
