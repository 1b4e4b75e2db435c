//! Random Avro schemas, edits of them, and payloads.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::random::Random;

/// What a schema has defined so far: names of types, and those that are still open.
#[derive(Default)]
pub(super) struct Names {
    closed: Vec<String>,
    open: Vec<String>,
    count: usize,
}

const PRIMITIVES: [&str; 8] =
    ["null", "boolean", "int", "long", "float", "double", "bytes", "string"];

/// A schema of so many levels at most.
pub(super) fn schema(random: &mut Random, levels: u64, names: &mut Names) -> Value {
    if levels == 0 || random.chance(3) {
        return if !names.closed.is_empty() && random.chance(3) {
            json!(random.pick(&names.closed))
        } else {
            json!(random.pick(&PRIMITIVES))
        };
    }
    match random.below(8) {
        0 => json!({ "type": "array", "items": inner(random, levels - 1, names) }),
        1 => json!({ "type": "map", "values": inner(random, levels - 1, names) }),
        2 => union(random, levels - 1, names),
        3 => {
            let symbols = ["A", "B", "C"];
            let count = 1 + random.below(3);
            let symbols: Vec<&str> =
                symbols.into_iter().take(usize::try_from(count).unwrap()).collect();
            named(names, json!({ "type": "enum", "symbols": symbols }))
        }
        4 => named(names, json!({ "type": "fixed", "size": random.below(4) })),
        _ => record(random, levels - 1, names),
    }
}

/// What a collection holds: there, a type may hold itself.
fn inner(random: &mut Random, levels: u64, names: &mut Names) -> Value {
    if !names.open.is_empty() && random.chance(4) {
        return json!(random.pick(&names.open));
    }
    schema(random, levels, names)
}

fn union(random: &mut Random, levels: u64, names: &mut Names) -> Value {
    let null_last = random.chance(3);
    let mut branches = vec![json!("null")];
    for _ in 0..=random.below(2) {
        let defined = names.closed.len();
        let branch = inner(random, levels, names);
        let key = |value: &Value| match value {
            Value::Object(members) => {
                members.get("name").or_else(|| members.get("type")).cloned().unwrap_or_default()
            }
            other => other.clone(),
        };
        if !branch.is_array() && !branches.iter().any(|known| key(known) == key(&branch)) {
            branches.push(branch);
        } else {
            names.closed.truncate(defined);
        }
    }
    if null_last {
        branches.rotate_left(1);
    }
    json!(branches)
}

fn named(names: &mut Names, mut of: Value) -> Value {
    let name = format!("T{}", names.count);
    names.count += 1;
    of["name"] = json!(name);
    names.closed.push(name);
    of
}

fn record(random: &mut Random, levels: u64, names: &mut Names) -> Value {
    let name = format!("T{}", names.count);
    names.count += 1;
    names.open.push(name.clone());
    let mut fields = Vec::new();
    for index in 0..random.below(4) {
        let of = schema(random, levels, names);
        let mut field = json!({ "name": format!("f{index}"), "type": of });
        if random.chance(3)
            && let Some(default) = default(&field["type"])
        {
            field["default"] = default;
        }
        fields.push(field);
    }
    names.open.retain(|open| *open != name);
    names.closed.push(name.clone());
    json!({ "type": "record", "name": name, "fields": fields })
}

/// A default for a type, where one is easy to write. None for maps: `apache-avro` tries an empty map
/// as a record whose default is an empty map, without end.
fn default(of: &Value) -> Option<Value> {
    Some(match of {
        Value::String(name) => match name.as_str() {
            "null" => Value::Null,
            "boolean" => json!(true),
            "int" | "long" => json!(7),
            "float" | "double" => json!(1.5),
            "bytes" | "string" => json!("x"),
            _ => return None,
        },
        Value::Array(branches) => default(branches.first()?)?,
        Value::Object(members) => match members.get("type")?.as_str()? {
            "array" => json!([]),
            "enum" => members.get("symbols")?.get(0)?.clone(),
            _ => return None,
        },
        _ => return None,
    })
}

