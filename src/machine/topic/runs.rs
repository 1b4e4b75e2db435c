//! Reading runs of neighbouring events as batches, within a budget of bytes.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::batch::{self, Batch, StoredBatch, corrupt};
use super::cutter::Cutter;
use super::stripes;
use crate::machine::Fault;
use crate::machine::kv::{Kv, Order, Table};
use crate::model::ids::{Offset, TopicId};
use crate::model::limits::{AHEAD_READERS, RUN_READER_BYTES};
use crate::model::ranges::{OffsetRange, Ranges};

/// What a reader does when not even one event is within the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Least {
    /// It takes none.
    None,
    /// It takes one.
    One,
}

/// What became of a wish for events.
#[derive(Clone, Debug)]
pub enum Taken {
    /// The first of them that are stored together, as a batch, and which these are.
    Batch(Batch, Ranges),
    /// The bytes do not suffice.
    Full,
    /// The first event is gone.
    Gone,
}

/// Reads runs of events. It remembers what it read last, which never changes.
#[derive(Clone, Debug, Default)]
pub struct RunReader {
    /// The last is forgotten first.
    read: VecDeque<Part>,
    /// What was taken from last.
    last: Option<Part>,
    /// Where that is in what was read: what is wanted next is there or follows.
    at: usize,
}

/// A stored batch, or one stripe of it.
#[derive(Clone, Debug)]
pub struct Part {
    topic: TopicId,
    stripe: Option<u8>,
    events: Arc<Cutter>,
}

impl RunReader {
    /// The first events of ranges, which are sorted: as many as are stored together and the bounds
    /// allow.
    ///
    /// # Errors
    /// When the store fails or the batch is corrupt.
    pub fn take(
        &mut self,
        kv: &impl Kv,
        topic: TopicId,
        ranges: &[OffsetRange],
        (events_max, bytes_max): (u64, usize),
        least: Least,
    ) -> Result<Taken, Fault> {
        let Some(part) = self.part(kv, topic, ranges, bytes_max)? else { return Ok(Taken::Gone) };
        let part = &self.last.insert(part).events;
        if let Some(all) = part.all_of(ranges, (events_max, bytes_max)) {
            return Ok(Taken::Batch(part.whole(), all));
        }
        let (mut taken, mut room) = (Ranges::new(), part.room(bytes_max));
        let mut wanted = events_max;
        for range in ranges {
            if wanted == 0 || !part.has(Offset(range.first)) {
                break;
            }
            let together = part.neighbours(*range)?.min(wanted);
            let fitting;
            (fitting, room) = part.fitting(OffsetRange { count: together, ..*range }, room)?;
            let least = u64::from(least == Least::One && taken.is_empty());
            let count = fitting.max(least);
            taken.push(OffsetRange { count, ..*range });
            wanted -= count;
            if fitting < range.count {
                break;
            }
        }
        if taken.is_empty() {
            return Ok(Taken::Full);
        }
        Ok(Taken::Batch(part.gather(taken.as_slice())?, taken))
    }

