//! The state database: one column family a table, no write-ahead log.
//!
//! The Raft log is the write-ahead log of the state. Flushes are atomic over all tables, so that a
//! restart finds the state as it was after some applied entry, and applies the rest again.

use std::cell::OnceCell;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    DBRawIterator, FlushOptions, Options, ReadOptions, Snapshot, WriteBatch, WriteBufferManager,
    WriteOptions,
};

use super::open::Open;
use super::options::{self, Compression, StoreOptions};
use crate::machine::Fault;
use crate::machine::kv::{Kv, Order, Table, Visit, Write};

/// Values from here on go to blob files: compaction then moves references, not events.
const BLOB_BYTES_MIN: u64 = 4 << 10;
/// The same for what is scanned rather than read one by one: neighbours in few large reads.
const SCANNED_BLOB_BYTES_MIN: u64 = 64 << 10;
/// Of what is scanned a row fills a usual block of 4 KiB alone; several are read at once.
const SCANNED_BLOCK_BYTES: usize = 32 << 10;
/// Reads ahead of long scans.
const READAHEAD_BYTES: usize = 256 << 10;

/// The state database. Clones share it.
#[derive(Clone)]
pub struct StateDb(Arc<Inner>);

struct Inner {
    db: DB,
    _open: Open,
    write_options: WriteOptions,
}

impl std::fmt::Debug for StateDb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StateDb({})", self.0.db.path().display())
    }
}

/// Gauges of the database.
#[derive(Clone, Copy, Debug, Default)]
pub struct StoreMetrics {
    /// Bytes of live files.
    pub live_bytes: u64,
    /// Bytes of unflushed rows.
    pub memtable_bytes: u64,
    /// Whether writes are stopped until a flush or a compaction has caught up.
    pub write_stopped: bool,
    /// Background work that failed.
    pub background_errors: u64,
}

fn failed(what: &str) -> impl FnOnce(rocksdb::Error) -> Fault {
    move |error| Fault::Storage(format!("{what}: {error}"))
}

impl StateDb {
    /// Opens or creates the database.
    ///
    /// # Errors
    /// When the disk fails or the files are damaged.
    pub fn open(dir: &Path, wanted: &StoreOptions) -> Result<Self, Fault> {
        let cache = Cache::new_hyper_clock_cache(wanted.block_cache_bytes, 0);
        let buffers =
            WriteBufferManager::new_write_buffer_manager(wanted.write_buffer_bytes, false);
        let mut db = options::base();
        db.set_atomic_flush(true);
        db.set_write_buffer_manager(&buffers);
        let families = Table::ALL
            .map(|table| ColumnFamilyDescriptor::new(table.name(), family(table, &cache, wanted)));
        let db = DB::open_cf_descriptors(&db, dir, families).map_err(failed("open state"))?;
        let mut write_options = WriteOptions::default();
        write_options.disable_wal(true);
        Ok(Self(Arc::new(Inner { db, _open: Open::new(), write_options })))
    }

