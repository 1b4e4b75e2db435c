//! Batches: the unit in which events are stored.
//!
//! A row's body is the number of events (u32 LE), whether they are in stripes (u8), if so the stripe
//! of each (u8), and an encoded `messagehub.v1.EventBatch`, which readers get as it is; without its
//! events when those are in `stripes`.

use std::ops::ControlFlow;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, decode_varint, encode_key, encode_varint, uint64};

use super::cutter::Cutter;
use super::stripes;
use crate::machine::Fault;
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::record::{Kind, body, finish, start};
use crate::model::event_run;
use crate::model::ids::{KeyVersion, Offset, Position, TopicId, UnixMs};
use crate::model::ranges::OffsetRange;
use crate::model::wire::{Value, next_field};

/// The key of a batch: topic, first offset.
#[must_use]
pub fn key(topic: TopicId, first: Offset) -> Vec<u8> {
    [topic.to_key(), first.to_key()].concat()
}

/// The first offset in a batch's key.
///
/// # Errors
/// When the key is not one.
pub fn first_offset(key: &[u8]) -> Result<Offset, Fault> {
    let bytes = key.get(8..16).and_then(|b| b.try_into().ok());
    bytes.map(|b| Offset(u64::from_be_bytes(b))).ok_or_else(|| corrupt("malformed key"))
}

pub(super) fn corrupt(what: &str) -> Fault {
    Fault::Corrupt { record: Kind::Batch, what: what.to_owned() }
}

/// What a batch has besides its events.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) topic: &'a str,
    pub(super) first_offset: Offset,
    pub(super) first_position: Position,
    pub(super) recorded_at: UnixMs,
}

/// What a batch has of each event besides the event.
#[derive(Clone, Copy, Default)]
pub(super) struct Columns<'a> {
    /// Key versions; empty: none has a key.
    pub(super) versions: &'a [u64],
    /// How far it is behind the first; empty: they are neighbours.
    pub(super) deltas: &'a [u64],
}

/// `messagehub.v1.EventBatch`, field by field.
pub(super) fn encode(buf: &mut BytesMut, head: Head<'_>, columns: Columns<'_>, run: &[u8]) {
    encode_key(1, WireType::LengthDelimited, buf);
    encode_varint(head.topic.len() as u64, buf);
    buf.put_slice(head.topic.as_bytes());
    for (tag, value) in
        [(2, head.first_offset.get()), (3, head.first_position.get()), (4, head.recorded_at.get())]
    {
        if value != 0 {
            uint64::encode(tag, &value, buf);
        }
    }
    for (tag, column) in [(5, columns.versions), (7, columns.deltas)] {
        if !column.is_empty() {
            uint64::encode_packed(tag, column, buf);
        }
    }
    buf.put_slice(run);
}

/// A batch with its events.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Number of events, at least 1.
    pub count: u32,
    /// The encoded `messagehub.v1.EventBatch`.
    pub encoded: Bytes,
}

impl Batch {
    /// Its fields, without looking into the events.
    ///
    /// # Errors
    /// When it is corrupt.
    pub fn view(&self) -> Result<BatchView<'_>, Fault> {
        let view = BatchView::parse(&self.encoded)?;
        if view.run.is_empty() { Err(corrupt("no events")) } else { Ok(view) }
    }

    /// Of a batch of neighbours the events from `skip` on, at most `take` of them.
    ///
    /// # Errors
    /// When it is corrupt.
    pub fn cut(&self, skip: u32, take: u32) -> Result<Self, Fault> {
        if skip == 0 && take >= self.count {
            return Ok(self.clone());
        }
        let take = take.min(self.count.saturating_sub(skip));
        if take == 0 {
            return Ok(Self { count: 0, encoded: Bytes::new() });
        }
        let first = self.view()?.first_offset.plus(u64::from(skip)).get();
        let range = OffsetRange { first, count: u64::from(take) };
        Cutter::new(self.clone())?.gather(&[range])
    }
}

