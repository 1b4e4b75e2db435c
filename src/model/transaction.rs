//! Staged transactions, as callers see them.

use super::ids::{TransactionId, UnixMs};
use super::outcome::Published;

/// How a staged transaction stands. The numbers are persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum TransactionState {
    /// It takes more, and may be committed.
    Open = 0,
    /// All of it was done.
    Committed = 1,
    /// It was given up by its owner.
    Aborted = 2,
    /// Nobody ended it in time.
    Expired = 3,
}

impl TransactionState {
    /// For people and metadata.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Committed => "committed",
            Self::Aborted => "aborted",
            Self::Expired => "expired",
        }
    }
}

/// A staged transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionInfo {
    /// Its number.
    pub id: TransactionId,
    /// What people call it; may be empty.
    pub label: String,
    /// How it stands.
    pub state: TransactionState,
    /// When it was begun.
    pub created_at: UnixMs,
    /// When it expires, unless it ends before.
    pub expires_at: UnixMs,
    /// When it ended; 0: it is open.
    pub ended_at: UnixMs,
    /// Events, expectations and settlements that were staged.
    pub operations: u32,
    /// Encoded bytes of what was staged.
    pub bytes: u64,
    /// Of a committed one: where the events of each topic went, in the order of first staging; of topics
    /// without events nowhere.
    pub parts: Vec<(String, Published)>,
}

/// What is staged for one topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StagedPart {
    /// The topic.
    pub topic: String,
    /// Events to append.
    pub events: u32,
    /// Keys that have to be at a version.
    pub expectations: u32,
}

/// A staged transaction with what is staged in it; of one that has ended, nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionView {
    /// How it stands.
    pub info: TransactionInfo,
    /// By topic.
    pub parts: Vec<StagedPart>,
    /// Settlements by subscription.
    pub settles: Vec<(String, u32)>,
}
