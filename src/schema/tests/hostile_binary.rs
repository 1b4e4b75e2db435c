//! Protobuf files and Avro schemas that mean harm, or that are simply wrong; garbage of all kinds.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};

use super::random::{self, Dialect, Random};
use super::{compiled, definition, problems};
use crate::schema::limits::{SCHEMA_FILES_MAX, SCHEMA_TREE_MAX};
use crate::schema::{
    Definition, Direction, Format, Problem, Reference, Resolved, SourceFile, compile, diff,
    fingerprint, incompatibilities,
};

fn files(files: &[(&str, &str)]) -> Definition {
    let files = files.iter().map(|(name, text)| SourceFile {
        name: (*name).to_owned(),
        text: format!("syntax = \"proto3\";\n{text}"),
    });
    Definition { format: Format::Protobuf, files: files.collect(), references: Vec::new() }
}

fn problems_of(definition: &Definition, resolved: &[Resolved]) -> Vec<Problem> {
    compile(definition, resolved).err().map_or_else(Vec::new, |e| e.problems)
}

#[test]
fn protobuf_problems_have_their_places() {
    for (name, text, place, part) in [
        ("syntax", "message M {}}", "main.proto:2:13", "expected"),
        ("end of file", "message M {", "main.proto", "end of file"),
        ("missing import", "\nimport \"a/b.proto\";", "main.proto:3:1", "'a/b.proto' not found"),
        ("import of itself", "import \"main.proto\";", "main.proto", "import cycle"),
        ("unknown type", "message M {\n  Nothing n = 1; }", "main.proto:3:3", "'Nothing'"),
        ("number twice", "message M { int32 a = 1; int32 b = 1; }", "main.proto:2:36", "already"),
        ("name twice", "message M {} message M {}", "main.proto:2:22", "defined twice"),
    ] {
        let found = problems_of(&files(&[("main.proto", text)]), &[]);
        assert_eq!(found[0].place, place, "{name}: {found:?}");
        assert!(found[0].text.contains(part), "{name}: {found:?}");
    }
}

#[test]
fn protobuf_files_import_one_another() {
    let set = [
        (
            "main.proto",
            "import \"a/b.proto\"; import \"google/protobuf/timestamp.proto\"; message M { B b = 1; google.protobuf.Timestamp t = 2; }",
        ),
        ("a/b.proto", "message B { string s = 1; }"),
    ];
    let schema = compile(&files(&set), &[]).unwrap();
    assert!(schema.validate(&[0x0a, 0x03, 0x0a, 0x01, b'x'], "").is_ok());
    assert!(schema.validate(&[0x12, 0x00], "M").is_ok());
    let cycle = [("a.proto", "import \"b.proto\";"), ("b.proto", "import \"a.proto\";")];
    let found = problems_of(&files(&cycle), &[]);
    assert!(found[0].text.contains("import cycle"), "{found:?}");
    let twice = [("a.proto", "message A {}"), ("a.proto", "message B {}")];
    assert!(problems_of(&files(&twice), &[])[0].text.contains("two files are called"));
    for name in ["", "/etc/passwd", "../a.proto", "a//b.proto", "./a.proto", "a\0b", "ü.proto"] {
        // Strange names are only names.
        let found = problems_of(&files(&[(name, "message M {}")]), &[]);
        assert_eq!(found.is_empty(), !name.is_empty(), "{name:?}: {found:?}");
    }
}

#[test]
fn protobuf_references_conflict_only_when_they_differ() {
    let import = |text: &str, names: &[&str]| {
        let mut main = files(&[("main.proto", text)]);
        main.references = names
            .iter()
            .map(|name| Reference {
                name: (*name).to_owned(),
                subject: (*name).to_owned(),
                version: 1,
            })
            .collect();
        main
    };
    let resolved = |name: &str, text: &str, inner: Vec<Resolved>| Resolved {
        name: name.to_owned(),
        definition: files(&[("home.proto", text)]),
        resolved: inner,
    };
    let text = "import \"a.proto\"; import \"b.proto\"; message M { A a = 1; B b = 2; }";
    let main = import(text, &["a.proto", "b.proto"]);
    let common = |text: &str| vec![resolved("c.proto", text, Vec::new())];
    let a =
        |of: &str| resolved("a.proto", "import \"c.proto\"; message A { C c = 1; }", common(of));
    let b =
        |of: &str| resolved("b.proto", "import \"c.proto\"; message B { C c = 1; }", common(of));
    assert_eq!(problems_of(&main, &[a("message C {}"), b("message C {}")]), []);
    let found = problems_of(&main, &[a("message C {}"), b("message C { int32 i = 1; }")]);
    assert!(found[0].text.contains("two different files are called \"c.proto\""), "{found:?}");
}

