//! Deleting a topic with everything in it.
//!
//! A topic's number is never used again, so its rows can be removed as ranges. What subscriptions have of
//! its failed events lies among that of others: many of them go bit by bit. The rows of
//! `Positions` are shared by all topics: those of a deleted topic stay, and readers pass over them. So are
//! those of `Correlations`, which housekeeping sweeps.

use super::record::not_found;
use crate::machine::Fault;
use crate::machine::apply::Machine;
use crate::machine::kv::{Kv, Table};
use crate::machine::{requests, subscription, tracking};
use crate::model::command::DeleteTopic;
use crate::model::outcome::Outcome;

/// What a topic has, by its number.
const TABLES: [Table; 11] = [
    Table::Batches,
    Table::Stripes,
    Table::Keys,
    Table::KeyHeads,
    Table::Ids,
    Table::IdExpiries,
    Table::Specials,
    Table::Scheduled,
    Table::Deadlines,
    Table::Backs,
    Table::KeySnapshots,
];

pub(crate) fn apply<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: DeleteTopic,
) -> Result<Outcome, Fault> {
    if let Some(first) = requests::first_answer(machine, &command.request_id)? {
        return Ok(first);
    }
    let Some(id) = machine.topic(&command.name)?.map(super::record::TopicRecord::topic_id) else {
        return Ok(Outcome::Rejected(not_found(&command.name)));
    };
    machine.close_batch();
    subscription::delete::forget_topic(machine, id, &command.name)?;
    for table in TABLES {
        let (start, end) = (id.to_key().to_vec(), id.next().to_key().to_vec());
        machine.overlay_mut().delete_range(table, start, end);
    }
    tracking::index::forget_later(machine)?;
    machine.remove_topic(&command.name);
    machine.meta_mut().topics -= 1;
    requests::remember(machine, command.request_id, &Outcome::Done);
    Ok(Outcome::Done)
}
