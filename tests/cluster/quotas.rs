//! Quotas: enforced at the leader, and kept over its death.

use std::time::{Duration, Instant};

use message_hub::model::rejection::{Reason, Rejection};
use message_hub::proto::SERVICE_METADATA;
use message_hub::proto::status::from_status;
use message_hub::proto::v1::delivery_client::DeliveryClient;
use message_hub::proto::v1::events_client::EventsClient;
use message_hub::proto::v1::transactions_client::TransactionsClient;
use message_hub::proto::v1::{
    Event, LeasedEvents, ProducerRef, PublishCall, PullRequest, TransactRequest, TransactionPart,
};
use prost::Message as _;
use tonic::Request;

use crate::bad_input::event;
use crate::support::worker::{Worker, ack, nack, offsets};
use crate::support::{Cluster, poll};

/// Publishes so many events in one call, at the leader.
async fn publish(cluster: &Cluster, service: Option<&str>, count: usize) -> Result<u64, Rejection> {
    let endpoint = cluster.nodes[cluster.leader()].endpoint();
    let mut client = EventsClient::connect(format!("http://{endpoint}")).await.unwrap();
    let events = (0..count).map(|n| event(&n.to_string()).encode_to_vec().into()).collect();
    let call = PublishCall { topic: "orders".to_owned(), events, ..PublishCall::default() };
    let mut request = Request::new(call);
    if let Some(service) = service {
        request.metadata_mut().insert(SERVICE_METADATA, service.parse().unwrap());
    }
    let answer = client.publish(request).await;
    answer.map(|result| result.into_inner().first_offset).map_err(|status| from_status(&status))
}

/// A call of a hundred events is a hundred seconds' worth: the next one comes too early.
async fn exhausts(cluster: &Cluster) {
    publish(cluster, Some("shop"), 100).await.unwrap();
    let refused = publish(cluster, Some("shop"), 1).await.unwrap_err();
    assert_eq!(refused.reason, Reason::QuotaExceeded);
    assert!((1..=100_000).contains(&refused.retry_delay_ms().unwrap()), "{refused:?}");
}

#[tokio::test]
async fn a_quota_holds_for_its_service_and_outlives_the_leader() {
    let mut cluster = Cluster::start(3, &[]);
    cluster.admin(&["topic", "create", "orders"]).succeeds();
    cluster.admin(&["quota", "set", "shop", "--publish-events", "1"]).succeeds();
    exhausts(&cluster).await;
    assert_eq!(publish(&cluster, None, 1).await, Ok(100), "the refusal left nothing");
    assert_eq!(publish(&cluster, Some("other"), 1).await, Ok(101));
    let odd = publish(&cluster, Some("a b"), 1).await.unwrap_err();
    assert_eq!(odd.reason, Reason::InvalidName);
    let event = ["events", "publish", "orders", "--data", "x", "--service", "shop"];
    cluster.admin(&event).fails(6, "QUOTA_EXCEEDED");

    let leader = cluster.leader();
    cluster.nodes[leader].kill();
    cluster.await_serving();
    let kept = cluster.admin(&["quota", "get", "shop", "-o", "json"]).json();
    assert_eq!(kept["publish_events_per_s"], "1");
    exhausts(&cluster).await;
    cluster.admin(&event).fails(6, "QUOTA_EXCEEDED");

    let listed = cluster.admin(&["quota", "ls", "-o", "json"]).json();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    cluster.admin(&["quota", "rm", "shop"]).fails(2, "CONFIRMATION_REQUIRED");
    cluster.admin(&["quota", "rm", "shop", "--yes"]).succeeds();
    cluster.admin(&event).succeeds();
    cluster.admin(&["quota", "set", "a b", "--publish-bytes", "1"]).fails(2, "INVALID_NAME");
}

fn of<T>(service: &'static str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(SERVICE_METADATA, service.parse().unwrap());
    request
}

