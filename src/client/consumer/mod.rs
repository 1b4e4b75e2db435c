//! Consuming a subscription: deliveries come in, settlements go out, leases are renewed, through
//! breaks and changes of leader.
//!
//! ```no_run
//! # async fn example(client: message_hub::client::Client) -> Result<(), message_hub::model::rejection::Rejection> {
//! use message_hub::client::ConsumerOptions;
//!
//! let mut consumer = client.consume("billing", ConsumerOptions::default());
//! while let Some(delivery) = consumer.next().await? {
//!     for event in delivery.events() {
//!         println!("{} {} (attempt {})", event.recorded.topic, event.recorded.offset, event.attempt);
//!     }
//!     delivery.ack().await?;
//! }
//! # Ok(()) }
//! ```

mod driver;
mod state;
mod wish;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use prost::Message as _;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use self::state::{Phase, State};
use super::spawn::{now, spawn};
use super::{Client, recorded_events};
use crate::model::ids::Offset;
use crate::model::limits::{CREDIT_BYTES_MAX, CREDIT_EVENTS_MAX};
use crate::model::ranges::{OffsetRange, Ranges};
use crate::model::rejection::{Reason, Rejection};
use crate::proto::batch::deltas;
use crate::proto::v1::settlement::Action;
use crate::proto::v1::{
    Ack, EventBatch, LeasedEvents, Nack, OpenConsume, RecordedEvent, Reject, Release,
};

/// How a consumer behaves.
#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    /// Who it is, 1 to 128 bytes: what is in flight is bounded by name. Default: `consumer-` and a
    /// UUID.
    pub name: String,
    /// Events that it may have unsettled, 1 to 100,000. Default 1000; the subscription has bounds of
    /// its own.
    pub events: i64,
    /// Encoded bytes of them, 1 to 64 MiB. Default 8 MiB.
    pub bytes: i64,
    /// How long a lease lasts unless it is renewed, 1 s to 12 h. Default: as the subscription says.
    pub lease: Option<Duration>,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self {
            name: format!("consumer-{}", uuid::Uuid::new_v4()),
            events: 1000,
            bytes: 8 << 20,
            lease: None,
        }
    }
}

impl ConsumerOptions {
    fn lease_ms(&self) -> u64 {
        self.lease.map_or(0, |lease| u64::try_from(lease.as_millis()).unwrap_or(u64::MAX))
    }

    fn check(&self) -> Result<(), Rejection> {
        let (events, bytes) = (self.events, self.bytes);
        if (1..=CREDIT_EVENTS_MAX).contains(&events) && (1..=CREDIT_BYTES_MAX).contains(&bytes) {
            return Ok(());
        }
        Err(Rejection::new(
            Reason::InvalidRequest,
            format!(
                "a consumer of {events} events and {bytes} bytes is not within 1 and {CREDIT_EVENTS_MAX} events, 1 and {CREDIT_BYTES_MAX} bytes; choose others"
            ),
        ))
    }
}

/// A consumer of one subscription. When it is dropped, what was not settled is given back.
#[derive(Debug)]
pub struct Consumer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// For the driver: there is something to do.
    work: Notify,
    /// For the consumer: something arrived, or it has ended.
    news: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    /// Begins to consume a subscription.
    #[must_use]
    pub fn consume(&self, subscription: impl Into<String>, options: ConsumerOptions) -> Consumer {
        let open = OpenConsume {
            subscription: subscription.into(),
            consumer: options.name.clone(),
            lease_ms: options.lease_ms(),
        };
        let checked = options.check();
        let state = Mutex::new(State::new(options));
        let shared = Arc::new(Shared { state, work: Notify::new(), news: Notify::new() });
        match checked {
            Ok(()) => {
                spawn(driver::drive(Arc::clone(&shared), Arc::clone(&self.endpoints), open));
            }
            Err(rejection) => shared.lock().fail(rejection),
        }
        Consumer { shared }
    }
}

impl Consumer {
    /// The next events, all under one lease; `None` after a shutdown. May be dropped and called
    /// again without losing anything.
    ///
    /// # Errors
    /// What the hub refuses, and the last trouble when no node served for as long as a call may
    /// take. The consumer has ended then.
    pub async fn next(&mut self) -> Result<Option<Delivery>, Rejection> {
        loop {
            {
                let mut state = self.shared.lock();
                if let Some(arrived) = state.arrived.pop_front() {
                    return Ok(Some(Delivery { arrived, shared: Arc::clone(&self.shared) }));
                }
                if let Some(failure) = &state.failure {
                    return Err(failure.clone());
                }
                if state.phase != Phase::Consuming {
                    return Ok(None);
                }
            }
            self.shared.news.notified().await;
        }
    }

