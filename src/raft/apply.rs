//! The thread that applies committed entries: reads and writes of the database never run on the
//! threads that keep heartbeats going.
//!
//! Entries come in rounds. A round is one batch in the database, with the applied id among what the
//! entries changed; then the callers are answered.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use openraft::EntryPayload;
use openraft::storage::ApplyResponder;
use tokio::sync::{oneshot, watch};

use super::hints::Hints;
use super::rows;
use super::snapshot::Snapshots;
use super::types::{Entry, LogId, Reply, StoredMembership, TypeConfig};
use super::verify;
use crate::machine::apply::Machine;
use crate::machine::topic::heads::Heads;
use crate::machine::{Fault, query};
use crate::model::ids::{LogIndex, Position, UnixMs};
use crate::model::limits::DEAD_LETTERS_BURIED_BYTES;
use crate::model::outcome::{Effect, Outcome};
use crate::runtime::clock;
use crate::runtime::fatal::FatalSender;
use crate::runtime::worker::Worker;
use crate::store::shard::ShardState;

/// How far this node has applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppliedMark {
    /// The last entry applied.
    pub index: LogIndex,
    /// The next position to be given out.
    pub position: Position,
    /// The largest stamp seen.
    pub stamp: UnixMs,
    /// When this node last applied commands that were proposed since it started: what it finds in
    /// its log at the start tells nothing about now. `None`: never.
    pub stamped_at: Option<Instant>,
}

/// What the thread and the rest of the node share.
pub(super) struct Shared {
    pub(super) applied: watch::Sender<AppliedMark>,
    /// Something may be ready for a subscription.
    pub(super) hints: Hints,
    /// The last entry that was in the log when the node started.
    pub(super) found: LogIndex,
    pub(super) verify: verify::Results,
    /// Bytes of the entries that were applied since the start.
    pub(super) bytes: AtomicU64,
    pub(super) fatal: FatalSender,
}

/// An entry, and who waits for its outcome.
pub(super) type Waiting = (Entry, Option<ApplyResponder<TypeConfig>>);

struct Round {
    entries: Vec<Waiting>,
    done: oneshot::Sender<io::Result<()>>,
}

/// The way to the thread. Once it is dropped nobody writes to the state any more.
pub(super) struct Applier(Worker<Round>);

impl Applier {
    /// Starts the thread. It ends with this handle.
    pub(super) fn start(
        state: ShardState,
        snapshots: Snapshots,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let mut writer = Writer { state, snapshots, shared, heads: Heads::default() };
        // The caller has at most one round written while it gathers the next.
        Ok(Self(Worker::start("apply", 1, move |round, _| writer.run(round))?))
    }

    /// Hands a round over. At most one may be unfinished.
    pub(super) fn submit(
        &self,
        entries: Vec<Waiting>,
    ) -> io::Result<oneshot::Receiver<io::Result<()>>> {
        let (done, wait) = oneshot::channel();
        self.0.submit_now(Round { entries, done }).map_err(|_| gone())?;
        Ok(wait)
    }
}

/// The thread has ended, which it does only after a fault.
pub(super) fn gone() -> io::Error {
    io::Error::other("the apply thread is gone")
}

struct Writer {
    state: ShardState,
    snapshots: Snapshots,
    shared: Arc<Shared>,
    heads: Heads,
}

/// What one batch led to, before anybody hears of it.
#[derive(Default)]
struct Batch {
    replies: Vec<(ApplyResponder<TypeConfig>, Reply)>,
    effects: Vec<Effect>,
    membership: Option<StoredMembership>,
    last: Option<LogId>,
    bytes: u64,
    /// The last entry that had commands.
    commands_at: LogIndex,
}

impl Writer {
    fn run(&mut self, round: Round) -> ControlFlow<()> {
        let result = self.apply(round.entries);
        if let Err(fault) = &result {
            self.shared.fatal.fail(format!("apply committed entries: {fault}"));
        }
        let flow = if result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
        let _ = round.done.send(result.map_err(io::Error::other));
        flow
    }