    /// What the first of the ranges is stored in. More that they need is read on the way.
    fn part(
        &mut self,
        kv: &impl Kv,
        topic: TopicId,
        ranges: &[OffsetRange],
        bytes_max: usize,
    ) -> Result<Option<Part>, Fault> {
        let first = Offset(ranges.first().map_or(0, |range| range.first));
        let known = |part: &&Part| part.topic == topic && part.events.has(first);
        let (before, onwards) = (self.read.iter().take(self.at), self.read.iter().skip(self.at));
        let numbered = (self.at..).zip(onwards).chain((0..).zip(before));
        if let Some((at, part)) = { numbered }.find(|(_, part)| known(part)) {
            self.at = at;
            return Ok(Some(part.clone()));
        }
        let Some(stored) = batch::stored_at(kv, topic, first)? else { return Ok(None) };
        let Some(stripe) = stored.stripe_of(first) else {
            let part = Part { topic, stripe: None, events: Arc::new(Cutter::new(stored.row())?) };
            self.remember(std::slice::from_ref(&part));
            return Ok(Some(part));
        };
        let (mut ahead, mut bytes, mut wanted) = (Vec::new(), 0, first);
        let onwards = (stored.first, Offset(u64::MAX));
        stripes::visit(kv, topic, onwards, stripe, &mut |row| {
            bytes += row.encoded.len();
            let events = Arc::new(Cutter::new(row)?);
            if !events.has(wanted) {
                return Ok(ControlFlow::Break(()));
            }
            let end = events.end();
            ahead.push(Part { topic, stripe: Some(stripe), events });
            let next = ranges.get(ranges.partition_point(|range| range.end() <= end.get()));
            wanted = next.map_or(end, |range| end.max(Offset(range.first)));
            let more = next.is_some() && bytes < bytes_max.min(RUN_READER_BYTES);
            Ok(if more { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        self.remember(&ahead);
        let part = ahead.into_iter().next();
        part.map(Some).ok_or_else(|| corrupt("an event is not in its stripe"))
    }

    fn remember(&mut self, parts: &[Part]) {
        self.at = 0;
        parts.iter().rev().for_each(|part| self.read.push_front(part.clone()));
        let mut bytes: usize = self.read.iter().map(|part| part.events.bytes()).sum();
        while bytes > RUN_READER_BYTES
            && self.read.len() > 1
            && let Some(part) = self.read.pop_back()
        {
            bytes -= part.events.bytes();
        }
    }

    /// What to read so that it is there when it is wanted: what follows what was taken last, as far
    /// as the memory goes. What lies before is forgotten.
    pub fn look_ahead(&mut self) -> Vec<Ahead> {
        let Some(Part { topic, stripe, events }) = self.last.take() else { return Vec::new() };
        let from = events.first();
        self.at = 0;
        self.read.retain(|part| {
            part.topic == topic && part.stripe == stripe && part.events.first() >= from
        });
        let known: usize = self.read.iter().map(|part| part.events.bytes()).sum();
        // Little by little, much would be read that is not asked for.
        if known > RUN_READER_BYTES / 2 || known + events.bytes() > RUN_READER_BYTES {
            return Vec::new();
        }
        let room = ((RUN_READER_BYTES - known) / AHEAD_READERS).max(events.bytes());
        let end = self.read.iter().map(|part| part.events.end()).max().unwrap_or(events.end());
        // As if what follows were like this.
        let offsets = events.end().since(from) * (room / events.bytes().max(1)) as u64;
        let each = |n: u64| {
            let from = end.plus(n * offsets);
            Ahead { topic, stripe, from, until: from.plus(offsets), bytes: room }
        };
        let readers = AHEAD_READERS.min((RUN_READER_BYTES - known) / room.max(1));
        (0..readers as u64).map(each).collect()
    }

    /// Remembers what was read ahead, as it follows.
    pub fn keep(&mut self, read: impl IntoIterator<Item = Vec<Part>>) {
        self.read.extend(read.into_iter().flatten());
    }
}

/// Batches, or parts of one stripe, that are read ahead.
#[derive(Clone, Copy, Debug)]
pub struct Ahead {
    topic: TopicId,
    stripe: Option<u8>,
    from: Offset,
    until: Offset,
    bytes: usize,
}

impl Ahead {
    /// Reads them.
    ///
    /// # Errors
    /// When the store fails or a batch is corrupt.
    pub fn read(self, kv: &impl Kv) -> Result<Vec<Part>, Fault> {
        let Self { topic, stripe, from, until, bytes: mut room } = self;
        let mut parts = Vec::new();
        let mut take = |batch: Batch| {
            let events = Arc::new(Cutter::new(batch)?);
            let fits = events.bytes() <= room;
            if fits {
                room -= events.bytes();
                parts.push(Part { topic, stripe, events });
            }
            Ok(if fits { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        };
        if let Some(stripe) = stripe {
            stripes::visit(kv, topic, (from, until), stripe, &mut take)?;
        } else {
            let (low, high) = (batch::key(topic, from), batch::key(topic, until));
            kv.scan(Table::Batches, &low, &high, Order::Ascending, &mut |key, row| {
                let stored = StoredBatch::decode(key, row)?;
                if stored.is_striped() { Ok(ControlFlow::Break(())) } else { take(stored.row()) }
            })?;
        }
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::machine::mem::MemKv;
    use crate::machine::overlay::Overlay;
    use crate::machine::schedule::specials::SpecialRecord;
    use crate::machine::topic::open_batch::{Keyed, OpenBatch};
    use crate::model::event_run;
    use crate::model::ids::{KeyVersion, Position, UnixMs};

    /// Events 10..14 and 14..16 of topic 3, each of 100 bytes.
    fn stored() -> MemKv {
        let mut kv = MemKv::default();
        let mut overlay = Overlay::new(&kv);
        for (first, count) in [(10, 4), (14, 2)] {
            let at = (Offset(first), Position(first + 90));
            let mut open = OpenBatch::new(TopicId(3), "orders", at, UnixMs(5));
            let events: Vec<_> = (0..count).map(|_| vec![b'x'; 100].into()).collect();
            open.push(count, &event_run::encode(&events), &[]);
            open.write(&mut overlay);
        }
        let writes = overlay.into_writes();
        kv.write(writes);
        kv
    }

    fn take(range: (u64, u64), bytes_max: usize, least: Least) -> Option<(u64, u32)> {
        let (kv, mut reader) = (stored(), RunReader::default());
        let range = OffsetRange { first: range.0, count: range.1 };
        match reader.take(&kv, TopicId(3), &[range], (99, bytes_max), least).unwrap() {
            Taken::Batch(batch, taken) => {
                assert!(batch.encoded.len() <= bytes_max || batch.count == 1);
                assert_eq!(taken.count(), u64::from(batch.count));
                Some((batch.view().unwrap().first_offset.get(), batch.count))
            }
            Taken::Full => Some((0, 0)),
            Taken::Gone => None,
        }
    }

    #[test]
    fn a_run_ends_with_its_batch_its_range_or_its_bytes() {
        assert_eq!(take((10, 9), 9999, Least::None), Some((10, 4)));
        assert_eq!(take((11, 9), 9999, Least::None), Some((11, 3)));
        assert_eq!(take((11, 2), 9999, Least::None), Some((11, 2)));
        assert_eq!(take((14, 9), 9999, Least::None), Some((14, 2)));
        assert_eq!(take((10, 9), 300, Least::None), Some((10, 2)));
        assert_eq!(take((10, 9), 9, Least::None), Some((0, 0)));
        assert_eq!(take((10, 9), 9, Least::One), Some((10, 1)));
        assert_eq!(take((9, 1), 9999, Least::One), None);
        assert_eq!(take((16, 1), 9999, Least::One), None);
    }

    #[test]
    fn what_was_read_is_remembered_within_a_bound() {
        let (kv, mut reader) = (stored(), RunReader::default());
        let one = |first| [OffsetRange { first, count: 1 }];
        for offset in [10, 11, 14, 12, 15] {
            reader.take(&kv, TopicId(3), &one(offset), (1, 9999), Least::One).unwrap();
        }
        assert_eq!(reader.read.len(), 2);
        let gone = MemKv::default();
        let taken = reader.take(&gone, TopicId(3), &one(13), (1, 9999), Least::One).unwrap();
        assert!(matches!(taken, Taken::Batch(..)));
    }

    fn read_ahead(reader: &mut RunReader, kv: &MemKv) {
        let ahead: Vec<_> =
            reader.look_ahead().iter().map(|ahead| ahead.read(kv).unwrap()).collect();
        reader.keep(ahead);
    }

    #[test]
    fn what_is_read_ahead_is_there() {
        let (kv, mut reader) = (stored(), RunReader::default());
        let range = |first, count| [OffsetRange { first, count }];
        reader.take(&kv, TopicId(3), &range(10, 1), (1, 9999), Least::One).unwrap();
        read_ahead(&mut reader, &kv);
        let gone = MemKv::default();
        for offset in [11, 14, 15] {
            let taken = reader.take(&gone, TopicId(3), &range(offset, 1), (1, 9999), Least::One);
            assert!(matches!(taken.unwrap(), Taken::Batch(..)), "{offset}");
        }
        // Nothing follows, and what lies before is forgotten.
        read_ahead(&mut reader, &kv);
        let taken = reader.take(&gone, TopicId(3), &range(11, 1), (1, 9999), Least::One);
        assert!(matches!(taken.unwrap(), Taken::Gone));
    }

    /// Batches of events with priorities, keys and lengths; which offsets are wanted; bounds.
    type Case = (Vec<Vec<(u32, bool, usize)>>, Vec<bool>, (u64, usize));

    fn cases() -> impl Strategy<Value = Case> {
        let event = (0..3_u32, any::<bool>(), 0..90_usize);
        let batches = vec(vec(event, 1..20), 1..5);
        (batches, vec(any::<bool>(), 80), (1..30_u64, 40..900_usize))
    }

    proptest! {
        /// Whatever is asked for comes, in order, with its bytes, place and key version.
        #[test]
        fn what_is_wanted_comes_and_nothing_else((batches, wanted, bounds) in cases()) {
            let mut kv = MemKv::default();
            let (mut next, mut events) = (10_u64, Vec::new());
            for batch in &batches {
                let at = (Offset(next), Position(next * 2));
                let mut overlay = Overlay::new(&kv);
                let mut open = OpenBatch::new(TopicId(3), "t", at, UnixMs(5));
                for (priority, has_key, len) in batch {
                    let version = KeyVersion(if *has_key { next } else { 0 });
                    let bytes = vec![u8::try_from(next).unwrap(); *len];
                    let run = event_run::encode(&[bytes.clone().into()]);
                    open.push(1, &run, &[Keyed { version, back: 0 }]);
                    let special = SpecialRecord { priority: *priority, ..SpecialRecord::default() };
                    open.specials.push((Offset(next), special));
                    events.push((next, at.1.get() + next - at.0.get(), version.get(), bytes));
                    next += 1;
                }
                open.write(&mut overlay);
                let writes = overlay.into_writes();
                kv.write(writes);
            }
            let whole = batch::containing(&kv, TopicId(3), Offset(10)).unwrap().unwrap().1;
            let first_batch = &events[..batches[0].len()];
            prop_assert_eq!(shown(&whole), first_batch);
            let asked = events.iter().zip(&wanted).filter(|(_, wanted)| **wanted);
            let expected: Vec<_> = asked.map(|(event, _)| event.clone()).collect();
            let offsets = expected.iter().map(|(offset, ..)| Offset(*offset));
            let (mut left, mut reader) = (Ranges::from_iter(offsets), RunReader::default());
            let mut found = Vec::new();
            while !left.is_empty() {
                let least = Least::One;
                let taken = reader.take(&kv, TopicId(3), left.as_slice(), bounds, least).unwrap();
                let Taken::Batch(batch, taken) = taken else { panic!("{taken:?}") };
                prop_assert!(u64::from(batch.count) <= bounds.0);
                prop_assert!(batch.encoded.len() <= bounds.1 || batch.count == 1);
                if taken.count() % 3 == 0 {
                    read_ahead(&mut reader, &kv);
                }
                // Any part of it can be had from it.
                let half = Ranges::from_iter(taken.iter().step_by(2));
                let of_half = Cutter::new(batch.clone()).unwrap().gather(half.as_slice()).unwrap();
                let every_second: Vec<_> = shown(&batch).into_iter().step_by(2).collect();
                prop_assert_eq!(shown(&of_half), every_second);
                found.extend(shown(&batch));
                left = left.minus(&taken);
            }
            prop_assert_eq!(found, expected);
        }
    }

    /// Offset, position, key version and bytes of each event.
    fn shown(batch: &Batch) -> Vec<(u64, u64, u64, Vec<u8>)> {
        let view = batch.view().unwrap();
        let events = event_run::iter(view.run).enumerate().map(|(at, event)| {
            let delta = view.deltas.get(at).copied().unwrap_or(at as u64);
            let version = view.versions.get(at).copied().unwrap_or(0);
            let (offset, position) = (view.first_offset.get(), view.first_position.get());
            (offset + delta, position + delta, version, event.unwrap().to_vec())
        });
        events.collect()
    }
}
