//! Random JSON Schemas, edits of them, and values that they are about.

use serde_json::{Map, Value, json};

/// Numbers from a seed, for generators that proptest seeds (splitmix64).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        let index = self.below(all.len() as u64);
        &all[usize::try_from(index).unwrap()]
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    pub(super) fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

const NAMES: [&str; 4] = ["a", "b", "ab", "c"];
const PATTERNS: [&str; 4] = ["^a", "b$", "^[a-c]+$", "^.{2}$"];
const TYPES: [&str; 7] = ["null", "boolean", "object", "array", "string", "number", "integer"];

/// The draft of a random schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Seven,
    New,
}

impl Dialect {
    fn uri(self) -> &'static str {
        match self {
            Self::Seven => "http://json-schema.org/draft-07/schema#",
            Self::New => "https://json-schema.org/draft/2020-12/schema",
        }
    }
}

/// A document with definitions, some of which may refer to one another.
pub(super) fn document(random: &mut Random, dialect: Dialect) -> Value {
    let mut root = match schema(random, 3, dialect) {
        Value::Object(members) => members,
        other => Map::from_iter([("not".to_owned(), json!({ "not": other }))]),
    };
    root.insert("$schema".to_owned(), json!(dialect.uri()));
    let x = schema(random, 2, dialect);
    let y = schema(random, 2, dialect);
    root.insert("definitions".to_owned(), json!({ "x": x, "y": y }));
    Value::Object(root)
}

/// A schema of so many levels at most.
pub(super) fn schema(random: &mut Random, levels: u64, dialect: Dialect) -> Value {
    match random.below(12) {
        0 => json!(true),
        1 if random.chance(2) => json!(false),
        2 => json!({ "type": random.pick(&TYPES) }),
        _ => {
            let mut members = Map::new();
            for _ in 0..=random.below(3) {
                let (keyword, value) = keyword(random, levels, dialect);
                members.insert(keyword.to_owned(), value);
            }
            Value::Object(members)
        }
    }
}

fn schemas(random: &mut Random, levels: u64, dialect: Dialect) -> Vec<Value> {
    (0..=random.below(2)).map(|_| schema(random, levels, dialect)).collect()
}

fn named(random: &mut Random, levels: u64, dialect: Dialect, names: &[&str]) -> Value {
    let mut members = Map::new();
    for _ in 0..=random.below(2) {
        members.insert((*random.pick(names)).to_owned(), schema(random, levels, dialect));
    }
    Value::Object(members)
}

fn names(random: &mut Random) -> Value {
    let mut list: Vec<&str> = (0..=random.below(2)).map(|_| *random.pick(&NAMES)).collect();
    list.sort_unstable();
    list.dedup();
    json!(list)
}

/// A keyword and a value for it.
fn keyword(random: &mut Random, levels: u64, dialect: Dialect) -> (&'static str, Value) {
    if levels == 0 || random.chance(2) {
        return plain_keyword(random, dialect);
    }
    let below = levels - 1;
    let one = |random: &mut Random| schema(random, below, dialect);
    let many = |random: &mut Random| json!(schemas(random, below, dialect));
    let new = dialect == Dialect::New;
    match random.below(22) {
        0 => ("allOf", many(random)),
        1 | 2 => ("anyOf", many(random)),
        3 => ("oneOf", many(random)),
        4 => ("not", one(random)),
        5 => ("if", one(random)),
        6 => ("then", one(random)),
        7 => ("else", one(random)),
        8..=10 => ("properties", named(random, below, dialect, &NAMES)),
        11 => ("patternProperties", named(random, below, dialect, &PATTERNS)),
        12 | 13 => ("additionalProperties", one(random)),
        14 => ("propertyNames", one(random)),
        15 if new => ("prefixItems", many(random)),
        15 => ("items", many(random)),
        16 => ("items", one(random)),
        17 if new => ("unevaluatedItems", one(random)),
        17 => ("additionalItems", one(random)),
        18 => ("contains", one(random)),
        19 if new => ("unevaluatedProperties", one(random)),
        20 if new => ("dependentSchemas", named(random, below, dialect, &NAMES)),
        20 => ("dependencies", named(random, below, dialect, &NAMES)),
        _ => ("$ref", json!(random.pick(&["#", "#/definitions/x", "#/definitions/y"]))),
    }
}

