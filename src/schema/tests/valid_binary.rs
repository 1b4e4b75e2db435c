//! Protobuf and Avro payloads.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use prost_reflect::DynamicMessage;

use super::random::Random;
use super::random_avro::long;
use super::{compiled, definition};
use crate::schema::limits::{AVRO_EMPTY_ITEMS_MAX, INSTANCE_DEPTH_MAX};
use crate::schema::{Compiled, Format, Reference, Resolved, compile};

const ORDERS: &str = r#"syntax = "proto2";
package shop;
message Order {
    required string id = 1;
    repeated Item items = 2;
    optional Order parent = 3;
    map<string, Item> by_name = 4;
    repeated sint32 counts = 5 [packed = true];
    optional Color color = 6;
    oneof payment { Item card = 7; string cash = 8; }
    optional group Note = 9 { required string text = 1; }
    optional fixed32 f = 10;
    optional double d = 11;
    repeated string tags = 12;
    extensions 100 to 200;
}
message Item { required string sku = 1; optional bytes raw = 2; }
extend Order { optional Item gift = 100; }
enum Color { RED = 0; }
"#;

fn orders() -> Compiled {
    compiled(Format::Protobuf, ORDERS)
}

/// A field with a length.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = Vec::new();
    prost::encoding::encode_varint(u64::from(number) << 3 | 2, &mut field);
    prost::encoding::encode_varint(bytes.len() as u64, &mut field);
    field.extend_from_slice(bytes);
    field
}

fn pointers(schema: &Compiled, payload: &[u8], message: &str) -> Vec<String> {
    let found = schema.validate(payload, message).err().unwrap_or_default();
    found.into_iter().map(|violation| violation.pointer).collect()
}

