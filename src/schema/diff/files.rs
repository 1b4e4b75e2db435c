//! Differences between sets of Protobuf files, by what they declare.

use std::collections::BTreeMap;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    ServiceDescriptorProto,
};
use protox::file::File;

use super::Changes;
use crate::schema::definition::SourceFile;

/// What files declare: a text for each path.
type Declared = BTreeMap<String, String>;

/// Notes the differences of the files. If any cannot be parsed, of their texts.
pub(super) fn diff(new: &[SourceFile], old: &[SourceFile], changes: &mut Changes) {
    let declared = declared(new).zip(declared(old));
    let (new, old) = declared.unwrap_or_else(|| (texts(new), texts(old)));
    for (path, value) in &new {
        match old.get(path) {
            None => changes.added(path, value),
            Some(known) if known != value => changes.changed(path, known, value),
            Some(_) => {}
        }
    }
    for (path, value) in old.iter().filter(|(path, _)| !new.contains_key(*path)) {
        changes.removed(path, value);
    }
}

fn texts(files: &[SourceFile]) -> Declared {
    files.iter().map(|file| (file.name.clone(), file.text.clone())).collect()
}

/// What the files declare; `None` if one of them cannot be parsed.
fn declared(files: &[SourceFile]) -> Option<Declared> {
    let mut declared = Declared::new();
    for file in files {
        let parsed = File::from_source(&file.name, &file.text).ok()?;
        declare_file(&file.name, parsed.file_descriptor_proto(), &mut declared);
    }
    Some(declared)
}

fn declare_file(name: &str, file: &FileDescriptorProto, declared: &mut Declared) {
    let mut add = |what: &str, text: &str| {
        declared.insert(format!("{name}: {what}"), text.to_owned());
    };
    add("package", file.package());
    add("syntax", if file.syntax().is_empty() { "proto2" } else { file.syntax() });
    for dependency in &file.dependency {
        add(&format!("import {dependency}"), dependency);
    }
    for message in &file.message_type {
        declare_message("", message, declared);
    }
    for of in &file.enum_type {
        declare_enum("", of, declared);
    }
    for service in &file.service {
        declare_service(service, declared);
    }
    for extension in &file.extension {
        let path = format!("extend {}.{}", extension.extendee(), extension.name());
        declared.insert(path, describe_field(extension, None));
    }
}

fn declare_message(outer: &str, message: &DescriptorProto, declared: &mut Declared) {
    if message.options.as_ref().is_some_and(|options| options.map_entry()) {
        return;
    }
    let path = joined(outer, message.name());
    declared.insert(path.clone(), "message".to_owned());
    for field in &message.field {
        let oneof = field
            .oneof_index
            .filter(|_| !field.proto3_optional())
            .and_then(|index| message.oneof_decl.get(usize::try_from(index).ok()?))
            .map(|oneof| oneof.name());
        declared.insert(joined(&path, field.name()), describe_field(field, oneof));
    }
    for inner in &message.nested_type {
        declare_message(&path, inner, declared);
    }
    for of in &message.enum_type {
        declare_enum(&path, of, declared);
    }
}

fn declare_enum(outer: &str, of: &EnumDescriptorProto, declared: &mut Declared) {
    let path = joined(outer, of.name());
    declared.insert(path.clone(), "enum".to_owned());
    for value in &of.value {
        declared.insert(joined(&path, value.name()), format!("= {}", value.number()));
    }
}

fn declare_service(service: &ServiceDescriptorProto, declared: &mut Declared) {
    let path = service.name().to_owned();
    declared.insert(path.clone(), "service".to_owned());
    for method in &service.method {
        let stream = |streams: bool| if streams { "stream " } else { "" };
        let text = format!(
            "({}{}) returns ({}{})",
            stream(method.client_streaming()),
            method.input_type(),
            stream(method.server_streaming()),
            method.output_type()
        );
        declared.insert(joined(&path, method.name()), text);
    }
}

/// A field like `repeated string = 3`, with its oneof and default.
fn describe_field(field: &FieldDescriptorProto, oneof: Option<&str>) -> String {
    let label = match (field.label.map(|_| field.label()), field.proto3_optional()) {
        (Some(Label::Repeated), _) => "repeated ",
        (Some(Label::Required), _) => "required ",
        (_, true) => "optional ",
        (Some(Label::Optional) | None, false) => "",
    };
    let of = match field.r#type.map(|_| field.r#type()) {
        Some(Type::Message | Type::Enum | Type::Group) | None => field.type_name().to_owned(),
        Some(plain) => plain.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    let mut text = format!("{label}{of} = {}", field.number());
    if let Some(oneof) = oneof {
        text.push_str(&format!(" in oneof {oneof}"));
    }
    if let Some(default) = &field.default_value {
        text.push_str(&format!(" default {default}"));
    }
    text
}

fn joined(outer: &str, name: &str) -> String {
    if outer.is_empty() { name.to_owned() } else { format!("{outer}.{name}") }
}
