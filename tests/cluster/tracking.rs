//! Traces on real clusters: every event of a correlation id, what caused what, and what became of each.

use std::time::{Duration, Instant};

use message_hub::client::{Client, EventBuilder};
use message_hub::model::rejection::Reason;
use message_hub::proto::v1::settlement::Action;
use message_hub::proto::v1::{
    CreateSubscriptionRequest, DeadReason, FateStanding, Nack, Reject, TraceRequest, TracedEvent,
};
use prost::Message as _;

use crate::delivery::client;
use crate::support::worker::{Worker, ack, nack, offsets};
use crate::support::{Cluster, mhub_with_input};

/// Far less than a lease.
const SOON: Duration = Duration::from_secs(5);

fn request(correlation_id: &str) -> TraceRequest {
    TraceRequest {
        correlation_id: correlation_id.to_owned(),
        page_size: 1000,
        ..Default::default()
    }
}

async fn all(client: &Client, correlation_id: &str) -> Vec<TracedEvent> {
    let (mut request, mut found) = (request(correlation_id), Vec::new());
    loop {
        let page = client.trace(request.clone()).await.unwrap();
        found.extend(page.events);
        if page.next_page_token.is_empty() {
            return found;
        }
        request.page_token = page.next_page_token;
    }
}

/// Publishes events that were caused one by the other: ids 0, 1, 2 …
async fn publish_chain(client: &Client, topic: &str, correlation_id: &str, count: usize) {
    let event = |n: usize| {
        let event = EventBuilder::new("/t", "t").id(n.to_string()).correlation_id(correlation_id);
        let event = if n > 0 { event.causation_id((n - 1).to_string()) } else { event };
        event.data(n.to_string()).build().encode_to_vec().into()
    };
    let publisher = client.publisher();
    for first in (0..count).step_by(500) {
        let events = (first..count.min(first + 500)).map(event).collect();
        publisher.publish_all(topic, events, Vec::new()).await.unwrap();
    }
}

