//! Refusals: one table from reason to gRPC code, HTTP status and CLI exit code.

use std::fmt;

/// The domain of every reason, as `google.rpc.ErrorInfo` has it.
pub const DOMAIN: &str = "messagehub";

/// The gRPC codes that the hub answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    /// It may or may not have been done.
    Unknown = 2,
    /// The request is wrong whatever the state is.
    InvalidArgument = 3,
    /// The caller's time ran out before anything was proposed.
    DeadlineExceeded = 4,
    /// The named thing does not exist.
    NotFound = 5,
    /// The named thing exists.
    AlreadyExists = 6,
    /// The caller may not do this.
    PermissionDenied = 7,
    /// A bound was hit; try later or smaller.
    ResourceExhausted = 8,
    /// The state does not allow it.
    FailedPrecondition = 9,
    /// A concurrent change came first.
    Aborted = 10,
    /// Beyond the end.
    OutOfRange = 11,
    /// Not offered.
    Unimplemented = 12,
    /// A defect of the hub.
    Internal = 13,
    /// Try again, maybe elsewhere.
    Unavailable = 14,
}

/// How a command of the CLI ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All done.
    Ok = 0,
    /// It failed, and none of the others fits.
    Error = 1,
    /// The command line or an argument is wrong.
    Usage = 2,
    /// The named thing does not exist.
    NotFound = 3,
    /// A concurrent change, or a thing that exists already.
    Conflict = 4,
    /// Not allowed.
    Denied = 5,
    /// A quota or a bound.
    Quota = 6,
    /// Unavailable, or the outcome is unknown.
    Unavailable = 7,
    /// Some of it was done.
    Partial = 8,
    /// The hub is unhealthy.
    Unhealthy = 10,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $code:ident, $http:literal, $exit:ident;)*) => {
        /// Why something was refused: stable, part of the public contract.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The stable code, UPPER_SNAKE.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
            /// The gRPC code.
            #[must_use]
            pub const fn code(self) -> Code {
                match self { $(Self::$name => Code::$code,)* }
            }
            /// The HTTP status.
            #[must_use]
            pub const fn http(self) -> u16 {
                match self { $(Self::$name => $http,)* }
            }
            /// The exit code of the CLI.
            #[must_use]
            pub const fn exit(self) -> Exit {
                match self { $(Self::$name => Exit::$exit,)* }
            }
            /// The reason with this code.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$name),)* _ => None }
            }
        }
    };
}

