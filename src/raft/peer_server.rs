//! The peer port: what the other nodes ask of this one.
//!
//! Every call, and the first message of every stream, says which cluster, shard and node it is for;
//! anything else is refused before consensus sees it.

use std::sync::Arc;

use futures_util::stream::BoxStream;
use openraft::ReadPolicy;
use openraft::raft::{TransferLeaderRequest, VoteRequest, VoteResponse};
use tonic::{Request, Response, Status, Streaming};

use super::append_serve;
use super::codec;
use super::handle::Core;
use super::notes::Note;
use crate::model::ids::NodeId;
use crate::model::rejection::{Reason, Rejection};
use crate::proto::peer;
use crate::proto::peer::peer_server::Peer;
use crate::proto::status::to_status;

/// Answers the peers.
pub struct PeerHandler {
    core: Arc<Core>,
}

impl PeerHandler {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }
}

impl Core {
    /// Refuses what is not meant for this node of this cluster.
    pub(super) fn check(&self, envelope: Option<&peer::Envelope>) -> Result<(), Status> {
        let identity = &self.identity;
        let Some(cluster_id) = identity.cluster_id() else {
            return Err(wrong("this node has not joined a cluster"));
        };
        let Some(envelope) = envelope else {
            return Err(wrong("the message has no envelope"));
        };
        if envelope.cluster_id != cluster_id {
            let theirs = &envelope.cluster_id;
            return Err(wrong(&format!("this is cluster {cluster_id}, not {theirs:?}")));
        }
        if envelope.shard_id != identity.shard {
            let theirs = envelope.shard_id;
            return Err(wrong(&format!("this is shard {}, not {theirs}", identity.shard)));
        }
        if envelope.to_node != identity.node_id.get() {
            let theirs = envelope.to_node;
            return Err(wrong(&format!("this is node {}, not {theirs}", identity.node_id)));
        }
        if envelope.from_node == identity.node_id.get() {
            return Err(wrong(&format!("another node calls itself node {}", identity.node_id)));
        }
        Ok(())
    }
}

fn wrong(what: &str) -> Status {
    to_status(&Rejection::new(Reason::WrongCluster, format!("{what}; check the peer addresses")))
}

fn missing(field: &str) -> Status {
    Status::invalid_argument(format!("{field} is missing"))
}

pub(super) fn stopping() -> Status {
    Status::unavailable("the node is stopping")
}

pub(super) fn vote_request(
    message: &peer::VoteRequest,
) -> Result<VoteRequest<super::types::TypeConfig>, Status> {
    let vote = message.vote.as_ref().ok_or_else(|| missing("vote"))?;
    Ok(VoteRequest {
        vote: codec::vote_from_proto(vote),
        last_log_id: message.last_log_id.as_ref().map(codec::log_id_from_proto),
        leadership_transfer: message.leader_transfer,
    })
}

fn vote_response(response: &VoteResponse<super::types::TypeConfig>) -> peer::VoteResponse {
    peer::VoteResponse {
        vote: Some(codec::vote_to_proto(&response.vote)),
        last_log_id: response.last_log_id.as_ref().map(codec::log_id_to_proto),
        granted: response.vote_granted,
    }
}

#[tonic::async_trait]
impl Peer for PeerHandler {
    type AppendStream = BoxStream<'static, Result<peer::AppendResponse, Status>>;

    async fn append(
        &self,
        request: Request<Streaming<peer::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        // The headers go out at once: the caller may have nothing to send yet.
        Ok(Response::new(append_serve::serve(Arc::clone(&self.core), request.into_inner())))
    }

    async fn vote(
        &self,
        request: Request<peer::VoteRequest>,
    ) -> Result<Response<peer::VoteResponse>, Status> {
        let message = request.into_inner();
        self.core.check(message.envelope.as_ref())?;
        let response = self.core.raft.vote(vote_request(&message)?).await;
        response.map(|r| Response::new(vote_response(&r))).map_err(|_| stopping())
    }

