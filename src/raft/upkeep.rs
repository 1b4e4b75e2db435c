//! What a node does by the clock: snapshots, flushes, unfinished membership changes; and the watch
//! over consensus itself.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Instant;

use openraft::async_runtime::watch::WatchReceiver;

use super::handle::Core;
use super::options::Upkeep;
use super::types::LogId;
use crate::runtime::{clock, tasks};

/// Starts the tasks. They end with the node.
pub(super) fn start(core: &Arc<Core>, upkeep: Upkeep) {
    let _detached = tasks::spawn("upkeep", run(Arc::downgrade(core), upkeep));
    let _detached = tasks::spawn("raft-watch", watch(Arc::downgrade(core)));
}

/// What has been applied by some moment.
#[derive(Clone, Copy)]
struct Progress {
    at: Instant,
    bytes: u64,
    index: u64,
}

impl Progress {
    fn of(core: &Core) -> Self {
        Self {
            at: clock::now(),
            bytes: core.shared.bytes.load(Ordering::Relaxed),
            index: core.applied.borrow().index.get(),
        }
    }
}

async fn run(core: Weak<Core>, upkeep: Upkeep) {
    let Some(mut flushed) = core.upgrade().map(|core| Progress::of(&core)) else { return };
    let mut tried = flushed;
    loop {
        tokio::time::sleep(upkeep.check_every).await;
        let Some(core) = core.upgrade() else { return };
        if core.stopping.load(Ordering::Acquire) {
            return;
        }
        let now = Progress::of(&core);
        let snapshot = core.raft.metrics().borrow_watched().snapshot;
        if snapshot_due(&upkeep, &tried, &now, snapshot) {
            tried = now;
            if core.raft.trigger().snapshot().await.is_err() {
                return;
            }
        }
        if flush_due(&upkeep, &flushed, &now) {
            flushed = now;
            core.flush_state().await;
        }
        core.finish_joint().await;
    }
}

/// `tried` is when a snapshot was last asked for, or when the node started; `held` is the one that
/// there is. One that is being built already is not begun again.
fn snapshot_due(upkeep: &Upkeep, tried: &Progress, now: &Progress, held: Option<LogId>) -> bool {
    let entries = now.index.saturating_sub(held.map_or(0, |log_id| log_id.index));
    entries > 0
        && (entries >= upkeep.snapshot_entries
            || now.bytes - tried.bytes >= upkeep.snapshot_log_bytes
            || now.at.duration_since(tried.at) >= upkeep.snapshot_age)
}

fn flush_due(upkeep: &Upkeep, flushed: &Progress, now: &Progress) -> bool {
    now.index > flushed.index
        && (now.bytes - flushed.bytes >= upkeep.flush_log_bytes
            || now.at.duration_since(flushed.at) >= upkeep.flush_every)
}

/// A node whose consensus has stopped must not go on: it would answer from a state that grows old.
async fn watch(core: Weak<Core>) {
    let watched = |core: Arc<Core>| (core.raft.metrics(), core.raft.server_metrics());
    let Some((metrics, mut server)) = core.upgrade().map(watched) else { return };
    // These change rarely, and end with consensus.
    while server.changed().await.is_ok() {}
    let fault = match &metrics.borrow_watched().running_state {
        Err(fatal) => fatal.to_string(),
        Ok(()) => "raft stopped".to_owned(),
    };
    let Some(core) = core.upgrade() else { return };
    if !core.stopping.load(Ordering::Acquire) {
        core.shared.fatal.fail(format!("consensus stopped: {fault}"));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::proto::peer;
    use crate::raft::codec;

    fn upkeep() -> Upkeep {
        Upkeep { snapshot_entries: 100, snapshot_log_bytes: 1000, ..Upkeep::default() }
    }

    fn progress(at: Instant, index: u64, bytes: u64) -> Progress {
        Progress { at, bytes, index }
    }

    #[test]
    fn a_snapshot_is_due_by_entries_bytes_or_age_and_never_for_nothing() {
        let start = clock::now();
        let tried = progress(start, 0, 0);
        let due = |index, bytes, age, held: Option<u64>| {
            let now = progress(start + age, index, bytes);
            let held = held.map(|index| peer::LogId { term: 1, node_id: 1, index });
            let held = held.as_ref().map(codec::log_id_from_proto);
            snapshot_due(&upkeep(), &tried, &now, held)
        };
        let (second, day) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));
        assert!(!due(99, 0, second, None));
        assert!(due(100, 0, second, None));
        assert!(!due(100, 0, second, Some(1)));
        assert!(due(1, 1000, second, None));
        assert!(due(1, 0, day, None));
        assert!(!due(1, 1000, day, Some(1)));
    }

    #[test]
    fn a_flush_is_due_by_bytes_or_time_and_never_for_nothing() {
        let start = clock::now();
        let flushed = progress(start, 10, 0);
        let late = start + Duration::from_secs(30);
        assert!(!flush_due(&upkeep(), &flushed, &progress(late, 10, 0)));
        assert!(flush_due(&upkeep(), &flushed, &progress(late, 11, 1)));
        assert!(!flush_due(&upkeep(), &flushed, &progress(start, 11, 1)));
        assert!(flush_due(&upkeep(), &flushed, &progress(start, 11, 256 << 20)));
    }
}
