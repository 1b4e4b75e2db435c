//! Topics, subscriptions, single reads, single deliveries, and the cluster.

use std::time::Duration;

use tonic::Request;

use super::retry::Repeat;
use super::{Client, ReadPart, Reader};
use crate::model::rejection::Rejection;
use crate::proto::v1::cluster_client::ClusterClient;
use crate::proto::v1::dead_letters_client::DeadLettersClient;
use crate::proto::v1::delivery_client::DeliveryClient;
use crate::proto::v1::events_client::EventsClient;
use crate::proto::v1::keys_client::KeysClient;
use crate::proto::v1::quotas_client::QuotasClient;
use crate::proto::v1::retries_client::RetriesClient;
use crate::proto::v1::schemas_client::SchemasClient;
use crate::proto::v1::services_client::ServicesClient;
use crate::proto::v1::subscriptions_client::SubscriptionsClient;
use crate::proto::v1::topics_client::TopicsClient;
use crate::proto::v1::tracking_client::TrackingClient;
use crate::proto::v1::transactions_client::TransactionsClient;
use crate::proto::v1::{
    AbortTransactionRequest, AddLearnerRequest, BeginTransactionRequest, BeginVerifyRequest,
    CancelEventRequest, CancelEventResponse, CheckSchemaRequest, CheckSchemaResponse,
    CommitTransactionRequest, CreateSubscriptionRequest, CreateTopicRequest, DeadLetter,
    DeleteQuotaRequest, DeleteQuotaResponse, DeleteServiceRequest, DeleteServiceResponse,
    DeleteSnapshotRequest, DeleteSnapshotResponse, DeleteSubscriptionRequest,
    DeleteSubscriptionResponse, DeleteTopicRequest, DeleteTopicResponse, DemoteRequest,
    DeregisterInstancesRequest, DiffSchemasRequest, DiffSchemasResponse, GetDeadLetterRequest,
    GetDependenciesRequest, GetDependenciesResponse, GetEventRequest, GetQuotaRequest,
    GetReadinessRequest, GetSchemaRequest, GetServiceRequest, GetServiceResponse,
    GetSubjectRequest, GetSubscriptionRequest, GetSubscriptionStatsRequest, GetTopicRequest,
    GetTransactionRequest, GetVerifyRequest, GetVerifyResponse, InitRequest, InitResponse,
    InstancesResponse, JoinRequest, JoinResponse, KeyState, ListDeadLettersRequest,
    ListDeadLettersResponse, ListQuotasRequest, ListQuotasResponse, ListRetriesRequest,
    ListRetriesResponse, ListServicesRequest, ListServicesResponse, ListSubjectsRequest,
    ListSubjectsResponse, ListSubscriptionsRequest, ListSubscriptionsResponse, ListTopicsRequest,
    ListTopicsResponse, ListTransactionsRequest, ListTransactionsResponse, MembershipResponse,
    MoveDeadLettersResponse, MoveRetriesRequest, MoveRetriesResponse, PauseSubscriptionRequest,
    PromoteRequest, PullRequest, PullResponse, PurgeDeadLettersRequest, PutServiceRequest,
    PutSnapshotRequest, PutSnapshotResponse, Quota, ReadKeyRequest, ReadKeyResponse, ReadRequest,
    ReadStateRequest, Readiness, RecordedEvent, RedriveDeadLettersRequest,
    RegisterInstancesRequest, RegisterSchemaRequest, RemoveNodeRequest, RenewRequest,
    RenewResponse, ReportOutcomesRequest, ReportOutcomesResponse, ResolveRequest, ResolveResponse,
    ResumeSubscriptionRequest, SafeToStopRequest, SafeToStopResponse, Schema,
    SeekSubscriptionRequest, SeekSubscriptionResponse, Service, SetBreakerRequest,
    SetBreakerResponse, SetCompatibilityRequest, SetInstanceModeRequest, SetQuotaRequest,
    SetSchemaStateRequest, SettleRequest, SettleResponse, SnapshotRequest, SnapshotResponse,
    StageTransactionRequest, StatusRequest, StatusResponse, Subject, Subscription,
    SubscriptionStats, Topic, TraceRequest, TraceResponse, Transaction, TransferLeaderRequest,
    UpdateSubscriptionRequest, UpdateTopicRequest, ValidateDataRequest, ValidateDataResponse,
};

