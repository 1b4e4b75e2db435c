//! Linearizable reads on any node: ask the leader which entry a read has to see, once for all that
//! wait, then wait until that entry is applied here.

use std::time::{Duration, Instant};

use openraft::ReadPolicy;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{timeout, timeout_at};

use super::peers::{Lane, Peers};
use super::state_machine::StateMachine;
use super::types::Raft;
use crate::model::ids::{LogIndex, NodeId};
use crate::model::limits::LINEARIZE_QUEUE_MAX;
use crate::model::rejection::{Reason, Rejection};
use crate::proto::peer;
use crate::runtime::tasks;

/// Why a node cannot say what a linearizable read has to see.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader is known.
    #[error("no leader is known; try again, or read with consistency stale")]
    NoLeader,
    /// The leader could not confirm itself, or did not answer.
    #[error("no quorum confirmed the read ({0}); try again, or read with consistency stale")]
    NoQuorum(String),
    /// The deadline passed.
    #[error("the deadline passed before this node had applied what the read has to see")]
    Late,
    /// This node is stopping.
    #[error("the node is stopping; ask another one")]
    Stopped,
}

impl From<ReadError> for Rejection {
    fn from(error: ReadError) -> Self {
        let reason = match &error {
            ReadError::NoLeader => Reason::NoLeader,
            ReadError::NoQuorum(_) => Reason::NoQuorum,
            ReadError::Late => Reason::DeadlineExceeded,
            ReadError::Stopped => Reason::ShuttingDown,
        };
        Self::new(reason, error.to_string())
    }
}

type Answer = Result<LogIndex, ReadError>;

/// Gathers reads: all that arrive while the leader is being asked share the next question.
#[derive(Clone)]
pub(super) struct ReadIndex {
    asked: mpsc::Sender<oneshot::Sender<Answer>>,
}

impl ReadIndex {
    pub(super) fn start(asker: Asker) -> Self {
        let (asked, inbox) = mpsc::channel(LINEARIZE_QUEUE_MAX);
        let _detached = tasks::spawn("read-index", asker.run(inbox));
        Self { asked }
    }

    /// The entry that a read which starts now has to see.
    pub(super) async fn ask(&self, deadline: Instant) -> Answer {
        let (answer, wait) = oneshot::channel();
        let round_trip = async {
            self.asked.send(answer).await.map_err(|_| ReadError::Stopped)?;
            wait.await.map_err(|_| ReadError::Stopped)?
        };
        timeout_at(deadline.into(), round_trip).await.map_err(|_| ReadError::Late)?
    }
}

/// Asks the leader, be it this node or another one.
pub(super) struct Asker {
    pub(super) raft: Raft<StateMachine>,
    pub(super) peers: Peers,
}

/// How an attempt ended that may be repeated.
enum Again {
    /// Something else is leader by now, or nothing.
    LeaderMoved,
    Failed(String),
}

impl Asker {
    async fn run(self, mut inbox: mpsc::Receiver<oneshot::Sender<Answer>>) {
        let mut waiting = Vec::new();
        while inbox.recv_many(&mut waiting, LINEARIZE_QUEUE_MAX).await > 0 {
            let answer = self.read_index().await;
            for read in waiting.drain(..) {
                let _ = read.send(answer.clone());
            }
        }
    }

    /// Tries for as long as an election may take.
    async fn read_index(&self) -> Answer {
        let patience = self.peers.timing.alive_within();
        let mut last = ReadError::NoLeader;
        let tries = async {
            let mut metrics = self.raft.metrics();
            loop {
                let leader = metrics.borrow_watched().current_leader;
                match self.attempt(leader, &mut last).await {
                    Ok(index) => return Ok(index),
                    Err(Stop::Stopped) => return Err(ReadError::Stopped),
                    Err(Stop::Again) => {}
                }
                // A new leader shows in the metrics, and so does the attempt itself; anything but a new leader
                // is tried again by the clock.
                let moved = metrics.wait_until(|known| known.current_leader != leader);
                let pause = self.peers.timing.heartbeat / 5;
                if let Ok(Err(_closed)) = timeout(pause, moved).await {
                    return Err(ReadError::Stopped);
                }
            }
        };
        match timeout(patience, tries).await {
            Ok(answer) => answer,
            Err(_) => Err(last),
        }
    }

    async fn attempt(&self, leader: Option<u64>, last: &mut ReadError) -> Result<LogIndex, Stop> {
        let attempt = match leader {
            None => Err(Again::LeaderMoved),
            Some(id) if id == self.peers.identity.node_id.get() => self.ask_self().await?,
            Some(id) => self.ask_leader(NodeId(id)).await,
        };
        attempt.map_err(|again| {
            *last = match again {
                Again::LeaderMoved => ReadError::NoLeader,
                Again::Failed(what) => ReadError::NoQuorum(what),
            };
            Stop::Again
        })
    }

    async fn ask_self(&self) -> Result<Result<LogIndex, Again>, Stop> {
        match self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(read) => Ok(Ok(LogIndex(read.read_log_id().index()))),
            Err(RaftError::Fatal(_)) => Err(Stop::Stopped),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_))) => {
                Ok(Err(Again::LeaderMoved))
            }
            Err(RaftError::APIError(error @ LinearizableReadError::QuorumNotEnough(_))) => {
                Ok(Err(Again::Failed(error.to_string())))
            }
        }
    }

    async fn ask_leader(&self, id: NodeId) -> Result<LogIndex, Again> {
        let node = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            metrics.membership_config.get_node(&id.get()).cloned()
        };
        let node = node.ok_or(Again::LeaderMoved)?;
        let mut client = self.peers.client(id, &node, Lane::Control).map_err(Again::Failed)?;
        // The leader itself waits for as long as its lease lasts.
        let patience: Duration = self.peers.timing.election_max;
        let mut request = tonic::Request::new(peer::ReadIndexRequest {
            envelope: Some(self.peers.identity.envelope(id)),
        });
        request.set_timeout(patience);
        let failed = |what: &str| Again::Failed(format!("node {id}: {what}"));
        let answer = timeout(patience, client.read_index(request)).await;
        let answer = answer.map_err(|_| failed("no answer"))?;
        let answer = answer.map_err(|status| failed(status.message()))?.into_inner();
        let read = answer.read_log_id.ok_or_else(|| failed("no log id in the answer"))?;
        Ok(LogIndex(read.index))
    }
}

/// Whether to go on.
enum Stop {
    Again,
    Stopped,
}
