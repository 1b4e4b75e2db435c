//! Administration of subscriptions on real clusters.

use std::time::Duration;

use futures_util::StreamExt as _;
use message_hub::client::filter_json;
use message_hub::model::rejection::Reason;
use message_hub::proto::status::from_status;
use message_hub::proto::v1::subscriptions_client::SubscriptionsClient;
use message_hub::proto::v1::{
    CreateSubscriptionRequest, ListSubscriptionsRequest, Place, SeekSubscriptionRequest,
    Subscription, SubscriptionConfig, UpdateSubscriptionRequest, place,
};
use prost::Message as _;
use tonic::transport::Channel;

use crate::process::get;
use crate::support::{Cluster, SERVING_WITHIN, poll};

/// A cluster with topics `orders.created` (6 events) and `orders.paid` (1 event).
fn shop(nodes: u64) -> Cluster {
    let cluster = Cluster::start(nodes, &[]);
    for topic in ["orders.created", "orders.paid"] {
        cluster.admin(&["topic", "create", topic]).succeeds();
    }
    for n in 0..6 {
        let data = n.to_string();
        cluster.admin(&["events", "publish", "orders.created", "--data", &data]).succeeds();
    }
    cluster.admin(&["events", "publish", "orders.paid", "--data", "x", "--type", "big"]).succeeds();
    cluster
}

async fn connect(cluster: &Cluster) -> SubscriptionsClient<Channel> {
    SubscriptionsClient::connect(format!("http://{}", cluster.nodes[0].endpoint())).await.unwrap()
}

fn create(name: &str, pattern: &str) -> CreateSubscriptionRequest {
    CreateSubscriptionRequest {
        name: name.to_owned(),
        pattern: pattern.to_owned(),
        ..CreateSubscriptionRequest::default()
    }
}

