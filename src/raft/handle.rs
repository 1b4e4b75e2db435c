//! The handle of a running Raft node: what the rest of the hub sees of consensus.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyerror::AnyError;
use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout_at;

use super::apply::{self, AppliedMark, Shared};
use super::hints::{Hints, Listener};
use super::leadership::Leadership;
use super::log_store::LogStore;
use super::network::Network;
use super::notes::Notes;
use super::options::{self, RaftOptions};
use super::peer_listener;
use super::peer_server::PeerHandler;
use super::peers::{Identity, OtherCluster, Peers};
use super::read_index::{Asker, ReadError, ReadIndex};
use super::rows;
use super::snapshot::Snapshots;
use super::snapshot_receive::Receiver;
use super::state_machine::StateMachine;
use super::status::{Contact, RaftStatus};
use super::types::{EntryData, Raft, TypeConfig, Vote};
use super::upkeep;
use super::verify::{self, VerifyResult};
use crate::machine::Fault;
use crate::model::ids::{LogIndex, NodeId};
use crate::model::limits::PEER_MESSAGE_BYTES_MAX;
use crate::model::outcome::Outcome;
use crate::model::rejection::{Reason, Rejection};
use crate::proto::peer::peer_server::PeerServer;
use crate::runtime::fatal::FatalSender;
use crate::runtime::net::TcpListener;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::tasks;
use crate::store::shard::ShardState;
use crate::store::state::StateDb;

/// A node could not be started.
#[derive(Debug, thiserror::Error)]
#[error("start consensus: {0}")]
pub struct StartError(AnyError);

impl StartError {
    fn new(error: &(impl std::error::Error + 'static)) -> Self {
        Self(AnyError::new(error))
    }

    fn when(self, context: &str) -> Self {
        Self(self.0.add_context(|| context.to_owned()))
    }
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderHint {
    /// The leader.
    pub node_id: NodeId,
    /// HOST:PORT for clients.
    pub client_address: String,
}

/// Why a proposal has no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This node does not lead, or cannot reach a quorum; nothing was proposed.
    #[error("this node cannot propose; ask the leader")]
    NotLeader(Option<LeaderHint>),
    /// It was proposed, and may or may not come to be.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// The node is stopping; nothing was proposed.
    #[error("the node is stopping; ask another one")]
    Stopped,
}

/// What the parts of a Raft node share.
pub(super) struct Core {
    pub(super) raft: Raft<StateMachine>,
    pub(super) identity: Arc<Identity>,
    pub(super) peers: Peers,
    pub(super) state: ShardState,
    pub(super) log: LogStore,
    pub(super) snapshots: Snapshots,
    pub(super) receiver: Receiver,
    pub(super) notes: Notes,
    pub(super) reads: ReadIndex,
    pub(super) applied: watch::Receiver<AppliedMark>,
    pub(super) shared: Arc<Shared>,
    pub(super) contact: Contact,
    /// Held while the membership is changed.
    pub(super) changing: Arc<Mutex<()>>,
    pub(super) stopping: AtomicBool,
}

/// A running Raft node. Clones are the same node.
#[derive(Clone)]
pub struct RaftNode {
    core: Arc<Core>,
}

impl RaftNode {
    /// Starts consensus over a log and a state: applies what the state misses of what is known to
    /// be decided, then takes part.
    ///
    /// # Errors
    /// When log or state cannot be read, or contradict each other.
    pub async fn start(options: RaftOptions) -> Result<Self, StartError> {
        let config = options::config(&options);
        let config = config.validate().map_err(|error| StartError::new(&error))?;
        let mark = first_mark(&options.log, &options.state).await?;
        let (applied, applied_rx) = watch::channel(mark);
        let shared = Arc::new(Shared {
            applied,
            hints: Hints::default(),
            found: options.log.last_index(),
            verify: verify::Results::default(),
            bytes: AtomicU64::new(0),
            fatal: options.fatal.clone(),
        });
        let RaftOptions { node_id, shard, cluster_id, log, state, snapshots, .. } = options;
        let identity = Arc::new(Identity::new(node_id, shard, cluster_id));
        let peers = Peers::new(Arc::clone(&identity), options.timing, options.bind);
        let snapshots = open_snapshots(snapshots, shared.fatal.clone()).await?;
        let machine =
            StateMachine::start(state.clone(), log.clone(), snapshots.clone(), Arc::clone(&shared));
        let machine =
            machine.map_err(|error| StartError::new(&error).when("start the apply thread"))?;
        let network = Network::new(peers.clone());
        let raft = Raft::new(node_id.get(), Arc::new(config), network, log.clone(), machine).await;
        let raft = raft.map_err(|fatal| StartError::new(&fatal))?;
        let reads = ReadIndex::start(Asker { raft: raft.clone(), peers: peers.clone() });
        let receiver = Receiver::new(snapshots.clone(), peers.timing.transfer_idle);
        let core = Arc::new(Core {
            raft,
            identity,
            peers,
            state,
            log,
            receiver,
            snapshots,
            reads,
            applied: applied_rx,
            shared,
            contact: Contact::new(),
            changing: Arc::default(),
            notes: Notes::default(),
            stopping: AtomicBool::new(false),
        });
        upkeep::start(&core, options.upkeep);
        Ok(Self { core })
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Proposes an entry: an encoded `CommandBatch`. Its outcomes come when it is applied here.
    ///
    /// Dropping the future does not take back what was proposed.
    pub fn propose(
        &self,
        entry: Bytes,
    ) -> impl Future<Output = Result<Vec<Outcome>, ProposeError>> + Send + 'static {
        let core = Arc::clone(&self.core);
        async move {
            let (responder, wait) =
                ProgressResponder::<TypeConfig, ClientWriteResult<TypeConfig>>::complete_only();
            let sent = core.raft.client_write_ff(EntryData(entry), Some(responder)).await;
            sent.map_err(|_| ProposeError::Stopped)?;
            match wait.await {
                Ok(Ok(response)) => Ok(response.data.outcomes),
                Ok(Err(error)) => Err(core.propose_error(error)),
                Err(_) => Err(ProposeError::Unknown("the node stopped meanwhile".to_owned())),
            }
        }
    }

