//! Snapshots: checkpoints of the state with a manifest, in directories of their own.
//!
//! Under the snapshots directory, `snap-…` is the one that is kept, `building-…` and `received-…`
//! are on their way to that, `removing-…` is on its way out, `staging` holds the files of a
//! transfer that may be resumed, and `installing` is on its way to become the state. A node that
//! starts removes all but the first and `staging`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use openraft::storage::RaftSnapshotBuilder;

use super::codec;
use super::log_store::LogStore;
use super::rows::{self, Rows};
use super::snapshot_files as files;
use super::types::{Snapshot, SnapshotMeta, TypeConfig};
use crate::machine::Fault;
use crate::model::ids::LogIndex;
use crate::proto::peer::SnapshotManifest;
use crate::runtime::fatal::FatalSender;
use crate::runtime::tasks;
use crate::store::shard::ShardState;
use crate::store::state::StateDb;

/// A snapshot on disk. Clones are the same one; a snapshot that is no longer the kept one goes
/// away with its last handle.
#[derive(Clone)]
pub(super) struct SnapshotHandle(Arc<OnDisk>);

struct OnDisk {
    dir: PathBuf,
    manifest: SnapshotManifest,
    kept: AtomicBool,
    fatal: FatalSender,
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        if self.kept.load(Ordering::Acquire) {
            return;
        }
        // Unlinking large files takes its time, and handles are dropped anywhere.
        let dir = std::mem::take(&mut self.dir);
        let remove = move || {
            if let Err(error) = files::remove(&dir)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(dir = %dir.display(), %error, "remove an old snapshot");
            }
        };
        if let Err(error) = tasks::thread("snapshot-remove", remove) {
            tracing::warn!(%error, "no thread to remove an old snapshot");
        }
    }
}

impl SnapshotHandle {
    pub(super) fn dir(&self) -> &Path {
        &self.0.dir
    }

    pub(super) fn manifest(&self) -> &SnapshotManifest {
        &self.0.manifest
    }

    pub(super) fn last_index(&self) -> LogIndex {
        LogIndex(self.0.manifest.last_log_id.as_ref().map_or(0, |log_id| log_id.index))
    }

    /// A stored file differs from what was written: this node's disk is not to be trusted.
    pub(super) fn corrupt(&self, what: &str) {
        self.0.fatal.fail(format!("{what} in {}", self.0.dir.display()));
    }

    fn bytes(&self) -> u64 {
        self.0.manifest.files.iter().map(|file| file.size).sum()
    }

    fn meta(&self) -> Result<SnapshotMeta, Fault> {
        let manifest = &self.0.manifest;
        let membership = manifest.membership.as_ref();
        let membership = membership.map(codec::stored_membership_from_proto).transpose();
        let membership = membership.map_err(|what| Fault::Storage(format!("manifest: {what}")))?;
        Ok(SnapshotMeta {
            last_log_id: manifest.last_log_id.as_ref().map(codec::log_id_from_proto),
            last_membership: membership.unwrap_or_default(),
        })
    }

    fn into_snapshot(self) -> Result<Snapshot<Self>, Fault> {
        Ok(Snapshot { meta: self.meta()?, snapshot: self })
    }
}

/// The snapshots of one shard.
#[derive(Clone)]
pub(super) struct Snapshots {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    current: Mutex<Option<SnapshotHandle>>,
    /// Held while the state is flushed, copied or replaced: what is replaced must not be written.
    turn: Mutex<()>,
    /// How often the state was replaced.
    installs: AtomicU64,
    fatal: FatalSender,
}

