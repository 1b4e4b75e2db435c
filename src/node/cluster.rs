//! Forming, joining and changing the cluster.

use std::time::Duration;

use tonic::transport::Endpoint;

use super::propose::not_leader;
use super::{Node, unexpected};
use crate::model::command::{Kind, RegisterNode, Verify};
use crate::model::ids::{LogIndex, NodeId};
use crate::model::outcome::Outcome;
use crate::model::rejection::{Reason, Rejection};
use crate::proto::status::from_status;
use crate::proto::v1::cluster_client::ClusterClient;
use crate::proto::v1::{AddLearnerRequest, StatusRequest};
use crate::raft::{Care, PeerNode, RaftStatus, SafeToStop, VerifyResult};
use crate::runtime::clock;

const CONNECT: Duration = Duration::from_secs(3);
const ANSWER: Duration = Duration::from_secs(15);
const SNAPSHOT: Duration = Duration::from_secs(600);
/// Redirects to another leader that a join follows.
const REDIRECTS_MAX: usize = 5;

impl Node {
    /// This node's view of the cluster.
    #[must_use]
    pub fn status(&self) -> RaftStatus {
        self.raft.status()
    }

    /// Milliseconds since the start.
    #[must_use]
    pub fn uptime_ms(&self) -> u64 {
        u64::try_from(clock::now().duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    /// Forms a cluster of this node alone, once; its id.
    ///
    /// # Errors
    /// `ALREADY_INITIALIZED`.
    pub async fn init(&self) -> Result<String, Rejection> {
        if let Some(id) = self.data_dir.cluster_id() {
            return Err(Rejection::new(
                Reason::AlreadyInitialized,
                format!(
                    "this node belongs to cluster {id}; add nodes to it with: mhub cluster join"
                ),
            )
            .with("cluster_id", id));
        }
        let cluster_id = uuid::Uuid::new_v4().to_string();
        self.belong_to(&cluster_id)?;
        self.raft.initialize(self.addresses.clone()).await?;
        let deadline = self.deadline();
        self.raft
            .linearize(deadline)
            .await
            .map_err(|error| Rejection::new(Reason::NoLeader, error.to_string()))?;
        self.register(self.data_dir.node_id(), self.data_dir.incarnation().to_owned()).await?;
        Ok(cluster_id)
    }

    /// Makes this node a learner of the cluster that a member at `endpoint` belongs to.
    ///
    /// # Errors
    /// `ALREADY_INITIALIZED` when it belongs to another cluster, `NODE_ID_TAKEN`, and whatever the
    /// member answers.
    pub async fn join(&self, endpoint: &str) -> Result<String, Rejection> {
        let mut at = endpoint.to_owned();
        let mut last = None;
        for _ in 0..REDIRECTS_MAX {
            match self.try_join(&at).await {
                Err(rejection) if rejection.reason == Reason::NotLeader => {
                    let Some(leader) = rejection.fact("leader_endpoint").map(str::to_owned) else {
                        return Err(rejection);
                    };
                    at = leader;
                    last = Some(rejection);
                }
                other => return other,
            }
        }
        Err(last
            .unwrap_or_else(|| Rejection::new(Reason::NoLeader, "no leader is known; try again")))
    }

    async fn try_join(&self, endpoint: &str) -> Result<String, Rejection> {
        let unreachable = |error: &dyn std::fmt::Display| {
            Rejection::new(
                Reason::NoLeader,
                format!("cannot reach {endpoint}: {error}; check the address"),
            )
        };
        let channel = Endpoint::from_shared(format!("http://{endpoint}"))
            .map_err(|e| unreachable(&e))?
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            .connect()
            .await
            .map_err(|e| unreachable(&e))?;
        let mut member = ClusterClient::new(channel);
        let status =
            member.status(StatusRequest {}).await.map_err(|s| from_status(&s))?.into_inner();
        if status.cluster_id.is_empty() {
            return Err(Rejection::new(
                Reason::NotInitialized,
                format!(
                    "the node at {endpoint} belongs to no cluster; run mhub cluster init there first"
                ),
            ));
        }
        if let Some(own) = self.data_dir.cluster_id().filter(|own| *own != status.cluster_id) {
            return Err(Rejection::new(
                Reason::AlreadyInitialized,
                format!(
                    "this node belongs to cluster {own}, not to {}; start it with an empty data directory",
                    status.cluster_id
                ),
            ));
        }
        let request = AddLearnerRequest {
            node_id: self.data_dir.node_id().get(),
            peer_address: self.addresses.peer_address.clone(),
            client_address: self.addresses.client_address.clone(),
            incarnation: self.data_dir.incarnation().to_owned(),
        };
        member.add_learner(request).await.map_err(|s| from_status(&s))?;
        // From here on this node answers the peers of that cluster. Until it does they are refused,
        // and try again; asking to join once more is harmless.
        self.belong_to(&status.cluster_id)?;
        Ok(status.cluster_id)
    }

    fn belong_to(&self, cluster_id: &str) -> Result<(), Rejection> {
        self.data_dir
            .set_cluster_id(cluster_id)
            .map_err(|e| Rejection::new(Reason::AlreadyInitialized, e.to_string()))?;
        self.raft
            .set_cluster_id(cluster_id)
            .map_err(|e| Rejection::new(Reason::AlreadyInitialized, e.to_string()))
    }

    async fn register(&self, id: NodeId, incarnation: String) -> Result<(), Rejection> {
        let register = RegisterNode { node_id: id.get(), incarnation, removed: false };
        self.execute(Kind::RegisterNode(register)).await.map(drop)
    }

    /// Adds a node as a learner.
    ///
    /// # Errors
    /// `NOT_LEADER`, `NODE_ID_TAKEN`, `CHANGE_IN_PROGRESS`.
    pub async fn add_learner(
        &self,
        id: NodeId,
        node: PeerNode,
        incarnation: String,
    ) -> Result<(), Rejection> {
        for (what, address) in [("peer", &node.peer_address), ("client", &node.client_address)] {
            if address.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
                return Err(Rejection::new(
                    Reason::InvalidRequest,
                    format!("{what} address {address:?} is not HOST:PORT"),
                ));
            }
        }
        if id.get() == 0 || incarnation.is_empty() {
            return Err(Rejection::new(
                Reason::InvalidRequest,
                "node id and incarnation are required; use mhub cluster join on the new node",
            ));
        }
        self.register(id, incarnation).await?;
        self.raft.add_learner(id, node).await
    }

    /// Makes a learner a voter.
    ///
    /// # Errors
    /// `NOT_LEADER`, `NODE_NOT_FOUND`, `NOT_CAUGHT_UP`, `CHANGE_IN_PROGRESS`.
    pub async fn promote(&self, id: NodeId) -> Result<(), Rejection> {
        self.raft.promote(id).await
    }

    /// Makes a voter a learner.
    ///
    /// # Errors
    /// `NOT_LEADER` also when this node itself had to hand leadership over first, `NODE_NOT_FOUND`,
    /// `WOULD_LOSE_QUORUM`, `CHANGE_IN_PROGRESS`.
    pub async fn demote(&self, id: NodeId, care: Care) -> Result<(), Rejection> {
        self.raft.demote(id, care).await
    }

    /// Takes a node out, for good: its id is never used again.
    ///
    /// # Errors
    /// See [`Node::demote`].
    pub async fn remove_node(&self, id: NodeId, care: Care) -> Result<(), Rejection> {
        self.raft.remove(id, care).await?;
        let removed = RegisterNode { node_id: id.get(), incarnation: String::new(), removed: true };
        self.execute(Kind::RegisterNode(removed)).await.map(drop)
    }

    /// Hands leadership to a voter.
    ///
    /// # Errors
    /// `NOT_LEADER`, `NODE_NOT_FOUND`, `NO_QUORUM`.
    pub async fn transfer_leader(&self, to: Option<NodeId>) -> Result<NodeId, Rejection> {
        self.raft.transfer_leader(to).await
    }

    /// Whether the quorum would survive a node's stop; this node's when none is named.
    ///
    /// # Errors
    /// `NOT_LEADER`, `NODE_NOT_FOUND`.
    pub fn safe_to_stop(&self, id: Option<NodeId>) -> Result<SafeToStop, Rejection> {
        self.raft.safe_to_stop(id.unwrap_or_else(|| self.data_dir.node_id()))
    }

    /// Builds a snapshot of this node's state now: its last entry and its bytes.
    ///
    /// # Errors
    /// `DEADLINE_EXCEEDED`.
    pub async fn snapshot(&self) -> Result<(LogIndex, u64), Rejection> {
        self.raft.snapshot(SNAPSHOT).await
    }

    /// Makes all nodes hash their state at one entry, and names it.
    ///
    /// # Errors
    /// Those of any proposal.
    pub async fn begin_verify(&self) -> Result<LogIndex, Rejection> {
        match self.execute(Kind::Verify(Verify {})).await? {
            Outcome::Verifying(index) => Ok(index),
            other => Err(unexpected(&other)),
        }
    }

    /// This node's hash at an entry.
    ///
    /// # Errors
    /// `VERIFY_NOT_FOUND`.
    pub fn verify_result(&self, id: LogIndex) -> Result<VerifyResult, Rejection> {
        self.raft.verify_result(id).ok_or_else(|| {
            Rejection::new(
                Reason::VerifyNotFound,
                format!("this node has no hash at entry {id}: it is not there yet, or came by it with a snapshot; ask again, or begin anew"),
            )
        })
    }

    /// The refusal that sends a caller to the leader.
    #[must_use]
    pub fn not_leader(&self) -> Rejection {
        not_leader(&self.raft)
    }
}
