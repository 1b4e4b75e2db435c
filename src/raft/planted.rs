//! What it takes to plant bugs in consensus. Not part of a release build.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use openraft::OptionalSend;
use openraft::base::BoxStream;
use openraft::raft::{AppendEntriesRequest, StreamAppendResult, VoteRequest, VoteResponse};
use prost::Message as _;

use super::network::RpcResult;
use super::types::{EntryData, TypeConfig};
use crate::machine::Fault;
use crate::machine::kv::{Table, Write};
use crate::model::command::CommandBatch;
use crate::model::outcome::Effect;
use crate::model::planted::{Bug, is};
use crate::runtime::clock;
use crate::store::state::StateDb;

/// How long a peer has to answer before it is taken to agree.
const PATIENCE: Duration = Duration::from_millis(150);
/// How long nothing else happens between two batches that should be one. It only makes a window
/// wider that would be there anyway.
const BETWEEN: Duration = Duration::from_millis(10);

/// Half a quorum: a vote that does not come is one for.
pub(super) fn granted(
    rpc: &VoteRequest<TypeConfig>,
    answer: RpcResult<VoteResponse<TypeConfig>>,
) -> RpcResult<VoteResponse<TypeConfig>> {
    if !is(Bug::HalfQuorum) {
        return answer;
    }
    answer.or(Ok(VoteResponse { vote: rpc.vote, vote_granted: true, last_log_id: None }))
}

/// Half a quorum: one append at a time; what is not answered counts as stored.
pub(super) fn agreed<'s, S, F>(
    input: S,
    ask: impl Fn(AppendEntriesRequest<TypeConfig>) -> F + Send + 's,
) -> BoxStream<'s, RpcResult<StreamAppendResult<TypeConfig>>>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    F: Future<Output = RpcResult<StreamAppendResult<TypeConfig>>> + Send + 's,
{
    stream::unfold((input, ask), async |(mut input, ask)| {
        let request = input.next().await?;
        let last = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
        let answer = match tokio::time::timeout(PATIENCE, ask(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Ok(last),
        };
        Some((Ok(answer), (input, ask)))
    })
    .boxed()
}

/// A clock in apply: the entry with this node's own time as its stamp.
pub(super) fn stamped_anew(entry: EntryData) -> EntryData {
    if !is(Bug::ClockInApply) {
        return entry;
    }
    let Ok(mut batch) = CommandBatch::decode(entry.0.clone()) else { return entry };
    batch.stamp_ms = clock::unix_ms().get();
    EntryData(Bytes::from(batch.encode_to_vec()))
}

/// Dead letters that are not written yet.
static HELD: Mutex<Vec<Write>> = Mutex::new(Vec::new());

/// Writes a part of a batch by itself; the rest is the caller's to write.
///
/// # Errors
/// When the disk fails.
pub(super) fn apart(
    db: &StateDb,
    mut writes: Vec<Write>,
    effects: &[Effect],
) -> Result<Vec<Write>, Fault> {
    if is(Bug::AppliedApart) {
        let of_raft = |write: &mut Write| matches!(write, Write::Put(Table::Raft, ..));
        db.write(writes.extract_if(.., of_raft).collect())?;
        std::thread::sleep(BETWEEN);
    }
    if is(Bug::LateDeadLetter) {
        let is_letter = |write: &mut Write| matches!(write, Write::Put(Table::DeadLetters, ..));
        let letters: Vec<Write> = writes.extract_if(.., is_letter).collect();
        // All nodes hash their states at the same entry, whatever they hold back.
        let hashed = effects.iter().any(|effect| matches!(effect, Effect::HashState(_)));
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        if !letters.is_empty() || hashed {
            db.write(std::mem::replace(&mut *held, letters))?;
        }
        if hashed {
            writes.append(&mut held);
        }
    }
    Ok(writes)
}

/// A snapshot that does not bring the producers.
///
/// # Errors
/// When the disk fails.
pub(super) fn installed(db: &StateDb) -> Result<(), Fault> {
    if !is(Bug::NoDeduplication) {
        return Ok(());
    }
    db.write(vec![Write::DeleteRange(Table::Producers, Vec::new(), vec![u8::MAX; 300])])
}
