//! Firing timers that are due, a bounded number per command.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::ControlFlow;

use super::dead;
use super::eligible::{self, Predecessors};
use super::fail::{self, Cause, Failing, bury};
use super::failures::{self, FailureRecord, Standing};
use super::leases::LeaseRecord;
use super::timers::{self, Due, Timer};
use super::work::Work;
use super::{leases, pauses, settle};
use crate::machine::apply::Machine;
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::lifecycle::Report;
use crate::machine::schedule::specials;
use crate::machine::tracking::endings;
use crate::machine::{Fault, query, registry, subscription, transaction};
use crate::model::delivery::{DeadReason, Ticked};
use crate::model::ids::{DeadNumber, LeaseId, Offset, SubscriptionId, TopicId};
use crate::model::limits::{TICK_BURIALS_MAX, TICK_EVENTS_MAX, TICK_ROWS_MAX, TICK_TIMERS_MAX};
use crate::model::outcome::Outcome;
use crate::model::pattern::TopicPattern;
use crate::model::ranges::Ranges;
use crate::model::subscription::DeliveryOrder;

pub(crate) fn apply<K: Kv>(machine: &mut Machine<'_, K>) -> Result<Outcome, Fault> {
    machine.close_batch();
    machine.count_letters_anew();
    let (due, mut more) = due(machine)?;
    let mut tick = Tick::default();
    let mut ticked = Ticked::default();
    for timer in due {
        if tick.events >= TICK_EVENTS_MAX {
            more = true;
            break;
        }
        if is_burial(timer) && machine.is_full_of_letters() {
            continue;
        }
        timers::clear(machine, timer.at, timer.due);
        tick.fire(machine, timer)?;
        ticked.timers += 1;
    }
    ticked.more = more || tick.more || machine.is_full_of_letters();
    tick.finish(machine)?;
    Ok(Outcome::Ticked(ticked))
}