fn plain_keyword(random: &mut Random, dialect: Dialect) -> (&'static str, Value) {
    let count = json!(random.below(4));
    let numbers = [json!(-1), json!(0), json!(1), json!(1.5), json!(2), json!(2.0)];
    let number = random.pick(&numbers);
    match random.below(23) {
        0..=2 => ("type", json!(random.pick(&TYPES))),
        3 => {
            let first = random.pick(&TYPES);
            let second = random.pick(&TYPES);
            ("type", if first == second { json!([first]) } else { json!([first, second]) })
        }
        4 => {
            let mut values: Vec<Value> = Vec::new();
            for _ in 0..=random.below(3) {
                let candidate = value(random, 1);
                if !values.contains(&candidate) {
                    values.push(candidate);
                }
            }
            ("enum", json!(values))
        }
        5 => ("const", value(random, 1)),
        6 => ("minimum", number.clone()),
        7 => ("maximum", number.clone()),
        8 => ("exclusiveMinimum", number.clone()),
        9 => ("exclusiveMaximum", number.clone()),
        10 => ("multipleOf", json!(random.pick(&[json!(1), json!(2), json!(0.5), json!(4)]))),
        11 => ("minLength", count),
        12 => ("maxLength", count),
        13 => ("pattern", json!(random.pick(&PATTERNS))),
        14 => ("minItems", count),
        15 => ("maxItems", count),
        16 => ("uniqueItems", json!(true)),
        17 => ("minProperties", count),
        18 => ("maxProperties", count),
        19 if dialect == Dialect::New => {
            ("dependentRequired", json!({ *random.pick(&NAMES): names(random) }))
        }
        19 => ("dependencies", json!({ *random.pick(&NAMES): names(random) })),
        20 if dialect == Dialect::New => ("minContains", count),
        21 if dialect == Dialect::New => ("maxContains", count),
        _ => ("required", names(random)),
    }
}

/// A value of so many levels at most.
pub(super) fn value(random: &mut Random, levels: u64) -> Value {
    let kinds = if levels == 0 { 8 } else { 14 };
    match random.below(kinds) {
        0 => Value::Null,
        1 => json!(random.chance(2)),
        2 | 3 => json!(random.below(4)),
        4 => random.pick(&[json!(-1), json!(1.5), json!(1.0), json!(0.5), json!(2.5)]).clone(),
        5..=7 => json!(random.pick(&["", "a", "b", "ab", "abc", "zz", "é"])),
        8..=10 => {
            let length = random.below(4);
            json!((0..length).map(|_| value(random, levels - 1)).collect::<Vec<_>>())
        }
        _ => {
            let mut members = Map::new();
            for _ in 0..random.below(4) {
                let name = *random.pick(&["a", "b", "ab", "c", "zz"]);
                members.insert(name.to_owned(), value(random, levels - 1));
            }
            Value::Object(members)
        }
    }
}

/// Changes one to three things somewhere in a document.
pub(super) fn edit(random: &mut Random, document: &Value, dialect: Dialect) -> Value {
    let mut edited = document.clone();
    for _ in 0..=random.below(3) {
        let count = count_objects(&edited);
        let mut wanted = random.below(count.max(1));
        edit_at(random, &mut edited, &mut wanted, dialect);
    }
    edited["$schema"] = json!(dialect.uri());
    edited
}

fn count_objects(value: &Value) -> u64 {
    match value {
        Value::Object(members) => 1 + members.values().map(count_objects).sum::<u64>(),
        Value::Array(items) => items.iter().map(count_objects).sum(),
        _ => 0,
    }
}

/// Edits the object that is reached after so many others; true once it is done.
fn edit_at(random: &mut Random, value: &mut Value, wanted: &mut u64, dialect: Dialect) -> bool {
    match value {
        Value::Array(items) => items.iter_mut().any(|i| edit_at(random, i, wanted, dialect)),
        Value::Object(members) => {
            if *wanted > 0 {
                *wanted -= 1;
                return members.values_mut().any(|m| edit_at(random, m, wanted, dialect));
            }
            let editable: Vec<String> = members
                .keys()
                .filter(|k| !k.starts_with('$') && *k != "definitions")
                .cloned()
                .collect();
            match random.below(4) {
                0 if !editable.is_empty() => {
                    members.remove(random.pick(&editable).as_str());
                }
                1 if !editable.is_empty() => {
                    let key = random.pick(&editable).clone();
                    change(random, &mut members[&key], dialect);
                }
                _ => {
                    let (keyword, value) = keyword(random, 1, dialect);
                    members.insert(keyword.to_owned(), value);
                }
            }
            true
        }
        _ => false,
    }
}

fn change(random: &mut Random, value: &mut Value, dialect: Dialect) {
    match value {
        Value::Number(number) => {
            let changed = number.as_i64().map(|n| n + if random.chance(2) { 1 } else { -1 });
            if let Some(changed) = changed.filter(|n| *n >= 0) {
                *value = json!(changed);
            }
        }
        Value::Array(items) if items.len() > 1 => {
            items.pop();
        }
        Value::Array(items) if items.iter().all(Value::is_object) => {
            items.push(schema(random, 1, dialect));
        }
        Value::Bool(flag) => *value = json!(!*flag),
        Value::Object(members) if !members.is_empty() => {
            let key = members.keys().next().unwrap().clone();
            members[&key] = schema(random, 1, dialect);
        }
        _ => {}
    }
}
