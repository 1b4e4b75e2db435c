//! Topics, single reads, and the cluster.

use super::{Client, ReadPart, Reader, Repeat};
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
                self.link
                    .call(Repeat::$repeat, async |channel| {
                        let mut client = $client::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
                        Ok(client.$method(request.clone()).await?.into_inner())
                    })
                    .await
            }
        )*}
    };
}

unary! {
    /// One topic.
    topic(GetTopicRequest) -> Topic = TopicsClient, get_topic, Safe;
    /// A page of topics.
    topics(ListTopicsRequest) -> ListTopicsResponse = TopicsClient, list_topics, Safe;
    /// Events of one key.
    read_key(ReadKeyRequest) -> ReadKeyResponse = EventsClient, read_key, Safe;
    /// One event.
    event(GetEventRequest) -> RecordedEvent = EventsClient, get_event, Safe;
    /// Forms a cluster of the node that answers.
    init(InitRequest) -> InitResponse = ClusterClient, init, Unsafe;
    /// Makes the node that answers join a cluster.
    join(JoinRequest) -> JoinResponse = ClusterClient, join, Safe;
    /// The view of the node that answers.
    status(StatusRequest) -> StatusResponse = ClusterClient, status, Safe;
    /// Adds a learner.
    add_learner(AddLearnerRequest) -> MembershipResponse = ClusterClient, add_learner, Safe;
    /// Makes a learner a voter.
    promote(PromoteRequest) -> MembershipResponse = ClusterClient, promote, Safe;
    /// Makes a voter a learner.
    demote(DemoteRequest) -> MembershipResponse = ClusterClient, demote, Safe;
    /// Takes a node out.
    remove_node(RemoveNodeRequest) -> MembershipResponse = ClusterClient, remove_node, Unsafe;
    /// Whether the quorum would survive a node's stop.
    safe_to_stop(SafeToStopRequest) -> SafeToStopResponse = ClusterClient, safe_to_stop, Safe;
    /// Builds a snapshot on the node that answers.
    snapshot(SnapshotRequest) -> SnapshotResponse = ClusterClient, snapshot, Safe;
    /// The hash of the node that answers.
    verify_result(GetVerifyRequest) -> GetVerifyResponse = ClusterClient, get_verify, Safe;
}

impl Client {
    /// Creates a topic. A request id is added when there is none, so that it is safe to repeat.
    ///
    /// # Errors
    /// What the hub refuses, and `OUTCOME_UNKNOWN` when nobody answered in time.
    pub async fn create_topic(&self, mut request: CreateTopicRequest) -> Result<Topic, Rejection> {
        ensure_id(&mut request.request_id);
        self.link
            .call(Repeat::Safe, async |channel| {
                Ok(TopicsClient::new(channel).create_topic(request.clone()).await?.into_inner())
            })
            .await
    }

    /// Changes a topic's settings; safe to repeat as [`Client::create_topic`] is.
    ///
    /// # Errors
    /// What the hub refuses, and `OUTCOME_UNKNOWN` when nobody answered in time.
    pub async fn update_topic(&self, mut request: UpdateTopicRequest) -> Result<Topic, Rejection> {
        ensure_id(&mut request.request_id);
        self.link
            .call(Repeat::Safe, async |channel| {
                Ok(TopicsClient::new(channel).update_topic(request.clone()).await?.into_inner())
            })
            .await
    }

    /// Deletes a topic; safe to repeat as [`Client::create_topic`] is.
    ///
    /// # Errors
    /// What the hub refuses, and `OUTCOME_UNKNOWN` when nobody answered in time.
    pub async fn delete_topic(&self, mut request: DeleteTopicRequest) -> Result<(), Rejection> {
        ensure_id(&mut request.request_id);
        self.link
            .call(Repeat::Safe, async |channel| {
                TopicsClient::new(channel).delete_topic(request.clone()).await.map(drop)
            })
            .await
    }

    /// Hands leadership over; the new leader's id.
    ///
    /// # Errors
    /// What the hub refuses, and `OUTCOME_UNKNOWN` when nobody answered in time.
    pub async fn transfer_leader(&self, to: u64) -> Result<u64, Rejection> {
        let request = TransferLeaderRequest { to };
        self.link
            .call(Repeat::Unsafe, async |channel| {
                let answer = ClusterClient::new(channel).transfer_leader(request).await?;
                Ok(answer.into_inner().leader_id)
            })
            .await
    }

    /// Makes all nodes hash their state; the entry at which they do.
    ///
    /// # Errors
    /// What the hub refuses, and `OUTCOME_UNKNOWN` when nobody answered in time.
    pub async fn begin_verify(&self) -> Result<u64, Rejection> {
        self.link
            .call(Repeat::Safe, async |channel| {
                let answer =
                    ClusterClient::new(channel).begin_verify(BeginVerifyRequest {}).await?;
                Ok(answer.into_inner().verify_id)
            })
            .await
    }

    /// Reads a range; goes on by itself where a broken stream left off.
    #[must_use]
    pub fn read(&self, request: ReadRequest) -> Reader {
        Reader::read(std::sync::Arc::clone(&self.link), request)
    }

    /// Reads a range, then follows what is appended, without end; goes on by itself where a broken
    /// stream left off, on any node.
    #[must_use]
    pub fn tail(&self, request: ReadRequest) -> Reader {
        Reader::tail(std::sync::Arc::clone(&self.link), request)
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

fn ensure_id(request_id: &mut String) {
    if request_id.is_empty() {
        *request_id = uuid::Uuid::new_v4().to_string();
    }
}
