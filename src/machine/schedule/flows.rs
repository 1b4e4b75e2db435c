//! Which fairness keys a search looks at: those that have rows, some at a time, in turn. The more
//! topics there are, the fewer fairness keys, since each has its streams in each topic.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::scheduled::{self, OrderKey};
use super::search::Search;
use crate::machine::delivery::ready::{self, ReadyKey};
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::{Fault, key};
use crate::model::limits::CANDIDATE_FLOWS_MAX;

/// Fairness keys that a search looks at in any case.
const FLOWS_MIN: usize = 4;

/// Sorts as rows do: by length, then by text.
type Flow = (usize, String);

/// The fairness keys after one, at most `limits::CANDIDATE_FLOWS_MAX`, going round.
pub(super) fn next<K: Kv>(
    search: &mut Search<'_, K>,
    after: Option<&str>,
) -> Result<Vec<String>, Fault> {
    let limit = (CANDIDATE_FLOWS_MAX / search.topics.len().max(1)).max(FLOWS_MIN);
    let mut flows = collect(search, after, limit)?;
    if after.is_some() && flows.len() < limit {
        for flow in collect(search, None, limit)? {
            if flows.len() < limit && !flows.contains(&flow) {
                flows.push(flow);
            }
        }
    }
    search.partial |= flows.len() == limit;
    Ok(flows.into_iter().map(|(_, flow)| flow).collect())
}

fn collect<K: Kv>(
    search: &Search<'_, K>,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Flow>, Fault> {
    let mut found = BTreeSet::new();
    if after.is_none() {
        found.insert((0, String::new()));
    }
    let topics: Vec<_> =
        search.topics.values().filter(|t| t.info.specials > 0).map(|t| t.info.id).collect();
    for topic in topics {
        let prefix = topic.to_key().to_vec();
        let flow_prefix = |flow: &str| scheduled::flow_prefix(topic, flow);
        let decode = |row: &[u8]| Ok(OrderKey::decode(row)?.flow.to_owned());
        leap((search, limit), Table::Scheduled, &prefix, after, flow_prefix, decode, &mut found)?;
    }
    if search.topics.values().any(|t| t.progress.failures > 0) {
        let id = search.record.subscription_id();
        let prefix = id.to_key().to_vec();
        let flow_prefix = |flow: &str| ready::flow_prefix(id, flow);
        let decode = |row: &[u8]| Ok(ReadyKey::decode(row)?.flow.to_owned());
        leap((search, limit), Table::Ready, &prefix, after, flow_prefix, decode, &mut found)?;
    }
    Ok(found.into_iter().take(limit).collect())
}

/// Reads one row a fairness key, and leaps over the rest.
fn leap<K: Kv>(
    (search, limit): (&Search<'_, K>, usize),
    table: Table,
    prefix: &[u8],
    after: Option<&str>,
    flow_prefix: impl Fn(&str) -> Vec<u8>,
    decode: impl Fn(&[u8]) -> Result<String, Fault>,
    found: &mut BTreeSet<Flow>,
) -> Result<(), Fault> {
    let high = key::after_prefix(prefix);
    let mut low = after.map_or(prefix.to_vec(), |flow| key::after_prefix(&flow_prefix(flow)));
    for _ in 0..limit {
        let mut next = None;
        search.kv.scan(table, &low, &high, Order::Ascending, &mut |row, _| {
            next = Some(decode(row)?);
            Ok(ControlFlow::Break(()))
        })?;
        let Some(flow) = next else { break };
        low = key::after_prefix(&flow_prefix(&flow));
        found.insert((flow.len(), flow));
    }
    Ok(())
}