/// Encoded by hand: nested deeper than any decoder follows.
fn bomb(depth: usize) -> Vec<u8> {
    let mut filter = filter_json::from_json(r#"{"exact":{"type":"t"}}"#).unwrap().encode_to_vec();
    for _ in 0..depth {
        let mut outer = Vec::new();
        prost::encoding::bytes::encode(6, &filter, &mut outer);
        filter = outer;
    }
    filter
}

fn filtered(filter: Vec<u8>) -> CreateSubscriptionRequest {
    let config =
        SubscriptionConfig { filter: Some(filter.into()), ..SubscriptionConfig::default() };
    CreateSubscriptionRequest { config: Some(config), ..create("s", "orders.>") }
}

#[test]
fn a_subscription_lives_and_dies_on_any_node() {
    let cluster = shop(3);
    let run = |args: &[&str]| cluster.admin(args);
    let made = run(&[
        "sub",
        "create",
        "billing",
        "--topic",
        "orders.*",
        "--from",
        "start",
        "--config",
        "max_attempts=3",
        "--config",
        "retry.strategy=fixed",
        "--filter",
        r#"{"not":{"exact":{"type":"big"}}}"#,
        "-o",
        "json",
    ]);
    let made = made.json();
    assert_eq!((&made["revision"], &made["max_attempts"]), (&"1".into(), &3.into()));
    assert_eq!(made["filter"]["not"]["exact"]["type"], "big");
    let updated =
        run(&["sub", "update", "billing", "--config", "lease=1m", "--no-filter", "-o", "json"]);
    let updated = updated.json();
    assert_eq!(updated["retry.strategy"], "fixed", "what was not said stays");
    assert_eq!((&updated["lease"], &updated["filter"]), (&"1m".into(), &serde_json::Value::Null));
    run(&["sub", "update", "billing", "--config", "lease=2m", "--if-revision", "1"])
        .fails(4, "REVISION_MISMATCH");
    // Every node shows the same.
    for index in 0..3 {
        assert_eq!(cluster.mhub(index, &["sub", "info", "billing", "-o", "json"]).json(), updated);
    }
    let paused = run(&["sub", "pause", "billing", "-o", "json"]).json();
    assert_eq!(paused["paused"], "yes");
    assert_eq!(run(&["sub", "resume", "billing", "-o", "json"]).json()["paused"], "no");
    let listed = run(&["sub", "ls", "-o", "json"]).json();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    run(&["sub", "rm", "billing"]).fails(2, "CONFIRMATION_REQUIRED");
    run(&["sub", "rm", "billing", "--yes"]).succeeds();
    run(&["sub", "info", "billing"]).fails(3, "SUBSCRIPTION_NOT_FOUND");
    cluster.verify();
}

#[test]
fn a_pause_ends_by_itself_and_the_feed_tells_of_it() {
    let cluster = shop(1);
    cluster.admin(&["sub", "create", "s", "--topic", "orders.>"]).succeeds();
    let paused = cluster.admin(&["sub", "pause", "s", "--resume-after", "1h", "-o", "json"]).json();
    assert!(paused["paused"].as_str().unwrap().starts_with("yes, until"), "{paused}");
    cluster.admin(&["sub", "resume", "s"]).succeeds();
    let feed = cluster.admin(&["events", "read", "hub.lifecycle", "-o", "jsonl"]);
    let kinds: Vec<String> = feed
        .stdout()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|event| event["event"]["type"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(kinds, ["hub.subscription.paused", "hub.subscription.resumed"]);
}

#[test]
fn wildcards_take_topics_that_come_later_and_counts_tell() {
    let cluster = shop(1);
    let run = |args: &[&str]| cluster.admin(args);
    run(&["sub", "create", "s", "--topic", "orders.>", "--from", "start"]).succeeds();
    run(&["topic", "create", "orders.eu.created"]).succeeds();
    let publish = |more: &[&str]| {
        let event = ["events", "publish", "orders.eu.created", "--data", "x"];
        run(&[&event[..], more].concat()).succeeds();
    };
    publish(&[]);
    publish(&["--priority", "9", "--fairness-key", "acme"]);
    publish(&["--delay", "1h", "--ttl", "2h"]);
    let stats = || run(&["sub", "stats", "s", "-o", "json"]).json();
    let before = stats();
    assert_eq!((&before["pending"], &before["delayed"]), (&"9".into(), &"1".into()));
    assert_eq!(before["pending_by_priority"], "4:8 9:1");
    assert_ne!(before["oldest_age"], "0s");
    run(&["events", "cancel", "orders.eu.created", "2"]).succeeds();
    run(&["events", "cancel", "orders.eu.created", "2"]).succeeds();
    run(&["events", "cancel", "orders.eu.created", "0"]).fails(4, "NOT_SCHEDULED");
    run(&["events", "cancel", "orders.eu.created", "99"]).fails(3, "EVENT_NOT_FOUND");
    run(&["events", "cancel", "orders.nope", "0"]).fails(3, "TOPIC_NOT_FOUND");
    let after = stats();
    assert_eq!((&after["cancelled"], &after["delayed"]), (&"1".into(), &"0".into()));
    // Its own topics stay out of `>`, and so does the hub's feed.
    run(&["sub", "create", "all", "--topic", ">", "--from", "start"]).succeeds();
    assert_eq!(run(&["sub", "stats", "all", "-o", "json"]).json()["pending"], "9");
}

#[test]
fn a_seek_counts_before_it_moves() {
    let cluster = shop(1);
    let run = |args: &[&str]| cluster.admin(args);
    run(&["sub", "create", "one", "--topic", "orders.created", "--from", "start"]).succeeds();
    run(&["sub", "create", "many", "--topic", "orders.*"]).succeeds();
    let seek = |name: &str, to: &str, dry: bool| {
        let args = ["sub", "seek", name, "--to", to, "-o", "json"];
        let args = [&args[..], if dry { &["--dry-run"] } else { &[] }].concat();
        let counts = run(&args).json();
        (
            counts["redelivered"].as_str().unwrap().to_owned(),
            counts["skipped"].as_str().unwrap().to_owned(),
        )
    };
    let counts = |redelivered: &str, skipped: &str| (redelivered.to_owned(), skipped.to_owned());
    let pending = |name: &str| run(&["sub", "stats", name, "-o", "json"]).json()["pending"].clone();
    assert_eq!(seek("one", "4", true), counts("0", "4"));
    assert_eq!(pending("one"), "6", "a dry run moves nothing");
    assert_eq!(seek("one", "4", false), counts("0", "4"));
    assert_eq!(pending("one"), "2");
    assert_eq!(seek("one", "start", true), counts("4", "0"));
    assert_eq!(seek("many", "start", false), counts("7", "0"));
    assert_eq!(seek("many", "pos=5", false), counts("0", "5"));
    assert_eq!(pending("many"), "2");
    assert_eq!(seek("many", "@1000", true), counts("5", "0"));
    for (name, to, code, reason) in [
        ("one", "7", 2, "BEYOND_END"),
        ("one", "pos=1000", 2, "BEYOND_END"),
        ("one", "@9999-01-01T00:00:00Z", 2, "BEYOND_END"),
        ("many", "3", 2, "INVALID_REQUEST"),
        ("nope", "start", 3, "SUBSCRIPTION_NOT_FOUND"),
    ] {
        run(&["sub", "seek", name, "--to", to]).fails(code, reason);
        run(&["sub", "seek", name, "--to", to, "--dry-run"]).fails(code, reason);
    }
    run(&["sub", "create", "late", "--topic", "orders.created", "--from", "7"])
        .fails(2, "BEYOND_END");
    run(&["topic", "rm", "orders.created", "--yes"]).succeeds();
    assert_eq!(pending("many"), "1", "a subscription outlives its topics");
    run(&["sub", "seek", "one", "--to", "0"]).fails(3, "TOPIC_NOT_FOUND");
}

#[tokio::test]
async fn nonsense_is_refused_by_name_and_leaves_nothing() {
    let cluster = shop(1);
    let mut client = connect(&cluster).await;
    let with = |change: fn(&mut SubscriptionConfig)| {
        let mut config = SubscriptionConfig::default();
        change(&mut config);
        CreateSubscriptionRequest { config: Some(config), ..create("s", "orders.>") }
    };
    let wide = format!("[{}]", vec![r#"{"exact":{"type":"t"}}"#; 200].join(","));
    assert_eq!(filter_json::from_json(&wide).unwrap_err().reason, Reason::InvalidFilter);
    let starting = |pattern: &str, at| CreateSubscriptionRequest {
        start: Some(Place { at: Some(at) }),
        ..create("s", pattern)
    };
    let cases: Vec<(&str, CreateSubscriptionRequest, Reason)> = vec![
        ("no name", create("", "orders.>"), Reason::InvalidName),
        ("a long name", create(&"x".repeat(129), "orders.>"), Reason::InvalidName),
        ("an odd name", create("a b", "orders.>"), Reason::InvalidName),
        ("no pattern", create("s", ""), Reason::InvalidPattern),
        ("> in the middle", create("s", "orders.>.x"), Reason::InvalidPattern),
        ("part of a token", create("s", "orders.cr*"), Reason::InvalidPattern),
        ("a filter bomb", filtered(bomb(1500)), Reason::InvalidFilter),
        ("a deep filter", filtered(bomb(8)), Reason::InvalidFilter),
        ("a filter of a MiB", filtered(vec![0x22; 1 << 20]), Reason::InvalidFilter),
        ("a filter that is none", filtered(vec![0xff]), Reason::InvalidFilter),
        ("a short lease", with(|c| c.lease_ms = Some(999)), Reason::InvalidConfig),
        ("none in flight", with(|c| c.max_in_flight = Some(0)), Reason::InvalidConfig),
        ("unknown ordering", with(|c| c.ordering = 77), Reason::InvalidRequest),
        ("a long text", with(|c| c.description = Some("x".repeat(2000))), Reason::InvalidConfig),
        ("beyond the end", starting("orders.created", place::At::Offset(7)), Reason::BeyondEnd),
        ("an offset of many", starting("orders.*", place::At::Offset(1)), Reason::InvalidRequest),
        ("an offset of none", starting("nope", place::At::Offset(0)), Reason::TopicNotFound),
        (
            "a long request id",
            CreateSubscriptionRequest { request_id: "x".repeat(65), ..create("s", "a") },
            Reason::InvalidRequest,
        ),
    ];
    for (name, request, reason) in cases {
        let refused = from_status(&client.create_subscription(request).await.unwrap_err());
        assert_eq!(refused.reason, reason, "{name}: {refused}");
    }
    let seek =
        SeekSubscriptionRequest { name: "s".to_owned(), ..SeekSubscriptionRequest::default() };
    let refused = from_status(&client.seek_subscription(seek).await.unwrap_err());
    assert_eq!(refused.reason, Reason::InvalidRequest);
    let listed = client.list_subscriptions(ListSubscriptionsRequest::default()).await.unwrap();
    assert_eq!(listed.into_inner().subscriptions, Vec::<Subscription>::new());
    cluster.await_serving();
}

#[tokio::test]
async fn a_repeated_request_gets_its_first_answer() {
    let cluster = shop(1);
    let mut client = connect(&cluster).await;
    let request =
        CreateSubscriptionRequest { request_id: "r-1".to_owned(), ..create("s", "orders.>") };
    let first = client.create_subscription(request.clone()).await.unwrap().into_inner();
    let config =
        SubscriptionConfig { description: Some("d".to_owned()), ..SubscriptionConfig::default() };
    let update = UpdateSubscriptionRequest {
        name: "s".to_owned(),
        config: Some(config),
        request_id: "r-2".to_owned(),
        ..UpdateSubscriptionRequest::default()
    };
    let updated = client.update_subscription(update.clone()).await.unwrap().into_inner();
    assert_eq!(updated.revision, 2);
    assert_eq!(client.create_subscription(request).await.unwrap().into_inner(), first);
    assert_eq!(client.update_subscription(update).await.unwrap().into_inner().revision, 2);
    let again = client.create_subscription(create("s", "orders.>")).await.unwrap_err();
    assert_eq!(from_status(&again).reason, Reason::SubscriptionExists);
}

#[tokio::test]
async fn pages_follow_each_other() {
    let cluster = shop(1);
    let mut client = connect(&cluster).await;
    for n in 0..7 {
        client.create_subscription(create(&format!("s-{n}"), "orders.>")).await.unwrap();
    }
    let (mut names, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListSubscriptionsRequest { page_size: 3, page_token, options: None };
        let page = client.list_subscriptions(request).await.unwrap().into_inner();
        assert!(page.subscriptions.len() <= 3);
        names.extend(page.subscriptions.into_iter().map(|s| s.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, (0..7).map(|n| format!("s-{n}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_hub_bears_ten_thousand_subscriptions_of_one_topic_and_no_more() {
    let cluster = shop(1);
    let resident = || cluster.number(0, "resident_bytes");
    let before = resident();
    assert!(before > 0);
    let client = connect(&cluster).await;
    let creations = (0..10_000).map(|n| {
        let mut client = client.clone();
        async move { client.create_subscription(create(&format!("s-{n:05}"), "orders.>")).await }
    });
    let mut made = futures_util::stream::iter(creations).buffer_unordered(256);
    while let Some(one) = made.next().await {
        one.unwrap();
    }
    let one_more = client.clone().create_subscription(create("t", "orders.>")).await.unwrap_err();
    assert_eq!(from_status(&one_more).reason, Reason::LimitReached);
    cluster.admin(&["events", "publish", "orders.paid", "--data", "x"]).succeeds();
    let last = cluster.admin(&["sub", "stats", "s-09999", "-o", "json"]).json();
    assert_eq!(last["pending"], "1");
    for name in ["s-00000", "s-09999"] {
        let consume = ["events", "consume", name, "--limit", "1", "--ack", "-o", "json"];
        let got = cluster.admin(&consume).stdout();
        assert!(got.contains("orders.paid"), "{name} got {got}");
    }
    // A deadline of all of them.
    let ttl = ["events", "publish", "orders.created", "--data", "x", "--ttl", "500ms"];
    cluster.admin(&ttl).succeeds();
    let dead =
        |name: &str| cluster.admin(&["sub", "info", name, "-o", "json"]).json()["dead"] == "1";
    let died = poll(Duration::from_secs(20), || dead("s-00000") && dead("s-05000"));
    assert!(died && poll(SERVING_WITHIN, || dead("s-09999")), "its deadline has passed");
    let grown = resident().saturating_sub(before);
    assert!(grown < 256 << 20, "by {} MiB", grown >> 20);
    let listed = cluster.admin(&["sub", "ls", "-o", "json"]).json();
    assert_eq!(listed.as_array().unwrap().len(), 10_000);
    cluster.admin(&["topic", "rm", "orders.paid", "--yes"]).succeeds();
    let (_, metrics) = get(&cluster.nodes[0], "/metrics");
    let told = metrics.lines().filter(|l| l.starts_with("mhub_subscription_pending{")).count();
    assert_eq!(told, 100, "metrics are bounded");
}

#[test]
fn the_command_line_refuses_what_it_cannot_mean() {
    let cluster = shop(1);
    let run = |args: &[&str]| cluster.admin(args);
    run(&["sub", "create", "s", "--topic", "orders.>"]).succeeds();
    let create =
        |more: &[&str]| run(&[&["sub", "create", "t", "--topic", "orders.>"], more].concat());
    create(&["--config", "lease=5ms"]).fails(2, "lease_ms");
    create(&["--config", "lease=soon"]).fails(2, "lease=soon");
    create(&["--config", "retry.initial=10m"]).fails(2, "retry.initial_ms");
    create(&["--config", "dead_letters.trip_resume=2d"]).fails(2, "INVALID_CONFIG");
    create(&["--filter", r#"{"sql": "type = 'x'"}"#]).fails(2, "INVALID_FILTER");
    create(&["--filter", "/nowhere/filter.json"]).fails(2, "/nowhere/filter.json");
    run(&["sub", "create", "s", "--topic", "orders.>"]).fails(4, "SUBSCRIPTION_EXISTS");
    run(&["sub", "update", "s"]).fails(2, "--config or --filter");
    run(&["sub", "update", "s", "--config", "retry.min=10m"]).fails(2, "retry.min_ms");
    run(&["sub", "pause", "s", "--resume-after", "366d"]).fails(2, "resume_after_ms");
    run(&["sub", "ls", "-o", "json"]).succeeds();
    for noun in [["dlq", "ls"], ["retries", "ls"], ["sub", "stats"], ["queue", "stats"]] {
        run(&[&noun[..], &["nope"]].concat()).fails(3, "SUBSCRIPTION_NOT_FOUND");
        run(&[&noun[..], &["a b"]].concat()).fails(2, "INVALID_NAME");
    }
    run(&["dlq", "show", "s", "1"]).fails(3, "DEAD_LETTER_NOT_FOUND");
    let publish =
        |more: &[&str]| run(&[&["events", "publish", "orders.paid", "--data", "x"], more].concat());
    publish(&["--ttl", "0s"]).fails(2, "DEADLINE_PAST");
    publish(&["--delay", "366d"]).fails(2, "deliver_at");
    publish(&["--ttl", "1h", "--delay", "2h"]).fails(2, "deliver_at");
    publish(&["--fairness-key", &"k".repeat(65)]).fails(2, "fairness_key");
    run(&["events", "cancel", "orders.paid", "--id", "x"]).fails(3, "EVENT_NOT_FOUND");
    run(&["events", "read", "hub.lifecycle"]).fails(3, "TOPIC_NOT_FOUND");
    run(&["events", "publish", "hub.lifecycle", "--data", "x"]).fails(2, "INVALID_NAME");
    let rows = run(&["queue", "top", "--every", "200ms", "-o", "json"]).json();
    assert_eq!((&rows[0]["subscription"], &rows[0]["acked_per_s"]), (&"s".into(), &"0".into()));
    run(&["queue", "top", "--every", "1ms"]).fails(2, "--every");
}