    async fn pre_vote(
        &self,
        request: Request<peer::VoteRequest>,
    ) -> Result<Response<peer::VoteResponse>, Status> {
        let message = request.into_inner();
        self.core.check(message.envelope.as_ref())?;
        let response = self.core.raft.pre_vote(vote_request(&message)?).await;
        response.map(|r| Response::new(vote_response(&r))).map_err(|_| stopping())
    }

    async fn transfer_leader(
        &self,
        request: Request<peer::TransferLeaderRequest>,
    ) -> Result<Response<peer::TransferLeaderResponse>, Status> {
        let message = request.into_inner();
        self.core.check(message.envelope.as_ref())?;
        let from = message.from_leader.as_ref().ok_or_else(|| missing("from_leader"))?;
        let last_log_id = message.last_log_id.as_ref().map(codec::log_id_from_proto);
        let request =
            TransferLeaderRequest::new(codec::vote_from_proto(from), message.to_node, last_log_id);
        let answer = self.core.raft.handle_transfer_leader(request).await;
        let accepted = answer.map_err(|_| stopping())?.is_ok();
        Ok(Response::new(peer::TransferLeaderResponse { accepted }))
    }

    async fn offer_snapshot(
        &self,
        request: Request<peer::OfferSnapshotRequest>,
    ) -> Result<Response<peer::OfferSnapshotResponse>, Status> {
        let message = request.into_inner();
        self.core.check(message.envelope.as_ref())?;
        let vote = message.vote.as_ref().ok_or_else(|| missing("vote"))?;
        let manifest = message.manifest.ok_or_else(|| missing("manifest"))?;
        if let Some(higher) = self.core.higher_vote(&codec::vote_from_proto(vote)) {
            let higher_vote = Some(codec::vote_to_proto(&higher));
            let refused = peer::OfferSnapshotResponse { higher_vote, ..Default::default() };
            return Ok(Response::new(refused));
        }
        let offer = self.core.receiver.offer(manifest).await?;
        Ok(Response::new(peer::OfferSnapshotResponse {
            transfer_id: offer.transfer_id,
            missing: offer.missing,
            higher_vote: None,
        }))
    }

    async fn send_snapshot(
        &self,
        request: Request<Streaming<peer::SnapshotChunk>>,
    ) -> Result<Response<peer::SendSnapshotResponse>, Status> {
        let mut inbound = request.into_inner();
        let begin = self.core.receiver.begin(&mut inbound).await?;
        self.core.check(begin.envelope.as_ref())?;
        let vote = begin.vote.as_ref().ok_or_else(|| missing("vote"))?;
        let snapshot = self.core.receiver.receive(&begin.transfer_id, inbound).await?;
        let answer =
            self.core.raft.install_full_snapshot(codec::vote_from_proto(vote), snapshot).await;
        let answer = answer.map_err(|_| stopping())?;
        let vote = Some(codec::vote_to_proto(&answer.vote));
        Ok(Response::new(peer::SendSnapshotResponse { vote }))
    }

    async fn read_index(
        &self,
        request: Request<peer::ReadIndexRequest>,
    ) -> Result<Response<peer::ReadIndexResponse>, Status> {
        let message = request.into_inner();
        self.core.check(message.envelope.as_ref())?;
        let read = self.core.raft.get_read_linearizer(ReadPolicy::ReadIndex).await;
        let read = read.map_err(|error| Status::failed_precondition(error.to_string()))?;
        let read_log_id = Some(codec::log_id_to_proto(read.read_log_id().log_id()));
        Ok(Response::new(peer::ReadIndexResponse { read_log_id }))
    }

    async fn tell(
        &self,
        request: Request<peer::TellRequest>,
    ) -> Result<Response<peer::TellResponse>, Status> {
        let peer::TellRequest { envelope, body } = request.into_inner();
        self.core.check(envelope.as_ref())?;
        let from = NodeId(envelope.map_or(0, |envelope| envelope.from_node));
        if !self.core.notes.take(Note { from, body }) {
            return Err(Status::resource_exhausted("too many notes wait"));
        }
        Ok(Response::new(peer::TellResponse {}))
    }
}
