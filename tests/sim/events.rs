//! The events that a state holds.

use bytes::Bytes;
use message_hub::machine::kv::{Kv, Order};
use message_hub::machine::query::{self, Bounds, Chunk};
use message_hub::machine::topic::batch::Batch;
use message_hub::model::event::EventView;
use message_hub::model::event_run;
use message_hub::model::ids::{Offset, Position};

const ALL: Bounds = Bounds { events: u64::MAX, bytes: usize::MAX };

fn fault(fault: message_hub::machine::Fault) -> String {
    fault.to_string()
}

/// All events of a topic, by offset.
pub(crate) fn of_topic(kv: &impl Kv, topic: &str) -> Result<Vec<Bytes>, String> {
    let info = query::topic(kv, topic).map_err(fault)?.ok_or(format!("{topic} is gone"))?;
    let chunk = query::read_topic(kv, &info, Offset(0), Order::Ascending, ALL).map_err(fault)?;
    let events = events(chunk)?;
    let next = info.next_offset.get();
    if events.len() as u64 != next {
        return Err(format!("{topic} says that it has {next} events, and has {}", events.len()));
    }
    Ok(events)
}

/// All events from a position on, and the position to go on from.
pub(crate) fn since(kv: &impl Kv, from: Position) -> Result<(Vec<Bytes>, Position), String> {
    let chunk = query::read_hub(kv, from, Order::Ascending, ALL).map_err(fault)?;
    let next = Position(chunk.next);
    if !chunk.at_end {
        return Err(format!("reading from position {from} ends at {next}"));
    }
    Ok((events(chunk)?, next))
}

fn events(chunk: Chunk) -> Result<Vec<Bytes>, String> {
    let mut events = Vec::new();
    for encoded in chunk.batches {
        let batch = Batch { count: 0, encoded };
        let view = batch.view().map_err(fault)?;
        for event in event_run::iter(view.run) {
            let event = event.map_err(|malformed| malformed.to_string())?;
            events.push(Bytes::copy_from_slice(event));
        }
    }
    Ok(events)
}

/// The ids of events.
pub(crate) fn ids(events: &[Bytes]) -> Result<Vec<String>, String> {
    let id = |event: &Bytes| EventView::read(event).map(|view| view.id.to_owned());
    events.iter().map(|event| id(event).map_err(|malformed| malformed.to_string())).collect()
}
