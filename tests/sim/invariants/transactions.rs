//! A transaction is seen whole or not at all: in the state of each node after each tick. What was not to be
//! done yet is not seen, nor what was refused or given up.

use std::collections::BTreeMap;
use std::sync::Arc;

use message_hub::model::ids::{LogIndex, Position};
use message_hub::node::Node;

use crate::events;
use crate::shared::Shared;

#[derive(Default)]
pub(crate) struct Transactions {
    /// How far each node was when it was looked at last, and up to where it was read.
    seen: BTreeMap<u64, (LogIndex, Position)>,
}

impl Transactions {
    pub(crate) fn see(&mut self, shared: &Shared, id: u64, node: &Arc<Node>) -> Result<(), String> {
        let applied = node.status().applied_index;
        let (seen, from) = self.seen.get(&id).copied().unwrap_or_default();
        if applied == seen {
            return Ok(());
        }
        // A node that has lost what was not flushed comes by the same events again.
        let found = node.raft().state().view(|view| events::since(view, from));
        let checked = found.and_then(|(events, next)| {
            self.seen.insert(id, (applied, next));
            shared.get().oracle.ledger.see(&events::ids(&events)?)
        });
        checked.map_err(|wrong| format!("node {id} at {applied}: {wrong}"))
    }
}
