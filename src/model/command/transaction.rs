//! Commands of transactions.

use super::{Publish, Settle};

/// Append to topics and settle deliveries, all of it or nothing. Validated by the proposer: each topic and
/// each lease is named once.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Transact {
    /// What is appended, and what keys have to be; without events only the latter. No producers: the
    /// request id recognises repetitions.
    #[prost(message, repeated, tag = "1")]
    pub parts: Vec<Publish>,
    /// What is settled; every lease has to be held, with all of the events that are named.
    #[prost(message, repeated, tag = "2")]
    pub settles: Vec<Settle>,
    /// A repeated one gets its first answer; empty: none.
    #[prost(string, tag = "3")]
    pub request_id: String,
}