/// An order that is placed, paid and shipped, one because of the other, and who is told of it.
fn tell(cluster: &Cluster) {
    for topic in ["orders", "payments", "other"] {
        cluster.admin(&["topic", "create", topic]).succeeds();
    }
    let subscribe = |name: &str, topic: &str, settings: &[&str]| {
        let mut args = vec!["sub", "create", name, "--topic", topic, "--from", "start"];
        settings.iter().for_each(|setting| args.extend(["--config", setting]));
        cluster.admin(&args).succeeds();
    };
    subscribe(
        "billing",
        "orders",
        &["max_attempts=2", "retry.initial=100ms", "retry.min=100ms", "retry.max=100ms"],
    );
    subscribe("mail", "*", &["non_retryable_reasons=BAD"]);
    subscribe("late", "payments", &[]);
    let publish = |topic: &str, kind: &str, id: &str, cause: &str| {
        let mut args = vec!["events", "publish", topic, "--data", "x", "--source", "/t"];
        args.extend(["--type", kind, "--id", id, "--correlation", "order-42"]);
        if !cause.is_empty() {
            args.extend(["--causation", cause]);
        }
        cluster.admin(&args).succeeds();
    };
    publish("orders", "order.placed", "a", "");
    publish("payments", "order.paid", "b", "a");
    publish("orders", "order.shipped", "c", "b");
    cluster
        .admin(&["events", "publish", "other", "--data", "x", "--type", "t", "--source", "/t"])
        .succeeds();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_story_of_an_order_is_told_by_any_node_also_after_its_leader_is_killed() {
    let mut cluster = Cluster::start(3, &[]);
    tell(&cluster);
    let consume = |sub: &str, more: &[&str]| {
        let args = [&["events", "consume", sub, "-o", "jsonl"][..], more].concat();
        cluster.admin(&args).succeeds();
    };
    // billing fails twice with the first and takes the second; mail rejects one for good, takes the others.
    consume("billing", &["--limit", "1", "--nack", "BUSY"]);
    let client = client(&cluster);
    let failed = all(&client, "order-42").await;
    let of = |story: &TracedEvent, name: &str| {
        story.fates.iter().find(|fate| fate.subscription == name).cloned()
    };
    let billing = of(&failed[0], "billing").unwrap();
    assert_eq!((billing.standing(), billing.failures), (FateStanding::Retrying, 1));
    assert_eq!(billing.attempts[0].reason, "BUSY");
    // What the consumer had beyond its limit is given back.
    let given_back = async || of(&all(&client, "order-42").await[2], "billing").unwrap();
    let began = Instant::now();
    while given_back().await.standing() != FateStanding::Pending {
        assert!(began.elapsed() < SOON, "{:?}", given_back().await);
    }
    assert!(of(&failed[1], "billing").is_none(), "it does not take payments");
    consume("mail", &["--limit", "1", "--nack", "BAD"]);
    consume("mail", &["--limit", "2"]);

    let leader = cluster.leader();
    cluster.nodes[leader].kill();
    cluster.nodes[leader].start();
    cluster.await_serving();
    for node in &cluster.nodes {
        let client = Client::new([node.endpoint()]).unwrap();
        let stories = all(&client, "order-42").await;
        assert_eq!(stories.len(), 3);
        let mail: Vec<_> =
            stories.iter().map(|story| of(story, "mail").unwrap().standing()).collect();
        let dead = mail.iter().filter(|standing| **standing == FateStanding::Dead).count();
        let acked = mail.iter().filter(|standing| **standing == FateStanding::Acked).count();
        assert_eq!((dead, acked), (1, 2), "{mail:?}");
        assert_eq!(of(&stories[1], "late").unwrap().standing(), FateStanding::Pending);
    }
    let tree = cluster.admin(&["events", "trace", "order-42"]).succeeds().stdout();
    let lines: Vec<_> = tree.lines().filter(|line| line.contains(" id ")).collect();
    assert!(lines[0].starts_with("order.placed orders/0"), "{tree}");
    assert!(lines[1].starts_with("  order.paid payments/0"), "{tree}");
    assert!(lines[2].starts_with("    order.shipped orders/1"), "{tree}");
    assert!(tree.contains("NON_RETRYABLE") && tree.contains("BUSY"), "{tree}");
    let json = cluster.admin(&["events", "trace", "order-42", "-o", "json"]).json();
    assert_eq!((&json[2]["depth"], &json[2]["cause"]), (&2.into(), &"b".into()));
    let table = cluster.admin(&["events", "trace", "order-42", "--as", "table"]).stdout();
    assert_eq!(table.lines().count(), 1 + 6, "{table}");
    // Redriven, it is on its way again; its topic gone, it is left out.
    cluster.admin(&["dlq", "redrive", "mail", "--all"]).succeeds();
    let mail = all(&client, "order-42").await;
    let redriven: u32 = mail.iter().filter_map(|s| of(s, "mail")).map(|fate| fate.redrives).sum();
    assert_eq!(redriven, 1);
    cluster.admin(&["topic", "rm", "payments", "--yes"]).succeeds();
    assert_eq!(all(&client, "order-42").await.len(), 2);
    cluster.verify();
}

/// An event with an id, of the correlation id `c`.
fn publish_one(cluster: &Cluster, topic: &str, id: &str) {
    let args = ["events", "publish", topic, "--data", "x", "--type", "t", "--source", "/t"];
    let args = [&args[..], &["--id", id, "--correlation", "c"]].concat();
    cluster.admin(&args).succeeds();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_tells_each_fate_with_what_led_to_it() {
    let cluster = Cluster::start(1, &[]);
    cluster.admin(&["topic", "create", "orders"]).succeeds();
    publish_one(&cluster, "orders", "a");
    let nacked = Action::Nack(Nack {
        reason: "TIMEOUT".into(),
        detail: "the database was away".into(),
        retry_after_ms: Some(600_000),
    });
    let rejected = || Action::Reject(Reject { reason: "BAD".into(), detail: "no total".into() });
    for (name, action) in [
        ("s-acked", Some(ack())),
        ("s-dead", Some(rejected())),
        ("s-failed", Some(nacked)),
        ("s-leased", None),
        ("s-redriven", Some(rejected())),
    ] {
        let create = ["sub", "create", name, "--topic", "orders", "--from", "start"];
        cluster.admin(&create).succeeds();
        let mut worker = Worker::new(&cluster, name, "worker");
        let taken = worker.pull_some(1).await;
        if let Some(action) = action {
            worker.settle_all(&taken, action).await;
        }
    }
    cluster.admin(&["dlq", "redrive", "s-redriven", "--all"]).succeeds();
    let story = all(&client(&cluster), "c").await.remove(0);
    assert!(!story.more_fates);
    let told: Vec<_> =
        story.fates.iter().map(|f| (f.subscription.as_str(), f.standing(), f.redrives)).collect();
    let expected = [
        ("s-acked", FateStanding::Acked, 0),
        ("s-dead", FateStanding::Dead, 0),
        ("s-failed", FateStanding::Retrying, 0),
        ("s-leased", FateStanding::Leased, 0),
        ("s-redriven", FateStanding::Retrying, 1),
    ];
    assert_eq!(told, expected);
    let [_, dead, failed, leased, _] = &story.fates[..] else { panic!("{:?}", story.fates) };
    assert_eq!((dead.reason(), dead.dead_number), (DeadReason::Rejected, 1));
    assert_eq!((leased.consumer.as_str(), leased.at_ms > 0), ("worker", true));
    let attempt = failed.attempts.first().unwrap();
    let [consumer, reason, detail] = [&attempt.consumer, &attempt.reason, &attempt.detail];
    assert_eq!((failed.failures, attempt.number), (1, 1));
    assert_eq!([consumer, reason, detail], ["worker", "TIMEOUT", "the database was away"]);
    // All of it is in each form.
    let tree = cluster.admin(&["events", "trace", "c"]).succeeds().stdout();
    let table = cluster.admin(&["events", "trace", "c", "--as", "table"]).succeeds().stdout();
    let asked_for = cluster.admin(&["events", "trace", "c", "-o", "table"]).succeeds().stdout();
    assert_eq!(asked_for, table);
    for (name, says) in [
        ("s-acked", "acked"),
        ("s-dead", "REJECTED, dead letter 1"),
        ("s-failed", "failed 1 times"),
        ("s-leased", "leased by worker until "),
        ("s-redriven", "redriven 1 times"),
    ] {
        let line = |line: &&str| line.contains(&format!("· {name}: ")) && line.contains(says);
        assert_eq!(tree.lines().filter(line).count(), 1, "{name}: {tree}");
        let row = |line: &&str| line.contains(name) && line.contains(says);
        assert_eq!(table.lines().filter(row).count(), 1, "{name}: {table}");
    }
    assert!(tree.contains("worker TIMEOUT: the database was away"), "{tree}");
    let json = cluster.admin(&["events", "trace", "c", "-o", "json"]).json();
    let fates = json[0]["fates"].as_array().unwrap();
    let standings: Vec<_> = fates.iter().map(|fate| fate["standing"].as_str().unwrap()).collect();
    assert_eq!(standings, ["acked", "dead", "retrying", "leased", "retrying"]);
    assert_eq!(fates[2]["attempts"][0]["detail"], "the database was away");
    assert_eq!(json[0]["more_fates"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_without_being_acknowledged_at_once_is_told_as_it_was() {
    let mut cluster = Cluster::start(1, &[]);
    cluster.admin(&["topic", "create", "orders"]).succeeds();
    let subscribe = |name: &str, settings: &[&str]| {
        let create = ["sub", "create", name, "--topic", "orders", "--from", "start"];
        cluster.admin(&[&create[..], settings].concat()).succeeds();
    };
    subscribe("s-dropped", &["--config", "dead_letters=off"]);
    subscribe("s-late", &[]);
    subscribe("s-passed", &[]);
    subscribe("s-purged", &[]);
    let publish = |id: &str, more: &[&str]| {
        let args = ["events", "publish", "orders", "--data", "x", "--type", "t", "--source", "/t"];
        let args = [&args[..], &["--id", id, "--correlation", "c"], more].concat();
        cluster.admin(&args).succeeds();
    };
    publish("a", &[]);
    let rejected = || Action::Reject(Reject { reason: "BAD".into(), detail: "no total".into() });
    let mut late = Worker::new(&cluster, "s-late", "worker");
    let taken = late.pull_some(1).await;
    late.settle_all(&taken, nack(1)).await;
    let again = late.pull_some(1).await;
    late.settle_all(&again, ack()).await;
    for name in ["s-dropped", "s-purged"] {
        let mut worker = Worker::new(&cluster, name, "worker");
        let taken = worker.pull_some(1).await;
        worker.settle_all(&taken, rejected()).await;
    }
    cluster.admin(&["dlq", "purge", "s-purged", "--all", "--yes"]).succeeds();
    // One that is called off is passed over by whoever takes what comes after it.
    publish("b", &["--delay", "1h"]);
    cluster.admin(&["events", "cancel", "orders", "1"]).succeeds();
    publish("c", &[]);
    let mut passes = Worker::new(&cluster, "s-passed", "worker");
    let mut acked = 0;
    while acked < 2 {
        let taken = passes.pull_some(10).await;
        acked += offsets(&taken).len();
        passes.settle_all(&taken, ack()).await;
    }
    // It is so after a restart as well.
    cluster.nodes[0].kill();
    cluster.nodes[0].start();
    cluster.await_serving();
    let stories = all(&client(&cluster), "c").await;
    let of = |event: usize, name: &str| {
        stories[event].fates.iter().find(|fate| fate.subscription == name).unwrap()
    };
    let dead = |name: &str| {
        let fate = of(0, name);
        (fate.standing(), fate.reason(), fate.dead_number, fate.at_ms > 0)
    };
    let without_letter = (FateStanding::Dead, DeadReason::Rejected, 0, true);
    assert_eq!(dead("s-dropped"), without_letter);
    assert_eq!(of(0, "s-dropped").attempts[0].detail, "no total");
    assert_eq!(dead("s-purged"), without_letter);
    let late = of(0, "s-late");
    assert_eq!((late.standing(), late.failures), (FateStanding::Acked, 1));
    assert_eq!(late.attempts[0].reason, "BROKEN");
    let passed: Vec<_> = (0..3).map(|event| of(event, "s-passed").standing()).collect();
    assert_eq!(passed, [FateStanding::Acked, FateStanding::Cancelled, FateStanding::Acked]);
    let tree = cluster.admin(&["events", "trace", "c"]).succeeds().stdout();
    assert!(tree.contains("REJECTED, no dead letter is kept"), "{tree}");
    assert!(tree.contains("acked, failed 1 times"), "{tree}");
    cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_many_subscriptions_take_tells_of_the_first_and_that_there_are_more() {
    const TOLD: usize = 100;
    let cluster = Cluster::start(1, &[]);
    for topic in ["wide", "narrow"] {
        cluster.admin(&["topic", "create", topic]).succeeds();
    }
    let client = client(&cluster);
    let names: Vec<_> = (0..=TOLD).map(|n| format!("s-{n:03}")).collect();
    let subscribe = async |name: &str, pattern: &str| {
        let (name, pattern) = (name.to_owned(), pattern.to_owned());
        let request = CreateSubscriptionRequest { name, pattern, ..Default::default() };
        client.create_subscription(request).await.unwrap();
    };
    for name in &names[..TOLD] {
        subscribe(name, "wide").await;
    }
    subscribe("a-narrow", "narrow").await;
    publish_one(&cluster, "wide", "a");
    publish_one(&cluster, "narrow", "b");
    // As many as fit are all there are.
    let told = async || {
        let stories = all(&client, "c").await;
        let of = |story: &TracedEvent| {
            let names = story.fates.iter().map(|fate| fate.subscription.clone());
            (names.collect::<Vec<_>>(), story.more_fates)
        };
        stories.iter().map(of).collect::<Vec<_>>()
    };
    let narrow = (vec!["a-narrow".to_owned()], false);
    assert_eq!(told().await, [(names[..TOLD].to_vec(), false), narrow.clone()]);
    subscribe(&names[TOLD], "wide").await;
    assert_eq!(told().await, [(names[..TOLD].to_vec(), true), narrow]);
    let tree = cluster.admin(&["events", "trace", "c"]).succeeds().stdout();
    assert_eq!(tree.matches("· and more subscriptions").count(), 1, "{tree}");
    let json = cluster.admin(&["events", "trace", "c", "-o", "json"]).json();
    assert_eq!((&json[0]["more_fates"], &json[1]["more_fates"]), (&true.into(), &false.into()));
    assert_eq!(json[0]["fates"].as_array().unwrap().len(), TOLD);
    // Each of the others is told of when it is asked for.
    let asked_for = |name: &str| {
        let args = ["events", "trace", "c", "--subscription", name, "-o", "json"];
        let json = cluster.admin(&args).json();
        let names = |event: &serde_json::Value| -> Vec<String> {
            let fates = event["fates"].as_array().unwrap().iter();
            fates.map(|fate| fate["subscription"].as_str().unwrap().to_owned()).collect()
        };
        (names(&json[0]), names(&json[1]))
    };
    assert_eq!(asked_for(&names[TOLD]), (vec![names[TOLD].clone()], Vec::new()));
    assert_eq!(asked_for("*").0.len(), TOLD);
    cluster.admin(&["events", "trace", "c", "--subscription", "nobody"]).fails(3, "nobody");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_chains_and_circles_are_paged_and_bounded() {
    const LONG: usize = 100_000;
    let cluster = Cluster::start(1, &[]);
    cluster.admin(&["topic", "create", "t"]).succeeds();
    cluster.admin(&["sub", "create", "s", "--topic", "t", "--from", "start"]).succeeds();
    let client = client(&cluster);
    publish_chain(&client, "t", "short", 1000).await;
    let began = Instant::now();
    assert_eq!(all(&client, "short").await.len(), 1000);
    println!("a trace of 1000 events took {:?}", began.elapsed());
    publish_chain(&client, "t", "long", LONG).await;
    let found = all(&client, "long").await;
    let positions: Vec<_> = found.iter().map(|s| s.event.as_ref().unwrap().position).collect();
    assert_eq!(positions.len(), LONG);
    assert!(positions.is_sorted_by(|a, b| a < b));
    let drawn = cluster.admin(&["events", "trace", "long", "--limit", "100"]);
    assert!(drawn.stdout().contains("(99 causes above)"));
    drawn.fails(8, "first 100");
    // A circle, and one that is its own cause.
    for (id, cause) in [("x", "y"), ("y", "x"), ("z", "z")] {
        let args = ["--correlation", "round", "--type", "t", "--source", "/t", "--id", id];
        let args = [&["events", "publish", "t", "--data", "x", "--causation", cause][..], &args];
        cluster.admin(&args.concat()).succeeds();
    }
    let drawn = cluster.admin(&["events", "trace", "round", "-o", "json"]).json();
    let shape: Vec<_> = drawn.as_array().unwrap().iter().map(|s| &s["circular"]).collect();
    assert_eq!(shape, [&true.into(), &false.into(), &serde_json::Value::Bool(true)]);
    // What is no correlation id.
    for bad in [String::new(), "x".repeat(257)] {
        let refused = client.trace(request(&bad)).await.unwrap_err();
        assert_eq!(refused.reason, Reason::InvalidRequest);
    }
    let token = TraceRequest { page_token: "nonsense".into(), ..request("long") };
    assert_eq!(client.trace(token).await.unwrap_err().reason, Reason::InvalidRequest);
    let endpoint = cluster.nodes[0].endpoint();
    mhub_with_input(&endpoint, &["events", "trace", "nobody"], None).fails(3, "nobody");
}
