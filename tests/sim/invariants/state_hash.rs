//! States after one entry are equal: on every node, and when it is applied again.

use std::collections::BTreeMap;

use super::{Id, Invariant, Logs, Seen};

#[derive(Default)]
pub(crate) struct StateHash(BTreeMap<Id, u128>);

impl Invariant for StateHash {
    fn see(&mut self, _node: u64, seen: &Seen<'_>, _logs: &Logs) -> Result<(), String> {
        let Seen::State(Some(id), hash, _) = seen else { return Ok(()) };
        match self.0.insert(*id, *hash) {
            Some(other) if other != *hash => {
                Err(format!("the state after {id:?} is {hash:032x}, elsewhere {other:032x}"))
            }
            _ => Ok(()),
        }
    }
}
