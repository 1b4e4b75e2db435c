//! The database of the Raft log.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::journal::{self, Journal};
use super::watch::{What, tell};
use crate::model::ids::LogIndex;
use crate::model::planted::{self, Bug};

const PUT: u8 = 1;
const TRUNCATE: u8 = 2;
const PURGE: u8 = 3;
const META: u8 = 4;

/// The log database. Clones share it.
#[derive(Clone, Debug)]
pub struct LogDb(Arc<Inner>);

/// How far the log is durable.
#[derive(Clone, Copy, Debug)]
#[must_use = "a sync is to be marked"]
pub struct Synced(());

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    journal: Journal,
    rows: Mutex<Rows>,
}

#[derive(Debug, Default)]
struct Rows {
    entries: BTreeMap<(u32, LogIndex), Bytes>,
    meta: BTreeMap<(u32, String), Vec<u8>>,
}

impl Rows {
    fn redo(&mut self, mut body: Bytes) -> Option<()> {
        while body.has_remaining() {
            let (kind, shard) = (body.try_get_u8().ok()?, body.try_get_u32_le().ok()?);
            match kind {
                PUT => {
                    let index = LogIndex(body.try_get_u64_le().ok()?);
                    let row = journal::get(&mut body)?;
                    self.entries.insert((shard, index), row);
                }
                TRUNCATE => self.truncate_from(shard, LogIndex(body.try_get_u64_le().ok()?)),
                PURGE => self.purge_to(shard, LogIndex(body.try_get_u64_le().ok()?)),
                META => {
                    let name = journal::get(&mut body)?;
                    let value = journal::get(&mut body)?;
                    let name = String::from_utf8(name.to_vec()).ok()?;
                    self.meta.insert((shard, name), value.to_vec());
                }
                _ => return None,
            }
        }
        Some(())
    }

    fn truncate_from(&mut self, shard: u32, from: LogIndex) {
        self.entries.retain(|(s, index), _| *s != shard || *index < from);
    }

    fn purge_to(&mut self, shard: u32, upto: LogIndex) {
        self.entries.retain(|(s, index), _| *s != shard || *index > upto);
    }
}

fn start(kind: u8, shard: u32) -> BytesMut {
    let mut body = BytesMut::new();
    body.put_u8(kind);
    body.put_u32_le(shard);
    body
}

fn meta_body(shard: u32, name: &str, value: &[u8]) -> BytesMut {
    let mut body = start(META, shard);
    journal::put(&mut body, name.as_bytes());
    journal::put(&mut body, value);
    body
}

