//! The pure, deterministic state machine: commands and state in, writes and outcomes out.
//!
//! Nothing here knows a clock, randomness, threads, configuration or a database. Time comes with
//! the command; state comes through [`kv::Kv`]. Every replica, and every replay, computes the same
//! bytes.

pub mod key;
pub mod kv;
pub mod mem;
pub mod overlay;
pub mod record;

pub mod apply;
pub mod topic;

pub mod delivery;
pub mod lifecycle;
pub mod quota;
pub mod registry;
pub mod schedule;
pub mod schema;
pub mod subscription;
pub mod tracking;
pub mod transaction;

pub mod housekeeping;
pub mod nodes;
#[cfg(feature = "planted")]
mod planted;
pub mod producers;
pub mod requests;

pub mod query;
pub mod verify;

use crate::model::wire::Malformed;

/// Something that must not be: corruption, an undecodable command, a broken invariant, a failing
/// disk. The node stops; nothing is skipped and nothing is repaired by guessing.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Stored bytes fail their checksum or their grammar.
    #[error("corrupt {record:?} record: {what}")]
    Corrupt {
        /// What the record should be.
        record: record::Kind,
        /// What is wrong with it.
        what: String,
    },
    /// A replicated command cannot be decoded, or is of a newer version.
    #[error("undecodable command: {0}")]
    Undecodable(String),
    /// The store below failed.
    #[error("storage: {0}")]
    Storage(String),
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Self {
        Self::Undecodable(malformed.to_string())
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers of a test")]
pub(crate) mod tests;
