//! Reading the state: topics, ranges of events, keys, single events.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::Fault;
use super::apply::Meta;
use super::kv::{Kv, Order, Table};
use super::topic::batch::{self, Batch, BatchView, Place, StoredBatch};
use super::topic::ids::{IdEntry, id_key, id_prefix};
use super::topic::keys;
use super::topic::record::TopicRecord;
use crate::model::event_run;
use crate::model::ids::{KeyVersion, Offset, Position, TopicId, UnixMs};
use crate::model::outcome::TopicInfo;

/// Larger than every key.
const END: [u8; 16] = [0xff; 16];
/// Positions that one read of the whole hub looks at: deleted topics leave some behind.
const POSITIONS_PER_READ: usize = 16_384;

/// A bounded part of a range of events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// Encoded `messagehub.v1.EventBatch`es. Descending reads have the newest batch first; inside
    /// a batch the order is always ascending.
    pub batches: Vec<Bytes>,
    /// Events in them.
    pub events: u64,
    /// Bytes of them.
    pub bytes: usize,
    /// The offset (or position) to go on from.
    pub next: u64,
    /// Nothing more was there.
    pub at_end: bool,
}

impl Chunk {
    fn push(&mut self, batch: &Batch) {
        self.events += u64::from(batch.count);
        self.bytes += batch.encoded.len();
        self.batches.push(batch.encoded.clone());
    }

    fn is_full(&self, bounds: Bounds) -> bool {
        self.events >= bounds.events || self.bytes >= bounds.bytes
    }
}

/// How much a read may return; at least one event comes back in any case.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Events.
    pub events: u64,
    /// Bytes; a batch may go over it, and the first event of a key.
    pub bytes: usize,
}

/// One event with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its offset.
    pub offset: Offset,
    /// Its position.
    pub position: Position,
    /// When the hub took it.
    pub recorded_at: UnixMs,
    /// The version of its key; 0 without one.
    pub key_version: KeyVersion,
    /// The encoded event.
    pub event: Bytes,
}

/// A topic by name.
///
/// # Errors
/// When the store fails or is corrupt; so for all functions here.
pub fn topic(kv: &impl Kv, name: &str) -> Result<Option<TopicInfo>, Fault> {
    let row = kv.get(Table::Topics, name.as_bytes())?;
    row.map(|row| Ok(TopicRecord::decode(&row)?.info(name))).transpose()
}

