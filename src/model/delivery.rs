//! The words of delivery: what is asked for, how it ends, what is kept of it.

use super::ids::{DeadNumber, LeaseId, Position, SubscriptionId, Term, TopicId, UnixMs};
use super::limits::{NACK_REASON_BYTES_MAX, RANGES_MAX};
use super::ranges::{OffsetRange, Ranges};
use super::rejection::Reason;
use super::subscription::SubscriptionConfig;

/// Why an event is dead for a subscription. The numbers are persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum DeadReason {
    /// Of a newer version.
    Unspecified = 0,
    /// It failed as often as the subscription allows.
    MaxAttempts = 1,
    /// A consumer, or a person, rejected it.
    Rejected = 2,
    /// It failed for a reason that is not retried.
    NonRetryable = 3,
    /// Its deadline passed before it was delivered.
    Expired = 4,
    /// Its next delivery would come at or after its deadline.
    DeadlineUnreachable = 5,
    /// A consumer rejected it with the reason `SCHEMA_VIOLATED`: what it consists of, or what is made of it, breaks a
    /// schema.
    SchemaInvalid = 6,
}

impl DeadReason {
    /// The stable code.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "UNSPECIFIED",
            Self::MaxAttempts => "MAX_ATTEMPTS",
            Self::Rejected => "REJECTED",
            Self::NonRetryable => "NON_RETRYABLE",
            Self::Expired => "EXPIRED",
            Self::DeadlineUnreachable => "DEADLINE_UNREACHABLE",
            Self::SchemaInvalid => "SCHEMA_INVALID",
        }
    }
}

/// The reason that a lease's expiry is kept with.
pub const REASON_LEASE_EXPIRED: &str = "LEASE_EXPIRED";
/// The reason of a retry that somebody called off.
pub const REASON_CANCELLED: &str = "CANCELLED";

/// Whether a text can be the reason of a failure: UPPER_SNAKE, perhaps empty.
#[must_use]
pub fn is_reason(text: &str) -> bool {
    let upper_snake = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    text.len() <= NACK_REASON_BYTES_MAX && text.chars().all(upper_snake)
}

/// One failed delivery, kept with the event.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Attempt {
    /// When it failed, Unix milliseconds.
    #[prost(uint64, tag = "1")]
    pub failed_at_ms: u64,
    /// Who had it.
    #[prost(string, tag = "2")]
    pub consumer: String,
    /// Why.
    #[prost(string, tag = "3")]
    pub reason: String,
    /// More of it.
    #[prost(string, tag = "4")]
    pub detail: String,
    /// From 1; a redrive begins anew.
    #[prost(uint32, tag = "5")]
    pub number: u32,
}

/// Events of one topic that are to be leased or skipped.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Pick {
    /// The topic's name.
    #[prost(string, tag = "1")]
    pub topic: String,
    /// Its number: the events of a topic that was created anew are others.
    #[prost(uint64, tag = "2")]
    pub topic_id: u64,
    /// Which events.
    #[prost(message, required, tag = "3")]
    pub ranges: Ranges,
    /// What a search knew of them; without it each event is looked at again.
    #[prost(message, optional, tag = "4")]
    pub seen: Option<Seen>,
}

/// What a search knew of the events that it picked, beyond that they were free.
///
/// All of them were ready then and none was cancelled. While the topic's cancellations are as many
/// and the first deadline is far enough, that still holds, and nothing of it has to be looked up
/// event by event again.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Seen {
    /// When the search was, hub time, Unix milliseconds.
    #[prost(uint64, tag = "1")]
    pub at_ms: u64,
    /// How many events of the topic had been cancelled.
    #[prost(uint64, tag = "2")]
    pub cancels: u64,
    /// The first of the events' deadlines, Unix milliseconds; 0: none has one.
    #[prost(uint64, tag = "3")]
    pub deadline_ms: u64,
}

impl Seen {
    /// Both of two sets of events of one search.
    fn and(self, other: Self) -> Self {
        let deadlines = [self.deadline_ms, other.deadline_ms].into_iter().filter(|ms| *ms > 0);
        Self { deadline_ms: deadlines.min().unwrap_or(0), ..self }
    }
}

impl Pick {
    /// Appends events to a list of picks: to the last one while that keeps the order of picking
    /// and its bounds.
    pub fn append(
        picks: &mut Vec<Self>,
        topic: TopicId,
        name: &str,
        range: OffsetRange,
        seen: Option<Seen>,
    ) {
        if let Some(pick) = picks.last_mut().filter(|pick| pick.topic_id == topic.get()) {
            let full = pick.ranges.as_slice().len() == RANGES_MAX;
            let end = pick.ranges.bounds().map_or(0, |(_, end)| end.get());
            if range.first == end || (range.first > end && !full) {
                pick.seen = pick.seen.zip(seen).map(|(a, b)| a.and(b));
                pick.ranges.push(range);
                return;
            }
        }
        let ranges = Ranges::from_unsorted(&[range]);
        picks.push(Self { topic: name.to_owned(), topic_id: topic.get(), ranges, seen });
    }

