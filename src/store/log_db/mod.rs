//! The database of the Raft log: entries and metadata of all shards behind one write-ahead log, so
//! that one sync serves them all.
//!
//! Writes are not synced by themselves; [`LogDb::sync`] makes everything before it durable. A log
//! that comes up with less than was synced is refused (`synced_mark`).

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{ColumnFamilyDescriptor, DB, DBRecoveryMode, Options, ReadOptions, WriteBatch};

use super::open::Open;
use super::options;
use super::synced_mark::{Existence, SyncedMark};
use crate::model::ids::LogIndex;
use crate::model::planted::{self, Bug};

const ENTRIES: &str = "entries";
const META: &str = "meta";
/// A row that is written so that there is something to flush.
const FILLER: &str = "filler";
/// Unflushed entries; twice that while one half is being flushed.
const WRITE_BUFFER_BYTES: usize = 24 << 20;
/// The write-ahead log at most, before the oldest of it is flushed.
const WAL_BYTES_MAX: u64 = 64 << 20;
/// Files of the write-ahead log that are kept to be written over.
const WAL_FILES_REUSED: usize = 3;
/// How much of a file for the write-ahead log is written in advance at the start, so that the first
/// syncs are as cheap as later ones.
const WAL_WRITTEN_AHEAD_BYTES: usize = 8 << 20;

/// The log database. Clones share it.
#[derive(Clone)]
pub struct LogDb(Arc<Inner>);

/// How far the log is durable.
#[derive(Clone, Copy, Debug)]
#[must_use = "a sync is to be marked"]
pub struct Synced(u64);

struct Inner {
    db: DB,
    _open: Open,
    synced: SyncedMark,
    /// Counts syncs of the write-ahead log, for tests.
    #[cfg(test)]
    options: Options,
}

impl std::fmt::Debug for LogDb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LogDb({})", self.0.db.path().display())
    }
}

fn failed(what: &str) -> impl FnOnce(rocksdb::Error) -> io::Error {
    move |error| io::Error::other(format!("{what}: {error}"))
}

