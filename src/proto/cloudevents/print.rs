//! To JSON.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::ser::{Error, SerializeMap};
use serde::{Serialize, Serializer};
use serde_json::json;
use serde_json::value::RawValue;

use super::attributes::{attributes, format_time, timestamp};
use super::is_json;
use crate::proto::v1::{Event, RecordedEvent, SchemaVerdict};

/// An event in the JSON format of CloudEvents, on one line.
#[derive(Clone, Copy, Debug)]
pub struct EventJson<'a>(pub &'a Event);

impl Serialize for EventJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let event = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("specversion", "1.0")?;
        for (name, value) in attributes(event) {
            map.serialize_entry(name, &value)?;
        }
        data(event, &mut map)?;
        map.end()
    }
}

fn data<M: SerializeMap>(event: &Event, map: &mut M) -> Result<(), M::Error> {
    if event.data.is_empty() {
        return Ok(());
    }
    let text = std::str::from_utf8(&event.data).ok();
    if is_json(&event.datacontenttype) {
        let raw = text.and_then(|text| serde_json::from_str::<&RawValue>(text).ok());
        // A lone `null` would be no data at all to a reader.
        if let Some(raw) = raw.filter(|raw| raw.get() != "null") {
            let Some(one_line) = on_one_line(raw.get()) else {
                return map.serialize_entry("data", raw);
            };
            let one_line = RawValue::from_string(one_line).map_err(M::Error::custom)?;
            return map.serialize_entry("data", &one_line);
        }
    } else if let Some(text) = text {
        return map.serialize_entry("data", text);
    }
    map.serialize_entry("data_base64", &STANDARD.encode(&event.data))
}

/// JSON text without line breaks, which only occur between tokens; `None`: it has none.
fn on_one_line(json: &str) -> Option<String> {
    let breaks = json.bytes().any(|byte| matches!(byte, b'\n' | b'\r'));
    breaks.then(|| json.split(['\n', '\r']).map(str::trim_start).collect())
}

/// An event in the JSON format of CloudEvents, as a value. Numbers in it that a program would not
/// take as they are lose digits; [`EventJson`] writes them as they are.
#[must_use]
pub fn to_json(event: &Event) -> serde_json::Value {
    serde_json::to_value(EventJson(event)).unwrap_or_default()
}

/// A recorded event with what the hub knows of it:
/// `{topic, offset, position, version, recorded_at, schema?, headers?, event}`. 64-bit numbers are strings,
/// as in the JSON mapping of protobuf.
#[derive(Clone, Copy, Debug)]
pub struct EnvelopeJson<'a> {
    /// Where and when it was recorded.
    pub recorded: &'a RecordedEvent,
    /// The same event, decoded.
    pub event: &'a Event,
}

impl Serialize for EnvelopeJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { recorded, event } = self;
        let time = timestamp(recorded.recorded_at_ms);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("topic", &recorded.topic)?;
        map.serialize_entry("offset", &recorded.offset.to_string())?;
        map.serialize_entry("position", &recorded.position.to_string())?;
        map.serialize_entry("version", &recorded.key_version.to_string())?;
        map.serialize_entry("recorded_at", &format_time(&time))?;
        if let Some(SchemaVerdict { subject, version, violations }) = &event.schema_verdict {
            let verdict = json!({"subject": subject, "version": version, "violations": violations});
            map.serialize_entry("schema", &verdict)?;
        }
        if !event.headers.is_empty() {
            let headers: BTreeMap<_, _> = event.headers.iter().collect();
            map.serialize_entry("headers", &headers)?;
        }
        map.serialize_entry("event", &EventJson(event))?;
        map.end()
    }
}
