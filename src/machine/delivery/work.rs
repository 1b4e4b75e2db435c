//! What one command does to one subscription: rows that are read once, changed in memory, and
//! written at its end.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::{failures, loads};
use crate::machine::Fault;
use crate::machine::apply::Machine;
use crate::machine::kv::{Kv, Table};
use crate::machine::lifecycle::Report;
use crate::machine::record::Kind;
use crate::machine::subscription::marks::{self, Marks};
use crate::machine::subscription::progress::{self, ProgressRecord};
use crate::machine::subscription::record::SubscriptionRecord;
use crate::machine::subscription::state::SubscriptionState;
use crate::machine::subscription::{record, state};
use crate::model::ids::{Offset, Position, SubscriptionId, TopicId};
use crate::model::limits::MARKS_OFFSETS;
use crate::model::pattern::TopicPattern;
use crate::model::ranges::{OffsetRange, Ranges};

/// A subscription that a command works on.
pub(crate) struct Work {
    pub(crate) id: SubscriptionId,
    pub(crate) record: SubscriptionRecord,
    pub(crate) state: SubscriptionState,
    /// As it is stored.
    stored: SubscriptionState,
    /// Something may be ready now.
    pub(crate) wakes: bool,
    /// Events that ended: acknowledged, and dead by what happened to them.
    pub(crate) ended: (u64, u64),
    /// New dead letters.
    pub(crate) letters: u64,
    topics: BTreeMap<TopicId, TopicWork>,
    loads: BTreeMap<String, u64>,
}

/// One of its topics.
pub(crate) struct TopicWork {
    pub(crate) progress: ProgressRecord,
    pub(crate) first_offset: Offset,
    pub(crate) next_offset: Offset,
    pub(crate) specials: u64,
    pub(crate) cancels: u64,
    pub(crate) delays: u64,
    /// Traces tell of some of its events.
    pub(crate) correlated: bool,
    chunks: BTreeMap<u64, Marks>,
    changed: bool,
}

impl Work {
    /// Begins to work on a subscription.
    pub(crate) fn open<K: Kv>(
        machine: &mut Machine<'_, K>,
        name: &str,
    ) -> Result<Option<Self>, Fault> {
        machine.close_batch();
        let Some(record) = record::get(machine.overlay(), name)? else { return Ok(None) };
        let id = record.subscription_id();
        let state =
            state::get(machine.overlay(), id)?.ok_or_else(|| gone(Kind::SubscriptionState))?;
        Ok(Some(Self {
            id,
            record,
            stored: state.clone(),
            state,
            wakes: false,
            ended: (0, 0),
            letters: 0,
            topics: BTreeMap::new(),
            loads: BTreeMap::new(),
        }))
    }

    /// Begins to work on a subscription by number.
    pub(crate) fn open_id<K: Kv>(
        machine: &mut Machine<'_, K>,
        id: SubscriptionId,
    ) -> Result<Option<Self>, Fault> {
        match state::get(machine.overlay(), id)? {
            Some(state) => Self::open(machine, &state.name),
            None => Ok(None),
        }
    }

    /// Turns to a topic; `false` when it does not exist, or is none of this subscription's.
    pub(crate) fn enter<K: Kv>(
        &mut self,
        machine: &mut Machine<'_, K>,
        topic: TopicId,
        name: Option<&str>,
    ) -> Result<bool, Fault> {
        if self.topics.contains_key(&topic) {
            return Ok(true);
        }
        let stored = progress::stored(machine.overlay(), self.id, topic)?;
        let name = match (&stored, name) {
            (Some(stored), _) => stored.topic.clone(),
            (None, Some(name)) => name.to_owned(),
            (None, None) => return Ok(false),
        };
        let pattern = TopicPattern::from_checked(&self.record.config.pattern);
        let Some(found) = machine.topic(&name)?.filter(|t| t.id == topic.get()) else {
            return Ok(false);
        };
        if !pattern.matches(&name) {
            return Ok(false);
        }
        let (first_offset, next_offset) = (Offset(found.first_offset), Offset(found.next_offset));
        let (specials, cancels, delays) = (found.specials, found.cancels, found.delays);
        let correlated = found.correlated;
        let info = found.info(&name);
        let changed = stored.is_none();
        let progress = match stored {
            Some(stored) => stored,
            None => {
                let start = Position(self.record.start_position);
                progress::load(machine.overlay(), self.id, start, &info)?
            }
        };
        let chunks = BTreeMap::new();
        let work = TopicWork {
            progress,
            first_offset,
            next_offset,
            specials,
            cancels,
            delays,
            correlated,
            chunks,
            changed,
        };
        self.topics.insert(topic, work);
        Ok(true)
    }