impl LogDb {
    /// Opens or creates the database.
    ///
    /// # Errors
    /// When the disk fails, when the write-ahead log is damaged anywhere but at its very end,
    /// where a crash may leave half a record, or when it ends before what was synced.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let exists = dir.join("CURRENT").try_exists()?;
        let existence = if exists { Existence::Exists } else { Existence::New };
        let synced = SyncedMark::open(dir, existence)
            .map_err(|error| io::Error::new(error.kind(), format!("open raft log: {error}")))?;
        let mut db = options::base();
        #[cfg(test)]
        db.enable_statistics();
        // Writing over a file of full length changes no metadata: a sync is one write, not two. It
        // needs a recovery that stops at the first record that is not whole, be it cut off or
        // damaged; the mark then tells which it was.
        db.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        db.set_recycle_log_file_num(WAL_FILES_REUSED);
        db.set_track_and_verify_wals_in_manifest(true);
        db.set_max_total_wal_size(WAL_BYTES_MAX);
        let mut entries = Options::default();
        entries.set_write_buffer_size(WRITE_BUFFER_BYTES);
        entries.set_max_write_buffer_number(3);
        entries.set_compression_type(rocksdb::DBCompressionType::None);
        // Entries come in order and go in order: merging files would only copy them.
        entries.set_level_zero_file_num_compaction_trigger(8);
        // Metadata has a family of its own, else its keys would make every file of entries overlap.
        let mut meta = Options::default();
        meta.set_write_buffer_size(1 << 20);
        let families = [
            ColumnFamilyDescriptor::new(ENTRIES, entries),
            ColumnFamilyDescriptor::new(META, meta),
        ];
        let options = db;
        let db =
            DB::open_cf_descriptors(&options, dir, families).map_err(failed("open raft log"))?;
        let (promised, found) = (synced.read()?, db.latest_sequence_number());
        if found < promised {
            return Err(io::Error::other(format!(
                "the raft log in {} ends at write {found}, but {promised} was synced: its files are \
                 damaged; take this node out of the cluster and add it anew with a new id",
                dir.display()
            )));
        }
        let this = Self(Arc::new(Inner {
            db,
            _open: Open::new(),
            synced,
            #[cfg(test)]
            options,
        }));
        this.write_ahead()?;
        Ok(this)
    }

    /// Fills the current file of the write-ahead log with what recovery passes over, and goes on to
    /// a file that was filled like that.
    fn write_ahead(&self) -> io::Result<()> {
        let mut filler = WriteBatch::default();
        filler.put_log_data(vec![0; WAL_WRITTEN_AHEAD_BYTES]);
        self.0.db.write(filler).map_err(failed("fill raft log"))?;
        self.sync()?;
        // Each flush begins a file; the second of them finds the first one free to be reused.
        for _ in 0..2 {
            self.put_meta(0, FILLER, &[])?;
            let meta = self.family(META)?;
            self.0.db.flush_cf(meta).map_err(failed("go on to a filled file of raft log"))?;
        }
        Ok(())
    }

    /// Appends entries, in the order of their indices, together with values of the shard. Not
    /// durable before the next [`Self::sync`].
    ///
    /// # Errors
    /// When the disk fails.
    pub fn append(
        &self,
        shard: u32,
        entries: impl IntoIterator<Item = (LogIndex, Bytes)>,
        values: impl IntoIterator<Item = (&'static str, Bytes)>,
    ) -> io::Result<()> {
        let (family, meta) = (self.family(ENTRIES)?, self.family(META)?);
        let mut batch = WriteBatch::default();
        for (index, record) in entries {
            batch.put_cf(family, entry_key(shard, index), record);
        }
        for (name, value) in values {
            batch.put_cf(meta, meta_key(shard, name), value);
        }
        self.0.db.write(batch).map_err(failed("append to raft log"))
    }

    /// Makes everything that was written durable.
    ///
    /// # Errors
    /// When the disk fails; what was written since the last success may be gone, and the log must
    /// not be used any more.
    pub fn sync(&self) -> io::Result<()> {
        let synced = self.sync_unmarked()?;
        self.mark(synced)
    }

    /// As [`Self::sync`], for those who have somebody to answer before they [`Self::mark`] it.
    ///
    /// # Errors
    /// See [`Self::sync`].
    pub fn sync_unmarked(&self) -> io::Result<Synced> {
        if planted::is(Bug::NoSync) {
            self.0.db.flush_wal(false).map_err(failed("write raft log"))?;
            return Ok(Synced(0));
        }
        let written = self.0.db.latest_sequence_number();
        self.0.db.flush_wal(true).map_err(failed("sync raft log"))?;
        Ok(Synced(written))
    }

    /// Takes note of a sync, so that a log that lost some of it is refused.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn mark(&self, synced: Synced) -> io::Result<()> {
        self.0.synced.write(synced.0)
    }

    /// How often the write-ahead log was synced since it was opened.
    #[cfg(test)]
    pub(crate) fn wal_syncs(&self) -> u64 {
        self.0.options.get_ticker_count(rocksdb::statistics::Ticker::WalFileSynced)
    }

    /// Removes the entries at and above an index.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn truncate_from(&self, shard: u32, index: LogIndex) -> io::Result<()> {
        let (from, to) = (entry_key(shard, index), entry_key(shard, LogIndex(u64::MAX)));
        self.0
            .db
            .delete_range_cf(self.family(ENTRIES)?, from, to)
            .map_err(failed("truncate raft log"))
    }

    /// Removes the entries at and below an index.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn purge_to(&self, shard: u32, index: LogIndex) -> io::Result<()> {
        let family = self.family(ENTRIES)?;
        let (from, to) = (entry_key(shard, LogIndex(0)), entry_key(shard, index.next()));
        self.0.db.delete_file_in_range_cf(family, from, to).map_err(failed("purge raft log"))?;
        self.0.db.delete_range_cf(family, from, to).map_err(failed("purge raft log"))
    }

    /// Entries of a range, in order, up to a number of bytes, at least one where there is one.
    ///
    /// # Errors
    /// When the disk fails or a block is damaged.
    pub fn read(
        &self,
        shard: u32,
        range: Range<LogIndex>,
        bytes_max: usize,
    ) -> io::Result<Vec<(LogIndex, Bytes)>> {
        let mut options = ReadOptions::default();
        options.set_iterate_range(entry_key(shard, range.start)..entry_key(shard, range.end));
        options.fill_cache(false);
        let mut rows = self.0.db.raw_iterator_cf_opt(self.family(ENTRIES)?, options);
        rows.seek_to_first();
        let (mut found, mut bytes) = (Vec::new(), 0);
        while let Some((key, value)) = rows.item() {
            bytes += value.len();
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push((entry_index(key)?, Bytes::copy_from_slice(value)));
            rows.next();
        }
        rows.status().map_err(failed("read raft log"))?;
        Ok(found)
    }

    /// The first index of a shard.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn first(&self, shard: u32) -> io::Result<Option<LogIndex>> {
        let all = LogIndex(0)..LogIndex(u64::MAX);
        Ok(self.read(shard, all, 1)?.first().map(|(index, _)| *index))
    }

    /// The last entry of a shard.
    ///
    /// # Errors
    /// When the disk fails or a block is damaged.
    pub fn last(&self, shard: u32) -> io::Result<Option<(LogIndex, Bytes)>> {
        let mut options = ReadOptions::default();
        let (from, to) = (entry_key(shard, LogIndex(0)), entry_key(shard, LogIndex(u64::MAX)));
        options.set_iterate_range(from..to);
        let mut rows = self.0.db.raw_iterator_cf_opt(self.family(ENTRIES)?, options);
        rows.seek_to_last();
        let last = match rows.item() {
            Some((key, value)) => Some((entry_index(key)?, Bytes::copy_from_slice(value))),
            None => None,
        };
        rows.status().map_err(failed("read raft log"))?;
        Ok(last)
    }

    /// Sets a value of a shard. Not durable before the next [`Self::sync`].
    ///
    /// # Errors
    /// When the disk fails.
    pub fn put_meta(&self, shard: u32, name: &'static str, value: &[u8]) -> io::Result<()> {
        let key = meta_key(shard, name);
        self.0.db.put_cf(self.family(META)?, key, value).map_err(failed("write raft log metadata"))
    }

    /// A value of a shard.
    ///
    /// # Errors
    /// When the disk fails or a block is damaged.
    pub fn get_meta(&self, shard: u32, name: &'static str) -> io::Result<Option<Vec<u8>>> {
        let key = meta_key(shard, name);
        self.0.db.get_cf(self.family(META)?, key).map_err(failed("read raft log metadata"))
    }

    /// Why background work failed, if it did.
    #[must_use]
    pub fn background_errors(&self) -> u64 {
        super::state::background_errors(&self.0.db)
    }

    fn family(&self, name: &str) -> io::Result<&rocksdb::ColumnFamily> {
        self.0
            .db
            .cf_handle(name)
            .ok_or_else(|| io::Error::other(format!("raft log has no family {name}")))
    }
}

fn entry_key(shard: u32, index: LogIndex) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&shard.to_be_bytes());
    key[4..].copy_from_slice(&index.to_key());
    key
}

fn entry_index(key: &[u8]) -> io::Result<LogIndex> {
    let bytes = key.get(4..12).and_then(|b| b.try_into().ok());
    bytes
        .map(|b| LogIndex(u64::from_be_bytes(b)))
        .ok_or_else(|| io::Error::other("malformed key in raft log"))
}

fn meta_key(shard: u32, name: &str) -> Vec<u8> {
    [&shard.to_be_bytes(), name.as_bytes()].concat()
}

#[cfg(test)]
mod tests;
