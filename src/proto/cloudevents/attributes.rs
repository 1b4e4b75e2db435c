//! The attributes of an event by their CloudEvents names, in one order.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{Display, Formatter, Result};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost_types::Timestamp;
use serde::{Serialize, Serializer};

use crate::proto::v1::Event;
use crate::proto::v1::attribute_value::Attr;

/// The value of an attribute, with the types that JSON knows.
pub(super) enum Value<'a> {
    Boolean(bool),
    Integer(i64),
    Text(Cow<'a, str>),
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Boolean(value) => serializer.serialize_bool(*value),
            Self::Integer(value) => serializer.serialize_i64(*value),
            Self::Text(value) => serializer.serialize_str(value),
        }
    }
}

/// In the canonical form of CloudEvents.
impl Display for Value<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        match self {
            Self::Boolean(value) => value.fmt(out),
            Self::Integer(value) => value.fmt(out),
            Self::Text(value) => value.fmt(out),
        }
    }
}

/// All that are there, but `specversion` and `data`.
pub(super) fn attributes(event: &Event) -> Vec<(&str, Value<'_>)> {
    let mut found = Vec::with_capacity(16);
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
            found.push((name, Value::Text(value.into())));
        }
    }
    let time = |value: &Timestamp| Value::Text(format_time(value).into());
    for (name, value) in
        [("time", &event.time), ("expirytime", &event.deadline), ("deliverat", &event.deliver_at)]
    {
        found.extend(value.as_ref().map(|value| (name, time(value))));
    }
    found.extend(event.priority.map(|priority| ("priority", Value::Integer(priority.into()))));
    let extensions: BTreeMap<_, _> = event.extensions.iter().collect();
    for (name, value) in extensions {
        let value = match &value.attr {
            None => continue,
            Some(Attr::CeBoolean(value)) => Value::Boolean(*value),
            Some(Attr::CeInteger(value)) => Value::Integer((*value).into()),
            Some(Attr::CeString(value) | Attr::CeUri(value) | Attr::CeUriRef(value)) => {
                Value::Text(value.into())
            }
            Some(Attr::CeBytes(value)) => Value::Text(STANDARD.encode(value).into()),
            Some(Attr::CeTimestamp(value)) => time(value),
        };
        found.push((name, value));
    }
    found
}

/// An instant in the form of RFC 3339; one that is out of range as its numbers.
pub(super) fn format_time(time: &Timestamp) -> String {
    jiff::Timestamp::new(time.seconds, time.nanos)
        .map_or_else(|_| format!("{}s+{}ns", time.seconds, time.nanos), |time| time.to_string())
}

/// Unix milliseconds as an instant.
pub(super) fn timestamp(ms: u64) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(ms % 1000).unwrap_or(0) * 1_000_000,
    }
}
