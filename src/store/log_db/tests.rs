use std::fs;
use std::path::PathBuf;

use super::*;

const ENTRIES_SYNCED: u64 = 40;

fn entry(index: u64) -> (LogIndex, Bytes) {
    // Longer than a block of the write-ahead log in all, so that records span blocks.
    (LogIndex(index), Bytes::from(vec![index.to_le_bytes()[0]; 1500]))
}

/// A log with synced entries and a synced vote.
fn written(dir: &Path) -> LogDb {
    let log = LogDb::open(dir).unwrap();
    for index in 0..ENTRIES_SYNCED {
        log.append(0, [entry(index)]).unwrap();
        // On to files that were used before.
        if index == 10 || index == 15 || index == 20 {
            log.0.db.flush_cf(log.family(ENTRIES).unwrap()).unwrap();
        }
    }
    log.put_meta(0, "vote", b"for two").unwrap();
    log.sync().unwrap();
    log
}

fn wal(dir: &Path) -> PathBuf {
    let logs = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    logs.filter(|p| p.extension().is_some_and(|e| e == "log")).max().unwrap()
}

/// What the disk holds at this moment, as a crash of the process would leave it.
fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.path().join(file.file_name())).unwrap();
    }
    to
}

/// The number of entries, when nothing that was synced is missing or changed.
fn intact(log: &LogDb) -> Option<u64> {
    let rows = log.read(0, LogIndex(0)..LogIndex(u64::MAX), usize::MAX).ok()?;
    let right = (0..).zip(&rows).all(|(index, row)| *row == entry(index));
    let vote = log.get_meta(0, "vote").ok()??;
    (right && rows.len() as u64 >= ENTRIES_SYNCED && vote == b"for two")
        .then_some(rows.len() as u64)
}

#[test]
fn what_was_not_synced_may_be_lost_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let log = written(dir.path());
    let synced_bytes = fs::metadata(wal(dir.path())).unwrap().len();
    log.append(0, (0..3).map(|n| entry(ENTRIES_SYNCED + n))).unwrap();
    let all_bytes = fs::metadata(wal(dir.path())).unwrap().len();
    assert!(all_bytes > synced_bytes + 4000);
    for kept in (synced_bytes..=all_bytes).step_by(331).chain([all_bytes]) {
        let crashed = copy(dir.path());
        let file = fs::File::options().write(true).open(wal(crashed.path())).unwrap();
        file.set_len(kept).unwrap();
        drop(file);
        let log = LogDb::open(crashed.path()).unwrap();
        // A torn append is gone as a whole.
        let expected = ENTRIES_SYNCED + if kept == all_bytes { 3 } else { 0 };
        assert_eq!(intact(&log), Some(expected), "{kept} of {all_bytes} bytes");
        log.append(0, [entry(expected)]).unwrap();
        log.sync().unwrap();
        assert_eq!(intact(&log), Some(expected + 1));
    }
}

#[test]
fn a_log_that_lost_what_was_synced_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(written(dir.path()));
    let bytes = fs::metadata(wal(dir.path())).unwrap().len();
    for kept in [0, bytes / 2, bytes - 20, bytes - 1] {
        let cut = copy(dir.path());
        fs::File::options().write(true).open(wal(cut.path())).unwrap().set_len(kept).unwrap();
        match LogDb::open(cut.path()) {
            Err(refused) => assert!(refused.to_string().contains("raft log"), "{refused}"),
            Ok(log) => panic!("{kept} of {bytes} bytes give {:?} entries", intact(&log)),
        }
    }
    let without = copy(dir.path());
    fs::remove_file(wal(without.path())).unwrap();
    assert!(LogDb::open(without.path()).is_err());
}

#[test]
fn a_flipped_bit_in_what_was_synced_never_shortens_or_changes_the_log() {
    let dir = tempfile::tempdir().unwrap();
    drop(written(dir.path()));
    let bytes = usize::try_from(fs::metadata(wal(dir.path())).unwrap().len()).unwrap();
    // Spread over the file, and all of the last record: its header can make it look cut off.
    let places = (0..bytes).step_by(997).chain(bytes - 50..bytes);
    let mut refused = 0;
    for place in places {
        let damaged = copy(dir.path());
        let mut content = fs::read(wal(damaged.path())).unwrap();
        content[place] ^= 1 << (place % 8);
        fs::write(wal(damaged.path()), content).unwrap();
        match LogDb::open(damaged.path()) {
            Err(_) => refused += 1,
            Ok(log) => assert!(intact(&log).is_some(), "byte {place} of {bytes}"),
        }
    }
    assert!(refused > 50, "hardly any flip was noticed: {refused}");
}

#[test]
fn a_flipped_bit_in_a_table_file_is_an_error_of_the_read() {
    let dir = tempfile::tempdir().unwrap();
    let log = written(dir.path());
    log.0.db.flush_cf(log.family(ENTRIES).unwrap()).unwrap();
    drop(log);
    let tables = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path());
    let table = tables.filter(|p| p.extension().is_some_and(|e| e == "sst")).max().unwrap();
    let mut content = fs::read(&table).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 4;
    fs::write(&table, content).unwrap();
    let read = LogDb::open(dir.path())
        .and_then(|log| log.read(0, LogIndex(0)..LogIndex(u64::MAX), usize::MAX));
    assert!(read.is_err(), "{} entries", read.unwrap().len());
}

#[test]
fn a_sync_reaches_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let log = LogDb::open(dir.path()).unwrap();
    for index in 0..5 {
        log.append(0, [entry(index)]).unwrap();
        let before = log.wal_syncs();
        log.sync().unwrap();
        assert_eq!(log.wal_syncs(), before + 1);
    }
}