    /// A topic that was entered.
    pub(crate) fn topic(&mut self, topic: TopicId) -> Result<&mut TopicWork, Fault> {
        self.topics.get_mut(&topic).ok_or_else(|| gone(Kind::Progress))
    }

    fn marks<K: Kv>(
        &mut self,
        machine: &Machine<'_, K>,
        topic: TopicId,
        chunk: u64,
    ) -> Result<&mut Marks, Fault> {
        let id = self.id;
        Ok(match self.topic(topic)?.chunks.entry(chunk) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(slot) => slot.insert(marks::load(machine.overlay(), id, topic, chunk)?),
        })
    }

    /// Which of the offsets are neither done nor leased nor handed over to `Failures`.
    pub(crate) fn free<K: Kv>(
        &mut self,
        machine: &Machine<'_, K>,
        topic: TopicId,
        offsets: &Ranges,
    ) -> Result<Ranges, Fault> {
        let work = self.topic(topic)?;
        let low = work.progress.floor.max(work.first_offset.get());
        let readable = OffsetRange::between(low, work.next_offset.get());
        let mut free = Ranges::new();
        let readable = offsets.as_slice().iter().map(|range| range.overlap(readable));
        self.each_chunk(machine, topic, readable, |chunk, marks, from, until| {
            let base = chunk * MARKS_OFFSETS;
            for run in marks.free(from, until) {
                free.push(OffsetRange { first: base + run.first, count: run.count });
            }
        })?;
        Ok(free)
    }

    /// Visits the marks of offsets in order, looking each chunk up once: its number, its marks, and
    /// from where to where.
    fn each_chunk<K: Kv>(
        &mut self,
        machine: &Machine<'_, K>,
        topic: TopicId,
        ranges: impl Iterator<Item = OffsetRange>,
        mut visit: impl FnMut(u64, &mut Marks, u64, u64),
    ) -> Result<(), Fault> {
        let mut parts = ranges.flat_map(chunks).peekable();
        while let Some((chunk, ..)) = parts.peek().copied() {
            let marks = self.marks(machine, topic, chunk)?;
            while let Some((_, from, until)) = parts.next_if(|(of, ..)| *of == chunk) {
                visit(chunk, marks, from, until);
            }
        }
        Ok(())
    }

    /// Changes the marks of offsets, chunk by chunk.
    fn mark<K: Kv>(
        &mut self,
        machine: &Machine<'_, K>,
        topic: TopicId,
        offsets: &Ranges,
        change: impl Fn(&mut Marks, u64, u64),
    ) -> Result<(), Fault> {
        let ranges = offsets.as_slice().iter().copied();
        self.each_chunk(machine, topic, ranges, |_, marks, from, until| {
            change(marks, from, until)
        })?;
        self.topic(topic)?.changed = true;
        Ok(())
    }

    /// Marks offsets that were free as leased.
    pub(crate) fn lease<K: Kv>(
        &mut self,
        machine: &Machine<'_, K>,
        topic: TopicId,
        offsets: &Ranges,
    ) -> Result<(), Fault> {
        self.mark(machine, topic, offsets, |marks, from, until| marks.leased.set(from, until))
    }

    /// Marks leased offsets as free again.
    pub(crate) fn unlease<K: Kv>(
        &mut self,
        machine: &Machine<'_, K>,
        topic: TopicId,
        offsets: &Ranges,
    ) -> Result<(), Fault> {
        self.mark(machine, topic, offsets, |marks, from, until| marks.leased.clear(from, until))
    }

    /// Marks free or leased offsets as done, and moves the floor up.
    pub(crate) fn done<K: Kv>(
        &mut self,
        machine: &Machine<'_, K>,
        topic: TopicId,
        offsets: &Ranges,
    ) -> Result<(), Fault> {
        self.mark(machine, topic, offsets, |marks, from, until| {
            marks.done.set(from, until);
            marks.leased.clear(from, until);
        })?;
        let mut floor = self.topic(topic)?.progress.floor;
        loop {
            let chunk = marks::chunk_of(Offset(floor));
            let base = chunk * MARKS_OFFSETS;
            let open = self.marks(machine, topic, chunk)?.done.next(floor - base, false);
            floor = base + open;
            if open < MARKS_OFFSETS {
                break;
            }
        }
        self.topic(topic)?.progress.floor = floor;
        Ok(())
    }

    /// Whether an event is done: not waiting, not in flight, not failing.
    pub(crate) fn is_done<K: Kv>(
        &mut self,
        machine: &Machine<'_, K>,
        topic: TopicId,
        offset: Offset,
    ) -> Result<bool, Fault> {
        let progress = &self.topic(topic)?.progress;
        let (floor, failing) = (progress.floor, progress.failures > 0);
        if offset.get() >= floor {
            let marks = self.marks(machine, topic, marks::chunk_of(offset))?;
            if !marks.done.has(offset.get() % MARKS_OFFSETS) {
                return Ok(false);
            }
        }
        Ok(!failing || failures::get(machine.overlay(), self.id, topic, offset)?.is_none())
    }

    /// Counts rows of `Failures` that came and went.
    pub(crate) fn count_failures(
        &mut self,
        topic: TopicId,
        came: u64,
        went: u64,
    ) -> Result<(), Fault> {
        let work = self.topic(topic)?;
        let failures = work.progress.failures.saturating_add(came).checked_sub(went);
        work.progress.failures = failures.ok_or_else(|| gone(Kind::Failure))?;
        work.changed = true;
        Ok(())
    }

    /// Events in flight of a consumer.
    pub(crate) fn load<K: Kv>(
        &mut self,
        machine: &Machine<'_, K>,
        consumer: &str,
    ) -> Result<u64, Fault> {
        if let Some(load) = self.loads.get(consumer) {
            return Ok(*load);
        }
        let load = loads::get(machine.overlay(), self.id, consumer)?;
        self.loads.insert(consumer.to_owned(), load);
        Ok(load)
    }

    /// Counts events in flight that came and went.
    pub(crate) fn count_in_flight<K: Kv>(
        &mut self,
        machine: &Machine<'_, K>,
        consumer: &str,
        came: u64,
        went: u64,
    ) -> Result<(), Fault> {
        let lost = || gone(Kind::ConsumerLoad);
        let load = self.load(machine, consumer)?.saturating_add(came);
        let load = load.checked_sub(went).ok_or_else(lost)?;
        self.loads.insert(consumer.to_owned(), load);
        let all = self.state.in_flight.saturating_add(came);
        self.state.in_flight = all.checked_sub(went).ok_or_else(lost)?;
        Ok(())
    }

    /// Says something about this subscription in the lifecycle feed. Nothing is said about
    /// subscriptions to the hub's own topics: that would feed itself.
    pub(crate) fn report<K: Kv>(&self, machine: &mut Machine<'_, K>, what: Report) {
        if !TopicPattern::from_checked(&self.record.config.pattern).is_system() {
            machine.report(&self.state.name, what);
        }
    }

    /// Writes what changed.
    pub(crate) fn finish<K: Kv>(mut self, machine: &mut Machine<'_, K>) -> Result<(), Fault> {
        super::pauses::trip(machine, &mut self)?;
        for (topic, work) in std::mem::take(&mut self.topics) {
            if work.changed {
                write_topic(machine, self.id, topic, work);
            }
        }
        for (consumer, load) in &self.loads {
            loads::set(machine, self.id, consumer, *load);
        }
        if self.state != self.stored {
            let row = self.state.encode();
            machine.overlay_mut().put(Table::SubscriptionStates, self.id.to_key().to_vec(), row);
        }
        if self.wakes {
            machine.wake(self.id);
        }
        Ok(())
    }
}