/// Messages of a read may hold a whole batch.
pub(super) const ANSWER_BYTES_MAX: usize = 8 << 20;

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

/// Mutations. A request id is added when there is none, so that they are safe to repeat.
macro_rules! mutations {
    ($($(#[$doc:meta])* $name:ident($request:ty) -> $answer:ty = $client:ident, $method:ident;)*) => {
        impl Client {$(
            $(#[$doc])*
            /// A request id is added when there is none, so that it is safe to repeat.
            ///
            /// # Errors
            /// What the hub refuses, and `OUTCOME_UNKNOWN` when nobody answered in time.
            pub async fn $name(&self, mut request: $request) -> Result<$answer, Rejection> {
                if request.request_id.is_empty() {
                    request.request_id = uuid::Uuid::new_v4().to_string();
                }
                self.endpoints
                    .call(Repeat::Recognised, async |channel, within| {
                        let mut client = $client::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
                        Ok(client.$method(timed(request.clone(), within)).await?.into_inner())
                    })
                    .await
            }
        )*}
    };
}

mutations! {
    /// Creates a topic.
    create_topic(CreateTopicRequest) -> Topic = TopicsClient, create_topic;
    /// Changes a topic's settings.
    update_topic(UpdateTopicRequest) -> Topic = TopicsClient, update_topic;
    /// Deletes a topic and its events.
    delete_topic(DeleteTopicRequest) -> DeleteTopicResponse = TopicsClient, delete_topic;
    /// Creates a subscription.
    create_subscription(CreateSubscriptionRequest) -> Subscription = SubscriptionsClient, create_subscription;
    /// Changes a subscription's settings.
    update_subscription(UpdateSubscriptionRequest) -> Subscription = SubscriptionsClient, update_subscription;
    /// Deletes a subscription with everything it has.
    delete_subscription(DeleteSubscriptionRequest) -> DeleteSubscriptionResponse = SubscriptionsClient, delete_subscription;
    /// Stops handing out a subscription's events.
    pause_subscription(PauseSubscriptionRequest) -> Subscription = SubscriptionsClient, pause_subscription;
    /// Hands out a subscription's events again.
    resume_subscription(ResumeSubscriptionRequest) -> Subscription = SubscriptionsClient, resume_subscription;
    /// Moves a subscription, or counts what that would do.
    seek_subscription(SeekSubscriptionRequest) -> SeekSubscriptionResponse = SubscriptionsClient, seek_subscription;
    /// Begins a staged transaction.
    begin_transaction(BeginTransactionRequest) -> Transaction = TransactionsClient, begin_transaction;
    /// Adds to a staged transaction.
    stage_transaction(StageTransactionRequest) -> Transaction = TransactionsClient, stage_transaction;
    /// Registers a version of a subject of schemas.
    register_schema(RegisterSchemaRequest) -> Schema = SchemasClient, register_schema;
    /// Sets what new versions of a subject have to be compatible with.
    set_compatibility(SetCompatibilityRequest) -> Subject = SchemasClient, set_compatibility;
    /// Deprecates or deletes a version, or takes that back.
    set_schema_state(SetSchemaStateRequest) -> Schema = SchemasClient, set_schema_state;
    /// Registers a service, or replaces its settings.
    put_service(PutServiceRequest) -> Service = ServicesClient, put_service;
    /// Deletes a service without instances.
    delete_service(DeleteServiceRequest) -> DeleteServiceResponse = ServicesClient, delete_service;
    /// Drains instances, takes them into maintenance, or back; each by itself.
    set_instance_mode(SetInstanceModeRequest) -> InstancesResponse = ServicesClient, set_instance_mode;
    /// Forces a breaker open or closed, or lets it be again.
    set_breaker(SetBreakerRequest) -> SetBreakerResponse = ServicesClient, set_breaker;
    /// Keeps what the events of a key amount to, up to a version.
    put_key_snapshot(PutSnapshotRequest) -> PutSnapshotResponse = KeysClient, put_snapshot;
    /// Forgets a key's snapshot.
    delete_key_snapshot(DeleteSnapshotRequest) -> DeleteSnapshotResponse = KeysClient, delete_snapshot;
}

unary! {
    /// One subscription.
    subscription(GetSubscriptionRequest) -> Subscription = SubscriptionsClient, get_subscription, Read;
    /// A page of subscriptions.
    subscriptions(ListSubscriptionsRequest) -> ListSubscriptionsResponse = SubscriptionsClient, list_subscriptions, Read;
    /// A subscription's events by what they wait for.
    subscription_stats(GetSubscriptionStatsRequest) -> SubscriptionStats = SubscriptionsClient, get_subscription_stats, Read;
    /// One topic.
    topic(GetTopicRequest) -> Topic = TopicsClient, get_topic, Read;
    /// A page of topics.
    topics(ListTopicsRequest) -> ListTopicsResponse = TopicsClient, list_topics, Read;
    /// Events of one key.
    read_key(ReadKeyRequest) -> ReadKeyResponse = EventsClient, read_key, Read;
    /// One event.
    event(GetEventRequest) -> RecordedEvent = EventsClient, get_event, Read;
    /// Calls a delayed event off.
    cancel_event(CancelEventRequest) -> CancelEventResponse = EventsClient, cancel_event, Recognised;
    /// Replaces the limits of a service.
    set_quota(SetQuotaRequest) -> Quota = QuotasClient, set_quota, Recognised;
    /// The limits of a service.
    quota(GetQuotaRequest) -> Quota = QuotasClient, get_quota, Read;
    /// A page of services with limits.
    quotas(ListQuotasRequest) -> ListQuotasResponse = QuotasClient, list_quotas, Read;
    /// Takes all limits of a service away.
    delete_quota(DeleteQuotaRequest) -> DeleteQuotaResponse = QuotasClient, delete_quota, Recognised;
    /// Leases events, for who settles them by [`Client::settle`] with the tokens that come along.
    /// Nothing renews these leases.
    pull(PullRequest) -> PullResponse = DeliveryClient, pull, Unsafe;
    /// Settles deliveries by their tokens; each item has a result of its own.
    settle(SettleRequest) -> SettleResponse = DeliveryClient, settle, Unsafe;
    /// A page of events that failed and will be delivered again.
    retries(ListRetriesRequest) -> ListRetriesResponse = RetriesClient, list_retries, Read;
    /// Makes retries ready at once, a bounded number.
    retry_now(MoveRetriesRequest) -> MoveRetriesResponse = RetriesClient, retry_now, Recognised;
    /// Makes retries dead letters at once, a bounded number.
    cancel_retries(MoveRetriesRequest) -> MoveRetriesResponse = RetriesClient, cancel_retries, Recognised;
    /// A page of dead letters.
    dead_letters(ListDeadLettersRequest) -> ListDeadLettersResponse = DeadLettersClient, list_dead_letters, Read;
    /// One dead letter with its event and its history.
    dead_letter(GetDeadLetterRequest) -> DeadLetter = DeadLettersClient, get_dead_letter, Read;
    /// Delivers dead letters anew, a bounded number.
    redrive_dead_letters(RedriveDeadLettersRequest) -> MoveDeadLettersResponse = DeadLettersClient, redrive_dead_letters, Moving;
    /// Forgets dead letters, a bounded number.
    purge_dead_letters(PurgeDeadLettersRequest) -> MoveDeadLettersResponse = DeadLettersClient, purge_dead_letters, Moving;
    /// Does everything that was staged, or nothing.
    commit_transaction(CommitTransactionRequest) -> Transaction = TransactionsClient, commit_transaction, Recognised;
    /// Forgets what was staged.
    abort_transaction(AbortTransactionRequest) -> Transaction = TransactionsClient, abort_transaction, Recognised;
    /// A staged transaction, with what is staged in it.
    transaction(GetTransactionRequest) -> Transaction = TransactionsClient, get_transaction, Read;
    /// A page of staged transactions.
    transactions(ListTransactionsRequest) -> ListTransactionsResponse = TransactionsClient, list_transactions, Read;
    /// Whether a schema could be registered, and why not.
    check_schema(CheckSchemaRequest) -> CheckSchemaResponse = SchemasClient, check_schema, Read;
    /// A version of a subject.
    schema(GetSchemaRequest) -> Schema = SchemasClient, get_schema, Read;
    /// A subject.
    subject(GetSubjectRequest) -> Subject = SchemasClient, get_subject, Read;
    /// A page of subjects.
    subjects(ListSubjectsRequest) -> ListSubjectsResponse = SchemasClient, list_subjects, Read;
    /// What changed from one version to another.
    diff_schemas(DiffSchemasRequest) -> DiffSchemasResponse = SchemasClient, diff_schemas, Read;
    /// Whether a payload is valid by a version.
    validate_data(ValidateDataRequest) -> ValidateDataResponse = SchemasClient, validate_data, Read;
    /// A key's snapshot, and the events after it.
    key_state(ReadStateRequest) -> KeyState = KeysClient, read_state, Read;
    /// A page of the events of a correlation id, with what became of each.
    trace(TraceRequest) -> TraceResponse = TrackingClient, trace, Read;
    /// A service with a page of its instances.
    service_page(GetServiceRequest) -> GetServiceResponse = ServicesClient, get_service, Read;
    /// A page of services.
    services(ListServicesRequest) -> ListServicesResponse = ServicesClient, list_services, Read;
    /// Registers instances, each by itself. Nothing renews them: [`super::ServiceHandle`] does.
    register_instances(RegisterInstancesRequest) -> InstancesResponse = ServicesClient, register_instances, Recognised;
    /// Deregisters instances, each by itself.
    deregister_instances(DeregisterInstancesRequest) -> InstancesResponse = ServicesClient, deregister_instances, Recognised;
    /// Renews instances.
    renew(RenewRequest) -> RenewResponse = ServicesClient, renew, Recognised;
    /// Chooses instances of a service to call.
    resolve(ResolveRequest) -> ResolveResponse = ServicesClient, resolve, Read;
    /// Tells the node that answers how calls went.
    report_outcomes(ReportOutcomesRequest) -> ReportOutcomesResponse = ServicesClient, report_outcomes, Read;
    /// What a service needs, transitively, and whether all of it is there.
    readiness(GetReadinessRequest) -> Readiness = ServicesClient, get_readiness, Read;
    /// A page of who declares a dependency on whom.
    dependencies_page(GetDependenciesRequest) -> GetDependenciesResponse = ServicesClient, get_dependencies, Read;
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
    /// A service with all of its instances, page by page; with the revision of the first page.
    ///
    /// # Errors
    /// What the hub refuses, and `OUTCOME_UNKNOWN` when nobody answered in time.
    pub async fn service(
        &self,
        mut request: GetServiceRequest,
    ) -> Result<GetServiceResponse, Rejection> {
        let mut found = self.service_page(request.clone()).await?;
        while !found.next_page_token.is_empty() {
            request.page_token = std::mem::take(&mut found.next_page_token);
            let page = self.service_page(request.clone()).await?;
            found.instances.extend(page.instances);
            found.next_page_token = page.next_page_token;
        }
        Ok(found)
    }

    /// Who declares a dependency on whom, page by page.
    ///
    /// # Errors
    /// What the hub refuses, and `OUTCOME_UNKNOWN` when nobody answered in time.
    pub async fn dependencies(
        &self,
        mut request: GetDependenciesRequest,
    ) -> Result<GetDependenciesResponse, Rejection> {
        let mut found = self.dependencies_page(request.clone()).await?;
        while !found.next_page_token.is_empty() {
            request.page_token = std::mem::take(&mut found.next_page_token);
            let page = self.dependencies_page(request.clone()).await?;
            found.edges.extend(page.edges);
            found.next_page_token = page.next_page_token;
        }
        Ok(found)
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
pub(super) fn timed<T>(message: T, within: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(within);
    request
}
