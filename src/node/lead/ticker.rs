//! The leader's ticker: it fires what is due, a bounded bit at a time.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::super::Node;
use crate::machine::delivery::query::next_due;
use crate::model::command::{Kind, Tick};
use crate::model::ids::UnixMs;
use crate::model::limits::{TICK_LOOK_MS, TICK_PAUSE_MS};
use crate::model::outcome::Outcome;
use crate::model::rejection::Rejection;
use crate::runtime::tasks;

/// Starts the task. It ends with the node.
pub(super) fn start(node: &Arc<Node>) {
    let weak = Arc::downgrade(node);
    let mut leadership = node.raft.leadership();
    let mut announced = node.lead.announced.subscribe();
    let mut applied = node.raft.applied();
    let shutdown = node.shutdown.clone();
    tasks::spawn("ticker", async move {
        loop {
            applied.mark_unchanged();
            let leads = announced.borrow_and_update().is_some();
            let sleep = match Weak::upgrade(&weak) {
                Some(node) if leads => look(&node).await,
                Some(_) => None,
                None => return,
            };
            // A timer that comes before those that were seen comes with an entry.
            let due = async {
                match sleep {
                    Some(sleep) => tokio::select! {
                        () = tokio::time::sleep(sleep) => {}
                        _ = applied.changed() => tokio::time::sleep(pause()).await,
                    },
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                _ = announced.changed() => {}
                changed = leadership.changed() => if changed.is_err() { return },
                () = shutdown.wait() => return,
            }
        }
    });
}

fn pause() -> Duration {
    Duration::from_millis(TICK_PAUSE_MS)
}

/// Fires what is due; how long nothing is due then.
async fn look(node: &Node) -> Option<Duration> {
    match fire(node).await {
        Ok(Some(due)) => {
            let left = due.since(node.now()).clamp(1, TICK_LOOK_MS);
            Some(Duration::from_millis(left))
        }
        Ok(None) => Some(Duration::from_millis(TICK_LOOK_MS)),
        Err(rejection) => {
            tracing::debug!(%rejection, "timers are put off");
            Some(pause())
        }
    }
}

/// Ticks until nothing is due; when the next timer is.
async fn fire(node: &Node) -> Result<Option<UnixMs>, Rejection> {
    loop {
        let due = node.read(|view| next_due(view)).await?;
        if due.is_none_or(|due| due > node.now()) {
            return Ok(due);
        }
        while matches!(
            node.execute(Kind::Tick(Tick {})).await?,
            Outcome::Ticked(ticked) if ticked.more
        ) {}
    }
}
