//! The index by event id, for topics that look events up by it or recognise repetitions.

use std::ops::ControlFlow;

use bytes::{Buf, BufMut, Bytes};

use crate::machine::Fault;
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::overlay::Overlay;
use crate::machine::record::{Kind, body, encode, finish, start};
use crate::model::ids::{Offset, Position, TopicId, UnixMs};

/// Where the event with an id is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdEntry {
    /// Its offset.
    pub offset: Offset,
    /// Its position.
    pub position: Position,
    /// When the hub took it.
    pub recorded_at: UnixMs,
}

impl IdEntry {
    /// The row to store.
    #[must_use]
    pub fn encode(self) -> Bytes {
        let mut buf = start(Kind::EventId, 24);
        buf.put_u64_le(self.offset.get());
        buf.put_u64_le(self.position.get());
        buf.put_u64_le(self.recorded_at.get());
        finish(buf)
    }

    /// Reads a stored row.
    ///
    /// # Errors
    /// When it is corrupt.
    pub fn decode(row: &[u8]) -> Result<Self, Fault> {
        let mut rest = body(Kind::EventId, row)?;
        if rest.len() != 24 {
            return Err(Fault::Corrupt { record: Kind::EventId, what: "length".to_owned() });
        }
        Ok(Self {
            offset: Offset(rest.get_u64_le()),
            position: Position(rest.get_u64_le()),
            recorded_at: UnixMs(rest.get_u64_le()),
        })
    }
}

/// The rows of an id start with this, whatever the source.
#[must_use]
pub fn id_prefix(topic: TopicId, id: &str) -> Vec<u8> {
    let mut row = Vec::with_capacity(10 + id.len());
    row.extend_from_slice(&topic.to_key());
    row.extend_from_slice(&u16::try_from(id.len()).unwrap_or(u16::MAX).to_be_bytes());
    row.extend_from_slice(id.as_bytes());
    row
}

/// The row of (source, id).
#[must_use]
pub fn id_key(topic: TopicId, source: &str, id: &str) -> Vec<u8> {
    let mut row = id_prefix(topic, id);
    row.extend_from_slice(source.as_bytes());
    row
}

/// The row that says when the row at `id_key` may go: topic, instant, the rest of `id_key`.
#[must_use]
pub fn expiry_key(topic: TopicId, recorded_at: UnixMs, id_key: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(8 + id_key.len());
    row.extend_from_slice(&topic.to_key());
    row.extend_from_slice(&recorded_at.to_key());
    row.extend_from_slice(id_key.get(8..).unwrap_or_default());
    row
}

/// The value of an expiry row: nothing.
#[must_use]
pub fn expiry_value() -> Bytes {
    encode(Kind::IdExpiry, &[])
}

/// Forgets ids of a topic that were recorded before `before`, oldest first, at most `limit`.
/// Returns how many expiry rows went.
///
/// # Errors
/// When the store fails or a row is corrupt.
pub fn forget<K: Kv>(
    overlay: &mut Overlay<'_, K>,
    topic: TopicId,
    before: UnixMs,
    limit: usize,
) -> Result<u64, Fault> {
    let (low, high) = (expiry_key(topic, UnixMs(0), &[]), expiry_key(topic, before, &[]));
    let mut due = Vec::new();
    if limit > 0 {
        overlay.scan(Table::IdExpiries, &low, &high, Order::Ascending, &mut |key, _| {
            due.push(key.to_vec());
            Ok(if due.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
    }
    let forgotten = due.len() as u64;
    for row in due {
        let (Some(head), Some(recorded), Some(rest)) =
            (row.get(..8), row.get(8..16), row.get(16..))
        else {
            return Err(Fault::Corrupt {
                record: Kind::IdExpiry,
                what: "malformed key".to_owned(),
            });
        };
        let id_row = [head, rest].concat();
        // The id may have been used again since, with an expiry of its own.
        if let Some(stored) = overlay.get(Table::Ids, &id_row)?
            && IdEntry::decode(&stored)?.recorded_at.to_key() == recorded
        {
            overlay.delete(Table::Ids, id_row);
        }
        overlay.delete(Table::IdExpiries, row);
    }
    Ok(forgotten)
}
