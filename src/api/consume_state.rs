//! What a consume stream keeps in mind: the credit that is open, and the leases that are out.

use std::collections::BTreeMap;

use super::convert::invalid;
use crate::model::command::delivery::{Action, Release, SettleItem};
use crate::model::delivery::Settled;
use crate::model::ids::UnixMs;
use crate::model::limits::{
    CONSUME_LEASES_MAX, CREDIT_BYTES_MAX, CREDIT_EVENTS_MAX, PULL_BYTES_MAX,
};
use crate::model::rejection::Rejection;
use crate::node::lead::Delivery;
use crate::proto::v1::{Credit, Settlement, settlement};

/// What the server may still deliver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Credits {
    events: i64,
    /// May be below 0: one event came although it was larger than what was open.
    bytes: i64,
}

impl Credits {
    /// Adds what the consumer grants.
    ///
    /// # Errors
    /// `INVALID_REQUEST` when it grants nothing or too much.
    pub(super) fn grant(&mut self, credit: Credit) -> Result<(), Rejection> {
        let Credit { events, bytes } = credit;
        if events < 1 || bytes < 1 {
            return Err(invalid(format!(
                "a credit of {events} events and {bytes} bytes allows nothing; grant at least 1 of each"
            )));
        }
        let events = self.events.saturating_add(events);
        let bytes = self.bytes.saturating_add(bytes);
        if events > CREDIT_EVENTS_MAX || bytes > CREDIT_BYTES_MAX {
            return Err(invalid(format!(
                "{events} events and {bytes} bytes of credit would be open, above {CREDIT_EVENTS_MAX} and {CREDIT_BYTES_MAX}; grant what was delivered, not more"
            )));
        }
        *self = Self { events, bytes };
        Ok(())
    }

    /// Takes off what was delivered.
    pub(super) fn spend(&mut self, events: u64, bytes: usize) {
        self.events -= i64::try_from(events).unwrap_or(i64::MAX);
        self.bytes -= i64::try_from(bytes).unwrap_or(i64::MAX);
    }

    /// The events and bytes of the next pull; `None`: nothing is open.
    pub(super) fn open(&self) -> Option<(u64, usize)> {
        let events = u64::try_from(self.events).ok().filter(|events| *events > 0)?;
        let bytes = usize::try_from(self.bytes).ok().filter(|bytes| *bytes > 0)?;
        Some((events, bytes.min(PULL_BYTES_MAX)))
    }
}

/// What a settlement is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named {
    lease_id: u64,
    what: What,
}

/// What of a lease it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Its end.
    Extension,
    /// All of its events.
    All,
    /// Events that are named.
    Some,
}

impl Named {
    pub(super) fn of(settlement: &Settlement) -> Self {
        let what = match settlement.action {
            Some(settlement::Action::Extend(_)) => What::Extension,
            _ if settlement.ranges.is_empty() => What::All,
            _ => What::Some,
        };
        Self { lease_id: settlement.lease_id, what }
    }
}

/// The leases that a stream has delivered and that are not settled.
#[derive(Debug, Default)]
pub(super) struct Held(BTreeMap<u64, Lease>);

#[derive(Debug)]
struct Lease {
    term: u64,
    topic_id: u64,
    events: u64,
    expires_at: UnixMs,
}

impl Held {
    /// Takes note of a delivery. Leases that ran out are forgotten when there are many.
    pub(super) fn add(&mut self, delivery: &Delivery, now: UnixMs) {
        let lease = Lease {
            term: delivery.term.get(),
            topic_id: delivery.topic_id.get(),
            events: delivery.events(),
            expires_at: delivery.expires_at,
        };
        self.0.insert(delivery.lease_id.get(), lease);
        if self.0.len() > CONSUME_LEASES_MAX {
            self.0.retain(|_, lease| lease.expires_at > now);
        }
        while self.0.len() > CONSUME_LEASES_MAX {
            self.0.pop_first();
        }
    }

    /// Takes note of what was settled.
    pub(super) fn note(&mut self, named: &[Named], settled: &[Settled]) {
        for (named, settled) in named.iter().zip(settled) {
            let Some(lease) = self.0.get_mut(&named.lease_id) else { continue };
            if named.what == What::Extension && settled.refused.is_none() {
                lease.expires_at = settled.expires_at;
                continue;
            }
            lease.events = lease.events.saturating_sub(settled.done.count());
            // Events that are refused by name may have been settled before: others are left.
            let gone = settled.done.is_empty() && named.what != What::Some;
            if lease.events == 0 || gone {
                self.0.remove(&named.lease_id);
            }
        }
    }

