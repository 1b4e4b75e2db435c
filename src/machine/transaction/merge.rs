//! What was staged, and joining it into one command.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use bytes::BytesMut;
use prost::Message as _;

use super::record;
use crate::machine::Fault;
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::record::{Kind, body};
use crate::model::command::{Publish, Settle, StageTransaction, Transact};
use crate::model::ids::TransactionId;
use crate::model::rejection::{Reason, Rejection};
use crate::model::schema_rule::Judged;

/// Everything that was staged in a transaction, in order.
pub(super) fn staged(kv: &impl Kv, id: TransactionId) -> Result<Vec<StageTransaction>, Fault> {
    let (start, end) = (record::row_key(id), record::row_key(id.next()));
    let mut found = Vec::new();
    kv.scan(Table::Staged, &start, &end, Order::Ascending, &mut |_, row| {
        let stage = StageTransaction::decode(body(Kind::Stage, row)?).map_err(|error| {
            Fault::Corrupt { record: Kind::Stage, what: format!("protobuf: {error}") }
        })?;
        found.push(stage);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// One command that does all of it: each topic once, in the order of first staging, with its events in the
/// order of staging.
///
/// # Errors
/// `INVALID_REQUEST` when stages contradict each other, or settle a lease twice.
pub(super) fn merge(stages: Vec<StageTransaction>) -> Result<Transact, Rejection> {
    let mut whole = Transact::default();
    let mut leases = BTreeSet::new();
    for stage in stages {
        for part in stage.parts {
            match whole.parts.iter_mut().find(|known| known.topic == part.topic) {
                Some(known) => add(known, part)?,
                None => whole.parts.push(part),
            }
        }
        for settle in stage.settles {
            let Settle { subscription, items, .. } = &settle;
            if let Some(twice) =
                items.iter().find(|item| !leases.insert((subscription.clone(), item.lease_id)))
            {
                let lease = twice.lease_id;
                let text = format!(
                    "lease {lease} of subscription {subscription} is settled twice; settle it once"
                );
                return Err(Rejection::new(Reason::InvalidRequest, text));
            }
            whole.settles.push(settle);
        }
    }
    Ok(whole)
}

fn add(known: &mut Publish, part: Publish) -> Result<(), Rejection> {
    for expectation in part.expectations {
        match known.expectations.iter().find(|other| other.key == expectation.key) {
            None => known.expectations.push(expectation),
            Some(other) if other.expect() == expectation.expect() => {}
            Some(_) => {
                let (key, topic) = (&expectation.key, &known.topic);
                let text = format!(
                    "expectations of key {key:?} in topic {topic} contradict each other; they are about the state before the whole transaction"
                );
                return Err(Rejection::new(Reason::InvalidRequest, text));
            }
        }
    }
    match (known.count, part.count) {
        (_, 0) => {}
        (0, _) => known.judged = part.judged,
        _ => Judged::join(&mut known.judged, part.judged),
    }
    known.count += part.count;
    known.keyed |= part.keyed;
    known.special |= part.special;
    known.correlated |= part.correlated;
    known.largest_event_bytes = known.largest_event_bytes.max(part.largest_event_bytes);
    if !part.events.is_empty() {
        let mut run = BytesMut::from(known.events.clone());
        run.extend_from_slice(&part.events);
        known.events = run.freeze();
    }
    Ok(())
}
