//! What the leader tells of subscriptions by itself: how long their events waited, and which lag.

use std::time::{Duration, Instant};

use message_hub::proto::v1::PublishCall;
use message_hub::proto::v1::events_client::EventsClient;
use prost::Message as _;

use crate::bad_input::event;
use crate::delivery::{counter, shop};
use crate::process::get;
use crate::quotas::feed;
use crate::support::worker::{Worker, ack, nack, offsets, whole};
use crate::support::{Cluster, poll};

/// A value of subscription `s` among the metrics of a node.
fn value(cluster: &Cluster, index: usize, name: &str, labels: &str) -> Option<f64> {
    let line = format!("mhub_subscription_{name}{{{labels}subscription=\"s\"}} ");
    let metrics = get(&cluster.nodes[index], "/metrics").1;
    metrics.lines().find_map(|l| l.strip_prefix(line.as_str())?.parse().ok())
}

#[tokio::test]
async fn metrics_tell_how_long_events_waited_since_they_were_ready() {
    const LONG_MS: u64 = 6000;
    let cluster = shop(3, 2, &[]);
    let published_at = Instant::now();
    let delayed = ["events", "publish", "orders", "--data", "x", "--delay", "6s"];
    cluster.admin(&delayed).succeeds();
    let mut worker = Worker::new(&cluster, "s", "w");
    let waited = published_at.elapsed();
    let both = worker.pull_some(10).await;
    assert_eq!(offsets(&both), [(0, 1), (1, 1)]);
    worker.settle(vec![whole(&both[0], nack(LONG_MS))]).await;
    let mut later = Vec::new();
    while later.len() < 3 {
        let some = worker.pull_some(10).await;
        later.extend(offsets(&some));
        worker.settle_all(&some, ack()).await;
    }
    later.sort_unstable();
    assert_eq!(later, [(0, 2), (1, 2), (2, 1)]);
    let leader = cluster.leader();
    let of_leader =
        |name: &str, labels: &str| value(&cluster, leader, name, labels).unwrap_or(-1.0);
    assert_eq!(of_leader("dispatch_latency_seconds_count", ""), 5.0);
    assert_eq!(of_leader("dispatch_latency_seconds_bucket", "le=\"+Inf\","), 5.0);
    assert_eq!(of_leader("dispatch_latency_seconds_bucket", "le=\"5.0\","), 5.0);
    let sum = of_leader("dispatch_latency_seconds_sum", "");
    println!("{sum} s for five events, the first two of which waited {waited:?} and more");
    assert!(sum > waited.as_secs_f64(), "{sum} s");
    // Neither a delay nor the wait for a retry counts.
    assert!(sum < Duration::from_millis(LONG_MS).as_secs_f64(), "{sum} s");
    let follower = (leader + 1) % 3;
    assert_eq!(value(&cluster, follower, "dispatch_latency_seconds_count", ""), None);
}

/// Publishes so many small events.
async fn publish(cluster: &Cluster, count: usize) {
    let endpoint = cluster.nodes[cluster.leader()].endpoint();
    let mut client = EventsClient::connect(format!("http://{endpoint}")).await.unwrap();
    let event: bytes::Bytes = event("x").encode_to_vec().into();
    for first in (0..count).step_by(512) {
        let events = vec![event.clone(); 512.min(count - first)];
        let call = PublishCall { topic: "orders".to_owned(), events, ..PublishCall::default() };
        client.publish(call).await.unwrap();
    }
}

#[tokio::test]
async fn the_feed_tells_of_a_subscription_that_lags_until_it_has_caught_up() {
    const EVENTS: usize = 100_001;
    // The leader looks every ten seconds.
    const TOLD_WITHIN: Duration = Duration::from_secs(40);
    let settings = ["max_in_flight=100000", "max_in_flight_per_consumer=100000"];
    let mut cluster = shop(3, 0, &settings);
    publish(&cluster, EVENTS).await;
    let told = |cluster: &Cluster, what: &str| feed(cluster).matches(what).count();
    let (lags, caught_up) = ("hub.subscription.lagging", "hub.subscription.caught_up");
    assert!(poll(TOLD_WITHIN, || told(&cluster, lags) == 1), "{}", feed(&cluster));
    let leader = cluster.leader();
    cluster.nodes[leader].kill();
    cluster.await_serving();
    assert!(poll(TOLD_WITHIN, || told(&cluster, lags) == 2), "a new leader tells again");
    let mut worker = Worker::new(&cluster, "s", "w");
    while counter(&cluster, "acked") <= EVENTS as u64 / 2 + 1 {
        let some = worker.pull_some(4096).await;
        worker.settle_all(&some, ack()).await;
    }
    assert!(poll(TOLD_WITHIN, || told(&cluster, caught_up) == 1), "{}", feed(&cluster));
    assert_eq!(told(&cluster, lags), 2, "each is told once");
}