impl LogDb {
    /// Opens or creates the database.
    ///
    /// # Errors
    /// When the journal holds what nobody wrote.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let (journal, bodies) = Journal::open(dir)?;
        let mut rows = Rows::default();
        for body in bodies {
            rows.redo(body).ok_or_else(|| io::Error::other("the journal of the log is damaged"))?;
        }
        let entries = rows.entries.iter().map(|((_, index), row)| (*index, row.clone()));
        let meta = rows.meta.iter().map(|((_, name), value)| (name.clone(), value.clone()));
        let opened = What::LogOpened { entries: entries.collect(), meta: meta.collect() };
        tell(dir, opened);
        Ok(Self(Arc::new(Inner { dir: dir.to_owned(), journal, rows: Mutex::new(rows) })))
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.0.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends entries together with values of the shard. Not durable before the next sync.
    ///
    /// # Errors
    /// Never.
    pub fn append(
        &self,
        shard: u32,
        entries: impl IntoIterator<Item = (LogIndex, Bytes)>,
        values: impl IntoIterator<Item = (&'static str, Bytes)>,
    ) -> io::Result<()> {
        let mut body = BytesMut::new();
        for (index, row) in entries {
            let mut one = start(PUT, shard);
            one.put_u64_le(index.get());
            journal::put(&mut one, &row);
            body.extend_from_slice(&one);
            tell(&self.0.dir, What::Appended(index, row.clone()));
            self.rows().entries.insert((shard, index), row);
        }
        for (name, value) in values {
            body.extend_from_slice(&meta_body(shard, name, &value));
            self.rows().meta.insert((shard, name.to_owned()), value.to_vec());
        }
        self.0.journal.append(&body);
        Ok(())
    }

    /// Makes everything that was written durable.
    ///
    /// # Errors
    /// Never.
    pub fn sync(&self) -> io::Result<()> {
        self.sync_unmarked().map(|_synced| ())
    }

    /// The same.
    ///
    /// # Errors
    /// Never.
    pub fn sync_unmarked(&self) -> io::Result<Synced> {
        if !planted::is(Bug::NoSync) {
            self.0.journal.sync()?;
        }
        tell(&self.0.dir, What::Synced);
        Ok(Synced(()))
    }

    /// Nothing: the watchers of a simulation know what was synced.
    ///
    /// # Errors
    /// Never.
    pub fn mark(&self, _synced: Synced) -> io::Result<()> {
        Ok(())
    }

    /// Removes the entries at and above an index.
    ///
    /// # Errors
    /// Never.
    pub fn truncate_from(&self, shard: u32, index: LogIndex) -> io::Result<()> {
        let mut body = start(TRUNCATE, shard);
        body.put_u64_le(index.get());
        self.0.journal.append(&body);
        self.rows().truncate_from(shard, index);
        tell(&self.0.dir, What::Truncated(index));
        Ok(())
    }

    /// Removes the entries at and below an index.
    ///
    /// # Errors
    /// Never.
    pub fn purge_to(&self, shard: u32, index: LogIndex) -> io::Result<()> {
        let mut body = start(PURGE, shard);
        body.put_u64_le(index.get());
        self.0.journal.append(&body);
        self.rows().purge_to(shard, index);
        tell(&self.0.dir, What::Purged(index));
        Ok(())
    }

    /// Entries of a range, in order, up to a number of bytes, at least one where there is one.
    ///
    /// # Errors
    /// Never.
    pub fn read(
        &self,
        shard: u32,
        range: Range<LogIndex>,
        bytes_max: usize,
    ) -> io::Result<Vec<(LogIndex, Bytes)>> {
        let rows = self.rows();
        let (mut found, mut bytes) = (Vec::new(), 0);
        for ((_, index), row) in rows.entries.range((shard, range.start)..(shard, range.end)) {
            bytes += row.len();
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push((*index, row.clone()));
        }
        Ok(found)
    }

    /// The first index of a shard.
    ///
    /// # Errors
    /// Never.
    pub fn first(&self, shard: u32) -> io::Result<Option<LogIndex>> {
        Ok(self.read(shard, LogIndex(0)..LogIndex(u64::MAX), 1)?.first().map(|(index, _)| *index))
    }

    /// The last entry of a shard.
    ///
    /// # Errors
    /// Never.
    pub fn last(&self, shard: u32) -> io::Result<Option<(LogIndex, Bytes)>> {
        let rows = self.rows();
        let mut all = rows.entries.range((shard, LogIndex(0))..=(shard, LogIndex(u64::MAX)));
        Ok(all.next_back().map(|((_, index), row)| (*index, row.clone())))
    }

    /// Sets a value of a shard. Not durable before the next sync.
    ///
    /// # Errors
    /// Never.
    pub fn put_meta(&self, shard: u32, name: &'static str, value: &[u8]) -> io::Result<()> {
        self.0.journal.append(&meta_body(shard, name, value));
        self.rows().meta.insert((shard, name.to_owned()), value.to_vec());
        tell(&self.0.dir, What::Meta(name, value.to_vec()));
        Ok(())
    }

    /// A value of a shard.
    ///
    /// # Errors
    /// Never.
    pub fn get_meta(&self, shard: u32, name: &'static str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.rows().meta.get(&(shard, name.to_owned())).cloned())
    }

    /// Nothing runs in the background.
    #[must_use]
    pub fn background_errors(&self) -> u64 {
        0
    }
}
