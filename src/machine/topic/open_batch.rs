//! The batch that is being filled.

use bytes::{BufMut, BytesMut};

use super::batch::{self, Columns, Head, Place};
use super::{backs, stripes};
use crate::machine::kv::{Kv, Table};
use crate::machine::overlay::Overlay;
use crate::machine::record::finish;
use crate::machine::schedule::index;
use crate::machine::schedule::specials::SpecialRecord;
use crate::model::ids::{KeyVersion, Offset, Position, TopicId, UnixMs};
use crate::model::limits::BATCH_BYTES_TARGET;

/// Neighbouring publishes to one topic within one Raft entry.
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
        let order =
            stripes::order_of(self.first_offset, self.count, self.run.len(), &self.specials);
        if order.is_empty() {
            index::write(overlay, self.topic, &self.specials);
        } else {
            // The search finds all of them by priority, and none by walking over the others.
            let all =
                index::with_plain(self.specials, (self.first_offset, self.count), self.recorded_at);
            index::write(overlay, self.topic, &all);
        }
        let versions: &[u64] = if self.keyed { &self.versions } else { &[] };
        if self.keyed {
            backs::write(overlay, self.topic, self.first_offset, &self.backs);
        }
        let run: &[u8] = if order.is_empty() { &self.run } else { &[] };
        let room = run.len() + self.name.len() + 64 + versions.len() * 10;
        let mut buf = batch::start_row(self.count, &order, room);
        let head = Head {
            topic: &self.name,
            first_offset: self.first_offset,
            first_position: self.first_position,
            recorded_at: self.recorded_at,
        };
        batch::encode(&mut buf, head, Columns { versions, deltas: &[] }, run);
        let row = batch::key(self.topic, self.first_offset);
        overlay.put(Table::Batches, row, finish(buf));
        if !order.is_empty() {
            stripes::write(overlay, self.topic, head, &order, (versions, &self.run));
        }
        let place = Place {
            topic: self.topic,
            first_offset: self.first_offset,
            count: self.count,
            recorded_at: self.recorded_at,
        };
        overlay.put(Table::Positions, self.first_position.to_key().to_vec(), place.encode());
    }
}
