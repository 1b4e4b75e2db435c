//! JSON payloads as the first look at them sees them: texts borrowed, members in a row.
//!
//! Most payloads are valid, and to know that takes no more than this. What is unusual (members by the dozen, one
//! twice) is left to the second look, on `serde_json` values, which also finds what is wrong with the others. Looks are
//! counted as in [`meter`](super::meter).

use std::borrow::Cow;
use std::fmt;

use jsonschema::JsonType;
use jsonschema::json::{Array, Json, Node, NodeIdentity, Object, cmp, unique};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::meter::{step, steps};

/// Members of an object that are found by looking at all of them.
const MEMBERS_MAX: usize = 32;

/// Members that there is room for from the start.
const MEMBERS_USUAL: usize = 16;

/// A payload, or a part of it.
#[derive(Debug, Default)]
pub(super) enum Payload<'a> {
    #[default]
    Null,
    Boolean(bool),
    Number(Number),
    Text(Cow<'a, str>),
    Array(Vec<Self>),
    Object(Vec<(Cow<'a, str>, Self)>),
}

impl<'a> Payload<'a> {
    /// Reads a payload; `None`: it is no JSON, or unusual.
    pub(super) fn read(payload: &'a [u8]) -> Option<Self> {
        serde_json::from_str(std::str::from_utf8(payload).ok()?).ok()
    }

    /// How deep it nests: a plain value one level.
    pub(super) fn depth(&self) -> usize {
        let inner = match self {
            Self::Array(items) => items.iter().map(Self::depth).max(),
            Self::Object(members) => members.iter().map(|(_, value)| value.depth()).max(),
            _ => return 1,
        };
        1 + inner.unwrap_or(0)
    }

    fn to_value(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Boolean(value) => Value::Bool(*value),
            Self::Number(value) => Value::Number(value.clone()),
            Self::Text(value) => Value::String(value.clone().into_owned()),
            Self::Array(items) => items.iter().map(Self::to_value).collect(),
            Self::Object(members) => {
                let member =
                    |(name, value): &(Cow<'_, str>, Self)| (name.to_string(), value.to_value());
                Value::Object(members.iter().map(member).collect::<Map<_, _>>())
            }
        }
    }
}

/// The name of a member.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(NameReader)
    }
}

struct NameReader;

impl<'de> Visitor<'de> for NameReader {
    type Value = Name<'de>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Name<'de>, E> {
        Ok(Name(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Name<'de>, E> {
        Ok(Name(Cow::Owned(value.to_owned())))
    }
}

struct Reader;

impl<'de> Deserialize<'de> for Payload<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

impl<'de> Visitor<'de> for Reader {
    type Value = Payload<'de>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Payload<'de>, E> {
        Ok(Payload::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Payload<'de>, E> {
        Ok(Payload::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Payload<'de>, E> {
        Ok(Payload::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Payload<'de>, E> {
        Ok(Payload::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Payload<'de>, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("no number"))?;
        Ok(Payload::Number(number))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Payload<'de>, E> {
        Ok(Payload::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Payload<'de>, E> {
        Ok(Payload::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Payload<'de>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = all.next_element()? {
            items.push(item);
        }
        Ok(Payload::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Payload<'de>, A::Error> {
        let mut members: Vec<(Cow<'de, str>, Payload<'de>)> = Vec::with_capacity(MEMBERS_USUAL);
        let mut seen = 0_u64;
        while let Some((Name(name), value)) = all.next_entry()? {
            let mark = mark_of(&name);
            let twice = || members.iter().any(|(known, _)| *known == name);
            if members.len() == MEMBERS_MAX || (seen & mark != 0 && twice()) {
                return Err(A::Error::custom("unusual"));
            }
            seen |= mark;
            members.push((name, value));
        }
        Ok(Payload::Object(members))
    }
}

/// One of 64 marks, the same for the same name: two names with different ones need no comparison.
fn mark_of(name: &str) -> u64 {
    let byte = |at: Option<&u8>| at.copied().unwrap_or(0) as usize;
    let bytes = name.as_bytes();
    1 << ((bytes.len() + 7 * byte(bytes.first()) + 31 * byte(bytes.last())) % 64)
}

/// The representation, for `jsonschema::options_for`.
pub(super) struct Borrowed;

/// A value of it.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a>(pub(super) &'a Payload<'a>);

/// An object of it.
pub(super) struct Members<'a>(&'a [(Cow<'a, str>, Payload<'a>)]);

/// An array of it.
pub(super) struct Items<'a>(&'a [Payload<'a>]);

/// The members of an object, in order.
pub(super) struct MembersIter<'a>(std::slice::Iter<'a, (Cow<'a, str>, Payload<'a>)>);

/// The elements of an array, in order.
pub(super) struct ItemsIter<'a>(std::slice::Iter<'a, Payload<'a>>);

impl Json for Borrowed {
    type Node<'a> = Seen<'a>;
    type PreparedKey = String;
    type StringBuffer = Payload<'static>;

    const ACYCLIC: bool = true;

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>(
        buffer: &mut Payload<'static>,
        string: &str,
        f: impl FnOnce(Seen<'_>) -> T,
    ) -> T {
        *buffer = Payload::Text(Cow::Owned(string.to_owned()));
        f(Seen(buffer))
    }
}

impl<'a> Node<'a, Borrowed> for Seen<'a> {
    type Object = Members<'a>;
    type Array = Items<'a>;
    type Number = &'a Number;

    fn as_object(&self) -> Option<Members<'a>> {
        step();
        if let Payload::Object(members) = self.0 { Some(Members(members)) } else { None }
    }

    fn as_array(&self) -> Option<Items<'a>> {
        step();
        if let Payload::Array(items) = self.0 { Some(Items(items)) } else { None }
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        let Payload::Text(text) = self.0 else { return None };
        // A regular expression may read all of it.
        steps(1 + (text.len() / 16) as u64).then_some(Cow::Borrowed(text))
    }

    fn as_number(&self) -> Option<&'a Number> {
        step();
        if let Payload::Number(number) = self.0 { Some(number) } else { None }
    }

    fn as_boolean(&self) -> Option<bool> {
        step();
        if let Payload::Boolean(value) = self.0 { Some(*value) } else { None }
    }

    fn is_null(&self) -> bool {
        self.json_type() == JsonType::Null
    }

    fn is_number(&self) -> bool {
        self.json_type() == JsonType::Number
    }

    fn json_type(&self) -> JsonType {
        step();
        match self.0 {
            Payload::Null => JsonType::Null,
            Payload::Boolean(_) => JsonType::Boolean,
            Payload::Number(_) => JsonType::Number,
            Payload::Text(_) => JsonType::String,
            Payload::Array(_) => JsonType::Array,
            Payload::Object(_) => JsonType::Object,
        }
    }

    fn string_length_within(&self, min: u64, max: u64) -> Option<bool> {
        let Payload::Text(text) = self.0 else { return None };
        Some(is_length_within(text, min, max))
    }

    fn equals_value(&self, expected: &Value) -> bool {
        step()
            && match (self.0, expected) {
                (Payload::Text(text), Value::String(expected)) => text == expected,
                (Payload::Text(_), _) | (_, Value::String(_)) => false,
                (payload, expected) => cmp::equal(&payload.to_value(), expected),
            }
    }

    fn to_value(&self) -> Cow<'a, Value> {
        Cow::Owned(self.0.to_value())
    }

    fn identity(&self) -> Option<NodeIdentity> {
        Some(NodeIdentity::new(std::ptr::from_ref(self.0) as usize))
    }
}

/// Whether a text has so many code points.
pub(super) fn is_length_within(text: &str, min: u64, max: u64) -> bool {
    // A code point has one to four bytes.
    let (most, fewest) = (text.len() as u64, text.len().div_ceil(4) as u64);
    if most < min || fewest > max {
        return false;
    }
    (fewest >= min && most <= max) || (min..=max).contains(&(text.chars().count() as u64))
}

impl<'a> Object<'a, Borrowed> for Members<'a> {
    type Node = Seen<'a>;
    type MemberName = &'a str;
    type MembersIter = MembersIter<'a>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, key: &String) -> Option<Seen<'a>> {
        if !step() {
            return None;
        }
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| Seen(value))
    }

    fn members(&self) -> MembersIter<'a> {
        MembersIter(self.0.iter())
    }
}