    /// Applies writes as one batch: all of them or none survive a crash.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn write(&self, writes: Vec<Write>) -> Result<(), Fault> {
        failpoint("state::write")?;
        let mut batch = WriteBatch::default();
        let tables = self.tables();
        for write in writes {
            match write {
                Write::Put(table, key, value) => batch.put_cf(tables.family(table)?, key, value),
                Write::Delete(table, key) => batch.delete_cf(tables.family(table)?, key),
                Write::DeleteRange(table, start, end) => {
                    batch.delete_range_cf(tables.family(table)?, start, end);
                }
            }
        }
        self.0.db.write_opt(batch, &self.0.write_options).map_err(failed("write state"))
    }

    /// Makes everything that was written durable, all tables at one point.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn flush(&self) -> Result<(), Fault> {
        failpoint("state::flush")?;
        let tables = self.tables();
        let families: Result<Vec<_>, _> = Table::ALL.iter().map(|t| tables.family(*t)).collect();
        let mut wait = FlushOptions::default();
        wait.set_wait(true);
        self.0.db.flush_cfs_opt(&families?, &wait).map_err(failed("flush state"))
    }

    /// Writes a copy to a directory that does not exist yet, by hard links.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn checkpoint(&self, dir: &Path) -> Result<(), Fault> {
        let checkpoint = Checkpoint::new(&self.0.db).map_err(failed("begin checkpoint"))?;
        checkpoint.create_checkpoint(dir).map_err(failed("create checkpoint"))
    }

    /// The tables, for reading what is newest each time.
    #[must_use]
    pub fn tables(&self) -> Tables<'_> {
        Tables { db: &self.0.db, families: [const { OnceCell::new() }; Table::ALL.len()] }
    }

    /// Runs a reader over the state as it is now, whatever is written meanwhile.
    pub fn view<R>(&self, read: impl FnOnce(&View<'_>) -> R) -> R {
        self.view_of(false, read)
    }

    /// The same for who reads all of it: scans read ahead, and leave the cache alone.
    pub fn view_whole<R>(&self, read: impl FnOnce(&View<'_>) -> R) -> R {
        self.view_of(true, read)
    }

    fn view_of<R>(&self, whole: bool, read: impl FnOnce(&View<'_>) -> R) -> R {
        read(&View { tables: self.tables(), snapshot: self.0.db.snapshot(), whole })
    }

    /// Reads from a checkpoint without changing it.
    ///
    /// # Errors
    /// When the disk fails or the files are damaged.
    pub fn read_checkpoint<R>(dir: &Path, read: impl FnOnce(&View<'_>) -> R) -> Result<R, Fault> {
        let wanted = StoreOptions { block_cache_bytes: 1 << 20, ..StoreOptions::default() };
        let cache = Cache::new_hyper_clock_cache(wanted.block_cache_bytes, 0);
        let families = Table::ALL
            .map(|table| ColumnFamilyDescriptor::new(table.name(), family(table, &cache, &wanted)));
        let mut options = options::base();
        options.create_if_missing(false);
        let db = DB::open_cf_descriptors_read_only(&options, dir, families, false)
            .map_err(failed("open checkpoint"))?;
        let write_options = WriteOptions::default();
        Ok(Self(Arc::new(Inner { db, _open: Open::new(), write_options })).view(read))
    }

    /// Gauges of the database.
    #[must_use]
    pub fn metrics(&self) -> StoreMetrics {
        let number = |name: &str| self.0.db.property_int_value(name).ok().flatten().unwrap_or(0);
        let tables = self.tables();
        let sum = |name: &str| {
            let each = Table::ALL.iter().filter_map(|table| {
                self.0.db.property_int_value_cf(tables.family(*table).ok()?, name).ok()?
            });
            each.sum()
        };
        StoreMetrics {
            live_bytes: sum("rocksdb.live-sst-files-size") + sum("rocksdb.live-blob-file-size"),
            memtable_bytes: sum("rocksdb.cur-size-all-mem-tables"),
            write_stopped: number("rocksdb.is-write-stopped") > 0,
            background_errors: background_errors(&self.0.db),
        }
    }
}

/// Background work that failed in a database.
pub(super) fn background_errors(db: &DB) -> u64 {
    db.property_int_value("rocksdb.background-errors").ok().flatten().unwrap_or(0)
}

fn family(table: Table, cache: &Cache, wanted: &StoreOptions) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_format_version(6);
    let mut options = Options::default();
    let compression = match wanted.compression {
        Compression::None => DBCompressionType::None,
        Compression::Lz4 => DBCompressionType::Lz4,
        Compression::Zstd => DBCompressionType::Zstd,
    };
    options.set_compression_type(compression);
    // The write buffer manager decides when to flush; a single table may use all of it.
    options.set_write_buffer_size(wanted.write_buffer_bytes);
    options.set_max_write_buffer_number(4);
    match table {
        Table::Batches | Table::Stripes => {
            let scanned = table == Table::Stripes;
            if scanned {
                blocks.set_block_size(SCANNED_BLOCK_BYTES);
            }
            let bytes_min = if scanned { SCANNED_BLOB_BYTES_MIN } else { BLOB_BYTES_MIN };
            keep_in_blob_files(&mut options, bytes_min);
            options.set_blob_compression_type(compression);
        }
        // Asked for rows that are often not there.
        Table::KeyHeads
        | Table::Ids
        | Table::Producers
        | Table::Marks
        | Table::ConsumerLoads
        | Table::Failures
        | Table::Endings => {
            blocks.set_bloom_filter(10.0, false);
        }
        Table::Meta
        | Table::Topics
        | Table::Positions
        | Table::Keys
        | Table::IdExpiries
        | Table::Requests
        | Table::Nodes
        | Table::Raft
        | Table::Subscriptions
        | Table::SubscriptionStates
        | Table::Progress
        | Table::Leases
        | Table::Ready
        | Table::Timers
        | Table::DeadLetters
        | Table::Specials
        | Table::Scheduled
        | Table::Deadlines
        | Table::Quotas
        | Table::Backs
        | Table::Services
        | Table::Instances
        | Table::RegistryNumbers
        | Table::RegistryLog
        | Table::Transactions
        | Table::Staged
        | Table::Correlations
        | Table::DeadPlaces
        | Table::KeySnapshots
        | Table::Subjects
        | Table::Schemas => {}
    }
    options.set_block_based_table_factory(&blocks);
    options
}

/// Keeps values of so many bytes and more apart, in files of their own.
fn keep_in_blob_files(options: &mut Options, bytes_min: u64) {
    options.set_enable_blob_files(true);
    options.set_min_blob_size(bytes_min);
    options.set_blob_file_size(256 << 20);
    options.set_enable_blob_gc(true);
}

/// A place where tests make the node fail.
fn failpoint(name: &'static str) -> Result<(), Fault> {
    fail::fail_point!(name, |_| Err(Fault::Storage(format!("failpoint {name}"))));
    let _ = name;
    Ok(())
}

fn range_options(start: &[u8], end: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_range(start.to_vec()..end.to_vec());
    options
}

fn walk(mut rows: DBRawIterator<'_>, order: Order, visit: &mut Visit<'_>) -> Result<(), Fault> {
    match order {
        Order::Ascending => rows.seek_to_first(),
        Order::Descending => rows.seek_to_last(),
    }
    while let Some((key, value)) = rows.item() {
        if visit(key, value)? == ControlFlow::Break(()) {
            return Ok(());
        }
        match order {
            Order::Ascending => rows.next(),
            Order::Descending => rows.prev(),
        }
    }
    rows.status().map_err(failed("scan state"))
}

/// The tables of an open database, each looked up by name once.
pub struct Tables<'d> {
    db: &'d DB,
    families: [OnceCell<&'d ColumnFamily>; Table::ALL.len()],
}

impl<'d> Tables<'d> {
    fn family(&self, table: Table) -> Result<&'d ColumnFamily, Fault> {
        let known = &self.families[table as usize];
        if let Some(family) = known.get() {
            return Ok(family);
        }
        let family = self.db.cf_handle(table.name());
        let missing = || Fault::Storage(format!("state has no table {}", table.name()));
        family.map(|family| *known.get_or_init(|| family)).ok_or_else(missing)
    }
}

impl std::fmt::Debug for Tables<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tables({})", self.db.path().display())
    }
}

