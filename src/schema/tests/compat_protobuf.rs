//! Protobuf: the documented rule set of Confluent's registry.

use super::check_changes;
use crate::schema::{
    Definition, Direction, Format, Reference, Resolved, SourceFile, compile, incompatibilities,
};

/// Name, old, new, the rule broken backward and that broken forward; no rule: compatible. All are
/// proto3 unless they say otherwise.
const CHANGES: &[(&str, &str, &str, &str, &str)] = &[
    // Fields.
    (
        "field added",
        "message M { int32 a = 1; }",
        "message M { int32 a = 1; string b = 2; }",
        "",
        "",
    ),
    ("field renamed", "message M { int32 a = 1; }", "message M { int32 b = 1; }", "", ""),
    ("field renumbered", "message M { int32 a = 1; }", "message M { int32 a = 2; }", "", ""),
    (
        "field added to a nested message",
        "message W { message M { int32 a = 1; } }",
        "message W { message M { int32 a = 1; int32 b = 2; } }",
        "",
        "",
    ),
    (
        "name qualified",
        "message M { N n = 1; } message N {}",
        "message M { .N n = 1; } message N {}",
        "",
        "",
    ),
    // Types within a group and across.
    ("int32 to uint64", "message M { int32 a = 1; }", "message M { uint64 a = 1; }", "", ""),
    ("int64 to bool", "message M { int64 a = 1; }", "message M { bool a = 1; }", "", ""),
    (
        "int32 to enum",
        "message M { int32 a = 1; }",
        "message M { E a = 1; } enum E { Z = 0; }",
        "",
        "",
    ),
    ("sint32 to sint64", "message M { sint32 a = 1; }", "message M { sint64 a = 1; }", "", ""),
    (
        "int32 to sint32",
        "message M { int32 a = 1; }",
        "message M { sint32 a = 1; }",
        "field_scalar_kind_changed",
        "field_scalar_kind_changed",
    ),
    ("string to bytes", "message M { string a = 1; }", "message M { bytes a = 1; }", "", ""),
    (
        "string to int32",
        "message M { string a = 1; }",
        "message M { int32 a = 1; }",
        "field_scalar_kind_changed",
        "field_scalar_kind_changed",
    ),
    (
        "fixed32 to sfixed32",
        "message M { fixed32 a = 1; }",
        "message M { sfixed32 a = 1; }",
        "",
        "",
    ),
    (
        "fixed32 to fixed64",
        "message M { fixed32 a = 1; }",
        "message M { fixed64 a = 1; }",
        "field_scalar_kind_changed",
        "field_scalar_kind_changed",
    ),
    (
        "fixed64 to sfixed64",
        "message M { fixed64 a = 1; }",
        "message M { sfixed64 a = 1; }",
        "",
        "",
    ),
    (
        "float to double",
        "message M { float a = 1; }",
        "message M { double a = 1; }",
        "field_scalar_kind_changed",
        "field_scalar_kind_changed",
    ),
    (
        "string to message",
        "message M { string a = 1; } message N {}",
        "message M { N a = 1; } message N {}",
        "field_kind_changed",
        "field_kind_changed",
    ),
    (
        "message to another",
        "message M { N a = 1; } message N {} message O {}",
        "message M { O a = 1; } message N {} message O {}",
        "field_named_type_changed",
        "field_named_type_changed",
    ),
    (
        "map to repeated message",
        "message M { map<string, int32> a = 1; } message N {}",
        "message M { repeated N a = 1; } message N {}",
        "field_kind_changed",
        "field_kind_changed",
    ),
    (
        "values of a map in their group",
        "message M { map<string, int32> a = 1; }",
        "message M { map<string, int64> a = 1; }",
        "",
        "",
    ),
    (
        "values of a map changed",
        "message M { map<string, int32> a = 1; }",
        "message M { map<string, string> a = 1; }",
        "field_scalar_kind_changed",
        "field_scalar_kind_changed",
    ),
    (
        "keys of a map changed",
        "message M { map<string, int32> a = 1; }",
        "message M { map<int32, int32> a = 1; }",
        "field_scalar_kind_changed",
        "field_scalar_kind_changed",
    ),
    // Labels.
    (
        "optional in proto3",
        "message M { int32 a = 1; }",
        "message M { optional int32 a = 1; }",
        "",
        "",
    ),
    (
        "string repeated",
        "message M { string a = 1; }",
        "message M { repeated string a = 1; }",
        "",
        "",
    ),
    ("bytes repeated", "message M { bytes a = 1; }", "message M { repeated bytes a = 1; }", "", ""),
    (
        "message repeated",
        "message M { N a = 1; } message N {}",
        "message M { repeated N a = 1; } message N {}",
        "",
        "",
    ),
    (
        "number repeated",
        "message M { int32 a = 1; }",
        "message M { repeated int32 a = 1; }",
        "field_numeric_label_changed",
        "field_numeric_label_changed",
    ),
    (
        "enum repeated",
        "message M { E a = 1; } enum E { Z = 0; }",
        "message M { repeated E a = 1; } enum E { Z = 0; }",
        "field_numeric_label_changed",
        "field_numeric_label_changed",
    ),
    // Required fields of proto2.
    (
        "required field added",
        "proto2 message M { optional int32 a = 1; }",
        "proto2 message M { optional int32 a = 1; required int32 b = 2; }",
        "required_field_added",
        "required_field_removed",
    ),
    (
        "field becomes required",
        "proto2 message M { optional string a = 1; }",
        "proto2 message M { required string a = 1; }",
        "required_field_added",
        "required_field_removed",
    ),
    (
        "group to message",
        "proto2 message M { optional group G = 1 {} }",
        "proto2 message M { optional G g = 1; message G {} }",
        "field_kind_changed",
        "field_kind_changed",
    ),
    (
        "default of proto2",
        "proto2 message M { optional int32 a = 1 [default = 1]; }",
        "proto2 message M { optional int32 a = 1 [default = 2]; }",
        "",
        "",
    ),
    // Oneofs.
    (
        "field moved alone into a new oneof",
        "message M { int32 a = 1; }",
        "message M { oneof o { int32 a = 1; int32 b = 2; } }",
        "",
        "oneof_field_removed",
    ),
    (
        "two fields moved into a oneof",
        "message M { int32 a = 1; int32 b = 2; }",
        "message M { oneof o { int32 a = 1; int32 b = 2; } }",
        "multiple_fields_moved_to_oneof",
        "",
    ),
    (
        "field moved into an existing oneof",
        "message M { int32 a = 1; oneof o { int32 b = 2; } }",
        "message M { oneof o { int32 a = 1; int32 b = 2; } }",
        "field_moved_to_existing_oneof",
        "",
    ),
    (
        "field added to a oneof",
        "message M { oneof o { int32 a = 1; } }",
        "message M { oneof o { int32 a = 1; int32 b = 2; } }",
        "",
        "oneof_field_removed",
    ),
    (
        "oneof removed as a whole",
        "message M { int32 c = 3; oneof o { int32 a = 1; } }",
        "message M { int32 c = 3; }",
        "",
        "",
    ),
    (
        "oneof renamed",
        "message M { oneof o { int32 a = 1; int32 b = 2; } }",
        "message M { oneof p { int32 a = 1; int32 b = 2; } }",
        "",
        "",
    ),
    (
        "oneof renamed and cut",
        "message M { oneof o { int32 a = 1; int32 b = 2; } }",
        "message M { oneof p { int32 a = 1; } }",
        "oneof_field_removed",
        "",
    ),
    (
        "field moved between oneofs",
        "message M { oneof o { int32 a = 1; } oneof p { int32 b = 2; } }",
        "message M { oneof p { int32 a = 1; int32 b = 2; } }",
        "field_moved_to_existing_oneof",
        "",
    ),
    (
        "type changed within a oneof",
        "message M { oneof o { int32 a = 1; } }",
        "message M { oneof o { string a = 1; } }",
        "field_scalar_kind_changed",
        "field_scalar_kind_changed",
    ),
    // Messages, enums, files.
    ("message added", "message M {}", "message M {} message N {}", "", "message_removed"),
    ("messages in another order", "message M {} message N {}", "message N {} message M {}", "", ""),
    ("message renamed", "message M {}", "message N {}", "message_removed", "message_removed"),
    (
        "nested message removed",
        "message M { message N { message O {} } }",
        "message M {}",
        "message_removed",
        "",
    ),
    ("enum value removed", "enum E { Z = 0; A = 1; }", "enum E { Z = 0; }", "", ""),
    ("enum value renamed", "enum E { Z = 0; A = 1; }", "enum E { Z = 0; B = 1; }", "", ""),
    (
        "enum removed",
        "message M { int32 a = 1; } enum E { Z = 0; }",
        "message M { int32 a = 1; }",
        "",
        "",
    ),
    (
        "package changed",
        "package a; message M {}",
        "package b; message M {}",
        "package_changed",
        "package_changed",
    ),
    (
        "recursive message changed",
        "message M { M m = 1; int32 a = 2; }",
        "message M { M m = 1; string a = 2; }",
        "field_scalar_kind_changed",
        "field_scalar_kind_changed",
    ),
];

