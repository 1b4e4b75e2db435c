//! The bytes of transactions, traces and snapshots of keys on disk, as they were when their version was new.
//! They are read for ever.

use super::apply;
use super::delivery::random::{TestEvent, create_topic, publish_of};
use super::golden::{rows, stored};
use crate::machine::mem::MemKv;
use crate::machine::query::topic as query_topic;
use crate::machine::schema::query as schema;
use crate::machine::topic::key_snapshots;
use crate::machine::tracking::query::trace;
use crate::machine::transaction::query;
use crate::model::command::delivery::{Action, Reject, SettleItem};
use crate::model::command::subscription::At;
use crate::model::command::{
    BeginTransaction, CommandBatch, CommitTransaction, CreateSubscription, CreateTopic, Kind,
    Lease, Publish, PutKeySnapshot, RegisterSchema, SetCompatibility, Settle, StageTransaction,
};
use crate::model::delivery::{DeadReason, Pick};
use crate::model::ids::{Position, TopicId, TransactionId, UnixMs};
use crate::model::outcome::Outcome;
use crate::model::ranges::{OffsetRange, Ranges};
use crate::model::schema::{
    Compatibility, SchemaDefinition, SchemaFile, SchemaFormat, SchemaReference,
};
use crate::model::schema_rule::{Judged, SchemaMode, SchemaRule, SubjectVersion};
use crate::model::subscription::SubscriptionConfig;
use crate::model::topic::TopicConfig;
use crate::model::trace::{Chosen, Death, Standing};
use crate::model::transaction::TransactionState;

/// One row a line: table, key, value; the latter two in hexadecimal.
pub(super) const VERSION_1: &str = include_str!("golden-together-v1.txt");
/// What is staged knows its topics by number.
const VERSION_2: &str = include_str!("golden-together-v2.txt");
/// All of them, the newest last.
const VERSIONS: &[&str] = &[VERSION_1, VERSION_2];

fn rule() -> SchemaRule {
    let (subject, message) = ("order".into(), "m".into());
    SchemaRule { mode: SchemaMode::Warn as i32, subject, message }
}

fn judged() -> Judged {
    let versions = vec![SubjectVersion { subject: "order".into(), version: 1 }];
    Judged { rule: rule(), versions }
}

fn entries() -> Vec<CommandBatch> {
    let at = |stamp_ms, kind: Kind| CommandBatch { stamp_ms, commands: vec![kind.into()] };
    let event = TestEvent {
        id: "1".into(),
        source: "/s".into(),
        kind: "a".into(),
        key: "k".into(),
        correlation_id: "c".into(),
        ..TestEvent::default()
    };
    let begin = |label: &str| BeginTransaction {
        timeout_ms: 60_000,
        label: label.into(),
        request_id: format!("request-{label}"),
    };
    let plain = publish_of("t", std::slice::from_ref(&event));
    let judged = Publish { judged: Some(judged()), ..publish_of("ruled", &[event]) };
    let stage = |id, parts| StageTransaction { id, parts, ..StageTransaction::default() };
    let snapshot = PutKeySnapshot {
        topic: "t".into(),
        key: "k".into(),
        version: 1,
        content_type: "text/plain".into(),
        data: "state"[..].into(),
        request_id: String::new(),
    };
    let file = |text: &str| SchemaFile { name: "main".into(), text: text.into() };
    let address = RegisterSchema {
        subject: "address".into(),
        definition: SchemaDefinition { files: vec![file("{}")], ..SchemaDefinition::default() },
        fingerprint: "f1".into(),
        request_id: "request-s".into(),
        ..RegisterSchema::default()
    };
    let reference = SchemaReference { name: "a".into(), subject: "address".into(), version: 1 };
    let order = RegisterSchema {
        subject: "order".into(),
        definition: SchemaDefinition {
            format: SchemaFormat::Avro as i32,
            files: vec![file("[]")],
            references: vec![reference],
        },
        fingerprint: "f2".into(),
        ..RegisterSchema::default()
    };
    let full = SetCompatibility {
        subject: "order".into(),
        compatibility: Compatibility::Full as i32,
        ..SetCompatibility::default()
    };
    let config = TopicConfig { schema: Some(rule()), ..TopicConfig::defaults() };
    let ruled = CreateTopic { name: "ruled".into(), config, request_id: String::new() };
    let (create, lease, settle) = drop_first();
    vec![
        at(1000, Kind::RegisterSchema(address)),
        at(1000, Kind::RegisterSchema(order)),
        at(1000, Kind::SetCompatibility(full)),
        at(1000, create_topic("t")),
        at(1000, Kind::CreateTopic(ruled)),
        at(2000, Kind::BeginTransaction(begin("x"))),
        at(3000, Kind::BeginTransaction(begin("y"))),
        at(4000, Kind::StageTransaction(stage(1, vec![plain.clone()]))),
        at(4000, Kind::StageTransaction(stage(2, vec![plain, judged]))),
        at(5000, Kind::CommitTransaction(CommitTransaction { id: 1, judged_again: None })),
        at(6000, Kind::PutKeySnapshot(snapshot)),
        at(7000, Kind::CreateSubscription(create)),
        at(7000, Kind::Lease(lease)),
        at(7000, Kind::Settle(settle)),
    ]
}

