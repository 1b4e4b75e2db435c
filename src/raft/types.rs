//! The consensus library's types, as this hub fills them in.

use std::fmt;

use bytes::Bytes;

use crate::model::outcome::Outcome;

openraft::declare_raft_types!(
    /// A replicated log of opaque commands.
    pub TypeConfig:
        D = EntryData,
        R = Reply,
        NodeId = u64,
        Node = PeerNode,
);

/// An encoded [`CommandBatch`](crate::model::command::CommandBatch), opaque to log and network.
#[derive(Clone, PartialEq, Eq)]
pub struct EntryData(pub Bytes);

impl fmt::Debug for EntryData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for EntryData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// What an entry led to, one outcome a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// In the order of the commands.
    pub outcomes: Vec<Outcome>,
}

impl From<Vec<Outcome>> for Reply {
    fn from(outcomes: Vec<Outcome>) -> Self {
        Self { outcomes }
    }
}

/// Where a node is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerNode {
    /// HOST:PORT between nodes.
    pub peer_address: String,
    /// HOST:PORT for clients.
    pub client_address: String,
}

impl fmt::Display for PeerNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.peer_address, self.client_address)
    }
}

/// The consensus library's handle over a state machine.
pub type Raft<M> = openraft::Raft<TypeConfig, M>;
/// A log entry's id.
pub type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
/// A vote.
pub type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
/// A log entry.
pub type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
/// Who votes and who learns.
pub type Membership = openraft::Membership<u64, PeerNode>;
/// A membership with the id of its log entry.
pub type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
/// What a snapshot says of itself.
pub type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
/// A snapshot.
pub type Snapshot<D> = openraft::type_config::alias::SnapshotOf<TypeConfig, D>;

/// A log id, for tests.
#[cfg(test)]
pub(crate) fn log_id(term: u64, node_id: u64, index: u64) -> LogId {
    LogId::new(openraft::impls::leader_id_adv::LeaderId { term, node_id }, index)
}
