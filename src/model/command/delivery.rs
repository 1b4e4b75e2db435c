//! Commands of delivery.

use crate::model::delivery::Pick;
use crate::model::quota::QuotaLimits;
use crate::model::ranges::OffsetRange;

/// Hand events to a consumer. The leader has picked them; every one is judged again.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Lease {
    /// The subscription's name.
    #[prost(string, tag = "1")]
    pub subscription: String,
    /// The revision that the leader planned with; at another one nothing is done.
    #[prost(uint64, tag = "2")]
    pub revision: u64,
    /// The leader's term.
    #[prost(uint64, tag = "3")]
    pub term: u64,
    /// Who gets them.
    #[prost(string, tag = "4")]
    pub consumer: String,
    /// For how long, milliseconds; 0: as the subscription says.
    #[prost(uint64, tag = "5")]
    pub lease_ms: u64,
    /// What to hand out, in the order of wishing: bounds cut off the end.
    #[prost(message, repeated, tag = "6")]
    pub picks: Vec<Pick>,
    /// What does not pass the filter.
    #[prost(message, repeated, tag = "7")]
    pub skips: Vec<Pick>,
    /// Events in flight of this consumer; 0: as the subscription says.
    #[prost(uint32, tag = "8")]
    pub in_flight_max_consumer: u32,
    /// The service that the consumer declares, whose quota counts; empty: none does.
    #[prost(string, tag = "9")]
    pub service: String,
}

/// Take back what consumers had.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Settle {
    /// The subscription's name.
    #[prost(string, tag = "1")]
    pub subscription: String,
    /// Who had it.
    #[prost(string, tag = "2")]
    pub consumer: String,
    /// In order; at most `limits::SETTLE_ITEMS_MAX`.
    #[prost(message, repeated, tag = "3")]
    pub items: Vec<SettleItem>,
}

/// Events of one lease that end the same way.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SettleItem {
    /// The lease.
    #[prost(uint64, tag = "1")]
    pub lease_id: u64,
    /// The term that it was granted in.
    #[prost(uint64, tag = "2")]
    pub term: u64,
    /// Whose events.
    #[prost(uint64, tag = "3")]
    pub topic_id: u64,
    /// Which; empty: all of the lease.
    #[prost(message, repeated, tag = "4")]
    pub ranges: Vec<OffsetRange>,
    /// How; absent is a fault.
    #[prost(oneof = "Action", tags = "5, 6, 7, 8, 9")]
    pub action: Option<Action>,
}

/// How a delivery ends, or goes on.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum Action {
    /// Done well.
    #[prost(message, tag = "5")]
    Ack(Ack),
    /// Failed: try again.
    #[prost(message, tag = "6")]
    Nack(Nack),
    /// Impossible: never try again.
    #[prost(message, tag = "7")]
    Reject(Reject),
    /// Untouched: no attempt is counted.
    #[prost(message, tag = "8")]
    Release(Release),
    /// Not finished: the whole lease, whichever ranges are named, lasts longer.
    #[prost(message, tag = "9")]
    Extend(Extend),
}

/// Done well.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Ack {}

/// Failed.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Nack {
    /// Overrides the delay, at most `limits::RETRY_AFTER_MS_MAX`.
    #[prost(uint64, optional, tag = "1")]
    pub retry_after_ms: Option<u64>,
    /// UPPER_SNAKE; may be empty.
    #[prost(string, tag = "2")]
    pub reason: String,
    /// Free text.
    #[prost(string, tag = "3")]
    pub detail: String,
}

/// Impossible.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Reject {
    /// UPPER_SNAKE; may be empty.
    #[prost(string, tag = "1")]
    pub reason: String,
    /// Free text.
    #[prost(string, tag = "2")]
    pub detail: String,
}

/// Untouched.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Release {}

/// Not finished.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Extend {
    /// From now on, milliseconds; 0: as the subscription says.
    #[prost(uint64, tag = "1")]
    pub lease_ms: u64,
}

/// Fire timers that are due.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Tick {}

