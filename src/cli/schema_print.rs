//! Schemas and subjects as they are printed.

use serde_json::{Value, json};

use super::output::instant;
use crate::proto::v1::{Schema, SchemaFormat, SchemaState, Subject};

/// How a version stands.
pub(super) fn state(of: SchemaState) -> &'static str {
    match of {
        SchemaState::Unspecified => "unknown",
        SchemaState::Active => "active",
        SchemaState::Deprecated => "deprecated",
        SchemaState::Deleted => "deleted",
    }
}

/// A version without its text.
pub(super) fn brief(schema: &Schema) -> Value {
    let format =
        schema.definition.as_ref().map_or("unknown", |definition| match definition.format() {
            SchemaFormat::Unspecified => "unknown",
            SchemaFormat::Json => "json",
            SchemaFormat::Protobuf => "protobuf",
            SchemaFormat::Avro => "avro",
        });
    json!({
        "subject": schema.subject,
        "version": schema.version,
        "format": format,
        "state": state(schema.state()),
        "fingerprint": schema.fingerprint,
        "created_at": instant(schema.created_at_ms),
    })
}

pub(super) fn print_subject(subject: &Subject) -> Value {
    let compatibility = subject.compatibility().as_str_name();
    let compatibility = compatibility.trim_start_matches("COMPATIBILITY_").to_lowercase();
    json!({
        "subject": subject.name,
        "compatibility": compatibility,
        "versions": subject.versions.len(),
        "judge": (subject.judge > 0).then_some(subject.judge),
        "revision": subject.revision.to_string(),
        "updated_at": instant(subject.updated_at_ms),
    })
}