#[test]
fn protobuf_payloads() {
    let schema = orders();
    let id = field(1, b"o");
    let sku = field(1, b"s");
    let with = |parts: &[&[u8]]| [&[id.as_slice()], parts].concat().concat();
    let cases: &[(&str, Vec<u8>, &[&str])] = &[
        ("whole", id.clone(), &[]),
        ("empty", Vec::new(), &["/id"]),
        ("unknown fields", with(&[&field(15, b"x"), &[0x80, 0x01, 0x05]]), &[]),
        (
            "items",
            with(&[&field(2, &sku), &field(2, b""), &field(2, b"")]),
            &["/items/1/sku", "/items/2/sku"],
        ),
        ("nested", with(&[&field(3, &field(3, b""))]), &["/parent/parent/id", "/parent/id"]),
        ("parts are merged", with(&[&field(3, &id), &field(3, &field(3, &id))]), &[]),
        (
            "map",
            with(&[&field(4, &[field(1, b"a/b"), field(2, b"")].concat())]),
            &["/by_name/a~1b/value/sku"],
        ),
        ("packed", with(&[&field(5, &[1, 0x80, 0x02])]), &[]),
        ("not packed", with(&[&[0x28, 0x01]]), &[]),
        ("packed and cut", with(&[&field(5, &[0x80])]), &[""]),
        ("unknown value of an enum", with(&[&[0x30, 0x63]]), &[]),
        ("oneof, the last wins", with(&[&field(7, b""), &field(8, b"x")]), &[]),
        ("oneof", with(&[&field(8, b"x"), &field(7, b"")]), &["/card/sku"]),
        ("group", with(&[&[0x4b], &field(1, b"t"), &[0x4c]]), &[]),
        ("group without what it needs", with(&[&[0x4b, 0x4c]]), &["/note/text"]),
        ("group that never ends", with(&[&[0x4b]]), &[""]),
        ("group that ends as another", with(&[&[0x4b, 0x54]]), &[""]),
        ("end without a group", with(&[&[0x4c]]), &[""]),
        ("fixed and cut", with(&[&[0x55, 1, 2, 3]]), &[""]),
        ("wrong wire type", with(&[&[0x10, 0x01]]), &[""]),
        ("text that is not UTF-8", with(&[&field(12, b"a"), &field(12, b"\xff")]), &["/tags/1"]),
        ("length beyond the end", with(&[&[0x12, 0x7f, 0]]), &[""]),
        (
            "length beyond all",
            with(&[&[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]]),
            &[""],
        ),
        ("field zero", vec![0x00], &["", "/id"]),
        ("extension", with(&[&[0xa2, 0x06, 0x00]]), &["/[shop.gift]/sku"]),
    ];
    let mut wrong = Vec::new();
    for (name, payload, expected) in cases {
        let found = pointers(&schema, payload, "");
        if found != *expected {
            wrong.push(format!("{name}: {expected:?} expected, found {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_message_is_chosen_by_name() {
    let schema = orders();
    assert_eq!(pointers(&schema, &field(1, b"s"), "shop.Item"), [""; 0]);
    assert_eq!(pointers(&schema, b"", "shop.Item"), ["/sku"]);
    for unknown in ["Item", "shop.Nothing", "shop.Color"] {
        let found = schema.validate(b"", unknown).unwrap_err();
        assert!(found[0].text.contains("is not in the schema"), "{}", found[0].text);
    }
    let empty = compiled(Format::Protobuf, "syntax = \"proto3\"; enum E { Z = 0; }");
    assert!(empty.validate(b"", "").is_err());
}

#[test]
fn protobuf_messages_nest_so_deep() {
    let schema = compiled(Format::Protobuf, "syntax = \"proto3\"; message M { M m = 1; }");
    let nested = |levels: usize| (1..levels).fold(Vec::new(), |inner, _| field(1, &inner));
    assert_eq!(schema.validate(&nested(100), ""), Ok(()));
    assert!(schema.validate(&nested(101), "").is_err());
    // Three bytes a level: a megabyte of nothing but levels.
    let found = schema.validate(&[0x0b; 1_000_000], "").unwrap_err();
    assert_eq!(found.len(), 1);
    assert!(schema.validate(&nested(3000), "").is_err());
}

#[test]
fn protobuf_agrees_with_prost() {
    let schema = orders();
    let file = protox::file::File::from_source("main.proto", ORDERS).unwrap();
    let mut pool = prost_reflect::DescriptorPool::new();
    pool.add_file_descriptor_proto(file.into()).unwrap();
    let order = pool.get_message_by_name("shop.Order").unwrap();
    let mut runner =
        TestRunner::new(Config { cases: 4000, failure_persistence: None, ..Config::default() });
    runner
        .run(&any::<u64>(), |seed| {
            let mut random = Random(seed);
            let payload = message(&mut random, 4);
            let theirs = DynamicMessage::decode(order.clone(), payload.as_slice());
            let ours = schema.validate(&payload, "");
            // Only this room asks for required fields.
            let broken: Vec<_> = ours.err().unwrap_or_default();
            let broken: Vec<_> =
                broken.into_iter().filter(|v| !v.text.contains("is missing; set it")).collect();
            prop_assert_eq!(
                theirs.is_ok(),
                broken.is_empty(),
                "{:02x?} {:?} {:?}",
                payload,
                theirs,
                broken
            );
            Ok(())
        })
        .unwrap();
}

/// Fields that often fit an order, and often do not.
fn message(random: &mut Random, levels: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.below(5) {
        let number = u8::try_from(1 + random.below(13)).unwrap();
        let wire = match number {
            1 | 2 | 3 | 4 | 7 | 8 | 12 => 2,
            5 if random.chance(2) => 2,
            5 | 6 => 0,
            9 => 3,
            10 => 5,
            11 => 1,
            _ => random.byte() % 6,
        };
        let wire = if random.chance(24) { random.byte() % 8 } else { wire };
        bytes.push(number << 3 | wire);
        match wire {
            0 => prost::encoding::encode_varint(random.next() >> random.below(64), &mut bytes),
            1 => bytes.extend_from_slice(&[1; 8]),
            2 => {
                let inner = match random.below(3) {
                    0 => b"text".to_vec(),
                    1 if levels > 0 => message(random, levels - 1),
                    _ => vec![random.byte(); usize::try_from(random.below(3)).unwrap()],
                };
                bytes.push(u8::try_from(inner.len()).unwrap_or(u8::MAX));
                bytes.extend(inner);
            }
            3 => {
                let inner = if levels > 0 { message(random, levels - 1) } else { Vec::new() };
                bytes.extend(inner);
                bytes.push(number << 3 | 4);
            }
            5 => bytes.extend_from_slice(&[1; 4]),
            _ => {}
        }
    }
    if random.chance(16) {
        bytes.pop();
    }
    bytes
}

#[test]
fn avro_payloads() {
    let order = r#"{"type":"record","name":"Order","fields":[
        {"name":"id","type":"string"},
        {"name":"items","type":{"type":"array","items":{"type":"record","name":"Item","fields":[
            {"name":"sku","type":"string"},{"name":"count","type":"int"}]}}},
        {"name":"by_name","type":{"type":"map","values":["null","Item"]}},
        {"name":"color","type":{"type":"enum","name":"Color","symbols":["RED","BLUE"]}},
        {"name":"hash","type":{"type":"fixed","name":"Hash","size":2}},
        {"name":"paid","type":"boolean"}]}"#;
    let schema = compiled(Format::Avro, order);
    let whole = [
        2, b'o', // id
        2, 2, b's', 4, 0, // one item
        1, 8, 2, b'k', 2, 0, 0, 0, // a block of one and its bytes: k is an item of branch 1
        2, 9, 9, 1,
    ];
    let damaged = |at: usize, byte: u8| {
        let mut bytes = whole.to_vec();
        bytes[at] = byte;
        bytes
    };
    let cases: &[(&str, Vec<u8>, &[&str])] = &[
        ("a block of another size", whole.to_vec(), &["/by_name"]),
        ("whole", damaged(8, 10), &[]),
        ("text that is not UTF-8", [&[2, 0xff], &damaged(8, 10)[2..]].concat(), &["/id"]),
        ("unknown branch", damaged(11, 4), &["/by_name/k"]),
        ("unknown symbol", [&damaged(8, 10)[..15], &[4, 9, 9, 1]].concat(), &["/color"]),
        ("no boolean", [&damaged(8, 10)[..18], &[2]].concat(), &["/paid"]),
        ("more than one value", [&damaged(8, 10)[..], &[0]].concat(), &[""]),
        ("negative length", vec![1], &["/id"]),
        (
            "a count out of range",
            [&[2, b'o', 2, 2, b's'][..], &[0xff; 5], &[0x0f]].concat(),
            &["/items/0/count"],
        ),
    ];
    let mut wrong = Vec::new();
    for (name, payload, expected) in cases {
        let found = pointers(&schema, payload, "");
        if found != *expected {
            wrong.push(format!("{name}: {expected:?} expected, found {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let whole = damaged(8, 10);
    for end in 0..whole.len() {
        assert!(schema.validate(&whole[..end], "").is_err(), "cut at {end}");
    }
}

#[test]
fn avro_single_objects_need_the_fingerprint_of_the_schema() {
    let schema = compiled(Format::Avro, r#""long""#);
    // CRC-64-AVRO of "long", from the specification's algorithm.
    let fingerprint = apache_avro::Schema::Long.fingerprint::<apache_avro::rabin::Rabin>();
    let single = [&[0xc3, 0x01], fingerprint.bytes.as_slice(), &[2]].concat();
    assert_eq!(schema.validate(&single, ""), Ok(()));
    let other = [&[0xc3, 0x01], &[0; 8][..], &[2]].concat();
    let found = schema.validate(&other, "").unwrap_err();
    assert!(found.last().unwrap().text.contains("fingerprint"), "{found:?}");
    // A value may begin like that.
    assert_eq!(schema.validate(&[0xc3, 0x01], ""), Ok(()));
}

#[test]
fn avro_claims_cost_nothing() {
    let nulls = compiled(Format::Avro, r#"{"type":"array","items":"null"}"#);
    let array = |count: i64| {
        let mut bytes = Vec::new();
        long(count, &mut bytes);
        bytes.push(0);
        bytes
    };
    let most = i64::try_from(AVRO_EMPTY_ITEMS_MAX).unwrap();
    assert_eq!(nulls.validate(&array(most), ""), Ok(()));
    for count in [most + 1, i64::MAX] {
        assert!(nulls.validate(&array(count), "").is_err());
    }
    assert!(nulls.validate(&[&[0xff; 9][..], &[0x01, 0, 0]].concat(), "").is_err());
    let bytes = compiled(Format::Avro, r#"["bytes",{"type":"array","items":"int"}]"#);
    for index in [0, 1] {
        let mut payload = vec![index * 2];
        long(i64::MAX, &mut payload);
        assert!(bytes.validate(&payload, "").is_err());
    }
    // Records whose fields have no bytes, in great numbers.
    let fields: Vec<String> =
        (0..4900).map(|index| format!(r#"{{"name":"f{index}","type":"null"}}"#)).collect();
    let wide = format!(
        r#"{{"type":"array","items":{{"type":"record","name":"R","fields":[{},{{"name":"b","type":"boolean"}}]}}}}"#,
        fields.join(",")
    );
    let mut payload = Vec::new();
    long(1_000_000, &mut payload);
    payload.resize(payload.len() + 1_000_000, 1);
    payload.push(0);
    assert_eq!(compiled(Format::Avro, &wide).validate(&payload, ""), Ok(()));
}

#[test]
fn avro_values_nest_so_deep() {
    let list = r#"{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]}]}"#;
    let schema = compiled(Format::Avro, list);
    // A level of the record, one of the union.
    let nested = |levels: usize| [vec![2; levels], vec![0]].concat();
    assert_eq!(schema.validate(&nested(INSTANCE_DEPTH_MAX / 2 - 2), ""), Ok(()));
    assert!(schema.validate(&nested(INSTANCE_DEPTH_MAX / 2), "").is_err());
    assert!(schema.validate(&nested(1_000_000), "").is_err());
    let endless = r#"{"type":"record","name":"L","fields":[{"name":"next","type":"L"}]}"#;
    assert!(compiled(Format::Avro, endless).validate(b"", "").is_err());
}

#[test]
fn avro_types_of_references_are_known_by_their_names() {
    let mut order = definition(
        Format::Avro,
        r#"{"type":"record","name":"shop.Order","fields":[{"name":"item","type":"Item"},{"name":"more","type":{"type":"array","items":"shop.Item"}}]}"#,
    );
    order.references =
        vec![Reference { name: "shop.Item".to_owned(), subject: "items".to_owned(), version: 3 }];
    let item = Resolved {
        name: "shop.Item".to_owned(),
        definition: definition(
            Format::Avro,
            r#"{"type":"record","name":"Item","namespace":"shop","fields":[{"name":"n","type":"int"}]}"#,
        ),
        resolved: Vec::new(),
    };
    let schema = compile(&order, std::slice::from_ref(&item)).unwrap();
    assert_eq!(schema.validate(&[2, 2, 4, 0], ""), Ok(()));
    // The same schema in one piece has the same fingerprint.
    let whole = r#"{"type":"record","name":"shop.Order","fields":[{"name":"item","type":{"type":"record","name":"Item","fields":[{"name":"n","type":"int"}]}},{"name":"more","type":{"type":"array","items":"Item"}}]}"#;
    let theirs = apache_avro::Schema::parse_str(whole).unwrap();
    let fingerprint = theirs.fingerprint::<apache_avro::rabin::Rabin>().bytes;
    let single = [&[0xc3, 0x01], fingerprint.as_slice(), &[2, 2, 4, 0]].concat();
    assert_eq!(schema.validate(&single, ""), Ok(()));
    // A reference that does not define what it is called is a problem.
    let renamed = Resolved { name: "shop.Thing".to_owned(), ..item };
    order.references[0].name = "shop.Thing".to_owned();
    let problems = compile(&order, &[renamed]).err().unwrap().problems;
    assert!(problems[0].text.contains("defines no type of that name"), "{problems:?}");
}
