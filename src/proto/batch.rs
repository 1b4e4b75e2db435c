//! The events of a batch one by one.

use super::v1::{EventBatch, RecordedEvent};

/// The events of a batch, each with its place.
pub fn recorded_events(batch: &EventBatch) -> impl Iterator<Item = RecordedEvent> + '_ {
    batch.events.iter().zip(deltas(batch)).enumerate().map(|(index, (event, delta))| {
        RecordedEvent {
            topic: batch.topic.clone(),
            offset: batch.first_offset + delta,
            position: batch.first_position + delta,
            recorded_at_ms: batch.recorded_at_ms,
            key_version: batch.key_versions.get(index).copied().unwrap_or(0),
            event: event.clone(),
        }
    })
}

/// How far the events of a batch are behind its first one.
pub fn deltas(batch: &EventBatch) -> impl Iterator<Item = u64> + '_ {
    let of_event = |index| batch.offset_deltas.get(index).copied().unwrap_or(index as u64);
    (0..batch.events.len()).map(of_event)
}
