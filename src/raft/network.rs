//! What this node asks of the others: votes, appends, snapshots, a transfer of leadership.

use std::future::Future;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
    RPCTypes,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::append_stream;
use super::codec;
use super::peers::{Lane, Peers};
use super::snapshot::SnapshotHandle;
use super::snapshot_send;
use super::types::{PeerNode, Snapshot, TypeConfig, Vote};
use crate::model::ids::NodeId;
use crate::proto::peer;
use crate::proto::peer::peer_client::PeerClient;

pub(super) type RpcResult<T> = Result<T, RPCError<TypeConfig>>;

/// Waits between tries to reach a peer that is away, in milliseconds; the last one repeats.
const BACKOFF_MS: [u64; 4] = [50, 100, 200, 400];

/// Makes a [`Connection`] for each of the roles that the consensus library knows.
#[derive(Clone)]
pub(super) struct Network {
    peers: Peers,
}

impl Network {
    pub(super) fn new(peers: Peers) -> Self {
        Self { peers }
    }

    fn connection(&self, target: u64, node: &PeerNode, appends: Lane) -> Connection {
        Connection {
            peers: self.peers.clone(),
            target: NodeId(target),
            node: node.clone(),
            appends,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, node: &PeerNode) -> Connection {
        self.connection(target, node, Lane::Entries)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &PeerNode) -> Connection {
        self.connection(target, node, Lane::Control)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &PeerNode) -> Connection {
        self.connection(target, node, Lane::Snapshots)
    }
}

/// The way to one peer.
pub(super) struct Connection {
    peers: Peers,
    target: NodeId,
    node: PeerNode,
    /// Where appends go: entries and heartbeats have a connection each.
    appends: Lane,
}

impl Connection {
    fn client(&self, lane: Lane) -> Result<PeerClient<Channel>, Unreachable<TypeConfig>> {
        self.peers.client(self.target, &self.node, lane).map_err(Unreachable::from_string)
    }

    fn envelope(&self) -> Option<peer::Envelope> {
        Some(self.peers.identity.envelope(self.target))
    }

    /// Waits for an answer, and not longer than `ttl`.
    async fn within<T>(
        &self,
        action: RPCTypes,
        ttl: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> RpcResult<T> {
        match tokio::time::timeout(ttl, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(rpc_error(&status)),
            Err(_) => Err(self.timeout(action, ttl).into()),
        }
    }

    /// One append on a stream of its own.
    #[cfg(feature = "planted")]
    async fn append_one(
        &self,
        request: AppendEntriesRequest<TypeConfig>,
    ) -> RpcResult<StreamAppendResult<TypeConfig>> {
        let ttl = self.peers.timing.append_idle;
        let mut client = self.client(self.appends)?;
        let (requests, window) = append_stream::requests(stream::iter([request]), self.envelope());
        let answers = self.within(RPCTypes::AppendEntries, ttl, client.append(requests)).await?;
        let on_stall = self.timeout(RPCTypes::AppendEntries, ttl);
        let mut answers = append_stream::answers(answers, window, on_stall);
        answers.next().await.unwrap_or_else(|| Err(malformed("an append without an answer")))
    }

    fn timeout(&self, action: RPCTypes, timeout: Duration) -> Timeout<TypeConfig> {
        let id = self.peers.identity.node_id.get();
        Timeout { action, id, target: self.target.get(), timeout }
    }

    fn vote_request(
        &self,
        rpc: &VoteRequest<TypeConfig>,
        ttl: Duration,
    ) -> Request<peer::VoteRequest> {
        let mut request = Request::new(peer::VoteRequest {
            envelope: self.envelope(),
            vote: Some(codec::vote_to_proto(&rpc.vote)),
            last_log_id: rpc.last_log_id.as_ref().map(codec::log_id_to_proto),
            leader_transfer: rpc.leadership_transfer,
        });
        request.set_timeout(ttl);
        request
    }
}

impl NetVote<TypeConfig> for Connection {
    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        let ttl = option.soft_ttl();
        let mut client = self.client(Lane::Control)?;
        let call = client.vote(self.vote_request(&rpc, ttl));
        let answer = self.within(RPCTypes::Vote, ttl, call).await.and_then(vote_response);
        #[cfg(feature = "planted")]
        let answer = super::planted::granted(&rpc, answer);
        answer
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        let ttl = option.soft_ttl();
        let mut client = self.client(Lane::Control)?;
        let call = client.pre_vote(self.vote_request(&rpc, ttl));
        let answer = self.within(RPCTypes::Vote, ttl, call).await.and_then(vote_response);
        #[cfg(feature = "planted")]
        let answer = super::planted::granted(&rpc, answer);
        answer
    }
}

pub(super) fn vote_response(response: peer::VoteResponse) -> RpcResult<VoteResponse<TypeConfig>> {
    let vote = response.vote.ok_or_else(|| malformed("vote response without a vote"))?;
    Ok(VoteResponse {
        vote: codec::vote_from_proto(&vote),
        vote_granted: response.granted,
        last_log_id: response.last_log_id.as_ref().map(codec::log_id_from_proto),
    })
}

impl NetStreamAppend<TypeConfig> for Connection {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, RpcResult<BoxStream<'s, RpcResult<StreamAppendResult<TypeConfig>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        #[cfg(feature = "planted")]
        if crate::model::planted::is(crate::model::planted::Bug::HalfQuorum) {
            let this: &'s Self = self;
            let ask = move |request| this.append_one(request);
            return Box::pin(async move { Ok(super::planted::agreed(input, ask)) });
        }
        // A heartbeat that is late is lost; entries may have to wait for a slow disk.
        let (setup, idle) = match self.appends {
            Lane::Control => (option.soft_ttl(), option.soft_ttl()),
            Lane::Entries | Lane::Snapshots => {
                (self.peers.timing.connect * 2, self.peers.timing.append_idle)
            }
        };
        let mut input = input;
        Box::pin(async move {
            // The library waits between its tries where it makes the requests: a peer that refuses
            // connections would be asked without a pause if the first request was not asked for
            // before the connection.
            let Some(first) = input.next().await else {
                return Ok(stream::empty().boxed());
            };
            let mut client = self.client(self.appends)?;
            let input = stream::once(std::future::ready(first)).chain(input);
            let (requests, window) = append_stream::requests(input, self.envelope());
            let call = client.append(requests);
            let answers = self.within(RPCTypes::AppendEntries, setup, call).await?;
            let on_stall = self.timeout(RPCTypes::AppendEntries, idle);
            Ok(append_stream::answers(answers, window, on_stall))
        })
    }
}

