//! How long events wait at the leader: from when one is ready until it is leased to a consumer, by
//! subscription. It is kept in this node's memory, and counts on while others lead.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::hand_out::Delivery;
use crate::machine::Fault;
use crate::model::delivery::Granted;
use crate::model::event::deliver_at_of;
use crate::model::event_run;
use crate::model::ids::UnixMs;
use crate::model::limits::{DISPATCH_LATENCIES_MAX, DISPATCH_LATENCY_MS};

const BUCKETS: usize = DISPATCH_LATENCY_MS.len() + 1;

/// Events by how long they waited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LatencySample {
    /// By the bounds of `limits::DISPATCH_LATENCY_MS`, which belong to their buckets; those beyond.
    pub events: [u64; BUCKETS],
    /// What all of them waited, milliseconds.
    pub sum_ms: u64,
}

/// The same, as it grows.
#[derive(Debug, Default)]
pub(super) struct Latency {
    events: [AtomicU64; BUCKETS],
    sum_ms: AtomicU64,
}

impl Latency {
    fn observe(&self, waited_ms: u64, events: u64) {
        let bucket = DISPATCH_LATENCY_MS.partition_point(|bound| *bound < waited_ms);
        self.events[bucket].fetch_add(events, Ordering::Relaxed);
        self.sum_ms.fetch_add(waited_ms.saturating_mul(events), Ordering::Relaxed);
    }

    fn sample(&self) -> LatencySample {
        let events = self.events.each_ref().map(|events| events.load(Ordering::Relaxed));
        LatencySample { events, sum_ms: self.sum_ms.load(Ordering::Relaxed) }
    }

    /// Takes note of the retries among what was leased.
    pub(super) fn retries(&self, grants: &[Granted], now: UnixMs) {
        let due = grants.iter().flat_map(|grant| &grant.due);
        due.for_each(|due| self.observe(now.since(*due), 1));
    }

    /// Takes note of the events that were leased for the first time: they are ready once they are
    /// recorded, unless some were `delayed`.
    pub(super) fn firsts(
        &self,
        deliveries: &[Delivery],
        delayed: bool,
        now: UnixMs,
    ) -> Result<(), Fault> {
        let firsts = deliveries.iter().filter(|delivery| delivery.attempts.is_empty());
        for batch in firsts.flat_map(|delivery| &delivery.batches) {
            let view = batch.view()?;
            if !delayed {
                self.observe(now.since(view.recorded_at), u64::from(batch.count));
                continue;
            }
            for event in event_run::iter(view.run) {
                let deliver_at = UnixMs(deliver_at_of(event?)?.unwrap_or(0));
                self.observe(now.since(view.recorded_at.max(deliver_at)), 1);
            }
        }
        Ok(())
    }
}

/// Those of the subscriptions that this node dispatched, by name.
#[derive(Default)]
pub(super) struct Latencies(Mutex<BTreeMap<String, Arc<Latency>>>);

impl Latencies {
    /// The one of a subscription. Where there are too many, those that nobody holds begin anew.
    pub(super) fn of(&self, subscription: &str) -> Arc<Latency> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= DISPATCH_LATENCIES_MAX && !known.contains_key(subscription) {
            known.retain(|_, latency| Arc::strong_count(latency) > 1);
        }
        Arc::clone(known.entry(subscription.to_owned()).or_default())
    }

    /// How long the events of a subscription waited.
    pub(super) fn sample(&self, subscription: &str) -> LatencySample {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(subscription).map(|latency| latency.sample()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let latency = Latency::default();
        for (waited, events) in [(0, 1), (1, 2), (2, 4), (DISPATCH_LATENCY_MS[BUCKETS - 2], 8)] {
            latency.observe(waited, events);
        }
        latency.observe(DISPATCH_LATENCY_MS[BUCKETS - 2] + 1, 16);
        let LatencySample { events, sum_ms } = latency.sample();
        assert_eq!((events[0], events[1]), (3, 4));
        assert_eq!((events[BUCKETS - 2], events[BUCKETS - 1]), (8, 16));
        assert_eq!(sum_ms, 2 + 8 + 24 * DISPATCH_LATENCY_MS[BUCKETS - 2] + 16);
    }

    #[test]
    fn those_that_somebody_holds_are_kept() {
        let (latencies, held) = (Latencies::default(), "held");
        let kept = latencies.of(held);
        kept.observe(1, 1);
        for n in 0..DISPATCH_LATENCIES_MAX {
            latencies.of(&n.to_string()).observe(1, 1);
        }
        assert_eq!(latencies.sample(held), kept.sample());
        assert_eq!(latencies.sample("0"), LatencySample::default());
        assert!(latencies.0.lock().unwrap().len() < DISPATCH_LATENCIES_MAX);
    }
}
