//! Handing out events: one dispatcher a subscription that somebody waits for.
//!
//! A dispatcher serves all who wait in rounds: one search, one lease command for each of them in
//! one go, and the bytes of all. While a round is on its way others gather for the next one, and
//! since rounds follow each other, no two of them plan the same events.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::hand_out::{Delivery, HandOut, deliveries};
use super::latency::Latency;
use super::plan::{self, Ask, Bounds, HeldBack, Look, Memory, Part, Plan};
use super::stopping;
use super::waiter::Waiter;
use crate::machine::Fault;
use crate::machine::delivery::lease::paused;
use crate::machine::subscription::record::{self, SubscriptionRecord, not_found};
use crate::machine::topic::runs::RunReader;
use crate::model::command::{Kind, Lease};
use crate::model::delivery::{Granted, Leased};
use crate::model::ids::{Term, UnixMs};
use crate::model::limits::{
    DISPATCH_LOOK_MS, DISPATCH_PAUSE_MS, DISPATCH_REST_MS_MAX, DISPATCH_ROUND_BYTES,
    DISPATCH_ROUND_EVENTS, DISPATCH_SEARCHES_MAX, DISPATCHER_IDLE_MS, DISPATCHERS_MAX,
    OVERLOADED_RETRY_MS, PULLS_WAITING_MAX,
};
use crate::model::outcome::Outcome;
use crate::model::pattern::TopicPattern;
use crate::model::rejection::{Reason, Rejection};
use crate::node::propose::Ticket;
use crate::node::quotas::{Limit, in_flight_exceeded};
use crate::node::{Node, unexpected};
use crate::raft::hints::{Interest, Listener};
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
    };
    tasks::spawn("dispatch", dispatcher.run());
    Ok(())
}

struct Dispatcher {
    node: Arc<Node>,
    subscription: String,
    inbox: mpsc::Receiver<Waiter>,
    /// The longest waiting first.
    waiting: VecDeque<Waiter>,
    hints: Listener,
    /// Lost where a look fails: the next one does without.
    memory: Memory,
    latency: Arc<Latency>,
    /// What an event took in the last round that found any; 0: unknown.
    event_bytes: usize,
    /// Searches in a row that did not see everything and found nothing; each round over many topics is one.
    fruitless: u32,
    /// What looks in vain took since it last waited.
    vain: Duration,
}

