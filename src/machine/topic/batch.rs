//! Batches: the unit in which events are stored.
//!
//! A row's body is the number of events (u32 LE) and an encoded `messagehub.v1.EventBatch`, which
//! readers get as it is.

use std::ops::ControlFlow;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, decode_varint, encode_key, encode_varint, uint64};

use super::backs;
use crate::machine::Fault;
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::overlay::Overlay;
use crate::machine::record::{Kind, body, finish, start};
use crate::machine::schedule::index;
use crate::machine::schedule::specials::SpecialRecord;
use crate::model::event_run;
use crate::model::ids::{KeyVersion, Offset, Position, TopicId, UnixMs};
use crate::model::limits::BATCH_BYTES_TARGET;
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

fn corrupt(what: &str) -> Fault {
    Fault::Corrupt { record: Kind::Batch, what: what.to_owned() }
}

/// The batch that is being filled: neighbouring publishes to one topic within one Raft entry.
#[derive(Debug)]
pub struct OpenBatch {
    topic: TopicId,
    name: String,
    first_offset: Offset,
    first_position: Position,
    recorded_at: UnixMs,
    count: u32,
    keyed: bool,
    versions: Vec<u64>,
    backs: Vec<u64>,
    run: BytesMut,
    /// The special ones of its events, in order, which have rows of their own.
    pub(crate) specials: Vec<(Offset, SpecialRecord)>,
}

/// What an event's key makes of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keyed {
    /// The key's version with this event; 0 without a key.
    pub version: KeyVersion,
    /// How many offsets before this one the key had its last event; 0: it had none.
    pub back: u64,
}

impl OpenBatch {
    /// An empty batch.
    #[must_use]
    pub fn new(topic: TopicId, name: &str, at: (Offset, Position), recorded_at: UnixMs) -> Self {
        Self {
            topic,
            name: name.to_owned(),
            first_offset: at.0,
            first_position: at.1,
            recorded_at,
            count: 0,
            keyed: false,
            versions: Vec::new(),
            backs: Vec::new(),
            run: BytesMut::new(),
            specials: Vec::new(),
        }
    }

    /// Whether a run of this length for this topic belongs in here.
    #[must_use]
    pub fn takes(&self, topic: TopicId, run_len: usize) -> bool {
        self.topic == topic && self.run.len() + run_len <= BATCH_BYTES_TARGET
    }

    /// Appends events. `keyed` is empty, or has one an event.
    pub fn push(&mut self, count: u32, run: &[u8], keyed: &[Keyed]) {
        debug_assert!(keyed.is_empty() || keyed.len() == count as usize);
        self.keyed |= !keyed.is_empty();
        self.versions.extend(keyed.iter().map(|k| k.version.get()));
        self.backs.extend(keyed.iter().map(|k| k.back));
        self.count += count;
        self.versions.resize(self.count as usize, 0);
        self.backs.resize(self.count as usize, 0);
        self.run.put_slice(run);
    }

    /// Writes the batch, its position and the rows of its special events.
    pub fn write<K: Kv>(self, overlay: &mut Overlay<'_, K>) {
        index::write(overlay, self.topic, &self.specials);
        let versions: &[u64] = if self.keyed { &self.versions } else { &[] };
        if self.keyed {
            backs::write(overlay, self.topic, self.first_offset, &self.backs);
        }
        let room = self.run.len() + self.name.len() + 64 + versions.len() * 10;
        let mut buf = start(Kind::Batch, room);
        buf.put_u32_le(self.count);
        let head = Head {
            topic: &self.name,
            first_offset: self.first_offset,
            first_position: self.first_position,
            recorded_at: self.recorded_at,
        };
        encode(&mut buf, head, versions, &self.run);
        overlay.put(Table::Batches, key(self.topic, self.first_offset), finish(buf));
        let place = Place {
            topic: self.topic,
            first_offset: self.first_offset,
            count: self.count,
            recorded_at: self.recorded_at,
        };
        overlay.put(Table::Positions, self.first_position.to_key().to_vec(), place.encode());
    }
}

#[derive(Clone, Copy)]
struct Head<'a> {
    topic: &'a str,
    first_offset: Offset,
    first_position: Position,
    recorded_at: UnixMs,
}

/// `messagehub.v1.EventBatch`, field by field.
fn encode(buf: &mut BytesMut, head: Head<'_>, versions: &[u64], run: &[u8]) {
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
    if !versions.is_empty() {
        uint64::encode_packed(5, versions, buf);
    }
    buf.put_slice(run);
}

/// A stored batch, read in place.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Number of events, at least 1.
    pub count: u32,
    /// The encoded `messagehub.v1.EventBatch`.
    pub encoded: Bytes,
}

