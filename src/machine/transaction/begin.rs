//! Beginning a staged transaction.

use super::record::{self, TransactionRecord};
use crate::machine::apply::Machine;
use crate::machine::delivery::timers::{self, Due};
use crate::machine::kv::Kv;
use crate::machine::{Fault, requests};
use crate::model::command::BeginTransaction;
use crate::model::ids::{TransactionId, UnixMs};
use crate::model::limits::TRANSACTIONS_OPEN_MAX;
use crate::model::outcome::Outcome;
use crate::model::rejection::{Reason, Rejection};

pub(crate) fn apply<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: BeginTransaction,
) -> Result<Outcome, Fault> {
    if let Some(first) = requests::first_answer(machine, &command.request_id)? {
        return Ok(first);
    }
    if machine.meta().open_transactions >= TRANSACTIONS_OPEN_MAX {
        let text = format!(
            "{TRANSACTIONS_OPEN_MAX} transactions are open, the most that a hub has; end some, or wait until they expire"
        );
        return Ok(Outcome::Rejected(Rejection::new(Reason::LimitReached, text)));
    }
    let now = machine.now().get();
    machine.meta_mut().open_transactions += 1;
    machine.meta_mut().last_transaction_id += 1;
    let id = TransactionId(machine.meta().last_transaction_id);
    let expires_at_ms = now.saturating_add(command.timeout_ms);
    let BeginTransaction { label, request_id, .. } = command;
    let began =
        TransactionRecord { label, created_at_ms: now, expires_at_ms, ..Default::default() };
    record::put(machine, id, &began);
    timers::set(machine, UnixMs(expires_at_ms), Due::Transaction(id));
    let outcome = Outcome::Transaction(Box::new(began.info(id)));
    requests::remember(machine, request_id, &outcome);
    Ok(outcome)
}
