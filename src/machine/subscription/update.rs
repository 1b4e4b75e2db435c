//! Changing a subscription's settings.
//!
//! They hold for what is under way too, from the next time it is looked at: a lowered
//! `max_attempts` kills an event at its next failure, a lowered bound in flight lets nothing new out
//! until enough came back, a new filter judges what is not done yet. Failed events keep their rank
//! and their due time. A subscription that waits for its target resumes when it has none any more.

use super::pause::is_down;
use super::record::{self, not_found};
use super::state;
use crate::machine::apply::Machine;
use crate::machine::delivery::pauses;
use crate::machine::delivery::work::Work;
use crate::machine::kv::{Kv, Table};
use crate::machine::{Fault, requests};
use crate::model::command::UpdateSubscription;
use crate::model::outcome::Outcome;
use crate::model::rejection::{Reason, Rejection};

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
    let routed = record.config.target.is_some();
    record.config = patch.onto(&record.config);
    if let Err(rejection) = record.config.check() {
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
        Some(mut work) if work.record.config.target.is_none() && is_down(&work) => {
            pauses::resume(machine, &mut work);
            let info = work.record.info(&work.state);
            work.finish(machine)?;
            Outcome::Subscription(Box::new(info))
        }
        _ => Outcome::Subscription(Box::new(record.info(&state))),
    };
    requests::remember(machine, request_id, &outcome);
    Ok(outcome)
}
