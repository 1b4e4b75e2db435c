//! What a history tells of deliveries: who got which events under which lease, and how they ended.

use serde::{Deserialize, Serialize};

/// An event as a consumer got it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What was published.
    pub value: u64,
    /// In the log.
    pub offset: u64,
    /// From 1.
    pub attempt: u32,
    /// 0 to 9, high first.
    pub priority: u32,
    /// Unix milliseconds by the hub's clock; 0: none.
    pub deadline_ms: u64,
    /// When the hub took it, Unix milliseconds.
    pub recorded_at_ms: u64,
}

/// Events under one lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Grows with every grant of its subscription.
    pub id: u64,
    /// The leader's; 0 where the client does not tell.
    pub term: u64,
    /// Of the events' topic; 0 where the client does not tell.
    pub topic_id: u64,
    /// When it ends by the hub's clock, Unix milliseconds; 0 where the client does not tell.
    pub expires_at_ms: u64,
    /// Most urgent first.
    pub events: Vec<Event>,
}

/// How a consumer ends deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Done well.
    Ack,
    /// Failed: again, after the delay of the subscription or this one.
    Nack {
        /// Milliseconds.
        after_ms: Option<u64>,
    },
    /// Failed for a reason that is not retried.
    NackForGood,
    /// Impossible.
    Reject,
    /// Untouched.
    Release,
}

/// Why an event is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Death {
    /// It failed as often as is allowed.
    MaxAttempts,
    /// A consumer rejected it.
    Rejected,
    /// It failed for a reason that is not retried.
    NonRetryable,
    /// Its deadline passed, or would pass before its next delivery.
    TooLate,
    /// Anything else.
    Other,
}

/// A dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// Within its subscription, never used again.
    pub number: u64,
    /// Of its event.
    pub offset: u64,
    /// Why.
    pub death: Death,
    /// How often it failed.
    pub failures: u32,
}

/// What a subscription says of itself, events by what they wait for and how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Never delivered, and ready.
    pub pending: u64,
    /// Never delivered, and not ready.
    pub delayed: u64,
    /// With consumers.
    pub in_flight: u64,
    /// Failed, and waiting.
    pub retrying: u64,
    /// Dead letters that are kept.
    pub dead_letters: u64,
    /// Done well, ever.
    pub acked: u64,
    /// Dead, ever.
    pub dead: u64,
    /// Dead and not kept, ever.
    pub dropped: u64,
    /// Lost by consumers, ever.
    pub expired: u64,
}

impl Counts {
    /// Events that are not at their end.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.pending + self.delayed + self.in_flight + self.retrying
    }
}
