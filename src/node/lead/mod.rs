//! What the leader does beyond proposing: it announces itself, fires timers, hands out events.
//!
//! All of it runs on every node and acts on the one that leads, so that no election can leave it
//! stopped. It keeps nothing that the state does not have: a new leader begins anew.

mod dispatch;
mod hand_out;
mod lag;
mod latency;
mod plan;
mod round;
mod term;
mod ticker;
mod waiter;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use self::dispatch::Dispatchers;
pub use self::hand_out::Delivery;
use self::latency::Latencies;
pub use self::latency::LatencySample;
use self::waiter::Waiter;
use super::Node;
use super::propose::not_leader;
use super::settle::{check_consumer, check_lease_ms};
use crate::machine::delivery::lease::routed;
use crate::machine::subscription::record;
use crate::model::ids::Term;
use crate::model::limits::{
    CONSUME_STREAMS_MAX, DISPATCH_BYTES_MAX, LEASE_GRACE_MS_MAX, PULL_BYTES_MAX,
};
use crate::model::name;
use crate::model::rejection::{Reason, Rejection};
use crate::runtime::clock;
use crate::telemetry::spans::Spans;

/// How long those who consumed from a deposed leader wait for the name of the new one.
const HINT_PATIENCE: Duration = Duration::from_millis(500);

/// What the leader keeps in memory.
pub(super) struct Lead {
    /// The term that this node has announced itself in; leases are granted only then.
    announced: watch::Sender<Option<Term>>,
    /// How long leases of earlier leaders are honoured.
    grace_ms: u64,
    dispatchers: Dispatchers,
    latencies: Latencies,
    /// Bytes of events that rounds of dispatch may still plan for.
    bytes: Arc<Semaphore>,
    /// Consume streams that may still be opened.
    streams: Arc<Semaphore>,
}

impl Lead {
    pub(super) fn new(election_max: Duration) -> Self {
        let grace_ms = u64::try_from((election_max * 2).as_millis()).unwrap_or(u64::MAX);
        Self {
            announced: watch::Sender::default(),
            grace_ms: grace_ms.min(LEASE_GRACE_MS_MAX),
            dispatchers: Dispatchers::default(),
            latencies: Latencies::default(),
            bytes: Arc::new(Semaphore::new(DISPATCH_BYTES_MAX)),
            streams: Arc::new(Semaphore::new(CONSUME_STREAMS_MAX)),
        }
    }
}

impl Lead {
    /// The term that this node has announced itself in.
    pub(super) fn announced(&self) -> watch::Receiver<Option<Term>> {
        self.announced.subscribe()
    }
}

/// Starts what runs for as long as the node does.
pub(super) fn start(node: &Arc<Node>) {
    term::start(node);
    ticker::start(node);
    lag::start(node);
}

/// A wish for events.
#[derive(Clone, Debug)]
pub struct PullRequest {
    /// The subscription's name.
    pub subscription: String,
    /// Who gets them.
    pub consumer: String,
    /// The service that they declare; its quota counts.
    pub service: String,
    /// At most so many events, at least 1.
    pub max_events: u64,
    /// At most so many encoded bytes, at least 1, lowered to `PULL_BYTES_MAX`; one event comes in
    /// any case.
    pub max_bytes: usize,
    /// For how long, milliseconds; 0: as the subscription says.
    pub lease_ms: u64,
    /// How long to wait while nothing is ready.
    pub wait: Duration,
}

impl Node {
    /// Leases events to a consumer, once some are ready. Empty when none were in time.
    ///
    /// When the future is dropped, what was leased meanwhile is released.
    ///
    /// # Errors
    /// `INVALID_NAME`, `INVALID_REQUEST`, `SUBSCRIPTION_NOT_FOUND`, `SUBSCRIPTION_PAUSED`,
    /// `SUBSCRIPTION_ROUTED` when the hub itself delivers them,
    /// `OVERLOADED` when too many wait, `QUOTA_EXCEEDED` when as many events are in flight to the
    /// service as it may have and none came back in time, `NOT_LEADER`, and those of any proposal.
    pub async fn pull(self: &Arc<Self>, request: PullRequest) -> Result<Vec<Delivery>, Rejection> {
        name::check_subscription(&request.subscription)?;
        check_consumer(&request.consumer)?;
        check_lease_ms(request.lease_ms)?;
        if request.max_events == 0 || request.max_bytes == 0 {
            let text = "a pull of no events or no bytes gets nothing; ask for one at least";
            return Err(Rejection::new(Reason::InvalidRequest, text));
        }
        if !self.raft.is_leader() {
            return Err(not_leader(&self.raft));
        }
        let (answer, handed) = oneshot::channel();
        let began = clock::wall();
        let waiter = Waiter {
            consumer: request.consumer.clone(),
            service: request.service,
            looked: false,
            full: false,
            over_quota: false,
            events: request.max_events,
            bytes: request.max_bytes.min(PULL_BYTES_MAX),
            lease_ms: request.lease_ms,
            until: clock::now() + request.wait,
            answer,
        };
        dispatch::enqueue(self, &request.subscription, waiter)?;
        match handed.await {
            Ok(answer) => {
                let taken = answer?.take();
                if let Some(spans) = &self.spans {
                    let to = (request.subscription.as_str(), request.consumer.as_str());
                    tell_spans(spans, to, &taken, began);
                }
                Ok(taken)
            }
            Err(_) => Err(stopping()),
        }
    }

