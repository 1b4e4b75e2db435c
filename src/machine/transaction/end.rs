//! Ends of staged transactions: committed, aborted, or expired.

use super::record::{self, CommittedPart, PartRecord, TransactionRecord};
use super::{merge, transact};
use crate::machine::Fault;
use crate::machine::apply::Machine;
use crate::machine::delivery::timers::{self, Due};
use crate::machine::kv::{Kv, Table};
use crate::machine::schema::judged;
use crate::model::command::{AbortTransaction, CommitTransaction, StageTransaction};
use crate::model::ids::{TransactionId, UnixMs};
use crate::model::outcome::Outcome;
use crate::model::rejection::{Reason, Rejection};
use crate::model::transaction::TransactionState;

/// Does everything that was staged. A refused commit leaves the transaction open; a repeated one gets the
/// first answer.
pub(crate) fn commit<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: &CommitTransaction,
) -> Result<Outcome, Fault> {
    let id = TransactionId(command.id);
    if state(machine, id)? == Some(TransactionState::Committed) {
        return record::outcome(machine.overlay(), id);
    }
    let transaction = match record::open(machine, id)? {
        Ok(open) => open,
        Err(rejection) => return Ok(Outcome::Rejected(rejection)),
    };
    let stages = merge::staged(machine.overlay(), id)?;
    if let Some(rejection) = replaced(machine, &stages)? {
        return Ok(Outcome::Rejected(rejection.with("transaction", id)));
    }
    let mut whole = match merge::merge(stages) {
        Ok(whole) => whole,
        Err(rejection) => return Ok(Outcome::Rejected(rejection)),
    };
    if let Some(again) = &command.judged_again {
        if again.stages != transaction.stages {
            return Ok(Outcome::Rejected(judged::changed("a transaction that was added to")));
        }
        whole.parts.clone_from(&again.parts);
    }
    if let Some(rejection) = transact::refusal(machine, &whole)? {
        return Ok(Outcome::Rejected(rejection.with("transaction", id)));
    }
    let published = transact::perform(machine, &whole)?;
    let topics = whole.parts.into_iter().map(|part| part.topic);
    let parts = topics
        .zip(&published)
        .map(|(topic, published)| CommittedPart { topic, part: PartRecord::of(published) });
    let transaction = TransactionRecord { parts: parts.collect(), ..transaction };
    let mut info = end(machine, id, transaction, TransactionState::Committed).info(id);
    // The first answer tells duplicates as they are; what is read back from now on is a repetition.
    for ((_, told), published) in info.parts.iter_mut().zip(published) {
        *told = published;
    }
    Ok(Outcome::Transaction(Box::new(info)))
}

/// The refusal of what was staged for a topic in whose name there is another one by now. What is not there at all is
/// told with everything else that stands against a commit.
fn replaced<K: Kv>(
    machine: &mut Machine<'_, K>,
    stages: &[StageTransaction],
) -> Result<Option<Rejection>, Fault> {
    for stage in stages {
        for (part, staged_for) in stage.parts.iter().zip(&stage.topic_ids) {
            let name = &part.topic;
            let now = machine.topic(name)?.map(|topic| topic.topic_id().get());
            if now.is_some_and(|now| now != *staged_for) {
                let text = format!(
                    "topic {name} was deleted, and created anew, after this transaction had named it; abort the transaction and begin another one"
                );
                return Ok(Some(Rejection::new(Reason::TopicNotFound, text).with("topic", name)));
            }
        }
    }
    Ok(None)
}

/// Forgets what was staged. Nothing is left to abort of one that was aborted or has expired.
pub(crate) fn abort<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: &AbortTransaction,
) -> Result<Outcome, Fault> {
    let id = TransactionId(command.id);
    match state(machine, id)? {
        Some(TransactionState::Open) => {}
        Some(TransactionState::Committed) => {
            let text = format!("transaction {id} is committed already; it cannot be undone");
            let refused = Rejection::new(Reason::TransactionEnded, text);
            let refused = refused.with("transaction", id).with("state", "committed");
            return Ok(Outcome::Rejected(refused));
        }
        Some(TransactionState::Aborted | TransactionState::Expired) | None => {
            return record::outcome(machine.overlay(), id);
        }
    }
    if let Some(transaction) = record::get(machine.overlay(), id)? {
        end(machine, id, transaction, TransactionState::Aborted);
    }
    record::outcome(machine.overlay(), id)
}

/// A transaction's time is over. How many stages are dropped.
pub(crate) fn expire<K: Kv>(machine: &mut Machine<'_, K>, id: TransactionId) -> Result<u64, Fault> {
    let Some(transaction) = record::get(machine.overlay(), id)? else { return Ok(0) };
    let late = transaction.expires_at_ms <= machine.now().get();
    if !late || transaction.state() != TransactionState::Open {
        return Ok(0);
    }
    let stages = u64::from(transaction.stages);
    end(machine, id, transaction, TransactionState::Expired);
    Ok(stages)
}

fn state<K: Kv>(
    machine: &Machine<'_, K>,
    id: TransactionId,
) -> Result<Option<TransactionState>, Fault> {
    Ok(record::get(machine.overlay(), id)?.map(|record| record.state()))
}

/// Ends an open one: what was staged goes, how it ended stays for a day.
fn end<K: Kv>(
    machine: &mut Machine<'_, K>,
    id: TransactionId,
    mut transaction: TransactionRecord,
    state: TransactionState,
) -> TransactionRecord {
    timers::clear(machine, UnixMs(transaction.expires_at_ms), Due::Transaction(id));
    for number in 0..transaction.stages {
        machine.overlay_mut().delete(Table::Staged, record::staged_key(id, number));
    }
    let bytes = transaction.bytes;
    let meta = machine.meta_mut();
    meta.open_transactions = meta.open_transactions.saturating_sub(1);
    meta.staged_bytes = meta.staged_bytes.saturating_sub(bytes);
    transaction.set_state(state);
    transaction.ended_at_ms = machine.now().get();
    transaction.stages = 0;
    record::put(machine, id, &transaction);
    transaction
}
