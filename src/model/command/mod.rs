//! What is replicated: commands, encoded once by the proposer with protobuf.
//!
//! Tags are never reused. A node that meets a command it does not know stops (fail-stop), so new
//! commands are proposed only once every node knows them.

pub mod delivery;
pub mod key;
pub mod registry;
pub mod schema;
pub mod subscription;
pub mod transaction;

use bytes::Bytes;

pub use self::delivery::{
    CancelEvent, CancelRetry, Lease, NewLeader, Notice, NoticeKind, PurgeDead, Redrive, RetryNow,
    SetQuota, Settle, Tick,
};
pub use self::key::{DeleteKeySnapshot, PutKeySnapshot};
pub use self::registry::{
    DeleteService, DeregisterInstances, HealthChange, InstanceName, PutService, RegisterInstances,
    SetBreaker, SetHealth, SetMode,
};
pub use self::schema::{RegisterSchema, SetCompatibility, SetSchemaState};
pub use self::subscription::{
    CreateSubscription, DeleteSubscription, PauseSubscription, ResumeSubscription,
    SeekSubscription, UpdateSubscription,
};
pub use self::transaction::{
    AbortTransaction, BeginTransaction, CommitTransaction, JudgedAgain, StageTransaction, Transact,
};
use super::expectation::Expect;
use super::ids::KeyVersion;
use super::schema_rule::Judged;
use super::topic::{TopicConfig, TopicPatch};

/// The content of one Raft entry: commands of many callers, each with an outcome of its own.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CommandBatch {
    /// The leader's clock when it proposed, Unix milliseconds. Apply never goes back behind the
    /// largest stamp that it has seen.
    #[prost(uint64, tag = "1")]
    pub stamp_ms: u64,
    /// In order; at most `limits::ENTRY_COMMANDS_MAX`.
    #[prost(message, repeated, tag = "2")]
    pub commands: Vec<Command>,
}

/// One command.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Command {
    /// What to do; absent is a fault.
    #[prost(
        oneof = "Kind",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41"
    )]
    pub kind: Option<Kind>,
}

/// What to do.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Kind {
    /// Append events to a topic.
    #[prost(message, tag = "1")]
    Publish(Publish),
    /// Create a topic.
    #[prost(message, tag = "2")]
    CreateTopic(CreateTopic),
    /// Change a topic's settings.
    #[prost(message, tag = "3")]
    UpdateTopic(UpdateTopic),
    /// Delete a topic and its events.
    #[prost(message, tag = "4")]
    DeleteTopic(DeleteTopic),
    /// Forget what has expired, a bounded bit at a time.
    #[prost(message, tag = "5")]
    Housekeep(Housekeep),
    /// Take note of a node's id and data directory.
    #[prost(message, tag = "6")]
    RegisterNode(RegisterNode),
    /// Hash the state after this entry, on every node.
    #[prost(message, tag = "7")]
    Verify(Verify),
    /// Create a subscription.
    #[prost(message, tag = "8")]
    CreateSubscription(CreateSubscription),
    /// Change a subscription's settings.
    #[prost(message, tag = "9")]
    UpdateSubscription(UpdateSubscription),
    /// Delete a subscription and its progress.
    #[prost(message, tag = "10")]
    DeleteSubscription(DeleteSubscription),
    /// Stop handing out events.
    #[prost(message, tag = "11")]
    PauseSubscription(PauseSubscription),
    /// Hand out events again.
    #[prost(message, tag = "12")]
    ResumeSubscription(ResumeSubscription),
    /// Move a subscription to another place.
    #[prost(message, tag = "13")]
    SeekSubscription(SeekSubscription),
    /// Hand events to a consumer.
    #[prost(message, tag = "14")]
    Lease(Lease),
    /// Take back what consumers had.
    #[prost(message, tag = "15")]
    Settle(Settle),
    /// Fire timers that are due, a bounded number.
    #[prost(message, tag = "16")]
    Tick(Tick),
    /// Honour leases of earlier leaders a little longer.
    #[prost(message, tag = "17")]
    NewLeader(NewLeader),
    /// Make failed events ready at once.
    #[prost(message, tag = "18")]
    RetryNow(RetryNow),
    /// Make failed events dead letters at once.
    #[prost(message, tag = "19")]
    CancelRetry(CancelRetry),
    /// Deliver dead letters anew.
    #[prost(message, tag = "20")]
    Redrive(Redrive),
    /// Forget dead letters.
    #[prost(message, tag = "21")]
    PurgeDead(PurgeDead),
    /// Call a delayed event off, for every subscription.
    #[prost(message, tag = "22")]
    CancelEvent(CancelEvent),
    /// Set the limits of a service.
    #[prost(message, tag = "23")]
    SetQuota(SetQuota),
    /// Tell something in the lifecycle feed.
    #[prost(message, tag = "24")]
    Notice(Notice),
    /// Register a service, or replace its settings.
    #[prost(message, tag = "25")]
    PutService(PutService),
    /// Delete a service without instances.
    #[prost(message, tag = "26")]
    DeleteService(DeleteService),
    /// Register instances.
    #[prost(message, tag = "27")]
    RegisterInstances(RegisterInstances),
    /// Deregister instances.
    #[prost(message, tag = "28")]
    DeregisterInstances(DeregisterInstances),
    /// Drain instances, take them into maintenance, or back.
    #[prost(message, tag = "29")]
    SetMode(SetMode),
    /// Take note of what the leader saw of instances.
    #[prost(message, tag = "30")]
    SetHealth(SetHealth),
    /// Move a breaker.
    #[prost(message, tag = "31")]
    SetBreaker(SetBreaker),
    /// Append to topics and settle deliveries, all of it or nothing.
    #[prost(message, tag = "32")]
    Transact(Transact),
    /// Begin a transaction whose parts come one after the other.
    #[prost(message, tag = "33")]
    BeginTransaction(BeginTransaction),
    /// Add to a transaction.
    #[prost(message, tag = "34")]
    StageTransaction(StageTransaction),
    /// Do everything that was staged, or nothing.
    #[prost(message, tag = "35")]
    CommitTransaction(CommitTransaction),
    /// Forget what was staged.
    #[prost(message, tag = "36")]
    AbortTransaction(AbortTransaction),
    /// Keep what the events of a key amount to.
    #[prost(message, tag = "37")]
    PutKeySnapshot(PutKeySnapshot),
    /// Forget that.
    #[prost(message, tag = "38")]
    DeleteKeySnapshot(DeleteKeySnapshot),
    /// Register a version of a subject.
    #[prost(message, tag = "39")]
    RegisterSchema(RegisterSchema),
    /// Set what new versions of a subject have to be.
    #[prost(message, tag = "40")]
    SetCompatibility(SetCompatibility),
    /// Deprecate or delete a version.
    #[prost(message, tag = "41")]
    SetSchemaState(SetSchemaState),
}

