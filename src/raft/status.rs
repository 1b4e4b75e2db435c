//! What a node knows of the cluster and of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant as _, RaftMetrics, ServerState};

use super::handle::Core;
use super::quorum::View;
use super::types::{PeerNode, TypeConfig};
use crate::model::ids::{LogIndex, NodeId, Position};
use crate::model::rejection::{Reason, Rejection};
use crate::runtime::clock;

/// This node's view of the cluster. Known without asking anybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftStatus {
    /// The answering node.
    pub node_id: NodeId,
    /// `None` until the node has formed or joined a cluster.
    pub cluster_id: Option<String>,
    /// leader, follower, candidate, learner, shutdown or uninitialized.
    pub state: &'static str,
    /// The term of the vote.
    pub term: u64,
    /// `None`: unknown.
    pub leader: Option<NodeId>,
    /// The last entry in this node's log.
    pub last_log_index: LogIndex,
    /// The last entry that this node knows to be decided.
    pub committed_index: LogIndex,
    /// The last entry applied.
    pub applied_index: LogIndex,
    /// The last entry in this node's snapshot; 0: none.
    pub snapshot_index: LogIndex,
    /// The last entry that is gone from the log; 0: none.
    pub purged_index: LogIndex,
    /// The next position to be given out, as far as this node has applied.
    pub applied_position: Position,
    /// Whether this node can serve linearizable operations now, as far as it knows.
    pub has_quorum: bool,
    /// All members, by id.
    pub members: Vec<MemberStatus>,
    /// A membership change is unfinished.
    pub joint: bool,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its id.
    pub node_id: NodeId,
    /// Whether it votes; else it is a learner.
    pub voter: bool,
    /// Where it is reached.
    pub addresses: PeerNode,
    /// Whether it is the leader.
    pub leader: bool,
    /// The last entry known to be on it; only on the leader.
    pub matched_index: Option<LogIndex>,
    /// Since the leader last heard of it; only on the leader.
    pub last_heard: Option<Duration>,
}

/// When the leader was last heard of.
pub(super) struct Contact {
    started: Instant,
    /// Milliseconds after `started`, plus one; 0: never.
    last_ms: AtomicU64,
}

impl Contact {
    pub(super) fn new() -> Self {
        Self { started: clock::now(), last_ms: AtomicU64::new(0) }
    }

    /// The leader was heard of just now.
    pub(super) fn touch(&self) {
        let now = clock::now().duration_since(self.started).as_millis();
        let now = u64::try_from(now).unwrap_or(u64::MAX - 1);
        self.last_ms.store(now + 1, Ordering::Relaxed);
    }

    fn age(&self) -> Option<Duration> {
        let last = self.last_ms.load(Ordering::Relaxed).checked_sub(1)?;
        Some(clock::now().duration_since(self.started).saturating_sub(Duration::from_millis(last)))
    }
}

