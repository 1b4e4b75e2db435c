//! The tests of the room.

mod compat_avro;
mod compat_content;
mod compat_json;
mod compat_protobuf;
mod hostile_binary;
mod hostile_json;
mod official;
mod random;
mod random_avro;
mod registry;
mod sound_avro;
mod sound_json;
mod valid_binary;
mod valid_json;

use super::{
    Compiled, Definition, Direction, Format, Problem, SourceFile, compile, incompatibilities,
};

/// A definition of one file.
fn definition(format: Format, text: &str) -> Definition {
    let files = vec![SourceFile { name: "main.proto".to_owned(), text: text.to_owned() }];
    Definition { format, files, references: Vec::new() }
}

/// A compiled schema of one file.
fn compiled(format: Format, text: &str) -> Compiled {
    compile(&definition(format, text), &[]).unwrap_or_else(|e| panic!("{e}\n{text:.500}"))
}

/// Checks a table of changes: name, old, new, and the rules that are broken backward and forward,
/// one of those that are reported; none if the change is compatible.
fn check_changes(format: Format, changes: &[(&str, &str, &str, &str, &str)]) {
    let mut wrong = Vec::new();
    for (name, old_text, new_text, backward, forward) in changes {
        let (old, new) = (compiled(format, old_text), compiled(format, new_text));
        for (direction, rule) in [(Direction::Backward, backward), (Direction::Forward, forward)] {
            let found = incompatibilities(&new, &old, direction);
            let as_expected = if rule.is_empty() {
                found.is_empty()
            } else {
                found.iter().any(|incompatibility| incompatibility.rule == *rule)
            };
            if !as_expected {
                wrong.push(format!("{name}, {direction:?}: {rule:?} expected, found {found:?}"));
            }
        }
        for schema in [&old, &new] {
            assert_eq!(incompatibilities(schema, schema, Direction::Backward), [], "{name}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The problems of a definition of one file; none if it is fine.
fn problems(format: Format, text: &str) -> Vec<Problem> {
    compile(&definition(format, text), &[]).err().map_or_else(Vec::new, |e| e.problems)
}

#[test]
fn compiled_schemas_are_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>(_: &T) {}
    for (format, text) in [
        (Format::Json, "{}"),
        (Format::Protobuf, "syntax = \"proto3\"; message M {}"),
        (Format::Avro, "\"int\""),
    ] {
        let schema = compiled(format, text);
        shared(&schema);
        assert_eq!(schema.format(), format);
    }
}

/// A list of so many, by a template with `N`.
fn many(count: usize, template: &str, by: &str) -> String {
    let all: Vec<String> = (1..=count).map(|n| template.replace('N', &n.to_string())).collect();
    all.join(by)
}

#[test]
fn lists_of_incompatibilities_that_are_cut_say_so() {
    let json = |count: usize, kind: &str| {
        let each = many(count, &format!(r#""pN":{{"type":"{kind}"}}"#), ",");
        compiled(Format::Json, &format!(r#"{{"type":"object","properties":{{{each}}}}}"#))
    };
    let avro = |count: usize, kind: &str| {
        let each = many(count, &format!(r#"{{"name":"fN","type":"{kind}"}}"#), ",");
        let text = format!(r#"{{"type":"record","name":"R","fields":[{each}]}}"#);
        compiled(Format::Avro, &text)
    };
    let protobuf = |count: usize, kind: &str| {
        let each = many(count, &format!("{kind} fN = N;"), " ");
        let text = format!("syntax = \"proto3\"; message M {{ {each} }}");
        compiled(Format::Protobuf, &text)
    };
    for (count, listed) in [(100, 100), (101, 101), (300, 101)] {
        for (new, old) in [
            (json(count, "integer"), json(count, "string")),
            (avro(count, "int"), avro(count, "string")),
            (protobuf(count, "int32"), protobuf(count, "string")),
        ] {
            let found = incompatibilities(&new, &old, Direction::Backward);
            let (format, last) = (new.format(), found.last().unwrap());
            assert_eq!(found.len(), listed, "{format:?}");
            assert_eq!(last.rule == "more", count > 100, "{format:?}: {last:?}");
        }
    }
}

#[test]
fn lists_of_violations_that_are_cut_say_so() {
    let required = |count: usize| {
        let each = many(count, "required int32 fN = N;", " ");
        let text = format!("syntax = \"proto2\"; message M {{ {each} }}");
        compiled(Format::Protobuf, &text).validate(b"", "").unwrap_err()
    };
    let texts = compiled(Format::Avro, r#"{"type":"array","items":"string"}"#);
    let broken = |count: usize| {
        // A block of so many elements, each of one byte that is no text.
        let byte = |bits: usize| u8::try_from(bits).unwrap();
        let zigzag = 2 * count;
        let mut payload = vec![byte(zigzag & 0x7f | 0x80), byte(zigzag >> 7)];
        payload.extend([2, 0xff].repeat(count));
        payload.push(0);
        texts.validate(&payload, "").unwrap_err()
    };
    for (count, listed) in [(100, 100), (101, 101), (300, 101)] {
        for found in [required(count), broken(count)] {
            assert_eq!(found.len(), listed, "{:?}", found.last());
            let says_so = found.last().unwrap().text == "there are more; the first 100 are told";
            assert_eq!(says_so, count > 100, "{:?}", found.last());
        }
    }
}
