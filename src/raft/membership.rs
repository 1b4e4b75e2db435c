//! Changes of the membership, one at a time, each refused when it would leave the hub without a
//! quorum.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, InitializeError, RaftError};
use openraft::{ChangeMembers, Precondition};
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;

use super::handle::{Core, RaftNode};
use super::quorum::View;
use super::types::{LogId, PeerNode, TypeConfig};
use crate::model::ids::NodeId;
use crate::model::limits::{CATCH_UP_ENTRIES_MAX, NODES_MAX};
use crate::model::rejection::{Reason, Rejection};
use crate::runtime::{clock, tasks};

/// Whether a change is made although the leader thinks that it loses the quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Care {
    /// Refuse what would leave no live quorum.
    Safe,
    /// Do it anyway.
    Force,
}

/// What stopping a node would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SafeToStop {
    /// The others would go on.
    pub safe: bool,
    /// Why not; empty when safe.
    pub reason: String,
}

type Change = ChangeMembers<u64, PeerNode>;
type WriteError = RaftError<TypeConfig, ClientWriteError<TypeConfig>>;

/// What becomes of a voter that no longer votes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Former {
    Learner,
    Gone,
}

impl RaftNode {
    /// Forms a cluster with this node as its only member. Only a node without any log may.
    ///
    /// # Errors
    /// `ALREADY_INITIALIZED`, `SHUTTING_DOWN`.
    pub async fn initialize(&self, addresses: PeerNode) -> Result<(), Rejection> {
        let core = self.core();
        let members = BTreeMap::from([(core.identity.node_id.get(), addresses)]);
        core.raft.initialize(members).await.map_err(|error| match error {
            RaftError::APIError(InitializeError::NotAllowed(_)) => Rejection::new(
                Reason::AlreadyInitialized,
                "this node has a log already; start it with an empty data directory",
            ),
            RaftError::APIError(error @ InitializeError::NotInMembers(_)) => {
                Rejection::new(Reason::Internal, error.to_string())
            }
            RaftError::Fatal(_) => stopping(),
        })
    }

    /// Adds a node that copies the log but does not vote. Does not wait for it to catch up. Adding
    /// a member again changes its addresses.
    ///
    /// # Errors
    /// `NOT_LEADER`, `CHANGE_IN_PROGRESS`, `LIMIT_REACHED`, `OUTCOME_UNKNOWN`.
    pub async fn add_learner(&self, id: NodeId, node: PeerNode) -> Result<(), Rejection> {
        let core = self.core();
        let _ = core.leader_view()?;
        let known = core.members();
        if known.get(&id) == Some(&node) {
            return Ok(());
        }
        if known.len() >= NODES_MAX && !known.contains_key(&id) {
            let text = format!("{NODES_MAX} nodes are the most; remove one first");
            return Err(Rejection::new(Reason::LimitReached, text));
        }
        let nodes = BTreeMap::from([(id.get(), node)]);
        let change =
            if known.contains_key(&id) { Change::SetNodes(nodes) } else { Change::AddNodes(nodes) };
        core.change(change, Former::Learner).await
    }

    /// Makes a learner a voter, once it has caught up; waits for that a little while.
    ///
    /// # Errors
    /// `NOT_LEADER`, `NODE_NOT_FOUND`, `NOT_CAUGHT_UP`, `CHANGE_IN_PROGRESS`, `OUTCOME_UNKNOWN`.
    pub async fn promote(&self, id: NodeId) -> Result<(), Rejection> {
        let core = self.core();
        let view = core.leader_view()?;
        must_be_member(&view, id)?;
        if view.is_voter(id) && !view.is_joint() {
            return Ok(());
        }
        core.wait_caught_up(id).await?;
        core.change(Change::AddVoterIds(BTreeSet::from([id.get()])), Former::Learner).await
    }

