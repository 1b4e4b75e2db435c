//! Events that a route has under lease, and settling them.

use std::collections::BTreeMap;

use prost::Message as _;

use super::answer::Verdict;
use super::call::Letter;
use crate::machine::Fault;
use crate::model::command::delivery::{Action, SettleItem};
use crate::model::event::EventView;
use crate::model::ids::{Offset, UnixMs};
use crate::model::ranges::{OffsetRange, Ranges};
use crate::node::lead::Delivery;
use crate::proto::batch::recorded_events;
use crate::proto::v1::EventBatch;

/// What a lease is named by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Token {
    lease_id: u64,
    term: u64,
    topic_id: u64,
}

/// One event under lease.
#[derive(Clone, Debug)]
pub(super) struct Parcel {
    pub(super) token: Token,
    pub(super) letter: Letter,
    /// The event's key, for consistent hashing.
    pub(super) key: String,
    /// When its lease ends.
    pub(super) expires_at: UnixMs,
    /// When it is of no use any more.
    pub(super) deadline: UnixMs,
    /// Instances, by incarnation, that could not be connected to.
    pub(super) tried: Vec<u64>,
    /// Why not the last of them.
    pub(super) why: String,
}

/// The parcels of a delivery.
///
/// # Errors
/// When it is corrupt.
pub(super) fn unpack(subscription: &str, delivery: &Delivery) -> Result<Vec<Parcel>, Fault> {
    let corrupt = |_| Fault::Undecodable("a batch that was delivered".to_owned());
    let token = Token {
        lease_id: delivery.lease_id.get(),
        term: delivery.term.get(),
        topic_id: delivery.topic_id.get(),
    };
    let mut attempts = delivery.attempts.iter().copied();
    let mut parcels = Vec::new();
    for batch in &delivery.batches {
        let batch = EventBatch::decode(batch.encoded.clone()).map_err(corrupt)?;
        for recorded in recorded_events(&batch) {
            let view = EventView::read(&recorded.event)
                .map_err(|_| Fault::Undecodable("an event that was delivered".to_owned()))?;
            let deadline = UnixMs(view.deadline_ms.unwrap_or(u64::MAX));
            let key = view.key.to_owned();
            parcels.push(Parcel {
                token,
                key,
                expires_at: delivery.expires_at,
                deadline,
                letter: Letter {
                    subscription: subscription.to_owned(),
                    attempt: attempts.next().unwrap_or(1),
                    recorded,
                },
                tried: Vec::new(),
                why: String::new(),
            });
        }
    }
    Ok(parcels)
}

/// The end of an event's delivery.
#[derive(Debug)]
pub(super) struct Ended {
    token: Token,
    offset: u64,
    action: Action,
}

impl Ended {
    pub(super) fn new(parcel: &Parcel, verdict: Verdict) -> Self {
        let offset = parcel.letter.recorded.offset;
        Self { token: parcel.token, offset, action: verdict.action }
    }
}

/// The settlements of events: those of one lease that end the same way become one.
pub(super) fn items(ended: impl Iterator<Item = Ended>) -> Vec<SettleItem> {
    let mut alike: BTreeMap<(Token, bool), Vec<OffsetRange>> = BTreeMap::new();
    let mut items = Vec::new();
    for Ended { token, offset, action } in ended {
        let one = OffsetRange::one(Offset(offset));
        match action {
            Action::Ack(_) => alike.entry((token, true)).or_default().push(one),
            Action::Release(_) => alike.entry((token, false)).or_default().push(one),
            action => items.push(item(token, vec![one], action)),
        }
    }
    let joined = alike.into_iter().map(|((token, acked), offsets)| {
        let verdict = if acked { Verdict::ack() } else { Verdict::release() };
        item(token, Ranges::from_unsorted(&offsets).into_vec(), verdict.action)
    });
    items.extend(joined);
    items
}

fn item(token: Token, ranges: Vec<OffsetRange>, action: Action) -> SettleItem {
    let Token { lease_id, term, topic_id } = token;
    SettleItem { lease_id, term, topic_id, ranges, action: Some(action) }
}
