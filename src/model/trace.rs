//! What became of an event, subscription by subscription.

use super::delivery::{Attempt, DeadReason};
use super::ids::{DeadNumber, SubscriptionId, UnixMs};

/// How an event stands with a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may be delivered.
    Pending,
    /// It may be delivered from then on.
    Delayed(UnixMs),
    /// It was called off before it could be delivered, and is not going to be.
    Cancelled,
    /// A consumer has it, for the first time or again.
    Leased(Holder),
    /// It failed, or was redriven, and may be delivered again from then on.
    Retrying(UnixMs),
    /// It was acknowledged.
    Acked,
    /// It does not pass the subscription's filter.
    Filtered,
    /// It is from before the place where the subscription starts.
    Before,
    /// It ended for good.
    Dead(Death),
}

/// Who has an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// The consumer; empty: the hub did not look through all leases.
    pub consumer: String,
    /// Until when.
    pub until: UnixMs,
}

/// The end of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// Its number among the subscription's dead letters; `None`: none is kept of it.
    pub number: Option<DeadNumber>,
    /// Why.
    pub reason: DeadReason,
    /// When.
    pub at: UnixMs,
}

/// What became of an event in one subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fate {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// Its name.
    pub name: String,
    /// How the event stands there.
    pub standing: Standing,
    /// Failures since the last redrive.
    pub failures: u32,
    /// The first and the newest of them, while they are kept.
    pub attempts: Vec<Attempt>,
    /// How often it came back from the dead.
    pub redrives: u32,
}
