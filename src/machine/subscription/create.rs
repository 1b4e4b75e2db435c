//! Creating a subscription.
//!
//! Nothing is written per topic: where there is no progress yet, it follows from the position that
//! the subscription starts at. Topics that are created later lie after it from their first event.

use super::record::{self, SubscriptionRecord};
use super::seek;
use super::state::SubscriptionState;
use crate::machine::apply::Machine;
use crate::machine::kv::{Kv, Table};
use crate::machine::{Fault, requests};
use crate::model::command::CreateSubscription;
use crate::model::limits::SUBSCRIPTIONS_MAX;
use crate::model::name::check_subscription;
use crate::model::outcome::Outcome;
use crate::model::rejection::{Reason, Rejection};

pub(crate) fn apply<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: CreateSubscription,
) -> Result<Outcome, Fault> {
    if let Some(first) = requests::first_answer(machine, &command.request_id)? {
        return Ok(first);
    }
    machine.settle();
    let CreateSubscription { name, config, start, request_id } = command;
    if let Some(rejection) = refuse(machine, &name)? {
        return Ok(Outcome::Rejected(rejection));
    }
    if let Err(rejection) = config.check() {
        return Ok(Outcome::Rejected(rejection));
    }
    let end = machine.next_position();
    let target = match seek::target(machine.overlay(), end, &config.pattern, &start)? {
        Ok(target) => target,
        Err(rejection) => return Ok(Outcome::Rejected(rejection)),
    };
    let now = machine.now().get();
    let meta = machine.meta_mut();
    meta.last_subscription_id += 1;
    meta.subscriptions += 1;
    let record = SubscriptionRecord {
        id: meta.last_subscription_id,
        config,
        revision: 1,
        created_at_ms: now,
        updated_at_ms: now,
        start_position: target.start.get(),
    };
    let state = SubscriptionState {
        name: name.clone(),
        // Tokens of leases of an earlier one with this name stay those of leases that have ended.
        last_lease_id: meta.last_deleted_lease_id,
        ..SubscriptionState::default()
    };
    let id = record.subscription_id();
    target.write(machine, id);
    let overlay = machine.overlay_mut();
    overlay.put(Table::Subscriptions, name.into_bytes(), record.encode());
    overlay.put(Table::SubscriptionStates, id.to_key().to_vec(), state.encode());
    machine.wake(id);
    if record.config.target.is_some() {
        machine.targets_changed();
    }
    let outcome = Outcome::Subscription(Box::new(record.info(&state)));
    requests::remember(machine, request_id, &outcome);
    Ok(outcome)
}

fn refuse<K: Kv>(machine: &Machine<'_, K>, name: &str) -> Result<Option<Rejection>, Fault> {
    if let Err(rejection) = check_subscription(name) {
        return Ok(Some(rejection));
    }
    if record::get(machine.overlay(), name)?.is_some() {
        return Ok(Some(
            Rejection::new(
                Reason::SubscriptionExists,
                format!("subscription {name} exists; choose another name, or update it"),
            )
            .with("subscription", name),
        ));
    }
    Ok((machine.meta().subscriptions >= SUBSCRIPTIONS_MAX).then(|| {
        Rejection::new(
            Reason::LimitReached,
            format!("there are {SUBSCRIPTIONS_MAX} subscriptions, the most that a hub has; delete one first"),
        )
    }))
}
