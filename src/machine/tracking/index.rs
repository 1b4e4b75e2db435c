//! Which events belong together: (correlation id, position) → (topic id, offset).
//!
//! Only events that have a correlation id have a row. Rows of topics that were deleted lie between those of others:
//! housekeeping sweeps them out bit by bit, and until then readers pass over them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::{BufMut, Bytes};

use crate::machine::apply::Machine;
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::record::{Kind, encode};
use crate::machine::{Fault, key, record};
use crate::model::event;
use crate::model::event_run;
use crate::model::ids::{Offset, Position, TopicId};
use crate::model::limits::CORRELATIONS_SWEPT_MAX;

/// The row's key.
#[must_use]
pub fn row_key(correlation_id: &str, position: Position) -> Vec<u8> {
    let mut row = Vec::with_capacity(2 + correlation_id.len() + 8);
    key::push_text(&mut row, correlation_id);
    row.extend_from_slice(&position.to_key());
    row
}

/// The position in a row's key.
///
/// # Errors
/// When the key is not one.
pub fn position_of(row: &[u8]) -> Result<Position, Fault> {
    let mut reader = key::Reader::new(Kind::Correlation, row);
    reader.text()?;
    let position = Position(reader.number()?);
    reader.end()?;
    Ok(position)
}

fn value(topic: TopicId, offset: Offset) -> Bytes {
    let mut body = Vec::with_capacity(16);
    body.put_u64_le(topic.get());
    body.put_u64_le(offset.get());
    encode(Kind::Correlation, &body)
}

/// The event's place.
///
/// # Errors
/// When the row is corrupt.
pub fn place_of(row: &[u8]) -> Result<(TopicId, Offset), Fault> {
    let body = record::body(Kind::Correlation, row)?;
    let split = body.split_first_chunk::<8>().and_then(|(topic, rest)| {
        Some((u64::from_le_bytes(*topic), u64::from_le_bytes(rest.try_into().ok()?)))
    });
    let (topic, offset) = split.ok_or_else(|| Fault::Corrupt {
        record: Kind::Correlation,
        what: format!("{} bytes are no place", body.len()),
    })?;
    Ok((TopicId(topic), Offset(offset)))
}

/// Notes the events of a run that belong to others.
pub(crate) fn note<K: Kv>(
    machine: &mut Machine<'_, K>,
    topic: TopicId,
    (mut offset, mut position): (Offset, Position),
    run: &[u8],
) -> Result<(), Fault> {
    for encoded in event_run::iter(run) {
        let correlation_id = event::correlation_of(encoded?)?;
        if !correlation_id.is_empty() {
            let row = row_key(correlation_id, position);
            machine.overlay_mut().put(Table::Correlations, row, value(topic, offset));
        }
        (offset, position) = (offset.next(), position.next());
    }
    Ok(())
}

/// A topic is being deleted: its rows are to be swept out.
pub(crate) fn forget_later<K: Kv>(machine: &mut Machine<'_, K>) -> Result<(), Fault> {
    let mut empty = true;
    let overlay = machine.overlay();
    overlay.scan(Table::Correlations, &[], &key::END, Order::Ascending, &mut |_, _| {
        empty = false;
        Ok(ControlFlow::Break(()))
    })?;
    if !empty {
        let meta = machine.meta_mut();
        // What a round on its way has passed already needs another one.
        meta.correlations_rounds = if meta.correlations_cursor.is_empty() { 1 } else { 2 };
    }
    Ok(())
}

/// Looks at a bounded number of rows and deletes those of topics that were deleted.
pub(crate) fn sweep<K: Kv>(machine: &mut Machine<'_, K>) -> Result<(), Fault> {
    if machine.meta().correlations_rounds == 0 {
        return Ok(());
    }
    let mut start = std::mem::take(&mut machine.meta_mut().correlations_cursor);
    start.push(0);
    let mut rows = Vec::new();
    let overlay = machine.overlay();
    overlay.scan(Table::Correlations, &start, &key::END, Order::Ascending, &mut |row, value| {
        rows.push((row.to_vec(), place_of(value)?.0));
        let full = rows.len() == CORRELATIONS_SWEPT_MAX;
        Ok(if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    if rows.len() < CORRELATIONS_SWEPT_MAX {
        machine.meta_mut().correlations_rounds -= 1;
    } else if let Some((last, _)) = rows.last() {
        machine.meta_mut().correlations_cursor.clone_from(last);
    }
    let mut known = BTreeMap::new();
    for (row, topic) in rows {
        let stands = match known.get(&topic) {
            Some(stands) => *stands,
            None => has_events(machine, topic)?,
        };
        known.insert(topic, stands);
        if !stands {
            machine.overlay_mut().delete(Table::Correlations, row);
        }
    }
    Ok(())
}

/// Whether anything of a topic is stored; of one whose events have rows, that is whether it exists.
fn has_events<K: Kv>(machine: &Machine<'_, K>, topic: TopicId) -> Result<bool, Fault> {
    let (start, end) = (topic.to_key(), topic.next().to_key());
    let mut found = false;
    machine.overlay().scan(Table::Batches, &start, &end, Order::Ascending, &mut |_, _| {
        found = true;
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_gives_back_what_it_says() {
        let row = row_key("a\u{0}b", Position(7));
        assert_eq!(position_of(&row).unwrap(), Position(7));
        assert!(position_of(&row[..row.len() - 1]).is_err());
        assert!(row < row_key("a\u{0}b", Position(256)));
        let place = (TopicId(3), Offset(u64::MAX));
        assert_eq!(place_of(&value(place.0, place.1)).unwrap(), place);
        assert!(place_of(&encode(Kind::Correlation, &[0; 15])).is_err());
    }
}
