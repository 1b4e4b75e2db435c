//! The Raft log: entries and votes in [`LogDb`], the newest entries in memory, one sync for many.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{Stream, StreamExt, stream};
use openraft::errors::LeaderChanged;
use openraft::storage::{IOFlushed, LeaderBoundedStreamError, LogState, RaftLogStorage};
use openraft::type_config::alias::LeaderIdOf;
use openraft::{OptionalSend, RaftLogReader};
use tokio::sync::oneshot;

use super::codec::{self, entry_from_record, entry_to_record};
use super::log_flusher::{Flusher, SyncStats, Waiter};
use super::log_tail::Tail;
use super::types::{Entry, LogId, TypeConfig, Vote};
use crate::machine::record::{Kind, decode_message, encode_message};
use crate::model::ids::LogIndex;
use crate::model::limits::REPLICATION_BYTES_MAX;
use crate::proto::peer;
use crate::runtime::tasks;
use crate::store::log_db::LogDb;

const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
const PURGED: &str = "purged";

/// The log of one shard. Clones share it.
#[derive(Clone, Debug)]
pub struct LogStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    db: LogDb,
    shard: u32,
    flusher: Flusher,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    vote: Option<Vote>,
    committed: Option<LogId>,
    /// `committed` as it is stored, or an earlier one.
    stored_committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    tail: Tail,
}

impl LogStore {
    /// Opens the log of a shard.
    ///
    /// # Errors
    /// When the store fails, a record is corrupt, or entries are missing at the front.
    pub fn open(db: LogDb, shard: u32) -> io::Result<Self> {
        let meta_log_id = |name| -> io::Result<Option<LogId>> {
            let Some(row) = db.get_meta(shard, name)? else { return Ok(None) };
            let id: peer::LogId = decode_message(Kind::LogId, &row).map_err(io::Error::other)?;
            Ok(Some(codec::log_id_from_proto(&id)))
        };
        let vote = match db.get_meta(shard, VOTE)? {
            Some(row) => {
                let vote: peer::Vote =
                    decode_message(Kind::Vote, &row).map_err(io::Error::other)?;
                Some(codec::vote_from_proto(&vote))
            }
            None => None,
        };
        let purged = meta_log_id(PURGED)?;
        let committed = meta_log_id(COMMITTED)?;
        let last = match db.last(shard)? {
            Some((_, row)) => Some(entry_from_record(row).map_err(io::Error::other)?.log_id),
            None => None,
        };
        let last = last.max(purged);
        let expected = purged.map_or(0, |p| p.index + 1);
        match db.first(shard)? {
            Some(first) if first.get() > expected => {
                return Err(io::Error::other(format!(
                    "the log begins at {first}, expected {expected}: it lost entries"
                )));
            }
            // A crash came between the mark of a purge and its work.
            Some(first) if first.get() < expected => db.purge_to(shard, LogIndex(expected - 1))?,
            _ => {}
        }
        let flusher = Flusher::start(db.clone())?;
        let state = State {
            vote,
            committed,
            stored_committed: committed,
            purged,
            last,
            tail: Tail::default(),
        };
        Ok(Self(Arc::new(Inner { db, shard, flusher, state: Mutex::new(state) })))
    }

    /// Holds the log against the state that is built from it.
    ///
    /// # Errors
    /// When both end before what the log says was committed: a node that lost entries must not
    /// vote with a shorter log.
    pub fn check_against(&self, applied: Option<LogId>) -> io::Result<()> {
        let state = self.state();
        let reached = state.last.max(applied);
        if state.committed <= reached {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "the log ends at {reached:?} but {:?} was committed: it lost entries; take this node \
             out of the cluster and add it anew with a new id",
            state.committed
        )))
    }

    /// Counters of syncs.
    #[must_use]
    pub fn sync_stats(&self) -> Arc<SyncStats> {
        Arc::clone(&self.0.flusher.stats)
    }

    /// The last entry; 0 when there is none.
    pub(super) fn last_index(&self) -> LogIndex {
        LogIndex(self.state().last.map_or(0, |last| last.index))
    }

    #[cfg(feature = "sim")]
    pub(super) fn promised_vote(&self) -> Option<Vote> {
        self.state().vote
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the log durable, on this thread.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.0.flusher.check()?;
        if let Some(id) = self.committed_to_store() {
            let row = encode_message(Kind::LogId, &codec::log_id_to_proto(&id));
            self.0.db.put_meta(self.0.shard, COMMITTED, &row)?;
            self.state().stored_committed = Some(id);
        }
        self.0.db.sync()
    }

    /// What is known to be committed, unless that is stored already.
    fn committed_to_store(&self) -> Option<LogId> {
        let state = self.state();
        state.committed.filter(|_| state.committed > state.stored_committed)
    }

    async fn synced(&self) -> io::Result<()> {
        let (answer, wait) = oneshot::channel();
        self.0.flusher.submit(Waiter::Write(answer))?;
        wait.await.map_err(|_| io::Error::other("the log-sync thread is gone"))?
    }

    /// Entries of `start..end`, up to a number of bytes, at least one where the log has it.
    async fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if start >= end {
            return Ok(Vec::new());
        }
        if let Some(entries) = self.state().tail.read(start, end, bytes_max) {
            return Ok(entries);
        }
        let (db, shard) = (self.0.db.clone(), self.0.shard);
        let read = tasks::spawn_blocking("log-read", move || {
            let rows = db.read(shard, LogIndex(start)..LogIndex(end), bytes_max)?;
            let mut expected = start;
            let mut entries = Vec::with_capacity(rows.len());
            for (index, row) in rows {
                if index.get() != expected && !entries.is_empty() {
                    return Err(io::Error::other(format!("the log has a hole at {expected}")));
                }
                expected = index.get() + 1;
                entries.push(entry_from_record(row).map_err(io::Error::other)?);
            }
            Ok(entries)
        });
        read.await.map_err(io::Error::other)?
    }

    /// Reads a range in bounded chunks.
    fn chunks(&self, range: (u64, u64)) -> impl Stream<Item = io::Result<Vec<Entry>>> + Send {
        stream::try_unfold((self.clone(), range), async |(log, (start, end))| {
            let entries = log.read(start, end, REPLICATION_BYTES_MAX).await?;
            let Some(last) = entries.last() else { return Ok(None) };
            let next = (last.log_id.index + 1, end);
            Ok(Some((entries, (log, next))))
        })
    }

    fn bounds(&self, range: &impl RangeBounds<u64>) -> (u64, u64) {
        let start = match range.start_bound() {
            Bound::Included(n) => *n,
            Bound::Excluded(n) => n + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(n) => n.saturating_add(1),
            Bound::Excluded(n) => *n,
            Bound::Unbounded => u64::MAX,
        };
        let past_last = self.state().last.map_or(0, |last| last.index + 1);
        (start, end.min(past_last))
    }
}