    /// How long events of a subscription waited here until they were leased.
    pub(super) fn dispatch_latency(&self, subscription: &str) -> LatencySample {
        self.lead.latencies.sample(subscription)
    }

    /// Makes room for a consume stream, which holds it while it is open.
    ///
    /// # Errors
    /// `OVERLOADED`.
    pub fn admit_consumer(&self) -> Result<OwnedSemaphorePermit, Rejection> {
        let admitted = Arc::clone(&self.lead.streams).try_acquire_owned();
        admitted.map_err(|_| dispatch::overloaded("too many consume streams are open"))
    }

    /// Checks what a consume stream asks for; the term that it is served in.
    ///
    /// # Errors
    /// `INVALID_NAME`, `INVALID_REQUEST`, `SUBSCRIPTION_NOT_FOUND`, `SUBSCRIPTION_ROUTED`, `NOT_LEADER`,
    /// `NO_QUORUM`.
    pub async fn begin_consume(
        &self,
        subscription: &str,
        consumer: &str,
        lease_ms: u64,
    ) -> Result<Term, Rejection> {
        name::check_subscription(subscription)?;
        check_consumer(consumer)?;
        check_lease_ms(lease_ms)?;
        let term = self.leading().await?;
        let wanted = subscription.to_owned();
        let found = self.read(move |db| record::get(db, &wanted)).await?;
        let found = found.ok_or_else(|| record::not_found(subscription))?;
        match found.config.target {
            None => Ok(term),
            Some(target) => Err(routed(subscription, &target.service)),
        }
    }

    /// The term that this node leads in, once it is announced.
    ///
    /// # Errors
    /// `NOT_LEADER`; `NO_QUORUM` when it cannot be announced in time.
    async fn leading(&self) -> Result<Term, Rejection> {
        let mut announced = self.lead.announced.subscribe();
        let mut leadership = self.raft.leadership();
        let deadline = self.deadline();
        loop {
            let term = leadership.term().ok_or_else(|| not_leader(&self.raft))?;
            if *announced.borrow_and_update() == Some(term) {
                return Ok(term);
            }
            tokio::select! {
                _ = announced.changed() => {}
                changed = leadership.changed() => changed.map_err(|_| stopping())?,
                () = self.shutdown.wait() => return Err(stopping()),
                () = tokio::time::sleep_until(deadline.into()) => return Err(Rejection::new(
                    Reason::NoQuorum,
                    "the leader cannot reach a quorum; nothing is delivered, try again",
                )),
            }
        }
    }

    /// Waits until this node does not lead any more; why, with the new leader's name where that is
    /// known soon.
    pub async fn deposed(&self) -> Rejection {
        let mut leadership = self.raft.leadership();
        while leadership.term().is_some() {
            if leadership.changed().await.is_err() {
                return stopping();
            }
        }
        let named = async {
            while not_leader(&self.raft).reason == Reason::NoLeader {
                if leadership.changed().await.is_err() {
                    return;
                }
            }
        };
        // Without a name it is found by asking around.
        drop(tokio::time::timeout(HINT_PATIENCE, named).await);
        not_leader(&self.raft)
    }
}

/// Tells what of deliveries is traced, each by itself. A delivery began when there was something to deliver.
fn tell_spans(spans: &Spans, to: (&str, &str), taken: &[Delivery], asked: SystemTime) {
    for delivery in taken {
        let views: Vec<_> = delivery.batches.iter().filter_map(|batch| batch.view().ok()).collect();
        // All of them are of one topic.
        let Some(topic) = views.first().map(|view| view.topic) else { continue };
        let newest = views.iter().map(|view| view.recorded_at.get()).max().unwrap_or(0);
        let began = asked.max(SystemTime::UNIX_EPOCH + Duration::from_millis(newest));
        let ended = clock::wall().max(began);
        if let Some(traced) = spans.traced(views.iter().map(|view| view.run), began) {
            spans.delivered(&traced, topic, to, delivery.events(), ended);
        }
    }
}

pub(super) fn stopping() -> Rejection {
    Rejection::new(Reason::ShuttingDown, "the node is stopping; ask another node")
}

#[cfg(test)]
mod tests;
