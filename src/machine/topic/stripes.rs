//! Stripes: the events of one priority of a large batch of several, in a row of their own.
//!
//! Dispatch takes one priority after the other. Were all in one row, it would read each batch once
//! for each priority; so each event is read once. Readers of the log put them together again.
//!
//! Key: topic, stripe (u8), first offset of the batch: what dispatch reads in a row lies in a row. A
//! row's body is an [`event_run`].

use bytes::{Bytes, BytesMut};

use super::batch::{self, corrupt};
use crate::machine::Fault;
use crate::machine::kv::{Kv, Table};
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

/// Writes the events of a batch, each into the row of its stripe.
pub(super) fn write<K: Kv>(
    overlay: &mut Overlay<'_, K>,
    topic: TopicId,
    first: Offset,
    order: &[u8],
    run: &[u8],
) {
    let mut stripes: [Option<BytesMut>; STRIPES] = Default::default();
    // The run was framed by the machine's own caller, event by event.
    for (event, stripe) in event_run::iter(run).flatten().zip(order) {
        if let Some(stripe) = stripes.get_mut(usize::from(*stripe)) {
            let row = stripe.get_or_insert_with(|| start(Kind::Stripe, run.len() / 4));
            event_run::push(row, event);
        }
    }
    for (row, stripe) in stripes.into_iter().zip(0..) {
        if let Some(row) = row {
            overlay.put(Table::Stripes, key(topic, first, stripe), finish(row));
        }
    }
}

/// The events of one stripe, as an [`event_run`].
pub(super) fn read(
    kv: &impl Kv,
    topic: TopicId,
    first: Offset,
    stripe: u8,
) -> Result<Bytes, Fault> {
    let row = kv.get(Table::Stripes, &key(topic, first, stripe))?;
    let row = row.ok_or_else(|| corrupt("a stripe is missing"))?;
    Ok(row.slice_ref(body(Kind::Stripe, &row)?))
}

/// All events of a batch in their order, as an [`event_run`].
pub(super) fn assemble(
    kv: &impl Kv,
    topic: TopicId,
    first: Offset,
    order: &[u8],
) -> Result<Bytes, Fault> {
    let mut rows: [Option<Bytes>; STRIPES] = Default::default();
    let mut bytes = 0;
    for stripe in order {
        let row = rows.get_mut(usize::from(*stripe)).ok_or_else(|| corrupt("unknown stripe"))?;
        if row.is_none() {
            let run = read(kv, topic, first, *stripe)?;
            bytes += run.len();
            *row = Some(run);
        }
    }
    let mut events = rows.each_ref().map(|row| event_run::iter(row.as_deref().unwrap_or_default()));
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
        let run = |at| (stored.stripe_of(Offset(at)), stored.neighbours(Offset(at)));
        assert_eq!((run(10), run(12)), ((Some(4), 1), (Some(0), 1)));
        assert_eq!((run(13), run(14), run(15)), ((Some(9), 2), (Some(9), 1), (Some(4), 1)));
        let whole = stored.whole(&kv, TopicId(3)).unwrap();
        let view = whole.view().unwrap();
        assert_eq!(events(view.run), [10, 11, 12, 13, 14, 15]);
        assert_eq!(view.version_at(Offset(13)), KeyVersion(13));
    }

    #[test]
    fn parts_of_a_stripe_keep_their_places() {
        let (kv, stored) = stored(&[4, 9, 0, 9, 9, 4]);
        let urgent = stored.cutter(&kv, TopicId(3), Some(9)).unwrap();
        let range = |first, count| OffsetRange { first, count };
        let part = urgent.gather(&[range(13, 2)]).unwrap();
        let view = part.view().unwrap();
        assert_eq!((view.first_offset, view.first_position), (Offset(13), Position(93)));
        assert_eq!((events(view.run), &view.versions[..]), (vec![13, 14], &[13, 14][..]));
        let all = urgent.gather(&[range(11, 1), range(13, 2)]).unwrap();
        let view = all.view().unwrap();
        assert_eq!((events(view.run), &view.deltas[..]), (vec![11, 13, 14], &[0, 2, 3][..]));
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
        event_run::push(&mut short, &[1; 50]);
        kv.write(vec![crate::machine::kv::Write::Put(Table::Stripes, row.clone(), finish(short))]);
        assert!(stored.clone().whole(&kv, TopicId(3)).is_err());
        assert!(stored.cutter(&kv, TopicId(3), Some(9)).is_err());
        kv.write(vec![crate::machine::kv::Write::Delete(Table::Stripes, row)]);
        assert!(stored.whole(&kv, TopicId(3)).is_err());
    }
}
