//! The streams that a search merges, each in the order of rank: the log, the rows of special
//! events, the failed events that are due.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use super::cursor::{Cursor, Place, StreamId, Which};
use super::flows::Rest;
use super::held::Held;
use super::rank::Rank;
use super::scheduled::{self, OrderKey, Waiting};
use super::search::{Item, Retry, Search};
use super::specials::{self, SpecialRecord};
use super::topics::Mark;
use crate::machine::delivery::ready::ReadyKey;
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::topic::batch;
use crate::machine::{Fault, key};
use crate::model::ids::{Offset, TopicId, UnixMs};
use crate::model::limits::{
    CANDIDATE_STREAM_ROWS, PRIORITY_DEFAULT, SPECIALS_DENSE, SPECIALS_PER_ROW,
};
use crate::model::ranges::OffsetRange;

/// A stream with a look ahead.
pub(super) struct Stream {
    pub(super) id: StreamId,
    /// Whether the log has to tell when its events were recorded: it is not alone.
    ranked: bool,
    /// The next row's key is not below this; for the log an offset.
    at: Vec<u8>,
    /// Events below, in the row at that key, were come to by earlier searches.
    resume_at: Offset,
    high: Vec<u8>,
    rows: VecDeque<(Vec<u8>, Vec<u8>)>,
    /// What is left of the row that the stream is in, in the order of readiness.
    group: Group,
    /// Special events ahead of the log: all of those below `specials_end`.
    specials: VecDeque<(Offset, SpecialRecord)>,
    specials_end: u64,
    /// The stored batch that the log came to last.
    batch: LogBatch,
    /// No search needs to look again at anything so far.
    passing: bool,
    /// When the first event that is not ready yet will be.
    later: Option<UnixMs>,
    /// Where later searches begin.
    begin: Option<Vec<u8>>,
    /// Failed events that the budget holds back.
    held: Held,
    head: Option<Item>,
    /// The key of the head.
    head_at: Vec<u8>,
    pub(super) ended: bool,
    /// Rows that the next reading takes at most.
    rows_max: usize,
}

/// Events of one row of `Scheduled`.
#[derive(Default)]
struct Group {
    topic: TopicId,
    rank: Rank,
    /// Those that were free when the row was opened.
    waiting: VecDeque<Waiting>,
    /// Its key; empty: none is open.
    row: Vec<u8>,
}

/// A stored batch of the log.
#[derive(Clone, Copy, Default)]
struct LogBatch {
    range: OffsetRange,
    recorded_at: UnixMs,
    /// Each of its events has a place in the order of its priority.
    striped: bool,
}

/// The first key after one.
pub(super) fn next_key(mut row: Vec<u8>) -> Vec<u8> {
    row.push(0);
    row
}

/// Special events that take as long to pass over as a row takes to read.
const SPECIALS_PER_SPENT_ROW: usize = 8;
/// Rows that a stream reads at first: most have none or few.
const STREAM_ROWS_FIRST: usize = 4;

impl Stream {
    /// From a key on, to the end of the rows that begin with a prefix. The log's keys are offsets,
    /// and its prefix is empty.
    pub(super) fn new(
        id: StreamId,
        ranked: bool,
        (from, prefix): (Vec<u8>, &[u8]),
        cursor: &Cursor,
    ) -> Self {
        let low = cursor.begin(&id).map_or(from.clone(), |begin| from.max(begin.to_vec()));
        let ended = cursor.has_ended(&id) || cursor.is_undated(&id);
        let resume = cursor.resumes.get(&id).filter(|place| place.key > low);
        Self {
            ranked,
            // Rows of `Ready` go when their events do.
            passing: resume.is_none() && id.2 != Which::Ready,
            resume_at: resume.map_or(Offset(0), |place| place.offset),
            at: resume.map_or(low, |place| place.key.clone()),
            high: key::after_prefix(prefix),
            rows: VecDeque::new(),
            group: Group::default(),
            specials: VecDeque::new(),
            specials_end: 0,
            batch: LogBatch::default(),
            later: None,
            begin: None,
            held: Held::default(),
            head: None,
            head_at: Vec::new(),
            ended,
            rows_max: STREAM_ROWS_FIRST,
            id,
        }
    }

    /// While the budget leaves no retries: steps over the failed events that earlier searches of this
    /// window came to in vain.
    pub(super) fn step_over<K: Kv>(mut self, search: &mut Search<'_, K>, cursor: &Cursor) -> Self {
        if !self.ended {
            self.held = Held::step_over(search, cursor, &self.id, &mut self.at);
        }
        self
    }

