//! JSON payloads as validation sees them: `serde_json` values, with every look at them counted.
//!
//! Validation by `jsonschema` is recursive, knows no limits and gathers all errors before it gives
//! out the first. A schema whose branches multiply, or a payload that is wrong in a million places,
//! would occupy a node. So the values count the looks at them and the errors about them, and when
//! either is used up, containers appear to end: validation then comes to its end by itself, at most
//! as deep as it was. What it says about values after that point is worthless and recognisable.

use std::borrow::Cow;
use std::cell::Cell;
use std::sync::LazyLock;

use jsonschema::JsonType;
use jsonschema::json::{Array, Json, Node, NodeIdentity, Object, cmp, unique};
use serde_json::{Map, Value};

use super::payload::is_length_within;
use crate::schema::report::shorten_to;

thread_local! {
    static STEPS: Cell<u64> = const { Cell::new(0) };
    static ERRORS: Cell<u64> = const { Cell::new(0) };
}

/// What errors are about once the meter has run out.
static WORTHLESS: LazyLock<Value> = LazyLock::new(|| Value::from("\0the meter has run out"));

/// Runs `work` with so many steps and errors. Answers what it answered, and whether they sufficed.
pub(super) fn metered<T>(steps: u64, errors: u64, work: impl FnOnce() -> T) -> (T, bool) {
    STEPS.set(steps);
    ERRORS.set(errors);
    let result = work();
    (result, STEPS.get() > 0 && ERRORS.get() > 0)
}

/// Whether an error about `instance` was raised after the meter had run out.
pub(super) fn is_worthless(instance: &Value) -> bool {
    instance == &*WORTHLESS
}

/// Takes steps; false when there are none left.
pub(super) fn steps(count: u64) -> bool {
    let left = STEPS.get();
    STEPS.set(left.saturating_sub(count));
    left > count && ERRORS.get() > 0
}

pub(super) fn step() -> bool {
    steps(1)
}

/// Values with no more parts and bytes than these are reported as they are.
const REPORTED_PARTS_MAX: usize = 16;
const REPORTED_BYTES_MAX: usize = 256;

/// A value as it is reported: errors keep it, some of them a copy, so that it must not be large.
fn abridged(value: &Value) -> Cow<'_, Value> {
    let mut parts = REPORTED_PARTS_MAX;
    let mut bytes = REPORTED_BYTES_MAX;
    if is_small(value, &mut parts, &mut bytes) {
        return Cow::Borrowed(value);
    }
    Cow::Owned(match value {
        Value::Object(members) => {
            let text = format!("{} members", members.len());
            Value::Object(Map::from_iter([("…".to_owned(), Value::from(text))]))
        }
        Value::Array(items) => {
            Value::Array(vec![Value::from(format!("… {} elements", items.len()))])
        }
        Value::String(text) => Value::from(shorten_to(text, REPORTED_BYTES_MAX)),
        plain => plain.clone(),
    })
}

fn is_small(value: &Value, parts: &mut usize, bytes: &mut usize) -> bool {
    let (Some(parts_left), Some(bytes_left)) =
        (parts.checked_sub(1), bytes.checked_sub(value.as_str().map_or(0, str::len)))
    else {
        return false;
    };
    (*parts, *bytes) = (parts_left, bytes_left);
    match value {
        Value::Array(items) => items.iter().all(|item| is_small(item, parts, bytes)),
        Value::Object(members) => members.iter().all(|(name, member)| {
            *bytes = bytes.saturating_sub(name.len());
            *bytes > 0 && is_small(member, parts, bytes)
        }),
        _ => true,
    }
}

/// The representation, for `jsonschema::options_for`.
pub(super) struct Metered;

/// A value of it.
#[derive(Clone, Copy)]
pub(super) struct Part<'a>(pub(super) &'a Value);

/// An object of it.
pub(super) struct Members<'a>(&'a Map<String, Value>);

/// An array of it.
pub(super) struct Items<'a>(&'a [Value]);

/// The members of an object, in order.
pub(super) struct MembersIter<'a>(serde_json::map::Iter<'a>);

