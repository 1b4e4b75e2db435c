//! What a consumer is handed: events under leases, with their bytes as they are stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::Node;
use super::plan::Part;
use crate::machine::Fault;
use crate::machine::topic::batch::Batch;
use crate::machine::topic::cutter::Cutter;
use crate::model::command::delivery::{Action, Release, SettleItem};
use crate::model::delivery::Granted;
use crate::model::ids::{LeaseId, Offset, Term, TopicId, UnixMs};
use crate::model::ranges::{OffsetRange, Ranges};
use crate::runtime::tasks;

/// Events under one lease.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// With the term the fencing token.
    pub lease_id: LeaseId,
    /// The leader's term.
    pub term: Term,
    /// Whose events.
    pub topic_id: TopicId,
    /// When the consumer loses them.
    pub expires_at: UnixMs,
    /// The events, most urgent first, as batches of neighbours. Not empty.
    pub batches: Vec<Batch>,
    /// One an event in the order of the batches, from 1; empty: all are first attempts.
    pub attempts: Vec<u32>,
}

impl Delivery {
    /// How many events.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.batches.iter().map(|batch| u64::from(batch.count)).sum()
    }

    /// Their encoded bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.batches.iter().map(|batch| batch.encoded.len()).sum()
    }
}

/// Part of a grant: which of the parts that were planned it comes from, and the events.
type Piece<'p> = (usize, &'p Part, Ranges);

/// The deliveries of what was granted, from the parts that were planned, most urgent first.
///
/// # Errors
/// When a batch is corrupt.
pub(super) fn deliveries(grants: Vec<Granted>, parts: &[Part]) -> Result<Vec<Delivery>, Fault> {
    let mut found = Vec::with_capacity(grants.len());
    for grant in grants {
        let pieces = pieces(&grant, parts);
        let Some(first) = pieces.first().map(|(at, ..)| *at) else { continue };
        found.push((first, delivery(&grant, &pieces)?));
    }
    found.sort_by_key(|(first, _)| *first);
    Ok(found.into_iter().map(|(_, delivery)| delivery).collect())
}

/// What of the parts was granted, in their order.
fn pieces<'p>(grant: &Granted, parts: &'p [Part]) -> Vec<Piece<'p>> {
    let of_topic = parts.iter().enumerate().filter(|(_, part)| part.topic == grant.topic_id);
    let piece = |(at, part): (usize, &'p Part)| {
        let (first, end) = part.events.bounds()?;
        let near = grant.ranges.within(OffsetRange::between(first.get(), end.get()));
        let events = part.events.intersect(&near);
        (!events.is_empty()).then_some((at, part, events))
    };
    of_topic.filter_map(piece).collect()
}