reasons! {
    /// A name breaks its grammar.
    InvalidName = "INVALID_NAME", InvalidArgument, 400, Usage;
    /// A schema is none, or leads to too much.
    SchemaMalformed = "SCHEMA_MALFORMED", InvalidArgument, 400, Usage;
    /// An event breaks the schema of its topic.
    SchemaViolated = "SCHEMA_VIOLATED", InvalidArgument, 400, Usage;
    /// A topic's setting is out of its range.
    InvalidConfig = "INVALID_CONFIG", InvalidArgument, 400, Usage;
    /// A request misses something or contradicts itself.
    InvalidRequest = "INVALID_REQUEST", InvalidArgument, 400, Usage;
    /// An event misses an attribute or breaks a rule.
    EventInvalid = "EVENT_INVALID", InvalidArgument, 400, Usage;
    /// An event is larger than its topic allows.
    EventTooLarge = "EVENT_TOO_LARGE", InvalidArgument, 413, Usage;
    /// A call has too many events or bytes.
    CallTooLarge = "CALL_TOO_LARGE", InvalidArgument, 413, Usage;
    /// A subscription's filter breaks its grammar or a bound.
    InvalidFilter = "INVALID_FILTER", InvalidArgument, 400, Usage;
    /// A subscription's pattern breaks its grammar.
    InvalidPattern = "INVALID_PATTERN", InvalidArgument, 400, Usage;
    /// An event's deadline lies in the past.
    DeadlinePast = "DEADLINE_PAST", InvalidArgument, 400, Usage;
    /// No such topic.
    TopicNotFound = "TOPIC_NOT_FOUND", NotFound, 404, NotFound;
    /// No such subscription.
    SubscriptionNotFound = "SUBSCRIPTION_NOT_FOUND", NotFound, 404, NotFound;
    /// No such dead letter.
    DeadLetterNotFound = "DEAD_LETTER_NOT_FOUND", NotFound, 404, NotFound;
    /// A lease was never granted, or to somebody else.
    LeaseUnknown = "LEASE_UNKNOWN", NotFound, 404, NotFound;
    /// No such subject, or it has no such version.
    SchemaNotFound = "SCHEMA_NOT_FOUND", NotFound, 404, NotFound;
    /// No such staged transaction, or it ended long ago.
    TransactionNotFound = "TRANSACTION_NOT_FOUND", NotFound, 404, NotFound;
    /// The key has no such version.
    VersionNotFound = "VERSION_NOT_FOUND", NotFound, 404, NotFound;
    /// No such event.
    EventNotFound = "EVENT_NOT_FOUND", NotFound, 404, NotFound;
    /// No such service.
    ServiceNotFound = "SERVICE_NOT_FOUND", NotFound, 404, NotFound;
    /// The service has no such instance.
    InstanceNotFound = "INSTANCE_NOT_FOUND", NotFound, 404, NotFound;
    /// No such node.
    NodeNotFound = "NODE_NOT_FOUND", NotFound, 404, NotFound;
    /// The comparison is not finished on this node, or unknown to it.
    VerifyNotFound = "VERIFY_NOT_FOUND", NotFound, 404, NotFound;
    /// The topic exists.
    TopicExists = "TOPIC_EXISTS", AlreadyExists, 409, Conflict;
    /// The subscription exists.
    SubscriptionExists = "SUBSCRIPTION_EXISTS", AlreadyExists, 409, Conflict;
    /// The instance belongs to another owner.
    InstanceOwned = "INSTANCE_OWNED", AlreadyExists, 409, Conflict;
    /// A key's version is not the expected one.
    VersionConflict = "VERSION_CONFLICT", Aborted, 409, Conflict;
    /// A subject of schemas was changed in between.
    SchemaChanged = "SCHEMA_CHANGED", Aborted, 409, Conflict;
    /// A topic or a subscription was updated in between.
    RevisionMismatch = "REVISION_MISMATCH", Aborted, 409, Conflict;
    /// A destructive request does not repeat the name.
    ConfirmationRequired = "CONFIRMATION_REQUIRED", FailedPrecondition, 412, Usage;
    /// A schema cannot follow an earlier version of its subject.
    SchemaIncompatible = "SCHEMA_INCOMPATIBLE", FailedPrecondition, 409, Conflict;
    /// Other schemas refer to the version.
    SchemaInUse = "SCHEMA_IN_USE", FailedPrecondition, 412, Conflict;
    /// The service has instances.
    ServiceInUse = "SERVICE_IN_USE", FailedPrecondition, 412, Conflict;
    /// Dependencies of services would run in a circle.
    DependencyCycle = "DEPENDENCY_CYCLE", FailedPrecondition, 412, Conflict;
    /// No instance of the service, and nothing that it falls back to, takes calls.
    NoInstance = "NO_INSTANCE", Unavailable, 503, Unavailable;
    /// A newer epoch of this producer exists.
    ProducerFenced = "PRODUCER_FENCED", FailedPrecondition, 412, Conflict;
    /// The sequence is so old that its answer is forgotten.
    SequenceExpired = "SEQUENCE_EXPIRED", FailedPrecondition, 412, Conflict;
    /// A lease is not held any more: it expired, was settled, or its events were sought over.
    LeaseExpired = "LEASE_EXPIRED", FailedPrecondition, 412, Conflict;
    /// The key has a snapshot at a newer version.
    SnapshotSuperseded = "SNAPSHOT_SUPERSEDED", FailedPrecondition, 412, Conflict;
    /// The staged transaction was committed or aborted.
    TransactionEnded = "TRANSACTION_ENDED", FailedPrecondition, 412, Conflict;
    /// Nobody committed the staged transaction in time.
    TransactionExpired = "TRANSACTION_EXPIRED", FailedPrecondition, 412, Conflict;
    /// The subscription is paused.
    SubscriptionPaused = "SUBSCRIPTION_PAUSED", FailedPrecondition, 412, Conflict;
    /// The hub itself delivers the subscription.
    SubscriptionRouted = "SUBSCRIPTION_ROUTED", FailedPrecondition, 412, Conflict;
    /// The event is not scheduled any more, or never was.
    NotScheduled = "NOT_SCHEDULED", FailedPrecondition, 412, Conflict;
    /// The changes since the revision are not kept any more.
    WatchCompacted = "WATCH_COMPACTED", OutOfRange, 416, Conflict;
    /// The address is one that the hub's settings do not allow.
    AddressForbidden = "ADDRESS_FORBIDDEN", PermissionDenied, 403, Denied;
    /// The offset, position or time lies beyond the end.
    BeyondEnd = "BEYOND_END", OutOfRange, 416, Usage;
    /// A bound of the hub was hit.
    LimitReached = "LIMIT_REACHED", ResourceExhausted, 429, Quota;
    /// A service is over its quota.
    QuotaExceeded = "QUOTA_EXCEEDED", ResourceExhausted, 429, Quota;
    /// Too much is waiting on this node.
    Overloaded = "OVERLOADED", ResourceExhausted, 429, Quota;
    /// This node is not the leader; the metadata may name it.
    NotLeader = "NOT_LEADER", Unavailable, 503, Unavailable;
    /// No leader is known.
    NoLeader = "NO_LEADER", Unavailable, 503, Unavailable;
    /// No endpoint could be connected to; nothing was sent.
    Unreachable = "UNREACHABLE", Unavailable, 503, Unavailable;
    /// The quorum did not answer in time; nothing was proposed.
    NoQuorum = "NO_QUORUM", Unavailable, 503, Unavailable;
    /// The node is stopping.
    ShuttingDown = "SHUTTING_DOWN", Unavailable, 503, Unavailable;
    /// The node has not joined a cluster.
    NotInitialized = "NOT_INITIALIZED", Unavailable, 503, Unavailable;
    /// It was proposed, and its outcome is not known.
    OutcomeUnknown = "OUTCOME_UNKNOWN", Unknown, 504, Unavailable;
    /// The caller's deadline passed before anything was proposed.
    DeadlineExceeded = "DEADLINE_EXCEEDED", DeadlineExceeded, 504, Unavailable;
    /// The cluster is formed already, or the node belongs to one.
    AlreadyInitialized = "ALREADY_INITIALIZED", FailedPrecondition, 412, Conflict;
    /// The node's id is or was in use.
    NodeIdTaken = "NODE_ID_TAKEN", FailedPrecondition, 412, Conflict;
    /// A learner lags too far behind to be promoted.
    NotCaughtUp = "NOT_CAUGHT_UP", FailedPrecondition, 412, Conflict;
    /// The change would leave no live quorum.
    WouldLoseQuorum = "WOULD_LOSE_QUORUM", FailedPrecondition, 412, Conflict;
    /// Another membership change is going on.
    ChangeInProgress = "CHANGE_IN_PROGRESS", Aborted, 409, Conflict;
    /// A peer speaks for another cluster, shard or node.
    WrongCluster = "WRONG_CLUSTER", PermissionDenied, 403, Denied;
    /// A fault of this node.
    Internal = "INTERNAL", Internal, 500, Error;
}

