//! Events off the defaults: (topic id, offset) → priority, times, fairness key.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::machine::kv::{Kv, Order, Table};
use crate::machine::record::{Kind, decode_message, encode_message};
use crate::machine::{Fault, key};
use crate::model::ids::{Offset, TopicId, UnixMs};
use crate::model::ranges::OffsetRange;

/// An event's special attributes as stored.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SpecialRecord {
    /// 0 to 9.
    #[prost(uint32, tag = "1")]
    pub priority: u32,
    /// When it may be delivered, Unix milliseconds.
    #[prost(uint64, tag = "2")]
    pub ready_at_ms: u64,
    /// Unix milliseconds; 0: none.
    #[prost(uint64, tag = "3")]
    pub deadline_ms: u64,
    /// May be empty.
    #[prost(string, tag = "4")]
    pub flow: String,
    /// It was called off.
    #[prost(bool, tag = "5")]
    pub cancelled: bool,
    /// It has a row in `Scheduled`, and does not count as part of the log. Events that only have a
    /// deadline keep their place in the log.
    #[prost(bool, tag = "6")]
    pub scheduled: bool,
}

impl SpecialRecord {
    /// Reads a stored row.
    ///
    /// # Errors
    /// When it is corrupt.
    pub fn decode(row: &[u8]) -> Result<Self, Fault> {
        decode_message(Kind::Special, row)
    }

    /// The row to store.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        encode_message(Kind::Special, self)
    }

    /// Its deadline.
    #[must_use]
    pub fn deadline(&self) -> Option<UnixMs> {
        (self.deadline_ms > 0).then_some(UnixMs(self.deadline_ms))
    }
}

/// The row's key.
#[must_use]
pub fn row_key(topic: TopicId, offset: Offset) -> Vec<u8> {
    [topic.to_key(), offset.to_key()].concat()
}

/// The offset in a row's key.
///
/// # Errors
/// When the key is not one.
pub fn offset_of(row: &[u8]) -> Result<Offset, Fault> {
    let mut reader = key::Reader::new(Kind::Special, row);
    reader.number()?;
    let offset = Offset(reader.number()?);
    reader.end()?;
    Ok(offset)
}

/// The special attributes of an event; `None`: it has none.
///
/// # Errors
/// When the store fails or the row is corrupt.
pub fn get(kv: &impl Kv, topic: TopicId, offset: Offset) -> Result<Option<SpecialRecord>, Fault> {
    let row = kv.get(Table::Specials, &row_key(topic, offset))?;
    row.map(|row| SpecialRecord::decode(&row)).transpose()
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
    let (low, high) = (row_key(topic, Offset(range.first)), row_key(topic, Offset(range.end())));
    kv.scan(Table::Specials, &low, &high, Order::Ascending, &mut |row, value| {
        found.push((offset_of(row)?, SpecialRecord::decode(value)?));
        Ok(if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_gives_back_its_offset() {
        let row = row_key(TopicId(3), Offset(9));
        assert_eq!(offset_of(&row).unwrap(), Offset(9));
        assert!(offset_of(&row[..15]).is_err());
    }
}
