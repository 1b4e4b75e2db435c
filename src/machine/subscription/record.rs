//! A subscription's row, by name.

use bytes::Bytes;

use super::state::SubscriptionState;
use crate::machine::Fault;
use crate::machine::kv::{Kv, Table};
use crate::machine::record::{Kind, decode_message, encode_message};
use crate::model::delivery::SubscriptionInfo;
use crate::model::ids::{Position, SubscriptionId, UnixMs};
use crate::model::rejection::{Reason, Rejection};
use crate::model::subscription::SubscriptionConfig;

/// A subscription as stored; what changes with every delivery is in [`SubscriptionState`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SubscriptionRecord {
    /// Its number.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Its settings.
    #[prost(message, required, tag = "2")]
    pub config: SubscriptionConfig,
    /// From 1, grows with every update.
    #[prost(uint64, tag = "3")]
    pub revision: u64,
    /// Unix milliseconds.
    #[prost(uint64, tag = "4")]
    pub created_at_ms: u64,
    /// Unix milliseconds.
    #[prost(uint64, tag = "5")]
    pub updated_at_ms: u64,
    /// Events before this position are none of its business, in topics that have no progress yet.
    #[prost(uint64, tag = "6")]
    pub start_position: u64,
}

impl SubscriptionRecord {
    /// Reads a stored row.
    ///
    /// # Errors
    /// When it is corrupt.
    pub fn decode(row: &[u8]) -> Result<Self, Fault> {
        decode_message(Kind::Subscription, row)
    }

    /// The row to store.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        encode_message(Kind::Subscription, self)
    }

    /// Its number.
    #[must_use]
    pub fn subscription_id(&self) -> SubscriptionId {
        SubscriptionId(self.id)
    }

    /// What callers see of it.
    #[must_use]
    pub fn info(&self, state: &SubscriptionState) -> SubscriptionInfo {
        SubscriptionInfo {
            id: SubscriptionId(self.id),
            name: state.name.clone(),
            config: self.config.clone(),
            revision: self.revision,
            created_at: UnixMs(self.created_at_ms),
            updated_at: UnixMs(self.updated_at_ms),
            start: Position(self.start_position),
            pause: state.pause.clone(),
            in_flight: state.in_flight,
            dead_letters: state.dead_letters,
            counters: state.counters,
            reordering: state.placing.is_some(),
        }
    }
}

/// A subscription by name.
///
/// # Errors
/// When the store fails or the row is corrupt.
pub fn get(kv: &impl Kv, name: &str) -> Result<Option<SubscriptionRecord>, Fault> {
    let row = kv.get(Table::Subscriptions, name.as_bytes())?;
    row.map(|row| SubscriptionRecord::decode(&row)).transpose()
}

/// The refusal for a subscription that is not there.
#[must_use]
pub fn not_found(name: &str) -> Rejection {
    Rejection::new(
        Reason::SubscriptionNotFound,
        format!("subscription {name} does not exist; create it with: mhub sub create {name}"),
    )
    .with("subscription", name)
}
