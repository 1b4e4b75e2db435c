//! Adding to a staged transaction.

use prost::Message as _;

use super::{merge, record};
use crate::machine::apply::Machine;
use crate::machine::kv::{Kv, Table};
use crate::machine::record::{Kind, encode_message};
use crate::machine::topic::record::not_found;
use crate::machine::{Fault, requests, subscription};
use crate::model::command::StageTransaction;
use crate::model::ids::TransactionId;
use crate::model::limits::{
    CALL_BYTES_MAX, TRANSACTION_OPERATIONS_MAX, TRANSACTIONS_STAGED_BYTES_MAX,
};
use crate::model::outcome::Outcome;
use crate::model::rejection::{Reason, Rejection};

pub(crate) fn apply<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: StageTransaction,
) -> Result<Outcome, Fault> {
    if let Some(first) = requests::first_answer(machine, &command.request_id)? {
        return Ok(first);
    }
    let id = TransactionId(command.id);
    let mut transaction = match record::open(machine, id)? {
        Ok(open) => open,
        Err(rejection) => return Ok(Outcome::Rejected(rejection)),
    };
    let request_id = command.request_id.clone();
    let mut command =
        StageTransaction { request_id: String::new(), topic_ids: Vec::new(), ..command };
    let bytes = command.encoded_len() as u64;
    let operations = operations(&command);
    transaction.operations = transaction.operations.saturating_add(operations);
    transaction.bytes += bytes;
    if let Some(rejection) = over(machine, &transaction, bytes) {
        return Ok(Outcome::Rejected(rejection));
    }
    command.topic_ids = match named(machine, &command)? {
        Ok(topic_ids) => topic_ids,
        Err(rejection) => return Ok(Outcome::Rejected(rejection)),
    };
    let row = encode_message(Kind::Stage, &command);
    let mut stages = merge::staged(machine.overlay(), id)?;
    stages.push(command);
    if let Err(rejection) = merge::merge(stages) {
        return Ok(Outcome::Rejected(rejection));
    }
    let key = record::staged_key(id, transaction.stages);
    machine.overlay_mut().put(Table::Staged, key, row);
    transaction.stages += 1;
    machine.meta_mut().staged_bytes += bytes;
    record::put(machine, id, &transaction);
    let outcome = Outcome::Transaction(Box::new(transaction.info(id)));
    requests::remember(machine, request_id, &outcome);
    Ok(outcome)
}

fn operations(command: &StageTransaction) -> u32 {
    let of_parts = command.parts.iter().map(|part| part.count as usize + part.expectations.len());
    let of_settles = command.settles.iter().map(|settle| settle.items.len());
    u32::try_from(of_parts.chain(of_settles).sum::<usize>()).unwrap_or(u32::MAX)
}

/// Which bound it would exceed.
fn over<K: Kv>(
    machine: &Machine<'_, K>,
    transaction: &record::TransactionRecord,
    new_bytes: u64,
) -> Option<Rejection> {
    let (operations, bytes) = (transaction.operations as usize, transaction.bytes);
    if operations > TRANSACTION_OPERATIONS_MAX {
        let text = format!(
            "the transaction would have {operations} events, expectations and settlements, {TRANSACTION_OPERATIONS_MAX} is the most; commit what it has, or abort it"
        );
        return Some(Rejection::new(Reason::InvalidRequest, text));
    }
    if bytes > CALL_BYTES_MAX as u64 {
        let text = format!(
            "the transaction would have {bytes} bytes, {CALL_BYTES_MAX} is the most; commit what it has, or abort it"
        );
        return Some(Rejection::new(Reason::CallTooLarge, text));
    }
    if machine.meta().staged_bytes + new_bytes > TRANSACTIONS_STAGED_BYTES_MAX {
        let text = format!(
            "all open transactions would have more than {TRANSACTIONS_STAGED_BYTES_MAX} bytes; commit or abort some, or wait until they expire"
        );
        return Some(Rejection::new(Reason::LimitReached, text));
    }
    None
}

/// The topics of its parts, by number; else which topic or subscription is not there.
fn named<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: &StageTransaction,
) -> Result<Result<Vec<u64>, Rejection>, Fault> {
    let mut topic_ids = Vec::with_capacity(command.parts.len());
    for part in &command.parts {
        let Some(topic) = machine.topic(&part.topic)? else {
            return Ok(Err(not_found(&part.topic)));
        };
        topic_ids.push(topic.topic_id().get());
    }
    for settle in &command.settles {
        let name = &settle.subscription;
        if subscription::record::get(machine.overlay(), name)?.is_none() {
            return Ok(Err(subscription::record::not_found(name)));
        }
    }
    Ok(Ok(topic_ids))
}