#[tokio::test]
async fn a_repeated_call_gets_its_first_answer_although_its_time_and_its_quota_are_over() {
    let cluster = Cluster::start(1, &[]);
    for topic in ["orders", "bills"] {
        cluster.admin(&["topic", "create", topic]).succeeds();
    }
    cluster.admin(&["quota", "set", "shop", "--publish-events", "1"]).succeeds();
    cluster.admin(&["quota", "set", "batch", "--publish-events", "1"]).succeeds();
    let endpoint = format!("http://{}", cluster.nodes[0].endpoint());
    let events = EventsClient::connect(endpoint.clone()).await.unwrap();
    let send = async |service, call: &PublishCall| {
        let answer = events.clone().publish(of(service, call.clone())).await;
        answer.map(tonic::Response::into_inner).map_err(|status| from_status(&status))
    };
    let deadline = std::time::SystemTime::now() + Duration::from_millis(1500);
    let dated = |n: i32| Event { deadline: Some(deadline.into()), ..event(&n.to_string()) };
    let producer = ProducerRef { id: "p".into(), epoch: 1, sequence: 1, acknowledged_below: 1 };
    let call = PublishCall {
        topic: "orders".to_owned(),
        producer: Some(producer),
        events: (0..100).map(|n| dated(n).encode_to_vec().into()).collect(),
        ..PublishCall::default()
    };
    let first = send("shop", &call).await.unwrap();
    let next = PublishCall { producer: None, events: call.events[..1].to_vec(), ..call.clone() };
    assert_eq!(send("shop", &next).await.unwrap_err().reason, Reason::QuotaExceeded);
    let again = send("shop", &call).await.unwrap();
    assert_eq!((again.first_offset, again.duplicate), (first.first_offset, true));
    let late = loop {
        if let Err(refused) = send("other", &next).await {
            break refused.reason;
        }
    };
    assert_eq!(late, Reason::DeadlinePast);
    let again = send("other", &call).await.unwrap();
    assert_eq!((again.first_offset, again.duplicate), (first.first_offset, true));

    // More than a second's worth is taken at once, whatever topics it goes to; none of it twice.
    let transactions = TransactionsClient::connect(endpoint).await.unwrap();
    let part = |topic: &str| TransactionPart {
        topic: topic.to_owned(),
        events: (0..8).map(|n| event(&n.to_string()).encode_to_vec().into()).collect(),
        ..TransactionPart::default()
    };
    let transact = async |request_id: &str| {
        let (parts, request_id) = (vec![part("orders"), part("bills")], request_id.to_owned());
        let request = TransactRequest { parts, request_id, ..TransactRequest::default() };
        let answer = transactions.clone().transact(of("batch", request)).await;
        let answer = answer.map_err(|status| from_status(&status).reason);
        answer.map(|done| done.into_inner().parts[1].duplicate)
    };
    assert_eq!(transact("one").await, Ok(false));
    assert_eq!(transact("two").await, Err(Reason::QuotaExceeded));
    assert_eq!(transact("one").await, Ok(true));
}

/// Pulls up to ten events for the service `shop`, at the leader, without waiting.
async fn pull(cluster: &Cluster, subscription: &str) -> Result<Vec<LeasedEvents>, Rejection> {
    let endpoint = cluster.nodes[cluster.leader()].endpoint();
    let mut client = DeliveryClient::connect(format!("http://{endpoint}")).await.unwrap();
    let mut request = Request::new(PullRequest {
        subscription: subscription.to_owned(),
        consumer: "c".to_owned(),
        max_events: 10,
        ..PullRequest::default()
    });
    request.metadata_mut().insert(SERVICE_METADATA, "shop".parse().unwrap());
    let answer = client.pull(request).await;
    answer.map(|pulled| pulled.into_inner().leased).map_err(|status| from_status(&status))
}

pub(crate) fn feed(cluster: &Cluster) -> String {
    let args = ["events", "read", "hub.lifecycle", "--from", "start", "-o", "jsonl"];
    cluster.admin(&args).stdout()
}

