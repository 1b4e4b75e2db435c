//! A transaction in one command: everything is checked first, against the state before it; then all of it
//! is done, in the same way as the commands that it consists of.

use crate::machine::apply::Machine;
use crate::machine::delivery::settle;
use crate::machine::kv::Kv;
use crate::machine::subscription::record;
use crate::machine::topic::against::Against;
use crate::machine::topic::publish;
use crate::machine::topic::record::not_found;
use crate::machine::{Fault, requests};
use crate::model::command::Transact;
use crate::model::outcome::{Outcome, Published};
use crate::model::rejection::Rejection;

pub(crate) fn apply<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: Transact,
) -> Result<Outcome, Fault> {
    if let Some(first) = requests::first_answer(machine, &command.request_id)? {
        return Ok(first);
    }
    if let Some(rejection) = refusal(machine, &command)? {
        return Ok(Outcome::Rejected(rejection));
    }
    let outcome = Outcome::Transacted(perform(machine, &command)?);
    requests::remember(machine, command.request_id, &outcome);
    Ok(outcome)
}

/// One refusal that tells of everything that stands against it.
pub(super) fn refusal<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: &Transact,
) -> Result<Option<Rejection>, Fault> {
    let mut against = Against::default();
    for part in &command.parts {
        match machine.topic(&part.topic)?.cloned() {
            Some(topic) => publish::check(machine, &topic, part, &mut against)?,
            None => {
                against.note(not_found(&part.topic));
                against.pass_over(part);
            }
        }
    }
    for part in &command.settles {
        let name = &part.subscription;
        let Some(subscription) = record::get(machine.overlay(), name)? else {
            against.note(record::not_found(name));
            continue;
        };
        for item in &part.items {
            let id = subscription.subscription_id();
            if let Some(reason) = settle::lacks(machine, id, &part.consumer, item)? {
                let text = format!(
                    "lease {} of subscription {name} is not held with these events, or some have left it; name those that it still has, or pull again",
                    item.lease_id
                );
                against.note(Rejection::new(reason, text).with("lease_id", item.lease_id));
            }
        }
    }
    Ok(against.refusal())
}

/// Does what was checked; where the events of each part went.
pub(super) fn perform<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: &Transact,
) -> Result<Vec<Published>, Fault> {
    let mut parts = Vec::with_capacity(command.parts.len());
    for part in &command.parts {
        let topic = machine.topic(&part.topic)?.cloned();
        parts.push(match topic.filter(|_| part.count > 0) {
            Some(topic) => publish::write(machine, topic, part)?,
            None => Published::default(),
        });
    }
    for part in &command.settles {
        settle::apply(machine, part)?;
    }
    Ok(parts)
}
