//! One round of dispatch: a search for events for some of those who wait, the leases that it asks for, and handing
//! them out. While events flow there are two at a time: the leases of one half of those who wait are on their way
//! while the other half is searched for, with what is about to be leased taken as leased.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::sync::OwnedSemaphorePermit;

use super::dispatch::{Dispatcher, Next};
use super::hand_out::{Delivery, deliveries};
use super::plan::{self, Ask, Asked, Bounds, HeldBack, Look, Part, Plan};
use super::stopping;
use super::waiter::Waiter;
use crate::machine::Fault;
use crate::machine::delivery::lease::paused;
use crate::machine::schedule::reserved::Reservation;
use crate::machine::subscription::record::{self, SubscriptionRecord, not_found};
use crate::machine::topic::runs::RunReader;
use crate::model::command::{Kind, Lease};
use crate::model::delivery::{Granted, Leased};
use crate::model::ids::{Term, UnixMs};
use crate::model::limits::{
    DISPATCH_PAUSE_MS, DISPATCH_ROUND_BYTES, DISPATCH_ROUND_EVENTS, DISPATCH_SEARCHES_MAX,
};
use crate::model::outcome::Outcome;
use crate::model::pattern::TopicPattern;
use crate::model::rejection::{Reason, Rejection};
use crate::node::propose::Ticket;
use crate::node::quotas::Limit;
use crate::node::{Node, unexpected};
use crate::raft::hints::Interest;
use crate::runtime::clock;

/// A round whose leases are on their way.
pub(super) struct Round {
    served: Vec<Served>,
    /// Look again, whatever comes of this.
    more: bool,
    /// Look again then.
    wake_at: Option<UnixMs>,
    /// Why not all of it was asked for.
    failed: Option<Rejection>,
    /// Its share of the bytes that all rounds plan for.
    _room: OwnedSemaphorePermit,
}

/// Somebody in a round, and what is asked for in their name.
struct Served {
    waiter: Waiter,
    parts: Vec<Part>,
    ticket: Ticket,
    reservation: Reservation,
}

impl Round {
    /// Who is about to get how much.
    fn asks(&self) -> impl Iterator<Item = Ask> + '_ {
        self.served.iter().map(|served| Ask {
            events: served.parts.iter().map(|part| part.events.count()).sum(),
            ..served.waiter.ask()
        })
    }
}

impl Dispatcher {
    /// Begins a round for some of those who wait, and ends the one before; where there is nothing to begin, it
    /// ends that which is on its way.
    pub(super) async fn turn(&mut self) -> Result<Next, Rejection> {
        if self.round.is_some() && (self.waiting.is_empty() || !self.flows) {
            return self.finish().await;
        }
        let term = self.node.leading().await?;
        let asked = self.asked();
        let Some(room) = self.room(asked.bounds.bytes).await? else { return self.finish().await };
        let began = clock::now();
        let (record, look) = self.look(asked).await?;
        let took = clock::now().duration_since(began);
        self.vain = if look.is_vain() { self.vain + took } else { Duration::ZERO };
        match look {
            Look::Missing => Err(not_found(&self.subscription)),
            Look::Paused => Err(paused(&self.subscription)),
            Look::Full(held_back) => {
                self.hold_back(record.as_ref(), &held_back);
                self.flows = false;
                match &self.round {
                    Some(_) => self.finish().await,
                    // The other half may have room.
                    None if held_back.len() < self.waiting.len() => Ok(Next::Again),
                    None => Ok(Next::Wait(None)),
                }
            }
            Look::Plan(plan) => {
                self.hold_back(record.as_ref(), &plan.held_back);
                if !plan.more {
                    self.memory.reader = RunReader::default();
                }
                self.lease((term, room), *plan, took).await
            }
        }
    }

    /// Who is looked for, and within which bounds.
    fn asked(&mut self) -> Asked {
        if self.waiting.iter().any(|waiter| !waiter.looked) {
            self.memory.cursor.look_again();
        }
        let half = self.flows && self.round.is_none();
        let count = if half { self.waiting.len().div_ceil(2) } else { self.waiting.len() };
        let asks: Vec<Ask> = self.waiting.iter().take(count).map(Waiter::ask).collect();
        let ahead = self.round.iter().flat_map(Round::asks).collect();
        let bounds = self.bounds(&asks);
        Asked { asks, ahead, bounds }
    }

    fn bounds(&self, asks: &[Ask]) -> Bounds {
        let wanted: usize = asks.iter().map(|ask| ask.bytes).sum();
        let bytes = wanted.min(DISPATCH_ROUND_BYTES);
        let events = match self.event_bytes {
            0 => DISPATCH_ROUND_EVENTS,
            each => (bytes / each + asks.len()) as u64,
        };
        Bounds { events: events.min(DISPATCH_ROUND_EVENTS), bytes }
    }

    /// Room for the bytes of a round. `None`: there is none beside the round that is on its way; to wait with
    /// that in hand could last for ever.
    async fn room(&self, bytes: usize) -> Result<Option<OwnedSemaphorePermit>, Rejection> {
        let (room, bytes) = (&self.node.lead.bytes, u32::try_from(bytes).unwrap_or(u32::MAX));
        if self.round.is_some() {
            return Ok(Arc::clone(room).try_acquire_many_owned(bytes).ok());
        }
        Arc::clone(room).acquire_many_owned(bytes).await.map(Some).map_err(|_| stopping())
    }

