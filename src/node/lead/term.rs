//! A new leader announces itself before it grants any lease, so that leases of earlier leaders are
//! honoured a little longer and nobody else grants any more.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::super::Node;
use crate::model::command::{Kind, NewLeader};
use crate::model::ids::Term;
use crate::runtime::tasks;

/// The pause before an announcement that failed is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Starts the task. It ends with the node.
pub(super) fn start(node: &Arc<Node>) {
    let weak = Arc::downgrade(node);
    let mut leadership = node.raft.leadership();
    let shutdown = node.shutdown.clone();
    tasks::spawn("term", async move {
        let mut done = None;
        loop {
            let term = leadership.term();
            if term != done {
                done = announce(&weak, term).await;
            }
            let again = async {
                match done == term {
                    true => std::future::pending().await,
                    false => tokio::time::sleep(AGAIN_AFTER).await,
                }
            };
            tokio::select! {
                changed = leadership.changed() => if changed.is_err() { return },
                () = again => {}
                () = shutdown.wait() => return,
            }
        }
    });
}

/// Announces a term, or that there is none; what is announced then.
async fn announce(node: &Weak<Node>, term: Option<Term>) -> Option<Term> {
    let node = node.upgrade()?;
    let mut announced = None;
    if let Some(term) = term {
        node.lead.announced.send_replace(None);
        let command = NewLeader { term: term.get(), grace_ms: node.lead.grace_ms };
        match node.execute(Kind::NewLeader(command)).await {
            Ok(_) => announced = Some(term),
            Err(rejection) => tracing::debug!(%rejection, %term, "the term is not announced yet"),
        }
    }
    node.lead.announced.send_replace(announced);
    announced
}
