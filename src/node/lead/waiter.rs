//! Somebody who waits for events of a subscription.

use std::time::Instant;

use tokio::sync::oneshot;

use super::hand_out::HandOut;
use super::plan::Ask;
use crate::model::rejection::Rejection;

/// Somebody who waits for events.
pub(super) struct Waiter {
    pub(super) consumer: String,
    pub(super) service: String,
    /// It was in a round before.
    pub(super) looked: bool,
    /// What its consumer and its service may have was used up at the last look.
    pub(super) full: bool,
    /// The quota of its service was.
    pub(super) over_quota: bool,
    pub(super) events: u64,
    pub(super) bytes: usize,
    pub(super) lease_ms: u64,
    /// Answered empty when nothing was ready until then; one look is taken in any case.
    pub(super) until: Instant,
    pub(super) answer: oneshot::Sender<Result<HandOut, Rejection>>,
}

impl Waiter {
    /// What it asks a look for.
    pub(super) fn ask(&self) -> Ask {
        let (consumer, service) = (self.consumer.clone(), self.service.clone());
        Ask { consumer, service, events: self.events, bytes: self.bytes }
    }
}