    fn number(&self) -> u64 {
        self.at.first_chunk::<8>().map_or(u64::MAX, |b| u64::from_be_bytes(*b))
    }

    /// The next events, without taking them.
    pub(super) fn peek<K: Kv>(
        &mut self,
        search: &mut Search<'_, K>,
    ) -> Result<Option<Item>, Fault> {
        if self.head.is_none() && !self.ended {
            self.head = match self.id.2 {
                Which::Log => self.next_of_log(search)?,
                _ => self.next_row(search)?,
            };
        }
        Ok(self.head)
    }

    /// Moves on to a key: what lies before is leased or done, or another stream's to find.
    fn pass(&mut self, to: Vec<u8>) {
        if self.passing {
            self.begin = Some(to.clone());
        }
        self.at = to;
    }

    /// What is left of its events.
    pub(super) fn rest(&self) -> Rest {
        if self.passing && self.ended {
            self.later.map_or(Rest::Nothing, Rest::Later)
        } else {
            Rest::Some
        }
    }

    /// Notes where later searches begin, and go on when this one ran out of rows.
    pub(super) fn close(self, out_of_rows: bool, cursor: &mut Cursor) {
        if out_of_rows {
            cursor.resumes.insert(self.id.clone(), self.place());
        }
        self.held.close(self.head.is_some().then_some(self.head_at), &self.id, cursor);
        if self.passing && self.ended {
            cursor.note_undated(&self.id);
        }
        if let Some(begin) = self.begin {
            cursor.begin_at(self.id, begin);
        }
    }

    /// Takes what was peeked at, at most so many events.
    pub(super) fn take<K: Kv>(
        &mut self,
        search: &mut Search<'_, K>,
        limit: u64,
    ) -> Result<u64, Fault> {
        let Some(item) = self.head.take() else { return Ok(0) };
        let offset = Offset(item.range.first);
        match self.id.2 {
            Which::Log if item.range.count == 1 => {
                search.take_one(item.topic, offset, item.deadline_ms)
            }
            Which::Log => {
                let range = OffsetRange { count: item.range.count.min(limit), ..item.range };
                self.at = range.end().to_be_bytes().to_vec();
                search.take(item.topic, range, item.deadline_ms)
            }
            Which::Ready => {
                let retry = search.may_retry(item.topic, offset)?;
                self.held.note(retry, &self.head_at);
                if retry != Retry::Yes {
                    return Ok(0);
                }
                search.pick(item.topic, item.range, 0)?;
                Ok(1)
            }
            Which::Scheduled(_) | Which::Deadlines(_) => {
                search.take_one(item.topic, offset, item.deadline_ms)
            }
        }
    }