impl Batch {
    /// Reads a stored row.
    ///
    /// # Errors
    /// When it is corrupt.
    pub fn decode(row: &[u8]) -> Result<Self, Fault> {
        let mut encoded = body(Kind::Batch, row)?;
        let count = encoded.try_get_u32_le().map_err(|_| corrupt("no count"))?;
        Ok(Self { count, encoded: Bytes::copy_from_slice(encoded) })
    }

    /// Its fields, without looking into the events.
    ///
    /// # Errors
    /// When it is corrupt.
    pub fn view(&self) -> Result<BatchView<'_>, Fault> {
        BatchView::parse(&self.encoded)
    }

    /// The events from `skip` on, at most `take` of them, as a batch of its own.
    ///
    /// # Errors
    /// When it is corrupt.
    pub fn cut(&self, skip: u32, take: u32) -> Result<Self, Fault> {
        if skip == 0 && take >= self.count {
            return Ok(self.clone());
        }
        Cutter::new(self.clone())?.cut(skip, take)
    }
}

/// A batch of which parts are cut, without walking over its events each time.
#[derive(Clone, Debug)]
pub struct Cutter {
    batch: Batch,
    /// Where each event begins in the run, and where the last one ends.
    starts: Vec<usize>,
    versions: Vec<u64>,
}

impl Cutter {
    /// Walks over a batch.
    ///
    /// # Errors
    /// When it is corrupt.
    pub fn new(batch: Batch) -> Result<Self, Fault> {
        let view = batch.view()?;
        let mut starts = Vec::with_capacity(batch.count as usize + 1);
        let mut at = 0;
        starts.push(at);
        for event in event_run::iter(view.run) {
            at += event_run::framed_len(event?.len());
            starts.push(at);
        }
        let versions = view.versions;
        Ok(Self { batch, starts, versions })
    }

    /// The whole batch.
    #[must_use]
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    /// The events from `skip` on, at most `take` of them, as a batch of its own.
    ///
    /// # Errors
    /// When it is corrupt.
    pub fn cut(&self, skip: u32, take: u32) -> Result<Batch, Fault> {
        let batch = &self.batch;
        if skip == 0 && take >= batch.count {
            return Ok(batch.clone());
        }
        let view = BatchView::parse_head(&batch.encoded)?;
        let take = take.min(batch.count.saturating_sub(skip));
        let (from, until) = (skip as usize, (skip + take) as usize);
        let ends = self.starts.get(from).zip(self.starts.get(until));
        let run = ends.and_then(|(first, end)| view.run.get(*first..*end));
        let run = run.ok_or_else(|| corrupt("fewer events than it says"))?;
        let head = Head {
            topic: view.topic,
            first_offset: view.first_offset.plus(u64::from(skip)),
            first_position: view.first_position.plus(u64::from(skip)),
            recorded_at: view.recorded_at,
        };
        let versions = self.versions.get(from..until).unwrap_or_default();
        let mut buf = BytesMut::with_capacity(run.len() + versions.len() * 2 + 128);
        encode(&mut buf, head, versions, run);
        Ok(Batch { count: take, encoded: buf.freeze() })
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
    /// The same as it is stored.
    packed: &'a [u8],
    /// The events, as an [`event_run`].
    pub run: &'a [u8],
}

impl<'a> BatchView<'a> {
    fn parse(encoded: &'a [u8]) -> Result<Self, Fault> {
        let mut view = Self::parse_head(encoded)?;
        while view.packed.has_remaining() {
            let version = decode_varint(&mut view.packed);
            view.versions.push(version.map_err(|_| corrupt("key versions"))?);
        }
        Ok(view)
    }

    /// All but the key versions.
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
                Some((5, Value::Bytes(packed))) => view.packed = packed,
                Some((event_run::EVENTS_TAG, Value::Bytes(_))) => {
                    view.run = before;
                    return Ok(view);
                }
                Some(_) | None => return Err(corrupt("no events")),
            }
        }
    }

    /// The version of the key of the event at `offset`; 0 when it has none.
    #[must_use]
    pub fn version_at(&self, offset: Offset) -> KeyVersion {
        let index = usize::try_from(offset.since(self.first_offset)).unwrap_or(usize::MAX);
        KeyVersion(self.versions.get(index).copied().unwrap_or(0))
    }
}

/// The batch that holds an offset, with its first offset.
///
/// # Errors
/// When the store fails or the batch is corrupt.
pub fn containing(
    kv: &impl Kv,
    topic: TopicId,
    offset: Offset,
) -> Result<Option<(Offset, Batch)>, Fault> {
    let mut found = None;
    let (low, high) = (key(topic, Offset(0)), key(topic, offset.next()));
    kv.scan(Table::Batches, &low, &high, Order::Descending, &mut |k, row| {
        found = Some((first_offset(k)?, Batch::decode(row)?));
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found.filter(|(first, batch)| offset.since(*first) < u64::from(batch.count)))
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
    fn encode(self) -> Bytes {
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