#[tokio::test]
async fn events_in_flight_count_for_their_service_over_subscriptions_and_leaders() {
    let mut cluster = Cluster::start(3, &[]);
    cluster.admin(&["topic", "create", "orders"]).succeeds();
    crate::delivery::publish(&cluster, 20, "");
    for name in ["s", "other"] {
        let create = ["sub", "create", name, "--topic", "orders", "--from", "start"];
        cluster.admin(&create).succeeds();
    }
    cluster.admin(&["quota", "set", "shop", "--in-flight", "6"]).succeeds();
    let mine = pull(&cluster, "s").await.unwrap();
    assert_eq!(offsets(&mine).len(), 6, "of the ten that it asks for");
    let refused = pull(&cluster, "other").await.unwrap_err();
    assert_eq!(refused.reason, Reason::QuotaExceeded);
    assert!(refused.retry_delay_ms().is_some(), "{refused:?}");
    let free = Worker::new(&cluster, "other", "d").pull_some(10).await;
    assert_eq!(offsets(&free).len(), 10, "another service has its own");
    let told = || feed(&cluster).contains("hub.service.quota_hit");
    assert!(poll(Duration::from_secs(10), told), "{}", feed(&cluster));

    let leader = cluster.leader();
    cluster.nodes[leader].kill();
    cluster.await_serving();
    let refused = pull(&cluster, "other").await.unwrap_err();
    assert_eq!(refused.reason, Reason::QuotaExceeded, "a new leader knows what is in flight");
    Worker::new(&cluster, "s", "c").settle_all(&mine, ack()).await;
    let more = pull(&cluster, "other").await.unwrap();
    assert_eq!(offsets(&more).len(), 6);
}

#[tokio::test]
async fn retries_of_a_service_have_their_rate_under_every_leader() {
    const EVENTS: usize = 12;
    const BEFORE: usize = 4;
    let settings = ["retry_budget=100%", "retry_budget.min=1000"];
    let mut cluster = crate::delivery::shop(3, EVENTS, &settings);
    cluster.admin(&["quota", "set", "shop", "--retries", "2"]).succeeds();
    let mut worker = Worker::new(&cluster, "s", "c");
    worker.service = "shop";
    let all = worker.pull_some(100).await;
    assert_eq!(offsets(&all).len(), EVENTS, "first attempts have no rate");
    worker.settle_all(&all, nack(0)).await;
    let mut times = Vec::new();
    let mut take = async |worker: &mut Worker, until: usize| {
        while times.len() < until {
            let some = worker.pull_some(100).await;
            times.extend(offsets(&some).iter().map(|_| Instant::now()));
            worker.settle_all(&some, ack()).await;
        }
        times.clone()
    };
    take(&mut worker, BEFORE).await;
    let told = || feed(&cluster).contains("retries_per_s");
    assert!(poll(Duration::from_secs(10), told), "{}", feed(&cluster));
    let leader = cluster.leader();
    cluster.nodes[leader].kill();
    let times = take(&mut worker, EVENTS).await;
    assert_eq!(times.len(), EVENTS);
    // Two a second are in four windows of a second at least: two whole ones lie between.
    for (leader, times) in [("first", &times[..BEFORE]), ("next", &times[BEFORE..])] {
        let (count, took) = (times.len(), times[times.len() - 1] - times[0]);
        println!("{count} retries of the {leader} leader in {took:?}");
        let whole_windows = (count as u64 / 2).saturating_sub(2);
        assert!(took > Duration::from_millis(900 * whole_windows), "{took:?}");
    }
}

#[tokio::test]
async fn a_backlog_stops_its_publisher_until_it_is_worked_off() {
    let cluster = Cluster::start(3, &[]);
    cluster.admin(&["topic", "create", "orders"]).succeeds();
    cluster.admin(&["quota", "set", "shop", "--backlog-bytes", "100"]).succeeds();
    publish(&cluster, Some("shop"), 50).await.unwrap();
    assert_eq!(publish(&cluster, Some("shop"), 1).await, Ok(50), "nobody waits for these");
    cluster.admin(&["sub", "create", "s", "--topic", "orders", "--from", "start"]).succeeds();
    let event =
        ["events", "publish", "orders", "--data", "x", "--service", "shop", "--timeout", "1"];
    let full = || cluster.admin(&event).code() == 6;
    assert!(poll(Duration::from_secs(20), full), "it still publishes");
    cluster.admin(&event).fails(6, "mhub quota set shop --backlog-bytes");
    let mut worker = Worker::new(&cluster, "s", "c");
    loop {
        let some = worker.pull(100, 0).await;
        if some.is_empty() {
            break;
        }
        worker.settle_all(&some, ack()).await;
    }
    let open = || cluster.admin(&event).code() == 0;
    assert!(poll(Duration::from_secs(20), open), "it may not publish");
}