    /// The settlements that release all of them.
    pub(super) fn into_items(self) -> Vec<SettleItem> {
        let item = |(lease_id, lease): (u64, Lease)| SettleItem {
            lease_id,
            term: lease.term,
            topic_id: lease.topic_id,
            ranges: Vec::new(),
            action: Some(Action::Release(Release {})),
        };
        self.0.into_iter().map(item).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::topic::batch::Batch;
    use crate::model::ids::{LeaseId, Offset, Term, TopicId};
    use crate::model::ranges::Ranges;
    use crate::model::rejection::Reason;

    fn credit(events: i64, bytes: i64) -> Credit {
        Credit { events, bytes }
    }

    #[test]
    fn credits_add_up_within_bounds() {
        let mut credits = Credits::default();
        assert_eq!(credits.open(), None);
        for bad in [(0, 1), (1, 0), (-1, 1), (1, -1), (i64::MAX, 1), (1, i64::MAX)] {
            let refused = credits.grant(credit(bad.0, bad.1)).unwrap_err();
            assert_eq!(refused.reason, Reason::InvalidRequest, "{bad:?}");
        }
        assert_eq!(credits, Credits::default());
        credits.grant(credit(10, 1000)).unwrap();
        assert_eq!(credits.open(), Some((10, 1000)));
        credits.grant(credit(CREDIT_EVENTS_MAX - 10, CREDIT_BYTES_MAX - 1000)).unwrap();
        assert!(credits.grant(credit(1, 1)).is_err());
        let events = u64::try_from(CREDIT_EVENTS_MAX).unwrap();
        assert_eq!(credits.open(), Some((events, PULL_BYTES_MAX)));
    }

    #[test]
    fn one_event_may_overdraw_the_bytes() {
        let mut credits = Credits::default();
        credits.grant(credit(10, 100)).unwrap();
        credits.spend(1, 150);
        assert_eq!(credits.open(), None);
        credits.grant(credit(1, 50)).unwrap();
        assert_eq!(credits.open(), None);
        credits.grant(credit(1, 150)).unwrap();
        assert_eq!(credits.open(), Some((11, 150)));
    }

    fn delivery(lease: u64, count: u32, expires_at: u64) -> Delivery {
        Delivery {
            lease_id: LeaseId(lease),
            term: Term(1),
            topic_id: TopicId(7),
            expires_at: UnixMs(expires_at),
            batches: vec![Batch { count, encoded: bytes::Bytes::new() }],
            attempts: Vec::new(),
        }
    }

    fn done(count: u64, refused: Option<Reason>) -> Settled {
        let done = Ranges::from_iter((0..count).map(Offset));
        Settled { done, refused, expires_at: UnixMs(0) }
    }

    fn left(held: Held) -> Vec<u64> {
        held.into_items().iter().map(|item| item.lease_id).collect()
    }

    #[test]
    fn what_is_settled_is_not_released() {
        let mut held = Held::default();
        for lease in 1..=6 {
            held.add(&delivery(lease, 3, 100), UnixMs(0));
        }
        let named = |lease_id, what| Named { lease_id, what };
        let partly = done(2, Some(Reason::LeaseExpired));
        let gone = || done(0, Some(Reason::LeaseExpired));
        let all = [1, 2, 3].map(|lease_id| named(lease_id, What::All));
        held.note(&all, &[done(3, None), partly, gone()]);
        let extensions = [4, 5].map(|lease_id| named(lease_id, What::Extension));
        held.note(&extensions, &[done(3, None), gone()]);
        // One event of it was settled before.
        held.note(&[named(6, What::Some)], &[gone()]);
        let items = held.into_items();
        assert_eq!(items.iter().map(|item| item.lease_id).collect::<Vec<_>>(), [2, 4, 6]);
        assert!(items.iter().all(|item| item.topic_id == 7 && item.ranges.is_empty()));
    }

    #[test]
    fn leases_that_nobody_settles_are_forgotten_in_the_end() {
        let mut held = Held::default();
        let many = CONSUME_LEASES_MAX as u64;
        for lease in 0..many {
            held.add(&delivery(lease, 1, if lease < 10 { 5 } else { 100 }), UnixMs(0));
        }
        held.add(&delivery(many, 1, 100), UnixMs(50));
        assert_eq!(left(held).first(), Some(&10));
    }
}
