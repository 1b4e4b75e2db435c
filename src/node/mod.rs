//! One running node: it validates, coalesces and proposes; it reads and follows; it changes the
//! cluster. Everything that goes back to a caller is a `Result<_, Rejection>`.

pub mod validate;

mod bounded_call;
mod connect;
pub mod failures;
mod hub_clock;
pub mod keys;
#[cfg(feature = "planted")]
mod planted;
pub mod propose;
pub mod publish;
pub mod quotas;
pub mod registry;
mod route;
pub mod schemas;
pub mod settle;
pub mod subscriptions;
pub mod topics;
pub mod tracking;
pub mod transactions;

pub mod follow;
mod pace;
pub mod query;

pub mod lead;

pub mod cluster;
pub mod housekeeping;

use std::num::{NonZero, NonZeroU64};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use self::hub_clock::HubClock;
use self::lead::Lead;
use self::pace::Writes;
use self::propose::Proposer;
use self::quotas::Quotas;
use self::registry::Registry;
use self::registry::egress::Egress;
use self::route::Routed;
use self::schemas::Comparing;
use self::schemas::judges::Judges;
use crate::config::Config;
use crate::model::command::Kind;
use crate::model::ids::UnixMs;
use crate::model::limits::{BLOCKING_READS_MAX, READS_MAX};
use crate::model::outcome::Outcome;
use crate::model::rejection::{Reason, Rejection};
use crate::model::wire::Malformed;
use crate::raft::log_store::LogStore;
use crate::raft::{PeerNode, RaftNode, RaftOptions, Timing, Upkeep};
use crate::runtime::fatal::FatalSender;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::{clock, tasks};
use crate::store::data_dir::DataDir;
use crate::store::log_db::LogDb;
use crate::store::options::{Compression, StoreOptions};
use crate::store::shard::ShardState;
use crate::telemetry::spans::Spans;

/// The one Raft group of a hub today.
const SHARD: u32 = 0;
/// How long a stop waits for leadership to move and for callers to be answered.
const DRAIN: Duration = Duration::from_secs(5);

/// A running node.
pub struct Node {
    raft: RaftNode,
    clock: Arc<HubClock>,
    proposer: Proposer,
    lead: Lead,
    quotas: Quotas,
    judges: Judges,
    comparing: Comparing,
    spans: Option<Spans>,
    registry: Registry,
    routed: Routed,
    /// Where this node runs; empty: nobody said.
    zone: String,
    data_dir: DataDir,
    addresses: PeerNode,
    request_timeout: Duration,
    /// Reads of storage that run at once.
    blocking_reads: Arc<Semaphore>,
    /// Streaming reads that are served at once.
    reads: Arc<Semaphore>,
    writes: Writes,
    shutdown: Shutdown,
    fatal: FatalSender,
    started: Instant,
    log_stats: Arc<crate::raft::log_flusher::SyncStats>,
}

impl Node {
    /// Opens the data directory and takes part in the cluster that it belongs to, if any.
    ///
    /// # Errors
    /// When the directory is not this node's, or the disk or its content is unsound.
    pub async fn start(
        config: &Config,
        data_dir: DataDir,
        shutdown: Shutdown,
        fatal: FatalSender,
    ) -> anyhow::Result<Arc<Self>> {
        let state = ShardState::open(&data_dir.state_path(SHARD), store_options(config))?;
        let log = LogStore::open(LogDb::open(&data_dir.raft_log_path())?, SHARD)?;
        let log_stats = log.sync_stats();
        let raft = RaftNode::start(RaftOptions {
            node_id: data_dir.node_id(),
            shard: SHARD,
            cluster_id: data_dir.cluster_id(),
            log,
            state,
            snapshots: data_dir.snapshots_path(),
            timing: timing(config),
            upkeep: upkeep(config),
            bind: Some(config.listen.peer.ip()).filter(|ip| !ip.is_unspecified()),
            fatal: fatal.clone(),
        })
        .await?;
        let to = config.trace.otlp_endpoint.as_deref();
        let spans = to.map(|to| Spans::start(to, data_dir.node_id().get())).transpose()?;
        let request_timeout = Duration::from_millis(config.limits.request_timeout_ms);
        let clock = Arc::new(HubClock::default());
        let node = Arc::new(Self {
            proposer: Proposer::start(raft.clone(), Arc::clone(&clock), request_timeout),
            clock,
            lead: Lead::new(timing(config).election_max),
            quotas: Quotas::default(),
            judges: Judges::default(),
            comparing: Comparing::default(),
            spans,
            registry: Registry::new(Egress::new(config.egress.allow.0.clone())),
            routed: Routed::default(),
            zone: config.node.zone.clone().unwrap_or_default(),
            raft,
            data_dir,
            addresses: addresses(config),
            request_timeout,
            blocking_reads: Arc::new(Semaphore::new(BLOCKING_READS_MAX)),
            reads: Arc::new(Semaphore::new(READS_MAX)),
            writes: Writes::new(std::thread::available_parallelism().map_or(1, NonZero::get)),
            shutdown,
            fatal,
            started: clock::now(),
            log_stats,
        });
        housekeeping::start(&node);
        lead::start(&node);
        quotas::start(&node);
        registry::start(&node);
        route::start(&node);
        Ok(node)
    }

