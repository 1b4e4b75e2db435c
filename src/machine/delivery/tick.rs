//! Firing timers that are due, a bounded number per command.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::ControlFlow;

use super::dead::{self, DeadLetter};
use super::fail::{self, Cause, Failing, bury};
use super::failures::{self, FailureRecord, Standing};
use super::timers::{self, Due, Timer};
use super::work::Work;
use super::{leases, pauses, settle};
use crate::machine::apply::Machine;
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::lifecycle::Report;
use crate::machine::schedule::specials;
use crate::machine::{Fault, query, registry, subscription, transaction};
use crate::model::delivery::{DeadReason, Ticked};
use crate::model::ids::{DeadNumber, LeaseId, Offset, SubscriptionId, TopicId, UnixMs};
use crate::model::limits::{TICK_EVENTS_MAX, TICK_TIMERS_MAX};
use crate::model::outcome::Outcome;
use crate::model::ranges::Ranges;

pub(crate) fn apply<K: Kv>(machine: &mut Machine<'_, K>) -> Result<Outcome, Fault> {
    machine.close_batch();
    let (due, mut more) = due(machine)?;
    let mut tick = Tick::default();
    let mut ticked = Ticked::default();
    for timer in due {
        if tick.events >= TICK_EVENTS_MAX {
            more = true;
            break;
        }
        timers::clear(machine, timer.at, timer.due);
        tick.fire(machine, timer.due)?;
        ticked.timers += 1;
    }
    ticked.more = more;
    tick.finish(machine)?;
    Ok(Outcome::Ticked(ticked))
}

/// What is due, and whether that is not all.
fn due<K: Kv>(machine: &Machine<'_, K>) -> Result<(Vec<Timer>, bool), Fault> {
    let (mut due, mut more) = (Vec::new(), false);
    let end = machine.now().next().to_key();
    machine.overlay().scan(Table::Timers, &[], &end, Order::Ascending, &mut |row, _| {
        more = due.len() == TICK_TIMERS_MAX;
        if more {
            return Ok(ControlFlow::Break(()));
        }
        due.push(Timer::decode(row)?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok((due, more))
}

/// The subscriptions that one tick works on.
#[derive(Default)]
struct Tick {
    works: BTreeMap<SubscriptionId, Option<Work>>,
    expired: BTreeMap<SubscriptionId, u64>,
    events: u64,
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

    fn fire<K: Kv>(&mut self, machine: &mut Machine<'_, K>, due: Due) -> Result<(), Fault> {
        self.events += 1;
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
                let Some(work) = self.work(machine, subscription)? else { return Ok(()) };
                forget(machine, work, number)
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

    /// An event's deadline passed: whoever has it waiting buries it. Those that have it leased
    /// find out when the lease ends, which is no later.
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
        for id in subscription::query::ids_of_topic(machine.overlay(), &name)? {
            self.events += 1;
            let Some(work) = self.work(machine, id)? else { continue };
            if work.enter(machine, topic, Some(&name))? {
                expire_waiting(machine, work, topic, offset)?;
            }
        }
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
    if story.stands() == Standing::Retry && story.due_ms <= machine.now().get() {
        fail::make_ready(machine, work, (topic, offset), &mut story);
    }
    Ok(())
}

fn expire_waiting<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &mut Work,
    topic: TopicId,
    offset: Offset,
) -> Result<(), Fault> {
    let one = Ranges::from_iter([offset]);
    if let Some(story) = failures::get(machine.overlay(), work.id, topic, offset)? {
        if story.redrives > 0 || story.stands() == Standing::Leased {
            return Ok(());
        }
        fail::unwait(machine, work, (topic, offset), &story);
        fail::forget(machine, work, topic, offset)?;
        return bury(machine, work, (topic, offset), story, DeadReason::Expired);
    }
    if work.free(machine, topic, &one)?.is_empty() {
        return Ok(());
    }
    work.done(machine, topic, &one)?;
    work.wakes = true;
    if passes(machine, work, topic, offset)? {
        return bury(machine, work, (topic, offset), FailureRecord::default(), DeadReason::Expired);
    }
    work.state.counters.filtered += 1;
    Ok(())
}

/// Whether an event passes the subscription's filter.
fn passes<K: Kv>(
    machine: &Machine<'_, K>,
    work: &Work,
    topic: TopicId,
    offset: Offset,
) -> Result<bool, Fault> {
    let Some(filter) = &work.record.config.filter else { return Ok(true) };
    let Some(event) = query::stored_event(machine.overlay(), topic, offset)? else {
        return Ok(true);
    };
    let filter = filter.compile().map_err(|e| Fault::Undecodable(e.to_string()))?;
    Ok(filter.matches(&event.event)?)
}

/// A dead letter was kept long enough; a retention that was raised since counts.
fn forget<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &mut Work,
    number: DeadNumber,
) -> Result<(), Fault> {
    let Some(letter) = dead::get(machine.overlay(), work.id, number)? else { return Ok(()) };
    let retention_ms = work.record.config.dead_letters.retention_ms;
    if retention_ms == 0 {
        return Ok(());
    }
    let at = UnixMs(DeadLetter::died_at(&letter).get().saturating_add(retention_ms));
    if at > machine.now() {
        timers::set(machine, at, Due::Forget(work.id, number));
        return Ok(());
    }
    dead::remove(machine, work.id, number, &letter);
    work.state.dead_letters = work.state.dead_letters.saturating_sub(1);
    Ok(())
}
