//! Forgetting what has expired, a bounded bit per command, with cursors that go round.

use std::ops::ControlFlow;

use super::Fault;
use super::apply::Machine;
use super::delivery::loads;
use super::kv::{Kv, Order, Table};
use super::producers::ProducerRecord;
use super::requests::RequestRecord;
use super::topic::ids::forget;
use super::topic::record::TopicRecord;
use super::tracking;
use super::transaction::record::TransactionRecord;
use crate::model::ids::UnixMs;
use crate::model::limits::{
    HOUSEKEEPING_ROWS_MAX, PRODUCER_IDLE_MS, REQUEST_ID_KEPT_MS, TRANSACTION_KEPT_MS,
};
use crate::model::outcome::Outcome;

/// Larger than every key of every table.
const END: [u8; 16] = [0xff; 16];

pub(crate) fn apply<K: Kv>(machine: &mut Machine<'_, K>) -> Result<Outcome, Fault> {
    machine.settle();
    let now = machine.now();
    let idle = now.get().saturating_sub(PRODUCER_IDLE_MS);
    let producers = std::mem::take(&mut machine.meta_mut().producers_cursor);
    machine.meta_mut().producers_cursor =
        sweep(machine, (Table::Producers, &END), &producers, |row| {
            Ok(ProducerRecord::decode(row)?.used_at_ms() < idle)
        })?;
    let old = now.get().saturating_sub(REQUEST_ID_KEPT_MS);
    let requests = std::mem::take(&mut machine.meta_mut().requests_cursor);
    machine.meta_mut().requests_cursor =
        sweep(machine, (Table::Requests, &END), &requests, |row| {
            Ok(RequestRecord::decode(row)?.answered_at_ms < old)
        })?;
    let old = now.get().saturating_sub(TRANSACTION_KEPT_MS);
    let transactions = std::mem::take(&mut machine.meta_mut().transactions_cursor);
    machine.meta_mut().transactions_cursor =
        sweep(machine, (Table::Transactions, &END), &transactions, |row| {
            Ok((1..old).contains(&TransactionRecord::decode(row)?.ended_at_ms))
        })?;
    let loads = std::mem::take(&mut machine.meta_mut().loads_cursor);
    machine.meta_mut().loads_cursor =
        sweep(machine, (Table::ConsumerLoads, &loads::services_end()), &loads, |row| {
            loads::is_idle(row, now)
        })?;
    forget_ids(machine, now)?;
    tracking::index::sweep(machine)?;
    Ok(Outcome::Done)
}

/// Looks at a bounded number of rows after the cursor and deletes what has expired. The new
/// cursor; empty at the end.
fn sweep<K: Kv>(
    machine: &mut Machine<'_, K>,
    (table, end): (Table, &[u8]),
    cursor: &[u8],
    expired: impl Fn(&[u8]) -> Result<bool, Fault>,
) -> Result<Vec<u8>, Fault> {
    let mut start = cursor.to_vec();
    start.push(0);
    let (mut seen, mut last, mut due) = (0, Vec::new(), Vec::new());
    machine.overlay().scan(table, &start, end, Order::Ascending, &mut |key, row| {
        seen += 1;
        if expired(row)? {
            due.push(key.to_vec());
        }
        if seen == HOUSEKEEPING_ROWS_MAX {
            last = key.to_vec();
            return Ok(ControlFlow::Break(()));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    for key in due {
        machine.overlay_mut().delete(table, key);
    }
    Ok(last)
}

/// Goes on over the topics from where it left off, until the budget of rows is used.
fn forget_ids<K: Kv>(machine: &mut Machine<'_, K>, now: UnixMs) -> Result<(), Fault> {
    let mut start = std::mem::take(&mut machine.meta_mut().topics_cursor).into_bytes();
    start.push(0);
    let mut topics = Vec::new();
    machine.overlay().scan(Table::Topics, &start, &END, Order::Ascending, &mut |key, row| {
        topics.push((String::from_utf8_lossy(key).into_owned(), TopicRecord::decode(row)?));
        let more = topics.len() < HOUSEKEEPING_ROWS_MAX;
        Ok(if more { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    let whole_round = topics.len() < HOUSEKEEPING_ROWS_MAX;
    let mut budget = HOUSEKEEPING_ROWS_MAX;
    for (name, mut topic) in topics {
        if budget == 0 {
            return Ok(());
        }
        machine.meta_mut().topics_cursor.clone_from(&name);
        if topic.expiring_ids == 0 {
            continue;
        }
        let before = UnixMs((now.get() + 1).saturating_sub(topic.config.dedup_window_ms));
        let forgotten = forget(machine.overlay_mut(), topic.topic_id(), before, budget)?;
        budget -= usize::try_from(forgotten).unwrap_or(budget);
        if forgotten > 0 {
            topic.expiring_ids -= forgotten;
            machine.put_topic(&name, topic);
        }
    }
    if whole_round {
        machine.meta_mut().topics_cursor.clear();
    }
    Ok(())
}
