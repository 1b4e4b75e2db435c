//! Consuming on real three-node clusters: every delivery ends as its consumer says, or comes again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use message_hub::client::{Client, ConsumerOptions};
use message_hub::model::rejection::Reason;
use message_hub::proto::status::from_status;
use message_hub::proto::v1::Nack;

use crate::support::worker::{Worker, ack, nack, offsets, refused, release, whole};
use crate::support::{Cluster, mhub};

/// A topic `orders` with so many events, and a subscription `s` to all of them with settings.
pub(crate) fn shop(nodes: u64, events: usize, settings: &[&str]) -> Cluster {
    let cluster = Cluster::start(nodes, &[]);
    cluster.admin(&["topic", "create", "orders"]).succeeds();
    publish(&cluster, events, "");
    let mut args = vec!["sub", "create", "s", "--topic", "orders", "--from", "start"];
    settings.iter().for_each(|setting| args.extend(["--config", setting]));
    cluster.admin(&args).succeeds();
    cluster
}

/// Publishes events, all with one key unless that is empty.
pub(crate) fn publish(cluster: &Cluster, events: usize, key: &str) {
    let line = |n: usize| {
        let key =
            if key.is_empty() { String::new() } else { format!(r#","partitionkey":"{key}""#) };
        let id = uuid::Uuid::new_v4();
        format!(r#"{{"specversion":"1.0","id":"{id}","source":"/t","type":"t","data":{n}{key}}}"#)
    };
    let lines: Vec<String> = (0..events).map(line).collect();
    let endpoints = cluster.endpoints().join(",");
    let args = ["events", "publish", "orders", "-"];
    crate::support::mhub_with_input(&endpoints, &args, Some(&lines.join("\n"))).succeeds();
}

pub(crate) fn client(cluster: &Cluster) -> Client {
    Client::new(cluster.all_endpoints()).unwrap()
}

/// Publishes an event for each of the fairness keys, in this order.
fn publish_fair(cluster: &Cluster, keys: impl Iterator<Item = String>) {
    let line = |(n, key): (usize, String)| {
        format!(
            r#"{{"specversion":"1.0","id":"{n}-{key}","source":"/t","type":"t","fairnesskey":"{key}"}}"#
        )
    };
    let lines: Vec<String> = keys.enumerate().map(line).collect();
    let (endpoints, args) = (cluster.endpoints().join(","), ["events", "publish", "orders", "-"]);
    crate::support::mhub_with_input(&endpoints, &args, Some(&lines.join("\n"))).succeeds();
}

/// A counter of the subscription.
pub(crate) fn counter(cluster: &Cluster, name: &str) -> u64 {
    let info = cluster.admin(&["sub", "info", "s", "-o", "json"]).json();
    info[name].as_str().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{name}: {info}"))
}

fn first(range: std::ops::Range<u64>) -> Vec<(u64, u32)> {
    range.map(|offset| (offset, 1)).collect()
}

/// Offset and attempt of what the command line printed.
fn printed(stdout: &str) -> Vec<(u64, u32)> {
    let one = |line: &str| {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        let offset = event["offset"].as_str().unwrap().parse().unwrap();
        (offset, u32::try_from(event["attempt"].as_u64().unwrap()).unwrap())
    };
    stdout.lines().map(one).collect()
}

#[test]
fn the_command_line_takes_acknowledges_fails_and_rejects() {
    let cluster = shop(3, 12, &[]);
    // Any node will do: the client finds the leader.
    let consume = |index: usize, more: &[&str]| {
        let args = ["events", "consume", "s", "-o", "jsonl"];
        let run = mhub(&cluster.nodes[index].endpoint(), &[&args, more].concat());
        run.succeeds();
        printed(&run.stdout())
    };
    assert_eq!(consume(0, &["--limit", "5"]), first(0..5));
    assert_eq!(consume(1, &["--limit", "5", "--ack", "--consumer", "me"]), first(5..10));
    let failed = ["--limit", "1", "--nack", "GATEWAY_DOWN", "--retry-after", "100ms"];
    assert_eq!(consume(2, &failed), first(10..11));
    assert_eq!(consume(0, &["--limit", "1", "--reject", "MALFORMED"]), first(11..12));
    assert_eq!(consume(1, &["--limit", "1"]), [(10, 2)]);
    assert_eq!(consume(2, &["--wait", "1"]), []);
    let counters = ["acked", "nacked", "rejected", "dead"].map(|name| counter(&cluster, name));
    assert_eq!(counters, [11, 1, 1, 1]);
    let endpoint = cluster.nodes[0].endpoint();
    mhub(&endpoint, &["events", "consume", "nope"]).fails(3, "SUBSCRIPTION_NOT_FOUND");
    mhub(&endpoint, &["events", "consume", "s", "--consumer", ""]).fails(2, "consumer");
    publish(&cluster, 1, "");
    mhub(&endpoint, &["events", "consume", "s", "--nack", "no snake", "--limit", "1"])
        .fails(2, "UPPER_SNAKE");
    cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_event_comes_again_in_time_and_a_released_one_at_once() {
    let cluster = shop(3, 2, &[]);
    let mut worker = Worker::new(&cluster, "s", "w");
    let got = worker.pull_some(1).await;
    assert_eq!(offsets(&got), first(0..1));
    let failed_at = Instant::now();
    worker.settle_all(&got, nack(1500)).await;
    let got = worker.pull_some(1).await;
    assert_eq!(offsets(&got), first(1..2));
    worker.settle_all(&got, release()).await;
    let got = worker.pull_some(1).await;
    assert_eq!(offsets(&got), first(1..2), "no attempt is counted");
    worker.settle_all(&got, ack()).await;
    let got = worker.pull_some(1).await;
    assert_eq!(offsets(&got), [(0, 2)]);
    assert!(failed_at.elapsed() >= Duration::from_millis(1450), "{:?}", failed_at.elapsed());
    worker.settle_all(&got, ack()).await;
    assert!(worker.pull(9, 500).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_nobody_settles_runs_out_and_counts() {
    let cluster = shop(3, 1, &["retry.initial=100ms"]);
    let mut idle = Worker::new(&cluster, "s", "idle");
    idle.lease_ms = 1000;
    let lost = idle.pull_some(1).await;
    let mut worker = Worker::new(&cluster, "s", "w");
    let got = worker.pull_some(1).await;
    assert_eq!(offsets(&got), [(0, 2)]);
    let late = idle.settle(vec![whole(&lost[0], ack())]).await;
    assert_eq!(refused(&late[0]), Some(Reason::LeaseExpired));
    worker.settle_all(&got, ack()).await;
    assert_eq!((counter(&cluster, "expired"), counter(&cluster, "acked")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_share_a_subscription_without_overlap() {
    let cluster = shop(3, 2000, &["max_in_flight_per_consumer=200"]);
    let client = client(&cluster);
    let consume = |name: &str| {
        let options = ConsumerOptions { name: name.to_owned(), ..ConsumerOptions::default() };
        let mut consumer = client.consume("s", options);
        tokio::spawn(async move {
            let mut got = Vec::new();
            while let Ok(next) = tokio::time::timeout(Duration::from_secs(3), consumer.next()).await
            {
                let delivery = next.unwrap().unwrap();
                got.extend(delivery.events().map(|e| (e.recorded.offset, e.attempt)));
                delivery.ack().await.unwrap();
            }
            consumer.shutdown(Duration::from_secs(1)).await;
            got
        })
    };
    let (a, b) = (consume("a"), consume("b"));
    let (a, b) = (a.await.unwrap(), b.await.unwrap());
    assert!(!a.is_empty() && !b.is_empty(), "{} and {}", a.len(), b.len());
    let all: BTreeSet<_> = a.iter().chain(&b).copied().collect();
    assert_eq!((a.len() + b.len(), all.len()), (2000, 2000));
    assert_eq!(counter(&cluster, "acked"), 2000);
    assert_eq!(counter(&cluster, "in_flight"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_fairness_keys_share_and_none_waits_for_those_that_are_drained() {
    const KEYS: u64 = 100_000;
    const NOISY: u64 = 10_000;
    let mut cluster = shop(3, 0, &["max_in_flight=100000", "max_in_flight_per_consumer=100000"]);
    publish_fair(&cluster, (0..NOISY).map(|_| "noisy".to_owned()));
    publish_fair(&cluster, (0..KEYS).map(|n| format!("tenant-{n}")));
    let mut worker = Worker::new(&cluster, "s", "w");
    let (mut others, mut noisy, mut early) = (BTreeSet::new(), BTreeSet::new(), 0);
    while ((others.len() + noisy.len()) as u64) < NOISY + KEYS {
        let got = worker.pull_some(4096).await;
        for (offset, attempt) in offsets(&got) {
            assert_eq!(attempt, 1);
            let new = if offset < NOISY { &mut noisy } else { &mut others };
            assert!(new.insert(offset), "{offset} came twice");
        }
        worker.settle_all(&got, ack()).await;
        if (others.len() as u64) < KEYS {
            early = noisy.len();
        }
    }
    assert!(early <= 64, "one of {KEYS} had {early} events before the others had one");
    // All that were used are drained: a new one is seen at once, also by a leader that knows nothing.
    publish_fair(&cluster, std::iter::once("new".to_owned()));
    let published = Instant::now();
    let got = worker.pull_some(1).await;
    assert_eq!(offsets(&got), first(NOISY + KEYS..NOISY + KEYS + 1));
    assert!(published.elapsed() < Duration::from_secs(1), "{:?}", published.elapsed());
    worker.settle_all(&got, ack()).await;
    let leader = cluster.leader();
    cluster.nodes[leader].kill();
    assert!(worker.pull(1, 100).await.is_empty());
    publish_fair(&cluster, std::iter::once("newer".to_owned()));
    let published = Instant::now();
    let got = worker.pull_some(1).await;
    assert_eq!(offsets(&got), first(NOISY + KEYS + 1..NOISY + KEYS + 2));
    assert!(published.elapsed() < Duration::from_secs(1), "{:?}", published.elapsed());
    cluster.nodes[leader].start();
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_key_come_one_by_one_in_order_over_retries() {
    let cluster = shop(3, 0, &["ordering=by_key"]);
    publish(&cluster, 3, "k");
    publish(&cluster, 1, "other");
    let mut worker = Worker::new(&cluster, "s", "w");
    let got = worker.pull_some(10).await;
    assert_eq!(offsets(&got), [(0, 1), (3, 1)], "one of each key");
    let range = message_hub::proto::v1::OffsetRange { first: 0, count: 1 };
    let mut failed = whole(&got[0], nack(700));
    failed.ranges = vec![range];
    assert_eq!(refused(&worker.settle(vec![failed]).await[0]), None);
    worker.settle_all(&got, ack()).await;
    // While the first one waits, the rest of its key waits too.
    assert!(worker.pull(10, 0).await.is_empty());
    for expected in [(0, 2), (1, 1), (2, 1)] {
        let got = worker.pull_some(10).await;
        assert_eq!(offsets(&got), [expected]);
        worker.settle_all(&got, ack()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_renews_what_takes_long_and_gives_back_what_is_left() {
    let cluster = shop(1, 3, &[]);
    let client = client(&cluster);
    let lease = Some(Duration::from_secs(1));
    let options = || ConsumerOptions { lease, events: 2, ..ConsumerOptions::default() };
    let mut consumer = client.consume("s", options());
    let delivery = consumer.next().await.unwrap().unwrap();
    // Much longer than the lease: it is the work that takes its time.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(counter(&cluster, "expired"), 0);
    let all: Vec<u64> = delivery.events().map(|e| e.recorded.offset).collect();
    let nack = Nack { reason: "TWICE".to_owned(), retry_after_ms: Some(0), ..Nack::default() };
    delivery.nack_events(&all[..1], nack).await.unwrap();
    let acked = delivery.ack_events(&all[1..]);
    consumer.shutdown(Duration::from_secs(2)).await;
    acked.await.unwrap();
    let counters = ["nacked", "acked", "expired", "in_flight"].map(|n| counter(&cluster, n));
    assert_eq!(counters, [1, all.len() as u64 - 1, 0, 0]);
    // What is dropped in the middle of work counts as failed, once its lease has run out.
    let mut consumer = client.consume("s", options());
    drop(consumer.next().await.unwrap().unwrap());
    let expired = || counter(&cluster, "expired") > 0;
    assert!(crate::support::poll(crate::support::SERVING_WITHIN, expired));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_never_settles_has_its_bound_and_holds_nobody_up() {
    let cluster = shop(1, 50, &["max_in_flight_per_consumer=10"]);
    let mut greedy = Worker::new(&cluster, "s", "greedy");
    assert_eq!(offsets(&greedy.pull_some(50).await), first(0..10));
    assert!(greedy.pull(50, 300).await.is_empty());
    let mut worker = Worker::new(&cluster, "s", "w");
    for round in 1..5 {
        let got = worker.pull_some(50).await;
        assert_eq!(offsets(&got), first(round * 10..round * 10 + 10));
        worker.settle_all(&got, ack()).await;
    }
    assert_eq!(counter(&cluster, "in_flight"), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_nodes_say_who_leads() {
    let cluster = shop(3, 1, &[]);
    let leader = cluster.leader();
    let follower = (leader + 1) % 3;
    let endpoint = format!("http://{}", cluster.nodes[follower].endpoint());
    use message_hub::proto::v1::delivery_client::DeliveryClient;
    use message_hub::proto::v1::{PullRequest, SettleRequest};
    let mut node = DeliveryClient::connect(endpoint).await.unwrap();
    let (subscription, consumer) = ("s".to_owned(), "w".to_owned());
    let pull = PullRequest { subscription, consumer, ..PullRequest::default() };
    let pulled = from_status(&node.pull(pull).await.unwrap_err());
    let item = whole(&message_hub::proto::v1::LeasedEvents::default(), ack());
    let (subscription, consumer) = ("s".to_owned(), "w".to_owned());
    let settle = SettleRequest { subscription, consumer, items: vec![item] };
    let settled = from_status(&node.settle(settle).await.unwrap_err());
    for refused in [pulled, settled] {
        assert_eq!(refused.reason, Reason::NotLeader);
        let endpoint = cluster.nodes[leader].endpoint();
        assert_eq!(refused.fact("leader_endpoint"), Some(endpoint.as_str()));
    }
}