    /// Searches the state.
    async fn look(
        &mut self,
        asked: Asked,
    ) -> Result<(Option<SubscriptionRecord>, Look), Rejection> {
        // What changes from here on is looked at in the next round; in topics that were passed, too.
        if !self.memory.cursor.is_in_round() && self.hints.forget() {
            self.memory.cursor.look_back();
        }
        let (name, now) = (self.subscription.clone(), self.node.now());
        let memory = Mutex::new(std::mem::take(&mut self.memory));
        let looked = self.node.read(move |db| {
            let record = record::get(db, &name)?;
            let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
            let look = plan::look(db, &name, now, &mut memory, &asked)?;
            Ok((record, look, std::mem::take(&mut *memory)))
        });
        let (record, look);
        (record, look, self.memory) = looked.await?;
        Ok((record, look))
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

    /// Asks for what was planned, ends the round before, and reads on meanwhile.
    async fn lease(
        &mut self,
        (term, room): (Term, OwnedSemaphorePermit),
        plan: Plan,
        took: Duration,
    ) -> Result<Next, Rejection> {
        let planned = plan.shares.iter().any(|share| !share.picks.is_empty());
        self.flows = planned && plan.goes_on && !plan.retries;
        if !planned && plan.skips.is_empty() {
            if self.round.is_some() {
                return self.finish().await;
            }
            drop(room);
            return Ok(self.found_nothing(&plan, took).await);
        }
        self.fruitless = 0;
        let ahead = plan.goes_on.then(|| self.memory.reader.clone());
        let round = self.send((term, room), plan, planned).await;
        let before = self.round.replace(round);
        let node = Arc::clone(&self.node);
        let (ended, ahead) = tokio::join!(self.end(before), node.read_ahead(ahead));
        if let Some(reader) = ahead {
            self.memory.reader = reader;
        }
        // What comes of the new round decides how to go on.
        ended.map(|_| Next::Again)
    }

    /// What to do after a search that found nothing while nothing is on its way.
    async fn found_nothing(&mut self, plan: &Plan, took: Duration) -> Next {
        self.fruitless += u32::from(!plan.goes_round);
        if plan.more && self.fruitless < DISPATCH_SEARCHES_MAX {
            // While everything near is in flight, those who settle it have the processor.
            tokio::time::sleep(took.min(Duration::from_millis(DISPATCH_PAUSE_MS))).await;
            return Next::Again;
        }
        Next::Wait(plan.wake_at)
    }

    /// Proposes the leases of those who are to get something; the others wait on.
    async fn send(
        &mut self,
        (term, room): (Term, OwnedSemaphorePermit),
        plan: Plan,
        planned: bool,
    ) -> Round {
        let Plan { revision, shares, mut skips, more, wake_at, .. } = plan;
        let (mut served, mut failed) = (Vec::with_capacity(shares.len()), None);
        let asked: VecDeque<Waiter> = self.waiting.drain(..shares.len()).collect();
        for (waiter, share) in asked.into_iter().zip(shares) {
            let alone = !planned && !skips.is_empty();
            if failed.is_some() || (share.picks.is_empty() && !alone) {
                self.waiting.push_back(waiter);
                continue;
            }
            let reservation = self.memory.cursor.reserve(&share.picks, &skips);
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
                Ok(ticket) => {
                    served.push(Served { waiter, parts: share.parts, ticket, reservation });
                }
                Err(rejection) => {
                    self.memory.cursor.conclude(&reservation, 0);
                    self.waiting.push_back(waiter);
                    failed = Some(rejection);
                }
            }
        }
        Round { served, more, wake_at, failed, _room: room }
    }

    /// Ends the round that is on its way.
    async fn finish(&mut self) -> Result<Next, Rejection> {
        let round = self.round.take();
        self.end(round).await
    }

    async fn end(&mut self, round: Option<Round>) -> Result<Next, Rejection> {
        let Some(Round { served, more, wake_at, failed, .. }) = round else {
            return Ok(Next::Again);
        };
        let progress = self.serve(served).await;
        self.flows &= progress;
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
        for Served { waiter, parts, ticket, reservation } in served {
            match self.leased(ticket, &reservation, &parts).await {
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

    /// What was granted, and whether anything moved. Nobody gets it before searches see it as it is.
    async fn leased(
        &mut self,
        ticket: Ticket,
        reservation: &Reservation,
        parts: &[Part],
    ) -> Result<(Vec<Delivery>, bool), Rejection> {
        let outcome = ticket.outcome().await;
        let grants = match &outcome {
            Ok(Outcome::Leased(leased)) => leased.grants.as_slice(),
            _ => &[],
        };
        let granted = grants.iter().map(|grant| grant.ranges.count()).sum();
        if !self.memory.cursor.conclude(reservation, granted)
            && let Some(next) = &mut self.round
        {
            // It has passed what was not granted.
            next.more = true;
        }
        match outcome? {
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
