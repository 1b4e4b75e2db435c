//! Topics, single reads, and the cluster.

use std::time::Duration;

use tonic::Request;

use super::retry::Repeat;
use super::{Client, ReadPart, Reader};
use crate::model::rejection::Rejection;
use crate::proto::v1::cluster_client::ClusterClient;
use crate::proto::v1::events_client::EventsClient;
use crate::proto::v1::topics_client::TopicsClient;
use crate::proto::v1::{
    AddLearnerRequest, BeginVerifyRequest, CreateTopicRequest, DeleteTopicRequest, DemoteRequest,
    GetEventRequest, GetTopicRequest, GetVerifyRequest, GetVerifyResponse, InitRequest,
    InitResponse, JoinRequest, JoinResponse, ListTopicsRequest, ListTopicsResponse,
    MembershipResponse, PromoteRequest, ReadKeyRequest, ReadKeyResponse, ReadRequest,
    RecordedEvent, RemoveNodeRequest, SafeToStopRequest, SafeToStopResponse, SnapshotRequest,
    SnapshotResponse, StatusRequest, StatusResponse, Topic, TransferLeaderRequest,
    UpdateTopicRequest,
};

/// Messages of a read may hold a whole batch.
const ANSWER_BYTES_MAX: usize = 8 << 20;

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident($request:ty) -> $answer:ty = $client:ident, $method:ident, $repeat:ident;)*) => {
        impl Client {$(
            $(#[$doc])*
            ///
            /// # Errors
            /// What the hub refuses, and `OUTCOME_UNKNOWN` when nobody answered in time.
            pub async fn $name(&self, request: $request) -> Result<$answer, Rejection> {
                self.endpoints
                    .call(Repeat::$repeat, async |channel, within| {
                        let mut client = $client::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
                        Ok(client.$method(timed(request.clone(), within)).await?.into_inner())
                    })
                    .await
            }
        )*}
    };
}

unary! {
    /// One topic.
    topic(GetTopicRequest) -> Topic = TopicsClient, get_topic, Read;
    /// A page of topics.
    topics(ListTopicsRequest) -> ListTopicsResponse = TopicsClient, list_topics, Read;
    /// Events of one key.
    read_key(ReadKeyRequest) -> ReadKeyResponse = EventsClient, read_key, Read;
    /// One event.
    event(GetEventRequest) -> RecordedEvent = EventsClient, get_event, Read;
    /// Forms a cluster of the node that answers.
    init(InitRequest) -> InitResponse = ClusterClient, init, Unsafe;
    /// Makes the node that answers join a cluster.
    join(JoinRequest) -> JoinResponse = ClusterClient, join, Patient;
    /// The view of the node that answers.
    status(StatusRequest) -> StatusResponse = ClusterClient, status, Read;
    /// Adds a learner.
    add_learner(AddLearnerRequest) -> MembershipResponse = ClusterClient, add_learner, Patient;
    /// Makes a learner a voter.
    promote(PromoteRequest) -> MembershipResponse = ClusterClient, promote, Patient;
    /// Makes a voter a learner.
    demote(DemoteRequest) -> MembershipResponse = ClusterClient, demote, Patient;
    /// Takes a node out.
    remove_node(RemoveNodeRequest) -> MembershipResponse = ClusterClient, remove_node, Unsafe;
    /// Whether the quorum would survive a node's stop.
    safe_to_stop(SafeToStopRequest) -> SafeToStopResponse = ClusterClient, safe_to_stop, Recognised;
    /// Builds a snapshot on the node that answers.
    snapshot(SnapshotRequest) -> SnapshotResponse = ClusterClient, snapshot, Patient;
    /// The hash of the node that answers.
    verify_result(GetVerifyRequest) -> GetVerifyResponse = ClusterClient, get_verify, Read;
}

