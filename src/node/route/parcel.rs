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

/// What of a lease is left for settling, milliseconds; of a short one it is half.
const SETTLE_MS: u64 = 1000;

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
    /// When its lease ends: not after its deadline, unless that does not count any more.
    expires_at: UnixMs,
    /// What of the lease is left for settling.
    settle_ms: u64,
    /// Instances, by incarnation, that could not be connected to.
    pub(super) tried: Vec<u64>,
    /// Why not the last of them.
    pub(super) why: String,
}

impl Parcel {
    /// How long a call with it may take; 0: its lease is all but over.
    pub(super) fn patience_ms(&self, now: UnixMs) -> u64 {
        self.expires_at.since(now).saturating_sub(self.settle_ms)
    }
}

/// The parcels of a delivery.
///
/// # Errors
/// When it is corrupt.
pub(super) fn unpack(
    subscription: &str,
    delivery: &Delivery,
    now: UnixMs,
) -> Result<Vec<Parcel>, Fault> {
    let corrupt = |_| Fault::Undecodable("a batch that was delivered".to_owned());
    let token = Token {
        lease_id: delivery.lease_id.get(),
        term: delivery.term.get(),
        topic_id: delivery.topic_id.get(),
    };
    // A deadline cuts leases short: what is left of one is for the call, too.
    let settle_ms = SETTLE_MS.min(delivery.expires_at.since(now) / 2);
    let mut attempts = delivery.attempts.iter().copied();
    let mut parcels = Vec::new();
    for batch in &delivery.batches {
        let batch = EventBatch::decode(batch.encoded.clone()).map_err(corrupt)?;
        for recorded in recorded_events(&batch) {
            let view = EventView::read(&recorded.event)
                .map_err(|_| Fault::Undecodable("an event that was delivered".to_owned()))?;
            let key = view.key.to_owned();
            parcels.push(Parcel {
                token,
                key,
                expires_at: delivery.expires_at,
                settle_ms,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::topic::batch::Batch;
    use crate::model::ids::{LeaseId, Term, TopicId};
    use crate::proto::v1::Event;

    /// An event with this deadline under a lease until then, as it comes out at an instant.
    fn parcel(deadline_ms: u64, expires_at: u64, now: u64) -> Parcel {
        let at = |ms: u64| prost_types::Timestamp {
            seconds: (ms / 1000).cast_signed(),
            nanos: i32::try_from(ms % 1000).unwrap() * 1_000_000,
        };
        let event = Event {
            id: "1".to_owned(),
            source: "/s".to_owned(),
            r#type: "t".to_owned(),
            deadline: Some(at(deadline_ms)),
            ..Event::default()
        };
        let events = vec![event.encode_to_vec().into()];
        let batch = EventBatch { events, ..EventBatch::default() };
        let delivery = Delivery {
            lease_id: LeaseId(1),
            term: Term(1),
            topic_id: TopicId(1),
            expires_at: UnixMs(expires_at),
            batches: vec![Batch { count: 1, encoded: batch.encode_to_vec().into() }],
            attempts: Vec::new(),
        };
        unpack("s", &delivery, UnixMs(now)).unwrap().remove(0)
    }

    #[test]
    fn a_call_has_what_the_lease_leaves_it() {
        // Deadlines that count have cut the lease; a redriven event's does not.
        for deadline_ms in [1, 50_000, 900_000] {
            let parcel = parcel(deadline_ms, 50_000, 20_000);
            assert_eq!(parcel.patience_ms(UnixMs(20_000)), 29_000, "{deadline_ms}");
            assert_eq!(parcel.patience_ms(UnixMs(48_999)), 1);
            assert_eq!(parcel.patience_ms(UnixMs(49_000)), 0, "looked at anew");
        }
    }

    #[test]
    fn what_has_to_be_done_within_a_second_is_tried() {
        let parcel = parcel(20_400, 20_400, 20_000);
        assert_eq!(parcel.patience_ms(UnixMs(20_000)), 200);
        assert_eq!(parcel.patience_ms(UnixMs(20_200)), 0);
    }
}
