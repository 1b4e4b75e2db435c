//! Handing out events: one dispatcher a subscription that somebody waits for.
//!
//! A dispatcher serves those who wait in rounds (`round`). While the leases of one are on their way others gather
//! for the next one. It alone plans for its subscription, so no two rounds ask for the same events.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::hand_out::{Delivery, HandOut};
use super::latency::Latency;
use super::plan::Memory;
use super::round::Round;
use super::stopping;
use super::waiter::Waiter;
use crate::model::ids::UnixMs;
use crate::model::limits::{
    DISPATCH_LOOK_MS, DISPATCH_PAUSE_MS, DISPATCH_REST_MS_MAX, DISPATCHER_IDLE_MS, DISPATCHERS_MAX,
    OVERLOADED_RETRY_MS, PULLS_WAITING_MAX,
};
use crate::model::rejection::{Reason, Rejection};
use crate::node::Node;
use crate::node::quotas::in_flight_exceeded;
use crate::raft::hints::Listener;
use crate::runtime::{clock, tasks};

/// The ways to the dispatchers, by subscription.
#[derive(Default)]
pub(super) struct Dispatchers(Mutex<BTreeMap<String, mpsc::Sender<Waiter>>>);

pub(super) fn overloaded(what: &str) -> Rejection {
    let text = format!("{what} on this node; pull less at once, or try again later");
    Rejection::new(Reason::Overloaded, text).retry_after_ms(OVERLOADED_RETRY_MS)
}

/// Hands somebody who waits to the dispatcher of a subscription, and starts that where needed.
///
/// # Errors
/// `OVERLOADED`.
pub(super) fn enqueue(
    node: &Arc<Node>,
    subscription: &str,
    waiter: Waiter,
) -> Result<(), Rejection> {
    let mut known = node.lead.dispatchers.0.lock().unwrap_or_else(PoisonError::into_inner);
    let waiter = match known.get(subscription) {
        None => waiter,
        Some(way) => match way.try_send(waiter) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Closed(waiter)) => waiter,
            Err(TrySendError::Full(_)) => {
                let what = format!("too many pulls wait for subscription {subscription}");
                return Err(overloaded(&what));
            }
        },
    };
    if known.len() >= DISPATCHERS_MAX {
        return Err(overloaded("too many subscriptions are pulled from"));
    }
    let (way, inbox) = mpsc::channel(PULLS_WAITING_MAX);
    // The channel is new and has room.
    drop(way.try_send(waiter));
    known.insert(subscription.to_owned(), way);
    let dispatcher = Dispatcher {
        hints: node.raft.listen(),
        node: Arc::clone(node),
        subscription: subscription.to_owned(),
        inbox,
        waiting: VecDeque::new(),
        memory: Memory::default(),
        latency: node.lead.latencies.of(subscription),
        event_bytes: 0,
        fruitless: 0,
        vain: Duration::ZERO,
        round: None,
        flows: false,
    };
    tasks::spawn("dispatch", dispatcher.run());
    Ok(())
}

pub(super) struct Dispatcher {
    pub(super) node: Arc<Node>,
    pub(super) subscription: String,
    pub(super) inbox: mpsc::Receiver<Waiter>,
    /// The longest waiting first.
    pub(super) waiting: VecDeque<Waiter>,
    pub(super) hints: Listener,
    /// Lost where a look fails: the next one does without.
    pub(super) memory: Memory,
    pub(super) latency: Arc<Latency>,
    /// What an event took in the last round that found any; 0: unknown.
    pub(super) event_bytes: usize,
    /// Searches in a row that did not see everything and found nothing; each round over many topics is one.
    pub(super) fruitless: u32,
    /// What looks in vain took since it last waited.
    pub(super) vain: Duration,
    /// The leases of this round are on their way.
    pub(super) round: Option<Round>,
    /// The last look left events for others: there is something to look for meanwhile.
    pub(super) flows: bool,
}

/// What to do after a round.
pub(super) enum Next {
    /// Search again at once.
    Again,
    /// Search again, but not at once.
    Pause,
    /// Wait until something may have changed, at the latest then.
    Wait(Option<UnixMs>),
}