fn write_topic<K: Kv>(
    machine: &mut Machine<'_, K>,
    id: SubscriptionId,
    topic: TopicId,
    work: TopicWork,
) {
    let overlay = machine.overlay_mut();
    let floor = work.progress.floor;
    overlay.put(Table::Progress, progress::row_key(id, topic), work.progress.encode());
    for (chunk, mut marks) in work.chunks {
        // Below the floor nothing is kept.
        let below = floor.saturating_sub(chunk * MARKS_OFFSETS).min(MARKS_OFFSETS);
        marks.done.clear(0, below);
        marks.leased.clear(0, below);
        let key = marks::row_key(id, topic, chunk);
        if marks.is_empty() {
            overlay.delete(Table::Marks, key);
        } else {
            overlay.put(Table::Marks, key, marks.encode());
        }
    }
}

/// The rows that a range touches, with the places in each.
fn chunks(range: OffsetRange) -> impl Iterator<Item = (u64, u64, u64)> {
    let (first, end) = (range.first, range.end());
    let rows =
        if range.count == 0 { 0..0 } else { first / MARKS_OFFSETS..end.div_ceil(MARKS_OFFSETS) };
    rows.map(move |chunk| {
        let base = chunk * MARKS_OFFSETS;
        (chunk, first.saturating_sub(base), (end - base).min(MARKS_OFFSETS))
    })
}

fn gone(kind: Kind) -> Fault {
    Fault::Corrupt { record: kind, what: "a row that others count on is gone".to_owned() }
}
