//! The rules of change of Confluent's `protobuf-provider`, the documented set of its schema
//! registry. They are about the wire, so that names of fields do not count.
//!
//! - Fine: fields added or removed, if they are not required; messages added or moved; anything
//!   about enums; a oneof added, removed as a whole, renamed, or widened by a new field; a field
//!   moved out of a oneof, or one alone into a new one; singular to repeated and back for text,
//!   bytes and messages; types within `int32 int64 uint32 uint64 bool` and enums, `sint32 sint64`,
//!   `string bytes`, `fixed32 sfixed32`, `fixed64 sfixed64`.
//! - Not: another package; a message removed from the definition's own files; a field of another
//!   kind or of another type than within those groups; a message field whose type has another name
//!   or changed so itself; singular to repeated and back for numbers; fields that exclude one
//!   another from now on; a field removed from a oneof that stays; a required field added or
//!   removed, also by a change of its label. For text and bytes Confluent takes the latter.
//!
//! Extensions, services and options are not compared.

use std::collections::{BTreeMap, BTreeSet};

use prost_reflect::{FieldDescriptor, FileDescriptor, Kind, MessageDescriptor};

use crate::schema::report::Incompatibility;

/// Why readers with the files `reader` cannot read what is written with `writer`.
pub(super) fn incompatibilities(
    reader: &[FileDescriptor],
    writer: &[FileDescriptor],
) -> Vec<Incompatibility> {
    let mut compare = Compare { found: Vec::new(), done: BTreeSet::new(), open: Vec::new() };
    compare.packages(reader, writer);
    let read = messages(reader);
    let mut removed: Option<String> = None;
    for (name, written) in messages(writer) {
        match read.get(&name) {
            Some(read) => compare.later(read, &written),
            // What was in a removed message is removed with it.
            None if removed.as_ref().is_some_and(|outer| name.starts_with(outer)) => {}
            None => {
                let text = format!(
                    "message {name} is in the writers' files, not in the readers'; keep it there"
                );
                compare.report(&name, "message_removed", text);
                removed = Some(format!("{name}."));
            }
        }
    }
    while let Some((read, written)) = compare.open.pop() {
        compare.messages(&read, &written);
    }
    compare.found
}

/// All messages of the files but for those that maps are made of, by their names in the package.
fn messages(files: &[FileDescriptor]) -> BTreeMap<String, MessageDescriptor> {
    let mut found = BTreeMap::new();
    let mut open: Vec<MessageDescriptor> =
        files.iter().flat_map(FileDescriptor::messages).collect();
    while let Some(message) = open.pop() {
        open.extend(message.child_messages().filter(|inner| !inner.is_map_entry()));
        found.insert(local_name(&message).to_owned(), message);
    }
    found
}

fn local_name(message: &MessageDescriptor) -> &str {
    let name = message.full_name();
    let package = message.package_name();
    name.strip_prefix(package).and_then(|rest| rest.strip_prefix('.')).unwrap_or(name)
}

struct Compare {
    found: Vec<Incompatibility>,
    /// Pairs that were or will be compared, reader's first.
    done: BTreeSet<(String, String)>,
    open: Vec<(MessageDescriptor, MessageDescriptor)>,
}

/// Types whose values have the same form on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    Number,
    Signed,
    StringOrBytes,
    Fixed32,
    Fixed64,
    Float,
    Double,
    Message,
    /// A message between the marks of a group.
    Delimited,
    Map,
}

fn group(field: &FieldDescriptor) -> Group {
    if field.is_map() {
        return Group::Map;
    }
    match field.kind() {
        Kind::Int32 | Kind::Int64 | Kind::Uint32 | Kind::Uint64 | Kind::Bool | Kind::Enum(_) => {
            Group::Number
        }
        Kind::Sint32 | Kind::Sint64 => Group::Signed,
        Kind::String | Kind::Bytes => Group::StringOrBytes,
        Kind::Fixed32 | Kind::Sfixed32 => Group::Fixed32,
        Kind::Fixed64 | Kind::Sfixed64 => Group::Fixed64,
        Kind::Float => Group::Float,
        Kind::Double => Group::Double,
        Kind::Message(_) if field.is_group() => Group::Delimited,
        Kind::Message(_) => Group::Message,
    }
}

/// The oneof that a field is in, but for those that only mark `optional` of proto3.
fn oneof(field: &FieldDescriptor) -> Option<String> {
    let oneof = field.containing_oneof().filter(|oneof| !oneof.is_synthetic())?;
    Some(oneof.name().to_owned())
}

impl Compare {
    fn packages(&mut self, reader: &[FileDescriptor], writer: &[FileDescriptor]) {
        let package = |files: &[FileDescriptor]| {
            files.first().map_or_else(String::new, |file| file.package_name().to_owned())
        };
        let (read, written) = (package(reader), package(writer));
        if read != written {
            let text = format!(
                "readers have package {read:?}, writers {written:?}; keep the package, or register \
                 the schema under another subject"
            );
            self.report("", "package_changed", text);
        }
    }

    fn later(&mut self, read: &MessageDescriptor, written: &MessageDescriptor) {
        let pair = (read.full_name().to_owned(), written.full_name().to_owned());
        if self.done.insert(pair) {
            self.open.push((read.clone(), written.clone()));
        }
    }