/// The fact that tells when to try again.
const RETRY_AFTER_MS: &str = "retry_after_ms";

/// A refusal: nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The stable reason.
    pub reason: Reason,
    /// For people: lower case, names the object and the value, ends with what to do.
    pub message: String,
    /// Facts for programs, like `expected` and `actual`; few.
    pub metadata: Vec<(String, String)>,
}

impl Rejection {
    /// A refusal without facts.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), metadata: Vec::new() }
    }

    /// Adds a fact.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.metadata.push((name.to_owned(), value.to_string()));
        self
    }

    /// Says when it is worth trying again. It travels as `RetryInfo` and as `Retry-After`.
    #[must_use]
    pub fn retry_after_ms(self, delay_ms: u64) -> Self {
        self.with(RETRY_AFTER_MS, delay_ms)
    }

    /// When it is worth trying again, milliseconds from now, where that is known.
    #[must_use]
    pub fn retry_delay_ms(&self) -> Option<u64> {
        self.fact(RETRY_AFTER_MS)?.parse().ok()
    }

    /// The value of a fact.
    #[must_use]
    pub fn fact(&self, name: &str) -> Option<&str> {
        self.metadata.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.reason.as_str())
    }
}

impl std::error::Error for Rejection {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_found_by_its_code() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(*reason));
        }
        assert_eq!(Reason::parse("NONSENSE"), None);
    }
}
