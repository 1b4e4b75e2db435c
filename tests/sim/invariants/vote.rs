//! Votes never go back, not even by a crash.

use std::collections::BTreeMap;

use super::{Invariant, Logs, Seen, Vote};

#[derive(Default)]
pub(crate) struct Monotonic {
    written: BTreeMap<u64, Vote>,
    promised: BTreeMap<u64, Vote>,
}

impl Invariant for Monotonic {
    fn see(&mut self, node: u64, seen: &Seen<'_>, _logs: &Logs) -> Result<(), String> {
        match seen {
            Seen::Voted(vote) => match self.written.insert(node, *vote) {
                Some(before) if before > *vote => Err(format!("{vote:?} comes after {before:?}")),
                _ => Ok(()),
            },
            Seen::LogOpened(_, vote) => {
                let promised = self.promised.get(&node).copied();
                if *vote < promised {
                    return Err(format!(
                        "it had promised {promised:?}, and comes back with {vote:?}"
                    ));
                }
                match vote {
                    Some(vote) => drop(self.written.insert(node, *vote)),
                    None => drop(self.written.remove(&node)),
                }
                Ok(())
            }
            Seen::Status(_, Some(vote)) => {
                self.promised.insert(node, *vote);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
