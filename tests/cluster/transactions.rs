//! Transactions on real three-node clusters: all or nothing, and exactly once through leaders that are
//! killed.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use message_hub::client::{Client, ClientOptions, EventBuilder, recorded_events};
use message_hub::model::rejection::Reason;
use message_hub::proto::v1::key_expectation::Expect;
use message_hub::proto::v1::settlement::Action;
use message_hub::proto::v1::{
    Ack, BeginTransactionRequest, CommitTransactionRequest, Event, EventBatch, KeyExpectation,
    LeasedEvents, OffsetRange, PullRequest, ReadRequest, SettleRequest, Settlement,
    StageTransactionRequest, TransactRequest, TransactionPart,
};
use prost::Message as _;

use crate::delivery::{client, counter, publish, shop};
use crate::support::worker::{Worker, ack, offsets, whole};
use crate::support::{Cluster, mhub_with_input, poll};

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
    let event = r#"{"specversion":"1.0","id":"1","source":"/t","type":"t","data":"x"}"#;
    let document = format!(
        r#"{{"parts": [{{"topic": "a", "expect": {{"k": "none"}}, "events": [{event}]}}]}}"#
    );
    assert!(run(&document).succeeds().stdout().contains('a'));
    assert_eq!(payloads(&client, "a").await.len(), 1);
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

/// The events of a lease.
fn leased(lease: &LeasedEvents) -> Vec<String> {
    let mut found = Vec::new();
    for batch in &lease.batches {
        let batch = EventBatch::decode(batch.clone()).unwrap();
        for recorded in recorded_events(&batch) {
            let event = Event::decode(recorded.event).unwrap();
            found.push(String::from_utf8(event.data.to_vec()).unwrap());
        }
    }
    found
}