impl Kv for Tables<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        let row = self.db.get_pinned_cf(self.family(table)?, key).map_err(failed("read state"))?;
        Ok(row.map(|row| Bytes::copy_from_slice(&row)))
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        order: Order,
        visit: &mut Visit<'_>,
    ) -> Result<(), Fault> {
        if start >= end {
            return Ok(());
        }
        let options = range_options(start, end);
        walk(self.db.raw_iterator_cf_opt(self.family(table)?, options), order, visit)
    }
}

/// The state at one moment.
pub struct View<'d> {
    tables: Tables<'d>,
    snapshot: Snapshot<'d>,
    whole: bool,
}

impl std::fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "View({:?})", self.tables)
    }
}

impl Kv for View<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        let row = self
            .snapshot
            .get_pinned_cf(self.tables.family(table)?, key)
            .map_err(failed("read state"))?;
        Ok(row.map(|row| Bytes::copy_from_slice(&row)))
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        order: Order,
        visit: &mut Visit<'_>,
    ) -> Result<(), Fault> {
        if start >= end {
            return Ok(());
        }
        let mut options = range_options(start, end);
        if self.whole {
            options.set_readahead_size(READAHEAD_BYTES);
        }
        // A stripe is dispatched once. It lies in a few of many files, and the store finds out by itself where
        // it pays to read ahead: to do so from the beginning would read far more than is wanted.
        options.fill_cache(!self.whole && table != Table::Stripes);
        walk(self.snapshot.raw_iterator_cf_opt(self.tables.family(table)?, options), order, visit)
    }
}

#[cfg(test)]
mod tests;
