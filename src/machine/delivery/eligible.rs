//! Whether an event may go: what the filter says, and in order by key whether the one of its key
//! before it is done.
//!
//! Done for this subscription, or from before its start. Events without a key are free. One whose
//! deadline passes before its turn is dead at once: those after it wait for those before it. An event
//! that was redriven comes late by nature: those after it were done already and do not wait.

use super::failures;
use super::work::Work;
use crate::machine::apply::Machine;
use crate::machine::kv::Kv;
use crate::machine::topic::backs::Backs;
use crate::machine::{Fault, query};
use crate::model::filter::Compiled;
use crate::model::ids::{Offset, TopicId};
use crate::model::limits::EARLY_DEAD_MAX;
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

/// Whether the event before it is done; of one that died before its turn, whether those before that are.
pub(crate) fn is_next<K: Kv>(
    machine: &Machine<'_, K>,
    work: &mut Work,
    predecessors: &mut Predecessors,
    (topic, offset): (TopicId, Offset),
) -> Result<bool, Fault> {
    let mut at = offset;
    while let Some(before) = predecessors.of(machine.overlay(), topic, at)? {
        if !work.is_done(machine, topic, before)? {
            return Ok(false);
        }
        if !work.topic(topic)?.progress.is_early(before) {
            break;
        }
        at = before;
    }
    Ok(true)
}

/// Notes an event that dies before its turn; `false`: there are too many such already.
pub(crate) fn note_early<K: Kv>(
    machine: &Machine<'_, K>,
    work: &mut Work,
    topic: TopicId,
    offset: Offset,
) -> Result<bool, Fault> {
    let (id, progress) = (work.id, &mut work.topic(topic)?.progress);
    let mut early = progress.early.clone().unwrap_or_default();
    if early.count() >= EARLY_DEAD_MAX {
        // Nobody waits for those before which everything is done.
        let all = Ranges::from_unsorted(&[OffsetRange::between(0, u64::MAX)]);
        let failed = failures::among(machine.overlay(), id, topic, &all, 1)?;
        let open =
            failed.first().map_or(progress.floor, |(first, _)| first.get().min(progress.floor));
        early = early.within(OffsetRange::between(open, u64::MAX));
    }
    if early.count() >= EARLY_DEAD_MAX {
        return Ok(false);
    }
    let with_it = [early.as_slice(), &[OffsetRange::one(offset)]].concat();
    progress.early = Some(Ranges::from_unsorted(&with_it));
    Ok(true)
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