/// What is due, and whether that is not all.
fn due<K: Kv>(machine: &Machine<'_, K>) -> Result<(Vec<Timer>, bool), Fault> {
    let (mut due, mut more, mut burials, mut rows) = (Vec::new(), false, 0, 0);
    let end = machine.now().next().to_key();
    machine.overlay().scan(Table::Timers, &[], &end, Order::Ascending, &mut |row, _| {
        if due.len() == TICK_TIMERS_MAX || rows == TICK_ROWS_MAX {
            more = true;
            return Ok(ControlFlow::Break(()));
        }
        rows += 1;
        let timer = Timer::decode(row)?;
        if is_burial(timer) && burials == TICK_BURIALS_MAX {
            more = true;
            return Ok(ControlFlow::Continue(()));
        }
        burials += usize::from(is_burial(timer));
        due.push(timer);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok((due, more))
}

/// Whether it takes as many bytes as an event.
fn is_burial(timer: Timer) -> bool {
    matches!(timer.due, Due::Bury(..))
}

/// Leases by topic.
type Holders = BTreeMap<TopicId, Vec<(LeaseId, Ranges)>>;

/// The subscriptions that one tick works on.
#[derive(Default)]
struct Tick {
    works: BTreeMap<SubscriptionId, Option<Work>>,
    expired: BTreeMap<SubscriptionId, u64>,
    /// All subscriptions, once something needs to know who takes a topic.
    patterns: Option<Vec<(SubscriptionId, TopicPattern)>>,
    takers: BTreeMap<TopicId, Vec<SubscriptionId>>,
    /// Leases that no deadline cut short, of subscriptions for which they were looked up; some may have
    /// ended since.
    holders: BTreeMap<SubscriptionId, Holders>,
    events: u64,
    /// Something is due that had no timer when this began.
    more: bool,
}

impl Tick {
    fn work<'t, K: Kv>(
        &'t mut self,
        machine: &mut Machine<'_, K>,
        id: SubscriptionId,
    ) -> Result<Option<&'t mut Work>, Fault> {
        Ok(match self.works.entry(id) {
            Entry::Occupied(known) => known.into_mut().as_mut(),
            Entry::Vacant(slot) => slot.insert(Work::open_id(machine, id)?).as_mut(),
        })
    }

    /// How many events may still be moved; one in any case.
    fn room(&self) -> usize {
        usize::try_from(TICK_EVENTS_MAX.saturating_sub(self.events).max(1)).unwrap_or(usize::MAX)
    }

    fn fire<K: Kv>(&mut self, machine: &mut Machine<'_, K>, timer: Timer) -> Result<(), Fault> {
        self.events += 1;
        let Timer { at, due } = timer;
        match due {
            Due::Lease(subscription, lease) => self.expire(machine, subscription, lease),
            Due::Retry(subscription, topic, offset) => {
                let Some(work) = self.work(machine, subscription)? else { return Ok(()) };
                retry(machine, work, topic, offset)
            }
            Due::Resume(subscription) => {
                let now = machine.now().get();
                let Some(work) = self.work(machine, subscription)? else { return Ok(()) };
                let due = |p: &crate::model::delivery::Pause| (1..=now).contains(&p.resume_at_ms);
                if work.state.pause.as_ref().is_some_and(due) {
                    pauses::resume(machine, work);
                }
                Ok(())
            }
            Due::Deadline(topic, offset) => self.deadline(machine, topic, offset),
            Due::Forget(subscription, number) => {
                let room = self.room();
                let Some(work) = self.work(machine, subscription)? else { return Ok(()) };
                let (count, more) = forget(machine, work, number, room)?;
                self.events += count;
                self.more |= more;
                Ok(())
            }
            Due::Place(subscription) => {
                let room = self.room();
                let Some(work) = self.work(machine, subscription)? else { return Ok(()) };
                let (count, more) = fail::place_some(machine, work, room)?;
                if more {
                    timers::set(machine, machine.now(), due);
                }
                self.events += count;
                self.more |= more;
                Ok(())
            }
            Due::Sweep(subscription, topic, from) => {
                let room = self.room();
                let Some(work) = self.work(machine, subscription)? else { return Ok(()) };
                let (count, next) = fail::sweep(machine, work, (topic, from), room)?;
                if let Some(next) = next {
                    timers::set(machine, machine.now(), Due::Sweep(subscription, topic, next));
                }
                self.events += count as u64;
                self.more |= next.is_some();
                Ok(())
            }
            Due::Bury(subscription, topic, offset) => {
                let Some(work) = self.work(machine, subscription)? else { return Ok(()) };
                fail::bury_late(machine, work, (topic, offset), at)
            }
            Due::Ending(subscription, topic, offset) => {
                endings::due(machine, subscription, (topic, offset))
            }
            Due::Registry(number) => registry::health::due(machine, number),
            Due::Transaction(id) => {
                self.events += transaction::end::expire(machine, id)?;
                Ok(())
            }
        }
    }

    /// A lease ran out: each of its events counts a failed attempt.
    fn expire<K: Kv>(
        &mut self,
        machine: &mut Machine<'_, K>,
        subscription: SubscriptionId,
        id: LeaseId,
    ) -> Result<(), Fault> {
        let Some(work) = self.work(machine, subscription)? else { return Ok(()) };
        let found = leases::get(machine.overlay(), subscription, id)?;
        let Some(mut lease) = found else { return Ok(()) };
        let ends_at = lease.ends_at(machine.meta());
        if ends_at > machine.now() {
            // The grace of a new leader; a lease has one timer, and it is where the lease says that it ends.
            lease.expires_at_ms = ends_at.get();
            let row = leases::row_key(subscription, id);
            machine.overlay_mut().put(Table::Leases, row, lease.encode());
            timers::set(machine, ends_at, Due::Lease(subscription, id));
            return Ok(());
        }
        let (count, topic) = (lease.events.count(), lease.topic());
        work.enter(machine, topic, None)?;
        let leases::LeaseRecord { events, retried, consumer, .. } = &lease;
        let failing = Failing { topic, events, retried: *retried, consumer };
        work.state.counters.expired += count;
        fail::fail(machine, work, &failing, Cause::Expired)?;
        settle::give_back(machine, work, id, lease, Ranges::new())?;
        self.events += count;
        *self.expired.entry(subscription).or_default() += count;
        Ok(())
    }

    /// An event's deadline passed: whoever has it waiting buries it, and no lease goes on with it.
    fn deadline<K: Kv>(
        &mut self,
        machine: &mut Machine<'_, K>,
        topic: TopicId,
        offset: Offset,
    ) -> Result<(), Fault> {
        let Some(special) = specials::get(machine.overlay(), topic, offset)? else { return Ok(()) };
        if special.cancelled {
            return Ok(());
        }
        let Some(name) = query::topic_name_at(machine.overlay(), topic, offset)? else {
            return Ok(());
        };
        for id in self.takers_of(machine, topic, &name)? {
            self.events += 1;
            let Some(work) = self.work(machine, id)? else { continue };
            if work.enter(machine, topic, Some(&name))?
                && expire_waiting(machine, work, topic, offset)?
            {
                self.expire_leased(machine, id, (topic, offset))?;
            }
        }
        Ok(())
    }

    /// The subscriptions that take a topic.
    fn takers_of<K: Kv>(
        &mut self,
        machine: &Machine<'_, K>,
        topic: TopicId,
        name: &str,
    ) -> Result<Vec<SubscriptionId>, Fault> {
        if let Some(known) = self.takers.get(&topic) {
            return Ok(known.clone());
        }
        if self.patterns.is_none() {
            self.patterns = Some(subscription::query::patterns(machine.overlay())?);
        }
        let all = self.patterns.iter().flatten();
        let ids: Vec<_> = all.filter(|(_, p)| p.matches(name)).map(|(id, _)| *id).collect();
        self.takers.insert(topic, ids.clone());
        Ok(ids)
    }

    /// Takes an event out of the lease that goes on beyond its deadline: its delivery failed. A lease
    /// that ends at the deadline was cut there, and has a timer of its own.
    fn expire_leased<K: Kv>(
        &mut self,
        machine: &mut Machine<'_, K>,
        id: SubscriptionId,
        (topic, offset): (TopicId, Offset),
    ) -> Result<(), Fault> {
        if let Entry::Vacant(slot) = self.holders.entry(id) {
            slot.insert(uncut_leases(machine, id)?);
        }
        let of_topic = self.holders.get(&id).and_then(|holders| holders.get(&topic));
        let mut known = of_topic.into_iter().flatten();
        let Some((lease_id, _)) = known.find(|(_, events)| events.contains(offset)) else {
            return Ok(());
        };
        let lease_id = *lease_id;
        let found = leases::get(machine.overlay(), id, lease_id)?;
        let Some(mut lease) = found.filter(|lease| lease.events.contains(offset)) else {
            return Ok(());
        };
        let Some(work) = self.work(machine, id)? else { return Ok(()) };
        let one = Ranges::from_iter([offset]);
        let LeaseRecord { retried, consumer, .. } = &lease;
        let failing = Failing { topic, events: &one, retried: *retried, consumer };
        work.state.counters.expired += 1;
        fail::fail(machine, work, &failing, Cause::Expired)?;
        let left = lease.events.minus(&one);
        lease.lost = true;
        settle::give_back(machine, work, lease_id, lease, left)?;
        *self.expired.entry(id).or_default() += 1;
        Ok(())
    }

    fn finish<K: Kv>(self, machine: &mut Machine<'_, K>) -> Result<(), Fault> {
        for (id, work) in self.works {
            let Some(work) = work else { continue };
            if let Some(count) = self.expired.get(&id) {
                work.report(machine, Report::LeasesExpired { count: *count });
            }
            work.finish(machine)?;
        }
        Ok(())
    }
}

