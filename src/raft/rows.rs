//! The rows that consensus keeps in the state itself: what was applied last, and the membership.
//! They are written in the same batch as what the entries changed, so they never disagree with it.

use prost::Message;

use super::codec;
use super::types::{LogId, StoredMembership};
use crate::machine::kv::{Kv, Table, Write};
use crate::machine::record::{self, kind};
use crate::machine::Fault;
use crate::proto::peer;

const APPLIED: &[u8] = b"applied";
const MEMBERSHIP: &[u8] = b"membership";
const VERSION: u8 = 1;

/// What a state says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rows {
    /// The last entry that was applied; `None` for an empty state.
    pub(super) applied: Option<LogId>,
    /// The last membership that was applied.
    pub(super) membership: StoredMembership,
}

/// Reads them.
pub(super) fn load(kv: &impl Kv) -> Result<Rows, Fault> {
    let applied = kv.get(Table::Raft, APPLIED)?;
    let membership = kv.get(Table::Raft, MEMBERSHIP)?;
    let applied = applied
        .map(|value| decode::<peer::LogId>(kind::RAFT_APPLIED, &value))
        .transpose()?
        .map(|log_id| codec::log_id_from_proto(&log_id));
    let membership = membership
        .map(|value| decode::<peer::StoredMembership>(kind::RAFT_MEMBERSHIP, &value))
        .transpose()?
        .map(|stored| codec::stored_membership_from_proto(&stored).map_err(corrupt))
        .transpose()?
        .unwrap_or_default();
    Ok(Rows { applied, membership })
}

/// Takes note of the last entry applied.
pub(super) fn applied(log_id: &LogId) -> Write {
    let body = codec::log_id_to_proto(log_id).encode_to_vec();
    Write::Put(Table::Raft, APPLIED.to_vec(), record::encode(kind::RAFT_APPLIED, VERSION, &body))
}

/// Takes note of the last membership applied.
pub(super) fn membership(stored: &StoredMembership) -> Write {
    let body = codec::stored_membership_to_proto(stored).encode_to_vec();
    let value = record::encode(kind::RAFT_MEMBERSHIP, VERSION, &body);
    Write::Put(Table::Raft, MEMBERSHIP.to_vec(), value)
}

fn decode<M: Message + Default>(kind: u8, value: &[u8]) -> Result<M, Fault> {
    let body = record::decode(kind, VERSION, value)?;
    M::decode(body).map_err(corrupt)
}

fn corrupt(what: impl std::fmt::Display) -> Fault {
    Fault::Corrupt { table: Table::Raft.name(), what: what.to_string() }
}
