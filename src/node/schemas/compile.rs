//! Registered schemas, compiled with everything that they refer to.

use super::Found;
use super::judgement::at;
use crate::machine::kv::Kv;
use crate::machine::schema::query;
use crate::model::listed;
use crate::model::rejection::{Reason, Rejection};
use crate::model::schema::{SchemaDefinition, SchemaFile, SchemaFormat, SchemaReference};
use crate::schema::limits::SCHEMA_TREE_MAX;
use crate::schema::{self, Compiled, Definition, Format, Reference, Resolved, SourceFile};

/// A registered schema, compiled. That it was once is no promise for a newer hub: that is a refusal.
pub(super) fn compiled(kv: &impl Kv, definition: &SchemaDefinition) -> Found<Compiled> {
    let resolved = match resolved(kv, &definition.references)? {
        Ok(resolved) => resolved,
        Err(rejection) => return Ok(Err(rejection)),
    };
    Ok(schema::compile(&definition_of(definition), &resolved).map_err(|invalid| {
        let each = invalid.problems.iter().map(|problem| at(&problem.place, &problem.text));
        let (list, _) = listed::joined(each);
        Rejection::new(Reason::SchemaMalformed, format!("schema is refused: {list}"))
    }))
}

/// What references lead to, and what that refers to in turn. They cannot run in a circle: a schema refers to
/// what was registered before it.
pub(super) fn resolved(kv: &impl Kv, references: &[SchemaReference]) -> Found<Vec<Resolved>> {
    let mut left = SCHEMA_TREE_MAX;
    resolve(kv, references, &mut left)
}

fn resolve(kv: &impl Kv, references: &[SchemaReference], left: &mut usize) -> Found<Vec<Resolved>> {
    let mut found = Vec::with_capacity(references.len().min(*left));
    for SchemaReference { name, subject, version } in references {
        let Some(rest) = left.checked_sub(1) else {
            let text = format!(
                "the schema leads to more than {SCHEMA_TREE_MAX} references; refer to fewer"
            );
            return Ok(Err(Rejection::new(Reason::SchemaMalformed, text)));
        };
        *left = rest;
        let Some(info) = query::schema(kv, subject, *version)? else {
            return Ok(Err(query::not_found(subject, Some(*version))));
        };
        let resolved = match resolve(kv, &info.definition.references, left)? {
            Ok(resolved) => resolved,
            Err(rejection) => return Ok(Err(rejection)),
        };
        let definition = definition_of(&info.definition);
        found.push(Resolved { name: name.clone(), definition, resolved });
    }
    Ok(Ok(found))
}

/// A definition as the room of schemas takes it.
pub(super) fn definition_of(stored: &SchemaDefinition) -> Definition {
    let reference = |reference: &SchemaReference| Reference {
        name: reference.name.clone(),
        subject: reference.subject.clone(),
        version: reference.version,
    };
    let file = |file: &SchemaFile| SourceFile { name: file.name.clone(), text: file.text.clone() };
    Definition {
        format: match stored.format() {
            SchemaFormat::Json => Format::Json,
            SchemaFormat::Protobuf => Format::Protobuf,
            SchemaFormat::Avro => Format::Avro,
        },
        files: stored.files.iter().map(file).collect(),
        references: stored.references.iter().map(reference).collect(),
    }
}
