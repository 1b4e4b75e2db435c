//! The streams that a search merges, each in the order of rank: the log, the rows of special
//! events, the failed events that are due.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use super::cursor::{Cursor, StreamId, Which};
use super::rank::Rank;
use super::scheduled::{self, OrderKey};
use super::search::{Item, Search};
use super::specials::{self, SpecialRecord};
use super::topics::Mark;
use crate::machine::delivery::ready::{self, ReadyKey};
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::topic::batch;
use crate::machine::{Fault, key};
use crate::model::ids::{Offset, TopicId, UnixMs};
use crate::model::limits::{CANDIDATE_STREAM_ROWS, PRIORITY_DEFAULT};
use crate::model::ranges::OffsetRange;

/// A stream with a look ahead.
pub(super) struct Stream {
    pub(super) id: StreamId,
    /// Whether the log has to tell when its events were recorded: it is not alone.
    ranked: bool,
    /// The next row's key is not below this; for the log an offset.
    at: Vec<u8>,
    high: Vec<u8>,
    rows: VecDeque<(Vec<u8>, Vec<u8>)>,
    specials: VecDeque<(Offset, SpecialRecord)>,
    /// Every event so far is done.
    all_done: bool,
    head: Option<Item>,
    /// The key of the head.
    head_at: Vec<u8>,
    pub(super) ended: bool,
    /// Rows that the next reading takes at most.
    batch: usize,
}

/// Rows that a stream reads at first: most have none or few.
const STREAM_ROWS_FIRST: usize = 4;

impl Stream {
    pub(super) fn new(id: StreamId, ranked: bool, prefix: Vec<u8>, cursor: &Cursor) -> Self {
        let high = key::after_prefix(&prefix);
        let begin = cursor.begin(&id).map_or(prefix, <[u8]>::to_vec);
        let ended = cursor.has_ended(&id);
        let resume = cursor.resumes.get(&id).filter(|at| **at > begin);
        let all_done = resume.is_none();
        let at = resume.cloned().unwrap_or(begin);
        let (rows, specials) = (VecDeque::new(), VecDeque::new());
        Self {
            id,
            ranked,
            at,
            high,
            rows,
            specials,
            all_done,
            head: None,
            head_at: Vec::new(),
            ended,
            batch: STREAM_ROWS_FIRST,
        }
    }

    /// Of the log: keys are offsets.
    pub(super) fn log(id: StreamId, ranked: bool, first: u64, cursor: &Cursor) -> Self {
        let ended = cursor.has_ended(&id);
        let resume = cursor.resumes.get(&id).cloned();
        let at = first.to_be_bytes().to_vec();
        let at = resume.map_or(at.clone(), |resume| resume.max(at));
        let high = u64::MAX.to_be_bytes().to_vec();
        let (rows, specials) = (VecDeque::new(), VecDeque::new());
        Self {
            id,
            ranked,
            at,
            high,
            rows,
            specials,
            all_done: false,
            head: None,
            head_at: Vec::new(),
            ended,
            batch: STREAM_ROWS_FIRST,
        }
    }

    fn number(&self) -> u64 {
        self.at.first_chunk::<8>().map_or(u64::MAX, |b| u64::from_be_bytes(*b))
    }

    /// The next events, without taking them.
    pub(super) fn peek<K: Kv>(
        &mut self,
        search: &mut Search<'_, K>,
        cursor: &mut Cursor,
    ) -> Result<Option<Item>, Fault> {
        if self.head.is_none() && !self.ended {
            self.head = match self.id.2 {
                Which::Log => self.next_of_log(search)?,
                _ => self.next_row(search, cursor)?,
            };
        }
        Ok(self.head)
    }

    /// Takes what was peeked at, at most so many events.
    pub(super) fn take<K: Kv>(
        &mut self,
        search: &mut Search<'_, K>,
        limit: u64,
    ) -> Result<u64, Fault> {
        let Some(item) = self.head.take() else { return Ok(0) };
        match self.id.2 {
            Which::Log if item.range.count == 1 => {
                search.take_one(item.topic, Offset(item.range.first))
            }
            Which::Log => {
                let range = OffsetRange { count: item.range.count.min(limit), ..item.range };
                self.at = range.end().to_be_bytes().to_vec();
                search.take(item.topic, range)
            }
            Which::Ready => {
                let offset = Offset(item.range.first);
                if !search.may_retry(item.topic, offset)? {
                    return Ok(0);
                }
                search.pick(item.topic, item.range)?;
                Ok(1)
            }
            _ => search.take_one(item.topic, Offset(item.range.first)),
        }
    }

