//! Calling a delayed event off, for every subscription, before it is ready.
//!
//! The event stays in its topic: the log is immutable. Subscriptions skip it as they come to it.

use super::{index, specials};
use crate::machine::apply::Machine;
use crate::machine::kv::Kv;
use crate::machine::topic::record::not_found;
use crate::machine::{Fault, query};
use crate::model::command::CancelEvent;
use crate::model::ids::{Offset, TopicId};
use crate::model::outcome::Outcome;
use crate::model::rejection::{Reason, Rejection};

pub(crate) fn apply<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: &CancelEvent,
) -> Result<Outcome, Fault> {
    let Some(mut topic) = machine.topic(&command.topic)?.cloned() else {
        return Ok(Outcome::Rejected(not_found(&command.topic)));
    };
    machine.close_batch();
    let offset = if command.id.is_empty() {
        (command.offset < topic.next_offset).then_some(Offset(command.offset))
    } else {
        let info = topic.info(&command.topic);
        query::event_by_id(machine.overlay(), &info, &command.source, &command.id)?
            .map(|event| event.offset)
    };
    let Some(offset) = offset else { return Ok(Outcome::Rejected(no_event(command))) };
    let special = specials::get(machine.overlay(), TopicId(topic.id), offset)?;
    match special {
        Some(special) if special.cancelled => Ok(Outcome::Done),
        Some(special) if special.ready_at_ms > machine.now().get() => {
            let id = topic.topic_id();
            index::call_off(machine, id, offset, &special)?;
            topic.cancels += 1;
            machine.put_topic(&command.topic, topic);
            machine.appended(id);
            Ok(Outcome::Done)
        }
        _ => Ok(Outcome::Rejected(
            Rejection::new(
                Reason::NotScheduled,
                format!(
                    "event {offset} of topic {} is not delayed any more; reject it where it is delivered",
                    command.topic
                ),
            )
            .with("topic", &command.topic)
            .with("offset", offset),
        )),
    }
}

fn no_event(command: &CancelEvent) -> Rejection {
    let which = if command.id.is_empty() {
        format!("at offset {}", command.offset)
    } else {
        format!("with id {:?}", command.id)
    };
    Rejection::new(
        Reason::EventNotFound,
        format!(
            "topic {} has no event {which}; ids are found on topics with index_ids",
            command.topic
        ),
    )
    .with("topic", &command.topic)
}
