//! Creating a topic.

use super::record::TopicRecord;
use crate::machine::Fault;
use crate::machine::apply::Machine;
use crate::machine::kv::Kv;
use crate::machine::requests;
use crate::machine::schema::judged;
use crate::model::command::CreateTopic;
use crate::model::limits::TOPICS_MAX;
use crate::model::outcome::Outcome;
use crate::model::rejection::{Reason, Rejection};

pub(crate) fn apply<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: CreateTopic,
) -> Result<Outcome, Fault> {
    if let Some(first) = requests::first_answer(machine, &command.request_id)? {
        return Ok(first);
    }
    let CreateTopic { name, config, request_id } = command;
    if machine.topic(&name)?.is_some() {
        return Ok(Outcome::Rejected(
            Rejection::new(
                Reason::TopicExists,
                format!("topic {name} exists; choose another name, or update it"),
            )
            .with("topic", &name),
        ));
    }
    if machine.meta().topics >= TOPICS_MAX {
        return Ok(Outcome::Rejected(Rejection::new(
            Reason::LimitReached,
            format!("there are {TOPICS_MAX} topics, the most that a hub has; delete one first"),
        )));
    }
    if let Some(rejection) = judged::lacks(machine, &config)? {
        return Ok(Outcome::Rejected(rejection));
    }
    let now = machine.now().get();
    let meta = machine.meta_mut();
    meta.last_topic_id += 1;
    meta.topics += 1;
    let record = TopicRecord {
        id: meta.last_topic_id,
        config,
        created_at_ms: now,
        updated_at_ms: now,
        revision: 1,
        ..TopicRecord::default()
    };
    let outcome = Outcome::Topic(Box::new(record.info(&name)));
    machine.put_topic(&name, record);
    requests::remember(machine, request_id, &outcome);
    Ok(outcome)
}
