//! Commands drawn by a seeded generator, dense in repetitions and conflicts.

use bytes::Bytes;
use prost::Message as _;

use crate::model::command::{
    Command, CommandBatch, CreateTopic, DeleteTopic, Expectation, Housekeep, Kind, Producer,
    Publish, UpdateTopic,
};
use crate::model::event_run;
use crate::model::expectation::Expect;
use crate::model::ids::KeyVersion;
use crate::model::outcome::Outcome;
use crate::model::topic::{TopicConfig, TopicPatch};

pub(super) const KEYS: [&str; 4] = ["", "a", "aa", "b\u{0}"];
const TOPICS: [&str; 3] = ["t", "t.u", "v"];
const HOUR: u64 = 3_600_000;

/// splitmix64.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        // Seeds a multiple of the increment apart would be one stream, shifted.
        Self(seed)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len() as u64) as usize]
    }
}

/// What an event holds, for the model to look into.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TestEvent {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    pub(super) source: String,
    #[prost(string, tag = "3")]
    pub(super) kind: String,
    #[prost(bytes = "vec", tag = "8")]
    pub(super) data: Vec<u8>,
    #[prost(string, tag = "16")]
    pub(super) key: String,
}

pub(crate) fn random_entry(dice: &mut Dice, n: u64) -> CommandBatch {
    let stamp_ms =
        n * 2000 + dice.below(5) * 1000 + if dice.below(10) == 0 { 200 * HOUR } else { 0 };
    let commands =
        (0..=dice.below(5)).map(|_| Command { kind: Some(random_command(dice, n)) }).collect();
    CommandBatch { stamp_ms, commands }
}

fn random_command(dice: &mut Dice, n: u64) -> Kind {
    let name = dice.pick(&TOPICS).to_owned();
    let request_id = if dice.below(3) == 0 { format!("r{}", dice.below(4)) } else { String::new() };
    match dice.below(if n == 0 { 4 } else { 20 }) {
        0..=3 => Kind::CreateTopic(CreateTopic { name, config: random_config(dice), request_id }),
        4 => Kind::UpdateTopic(UpdateTopic {
            name,
            patch: TopicPatch {
                max_event_bytes: Some(20 + dice.below(100)),
                ..TopicPatch::default()
            },
            if_revision: dice.below(3),
            request_id,
        }),
        5 if dice.below(3) == 0 => Kind::DeleteTopic(DeleteTopic { name, request_id }),
        6 => Kind::Housekeep(Housekeep {}),
        _ => Kind::Publish(random_publish(dice, name)),
    }
}

fn random_config(dice: &mut Dice) -> TopicConfig {
    TopicConfig {
        dedup_window_ms: if dice.below(3) == 0 { 5000 } else { 0 },
        index_ids: dice.below(4) == 0,
        ..TopicConfig::defaults()
    }
}

fn random_publish(dice: &mut Dice, topic: String) -> Publish {
    let with_keys = dice.below(2) == 0;
    let events: Vec<TestEvent> = (0..=dice.below(5))
        .map(|_| TestEvent {
            id: format!("e{}", dice.below(12)),
            source: format!("s{}", dice.below(2)),
            kind: "k".to_owned(),
            data: vec![7; dice.below(40) as usize],
            key: if with_keys { dice.pick(&KEYS).to_owned() } else { String::new() },
        })
        .collect();
    let producer = (dice.below(2) == 0).then(|| Producer {
        id: format!("p{}", dice.below(2)),
        epoch: dice.below(8) / 7,
        sequence: 1 + dice.below(8),
        acknowledged_below: dice.below(12).saturating_sub(8),
    });
    let expectations = (0..dice.below(3))
        .filter(|_| with_keys)
        .map(|_| {
            let expect = match dice.below(4) {
                0 => Expect::Any,
                1 => Expect::NoKey,
                2 => Expect::Exists,
                _ => Expect::Exact(KeyVersion(dice.below(4))),
            };
            Expectation::new(dice.pick(&KEYS[1..]).to_owned(), expect)
        })
        .collect();
    Publish { producer, expectations, ..publish_of(&topic, &events) }
}

/// So many events, each of one of the keys or of none.
pub(super) fn keyed_publish(dice: &mut Dice, topic: &str, count: usize, keys: &[&str]) -> Publish {
    let mut event = || TestEvent {
        id: format!("e{}", dice.below(12)),
        source: "s".to_owned(),
        kind: "k".to_owned(),
        data: vec![7; dice.below(40) as usize],
        key: if dice.below(4) == 0 { String::new() } else { dice.pick(keys).to_owned() },
    };
    let events: Vec<TestEvent> = (0..count).map(|_| event()).collect();
    publish_of(topic, &events)
}

pub(super) fn publish_of(topic: &str, events: &[TestEvent]) -> Publish {
    let encoded: Vec<Bytes> = events.iter().map(|e| e.encode_to_vec().into()).collect();
    Publish {
        topic: topic.to_owned(),
        count: u32::try_from(events.len()).unwrap(),
        keyed: events.iter().any(|e| !e.key.is_empty()),
        largest_event_bytes: encoded.iter().map(|e| e.len() as u64).max().unwrap_or(0),
        events: event_run::encode(&encoded),
        ..Publish::default()
    }
}

pub(super) fn create(name: &str, stamp_ms: u64) -> CommandBatch {
    let create = CreateTopic {
        name: name.to_owned(),
        config: TopicConfig::defaults(),
        request_id: String::new(),
    };
    CommandBatch { stamp_ms, commands: vec![Kind::CreateTopic(create).into()] }
}

pub(super) fn publish(topic: &str, count: usize, stamp_ms: u64) -> CommandBatch {
    let event =
        TestEvent { id: "i".into(), source: "s".into(), kind: "k".into(), ..TestEvent::default() };
    let publish = publish_of(topic, &vec![event; count]);
    CommandBatch { stamp_ms, commands: vec![Kind::Publish(publish).into()] }
}

/// The model tells only the reason of a refusal.
pub(super) fn assert_same(expected: &[Outcome], actual: &[Outcome], context: &str) {
    assert_eq!(expected.len(), actual.len(), "{context}");
    for (expected, actual) in expected.iter().zip(actual) {
        match (expected, actual) {
            (Outcome::Rejected(e), Outcome::Rejected(a)) => {
                assert_eq!(e.reason, a.reason, "{context}: {a}")
            }
            _ => assert_eq!(expected, actual, "{context}"),
        }
    }
}
