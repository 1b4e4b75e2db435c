//! The consensus library's own tests of a log and a state machine.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use openraft::storage::RaftLogStorageExt as _;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EntryPayload, StorageError};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::model::ids::LogIndex;
use crate::proto::peer;
use crate::raft::apply::{AppliedMark, Shared};
use crate::raft::codec::{entry_to_record, log_id_from_proto};
use crate::raft::hints::Hints;
use crate::raft::log_store::LogStore;
use crate::raft::snapshot::Snapshots;
use crate::raft::state_machine::StateMachine;
use crate::raft::types::{Entry, TypeConfig, Vote};
use crate::raft::verify;
use crate::runtime::fatal;
use crate::store::log_db::LogDb;
use crate::store::options::StoreOptions;
use crate::store::shard::ShardState;

struct Stores;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Stores {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let (fatal, _) = fatal::channel();
        let log = LogStore::open(LogDb::open(&dir.path().join("log")).unwrap(), 0).unwrap();
        let state = ShardState::open(&dir.path().join("state"), StoreOptions::default()).unwrap();
        let snapshots = Snapshots::open(dir.path().join("snapshots"), fatal.clone()).unwrap();
        let shared = Arc::new(Shared {
            applied: watch::Sender::new(AppliedMark::default()),
            hints: Hints::default(),
            found: LogIndex(0),
            verify: verify::Results::default(),
            bytes: AtomicU64::new(0),
            fatal,
        });
        let machine = StateMachine::start(state, log.clone(), snapshots, shared).unwrap();
        Ok((dir, log, machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn log_and_state_machine_keep_the_library_s_contract() {
    Suite::test_all(Stores).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_is_answered_after_the_disk_has_it_and_a_vote_too() {
    use openraft::storage::RaftLogStorage as _;
    let dir = tempfile::tempdir().unwrap();
    let db = LogDb::open(dir.path()).unwrap();
    let mut log = LogStore::open(db.clone(), 0).unwrap();
    for index in 0..5 {
        let log_id = log_id_from_proto(&peer::LogId { term: 1, node_id: 1, index });
        let before = db.wal_syncs();
        log.blocking_append([Entry { log_id, payload: EntryPayload::Blank }]).await.unwrap();
        assert!(db.wal_syncs() > before, "an append was answered without a sync");
        let before = db.wal_syncs();
        log.save_vote(&Vote::new(index + 1, 1)).await.unwrap();
        assert!(db.wal_syncs() > before, "a vote was answered without a sync");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_that_a_crash_cut_short_is_finished_at_the_next_start() {
    use openraft::storage::RaftLogStorage as _;
    let dir = tempfile::tempdir().unwrap();
    let db = LogDb::open(dir.path()).unwrap();
    let mut log = LogStore::open(db.clone(), 0).unwrap();
    let log_id = |index| log_id_from_proto(&peer::LogId { term: 1, node_id: 1, index });
    let entries: Vec<_> =
        (0..5).map(|index| Entry { log_id: log_id(index), payload: EntryPayload::Blank }).collect();
    log.blocking_append(entries.clone()).await.unwrap();
    log.purge(log_id(7)).await.unwrap();
    let row = |entry: &Entry| (LogIndex(entry.log_id.index), entry_to_record(entry));
    db.append(0, entries.iter().map(row), []).unwrap();
    drop(log);
    let mut log = LogStore::open(db.clone(), 0).unwrap();
    assert_eq!(db.first(0).unwrap(), None);
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(7)), Some(log_id(7))));
}
