//! A node applies what is decided, in order, and nothing else.

use std::collections::BTreeMap;

use super::{Invariant, Logs, Seen};

#[derive(Default)]
pub(crate) struct Applied(BTreeMap<u64, u64>);

impl Invariant for Applied {
    fn see(&mut self, node: u64, seen: &Seen<'_>, _logs: &Logs) -> Result<(), String> {
        match seen {
            Seen::State(applied, _, opened) => {
                let index = applied.map_or(0, |id| id.index);
                let before = self.0.insert(node, index).unwrap_or(0);
                if !opened && index < before {
                    return Err(format!("it has applied {before}, and then {index}"));
                }
                Ok(())
            }
            Seen::Status(status, _) if status.applied_index > status.committed_index => {
                Err(format!(
                    "it has applied {}, and {} is decided",
                    status.applied_index, status.committed_index
                ))
            }
            _ => Ok(()),
        }
    }
}
