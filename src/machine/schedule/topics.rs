//! A subscription's view of one topic, read only.

use std::collections::BTreeMap;

use super::reserved::Reserved;
use super::scheduled::Waiting;
use crate::machine::Fault;
use crate::machine::delivery::eligible::Predecessors;
use crate::machine::delivery::failures;
use crate::machine::kv::Kv;
use crate::machine::subscription::marks::{self, Bits, Marks};
use crate::machine::subscription::progress::{self, ProgressRecord};
use crate::machine::topic::reader::EventReader;
use crate::model::ids::{Offset, Position, SubscriptionId};
use crate::model::limits::MARKS_OFFSETS;
use crate::model::outcome::TopicInfo;
use crate::model::ranges::OffsetRange;

/// How an event stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Free,
    Leased,
    /// Done, or handed over to `Failures`.
    Done,
}

pub(super) struct TopicView {
    pub(super) info: TopicInfo,
    pub(super) progress: ProgressRecord,
    subscription: SubscriptionId,
    /// By row of marks, what is about to be leased.
    reserved: BTreeMap<u64, Bits>,
    chunks: BTreeMap<u64, Marks>,
    pub(super) reader: EventReader,
    predecessors: Predecessors,
}

impl TopicView {
    pub(super) fn load(
        kv: &impl Kv,
        subscription: SubscriptionId,
        start: Position,
        info: TopicInfo,
        reserved: &Reserved,
    ) -> Result<Self, Fault> {
        let progress = progress::load(kv, subscription, start, &info)?;
        Ok(Self {
            reserved: reserved.of(info.id),
            info,
            progress,
            subscription,
            chunks: BTreeMap::new(),
            reader: EventReader::default(),
            predecessors: Predecessors::default(),
        })
    }

    fn marks(&mut self, kv: &impl Kv, chunk: u64) -> Result<&Marks, Fault> {
        use std::collections::btree_map::Entry;
        match self.chunks.entry(chunk) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(slot) => {
                let mut marks = marks::load(kv, self.subscription, self.info.id, chunk)?;
                if let Some(reserved) = self.reserved.get(&chunk) {
                    marks.leased.add(reserved);
                }
                Ok(slot.insert(marks))
            }
        }
    }

    /// Whether an event is about to be leased.
    pub(super) fn is_reserved(&self, offset: Offset) -> bool {
        let row = self.reserved.get(&marks::chunk_of(offset));
        row.is_some_and(|places| places.has(offset.get() % MARKS_OFFSETS))
    }

    /// The first event that may be free.
    pub(super) fn first(&self) -> u64 {
        self.progress.floor.max(self.info.first_offset.get())
    }

    pub(super) fn mark(&mut self, kv: &impl Kv, offset: Offset) -> Result<Mark, Fault> {
        if offset.get() < self.first() || offset >= self.info.next_offset {
            return Ok(Mark::Done);
        }
        let (place, marks) =
            (offset.get() % MARKS_OFFSETS, self.marks(kv, marks::chunk_of(offset))?);
        Ok(if marks.done.has(place) {
            Mark::Done
        } else if marks.leased.has(place) {
            Mark::Leased
        } else {
            Mark::Free
        })
    }

    /// Leaves of some events those that are free, looking each row of marks up once where they are in order.
    pub(super) fn retain_free(
        &mut self,
        kv: &impl Kv,
        waiting: &mut Vec<Waiting>,
    ) -> Result<(), Fault> {
        let readable = self.first()..self.info.next_offset.get();
        let mut free = Vec::with_capacity(waiting.len());
        let mut events = waiting.iter().filter(|w| readable.contains(&w.offset.get())).peekable();
        while let Some(chunk) = events.peek().map(|next| marks::chunk_of(next.offset)) {
            let marks = self.marks(kv, chunk)?;
            while let Some(event) = events.next_if(|next| marks::chunk_of(next.offset) == chunk) {
                let place = event.offset.get() % MARKS_OFFSETS;
                if !marks.done.has(place) && !marks.leased.has(place) {
                    free.push(*event);
                }
            }
        }
        *waiting = free;
        Ok(())
    }

    /// The first run of free events at or after `at` in its row; else where the next row begins.
    pub(super) fn free_run(
        &mut self,
        kv: &impl Kv,
        at: u64,
    ) -> Result<Result<OffsetRange, u64>, Fault> {
        let end = self.info.next_offset.get();
        let at = at.max(self.first());
        if at >= end {
            return Ok(Err(end));
        }
        let chunk = marks::chunk_of(Offset(at));
        let base = chunk * MARKS_OFFSETS;
        let until = (end - base).min(MARKS_OFFSETS);
        let run = self.marks(kv, chunk)?.free(at - base, until).next();
        Ok(match run {
            Some(run) => Ok(OffsetRange { first: base + run.first, count: run.count }),
            None => Err(base + MARKS_OFFSETS),
        })
    }

    /// The event of the same key before one.
    pub(super) fn before(&mut self, kv: &impl Kv, offset: Offset) -> Result<Option<Offset>, Fault> {
        self.predecessors.of(kv, self.info.id, offset)
    }

    /// Whether an event is done: not waiting, not in flight, not failing.
    pub(super) fn is_done(&mut self, kv: &impl Kv, offset: Offset) -> Result<bool, Fault> {
        if self.mark(kv, offset)? != Mark::Done {
            return Ok(false);
        }
        let failing = self.progress.failures > 0
            && failures::get(kv, self.subscription, self.info.id, offset)?.is_some();
        Ok(!failing)
    }
}
