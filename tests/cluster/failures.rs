//! What fails: retries and dead letters, moved by hand, over the leader's death.

use std::time::Duration;

use message_hub::model::rejection::Reason;
use message_hub::proto::status::from_status;
use message_hub::proto::v1::events_client::EventsClient;
use message_hub::proto::v1::settlement::Action;
use message_hub::proto::v1::{
    Event, EventBatch, LeasedEvents, Nack, OffsetRange, PublishCall, PullRequest, Reject,
    SettleRequest, Settlement,
};

use prost::Message as _;

use crate::support::worker::{Worker, ack, offsets, refused, whole};
use crate::support::{Cluster, SERVING_WITHIN, mhub, poll};

/// A delivery of one event.
struct Held {
    offset: u64,
    attempt: u32,
    lease: LeasedEvents,
}

impl Held {
    fn settled(&self, action: Action) -> Settlement {
        let ranges = vec![OffsetRange { first: self.offset, count: 1 }];
        Settlement { ranges, ..whole(&self.lease, action) }
    }
}

fn worker(cluster: &Cluster) -> Worker {
    Worker::new(cluster, "billing", "worker")
}

/// Waits for exactly so many events, and gives them in the order of offsets.
async fn pull_all(worker: &mut Worker, count: usize) -> Vec<Held> {
    let mut held = Vec::new();
    while held.len() < count {
        for lease in worker.pull_some(100).await {
            let events = offsets(std::slice::from_ref(&lease));
            let one = |(offset, attempt)| Held { offset, attempt, lease: lease.clone() };
            held.extend(events.into_iter().map(one));
        }
    }
    assert_eq!(held.len(), count);
    held.sort_by_key(|h| h.offset);
    held
}

/// Settles each of them, all of which has to succeed.
async fn settle(worker: &mut Worker, held: &[Held], action: Action) {
    for result in worker.settle(held.iter().map(|h| h.settled(action.clone())).collect()).await {
        assert_eq!(refused(&result), None);
    }
}

/// Why a pull that does not wait is refused.
async fn pull_refused(worker: &Worker) -> Reason {
    let request = PullRequest {
        subscription: "billing".to_owned(),
        consumer: "worker".to_owned(),
        ..PullRequest::default()
    };
    from_status(&worker.connect().await.unwrap().pull(request).await.unwrap_err()).reason
}

fn nack(reason: &str) -> Action {
    Action::Nack(Nack {
        reason: reason.to_owned(),
        detail: "the database was away".to_owned(),
        retry_after_ms: None,
    })
}

fn reject() -> Action {
    Action::Reject(Reject { reason: "BAD_INPUT".to_owned(), detail: String::new() })
}

/// A cluster with topic `orders` of so many events and subscription `billing`.
fn billing(nodes: u64, events: usize, settings: &[&str]) -> Cluster {
    let cluster = Cluster::start(nodes, &[]);
    cluster.admin(&["topic", "create", "orders"]).succeeds();
    let mut create = vec!["sub", "create", "billing", "--topic", "orders"];
    for setting in settings {
        create.extend(["--config", setting]);
    }
    cluster.admin(&create).succeeds();
    for n in 0..events {
        let key = format!("order-{n}");
        cluster.admin(&["events", "publish", "orders", "--data", "x", "--key", &key]).succeeds();
    }
    cluster
}

fn dead_letters(cluster: &Cluster, more: &[&str]) -> Vec<serde_json::Value> {
    let listed = cluster.admin(&[&["dlq", "ls", "billing", "-o", "json"], more].concat()).json();
    listed.as_array().unwrap().clone()
}

