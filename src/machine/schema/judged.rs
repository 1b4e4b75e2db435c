//! Whether what judges the events of a topic now is what they were judged by before they were proposed.

use super::record;
use crate::machine::Fault;
use crate::machine::apply::Machine;
use crate::machine::kv::Kv;
use crate::machine::topic::record::TopicRecord;
use crate::model::command::Publish;
use crate::model::rejection::{Reason, Rejection};
use crate::model::topic::TopicConfig;

/// Why events have to be judged again.
pub(crate) fn refusal<K: Kv>(
    machine: &Machine<'_, K>,
    topic: &TopicRecord,
    command: &Publish,
) -> Result<Option<Rejection>, Fault> {
    let stale = match (&topic.config.schema, &command.judged) {
        _ if command.count == 0 => false,
        (None, None) => false,
        (Some(rule), Some(judged)) if judged.rule == *rule => {
            let mut stale = false;
            for judge in &judged.versions {
                stale |= judging(machine, &judge.subject)?.unwrap_or(0) != judge.version;
            }
            stale
        }
        _ => true,
    };
    Ok(stale.then(|| changed(&format!("topic {}", command.topic))))
}

/// The refusal of events that were judged by what judges no more.
pub(crate) fn changed(of: &str) -> Rejection {
    let text = format!("the schemas of {of} changed while its events were judged; send them again");
    Rejection::new(Reason::SchemaChanged, text)
}

/// Why a topic cannot have its rule: the subject that it names has no schema.
pub(crate) fn lacks<K: Kv>(
    machine: &Machine<'_, K>,
    config: &TopicConfig,
) -> Result<Option<Rejection>, Fault> {
    let subject = config.schema.as_ref().map(|rule| rule.subject.as_str()).unwrap_or_default();
    if subject.is_empty() || judging(machine, subject)?.is_some() {
        return Ok(None);
    }
    Ok(Some(record::not_found(subject, None)))
}

/// The version of a subject that judges.
fn judging<K: Kv>(machine: &Machine<'_, K>, subject: &str) -> Result<Option<u32>, Fault> {
    Ok(record::subject(machine.overlay(), subject)?.and_then(|known| known.judge()))
}