    fn messages(&mut self, read: &MessageDescriptor, written: &MessageDescriptor) {
        let name = local_name(read).to_owned();
        self.oneofs(&name, read, written);
        let both = read.fields().chain(written.fields());
        let numbers: BTreeSet<u32> = both.map(|field| field.number()).collect();
        for number in numbers {
            let path = format!("{name}/{number}");
            match (read.get_field(number), written.get_field(number)) {
                (Some(read), Some(written)) => self.fields(&path, &read, &written),
                (Some(read), None) if read.is_required() => {
                    let text = format!(
                        "readers require field {} ({number}), which writers do not have; let it be \
                         optional",
                        read.name()
                    );
                    self.report(&path, "required_field_added", text);
                }
                (None, Some(written)) => self.removed(&path, read, &written),
                _ => {}
            }
        }
    }

    fn removed(&mut self, path: &str, read: &MessageDescriptor, written: &FieldDescriptor) {
        let name = written.name();
        if written.is_required() {
            let text = format!("required field {name} is gone for readers; keep it");
            return self.report(path, "required_field_removed", text);
        }
        let Some(oneof) = oneof(written) else { return };
        // A oneof that is gone with all its fields is no loss of one alternative among others.
        let stays = read.oneofs().any(|known| !known.is_synthetic() && known.name() == oneof);
        let mut members = written
            .containing_oneof()
            .into_iter()
            .flat_map(|oneof| oneof.fields().map(|field| field.number()).collect::<Vec<_>>());
        if stays || members.any(|number| read.get_field(number).is_some()) {
            let text = format!(
                "field {name} is gone from oneof {oneof}, whose other fields stay; keep it"
            );
            self.report(path, "oneof_field_removed", text);
        }
    }

    /// Fields that writers may set together must not exclude one another for readers.
    fn oneofs(&mut self, name: &str, read: &MessageDescriptor, written: &MessageDescriptor) {
        for choice in read.oneofs().filter(|oneof| !oneof.is_synthetic()) {
            let mut origins = BTreeSet::new();
            let mut single = 0;
            for field in choice.fields() {
                let Some(before) = written.get_field(field.number()) else { continue };
                match oneof(&before) {
                    Some(of) => origins.insert(format!("oneof {of}")),
                    None => {
                        single += 1;
                        origins.insert(format!("field {}", before.name()))
                    }
                };
            }
            if origins.len() > 1 {
                let rule = if single > 1 {
                    "multiple_fields_moved_to_oneof"
                } else {
                    "field_moved_to_existing_oneof"
                };
                let from: Vec<String> = origins.into_iter().collect();
                let text = format!(
                    "readers take one of the fields of oneof {}, writers may set several of them \
                     ({}); leave them where they were",
                    choice.name(),
                    from.join(", ")
                );
                self.report(&format!("{name}/{}", choice.name()), rule, text);
            }
        }
    }

    fn fields(&mut self, path: &str, read: &FieldDescriptor, written: &FieldDescriptor) {
        let (now, before) = (group(read), group(written));
        if now != before {
            let messages = [Group::Message, Group::Delimited, Group::Map];
            let kinds = messages.contains(&now) || messages.contains(&before);
            let rule = if kinds { "field_kind_changed" } else { "field_scalar_kind_changed" };
            let text = format!(
                "readers have {} as {:?}, writers as {:?}; keep the type, or use a new number",
                read.name(),
                read.kind(),
                written.kind()
            );
            return self.report(path, rule, text);
        }
        if read.is_required() != written.is_required() {
            let (rule, what) = if read.is_required() {
                ("required_field_added", "is required by readers and not by writers")
            } else {
                ("required_field_removed", "is required by writers and not by readers")
            };
            let text = format!("field {} {what}; keep its label", read.name());
            self.report(path, rule, text);
        }
        let labels = read.is_list() != written.is_list();
        match now {
            Group::Map => self.maps(path, read, written),
            Group::Message | Group::Delimited => self.types(path, &read.kind(), &written.kind()),
            Group::StringOrBytes => {}
            _ if labels => {
                let text = format!(
                    "field {} is repeated on one side only, and its numbers are packed there; keep \
                     its label",
                    read.name()
                );
                self.report(path, "field_numeric_label_changed", text);
            }
            _ => {}
        }
    }

    fn maps(&mut self, path: &str, read: &FieldDescriptor, written: &FieldDescriptor) {
        let (Kind::Message(read), Kind::Message(written)) = (read.kind(), written.kind()) else {
            return;
        };
        for (now, before) in [
            (read.map_entry_key_field(), written.map_entry_key_field()),
            (read.map_entry_value_field(), written.map_entry_value_field()),
        ] {
            self.fields(path, &now, &before);
        }
    }

    fn types(&mut self, path: &str, read: &Kind, written: &Kind) {
        let (Kind::Message(read), Kind::Message(written)) = (read, written) else { return };
        let (now, before) = (local_name(read), local_name(written));
        if now == before {
            return self.later(read, written);
        }
        let text = format!(
            "readers have a {now} here, writers a {before}; keep the type, or use a new number"
        );
        self.report(path, "field_named_type_changed", text);
    }

    fn report(&mut self, path: &str, rule: &'static str, text: String) {
        Incompatibility::note(&mut self.found, path, rule, &text);
    }
}
