//! From JSON.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost_types::Timestamp;
use serde_json::Value;
use serde_json::value::RawValue;

use super::is_json;
use crate::model::event::check_extension_name;
use crate::model::limits::PRIORITY_MAX;
use crate::model::rejection::{Reason, Rejection};
use crate::proto::v1::attribute_value::Attr;
use crate::proto::v1::{AttributeValue, Event};

type Result<T> = std::result::Result<T, Rejection>;

/// Reads one CloudEvent in the JSON format.
///
/// # Errors
/// `EVENT_INVALID`, naming the attribute: what is not JSON, misses `specversion`, `id`, `source` or
/// `type`, or breaks the rules of CloudEvents or of the mapping.
pub fn from_json(json: &str) -> Result<Event> {
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(json)
        .map_err(|error| refuse("event", &format!("is not a JSON object ({error})")))?;
    let mut event = Event::default();
    let (mut version, mut data, mut data_base64) = (None, None, None);
    for (name, raw) in members {
        if raw.get() == "null" {
            continue;
        }
        match name.as_str() {
            "specversion" => version = Some(text(&name, raw)?),
            "data" => data = Some(raw),
            "data_base64" => data_base64 = Some(text(&name, raw)?),
            _ => attribute(&mut event, name, raw)?,
        }
    }
    match version.as_deref() {
        Some("1.0") => {}
        Some(_) => return Err(refuse("specversion", "is not \"1.0\"")),
        None => return Err(refuse("specversion", "is missing: it is \"1.0\"")),
    }
    for (name, value) in [("id", &event.id), ("source", &event.source), ("type", &event.r#type)] {
        if value.is_empty() {
            return Err(refuse(name, "is missing"));
        }
    }
    event.data = match (data, data_base64) {
        (Some(_), Some(_)) => return Err(refuse("data", "is there twice, also as data_base64")),
        (None, None) => Vec::new().into(),
        (None, Some(encoded)) => {
            STANDARD.decode(encoded).map_err(|_| refuse("data_base64", "is not Base64"))?.into()
        }
        (Some(raw), None) if is_json(&event.datacontenttype) => {
            raw.get().as_bytes().to_vec().into()
        }
        (Some(raw), None) => text("data", raw)
            .map_err(|_| refuse("data", "is no text, and datacontenttype is not JSON"))?
            .into(),
    };
    Ok(event)
}

fn attribute(event: &mut Event, name: String, raw: &RawValue) -> Result<()> {
    match name.as_str() {
        "id" => event.id = text(&name, raw)?,
        "source" => event.source = text(&name, raw)?,
        "type" => event.r#type = text(&name, raw)?,
        "subject" => event.subject = text(&name, raw)?,
        "time" => event.time = Some(time(&name, raw)?),
        "datacontenttype" => event.datacontenttype = text(&name, raw)?,
        "dataschema" => event.dataschema = text(&name, raw)?,
        "correlationid" => event.correlation_id = text(&name, raw)?,
        "causationid" => event.causation_id = text(&name, raw)?,
        "partitionkey" => event.key = text(&name, raw)?,
        "expirytime" => event.deadline = Some(time(&name, raw)?),
        "deliverat" => event.deliver_at = Some(time(&name, raw)?),
        "traceparent" => event.traceparent = text(&name, raw)?,
        "priority" => event.priority = Some(priority(raw)?),
        "fairnesskey" => event.fairness_key = text(&name, raw)?,
        _ => {
            check_extension_name(&name)?;
            let value = extension(&name, raw)?;
            event.extensions.insert(name, AttributeValue { attr: Some(value) });
        }
    }
    Ok(())
}

fn extension(name: &str, raw: &RawValue) -> Result<Attr> {
    match value(name, raw)? {
        Value::Bool(value) => Ok(Attr::CeBoolean(value)),
        Value::String(value) => Ok(Attr::CeString(value)),
        Value::Number(number) => number
            .as_i64()
            .and_then(|n| i32::try_from(n).ok())
            .map(Attr::CeInteger)
            .ok_or_else(|| refuse(name, "is not a whole number of 32 bits; write it as text")),
        Value::Null | Value::Array(_) | Value::Object(_) => {
            Err(refuse(name, "is neither text, nor a number, nor true or false"))
        }
    }
}

fn priority(raw: &RawValue) -> Result<u32> {
    let number = match value("priority", raw)? {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    number
        .and_then(|n| u32::try_from(n).ok())
        .filter(|n| *n <= PRIORITY_MAX)
        .ok_or_else(|| refuse("priority", "is not in 0..=9"))
}

fn value(name: &str, raw: &RawValue) -> Result<Value> {
    serde_json::from_str(raw.get()).map_err(|error| refuse(name, &format!("is no value ({error})")))
}

fn text(name: &str, raw: &RawValue) -> Result<String> {
    serde_json::from_str(raw.get()).map_err(|_| refuse(name, "is no text"))
}

fn time(name: &str, raw: &RawValue) -> Result<Timestamp> {
    let text = text(name, raw)?;
    parse_time(&text).ok_or_else(|| {
        refuse(name, &format!("is {text:?}, which is no time like 2026-01-31T12:00:00Z"))
    })
}

/// An instant of the years 1970 to 9999 in the form of RFC 3339.
fn parse_time(text: &str) -> Option<Timestamp> {
    let instant: jiff::Timestamp = text.parse().ok()?;
    let seconds = instant.as_second();
    let nanos = instant.subsec_nanosecond();
    (seconds >= 0 && nanos >= 0).then_some(Timestamp { seconds, nanos })
}

fn refuse(attribute: &str, why: &str) -> Rejection {
    Rejection::new(Reason::EventInvalid, format!("attribute {attribute} {why}; correct the event"))
        .with("attribute", attribute)
}
