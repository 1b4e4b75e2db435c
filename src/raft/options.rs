//! What a Raft node is started with.

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

use super::log_store::LogStore;
use crate::model::ids::NodeId;
use crate::model::limits::{
    APPLY_COMMANDS_QUEUED, REPLICATION_ENTRIES_MAX, SNAPSHOT_CHUNK_BYTES_MAX,
};
use crate::model::planted::{self, Bug};
use crate::runtime::fatal::FatalSender;
use crate::store::shard::ShardState;

/// Everything that a Raft node needs from the outside.
pub struct RaftOptions {
    /// This node.
    pub node_id: NodeId,
    /// The Raft group. Today a hub runs one, number 0.
    pub shard: u32,
    /// The cluster that this node belongs to; `None` until it has formed or joined one, and until
    /// then it refuses every peer.
    pub cluster_id: Option<String>,
    /// The replicated log.
    pub log: LogStore,
    /// The replicated state.
    pub state: ShardState,
    /// Where snapshots are kept, and received.
    pub snapshots: PathBuf,
    /// Clocks of the protocol.
    pub timing: Timing,
    /// When to take snapshots, flush and forget.
    pub upkeep: Upkeep,
    /// The local address of outgoing connections; `None` lets the system choose. A node that
    /// listens on one of many loopback addresses also speaks from there.
    pub bind: Option<IpAddr>,
    /// Where a fault goes that this node must not survive.
    pub fatal: FatalSender,
}

/// Clocks of the protocol.
#[derive(Clone, Debug)]
pub struct Timing {
    /// How often a leader shows itself. Default 250 ms.
    pub heartbeat: Duration,
    /// A follower that hears of no leader for a random time between this and `election_max` asks
    /// for an election. Default 800 ms.
    pub election_min: Duration,
    /// See `election_min`. Default 1200 ms.
    pub election_max: Duration,
    /// For a connection to a peer. Default 1 s.
    pub connect: Duration,
    /// A peer that leaves an append unanswered for so long is connected to anew. Default 4 s:
    /// above a slow disk's sync, below what an operator would notice.
    pub append_idle: Duration,
    /// A snapshot transfer without progress for so long is begun anew. Default 30 s.
    pub transfer_idle: Duration,
    /// Bytes a second of a snapshot that this node sends; `None`: as fast as the receiver takes
    /// them. Default 64 MiB.
    pub transfer_rate: Option<NonZeroU64>,
    /// For verifying and installing a snapshot at the receiver. Default 10 min.
    pub install: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(250),
            election_min: Duration::from_millis(800),
            election_max: Duration::from_millis(1200),
            connect: Duration::from_secs(1),
            append_idle: Duration::from_secs(4),
            transfer_idle: Duration::from_secs(30),
            transfer_rate: NonZeroU64::new(64 << 20),
            install: Duration::from_secs(600),
        }
    }
}

impl Timing {
    /// How long ago a peer may have been heard of to count as alive: two election timeouts.
    #[must_use]
    pub fn alive_within(&self) -> Duration {
        self.election_max * 2
    }
}

/// When to take snapshots, flush the state and forget log entries.
#[derive(Clone, Debug)]
pub struct Upkeep {
    /// Take a snapshot once entries of so many bytes were applied since the last. Default 1 GiB.
    pub snapshot_log_bytes: u64,
    /// The same by number of entries. Default 1,000,000; tests and chaos runs use few.
    pub snapshot_entries: u64,
    /// The same by age, when anything was applied at all. Default 24 h.
    pub snapshot_age: Duration,
    /// Entries below a snapshot that stay in the log, so that a follower that was away for a short
    /// while is caught up by entries rather than by a snapshot. Default 10,000.
    pub log_entries_kept: u64,
    /// Flush the state at least so often when something was applied. It bounds what a restart
    /// applies again. Default 30 s.
    pub flush_every: Duration,
    /// Flush the state once entries of so many bytes were applied since. Default 256 MiB.
    pub flush_log_bytes: u64,
    /// How long a leader puts off its next snapshot for followers that the last one is still being
    /// sent to: the log that they need next would go with it. Default 5 min.
    pub put_off_max: Duration,
    /// How often to look. Default 1 s.
    pub check_every: Duration,
}

impl Default for Upkeep {
    fn default() -> Self {
        Self {
            snapshot_log_bytes: 1 << 30,
            snapshot_entries: 1_000_000,
            snapshot_age: Duration::from_secs(24 * 3600),
            log_entries_kept: 10_000,
            flush_every: Duration::from_secs(30),
            flush_log_bytes: 256 << 20,
            put_off_max: Duration::from_secs(300),
            check_every: Duration::from_secs(1),
        }
    }
}

/// The settings of the Raft library.
pub(super) fn config(options: &RaftOptions) -> Config {
    let timing = &options.timing;
    let election_max = millis(timing.election_max);
    Config {
        cluster_name: format!("shard-{}", options.shard),
        heartbeat_interval: millis(timing.heartbeat),
        election_timeout_min: millis(timing.election_min),
        election_timeout_max: election_max,
        install_snapshot_timeout: millis(timing.install),
        max_payload_entries: REPLICATION_ENTRIES_MAX,
        snapshot_policy: SnapshotPolicy::Never,
        snapshot_max_chunk_size: SNAPSHOT_CHUNK_BYTES_MAX as u64,
        max_in_snapshot_log_to_keep: options.upkeep.log_entries_kept,
        // Purging few entries at a time would leave many small tombstones in the log.
        purge_batch_size: (options.upkeep.log_entries_kept / 4).max(1),
        // The core waits when it is full, and would then miss heartbeats.
        state_machine_channel_size: Some(APPLY_COMMANDS_QUEUED),
        enable_pre_vote: Some(true),
        // A leader whose messages arrive but who hears no answers must fall silent, else its
        // followers never elect another.
        quorum_loss_probe_interval: Some(election_max * 2 + millis(timing.heartbeat)),
        // A restarted leader asks for votes like everyone else.
        enable_leader_restore: Some(false),
        // Whoever was taken to agree lacks what it was taken to have.
        allow_log_reversion: planted::is(Bug::HalfQuorum).then_some(true),
        ..Config::default()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