    /// Waits until this node has applied everything that was answered anywhere before the call.
    ///
    /// # Errors
    /// In bounded time when there is no leader or no quorum, and at the deadline.
    pub async fn linearize(&self, deadline: Instant) -> Result<(), ReadError> {
        let index = self.core.reads.ask(deadline).await?;
        self.wait_applied(index, deadline).await
    }

    /// Waits until this node has applied an entry.
    ///
    /// # Errors
    /// At the deadline.
    pub async fn wait_applied(&self, index: LogIndex, deadline: Instant) -> Result<(), ReadError> {
        let mut applied = self.core.applied.clone();
        let wait = applied.wait_for(|mark| mark.index >= index);
        match timeout_at(deadline.into(), wait).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ReadError::Stopped),
            Err(_) => Err(ReadError::Late),
        }
    }

    /// The state as it is now.
    #[must_use]
    pub fn state(&self) -> StateDb {
        self.core.state.db()
    }

    /// How far this node has applied.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<AppliedMark> {
        self.core.applied.clone()
    }

    /// Bytes of the entries that this node applied since it started.
    #[must_use]
    pub fn applied_bytes(&self) -> u64 {
        self.core.shared.bytes.load(Ordering::Relaxed)
    }

    /// The hash that a `Verify` command asked for, by the index of its entry; `None` while it is
    /// being computed, and when it is unknown here.
    #[must_use]
    pub fn verify_result(&self, id: LogIndex) -> Option<VerifyResult> {
        self.core.shared.verify.get(id)
    }

    /// This node's view of the cluster.
    #[must_use]
    pub fn status(&self) -> RaftStatus {
        self.core.status()
    }

    /// Hears when something may be ready for a subscription.
    #[must_use]
    pub fn listen(&self) -> Listener {
        self.core.shared.hints.listen()
    }

    /// Hears when this node begins and ends to lead.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        Leadership::new(self.core.raft.server_metrics())
    }

    /// Whether this node leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.core.raft.is_leader()
    }

    /// Who leads, as far as this node knows; this node as well.
    #[must_use]
    pub fn leader(&self) -> Option<LeaderHint> {
        self.core.leader()
    }

    /// Whether this node can serve linearizable operations now, as far as it knows.
    #[must_use]
    pub fn has_quorum(&self) -> bool {
        self.core.has_quorum()
    }

    /// Takes note of the cluster that this node has formed or joined.
    ///
    /// # Errors
    /// When it belongs to another one.
    pub fn set_cluster_id(&self, cluster_id: &str) -> Result<(), OtherCluster> {
        self.core.identity.set_cluster_id(cluster_id)
    }

    /// Takes a snapshot of the state now; returns its last entry and its size in bytes.
    ///
    /// # Errors
    /// `DEADLINE_EXCEEDED` when it is not ready within `patience`, `SHUTTING_DOWN`.
    pub async fn snapshot(&self, patience: Duration) -> Result<(LogIndex, u64), Rejection> {
        let stopping = || super::membership::stopping();
        let target = self.core.applied.borrow().index;
        let mut metrics = self.core.raft.metrics();
        self.core.raft.trigger().snapshot().await.map_err(|_| stopping())?;
        let wait = async {
            loop {
                let held = metrics.borrow_and_update().snapshot;
                if held.is_some_and(|log_id| log_id.index >= target.get()) {
                    return Ok::<(), Rejection>(());
                }
                metrics.changed().await.map_err(|_| stopping())?;
            }
        };
        tokio::time::timeout(patience, wait).await.map_err(|_| {
            let text = "the snapshot is still being built; look at the status";
            Rejection::new(Reason::DeadlineExceeded, text)
        })??;
        Ok(self.core.snapshots.held().unwrap_or_default())
    }

    /// The service of the peer port, to be served by [`Self::serve_peers`] or another server.
    #[must_use]
    pub fn peer_service(&self) -> PeerServer<PeerHandler> {
        PeerServer::new(PeerHandler::new(Arc::clone(&self.core)))
            .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX)
    }

    /// Serves the peer port until the shutdown.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve_peers(
        &self,
        listener: TcpListener,
        shutdown: Shutdown,
    ) -> std::io::Result<()> {
        peer_listener::serve(self.peer_service(), listener, shutdown).await
    }

    /// The vote that this node will not go back behind, for who watches a simulation.
    #[cfg(feature = "sim")]
    #[must_use]
    pub fn promised_vote(&self) -> Option<crate::proto::peer::Vote> {
        self.core.log.promised_vote().as_ref().map(super::codec::vote_to_proto)
    }

    /// Stops consensus, then makes state and log durable. Leadership was handed over before.
    pub async fn flush_and_shutdown(&self) {
        self.core.stopping.store(true, Ordering::Release);
        if let Err(error) = self.core.raft.shutdown().await {
            tracing::error!(%error, "consensus did not stop cleanly");
        }
        self.core.flush_state().await;
        let log = self.core.log.clone();
        let synced = tasks::spawn_blocking("sync-log", move || log.sync()).await;
        if let Ok(Err(error)) = synced {
            tracing::error!(%error, "sync the log at the end");
        }
    }
}