    /// The consensus below.
    #[must_use]
    pub fn raft(&self) -> &RaftNode {
        &self.raft
    }

    /// Counters of log syncs.
    #[must_use]
    pub fn log_stats(&self) -> &crate::raft::log_flusher::SyncStats {
        &self.log_stats
    }

    /// Counters of proposals.
    #[must_use]
    pub fn propose_stats(&self) -> &propose::ProposeStats {
        self.proposer.stats()
    }

    /// The wish to stop.
    #[must_use]
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// The hub's time, as far as this node knows it.
    #[must_use]
    pub fn now(&self) -> UnixMs {
        self.clock.now(&self.raft)
    }

    /// When a request that begins now has to be answered, unless its caller is in more of a hurry.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        clock::now() + self.request_timeout
    }

    /// Proposes a command and waits for its outcome.
    ///
    /// # Errors
    /// What the state refuses, and everything that keeps a proposal from an outcome.
    pub(crate) async fn execute(&self, kind: Kind) -> Result<Outcome, Rejection> {
        self.proposer.submit(kind).await?.outcome().await
    }

    /// Whether this node serves: it belongs to a cluster, is not stopping, and has a quorum.
    ///
    /// # Errors
    /// The reason why not.
    pub fn readiness(&self) -> Result<(), Rejection> {
        if self.shutdown.is_triggered() {
            return Err(Rejection::new(
                Reason::ShuttingDown,
                "the node is stopping; ask another node",
            ));
        }
        if self.raft.status().has_quorum { Ok(()) } else { Err(self.not_leader_or_quorum()) }
    }

    /// Whether this node heard of no leader lately, or leads without a quorum: what it knows may be old.
    /// One that was just started remembers who led, but has not heard of it.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        !self.raft.has_quorum()
    }

    fn not_leader_or_quorum(&self) -> Rejection {
        let rejection = self.not_leader();
        match rejection.reason {
            Reason::NotInitialized | Reason::NoLeader => rejection,
            _ => Rejection::new(Reason::NoQuorum, "the node cannot reach a quorum"),
        }
    }

    /// Hands leadership over, if there is somebody to take it.
    pub async fn stop_leading(&self) {
        if self.raft.is_leader() && self.raft.status().members.len() > 1 {
            let handed_over = tokio::time::timeout(DRAIN, self.raft.transfer_leader(None)).await;
            match handed_over {
                Ok(Ok(to)) => tracing::info!(%to, "leadership handed over"),
                Ok(Err(rejection)) => tracing::warn!(%rejection, "leadership not handed over"),
                Err(_) => tracing::warn!("leadership not handed over in time"),
            }
        }
    }

    /// Answers who waits, then makes everything durable.
    pub async fn stop(&self) {
        self.proposer.drain(DRAIN).await;
        if let Some(spans) = self.spans.clone() {
            drop(tasks::spawn_blocking("spans", move || spans.stop()).await);
        }
        self.raft.flush_and_shutdown().await;
    }
}

/// Waits until every node of this process has let go of its databases, or the patience is over.
/// To be called last: what is still open then ends the process with a crash.
pub fn wait_closed(patience: Duration) {
    if !crate::store::wait_closed(patience) {
        tracing::warn!("databases are still open at the end");
    }
}

fn unexpected(outcome: &Outcome) -> Rejection {
    Rejection::new(Reason::Internal, format!("the state answered {outcome:?}; report this"))
}

/// What was validated before cannot be read.
fn unexpected_bytes(error: Malformed) -> Rejection {
    Rejection::new(Reason::Internal, format!("an event that was checked: {error}; report this"))
}

fn store_options(config: &Config) -> StoreOptions {
    use crate::config::CompressionName;
    StoreOptions {
        block_cache_bytes: config.storage.block_cache_bytes,
        write_buffer_bytes: config.storage.write_buffer_bytes,
        compression: match config.storage.compression {
            CompressionName::None => Compression::None,
            CompressionName::Lz4 => Compression::Lz4,
            CompressionName::Zstd => Compression::Zstd,
        },
    }
}

fn timing(config: &Config) -> Timing {
    Timing {
        heartbeat: Duration::from_millis(config.raft.heartbeat_ms),
        election_min: Duration::from_millis(config.raft.election_min_ms),
        election_max: Duration::from_millis(config.raft.election_max_ms),
        transfer_rate: NonZeroU64::new(config.raft.snapshot_bytes_per_s),
        ..Timing::default()
    }
}

fn upkeep(config: &Config) -> Upkeep {
    Upkeep {
        snapshot_log_bytes: config.raft.snapshot_bytes,
        snapshot_entries: config.raft.snapshot_entries,
        snapshot_age: Duration::from_secs(config.raft.snapshot_secs),
        log_entries_kept: config.raft.keep_entries,
        flush_every: Duration::from_secs(config.raft.flush_secs),
        flush_log_bytes: config.raft.flush_bytes,
        ..Upkeep::default()
    }
}

fn addresses(config: &Config) -> PeerNode {
    let listen = &config.listen;
    let told = |given: &Option<String>, bound: std::net::SocketAddr| {
        given.clone().unwrap_or_else(|| bound.to_string())
    };
    PeerNode {
        peer_address: told(&listen.advertise_peer, listen.peer),
        client_address: told(&listen.advertise_client, listen.client),
    }
}