impl Snapshots {
    /// Finds the latest snapshot, and removes what a crash left behind. Blocks.
    pub(super) fn open(root: PathBuf, fatal: FatalSender) -> Result<Self, Fault> {
        let found = files::clean(&root).map_err(|error| io_fault("open snapshots", &error))?;
        let current = found.map(|(dir, manifest)| {
            SnapshotHandle(Arc::new(OnDisk {
                dir,
                manifest,
                kept: AtomicBool::new(true),
                fatal: fatal.clone(),
            }))
        });
        let current = Mutex::new(current);
        let installs = AtomicU64::new(0);
        let inner = Inner { root, current, turn: Mutex::default(), installs, fatal };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Where the files of a transfer arrive.
    pub(super) fn staging(&self) -> PathBuf {
        self.inner.root.join(files::STAGING)
    }

    /// The kept snapshot's last entry and size.
    pub(super) fn held(&self) -> Option<(LogIndex, u64)> {
        let current = self.inner.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map(|handle| (handle.last_index(), handle.bytes()))
    }

    pub(super) fn current(&self) -> Result<Option<Snapshot<SnapshotHandle>>, Fault> {
        let current = self.inner.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        current.map(SnapshotHandle::into_snapshot).transpose()
    }

    /// How often the state was replaced by a snapshot.
    pub(super) fn installs(&self) -> u64 {
        self.inner.installs.load(Ordering::Acquire)
    }

    /// Makes what was applied durable. Blocks.
    pub(super) fn flush(&self, state: &ShardState) -> Result<(), Fault> {
        let _turn = self.inner.turn.lock().unwrap_or_else(PoisonError::into_inner);
        state.db().flush()
    }

    pub(super) fn builder(&self, state: ShardState) -> SnapshotBuilder {
        SnapshotBuilder { snapshots: self.clone(), state }
    }

    /// A new name. Process ids and counters come again after a restart, and what they named may
    /// still be there.
    fn path(&self, kind: &str) -> PathBuf {
        self.inner.root.join(format!("{kind}{}", uuid::Uuid::new_v4()))
    }

    fn handle(&self, dir: PathBuf, manifest: SnapshotManifest) -> SnapshotHandle {
        let fatal = self.inner.fatal.clone();
        SnapshotHandle(Arc::new(OnDisk { dir, manifest, kept: AtomicBool::new(false), fatal }))
    }

    /// Makes a checkpoint of the state and keeps it, unless a later one is kept already. Blocks.
    fn build(&self, state: &ShardState) -> Result<SnapshotHandle, Fault> {
        let failed = |error: io::Error| io_fault("build a snapshot", &error);
        let building = self.path(files::BUILDING);
        {
            let _turn = self.inner.turn.lock().unwrap_or_else(PoisonError::into_inner);
            let state = state.db();
            // What the log may be purged up to is durable in the state, too.
            state.flush()?;
            state.checkpoint(&building)?;
        }
        let rows = StateDb::read_checkpoint(&building, |view| rows::load(view))??;
        let Rows { applied, membership } = rows;
        let known = self.inner.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let known = known.as_ref().map(|handle| (handle.dir(), handle.manifest()));
        let manifest = SnapshotManifest {
            last_log_id: applied.as_ref().map(codec::log_id_to_proto),
            membership: Some(codec::stored_membership_to_proto(&membership)),
            files: files::list(&building, known).map_err(failed)?,
        };
        files::write_manifest(&building, &manifest).map_err(failed)?;
        let handle = self.keep(&building, manifest).map_err(failed)?;
        fail::fail_point!("snapshot::built");
        Ok(handle)
    }

    /// Gives a finished directory its final name, and lets go of the snapshot before.
    fn keep(&self, dir: &Path, manifest: SnapshotManifest) -> io::Result<SnapshotHandle> {
        let name = self.path(files::KEPT);
        let handle = self.handle(name, manifest);
        // Held while the name appears: the highest index is the one that a restart finds.
        let mut current = self.inner.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|kept| kept.last_index() > handle.last_index()) {
            let manifest = handle.manifest().clone();
            return Ok(self.handle(dir.to_owned(), manifest));
        }
        files::rename(dir, handle.dir())?;
        handle.0.kept.store(true, Ordering::Release);
        if let Some(before) = current.replace(handle.clone()) {
            before.0.kept.store(false, Ordering::Release);
        }
        Ok(handle)
    }

