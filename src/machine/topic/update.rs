//! Changing a topic's settings.

use super::record::not_found;
use crate::machine::Fault;
use crate::machine::apply::Machine;
use crate::machine::kv::Kv;
use crate::machine::requests;
use crate::machine::schema::judged;
use crate::model::command::UpdateTopic;
use crate::model::outcome::Outcome;
use crate::model::rejection::{Reason, Rejection};

pub(crate) fn apply<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: UpdateTopic,
) -> Result<Outcome, Fault> {
    if let Some(first) = requests::first_answer(machine, &command.request_id)? {
        return Ok(first);
    }
    let UpdateTopic { name, patch, if_revision, request_id } = command;
    let now = machine.now().get();
    let Some(topic) = machine.topic(&name)?.cloned() else {
        return Ok(Outcome::Rejected(not_found(&name)));
    };
    if if_revision != 0 && if_revision != topic.revision {
        return Ok(Outcome::Rejected(
            Rejection::new(
                Reason::RevisionMismatch,
                format!(
                    "topic {name} has revision {}, not {if_revision}; read it again and decide anew",
                    topic.revision
                ),
            )
            .with("expected", if_revision)
            .with("actual", topic.revision),
        ));
    }
    let config = patch.onto(&topic.config);
    if let Err(rejection) = config.check() {
        return Ok(Outcome::Rejected(rejection));
    }
    if patch.schema.is_some()
        && let Some(rejection) = judged::lacks(machine, &config)?
    {
        return Ok(Outcome::Rejected(rejection));
    }
    let mut record = topic;
    record.config = config;
    record.updated_at_ms = now;
    record.revision += 1;
    let outcome = Outcome::Topic(Box::new(record.info(&name)));
    machine.put_topic(&name, record);
    requests::remember(machine, request_id, &outcome);
    Ok(outcome)
}