/// A retry is due.
fn retry<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &mut Work,
    topic: TopicId,
    offset: Offset,
) -> Result<(), Fault> {
    let Some(mut story) = failures::get(machine.overlay(), work.id, topic, offset)? else {
        return Ok(());
    };
    let due = story.stands() == Standing::Retry && story.due_ms <= machine.now().get();
    if due && work.enter(machine, topic, None)? {
        fail::make_ready(machine, work, (topic, offset), &mut story)?;
    }
    Ok(())
}

/// The leases of a subscription that no deadline cut short.
fn uncut_leases<K: Kv>(machine: &Machine<'_, K>, id: SubscriptionId) -> Result<Holders, Fault> {
    let mut found = Holders::new();
    let low = leases::row_key(id, LeaseId(0));
    let high = leases::row_key(id.next(), LeaseId(0));
    machine.overlay().scan(Table::Leases, &low, &high, Order::Ascending, &mut |row, value| {
        let lease = LeaseRecord::decode(value)?;
        if lease.deadline_ms == 0 {
            let leases = found.entry(lease.topic()).or_default();
            leases.push((leases::lease_of(row)?, lease.events));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// Buries an event that waits; whether it may be in a lease instead.
fn expire_waiting<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &mut Work,
    topic: TopicId,
    offset: Offset,
) -> Result<bool, Fault> {
    let one = Ranges::from_iter([offset]);
    if let Some(story) = failures::get(machine.overlay(), work.id, topic, offset)? {
        if story.stands() == Standing::Dying {
            return Ok(false);
        }
        if story.redrives > 0 || story.stands() == Standing::Leased {
            return Ok(story.redrives == 0);
        }
        fail::unwait(machine, work, (topic, offset), &story);
        fail::forget(machine, work, topic, offset)?;
        work.wakes = true;
        bury(machine, work, (topic, offset), story, DeadReason::Expired)?;
        return Ok(false);
    }
    if work.free(machine, topic, &one)?.is_empty() {
        return Ok(work.state.in_flight > 0 && !work.is_done(machine, topic, offset)?);
    }
    let filter = eligible::filter_of(work)?;
    let passes = eligible::passes(machine, filter.as_ref(), topic, offset)?;
    let in_turn = work.record.config.order() != DeliveryOrder::ByKey
        || eligible::is_next(machine, work, &mut Predecessors::default(), (topic, offset))?;
    let ends = in_turn || (passes && eligible::note_early(machine, work, topic, offset)?);
    if !ends {
        // Who comes to it in its turn skips or buries it.
        return Ok(false);
    }
    work.done(machine, topic, &one)?;
    work.wakes = true;
    if passes {
        bury(machine, work, (topic, offset), FailureRecord::default(), DeadReason::Expired)?;
    } else {
        work.state.counters.filtered += 1;
    }
    Ok(false)
}

/// A dead letter was kept long enough; a retention that was changed since counts. So were the next
/// ones, perhaps: not all of them have timers. How many went, and whether there was no room for more.
fn forget<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &mut Work,
    number: DeadNumber,
    limit: usize,
) -> Result<(u64, bool), Fault> {
    let retention_ms = work.record.config.dead_letters.retention_ms;
    if retention_ms == 0 {
        return Ok((0, false));
    }
    // Where it is gone, whoever removed it timed the oldest: to look for that from here would pass over
    // all that went, timer by timer.
    let own = dead::get(machine.overlay(), work.id, number)?;
    let (mut next, mut count) = (own.map(|letter| (number, letter)), 0);
    while let Some((number, letter)) = next {
        let over = letter.died_at().get().saturating_add(retention_ms) <= machine.now().get();
        if !over || count == limit as u64 {
            dead::time(machine, work.id, (number, letter.died_at()), retention_ms);
            return Ok((count, over));
        }
        endings::note_lost(machine, work, number, &letter)?;
        dead::remove(machine, work.id, (number, &letter), retention_ms);
        work.state.dead_letters = work.state.dead_letters.saturating_sub(1);
        count += 1;
        let after = DeadNumber(number.get().saturating_add(1));
        next = dead::first(machine.overlay(), work.id, after)?;
    }
    Ok((count, false))
}
