//! Topics whose events have to match schemas: what is invalid is refused with every violation, and each event tells
//! which version judged it, also while versions come and go.

use message_hub::client::{Client, recorded_events};
use message_hub::model::rejection::Reason;
use message_hub::proto::status::from_status;
use message_hub::proto::v1::events_client::EventsClient;
use message_hub::proto::v1::{
    BeginTransactionRequest, CommitTransactionRequest, Compatibility, CreateTopicRequest, Event,
    ProducerRef, PublishCall, ReadRequest, SchemaFormat, SchemaMode, SchemaRule,
    SetCompatibilityRequest, StageTransactionRequest, TopicConfig, TransactRequest,
    UpdateTopicRequest,
};
use prost::Message as _;

use crate::delivery::client;
use crate::schemas::{definition, json, register};
use crate::support::{Cluster, mhub_with_input};
use crate::transactions::{event, part};

const INTEGER: &str =
    r#"{"type": "object", "required": ["n", "of"], "properties": {"n": {"type": "integer"}}}"#;
const TEXT: &str =
    r#"{"type": "object", "required": ["n"], "properties": {"n": {"type": "string"}}}"#;

fn rule(mode: SchemaMode, subject: &str, message: &str) -> Option<TopicConfig> {
    let (subject, message) = (subject.to_owned(), message.to_owned());
    let schema = Some(SchemaRule { mode: mode.into(), subject, message });
    Some(TopicConfig { schema, ..TopicConfig::default() })
}

async fn create(client: &Client, name: &str, config: Option<TopicConfig>) {
    let request = CreateTopicRequest { name: name.into(), config, ..Default::default() };
    client.create_topic(request).await.unwrap();
}

