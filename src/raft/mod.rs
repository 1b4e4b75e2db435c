//! Consensus: everything that names openraft.
//!
//! [`handle::RaftNode`] is the way in. An entry goes `propose` → the library's core → the log
//! (`log_store`, one sync for many) and, over `network` and `append_stream`, the peers' logs; once a
//! quorum has it, `state_machine` gathers rounds of entries and the `apply` thread turns each into
//! one write with the applied id in it (`rows`); then the caller hears of it.
//!
//! The other side of the wire is `peer_server`: it checks for whom a message is before consensus
//! sees it. Snapshots are directories of hard links (`snapshot`), sent file by file
//! (`snapshot_send`, `snapshot_receive`). `read_index` makes reads linearizable on any node,
//! `membership` changes the members, `quorum` decides whether that is safe, and `upkeep` does what
//! has to be done by the clock. What a node may queue or hold is bounded in `model::limits`.
//!
//! The library's types end here: what is stored or sent is encoded by `codec`.

pub mod apply;
pub mod handle;
pub mod hints;
pub mod leadership;
pub mod log_flusher;
pub mod log_store;
mod log_tail;
pub mod membership;
pub mod options;
pub mod peer_server;
pub mod peers;
pub mod read_index;
pub mod status;
pub mod types;
pub mod verify;

#[cfg(feature = "fuzz")]
pub mod fuzz;

mod append_serve;
mod append_stream;
pub(crate) mod codec;
mod network;
mod notes;
mod peer_listener;
#[cfg(feature = "planted")]
mod planted;
mod quorum;
mod rows;
mod snapshot;
mod snapshot_files;
mod snapshot_receive;
mod snapshot_send;
mod state_machine;
mod upkeep;

// Over real sockets and disks; a simulation has neither.
#[cfg(test)]
#[cfg(not(feature = "sim"))]
mod tests;

pub use apply::AppliedMark;
pub use handle::{LeaderHint, ProposeError, RaftNode, StartError};
pub use leadership::Leadership;
pub use membership::{Care, SafeToStop};
pub use notes::Note;
pub use options::{RaftOptions, Timing, Upkeep};
pub use read_index::ReadError;
pub use status::{MemberStatus, RaftStatus};
pub use types::PeerNode;
pub use verify::VerifyResult;
