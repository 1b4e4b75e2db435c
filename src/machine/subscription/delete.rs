//! Deleting a subscription with everything it has.
//!
//! Its number is never used again, so its rows go as ranges. Its timers stay until they fire, and
//! find nothing.

use std::ops::ControlFlow;

use super::progress;
use super::record::not_found;
use crate::machine::apply::Machine;
use crate::machine::delivery::failures::{self, FailureRecord, Standing};
use crate::machine::delivery::leases::{self, LeaseRecord};
use crate::machine::delivery::work::Work;
use crate::machine::delivery::{fail, loads};
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::lifecycle::Report;
use crate::machine::{Fault, requests};
use crate::model::command::DeleteSubscription;
use crate::model::ids::{LeaseId, SubscriptionId, TopicId};
use crate::model::outcome::Outcome;

/// What a subscription has by topic.
const BY_TOPIC: [Table; 3] = [Table::Progress, Table::Marks, Table::Failures];

pub(crate) fn apply<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: DeleteSubscription,
) -> Result<Outcome, Fault> {
    if let Some(first) = requests::first_answer(machine, &command.request_id)? {
        return Ok(first);
    }
    let Some(work) = Work::open(machine, &command.name)? else {
        return Ok(Outcome::Rejected(not_found(&command.name)));
    };
    let id = work.id;
    work.report(machine, Report::Deleted);
    forget_progress(machine, id)?;
    let range = (id.to_key().to_vec(), id.next().to_key().to_vec());
    let overlay = machine.overlay_mut();
    overlay.delete_range(Table::DeadPlaces, range.0.clone(), range.1.clone());
    overlay.delete_range(Table::DeadLetters, range.0, range.1);
    overlay.delete(Table::SubscriptionStates, id.to_key().to_vec());
    overlay.delete(Table::Subscriptions, command.name.into_bytes());
    machine.meta_mut().subscriptions -= 1;
    if work.record.config.target.is_some() {
        machine.targets_changed();
    }
    requests::remember(machine, command.request_id, &Outcome::Done);
    Ok(Outcome::Done)
}

/// Removes progress, leases and retries; dead letters stay.
pub(crate) fn forget_progress<K: Kv>(
    machine: &mut Machine<'_, K>,
    id: SubscriptionId,
) -> Result<(), Fault> {
    for (_, lease) in leases_of(machine, id, None)? {
        loads::count_service(machine, &lease.service, (0, 0), lease.events.count())?;
    }
    let others = [Table::Leases, Table::ConsumerLoads, Table::Ready];
    for table in BY_TOPIC.into_iter().chain(others) {
        let range = (id.to_key().to_vec(), id.next().to_key().to_vec());
        machine.overlay_mut().delete_range(table, range.0, range.1);
    }
    Ok(())
}

/// Removes what subscriptions have of a topic that is being deleted; dead letters stay.
pub(crate) fn forget_topic<K: Kv>(
    machine: &mut Machine<'_, K>,
    topic: TopicId,
    name: &str,
) -> Result<(), Fault> {
    for id in super::query::ids_of_topic(machine.overlay(), name)? {
        if progress::stored(machine.overlay(), id, topic)?.is_none() {
            continue;
        }
        let Some(mut work) = Work::open_id(machine, id)? else { continue };
        end_leases(machine, &mut work, topic)?;
        let ready = ready_of(machine, &work, topic)?;
        let overlay = machine.overlay_mut();
        ready.into_iter().for_each(|row| overlay.delete(Table::Ready, row));
        for table in BY_TOPIC {
            let low = progress::row_key(id, topic);
            overlay.delete_range(table, low, progress::row_key(id, topic.next()));
        }
        work.finish(machine)?;
    }
    Ok(())
}

fn end_leases<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &mut Work,
    topic: TopicId,
) -> Result<(), Fault> {
    for (row, lease) in leases_of(machine, work.id, Some(topic))? {
        let went = lease.events.count();
        work.count_in_flight(machine, &lease.consumer, 0, went)?;
        loads::count_service(machine, &lease.service, (0, 0), went)?;
        machine.overlay_mut().delete(Table::Leases, row);
    }
    Ok(())
}

/// The leases of a subscription, of one topic or all, with their rows.
fn leases_of<K: Kv>(
    machine: &Machine<'_, K>,
    id: SubscriptionId,
    topic: Option<TopicId>,
) -> Result<Vec<(Vec<u8>, LeaseRecord)>, Fault> {
    let (low, mut found) = (leases::row_key(id, LeaseId(0)), Vec::new());
    let high = leases::row_key(id.next(), LeaseId(0));
    machine.overlay().scan(Table::Leases, &low, &high, Order::Ascending, &mut |row, value| {
        let lease = LeaseRecord::decode(value)?;
        if topic.is_none_or(|topic| lease.topic() == topic) {
            found.push((row.to_vec(), lease));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// The rows of `Ready` of one topic, found by its failed events: those of other topics may be many.
fn ready_of<K: Kv>(
    machine: &Machine<'_, K>,
    work: &Work,
    topic: TopicId,
) -> Result<Vec<Vec<u8>>, Fault> {
    let (low, mut rows) = (progress::row_key(work.id, topic), Vec::new());
    let high = progress::row_key(work.id, topic.next());
    machine.overlay().scan(Table::Failures, &low, &high, Order::Ascending, &mut |row, value| {
        let story = FailureRecord::decode(value)?;
        if story.stands() == Standing::Ready {
            rows.push(fail::ready_key(work, failures::place_of(row)?, &story));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(rows)
}
