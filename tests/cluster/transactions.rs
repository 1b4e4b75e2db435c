//! Transactions on real three-node clusters: all or nothing.

use message_hub::client::{Client, EventBuilder, recorded_events};
use message_hub::model::rejection::Reason;
use message_hub::proto::status::from_status;
use message_hub::proto::v1::key_expectation::Expect;
use message_hub::proto::v1::settlement::Action;
use message_hub::proto::v1::transactions_client::TransactionsClient;
use message_hub::proto::v1::{
    Ack, BeginTransactionRequest, CommitTransactionRequest, Event, KeyExpectation, OffsetRange,
    ReadRequest, SettleRequest, Settlement, StageTransactionRequest, TransactRequest,
    TransactionPart,
};
use prost::Message as _;
use tonic::transport::Endpoint;

use crate::delivery::{client, counter, shop};
use crate::support::worker::{Worker, ack, offsets, whole};
use crate::support::{Cluster, mhub_with_input};

pub(crate) fn part(topic: &str, events: Vec<EventBuilder>) -> TransactionPart {
    let events = events.into_iter().map(|event| event.build().encode_to_vec().into()).collect();
    TransactionPart { topic: topic.to_owned(), expectations: Vec::new(), events }
}

pub(crate) fn event(data: impl ToString) -> EventBuilder {
    EventBuilder::new("/t", "t").data(data.to_string())
}