fn flatten(chunk: io::Result<Vec<Entry>>) -> impl Stream<Item = io::Result<Entry>> + Send {
    let entries = match chunk {
        Ok(entries) => entries.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error)],
    };
    stream::iter(entries)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn leader_bounded_stream<RB>(
        &mut self,
        leader: LeaderIdOf<TypeConfig>,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, LeaderBoundedStreamError<TypeConfig>>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let log = self.clone();
        let led_by = move || {
            let vote = log.state().vote;
            match vote {
                Some(v) if v.leader_id() == &leader && v.is_committed() => Ok(()),
                other => Err(LeaderBoundedStreamError::from(LeaderChanged::new(leader, other))),
            }
        };
        // The vote is looked at around every chunk: entries of a former leader may be truncated
        // while they are read.
        let before = led_by();
        let chunks: stream::BoxStream<'_, _> = match before {
            Ok(()) => {
                let range = self.bounds(&range);
                self.chunks(range).map(move |chunk| led_by().and_then(|()| Ok(chunk?))).boxed()
            }
            Err(error) => stream::iter([Err(error)]).boxed(),
        };
        chunks.flat_map(|chunk| {
            let entries: Vec<_> = match chunk {
                Ok(entries) => entries.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            };
            stream::iter(entries)
        })
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let range = self.bounds(&range);
        self.chunks(range).flat_map(flatten).boxed()
    }

    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (mut start, end) = self.bounds(&range);
        let mut all = Vec::new();
        while start < end {
            let entries = self.read(start, end, REPLICATION_BYTES_MAX).await?;
            let Some(last) = entries.last() else { break };
            start = last.log_id.index + 1;
            all.extend(entries);
        }
        Ok(all)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.state().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, REPLICATION_BYTES_MAX).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let state = self.state();
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.0.flusher.check()?;
        let row = encode_message(Kind::Vote, &codec::vote_to_proto(vote));
        self.0.db.put_meta(self.0.shard, VOTE, &row)?;
        self.synced().await?;
        self.state().vote = Some(*vote);
        fail::fail_point!("log::vote_saved");
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        // Not written yet: it rides with the next append. Losing it costs a wait at the next start.
        let mut state = self.state();
        state.committed = state.committed.max(committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.state().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.0.flusher.check()?;
        let entries: Vec<Entry> = entries.into_iter().collect();
        fail::fail_point!("log::before_write");
        let rows = entries.iter().map(|e| (LogIndex(e.log_id.index), entry_to_record(e)));
        let committed = self.committed_to_store();
        let value = committed
            .map(|id| (COMMITTED, encode_message(Kind::LogId, &codec::log_id_to_proto(&id))));
        self.0.db.append(self.0.shard, rows, value)?;
        {
            let mut state = self.state();
            state.stored_committed = state.stored_committed.max(committed);
            for entry in entries {
                state.last = Some(entry.log_id);
                state.tail.push(entry);
            }
        }
        self.0.flusher.submit(Waiter::Append(callback))
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.0.flusher.check()?;
        let from = last.map_or(0, |last| last.index + 1);
        self.0.db.truncate_from(self.0.shard, LogIndex(from))?;
        // What replaces these entries must not be durable before their removal is.
        self.synced().await?;
        let mut state = self.state();
        state.tail.truncate_from(from);
        state.last = state.last.min(last).max(state.purged);
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.0.flusher.check()?;
        if self.state().purged >= Some(upto) {
            return Ok(());
        }
        let row = encode_message(Kind::LogId, &codec::log_id_to_proto(&upto));
        self.0.db.put_meta(self.0.shard, PURGED, &row)?;
        fail::fail_point!("log::purge");
        {
            let mut state = self.state();
            state.purged = Some(upto);
            state.last = state.last.max(Some(upto));
            state.tail.purge_to(upto.index);
        }
        let (db, shard) = (self.0.db.clone(), self.0.shard);
        let purge =
            tasks::spawn_blocking("log-purge", move || db.purge_to(shard, LogIndex(upto.index)));
        purge.await.map_err(io::Error::other)?
    }
}