impl<'a> Iterator for MembersIter<'a> {
    type Item = (&'a str, Seen<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, value) = self.0.next()?;
        steps(1 + (name.len() / 16) as u64).then_some((name, Seen(value)))
    }
}

impl<'a> Array<'a, Borrowed> for Items<'a> {
    type Node = Seen<'a>;
    type ElementsIter = ItemsIter<'a>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn elements(&self) -> ItemsIter<'a> {
        ItemsIter(self.0.iter())
    }

    fn is_unique(&self) -> bool {
        if !steps(1 + self.0.len() as u64) {
            return false;
        }
        let values: Vec<Value> = self.0.iter().map(Payload::to_value).collect();
        unique::is_unique(&values)
    }
}

impl<'a> Iterator for ItemsIter<'a> {
    type Item = Seen<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        if !step() {
            return None;
        }
        self.0.next().map(Seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_read_as_they_are_by_others() {
        for text in [
            "null",
            "true",
            "-7",
            "18446744073709551615",
            "0.1",
            "-1e300",
            r#""a\u00e9\n""#,
            r#"[1, [], {"a": {"b": [null, "x"]}}]"#,
            r#"{"a": 1, "b": "two", "c\n": []}"#,
        ] {
            let read = Payload::read(text.as_bytes()).unwrap();
            assert_eq!(read.to_value(), serde_json::from_str::<Value>(text).unwrap(), "{text}");
        }
    }

    #[test]
    fn what_is_unusual_is_left_to_the_second_look() {
        let many = |count: usize| {
            let members: Vec<_> = (0..count).map(|n| format!("\"m{n}\": {n}")).collect();
            format!("[{{{}}}]", members.join(", "))
        };
        assert!(Payload::read(many(MEMBERS_MAX).as_bytes()).is_some());
        for text in [&many(MEMBERS_MAX + 1), r#"{"a": 1, "a": 2}"#, "{", "[1] 2", ""] {
            assert!(Payload::read(text.as_bytes()).is_none(), "{text}");
        }
        assert!(Payload::read(b"\"\xff\"").is_none());
        assert!(Payload::read("[".repeat(200).as_bytes()).is_none());
    }

    #[test]
    fn levels_are_counted() {
        for (text, depth) in [("1", 1), ("[]", 1), (r#"{"a": [1]}"#, 3), ("[[], [[1]]]", 4)] {
            assert_eq!(Payload::read(text.as_bytes()).unwrap().depth(), depth, "{text}");
        }
    }
}
