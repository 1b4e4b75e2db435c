//! Leaders only append, and an entry is made by the leader that its id names.
//!
//! An id names a term and the node that stood for it; of two nodes that led under one number the
//! larger one wins. So an entry that a node takes over was in its maker's own log before.

use std::collections::{BTreeMap, BTreeSet};

use super::{Id, Invariant, Logs, Seen};

#[derive(Default)]
pub(crate) struct Election {
    /// How far each leader's own log reached when it was last seen to lead.
    last: BTreeMap<(u64, u64), u64>,
    /// Entries that their makers have written.
    made: BTreeSet<Id>,
}

impl Invariant for Election {
    fn see(&mut self, node: u64, seen: &Seen<'_>, _logs: &Logs) -> Result<(), String> {
        match seen {
            Seen::Status(status, _) if status.state == "leader" => {
                let last = self.last.entry((status.term, node)).or_default();
                if status.last_log_index.get() < *last {
                    return Err(format!(
                        "the leader of term {} had {last} entries, now {}",
                        status.term, status.last_log_index
                    ));
                }
                *last = status.last_log_index.get();
                Ok(())
            }
            Seen::Appended(entry) if entry.id.node == node => {
                self.made.insert(entry.id);
                Ok(())
            }
            // The entry that forms the cluster has no term.
            Seen::Appended(entry) if entry.id.term > 0 && !self.made.contains(&entry.id) => {
                Err(format!("{:?} was not made by its leader", entry.id))
            }
            _ => Ok(()),
        }
    }
}