#[tokio::test]
async fn the_dead_keep_their_history_and_come_again_after_a_redrive() {
    let mut cluster =
        billing(3, 3, &["max_attempts=2", "retry.strategy=fixed", "retry.initial=100ms"]);
    let mut worker = worker(&cluster);
    let held = pull_all(&mut worker, 3).await;
    settle(&mut worker, &held[..1], nack("TIMEOUT")).await;
    settle(&mut worker, &held[1..2], reject()).await;
    settle(&mut worker, &held[2..], ack()).await;
    let again = pull_all(&mut worker, 1).await;
    assert_eq!((again[0].offset, again[0].attempt), (0, 2));
    settle(&mut worker, &again, nack("TIMEOUT")).await;

    let dead = dead_letters(&cluster, &[]);
    let told: Vec<_> = dead.iter().map(|d| (&d["number"], &d["offset"], &d["reason"])).collect();
    let (rejected, exhausted) = (("1", "1", "REJECTED"), ("2", "0", "MAX_ATTEMPTS"));
    for (told, wanted) in told.iter().zip([rejected, exhausted]) {
        assert_eq!(
            (told.0, told.1, told.2),
            (&wanted.0.into(), &wanted.1.into(), &wanted.2.into())
        );
    }
    assert_eq!(dead.len(), 2);
    assert_eq!(dead_letters(&cluster, &["--reason", "REJECTED"]), dead[..1]);
    assert_eq!(dead_letters(&cluster, &["--key", "order-0"]), dead[1..]);
    assert!(dead_letters(&cluster, &["--type", "none"]).is_empty());
    let story = cluster.admin(&["dlq", "show", "billing", "2", "-o", "json"]).json();
    let attempts = story["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 2);
    for (attempt, number) in attempts.iter().zip([1, 2]) {
        assert_eq!((&attempt["number"], &attempt["reason"]), (&number.into(), &"TIMEOUT".into()));
        assert_eq!(
            (&attempt["consumer"], &attempt["detail"]),
            (&"worker".into(), &"the database was away".into())
        );
    }
    assert_eq!(story["event"]["partitionkey"], "order-0");

    let leader = cluster.leader();
    cluster.nodes[leader].kill();
    cluster.await_serving();
    assert_eq!(dead_letters(&cluster, &[]), dead, "nothing of the dead is lost with the leader");
    let redrive = |more: &[&str]| cluster.admin(&[&["dlq", "redrive", "billing"], more].concat());
    let counted = redrive(&["--all", "--dry-run", "-o", "json"]).json();
    assert_eq!(counted["redriven"], "2");
    assert_eq!(dead_letters(&cluster, &[]).len(), 2, "a dry run moves nothing");
    redrive(&["2"]).succeeds();
    redrive(&["2"]).fails(3, "DEAD_LETTER_NOT_FOUND");
    redrive(&[]).fails(2, "--all");
    let anew = pull_all(&mut worker, 1).await;
    assert_eq!((anew[0].offset, anew[0].attempt), (0, 1), "attempts begin anew");
    settle(&mut worker, &anew, ack()).await;
    redrive(&["--reason", "REJECTED", "--rate", "1000"]).succeeds();
    let anew = pull_all(&mut worker, 1).await;
    settle(&mut worker, &anew, reject()).await;

    cluster.admin(&["dlq", "purge", "billing", "--all"]).fails(2, "CONFIRMATION_REQUIRED");
    assert_eq!(dead_letters(&cluster, &[])[0]["redrives"], 1);
    cluster.admin(&["topic", "rm", "orders", "--yes"]).succeeds();
    let number = dead_letters(&cluster, &[])[0]["number"].as_str().unwrap().to_owned();
    let kept = cluster.admin(&["dlq", "show", "billing", &number, "-o", "json"]).json();
    assert_eq!(kept["event"]["partitionkey"], "order-1", "the dead outlive their topic");
    redrive(&["--all"]).fails(8, "left");
    cluster.admin(&["dlq", "purge", "billing", "--all", "--yes"]).succeeds();
    assert!(dead_letters(&cluster, &[]).is_empty());
    cluster.nodes[leader].start();
    cluster.verify();
}

#[tokio::test]
async fn a_redrive_in_whose_middle_the_leader_dies_moves_everything_once() {
    const EVENTS: usize = 100;
    let mut cluster = crate::delivery::shop(3, EVENTS, &["dead_letters.trip=off"]);
    let mut worker = Worker::new(&cluster, "s", "worker");
    for lease in pull_all(&mut worker, EVENTS).await {
        settle(&mut worker, &[lease], reject()).await;
    }
    let counter = |name: &str| crate::delivery::counter(&cluster, name);
    assert_eq!(counter("dead"), EVENTS as u64);
    // A step of twenty-five a second.
    let endpoints = cluster.all_endpoints().join(",");
    let redrive = move || mhub(&endpoints, &["dlq", "redrive", "s", "--all", "--rate", "25"]);
    let running = std::thread::spawn(redrive.clone());
    assert!(poll(SERVING_WITHIN, || counter("redriven") > 0), "it does not begin");
    let leader = cluster.leader();
    cluster.nodes[leader].kill();
    let run = running.join().unwrap();
    println!("in its middle: {}", run.all());
    let counter = |name: &str| crate::delivery::counter(&cluster, name);
    // Who does not know the outcome repeats the command.
    assert!(run.code() == 0 || poll(SERVING_WITHIN, || redrive().code() == 0), "{}", run.all());
    assert_eq!(counter("redriven"), EVENTS as u64);
    let left = cluster.admin(&["dlq", "ls", "s", "-o", "json"]).json();
    assert_eq!(left, serde_json::json!([]));
    let held = pull_all(&mut worker, EVENTS).await;
    let came: Vec<_> = held.iter().map(|held| (held.offset, held.attempt)).collect();
    assert_eq!(came, (0..EVENTS as u64).map(|offset| (offset, 1)).collect::<Vec<_>>());
    settle(&mut worker, &held, ack()).await;
    assert!(worker.pull(100, 500).await.is_empty());
    cluster.nodes[leader].start();
    cluster.await_answering(leader);
    cluster.verify();
}

#[tokio::test]
async fn a_redrive_of_all_ends_although_they_die_again() {
    const EVENTS: usize = 20;
    let cluster = crate::delivery::shop(1, EVENTS, &["dead_letters.trip=off"]);
    let mut worker = Worker::new(&cluster, "s", "worker");
    for lease in pull_all(&mut worker, EVENTS).await {
        settle(&mut worker, &[lease], reject()).await;
    }
    let endpoints = cluster.all_endpoints().join(",");
    let args = ["dlq", "redrive", "s", "--all", "--rate", "10", "-o", "json"];
    let running = std::thread::spawn(move || mhub(&endpoints, &args));
    // Those of its first step are among the dead again before its second one.
    let mut died_again = 0;
    while !running.is_finished() && died_again < 4 * EVENTS {
        let leased = worker.pull(100, 50).await;
        died_again += offsets(&leased).len();
        if !leased.is_empty() {
            worker.settle_all(&leased, reject()).await;
        }
    }
    let run = running.join().unwrap();
    assert_eq!(run.json()["redriven"], EVENTS.to_string());
    assert_eq!(crate::delivery::counter(&cluster, "redriven"), EVENTS as u64);
}

#[tokio::test]
async fn an_event_that_kills_its_consumers_dies_alone() {
    let settings = ["max_attempts=2", "retry.strategy=fixed", "retry.initial=100ms"];
    let cluster = crate::delivery::shop(3, 0, &settings);
    let poison = Event {
        datacontenttype: "application/json".to_owned(),
        data: vec![0xff; 200_000].into(),
        headers: [("\u{202e}".to_owned(), "\u{feff}".repeat(1000))].into(),
        ..crate::bad_input::event("\u{1f480}")
    };
    let call = PublishCall {
        topic: "orders".to_owned(),
        events: vec![poison.encode_to_vec().into()],
        ..PublishCall::default()
    };
    let leader = format!("http://{}", cluster.nodes[cluster.leader()].endpoint());
    EventsClient::connect(leader).await.unwrap().publish(call).await.unwrap();
    crate::delivery::publish(&cluster, 5, "");
    // Whoever takes it is never heard of again; the others go on.
    let mut doomed = Worker::new(&cluster, "s", "doomed");
    doomed.lease_ms = 1500;
    let taken = doomed.pull_some(1).await;
    assert_eq!(offsets(&taken), [(0, 1)]);
    let mut well = Worker::new(&cluster, "s", "well");
    let others = well.pull_some(10).await;
    assert_eq!(offsets(&others), (1..6).map(|offset| (offset, 1)).collect::<Vec<_>>());
    well.settle_all(&others, ack()).await;
    assert_eq!(offsets(&doomed.pull_some(1).await), [(0, 2)]);
    let dead = || cluster.admin(&["dlq", "ls", "s", "-o", "json"]).json();
    assert!(poll(SERVING_WITHIN, || dead()[0]["reason"] == "MAX_ATTEMPTS"), "{}", dead());
    assert_eq!((&dead()[0]["offset"], &dead()[0]["failures"]), (&"0".into(), &2.into()));
    let story = cluster.admin(&["dlq", "show", "s", "1", "-o", "json"]).json();
    let attempts = story["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 2);
    assert!(attempts.iter().all(|a| a["reason"] == "LEASE_EXPIRED" && a["consumer"] == "doomed"));
    let feed = crate::quotas::feed(&cluster);
    assert_eq!(feed.matches("hub.subscription.leases_expired").count(), 2, "{feed}");
    assert!(well.pull(10, 0).await.is_empty());
    cluster.verify();
}

#[tokio::test]
async fn retries_are_listed_hurried_and_given_up() {
    let cluster = billing(1, 3, &["retry.strategy=fixed", "retry.initial=1h", "retry.max=1h"]);
    let mut worker = worker(&cluster);
    let held = pull_all(&mut worker, 3).await;
    settle(&mut worker, &held, nack("TIMEOUT")).await;
    let list = || cluster.admin(&["retries", "ls", "billing", "-o", "json"]).json();
    let listed = list();
    let retries = listed.as_array().unwrap();
    assert_eq!(retries.len(), 3);
    for (retry, offset) in retries.iter().zip(["0", "1", "2"]) {
        assert_eq!((&retry["topic"], &retry["offset"]), (&"orders".into(), &offset.into()));
        assert_eq!((&retry["standing"], &retry["failures"]), (&"waiting".into(), &1.into()));
    }
    assert!(worker.pull(100, 0).await.is_empty(), "not before their time");
    let moved = |args: &[&str]| cluster.admin(&[&["retries"], args].concat());
    moved(&["now", "billing", "--topic", "orders", "--offset", "1"]).succeeds();
    moved(&["now", "billing", "--topic", "orders", "--offset", "9"]).fails(3, "retries ls");
    moved(&["now", "billing", "--topic", "nope", "--offset", "1"]).fails(3, "TOPIC_NOT_FOUND");
    let hurried = pull_all(&mut worker, 1).await;
    assert_eq!((hurried[0].offset, hurried[0].attempt), (1, 2));
    assert_eq!(list()[1]["standing"], "in_flight");
    moved(&["cancel", "billing", "--all"]).succeeds();
    settle(&mut worker, &hurried, ack()).await;
    assert_eq!(list(), serde_json::json!([]));
    let dead = dead_letters(&cluster, &[]);
    assert_eq!(dead.iter().map(|d| d["offset"].clone()).collect::<Vec<_>>(), ["0", "2"]);
    assert!(dead.iter().all(|d| d["reason"] == "REJECTED" && d["error"] == "CANCELLED"));
}

#[tokio::test]
async fn a_subscription_whose_events_die_pauses_itself_and_says_so() {
    let cluster = billing(1, 25, &[]);
    let mut worker = worker(&cluster);
    let held = pull_all(&mut worker, 25).await;
    settle(&mut worker, &held, reject()).await;
    let info = cluster.admin(&["sub", "info", "billing", "-o", "json"]).json();
    assert_eq!(info["paused"], "tripped");
    assert_eq!(pull_refused(&worker).await, Reason::SubscriptionPaused);
    let feed = cluster.admin(&["events", "read", "hub.lifecycle", "-o", "jsonl"]).stdout();
    assert_eq!(feed.matches("hub.subscription.tripped").count(), 1, "{feed}");
    assert_eq!(feed.matches("hub.subscription.dead_lettered").count(), 1, "{feed}");
    cluster.admin(&["dlq", "redrive", "billing", "--all"]).succeeds();
    cluster.admin(&["sub", "resume", "billing"]).succeeds();
    assert_eq!(pull_all(&mut worker, 25).await.len(), 25);
}

#[tokio::test]
async fn what_cannot_be_delivered_in_time_is_dead() {
    let cluster = billing(1, 0, &[]);
    let event = ["events", "publish", "orders", "--data", "x", "--ttl", "200ms"];
    cluster.admin(&event).succeeds();
    let expired = poll(Duration::from_secs(10), || {
        dead_letters(&cluster, &["--reason", "EXPIRED"]).len() == 1
    });
    assert!(expired, "{:?}", dead_letters(&cluster, &[]));
    let mut worker = worker(&cluster);
    assert!(worker.pull(100, 0).await.is_empty());
}

#[tokio::test]
async fn a_lowered_bound_on_attempts_holds_for_what_is_in_flight() {
    let cluster = billing(1, 2, &["retry.strategy=fixed", "retry.initial=100ms"]);
    let mut worker = worker(&cluster);
    let held = pull_all(&mut worker, 2).await;
    settle(&mut worker, &held, nack("TIMEOUT")).await;
    let held = pull_all(&mut worker, 2).await;
    cluster.admin(&["sub", "update", "billing", "--config", "max_attempts=1"]).succeeds();
    settle(&mut worker, &held, nack("TIMEOUT")).await;
    let dead = dead_letters(&cluster, &["--reason", "MAX_ATTEMPTS"]);
    assert_eq!(dead.iter().map(|d| d["failures"].clone()).collect::<Vec<_>>(), [2, 2]);
}

#[tokio::test]
async fn what_is_in_flight_ends_with_its_subscription() {
    let cluster = billing(1, 1, &[]);
    let mut worker = worker(&cluster);
    let held = pull_all(&mut worker, 1).await;
    cluster.admin(&["sub", "rm", "billing", "--yes"]).succeeds();
    let request = SettleRequest {
        subscription: "billing".to_owned(),
        consumer: "worker".to_owned(),
        items: vec![held[0].settled(ack())],
    };
    let gone = worker.connect().await.unwrap().settle(request).await.unwrap_err();
    assert_eq!(from_status(&gone).reason, Reason::SubscriptionNotFound);
    let create = ["sub", "create", "billing", "--topic", "orders", "--from", "start"];
    cluster.admin(&create).succeeds();
    let anew = pull_all(&mut worker, 1).await;
    let stale = worker.settle(vec![held[0].settled(ack())]).await;
    assert_eq!(refused(&stale[0]), Some(Reason::LeaseExpired), "the new one has other leases");
    settle(&mut worker, &anew, ack()).await;
}

#[tokio::test]
async fn what_is_in_flight_ends_with_its_topic() {
    let cluster = billing(1, 2, &[]);
    let mut worker = worker(&cluster);
    let held = pull_all(&mut worker, 2).await;
    settle(&mut worker, &held[..1], nack("TIMEOUT")).await;
    cluster.admin(&["topic", "rm", "orders", "--yes"]).succeeds();
    let stale = worker.settle(vec![held[1].settled(ack())]).await;
    assert_eq!(refused(&stale[0]), Some(Reason::LeaseExpired));
    let stats = cluster.admin(&["sub", "stats", "billing", "-o", "json"]).json();
    assert_eq!((&stats["in_flight"], &stats["retrying"]), (&"0".into(), &"0".into()));
    cluster.admin(&["topic", "create", "orders"]).succeeds();
    cluster.admin(&["events", "publish", "orders", "--data", "x"]).succeeds();
    let anew = pull_all(&mut worker, 1).await;
    assert_eq!((anew[0].offset, anew[0].attempt), (0, 1), "another topic of the same name");
}

#[tokio::test]
async fn retries_of_many_topics_are_moved_in_steps() {
    let cluster = Cluster::start(1, &[]);
    let create = ["sub", "create", "billing", "--topic", "orders.*"];
    let slow = ["--config", "retry.strategy=fixed", "--config", "retry.initial=5m"];
    cluster.admin(&[&create[..], &slow].concat()).succeeds();
    for topic in ["orders.a", "orders.b", "orders.c"] {
        cluster.admin(&["topic", "create", topic]).succeeds();
        cluster.admin(&["events", "publish", topic, "--data", "x"]).succeeds();
    }
    let mut worker = worker(&cluster);
    let held = pull_all(&mut worker, 3).await;
    settle(&mut worker, &held, nack("TIMEOUT")).await;
    let moved =
        |args: &[&str]| cluster.admin(&[&["retries"], args, &["-o", "json"]].concat()).json();
    let ready = moved(&["now", "billing", "--topic", "orders.b", "--all"]);
    assert_eq!((&ready["ready"], &ready["left"]), (&"1".into(), &"0".into()));
    let ready = moved(&["now", "billing", "--all"]);
    assert_eq!((&ready["ready"], &ready["left"]), (&"2".into(), &"1".into()));
    let again = pull_all(&mut worker, 3).await;
    assert!(again.iter().all(|held| held.attempt == 2));
}

#[tokio::test]
async fn the_feed_can_be_subscribed_to() {
    let cluster = billing(1, 0, &[]);
    cluster.admin(&["sub", "create", "feed", "--topic", "hub.>", "--from", "start"]).succeeds();
    cluster.admin(&["sub", "pause", "billing"]).succeeds();
    let mut watcher = Worker::new(&cluster, "feed", "watcher");
    let told = pull_all(&mut watcher, 1).await;
    let event = EventBatch::decode(told[0].lease.batches[0].clone()).unwrap().events.remove(0);
    let event = Event::decode(event).unwrap();
    assert_eq!((&*event.r#type, &*event.subject), ("hub.subscription.paused", "billing"));
    settle(&mut watcher, &told, ack()).await;
}
