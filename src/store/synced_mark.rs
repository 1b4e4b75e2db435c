//! How far a database's write-ahead log was synced, kept outside of that log.
//!
//! A write-ahead log cannot tell a record that a crash cut off from one whose length was damaged
//! later: both look like its end. What was synced must not end so silently. The mark is the
//! database's sequence number at its last sync; a database that comes up with less has lost what it
//! had promised.
//!
//! The mark itself is written after each sync and not synced: what a crash leaves of it is some
//! earlier mark, and so a lower bound.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use bytes::Bytes;

use super::{files, local_record};
use crate::machine::record::{Kind, OVERHEAD};

const NAME: &str = "synced";
const BYTES: usize = OVERHEAD + 8;

#[derive(serde::Serialize, serde::Deserialize)]
struct Synced {
    sequence: u64,
}

/// The mark of one database.
#[derive(Debug)]
pub(super) struct SyncedMark(File);

impl SyncedMark {
    /// Opens the mark in a database's directory, or makes it for one that does not exist yet.
    ///
    /// # Errors
    /// When the disk fails, or the mark of an existing database is missing or damaged.
    pub(super) fn open(dir: &Path, database: Existence) -> io::Result<Self> {
        let path = dir.join(NAME);
        if database == Existence::New {
            std::fs::create_dir_all(dir)?;
            files::replace(&path, &encode(0))?;
        }
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })?;
        let mark = Self(file);
        mark.read()?;
        Ok(mark)
    }

    /// The sequence number of the last sync, or of an earlier one.
    pub(super) fn read(&self) -> io::Result<u64> {
        let mut stored = [0; BYTES];
        self.0.read_exact_at(&mut stored, 0)?;
        let synced: Synced =
            local_record::decode(Kind::SyncedMark, &stored).map_err(io::Error::other)?;
        Ok(synced.sequence)
    }

    /// Takes note of a sync.
    pub(super) fn write(&self, sequence: u64) -> io::Result<()> {
        self.0.write_all_at(&encode(sequence), 0)
    }
}

/// Whether a database is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Existence {
    New,
    Exists,
}

fn encode(sequence: u64) -> Bytes {
    local_record::encode(Kind::SyncedMark, &Synced { sequence })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_kept_and_a_missing_or_damaged_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        assert!(SyncedMark::open(dir.path(), Existence::Exists).is_err());
        let mark = SyncedMark::open(dir.path(), Existence::New).unwrap();
        assert_eq!(encode(1)[..10], [38, 1, 1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(mark.read().unwrap(), 0);
        mark.write(77).unwrap();
        drop(mark);
        assert_eq!(SyncedMark::open(dir.path(), Existence::Exists).unwrap().read().unwrap(), 77);
        for at in 0..BYTES {
            let mut damaged = encode(77).to_vec();
            damaged[at] ^= 1;
            std::fs::write(&path, damaged).unwrap();
            assert!(SyncedMark::open(dir.path(), Existence::Exists).is_err(), "byte {at}");
        }
        std::fs::write(&path, &encode(77)[..BYTES - 1]).unwrap();
        assert!(SyncedMark::open(dir.path(), Existence::Exists).is_err());
    }
}