#[test]
fn protobuf_sets_that_are_large_or_deep_end() {
    let values: Vec<String> = (0..10_001).map(|i| format!("V{i}={i};")).collect();
    let found = problems(
        Format::Protobuf,
        &format!("syntax = \"proto3\"; enum E {{ {} }}", values.join("")),
    );
    assert!(found[0].text.contains("keep them within 10000"), "{found:?}");
    let many: Vec<String> = (0..=SCHEMA_FILES_MAX).map(|i| format!("f{i}.proto")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "")).collect();
    assert!(problems_of(&files(&many), &[])[0].text.contains("up to 64"));
    for (open, close) in [
        ("message M {", "}"),
        ("option (o) = {", "};"),
        ("option (o) = { a {", "} };"),
        ("option (o) = { a: [", "] };"),
        ("option (o) = ((", "));"),
        ("message M { oneof o { group G = 1 {", "} } }"),
        ("extend E { repeated group G = 1 {", "} }"),
        ("service S { rpc A (M) returns (M) {", "} }"),
        ("map<", ">"),
        ("/*", "*/"),
    ] {
        for levels in [100, 20_000] {
            let levels = levels.min(200_000 / (open.len() + close.len()));
            let text = format!("{}{}", open.repeat(levels), close.repeat(levels));
            let run = move || problems_of(&files(&[("main.proto", &text)]), &[]);
            let stack = std::thread::Builder::new().stack_size(2 << 20);
            let found = stack.spawn(run).unwrap().join().unwrap();
            assert!(!found.is_empty() || open == "/*", "{open}");
        }
    }
}

#[test]
fn long_rows_of_imports_keep_to_the_stack() {
    // Each refers to the next, as far as a tree may reach; then a wide one.
    let resolved = |name: String, text: String, inner: Vec<Resolved>| Resolved {
        name,
        definition: files(&[("f.proto", &text)]),
        resolved: inner,
    };
    let mut row: Vec<Resolved> = Vec::new();
    for i in (0..SCHEMA_TREE_MAX - 1).rev() {
        let import = if row.is_empty() {
            format!("message M{i} {{}}")
        } else {
            format!("import \"f{}.proto\"; message M{i} {{ M{} m = 1; }}", i + 1, i + 1)
        };
        // All within reach of the root, so that the tree is wide and the row of imports long.
        row.insert(0, resolved(format!("f{i}.proto"), import, Vec::new()));
    }
    let mut main = files(&[("main.proto", "import \"f0.proto\"; message M { M0 m = 1; }")]);
    main.references =
        vec![Reference { name: "f0.proto".to_owned(), subject: "f".to_owned(), version: 1 }];
    let run = move || compile(&main, &row).map(|_| ()).unwrap();
    std::thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap();
}

