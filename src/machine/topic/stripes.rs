//! Stripes: the events of one priority of a large batch of several, in a row of their own.
//!
//! Dispatch takes one priority after the other. Were all in one row, it would read each batch once
//! for each priority; so each event is read once. Readers of the log put them together again.
//!
//! Key: topic, stripe (u8), first offset of the batch: what dispatch reads one after the other lies so.
//! A row's body is the number of events (u32 LE) and an encoded `messagehub.v1.EventBatch` with deltas.

use std::ops::ControlFlow;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::batch::{Batch, Columns, Head, corrupt, encode};
use crate::machine::Fault;
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::overlay::Overlay;
use crate::machine::record::{Kind, body, finish, start};
use crate::machine::schedule::specials::SpecialRecord;
use crate::model::event_run;
use crate::model::ids::{Offset, TopicId};
use crate::model::limits::{PRIORITY_DEFAULT, PRIORITY_MAX, STRIPED_BATCH_BYTES_MIN};

const STRIPES: usize = PRIORITY_MAX as usize + 1;

fn key(topic: TopicId, first: Offset, stripe: u8) -> Vec<u8> {
    [&topic.to_key()[..], &[stripe], &first.to_key()[..]].concat()
}

fn stripe(priority: u32) -> u8 {
    u8::try_from(priority.min(PRIORITY_MAX)).unwrap_or(u8::MAX)
}

/// The stripe of each event of a batch, by its priority; empty when stripes are not worth it.
pub(super) fn order_of(
    first: Offset,
    count: u32,
    bytes: usize,
    specials: &[(Offset, SpecialRecord)],
) -> Vec<u8> {
    if bytes < STRIPED_BATCH_BYTES_MIN || specials.is_empty() {
        return Vec::new();
    }
    let mut order = vec![stripe(PRIORITY_DEFAULT); count as usize];
    for (offset, special) in specials {
        let at = usize::try_from(offset.since(first)).unwrap_or(usize::MAX);
        if let Some(slot) = order.get_mut(at) {
            *slot = stripe(special.priority);
        }
    }
    let all_the_same = order.iter().all(|stripe| *stripe == order[0]);
    if all_the_same { Vec::new() } else { order }
}

/// Events of one priority while they are collected.
#[derive(Default)]
struct Stripe {
    /// How far the first is behind the batch's first.
    behind: u64,
    columns: (Vec<u64>, Vec<u64>),
    run: BytesMut,
}

/// Writes the events of a batch, each into the row of its stripe. `versions` has one an event, or
/// none at all.
pub(super) fn write<K: Kv>(
    overlay: &mut Overlay<'_, K>,
    topic: TopicId,
    head: Head<'_>,
    order: &[u8],
    (versions, run): (&[u64], &[u8]),
) {
    let mut stripes: [Option<Stripe>; STRIPES] = Default::default();
    // The run was framed by whoever publishes, event by event.
    for ((event, stripe), at) in event_run::iter(run).flatten().zip(order).zip(0_u64..) {
        let Some(stripe) = stripes.get_mut(usize::from(*stripe)) else { continue };
        let stripe = stripe.get_or_insert_with(|| Stripe { behind: at, ..Stripe::default() });
        stripe.columns.0.extend(usize::try_from(at).ok().and_then(|at| versions.get(at)));
        stripe.columns.1.push(at - stripe.behind);
        event_run::push(&mut stripe.run, event);
    }
    for (stripe, number) in stripes.into_iter().zip(0..) {
        let Some(Stripe { behind, columns: (versions, deltas), run }) = stripe else { continue };
        let room = run.len() + head.topic.len() + 64 + (versions.len() + deltas.len()) * 10;
        let mut row = start(Kind::Stripe, room);
        row.put_u32_le(u32::try_from(deltas.len()).unwrap_or(u32::MAX));
        let of_stripe = Head {
            first_offset: head.first_offset.plus(behind),
            first_position: head.first_position.plus(behind),
            ..head
        };
        let columns = Columns { versions: &versions, deltas: &deltas };
        encode(&mut row, of_stripe, columns, &run);
        overlay.put(Table::Stripes, key(topic, head.first_offset, number), finish(row));
    }
}

fn decode(row: &[u8]) -> Result<Batch, Fault> {
    let mut rest = body(Kind::Stripe, row)?;
    let count = rest.try_get_u32_le().map_err(|_| corrupt("no count of a stripe"))?;
    Ok(Batch { count, encoded: Bytes::copy_from_slice(rest) })
}

/// Visits the rows of one stripe of the batches that begin in a range, until the visitor breaks.
///
/// # Errors
/// When the store fails or a row is corrupt, or the visitor's.
pub(super) fn visit(
    kv: &impl Kv,
    topic: TopicId,
    (from, until): (Offset, Offset),
    stripe: u8,
    visitor: &mut impl FnMut(Batch) -> Result<ControlFlow<()>, Fault>,
) -> Result<(), Fault> {
    let (low, high) = (key(topic, from, stripe), key(topic, until, stripe));
    kv.scan(Table::Stripes, &low, &high, Order::Ascending, &mut |_, row| visitor(decode(row)?))
}

