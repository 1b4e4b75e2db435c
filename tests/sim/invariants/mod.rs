//! What has to hold after every tick, whatever happens. One file each.

mod applied;
mod committed;
pub(crate) mod delivery;
mod durable;
mod election;
mod log_matching;
mod state_hash;
mod transactions;
mod vote;

use std::collections::BTreeMap;

use bytes::Bytes;
use message_hub::machine::record::{Kind, decode_message};
use message_hub::proto::peer;
use message_hub::raft::RaftStatus;
use message_hub::store::sim::watch::{self, What};

use crate::host;
use crate::shared::Shared;

/// An entry's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) term: u64,
    pub(crate) node: u64,
    pub(crate) index: u64,
}

/// A vote; larger ones win.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Vote {
    pub(crate) term: u64,
    pub(crate) node: u64,
    pub(crate) committed: bool,
}

/// An entry of a log.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) id: Id,
    pub(crate) checksum: u32,
}

/// Something that was seen of a node.
pub(crate) enum Seen<'s> {
    /// Its log was opened: its entries in order, and its vote.
    LogOpened(&'s [Entry], Option<Vote>),
    Appended(&'s Entry),
    /// Entries at and above are gone.
    Truncated(u64),
    /// Entries at and below are gone.
    Purged(u64),
    /// A vote was written.
    Voted(Vote),
    /// The state was opened (`true`) or written: the last entry in it, and its hash.
    State(Option<Id>, u128, bool),
    /// After a tick: what the node says, and the vote that it has promised to keep.
    Status(&'s RaftStatus, Option<Vote>),
}

/// Something that has to hold.
pub(crate) trait Invariant {
    fn see(&mut self, node: u64, seen: &Seen<'_>, logs: &Logs) -> Result<(), String>;
}

/// The log of each node as it is written, synced or not.
#[derive(Default)]
pub(crate) struct Logs(BTreeMap<u64, BTreeMap<u64, Entry>>);

impl Logs {
    pub(crate) fn of(&self, node: u64) -> Option<&BTreeMap<u64, Entry>> {
        self.0.get(&node)
    }

    fn see(&mut self, node: u64, seen: &Seen<'_>) {
        let log = self.0.entry(node).or_default();
        match seen {
            Seen::LogOpened(entries, _) => {
                *log = entries.iter().map(|e| (e.id.index, e.clone())).collect();
            }
            Seen::Appended(entry) => drop(log.insert(entry.id.index, (*entry).clone())),
            Seen::Truncated(from) => log.retain(|index, _| index < from),
            Seen::Purged(upto) => log.retain(|index, _| index > upto),
            Seen::Voted(_) | Seen::State(..) | Seen::Status(..) => {}
        }
    }
}

pub(crate) struct Invariants {
    logs: Logs,
    all: Vec<Box<dyn Invariant>>,
    delivery: delivery::Delivery,
    transactions: transactions::Transactions,
}

impl Default for Invariants {
    fn default() -> Self {
        Self {
            logs: Logs::default(),
            all: vec![
                Box::<election::Election>::default(),
                Box::<log_matching::LogMatching>::default(),
                Box::<committed::Committed>::default(),
                Box::<applied::Applied>::default(),
                Box::<state_hash::StateHash>::default(),
                Box::<vote::Monotonic>::default(),
                Box::<durable::Durable>::default(),
            ],
            delivery: delivery::Delivery::default(),
            transactions: transactions::Transactions::default(),
        }
    }
}

impl Invariants {
    /// Looks at what happened since the last tick, and at what is now.
    pub(crate) fn look(&mut self, shared: &Shared, nodes: &[u64]) -> Result<(), String> {
        for event in watch::take() {
            let node = host::of_path(&event.dir);
            self.event(shared, node, event.what)?;
        }
        for id in nodes {
            let Some(node) = shared.node(*id) else { continue };
            let promised = node.raft().promised_vote().map(|v| vote(&v));
            self.see(*id, &Seen::Status(&node.status(), promised))?;
            self.delivery.see(*id, &node)?;
            self.transactions.see(shared, *id, &node)?;
        }
        Ok(())
    }

    fn see(&mut self, node: u64, seen: &Seen<'_>) -> Result<(), String> {
        for invariant in &mut self.all {
            invariant
                .see(node, seen, &self.logs)
                .map_err(|wrong| format!("node {node}: {wrong}"))?;
        }
        self.logs.see(node, seen);
        Ok(())
    }

    fn event(&mut self, shared: &Shared, node: u64, what: What) -> Result<(), String> {
        let say = |what: String| shared.say(format!("disk of {node}"), what);
        match what {
            What::LogOpened { entries, meta } => {
                let entries: Vec<_> = entries.iter().map(|(_, row)| entry(row)).collect();
                let vote = meta.iter().find(|(name, _)| name == "vote");
                let vote = vote.map(|(_, row)| read_vote(row));
                let last = entries.last().map(|e| e.id);
                say(format!("log opened, last {last:?}, vote {vote:?}"));
                self.see(node, &Seen::LogOpened(&entries, vote))
            }
            What::Appended(_, row) => {
                let entry = entry(&row);
                say(format!("append {:?} {:08x}", entry.id, entry.checksum));
                self.see(node, &Seen::Appended(&entry))
            }
            What::Truncated(from) => {
                say(format!("truncate from {from}"));
                self.see(node, &Seen::Truncated(from.get()))
            }
            What::Purged(upto) => {
                say(format!("purge to {upto}"));
                self.see(node, &Seen::Purged(upto.get()))
            }
            What::Meta("vote", row) => {
                let vote = read_vote(&row);
                say(format!("{vote:?}"));
                self.see(node, &Seen::Voted(vote))
            }
            What::Meta(..) => Ok(()),
            What::Synced => {
                say("synced".to_owned());
                Ok(())
            }
            What::State { applied, hash, opened } => {
                let applied = applied.map(|row: Bytes| {
                    id(&decode_message(Kind::Applied, &row).expect("a record of what was applied"))
                });
                say(format!("state at {applied:?}: {hash:032x}, opened: {opened}"));
                self.see(node, &Seen::State(applied, hash, opened))
            }
        }
    }
}

fn id(id: &peer::LogId) -> Id {
    Id { term: id.term, node: id.node_id, index: id.index }
}

fn vote(vote: &peer::Vote) -> Vote {
    Vote { term: vote.term, node: vote.node_id, committed: vote.committed }
}

fn read_vote(row: &[u8]) -> Vote {
    vote(&decode_message(Kind::Vote, row).expect("a record of a vote"))
}

fn entry(row: &Bytes) -> Entry {
    let entry: peer::Entry = decode_message(Kind::LogEntry, row).expect("a record of an entry");
    Entry { id: id(&entry.log_id.expect("an entry has an id")), checksum: crc32c::crc32c(row) }
}