    /// Where to go on when the search ends before the stream does.
    pub(super) fn place(&self) -> Vec<u8> {
        match &self.head {
            Some(_) => self.head_at.clone(),
            None if self.ended => key::END.to_vec(),
            None => self.at.clone(),
        }
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
                Err(next) if next >= end => {
                    self.ended = true;
                    return Ok(None);
                }
                Err(next) => {
                    search.spend(1);
                    self.at = next.to_be_bytes().to_vec();
                    continue;
                }
            };
            if special {
                match self.cut_at_special(search, run)? {
                    Some(cut) => run = cut,
                    None => continue,
                }
            }
            let rank =
                if self.ranked { self.rank_of_run(search, &mut run)? } else { Rank::default() };
            self.head_at = run.first.to_be_bytes().to_vec();
            self.at = run.end().to_be_bytes().to_vec();
            return Ok(Some(Item { rank, topic, range: run }));
        }
    }

    /// Cuts a run off before its first special event. When it begins with one: that alone, if it
    /// belongs to the log; else nothing, and the stream has moved past it.
    fn cut_at_special<K: Kv>(
        &mut self,
        search: &mut Search<'_, K>,
        run: OffsetRange,
    ) -> Result<Option<OffsetRange>, Fault> {
        while self.specials.front().is_some_and(|(offset, _)| offset.get() < run.first) {
            self.specials.pop_front();
        }
        if self.specials.is_empty() {
            let found = specials::within(search.kv, self.id.0, run, CANDIDATE_STREAM_ROWS)?;
            search.spend(found.len() as u64);
            self.specials.extend(found);
        }
        let Some((offset, special)) = self.specials.front() else { return Ok(Some(run)) };
        if offset.get() > run.first {
            return Ok(Some(OffsetRange::between(run.first, offset.get().min(run.end()))));
        }
        let (offset, cancelled, scheduled) = (*offset, special.cancelled, special.scheduled);
        if !cancelled && !scheduled {
            return Ok(Some(OffsetRange::one(offset)));
        }
        if cancelled {
            search.skip(self.id.0, offset)?;
        }
        self.at = offset.next().to_key().to_vec();
        Ok(None)
    }

    /// Cuts a run off at the end of its batch: those events were recorded at one instant.
    fn rank_of_run<K: Kv>(
        &self,
        search: &mut Search<'_, K>,
        run: &mut OffsetRange,
    ) -> Result<Rank, Fault> {
        search.spend(1);
        let config = &search.record.config;
        let Some((first, batch)) = batch::containing(search.kv, self.id.0, Offset(run.first))?
        else {
            return Ok(Rank::by_wait(config, PRIORITY_DEFAULT, UnixMs(0)));
        };
        let end = first.get() + u64::from(batch.count);
        *run = OffsetRange::between(run.first, run.end().min(end));
        Ok(Rank::by_wait(config, PRIORITY_DEFAULT, batch.view()?.recorded_at))
    }

    fn next_row<K: Kv>(
        &mut self,
        search: &mut Search<'_, K>,
        cursor: &mut Cursor,
    ) -> Result<Option<Item>, Fault> {
        loop {
            if self.rows.is_empty() && !self.refill(search)? {
                return Ok(None);
            }
            let Some((row, value)) = self.rows.pop_front() else { return Ok(None) };
            let mut next = row.clone();
            next.push(0);
            let found = match self.id.2 {
                Which::Ready => {
                    let key = ReadyKey::decode(&row)?;
                    let range = OffsetRange::one(key.offset);
                    Some(Item { rank: key.rank, topic: key.topic, range })
                }
                Which::Scheduled(_) | Which::Deadlines(_) => {
                    let key = OrderKey::decode(&row)?;
                    if self.is_late(search, &key) {
                        return Ok(None);
                    }
                    match search.mark(key.topic, key.offset)? {
                        Mark::Done if self.all_done => {
                            cursor.begin_at(self.id.clone(), next.clone());
                            None
                        }
                        Mark::Done => None,
                        Mark::Leased => {
                            self.all_done = false;
                            None
                        }
                        Mark::Free => {
                            self.all_done = false;
                            self.item(search, &key, &value)?
                        }
                    }
                }
                Which::Log => None,
            };
            self.at = next;
            if found.is_some() {
                self.head_at = row;
                return Ok(found);
            }
        }
    }

    /// Whether a stream by readiness came to what is not ready yet: that is its end.
    fn is_late<K: Kv>(&mut self, search: &mut Search<'_, K>, key: &OrderKey<'_>) -> bool {
        let late = matches!(self.id.2, Which::Scheduled(_)) && key.instant > search.now;
        if late {
            search.wake_at(key.instant);
            self.ended = true;
        }
        late
    }

    fn item<K: Kv>(
        &self,
        search: &Search<'_, K>,
        key: &OrderKey<'_>,
        value: &[u8],
    ) -> Result<Option<Item>, Fault> {
        let (config, priority) = (&search.record.config, u32::from(key.priority));
        let rank = match self.id.2 {
            Which::Deadlines(_) if scheduled::ready_at_in(value)? > search.now => return Ok(None),
            Which::Deadlines(_) => Rank::by_deadline(config, priority, key.instant),
            _ => Rank::by_wait(config, priority, key.instant),
        };
        Ok(Some(Item { rank, topic: key.topic, range: OffsetRange::one(key.offset) }))
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
        let (rows, batch) = (&mut self.rows, self.batch);
        search.kv.scan(table, &self.at, &self.high, Order::Ascending, &mut |row, value| {
            rows.push_back((row.to_vec(), value.to_vec()));
            let more = rows.len() < batch;
            Ok(if more { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        search.spend(rows.len() as u64 + 1);
        self.batch = (batch * 4).min(CANDIDATE_STREAM_ROWS);
        self.ended = rows.is_empty();
        Ok(!rows.is_empty())
    }
}

/// Where a stream of deadlines begins at least: what has passed is a timer's to bury.
pub(super) fn deadlines_from(topic: TopicId, flow: &str, priority: u8, now: UnixMs) -> Vec<u8> {
    OrderKey { topic, flow, priority, instant: now.next(), offset: Offset(0) }.encode()
}

/// The rows of `Ready` of a fairness key.
pub(super) fn ready_prefix<K>(search: &Search<'_, K>, flow: &str) -> Vec<u8> {
    ready::flow_prefix(crate::model::ids::SubscriptionId(search.record.id), flow)
}

impl Stream {
    /// Moves the beginning up to a key.
    pub(super) fn not_below(mut self, key: Vec<u8>) -> Self {
        self.at = self.at.max(key);
        self
    }
}
