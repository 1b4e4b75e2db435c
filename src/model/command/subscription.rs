//! Commands over subscriptions.

use crate::model::subscription::{SubscriptionConfig, SubscriptionPatch};

/// A place to start from. The proposer has resolved nothing: apply looks it up.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Place {
    /// Absent: the end.
    #[prost(oneof = "At", tags = "1, 2, 3, 4, 5")]
    pub at: Option<At>,
}

/// A place to start from.
#[derive(Clone, Copy, PartialEq, Eq, prost::Oneof)]
pub enum At {
    /// The oldest event; the value means nothing.
    #[prost(bool, tag = "1")]
    Start(bool),
    /// After the newest event; the value means nothing.
    #[prost(bool, tag = "2")]
    End(bool),
    /// An offset; only for a pattern that names one topic, which exists.
    #[prost(uint64, tag = "3")]
    Offset(u64),
    /// A position.
    #[prost(uint64, tag = "4")]
    Position(u64),
    /// The first event that was recorded at or after this, Unix milliseconds.
    #[prost(uint64, tag = "5")]
    TimeMs(u64),
}

impl From<At> for Place {
    fn from(at: At) -> Self {
        Self { at: Some(at) }
    }
}

/// Create a subscription; the proposer has resolved every default.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CreateSubscription {
    /// A valid name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Settings; checked again.
    #[prost(message, required, tag = "2")]
    pub config: SubscriptionConfig,
    /// Where it starts.
    #[prost(message, required, tag = "3")]
    pub start: Place,
    /// Empty: none.
    #[prost(string, tag = "4")]
    pub request_id: String,
}

/// Change a subscription's settings. They hold for what is under way too.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct UpdateSubscription {
    /// The subscription's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// What changes.
    #[prost(message, required, tag = "2")]
    pub patch: SubscriptionPatch,
    /// 0: whatever it is.
    #[prost(uint64, tag = "3")]
    pub if_revision: u64,
    /// Empty: none.
    #[prost(string, tag = "4")]
    pub request_id: String,
}

/// Delete a subscription with its progress, leases, retries and dead letters.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DeleteSubscription {
    /// The subscription's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Empty: none.
    #[prost(string, tag = "2")]
    pub request_id: String,
}

/// Stop handing out events. What is leased may still be settled.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PauseSubscription {
    /// The subscription's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// When it ends by itself, Unix milliseconds; 0: never.
    #[prost(uint64, tag = "2")]
    pub resume_at_ms: u64,
    /// Empty: none.
    #[prost(string, tag = "3")]
    pub request_id: String,
    /// Because its target is down: another pause that is there stays.
    #[prost(bool, tag = "4")]
    pub target_down: bool,
}

/// Hand out events again.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ResumeSubscription {
    /// The subscription's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Empty: none.
    #[prost(string, tag = "2")]
    pub request_id: String,
    /// Because its target is back: another pause stays.
    #[prost(bool, tag = "3")]
    pub target_up: bool,
}

/// Move a subscription to another place: what comes before is done, what comes after is not.
/// Leases end; retries are forgotten; dead letters stay.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SeekSubscription {
    /// The subscription's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Where to.
    #[prost(message, required, tag = "2")]
    pub to: Place,
    /// Empty: none.
    #[prost(string, tag = "3")]
    pub request_id: String,
}