impl From<Kind> for Command {
    fn from(kind: Kind) -> Self {
        Self { kind: Some(kind) }
    }
}

/// Append events to a topic: all or none. Validated by the proposer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Publish {
    /// The topic's name.
    #[prost(string, tag = "1")]
    pub topic: String,
    /// Recognises repetitions.
    #[prost(message, optional, tag = "2")]
    pub producer: Option<Producer>,
    /// Checked against the state before the call.
    #[prost(message, repeated, tag = "3")]
    pub expectations: Vec<Expectation>,
    /// Number of events, 1 to `limits::CALL_EVENTS_MAX`.
    #[prost(uint32, tag = "4")]
    pub count: u32,
    /// Whether any event has a key.
    #[prost(bool, tag = "5")]
    pub keyed: bool,
    /// Encoded length of the largest event.
    #[prost(uint64, tag = "6")]
    pub largest_event_bytes: u64,
    /// The events as an [`event_run`](super::event_run).
    #[prost(bytes = "bytes", tag = "7")]
    pub events: Bytes,
    /// Whether any event is special to delivery: see
    /// [`EventView::is_special`](super::event::EventView::is_special).
    #[prost(bool, tag = "8")]
    pub special: bool,
    /// Whether any event has a correlation id.
    #[prost(bool, tag = "9")]
    pub correlated: bool,
    /// By which schemas the events were judged; absent: by none, as their topic has no rule.
    #[prost(message, optional, tag = "10")]
    pub judged: Option<Judged>,
}

/// Identifies a call across retries.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Producer {
    /// Unique per producer.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Higher epochs fence lower ones.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// From 1, one a call.
    #[prost(uint64, tag = "3")]
    pub sequence: u64,
    /// Answers below this may be forgotten.
    #[prost(uint64, tag = "4")]
    pub acknowledged_below: u64,
}

/// What a key's version has to be.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Expectation {
    /// The key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// See [`Expectation::expect`].
    #[prost(enumeration = "ExpectKind", tag = "2")]
    kind: i32,
    /// For `Exact`.
    #[prost(uint64, tag = "3")]
    version: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum ExpectKind {
    Any = 0,
    NoKey = 1,
    Exists = 2,
    Exact = 3,
}

impl Expectation {
    /// That `key` meets `expect`.
    #[must_use]
    pub fn new(key: String, expect: Expect) -> Self {
        let (kind, version) = match expect {
            Expect::Any => (ExpectKind::Any, 0),
            Expect::NoKey => (ExpectKind::NoKey, 0),
            Expect::Exists => (ExpectKind::Exists, 0),
            Expect::Exact(version) => (ExpectKind::Exact, version.get()),
        };
        Self { key, kind: kind as i32, version }
    }

    /// What is expected.
    #[must_use]
    pub fn expect(&self) -> Expect {
        match self.kind() {
            ExpectKind::Any => Expect::Any,
            ExpectKind::NoKey => Expect::NoKey,
            ExpectKind::Exists => Expect::Exists,
            ExpectKind::Exact => Expect::Exact(KeyVersion(self.version)),
        }
    }
}

/// Create a topic; the proposer has resolved every default.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CreateTopic {
    /// A valid name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Checked settings.
    #[prost(message, required, tag = "2")]
    pub config: TopicConfig,
    /// Empty: none.
    #[prost(string, tag = "3")]
    pub request_id: String,
}

/// Change a topic's settings.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct UpdateTopic {
    /// The topic's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// What changes.
    #[prost(message, required, tag = "2")]
    pub patch: TopicPatch,
    /// 0: whatever it is.
    #[prost(uint64, tag = "3")]
    pub if_revision: u64,
    /// Empty: none.
    #[prost(string, tag = "4")]
    pub request_id: String,
}

/// Delete a topic and its events.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DeleteTopic {
    /// The topic's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Empty: none.
    #[prost(string, tag = "2")]
    pub request_id: String,
}

/// Forget what has expired.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Housekeep {}

/// Take note of a node.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RegisterNode {
    /// The node's id.
    #[prost(uint64, tag = "1")]
    pub node_id: u64,
    /// A UUID that its data directory was given when it was made.
    #[prost(string, tag = "2")]
    pub incarnation: String,
    /// Set when the node is taken out: the id is refused from then on.
    #[prost(bool, tag = "3")]
    pub removed: bool,
}

/// Hash the state after this entry.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Verify {}
