//! What it takes to plant bugs in settling. Not part of a release build.

use std::ops::ControlFlow;

use super::Node;
use crate::machine::Fault;
use crate::machine::delivery::leases::{self, LeaseRecord};
use crate::machine::key;
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::subscription::query::subscription;
use crate::model::command::Settle;
use crate::model::command::delivery::SettleItem;
use crate::model::delivery::Settled;
use crate::model::ids::{LeaseId, SubscriptionId};
use crate::model::planted::{Bug, is};
use crate::model::ranges::Ranges;
use crate::model::rejection::{Reason, Rejection};

/// Leases without fencing: a settlement goes to the lease that has its events now.
///
/// # Errors
/// When the state cannot be read.
pub(super) async fn for_whoever_has_them(node: &Node, settle: Settle) -> Result<Settle, Rejection> {
    if !is(Bug::NoFencing) {
        return Ok(settle);
    }
    node.read(move |view| {
        let mut settle = settle.clone();
        let Some(info) = subscription(view, &settle.subscription)? else { return Ok(settle) };
        for item in &mut settle.items {
            if leases::get(view, info.id, LeaseId(item.lease_id))?.is_some() {
                continue;
            }
            if let Some((id, lease)) = holder(view, info.id, item)? {
                (item.lease_id, item.term) = (id.get(), lease.term);
                settle.consumer = lease.consumer;
            }
        }
        Ok(settle)
    })
    .await
}

fn holder(
    kv: &impl Kv,
    subscription: SubscriptionId,
    item: &SettleItem,
) -> Result<Option<(LeaseId, LeaseRecord)>, Fault> {
    let wanted = Ranges::from_unsorted(&item.ranges);
    let mut found = None;
    let start = subscription.to_key();
    kv.scan(Table::Leases, &start, &key::END, Order::Ascending, &mut |row, value| {
        if !row.starts_with(&start) {
            return Ok(ControlFlow::Break(()));
        }
        let lease = LeaseRecord::decode(value)?;
        if lease.topic_id == item.topic_id && !lease.events.intersect(&wanted).is_empty() {
            found = Some((leases::lease_of(row)?, lease));
            return Ok(ControlFlow::Break(()));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// A stale token: what a lease that has run out asks for is answered as if it were done.
pub(super) fn accepted(mut settled: Vec<Settled>) -> Vec<Settled> {
    for one in &mut settled {
        if is(Bug::StaleToken) && one.refused == Some(Reason::LeaseExpired) {
            one.refused = None;
        }
    }
    settled
}