    /// Takes nothing more, lets those finish for a while who are at work on deliveries, and gives
    /// the rest back: no attempt is counted for that.
    pub async fn shutdown(self, patience: Duration) {
        self.shared.lock().drain(Instant::from_std(now()) + patience);
        self.shared.work.notify_one();
        while self.shared.lock().phase != Phase::Ended {
            self.shared.news.notified().await;
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.shared.lock().drain(Instant::from_std(now()));
        self.shared.work.notify_one();
    }
}

/// A delivery as it arrived.
#[derive(Debug)]
struct Arrived {
    lease_id: u64,
    term: u64,
    topic_id: u64,
    expires_in: Duration,
    attempts: Vec<u32>,
    batches: Vec<EventBatch>,
    /// Of credit.
    bytes: i64,
}

impl Arrived {
    fn decode(leased: LeasedEvents) -> Result<Self, Rejection> {
        let bytes: usize = leased.batches.iter().map(bytes::Bytes::len).sum();
        let decoded: Result<Vec<_>, _> =
            leased.batches.into_iter().map(EventBatch::decode).collect();
        let batches = decoded.map_err(|error| {
            let why = format!("the hub sent a malformed batch ({error}); check its version");
            Rejection::new(Reason::Internal, why)
        })?;
        Ok(Self {
            lease_id: leased.lease_id,
            term: leased.term,
            topic_id: leased.topic_id,
            expires_in: Duration::from_millis(leased.expires_in_ms),
            attempts: leased.attempts,
            batches,
            bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
        })
    }

    fn ranges(&self) -> impl Iterator<Item = OffsetRange> + '_ {
        self.batches.iter().flat_map(|batch| {
            let offsets = deltas(batch).map(|delta| Offset(batch.first_offset + delta));
            Ranges::from_iter(offsets).into_vec()
        })
    }
}

/// Events of one topic under one lease, which is renewed until they are settled. When it is dropped
/// before, it runs out: the attempt has failed.
#[derive(Debug)]
pub struct Delivery {
    arrived: Arrived,
    shared: Arc<Shared>,
}

/// One event of a delivery.
#[derive(Clone, Debug, PartialEq)]
pub struct DeliveredEvent {
    /// The event and its place.
    pub recorded: RecordedEvent,
    /// From 1.
    pub attempt: u32,
}

impl Delivery {
    /// The topic of all its events.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.arrived.batches.first().map_or("", |batch| &batch.topic)
    }

    /// How many events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.arrived.batches.iter().map(|batch| batch.events.len()).sum()
    }

    /// Never: a delivery has an event.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The lease's id.
    #[must_use]
    pub fn lease_id(&self) -> u64 {
        self.arrived.lease_id
    }

    /// The events, most urgent first.
    pub fn events(&self) -> impl Iterator<Item = DeliveredEvent> + '_ {
        let attempts = self.arrived.attempts.iter().copied().chain(std::iter::repeat(1));
        let events = self.arrived.batches.iter().flat_map(recorded_events);
        events.zip(attempts).map(|(recorded, attempt)| DeliveredEvent { recorded, attempt })
    }

    /// All of it is done well.
    pub fn ack(&self) -> Settling {
        self.settle(&[], Action::Ack(Ack {}))
    }

    /// Events, by their offsets, are done well.
    pub fn ack_events(&self, offsets: &[u64]) -> Settling {
        self.settle_events(offsets, Action::Ack(Ack {}))
    }

    /// Events failed, and are to come again.
    pub fn nack_events(&self, offsets: &[u64], nack: Nack) -> Settling {
        self.settle_events(offsets, Action::Nack(nack))
    }

    /// Events are impossible, and go to the dead letters.
    pub fn reject_events(&self, offsets: &[u64], reject: Reject) -> Settling {
        self.settle_events(offsets, Action::Reject(reject))
    }

    /// Events were not looked at, and are for others.
    pub fn release_events(&self, offsets: &[u64]) -> Settling {
        self.settle_events(offsets, Action::Release(Release {}))
    }

    fn settle_events(&self, offsets: &[u64], action: Action) -> Settling {
        if offsets.is_empty() {
            // Of no events; of none at all would be of all that are left.
            let (answer, outcome) = oneshot::channel();
            drop(answer.send(Ok(())));
            return Settling(outcome);
        }
        self.settle(offsets, action)
    }

    fn settle(&self, offsets: &[u64], action: Action) -> Settling {
        let ranges: Vec<OffsetRange> =
            offsets.iter().map(|offset| OffsetRange { first: *offset, count: 1 }).collect();
        let (answer, outcome) = oneshot::channel();
        let events = Ranges::from_unsorted(&ranges);
        self.shared.lock().settle(self.arrived.lease_id, events, action, answer);
        self.shared.work.notify_one();
        Settling(outcome)
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.shared.lock().abandon(self.arrived.lease_id);
    }
}

/// A settlement on its way, which goes on when this is dropped.
#[derive(Debug)]
#[must_use = "await it to know that it is done"]
pub struct Settling(oneshot::Receiver<Result<(), Rejection>>);

impl Future for Settling {
    /// `LEASE_EXPIRED` when the events are not this consumer's any more; `OUTCOME_UNKNOWN` when a
    /// break hides whether it was done.
    type Output = Result<(), Rejection>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|answer| {
            answer.unwrap_or_else(|_| {
                let text = "the consumer was stopped; it may or may not have been settled";
                Err(Rejection::new(Reason::OutcomeUnknown, text))
            })
        })
    }
}

#[cfg(test)]
mod tests;
