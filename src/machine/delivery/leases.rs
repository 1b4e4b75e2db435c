//! Leases: (subscription id, lease id) → who has which events until when.

use bytes::Bytes;

use crate::machine::apply::Meta;
use crate::machine::kv::{Kv, Table};
use crate::machine::record::{Kind, decode_message, encode_message};
use crate::machine::{Fault, key};
use crate::model::ids::{LeaseId, SubscriptionId, TopicId, UnixMs};
use crate::model::ranges::Ranges;

/// A lease as stored: events of one topic, either all for the first time or all again.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LeaseRecord {
    /// Whose events.
    #[prost(uint64, tag = "1")]
    pub topic_id: u64,
    /// Which; not empty.
    #[prost(message, required, tag = "2")]
    pub events: Ranges,
    /// Who has them.
    #[prost(string, tag = "3")]
    pub consumer: String,
    /// The leader's term.
    #[prost(uint64, tag = "4")]
    pub term: u64,
    /// Unix milliseconds.
    #[prost(uint64, tag = "5")]
    pub granted_at_ms: u64,
    /// Unix milliseconds.
    #[prost(uint64, tag = "6")]
    pub expires_at_ms: u64,
    /// The events have rows in `Failures`.
    #[prost(bool, tag = "7")]
    pub retried: bool,
    /// It lasts no longer than this, Unix milliseconds; 0: no bound.
    #[prost(uint64, tag = "8")]
    pub deadline_ms: u64,
    /// The service of who has them; empty: it declared none.
    #[prost(string, tag = "9")]
    pub service: String,
    /// Some of its events left it before whoever has it settled them.
    #[prost(bool, tag = "10")]
    pub lost: bool,
}

impl LeaseRecord {
    /// Reads a stored row.
    ///
    /// # Errors
    /// When it is corrupt.
    pub fn decode(row: &[u8]) -> Result<Self, Fault> {
        decode_message(Kind::Lease, row)
    }

    /// The row to store.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        encode_message(Kind::Lease, self)
    }

    /// Whose events.
    #[must_use]
    pub fn topic(&self) -> TopicId {
        TopicId(self.topic_id)
    }

    /// When the consumer loses it, a new leader's grace included.
    #[must_use]
    pub fn ends_at(&self, meta: &Meta) -> UnixMs {
        let earlier = self.granted_at_ms <= meta.led_since_ms;
        UnixMs(self.expires_at_ms.max(if earlier { meta.grace_until_ms } else { 0 }))
    }
}

/// The row's key.
#[must_use]
pub fn row_key(subscription: SubscriptionId, lease: LeaseId) -> Vec<u8> {
    [subscription.to_key(), lease.to_key()].concat()
}

/// The lease in a row's key.
///
/// # Errors
/// When the key is not one.
pub fn lease_of(row: &[u8]) -> Result<LeaseId, Fault> {
    let mut reader = key::Reader::new(Kind::Lease, row);
    reader.number()?;
    let lease = LeaseId(reader.number()?);
    reader.end()?;
    Ok(lease)
}

/// A lease.
///
/// # Errors
/// When the store fails or the row is corrupt.
pub fn get(
    kv: &impl Kv,
    subscription: SubscriptionId,
    lease: LeaseId,
) -> Result<Option<LeaseRecord>, Fault> {
    let row = kv.get(Table::Leases, &row_key(subscription, lease))?;
    row.map(|row| LeaseRecord::decode(&row)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_gives_back_its_lease() {
        let row = row_key(SubscriptionId(3), LeaseId(9));
        assert_eq!(lease_of(&row).unwrap(), LeaseId(9));
        assert!(lease_of(&row[..15]).is_err());
    }
}