impl NetSnapshot<TypeConfig> for Connection {
    type SnapshotData = SnapshotHandle;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<SnapshotHandle>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let client = self.client(Lane::Snapshots)?;
        let ttl = option.soft_ttl();
        let transfer = snapshot_send::Transfer {
            client,
            envelope: self.envelope(),
            vote,
            handle: snapshot.snapshot,
            rate: self.peers.timing.transfer_rate,
            idle: self.peers.timing.transfer_idle,
            install: ttl,
        };
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = snapshot_send::send(transfer) => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(snapshot_send::Error::Stalled(after)) => {
                    Err(self.timeout(RPCTypes::InstallSnapshot, after).into())
                }
                Err(snapshot_send::Error::Refused(status)) => Err(rpc_error(&status).into()),
                Err(snapshot_send::Error::Local(what)) => {
                    Err(NetworkError::from_string(what).into())
                }
            },
        }
    }
}

impl NetTransferLeader<TypeConfig> for Connection {
    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<TransferLeaderResponse<TypeConfig>> {
        let ttl = option.soft_ttl();
        let mut client = self.client(Lane::Control)?;
        let mut request = Request::new(peer::TransferLeaderRequest {
            envelope: self.envelope(),
            from_leader: Some(codec::vote_to_proto(req.from_leader())),
            to_node: *req.to_node_id(),
            last_log_id: req.last_log_id().map(codec::log_id_to_proto),
        });
        request.set_timeout(ttl);
        let call = client.transfer_leader(request);
        let response = self.within(RPCTypes::TransferLeader, ttl, call).await?;
        if response.accepted {
            return Ok(Ok(()));
        }
        Ok(Err(TransferLeaderError::LogNotFlushed {
            expected: req.last_log_id().copied(),
            actual: None,
        }))
    }
}

impl NetBackoff<TypeConfig> for Connection {
    fn backoff(&self) -> Option<Backoff> {
        let last = BACKOFF_MS[BACKOFF_MS.len() - 1];
        let steps = BACKOFF_MS.into_iter().chain(std::iter::repeat(last));
        Some(Backoff::new(steps.map(Duration::from_millis)))
    }
}

/// A refusal by the transport or the peer. All but what a lost connection and an overrun deadline
/// look like make the caller wait before it tries again.
pub(super) fn rpc_error(status: &Status) -> RPCError<TypeConfig> {
    let text = format!("{:?}: {}", status.code(), status.message());
    match status.code() {
        Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal => {
            NetworkError::from_string(text).into()
        }
        _ => Unreachable::from_string(text).into(),
    }
}

/// An answer that breaks the protocol.
pub(super) fn malformed(what: &str) -> RPCError<TypeConfig> {
    Unreachable::from_string(what).into()
}
