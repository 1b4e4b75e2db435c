//! The replicated state as the consensus library sees it.

use std::io;
use std::sync::Arc;

use futures_util::{FutureExt, Stream, StreamExt};
use openraft::OptionalSend;
use openraft::storage::{EntryResponder, RaftStateMachine};
use tokio::sync::oneshot;

use super::apply::{self, Applier, Shared, Waiting, gone};
use super::log_store::LogStore;
use super::rows;
use super::snapshot::{SnapshotBuilder, SnapshotHandle, Snapshots};
use super::types::{LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};
use crate::model::limits::{APPLY_ROUND_BYTES, APPLY_ROUND_ENTRIES};
use crate::runtime::tasks;
use crate::store::shard::ShardState;

/// The replicated state of one shard.
pub(super) struct StateMachine {
    state: ShardState,
    log: LogStore,
    applier: Applier,
    snapshots: Snapshots,
    shared: Arc<Shared>,
}

impl StateMachine {
    pub(super) fn start(
        state: ShardState,
        log: LogStore,
        snapshots: Snapshots,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let applier = Applier::start(state.clone(), snapshots.clone(), Arc::clone(&shared))?;
        Ok(Self { state, log, applier, snapshots, shared })
    }

    fn fault(&self, when: &str, error: impl std::fmt::Display) -> io::Error {
        let text = format!("{when}: {error}");
        self.shared.fatal.fail(text.clone());
        io::Error::other(text)
    }
}

/// The next round: waits for one entry, then takes what is there already. Empty at the end.
async fn gather<S>(entries: &mut S) -> io::Result<Vec<Waiting>>
where
    S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin,
{
    let mut round = Vec::new();
    let mut bytes = 0;
    let mut next = entries.next().await;
    while let Some(entry) = next {
        let entry = entry?;
        bytes += entry_bytes(&entry);
        round.push(entry);
        if bytes >= APPLY_ROUND_BYTES || round.len() >= APPLY_ROUND_ENTRIES {
            break;
        }
        next = entries.next().now_or_never().flatten();
    }
    Ok(round)
}

fn entry_bytes((entry, _): &Waiting) -> usize {
    match &entry.payload {
        openraft::EntryPayload::Normal(data) => data.0.len(),
        openraft::EntryPayload::Blank | openraft::EntryPayload::Membership(_) => 0,
    }
}

async fn finished(round: oneshot::Receiver<io::Result<()>>) -> io::Result<()> {
    round.await.map_err(|_| gone())?
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotHandle;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let state = self.state.clone();
        let rows = tasks::spawn_blocking("applied-state", move || rows::load(&state.db().tables()));
        let rows = rows.await.map_err(io::Error::other)?;
        let rows = rows.map_err(|fault| self.fault("read the applied state", fault))?;
        Ok((rows.applied, rows.membership))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        // One round is written while the next is gathered.
        let mut writing: Option<oneshot::Receiver<io::Result<()>>> = None;
        loop {
            let round = gather(&mut entries).await;
            if let Some(previous) = writing.take() {
                finished(previous).await?;
            }
            let round = round?;
            if round.is_empty() {
                return Ok(());
            }
            writing = Some(self.applier.submit(round)?);
        }
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<SnapshotBuilder> {
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        self.snapshots.builder(self.state.clone())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotHandle,
    ) -> io::Result<()> {
        let (state, log) = (self.state.clone(), self.log.clone());
        let installed = self.snapshots.install_apart(meta.clone(), snapshot, state, log).await;
        installed.map_err(|error| self.fault("install a snapshot", error))?;
        let mark = apply::mark(&self.state);
        let mark = mark.map_err(|fault| self.fault("read an installed snapshot", fault))?;
        self.shared.applied.send_replace(mark);
        self.shared.hints.tell_all();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot<SnapshotHandle>>> {
        self.snapshots.current().map_err(|fault| self.fault("read the snapshot", fault))
    }
}
