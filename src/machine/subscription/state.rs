//! A subscription's row, by number: what changes with every delivery.

use bytes::Bytes;

use crate::machine::Fault;
use crate::machine::delivery::budget::Budget;
use crate::machine::delivery::trip::TripWindow;
use crate::machine::kv::{Kv, Table};
use crate::machine::record::{Kind, decode_message, encode_message};
use crate::model::delivery::{Counters, Pause};
use crate::model::ids::SubscriptionId;

/// Where the placing of failed events goes on, after the priority policy changed.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Placing {
    /// With those of this topic.
    #[prost(uint64, tag = "1")]
    pub topic_id: u64,
    /// And of those with this one.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
}

/// A subscription's state as stored.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SubscriptionState {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its pause, if it has one.
    #[prost(message, optional, tag = "2")]
    pub pause: Option<Pause>,
    /// What it did so far.
    #[prost(message, required, tag = "3")]
    pub counters: Counters,
    /// Events in flight.
    #[prost(uint64, tag = "4")]
    pub in_flight: u64,
    /// The number that the newest lease got.
    #[prost(uint64, tag = "5")]
    pub last_lease_id: u64,
    /// The number that the newest dead letter got.
    #[prost(uint64, tag = "6")]
    pub last_dead_number: u64,
    /// Dead letters that are kept.
    #[prost(uint64, tag = "7")]
    pub dead_letters: u64,
    /// Recent outcomes.
    #[prost(message, required, tag = "8")]
    pub trip: TripWindow,
    /// Recent deliveries.
    #[prost(message, required, tag = "9")]
    pub budget: Budget,
    /// Failed events are being placed by a changed priority policy; none: all are where they belong.
    #[prost(message, optional, tag = "10")]
    pub placing: Option<Placing>,
    /// Dead letters up to this number are from before the newest seek: their events may have been delivered since.
    #[prost(uint64, tag = "11")]
    pub dead_before_seek: u64,
}

impl SubscriptionState {
    /// Reads a stored row.
    ///
    /// # Errors
    /// When it is corrupt.
    pub fn decode(row: &[u8]) -> Result<Self, Fault> {
        decode_message(Kind::SubscriptionState, row)
    }

    /// The row to store.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        encode_message(Kind::SubscriptionState, self)
    }
}

/// The state of a subscription by number.
///
/// # Errors
/// When the store fails or the row is corrupt.
pub fn get(kv: &impl Kv, id: SubscriptionId) -> Result<Option<SubscriptionState>, Fault> {
    let row = kv.get(Table::SubscriptionStates, &id.to_key())?;
    row.map(|row| SubscriptionState::decode(&row)).transpose()
}
