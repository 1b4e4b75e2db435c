//! Taking back what consumers had: acknowledged, failed, rejected, released, or extended.
//!
//! Each item has a result of its own. A lease that has run out is refused even before a tick has
//! collected it, so that nothing depends on when ticks come.

use super::fail::{self, Cause, Failing};
use super::failures;
use super::lease::lease_ms;
use super::leases::{self, LeaseRecord};
use super::loads;
use super::timers::{self, Due};
use super::work::Work;
use crate::machine::Fault;
use crate::machine::apply::Machine;
use crate::machine::kv::{Kv, Table};
use crate::machine::subscription::record::not_found;
use crate::machine::subscription::state;
use crate::machine::tracking::endings::{self, End};
use crate::model::command::Settle;
use crate::model::command::delivery::{Action, SettleItem};
use crate::model::delivery::Settled;
use crate::model::ids::{LeaseId, SubscriptionId, UnixMs};
use crate::model::outcome::Outcome;
use crate::model::ranges::Ranges;
use crate::model::rejection::Reason;

pub(crate) fn apply<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: &Settle,
) -> Result<Outcome, Fault> {
    let Some(mut work) = Work::open(machine, &command.subscription)? else {
        return Ok(Outcome::Rejected(not_found(&command.subscription)));
    };
    let mut results = Vec::with_capacity(command.items.len());
    for item in &command.items {
        results.push(settle(machine, &mut work, &command.consumer, item)?);
    }
    work.finish(machine)?;
    Ok(Outcome::Settled(results))
}

fn refused(reason: Reason) -> Settled {
    Settled { done: Ranges::new(), refused: Some(reason), expires_at: UnixMs(0) }
}

fn settle<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &mut Work,
    consumer: &str,
    item: &SettleItem,
) -> Result<Settled, Fault> {
    let id = LeaseId(item.lease_id);
    let mut lease = match held(machine, work.id, consumer, item)? {
        Ok(lease) => lease,
        Err(reason) => return Ok(refused(reason)),
    };
    let action = item.action.as_ref().ok_or_else(|| {
        Fault::Undecodable("a settlement of a newer version; run a newer mhub".to_owned())
    })?;
    if let Action::Extend(extend) = action {
        let asked_ms = lease_ms(extend.lease_ms, work.record.config.lease_ms);
        return Ok(extend_lease(machine, work, id, &mut lease, asked_ms));
    }
    let (done, refused) = held_of(&lease, item);
    let left = lease.events.minus(&done);
    if !done.is_empty() {
        work.enter(machine, lease.topic(), None)?;
        act(machine, work, &lease, &done, action)?;
        give_back(machine, work, id, lease, left)?;
    }
    Ok(Settled { done, refused, expires_at: UnixMs(0) })
}

/// The events of a lease that an item is about, and why it cannot be done to others that it is about.
fn held_of(lease: &LeaseRecord, item: &SettleItem) -> (Ranges, Option<Reason>) {
    let (held, lacks) = if item.ranges.is_empty() {
        (lease.events.clone(), lease.lost)
    } else {
        let named = Ranges::from_unsorted(&item.ranges);
        let held = lease.events.intersect(&named);
        let lacks = held.count() < named.count();
        (held, lacks)
    };
    (held, lacks.then_some(Reason::LeaseExpired))
}

/// The lease of an item, if it is held by this consumer with this token; else why not.
fn held<K: Kv>(
    machine: &Machine<'_, K>,
    subscription: SubscriptionId,
    consumer: &str,
    item: &SettleItem,
) -> Result<Result<LeaseRecord, Reason>, Fault> {
    let id = LeaseId(item.lease_id);
    let Some(lease) = leases::get(machine.overlay(), subscription, id)? else {
        let state = state::get(machine.overlay(), subscription)?.unwrap_or_default();
        let granted = (1..=state.last_lease_id).contains(&id.get());
        return Ok(Err(if granted { Reason::LeaseExpired } else { Reason::LeaseUnknown }));
    };
    if lease.term != item.term || lease.consumer != consumer || lease.topic_id != item.topic_id {
        return Ok(Err(Reason::LeaseUnknown));
    }
    if lease.ends_at(machine.meta()) <= machine.now() {
        return Ok(Err(Reason::LeaseExpired));
    }
    Ok(Ok(lease))
}

