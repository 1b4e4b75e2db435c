//! CloudEvents 1.0 in JSON, as the JSON event format has them, to and from the hub's events.
//!
//! Attributes that the hub has fields for travel as extensions: `partitionkey` (key),
//! `correlationid`, `causationid`, `traceparent`, `expirytime` (deadline), `deliverat`, `priority`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::model::rejection::{Reason, Rejection};
use crate::proto::v1::attribute_value::Attr;
use crate::proto::v1::{AttributeValue, Event};

fn refuse(attribute: &str, why: &str) -> Rejection {
    Rejection::new(Reason::EventInvalid, format!("attribute {attribute} {why}"))
        .with("attribute", attribute)
}

/// Reads one event in the JSON event format.
///
/// # Errors
/// `EVENT_INVALID`, naming the attribute. What the hub checks itself is left to it.
pub fn from_json(text: &str) -> Result<Event, Rejection> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| Rejection::new(Reason::EventInvalid, format!("not JSON: {error}")))?;
    let Value::Object(attributes) = value else {
        return Err(Rejection::new(Reason::EventInvalid, "not a JSON object; a CloudEvent is one"));
    };
    let mut event = Event::default();
    let mut version = None;
    for (name, value) in attributes {
        match name.as_str() {
            "specversion" => version = Some(string(&name, value)?),
            "id" => event.id = string(&name, value)?,
            "source" => event.source = string(&name, value)?,
            "type" => event.r#type = string(&name, value)?,
            "subject" => event.subject = string(&name, value)?,
            "time" => event.time = Some(timestamp(&name, value)?),
            "datacontenttype" => event.datacontenttype = string(&name, value)?,
            "dataschema" => event.dataschema = string(&name, value)?,
            "data" => event.data = data(value).into(),
            "data_base64" => {
                let decoded = STANDARD.decode(string(&name, value)?);
                event.data = decoded.map_err(|_| refuse(&name, "is not base64"))?.into();
            }
            "partitionkey" => event.key = string(&name, value)?,
            "correlationid" => event.correlation_id = string(&name, value)?,
            "causationid" => event.causation_id = string(&name, value)?,
            "traceparent" => event.traceparent = string(&name, value)?,
            "expirytime" => event.deadline = Some(timestamp(&name, value)?),
            "deliverat" => event.deliver_at = Some(timestamp(&name, value)?),
            "priority" => {
                let priority = value.as_u64().and_then(|n| u32::try_from(n).ok());
                event.priority = Some(priority.ok_or_else(|| refuse(&name, "is not in 0..=9"))?);
            }
            _ => {
                if let Some(value) = extension(&name, value)? {
                    event.extensions.insert(name, value);
                }
            }
        }
    }
    match version.as_deref() {
        Some("1.0") => {}
        Some(_) => return Err(refuse("specversion", "is not 1.0")),
        None => return Err(refuse("specversion", "is missing; it is \"1.0\"")),
    }
    for (name, value) in [("id", &event.id), ("source", &event.source), ("type", &event.r#type)] {
        if value.is_empty() {
            return Err(refuse(name, "is missing"));
        }
    }
    Ok(event)
}

fn string(name: &str, value: Value) -> Result<String, Rejection> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(refuse(name, "is not a string")),
    }
}

fn timestamp(name: &str, value: Value) -> Result<prost_types::Timestamp, Rejection> {
    let instant: Timestamp =
        string(name, value)?.parse().map_err(|_| refuse(name, "is not an RFC 3339 timestamp"))?;
    Ok(prost_types::Timestamp { seconds: instant.as_second(), nanos: instant.subsec_nanosecond() })
}

/// A JSON string is the text itself, anything else stays JSON.
fn data(value: Value) -> Vec<u8> {
    match value {
        Value::String(text) => text.into_bytes(),
        other => other.to_string().into_bytes(),
    }
}

fn extension(name: &str, value: Value) -> Result<Option<AttributeValue>, Rejection> {
    let attr = match value {
        Value::Null => return Ok(None),
        Value::Bool(flag) => Attr::CeBoolean(flag),
        Value::Number(number) => {
            let integer = number.as_i64().and_then(|n| i32::try_from(n).ok());
            Attr::CeInteger(integer.ok_or_else(|| refuse(name, "is no 32-bit integer"))?)
        }
        Value::String(text) => Attr::CeString(text),
        Value::Array(_) | Value::Object(_) => {
            return Err(refuse(name, "is a list or an object; extensions are plain values"));
        }
    };
    Ok(Some(AttributeValue { attr: Some(attr) }))
}