/// The elements of an array, in order.
pub(super) struct ItemsIter<'a>(std::slice::Iter<'a, Value>);

impl Json for Metered {
    type Node<'a> = Part<'a>;
    type PreparedKey = String;
    type StringBuffer = Value;

    const ACYCLIC: bool = true;

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>(buffer: &mut Value, string: &str, f: impl FnOnce(Part<'_>) -> T) -> T {
        *buffer = Value::String(string.to_owned());
        f(Part(buffer))
    }
}

impl<'a> Node<'a, Metered> for Part<'a> {
    type Object = Members<'a>;
    type Array = Items<'a>;
    type Number = &'a serde_json::Number;

    fn as_object(&self) -> Option<Members<'a>> {
        step();
        self.0.as_object().map(Members)
    }

    fn as_array(&self) -> Option<Items<'a>> {
        step();
        self.0.as_array().map(|items| Items(items))
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        let string = self.0.as_str()?;
        // A regular expression may read all of it.
        steps(1 + (string.len() / 16) as u64).then_some(Cow::Borrowed(string))
    }

    fn as_number(&self) -> Option<&'a serde_json::Number> {
        step();
        self.0.as_number()
    }

    fn as_boolean(&self) -> Option<bool> {
        step();
        self.0.as_bool()
    }

    fn is_null(&self) -> bool {
        step();
        self.0.is_null()
    }

    fn is_number(&self) -> bool {
        step();
        self.0.is_number()
    }

    fn is_string(&self) -> bool {
        step();
        self.0.is_string()
    }

    fn json_type(&self) -> JsonType {
        step();
        match self.0 {
            Value::Null => JsonType::Null,
            Value::Bool(_) => JsonType::Boolean,
            Value::Number(_) => JsonType::Number,
            Value::String(_) => JsonType::String,
            Value::Array(_) => JsonType::Array,
            Value::Object(_) => JsonType::Object,
        }
    }

    fn string_length_within(&self, min: u64, max: u64) -> Option<bool> {
        Some(is_length_within(self.0.as_str()?, min, max))
    }

    fn equals_value(&self, expected: &Value) -> bool {
        step() && cmp::equal(self.0, expected)
    }

    /// Only errors ask for it.
    fn to_value(&self) -> Cow<'a, Value> {
        let left = ERRORS.get();
        ERRORS.set(left.saturating_sub(1));
        if left == 0 || STEPS.get() == 0 {
            return Cow::Borrowed(&WORTHLESS);
        }
        abridged(self.0)
    }

    fn identity(&self) -> Option<NodeIdentity> {
        Some(NodeIdentity::new(std::ptr::from_ref(self.0) as usize))
    }
}

impl<'a> Object<'a, Metered> for Members<'a> {
    type Node = Part<'a>;
    type MemberName = &'a str;
    type MembersIter = MembersIter<'a>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, key: &String) -> Option<Part<'a>> {
        if !step() {
            return None;
        }
        // Payloads keep their members in a vector with an index; few members are found faster by
        // comparing their names than by hashing one.
        if self.0.len() <= 16 {
            return self.0.iter().find(|(name, _)| *name == key).map(|(_, value)| Part(value));
        }
        self.0.get(key).map(Part)
    }

    fn members(&self) -> MembersIter<'a> {
        MembersIter(self.0.iter())
    }
}

impl<'a> Iterator for MembersIter<'a> {
    type Item = (&'a str, Part<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, value) = self.0.next()?;
        // Errors may keep the names: long ones count for more.
        steps(1 + (name.len() / 16) as u64).then_some((name.as_str(), Part(value)))
    }
}

impl<'a> Array<'a, Metered> for Items<'a> {
    type Node = Part<'a>;
    type ElementsIter = ItemsIter<'a>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn elements(&self) -> ItemsIter<'a> {
        ItemsIter(self.0.iter())
    }

    fn is_unique(&self) -> bool {
        steps(1 + self.0.len() as u64) && unique::is_unique(self.0)
    }
}

impl<'a> Iterator for ItemsIter<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        if !step() {
            return None;
        }
        self.0.next().map(Part)
    }
}