impl Client {
    /// Creates a topic. A request id is added when there is none, so that it is safe to repeat.
    ///
    /// # Errors
    /// What the hub refuses, and `OUTCOME_UNKNOWN` when nobody answered in time.
    pub async fn create_topic(&self, mut request: CreateTopicRequest) -> Result<Topic, Rejection> {
        ensure_id(&mut request.request_id);
        self.endpoints
            .call(Repeat::Recognised, async |channel, within| {
                Ok(TopicsClient::new(channel)
                    .create_topic(timed(request.clone(), within))
                    .await?
                    .into_inner())
            })
            .await
    }

    /// Changes a topic's settings; safe to repeat as [`Client::create_topic`] is.
    ///
    /// # Errors
    /// What the hub refuses, and `OUTCOME_UNKNOWN` when nobody answered in time.
    pub async fn update_topic(&self, mut request: UpdateTopicRequest) -> Result<Topic, Rejection> {
        ensure_id(&mut request.request_id);
        self.endpoints
            .call(Repeat::Recognised, async |channel, within| {
                Ok(TopicsClient::new(channel)
                    .update_topic(timed(request.clone(), within))
                    .await?
                    .into_inner())
            })
            .await
    }

    /// Deletes a topic; safe to repeat as [`Client::create_topic`] is.
    ///
    /// # Errors
    /// What the hub refuses, and `OUTCOME_UNKNOWN` when nobody answered in time.
    pub async fn delete_topic(&self, mut request: DeleteTopicRequest) -> Result<(), Rejection> {
        ensure_id(&mut request.request_id);
        self.endpoints
            .call(Repeat::Recognised, async |channel, within| {
                TopicsClient::new(channel)
                    .delete_topic(timed(request.clone(), within))
                    .await
                    .map(drop)
            })
            .await
    }

    /// Hands leadership over; the new leader's id.
    ///
    /// # Errors
    /// What the hub refuses, and `OUTCOME_UNKNOWN` when nobody answered in time.
    pub async fn transfer_leader(&self, to: u64) -> Result<u64, Rejection> {
        let request = TransferLeaderRequest { to };
        self.endpoints
            .call(Repeat::Unsafe, async |channel, within| {
                let answer =
                    ClusterClient::new(channel).transfer_leader(timed(request, within)).await?;
                Ok(answer.into_inner().leader_id)
            })
            .await
    }

    /// Makes all nodes hash their state; the entry at which they do.
    ///
    /// # Errors
    /// What the hub refuses, and `OUTCOME_UNKNOWN` when nobody answered in time.
    pub async fn begin_verify(&self) -> Result<u64, Rejection> {
        self.endpoints
            .call(Repeat::Recognised, async |channel, within| {
                let answer = ClusterClient::new(channel)
                    .begin_verify(timed(BeginVerifyRequest {}, within))
                    .await?;
                Ok(answer.into_inner().verify_id)
            })
            .await
    }

    /// Reads a range; goes on by itself where a broken stream left off.
    #[must_use]
    pub fn read(&self, request: ReadRequest) -> Reader {
        Reader::read(std::sync::Arc::clone(&self.endpoints), request)
    }

    /// Reads a range, then follows what is appended, without end; goes on by itself where a broken
    /// stream left off, on any node.
    #[must_use]
    pub fn tail(&self, request: ReadRequest) -> Reader {
        Reader::tail(std::sync::Arc::clone(&self.endpoints), request)
    }

    /// Reads a range as a whole; for small ones.
    ///
    /// # Errors
    /// What the hub refuses, and `OUTCOME_UNKNOWN` when nobody answered in time.
    pub async fn read_all(&self, request: ReadRequest) -> Result<Vec<ReadPart>, Rejection> {
        let mut reader = self.read(request);
        let mut parts = Vec::new();
        while let Some(part) = reader.next().await? {
            parts.push(part);
        }
        Ok(parts)
    }
}

/// A request that tells the node how long its answer is waited for.
fn timed<T>(message: T, within: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(within);
    request
}

fn ensure_id(request_id: &mut String) {
    if request_id.is_empty() {
        *request_id = uuid::Uuid::new_v4().to_string();
    }
}