/// Takes, transforms, and hands on with the acknowledgement in one transaction.
async fn worker(
    client: Client,
    name: String,
    until: std::sync::Arc<std::sync::atomic::AtomicBool>,
) {
    while !until.load(std::sync::atomic::Ordering::Relaxed) {
        let pull = PullRequest {
            subscription: "s".into(),
            consumer: name.clone(),
            max_events: 20,
            wait_ms: 300,
            ..PullRequest::default()
        };
        let Ok(pulled) = client.pull(pull).await else { continue };
        for lease in pulled.leased {
            let doubled = leased(&lease).into_iter().map(|data| event(format!("{data}!")));
            let ack = Settlement {
                lease_id: lease.lease_id,
                term: lease.term,
                topic_id: lease.topic_id,
                action: Some(Action::Ack(Ack {})),
                ..Settlement::default()
            };
            let request = TransactRequest {
                parts: vec![part("out", doubled.collect())],
                settles: vec![SettleRequest {
                    subscription: "s".into(),
                    consumer: name.clone(),
                    items: vec![ack],
                }],
                ..TransactRequest::default()
            };
            // What is refused was done by somebody else; what is unknown shows itself.
            drop(client.transact(request).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_hands_on_each_event_once_through_leaders_that_are_killed() {
    const EVENTS: usize = 4000;
    const KILLS: usize = 20;
    let mut cluster = Cluster::start(3, &[]);
    for topic in ["orders", "out"] {
        cluster.admin(&["topic", "create", topic]).succeeds();
    }
    // Leases that are lost come again soon, and no event is given up.
    let settings =
        ["lease=3s", "max_attempts=0", "retry.min=10ms", "retry.initial=50ms", "retry.max=50ms"];
    let mut args = vec!["sub", "create", "s", "--topic", "orders", "--from", "start"];
    settings.iter().for_each(|setting| args.extend(["--config", setting]));
    cluster.admin(&args).succeeds();
    let until = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut workers = tokio::task::JoinSet::new();
    for n in 0..4 {
        let options = ClientOptions { timeout: Duration::from_secs(15), ..Default::default() };
        let client = Client::with_options(cluster.all_endpoints(), options).unwrap();
        workers.spawn(worker(client, format!("w-{n}"), std::sync::Arc::clone(&until)));
    }
    for kill in 0..KILLS {
        publish(&cluster, EVENTS / KILLS, "");
        let leader = cluster.leader();
        cluster.nodes[leader].kill();
        cluster.nodes[leader].start();
        cluster.await_serving();
        println!("killed leader {leader} ({kill})");
    }
    let client = client(&cluster);
    let began = Instant::now();
    let mut out = Vec::new();
    while out.len() < EVENTS && began.elapsed() < Duration::from_secs(60) {
        out = payloads(&client, "out").await;
    }
    until.store(true, std::sync::atomic::Ordering::Relaxed);
    workers.join_all().await;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for data in payloads(&client, "out").await {
        *counts.entry(data).or_default() += 1;
    }
    let mut wanted: BTreeMap<String, usize> = BTreeMap::new();
    for data in payloads(&client, "orders").await {
        *wanted.entry(format!("{data}!")).or_default() += 1;
    }
    assert_eq!(wanted.values().sum::<usize>(), EVENTS);
    assert_eq!(counts, wanted, "each once, no other");
    cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_piping_process_hands_on_each_event_once_through_leaders_that_are_killed() {
    const EVENTS: usize = 300;
    const KILLS: usize = 3;
    const PATIENCE: Duration = Duration::from_secs(60);
    let settings =
        ["lease=3s", "max_attempts=0", "retry.min=10ms", "retry.initial=50ms", "retry.max=50ms"];
    let mut cluster = shop(3, EVENTS, &settings);
    cluster.admin(&["topic", "create", "out"]).succeeds();
    let client = client(&cluster);
    // The command takes its time, so that leaders are killed in the middle of the work.
    let command = r#"read n; sleep 0.02; printf '%s!' "$n""#;
    let mut pipe = Command::new(env!("CARGO_BIN_EXE_mhub"))
        .args(["tx", "pipe", "s", "--into", "out", "--batch", "8", "--run", command])
        .env("MHUB_ENDPOINT", cluster.all_endpoints().join(","))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    for kill in 1..=KILLS {
        let (wanted, began) = (kill * EVENTS / (KILLS + 2), Instant::now());
        while payloads(&client, "out").await.len() < wanted && began.elapsed() < PATIENCE {}
        let leader = cluster.leader();
        let done = payloads(&client, "out").await.len();
        assert!((wanted..EVENTS).contains(&done), "kill {kill} after {done} of {EVENTS}");
        cluster.nodes[leader].kill();
        cluster.nodes[leader].start();
        cluster.await_serving();
    }
    let acked = || counter(&cluster, "acked") == EVENTS as u64;
    let all = poll(PATIENCE, acked);
    let runs = pipe.try_wait().unwrap().is_none();
    let pid = pipe.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success() || !runs);
    let ended = pipe.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(all && runs && ended.status.success(), "{:?} {told}", ended.status);
    let mut out = payloads(&client, "out").await;
    let mut wanted: Vec<_> = (0..EVENTS).map(|n| format!("{n}!")).collect();
    out.sort();
    wanted.sort();
    assert_eq!(out, wanted, "each once, no other: {told}");
    assert_eq!(counter(&cluster, "in_flight"), 0);
    cluster.verify();
}

#[test]
fn a_pipe_counts_what_it_handed_on_not_what_it_lost() {
    let cluster = shop(1, 2, &["lease=1s", "retry.initial=100ms"]);
    cluster.admin(&["topic", "create", "out"]).succeeds();
    // The first try outlasts its lease.
    let dir = tempfile::tempdir().unwrap();
    let tried = dir.path().join("tried");
    let command = format!("test -e {0} || {{ touch {0}; sleep 2; }}; cat", tried.display());
    let pipe = ["tx", "pipe", "s", "--into", "out", "--batch", "1", "--run", &command];
    let piped = cluster.admin(&[&pipe[..], &["--limit", "2", "-o", "jsonl"]].concat());
    assert!(piped.succeeds().stderr().contains("LEASE_EXPIRED"), "{}", piped.all());
    assert_eq!(piped.stdout().lines().count(), 2, "{}", piped.all());
    assert_eq!((counter(&cluster, "acked"), counter(&cluster, "expired")), (2, 1));
}

#[test]
fn the_command_line_pipes_each_event_once_and_what_fails_comes_again() {
    let cluster = Cluster::start(1, &[]);
    for topic in ["orders", "out"] {
        cluster.admin(&["topic", "create", topic]).succeeds();
    }
    let retry =
        ["retry.strategy=fixed", "retry.initial=100ms", "max_attempts=0"].map(|s| ["--config", s]);
    let create = ["sub", "create", "s", "--topic", "orders", "--from", "start"];
    cluster.admin(&[&create[..], &retry.concat()[..]].concat()).succeeds();
    publish(&cluster, 50, "");
    // The command fails for one of them, until a file is there, and has nothing to say of another.
    let dir = tempfile::tempdir().unwrap();
    let flag = dir.path().join("flag");
    let command = format!(
        "read n; case $n in 7) test -e {0} && echo seven;; 8) ;; *) echo \"<$n>\";; esac",
        flag.display()
    );
    let pipe = |extra: &[&str]| {
        let args = ["tx", "pipe", "s", "--into", "out", "--run", &command, "--type", "result"];
        cluster.admin(&[&args[..], extra].concat())
    };
    pipe(&["--limit", "49", "--batch", "7"]).succeeds();
    std::fs::write(&flag, "").unwrap();
    let told = pipe(&["--wait", "2", "-o", "jsonl"]).succeeds().stdout();
    assert!(told.lines().count() == 1 && told.contains("seven"), "{told}");
    let read = cluster.admin(&["events", "read", "out", "-o", "jsonl"]).stdout();
    let events: Vec<serde_json::Value> =
        read.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(events.len(), 49, "one has no result: {read}");
    let causes: std::collections::BTreeSet<_> =
        events.iter().map(|of| of["event"]["causationid"].as_str().unwrap().to_owned()).collect();
    assert_eq!(causes.len(), 49);
    // Also of events of several sources with one id.
    let ids = events.iter().map(|of| of["event"]["id"].as_str().unwrap());
    let offsets = ids.map(|id| id.rsplit_once('/').unwrap().1.parse::<u64>().unwrap());
    assert_eq!(offsets.collect::<std::collections::BTreeSet<_>>().len(), 49);
    assert!(events.iter().all(|of| of["event"]["type"] == "result"));
    assert_eq!(crate::delivery::counter(&cluster, "acked"), 50);
    cluster
        .admin(&["tx", "pipe", "gone", "--into", "out", "--wait", "1"])
        .fails(3, "SUBSCRIPTION_NOT_FOUND");
    cluster.admin(&["tx", "pipe", "s", "--into", "out", "--wait", "-1"]).fails(2, "");
}

#[test]
fn an_event_whose_result_is_refused_is_a_dead_letter_and_the_others_are_handed_on() {
    let cluster = Cluster::start(1, &[]);
    cluster.admin(&["topic", "create", "orders"]).succeeds();
    let register = ["schema", "register", "number", "-", "--format", "json"];
    mhub_with_input(&cluster.nodes[0].endpoint(), &register, Some(r#"{"type": "integer"}"#))
        .succeeds();
    let settings = ["schema.mode=enforce", "schema.subject=number", "max_event_bytes=300000"];
    let settings = settings.map(|setting| ["--config", setting]);
    cluster.admin(&[&["topic", "create", "out"], &settings.concat()[..]].concat()).succeeds();
    cluster.admin(&["sub", "create", "s", "--topic", "orders", "--from", "start"]).succeeds();
    publish(&cluster, 40, "");
    // Two break the schema, one is over the topic's bound, one over that of any call; the last eight are too much at
    // once, and one has no result.
    let command = "read n; case $n in 3|17) echo '\"no\"';; 8) ;; 30) printf '%400000s' 1;; \
        31) printf '%1100000s' 1;; 3[2-9]) printf '%200000s' 1;; *) echo $n;; esac";
    let args = ["tx", "pipe", "s", "--into", "out", "--run", command, "--batch", "40"];
    let pipe = || cluster.admin(&[&args[..], &["--wait", "1", "-o", "jsonl"]].concat());
    let first = pipe();
    let told = first.succeeds().stderr();
    assert!(told.contains("event 17 of topic orders is a dead letter now"), "{told}");
    assert_eq!(first.stdout().lines().count(), 36, "{told}");
    let dead = cluster.admin(&["dlq", "ls", "s", "-o", "json"]).json();
    let mut dead: Vec<_> = dead
        .as_array()
        .unwrap()
        .iter()
        .map(|letter| {
            let offset: u64 = letter["offset"].as_str().unwrap().parse().unwrap();
            let (reason, error) = letter["error"].as_str().unwrap().split_once(' ').unwrap();
            assert!(letter["reason"] == "REJECTED" && !error.is_empty(), "{letter}");
            (offset, reason.to_owned())
        })
        .collect();
    dead.sort_unstable();
    let reasons = [
        (3, "SCHEMA_VIOLATED"),
        (17, "SCHEMA_VIOLATED"),
        (30, "EVENT_TOO_LARGE"),
        (31, "CALL_TOO_LARGE"),
    ];
    assert_eq!(dead, reasons.map(|(offset, reason)| (offset, reason.to_owned())));
    // Each of the others has one result, in their order, and nothing comes again.
    assert_eq!(pipe().succeeds().stdout(), "");
    let read = cluster.admin(&["events", "read", "out", "-o", "jsonl"]).stdout();
    let from = read.lines().map(|line| {
        let of: serde_json::Value = serde_json::from_str(line).unwrap();
        let id = of["event"]["id"].as_str().unwrap();
        id.rsplit_once('/').unwrap().1.parse::<u64>().unwrap()
    });
    let without = [3, 8, 17, 30, 31];
    let wanted: Vec<_> = (0..40).filter(|offset| !without.contains(offset)).collect();
    assert_eq!(from.collect::<Vec<_>>(), wanted);
    assert_eq!(crate::delivery::counter(&cluster, "acked"), 36);
    assert_eq!(crate::delivery::counter(&cluster, "rejected"), 4);
}
