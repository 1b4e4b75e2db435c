//! How services stand, as the leader tells it: a task of its own, as looking at all of them may take longer than
//! a leader may leave renewals alone.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::machine::registry::standing;
use crate::model::command::Kind;
use crate::model::ids::UnixMs;
use crate::model::limits::{RENEWALS_LOOK_MS, STANDINGS_LOOK_MS, STANDINGS_TOLD_MAX};
use crate::node::Node;
use crate::runtime::{clock, tasks};

/// Starts the task. It ends with the node.
pub(super) fn start(node: &Arc<Node>) {
    let weak = Arc::downgrade(node);
    let mut revisions = node.registry.revisions();
    let announced = node.lead.announced();
    let shutdown = node.shutdown.clone();
    tasks::spawn("standings", async move {
        let mut looks = tokio::time::interval(Duration::from_millis(RENEWALS_LOOK_MS));
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut standings = Standings::default();
        loop {
            let Some(node) = Weak::upgrade(&weak) else { return };
            let leads = announced.borrow().is_some();
            if leads {
                standings.look(&node).await;
            } else {
                standings = Standings::default();
            }
            drop(node);
            tokio::select! {
                changed = revisions.changed() => if changed.is_err() { return },
                _ = looks.tick() => {}
                () = shutdown.wait() => return,
            }
        }
    });
}

/// What the leader looked at of how services stand.
#[derive(Default)]
struct Standings {
    /// The revision that was looked at, without anything being left to tell.
    revision: Option<u64>,
    /// When time alone changes something.
    next: Option<UnixMs>,
    looked_at: Option<Instant>,
}

impl Standings {
    /// Tells the state who became ready or ceased to be, and who is called in whose place.
    async fn look(&mut self, node: &Node) {
        let (revision, now) = (node.registry.view.revision(), node.now());
        let is_due = self.next.is_some_and(|next| next <= now);
        let rest = Duration::from_millis(STANDINGS_LOOK_MS);
        let rests = self.looked_at.is_some_and(|at| clock::now() - at < rest);
        if rests || (self.revision == Some(revision) && !is_due) {
            return;
        }
        self.looked_at = Some(clock::now());
        // A node that cannot read its state stops.
        let Ok((news, next)) = node
            .read(move |db| {
                fail::fail_point!("registry::standings");
                standing::news(db, now)
            })
            .await
        else {
            return;
        };
        (self.revision, self.next) = (Some(revision), next);
        if news.len() > STANDINGS_TOLD_MAX {
            self.revision = None;
        }
        let some = news.into_iter().take(STANDINGS_TOLD_MAX);
        let told = some.map(|notice| node.execute(Kind::Notice(notice)));
        for refused in join_all(told).await.into_iter().filter_map(Result::err) {
            tracing::debug!(rejection = %refused, "how a service stands is not told yet");
            self.revision = None;
        }
    }
}
