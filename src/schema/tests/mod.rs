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
