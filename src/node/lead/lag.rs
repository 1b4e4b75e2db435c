//! Looking for subscriptions that lag: the leader tells when more waits for one than is usual, and
//! when that is over. It keeps in memory which ones it told of, so a new leader tells again.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::super::Node;
use crate::machine::subscription::backlog::{Walk, waiting_for_some};
use crate::model::command::{Kind, Notice, NoticeKind};
use crate::model::limits::{LAGGING_EVENTS, LAGGING_LOOK_MS, LAGGING_ROWS};
use crate::runtime::tasks;

/// Starts the task. It ends with the node.
pub(super) fn start(node: &Arc<Node>) {
    let weak = Arc::downgrade(node);
    let shutdown = node.shutdown.clone();
    tasks::spawn("lag", async move {
        let mut lagging = BTreeSet::new();
        loop {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(LAGGING_LOOK_MS)) => {}
                () = shutdown.wait() => return,
            }
            let Some(node) = Weak::upgrade(&weak) else { return };
            if node.raft.is_leader() {
                look(&node, &mut lagging).await;
            } else {
                lagging.clear();
            }
        }
    });
}

/// Looks at all subscriptions, a bounded bit per read, and tells of those that began or ceased to lag.
async fn look(node: &Node, lagging: &mut BTreeSet<String>) {
    let (mut walk, mut seen) = (Some(Walk::default()), BTreeSet::new());
    while let Some(from) = walk {
        let read = node.read(move |db| waiting_for_some(db, &from, LAGGING_ROWS)).await;
        let Ok((found, next)) = read else { return };
        walk = next;
        for (name, waiting) in found {
            seen.insert(name.clone());
            let Some(kind) = change(lagging.contains(&name), waiting) else { continue };
            match kind {
                NoticeKind::Lagging => drop(lagging.insert(name.clone())),
                _ => drop(lagging.remove(&name)),
            }
            let limit = String::new();
            let notice = Notice { about: name, kind: kind as i32, limit, value: waiting };
            if let Err(rejection) = node.execute(Kind::Notice(notice)).await {
                tracing::debug!(%rejection, "a subscription that lags is not told");
            }
        }
    }
    lagging.retain(|name| seen.contains(name));
}

/// What to tell of a subscription, by whether it lagged and how many events wait now.
fn change(lags: bool, waiting: u64) -> Option<NoticeKind> {
    match lags {
        false if waiting > LAGGING_EVENTS => Some(NoticeKind::Lagging),
        true if waiting < LAGGING_EVENTS / 2 => Some(NoticeKind::CaughtUp),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lags_is_told_once_until_it_is_over() {
        assert_eq!(change(false, LAGGING_EVENTS), None);
        assert_eq!(change(false, LAGGING_EVENTS + 1), Some(NoticeKind::Lagging));
        assert_eq!(change(true, LAGGING_EVENTS + 1), None);
        assert_eq!(change(true, LAGGING_EVENTS / 2), None);
        assert_eq!(change(true, LAGGING_EVENTS / 2 - 1), Some(NoticeKind::CaughtUp));
    }
}
