//! Whether the defaults of fields fit their types (Avro specification, complex types: records).

use serde_json::Value;

use super::model::{Model, Primitive, Type, TypeId};
use crate::schema::report::{Problems, display_to};

/// Records within one another that a default is followed through.
const DEPTH_MAX: usize = 64;

/// Notes each default that does not fit. A union takes what one of its types takes.
pub(super) fn check(model: &Model, problems: &mut Problems) {
    for id in model.ids() {
        let Type::Record { fields, .. } = model.of(id) else { continue };
        for (index, field) in fields.iter().enumerate() {
            if let Some(default) = &field.default
                && !fits(model, field.of, default, 0)
            {
                let text = format!(
                    "default {} of field {} is no {}; write a value of that type",
                    display_to(default, 64),
                    field.name,
                    model.of(field.of).describe()
                );
                problems.push(&format!("{}/fields/{index}/default", model.place(id)), text);
            }
        }
    }
}

fn fits(model: &Model, id: TypeId, value: &Value, depth: usize) -> bool {
    if depth > DEPTH_MAX {
        return false;
    }
    match (model.of(id), value) {
        (Type::Primitive(primitive), value) => fits_primitive(*primitive, value),
        (Type::Array(items), Value::Array(list)) => {
            list.iter().all(|item| fits(model, *items, item, depth + 1))
        }
        (Type::Map(values), Value::Object(members)) => {
            members.values().all(|member| fits(model, *values, member, depth + 1))
        }
        (Type::Union(branches), value) => {
            branches.iter().any(|branch| fits(model, *branch, value, depth + 1))
        }
        (Type::Fixed { size, .. }, Value::String(text)) => {
            is_bytes(text) && text.chars().count() as u64 == *size
        }
        (Type::Enum { symbols, .. }, Value::String(symbol)) => symbols.contains(symbol),
        (Type::Record { fields, .. }, Value::Object(members)) => {
            fields.iter().all(|field| match members.get(&field.name) {
                Some(member) => fits(model, field.of, member, depth + 1),
                None => field.default.is_some(),
            })
        }
        _ => false,
    }
}

fn fits_primitive(primitive: Primitive, value: &Value) -> bool {
    match (primitive, value) {
        (Primitive::Null, Value::Null)
        | (Primitive::Boolean, Value::Bool(_))
        | (Primitive::String, Value::String(_)) => true,
        (Primitive::Int, Value::Number(number)) => {
            number.as_i64().is_some_and(|number| i32::try_from(number).is_ok())
        }
        (Primitive::Long, Value::Number(number)) => number.as_i64().is_some(),
        (Primitive::Float | Primitive::Double, Value::Number(_)) => true,
        (Primitive::Bytes, Value::String(text)) => is_bytes(text),
        _ => false,
    }
}

/// Bytes are written as the code points 0 to 255.
fn is_bytes(text: &str) -> bool {
    text.chars().all(|character| u32::from(character) <= 255)
}
