//! The leader's ticker: what has expired is forgotten, a bounded bit at a time.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Node;
use crate::model::command::{Housekeep, Kind};
use crate::runtime::tasks;

const EVERY: Duration = Duration::from_secs(60);

/// Starts the ticker. It ticks on every node and acts on the one that leads, so that no change of
/// leader can leave it stopped.
pub(super) fn start(node: &Arc<Node>) {
    let weak = Arc::downgrade(node);
    let shutdown = node.shutdown.clone();
    tasks::spawn("housekeeping", async move {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = shutdown.wait() => return,
            }
            let Some(node) = Weak::upgrade(&weak) else { return };
            if !node.raft.is_leader() {
                continue;
            }
            if let Err(rejection) = node.execute(Kind::Housekeep(Housekeep {})).await {
                tracing::debug!(%rejection, "housekeeping is put off");
            }
        }
    });
}
