//! Avro against a second opinion, `apache-avro`: what is called compatible resolves, what is called
//! valid decodes, and the canonical form is the same.

use std::cell::Cell;

use apache_avro::rabin::Rabin;
use apache_avro::reader::datum::GenericDatumReader;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::random::Random;
use super::random_avro::{Names, definitions, edit, encode, schema, with_old_names};
use super::{compiled, definition};
use crate::schema::{Direction, Format, compile, incompatibilities};

/// Reads with a writer's schema and resolves to a reader's; also answers what was left over.
fn read(
    written: &apache_avro::Schema,
    read: Option<&apache_avro::Schema>,
    mut bytes: &[u8],
) -> Result<usize, apache_avro::Error> {
    let builder = GenericDatumReader::builder(written);
    let reader = match read {
        Some(read) => builder.reader_schema(read).build()?,
        None => builder.build()?,
    };
    reader.read_value(&mut bytes)?;
    Ok(bytes.len())
}

#[test]
fn compatible_avro_schemas_resolve() {
    let seen = Cell::new((0_u64, 0_u64));
    let mut runner =
        TestRunner::new(Config { cases: 6000, failure_persistence: None, ..Config::default() });
    runner
        .run(&any::<u64>(), |seed| {
            let mut random = Random(seed);
            let old = schema(&mut random, 4, &mut Names::default());
            let new = edit(&mut random, &old);
            let (old_text, new_text) = (old.to_string(), new.to_string());
            let old_schema = compiled(Format::Avro, &old_text);
            let Ok(new_schema) = compile(&definition(Format::Avro, &new_text), &[]) else {
                return Ok(());
            };
            let theirs = apache_avro::Schema::parse_str(&old_text).unwrap();
            // `apache-avro` does not look for fields by their aliases.
            let mut renamed = new.clone();
            with_old_names(&mut renamed);
            let Ok(their_new) = apache_avro::Schema::parse_str(&renamed.to_string()) else {
                return Ok(());
            };
            let found = incompatibilities(&new_schema, &old_schema, Direction::Backward);
            let names = definitions(&old);
            for _ in 0..8 {
                let mut bytes = Vec::new();
                encode(&mut random, &old, &names, 6, &mut bytes);
                let valid = old_schema.validate(&bytes, "");
                prop_assert!(valid.is_ok(), "{old_text}\n{bytes:02x?}\n{valid:?}");
                prop_assert_eq!(read(&theirs, None, &bytes).unwrap(), 0);
                if found.is_empty() {
                    let resolved = read(&theirs, Some(&their_new), &bytes);
                    prop_assert!(
                        resolved.is_ok(),
                        "old {old_text}\nnew {new_text}\n{bytes:02x?}\n{resolved:?}"
                    );
                }
            }
            let (compatible, refused) = seen.get();
            seen.set(if found.is_empty() {
                (compatible + 1, refused)
            } else {
                (compatible, refused + 1)
            });
            Ok(())
        })
        .unwrap();
    let (compatible, refused) = seen.get();
    println!("{compatible} compatible, {refused} not");
    assert!(compatible >= 2000 && refused >= 500, "{compatible} compatible, {refused} not");
}

#[test]
fn valid_avro_payloads_decode() {
    let mut runner =
        TestRunner::new(Config { cases: 3000, failure_persistence: None, ..Config::default() });
    let seen = Cell::new((0_u64, 0_u64));
    runner
        .run(&any::<u64>(), |seed| {
            let mut random = Random(seed);
            let text = schema(&mut random, 4, &mut Names::default()).to_string();
            let ours = compiled(Format::Avro, &text);
            let theirs = apache_avro::Schema::parse_str(&text).unwrap();
            let names = definitions(&serde_json::from_str(&text).unwrap());
            for _ in 0..8 {
                let mut bytes = Vec::new();
                encode(&mut random, &serde_json::from_str(&text).unwrap(), &names, 5, &mut bytes);
                for _ in 0..random.below(3) {
                    damage(&mut random, &mut bytes);
                }
                let valid = ours.validate(&bytes, "");
                let (good, bad) = seen.get();
                if valid.is_ok() {
                    let decoded = read(&theirs, None, &bytes);
                    prop_assert!(matches!(decoded, Ok(0)), "{text}\n{bytes:02x?}\n{decoded:?}");
                    seen.set((good + 1, bad));
                } else {
                    seen.set((good, bad + 1));
                    // It takes an early end for a null in places, ignores the sizes of blocks, and
                    // cuts numbers to 64 bits.
                    let decoded = read(&theirs, None, &bytes);
                    let reported = format!("{valid:?}");
                    let tolerant = reported.contains("a block says")
                        || reported.contains("payload ends within")
                        || reported.contains("more than 64 bits");
                    prop_assert!(
                        tolerant || !matches!(decoded, Ok(0)),
                        "{text}\n{bytes:02x?}\n{valid:?}"
                    );
                }
            }
            Ok(())
        })
        .unwrap();
    let (good, bad) = seen.get();
    assert!(good >= 2000 && bad >= 2000, "{good} valid, {bad} not");
}

fn damage(random: &mut Random, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return bytes.push(random.byte());
    }
    let at = usize::try_from(random.below(bytes.len() as u64)).unwrap();
    match random.below(4) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes.truncate(at),
        2 => bytes.insert(at, random.byte()),
        _ => bytes.push(random.byte()),
    }
}

#[test]
fn canonical_forms_are_the_same() {
    let mut runner =
        TestRunner::new(Config { cases: 2000, failure_persistence: None, ..Config::default() });
    runner
        .run(&any::<u64>(), |seed| {
            let mut random = Random(seed);
            let text = schema(&mut random, 5, &mut Names::default()).to_string();
            let theirs = apache_avro::Schema::parse_str(&text).unwrap();
            let fingerprint = theirs.fingerprint::<Rabin>();
            let mut payload = vec![0xc3, 0x01];
            payload.extend_from_slice(&fingerprint.bytes);
            let names = definitions(&serde_json::from_str(&text).unwrap());
            encode(&mut random, &serde_json::from_str(&text).unwrap(), &names, 5, &mut payload);
            let valid = compiled(Format::Avro, &text).validate(&payload, "");
            prop_assert!(valid.is_ok(), "{text}\n{}\n{valid:?}", theirs.canonical_form());
            Ok(())
        })
        .unwrap();
}
