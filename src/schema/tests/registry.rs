//! Fingerprints and differences.

use super::definition;
use crate::schema::limits::CHANGES_MAX;
use crate::schema::{
    Change, ChangeKind, Definition, Format, Reference, SourceFile, diff, fingerprint,
};

fn reference(name: &str, version: u32) -> Reference {
    Reference { name: name.to_owned(), subject: format!("{name}-value"), version }
}

#[test]
fn the_same_schema_has_the_same_fingerprint() {
    let one = definition(Format::Json, r#"{"type":"object","properties":{"a":{},"b":{}}}"#);
    let mut same =
        definition(Format::Json, "{ \"properties\": {\"b\":{}, \"a\":{}},\n \"type\":\"object\" }");
    same.files[0].name = "another".to_owned();
    assert_eq!(fingerprint(&one), fingerprint(&same));
    assert_eq!(fingerprint(&one).len(), 32);
    // It is kept: it may not change from version to version of the hub.
    assert_eq!(fingerprint(&one), "3aea3454b571781dddc0eb43cf8d582e");
    for other in [
        definition(Format::Json, r#"{"type":"object","properties":{"a":{}}}"#),
        definition(Format::Avro, &one.files[0].text),
        Definition { references: vec![reference("r", 1)], ..one.clone() },
    ] {
        assert_ne!(fingerprint(&one), fingerprint(&other));
    }
    // The order of a list counts: in `prefixItems` it means something.
    let list = |text: &str| fingerprint(&definition(Format::Json, text));
    assert_ne!(list(r#"{"enum":[1,2]}"#), list(r#"{"enum":[2,1]}"#));
}

#[test]
fn references_count_whatever_their_order() {
    let with = |references: Vec<Reference>| Definition {
        references,
        ..definition(Format::Json, r#"{"$ref":"a"}"#)
    };
    let one = fingerprint(&with(vec![reference("a", 1), reference("b", 2)]));
    assert_eq!(one, fingerprint(&with(vec![reference("b", 2), reference("a", 1)])));
    assert_ne!(one, fingerprint(&with(vec![reference("a", 2), reference("b", 2)])));
    assert_ne!(one, fingerprint(&with(vec![reference("a", 1)])));
}

fn file(name: &str, text: &str) -> SourceFile {
    SourceFile { name: name.to_owned(), text: text.to_owned() }
}

fn proto(files: Vec<SourceFile>) -> Definition {
    Definition { format: Format::Protobuf, files, references: Vec::new() }
}

#[test]
fn protobuf_files_count_as_they_are() {
    let (a, b, c) = (file("a", "x"), file("b", "y"), file("c", "z"));
    let one = fingerprint(&proto(vec![a.clone(), b.clone(), c.clone()]));
    assert_eq!(one, fingerprint(&proto(vec![a.clone(), c.clone(), b.clone()])));
    // Another file is the main one.
    assert_ne!(one, fingerprint(&proto(vec![b.clone(), a.clone(), c.clone()])));
    assert_ne!(one, fingerprint(&proto(vec![a, b, file("c", "z ")])));
    let split = fingerprint(&proto(vec![file("a", "xb"), file("", "y")]));
    assert_ne!(split, fingerprint(&proto(vec![file("a", "x"), file("b", "y")])));
}

fn seen(changes: &[Change]) -> Vec<(&str, ChangeKind, &str, &str)> {
    changes.iter().map(|c| (c.path.as_str(), c.kind, c.old.as_str(), c.new.as_str())).collect()
}

#[test]
fn json_differences_are_found_by_pointer() {
    let old = definition(
        Format::Json,
        r#"{"type":"object","required":["a","b"],"properties":{"a":{"type":"string"},"x/y":{}},"allOf":[{"minimum":1}]}"#,
    );
    let new = definition(
        Format::Json,
        r#"{"type":"object","required":["b","c"],"properties":{"a":{"type":"integer"},"z":{}},"allOf":[{"minimum":2},true]}"#,
    );
    assert_eq!(
        seen(&diff(&new, &old)),
        [
            ("/required/1", ChangeKind::Added, "", "\"c\""),
            ("/required/0", ChangeKind::Removed, "\"a\"", ""),
            ("/properties/a/type", ChangeKind::Changed, "\"string\"", "\"integer\""),
            ("/properties/z", ChangeKind::Added, "", "{}"),
            ("/properties/x~1y", ChangeKind::Removed, "{}", ""),
            ("/allOf/0/minimum", ChangeKind::Changed, "1", "2"),
            ("/allOf/1", ChangeKind::Added, "", "true"),
        ]
    );
    assert_eq!(diff(&old, &old), []);
}

#[test]
fn avro_fields_are_matched_by_name() {
    let record = |fields: &str| {
        let text = format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#);
        definition(Format::Avro, &text)
    };
    let old = record(r#"{"name":"a","type":"int"},{"name":"b","type":"int"}"#);
    let new = record(
        r#"{"name":"new","type":"int"},{"name":"b","type":"int"},{"name":"a","type":"long"}"#,
    );
    assert_eq!(
        seen(&diff(&new, &old)),
        [
            ("/fields/0", ChangeKind::Added, "", r#"{"name":"new","type":"int"}"#),
            ("/fields/2/type", ChangeKind::Changed, "\"int\"", "\"long\""),
        ]
    );
}

#[test]
fn protobuf_differences_are_found_by_name() {
    let old = proto(vec![file(
        "m.proto",
        "syntax = \"proto3\"; package p; message M { int32 a = 1; string b = 2; message N {} } enum E { Z = 0; } service S { rpc Get (M) returns (M); }",
    )]);
    let new = proto(vec![file(
        "m.proto",
        "syntax = \"proto3\"; package q; message M { int64 a = 1; oneof o { string b = 2; } repeated M.N c = 3; message N { optional bool x = 1; } } enum E { Z = 0; Y = 1; } service S { rpc Get (M) returns (stream M); }",
    )]);
    assert_eq!(
        seen(&diff(&new, &old)),
        [
            ("E.Y", ChangeKind::Added, "", "= 1"),
            ("M.N.x", ChangeKind::Added, "", "optional bool = 1"),
            ("M.a", ChangeKind::Changed, "int32 = 1", "int64 = 1"),
            ("M.b", ChangeKind::Changed, "string = 2", "string = 2 in oneof o"),
            ("M.c", ChangeKind::Added, "", "repeated M.N = 3"),
            ("S.Get", ChangeKind::Changed, "(M) returns (M)", "(M) returns (stream M)"),
            ("m.proto: package", ChangeKind::Changed, "p", "q"),
        ]
    );
    let broken = proto(vec![file("m.proto", "message {")]);
    assert_eq!(diff(&broken, &old)[0].path, "m.proto");
}

#[test]
fn differences_are_bounded() {
    let wide = |value: usize| {
        let all: Vec<String> = (0..3000).map(|i| format!(r#""p{i}":{value}"#)).collect();
        definition(Format::Json, &format!("{{{}}}", all.join(",")))
    };
    assert_eq!(diff(&wide(1), &wide(2)).len(), CHANGES_MAX);
    let long = |text: &str| definition(Format::Json, &format!("\"{}\"", text.repeat(100_000)));
    let found = diff(&long("a"), &long("b"));
    assert_eq!(found.len(), 1);
    assert!(found[0].old.len() < 1100 && found[0].new.len() < 1100);
    let mut other = wide(1);
    other.references = vec![reference("a", 1)];
    let mut newer = wide(1);
    newer.references = vec![reference("a", 2), reference("b", 1)];
    assert_eq!(
        seen(&diff(&newer, &other)),
        [
            ("reference a", ChangeKind::Changed, "a-value version 1", "a-value version 2"),
            ("reference b", ChangeKind::Added, "", "b-value version 1"),
        ]
    );
    assert_eq!(diff(&definition(Format::Avro, "1"), &wide(1))[0].path, "format");
}