/// Changes one or two things somewhere in a schema.
pub(super) fn edit(random: &mut Random, schema: &Value) -> Value {
    let mut edited = schema.clone();
    for _ in 0..=random.below(2) {
        let mut wanted = random.below(count(&edited));
        edit_at(random, &mut edited, &mut wanted);
    }
    edited
}

/// Types within a schema.
fn count(value: &Value) -> u64 {
    1 + parts(value).map(count).sum::<u64>()
}

fn parts(value: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match value {
        Value::Array(branches) => Box::new(branches.iter()),
        Value::Object(members) => {
            let fields = members.get("fields").and_then(Value::as_array).into_iter().flatten();
            let fields = fields.filter_map(|field| field.get("type"));
            Box::new(["items", "values"].iter().filter_map(|key| members.get(*key)).chain(fields))
        }
        _ => Box::new(std::iter::empty()),
    }
}

fn parts_mut(value: &mut Value) -> Vec<&mut Value> {
    match value {
        Value::Array(branches) => branches.iter_mut().collect(),
        Value::Object(members) => {
            let mut parts = Vec::new();
            for (key, member) in members {
                match key.as_str() {
                    "items" | "values" => parts.push(member),
                    "fields" => parts.extend(
                        member.as_array_mut().unwrap().iter_mut().map(|field| &mut field["type"]),
                    ),
                    _ => {}
                }
            }
            parts
        }
        _ => Vec::new(),
    }
}

fn edit_at(random: &mut Random, value: &mut Value, wanted: &mut u64) -> bool {
    if *wanted > 0 {
        *wanted -= 1;
        return parts_mut(value).into_iter().any(|part| edit_at(random, part, wanted));
    }
    match value {
        Value::String(name) => {
            let promoted = match name.as_str() {
                "int" => *random.pick(&["long", "float", "double", "string"]),
                "long" => *random.pick(&["int", "float", "double"]),
                "float" => *random.pick(&["double", "long"]),
                "double" => *random.pick(&["float", "string"]),
                "bytes" => "string",
                "string" => "bytes",
                _ => return true,
            };
            *value = if random.chance(4) { json!(["null", name]) } else { json!(promoted) };
        }
        Value::Array(branches) => {
            if branches.len() > 1 && random.chance(2) {
                branches.pop();
            } else {
                branches.push(json!(random.pick(&PRIMITIVES)));
            }
        }
        Value::Object(members) => edit_object(random, members),
        _ => {}
    }
    true
}

fn edit_object(random: &mut Random, members: &mut Map<String, Value>) {
    if let Some(Value::Array(fields)) = members.get_mut("fields") {
        return edit_fields(random, fields);
    }
    if let Some(Value::Array(symbols)) = members.get_mut("symbols") {
        if symbols.len() > 1 && random.chance(2) {
            symbols.pop();
            if random.chance(2) {
                members.insert("default".to_owned(), json!("A"));
            }
        } else {
            symbols.push(json!("D"));
        }
        return;
    }
    if let Some(size) = members.get_mut("size") {
        *size = json!(random.below(4));
    }
}

fn edit_fields(random: &mut Random, fields: &mut Vec<Value>) {
    let index = random.below(1 + fields.len() as u64);
    let index = usize::try_from(index).unwrap();
    match random.below(5) {
        0 if index < fields.len() => {
            fields.remove(index);
        }
        1 => fields.insert(index, json!({ "name": "new", "type": "int", "default": 3 })),
        2 => fields.insert(index, json!({ "name": "new", "type": "int" })),
        3 if index < fields.len() => {
            let field = &mut fields[index];
            field["aliases"] = json!([field["name"]]);
            field["name"] = json!(format!("renamed{index}"));
        }
        _ => fields.reverse(),
    }
}

