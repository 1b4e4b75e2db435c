//! The consensus library's own tests of a log and a state machine.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::raft::apply::{AppliedMark, Shared};
use crate::raft::log_store::LogStore;
use crate::raft::snapshot::Snapshots;
use crate::raft::state_machine::StateMachine;
use crate::raft::types::TypeConfig;
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
