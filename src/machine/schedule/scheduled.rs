//! The two orders of special events, shared by all subscriptions of a topic: by when they are
//! ready, in `Scheduled`, and by deadline, in `Deadlines`. Keys of both: (topic id, fairness key,
//! priority, instant, offset). A row of `Scheduled` has all neighbours in its batch that have these
//! in common, and the offset of the first.
//!
//! For one priority the rank grows with the instant whatever a subscription's settings are, so that
//! each subscription merges these rows by its own rank and nothing is stored per subscription.

use bytes::{Buf, BufMut, Bytes};

use crate::machine::record::{Kind, body, decode_message, encode_message, finish, start};
use crate::machine::{Fault, key};
use crate::model::ids::{Offset, TopicId, UnixMs};

/// A row's key, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderKey<'a> {
    /// Whose event.
    pub topic: TopicId,
    /// The fairness key.
    pub flow: &'a str,
    /// 0 to 9.
    pub priority: u8,
    /// When it is ready, or its deadline.
    pub instant: UnixMs,
    /// Which event, or the first of them.
    pub offset: Offset,
}

impl<'a> OrderKey<'a> {
    /// The row's key.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut row = prefix(self.topic, self.flow, self.priority);
        row.extend_from_slice(&self.instant.to_key());
        row.extend_from_slice(&self.offset.to_key());
        row
    }

    /// Takes a row's key apart.
    ///
    /// # Errors
    /// When the key is not one.
    pub fn decode(row: &'a [u8]) -> Result<Self, Fault> {
        let mut reader = key::Reader::new(Kind::Scheduled, row);
        let key = Self {
            topic: TopicId(reader.number()?),
            flow: reader.text()?,
            priority: reader.byte()?,
            instant: UnixMs(reader.number()?),
            offset: Offset(reader.number()?),
        };
        reader.end()?;
        Ok(key)
    }
}

/// The rows of one fairness key and priority begin with this.
#[must_use]
pub fn prefix(topic: TopicId, flow: &str, priority: u8) -> Vec<u8> {
    let mut row = flow_prefix(topic, flow);
    row.push(priority);
    row
}

/// The rows of one fairness key begin with this.
#[must_use]
pub fn flow_prefix(topic: TopicId, flow: &str) -> Vec<u8> {
    let mut row = topic.to_key().to_vec();
    key::push_text(&mut row, flow);
    row
}

/// An event in `Scheduled`: what else a search has to know of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Which event.
    pub offset: Offset,
    /// Unix milliseconds; 0: none.
    pub deadline_ms: u64,
    /// It was called off: subscriptions that still have it skip it.
    pub cancelled: bool,
}

/// A row of `Scheduled` as stored: neighbours of one batch that are ready at the same instant.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Columns {
    /// How far each is behind the offset in the row's key.
    #[prost(uint32, repeated, tag = "1")]
    at: Vec<u32>,
    /// Empty: none has one.
    #[prost(uint64, repeated, tag = "2")]
    deadlines_ms: Vec<u64>,
    /// A bit each, the lowest for the first.
    #[prost(fixed64, tag = "3")]
    cancelled: u64,
}

/// The value of a row in `Scheduled`: up to `limits::SPECIALS_PER_ROW` events, in order.
#[must_use]
pub fn encode_waiting(group: &[Waiting]) -> Bytes {
    let first = group.first().map_or(Offset(0), |waiting| waiting.offset);
    let mut columns = Columns::default();
    for (bit, waiting) in group.iter().enumerate() {
        columns.at.push(u32::try_from(waiting.offset.since(first)).unwrap_or(u32::MAX));
        columns.deadlines_ms.push(waiting.deadline_ms);
        columns.cancelled |= u64::from(waiting.cancelled) << bit;
    }
    if columns.deadlines_ms.iter().all(|deadline| *deadline == 0) {
        columns.deadlines_ms.clear();
    }
    encode_message(Kind::Scheduled, &columns)
}

/// Reads a stored row; `first` is the offset in its key.
///
/// # Errors
/// When it is corrupt.
pub fn decode_waiting(first: Offset, row: &[u8]) -> Result<Vec<Waiting>, Fault> {
    let columns: Columns = decode_message(Kind::Scheduled, row)?;
    let events = columns.at.iter().enumerate().map(|(index, at)| Waiting {
        offset: first.plus(u64::from(*at)),
        deadline_ms: columns.deadlines_ms.get(index).copied().unwrap_or(0),
        cancelled: columns.cancelled >> index & 1 == 1,
    });
    Ok(events.collect())
}

/// The value of a row in `Deadlines`: when the event is ready.
#[must_use]
pub fn deadline_value(ready_at: UnixMs) -> Bytes {
    let mut buf = start(Kind::Deadline, 8);
    buf.put_u64_le(ready_at.get());
    finish(buf)
}

/// When the event of a row in `Deadlines` is ready.
///
/// # Errors
/// When the row is corrupt.
pub fn ready_at_in(row: &[u8]) -> Result<UnixMs, Fault> {
    let mut rest = body(Kind::Deadline, row)?;
    if rest.len() == 8 {
        return Ok(UnixMs(rest.get_u64_le()));
    }
    Err(Fault::Corrupt { record: Kind::Deadline, what: "length".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_read_back() {
        let key = OrderKey {
            topic: TopicId(1),
            flow: "tenant",
            priority: 9,
            instant: UnixMs(7),
            offset: Offset(8),
        };
        assert_eq!(OrderKey::decode(&key.encode()).unwrap(), key);
        assert!(OrderKey::decode(&key.encode()[1..]).is_err());
        assert_eq!(ready_at_in(&deadline_value(UnixMs(7))).unwrap(), UnixMs(7));
        let waiting = [(8, 9, true), (11, 0, false)].map(|(offset, deadline_ms, cancelled)| {
            Waiting { offset: Offset(offset), deadline_ms, cancelled }
        });
        assert_eq!(decode_waiting(Offset(8), &encode_waiting(&waiting)).unwrap(), waiting);
    }
}
