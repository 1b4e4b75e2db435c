//! Payloads against a message, on the wire: nothing is built, so that a payload takes no more
//! memory than it has bytes.
//!
//! It refuses what `prost` refuses: wire types that do not fit, broken lengths, text that is not
//! UTF-8, and messages that nest deeper than [`DEPTH_MAX`]; and beyond that, missing required
//! fields. Unknown fields are fine, unknown values of enums too.

use std::collections::{BTreeMap, BTreeSet};

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost_reflect::{ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor};

use crate::schema::limits::{TEXT_BYTES_MAX, VIOLATIONS_MAX};
use crate::schema::report::{Violation, push_segment, shorten_to};

/// Levels of messages: the default of the implementations of Protobuf.
const DEPTH_MAX: usize = 100;

/// The required fields of messages that have any, by the full names of the messages.
pub(super) type Required = BTreeMap<String, Vec<(u32, String)>>;

/// Finds the required fields of all messages.
pub(super) fn required(messages: impl Iterator<Item = MessageDescriptor>) -> Required {
    let mut found = Required::new();
    for message in messages {
        let fields = message.fields().filter(FieldDescriptor::is_required);
        let fields: Vec<_> = fields.map(|f| (f.number(), f.name().to_owned())).collect();
        if !fields.is_empty() {
            found.insert(message.full_name().to_owned(), fields);
        }
    }
    found
}

/// Checks a payload.
///
/// # Errors
/// Every violation, up to [`VIOLATIONS_MAX`]; in a message whose bytes are broken only the first.
pub(super) fn check(
    message: &MessageDescriptor,
    required: &Required,
    payload: &[u8],
) -> Result<(), Vec<Violation>> {
    let (path, replaced, violations) = (String::new(), false, Vec::new());
    let mut check = Check { required, path, replaced, violations };
    check.message(message, &[payload], 1);
    if check.violations.is_empty() { Ok(()) } else { Err(check.violations) }
}

struct Check<'r> {
    required: &'r Required,
    /// A pointer to the message at hand.
    path: String,
    /// The message at hand was replaced by another member of its oneof: it must decode, but nobody
    /// misses its required fields.
    replaced: bool,
    violations: Vec<Violation>,
}

/// A field or an extension.
struct Field {
    number: u32,
    name: String,
    kind: Kind,
    is_list: bool,
    is_group: bool,
    is_map: bool,
    /// The index of the oneof that it is in.
    oneof: Option<String>,
}

/// What was read of a message so far.
#[derive(Default)]
struct Seen<'p> {
    numbers: BTreeSet<u32>,
    /// Elements of each repeated field.
    counts: BTreeMap<u32, usize>,
    /// The parts of each single message: they are merged.
    parts: BTreeMap<u32, (Field, Vec<&'p [u8]>)>,
}