    fn apply(&mut self, entries: Vec<Waiting>) -> Result<(), Fault> {
        let mut entries = entries.into_iter();
        while entries.len() > 0 {
            self.apply_batch(&mut entries)?;
        }
        Ok(())
    }

    /// Applies entries up to the end of the round, or to one that wants the state as it is after it, or by
    /// which there are many bytes to write for few in the log.
    fn apply_batch(&mut self, entries: &mut std::vec::IntoIter<Waiting>) -> Result<(), Fault> {
        let db = self.state.db();
        let tables = db.tables();
        let mut machine = Machine::load_with(&tables, std::mem::take(&mut self.heads))?;
        let mut batch = Batch::default();
        for (entry, responder) in entries {
            let outcomes = apply_entry(&mut machine, entry, &mut batch)?;
            if let Some(responder) = responder {
                batch.replies.push((responder, Reply::from(outcomes)));
            }
            let hashed = batch.effects.iter().any(|e| matches!(e, Effect::HashState(_)));
            if hashed || machine.letter_bytes() >= DEAD_LETTERS_BURIED_BYTES {
                break;
            }
        }
        let Some(last) = batch.last else { return Ok(()) };
        let (position, stamp) = (machine.next_position(), machine.now());
        let (mut writes, heads) = machine.finish();
        self.heads = heads;
        writes.push(rows::applied(&last));
        writes.extend(batch.membership.as_ref().map(rows::membership));
        fail::fail_point!("apply::before_write");
        #[cfg(feature = "planted")]
        let writes = super::planted::apart(&db, writes, &batch.effects)?;
        db.write(writes)?;
        fail::fail_point!("apply::after_write");
        self.shared.bytes.fetch_add(batch.bytes, Ordering::Relaxed);
        // Readers first: a caller that was answered may read at once, on this node too.
        let index = LogIndex(last.index);
        let is_new = batch.commands_at > self.shared.found;
        let stamped_at =
            if is_new { Some(clock::now()) } else { self.shared.applied.borrow().stamped_at };
        self.shared.applied.send_replace(AppliedMark { index, position, stamp, stamped_at });
        for (responder, reply) in batch.replies {
            responder.send(reply);
        }
        self.act_on(batch.effects);
        Ok(())
    }

    fn act_on(&self, effects: Vec<Effect>) {
        self.shared.hints.tell(&effects);
        for effect in effects {
            if let Effect::HashState(index) = effect {
                let (snapshots, fatal) = (self.snapshots.clone(), self.shared.fatal.clone());
                self.shared.verify.start(index, self.state.db(), snapshots, fatal);
            }
        }
    }
}

fn apply_entry<K: crate::machine::kv::Kv>(
    machine: &mut Machine<'_, K>,
    entry: Entry,
    batch: &mut Batch,
) -> Result<Vec<Outcome>, Fault> {
    batch.last = Some(entry.log_id);
    match entry.payload {
        EntryPayload::Blank => Ok(Vec::new()),
        EntryPayload::Normal(data) => {
            #[cfg(feature = "planted")]
            let data = super::planted::stamped_anew(data);
            batch.bytes += data.0.len() as u64;
            batch.commands_at = LogIndex(entry.log_id.index);
            let applied = machine.apply(LogIndex(entry.log_id.index), &data.0)?;
            batch.effects.extend(applied.effects);
            Ok(applied.outcomes)
        }
        EntryPayload::Membership(membership) => {
            if membership.get_joint_config().len() > 1 {
                fail::fail_point!("membership::joint");
            }
            batch.membership = Some(StoredMembership::new(Some(entry.log_id), membership));
            Ok(Vec::new())
        }
    }
}

/// How far a state has been applied.
pub(super) fn mark(state: &ShardState) -> Result<AppliedMark, Fault> {
    let db = state.db();
    let tables = db.tables();
    let index = LogIndex(rows::load(&tables)?.applied.map_or(0, |log_id| log_id.index));
    let (position, stamp) = (query::next_position(&tables)?, query::stamp(&tables)?);
    Ok(AppliedMark { index, position, stamp, stamped_at: None })
}