    /// How many events.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.ranges.count()
    }
}

/// Events that a consumer got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// With the term the fencing token.
    pub lease_id: LeaseId,
    /// The leader's term.
    pub term: Term,
    /// Whose events.
    pub topic_id: TopicId,
    /// Which.
    pub ranges: Ranges,
    /// One an event in the order of offsets, when one is a retry; empty: all are first attempts.
    pub attempts: Vec<u32>,
    /// When each of these became due.
    pub due: Vec<UnixMs>,
    /// First attempts may have been delayed: their topic has events off the defaults.
    pub delayed: bool,
    /// When the consumer loses them.
    pub expires_at: UnixMs,
}

/// What a lease command led to. Picks that are in no grant were left out: not pending any more,
/// not ready, not in turn, or over a bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leased {
    /// In the order of lease ids.
    pub grants: Vec<Granted>,
    /// Events that were skipped for the filter, or because they were cancelled.
    pub filtered: u64,
    /// Events that turned out to be dead: their deadline cannot be met.
    pub dead: u64,
}

/// What became of one item of a settlement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The events that the action was done to.
    pub done: Ranges,
    /// Why the others were left alone: `LEASE_EXPIRED` or `LEASE_UNKNOWN`; `None` when there are
    /// no others.
    pub refused: Option<Reason>,
    /// For `extend`: the new expiry.
    pub expires_at: UnixMs,
}

/// Why a subscription is paused. The numbers are persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum PauseReason {
    /// Somebody asked for it.
    Requested = 0,
    /// Too many of its events died.
    Tripped = 1,
    /// No instance of the service that it is delivered to takes calls.
    TargetDown = 2,
}

/// A pause.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Pause {
    /// Unix milliseconds.
    #[prost(uint64, tag = "1")]
    pub since_ms: u64,
    /// Why.
    #[prost(enumeration = "PauseReason", tag = "2")]
    pub reason: i32,
    /// When it ends by itself, Unix milliseconds; 0: never.
    #[prost(uint64, tag = "3")]
    pub resume_at_ms: u64,
}

/// What a subscription did so far: events, ever growing.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Counters {
    /// Handed to consumers, retries too.
    #[prost(uint64, tag = "1")]
    pub delivered: u64,
    /// Of these, handed out again after a failure.
    #[prost(uint64, tag = "2")]
    pub redelivered: u64,
    /// Done well.
    #[prost(uint64, tag = "3")]
    pub acked: u64,
    /// Given back as failed.
    #[prost(uint64, tag = "4")]
    pub nacked: u64,
    /// Given back as impossible.
    #[prost(uint64, tag = "5")]
    pub rejected: u64,
    /// Given back untouched.
    #[prost(uint64, tag = "6")]
    pub released: u64,
    /// Lost by their consumers.
    #[prost(uint64, tag = "7")]
    pub expired: u64,
    /// Dead letters that were kept.
    #[prost(uint64, tag = "8")]
    pub dead: u64,
    /// Dead letters that were not kept, and retries whose event is gone.
    #[prost(uint64, tag = "9")]
    pub dropped: u64,
    /// Skipped for the filter, or because they were cancelled.
    #[prost(uint64, tag = "10")]
    pub filtered: u64,
    /// Dead letters that were delivered anew.
    #[prost(uint64, tag = "11")]
    pub redriven: u64,
}

/// A subscription with its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionInfo {
    /// Its number.
    pub id: SubscriptionId,
    /// Its name.
    pub name: String,
    /// Its settings.
    pub config: SubscriptionConfig,
    /// From 1, grows with every update.
    pub revision: u64,
    /// When it was created.
    pub created_at: UnixMs,
    /// When its settings were last changed.
    pub updated_at: UnixMs,
    /// Events before this are none of its business.
    pub start: Position,
    /// Its pause, if it has one.
    pub pause: Option<Pause>,
    /// Events in flight.
    pub in_flight: u64,
    /// Dead letters that are kept.
    pub dead_letters: u64,
    /// What it did so far.
    pub counters: Counters,
    /// Some of its failed events are still in the order of an earlier priority policy.
    pub reordering: bool,
}

/// What a seek leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sought {
    /// Where it goes.
    pub start: Position,
    /// Events that were done and will be delivered again.
    pub redelivered: u64,
    /// Events that were not done and will not be delivered.
    pub skipped: u64,
    /// Topics were left uncounted: there are more than `limits::SEEK_TOPICS_MAX`.
    pub truncated: bool,
}

/// What a command over dead letters or retries did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Events that it was done to.
    pub count: u64,
    /// Events that were named and could not be moved.
    pub left: u64,
    /// Go on after this dead letter; `None`: that was the last.
    pub next: Option<DeadNumber>,
}

/// What a tick led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticked {
    /// Timers that fired.
    pub timers: u64,
    /// More are due: tick again at once.
    pub more: bool,
}