    /// Takes more of the row that the stream is in, at most so many events, while nothing has to be looked
    /// into and they come before anything of the other streams; how many.
    pub(super) fn take_on<K: Kv>(
        &mut self,
        search: &mut Search<'_, K>,
        limit: u64,
        other: Option<Item>,
    ) -> Result<u64, Fault> {
        let Group { topic, rank, ref mut waiting, .. } = self.group;
        let in_turn = other.is_none_or(|other| rank < other.rank);
        if self.head.is_some() || search.looks_inside() || !in_turn || waiting.is_empty() {
            return Ok(0);
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let count = waiting.iter().take(limit).take_while(|waiting| !waiting.cancelled).count();
        search.take_all(topic, waiting.drain(..count))
    }

    /// Where to go on when the search ends before the stream does.
    fn place(&self) -> Place {
        let row = &self.group.row;
        let (key, offset) = match (&self.head, self.group.waiting.front()) {
            (Some(head), _) => (self.head_at.clone(), head.range.first),
            (None, _) if self.ended => (key::END.to_vec(), 0),
            (None, Some(next)) => (row.clone(), next.offset.get()),
            (None, None) if !row.is_empty() => (next_key(row.clone()), 0),
            (None, None) => (self.at.clone(), 0),
        };
        Place { key, offset: Offset(offset) }
    }

    fn next_of_log<K: Kv>(&mut self, search: &mut Search<'_, K>) -> Result<Option<Item>, Fault> {
        let topic = self.id.0;
        loop {
            if search.rows == 0 {
                return Ok(None);
            }
            let (kv, at) = (search.kv, self.number());
            let view = search.topic(topic)?;
            let (end, special) = (view.info.next_offset.get(), view.info.specials > 0);
            let mut run = match view.free_run(kv, at)? {
                Ok(run) => run,
                Err(next) => {
                    search.spend(1);
                    self.pass(next.min(end).to_be_bytes().to_vec());
                    self.ended = next >= end;
                    if self.ended {
                        return Ok(None);
                    }
                    continue;
                }
            };
            let mut deadline_ms = 0;
            if special {
                match self.cut_at_special(search, run, end)? {
                    Some(cut) => (run, deadline_ms) = cut,
                    None => continue,
                }
            }
            let rank =
                if self.ranked { self.rank_of_run(search, &mut run)? } else { Rank::default() };
            self.pass(run.first.to_be_bytes().to_vec());
            self.passing = false;
            self.head_at.clone_from(&self.at);
            self.at = run.end().to_be_bytes().to_vec();
            return Ok(Some(Item { rank, topic, range: run, deadline_ms }));
        }
    }

    /// Cuts a run off before its first special event. When it begins with one: that alone and its
    /// deadline, if it belongs to the log; else nothing, and the stream has moved past it.
    fn cut_at_special<K: Kv>(
        &mut self,
        search: &mut Search<'_, K>,
        run: OffsetRange,
        end: u64,
    ) -> Result<Option<(OffsetRange, u64)>, Fault> {
        while self.specials.front().is_some_and(|(offset, _)| offset.get() < run.first) {
            self.specials.pop_front();
        }
        if self.specials.is_empty() && run.first >= self.specials_end {
            // Beyond this run too: what is free lies scattered.
            let ahead = OffsetRange::between(run.first, end);
            let limit = self.more_rows().max(SPECIALS_PER_ROW);
            let found = specials::within(search.kv, self.id.0, ahead, limit)?;
            search.spend(found.len().div_ceil(SPECIALS_PER_SPENT_ROW) as u64);
            let last = found.last().filter(|_| found.len() == limit);
            self.specials_end = last.map_or(end, |(offset, _)| offset.get() + 1);
            let first = run.first;
            let elsewhere = |(at, (offset, special)): &(u64, &(Offset, SpecialRecord))| {
                offset.get() == first + at && special.scheduled && !special.cancelled
            };
            let passed = (0..).zip(&found).take_while(elsewhere).count();
            self.specials.extend(found.into_iter().skip(passed));
            if passed > 0 {
                // Other streams have all of these.
                let mut next = first + passed as u64;
                if passed >= SPECIALS_DENSE && self.turn_to_batch(search, first)? {
                    let LogBatch { range, striped, .. } = self.batch;
                    next = next.max(if striped { range.end() } else { 0 });
                }
                self.pass(next.to_be_bytes().to_vec());
                return Ok(None);
            }
        }
        let run = run.overlap(OffsetRange::between(0, self.specials_end));
        let Some((offset, special)) = self.specials.front() else { return Ok(Some((run, 0))) };
        if offset.get() > run.first {
            let cut = OffsetRange::between(run.first, offset.get().min(run.end()));
            return Ok(Some((cut, 0)));
        }
        let (offset, cancelled) = (*offset, special.cancelled);
        if !cancelled && !special.scheduled {
            return Ok(Some((OffsetRange::one(offset), special.deadline_ms)));
        }
        if cancelled {
            search.skip_cancelled(self.id.0, offset)?;
        }
        self.pass(offset.next().to_key().to_vec());
        Ok(None)
    }

    /// Cuts a run off at the end of its batch: those events were recorded at one instant.
    fn rank_of_run<K: Kv>(
        &mut self,
        search: &mut Search<'_, K>,
        run: &mut OffsetRange,
    ) -> Result<Rank, Fault> {
        let mut recorded_at = UnixMs(0);
        if self.turn_to_batch(search, run.first)? {
            recorded_at = self.batch.recorded_at;
            *run = run.overlap(self.batch.range);
        }
        Ok(Rank::by_wait(&search.record.config, PRIORITY_DEFAULT, recorded_at))
    }

    /// Turns to the stored batch of an event; `false`: it is gone.
    fn turn_to_batch<K: Kv>(
        &mut self,
        search: &mut Search<'_, K>,
        offset: u64,
    ) -> Result<bool, Fault> {
        if !self.batch.range.has(Offset(offset)) {
            search.spend(1);
            let Some(stored) = batch::stored_at(search.kv, self.id.0, Offset(offset))? else {
                return Ok(false);
            };
            self.batch = LogBatch {
                range: OffsetRange { first: stored.first.get(), count: u64::from(stored.count) },
                recorded_at: stored.head()?.recorded_at,
                striped: stored.is_striped(),
            };
        }
        Ok(true)
    }

    fn next_row<K: Kv>(&mut self, search: &mut Search<'_, K>) -> Result<Option<Item>, Fault> {
        loop {
            if let Some(waiting) = self.group.waiting.pop_front() {
                if let Some(item) = self.waiting_item(search, waiting)? {
                    self.head_at.clone_from(&self.group.row);
                    return Ok(Some(item));
                }
                continue;
            }
            if !self.group.row.is_empty() {
                let row = std::mem::take(&mut self.group.row);
                self.pass(next_key(row));
            }
            if self.rows.is_empty() && !self.refill(search)? {
                return Ok(None);
            }
            let Some((row, value)) = self.rows.pop_front() else { return Ok(None) };
            let found = match self.id.2 {
                Which::Ready => {
                    let key = ReadyKey::decode(&row)?;
                    let range = OffsetRange::one(key.offset);
                    Some(Item { rank: key.rank, topic: key.topic, range, deadline_ms: 0 })
                }
                Which::Deadlines(_) => self.dated_item(search, &OrderKey::decode(&row)?, &value)?,
                Which::Scheduled(_) => {
                    if !self.open_group(search, row, &value)? {
                        return Ok(None);
                    }
                    continue;
                }
                Which::Log => None,
            };
            self.pass(next_key(row.clone()));
            if found.is_some() {
                self.head_at = row;
                return Ok(found);
            }
        }
    }

    /// Takes up a row of `Scheduled`; `false`: its events are not ready yet, nor are all after it.
    fn open_group<K: Kv>(
        &mut self,
        search: &mut Search<'_, K>,
        row: Vec<u8>,
        value: &[u8],
    ) -> Result<bool, Fault> {
        let key = OrderKey::decode(&row)?;
        if key.instant > search.now {
            search.wake_at(key.instant);
            self.later = Some(key.instant);
            self.ended = true;
            return Ok(false);
        }
        let mut waiting = scheduled::decode_waiting(key.offset, value)?;
        let resume_at = std::mem::take(&mut self.resume_at);
        if row == self.at {
            waiting.retain(|waiting| waiting.offset >= resume_at);
        }
        search.spend(waiting.len().div_ceil(SPECIALS_PER_SPENT_ROW) as u64);
        let kv = search.kv;
        search.topic(key.topic)?.retain_free(kv, &mut waiting)?;
        self.passing &= waiting.is_empty();
        let rank = Rank::by_wait(&search.record.config, u32::from(key.priority), key.instant);
        self.group = Group { topic: key.topic, rank, waiting: waiting.into(), row };
        Ok(true)
    }

    fn waiting_item<K: Kv>(
        &mut self,
        search: &mut Search<'_, K>,
        waiting: Waiting,
    ) -> Result<Option<Item>, Fault> {
        let Group { topic, rank, .. } = self.group;
        if waiting.cancelled {
            search.spend(1);
            search.skip_cancelled(topic, waiting.offset)?;
            return Ok(None);
        }
        let range = OffsetRange::one(waiting.offset);
        Ok(Some(Item { rank, topic, range, deadline_ms: waiting.deadline_ms }))
    }

    fn dated_item<K: Kv>(
        &mut self,
        search: &mut Search<'_, K>,
        key: &OrderKey<'_>,
        value: &[u8],
    ) -> Result<Option<Item>, Fault> {
        if search.mark(key.topic, key.offset)? != Mark::Free {
            return Ok(None);
        }
        self.passing = false;
        if scheduled::ready_at_in(value)? > search.now {
            return Ok(None);
        }
        let priority = u32::from(key.priority);
        let rank = Rank::by_deadline(&search.record.config, priority, key.instant);
        let (topic, range) = (key.topic, OffsetRange::one(key.offset));
        Ok(Some(Item { rank, topic, range, deadline_ms: key.instant.get() }))
    }

    /// How many rows to read now: the more, the more were read before.
    fn more_rows(&mut self) -> usize {
        let limit = self.rows_max;
        self.rows_max = (limit * 4).min(CANDIDATE_STREAM_ROWS);
        limit
    }

    fn refill<K: Kv>(&mut self, search: &mut Search<'_, K>) -> Result<bool, Fault> {
        if search.rows == 0 {
            return Ok(false);
        }
        let table = match self.id.2 {
            Which::Ready => Table::Ready,
            Which::Deadlines(_) => Table::Deadlines,
            Which::Scheduled(_) | Which::Log => Table::Scheduled,
        };
        let limit = self.more_rows();
        let rows = &mut self.rows;
        search.kv.scan(table, &self.at, &self.high, Order::Ascending, &mut |row, value| {
            rows.push_back((row.to_vec(), value.to_vec()));
            let more = rows.len() < limit;
            Ok(if more { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        search.spend(rows.len() as u64 + 1);
        self.ended = rows.is_empty();
        Ok(!self.ended)
    }
}