fn of_type(kind: &str, data: &[u8]) -> Event {
    let data = data.to_vec().into();
    let id = uuid::Uuid::new_v4().to_string();
    Event { id, source: "/t".into(), r#type: kind.into(), data, ..Event::default() }
}

/// What is in a topic: payload, version, violations; version 0: nobody judged.
async fn judged(client: &Client, topic: &str) -> Vec<(Vec<u8>, u32, u32)> {
    let mut reader = client.read(ReadRequest { topic: topic.to_owned(), ..Default::default() });
    let mut found = Vec::new();
    while let Some(part) = reader.next().await.unwrap() {
        for recorded in part.batches.iter().flat_map(recorded_events) {
            let event = Event::decode(recorded.event).unwrap();
            let verdict = event.schema_verdict.unwrap_or_default();
            found.push((event.data.to_vec(), verdict.version, verdict.violations));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_invalid_is_refused_with_every_violation_also_by_a_new_leader() {
    let mut cluster = Cluster::start(3, &[]);
    let client = client(&cluster);
    let config = rule(SchemaMode::Enforce, "order", "");
    let early =
        CreateTopicRequest { name: "orders".into(), config: config.clone(), ..Default::default() };
    let refused = client.create_topic(early).await.unwrap_err();
    assert_eq!(refused.reason, Reason::SchemaNotFound, "a subject that is not there");
    register(&client, "order", json(INTEGER)).await.unwrap();
    create(&client, "orders", config).await;
    let publisher = client.publisher();
    let good = || of_type("t", br#"{"n": 1, "of": 2}"#);
    publisher.publish("orders", good()).await.unwrap();
    let bad = of_type("t", br#"{"n": "x"}"#);
    let all = vec![good().encode_to_vec().into(), bad.encode_to_vec().into()];
    let refused = publisher.publish_all("orders", all, Vec::new()).await.unwrap_err();
    assert_eq!(refused.reason, Reason::SchemaViolated);
    assert_eq!((refused.fact("event_index"), refused.fact("violations")), (Some("1"), Some("2")));
    assert!(refused.message.contains("at /n:") && refused.message.contains("of"), "{refused}");
    let all = [good(), of_type("t", b"{}"), good(), of_type("t", b"[1]")];
    let all = all.map(|event| event.encode_to_vec().into()).to_vec();
    let refused = publisher.publish_all("orders", all, Vec::new()).await.unwrap_err();
    assert_eq!(refused.fact("event_index"), Some("1"), "{refused}");
    assert_eq!(refused.fact("event_indexes"), Some("1,3"), "{refused}");
    for bad in [&b"{"[..], b"", b"[1]"] {
        let refused = publisher.publish("orders", of_type("t", bad)).await.unwrap_err();
        assert_eq!(refused.reason, Reason::SchemaViolated);
    }
    // Of events that are published together, only the bad one is refused.
    let (one, two, three) = tokio::join!(
        publisher.publish("orders", good()),
        publisher.publish("orders", of_type("t", b"{}")),
        publisher.publish("orders", good())
    );
    assert!(one.is_ok() && two.is_err() && three.is_ok());

    let leader = cluster.leader();
    cluster.nodes[leader].kill();
    cluster.nodes[leader].start();
    cluster.await_serving();
    let refused = publisher.publish("orders", of_type("t", b"{}")).await.unwrap_err();
    assert_eq!(refused.reason, Reason::SchemaViolated);
    // What was read is published again as it is: what it says of schemas does not count.
    let mut copied = good();
    copied.schema_verdict = Some(message_hub::proto::v1::SchemaVerdict {
        subject: "other".into(),
        version: 77,
        violations: 7,
    });
    publisher.publish("orders", copied.clone()).await.unwrap();
    let off = UpdateTopicRequest {
        name: "orders".into(),
        config: rule(SchemaMode::Off, "", ""),
        ..Default::default()
    };
    client.update_topic(off).await.unwrap();
    publisher.publish("orders", of_type("t", b"{}")).await.unwrap();
    publisher.publish("orders", copied).await.unwrap();
    let versions: Vec<_> =
        judged(&client, "orders").await.iter().map(|(_, v, n)| (*v, *n)).collect();
    assert_eq!(versions, [(1, 0), (1, 0), (1, 0), (1, 0), (0, 0), (0, 0)]);
    cluster.verify();
}

/// The two schemas exclude each other, and take turns.
#[tokio::test(flavor = "multi_thread")]
async fn each_event_was_judged_by_what_judged_at_its_place() {
    const VERSIONS: u32 = 30;
    let cluster = Cluster::start(3, &[]);
    let client = client(&cluster);
    let compatibility = Compatibility::None.into();
    let set =
        SetCompatibilityRequest { subject: "order".into(), compatibility, ..Default::default() };
    client.set_compatibility(set).await.unwrap();
    let turn = |n: u32| {
        let text = if n.is_multiple_of(2) { TEXT } else { INTEGER };
        json(&text.replace(
            "{\"type\": \"object\"",
            &format!("{{\"title\": \"{n}\", \"type\": \"object\""),
        ))
    };
    register(&client, "order", turn(1)).await.unwrap();
    create(&client, "orders", rule(SchemaMode::Enforce, "order", "")).await;
    let done = std::sync::atomic::AtomicBool::new(false);
    let writers = futures_util::future::join_all((0..8_u32).map(async |writer| {
        let publisher = client.publisher();
        let (mut taken, mut refused) = (0, 0);
        let mut n = 0_u64;
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            n += 1;
            let data = if writer % 2 == 0 {
                format!(r#"{{"n": {n}, "of": {writer}}}"#)
            } else {
                format!(r#"{{"n": "{n}", "of": {writer}}}"#)
            };
            match publisher.publish("orders", of_type("t", data.as_bytes())).await {
                Ok(_) => taken += 1,
                Err(why) => {
                    assert_eq!(why.reason, Reason::SchemaViolated, "{why}");
                    refused += 1;
                }
            }
        }
        (taken, refused)
    }));
    let versions = async {
        for n in 2..=VERSIONS {
            // There is something of every version.
            let before = judged(&client, "orders").await.len();
            while judged(&client, "orders").await.len() < before + 4 {
                tokio::task::yield_now().await;
            }
            assert_eq!(register(&client, "order", turn(n)).await.unwrap().version, n);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    let (counts, ()) = tokio::join!(writers, versions);
    let taken: usize = counts.iter().map(|(taken, _)| taken).sum();
    assert!(counts.iter().all(|(taken, refused)| *taken > 0 && *refused > 0), "{counts:?}");
    let all = judged(&client, "orders").await;
    assert_eq!(all.len(), taken);
    assert!(all.is_sorted_by_key(|(_, version, _)| *version), "an old version judged later");
    for (data, version, violations) in &all {
        let text = String::from_utf8_lossy(data);
        assert_eq!(text.contains(r#""n": ""#), version.is_multiple_of(2), "{text} by {version}");
        assert_eq!(*violations, 0);
    }
    cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_payloads_and_types_are_judged_too_and_warnings_mark() {
    let cluster = Cluster::start(1, &[]);
    let client = client(&cluster);
    let proto =
        r#"syntax = "proto3"; package shop; message Other {} message Order { int64 cents = 1; }"#;
    register(&client, "proto", definition(SchemaFormat::Protobuf, &[("o.proto", proto)]))
        .await
        .unwrap();
    register(&client, "avro", definition(SchemaFormat::Avro, &[("a.avsc", r#""long""#)]))
        .await
        .unwrap();
    register(&client, "t.json", json(INTEGER)).await.unwrap();
    create(&client, "protos", rule(SchemaMode::Enforce, "proto", "shop.Order")).await;
    create(&client, "avros", rule(SchemaMode::Enforce, "avro", "")).await;
    create(&client, "types", rule(SchemaMode::Enforce, "", "")).await;
    create(&client, "lax", rule(SchemaMode::Warn, "", "")).await;
    let publisher = client.publisher();
    let refusal = async |topic: &str, kind: &str, data: &[u8]| {
        publisher.publish(topic, of_type(kind, data)).await.err().map(|refused| refused.reason)
    };
    for (topic, kind, data, expected) in [
        ("protos", "t", &[8, 1][..], None),
        ("protos", "t", &[10, 1, b'x'], Some(Reason::SchemaViolated)),
        ("protos", "t", &[8], Some(Reason::SchemaViolated)),
        ("avros", "t", &[2], None),
        ("avros", "t", &[0x80], Some(Reason::SchemaViolated)),
        ("avros", "t", &[2, 2], Some(Reason::SchemaViolated)),
        ("types", "t.json", br#"{"n": 1, "of": 1}"#, None),
        ("types", "t.json", b"{}", Some(Reason::SchemaViolated)),
        ("types", "t.unknown", b"{}", Some(Reason::SchemaNotFound)),
        ("types", "no subject at all", b"{}", Some(Reason::SchemaNotFound)),
        ("lax", "t.json", br#"{"n": 1, "of": 1}"#, None),
        ("lax", "t.json", b"{}", None),
        ("lax", "t.unknown", b"{}", None),
    ] {
        assert_eq!(refusal(topic, kind, data).await, expected, "{topic} {kind} {data:?}");
    }
    let marks: Vec<_> = judged(&client, "lax").await.iter().map(|(_, v, n)| (*v, *n)).collect();
    assert_eq!(marks, [(1, 0), (1, 2), (0, 0)]);
    // A type that was unknown a moment ago.
    register(&client, "t.unknown", json("{}")).await.unwrap();
    assert_eq!(refusal("types", "t.unknown", b"{}").await, None);
    for bad in [9, 3] {
        let schema = Some(SchemaRule { mode: bad, ..SchemaRule::default() });
        let config = Some(TopicConfig { schema, ..TopicConfig::default() });
        let request = CreateTopicRequest { name: "x".into(), config, ..Default::default() };
        assert_eq!(client.create_topic(request).await.unwrap_err().reason, Reason::InvalidConfig);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_are_judged_and_what_was_staged_is_judged_again() {
    let cluster = Cluster::start(3, &[]);
    let client = client(&cluster);
    register(&client, "order", json(r#"{"type": "integer"}"#)).await.unwrap();
    create(&client, "orders", rule(SchemaMode::Enforce, "order", "")).await;
    create(&client, "plain", None).await;
    let both = |data: &str| {
        vec![part("plain", vec![event("x")]), part("orders", vec![event(7), event(data)])]
    };
    let run = async |data: &str| {
        client.transact(TransactRequest { parts: both(data), ..Default::default() }).await.map(drop)
    };
    let refused = run("no").await.unwrap_err();
    assert_eq!((refused.reason, refused.fact("part")), (Reason::SchemaViolated, Some("1")));
    assert_eq!(refused.fact("event_index"), Some("1"));
    run("8").await.unwrap();
    assert_eq!(judged(&client, "plain").await.len(), 1);
    let staged = async |data: &str| {
        let id = client.begin_transaction(BeginTransactionRequest::default()).await.unwrap().id;
        let stage = StageTransactionRequest { id, parts: both(data), ..Default::default() };
        client.stage_transaction(stage).await.map(|_| id)
    };
    assert_eq!(staged("no").await.unwrap_err().reason, Reason::SchemaViolated);
    let (wide, narrow) = (staged("12").await.unwrap(), staged("-1").await.unwrap());
    let compatibility = Compatibility::None.into();
    let set =
        SetCompatibilityRequest { subject: "order".into(), compatibility, ..Default::default() };
    client.set_compatibility(set).await.unwrap();
    register(&client, "order", json(r#"{"type": "integer", "minimum": 0}"#)).await.unwrap();
    let commit = async |id| client.commit_transaction(CommitTransactionRequest { id }).await;
    let refused = commit(narrow).await.unwrap_err();
    assert_eq!(refused.reason, Reason::SchemaViolated, "{refused}");
    commit(wide).await.unwrap();
    let all = judged(&client, "orders").await;
    let all: Vec<_> =
        all.iter().map(|(data, v, _)| (std::str::from_utf8(data).unwrap(), *v)).collect();
    assert_eq!(all, [("7", 1), ("8", 1), ("7", 2), ("12", 2)]);
    // It stays open: with the old schema back it is valid again.
    cluster.admin(&["schema", "rm", "order", "2", "--yes"]).succeeds();
    commit(narrow).await.unwrap();
    assert_eq!(judged(&client, "orders").await.last().unwrap().1, 1);
    // With the rule switched off, whatever was staged is taken and says nothing of schemas.
    let (early, mixed) = (staged("13").await.unwrap(), staged("14").await.unwrap());
    let update = async |config| {
        let update = UpdateTopicRequest { name: "orders".into(), config, ..Default::default() };
        client.update_topic(update).await.unwrap();
    };
    update(rule(SchemaMode::Off, "", "")).await;
    let stage = StageTransactionRequest { id: mixed, parts: both("no"), ..Default::default() };
    client.stage_transaction(stage).await.unwrap();
    for id in [early, mixed] {
        commit(id).await.unwrap();
    }
    let all = judged(&client, "orders").await;
    let all: Vec<_> =
        all.iter().map(|(data, v, _)| (std::str::from_utf8(data).unwrap(), *v)).collect();
    let bare = [("7", 0), ("13", 0), ("7", 0), ("14", 0), ("7", 0), ("no", 0)];
    assert_eq!(all[6..], bare);
    // And switched on again, what was staged without one is judged.
    let (good, bad) = (staged("15").await.unwrap(), staged("no").await.unwrap());
    update(rule(SchemaMode::Enforce, "order", "")).await;
    commit(good).await.unwrap();
    assert_eq!(judged(&client, "orders").await.last().unwrap().1, 1);
    assert_eq!(commit(bad).await.unwrap_err().reason, Reason::SchemaViolated);
    cluster.verify();
}

/// Its answer was lost, and what judges changed before the call was made again.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_call_gets_its_first_answer_although_its_schema_changed() {
    let cluster = Cluster::start(1, &[]);
    let client = client(&cluster);
    let compatibility = Compatibility::None.into();
    let set =
        SetCompatibilityRequest { subject: "order".into(), compatibility, ..Default::default() };
    client.set_compatibility(set).await.unwrap();
    register(&client, "order", json(r#"{"type": "integer"}"#)).await.unwrap();
    create(&client, "orders", rule(SchemaMode::Enforce, "order", "")).await;
    let endpoint = format!("http://{}", cluster.nodes[0].endpoint());
    let mut events = EventsClient::connect(endpoint).await.unwrap();
    let number = of_type("t", b"7").encode_to_vec();
    let call = |sequence| PublishCall {
        topic: "orders".into(),
        events: vec![number.clone().into()],
        producer: Some(ProducerRef { id: "p".into(), epoch: 1, sequence, acknowledged_below: 0 }),
        ..PublishCall::default()
    };
    let transact = async |request_id: &str| {
        let (parts, request_id) = (vec![part("orders", vec![event(8)])], request_id.to_owned());
        client.transact(TransactRequest { parts, request_id, ..Default::default() }).await
    };
    let once = uuid::Uuid::new_v4().to_string();
    let published = events.publish(call(1)).await.unwrap().into_inner();
    let transacted = transact(&once).await.unwrap();
    register(&client, "order", json(r#"{"type": "string"}"#)).await.unwrap();
    let refused = from_status(&events.publish(call(2)).await.unwrap_err());
    assert_eq!(refused.reason, Reason::SchemaViolated, "what is new has to match");
    assert_eq!(transact("").await.unwrap_err().reason, Reason::SchemaViolated);
    let again = events.publish(call(1)).await.unwrap().into_inner();
    assert!(again.duplicate);
    assert_eq!(again.first_position, published.first_position);
    let repeated = transact(&once).await.unwrap();
    assert!(repeated.parts[0].duplicate);
    assert_eq!(repeated.parts[0].first_position, transacted.parts[0].first_position);
    assert_eq!(judged(&client, "orders").await.len(), 2);
}

#[test]
fn the_command_line_shows_it() {
    let cluster = Cluster::start(1, &[]);
    let endpoint = cluster.nodes[0].endpoint();
    mhub_with_input(
        &endpoint,
        &["schema", "register", "order", "-", "--format", "json"],
        Some(INTEGER),
    )
    .succeeds();
    let enforce = ["--config", "schema.mode=enforce", "--config", "schema.subject=order"];
    cluster.admin(&[&["topic", "create", "orders"], &enforce[..]].concat()).succeeds();
    let publish = |data: &str| {
        let args = ["events", "publish", "orders", "--type", "t", "--data", data];
        cluster.admin(&args)
    };
    publish(r#"{"n": 1, "of": 3}"#).succeeds();
    publish(r#"{"n": true, "of": 3}"#).fails(2, "/n");
    let shown = cluster.admin(&["topic", "info", "orders", "-o", "json"]).json();
    assert_eq!(shown["schema"]["mode"], "enforce");
    let first = cluster.admin(&["events", "get", "orders", "0", "-o", "json"]).json();
    assert_eq!(
        (&first["schema"]["subject"], &first["schema"]["version"]),
        (&"order".into(), &1.into())
    );
    cluster.admin(&["topic", "update", "orders", "--config", "schema.mode=warn"]).succeeds();
    let shown = cluster.admin(&["topic", "info", "orders", "-o", "json"]).json();
    assert_eq!(
        (&shown["schema"]["mode"], &shown["schema"]["subject"]),
        (&"warn".into(), &"".into())
    );
    for (bad, says) in [
        ("schema.mode=maybe", "off, warn or enforce"),
        ("schema.subject=order", "schema.mode"),
        ("schema.nonsense=1", "mode, subject or message"),
    ] {
        cluster.admin(&["topic", "update", "orders", "--config", bad]).fails(2, says);
    }
    let gone = [
        "topic",
        "update",
        "orders",
        "--config",
        "schema.mode=enforce",
        "--config",
        "schema.subject=gone",
    ];
    cluster.admin(&gone).fails(3, "SCHEMA_NOT_FOUND");
}
