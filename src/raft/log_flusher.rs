//! One thread that syncs the log: one sync for everything that was written before it began.
//!
//! A failed sync is never tried again (the kernel may have dropped what could not be written, and
//! would report success): the log is poisoned, and the node stops.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use openraft::storage::IOFlushed;
use tokio::sync::oneshot;

use super::types::TypeConfig;
use crate::model::limits::LOG_SYNCS_QUEUED;
use crate::runtime::clock;
use crate::runtime::worker::{More, Worker};
use crate::store::log_db::{LogDb, Synced};

/// Who waits for a sync.
pub(super) enum Waiter {
    /// The consensus core, with an append.
    Append(IOFlushed<TypeConfig>),
    /// A write of metadata.
    Write(oneshot::Sender<io::Result<()>>),
}

/// Counters of the thread.
#[derive(Debug, Default)]
pub struct SyncStats {
    /// Syncs done.
    pub syncs: AtomicU64,
    /// Microseconds that they took in all.
    pub micros: AtomicU64,
}

/// The way to the thread. It ends when this is dropped, so that the log is closed when its last user
/// is gone.
#[derive(Debug)]
pub(super) struct Flusher {
    thread: Worker<Waiter>,
    poisoned: Arc<AtomicBool>,
    pub(super) stats: Arc<SyncStats>,
}

impl Flusher {
    pub(super) fn start(db: LogDb) -> io::Result<Self> {
        let poisoned = Arc::new(AtomicBool::new(false));
        let stats = Arc::new(SyncStats::default());
        let syncer = Syncer { db, poisoned: Arc::clone(&poisoned), stats: Arc::clone(&stats) };
        let work = move |first, more: More<'_, Waiter>| {
            syncer.run(first, more);
            ControlFlow::Continue(())
        };
        Ok(Self { thread: Worker::start("log-sync", LOG_SYNCS_QUEUED, work)?, poisoned, stats })
    }

    /// Asks for a sync of everything that was written so far.
    pub(super) fn submit(&self, waiter: Waiter) -> io::Result<()> {
        self.check()?;
        self.thread.submit(waiter).map_err(|_| io::Error::other("the log-sync thread is gone"))
    }

    /// Whether the log may still be written to.
    pub(super) fn check(&self) -> io::Result<()> {
        if self.poisoned.load(Ordering::Acquire) { Err(poisoned()) } else { Ok(()) }
    }
}

fn poisoned() -> io::Error {
    io::Error::other("a sync of the log failed earlier; restart the node once its disk is sound")
}

struct Syncer {
    db: LogDb,
    poisoned: Arc<AtomicBool>,
    stats: Arc<SyncStats>,
}

impl Syncer {
    /// One sync, for all that asked for one before it.
    fn run(&self, first: Waiter, more: More<'_, Waiter>) {
        let mut waiters = vec![first];
        waiters.extend(more.take(LOG_SYNCS_QUEUED));
        let result = self.sync();
        let told = result.as_ref().map(|_| ());
        for waiter in waiters {
            let told = told.map_err(|error| io::Error::new(error.kind(), error.to_string()));
            match waiter {
                Waiter::Append(callback) => callback.io_completed(told),
                // Whoever gave up waiting has no use for the answer.
                Waiter::Write(answer) => drop(answer.send(told)),
            }
        }
        // After the answers: nobody waits for it.
        if let Ok(synced) = result
            && let Err(error) = self.db.mark(synced)
        {
            self.poison(&error);
        }
    }

    fn sync(&self) -> io::Result<Synced> {
        if self.poisoned.load(Ordering::Acquire) {
            return Err(poisoned());
        }
        let started = clock::now();
        let result = failpoint("log::before_sync")
            .and_then(|()| self.db.sync_unmarked())
            .and_then(|synced| failpoint("log::after_sync").map(|()| synced));
        if let Err(error) = &result {
            self.poison(error);
        }
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.stats.micros.fetch_add(micros, Ordering::Relaxed);
        self.stats.syncs.fetch_add(1, Ordering::Relaxed);
        result
    }

    fn poison(&self, error: &io::Error) {
        self.poisoned.store(true, Ordering::Release);
        tracing::error!(%error, "sync of the log failed");
    }
}

/// A place where tests make the node fail.
fn failpoint(name: &'static str) -> io::Result<()> {
    fail::fail_point!(name, |_| Err(io::Error::other(format!("failpoint {name}"))));
    let _ = name;
    Ok(())
}