    /// Takes a complete staging directory over. Blocks.
    pub(super) fn received(
        &self,
        manifest: SnapshotManifest,
    ) -> Result<Snapshot<SnapshotHandle>, Fault> {
        let failed = |error: io::Error| io_fault("keep a received snapshot", &error);
        let dir = self.path(files::RECEIVED);
        files::write_manifest(&self.staging(), &manifest).map_err(failed)?;
        files::rename(&self.staging(), &dir).map_err(failed)?;
        self.handle(dir, manifest).into_snapshot()
    }

    /// Makes a snapshot the kept one, wherever it lies.
    fn adopt(&self, handle: &SnapshotHandle) -> io::Result<SnapshotHandle> {
        if !handle.dir().starts_with(&self.inner.root) {
            let copied = self.path(files::RECEIVED);
            files::copy(handle, &copied)?;
            files::write_manifest(&copied, handle.manifest())?;
            return self.keep(&copied, handle.manifest().clone());
        }
        if handle.0.kept.load(Ordering::Acquire) {
            return Ok(handle.clone());
        }
        self.keep(handle.dir(), handle.manifest().clone())
    }

    /// Puts a snapshot in the place of the state. Blocks.
    fn install(
        &self,
        meta: &SnapshotMeta,
        handle: &SnapshotHandle,
        state: &ShardState,
        log: &LogStore,
    ) -> Result<(), Fault> {
        let failed = |error: io::Error| io_fault("install a snapshot", &error);
        // A log that contradicts the snapshot was truncated before; that must not come back once
        // the snapshot is the state.
        log.sync().map_err(failed)?;
        let handle = self.adopt(handle).map_err(failed)?;
        let installing = self.inner.root.join(files::INSTALLING);
        files::copy(&handle, &installing).map_err(failed)?;
        {
            let _turn = self.inner.turn.lock().unwrap_or_else(PoisonError::into_inner);
            self.inner.installs.fetch_add(1, Ordering::AcqRel);
            state.install(&installing)?;
        }
        let rows = rows::load(&state.db().tables())?;
        let expected = Rows { applied: meta.last_log_id, membership: meta.last_membership.clone() };
        if rows != expected {
            let what = format!("an installed snapshot holds {rows:?}, not {expected:?}");
            return Err(Fault::Storage(what));
        }
        #[cfg(feature = "planted")]
        super::planted::installed(&state.db())?;
        fail::fail_point!("snapshot::installed");
        Ok(())
    }

    /// As `install`, on a thread of its own.
    pub(super) async fn install_apart(
        &self,
        meta: SnapshotMeta,
        handle: SnapshotHandle,
        state: ShardState,
        log: LogStore,
    ) -> Result<(), Fault> {
        let this = self.clone();
        let installed = tasks::spawn_blocking("snapshot-install", move || {
            this.install(&meta, &handle, &state, &log)
        });
        installed.await.map_err(|error| Fault::Storage(error.to_string()))?
    }
}

/// Builds one snapshot of one state.
pub(super) struct SnapshotBuilder {
    snapshots: Snapshots,
    state: ShardState,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotHandle;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot<SnapshotHandle>> {
        let (snapshots, state) = (self.snapshots.clone(), self.state.clone());
        let fatal = snapshots.inner.fatal.clone();
        let built = tasks::spawn_blocking("snapshot-build", move || {
            snapshots.build(&state)?.into_snapshot()
        });
        let built = built.await.map_err(io::Error::other)?;
        built.map_err(|fault| {
            fatal.fail(format!("build a snapshot: {fault}"));
            io::Error::other(fault)
        })
    }
}

fn io_fault(what: &str, error: &io::Error) -> Fault {
    Fault::Storage(format!("{what}: {error}"))
}
