//! Changing a subscription's settings.
//!
//! They hold for what is under way too, from the next time it is looked at: a lowered
//! `max_attempts` kills an event at its next failure, a lowered bound in flight lets nothing new out
//! until enough came back, a new filter judges what is not done yet, a new retention holds for the
//! dead letters that are kept. Failed events keep their due time and their rank; whether priorities
//! come before it is for the policy of today to say, and many of them are placed by it bit by bit. A subscription that waits for its target resumes when it has none any more.

use super::pause::is_down;
use super::record::{self, not_found};
use super::state;
use crate::machine::apply::Machine;
use crate::machine::delivery::work::Work;
use crate::machine::delivery::{dead, fail, pauses};
use crate::machine::kv::{Kv, Table};
use crate::machine::{Fault, requests};
use crate::model::command::UpdateSubscription;
use crate::model::ids::DeadNumber;
use crate::model::outcome::Outcome;
use crate::model::rejection::{Reason, Rejection};
use crate::model::subscription::SubscriptionConfig;

pub(crate) fn apply<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: UpdateSubscription,
) -> Result<Outcome, Fault> {
    if let Some(first) = requests::first_answer(machine, &command.request_id)? {
        return Ok(first);
    }
    let UpdateSubscription { name, patch, if_revision, request_id } = command;
    let Some(mut record) = record::get(machine.overlay(), &name)? else {
        return Ok(Outcome::Rejected(not_found(&name)));
    };
    if if_revision != 0 && if_revision != record.revision {
        return Ok(Outcome::Rejected(
            Rejection::new(
                Reason::RevisionMismatch,
                format!(
                    "subscription {name} has revision {}, not {if_revision}; read it again and decide anew",
                    record.revision
                ),
            )
            .with("expected", if_revision)
            .with("actual", record.revision),
        ));
    }
    let before = record.config.clone();
    let routed = before.target.is_some();
    record.config = patch.onto(&before);
    if let Err(rejection) = record.config.check_change(&before) {
        return Ok(Outcome::Rejected(rejection));
    }
    record.updated_at_ms = machine.now().get();
    record.revision += 1;
    let id = record.subscription_id();
    let state = state::get(machine.overlay(), id)?.unwrap_or_default();
    machine.overlay_mut().put(Table::Subscriptions, name.clone().into_bytes(), record.encode());
    machine.wake(id);
    if routed || record.config.target.is_some() {
        machine.targets_changed();
    }
    let outcome = match Work::open(machine, &name)? {
        Some(mut work) => {
            follow(machine, &mut work, &before)?;
            let info = work.record.info(&work.state);
            work.finish(machine)?;
            Outcome::Subscription(Box::new(info))
        }
        None => Outcome::Subscription(Box::new(record.info(&state))),
    };
    requests::remember(machine, request_id, &outcome);
    Ok(outcome)
}

/// Does to what is under way what cannot wait until it is looked at.
fn follow<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &mut Work,
    before: &SubscriptionConfig,
) -> Result<(), Fault> {
    let now = &work.record.config;
    let retention_ms = now.dead_letters.retention_ms;
    if retention_ms != before.dead_letters.retention_ms {
        dead::time_first(machine, work.id, DeadNumber(0), retention_ms)?;
    }
    if now.priority_mode != before.priority_mode {
        fail::begin_placing(machine, work)?;
    }
    if work.record.config.target.is_none() && is_down(work) {
        pauses::resume(machine, work);
    }
    Ok(())
}
