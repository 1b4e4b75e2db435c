//! To JSON.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost_types::Timestamp;
use serde::ser::{Error, SerializeMap};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::is_json;
use crate::proto::v1::attribute_value::Attr;
use crate::proto::v1::{Event, RecordedEvent};

/// An event in the JSON format of CloudEvents, on one line.
#[derive(Clone, Copy, Debug)]
pub struct EventJson<'a>(pub &'a Event);

impl Serialize for EventJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let event = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("specversion", "1.0")?;
        for (name, value) in [
            ("id", &event.id),
            ("source", &event.source),
            ("type", &event.r#type),
            ("subject", &event.subject),
            ("datacontenttype", &event.datacontenttype),
            ("dataschema", &event.dataschema),
            ("partitionkey", &event.key),
            ("correlationid", &event.correlation_id),
            ("causationid", &event.causation_id),
            ("traceparent", &event.traceparent),
            ("fairnesskey", &event.fairness_key),
        ] {
            if !value.is_empty() {
                map.serialize_entry(name, value)?;
            }
        }
        for (name, value) in [
            ("time", &event.time),
            ("expirytime", &event.deadline),
            ("deliverat", &event.deliver_at),
        ] {
            if let Some(value) = value {
                map.serialize_entry(name, &format_time(value))?;
            }
        }
        if let Some(priority) = event.priority {
            map.serialize_entry("priority", &priority)?;
        }
        let extensions: BTreeMap<_, _> = event.extensions.iter().collect();
        for (name, value) in extensions {
            match &value.attr {
                None => {}
                Some(Attr::CeBoolean(value)) => map.serialize_entry(name, value)?,
                Some(Attr::CeInteger(value)) => map.serialize_entry(name, value)?,
                Some(Attr::CeString(value) | Attr::CeUri(value) | Attr::CeUriRef(value)) => {
                    map.serialize_entry(name, value)?;
                }
                Some(Attr::CeBytes(value)) => map.serialize_entry(name, &STANDARD.encode(value))?,
                Some(Attr::CeTimestamp(value)) => map.serialize_entry(name, &format_time(value))?,
            }
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
            let one_line =
                RawValue::from_string(on_one_line(raw.get())).map_err(M::Error::custom)?;
            return map.serialize_entry("data", &one_line);
        }
    } else if let Some(text) = text {
        return map.serialize_entry("data", text);
    }
    map.serialize_entry("data_base64", &STANDARD.encode(&event.data))
}

/// JSON text without line breaks; they only occur between tokens.
fn on_one_line(json: &str) -> String {
    if !json.contains(['\n', '\r']) {
        return json.to_owned();
    }
    json.split(['\n', '\r']).map(str::trim_start).collect()
}

/// An instant in the form of RFC 3339; one that is out of range as its numbers.
fn format_time(time: &Timestamp) -> String {
    jiff::Timestamp::new(time.seconds, time.nanos)
        .map_or_else(|_| format!("{}s+{}ns", time.seconds, time.nanos), |time| time.to_string())
}

/// An event in the JSON format of CloudEvents, as a value. Numbers in it that a program would not
/// take as they are lose digits; [`EventJson`] writes them as they are.
#[must_use]
pub fn to_json(event: &Event) -> serde_json::Value {
    serde_json::to_value(EventJson(event)).unwrap_or_default()
}

/// A recorded event with what the hub knows of it:
/// `{topic, offset, position, version, recorded_at, headers?, event}`. 64-bit numbers are strings,
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
        let ms = recorded.recorded_at_ms;
        let time = Timestamp {
            seconds: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
            nanos: i32::try_from(ms % 1000).unwrap_or(0) * 1_000_000,
        };
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("topic", &recorded.topic)?;
        map.serialize_entry("offset", &recorded.offset.to_string())?;
        map.serialize_entry("position", &recorded.position.to_string())?;
        map.serialize_entry("version", &recorded.key_version.to_string())?;
        map.serialize_entry("recorded_at", &format_time(&time))?;
        if !event.headers.is_empty() {
            let headers: BTreeMap<_, _> = event.headers.iter().collect();
            map.serialize_entry("headers", &headers)?;
        }
        map.serialize_entry("event", &EventJson(event))?;
        map.end()
    }
}