/// All events of a batch in their order, as an [`event_run`].
pub(super) fn assemble(
    kv: &impl Kv,
    topic: TopicId,
    first: Offset,
    order: &[u8],
) -> Result<Bytes, Fault> {
    let mut rows: [Option<Batch>; STRIPES] = Default::default();
    let mut bytes = 0;
    for stripe in order {
        let known = rows.get_mut(usize::from(*stripe)).ok_or_else(|| corrupt("unknown stripe"))?;
        if known.is_none() {
            let row = kv.get(Table::Stripes, &key(topic, first, *stripe))?;
            let batch = decode(&row.ok_or_else(|| corrupt("a stripe is missing"))?)?;
            bytes += batch.view()?.run.len();
            *known = Some(batch);
        }
    }
    let mut events: [_; STRIPES] = std::array::from_fn(|_| event_run::iter(&[]));
    for (events, row) in events.iter_mut().zip(&rows) {
        if let Some(row) = row {
            *events = event_run::iter(row.view()?.run);
        }
    }
    let mut run = BytesMut::with_capacity(bytes);
    for stripe in order {
        let event = events[usize::from(*stripe)].next();
        event_run::push(&mut run, event.ok_or_else(|| corrupt("a stripe is too short"))??);
    }
    if run.len() == bytes { Ok(run.freeze()) } else { Err(corrupt("a stripe is too long")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::mem::MemKv;
    use crate::machine::topic::batch::{StoredBatch, stored_at};
    use crate::machine::topic::cutter::Cutter;
    use crate::machine::topic::open_batch::{Keyed, OpenBatch};
    use crate::model::ids::{KeyVersion, Position, UnixMs};
    use crate::model::ranges::OffsetRange;

    /// Events 10.. of topic 3 with these priorities, each of 50 bytes and with its offset as version.
    fn stored(priorities: &[u32]) -> (MemKv, StoredBatch) {
        let mut kv = MemKv::default();
        let mut open = OpenBatch::new(TopicId(3), "t", (Offset(10), Position(90)), UnixMs(5));
        for (priority, n) in priorities.iter().zip(10_u8..) {
            let keyed = Keyed { version: KeyVersion(u64::from(n)), back: 0 };
            open.push(1, &event_run::encode(&[vec![n; 50].into()]), &[keyed]);
            if *priority != PRIORITY_DEFAULT {
                let special = SpecialRecord { priority: *priority, ..SpecialRecord::default() };
                open.specials.push((Offset(u64::from(n)), special));
            }
        }
        let mut overlay = Overlay::new(&kv);
        open.write(&mut overlay);
        let writes = overlay.into_writes();
        kv.write(writes);
        let stored = stored_at(&kv, TopicId(3), Offset(10)).unwrap().unwrap();
        (kv, stored)
    }

    fn events(run: &[u8]) -> Vec<u8> {
        event_run::iter(run).map(|event| event.unwrap()[0]).collect()
    }

    #[test]
    fn a_batch_of_several_priorities_is_put_together_in_order() {
        let (kv, stored) = stored(&[4, 9, 0, 9, 9, 4]);
        assert!(stored.head().unwrap().run.is_empty());
        let stripes = [10, 12, 13, 15, 16].map(|at| stored.stripe_of(Offset(at)));
        assert_eq!(stripes, [Some(4), Some(0), Some(9), Some(4), None]);
        let whole = stored.whole(&kv, TopicId(3)).unwrap();
        let view = whole.view().unwrap();
        assert_eq!(events(view.run), [10, 11, 12, 13, 14, 15]);
        assert_eq!(view.version_at(Offset(13)), KeyVersion(13));
    }

    #[test]
    fn a_stripe_keeps_places_and_versions() {
        let (kv, _) = stored(&[4, 9, 0, 9, 9, 4]);
        let mut rows = Vec::new();
        visit(&kv, TopicId(3), (Offset(10), Offset(99)), 9, &mut |batch| {
            rows.push(batch);
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
        let view = rows[0].view().unwrap();
        assert_eq!((rows.len(), rows[0].count), (1, 3));
        assert_eq!((view.first_offset, view.first_position), (Offset(11), Position(91)));
        assert_eq!((events(view.run), &view.deltas[..]), (vec![11, 13, 14], &[0, 2, 3][..]));
        assert_eq!(view.versions, [11, 13, 14]);
        let urgent = Cutter::new(rows[0].clone()).unwrap();
        let range = |first, count| OffsetRange { first, count };
        let part = urgent.gather(&[range(13, 2)]).unwrap();
        let view = part.view().unwrap();
        assert_eq!((view.first_offset, view.first_position), (Offset(13), Position(93)));
        assert_eq!((events(view.run), &view.versions[..]), (vec![13, 14], &[13, 14][..]));
        for bad in [range(12, 1), range(11, 2), range(14, 2), range(9, 1), range(16, 1)] {
            assert!(urgent.gather(&[bad]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn small_batches_and_those_of_one_priority_are_one_row() {
        for priorities in [&[4, 9][..], &[9; 6], &[4; 6]] {
            let (_, stored) = stored(priorities);
            assert_eq!(stored.stripe_of(Offset(10)), None);
            assert_eq!(stored.head().unwrap().run.len(), priorities.len() * 52);
        }
    }

    #[test]
    fn a_missing_or_torn_stripe_is_told() {
        let (mut kv, stored) = stored(&[4, 9, 0, 9, 9, 4]);
        let row = key(TopicId(3), Offset(10), 9);
        let mut short = start(Kind::Stripe, 60);
        short.put_u32_le(1);
        event_run::push(&mut short, &[1; 50]);
        kv.write(vec![crate::machine::kv::Write::Put(Table::Stripes, row.clone(), finish(short))]);
        assert!(stored.clone().whole(&kv, TopicId(3)).is_err());
        kv.write(vec![crate::machine::kv::Write::Delete(Table::Stripes, row)]);
        assert!(stored.whole(&kv, TopicId(3)).is_err());
    }
}