impl Check<'_> {
    /// A message of one part or of several that are merged.
    fn message(&mut self, message: &MessageDescriptor, parts: &[&[u8]], depth: usize) {
        if depth > DEPTH_MAX {
            let text = format!("messages nest deeper than {DEPTH_MAX} levels; nest them less");
            return self.violation(None, &text);
        }
        let mut seen = Seen::default();
        for part in parts {
            if let Err(text) = self.fields(message, part, depth, &mut seen) {
                self.violation(None, &text);
            }
        }
        for (field, parts) in std::mem::take(&mut seen.parts).into_values() {
            self.parts(&field, &parts, depth);
        }
        if self.replaced || self.required.is_empty() {
            return;
        }
        let required = self.required.get(message.full_name()).into_iter().flatten();
        for (_, name) in required.filter(|(number, _)| !seen.numbers.contains(number)) {
            let text =
                format!("required field {name} of {} is missing; set it", message.full_name());
            self.violation(Some(name), &text);
        }
    }

    /// A single message, of its parts.
    fn parts(&mut self, field: &Field, parts: &[&[u8]], depth: usize) {
        if let Kind::Message(inner) = &field.kind {
            let back = self.enter(&field.name);
            self.message(inner, parts, depth + 1);
            self.path.truncate(back);
        }
    }

    /// The fields in one part of a message; an error ends the part.
    fn fields<'p>(
        &mut self,
        message: &MessageDescriptor,
        part: &'p [u8],
        depth: usize,
        seen: &mut Seen<'p>,
    ) -> Result<(), String> {
        let mut rest = part;
        while !rest.is_empty() {
            let at = part.len() - rest.len();
            let broken = |what: &dyn std::fmt::Display| {
                format!("{what} at byte {at} of a {}; send a whole message", message.full_name())
            };
            let (number, wire) = decode_key(&mut rest).map_err(|e| broken(&e))?;
            if wire == WireType::EndGroup {
                return Err(broken(&"end of a group that was not begun"));
            }
            let Some(field) = find(message, number) else {
                skip_field(wire, number, &mut rest, DecodeContext::default())
                    .map_err(|e| broken(&e))?;
                continue;
            };
            seen.numbers.insert(number);
            self.field(field, wire, &mut rest, depth, seen).map_err(|e| broken(&e))?;
        }
        Ok(())
    }

    fn field<'p>(
        &mut self,
        field: Field,
        wire: WireType,
        rest: &mut &'p [u8],
        depth: usize,
        seen: &mut Seen<'p>,
    ) -> Result<(), String> {
        if let Some(oneof) = &field.oneof {
            // The last member of a oneof that is set wins.
            let replaced = seen.parts.iter().find_map(|(number, (known, _))| {
                let other = *number != field.number && known.oneof.as_ref() == Some(oneof);
                other.then_some(*number)
            });
            if let Some((known, parts)) = replaced.and_then(|number| seen.parts.remove(&number)) {
                let outer = std::mem::replace(&mut self.replaced, true);
                self.parts(&known, &parts, depth);
                self.replaced = outer;
            }
        }
        let wanted = wire_type(&field.kind, field.is_group);
        let packed = field.is_list
            && wire == WireType::LengthDelimited
            && wanted != WireType::LengthDelimited
            && wanted != WireType::StartGroup;
        if packed {
            let mut values = delimited(rest)?;
            while !values.is_empty() {
                skip_plain(wanted, &mut values, &field)?;
            }
            return Ok(());
        }
        if wire != wanted {
            return Err(format!(
                "field {} ({}) has wire type {wire:?}, its type asks for {wanted:?}",
                field.name, field.number
            ));
        }
        match &field.kind {
            Kind::String => {
                let bytes = delimited(rest)?;
                let count = seen.counts.entry(field.number).or_default();
                if std::str::from_utf8(bytes).is_err() {
                    let place = if field.is_list {
                        format!("{}/{count}", field.name)
                    } else {
                        field.name.clone()
                    };
                    let text = format!("text in {place} is not UTF-8; encode it as UTF-8");
                    self.violation(Some(&place), &text);
                }
                *count += 1;
                Ok(())
            }
            Kind::Bytes => delimited(rest).map(|_| ()),
            Kind::Message(inner) => {
                let inner = inner.clone();
                let bytes =
                    if field.is_group { group(field.number, rest)? } else { delimited(rest)? };
                if !field.is_list && !field.is_map {
                    let parts = seen.parts.entry(field.number);
                    parts.or_insert_with(|| (field, Vec::new())).1.push(bytes);
                    return Ok(());
                }
                let count = seen.counts.entry(field.number).or_default();
                let segment = if field.is_map { map_key(bytes, *count) } else { count.to_string() };
                *count += 1;
                let back = self.enter(&field.name);
                self.enter(&segment);
                self.message(&inner, &[bytes], depth + 1);
                self.path.truncate(back);
                Ok(())
            }
            _ => skip_plain(wanted, rest, &field),
        }
    }

    /// Adds a segment to the path; answers what to cut it back to.
    fn enter(&mut self, segment: &str) -> usize {
        let back = self.path.len();
        push_segment(&mut self.path, segment);
        back
    }

    /// Notes a violation here, or at a field below.
    fn violation(&mut self, below: Option<&str>, text: &str) {
        if self.violations.len() > VIOLATIONS_MAX {
            return;
        }
        let mut pointer = self.path.clone();
        if let Some(below) = below {
            pointer.push('/');
            pointer.push_str(below);
        }
        Violation::note(&mut self.violations, &pointer, text);
    }
}

