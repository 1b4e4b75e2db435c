//! Snapshots of keys: the newest that was taken of events that are there, and nothing else.

use std::collections::BTreeMap;

use super::delivery::cases::Hub;
use super::delivery::random::create_topic;
use super::random::{Dice, keyed_publish};
use crate::machine::kv::Table;
use crate::machine::query;
use crate::machine::topic::key_snapshots;
use crate::model::command::{DeleteKeySnapshot, DeleteTopic, Kind, PutKeySnapshot};
use crate::model::outcome::Outcome;
use crate::model::rejection::Reason;

const KEYS: [&str; 3] = ["a", "aa", "b"];
const TOPICS: [&str; 2] = ["t", "u"];

/// By topic: versions by key, and snapshots by key with their content and time.
#[derive(Default)]
struct Known {
    versions: BTreeMap<&'static str, u64>,
    snapshots: BTreeMap<&'static str, (u64, u64, u64)>,
}

fn check(hub: &Hub, model: &BTreeMap<&str, Known>, seed: u64) {
    let mut rows = 0;
    for (topic, known) in model {
        let info = query::topic(&hub.kv, topic).unwrap().unwrap();
        rows += known.snapshots.len();
        for key in KEYS {
            let found = key_snapshots::get(&hub.kv, info.id, key).unwrap();
            let found = found.map(|s| (s.version.get(), s.data[0].into(), s.taken_at.get()));
            assert_eq!(found, known.snapshots.get(key).copied(), "seed {seed}, {topic} {key}");
        }
    }
    assert_eq!(hub.kv.rows(Table::KeySnapshots), rows, "seed {seed}: none is left over");
}

/// Draws a snapshot and puts it; whether it was kept.
fn put(
    hub: &mut Hub,
    model: &mut BTreeMap<&str, Known>,
    dice: &mut Dice,
    (topic, key): (&str, &'static str),
    seed: u64,
) -> bool {
    let newest = model.get(topic).and_then(|known| known.versions.get(key));
    let version = dice.below(newest.copied().unwrap_or(0) + 2);
    let content = dice.below(200);
    let outcome = hub.apply(Kind::PutKeySnapshot(PutKeySnapshot {
        topic: topic.into(),
        key: key.into(),
        version,
        data: vec![content as u8].into(),
        ..PutKeySnapshot::default()
    }));
    let reason = match &outcome {
        Outcome::Rejected(rejection) => Some(rejection.reason),
        _ => None,
    };
    let Some(known) = model.get_mut(topic) else {
        assert_eq!(reason, Some(Reason::TopicNotFound), "seed {seed}");
        return false;
    };
    let newest = known.versions.get(key).copied().unwrap_or(0);
    let before = known.snapshots.get(key).map_or(0, |s| s.0);
    let expected = match version {
        0 => Some(Reason::VersionNotFound),
        _ if version > newest => Some(Reason::VersionNotFound),
        _ if version < before => Some(Reason::SnapshotSuperseded),
        _ => None,
    };
    assert_eq!(reason, expected, "seed {seed}");
    if expected.is_none() {
        known.snapshots.insert(key, (version, content, hub.now_ms));
    }
    expected.is_none()
}

fn delete(topic: &str, key: &str, request_id: &str) -> DeleteKeySnapshot {
    let (topic, key, request_id) = (topic.into(), key.into(), request_id.into());
    DeleteKeySnapshot { topic, key, request_id }
}

#[test]
fn a_repeated_request_gets_its_first_answer_and_changes_nothing() {
    let mut hub = Hub::plain();
    for _ in 0..3 {
        hub.apply(Kind::Publish(keyed_publish(&mut Dice::new(1), "t", 4, &["a"])));
    }
    let put = |version: u64, request_id: &str| {
        Kind::PutKeySnapshot(PutKeySnapshot {
            topic: "t".into(),
            key: "a".into(),
            version,
            request_id: request_id.into(),
            ..PutKeySnapshot::default()
        })
    };
    let info = query::topic(&hub.kv, "t").unwrap().unwrap();
    let kept = |hub: &Hub| {
        key_snapshots::get(&hub.kv, info.id, "a").unwrap().map(|known| known.version.get())
    };
    assert_eq!(hub.apply(put(1, "first")), Outcome::Done);
    assert_eq!(hub.apply(put(2, "second")), Outcome::Done);
    assert_eq!((hub.apply(put(1, "first")), kept(&hub)), (Outcome::Done, Some(2)));
    // A refusal is none: it is judged anew.
    let refused = hub.apply(put(1, "third"));
    assert!(matches!(refused, Outcome::Rejected(_)), "{refused:?}");
    let gone = || Kind::DeleteKeySnapshot(delete("t", "a", "gone"));
    assert_eq!((hub.apply(gone()), kept(&hub)), (Outcome::Done, None));
    assert_eq!((hub.apply(put(1, "third")), kept(&hub)), (Outcome::Done, Some(1)));
    assert_eq!((hub.apply(gone()), kept(&hub)), (Outcome::Done, Some(1)));
}

#[test]
fn the_newest_snapshot_is_kept() {
    let (mut kept, mut refused) = (0, 0);
    let count = super::sequences() / 5;
    for seed in super::first_seed()..super::first_seed() + count {
        let (mut dice, mut hub) = (Dice::new(seed), Hub::plain());
        let mut model: BTreeMap<&str, Known> = BTreeMap::from([("t", Known::default())]);
        for _ in 0..10 + dice.below(20) {
            let topic = TOPICS[dice.below(2) as usize];
            let key = KEYS[dice.below(3) as usize];
            hub.now_ms += dice.below(3);
            match dice.below(10) {
                0..=3 => {
                    let publish = keyed_publish(&mut dice, topic, 2, &[key]);
                    if let Outcome::Published(published) = hub.apply(Kind::Publish(publish)) {
                        let newest = published.key_versions.iter().max().map_or(0, |v| v.get());
                        let version =
                            model.get_mut(topic).unwrap().versions.entry(key).or_default();
                        *version = newest.max(*version);
                    }
                }
                4..=7 => {
                    if put(&mut hub, &mut model, &mut dice, (topic, key), seed) {
                        kept += 1;
                    } else {
                        refused += 1;
                    }
                }
                8 => {
                    let delete = delete(topic, key, "");
                    hub.apply(Kind::DeleteKeySnapshot(delete));
                    if let Some(known) = model.get_mut(topic) {
                        known.snapshots.remove(key);
                    }
                }
                _ if model.contains_key(topic) => {
                    let (name, request_id) = (topic.to_owned(), String::new());
                    hub.apply(Kind::DeleteTopic(DeleteTopic { name, request_id }));
                    model.remove(topic);
                }
                _ => {
                    hub.apply(create_topic(topic));
                    model.insert(topic, Known::default());
                }
            }
            check(&hub, &model, seed);
        }
    }
    assert!(kept > count / 4 && refused > count / 2, "{kept} kept, {refused} refused");
}
