//! The service `Cluster`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::model::ids::{LogIndex, NodeId};
use crate::model::rejection::Rejection;
use crate::node::Node;
use crate::proto::status::to_status;
use crate::proto::v1::cluster_server::Cluster;
use crate::proto::v1::{
    AddLearnerRequest, BeginVerifyRequest, BeginVerifyResponse, DemoteRequest, GetVerifyRequest,
    GetVerifyResponse, InitRequest, InitResponse, JoinRequest, JoinResponse, Member,
    MembershipResponse, PromoteRequest, RemoveNodeRequest, SafeToStopRequest, SafeToStopResponse,
    SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse, TransferLeaderRequest,
    TransferLeaderResponse,
};
use crate::raft::{Care, MemberStatus, PeerNode};

pub(super) struct ClusterService(pub(super) Arc<Node>);

fn answer<T>(result: Result<T, Rejection>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|rejection| to_status(&rejection))
}

fn care(force: bool) -> Care {
    if force { Care::Force } else { Care::Safe }
}

fn some_id(id: u64) -> Option<NodeId> {
    (id != 0).then_some(NodeId(id))
}

fn member(status: MemberStatus) -> Member {
    let last_heard =
        status.last_heard.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    Member {
        node_id: status.node_id.get(),
        role: if status.voter { "voter" } else { "learner" }.to_owned(),
        peer_address: status.addresses.peer_address,
        client_address: status.addresses.client_address,
        leader: status.leader,
        matched_index: status.matched_index.map_or(0, LogIndex::get),
        last_heard_ms: last_heard,
    }
}

impl ClusterService {
    fn members(&self) -> MembershipResponse {
        MembershipResponse { members: self.0.status().members.into_iter().map(member).collect() }
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn init(&self, _: Request<InitRequest>) -> Result<Response<InitResponse>, Status> {
        let node_id = self.0.status().node_id.get();
        answer(self.0.init().await.map(|cluster_id| InitResponse { cluster_id, node_id }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let node_id = self.0.status().node_id.get();
        let joined = self.0.join(&request.into_inner().endpoint).await;
        answer(joined.map(|cluster_id| JoinResponse { cluster_id, node_id }))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let status = self.0.status();
        Ok(Response::new(StatusResponse {
            cluster_id: status.cluster_id.unwrap_or_default(),
            node_id: status.node_id.get(),
            state: status.state.to_owned(),
            term: status.term,
            leader_id: status.leader.map_or(0, NodeId::get),
            last_log_index: status.last_log_index.get(),
            committed_index: status.committed_index.get(),
            applied_index: status.applied_index.get(),
            snapshot_index: status.snapshot_index.get(),
            purged_index: status.purged_index.get(),
            applied_position: status.applied_position.get(),
            has_quorum: status.has_quorum,
            members: status.members.into_iter().map(member).collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            joint: status.joint,
            uptime_ms: self.0.uptime_ms(),
            resident_bytes: crate::telemetry::resident_bytes(),
            cpu_ms: crate::telemetry::cpu_ms(),
        }))
    }

    async fn add_learner(
        &self,
        request: Request<AddLearnerRequest>,
    ) -> Result<Response<MembershipResponse>, Status> {
        let AddLearnerRequest { node_id, peer_address, client_address, incarnation } =
            request.into_inner();
        let node = PeerNode { peer_address, client_address };
        let added = self.0.add_learner(NodeId(node_id), node, incarnation).await;
        answer(added.map(|()| self.members()))
    }

    async fn promote(
        &self,
        request: Request<PromoteRequest>,
    ) -> Result<Response<MembershipResponse>, Status> {
        let promoted = self.0.promote(NodeId(request.into_inner().node_id)).await;
        answer(promoted.map(|()| self.members()))
    }

    async fn demote(
        &self,
        request: Request<DemoteRequest>,
    ) -> Result<Response<MembershipResponse>, Status> {
        let DemoteRequest { node_id, force } = request.into_inner();
        let demoted = self.0.demote(NodeId(node_id), care(force)).await;
        answer(demoted.map(|()| self.members()))
    }

    async fn remove_node(
        &self,
        request: Request<RemoveNodeRequest>,
    ) -> Result<Response<MembershipResponse>, Status> {
        let RemoveNodeRequest { node_id, force } = request.into_inner();
        let removed = self.0.remove_node(NodeId(node_id), care(force)).await;
        answer(removed.map(|()| self.members()))
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderResponse>, Status> {
        let to = self.0.transfer_leader(some_id(request.into_inner().to)).await;
        answer(to.map(|id| TransferLeaderResponse { leader_id: id.get() }))
    }

    async fn safe_to_stop(
        &self,
        request: Request<SafeToStopRequest>,
    ) -> Result<Response<SafeToStopResponse>, Status> {
        let judged = self.0.safe_to_stop(some_id(request.into_inner().node_id));
        answer(judged.map(|j| SafeToStopResponse { safe: j.safe, reason: j.reason }))
    }

    async fn snapshot(
        &self,
        _: Request<SnapshotRequest>,
    ) -> Result<Response<SnapshotResponse>, Status> {
        let built = self.0.snapshot().await;
        answer(built.map(|(index, bytes)| SnapshotResponse { index: index.get(), bytes }))
    }

    async fn begin_verify(
        &self,
        _: Request<BeginVerifyRequest>,
    ) -> Result<Response<BeginVerifyResponse>, Status> {
        let begun = self.0.begin_verify().await;
        answer(begun.map(|index| BeginVerifyResponse { verify_id: index.get() }))
    }

    async fn get_verify(
        &self,
        request: Request<GetVerifyRequest>,
    ) -> Result<Response<GetVerifyResponse>, Status> {
        let verify_id = request.into_inner().verify_id;
        let node_id = self.0.status().node_id.get();
        answer(self.0.verify_result(LogIndex(verify_id)).map(|result| GetVerifyResponse {
            verify_id,
            node_id,
            applied_index: result.index.get(),
            hash: format!("{:032x}", result.hash),
            rows: result.rows,
        }))
    }
}