/// The payloads of a topic.
pub(crate) async fn payloads(client: &Client, topic: &str) -> Vec<String> {
    let mut reader = client.read(ReadRequest { topic: topic.to_owned(), ..Default::default() });
    let mut found = Vec::new();
    while let Some(part) = reader.next().await.unwrap() {
        for recorded in part.batches.iter().flat_map(recorded_events) {
            let event = Event::decode(recorded.event).unwrap();
            found.push(String::from_utf8(event.data.to_vec()).unwrap());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_it_or_nothing_and_every_failing_expectation_is_told() {
    let cluster = Cluster::start(3, &[]);
    for topic in ["a", "b", "c"] {
        cluster.admin(&["topic", "create", topic]).succeeds();
    }
    let client = client(&cluster);
    let both = || vec![part("a", vec![event(1).key("k")]), part("b", vec![event(2), event(3)])];
    let request = TransactRequest { parts: both(), ..TransactRequest::default() };
    let done = client.transact(request).await.unwrap();
    assert_eq!(done.parts.iter().map(|part| part.count).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(done.parts[0].key_versions, [1]);
    // Positions follow each other: nobody else's events are in between.
    assert_eq!(done.parts[1].first_position, done.parts[0].first_position + 1);
    let expecting = |topic: &str, key: &str, exact| TransactionPart {
        topic: topic.to_owned(),
        expectations: vec![KeyExpectation {
            key: key.to_owned(),
            expect: Some(Expect::Exact(exact)),
        }],
        events: Vec::new(),
    };
    // Also of a key that it does not write.
    let mut parts = both();
    parts[0].expectations = expecting("a", "k", 7).expectations;
    parts.push(expecting("c", "other", 1));
    let refused =
        client.transact(TransactRequest { parts, ..Default::default() }).await.unwrap_err();
    assert_eq!((refused.reason, refused.fact("failing")), (Reason::VersionConflict, Some("2")));
    assert!(
        refused.message.contains("\"k\"") && refused.message.contains("\"other\""),
        "{refused}"
    );
    assert_eq!(payloads(&client, "a").await, ["1"]);
    assert_eq!(payloads(&client, "b").await, ["2", "3"]);
    // A repeated one gets its first answer.
    let request_id = uuid::Uuid::new_v4().to_string();
    let request = TransactRequest { parts: both(), request_id, ..TransactRequest::default() };
    let first = client.transact(request.clone()).await.unwrap();
    let again = client.transact(request).await.unwrap();
    assert_eq!(again.parts[1].first_offset, first.parts[1].first_offset);
    assert!(again.parts[0].duplicate && !first.parts[0].duplicate);
    assert_eq!(payloads(&client, "a").await.len(), 2);
    cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_transaction_is_refused() {
    let cluster = Cluster::start(1, &[]);
    cluster.admin(&["topic", "create", "a"]).succeeds();
    cluster.admin(&["sub", "create", "s", "--topic", "a", "--from", "start"]).succeeds();
    let client = client(&cluster);
    let refused = async |parts: Vec<TransactionPart>, settles: Vec<SettleRequest>| {
        let request = TransactRequest { parts, settles, ..TransactRequest::default() };
        client.transact(request).await.unwrap_err()
    };
    let many = || (0..512).map(event).collect::<Vec<_>>();
    let contradicting = |one, other| {
        let expectation =
            |exact| KeyExpectation { key: "k".into(), expect: Some(Expect::Exact(exact)) };
        let expectations = vec![expectation(one), expectation(other)];
        vec![TransactionPart { topic: "a".into(), expectations, events: Vec::new() }]
    };
    let mut too_many = vec![part("a", many())];
    too_many[0].expectations = contradicting(1, 1)[0].expectations[..1].to_vec();
    for parts in [
        vec![],
        too_many,
        contradicting(1, 2),
        vec![part("a", vec![event(1)]), part("a", vec![event(2)])],
        vec![part("a", vec![])],
    ] {
        assert_eq!(refused(parts, vec![]).await.reason, Reason::InvalidRequest);
    }
    let gone = refused(vec![part("gone", vec![event(1)])], vec![]).await;
    assert_eq!(gone.reason, Reason::TopicNotFound);
    let of_nobody = |lease_id| {
        let action = Some(Action::Ack(Ack {}));
        let items =
            vec![Settlement { lease_id, term: 1, topic_id: 1, action, ..Default::default() }];
        SettleRequest { subscription: "s".into(), consumer: "c".into(), items }
    };
    let foreign = refused(vec![part("a", vec![event(1)])], vec![of_nobody(99)]).await;
    assert_eq!(foreign.reason, Reason::LeaseUnknown);
    let twice = refused(vec![], vec![of_nobody(1), of_nobody(1)]).await;
    assert_eq!(twice.reason, Reason::InvalidRequest);
    assert_eq!(payloads(&client, "a").await.len(), 0);
    // The command line.
    let endpoint = cluster.nodes[0].endpoint();
    let run = |document: &str| mhub_with_input(&endpoint, &["tx", "run", "-"], Some(document));
    run("{}").fails(2, "INVALID_REQUEST");
    run("nonsense").fails(2, "malformed");
    run(r#"{"parts": [{"topic": "a", "expect": {"k": 3}}]}"#).fails(4, "VERSION_CONFLICT");
    run(r#"{"parts": [{"topic": "a", "expect": {"k": 3, "k": "none"}}]}"#).fails(2, "\"k\" twice");
    let event = r#"{"specversion":"1.0","id":"1","source":"/t","type":"t","data":"x"}"#;
    let document = format!(
        r#"{{"parts": [{{"topic": "a", "expect": {{"k": "none"}}, "events": [{event}]}}]}}"#
    );
    assert!(run(&document).succeeds().stdout().contains('a'));
    assert_eq!(payloads(&client, "a").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_arrives_however_much_stands_against_it() {
    /// What clients of some languages take.
    const HEADERS_BYTES: u32 = 8 << 10;
    let cluster = Cluster::start(1, &[]);
    for topic in ["a", "b"] {
        cluster.admin(&["topic", "create", topic]).succeeds();
    }
    let client = client(&cluster);
    let key = |n: usize| format!("{n:0>200}");
    let expecting = |topic: &str, keys: std::ops::Range<usize>| TransactionPart {
        topic: topic.to_owned(),
        // Of all of them only one holds.
        expectations: keys
            .map(|n| KeyExpectation {
                key: key(n),
                expect: Some(if n == 100 { Expect::NoKey(true) } else { Expect::Exact(7) }),
            })
            .collect(),
        events: Vec::new(),
    };
    let parts = || vec![expecting("a", 0..300), expecting("b", 300..501)];
    let failing = "0-99,101-500";
    let transact = TransactRequest { parts: parts(), ..TransactRequest::default() };
    let id = client.begin_transaction(BeginTransactionRequest::default()).await.unwrap().id;
    let stage = StageTransactionRequest { id, parts: parts(), ..Default::default() };
    client.stage_transaction(stage).await.unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{}", cluster.nodes[0].endpoint()));
    let endpoint = endpoint.unwrap().http2_max_header_list_size(HEADERS_BYTES);
    let mut other = TransactionsClient::connect(endpoint).await.unwrap();
    for refused in [
        client.transact(transact.clone()).await.unwrap_err(),
        from_status(&other.transact(transact).await.unwrap_err()),
        client.commit_transaction(CommitTransactionRequest { id }).await.unwrap_err(),
    ] {
        assert_eq!(refused.reason, Reason::VersionConflict, "{refused}");
        assert_eq!(refused.fact("failing"), Some("500"), "{refused}");
        assert_eq!(refused.fact("failing_expectations"), Some(failing), "{refused}");
        assert_eq!(refused.fact("key"), Some(key(0).as_str()), "{refused}");
        assert!(refused.message.contains(&key(1)), "{refused}");
        assert!(refused.message.contains(&format!("number {failing} fail")), "{refused}");
    }
    // All expectations of one call.
    let publisher = client.publisher();
    let all = expecting("a", 101..613).expectations;
    let events = vec![event(1).build().encode_to_vec().into()];
    let refused = publisher.publish_all("a", events, all).await.unwrap_err();
    assert_eq!(refused.reason, Reason::VersionConflict, "{refused}");
    assert_eq!(refused.fact("failing_expectations"), Some("0-511"), "{refused}");
    // The command line.
    let expect: serde_json::Map<_, _> = (0..500).map(|n| (key(n), 7.into())).collect();
    let document = serde_json::json!({"parts": [{"topic": "a", "expect": expect}]});
    let run = ["tx", "run", "-"];
    let run = mhub_with_input(&cluster.nodes[0].endpoint(), &run, Some(&document.to_string()));
    run.fails(4, "number 0-499 fail").fails(4, "VERSION_CONFLICT");
    assert!(payloads(&client, "a").await.is_empty());
}

/// Settlements of the subscription `s` as this consumer.
fn settled_by(consumer: &str, items: Vec<Settlement>) -> SettleRequest {
    SettleRequest { subscription: "s".into(), consumer: consumer.to_owned(), items }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_not_held_publishes_nothing() {
    let cluster = shop(1, 2, &["retry.initial=100ms"]);
    cluster.admin(&["topic", "create", "out"]).succeeds();
    let client = client(&cluster);
    let mut holder = Worker::new(&cluster, "s", "holder");
    let mut idle = Worker::new(&cluster, "s", "idle");
    let held = holder.pull_some(1).await.remove(0);
    idle.lease_ms = 1000;
    let lost = idle.pull_some(1).await.remove(0);
    // That one runs out, and its event comes to somebody else.
    let again = holder.pull_some(1).await.remove(0);
    assert_eq!(offsets(std::slice::from_ref(&again)), [(1, 2)]);
    let of_another_term = Settlement { term: held.term + 1, ..whole(&held, ack()) };
    let not_in_it = vec![OffsetRange { first: 0, count: 2 }];
    let not_in_it = Settlement { ranges: not_in_it, ..whole(&held, ack()) };
    let attempt = async |settles: Vec<SettleRequest>| {
        let parts = vec![part("out", vec![event("made of it")])];
        let request = TransactRequest { parts, settles, ..TransactRequest::default() };
        client.transact(request).await
    };
    for (what, consumer, item, reason) in [
        ("held by another", "thief", whole(&held, ack()), Reason::LeaseUnknown),
        ("of another term", "holder", of_another_term, Reason::LeaseUnknown),
        ("expired", "idle", whole(&lost, ack()), Reason::LeaseExpired),
        ("an event that it has not", "holder", not_in_it, Reason::LeaseExpired),
    ] {
        let lease = item.lease_id.to_string();
        let refused = attempt(vec![settled_by(consumer, vec![item])]).await.unwrap_err();
        assert_eq!(refused.reason, reason, "{what}: {refused}");
        assert_eq!(refused.fact("lease_id"), Some(lease.as_str()), "{what}");
        let says = format!("lease {lease} of subscription s is not held");
        assert!(refused.message.contains(&says), "{what}: {refused}");
    }
    // One of several is enough, and all that are not held are told.
    let mixed = vec![
        settled_by("holder", vec![whole(&held, ack())]),
        settled_by("idle", vec![whole(&lost, ack())]),
        settled_by("thief", vec![whole(&again, ack())]),
    ];
    let refused = attempt(mixed).await.unwrap_err();
    assert_eq!((refused.reason, refused.fact("failing")), (Reason::LeaseExpired, Some("2")));
    // The same where it comes bit by bit.
    let id = client.begin_transaction(BeginTransactionRequest::default()).await.unwrap().id;
    let parts = vec![part("out", vec![event("made of it")])];
    let settles = vec![settled_by("idle", vec![whole(&lost, ack())])];
    let stage = StageTransactionRequest { id, parts, settles, ..Default::default() };
    client.stage_transaction(stage).await.unwrap();
    let refused = client.commit_transaction(CommitTransactionRequest { id }).await.unwrap_err();
    assert_eq!(refused.reason, Reason::LeaseExpired, "{refused}");
    // And from the command line.
    let item = json_of(&whole(&held, ack()));
    let thief = format!(r#"[{{"subscription": "s", "consumer": "thief", "items": [{item}]}}]"#);
    let made = r#"{"specversion":"1.0","id":"1","source":"/t","type":"t"}"#;
    let document =
        format!(r#"{{"parts": [{{"topic": "out", "events": [{made}]}}], "settles": {thief}}}"#);
    let endpoint = cluster.nodes[0].endpoint();
    mhub_with_input(&endpoint, &["tx", "run", "-"], Some(&document)).fails(3, "LEASE_UNKNOWN");
    assert!(payloads(&client, "out").await.is_empty());
    assert_eq!(counter(&cluster, "acked"), 0);
    // It was for the leases alone.
    let right = vec![whole(&held, ack()), whole(&again, ack())];
    attempt(vec![settled_by("holder", right)]).await.unwrap();
    assert_eq!(payloads(&client, "out").await, ["made of it"]);
    assert_eq!(counter(&cluster, "acked"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_settles_what_it_pulled_with_what_it_appends_once() {
    let cluster = shop(1, 3, &[]);
    cluster.admin(&["topic", "create", "out"]).succeeds();
    let pull = |more: &[&str]| {
        let args = ["events", "pull", "s", "--lease", "1m", "--consumer", "me"];
        cluster.admin(&[&args[..], more].concat())
    };
    let taken = pull(&["--limit", "2", "-o", "json"]).json();
    let offsets: Vec<_> =
        taken["events"].as_array().unwrap().iter().map(|e| &e["offset"]).collect();
    assert_eq!(offsets, ["0", "1"]);
    let event = r#"{"specversion":"1.0","id":"1","source":"/t","type":"t","data":"x"}"#;
    let document = format!(
        r#"{{"parts": [{{"topic": "out", "events": [{event}]}}], "settles": {}}}"#,
        taken["settles"]
    );
    let endpoint = cluster.nodes[0].endpoint();
    let run = || mhub_with_input(&endpoint, &["tx", "run", "-"], Some(&document));
    run().succeeds();
    // They are settled: once more it would append the same again, and is refused.
    run().fails(4, "LEASE_EXPIRED");
    assert_eq!(payloads(&client(&cluster), "out").await.len(), 1);
    assert_eq!((counter(&cluster, "acked"), counter(&cluster, "in_flight")), (2, 0));
    let table = pull(&[]).succeeds().stdout();
    assert!(table.contains("LEASE_ID") && table.lines().count() == 2, "{table}");
    let nothing = pull(&["-o", "json"]);
    nothing.fails(3, "nothing is ready");
    let nothing: serde_json::Value = serde_json::from_str(&nothing.stdout()).unwrap();
    assert_eq!(nothing, serde_json::json!({"events": [], "settles": []}));
    cluster.admin(&["events", "pull", "gone"]).fails(3, "SUBSCRIPTION_NOT_FOUND");
}

/// An acknowledgement as the document of a transaction has it.
fn json_of(item: &Settlement) -> serde_json::Value {
    serde_json::json!({
        "lease_id": item.lease_id.to_string(),
        "term": item.term.to_string(),
        "topic_id": item.topic_id.to_string(),
        "action": "ack",
    })
}
