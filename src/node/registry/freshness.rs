//! Whether this node knows what the hub knows: it asks once for all who want to know at the same time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::machine::registry::watch::revision as newest;
use crate::model::limits::{RENEWALS_LOOK_MS, WATCH_FRESH_MS};
use crate::model::rejection::{Reason, Rejection};
use crate::node::Node;
use crate::node::query::Consistency;
use crate::runtime::{clock, tasks};

/// What was asked, and answered.
pub(super) struct Freshness {
    /// How often somebody wanted to know.
    asked: watch::Sender<u64>,
    /// How many of them this is an answer to, and the revision that the hub was at after they had asked.
    answered: watch::Sender<(u64, u64)>,
    /// Once since it started, this node knew what the hub knew.
    caught_up: AtomicBool,
}

impl Default for Freshness {
    fn default() -> Self {
        // A node that starts wants to know.
        let (asked, answered) = (watch::Sender::new(1), watch::Sender::default());
        Self { asked, answered, caught_up: AtomicBool::new(false) }
    }
}

impl Freshness {
    /// Asks which revision the hub is at: what is answered to so many or more is the answer.
    pub(super) fn ask(&self) -> u64 {
        self.asked.send_modify(|asked| *asked += 1);
        *self.asked.borrow()
    }

    /// Whether this node knew once since it started what the hub knew.
    pub(super) fn has_caught_up(&self) -> bool {
        self.caught_up.load(Ordering::Relaxed)
    }

    /// Tells of each answer.
    pub(super) fn answers(&self) -> watch::Receiver<(u64, u64)> {
        self.answered.subscribe()
    }
}

/// Starts the task that asks. It ends with the node.
pub(super) fn start(node: &Arc<Node>) {
    let (weak, shutdown) = (Arc::downgrade(node), node.shutdown.clone());
    let asked = node.registry.freshness.asked.subscribe();
    tasks::spawn("registry-freshness", async move {
        tokio::select! {
            () = answer_all(weak, asked) => {}
            () = shutdown.wait() => {}
        }
    });
}

async fn answer_all(weak: Weak<Node>, mut asked: watch::Receiver<u64>) {
    let mut answered = 0;
    loop {
        let Ok(count) = asked.wait_for(|count| *count > answered).await.map(|count| *count) else {
            return;
        };
        let Some(node) = Weak::upgrade(&weak) else { return };
        if node.answer(count).await {
            answered = count;
        } else {
            drop(node);
            tokio::time::sleep(Duration::from_millis(RENEWALS_LOOK_MS)).await;
        }
    }
}

/// Tests keep a node from knowing.
fn is_kept_from_it() -> bool {
    fail::fail_point!("registry::newest", |_| true);
    false
}

impl Node {
    /// Answers so many; whether it could.
    async fn answer(&self, count: u64) -> bool {
        let deadline = clock::now() + Duration::from_millis(WATCH_FRESH_MS);
        let Some(up_to) = self.newest_revision(deadline).await else { return false };
        let freshness = &self.registry.freshness;
        freshness.answered.send_replace((count, up_to));
        if !freshness.has_caught_up() {
            let mut revisions = self.registry.revisions();
            if revisions.wait_for(|revision| *revision >= up_to).await.is_ok() {
                freshness.caught_up.store(true, Ordering::Relaxed);
            }
        }
        true
    }

    /// Waits until this node knows what the hub knows now, for as long as who begins to watch may wait; up to which
    /// revision that is, if it could be told.
    pub(super) async fn catch_up_to(&self) -> Option<u64> {
        let deadline = clock::now() + Duration::from_millis(WATCH_FRESH_MS);
        let up_to = self.newest_revision(deadline).await?;
        let mut revisions = self.registry.revisions();
        let known = revisions.wait_for(|revision| *revision >= up_to);
        // Where it does not come in time, what is there may be old.
        drop(tokio::time::timeout_at(deadline.into(), known).await);
        Some(up_to)
    }

    /// The revision that the hub is at, be it known here or not; `None`: this node cannot tell in time.
    async fn newest_revision(&self, deadline: Instant) -> Option<u64> {
        if self.is_cut_off() {
            return None;
        }
        if is_kept_from_it() {
            tokio::time::sleep_until(deadline.into()).await;
            return None;
        }
        self.fresh(Consistency::Linearizable, deadline).await.ok()?;
        self.read(|db| newest(db)).await.ok()
    }
}

/// What is to be said of a service by a node that has not caught up since it started, and hears of a leader or not.
/// Another node may know better who is called; who is cut off goes on naming whom it knows.
pub(super) fn vouched<T>(found: Result<T, Rejection>, is_cut_off: bool) -> Result<T, Rejection> {
    let may_say = match &found {
        Ok(_) => is_cut_off,
        Err(refused) => !matches!(refused.reason, Reason::ServiceNotFound | Reason::NoInstance),
    };
    if may_say {
        return found;
    }
    let reason = if is_cut_off { Reason::NoQuorum } else { Reason::NoLeader };
    let text = "this node has not caught up with a leader since it started, and does not know yet who is called; ask another, or again";
    Err(Rejection::new(reason, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_not_caught_up_since_it_started_denies_nobody() {
        let refused = |reason| Err(Rejection::new(reason, "it is"));
        let said = |found: Result<(), Rejection>, is_cut_off| {
            vouched(found, is_cut_off).map_err(|refused| refused.reason)
        };
        for denied in [Reason::ServiceNotFound, Reason::NoInstance] {
            assert_eq!(said(refused(denied), false), Err(Reason::NoLeader));
            assert_eq!(said(refused(denied), true), Err(Reason::NoQuorum));
        }
        assert_eq!(said(refused(Reason::InvalidConfig), false), Err(Reason::InvalidConfig));
        // What it names may be long gone, but nobody knows better when there is no leader.
        assert_eq!((said(Ok(()), false), said(Ok(()), true)), (Err(Reason::NoLeader), Ok(())));
    }
}