async fn open_snapshots(root: PathBuf, fatal: FatalSender) -> Result<Snapshots, StartError> {
    let opened =
        tasks::spawn_blocking("open-snapshots", move || Snapshots::open(root, fatal)).await;
    let opened = opened.map_err(|error| StartError::new(&error))?;
    opened.map_err(|fault| StartError::new(&fault))
}

/// Where the state stands; refused when the log lost entries that were committed.
async fn first_mark(log: &LogStore, state: &ShardState) -> Result<AppliedMark, StartError> {
    let (log, state) = (log.clone(), state.clone());
    let mark = tasks::spawn_blocking("applied-mark", move || {
        let fault = |fault: Fault| StartError::new(&fault).when("read the state");
        let applied = rows::load(&state.db().tables()).map_err(fault)?.applied;
        log.check_against(applied).map_err(|error| StartError::new(&error))?;
        apply::mark(&state).map_err(fault)
    });
    mark.await.map_err(|error| StartError::new(&error))?
}

impl Core {
    /// Makes what was applied durable, so that a restart need not apply it again.
    pub(super) async fn flush_state(&self) {
        let (snapshots, state) = (self.snapshots.clone(), self.state.clone());
        let flushed = tasks::spawn_blocking("flush-state", move || snapshots.flush(&state)).await;
        if let Ok(Err(fault)) = flushed {
            self.shared.fatal.fail(format!("flush the state: {fault}"));
        }
    }

    pub(super) fn leader(&self) -> Option<LeaderHint> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let id = metrics.current_leader?;
        let node = metrics.membership_config.get_node(&id)?;
        Some(LeaderHint { node_id: NodeId(id), client_address: node.client_address.clone() })
    }

    fn propose_error(&self, error: ClientWriteError<TypeConfig>) -> ProposeError {
        match error {
            ClientWriteError::ForwardToLeader(forward) => {
                let hint = forward.leader_id.zip(forward.leader_node).map(|(id, node)| {
                    LeaderHint { node_id: NodeId(id), client_address: node.client_address }
                });
                let this = self.identity.node_id;
                ProposeError::NotLeader(hint.filter(|hint| hint.node_id != this))
            }
            ClientWriteError::LogEntryDiscarded(_) => {
                ProposeError::Unknown("the leader changed meanwhile".to_owned())
            }
            error @ (ClientWriteError::ChangeMembershipError(_)
            | ClientWriteError::PreconditionFailed(_)) => ProposeError::Unknown(error.to_string()),
        }
    }

    /// The vote of this node, when it is beyond `vote`.
    pub(super) fn higher_vote(&self, vote: &Vote) -> Option<Vote> {
        let mine = self.raft.metrics().borrow_watched().vote;
        (mine > *vote).then_some(mine)
    }
}