/// Honour leases of earlier leaders a little longer: their consumers could not renew them.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct NewLeader {
    /// The new leader's term.
    #[prost(uint64, tag = "1")]
    pub term: u64,
    /// From now on, milliseconds, at most `limits::LEASE_GRACE_MS_MAX`.
    #[prost(uint64, tag = "2")]
    pub grace_ms: u64,
}

/// Make failed events ready at once.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RetryNow {
    /// The subscription's name.
    #[prost(string, tag = "1")]
    pub subscription: String,
    /// Whose events.
    #[prost(uint64, tag = "2")]
    pub topic_id: u64,
    /// Which; empty: all that wait.
    #[prost(message, repeated, tag = "3")]
    pub ranges: Vec<OffsetRange>,
}

/// Make failed events dead letters at once, `REJECTED`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CancelRetry {
    /// The subscription's name.
    #[prost(string, tag = "1")]
    pub subscription: String,
    /// Whose events.
    #[prost(uint64, tag = "2")]
    pub topic_id: u64,
    /// Which; empty: all that wait.
    #[prost(message, repeated, tag = "3")]
    pub ranges: Vec<OffsetRange>,
}

/// Deliver dead letters anew, to the subscription that failed them.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Redrive {
    /// The subscription's name.
    #[prost(string, tag = "1")]
    pub subscription: String,
    /// Which dead letters; empty: all after `after`.
    #[prost(uint64, repeated, tag = "2")]
    pub numbers: Vec<u64>,
    /// 0: from the first.
    #[prost(uint64, tag = "3")]
    pub after: u64,
    /// How many; at most `limits::DEAD_LETTERS_PER_COMMAND`, and that many for 0.
    #[prost(uint32, tag = "4")]
    pub limit: u32,
}

/// Forget dead letters.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PurgeDead {
    /// The subscription's name.
    #[prost(string, tag = "1")]
    pub subscription: String,
    /// Which dead letters; empty: all up to `up_to`.
    #[prost(uint64, repeated, tag = "2")]
    pub numbers: Vec<u64>,
    /// This one included.
    #[prost(uint64, tag = "3")]
    pub up_to: u64,
}

/// Call a delayed event off, for every subscription, before it is ready.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CancelEvent {
    /// The topic's name.
    #[prost(string, tag = "1")]
    pub topic: String,
    /// Its offset, when `id` is empty.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// CloudEvents `id`; only on topics that index ids.
    #[prost(string, tag = "3")]
    pub id: String,
    /// CloudEvents `source`; empty: the newest event with this id.
    #[prost(string, tag = "4")]
    pub source: String,
}

/// Tell in the lifecycle feed what the leader saw; nothing else changes.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Notice {
    /// The subscription or the service that it is about.
    #[prost(string, tag = "1")]
    pub about: String,
    /// What.
    #[prost(enumeration = "NoticeKind", tag = "2")]
    pub kind: i32,
    /// Which of the service's limits was hit, which service is called in its place, or why it is not ready.
    #[prost(string, tag = "3")]
    pub limit: String,
    /// The limit's value, how many events wait, or how many instances are silent.
    #[prost(uint64, tag = "4")]
    pub value: u64,
}

/// What the leader saw. The numbers are persisted in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum NoticeKind {
    /// Of a newer version.
    Unspecified = 0,
    /// A service came to one of its limits.
    QuotaHit = 1,
    /// More events wait for a subscription than `limits::LAGGING_EVENTS`.
    Lagging = 2,
    /// Fewer than half of that wait now.
    CaughtUp = 3,
    /// So many instances of a service fell silent at once that none is given up for now.
    BrakeEngaged = 4,
    /// They are given up again.
    BrakeReleased = 5,
    /// A service, and all that it requires, takes calls.
    Ready = 6,
    /// It does not, or not all that it requires.
    NotReady = 7,
    /// A service that is down has another one called in its place.
    FailedOver = 8,
    /// It is called itself again, or nobody is.
    FailedBack = 9,
}

/// Set the limits of a service; none at all forgets it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SetQuota {
    /// A valid name.
    #[prost(string, tag = "1")]
    pub service: String,
    /// The limits.
    #[prost(message, required, tag = "2")]
    pub limits: QuotaLimits,
}
