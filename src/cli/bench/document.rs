//! A JSON document of ten fields, and the schema that it matches.

use serde_json::{Value, json};

use crate::cli::Failure;
use crate::client::Client;
use crate::proto::v1::{
    CreateTopicRequest, RegisterSchemaRequest, SchemaDefinition, SchemaFile, SchemaFormat,
    SchemaMode, SchemaRule, SchemaState, SetSchemaStateRequest, TopicConfig,
};

/// A document of so many bytes, or of as few as its fields take.
pub(super) fn document(size: usize) -> Vec<u8> {
    let of = |note: &str| {
        json!({
            "order": 123_456_789, "customer": "c-4711", "email": "somebody@example.com",
            "status": "paid", "currency": "EUR", "cents": 129_900, "discount": 0.15,
            "express": true, "tags": ["new", "gift"], "note": note,
        })
        .to_string()
    };
    let note = size.saturating_sub(of("").len());
    of(&"x".repeat(note)).into_bytes()
}

fn schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "order": {"type": "integer", "minimum": 1},
            "customer": {"type": "string", "minLength": 1, "maxLength": 64},
            "email": {"type": "string", "pattern": "^[^@]+@[^@]+$"},
            "status": {"enum": ["open", "paid", "sent"]},
            "currency": {"type": "string", "minLength": 3, "maxLength": 3},
            "cents": {"type": "integer", "minimum": 0},
            "discount": {"type": "number", "minimum": 0, "maximum": 1},
            "express": {"type": "boolean"},
            "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 16},
            "note": {"type": "string"},
        },
        "required": ["order", "customer", "status", "currency", "cents"],
        "additionalProperties": false,
    })
}

/// Makes a topic whose events have to be such documents, by a subject of the same name.
pub(super) async fn enforcing_topic(client: &Client, name: &str) -> Result<(), Failure> {
    let file = SchemaFile { name: "document.json".to_owned(), text: schema().to_string() };
    let definition = SchemaDefinition {
        format: SchemaFormat::Json.into(),
        files: vec![file],
        references: Vec::new(),
    };
    let subject = name.to_owned();
    let register = RegisterSchemaRequest {
        subject: subject.clone(),
        definition: Some(definition),
        ..Default::default()
    };
    client.register_schema(register).await?;
    let rule = SchemaRule { mode: SchemaMode::Enforce.into(), subject, message: String::new() };
    let config = Some(TopicConfig { schema: Some(rule), ..TopicConfig::default() });
    let request = CreateTopicRequest { name: name.to_owned(), config, ..Default::default() };
    client.create_topic(request).await?;
    Ok(())
}

/// Takes the schema out of use again.
pub(super) async fn forget_schema(client: &Client, name: &str) -> Result<(), Failure> {
    let subject = name.to_owned();
    let request = SetSchemaStateRequest {
        subject,
        version: 1,
        state: SchemaState::Deleted.into(),
        ..Default::default()
    };
    client.set_schema_state(request).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Definition, Format, SourceFile, compile};

    #[test]
    fn documents_match_their_schema() {
        let files = vec![SourceFile { name: "s".to_owned(), text: schema().to_string() }];
        let definition = Definition { format: Format::Json, files, references: Vec::new() };
        let compiled = compile(&definition, &[]).unwrap();
        for size in [0, 300, 512, 4096] {
            let document = document(size);
            assert!(document.len() == size || size == 0, "{}", document.len());
            assert!(compiled.validate(&document, "").is_ok());
        }
    }
}
