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

/// Begin a transaction whose parts come one after the other.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct BeginTransaction {
    /// It expires after that, milliseconds.
    #[prost(uint64, tag = "1")]
    pub timeout_ms: u64,
    /// What people call it; may be empty.
    #[prost(string, tag = "2")]
    pub label: String,
    /// A repeated one gets the transaction that the first one began; empty: none.
    #[prost(string, tag = "3")]
    pub request_id: String,
}

/// Add to an open transaction; nobody sees it before the commit.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StageTransaction {
    /// The transaction's number.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// As in [`Transact`].
    #[prost(message, repeated, tag = "2")]
    pub parts: Vec<Publish>,
    /// As in [`Transact`].
    #[prost(message, repeated, tag = "3")]
    pub settles: Vec<Settle>,
    /// A repeated one changes nothing; empty: none.
    #[prost(string, tag = "4")]
    pub request_id: String,
    /// As it is stored: the number of each part's topic, in order. Nothing in the log, and of what was stored
    /// before there were any.
    #[prost(uint64, repeated, tag = "5")]
    pub topic_ids: Vec<u64>,
}

/// Do everything that was staged, or nothing.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CommitTransaction {
    /// The transaction's number.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// What was staged for topics, joined and judged again, since schemas had changed in between; absent: it
    /// counts as it was staged.
    #[prost(message, optional, tag = "2")]
    pub judged_again: Option<JudgedAgain>,
}

/// What was staged for topics, judged again.
#[derive(Clone, PartialEq, prost::Message)]
pub struct JudgedAgain {
    /// The number of stages that were joined; it counts as long as none was added.
    #[prost(uint32, tag = "1")]
    pub stages: u32,
    /// Each topic once, in the order of first staging.
    #[prost(message, repeated, tag = "2")]
    pub parts: Vec<Publish>,
}

/// Forget what was staged.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct AbortTransaction {
    /// The transaction's number.
    #[prost(uint64, tag = "1")]
    pub id: u64,
}
