//! What the databases did, for those who watch the simulation. Nothing in a node depends on it.

use std::cell::RefCell;
use std::path::PathBuf;

use bytes::Bytes;

use crate::model::ids::LogIndex;

/// Something that a database did.
#[derive(Clone, Debug)]
pub struct Event {
    /// The directory of the database.
    pub dir: PathBuf,
    /// What it did.
    pub what: What,
}

/// What a database did.
#[derive(Clone, Debug)]
pub enum What {
    /// The log was opened, with these entries and values.
    LogOpened {
        /// Records of entries.
        entries: Vec<(LogIndex, Bytes)>,
        /// Records of metadata.
        meta: Vec<(String, Vec<u8>)>,
    },
    /// An entry was appended.
    Appended(LogIndex, Bytes),
    /// The entries at and above an index were removed.
    Truncated(LogIndex),
    /// The entries at and below an index were removed.
    Purged(LogIndex),
    /// A value was set.
    Meta(&'static str, Vec<u8>),
    /// Everything that the log did before is durable.
    Synced,
    /// The state was opened, or written to: the row of what was applied last, and a hash over all
    /// rows.
    State {
        /// The record in the row; `None` in an empty state.
        applied: Option<Bytes>,
        /// XOR over hashes of all rows.
        hash: u128,
        /// Whether it was opened.
        opened: bool,
    },
}

thread_local! {
    static EVENTS: RefCell<Vec<Event>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn tell(dir: &std::path::Path, what: What) {
    EVENTS.with_borrow_mut(|events| events.push(Event { dir: dir.to_owned(), what }));
}

/// Takes what happened since the last time, in order.
#[must_use]
pub fn take() -> Vec<Event> {
    EVENTS.with_borrow_mut(std::mem::take)
}