/// Why an item cannot be settled as a whole; `None`: it can.
pub(crate) fn lacks<K: Kv>(
    machine: &Machine<'_, K>,
    subscription: SubscriptionId,
    consumer: &str,
    item: &SettleItem,
) -> Result<Option<Reason>, Fault> {
    Ok(match held(machine, subscription, consumer, item)? {
        Err(reason) => Some(reason),
        Ok(lease) => held_of(&lease, item).1,
    })
}

fn extend_lease<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &Work,
    id: LeaseId,
    lease: &mut LeaseRecord,
    asked_ms: u64,
) -> Settled {
    let mut until = machine.now().get().saturating_add(asked_ms);
    if lease.deadline_ms > 0 {
        until = until.min(lease.deadline_ms);
    }
    timers::clear(machine, UnixMs(lease.expires_at_ms), Due::Lease(work.id, id));
    lease.expires_at_ms = until;
    timers::set(machine, UnixMs(until), Due::Lease(work.id, id));
    machine.overlay_mut().put(Table::Leases, leases::row_key(work.id, id), lease.encode());
    Settled { done: lease.events.clone(), refused: None, expires_at: UnixMs(until) }
}

fn act<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &mut Work,
    lease: &LeaseRecord,
    events: &Ranges,
    action: &Action,
) -> Result<(), Fault> {
    let count = events.count();
    let failing =
        Failing { topic: lease.topic(), events, retried: lease.retried, consumer: &lease.consumer };
    match action {
        Action::Ack(_) => {
            work.state.counters.acked += count;
            work.ended.0 += count;
            ack(machine, work, lease, events)
        }
        Action::Nack(nack) => {
            work.state.counters.nacked += count;
            let (retry_after_ms, reason) = (nack.retry_after_ms, nack.reason.as_str());
            let cause = Cause::Nack { retry_after_ms, reason, detail: &nack.detail };
            fail::fail(machine, work, &failing, cause)
        }
        Action::Reject(reject) => {
            work.state.counters.rejected += count;
            let cause = Cause::Reject { reason: &reject.reason, detail: &reject.detail };
            fail::fail(machine, work, &failing, cause)
        }
        Action::Release(_) => {
            work.state.counters.released += count;
            release(machine, work, lease, events)
        }
        // It is done to the lease, not to its events.
        Action::Extend(_) => Ok(()),
    }
}

fn ack<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &mut Work,
    lease: &LeaseRecord,
    events: &Ranges,
) -> Result<(), Fault> {
    // In order by key, others may be in turn now.
    work.wakes = true;
    if !lease.retried {
        return work.done(machine, lease.topic(), events);
    }
    for offset in events.iter() {
        endings::note(machine, work, (lease.topic(), offset), End::Acked)?;
        fail::forget(machine, work, lease.topic(), offset)?;
    }
    Ok(())
}

fn release<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &mut Work,
    lease: &LeaseRecord,
    events: &Ranges,
) -> Result<(), Fault> {
    work.wakes = true;
    if !lease.retried {
        return work.unlease(machine, lease.topic(), events);
    }
    for offset in events.iter() {
        let place = (lease.topic(), offset);
        let story = failures::get(machine.overlay(), work.id, place.0, offset)?;
        fail::make_ready(machine, work, place, &mut story.unwrap_or_default())?;
    }
    Ok(())
}

/// Takes events out of a lease, and ends it when nothing is left.
pub(crate) fn give_back<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &mut Work,
    id: LeaseId,
    mut lease: LeaseRecord,
    left: Ranges,
) -> Result<(), Fault> {
    let went = lease.events.count() - left.count();
    work.count_in_flight(machine, &lease.consumer, 0, went)?;
    loads::count_service(machine, &lease.service, (0, 0), went)?;
    let row = leases::row_key(work.id, id);
    if left.is_empty() {
        timers::clear(machine, UnixMs(lease.expires_at_ms), Due::Lease(work.id, id));
        machine.overlay_mut().delete(Table::Leases, row);
    } else {
        lease.events = left;
        machine.overlay_mut().put(Table::Leases, row, lease.encode());
    }
    Ok(())
}
