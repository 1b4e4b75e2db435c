//! Hashes of the state, each at one applied entry, so that nodes can be compared.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};

use super::snapshot::Snapshots;
use crate::machine::verify;
use crate::model::ids::LogIndex;
use crate::model::limits::{VERIFY_RESULTS_KEPT, VERIFY_RUNNING_MAX};
use crate::runtime::fatal::FatalSender;
use crate::runtime::tasks;
use crate::store::state::StateDb;

/// The hash of the state after one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyResult {
    /// The entry.
    pub index: LogIndex,
    /// xxh3 over all rows of all tables.
    pub hash: u128,
    /// How many rows there are.
    pub rows: u64,
}

/// The last few results.
#[derive(Clone, Default)]
pub(super) struct Results {
    kept: Arc<Mutex<VecDeque<VerifyResult>>>,
    running: Arc<AtomicUsize>,
}

impl Results {
    pub(super) fn get(&self, index: LogIndex) -> Option<VerifyResult> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|result| result.index == index).copied()
    }

    fn add(&self, result: VerifyResult) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // A restart applies entries again.
        kept.retain(|other| other.index != result.index);
        kept.push_back(result);
        while kept.len() > VERIFY_RESULTS_KEPT {
            kept.pop_front();
        }
    }

    /// Hashes the state as it is now, on a thread of its own; returns as soon as that state is
    /// pinned, so that the next entry can be applied.
    pub(super) fn start(
        &self,
        index: LogIndex,
        db: StateDb,
        snapshots: Snapshots,
        fatal: FatalSender,
    ) {
        if self.running.fetch_add(1, Ordering::AcqRel) >= VERIFY_RUNNING_MAX {
            self.running.fetch_sub(1, Ordering::AcqRel);
            tracing::warn!(%index, "too many comparisons at once; this one is left out");
            return;
        }
        let (pinned, wait) = sync_channel(1);
        let results = self.clone();
        let installs = snapshots.installs();
        let hash = move || {
            let hashed = db.view_whole(|view| {
                let _ = pinned.send(());
                verify::hash(view)
            });
            match hashed {
                Ok((hash, rows)) => results.add(VerifyResult { index, hash, rows }),
                // The files of a state that was replaced are gone, and nobody asks for it any more.
                Err(fault) if snapshots.installs() != installs => {
                    tracing::info!(%index, %fault, "a comparison ended with its state");
                }
                Err(fault) => fatal.fail(format!("hash the state at {index}: {fault}")),
            }
            results.running.fetch_sub(1, Ordering::AcqRel);
        };
        if let Err(error) = tasks::thread("state-hash", hash) {
            self.running.fetch_sub(1, Ordering::AcqRel);
            tracing::warn!(%index, %error, "no thread for a comparison; it is left out");
            return;
        }
        // Fails only when the thread is gone, and then there is nothing to wait for.
        let _ = wait.recv();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_few_and_replaces_repetitions() {
        let results = Results::default();
        let first = VERIFY_RESULTS_KEPT as u64 + 1;
        for index in 0..=first {
            results.add(VerifyResult { index: LogIndex(index), hash: 0, rows: index });
        }
        results.add(VerifyResult { index: LogIndex(first), hash: 7, rows: 1 });
        assert_eq!(results.get(LogIndex(1)), None);
        assert_eq!(results.get(LogIndex(2)).map(|r| r.rows), Some(2));
        assert_eq!(results.get(LogIndex(first)).map(|r| r.hash), Some(7));
    }
}
