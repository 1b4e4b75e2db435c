//! Deleting a subscription with everything it has.
//!
//! Its number is never used again, so its rows go as ranges. Its timers stay until they fire, and
//! find nothing.

use std::ops::ControlFlow;

use super::progress;
use super::record::not_found;
use crate::machine::apply::Machine;
use crate::machine::delivery::leases::{self, LeaseRecord};
use crate::machine::delivery::timers::{self, Due};
use crate::machine::delivery::work::Work;
use crate::machine::delivery::{fail, loads};
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::lifecycle::Report;
use crate::machine::{Fault, requests};
use crate::model::command::DeleteSubscription;
use crate::model::ids::{LeaseId, Offset, SubscriptionId, TopicId};
use crate::model::limits::FAILURES_SWEPT_MAX;
use crate::model::outcome::Outcome;

/// What a subscription has beside its settings, its state and its dead letters.
const TABLES: [Table; 7] = [
    Table::Progress,
    Table::Marks,
    Table::Failures,
    Table::Ready,
    Table::Leases,
    Table::ConsumerLoads,
    Table::Endings,
];

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
    let meta = machine.meta_mut();
    meta.subscriptions -= 1;
    meta.last_deleted_lease_id = meta.last_deleted_lease_id.max(work.state.last_lease_id);
    // Who waits for its events is told.
    machine.wake(id);
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
    for table in TABLES {
        let range = (id.to_key().to_vec(), id.next().to_key().to_vec());
        machine.overlay_mut().delete_range(table, range.0, range.1);
    }
    Ok(())
}

/// Removes what subscriptions have of a topic that is being deleted; dead letters stay. Where many of its
/// events failed, ticks go on with these: without progress there, nobody comes to them.
pub(crate) fn forget_topic<K: Kv>(
    machine: &mut Machine<'_, K>,
    topic: TopicId,
    name: &str,
) -> Result<(), Fault> {
    let mut room = FAILURES_SWEPT_MAX;
    for id in super::query::ids_of_topic(machine.overlay(), name)? {
        let Some(progress) = progress::stored(machine.overlay(), id, topic)? else { continue };
        let Some(mut work) = Work::open_id(machine, id)? else { continue };
        end_leases(machine, &mut work, topic)?;
        for table in [Table::Progress, Table::Marks, Table::Endings] {
            let low = progress::row_key(id, topic);
            let high = progress::row_key(id, topic.next());
            machine.overlay_mut().delete_range(table, low, high);
        }
        if progress.failures > 0 {
            let (seen, next) = fail::sweep(machine, &work, (topic, Offset(0)), room)?;
            room -= seen;
            if let Some(next) = next {
                timers::set(machine, machine.now(), Due::Sweep(id, topic, next));
            }
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
