//! The state database.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::Xxh3Default;

use super::journal::{self, Journal};
use super::watch::{What, tell};
use crate::machine::Fault;
use crate::machine::kv::{Kv, Order, Table, Visit, Write};
use crate::machine::mem::MemKv;
use crate::runtime::fs::{self, File};
use crate::store::files;
use crate::store::options::StoreOptions;

const PUT: u8 = 1;
const DELETE: u8 = 2;
const DELETE_RANGE: u8 = 3;
/// The rows of a checkpoint. It is never changed, as the files that such a name stands for.
const ROWS: &str = "000001.sst";
/// Another file of a checkpoint, of those that a database changes.
const MANIFEST: &str = "MANIFEST";
/// Where consensus keeps what it applied last.
const APPLIED: &[u8] = b"applied";
/// Larger than every key.
const END: [u8; 16] = [0xff; 16];

/// The state database. Clones share it.
#[derive(Clone, Debug)]
pub struct StateDb(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    journal: Journal,
    rows: RwLock<Rows>,
}

#[derive(Debug, Default)]
struct Rows {
    kv: MemKv,
    /// XOR over the hashes of all rows.
    hash: u128,
}

/// Gauges of the database.
#[derive(Clone, Copy, Debug, Default)]
pub struct StoreMetrics {
    /// Bytes of live files.
    pub live_bytes: u64,
    /// Bytes of unflushed rows.
    pub memtable_bytes: u64,
    /// Whether writes are stopped.
    pub write_stopped: bool,
    /// Background work that failed.
    pub background_errors: u64,
}

fn failed(error: io::Error) -> Fault {
    Fault::Storage(error.to_string())
}

fn row_hash(table: Table, key: &[u8], value: &[u8]) -> u128 {
    let mut hasher = Xxh3Default::new();
    for part in [table.name().as_bytes(), key, value] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.digest128()
}

impl Rows {
    fn write(&mut self, writes: Vec<Write>) -> Result<(), Fault> {
        for write in &writes {
            if let Write::DeleteRange(table, start, end) = write {
                let (mut gone, table) = (0, *table);
                self.kv.scan(table, start, end, Order::Ascending, &mut |key, value| {
                    gone ^= row_hash(table, key, value);
                    Ok(ControlFlow::Continue(()))
                })?;
                self.hash ^= gone;
                self.kv.write(vec![write.clone()]);
            }
        }
        for write in writes {
            match &write {
                Write::DeleteRange(..) => continue,
                Write::Put(table, key, value) => {
                    self.hash ^= self.hash_of(*table, key)? ^ row_hash(*table, key, value);
                }
                Write::Delete(table, key) => self.hash ^= self.hash_of(*table, key)?,
            }
            self.kv.write(vec![write]);
        }
        Ok(())
    }

    /// What a row that is there contributes.
    fn hash_of(&self, table: Table, key: &[u8]) -> Result<u128, Fault> {
        Ok(self.kv.get(table, key)?.map_or(0, |value| row_hash(table, key, &value)))
    }
}

fn encode(writes: &[Write]) -> BytesMut {
    let mut body = BytesMut::new();
    let start = |body: &mut BytesMut, kind, table: Table| {
        body.put_u8(kind);
        body.put_u8(table as u8);
    };
    for write in writes {
        match write {
            Write::Put(table, key, value) => {
                start(&mut body, PUT, *table);
                journal::put(&mut body, key);
                journal::put(&mut body, value);
            }
            Write::Delete(table, key) => {
                start(&mut body, DELETE, *table);
                journal::put(&mut body, key);
            }
            Write::DeleteRange(table, from, to) => {
                start(&mut body, DELETE_RANGE, *table);
                journal::put(&mut body, from);
                journal::put(&mut body, to);
            }
        }
    }
    body
}

fn decode(mut body: Bytes) -> Option<Vec<Write>> {
    let mut writes = Vec::new();
    while body.has_remaining() {
        let kind = body.try_get_u8().ok()?;
        let table = *Table::ALL.get(usize::from(body.try_get_u8().ok()?))?;
        let key = journal::get(&mut body)?.to_vec();
        writes.push(match kind {
            PUT => Write::Put(table, key, journal::get(&mut body)?),
            DELETE => Write::Delete(table, key),
            DELETE_RANGE => Write::DeleteRange(table, key, journal::get(&mut body)?.to_vec()),
            _ => return None,
        });
    }
    Some(writes)
}

impl StateDb {
    /// Opens or creates the database.
    ///
    /// # Errors
    /// When its files hold what nobody wrote.
    pub fn open(dir: &Path, _wanted: &StoreOptions) -> Result<Self, Fault> {
        let (journal, bodies) = Journal::open(dir).map_err(failed)?;
        let this = Self::load(dir, journal, bodies)?;
        this.tell(true);
        Ok(this)
    }

