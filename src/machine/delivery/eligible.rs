//! Order by key: an event may go when the one of its key before it is done.
//!
//! Done for this subscription, or from before its start. Events without a key are free. An event
//! that was redriven comes late by nature: those after it were done already and do not wait.

use super::work::Work;
use crate::machine::Fault;
use crate::machine::apply::Machine;
use crate::machine::kv::{Kv, Table};
use crate::machine::topic::keys;
use crate::machine::topic::reader::EventReader;
use crate::model::event;
use crate::model::ids::{KeyVersion, Offset, TopicId};
use crate::model::ranges::{OffsetRange, Ranges};

/// The event of the same key before one; `None` when it has no key, or is the first of it.
///
/// # Errors
/// When the store fails or a row is corrupt.
pub(crate) fn predecessor(
    kv: &impl Kv,
    reader: &mut EventReader,
    topic: TopicId,
    offset: Offset,
) -> Result<Option<Offset>, Fault> {
    let Some(read) = reader.read(kv, topic, offset)? else { return Ok(None) };
    let version = read.version.get();
    if version <= 1 {
        return Ok(None);
    }
    let key = event::key_of(&read.event)?;
    let row = kv.get(Table::Keys, &keys::entry_key(topic, key, KeyVersion(version - 1)))?;
    row.map(|row| keys::decode_entry(&row)).transpose()
}

/// Whether the event before it is done.
pub(crate) fn is_next<K: Kv>(
    machine: &Machine<'_, K>,
    work: &mut Work,
    reader: &mut EventReader,
    (topic, offset): (TopicId, Offset),
) -> Result<bool, Fault> {
    match predecessor(machine.overlay(), reader, topic, offset)? {
        Some(before) => work.is_done(machine, topic, before),
        None => Ok(true),
    }
}

/// The first of the offsets that may go, at most `limit`.
pub(crate) fn in_turn<K: Kv>(
    machine: &Machine<'_, K>,
    work: &mut Work,
    topic: TopicId,
    offsets: &Ranges,
    limit: u64,
) -> Result<Ranges, Fault> {
    let (mut free, mut count, mut reader) = (Ranges::new(), 0, EventReader::default());
    for offset in offsets.iter() {
        if count == limit {
            break;
        }
        if is_next(machine, work, &mut reader, (topic, offset))? {
            free.push(OffsetRange::one(offset));
            count += 1;
        }
    }
    Ok(free)
}
