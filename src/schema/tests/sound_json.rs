//! What is called compatible is compatible: random schemas against the validator.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;

use super::definition;
use super::random::{Dialect, Random, document, edit, value};
use crate::schema::{Compiled, Direction, Format, compile, incompatibilities};

fn try_compiled(document: &Value) -> Option<Compiled> {
    compile(&definition(Format::Json, &document.to_string()), &[]).ok()
}

#[test]
fn compatible_json_schemas_are_sound() {
    // (pairs that were proved, of them with a valid instance, instances checked)
    let seen = Cell::new((0_u64, 0_u64, 0_u64, 0_u64));
    let cases = std::env::var("SCHEMA_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(6000);
    let mut runner =
        TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    runner
        .run(&any::<u64>(), |seed| {
            let mut random = Random(seed);
            let dialect = if random.chance(3) { Dialect::Seven } else { Dialect::New };
            let old = document(&mut random, dialect);
            let new = match random.below(8) {
                0 => document(&mut random, dialect),
                1 => old.clone(),
                _ => edit(&mut random, &old, dialect),
            };
            let (Some(old_schema), Some(new_schema)) = (try_compiled(&old), try_compiled(&new))
            else {
                return Ok(());
            };
            for (direction, written, read) in [
                (Direction::Backward, &old_schema, &new_schema),
                (Direction::Forward, &new_schema, &old_schema),
            ] {
                let found = incompatibilities(&new_schema, &old_schema, direction);
                let (mut proved, mut used, mut checked, mut refused) = seen.get();
                if !found.is_empty() {
                    prop_assert!(old != new, "{old} is not compatible with itself: {found:?}");
                    refused += 1;
                    seen.set((proved, used, checked, refused));
                    continue;
                }
                proved += 1;
                let mut any_valid = false;
                for _ in 0..40 {
                    let text = value(&mut random, 3).to_string();
                    if written.validate(text.as_bytes(), "").is_ok() {
                        any_valid = true;
                        checked += 1;
                        let read = read.validate(text.as_bytes(), "");
                        prop_assert!(
                            read.is_ok(),
                            "{direction:?}\nold {old}\nnew {new}\ninstance {text}\n{read:?}"
                        );
                    }
                }
                used += u64::from(any_valid);
                seen.set((proved, used, checked, refused));
            }
            Ok(())
        })
        .unwrap();
    let (proved, used, checked, refused) = seen.get();
    println!("proved {proved}, with instances {used}, instances {checked}, refused {refused}");
    assert!(used >= 2000, "only {used} pairs were proved compatible and had instances");
}