    /// Makes a voter a learner.
    ///
    /// # Errors
    /// `NOT_LEADER` (also after this node has handed over leadership for it), `NODE_NOT_FOUND`,
    /// `WOULD_LOSE_QUORUM`, `CHANGE_IN_PROGRESS`, `OUTCOME_UNKNOWN`.
    pub async fn demote(&self, id: NodeId, care: Care) -> Result<(), Rejection> {
        let core = self.core();
        let view = core.leader_view()?;
        must_be_member(&view, id)?;
        if !view.is_voter(id) {
            return Ok(());
        }
        core.may_lose(id, care).await?;
        self.hand_over_if_self(id).await?;
        core.change(Change::RemoveVoters(BTreeSet::from([id.get()])), Former::Learner).await
    }

    /// Takes a node out.
    ///
    /// # Errors
    /// As [`Self::demote`].
    pub async fn remove(&self, id: NodeId, care: Care) -> Result<(), Rejection> {
        let core = self.core();
        let view = core.leader_view()?;
        must_be_member(&view, id)?;
        if !view.is_voter(id) {
            let change = Change::RemoveNodes(BTreeSet::from([id.get()]));
            return core.change(change, Former::Gone).await;
        }
        core.may_lose(id, care).await?;
        self.hand_over_if_self(id).await?;
        core.change(Change::RemoveVoters(BTreeSet::from([id.get()])), Former::Gone).await
    }

    /// A leader does not preside over its own departure: its successor does.
    async fn hand_over_if_self(&self, id: NodeId) -> Result<(), Rejection> {
        if id != self.core().identity.node_id {
            return Ok(());
        }
        self.transfer_leader(None).await?;
        Err(self.core().not_leader())
    }

    /// Hands leadership to a voter; `None`: to the live one that is furthest. Returns the leader
    /// that came of it.
    ///
    /// # Errors
    /// `NOT_LEADER`, `NODE_NOT_FOUND`, `NOT_CAUGHT_UP` when the voter was not heard of lately,
    /// `WOULD_LOSE_QUORUM` when there is nobody to hand over to, `NO_LEADER` when none came of it
    /// in time.
    pub async fn transfer_leader(&self, to: Option<NodeId>) -> Result<NodeId, Rejection> {
        let core = self.core();
        let ready = |view: &View| match to {
            Some(id) => id == view.this || !view.nodes.contains(&id) || view.live.contains(&id),
            None => view.successor().is_some(),
        };
        let view = core.settled(ready).await?;
        let to = match to {
            Some(id) => core.may_lead(&view, id)?,
            None => view.successor().ok_or_else(|| {
                let text = "no other voter is alive; start or add one first";
                Rejection::new(Reason::WouldLoseQuorum, text)
            })?,
        };
        let this = core.identity.node_id;
        if to == this {
            return Ok(this);
        }
        core.raft.trigger().transfer_leader(to.get()).await.map_err(|_| stopping())?;
        let patience = core.peers.timing.alive_within() * 2;
        core.new_leader(patience).await.ok_or_else(|| {
            let text =
                format!("leadership was offered to node {to}, but no leader showed; try again");
            Rejection::new(Reason::NoLeader, text)
        })
    }

    /// Whether the quorum would survive this node's stop. Only the leader knows.
    ///
    /// # Errors
    /// `NOT_LEADER`.
    pub fn safe_to_stop(&self, id: NodeId) -> Result<SafeToStop, Rejection> {
        let view = self.core().leader_view()?;
        must_be_member(&view, id)?;
        let safe = view.survives_stop(id, CATCH_UP_ENTRIES_MAX);
        let reason = if safe {
            String::new()
        } else {
            format!("without node {id} the voters that are up and close make no quorum")
        };
        Ok(SafeToStop { safe, reason })
    }
}

impl Core {
    /// Waits until another node leads.
    pub(super) async fn new_leader(&self, patience: std::time::Duration) -> Option<NodeId> {
        let this = self.identity.node_id;
        let mut metrics = self.raft.metrics();
        let wait = async {
            loop {
                let leader = metrics.borrow_and_update().current_leader.map(NodeId);
                match leader {
                    Some(leader) if leader != this => return Some(leader),
                    _ => metrics.changed().await.ok()?,
                }
            }
        };
        timeout(patience, wait).await.ok().flatten()
    }