impl Dispatcher {
    async fn run(mut self) {
        loop {
            if self.node.shutdown.is_triggered() {
                self.refuse(&stopping());
            }
            self.gather();
            if self.waiting.is_empty() && self.round.is_none() {
                self.idle().await;
                if self.waiting.is_empty() && self.close() {
                    return;
                }
                continue;
            }
            match self.turn().await {
                // The others may get something in the next round.
                Ok(Next::Again) => self.dismiss(|waiter| waiter.full),
                Ok(Next::Pause) => {
                    self.dismiss(|_| true);
                    tokio::time::sleep(Duration::from_millis(DISPATCH_PAUSE_MS)).await;
                }
                Ok(Next::Wait(until)) => {
                    self.dismiss(|_| true);
                    self.wait(until).await;
                }
                Err(rejection) => {
                    self.refuse(&rejection);
                    if rejection.reason == Reason::SubscriptionNotFound && self.close() {
                        return;
                    }
                }
            }
        }
    }

    /// Takes in who came meanwhile, and forgets who gave up.
    fn gather(&mut self) {
        while self.waiting.len() < PULLS_WAITING_MAX
            && let Ok(waiter) = self.inbox.try_recv()
        {
            self.waiting.push_back(waiter);
        }
        self.waiting.retain(|waiter| !waiter.answer.is_closed());
    }

    /// Waits for somebody to come, not for ever.
    async fn idle(&mut self) {
        let patience = Duration::from_millis(DISPATCHER_IDLE_MS);
        tokio::select! {
            came = tokio::time::timeout(patience, self.inbox.recv()) => {
                self.waiting.extend(came.ok().flatten());
            }
            () = self.node.shutdown.wait() => {}
        }
    }

    /// Ends the way to this dispatcher, unless somebody came.
    fn close(&mut self) -> bool {
        let node = Arc::clone(&self.node);
        // Nobody is enqueued while this is held.
        let mut known = node.lead.dispatchers.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.gather();
        let closes = self.waiting.is_empty() && self.round.is_none();
        if closes {
            known.remove(&self.subscription);
        }
        closes
    }

    fn refuse(&mut self, rejection: &Rejection) {
        for waiter in self.waiting.drain(..) {
            // Whoever gave up waiting has no use for an answer; so for all answers.
            drop(waiter.answer.send(Err(rejection.clone())));
        }
    }

    /// Answers those of some whose time is over.
    fn dismiss(&mut self, of: impl Fn(&Waiter) -> bool) {
        let now = clock::now();
        for waiter in std::mem::take(&mut self.waiting) {
            if waiter.until <= now && of(&waiter) {
                let nothing = self.hand_out(&waiter, Vec::new());
                let over_quota = waiter.over_quota.then(|| in_flight_exceeded(&waiter.service));
                drop(waiter.answer.send(over_quota.map_or(Ok(nothing), Err)));
            } else {
                self.waiting.push_back(waiter);
            }
        }
    }

    pub(super) fn hand_out(&self, waiter: &Waiter, deliveries: Vec<Delivery>) -> HandOut {
        HandOut {
            node: Arc::clone(&self.node),
            subscription: self.subscription.clone(),
            consumer: waiter.consumer.clone(),
            deliveries,
        }
    }

    /// Waits until there may be something for those who wait, or one of them has waited enough.
    async fn wait(&mut self, until: Option<UnixMs>) {
        // However many topics there are, it looks at them in vain for a tenth of the time at most.
        let mut look = clock::now()
            + Duration::from_millis(DISPATCH_LOOK_MS).max(self.vain.saturating_mul(10));
        if let Some(until) = until {
            let left = until.since(self.node.now()).clamp(1, DISPATCH_LOOK_MS);
            look = look.min(clock::now() + Duration::from_millis(left));
        }
        let Some(first) = self.waiting.iter().map(|waiter| waiter.until).min() else { return };
        let mut leadership = self.node.raft.leadership();
        if leadership.term().is_none() {
            return;
        }
        let room = self.waiting.len() < PULLS_WAITING_MAX;
        let rest = self.rest();
        tokio::select! {
            () = self.hints.hear() => {
                self.memory.cursor.look_again();
                // Timers are no finer than this.
                if rest >= Duration::from_millis(1) {
                    tokio::time::sleep(rest).await;
                }
            }
            came = self.inbox.recv(), if room => self.waiting.extend(came),
            () = tokio::time::sleep_until(look.min(first).into()) => {}
            _ = leadership.changed() => {}
            () = self.node.shutdown.wait() => {}
        }
    }

    /// How long hints are let gather after looks in vain: whatever happens elsewhere in the hub, the
    /// looks in vain of all dispatchers together take about one thread.
    fn rest(&mut self) -> Duration {
        let vain = std::mem::take(&mut self.vain);
        self.fruitless = 0;
        let known = self.node.lead.dispatchers.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = u32::try_from(known.len()).unwrap_or(u32::MAX);
        vain.saturating_mul(count).min(Duration::from_millis(DISPATCH_REST_MS_MAX))
    }
}