/// A subscription that drops the first event of `t`, whose end is told by a trace.
fn drop_first() -> (CreateSubscription, Lease, Settle) {
    let mut config = SubscriptionConfig::defaults("t");
    config.dead_letters.disabled = true;
    let create = CreateSubscription {
        name: "s".into(),
        config,
        start: At::Start(true).into(),
        request_id: String::new(),
    };
    let ranges = Ranges::from_unsorted(&[OffsetRange { first: 0, count: 1 }]);
    let lease = Lease {
        subscription: "s".into(),
        revision: 1,
        term: 1,
        consumer: "c".into(),
        picks: vec![Pick { topic: "t".into(), topic_id: 1, ranges, seen: None }],
        ..Lease::default()
    };
    let reject = Action::Reject(Reject { reason: "BAD".into(), detail: "d".into() });
    let item =
        SettleItem { lease_id: 1, term: 1, topic_id: 1, ranges: Vec::new(), action: Some(reject) };
    let settle = Settle { subscription: "s".into(), consumer: "c".into(), items: vec![item] };
    (create, lease, settle)
}

#[test]
fn the_newest_version_is_written_as_it_always_was() {
    let mut kv = MemKv::default();
    apply(&mut kv, &entries(), 1);
    assert_eq!(rows(&kv), VERSION_2, "the bytes on disk have changed: that takes a new version");
}

#[test]
fn every_version_is_read() {
    for golden in VERSIONS {
        let mut kv = stored(golden);
        let snapshot = key_snapshots::get(&kv, TopicId(1), "k").unwrap().unwrap();
        assert_eq!((snapshot.version.get(), &snapshot.data[..]), (1, &b"state"[..]));
        let traced = trace(&kv, ("c", &Chosen::All), Position(0), 10, UnixMs(7000)).unwrap();
        assert_eq!((traced.events.len(), traced.events[0].topic.as_str()), (1, "t"));
        let fate = &traced.events[0].fates[0];
        let (reason, at) = (DeadReason::Rejected, UnixMs(7000));
        assert_eq!(fate.standing, Standing::Dead(Death { number: None, reason, at }));
        assert_eq!((fate.failures, fate.attempts[0].reason.as_str()), (1, "BAD"));
        let order = schema::subject(&kv, "order").unwrap().unwrap();
        assert_eq!((order.compatibility, order.judge()), (Compatibility::Full, Some(1)));
        let order = schema::schema(&kv, "order", 1).unwrap().unwrap();
        assert_eq!(order.definition.references[0].subject, "address");
        let ruled = query_topic(&kv, "ruled").unwrap().unwrap();
        assert_eq!(ruled.config.schema, Some(rule()));
        let staged = query::staged_parts(&kv, TransactionId(2)).unwrap().unwrap();
        assert_eq!(staged.parts[1].judged, Some(judged()));
        let open = query::transaction(&kv, TransactionId(2)).unwrap().unwrap();
        assert_eq!((open.info.label.as_str(), open.parts[0].events), ("y", 1));
        // And it is gone on from: what is staged is committed, what is committed stays.
        let commit = |id| CommitTransaction { id, judged_again: None };
        let commands = [1, 2].map(|id| Kind::CommitTransaction(commit(id)).into()).to_vec();
        let outcomes = apply(&mut kv, &[CommandBatch { stamp_ms: 8000, commands }], 9).remove(0);
        for (outcome, offset) in outcomes.into_iter().zip([0, 1]) {
            let Outcome::Transaction(info) = outcome else { panic!("{outcome:?}") };
            assert_eq!(info.state, TransactionState::Committed);
            assert_eq!(info.parts[0].1.first_offset.get(), offset);
        }
        assert_eq!(
            trace(&kv, ("c", &Chosen::All), Position(0), 10, UnixMs(8000)).unwrap().events.len(),
            3
        );
    }
}
