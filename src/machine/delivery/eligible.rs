//! Whether an event may go: what the filter says, and in order by key whether the one of its key
//! before it is done.
//!
//! Done for this subscription, or from before its start. Events without a key are free. An event
//! that was redriven comes late by nature: those after it were done already and do not wait.

use super::work::Work;
use crate::machine::apply::Machine;
use crate::machine::kv::Kv;
use crate::machine::topic::backs::Backs;
use crate::machine::{Fault, query};
use crate::model::filter::Compiled;
use crate::model::ids::{Offset, TopicId};
use crate::model::ranges::{OffsetRange, Ranges};

/// Looks up the events before: remembers what it read last.
#[derive(Debug, Default)]
pub(crate) struct Predecessors {
    known: Option<(TopicId, Backs)>,
}

impl Predecessors {
    /// The event of the same key before one; `None` when it has no key, or is the first of it.
    ///
    /// # Errors
    /// When the store fails or a row is corrupt.
    pub(crate) fn of(
        &mut self,
        kv: &impl Kv,
        topic: TopicId,
        offset: Offset,
    ) -> Result<Option<Offset>, Fault> {
        let holds = |(t, backs): &(TopicId, Backs)| *t == topic && backs.has(offset);
        if !self.known.as_ref().is_some_and(holds) {
            self.known = Some((topic, Backs::around(kv, topic, offset)?));
        }
        Ok(self.known.as_ref().and_then(|(_, backs)| backs.before(offset)))
    }
}

/// The subscription's filter.
pub(crate) fn filter_of(work: &Work) -> Result<Option<Compiled>, Fault> {
    let filter = work.record.config.filter.as_ref().map(|filter| filter.compile());
    filter.transpose().map_err(|e| Fault::Undecodable(e.to_string()))
}

/// Whether a filter lets an event through.
pub(crate) fn passes<K: Kv>(
    machine: &Machine<'_, K>,
    filter: Option<&Compiled>,
    topic: TopicId,
    offset: Offset,
) -> Result<bool, Fault> {
    let Some(filter) = filter else { return Ok(true) };
    let Some(event) = query::stored_event(machine.overlay(), topic, offset)? else {
        return Ok(true);
    };
    Ok(filter.matches(&event.event)?)
}

/// Whether the event before it is done.
pub(crate) fn is_next<K: Kv>(
    machine: &Machine<'_, K>,
    work: &mut Work,
    predecessors: &mut Predecessors,
    (topic, offset): (TopicId, Offset),
) -> Result<bool, Fault> {
    match predecessors.of(machine.overlay(), topic, offset)? {
        Some(before) => work.is_done(machine, topic, before),
        None => Ok(true),
    }
}

/// The first of the offsets that may go, at most `limit`.
pub(crate) fn in_turn<K: Kv>(
    machine: &Machine<'_, K>,
    work: &mut Work,
    topic: TopicId,
    offsets: &Ranges,
    limit: u64,
) -> Result<Ranges, Fault> {
    let (mut free, mut count, mut before) = (Ranges::new(), 0, Predecessors::default());
    for offset in offsets.iter() {
        if count == limit {
            break;
        }
        if is_next(machine, work, &mut before, (topic, offset))? {
            free.push(OffsetRange::one(offset));
            count += 1;
        }
    }
    Ok(free)
}
