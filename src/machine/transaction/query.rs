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
use crate::model::limits::{PAGE_BYTES_TARGET, TRANSACTIONS_SCANNED_MAX};
use crate::model::outcome::Published;
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
/// looked at, and what an answer takes is bounded. One transaction goes out in any case.
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
    let mut bytes = 0;
    let start = record::row_key(after.next());
    kv.scan(Table::Transactions, &start, &key::END, Order::Ascending, &mut |row, value| {
        if found.len() == limit || seen == TRANSACTIONS_SCANNED_MAX {
            more = true;
            return Ok(ControlFlow::Break(()));
        }
        seen += 1;
        let id = TransactionId(key::Reader::new(Kind::Transaction, row).number()?);
        let record = TransactionRecord::decode(value)?;
        if state.is_none_or(|state| state == record.state()) {
            let info = record.info(id);
            bytes += bytes_of(&info);
            if bytes > PAGE_BYTES_TARGET && !found.is_empty() {
                more = true;
                return Ok(ControlFlow::Break(()));
            }
            found.push(info);
        }
        last = id;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok((found, more.then_some(last)))
}

/// What one takes in an answer, at most.
fn bytes_of(info: &TransactionInfo) -> usize {
    let part = |(topic, part): &(String, Published)| {
        60 + topic.len() + part.key_versions.len() * 10 + part.receipts.len() * 26
    };
    80 + info.label.len() + info.parts.iter().map(part).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::super::record::{CommittedPart, PartRecord};
    use super::*;
    use crate::machine::kv::Write;
    use crate::machine::mem::MemKv;
    use crate::model::ids::{KeyVersion, Offset, Position};
    use crate::model::outcome::Receipt;

    #[test]
    fn pages_of_large_answers_are_cut() {
        const ALL: u64 = 300;
        let large = u64::MAX >> 1;
        let receipt = Receipt { offset: Offset(large), position: Position(large), duplicate: true };
        let published = Published {
            count: 512,
            key_versions: vec![KeyVersion(large); 512],
            receipts: vec![receipt; 512],
            ..Published::default()
        };
        let mut kv = MemKv::default();
        for id in 1..=ALL {
            let part = CommittedPart { topic: "t".into(), part: PartRecord::of(&published) };
            let record = TransactionRecord { parts: vec![part], ..TransactionRecord::default() };
            let row = record::row_key(TransactionId(id));
            kv.write(vec![Write::Put(Table::Transactions, row, record.encode())]);
        }
        let (mut after, mut seen, mut pages) = (TransactionId(0), Vec::new(), 0);
        loop {
            let (page, next) = transactions(&kv, after, None, 1000).unwrap();
            let bytes: usize = page.iter().map(bytes_of).sum();
            assert!(bytes <= PAGE_BYTES_TARGET && !page.is_empty(), "{bytes} bytes");
            seen.extend(page.iter().map(|info| info.id.get()));
            pages += 1;
            let Some(next) = next else { break };
            after = next;
        }
        assert_eq!(seen, (1..=ALL).collect::<Vec<_>>());
        assert!(pages > 4, "{pages} pages");
    }
}
