//! What a follower has confirmed to a leader, it has for good: a crash takes nothing of it, neither
//! from the log nor from the state that was built from it.

use std::collections::BTreeMap;

use super::{Id, Invariant, Logs, Seen, Vote};

#[derive(Default)]
pub(crate) struct Durable(BTreeMap<u64, Disk>);

/// What is known of one node's disk.
#[derive(Default)]
struct Disk {
    /// Entries that the node has confirmed, as a leader knows.
    confirmed: BTreeMap<u64, Id>,
    /// Those that its log came up without.
    missing: Vec<Id>,
    /// How far its state reached when that was opened last.
    state: u64,
}

impl Durable {
    fn of(&mut self, node: u64) -> &mut Disk {
        self.0.entry(node).or_default()
    }
}

impl Invariant for Durable {
    fn see(&mut self, node: u64, seen: &Seen<'_>, logs: &Logs) -> Result<(), String> {
        match seen {
            Seen::LogOpened(entries, _) => {
                let found: BTreeMap<u64, Id> = entries.iter().map(|e| (e.id.index, e.id)).collect();
                let disk = self.of(node);
                let missing = |(index, id): &(&u64, &Id)| found.get(*index) != Some(*id);
                disk.missing = disk.confirmed.iter().filter(missing).map(|(_, id)| *id).collect();
            }
            Seen::State(applied, _, true) => {
                self.of(node).state = applied.map_or(0, |id| id.index);
            }
            // Entries that were never decided may be replaced.
            Seen::Truncated(from) => self.of(node).confirmed.retain(|index, _| index < from),
            Seen::Status(status, vote) => {
                // It runs: its state is open, and a snapshot where it took that for the state.
                let disk = self.of(node);
                let state = disk.state;
                if let Some(id) = disk.missing.drain(..).find(|id| id.index > state) {
                    return Err(format!("{id:?} was confirmed, and a crash took it"));
                }
                // One who was deposed may not know yet; what it has now is not what it led with.
                let leads = Vote { term: status.term, node, committed: true };
                let Some(leader) = logs.of(node) else { return Ok(()) };
                if status.state != "leader" || *vote != Some(leads) {
                    return Ok(());
                }
                for member in status.members.iter().filter(|m| m.node_id.get() != node) {
                    let Some(matched) = member.matched_index else { continue };
                    let Some(entry) = leader.get(&matched.get()) else { continue };
                    let disk = self.of(member.node_id.get());
                    disk.confirmed.insert(entry.id.index, entry.id);
                }
            }
            _ => {}
        }
        Ok(())
    }
}