fn find(message: &MessageDescriptor, number: u32) -> Option<Field> {
    if let Some(field) = message.get_field(number) {
        let oneof = field.containing_oneof().map(|oneof| oneof.name().to_owned());
        return Some(Field {
            number,
            name: field.name().to_owned(),
            kind: field.kind(),
            is_list: field.is_list(),
            is_group: field.is_group(),
            is_map: field.is_map(),
            oneof,
        });
    }
    let extension: ExtensionDescriptor = message.get_extension(number)?;
    Some(Field {
        number,
        name: extension.json_name().to_owned(),
        kind: extension.kind(),
        is_list: extension.is_list(),
        is_group: extension.is_group(),
        is_map: extension.is_map(),
        oneof: None,
    })
}

/// The wire type of a single value of a kind (Protobuf, encoding: message structure).
fn wire_type(kind: &Kind, is_group: bool) -> WireType {
    match kind {
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => WireType::SixtyFourBit,
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => WireType::ThirtyTwoBit,
        Kind::String | Kind::Bytes => WireType::LengthDelimited,
        Kind::Message(_) if is_group => WireType::StartGroup,
        Kind::Message(_) => WireType::LengthDelimited,
        Kind::Int32
        | Kind::Int64
        | Kind::Uint32
        | Kind::Uint64
        | Kind::Sint32
        | Kind::Sint64
        | Kind::Bool
        | Kind::Enum(_) => WireType::Varint,
    }
}

/// Takes a length and so many bytes.
fn delimited<'p>(rest: &mut &'p [u8]) -> Result<&'p [u8], String> {
    let length = decode_varint(rest).map_err(|e| e.to_string())?;
    let taken = usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length));
    let Some((bytes, after)) = taken else {
        return Err(format!("length {length} is more than the {} bytes that follow", rest.len()));
    };
    *rest = after;
    Ok(bytes)
}

/// Takes one value of a plain kind.
fn skip_plain(wire: WireType, rest: &mut &[u8], field: &Field) -> Result<(), String> {
    skip_field(wire, field.number, rest, DecodeContext::default())
        .map_err(|e| format!("field {} ({}): {e}", field.name, field.number))
}

/// Takes a group up to its end; answers what is within.
fn group<'p>(number: u32, rest: &mut &'p [u8]) -> Result<&'p [u8], String> {
    let begin = *rest;
    loop {
        let here = *rest;
        let (inner, wire) = decode_key(rest).map_err(|e| e.to_string())?;
        if wire == WireType::EndGroup {
            if inner != number {
                return Err(format!("group {number} ends as group {inner}"));
            }
            let length = begin.len() - here.len();
            return Ok(begin.get(..length).unwrap_or_default());
        }
        skip_field(wire, inner, rest, DecodeContext::default()).map_err(|e| e.to_string())?;
    }
}

/// What an entry of a map is called in paths: its key, or its position when that is not at hand.
fn map_key(entry: &[u8], position: usize) -> String {
    let mut rest = entry;
    match decode_key(&mut rest) {
        Ok((1, WireType::LengthDelimited)) => delimited(&mut rest)
            .ok()
            .and_then(|key| std::str::from_utf8(key).ok())
            .map_or_else(|| position.to_string(), |key| shorten_to(key, TEXT_BYTES_MAX)),
        Ok((1, WireType::Varint)) => {
            decode_varint(&mut rest).map_or_else(|_| position.to_string(), |key| key.to_string())
        }
        _ => position.to_string(),
    }
}