    fn load(dir: &Path, journal: Journal, bodies: Vec<Bytes>) -> Result<Self, Fault> {
        let mut rows = Rows::default();
        let checkpoint = dir.join(ROWS);
        if fs::exists(&checkpoint).map_err(failed)? {
            let content = fs::read(&checkpoint).map_err(failed)?;
            rows.write(redo(Bytes::from(content))?)?;
        }
        for body in bodies {
            rows.write(redo(body)?)?;
        }
        Ok(Self(Arc::new(Inner { dir: dir.to_owned(), journal, rows: RwLock::new(rows) })))
    }

    fn rows(&self) -> RwLockReadGuard<'_, Rows> {
        self.0.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, opened: bool) {
        let rows = self.rows();
        let applied = rows.kv.get(Table::Raft, APPLIED).ok().flatten();
        tell(&self.0.dir, What::State { applied, hash: rows.hash, opened });
    }

    /// Applies writes as one batch: all of them or none survive a crash.
    ///
    /// # Errors
    /// Never.
    pub fn write(&self, writes: Vec<Write>) -> Result<(), Fault> {
        self.0.journal.append(&encode(&writes));
        self.0.rows.write().unwrap_or_else(PoisonError::into_inner).write(writes)?;
        self.tell(false);
        Ok(())
    }

    /// Makes everything that was written durable.
    ///
    /// # Errors
    /// Never.
    pub fn flush(&self) -> Result<(), Fault> {
        self.0.journal.sync().map_err(failed)
    }

    /// Writes a copy to a directory that does not exist yet.
    ///
    /// # Errors
    /// When it does.
    pub fn checkpoint(&self, dir: &Path) -> Result<(), Fault> {
        if fs::exists(dir).map_err(failed)? {
            return Err(Fault::Storage(format!("{} exists already", dir.display())));
        }
        fs::create_dir_all(dir).map_err(failed)?;
        let mut writes = Vec::new();
        let rows = self.rows();
        for table in Table::ALL {
            rows.kv.scan(table, &[], &END, Order::Ascending, &mut |key, value| {
                writes.push(Write::Put(table, key.to_vec(), Bytes::copy_from_slice(value)));
                Ok(ControlFlow::Continue(()))
            })?;
        }
        for (name, content) in [(ROWS, &encode(&writes)[..]), (MANIFEST, &b"one table"[..])] {
            fs::write(dir.join(name), content).map_err(failed)?;
            File::open(dir.join(name)).and_then(|file| file.sync_all()).map_err(failed)?;
        }
        files::sync_dir(dir).map_err(failed)
    }

    /// The tables, for reading what is newest each time.
    #[must_use]
    pub fn tables(&self) -> Tables<'_> {
        Tables(self)
    }

    /// Runs a reader over the state as it is now.
    pub fn view<R>(&self, read: impl FnOnce(&View<'_>) -> R) -> R {
        read(&View(self.rows()))
    }

    /// The same.
    pub fn view_whole<R>(&self, read: impl FnOnce(&View<'_>) -> R) -> R {
        self.view(read)
    }

    /// Reads from a checkpoint without changing it.
    ///
    /// # Errors
    /// When its files hold what nobody wrote.
    pub fn read_checkpoint<R>(dir: &Path, read: impl FnOnce(&View<'_>) -> R) -> Result<R, Fault> {
        let mut rows = Rows::default();
        let content = fs::read(dir.join(ROWS)).map_err(failed)?;
        rows.write(redo(Bytes::from(content))?)?;
        let rows = RwLock::new(rows);
        let rows = rows.read().unwrap_or_else(PoisonError::into_inner);
        Ok(read(&View(rows)))
    }

    /// Gauges of the database.
    #[must_use]
    pub fn metrics(&self) -> StoreMetrics {
        StoreMetrics::default()
    }
}

fn redo(body: Bytes) -> Result<Vec<Write>, Fault> {
    decode(body).ok_or_else(|| Fault::Storage("the journal of the state is damaged".to_owned()))
}

/// The tables of an open database.
#[derive(Debug)]
pub struct Tables<'d>(&'d StateDb);

impl Kv for Tables<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        self.0.rows().kv.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        order: Order,
        visit: &mut Visit<'_>,
    ) -> Result<(), Fault> {
        self.0.rows().kv.scan(table, start, end, order, visit)
    }
}

/// The state at one moment.
#[derive(Debug)]
pub struct View<'d>(RwLockReadGuard<'d, Rows>);

impl Kv for View<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        self.0.kv.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        order: Order,
        visit: &mut Visit<'_>,
    ) -> Result<(), Fault> {
        self.0.kv.scan(table, start, end, order, visit)
    }
}
