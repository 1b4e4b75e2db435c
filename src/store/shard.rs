//! The state of one shard, through its generations: a snapshot that is installed becomes a new one.
//!
//! `state/<shard>/CURRENT` names the generation that counts; it is replaced by an atomic rename.
//! Readers of the old generation finish undisturbed; its files go when the last of them is done.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use super::files;
use super::options::StoreOptions;
use super::state::StateDb;
use crate::machine::Fault;
use crate::runtime::fs;

const CURRENT: &str = "CURRENT";
const PREFIX: &str = "generation-";

/// The state of one shard. Clones share it.
#[derive(Clone, Debug)]
pub struct ShardState(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    options: StoreOptions,
    current: RwLock<(u64, StateDb)>,
}

fn failed(what: &str) -> impl FnOnce(io::Error) -> Fault {
    move |error| Fault::Storage(format!("{what}: {error}"))
}

impl ShardState {
    /// Opens the current generation, or creates the first. What an interrupted install left behind
    /// is removed.
    ///
    /// # Errors
    /// When the disk fails or the files are damaged.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Self, Fault> {
        files::create_dir_all(dir).map_err(failed("create state directory"))?;
        let generation =
            match files::read_text(&dir.join(CURRENT)).map_err(failed("read CURRENT"))? {
                Some(text) => text.parse().map_err(|_| {
                    Fault::Storage(format!("{} names no generation", dir.join(CURRENT).display()))
                })?,
                None => {
                    set_current(dir, 1)?;
                    1
                }
            };
        remove_others(dir, generation)?;
        let path = path(dir, generation);
        // What the database flushes is worth as much as the name of its directory.
        files::create_dir_all(&path).map_err(failed("create generation directory"))?;
        let db = StateDb::open(&path, &options)?;
        let current = RwLock::new((generation, db));
        Ok(Self(Arc::new(Inner { dir: dir.to_owned(), options, current })))
    }

    /// The database as it is now.
    #[must_use]
    pub fn db(&self) -> StateDb {
        self.0.current.read().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// Makes a verified checkpoint the state: its directory is moved here.
    ///
    /// # Errors
    /// When the disk fails or the checkpoint is damaged; the state is then what it was.
    pub fn install(&self, checkpoint: &Path) -> Result<(), Fault> {
        let mut current = self.0.current.write().unwrap_or_else(PoisonError::into_inner);
        let generation = current.0 + 1;
        let new_dir = path(&self.0.dir, generation);
        fs::rename(checkpoint, &new_dir).map_err(failed("move checkpoint"))?;
        files::sync_dir(&self.0.dir).map_err(failed("sync state directory"))?;
        let db = StateDb::open(&new_dir, &self.0.options)?;
        fail::fail_point!("snapshot::rename");
        set_current(&self.0.dir, generation)?;
        let old = std::mem::replace(&mut *current, (generation, db));
        drop(current);
        // On Linux the files stay readable for whoever has them open; what a reader opens later
        // fails, and the reader asks again. Leftovers are removed at the next start.
        let (old_generation, old_db) = old;
        drop(old_db);
        fs::remove_dir_all(path(&self.0.dir, old_generation)).map_err(failed("remove old state"))
    }
}

fn path(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("{PREFIX}{generation}"))
}

fn set_current(dir: &Path, generation: u64) -> Result<(), Fault> {
    files::replace(&dir.join(CURRENT), generation.to_string().as_bytes())
        .map_err(failed("write CURRENT"))
}

fn remove_others(dir: &Path, generation: u64) -> Result<(), Fault> {
    for entry in fs::read_dir(dir).map_err(failed("list state directory"))? {
        let entry = entry.map_err(failed("list state directory"))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(PREFIX) && entry.path() != path(dir, generation) {
            fs::remove_dir_all(entry.path()).map_err(failed("remove old state"))?;
        }
    }
    Ok(())
}