/// What to do after a round.
enum Next {
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
            if self.waiting.is_empty() {
                self.idle().await;
                if self.waiting.is_empty() && self.close() {
                    return;
                }
                continue;
            }
            // What changes from here on is looked at in the next round; in topics that were passed, too.
            if !self.memory.cursor.is_in_round() && self.hints.forget() {
                self.memory.cursor.look_back();
            }
            match self.round().await {
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
        let closes = self.waiting.is_empty();
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

    fn hand_out(&self, waiter: &Waiter, deliveries: Vec<Delivery>) -> HandOut {
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

    /// Looks for events for those who wait, leases them and hands them out.
    async fn round(&mut self) -> Result<Next, Rejection> {
        let term = self.node.leading().await?;
        if self.waiting.iter().any(|waiter| !waiter.looked) {
            self.memory.cursor.look_again();
        }
        let asks: Vec<Ask> = self.waiting.iter().map(Waiter::ask).collect();
        let wanted: usize = asks.iter().map(|ask| ask.bytes).sum();
        let bounds = self.bounds(wanted);
        let node = Arc::clone(&self.node);
        let room = u32::try_from(bounds.bytes).unwrap_or(u32::MAX);
        let _room = node.lead.bytes.acquire_many(room).await.map_err(|_| stopping())?;
        let (name, memory) = (self.subscription.clone(), std::mem::take(&mut self.memory));
        let memory = Mutex::new(memory);
        let now = node.now();
        let began = clock::now();
        let looked = node.read(move |db| {
            let record = record::get(db, &name)?;
            let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
            let look = plan::look(db, &name, now, &mut memory, &asks, bounds)?;
            Ok((record, look, std::mem::take(&mut *memory)))
        });
        let (record, look);
        (record, look, self.memory) = looked.await?;
        let took = clock::now().duration_since(began);
        self.vain = if look.is_vain() { self.vain + took } else { Duration::ZERO };
        match look {
            Look::Missing => Err(not_found(&self.subscription)),
            Look::Paused => Err(paused(&self.subscription)),
            Look::Full(held_back) => {
                self.hold_back(record.as_ref(), &held_back);
                Ok(Next::Wait(None))
            }
            Look::Plan(plan) => {
                self.hold_back(record.as_ref(), &plan.held_back);
                if !plan.more {
                    self.memory.reader = RunReader::default();
                }
                let ahead = plan.goes_on.then(|| self.memory.reader.clone());
                let (next, ahead) =
                    tokio::join!(self.grant(term, *plan, took), node.read_ahead(ahead));
                if let Some(reader) = ahead {
                    self.memory.reader = reader;
                }
                next
            }
        }
    }

    /// Takes note of those who are held back, be it by what their service has from other subscriptions.
    fn hold_back(&mut self, record: Option<&SubscriptionRecord>, held_back: &[HeldBack]) {
        let alone = record.filter(|_| held_back.iter().all(|held| held.limit.is_none()));
        self.hints.attend(alone.map_or(Interest::Anything, |record| {
            let pattern = TopicPattern::from_checked(&record.config.pattern);
            Interest::Subscription(record.subscription_id(), pattern)
        }));
        for (waiter, held) in self.waiting.iter_mut().zip(held_back) {
            if let Some(limit) = held.limit {
                self.node.quotas.hit(&waiter.service, limit);
            }
            (waiter.looked, waiter.full) = (true, held.full);
            waiter.over_quota = held.limit == Some(Limit::InFlight);
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

    fn bounds(&self, wanted: usize) -> Bounds {
        let bytes = wanted.min(DISPATCH_ROUND_BYTES);
        let events = match self.event_bytes {
            0 => DISPATCH_ROUND_EVENTS,
            each => (bytes / each + self.waiting.len()) as u64,
        };
        Bounds { events: events.min(DISPATCH_ROUND_EVENTS), bytes }
    }

    async fn grant(&mut self, term: Term, plan: Plan, took: Duration) -> Result<Next, Rejection> {
        let Plan { revision, shares, mut skips, more, goes_round, wake_at, .. } = plan;
        let planned = shares.iter().any(|share| !share.picks.is_empty());
        if !planned && skips.is_empty() {
            self.fruitless += u32::from(!goes_round);
            if more && self.fruitless < DISPATCH_SEARCHES_MAX {
                // While everything near is in flight, those who settle it have the processor.
                tokio::time::sleep(took.min(Duration::from_millis(DISPATCH_PAUSE_MS))).await;
                return Ok(Next::Again);
            }
            return Ok(Next::Wait(wake_at));
        }
        self.fruitless = 0;
        let mut served: Vec<Served> = Vec::with_capacity(shares.len());
        let mut failed = None;
        for (waiter, share) in self.waiting.drain(..).zip(shares) {
            let alone = !planned && !skips.is_empty();
            let mut ticket = None;
            if failed.is_none() && (alone || !share.picks.is_empty()) {
                let lease = Lease {
                    subscription: self.subscription.clone(),
                    revision,
                    term: term.get(),
                    consumer: waiter.consumer.clone(),
                    lease_ms: waiter.lease_ms,
                    picks: share.picks,
                    skips: std::mem::take(&mut skips),
                    in_flight_max_consumer: 0,
                    service: waiter.service.clone(),
                };
                match self.node.proposer.submit(Kind::Lease(lease)).await {
                    Ok(submitted) => ticket = Some(submitted),
                    Err(rejection) => failed = Some(rejection),
                }
            }
            served.push(Served { waiter, parts: share.parts, ticket });
        }
        let progress = self.serve(served).await;
        match (failed, progress, more) {
            (Some(rejection), ..) => Err(rejection),
            (None, false, _) => Ok(Next::Pause),
            (None, true, true) => Ok(Next::Again),
            (None, true, false) => Ok(Next::Wait(wake_at)),
        }
    }

    /// Hands out what was granted; those who got nothing wait on. Whether anything moved.
    async fn serve(&mut self, served: Vec<Served>) -> bool {
        let mut progress = false;
        for Served { waiter, parts, ticket } in served {
            let Some(ticket) = ticket else {
                self.waiting.push_back(waiter);
                continue;
            };
            match self.leased(ticket, &parts).await {
                Ok((deliveries, moved)) => {
                    progress |= moved;
                    if deliveries.is_empty() {
                        self.waiting.push_back(waiter);
                        continue;
                    }
                    self.learn(&deliveries);
                    let handed = self.hand_out(&waiter, deliveries);
                    // What nobody takes is released.
                    drop(waiter.answer.send(Ok(handed)));
                }
                // The settings have changed: the next round plans with them.
                Err(rejection) if rejection.reason == Reason::RevisionMismatch => {
                    progress = true;
                    self.waiting.push_back(waiter);
                }
                Err(rejection) => {
                    progress = true;
                    let rejection = explain(rejection, &waiter.consumer);
                    drop(waiter.answer.send(Err(rejection)));
                }
            }
        }
        progress
    }

    async fn leased(
        &self,
        ticket: Ticket,
        parts: &[Part],
    ) -> Result<(Vec<Delivery>, bool), Rejection> {
        match ticket.outcome().await? {
            Outcome::Leased(Leased { grants, filtered, dead }) => {
                let moved = !grants.is_empty() || filtered + dead > 0;
                let found = self.handed(grants, parts);
                Ok((found.map_err(|fault| self.node.unreadable(&fault))?, moved))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// The deliveries of what was granted, with note taken of how long it waited.
    fn handed(&self, grants: Vec<Granted>, parts: &[Part]) -> Result<Vec<Delivery>, Fault> {
        let (now, delayed) = (self.node.now(), grants.iter().any(|grant| grant.delayed));
        self.latency.retries(&grants, now);
        let found = deliveries(grants, parts)?;
        self.latency.firsts(&found, delayed, now)?;
        Ok(found)
    }

    fn learn(&mut self, deliveries: &[Delivery]) {
        let events: u64 = deliveries.iter().map(Delivery::events).sum();
        let bytes: usize = deliveries.iter().map(Delivery::bytes).sum();
        let events = usize::try_from(events).unwrap_or(usize::MAX);
        self.event_bytes = bytes.checked_div(events).unwrap_or(0);
    }
}

impl Node {
    /// Reads what follows, while what was found is leased.
    async fn read_ahead(&self, reader: Option<RunReader>) -> Option<RunReader> {
        let mut reader = reader?;
        let read = reader.look_ahead().into_iter().map(|ahead| self.read(move |db| ahead.read(db)));
        // Where it fails the next look does, too, and tells.
        reader.keep(try_join_all(read).await.ok()?);
        Some(reader)
    }
}

/// Somebody in a round, and what is asked for in their name.
struct Served {
    waiter: Waiter,
    parts: Vec<Part>,
    ticket: Option<Ticket>,
}

/// What an unknown outcome means for a consumer.
fn explain(rejection: Rejection, consumer: &str) -> Rejection {
    if rejection.reason != Reason::OutcomeUnknown {
        return rejection;
    }
    let text = format!(
        "events may have been leased to {consumer}; they come again when their lease ends, pull again"
    );
    Rejection { message: text, ..rejection }
}