    fn may_lead(&self, view: &View, id: NodeId) -> Result<NodeId, Rejection> {
        must_be_member(view, id)?;
        if !view.is_voter(id) {
            let text = format!("node {id} is a learner; promote it first");
            return Err(Rejection::new(Reason::InvalidRequest, text));
        }
        if !view.live.contains(&id) {
            let text = format!("node {id} was not heard of lately; start it first");
            return Err(Rejection::new(Reason::NotCaughtUp, text));
        }
        Ok(id)
    }

    async fn may_lose(&self, id: NodeId, care: Care) -> Result<(), Rejection> {
        let view = self.settled(|view| view.survives_removal(id)).await?;
        if view.configs.iter().all(|config| config.iter().all(|voter| *voter == id)) {
            let text = format!("node {id} is the only voter; promote another one first");
            return Err(Rejection::new(Reason::WouldLoseQuorum, text));
        }
        match care {
            Care::Force => Ok(()),
            Care::Safe if view.survives_removal(id) => Ok(()),
            Care::Safe => {
                let live: Vec<String> = view.live.iter().map(ToString::to_string).collect();
                let text = format!(
                    "without node {id} the live nodes ({}) make no quorum; start or add nodes \
                     first, or force it",
                    live.join(", ")
                );
                Err(Rejection::new(Reason::WouldLoseQuorum, text))
            }
        }
    }

    /// What the leader sees once something holds; or an election timeout later, by when a leader
    /// that was just elected has heard of everybody that is there.
    async fn settled(&self, holds: impl Fn(&View) -> bool) -> Result<View, Rejection> {
        let mut metrics = self.raft.metrics();
        let wait = async {
            while !holds(&self.leader_view()?) {
                metrics.changed().await.map_err(|_| stopping())?;
            }
            Ok::<(), Rejection>(())
        };
        if let Ok(waited) = timeout(self.peers.timing.election_max, wait).await {
            waited?;
        }
        self.leader_view()
    }

    /// Waits until a member answers and has nearly everything. That it answered before does not
    /// count: it may have died since, and the hub would wait for its vote.
    async fn wait_caught_up(&self, id: NodeId) -> Result<(), Rejection> {
        let (mut metrics, asked) = (self.raft.metrics(), clock::now());
        let wait = async {
            loop {
                let view = self.leader_view()?;
                must_be_member(&view, id)?;
                if self.heard_since(id, asked) && view.lag(id) <= CATCH_UP_ENTRIES_MAX {
                    return Ok(());
                }
                metrics.changed().await.map_err(|_| stopping())?;
            }
        };
        if let Ok(result) = timeout(self.peers.timing.alive_within(), wait).await {
            return result;
        }
        let lag = self.leader_view()?.lag(id);
        let text = format!("node {id} misses {lag} entries; wait until it has caught up");
        Err(Rejection::new(Reason::NotCaughtUp, text).with("lag", lag))
    }

