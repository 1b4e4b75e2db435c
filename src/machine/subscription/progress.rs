//! How far a subscription is in a topic: (subscription id, topic id) → floor.

use bytes::Bytes;

use crate::machine::kv::{Kv, Table};
use crate::machine::record::{Kind, decode_message, encode_message};
use crate::machine::{Fault, key, query};
use crate::model::ids::{Offset, Position, SubscriptionId, TopicId};
use crate::model::outcome::TopicInfo;
use crate::model::ranges::Ranges;

/// Progress as stored. Where there is no row, the floor follows from where the subscription starts.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ProgressRecord {
    /// The topic's name.
    #[prost(string, tag = "1")]
    pub topic: String,
    /// Every event below is done, or handed over to `Failures`.
    #[prost(uint64, tag = "2")]
    pub floor: u64,
    /// Rows of this topic in `Failures`.
    #[prost(uint64, tag = "3")]
    pub failures: u64,
    /// In order by key, events that died before it was their turn: they are done, and who comes after them
    /// waits for who came before them. At most `limits::EARLY_DEAD_MAX`.
    #[prost(message, optional, tag = "4")]
    pub early: Option<Ranges>,
}

impl ProgressRecord {
    /// Reads a stored row.
    ///
    /// # Errors
    /// When it is corrupt.
    pub fn decode(row: &[u8]) -> Result<Self, Fault> {
        decode_message(Kind::Progress, row)
    }

    /// The row to store.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        encode_message(Kind::Progress, self)
    }

    /// Whether an event died before it was its turn, and something before it may be open still.
    #[must_use]
    pub fn is_early(&self, offset: Offset) -> bool {
        let may_wait = self.failures > 0 || offset.get() >= self.floor;
        may_wait && self.early.as_ref().is_some_and(|early| early.contains(offset))
    }
}

/// The row's key.
#[must_use]
pub fn row_key(subscription: SubscriptionId, topic: TopicId) -> Vec<u8> {
    [subscription.to_key(), topic.to_key()].concat()
}

/// The topic in a row's key.
///
/// # Errors
/// When the key is not one.
pub fn topic_of(row: &[u8]) -> Result<TopicId, Fault> {
    let mut reader = key::Reader::new(Kind::Progress, row);
    reader.number()?;
    let topic = TopicId(reader.number()?);
    reader.end()?;
    Ok(topic)
}

/// The stored row.
///
/// # Errors
/// When the store fails or the row is corrupt.
pub fn stored(
    kv: &impl Kv,
    subscription: SubscriptionId,
    topic: TopicId,
) -> Result<Option<ProgressRecord>, Fault> {
    let row = kv.get(Table::Progress, &row_key(subscription, topic))?;
    row.map(|row| ProgressRecord::decode(&row)).transpose()
}

/// Progress in a topic, stored or as the subscription starts.
///
/// # Errors
/// When the store fails or a row is corrupt.
pub fn load(
    kv: &impl Kv,
    subscription: SubscriptionId,
    start: Position,
    topic: &TopicInfo,
) -> Result<ProgressRecord, Fault> {
    if let Some(stored) = stored(kv, subscription, topic.id)? {
        return Ok(stored);
    }
    let floor =
        if start == Position(0) { Offset(0) } else { query::offset_of_position(kv, topic, start)? };
    Ok(ProgressRecord { topic: topic.name.clone(), floor: floor.get(), failures: 0, early: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_gives_back_its_topic() {
        let row = row_key(SubscriptionId(3), TopicId(u64::MAX));
        assert_eq!(topic_of(&row).unwrap(), TopicId(u64::MAX));
        assert!(topic_of(&row[..15]).is_err());
    }
}