/// Name, schema, the place of its one problem, and a part of its text.
const AVRO_REFUSED: &[(&str, &str, &str, &str)] = &[
    ("no JSON", "{", "", "is not JSON"),
    ("no type", "1", "", "no type"),
    ("unknown type", r#"{"type":"array","items":"Thing"}"#, "/items", "\"Thing\" is unknown"),
    ("unknown branch", r#"["null","a.Thing"]"#, "/1", "\"a.Thing\" is unknown"),
    ("type missing", "{}", "", "type is missing"),
    ("items missing", r#"{"type":"array"}"#, "", "items is missing"),
    ("no name", r#"{"type":"record","fields":[]}"#, "/name", "is no name"),
    ("name of a primitive", r#"{"type":"enum","name":"int","symbols":[]}"#, "/name", "is no name"),
    ("name with a dash", r#"{"type":"fixed","name":"a-b","size":1}"#, "/name", "is no name"),
    (
        "defined twice",
        r#"[{"type":"fixed","name":"a.F","size":1},{"type":"fixed","name":"F","namespace":"a","size":1}]"#,
        "/1/name",
        "defined twice",
    ),
    ("negative size", r#"{"type":"fixed","name":"F","size":-1}"#, "/size", "natural number"),
    ("symbols missing", r#"{"type":"enum","name":"E"}"#, "", "symbols are missing"),
    (
        "symbol twice",
        r#"{"type":"enum","name":"E","symbols":["A","A"]}"#,
        "/symbols",
        "there twice",
    ),
    (
        "default of an enum",
        r#"{"type":"enum","name":"E","symbols":["A"],"default":"B"}"#,
        "/default",
        "none of the symbols",
    ),
    ("fields missing", r#"{"type":"record","name":"R"}"#, "/fields", "fields are missing"),
    (
        "field twice",
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"},{"name":"a","type":"int"}]}"#,
        "/fields/1",
        "there twice",
    ),
    (
        "field without a type",
        r#"{"type":"record","name":"R","fields":[{"name":"a"}]}"#,
        "/fields/0",
        "type is missing",
    ),
    (
        "wrong default",
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int","default":"x"}]}"#,
        "/fields/0/default",
        "is no int",
    ),
    (
        "default out of range",
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int","default":2147483648}]}"#,
        "/fields/0/default",
        "is no int",
    ),
    (
        "aliases that are no list",
        r#"{"type":"record","name":"R","aliases":"S","fields":[]}"#,
        "/aliases",
        "no list of names",
    ),
    ("union in a union", r#"["null",["int"]]"#, "/1", "directly in a union"),
    ("branch twice", r#"["int","string","int"]"#, "/2", "int twice"),
    (
        "two arrays",
        r#"[{"type":"array","items":"int"},{"type":"array","items":"long"}]"#,
        "/1",
        "array twice",
    ),
];

#[test]
fn avro_problems_have_their_places() {
    for (name, text, place, part) in AVRO_REFUSED {
        let found = problems(Format::Avro, text);
        assert_eq!(found.first().map(|p| p.place.as_str()), Some(*place), "{name}: {found:?}");
        assert!(found[0].text.contains(part), "{name}: {found:?}");
        assert_eq!(found.len(), 1, "{name}: {found:?}");
    }
    compiled(
        Format::Avro,
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":["int","null"],"default":null}]}"#,
    );
    let nested = |levels: usize| {
        format!("{}\"int\"{}", r#"{"type":"array","items":"#.repeat(levels), "}".repeat(levels))
    };
    compiled(Format::Avro, &nested(63));
    assert!(problems(Format::Avro, &nested(64))[0].text.contains("nests deeper"));
    assert!(problems(Format::Avro, &nested(1000))[0].text.contains("recursion limit"));
    let branches: Vec<String> =
        (0..10_001).map(|i| format!(r#"{{"type":"fixed","name":"F{i}","size":1}}"#)).collect();
    let large = format!("[{}]", branches.join(","));
    assert!(problems(Format::Avro, &large)[0].text.contains("bytes of text"));
    let large = format!("[{}]", vec!["\"int\""; 10_001].join(","));
    let found = problems(Format::Avro, &large);
    assert!(found.iter().any(|p| p.text.contains("more than 10000")) || found.len() > 100);
}

#[test]
fn formats_do_not_mix() {
    let json = compiled(Format::Json, "{}");
    let avro = compiled(Format::Avro, "\"int\"");
    let found = incompatibilities(&json, &avro, Direction::Backward);
    assert_eq!(found.iter().map(|f| f.rule).collect::<Vec<_>>(), ["format_changed"]);
    let mut main = definition(Format::Json, r#"{"$ref":"a"}"#);
    main.references = vec![Reference { name: "a".to_owned(), subject: "a".to_owned(), version: 1 }];
    let other = Resolved {
        name: "a".to_owned(),
        definition: definition(Format::Avro, "\"int\""),
        resolved: Vec::new(),
    };
    assert!(problems_of(&main, &[other])[0].text.contains("json schemas only"));
    let nothing = Definition { format: Format::Json, files: Vec::new(), references: Vec::new() };
    assert!(problems_of(&nothing, &[])[0].text.contains("no files"));
}

#[test]
fn trees_of_references_are_bounded() {
    let leaf = |inner: Vec<Resolved>| Resolved {
        name: "a".to_owned(),
        definition: definition(Format::Json, "{}"),
        resolved: inner,
    };
    let deep = (0..100).fold(leaf(Vec::new()), |inner, _| leaf(vec![inner]));
    let mut main = definition(Format::Json, r#"{"$ref":"a"}"#);
    main.references = vec![Reference { name: "a".to_owned(), subject: "a".to_owned(), version: 1 }];
    assert!(problems_of(&main, &[deep])[0].text.contains("references away"));
    let wide = vec![leaf(Vec::new()); SCHEMA_TREE_MAX + 1];
    assert!(problems_of(&main, &wide)[0].text.contains("lead to more than"));
    main.references = vec![main.references[0].clone(); 65];
    let found = problems_of(&main, &[leaf(Vec::new())]);
    assert!(found[0].text.contains("65 references"), "{found:?}");
    assert!(found[1].text.contains("two references are called \"a\""), "{found:?}");
}

#[test]
fn garbage_never_panics() {
    let schemas = [
        compiled(
            Format::Json,
            r##"{"properties":{"a":{"$ref":"#"}},"items":{"type":"string"},"uniqueItems":true}"##,
        ),
        compiled(
            Format::Protobuf,
            "syntax = \"proto2\"; message M { optional M m = 1; repeated int32 i = 2; required string s = 3; map<int32, M> n = 4; optional group G = 5 { optional M m = 1; } }",
        ),
        compiled(
            Format::Avro,
            r#"{"type":"record","name":"R","fields":[{"name":"a","type":["null","R",{"type":"array","items":"R"},{"type":"map","values":"bytes"}]},{"name":"d","type":"double"}]}"#,
        ),
    ];
    let mut runner =
        TestRunner::new(Config { cases: 3000, failure_persistence: None, ..Config::default() });
    runner
        .run(&proptest::collection::vec(any::<u8>(), 0..200), |bytes| {
            for schema in &schemas {
                let _ = schema.validate(&bytes, "");
            }
            let text = String::from_utf8_lossy(&bytes);
            for format in [Format::Json, Format::Protobuf, Format::Avro] {
                let garbage = definition(format, &text);
                prop_assert!(compile(&garbage, &[]).is_err() || format != Format::Avro);
                let _ = (fingerprint(&garbage), diff(&garbage, &definition(format, "{}")));
            }
            Ok(())
        })
        .unwrap();
}

/// A document of keywords with values that need not fit them.
fn nonsense(random: &mut Random, levels: u64) -> Value {
    let words = [
        "type",
        "items",
        "properties",
        "$ref",
        "$id",
        "$schema",
        "$dynamicRef",
        "$dynamicAnchor",
        "$anchor",
        "required",
        "minimum",
        "maxLength",
        "enum",
        "const",
        "pattern",
        "allOf",
        "anyOf",
        "not",
        "if",
        "then",
        "contains",
        "minContains",
        "dependentRequired",
        "dependencies",
        "patternProperties",
        "unevaluatedItems",
        "prefixItems",
        "additionalItems",
        "multipleOf",
        "name",
        "fields",
        "symbols",
        "size",
        "default",
        "aliases",
        "values",
        "namespace",
    ];
    let texts = ["#", "#/x", "#a", "x", "int", "record", "array", "enum", "string", "[", "a(b"];
    match random.below(if levels == 0 { 3 } else { 8 }) {
        0 => json!(random.pick(&texts)),
        1 => random::value(random, 2),
        2 => random::schema(random, 1, Dialect::New),
        3 => json!((0..random.below(4)).map(|_| nonsense(random, levels - 1)).collect::<Vec<_>>()),
        _ => {
            let mut members = Map::new();
            for _ in 0..random.below(5) {
                let name = (*random.pick(&words)).to_owned();
                members.insert(name, nonsense(random, levels - 1));
            }
            if random.chance(8) {
                members.insert("x".to_owned(), nonsense(random, levels - 1));
            }
            Value::Object(members)
        }
    }
}

#[test]
fn nonsense_never_panics() {
    let mut runner =
        TestRunner::new(Config { cases: 6000, failure_persistence: None, ..Config::default() });
    runner
        .run(&any::<u64>(), |seed| {
            let mut random = Random(seed);
            let mut one = nonsense(&mut random, 4);
            if random.chance(2)
                && let Value::Object(members) = &mut one
            {
                // What is not where schemas are is not checked against the meta-schema.
                let hidden = nonsense(&mut random, 3);
                *members =
                    Map::from_iter([("$ref".to_owned(), json!("#/x")), ("x".to_owned(), hidden)]);
            }
            let other = nonsense(&mut random, 4);
            for format in [Format::Json, Format::Avro] {
                let (one, other) =
                    (definition(format, &one.to_string()), definition(format, &other.to_string()));
                let _ = diff(&one, &other);
                if let (Ok(one), Ok(other)) = (compile(&one, &[]), compile(&other, &[])) {
                    let _ = incompatibilities(&one, &other, Direction::Backward);
                    let _ = one.validate(random::value(&mut random, 3).to_string().as_bytes(), "");
                }
            }
            Ok(())
        })
        .unwrap();
}