/// Calls fields by their first alias instead: to readers that is the same, if writers do so.
pub(super) fn with_old_names(schema: &mut Value) {
    if let Some(Value::Array(fields)) = schema.get_mut("fields") {
        for field in fields {
            if let Some(aliases) = field.as_object_mut().unwrap().remove("aliases") {
                field["name"] = aliases[0].clone();
            }
        }
    }
    parts_mut(schema).into_iter().for_each(with_old_names);
}

/// The named types of a schema.
pub(super) fn definitions(schema: &Value) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let mut open = vec![schema];
    while let Some(value) = open.pop() {
        if let Some(name) = value.get("name").and_then(Value::as_str) {
            found.insert(name.to_owned(), value.clone());
        }
        open.extend(parts(value));
    }
    found
}

/// Writes a random value of a schema. Recursive types end after so many levels.
pub(super) fn encode(
    random: &mut Random,
    schema: &Value,
    names: &BTreeMap<String, Value>,
    levels: u64,
    to: &mut Vec<u8>,
) {
    let below = levels.saturating_sub(1);
    match schema {
        Value::String(name) => match name.as_str() {
            "null" => {}
            "boolean" => to.push(u8::from(random.chance(2))),
            "int" => {
                let bytes = [random.byte(), random.byte(), random.byte(), random.byte()];
                long(i64::from(i32::from_le_bytes(bytes) >> random.below(32)), to)
            }
            "long" => long(random.next() as i64 >> random.below(64), to),
            "float" => to.extend_from_slice(&1.5_f32.to_le_bytes()),
            "double" => to.extend_from_slice(&2.5_f64.to_le_bytes()),
            // Bytes that are text, so that they are read as a string too.
            "bytes" | "string" => text(random.pick::<&str>(&["", "a", "bc", "é"]), to),
            name => encode(random, &names[name], names, below, to),
        },
        Value::Array(branches) => {
            let null = branches.iter().position(|branch| branch == "null");
            let any = usize::try_from(random.below(branches.len() as u64)).unwrap();
            let index = if levels == 0 { null.unwrap_or(any) } else { any };
            long(i64::try_from(index).unwrap(), to);
            encode(random, &branches[index], names, below, to);
        }
        _ => encode_complex(random, schema, names, levels, to),
    }
}

fn encode_complex(
    random: &mut Random,
    schema: &Value,
    names: &BTreeMap<String, Value>,
    levels: u64,
    to: &mut Vec<u8>,
) {
    let below = levels.saturating_sub(1);
    match schema["type"].as_str().unwrap() {
        kind @ ("array" | "map") => {
            let count = if levels == 0 { 0 } else { random.below(3) };
            let inner = if kind == "array" { &schema["items"] } else { &schema["values"] };
            let mut block = Vec::new();
            for index in 0..count {
                if kind == "map" {
                    text(&format!("k{index}"), &mut block);
                }
                encode(random, inner, names, below, &mut block);
            }
            if count > 0 {
                let signed = i64::try_from(count).unwrap();
                if random.chance(2) {
                    long(signed, to);
                } else {
                    long(-signed, to);
                    long(i64::try_from(block.len()).unwrap(), to);
                }
                to.extend_from_slice(&block);
            }
            to.push(0);
        }
        "enum" => {
            let count = schema["symbols"].as_array().unwrap().len() as u64;
            long(i64::try_from(random.below(count)).unwrap(), to);
        }
        "fixed" => to.extend(std::iter::repeat_n(
            7,
            usize::try_from(schema["size"].as_u64().unwrap()).unwrap(),
        )),
        _ => {
            for field in schema["fields"].as_array().unwrap() {
                encode(random, &field["type"], names, below, to);
            }
        }
    }
}

fn text(text: &str, to: &mut Vec<u8>) {
    long(i64::try_from(text.len()).unwrap(), to);
    to.extend_from_slice(text.as_bytes());
}

pub(super) fn long(number: i64, to: &mut Vec<u8>) {
    let mut rest = ((number << 1) ^ (number >> 63)) as u64;
    while rest >= 0x80 {
        to.push(rest.to_le_bytes()[0] | 0x80);
        rest >>= 7;
    }
    to.push(rest.to_le_bytes()[0]);
}