fn delivery(grant: &Granted, pieces: &[Piece<'_>]) -> Result<Delivery, Fault> {
    let mut batches = Vec::with_capacity(pieces.len());
    for (_, part, events) in pieces {
        batches.push(if *events == part.events {
            part.batch.clone()
        } else {
            Cutter::new(part.batch.clone())?.gather(events.as_slice())?
        });
    }
    let known: BTreeMap<Offset, u32> =
        grant.ranges.iter().zip(grant.attempts.iter().copied()).collect();
    let attempts = if grant.attempts.is_empty() {
        Vec::new()
    } else {
        let offsets = pieces.iter().flat_map(|(.., events)| events.iter());
        offsets.map(|offset| known.get(&offset).copied().unwrap_or(1)).collect()
    };
    Ok(Delivery {
        lease_id: grant.lease_id,
        term: grant.term,
        topic_id: grant.topic_id,
        expires_at: grant.expires_at,
        batches,
        attempts,
    })
}

/// Deliveries on their way to a consumer. What nobody takes is released.
pub(super) struct HandOut {
    pub(super) node: Arc<Node>,
    pub(super) subscription: String,
    pub(super) consumer: String,
    pub(super) deliveries: Vec<Delivery>,
}

impl HandOut {
    /// Takes them: from now on they are the taker's to settle.
    pub(super) fn take(mut self) -> Vec<Delivery> {
        std::mem::take(&mut self.deliveries)
    }
}

impl Drop for HandOut {
    fn drop(&mut self) {
        if self.deliveries.is_empty() || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let items = self.deliveries.iter().map(released).collect();
        let (node, consumer) = (Arc::clone(&self.node), std::mem::take(&mut self.consumer));
        let subscription = std::mem::take(&mut self.subscription);
        tasks::spawn("release", async move {
            // When it fails the leases expire.
            if let Err(rejection) = node.settle(subscription, consumer, items).await {
                tracing::debug!(%rejection, "deliveries that nobody took are not released");
            }
        });
    }
}

fn released(delivery: &Delivery) -> SettleItem {
    SettleItem {
        lease_id: delivery.lease_id.get(),
        term: delivery.term.get(),
        topic_id: delivery.topic_id.get(),
        ranges: Vec::new(),
        action: Some(Action::Release(Release {})),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::mem::MemKv;
    use crate::machine::overlay::Overlay;
    use crate::machine::topic::batch;
    use crate::machine::topic::open_batch::OpenBatch;
    use crate::model::event_run;
    use crate::model::ids::Position;

    /// Events of a topic as a batch; each is the text of its offset.
    fn part(topic: u64, first: u64, count: u64) -> Part {
        let mut kv = MemKv::default();
        let mut open =
            OpenBatch::new(TopicId(topic), "t", (Offset(first), Position(first)), UnixMs(1));
        let events: Vec<_> = (first..first + count).map(|n| n.to_string().into()).collect();
        open.push(u32::try_from(count).unwrap(), &event_run::encode(&events), &[]);
        let mut overlay = Overlay::new(&kv);
        open.write(&mut overlay);
        let writes = overlay.into_writes();
        kv.write(writes);
        let (_, batch) = batch::containing(&kv, TopicId(topic), Offset(first)).unwrap().unwrap();
        Part {
            topic: TopicId(topic),
            events: Ranges::from_unsorted(&[OffsetRange { first, count }]),
            batch,
        }
    }

    fn grant(lease: u64, topic: u64, offsets: &[u64], attempts: &[u32]) -> Granted {
        Granted {
            lease_id: LeaseId(lease),
            term: Term(1),
            topic_id: TopicId(topic),
            ranges: Ranges::from_iter(offsets.iter().copied().map(Offset)),
            attempts: attempts.to_vec(),
            due: vec![UnixMs(1); attempts.len()],
            delayed: false,
            expires_at: UnixMs(9),
        }
    }

    /// Lease, and event with attempt in the order of delivery.
    fn shown(deliveries: &[Delivery]) -> Vec<(u64, Vec<(String, u32)>)> {
        let of_one = |delivery: &Delivery| {
            let mut attempts = delivery.attempts.iter().copied();
            let mut events = Vec::new();
            for batch in &delivery.batches {
                for event in event_run::iter(batch.view().unwrap().run) {
                    let text = String::from_utf8(event.unwrap().to_vec()).unwrap();
                    events.push((text, attempts.next().unwrap_or(1)));
                }
            }
            (delivery.lease_id.get(), events)
        };
        deliveries.iter().map(of_one).collect()
    }

    fn first_attempts(texts: &[&str]) -> Vec<(String, u32)> {
        texts.iter().map(|text| ((*text).to_owned(), 1)).collect()
    }

    #[test]
    fn what_was_granted_is_handed_out_in_the_order_of_urgency() {
        let parts = [part(1, 40, 2), part(2, 0, 1), part(1, 10, 4)];
        let grants = vec![grant(5, 1, &[10, 11, 13, 40, 41], &[]), grant(6, 2, &[0], &[])];
        let found = deliveries(grants, &parts).unwrap();
        assert_eq!(
            shown(&found),
            [(5, first_attempts(&["40", "41", "10", "11", "13"])), (6, first_attempts(&["0"])),]
        );
        assert_eq!((found[0].events(), found[0].batches.len()), (5, 2));
    }

    #[test]
    fn attempts_go_with_their_events() {
        let parts = [part(1, 40, 1), part(1, 10, 2)];
        let found = deliveries(vec![grant(5, 1, &[10, 11, 40], &[2, 3, 4])], &parts).unwrap();
        let expected = [("40", 4), ("10", 2), ("11", 3)].map(|(t, n)| (t.to_owned(), n));
        assert_eq!(shown(&found), [(5, expected.to_vec())]);
    }

    #[test]
    fn what_was_not_granted_is_not_handed_out() {
        let parts = [part(1, 10, 4)];
        assert!(deliveries(Vec::new(), &parts).unwrap().is_empty());
        let found = deliveries(vec![grant(1, 1, &[12], &[])], &parts).unwrap();
        assert_eq!(shown(&found), [(1, first_attempts(&["12"]))]);
    }
}
