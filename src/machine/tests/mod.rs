//! Random commands against a naive model, and the laws of determinism.

mod correlations;
mod delivery;
mod golden;
mod golden_delivery;
mod golden_registry;
mod golden_together;
mod judged;
mod key_pages;
mod key_snapshots;
mod model;
pub(crate) mod random;
mod registry;
mod registry_cases;
mod registry_feed;
mod registry_holds;
mod registry_random;
mod registry_view;
mod schemas;
mod staged;
mod transact;

use bytes::Bytes;
use prost::Message as _;

use self::model::Model;
use self::random::{Dice, random_entry};
use super::Fault;
use super::apply::Machine;
use super::kv::{Kv, Order, Table};
use super::mem::MemKv;
use super::query::{self, Bounds};
use crate::model::command::{CommandBatch, Kind};
use crate::model::ids::{KeyVersion, LogIndex, Offset, Position, UnixMs};
use crate::model::outcome::Outcome;

/// Sequences of commands; `MHUB_TEST_SEQUENCES` asks for more.
fn sequences() -> u64 {
    std::env::var("MHUB_TEST_SEQUENCES").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000)
}

fn first_seed() -> u64 {
    std::env::var("MHUB_TEST_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

fn apply(kv: &mut MemKv, entries: &[CommandBatch], first_index: u64) -> Vec<Vec<Outcome>> {
    let mut machine = Machine::load(kv).unwrap();
    let mut outcomes = Vec::new();
    for (index, entry) in (first_index..).zip(entries) {
        let encoded = Bytes::from(entry.encode_to_vec());
        outcomes.push(machine.apply(LogIndex(index), &encoded).unwrap().outcomes);
    }
    let writes = machine.into_writes();
    kv.write(writes);
    outcomes
}

#[test]
fn the_machine_does_what_the_naive_model_does() {
    let first = first_seed();
    for seed in first..first + sequences() {
        let mut dice = Dice::new(seed);
        let (mut model, mut kv) = (Model::default(), MemKv::default());
        let mut split = MemKv::default();
        let entries: Vec<CommandBatch> =
            (0..=dice.below(12)).map(|n| random_entry(&mut dice, n)).collect();
        let expected: Vec<Vec<Outcome>> = entries.iter().map(|e| model.apply(e)).collect();
        // All entries over one machine, and each over a machine of its own.
        let together = apply(&mut kv, &entries, 1);
        let mut apart = Vec::new();
        for (n, entry) in entries.iter().enumerate() {
            apart.extend(apply(&mut split, std::slice::from_ref(entry), n as u64 + 1));
        }
        for (at, (expected, actual)) in expected.iter().zip(&together).enumerate() {
            random::assert_same(expected, actual, &format!("seed {seed}, entry {at}"));
        }
        assert_eq!(together, apart, "seed {seed}: outcomes depend on how entries are grouped");
        assert_eq!(kv, split, "seed {seed}: state depends on how entries are grouped");
        check_reads(&model, &kv, &mut dice, seed);
    }
}

fn check_reads(model: &Model, kv: &MemKv, dice: &mut Dice, seed: u64) {
    let listed = query::topics(kv, "", 100).unwrap();
    let names: Vec<_> = listed.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, model.topics.keys().map(String::as_str).collect::<Vec<_>>(), "seed {seed}");
    let bounds = Bounds { events: 1 + dice.below(6), bytes: 1 + dice.below(400) as usize };
    for info in &listed {
        let topic = &model.topics[&info.name];
        let expected: Vec<_> =
            (0..).zip(&topic.events).map(|(n, e)| (n, e.encoded.clone())).collect();
        assert_eq!(info.next_offset.get(), expected.len() as u64, "seed {seed}");
        let from = dice.below(expected.len() as u64 + 2);
        let up = walk(info.first_offset.get().max(from), Order::Ascending, |at| {
            query::read_topic(kv, info, Offset(at), Order::Ascending, bounds).unwrap()
        });
        assert_eq!(
            up,
            expected.iter().skip(from as usize).cloned().collect::<Vec<_>>(),
            "seed {seed} up"
        );
        let down = walk(from, Order::Descending, |at| {
            query::read_topic(kv, info, Offset(at), Order::Descending, bounds).unwrap()
        });
        let wanted: Vec<_> = expected.iter().take(from as usize + 1).rev().cloned().collect();
        assert_eq!(down, wanted, "seed {seed} down from {from}");
        check_points(topic, kv, info, seed);
    }
    check_hub(model, kv, dice, bounds, seed);
}

fn check_points(
    topic: &model::Topic,
    kv: &MemKv,
    info: &crate::model::outcome::TopicInfo,
    seed: u64,
) {
    for (n, event) in (0..).zip(&topic.events) {
        let stored = query::event_at(kv, info, Offset(n)).unwrap().unwrap();
        assert_eq!(stored.event, event.encoded, "seed {seed}");
        assert_eq!(
            (stored.position.get(), stored.recorded_at.get(), stored.key_version.get()),
            (event.position, event.recorded_at, event.version),
            "seed {seed}"
        );
        let of_position = query::offset_of_position(kv, info, Position(event.position)).unwrap();
        assert_eq!(of_position.get(), n, "seed {seed}: offset of position {}", event.position);
        let of_time = query::offset_of_time(kv, info, UnixMs(event.recorded_at)).unwrap();
        let first = topic.events.iter().position(|e| e.recorded_at >= event.recorded_at).unwrap();
        assert_eq!(of_time.get(), first as u64, "seed {seed}");
    }
    assert_eq!(query::event_at(kv, info, info.next_offset).unwrap(), None);
    for key in random::KEYS {
        let expected: Vec<u64> = (0..)
            .zip(&topic.events)
            .filter(|(_, e)| e.key == key && !key.is_empty())
            .map(|(n, _)| n)
            .collect();
        let (up, version) = query::read_key(
            kv,
            info,
            key,
            KeyVersion(1),
            Order::Ascending,
            Bounds { events: 99, bytes: usize::MAX },
        )
        .unwrap();
        assert_eq!(version.get(), expected.len() as u64, "seed {seed}");
        assert_eq!(up.iter().map(|e| e.offset.get()).collect::<Vec<_>>(), expected, "seed {seed}");
        let (down, _) = query::read_key(
            kv,
            info,
            key,
            version,
            Order::Descending,
            Bounds { events: 99, bytes: usize::MAX },
        )
        .unwrap();
        assert!(down.iter().rev().map(|e| e.offset).eq(up.iter().map(|e| e.offset)), "seed {seed}");
    }
}

fn check_hub(model: &Model, kv: &MemKv, dice: &mut Dice, bounds: Bounds, seed: u64) {
    let mut expected: Vec<(u64, Bytes)> = model
        .topics
        .values()
        .flat_map(|t| t.events.iter().map(|e| (e.position, e.encoded.clone())))
        .collect();
    expected.sort();
    let end = query::next_position(kv).unwrap().get();
    assert_eq!(end, model.next_position, "seed {seed}");
    let from = dice.below(end + 2);
    let up = walk_hub(from, Order::Ascending, |at| {
        query::read_hub(kv, Position(at), Order::Ascending, bounds).unwrap()
    });
    let wanted: Vec<_> = expected.iter().filter(|(p, _)| *p >= from).cloned().collect();
    assert_eq!(up, wanted, "seed {seed} hub up from {from}");
    let down = walk_hub(from, Order::Descending, |at| {
        query::read_hub(kv, Position(at), Order::Descending, bounds).unwrap()
    });
    let wanted: Vec<_> = expected.iter().filter(|(p, _)| *p <= from).rev().cloned().collect();
    assert_eq!(down, wanted, "seed {seed} hub down from {from}");
}

fn walk(from: u64, order: Order, read: impl FnMut(u64) -> query::Chunk) -> Vec<(u64, Bytes)> {
    walk_by(from, order, |view| view.first_offset.get(), read)
}

fn walk_hub(from: u64, order: Order, read: impl FnMut(u64) -> query::Chunk) -> Vec<(u64, Bytes)> {
    walk_by(from, order, |view| view.first_position.get(), read)
}

/// Reads chunk after chunk, as a client would: (place, event) in the order of reading.
fn walk_by(
    from: u64,
    order: Order,
    place: impl Fn(&super::topic::batch::BatchView<'_>) -> u64,
    mut read: impl FnMut(u64) -> query::Chunk,
) -> Vec<(u64, Bytes)> {
    let (mut events, mut next) = (Vec::new(), from);
    for _ in 0..10_000 {
        let chunk = read(next);
        for encoded in &chunk.batches {
            let batch = super::topic::batch::Batch { count: u32::MAX, encoded: encoded.clone() };
            let view = batch.view().unwrap();
            let run =
                crate::model::event_run::iter(view.run).map(|e| Bytes::copy_from_slice(e.unwrap()));
            let mut run: Vec<_> = (place(&view)..).zip(run).collect();
            if order == Order::Descending {
                run.reverse();
            }
            events.extend(run);
        }
        if chunk.at_end {
            return events;
        }
        next = chunk.next;
    }
    panic!("the read does not end");
}

#[test]
fn a_refusal_leaves_no_trace() {
    let mut kv = MemKv::default();
    apply(&mut kv, &[random::create("a", 0)], 1);
    let before = kv.clone();
    let mut refused = random::publish("nope", 3, 100);
    refused.stamp_ms = 0;
    let outcomes = apply(&mut kv, &[refused], 2);
    assert!(matches!(outcomes[0][0], Outcome::Rejected(_)));
    assert_eq!(kv, before);
}

#[test]
fn an_unknown_command_is_a_fault() {
    let kv = MemKv::default();
    let mut machine = Machine::load(&kv).unwrap();
    // Field 2 (commands) with a command that holds only an unknown field 99.
    let entry = Bytes::from_static(&[0x12, 0x03, 0x98, 0x06, 0x01]);
    assert!(machine.apply(LogIndex(1), &entry).is_err());
    assert!(machine.apply(LogIndex(1), &Bytes::from_static(b"\xff")).is_err());
}

#[test]
fn time_never_goes_back() {
    let mut kv = MemKv::default();
    apply(&mut kv, &[random::create("a", 5000), random::publish("a", 1, 1000)], 1);
    let info = query::topic(&kv, "a").unwrap().unwrap();
    let event = query::event_at(&kv, &info, Offset(0)).unwrap().unwrap();
    assert_eq!(event.recorded_at, UnixMs(5000));
}

#[test]
fn a_flipped_bit_in_a_batch_is_a_fault() {
    let mut kv = MemKv::default();
    apply(&mut kv, &[random::create("a", 0), random::publish("a", 3, 0)], 1);
    let info = query::topic(&kv, "a").unwrap().unwrap();
    let key = super::topic::batch::key(info.id, Offset(0));
    let mut row = kv.get(Table::Batches, &key).unwrap().unwrap().to_vec();
    row[20] ^= 4;
    kv.write(vec![super::kv::Write::Put(Table::Batches, key, row.into())]);
    assert!(query::event_at(&kv, &info, Offset(0)).is_err());
}

/// Who asks may have read the topic's row in an earlier look at the state.
#[test]
fn a_key_is_whole_although_its_topic_was_read_earlier() {
    let mut kv = MemKv::default();
    apply(&mut kv, &[random::create("a", 0)], 1);
    let earlier = query::topic(&kv, "a").unwrap().unwrap();
    let event = random::TestEvent {
        id: "i".to_owned(),
        source: "s".to_owned(),
        kind: "k".to_owned(),
        key: "x".to_owned(),
        ..random::TestEvent::default()
    };
    let publish = Kind::Publish(random::publish_of("a", &[event]));
    apply(&mut kv, &[CommandBatch { stamp_ms: 0, commands: vec![publish.into()] }], 2);
    for order in [Order::Ascending, Order::Descending] {
        let (events, version) = query::read_key(
            &kv,
            &earlier,
            "x",
            KeyVersion(1),
            order,
            Bounds { events: 9, bytes: usize::MAX },
        )
        .unwrap();
        assert_eq!((events.len(), version), (1, KeyVersion(1)), "{order:?}");
    }
}

/// What the golden rows say, whichever version they have.
fn check_golden_reads(kv: &MemKv) {
    let topics = query::topics(kv, "", 10).unwrap();
    let names: Vec<_> = topics.iter().map(|t| (t.name.as_str(), t.next_offset.get())).collect();
    assert_eq!(names, [("found", 1), ("once", 1), ("plain", 4)]);
    let plain = &topics[2];
    let (keyed, version) = query::read_key(
        kv,
        plain,
        "k",
        KeyVersion(1),
        Order::Ascending,
        Bounds { events: 9, bytes: usize::MAX },
    )
    .unwrap();
    assert_eq!((keyed.len(), version), (2, KeyVersion(2)));
    assert_eq!((keyed[1].offset, keyed[1].position), (Offset(3), Position(3)));
    let found = query::event_by_id(kv, &topics[0], "/s", "5").unwrap().unwrap();
    assert_eq!((found.position, found.recorded_at), (Position(4), UnixMs(3000)));
    assert_eq!(super::nodes::get(kv, 7.into()).unwrap().unwrap().incarnation, "i");
    assert_eq!(query::next_position(kv).unwrap(), Position(6));
}

/// No proposer writes such a thing; a log that was damaged may hold it.
#[test]
fn a_publish_that_miscounts_its_events_is_a_fault() {
    let mut kv = MemKv::default();
    apply(&mut kv, &[random::create("t", 1)], 1);
    let keyed = random::TestEvent { key: "k".into(), ..random::TestEvent::default() };
    let mut publish = random::publish_of("t", &[keyed]);
    publish.count = 2;
    let entry = CommandBatch { stamp_ms: 2, commands: vec![Kind::Publish(publish).into()] };
    let mut machine = Machine::load(&kv).unwrap();
    let applied = machine.apply(LogIndex(2), &Bytes::from(entry.encode_to_vec()));
    assert!(matches!(applied, Err(Fault::Undecodable(_))));
}