/// A row of [`Table::Batches`].
#[derive(Clone, Debug)]
pub struct StoredBatch {
    /// Its first offset.
    pub first: Offset,
    /// Number of events, at least 1.
    pub count: u32,
    /// The stripe of each event; empty: they are in the row itself.
    order: Bytes,
    /// The encoded `messagehub.v1.EventBatch`, with its events unless they are in stripes.
    encoded: Bytes,
}

/// Starts a row of [`Table::Batches`]; what follows is the `messagehub.v1.EventBatch`.
pub(super) fn start_row(count: u32, order: &[u8], room: usize) -> BytesMut {
    let mut buf = start(Kind::Batch, room + order.len() + 5);
    buf.put_u32_le(count);
    buf.put_u8(u8::from(!order.is_empty()));
    buf.put_slice(order);
    buf
}

impl StoredBatch {
    /// Reads a row.
    ///
    /// # Errors
    /// When it is corrupt.
    pub fn decode(key: &[u8], row: &[u8]) -> Result<Self, Fault> {
        let mut rest = body(Kind::Batch, row)?;
        let count = rest.try_get_u32_le().map_err(|_| corrupt("no count"))?;
        let striped = rest.try_get_u8().map_err(|_| corrupt("no mark of stripes"))? == 1;
        let order_len = if striped { count as usize } else { 0 };
        let (order, encoded) =
            rest.split_at_checked(order_len).ok_or_else(|| corrupt("order of stripes"))?;
        Ok(Self {
            first: first_offset(key)?,
            count,
            order: Bytes::copy_from_slice(order),
            encoded: Bytes::copy_from_slice(encoded),
        })
    }

    /// Its fields; those of `run` are missing when they are in stripes.
    ///
    /// # Errors
    /// When it is corrupt.
    pub fn head(&self) -> Result<BatchView<'_>, Fault> {
        BatchView::parse(&self.encoded)
    }

    /// Whether it holds an offset.
    #[must_use]
    pub fn has(&self, offset: Offset) -> bool {
        offset >= self.first && offset.since(self.first) < u64::from(self.count)
    }

    /// With all of its events.
    ///
    /// # Errors
    /// When the store fails or a row is corrupt.
    pub fn whole(self, kv: &impl Kv, topic: TopicId) -> Result<Batch, Fault> {
        let Self { first, count, order, mut encoded } = self;
        if !order.is_empty() {
            let run = stripes::assemble(kv, topic, first, &order)?;
            encoded = [encoded, run].concat().into();
        }
        Ok(Batch { count, encoded })
    }

    /// Whether its events are in stripes.
    #[must_use]
    pub fn is_striped(&self) -> bool {
        !self.order.is_empty()
    }

    /// The stripe that the event at an offset is in; `None`: all are in the row.
    pub(super) fn stripe_of(&self, offset: Offset) -> Option<u8> {
        let skip = usize::try_from(offset.since(self.first)).unwrap_or(usize::MAX);
        self.order.get(skip).copied()
    }

    /// The batch in the row itself: without events when these are in stripes.
    pub(super) fn row(&self) -> Batch {
        Batch { count: self.count, encoded: self.encoded.clone() }
    }
}

/// The fields of a batch, borrowed.
#[derive(Clone, Debug, Default)]
pub struct BatchView<'a> {
    /// The topic's name.
    pub topic: &'a str,
    /// The first event's offset.
    pub first_offset: Offset,
    /// The first event's position.
    pub first_position: Position,
    /// When the hub took it.
    pub recorded_at: UnixMs,
    /// One an event, or empty.
    pub versions: Vec<u64>,
    /// How far each event is behind the first; empty: they are neighbours.
    pub deltas: Vec<u64>,
    packed_versions: &'a [u8],
    packed_deltas: &'a [u8],
    /// The events, as an [`event_run`]; empty when they are in stripes.
    pub run: &'a [u8],
}

impl<'a> BatchView<'a> {
    fn parse(encoded: &'a [u8]) -> Result<Self, Fault> {
        let mut view = Self::parse_head(encoded)?;
        view.versions = unpacked(view.packed_versions)?;
        view.deltas = unpacked(view.packed_deltas)?;
        Ok(view)
    }