/// An event in the JSON event format.
#[must_use]
pub fn to_json(event: &Event) -> Value {
    let mut out = Map::new();
    out.insert("specversion".to_owned(), json!("1.0"));
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
    ] {
        if !value.is_empty() {
            out.insert(name.to_owned(), json!(value));
        }
    }
    for (name, instant) in
        [("time", &event.time), ("expirytime", &event.deadline), ("deliverat", &event.deliver_at)]
    {
        if let Some(instant) = instant {
            out.insert(name.to_owned(), json!(rfc3339(instant)));
        }
    }
    if let Some(priority) = event.priority {
        out.insert("priority".to_owned(), json!(priority));
    }
    let mut extensions: Vec<_> = event.extensions.iter().collect();
    extensions.sort_by_key(|(name, _)| *name);
    for (name, value) in extensions {
        out.insert(name.clone(), extension_json(value));
    }
    if !event.headers.is_empty() {
        let mut headers: Vec<_> = event.headers.iter().collect();
        headers.sort();
        let headers: Map<String, Value> =
            headers.into_iter().map(|(n, v)| (n.clone(), json!(v))).collect();
        out.insert("headers".to_owned(), Value::Object(headers));
    }
    if !event.data.is_empty() {
        let (name, value) = data_json(event);
        out.insert(name.to_owned(), value);
    }
    Value::Object(out)
}

fn data_json(event: &Event) -> (&'static str, Value) {
    let media_type = event.datacontenttype.split(';').next().unwrap_or_default().trim();
    let is_json =
        media_type.is_empty() || media_type == "application/json" || media_type.ends_with("+json");
    if is_json && let Ok(value) = serde_json::from_slice(&event.data) {
        return ("data", value);
    }
    match std::str::from_utf8(&event.data) {
        Ok(text) => ("data", json!(text)),
        Err(_) => ("data_base64", json!(STANDARD.encode(&event.data))),
    }
}

fn extension_json(value: &AttributeValue) -> Value {
    match &value.attr {
        Some(Attr::CeBoolean(flag)) => json!(flag),
        Some(Attr::CeInteger(number)) => json!(number),
        Some(Attr::CeString(text) | Attr::CeUri(text) | Attr::CeUriRef(text)) => json!(text),
        Some(Attr::CeBytes(bytes)) => json!(STANDARD.encode(bytes)),
        Some(Attr::CeTimestamp(instant)) => json!(rfc3339(instant)),
        None => Value::Null,
    }
}

fn rfc3339(instant: &prost_types::Timestamp) -> String {
    Timestamp::new(instant.seconds, instant.nanos).map_or_else(|_| String::new(), |t| t.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        for text in [
            r#"{"specversion":"1.0","id":"1","source":"/s","type":"t"}"#,
            r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","subject":"x","datacontenttype":"application/json","partitionkey":"k","correlationid":"c","time":"2026-01-02T03:04:05.678Z","expirytime":"2030-01-01T00:00:00Z","priority":9,"count":7,"flag":true,"name":"n","data":{"a":[1,2,null]}}"#,
            r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","datacontenttype":"text/plain","data":"hello"}"#,
            r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","datacontenttype":"application/octet-stream","data_base64":"/wAB"}"#,
        ] {
            let event = from_json(text).unwrap();
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(to_json(&event), value);
            assert_eq!(from_json(&to_json(&event).to_string()).unwrap(), event);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, attribute) in [
            ("[]", ""),
            ("{", ""),
            (r#"{"id":"1","source":"/s","type":"t"}"#, "specversion"),
            (r#"{"specversion":"0.3","id":"1","source":"/s","type":"t"}"#, "specversion"),
            (r#"{"specversion":"1.0","source":"/s","type":"t"}"#, "id"),
            (r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","time":"noon"}"#, "time"),
            (r#"{"specversion":"1.0","id":1,"source":"/s","type":"t"}"#, "id"),
            (r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","ext":{}}"#, "ext"),
            (r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","ext":1.5}"#, "ext"),
            (
                r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data_base64":"?"}"#,
                "data_base64",
            ),
        ] {
            let rejection = from_json(text).unwrap_err();
            assert_eq!(rejection.reason, Reason::EventInvalid, "{text}");
            assert_eq!(rejection.fact("attribute").unwrap_or(""), attribute, "{text}");
        }
    }
}
