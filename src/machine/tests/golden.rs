//! The bytes on disk, as they were when their version was new. They are read for ever.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::ops::ControlFlow;

use bytes::Bytes;

use super::random::{TestEvent, create, publish_of};
use super::{apply, check_golden_reads};
use crate::machine::kv::{Kv as _, Order, Table, Write};
use crate::machine::mem::MemKv;
use crate::machine::record::Kind as RecordKind;
use crate::model::command::{CommandBatch, CreateTopic, Kind, Producer, Publish, RegisterNode};
use crate::model::topic::TopicConfig;

/// One row a line: table, key, value; the latter two in hexadecimal.
const VERSION_1: &str = include_str!("golden-v1.txt");
/// All of them, oldest first.
const VERSIONS: &[&str] = &[VERSION_1];

fn entries() -> Vec<CommandBatch> {
    let with = |kinds: Vec<Kind>, stamp_ms| CommandBatch {
        stamp_ms,
        commands: kinds.into_iter().map(Into::into).collect(),
    };
    let event = |id: &str, key: &str| TestEvent {
        id: id.to_owned(),
        source: "/s".to_owned(),
        kind: "t".to_owned(),
        data: b"data".to_vec(),
        key: key.to_owned(),
    };
    let topic = |name: &str, config: TopicConfig| {
        let request_id = format!("request-{name}");
        Kind::CreateTopic(CreateTopic { name: name.to_owned(), config, request_id })
    };
    let producer = Producer { id: "p".to_owned(), epoch: 3, sequence: 1, acknowledged_below: 1 };
    vec![
        create("plain", 1000),
        with(
            vec![
                topic("found", TopicConfig { index_ids: true, ..TopicConfig::defaults() }),
                topic("once", TopicConfig { dedup_window_ms: 5000, ..TopicConfig::defaults() }),
                Kind::RegisterNode(RegisterNode {
                    node_id: 7,
                    incarnation: "i".to_owned(),
                    removed: false,
                }),
            ],
            2000,
        ),
        with(
            vec![
                Kind::Publish(publish_of("plain", &[event("1", ""), event("2", "")])),
                Kind::Publish(Publish {
                    producer: Some(producer),
                    ..publish_of("plain", &[event("3", "k"), event("4", "k")])
                }),
                Kind::Publish(publish_of("found", &[event("5", "")])),
                Kind::Publish(publish_of("once", &[event("6", ""), event("6", "")])),
            ],
            3000,
        ),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

pub(super) fn rows(kv: &MemKv) -> String {
    let mut text = String::new();
    for table in Table::ALL {
        kv.scan(table, &[], &[0xff; 16], Order::Ascending, &mut |key, value| {
            let _ = writeln!(text, "{} {} {}", table.name(), hex(key), hex(value));
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    }
    text
}

pub(super) fn stored(golden: &str) -> MemKv {
    let mut kv = MemKv::default();
    let rows = golden.lines().map(|line| {
        let mut words = line.split(' ');
        let name = words.next().unwrap();
        let table = Table::ALL.into_iter().find(|table| table.name() == name).unwrap();
        let key = unhex(words.next().unwrap());
        Write::Put(table, key, Bytes::from(unhex(words.next().unwrap())))
    });
    kv.write(rows.collect());
    kv
}

#[test]
fn the_newest_version_is_written_as_it_always_was() {
    let mut kv = MemKv::default();
    apply(&mut kv, &entries(), 1);
    let written = rows(&kv);
    assert_eq!(written, VERSION_1, "the bytes on disk have changed: that takes a new version");
    let of_machine = |kind: &RecordKind| {
        let number = *kind as u8;
        number < RecordKind::Applied as u8 || number >= RecordKind::RegistryChange as u8
    };
    let kinds: BTreeSet<u8> =
        RecordKind::ALL.iter().filter(|k| of_machine(k)).map(|k| *k as u8).collect();
    let golden: BTreeSet<u8> = written
        .lines()
        .chain(super::golden_delivery::VERSION_1.lines())
        .chain(super::golden_registry::VERSION_1.lines())
        .chain(super::golden_together::VERSION_1.lines())
        .map(|line| unhex(line.rsplit(' ').next().unwrap())[0])
        .collect();
    assert_eq!(golden, kinds, "a record kind has no golden bytes");
}

#[test]
fn every_version_is_read() {
    for golden in VERSIONS {
        let mut kv = stored(golden);
        check_golden_reads(&kv);
        // And it is gone on from: the repeated call is recognised, the rest appended.
        let again = apply(&mut kv, &entries()[2..], 9);
        let repeated = &again[0][1];
        assert!(
            matches!(repeated, crate::model::outcome::Outcome::Published(p) if p.duplicate),
            "{repeated:?}"
        );
        assert_eq!(kv.rows(Table::Batches), 5);
    }
}
