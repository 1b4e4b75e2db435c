//! Looking at staged transactions.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::merge;
use super::record::{self, TransactionRecord};
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::record::Kind;
use crate::machine::{Fault, key};
use crate::model::command::JudgedAgain;
use crate::model::ids::TransactionId;
use crate::model::limits::TRANSACTIONS_SCANNED_MAX;
use crate::model::transaction::{StagedPart, TransactionInfo, TransactionState, TransactionView};

/// One transaction with what is staged in it.
///
/// # Errors
/// When the store fails or a row is corrupt.
pub fn transaction(kv: &impl Kv, id: TransactionId) -> Result<Option<TransactionView>, Fault> {
    let Some(record) = record::get(kv, id)? else { return Ok(None) };
    let mut parts: Vec<StagedPart> = Vec::new();
    let mut settles: BTreeMap<String, u32> = BTreeMap::new();
    for stage in merge::staged(kv, id)? {
        for part in stage.parts {
            let at = parts.iter().position(|known| known.topic == part.topic);
            let at = at.unwrap_or_else(|| {
                parts.push(StagedPart { topic: part.topic.clone(), ..StagedPart::default() });
                parts.len() - 1
            });
            let Some(known) = parts.get_mut(at) else { continue };
            known.events += part.count;
            known.expectations += u32::try_from(part.expectations.len()).unwrap_or(u32::MAX);
        }
        for settle in stage.settles {
            let items = u32::try_from(settle.items.len()).unwrap_or(u32::MAX);
            *settles.entry(settle.subscription).or_default() += items;
        }
    }
    let settles = settles.into_iter().collect();
    Ok(Some(TransactionView { info: record.info(id), parts, settles }))
}

/// What is staged in a transaction for topics, joined, and the number of stages; `None`: it is not there, or
/// its stages contradict each other.
///
/// # Errors
/// When the store fails or a row is corrupt.
pub fn staged_parts(kv: &impl Kv, id: TransactionId) -> Result<Option<JudgedAgain>, Fault> {
    let Some(record) = record::get(kv, id)? else { return Ok(None) };
    let whole = merge::merge(merge::staged(kv, id)?).ok();
    Ok(whole.map(|whole| JudgedAgain { stages: record.stages, parts: whole.parts }))
}

/// Up to `limit` transactions after an id, in the order of ids, of one state if it is named; and where the
/// next page begins, if there may be one. A page of few may still have a next one: a bounded number is
/// looked at.
///
/// # Errors
/// When the store fails or a row is corrupt.
pub fn transactions(
    kv: &impl Kv,
    after: TransactionId,
    state: Option<TransactionState>,
    limit: usize,
) -> Result<(Vec<TransactionInfo>, Option<TransactionId>), Fault> {
    let (mut found, mut seen, mut last, mut more) = (Vec::new(), 0, after, false);
    let start = record::row_key(after.next());
    kv.scan(Table::Transactions, &start, &key::END, Order::Ascending, &mut |row, value| {
        if found.len() == limit || seen == TRANSACTIONS_SCANNED_MAX {
            more = true;
            return Ok(ControlFlow::Break(()));
        }
        seen += 1;
        last = TransactionId(key::Reader::new(Kind::Transaction, row).number()?);
        let record = TransactionRecord::decode(value)?;
        if state.is_none_or(|state| state == record.state()) {
            found.push(record.info(last));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok((found, more.then_some(last)))
}
