//! A topic's row, by name.

use bytes::Bytes;

use crate::machine::Fault;
use crate::machine::record::{Kind, decode_message, encode_message};
use crate::model::ids::{Offset, TopicId, UnixMs};
use crate::model::outcome::TopicInfo;
use crate::model::rejection::{Reason, Rejection};
use crate::model::topic::TopicConfig;

/// A topic as stored.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TopicRecord {
    /// Its number.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Its settings.
    #[prost(message, required, tag = "2")]
    pub config: TopicConfig,
    /// The next event's offset.
    #[prost(uint64, tag = "3")]
    pub next_offset: u64,
    /// The first readable offset.
    #[prost(uint64, tag = "4")]
    pub first_offset: u64,
    /// Encoded bytes of the events appended.
    #[prost(uint64, tag = "5")]
    pub bytes: u64,
    /// Unix milliseconds.
    #[prost(uint64, tag = "6")]
    pub created_at_ms: u64,
    /// Unix milliseconds.
    #[prost(uint64, tag = "7")]
    pub updated_at_ms: u64,
    /// From 1, grows with every update.
    #[prost(uint64, tag = "8")]
    pub revision: u64,
    /// Event ids that wait for their expiry.
    #[prost(uint64, tag = "9")]
    pub expiring_ids: u64,
    /// Events off the defaults of delivery: rows in `Specials`.
    #[prost(uint64, tag = "10")]
    pub specials: u64,
    /// Of these, those that were cancelled.
    #[prost(uint64, tag = "11")]
    pub cancels: u64,
    /// Of these, those that were not to be delivered at once.
    #[prost(uint64, tag = "12")]
    pub delays: u64,
    /// Some of its events have a correlation id: traces tell of them.
    #[prost(bool, tag = "13")]
    pub correlated: bool,
}

impl TopicRecord {
    /// Reads a stored row.
    ///
    /// # Errors
    /// When it is corrupt.
    pub fn decode(row: &[u8]) -> Result<Self, Fault> {
        decode_message(Kind::Topic, row)
    }

    /// The row to store.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        encode_message(Kind::Topic, self)
    }

    /// Its number.
    #[must_use]
    pub fn topic_id(&self) -> TopicId {
        TopicId(self.id)
    }

    /// What callers see of it.
    #[must_use]
    pub fn info(&self, name: &str) -> TopicInfo {
        TopicInfo {
            id: TopicId(self.id),
            name: name.to_owned(),
            config: self.config.clone(),
            next_offset: Offset(self.next_offset),
            first_offset: Offset(self.first_offset),
            bytes: self.bytes,
            created_at: UnixMs(self.created_at_ms),
            updated_at: UnixMs(self.updated_at_ms),
            revision: self.revision,
            specials: self.specials,
            cancels: self.cancels,
        }
    }
}

/// The refusal for a topic that is not there.
#[must_use]
pub fn not_found(name: &str) -> Rejection {
    Rejection::new(
        Reason::TopicNotFound,
        format!("topic {name} does not exist; create it with: mhub topic create {name}"),
    )
    .with("topic", name)
}
