//! The newest log entries, in memory: replication and apply read them here, not from disk.

use std::collections::VecDeque;

use openraft::EntryPayload;

use super::types::Entry;
use crate::model::limits::LOG_TAIL_BYTES_MAX;

/// A contiguous run of entries that ends with the last one of the log; bounded in bytes.
#[derive(Debug, Default)]
pub(super) struct Tail {
    entries: VecDeque<Entry>,
    bytes: usize,
}

/// What an entry takes, about.
pub(super) fn size(entry: &Entry) -> usize {
    64 + match &entry.payload {
        EntryPayload::Normal(data) => data.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    }
}

impl Tail {
    /// Appends an entry; older ones go when the bound is reached.
    pub(super) fn push(&mut self, entry: Entry) {
        if self.entries.back().is_some_and(|last| last.log_id.index + 1 != entry.log_id.index) {
            self.clear();
        }
        self.bytes += size(&entry);
        self.entries.push_back(entry);
        while self.bytes > LOG_TAIL_BYTES_MAX && self.entries.len() > 1 {
            self.pop_front();
        }
    }

    /// Removes the entries at and above an index.
    pub(super) fn truncate_from(&mut self, index: u64) {
        while let Some(last) = self.entries.back().filter(|e| e.log_id.index >= index) {
            self.bytes -= size(last);
            self.entries.pop_back();
        }
    }

    /// Removes the entries at and below an index.
    pub(super) fn purge_to(&mut self, index: u64) {
        while self.entries.front().is_some_and(|e| e.log_id.index <= index) {
            self.pop_front();
        }
    }

    /// The entries of `start..end` up to a number of bytes, at least one; `None` when the first of
    /// them is not here.
    pub(super) fn read(&self, start: u64, end: u64, bytes_max: usize) -> Option<Vec<Entry>> {
        let first = self.entries.front()?.log_id.index;
        let skip = usize::try_from(start.checked_sub(first)?).ok()?;
        if skip >= self.entries.len() {
            return None;
        }
        let mut bytes = 0;
        let entries = self.entries.range(skip..).take_while(|entry| {
            let fits = bytes == 0 || bytes + size(entry) <= bytes_max;
            bytes += size(entry);
            fits && entry.log_id.index < end
        });
        Some(entries.cloned().collect())
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    fn pop_front(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= size(&entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::proto::peer;
    use crate::raft::codec::log_id_from_proto;
    use crate::raft::types::EntryData;

    fn entry(index: u64, bytes: usize) -> Entry {
        let log_id = log_id_from_proto(&peer::LogId { term: 1, node_id: 1, index });
        Entry { log_id, payload: EntryPayload::Normal(EntryData(Bytes::from(vec![0; bytes]))) }
    }

    fn indices(entries: Option<Vec<Entry>>) -> Option<Vec<u64>> {
        entries.map(|entries| entries.iter().map(|e| e.log_id.index).collect())
    }

    #[test]
    fn reads_are_bounded_and_never_empty() {
        let mut tail = Tail::default();
        (5..10).for_each(|n| tail.push(entry(n, 1000)));
        assert_eq!(indices(tail.read(6, 9, 1)), Some(vec![6]));
        assert_eq!(indices(tail.read(6, 9, 2200)), Some(vec![6, 7]));
        assert_eq!(indices(tail.read(6, 9, 1 << 20)), Some(vec![6, 7, 8]));
        assert_eq!(indices(tail.read(4, 9, 1)), None);
        assert_eq!(indices(tail.read(10, 12, 1)), None);
        tail.truncate_from(8);
        tail.purge_to(5);
        assert_eq!(indices(tail.read(6, 99, 1 << 20)), Some(vec![6, 7]));
        assert_eq!(indices(tail.read(5, 99, 1 << 20)), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut tail = Tail::default();
        (0..100).for_each(|n| tail.push(entry(n, LOG_TAIL_BYTES_MAX / 10)));
        assert!(tail.bytes <= LOG_TAIL_BYTES_MAX && tail.entries.len() < 10);
        (200..203).for_each(|n| tail.push(entry(n, 10)));
        assert_eq!(indices(tail.read(200, 300, 1 << 20)), Some(vec![200, 201, 202]));
        assert_eq!(tail.bytes, 3 * 74);
    }
}
