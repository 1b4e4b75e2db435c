//! The rows that consensus keeps in the state itself: what was applied last, and the membership.
//! They are written in the same batch as what the entries changed, so they never disagree with it.

use super::codec;
use super::types::{LogId, StoredMembership};
use crate::machine::Fault;
use crate::machine::kv::{Kv, Table, Write};
use crate::machine::record::{Kind, decode_message, encode_message};
use crate::proto::peer;

const APPLIED: &[u8] = b"applied";
const MEMBERSHIP: &[u8] = b"membership";

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
        .map(|value| decode_message::<peer::LogId>(Kind::Applied, &value))
        .transpose()?
        .map(|log_id| codec::log_id_from_proto(&log_id));
    let membership = membership
        .map(|value| decode_message::<peer::StoredMembership>(Kind::Membership, &value))
        .transpose()?
        .map(|stored| codec::stored_membership_from_proto(&stored).map_err(corrupt))
        .transpose()?
        .unwrap_or_default();
    Ok(Rows { applied, membership })
}

/// Takes note of the last entry applied.
pub(super) fn applied(log_id: &LogId) -> Write {
    let value = encode_message(Kind::Applied, &codec::log_id_to_proto(log_id));
    Write::Put(Table::Raft, APPLIED.to_vec(), value)
}

/// Takes note of the last membership applied.
pub(super) fn membership(stored: &StoredMembership) -> Write {
    let value = encode_message(Kind::Membership, &codec::stored_membership_to_proto(stored));
    Write::Put(Table::Raft, MEMBERSHIP.to_vec(), value)
}

fn corrupt(what: impl std::fmt::Display) -> Fault {
    Fault::Corrupt { record: Kind::Membership, what: what.to_string() }
}