    /// All but the columns.
    fn parse_head(encoded: &'a [u8]) -> Result<Self, Fault> {
        let mut view = Self::default();
        let mut rest = encoded;
        loop {
            let before = rest;
            match next_field(&mut rest)? {
                Some((1, Value::Bytes(name))) => {
                    view.topic = std::str::from_utf8(name).map_err(|_| corrupt("topic name"))?;
                }
                Some((2, Value::Varint(n))) => view.first_offset = Offset(n),
                Some((3, Value::Varint(n))) => view.first_position = Position(n),
                Some((4, Value::Varint(n))) => view.recorded_at = UnixMs(n),
                Some((5, Value::Bytes(packed))) => view.packed_versions = packed,
                Some((7, Value::Bytes(packed))) => view.packed_deltas = packed,
                Some((event_run::EVENTS_TAG, Value::Bytes(_))) => {
                    view.run = before;
                    return Ok(view);
                }
                None => return Ok(view),
                Some(_) => return Err(corrupt("an unknown field")),
            }
        }
    }

    /// Of a batch of neighbours the version of the key of the event at `offset`; 0 when it has none.
    #[must_use]
    pub fn version_at(&self, offset: Offset) -> KeyVersion {
        let index = usize::try_from(offset.since(self.first_offset)).unwrap_or(usize::MAX);
        KeyVersion(self.versions.get(index).copied().unwrap_or(0))
    }
}

fn unpacked(mut packed: &[u8]) -> Result<Vec<u64>, Fault> {
    let mut all = Vec::new();
    while packed.has_remaining() {
        all.push(decode_varint(&mut packed).map_err(|_| corrupt("a column"))?);
    }
    Ok(all)
}

/// The row of the batch that holds an offset.
///
/// # Errors
/// When the store fails or the batch is corrupt.
pub fn stored_at(
    kv: &impl Kv,
    topic: TopicId,
    offset: Offset,
) -> Result<Option<StoredBatch>, Fault> {
    let mut found = None;
    let (low, high) = (key(topic, Offset(0)), key(topic, offset.next()));
    kv.scan(Table::Batches, &low, &high, Order::Descending, &mut |key, row| {
        found = Some(StoredBatch::decode(key, row)?);
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found.filter(|stored| stored.has(offset)))
}

/// The batch that holds an offset, with its first offset and all of its events.
///
/// # Errors
/// When the store fails or the batch is corrupt.
pub fn containing(
    kv: &impl Kv,
    topic: TopicId,
    offset: Offset,
) -> Result<Option<(Offset, Batch)>, Fault> {
    let Some(stored) = stored_at(kv, topic, offset)? else { return Ok(None) };
    Ok(Some((stored.first, stored.whole(kv, topic)?)))
}

/// Where the batch at a position is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its topic, which may have been deleted since.
    pub topic: TopicId,
    /// Its first offset.
    pub first_offset: Offset,
    /// Number of events.
    pub count: u32,
    /// When the hub took it.
    pub recorded_at: UnixMs,
}

impl Place {
    pub(super) fn encode(self) -> Bytes {
        let mut buf = start(Kind::Position, 28);
        buf.put_u64_le(self.topic.get());
        buf.put_u64_le(self.first_offset.get());
        buf.put_u32_le(self.count);
        buf.put_u64_le(self.recorded_at.get());
        finish(buf)
    }

    /// Reads a stored row.
    ///
    /// # Errors
    /// When it is corrupt.
    pub fn decode(row: &[u8]) -> Result<Self, Fault> {
        let mut rest = body(Kind::Position, row)?;
        if rest.len() != 28 {
            return Err(Fault::Corrupt { record: Kind::Position, what: "length".to_owned() });
        }
        Ok(Self {
            topic: TopicId(rest.get_u64_le()),
            first_offset: Offset(rest.get_u64_le()),
            count: rest.get_u32_le(),
            recorded_at: UnixMs(rest.get_u64_le()),
        })
    }
}