#[test]
fn protobuf_changes() {
    let changes: Vec<(&str, String, String, &str, &str)> = CHANGES
        .iter()
        .map(|(name, old, new, backward, forward)| {
            (*name, with_syntax(old), with_syntax(new), *backward, *forward)
        })
        .collect();
    let changes: Vec<_> = changes
        .iter()
        .map(|(n, old, new, b, f)| (*n, old.as_str(), new.as_str(), *b, *f))
        .collect();
    check_changes(Format::Protobuf, &changes);
}

fn with_syntax(text: &str) -> String {
    match text.strip_prefix("proto2 ") {
        Some(text) => format!("syntax = \"proto2\"; {text}"),
        None => format!("syntax = \"proto3\"; {text}"),
    }
}

/// A schema that imports `home.proto`, which is that text.
fn importing(text: &str, home: &str) -> crate::schema::Compiled {
    let file = |name: &str, text: &str| SourceFile {
        name: name.to_owned(),
        text: format!("syntax = \"proto3\"; {text}"),
    };
    let references =
        vec![Reference { name: "home.proto".to_owned(), subject: "home".to_owned(), version: 1 }];
    let definition = |files, references| Definition { format: Format::Protobuf, files, references };
    let resolved = Resolved {
        name: "home.proto".to_owned(),
        definition: definition(vec![file("any.proto", home)], Vec::new()),
        resolved: Vec::new(),
    };
    compile(&definition(vec![file("main.proto", text)], references), &[resolved]).unwrap()
}

#[test]
fn types_of_references_are_compared_where_they_are_used() {
    let text = "import \"home.proto\"; message M { home.H h = 1; }";
    let old = importing(text, "package home; message H { int32 a = 1; }");
    let fine = importing(text, "package home; message H { int64 a = 1; int32 b = 2; }");
    let wrong = importing(text, "package home; message H { string a = 1; }");
    assert_eq!(incompatibilities(&fine, &old, Direction::Backward), []);
    let found = incompatibilities(&wrong, &old, Direction::Backward);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].path.as_str(), found[0].rule), ("H/1", "field_scalar_kind_changed"));
    // A message of the definition's own that moves into a reference counts as removed.
    let own = importing(
        "import \"home.proto\"; message M { H h = 1; } message H {}",
        "package home; message H {}",
    );
    let moved = importing(text, "package home; message H {}");
    let found = incompatibilities(&moved, &own, Direction::Backward);
    assert_eq!(found.iter().map(|f| f.rule).collect::<Vec<_>>(), ["message_removed"]);
}
