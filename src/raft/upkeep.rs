//! What a node does by the clock: snapshots, flushes, unfinished membership changes; and the watch
//! over consensus itself.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Instant;

use openraft::async_runtime::watch::WatchReceiver;

use super::handle::Core;
use super::options::Upkeep;
use super::quorum::View;
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
    let mut due_since = None;
    loop {
        tokio::time::sleep(upkeep.check_every).await;
        let Some(core) = core.upgrade() else { return };
        if core.stopping.load(Ordering::Acquire) {
            return;
        }
        let now = Progress::of(&core);
        let snapshot = core.raft.metrics().borrow_watched().snapshot;
        let due = snapshot_due(&upkeep, &tried, &now, snapshot);
        due_since = due.then(|| due_since.unwrap_or(now.at));
        let put_off = due_since.is_some_and(|since| now.at - since < upkeep.put_off_max)
            && core.leader_view().is_ok_and(|view| is_awaited(&view, snapshot));
        if due && !put_off {
            (tried, due_since) = (now, None);
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

/// Whether a leader has followers that answer and lack what its snapshot has: another one would take the
/// log away that follows on this, and they would need that one, and so on for as long as much is written.
fn is_awaited(view: &View, held: Option<LogId>) -> bool {
    let lacks = |id| view.matched.get(id).copied().unwrap_or(0) < held.map_or(0, |held| held.index);
    view.live.iter().filter(|id| **id != view.this).any(lacks)
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
    use crate::model::ids::NodeId;
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
    fn followers_that_answer_and_lack_the_snapshot_are_waited_for() {
        let held = codec::log_id_from_proto(&peer::LogId { term: 1, node_id: 1, index: 100 });
        let awaited = |matched: &[(u64, u64)], live: &[u64], held| {
            let view = View {
                this: NodeId(1),
                configs: Vec::new(),
                nodes: (1..=3).map(NodeId).collect(),
                live: live.iter().copied().map(NodeId).collect(),
                matched: matched.iter().map(|(id, index)| (NodeId(*id), *index)).collect(),
                last_log: 500,
            };
            is_awaited(&view, held)
        };
        assert!(!awaited(&[(2, 100), (3, 400)], &[1, 2, 3], Some(held)));
        assert!(awaited(&[(2, 99), (3, 400)], &[1, 2, 3], Some(held)));
        assert!(awaited(&[(3, 400)], &[1, 2, 3], Some(held)), "it has nothing yet");
        assert!(!awaited(&[(2, 99), (3, 400)], &[1, 3], Some(held)), "it does not answer");
        assert!(!awaited(&[], &[1, 2, 3], None));
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
