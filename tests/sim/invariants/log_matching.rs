//! Log matching: entries with one id are one entry, with the same before it, in every log.

use std::collections::BTreeMap;

use super::{Entry, Id, Invariant, Logs, Seen};

#[derive(Default)]
pub(crate) struct LogMatching {
    /// Checksum, and the entry before, where that is known.
    known: BTreeMap<Id, (u32, Option<Id>)>,
}

impl LogMatching {
    fn take(&mut self, entry: &Entry, before: Option<Id>) -> Result<(), String> {
        if let Some(before) = before
            && (before.index + 1 != entry.id.index || before > entry.id)
        {
            return Err(format!("{:?} follows {before:?}", entry.id));
        }
        let known = self.known.entry(entry.id).or_insert((entry.checksum, before));
        if known.0 != entry.checksum {
            return Err(format!("{:?} is another entry than elsewhere", entry.id));
        }
        if known.1.is_some() && before.is_some() && known.1 != before {
            return Err(format!("{:?} follows {before:?}, elsewhere {:?}", entry.id, known.1));
        }
        known.1 = known.1.or(before);
        Ok(())
    }
}

impl Invariant for LogMatching {
    fn see(&mut self, node: u64, seen: &Seen<'_>, logs: &Logs) -> Result<(), String> {
        match seen {
            Seen::Appended(entry) => {
                let log = logs.of(node);
                let index = entry.id.index;
                let before = log.and_then(|log| log.get(&index.checked_sub(1)?)).map(|e| e.id);
                self.take(entry, before)
            }
            Seen::LogOpened(entries, _) => {
                let mut before = None;
                for entry in *entries {
                    self.take(entry, before)?;
                    before = Some(entry.id);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