impl Core {
    /// All members with their addresses.
    pub(super) fn members(&self) -> BTreeMap<NodeId, PeerNode> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.nodes().map(|(id, node)| (NodeId(*id), node.clone())).collect()
    }

    /// What the leader bases its decisions on.
    pub(super) fn leader_view(&self) -> Result<View, Rejection> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        if !metrics.state.is_leader() {
            return Err(self.not_leader_in(&metrics));
        }
        let alive_within = self.peers.timing.alive_within();
        let this = self.identity.node_id;
        let heard = heard(&metrics);
        let mut live: BTreeSet<NodeId> =
            heard.iter().filter_map(|(id, age)| (*age <= alive_within).then_some(*id)).collect();
        live.insert(this);
        let configs = metrics.membership_config.get_joint_config();
        Ok(View {
            this,
            configs: configs.iter().map(|ids| ids.iter().copied().map(NodeId).collect()).collect(),
            nodes: metrics.membership_config.nodes().map(|(id, _)| NodeId(*id)).collect(),
            live,
            matched: matched(&metrics),
            last_log: metrics.last_log_index.unwrap_or(0),
        })
    }

    /// Whether a member answered something that this leader sent after an instant.
    pub(super) fn heard_since(&self, id: NodeId, since: Instant) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        heard(&metrics).get(&id).is_some_and(|age| *age <= clock::now().duration_since(since))
    }

    /// The refusal that sends a caller to the leader.
    pub(super) fn not_leader(&self) -> Rejection {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        self.not_leader_in(&metrics)
    }

    fn not_leader_in(&self, metrics: &RaftMetrics<TypeConfig>) -> Rejection {
        let this = self.identity.node_id;
        let leader = metrics.current_leader.filter(|id| *id != this.get());
        let node = leader.and_then(|id| metrics.membership_config.get_node(&id));
        let (Some(id), Some(node)) = (leader, node) else {
            return Rejection::new(Reason::NoLeader, "no leader is known; try again");
        };
        let address = &node.client_address;
        let text = format!("node {this} is not the leader; ask node {id} at {address}");
        Rejection::new(Reason::NotLeader, text)
            .with("leader_id", id)
            .with("leader_endpoint", address)
    }

    pub(super) fn has_quorum(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        self.has_quorum_in(&metrics)
    }

    fn has_quorum_in(&self, metrics: &RaftMetrics<TypeConfig>) -> bool {
        let alive_within = self.peers.timing.alive_within();
        match metrics.state {
            ServerState::Leader => {
                let mut voters = metrics.membership_config.voter_ids();
                let alone = voters.all(|id| id == metrics.id);
                let acked = metrics.last_quorum_acked;
                alone || acked.is_some_and(|at| at.elapsed() <= alive_within)
            }
            ServerState::Follower | ServerState::Learner => {
                metrics.current_leader.is_some()
                    && self.contact.age().is_some_and(|age| age <= alive_within)
            }
            ServerState::Candidate | ServerState::Shutdown => false,
        }
    }

    pub(super) fn status(&self) -> RaftStatus {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let applied = *self.applied.borrow();
        let index = |log_id: Option<super::types::LogId>| LogIndex(log_id.map_or(0, |id| id.index));
        RaftStatus {
            node_id: self.identity.node_id,
            cluster_id: self.identity.cluster_id().map(str::to_owned),
            state: state_name(&metrics),
            term: metrics.current_term,
            leader: metrics.current_leader.map(NodeId),
            last_log_index: LogIndex(metrics.last_log_index.unwrap_or(0)),
            committed_index: index(metrics.local_committed),
            applied_index: applied.index,
            snapshot_index: index(metrics.snapshot),
            purged_index: index(metrics.purged),
            applied_position: applied.position,
            has_quorum: self.has_quorum_in(&metrics),
            members: member_statuses(&metrics),
            joint: metrics.membership_config.get_joint_config().len() > 1,
        }
    }
}

fn state_name(metrics: &RaftMetrics<TypeConfig>) -> &'static str {
    let pristine = metrics.membership_config.log_id().is_none() && metrics.last_log_index.is_none();
    match metrics.state {
        ServerState::Learner | ServerState::Follower if pristine => "uninitialized",
        ServerState::Learner => "learner",
        ServerState::Follower => "follower",
        ServerState::Candidate => "candidate",
        ServerState::Leader => "leader",
        ServerState::Shutdown => "shutdown",
    }
}

fn member_statuses(metrics: &RaftMetrics<TypeConfig>) -> Vec<MemberStatus> {
    let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
    let matched = matched(metrics);
    let heard = heard(metrics);
    let leads = metrics.state.is_leader();
    let members = metrics.membership_config.nodes();
    members
        .map(|(id, node)| {
            let node_id = NodeId(*id);
            let this = leads && *id == metrics.id;
            let index = if this { metrics.last_log_index } else { matched.get(&node_id).copied() };
            MemberStatus {
                node_id,
                voter: voters.contains(id),
                addresses: node.clone(),
                leader: metrics.current_leader == Some(*id),
                matched_index: index.map(LogIndex),
                last_heard: if this { Some(Duration::ZERO) } else { heard.get(&node_id).copied() },
            }
        })
        .collect()
}

/// How long ago the leader heard of each; empty elsewhere.
fn heard(metrics: &RaftMetrics<TypeConfig>) -> BTreeMap<NodeId, Duration> {
    let heard = metrics.heartbeat.iter().flatten();
    heard.filter_map(|(id, at)| Some((NodeId(*id), at.as_ref()?.elapsed()))).collect()
}

/// How far each log agrees with the leader's; empty elsewhere.
fn matched(metrics: &RaftMetrics<TypeConfig>) -> BTreeMap<NodeId, u64> {
    let matched = metrics.replication.iter().flatten();
    matched.filter_map(|(id, log_id)| Some((NodeId(*id), log_id.as_ref()?.index))).collect()
}
