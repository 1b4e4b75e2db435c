//! What a follower has confirmed to a leader, it has for good: a crash takes nothing of it.

use std::collections::BTreeMap;

use super::{Id, Invariant, Logs, Seen};

#[derive(Default)]
pub(crate) struct Durable {
    /// Entries that a node has confirmed, as a leader knows.
    confirmed: BTreeMap<u64, BTreeMap<u64, Id>>,
}

impl Invariant for Durable {
    fn see(&mut self, node: u64, seen: &Seen<'_>, logs: &Logs) -> Result<(), String> {
        match seen {
            Seen::Status(status, _) if status.state == "leader" => {
                let Some(leader) = logs.of(node) else { return Ok(()) };
                for member in status.members.iter().filter(|m| m.node_id.get() != node) {
                    let Some(matched) = member.matched_index else { continue };
                    let Some(entry) = leader.get(&matched.get()) else { continue };
                    let confirmed = self.confirmed.entry(member.node_id.get()).or_default();
                    confirmed.insert(entry.id.index, entry.id);
                }
                Ok(())
            }
            // Entries that were never decided may be replaced, and decided ones be purged.
            Seen::Truncated(from) => {
                self.confirmed.entry(node).or_default().retain(|index, _| index < from);
                Ok(())
            }
            Seen::Purged(upto) => {
                self.confirmed.entry(node).or_default().retain(|index, _| index > upto);
                Ok(())
            }
            Seen::LogOpened(entries, _) => {
                let found: BTreeMap<u64, Id> = entries.iter().map(|e| (e.id.index, e.id)).collect();
                let first = found.keys().next().copied().unwrap_or(u64::MAX);
                let confirmed = self.confirmed.entry(node).or_default();
                let lost = confirmed.iter().find(|(index, id)| {
                    // Below the first is what was purged, or was on its way to be.
                    **index >= first && found.get(index) != Some(id)
                });
                match lost {
                    Some((_, id)) => Err(format!("{id:?} was confirmed, and a crash took it")),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}