    /// Makes a change, and leaves it to go on by itself when the caller does not wait.
    async fn change(self: &Arc<Self>, change: Change, former: Former) -> Result<(), Rejection> {
        self.membership_committed().await?;
        let Ok(turn) = Arc::clone(&self.changing).try_lock_owned() else {
            let text = "another membership change is going on; try again";
            return Err(Rejection::new(Reason::ChangeInProgress, text));
        };
        let core = Arc::clone(self);
        let task =
            tasks::spawn("membership", async move { core.change_now(change, former, turn).await });
        match timeout(self.peers.timing.alive_within() * 2, task).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(stopping()),
            Err(_) => {
                let text =
                    "the membership change was begun but is not confirmed; look at the status";
                Err(Rejection::new(Reason::OutcomeUnknown, text))
            }
        }
    }

    /// Waits, not for long, until the last change is through: a leader that was just elected has
    /// to confirm what it took over.
    async fn membership_committed(&self) -> Result<(), Rejection> {
        let mut metrics = self.raft.metrics();
        let wait = async {
            loop {
                {
                    let now = metrics.borrow_and_update();
                    let committed = now.committed_membership_config.log_id();
                    if now.membership_config.log_id() == committed {
                        return Ok(());
                    }
                }
                metrics.changed().await.map_err(|_| stopping())?;
            }
        };
        // What is not confirmed by then is refused, with a reason, by the change itself.
        timeout(self.peers.timing.election_max, wait).await.unwrap_or(Ok(()))
    }

    async fn change_now(
        &self,
        change: Change,
        former: Former,
        _turn: OwnedMutexGuard<()>,
    ) -> Result<(), Rejection> {
        // What was decided on must still be what is changed.
        let seen = *self.raft.metrics().borrow_watched().membership_config.log_id();
        let unchanged = Precondition::LastMembershipLogId { last_membership_log_id: seen };
        let retain = former == Former::Learner;
        let changed = self.raft.change_membership_if(change, retain, [unchanged]).await;
        let changed = changed.map_err(|error| self.write_rejection(error))?;
        self.membership_seen(changed.log_id).await
    }

    /// Waits until the metrics tell of a change that was answered: the answer comes from who
    /// applies it, and the next change is judged by the metrics.
    async fn membership_seen(&self, change: LogId) -> Result<(), Rejection> {
        let mut metrics = self.raft.metrics();
        let seen = metrics.wait_until(|now| *now.membership_config.log_id() >= Some(change)).await;
        seen.map(|_| ()).map_err(|_| stopping())
    }

    /// Leads a change to its end that a former leader has left half done.
    pub(super) async fn finish_joint(self: &Arc<Self>) {
        let joint = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let committed = metrics.committed_membership_config.log_id();
            metrics.state.is_leader()
                && metrics.membership_config.get_joint_config().len() > 1
                && metrics.membership_config.log_id() == committed
        };
        // The change that is just going on in this process finishes itself.
        let Ok(turn) = Arc::clone(&self.changing).try_lock_owned() else { return };
        if !joint {
            return;
        }
        // A voter on its way out stays a learner: whoever removed it sees that and asks again.
        let nothing = Change::AddVoterIds(BTreeSet::new());
        match self.change_now(nothing, Former::Learner, turn).await {
            Ok(()) => tracing::info!("an unfinished membership change is complete"),
            Err(rejection) => {
                tracing::warn!(%rejection, "an unfinished membership change stays unfinished");
            }
        }
    }

    fn write_rejection(&self, error: WriteError) -> Rejection {
        match error {
            RaftError::Fatal(_) => stopping(),
            RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => self.not_leader(),
            RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => Rejection::new(
                Reason::OutcomeUnknown,
                "the leader changed during the membership change; look at the status",
            ),
            RaftError::APIError(ClientWriteError::PreconditionFailed(_)) => {
                let text =
                    "another membership change came in between; look at the status, try again";
                Rejection::new(Reason::ChangeInProgress, text)
            }
            RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
                let reason = match &error {
                    ChangeMembershipError::LearnerNotFound(_) => Reason::NodeNotFound,
                    ChangeMembershipError::EmptyMembership(_) => Reason::WouldLoseQuorum,
                    _ => Reason::ChangeInProgress,
                };
                Rejection::new(reason, format!("membership change refused: {error}"))
            }
        }
    }
}

fn must_be_member(view: &View, id: NodeId) -> Result<(), Rejection> {
    if view.nodes.contains(&id) {
        return Ok(());
    }
    let text = format!("node {id} is no member; see `mhub cluster members`");
    Err(Rejection::new(Reason::NodeNotFound, text))
}

pub(super) fn stopping() -> Rejection {
    Rejection::new(Reason::ShuttingDown, "the node is stopping; ask another one")
}
