//! State machine safety: what is decided stays, the same on every node.

use std::collections::BTreeMap;

use super::{Id, Invariant, Logs, Seen};

#[derive(Default)]
pub(crate) struct Committed {
    decided: BTreeMap<u64, Id>,
    /// How far each node was looked at.
    upto: BTreeMap<u64, u64>,
}

impl Committed {
    fn decide(&mut self, id: Id) -> Result<(), String> {
        match self.decided.insert(id.index, id) {
            Some(other) if other != id => Err(format!("{id:?} is decided, and so is {other:?}")),
            _ => Ok(()),
        }
    }
}

impl Invariant for Committed {
    fn see(&mut self, node: u64, seen: &Seen<'_>, logs: &Logs) -> Result<(), String> {
        match seen {
            Seen::LogOpened(..) => {
                self.upto.remove(&node);
                Ok(())
            }
            Seen::Truncated(from) => {
                let log = logs.of(node).into_iter().flatten();
                // What this node itself knew to be decided.
                let upto = self.upto.get(&node).copied().unwrap_or(0);
                let lost =
                    log.map(|(index, _)| *index).find(|index| index >= from && *index <= upto);
                match lost {
                    Some(lost) => Err(format!("entry {lost} was decided and is removed")),
                    None => Ok(()),
                }
            }
            Seen::State(Some(id), _, _) => self.decide(*id),
            Seen::Status(status, _) => {
                let Some(log) = logs.of(node) else { return Ok(()) };
                let after = self.upto.get(&node).copied().unwrap_or(0);
                let committed = status.committed_index.get();
                if committed <= after {
                    return Ok(());
                }
                for (_, entry) in log.range(after + 1..=committed) {
                    self.decide(entry.id)?;
                }
                self.upto.insert(node, committed);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
