//! Notes to the leader: what a node saw, told at most once, opaque to this room. They may be lost;
//! whoever sends one sends another when it matters.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::RaftNode;
use super::peers::Lane;
use crate::model::ids::NodeId;
use crate::model::limits::NOTES_QUEUE_MAX;
use crate::proto::peer::TellRequest;

/// How long telling a note may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a node told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Who.
    pub from: NodeId,
    /// What.
    pub body: Bytes,
}

/// Where notes arrive.
#[derive(Clone)]
pub(super) struct Notes {
    inbox: mpsc::Sender<Note>,
    outlet: Arc<Mutex<Option<mpsc::Receiver<Note>>>>,
}

impl Default for Notes {
    fn default() -> Self {
        let (inbox, outlet) = mpsc::channel(NOTES_QUEUE_MAX);
        Self { inbox, outlet: Arc::new(Mutex::new(Some(outlet))) }
    }
}

impl Notes {
    /// Takes a note; `false`: too many wait.
    pub(super) fn take(&self, note: Note) -> bool {
        self.inbox.try_send(note).is_ok()
    }
}

impl RaftNode {
    /// The notes that come to this node; to be taken once.
    #[must_use]
    pub fn notes(&self) -> Option<mpsc::Receiver<Note>> {
        self.core().notes.outlet.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Tells the leader something, be it this node or another one; whether it took it.
    pub async fn tell_leader(&self, body: Bytes) -> bool {
        let core = self.core();
        let (this, leader, node) = {
            let metrics = core.raft.metrics();
            let metrics = metrics.borrow_watched();
            let Some(leader) = metrics.current_leader else { return false };
            let node = metrics.membership_config.get_node(&leader).cloned();
            (core.identity.node_id, NodeId(leader), node)
        };
        if this == leader {
            return core.notes.take(Note { from: this, body });
        }
        let client = node.and_then(|node| core.peers.client(leader, &node, Lane::Control).ok());
        let Some(mut client) = client else { return false };
        let request = TellRequest { envelope: Some(core.identity.envelope(leader)), body };
        matches!(timeout(PATIENCE, client.tell(request)).await, Ok(Ok(_)))
    }
}