/// Topics after a name, in the order of names.
///
/// # Errors
/// See [`topic`].
pub fn topics(kv: &impl Kv, after: &str, limit: usize) -> Result<Vec<TopicInfo>, Fault> {
    let mut start = after.as_bytes().to_vec();
    start.push(0);
    let mut topics = Vec::new();
    kv.scan(Table::Topics, &start, &END, Order::Ascending, &mut |key, row| {
        if topics.len() == limit {
            return Ok(ControlFlow::Break(()));
        }
        topics.push(TopicRecord::decode(row)?.info(&String::from_utf8_lossy(key)));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(topics)
}

/// The position that the next event gets.
///
/// # Errors
/// See [`topic`].
pub fn next_position(kv: &impl Kv) -> Result<Position, Fault> {
    Ok(Position(Meta::load(kv)?.next_position))
}

/// The largest stamp seen.
///
/// # Errors
/// See [`topic`].
pub fn stamp(kv: &impl Kv) -> Result<UnixMs, Fault> {
    Ok(UnixMs(Meta::load(kv)?.stamp_ms))
}

/// Events of a topic from an offset on, upwards or downwards, the offset included.
///
/// # Errors
/// See [`topic`].
pub fn read_topic(
    kv: &impl Kv,
    topic: &TopicInfo,
    from: Offset,
    order: Order,
    bounds: Bounds,
) -> Result<Chunk, Fault> {
    match order {
        Order::Ascending => read_up(kv, topic, from.max(topic.first_offset), bounds),
        Order::Descending => read_down(kv, topic, from, bounds),
    }
}

fn read_up(kv: &impl Kv, topic: &TopicInfo, from: Offset, bounds: Bounds) -> Result<Chunk, Fault> {
    let mut chunk =
        Chunk { next: from.get(), at_end: from >= topic.next_offset, ..Chunk::default() };
    if chunk.at_end {
        return Ok(chunk);
    }
    let base = batch::stored_at(kv, topic.id, from)?.map_or(from, |stored| stored.first);
    let (low, high) = (batch::key(topic.id, base), batch::key(topic.id, topic.next_offset));
    kv.scan(Table::Batches, &low, &high, Order::Ascending, &mut |key, row| {
        let stored = StoredBatch::decode(key, row)?;
        let first = stored.first;
        let skip = small(Offset(chunk.next).since(first));
        let cut = stored.whole(kv, topic.id)?.cut(skip, small(bounds.events - chunk.events))?;
        chunk.next = first.get() + u64::from(skip) + u64::from(cut.count);
        chunk.push(&cut);
        Ok(if chunk.is_full(bounds) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    chunk.at_end = chunk.next >= topic.next_offset.get();
    Ok(chunk)
}

fn read_down(
    kv: &impl Kv,
    topic: &TopicInfo,
    from: Offset,
    bounds: Bounds,
) -> Result<Chunk, Fault> {
    let mut chunk = Chunk { at_end: true, ..Chunk::default() };
    let newest = topic.next_offset.get().saturating_sub(1).min(from.get());
    if topic.next_offset <= topic.first_offset || newest < topic.first_offset.get() {
        return Ok(chunk);
    }
    let (low, high) = (batch::key(topic.id, Offset(0)), batch::key(topic.id, Offset(newest + 1)));
    let mut lowest = newest + 1;
    kv.scan(Table::Batches, &low, &high, Order::Descending, &mut |key, row| {
        let stored = StoredBatch::decode(key, row)?;
        let first = stored.first;
        // Events of this batch below `lowest` that are still readable, the newest of them.
        let upto = small(lowest - first.get()).min(stored.count);
        let take = small(bounds.events - chunk.events)
            .min(upto)
            .min(small(lowest.saturating_sub(topic.first_offset.get())));
        if take == 0 {
            return Ok(ControlFlow::Break(()));
        }
        chunk.push(&stored.whole(kv, topic.id)?.cut(upto - take, take)?);
        lowest = first.get() + u64::from(upto - take);
        Ok(if chunk.is_full(bounds) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    chunk.at_end = lowest <= topic.first_offset.get();
    chunk.next = lowest.saturating_sub(1);
    Ok(chunk)
}

/// Events of the whole hub from a position on, the position included.
///
/// # Errors
/// See [`topic`].
pub fn read_hub(
    kv: &impl Kv,
    from: Position,
    order: Order,
    bounds: Bounds,
) -> Result<Chunk, Fault> {
    let end = next_position(kv)?;
    let mut chunk = Chunk { next: from.get(), at_end: true, ..Chunk::default() };
    let (low, high) = match order {
        Order::Ascending if from >= end => return Ok(chunk),
        Order::Ascending => (place_at(kv, from)?.map_or(from, |(base, _)| base), end),
        Order::Descending => (Position(0), from.next().min(end)),
    };
    let mut seen = 0;
    // Ascending: the next position to send. Descending: the one above the next to send.
    let mut cursor = if order == Order::Ascending { from.get() } else { high.get() };
    let mut whole = true;
    kv.scan(Table::Positions, &low.to_key(), &high.to_key(), order, &mut |key, row| {
        seen += 1;
        let (base, place) = (position_of(key)?, Place::decode(row)?);
        let until = base + u64::from(place.count);
        let (skip, take) = match order {
            Order::Ascending => {
                let skip = small(cursor.saturating_sub(base));
                (skip, (place.count - skip).min(small(bounds.events - chunk.events)))
            }
            Order::Descending => {
                let upto = small(cursor.min(until) - base);
                let take = upto.min(small(bounds.events - chunk.events));
                (upto - take, take)
            }
        };
        let at = batch::key(place.topic, place.first_offset);
        if let Some(row) = kv.get(Table::Batches, &at)? {
            let stored = StoredBatch::decode(&at, &row)?;
            chunk.push(&stored.whole(kv, place.topic)?.cut(skip, take)?);
        }
        cursor = match order {
            Order::Ascending => base + u64::from(skip + take),
            Order::Descending => base + u64::from(skip),
        };
        whole = !chunk.is_full(bounds) && seen < POSITIONS_PER_READ;
        Ok(if whole { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    match order {
        Order::Ascending => {
            chunk.next = if whole { end.get() } else { cursor };
            chunk.at_end = chunk.next >= end.get();
        }
        Order::Descending => {
            chunk.at_end = whole || cursor == 0;
            chunk.next = cursor.saturating_sub(1);
        }
    }
    Ok(chunk)
}

fn position_of(key: &[u8]) -> Result<u64, Fault> {
    let bytes = key.try_into().map_err(|_| Fault::Corrupt {
        record: super::record::Kind::Position,
        what: "malformed key".to_owned(),
    })?;
    Ok(u64::from_be_bytes(bytes))
}

/// The batch whose first position is the last one at or before `position`.
fn place_at(kv: &impl Kv, position: Position) -> Result<Option<(Position, Place)>, Fault> {
    let mut found = None;
    let high = position.next().to_key();
    kv.scan(Table::Positions, &[], &high, Order::Descending, &mut |key, row| {
        found = Some((Position(position_of(key)?), Place::decode(row)?));
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found)
}

/// The first position recorded at or after an instant; the end when there is none.
///
/// # Errors
/// See [`topic`].
pub fn position_of_time(kv: &impl Kv, instant: UnixMs) -> Result<Position, Fault> {
    position_of_time_before(kv, instant, next_position(kv)?)
}

/// The same where the end is known.
pub(crate) fn position_of_time_before(
    kv: &impl Kv,
    instant: UnixMs,
    end: Position,
) -> Result<Position, Fault> {
    let (mut low, mut high) = (0, end.get());
    while low < high {
        let middle = low + (high - low) / 2;
        match place_at(kv, Position(middle))? {
            Some((base, place)) if place.recorded_at >= instant => high = base.get(),
            Some((base, place)) => low = base.get() + u64::from(place.count),
            None => low = middle + 1,
        }
    }
    Ok(Position(low))
}

/// The first offset recorded at or after an instant; the end when there is none.
///
/// # Errors
/// See [`topic`].
pub fn offset_of_time(kv: &impl Kv, topic: &TopicInfo, instant: UnixMs) -> Result<Offset, Fault> {
    first_batch(kv, topic, |view, _| view.recorded_at >= instant)
}

/// The first offset at or after a position; the end when there is none.
///
/// # Errors
/// See [`topic`].
pub fn offset_of_position(
    kv: &impl Kv,
    topic: &TopicInfo,
    position: Position,
) -> Result<Offset, Fault> {
    let reaches =
        |view: &BatchView<'_>, count: u32| view.first_position.plus(u64::from(count)) > position;
    let base = first_batch(kv, topic, reaches)?;
    let Some(stored) = batch::stored_at(kv, topic.id, base)? else { return Ok(base) };
    Ok(base.max(stored.first.plus(position.since(stored.head()?.first_position))))
}

/// Binary search by seeks: recording instants and positions never decrease along a topic, so no
/// index is needed. The first offset of the first batch for which `holds`, or the end.
fn first_batch(
    kv: &impl Kv,
    topic: &TopicInfo,
    holds: impl Fn(&BatchView<'_>, u32) -> bool,
) -> Result<Offset, Fault> {
    let (mut low, mut high) = (topic.first_offset.get(), topic.next_offset.get());
    while low < high {
        let middle = low + (high - low) / 2;
        match batch::stored_at(kv, topic.id, Offset(middle))? {
            Some(stored) if holds(&stored.head()?, stored.count) => {
                high = stored.first.get().max(low);
            }
            Some(stored) => low = stored.first.get() + u64::from(stored.count),
            None => low = middle + 1,
        }
    }
    Ok(Offset(low))
}

/// The event at an offset.
///
/// # Errors
/// See [`topic`].
pub fn event_at(
    kv: &impl Kv,
    topic: &TopicInfo,
    offset: Offset,
) -> Result<Option<StoredEvent>, Fault> {
    if offset < topic.first_offset || offset >= topic.next_offset {
        return Ok(None);
    }
    stored_event(kv, topic.id, offset)
}

/// The event at an offset of a topic by number.
///
/// # Errors
/// See [`topic`].
pub fn stored_event(
    kv: &impl Kv,
    topic: TopicId,
    offset: Offset,
) -> Result<Option<StoredEvent>, Fault> {
    let Some((first, batch)) = batch::containing(kv, topic, offset)? else { return Ok(None) };
    let view = batch.view()?;
    let index = usize::try_from(offset.since(first)).unwrap_or(usize::MAX);
    let Some(event) = event_run::iter(view.run).nth(index) else { return Ok(None) };
    Ok(Some(StoredEvent {
        offset,
        position: view.first_position.plus(offset.since(first)),
        recorded_at: view.recorded_at,
        key_version: view.version_at(offset),
        event: Bytes::copy_from_slice(event?),
    }))
}

/// When the event at an offset was recorded.
pub(crate) fn recorded_at(
    kv: &impl Kv,
    topic: TopicId,
    offset: Offset,
) -> Result<Option<UnixMs>, Fault> {
    let found = batch::stored_at(kv, topic, offset)?;
    found.map(|stored| Ok(stored.head()?.recorded_at)).transpose()
}

/// The name of the topic of the event at an offset.
pub(crate) fn topic_name_at(
    kv: &impl Kv,
    topic: TopicId,
    offset: Offset,
) -> Result<Option<String>, Fault> {
    let found = batch::stored_at(kv, topic, offset)?;
    found.map(|stored| Ok(stored.head()?.topic.to_owned())).transpose()
}

/// The event with a source and an id; with an empty source the newest with that id.
///
/// # Errors
/// See [`topic`].
pub fn event_by_id(
    kv: &impl Kv,
    topic: &TopicInfo,
    source: &str,
    id: &str,
) -> Result<Option<StoredEvent>, Fault> {
    let offset = if source.is_empty() {
        let (low, mut high) = (id_prefix(topic.id, id), id_prefix(topic.id, id));
        high.extend_from_slice(&END);
        let mut newest = None;
        kv.scan(Table::Ids, &low, &high, Order::Ascending, &mut |_, row| {
            newest = newest.max(Some(IdEntry::decode(row)?.offset));
            Ok(ControlFlow::Continue(()))
        })?;
        newest
    } else {
        let row = kv.get(Table::Ids, &id_key(topic.id, source, id))?;
        row.map(|row| Ok::<_, Fault>(IdEntry::decode(&row)?.offset)).transpose()?
    };
    offset.map_or(Ok(None), |offset| event_at(kv, topic, offset))
}

/// Events of one key from a version on, the version included, and the key's version now.
///
/// # Errors
/// See [`topic`].
pub fn read_key(
    kv: &impl Kv,
    topic: &TopicInfo,
    key: &str,
    from: KeyVersion,
    order: Order,
    bounds: Bounds,
) -> Result<(Vec<StoredEvent>, KeyVersion), Fault> {
    let version = keys::head(kv, topic.id, key)?.version;
    let entry = |version| keys::entry_key(topic.id, key, version);
    let (low, high) = match order {
        Order::Ascending => (entry(from), entry(version.next())),
        Order::Descending => (entry(KeyVersion(0)), entry(from.min(version).next())),
    };
    let mut offsets = Vec::new();
    kv.scan(Table::Keys, &low, &high, order, &mut |_, row| {
        if offsets.len() as u64 == bounds.events {
            return Ok(ControlFlow::Break(()));
        }
        offsets.push(keys::decode_entry(row)?);
        Ok(ControlFlow::Continue(()))
    })?;
    let (mut events, mut bytes) = (Vec::new(), 0);
    for offset in offsets {
        // Not by `event_at`: the topic may have been read before the last of these events came.
        let Some(event) = stored_event(kv, topic.id, offset)? else { continue };
        bytes += event.event.len();
        if bytes > bounds.bytes && !events.is_empty() {
            break;
        }
        events.push(event);
    }
    Ok((events, version))
}

/// A difference of places inside one batch.
fn small(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
