//! Pulling and settling on a single node, in process.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use prost::Message as _;
use tempfile::TempDir;

use super::*;
use crate::config::Config;
use crate::machine::subscription::query::subscription;
use crate::model::command::delivery::{Ack, Action, Nack, SettleItem};
use crate::model::command::subscription::At;
use crate::model::command::{
    CreateSubscription, CreateTopic, Kind, PauseSubscription, ResumeSubscription,
    UpdateSubscription,
};
use crate::model::delivery::{Settled, SubscriptionInfo};
use crate::model::event_run;
use crate::model::filter::{Comparison, Filter, Test};
use crate::model::limits::{CANDIDATE_TOPICS_MAX, DISPATCH_SEARCHES_MAX};
use crate::model::quota::QuotaLimits;
use crate::model::subscription::{SubscriptionConfig, SubscriptionPatch};
use crate::model::topic::{TopicConfig, TopicPatch};
use crate::node::validate::{self, PublishRequest};
use crate::proto::v1;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::{fatal, tasks};
use crate::store::data_dir::DataDir;

mod burials;
mod quotas;

/// Far more than anything here takes, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);

struct Hub {
    node: Arc<Node>,
    _dir: TempDir,
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.node.shutdown().trigger();
    }
}

impl Hub {
    /// A node with topic `orders` and subscription `s` over it.
    async fn start(change: impl FnOnce(&mut SubscriptionConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(dir.path(), None).unwrap();
        let (fatal, _) = fatal::channel();
        let config = Config::default();
        let node = Node::start(&config, data_dir, Shutdown::default(), fatal).await.unwrap();
        node.init().await.unwrap();
        node.create_topic("orders", &TopicPatch::default(), String::new()).await.unwrap();
        let hub = Self { node, _dir: dir };
        let mut config = SubscriptionConfig::defaults("orders");
        change(&mut config);
        let create = CreateSubscription {
            name: "s".to_owned(),
            config,
            start: At::Start(true).into(),
            request_id: String::new(),
        };
        hub.node.execute(Kind::CreateSubscription(create)).await.unwrap();
        hub
    }

    /// Publishes events with these numbers as payload.
    async fn publish(&self, numbers: std::ops::Range<u64>) {
        self.publish_to("orders", numbers).await;
    }

    async fn publish_to(&self, topic: &str, numbers: std::ops::Range<u64>) {
        let event = |number: u64| v1::Event {
            id: number.to_string(),
            source: "/test".to_owned(),
            r#type: if number.is_multiple_of(2) { "even" } else { "odd" }.to_owned(),
            data: vec![b'x'; 100].into(),
            ..v1::Event::default()
        };
        let numbers: Vec<u64> = numbers.collect();
        for some in numbers.chunks(100) {
            let request = PublishRequest {
                topic: topic.to_owned(),
                events: some.iter().map(|n| event(*n).encode_to_vec().into()).collect(),
                ..PublishRequest::default()
            };
            let publish = validate::publish(request, self.node.now()).unwrap();
            self.node.publish("default", publish).await.unwrap();
        }
    }

    async fn pull(&self, request: PullRequest) -> Result<Vec<Delivery>, Rejection> {
        tokio::time::timeout(PATIENCE, self.node.pull(request)).await.unwrap()
    }

    async fn settle(&self, consumer: &str, delivery: &Delivery, action: Action) -> Settled {
        let item = SettleItem {
            lease_id: delivery.lease_id.get(),
            term: delivery.term.get(),
            topic_id: delivery.topic_id.get(),
            ranges: Vec::new(),
            action: Some(action),
        };
        let settled = self.node.settle("s".to_owned(), consumer.to_owned(), vec![item]).await;
        settled.unwrap().remove(0)
    }

    async fn ack(&self, consumer: &str, deliveries: &[Delivery]) {
        for delivery in deliveries {
            let settled = self.settle(consumer, delivery, Action::Ack(Ack {})).await;
            assert_eq!(settled.refused, None);
        }
    }

    fn info(&self) -> SubscriptionInfo {
        subscription(&self.node.raft().state().tables(), "s").unwrap().unwrap()
    }
}

fn request(consumer: &str, max_events: u64, wait: Duration) -> PullRequest {
    PullRequest {
        subscription: "s".to_owned(),
        consumer: consumer.to_owned(),
        service: String::new(),
        max_events,
        max_bytes: PULL_BYTES_MAX,
        lease_ms: 0,
        wait,
    }
}

fn now(consumer: &str, max_events: u64) -> PullRequest {
    request(consumer, max_events, Duration::ZERO)
}

fn patient(consumer: &str, max_events: u64) -> PullRequest {
    request(consumer, max_events, PATIENCE)
}

/// The numbers of the events, and their attempts.
fn numbers(deliveries: &[Delivery]) -> Vec<(u64, u32)> {
    let mut found = Vec::new();
    for delivery in deliveries {
        let mut attempts = delivery.attempts.iter().copied();
        for batch in &delivery.batches {
            for event in event_run::iter(batch.view().unwrap().run) {
                let event = v1::Event::decode(event.unwrap()).unwrap();
                found.push((event.id.parse().unwrap(), attempts.next().unwrap_or(1)));
            }
        }
    }
    found
}

fn first_attempts(numbers: std::ops::Range<u64>) -> Vec<(u64, u32)> {
    numbers.map(|n| (n, 1)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_does_not_come_again() {
    let hub = Hub::start(|_| {}).await;
    hub.publish(0..10).await;
    let first = hub.pull(now("a", 4)).await.unwrap();
    assert_eq!(numbers(&first), first_attempts(0..4));
    let second = hub.pull(now("a", 100)).await.unwrap();
    assert_eq!(numbers(&second), first_attempts(4..10));
    assert!(hub.pull(now("a", 100)).await.unwrap().is_empty());
    hub.ack("a", &first).await;
    hub.ack("a", &second).await;
    assert!(hub.pull(now("a", 100)).await.unwrap().is_empty());
    assert_eq!((hub.info().in_flight, hub.info().counters.acked), (0, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_waits_until_something_is_ready() {
    let hub = Hub::start(|_| {}).await;
    let node = Arc::clone(&hub.node);
    let waiting = tasks::spawn("test", async move { node.pull(patient("a", 10)).await });
    // Only when it has looked in vain does the publish come.
    let nothing = hub.pull(request("b", 1, Duration::from_millis(50))).await.unwrap();
    assert!(nothing.is_empty());
    hub.publish(0..3).await;
    let got = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(numbers(&got), first_attempts(0..3));
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_that_pull_at_once_share_without_overlap() {
    let hub = Hub::start(|config| {
        (config.max_in_flight, config.max_in_flight_per_consumer) = (10_000, 2000);
    })
    .await;
    hub.publish(0..3000).await;
    let pulls = (0..8).map(|n| {
        let (node, consumer) = (Arc::clone(&hub.node), format!("c{n}"));
        tasks::spawn("test", async move {
            let mut got = Vec::new();
            loop {
                let pulled = node.pull(now(&consumer, 64)).await.unwrap();
                if pulled.is_empty() {
                    return got;
                }
                got.extend(numbers(&pulled).into_iter().map(|(number, _)| number));
            }
        })
    });
    let pulls: Vec<_> = pulls.collect();
    let (mut all, mut count) = (BTreeSet::new(), 0);
    for pull in pulls {
        let got = pull.await.unwrap();
        count += got.len();
        all.extend(got);
    }
    assert_eq!((count, all.len()), (3000, 3000));
    assert_eq!(hub.info().counters.delivered, 3000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_keeps_to_its_bytes_but_gives_one_event_at_least() {
    let hub = Hub::start(|_| {}).await;
    hub.publish(0..20).await;
    let got = hub.pull(PullRequest { max_bytes: 1000, ..now("a", 100) }).await.unwrap();
    let bytes: usize = got.iter().map(Delivery::bytes).sum();
    assert!((500..=1000).contains(&bytes), "{bytes}");
    let got = hub.pull(PullRequest { max_bytes: 1, ..now("a", 100) }).await.unwrap();
    assert_eq!(numbers(&got).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_that_bytes_bound_serve_every_fairness_key() {
    let hub = Hub::start(|config| {
        (config.max_in_flight, config.max_in_flight_per_consumer) = (1000, 1000);
    })
    .await;
    for key in ["f1", "f2"] {
        let event = v1::Event {
            id: "1".to_owned(),
            source: "/test".to_owned(),
            r#type: "t".to_owned(),
            fairness_key: key.to_owned(),
            data: vec![b'x'; 1000].into(),
            ..v1::Event::default()
        };
        let events = vec![event.encode_to_vec().into(); 200];
        let request =
            PublishRequest { topic: "orders".to_owned(), events, ..PublishRequest::default() };
        let publish = validate::publish(request, hub.node.now()).unwrap();
        hub.node.publish("default", publish).await.unwrap();
    }
    let mut counts = [0, 0];
    for _ in 0..6 {
        for delivery in hub.pull(PullRequest { max_bytes: 27_000, ..now("a", 100) }).await.unwrap()
        {
            for batch in &delivery.batches {
                for event in event_run::iter(batch.view().unwrap().run) {
                    let event = v1::Event::decode(event.unwrap()).unwrap();
                    counts[usize::from(event.fairness_key == "f2")] += 1;
                }
            }
        }
    }
    assert!(counts.iter().all(|count| *count >= 30), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_in_flight_are_bounded_and_room_is_noticed() {
    let hub = Hub::start(|config| config.max_in_flight_per_consumer = 2).await;
    hub.publish(0..5).await;
    let first = hub.pull(now("a", 10)).await.unwrap();
    assert_eq!(numbers(&first), first_attempts(0..2));
    assert!(hub.pull(now("a", 10)).await.unwrap().is_empty());
    assert_eq!(numbers(&hub.pull(now("b", 1)).await.unwrap()), first_attempts(2..3));
    let node = Arc::clone(&hub.node);
    let waiting = tasks::spawn("test", async move { node.pull(patient("a", 10)).await });
    hub.ack("a", &first).await;
    let got = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(numbers(&got), first_attempts(3..5));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_have_nothing_more_is_told_in_time_whoever_else_pulls() {
    const OTHERS: usize = 100;
    let hub = Hub::start(|config| config.max_in_flight_per_consumer = 2).await;
    let limits = QuotaLimits { in_flight: 1, ..QuotaLimits::default() };
    hub.node.set_quota("shop", limits).await.unwrap();
    hub.publish(0..500).await;
    let of_shop = || PullRequest { service: "shop".to_owned(), ..now("b", 1) };
    assert_eq!(numbers(&hub.pull(now("a", 2)).await.unwrap()).len(), 2);
    assert_eq!(numbers(&hub.pull(of_shop()).await.unwrap()).len(), 1);
    // Of so many pulls, each round serves one.
    let served = Arc::new(AtomicUsize::new(0));
    for n in 0..OTHERS {
        let (node, served) = (Arc::clone(&hub.node), Arc::clone(&served));
        tasks::spawn("test", async move {
            let got = node.pull(patient(&format!("c{n}"), 1)).await.unwrap();
            assert_eq!(numbers(&got).len(), 1);
            served.fetch_add(1, Ordering::SeqCst);
        });
    }
    let (full, over_quota) = tokio::join!(hub.pull(now("a", 1)), hub.pull(of_shop()));
    let before = served.load(Ordering::SeqCst);
    assert!(full.unwrap().is_empty());
    assert_eq!(over_quota.unwrap_err().reason, Reason::QuotaExceeded);
    assert!(before < OTHERS / 2, "{before} of {OTHERS} others went first");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_look_finds_an_event_among_thousands_of_topics() {
    // More than as many searches see as may find nothing in a row.
    let last = CANDIDATE_TOPICS_MAX * DISPATCH_SEARCHES_MAX as usize + 10;
    let hub = Hub::start(|config| config.pattern = "*.x".to_owned()).await;
    let topics: Vec<_> = (0..=last).map(|n| format!("t{n:05}.x")).collect();
    for some in topics.chunks(500) {
        let created = some.iter().map(|name| {
            let config = TopicConfig::defaults();
            let create = CreateTopic { name: name.clone(), config, request_id: String::new() };
            hub.node.execute(Kind::CreateTopic(create))
        });
        futures_util::future::try_join_all(created).await.unwrap();
    }
    for at in [last, last / 2, 0] {
        hub.publish_to(&topics[at], 0..1).await;
        let got = hub.pull(now("a", 1)).await.unwrap();
        assert_eq!(numbers(&got).len(), 1, "of topic {at}");
        hub.ack("a", &got).await;
    }
    assert!(hub.pull(now("a", 1)).await.unwrap().is_empty());
    // Those who wait hear of it, wherever the round is.
    let node = Arc::clone(&hub.node);
    let waiting = tasks::spawn("test", async move { node.pull(patient("a", 1)).await });
    hub.publish_to(&topics[7], 0..1).await;
    let got = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(numbers(&got).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_event_comes_again_when_it_is_due_and_not_before() {
    let hub = Hub::start(|_| {}).await;
    hub.publish(0..1).await;
    let got = hub.pull(now("a", 1)).await.unwrap();
    let nack = Nack { retry_after_ms: Some(700), ..Nack::default() };
    let failed_at = hub.node.now();
    hub.settle("a", &got[0], Action::Nack(nack)).await;
    let again = hub.pull(patient("b", 1)).await.unwrap();
    assert_eq!(numbers(&again), [(0, 2)]);
    let after = hub.node.now().since(failed_at);
    assert!(after >= 700, "after {after} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_runs_out_counts_an_attempt_and_its_token_is_refused() {
    let hub = Hub::start(|config| config.retry.initial_ms = 100).await;
    hub.publish(0..1).await;
    let got = hub.pull(PullRequest { lease_ms: 1000, ..now("a", 1) }).await.unwrap();
    let again = hub.pull(patient("b", 1)).await.unwrap();
    assert_eq!(numbers(&again), [(0, 2)]);
    let late = hub.settle("a", &got[0], Action::Ack(Ack {})).await;
    assert_eq!(late.refused, Some(Reason::LeaseExpired));
    hub.ack("b", &again).await;
    assert_eq!(hub.info().counters.expired, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_takes_is_released() {
    let hub = Hub::start(|_| {}).await;
    hub.publish(0..3).await;
    let deliveries = hub.pull(now("a", 3)).await.unwrap();
    drop(hand_out::HandOut {
        node: Arc::clone(&hub.node),
        subscription: "s".to_owned(),
        consumer: "a".to_owned(),
        deliveries,
    });
    let again = hub.pull(patient("b", 3)).await.unwrap();
    assert_eq!(numbers(&again), first_attempts(0..3));
    assert_eq!(hub.info().counters.released, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_filter_does_not_let_through_is_passed_over() {
    let (attribute, value) = ("type".to_owned(), "odd".to_owned());
    let filter = Filter { test: Some(Test::Exact(Comparison { attribute, value })) };
    let hub = Hub::start(|config| config.filter = Some(filter)).await;
    hub.publish(0..300).await;
    let got = hub.pull(now("a", 50)).await.unwrap();
    assert!(numbers(&got).iter().all(|(number, _)| number % 2 == 1));
    hub.ack("a", &got).await;
    let mut count = numbers(&got).len();
    while count < 150 {
        let got = hub.pull(patient("a", 50)).await.unwrap();
        hub.ack("a", &got).await;
        count += numbers(&got).len();
    }
    assert!(hub.pull(now("a", 50)).await.unwrap().is_empty());
    let info = hub.info();
    assert_eq!((info.counters.acked, info.counters.filtered), (150, 150));
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_change_hold_for_those_who_wait() {
    let hub = Hub::start(|config| config.max_in_flight = 1).await;
    hub.publish(0..3).await;
    assert_eq!(numbers(&hub.pull(now("a", 3)).await.unwrap()), first_attempts(0..1));
    let node = Arc::clone(&hub.node);
    let waiting = tasks::spawn("test", async move { node.pull(patient("a", 3)).await });
    let update = UpdateSubscription {
        name: "s".to_owned(),
        patch: SubscriptionPatch { max_in_flight: Some(100), ..SubscriptionPatch::default() },
        if_revision: 0,
        request_id: String::new(),
    };
    hub.node.execute(Kind::UpdateSubscription(update)).await.unwrap();
    let got = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(numbers(&got), first_attempts(1..3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_subscription_says_so() {
    let hub = Hub::start(|_| {}).await;
    hub.publish(0..1).await;
    let (name, request_id) = ("s".to_owned(), String::new());
    let pause = PauseSubscription { name, request_id, ..PauseSubscription::default() };
    hub.node.execute(Kind::PauseSubscription(pause)).await.unwrap();
    let refused = hub.pull(patient("a", 1)).await.unwrap_err();
    assert_eq!(refused.reason, Reason::SubscriptionPaused);
    let resume = ResumeSubscription { name: "s".to_owned(), ..ResumeSubscription::default() };
    hub.node.execute(Kind::ResumeSubscription(resume)).await.unwrap();
    assert_eq!(numbers(&hub.pull(now("a", 1)).await.unwrap()), first_attempts(0..1));
}

#[tokio::test(flavor = "multi_thread")]
async fn wishes_that_cannot_be_met_are_refused_by_name() {
    let hub = Hub::start(|_| {}).await;
    let of = |subscription: &str| PullRequest {
        subscription: subscription.to_owned(),
        ..patient("a", 1)
    };
    for (wish, reason) in [
        (of("nope"), Reason::SubscriptionNotFound),
        (of("no pe"), Reason::InvalidName),
        (patient("", 1), Reason::InvalidRequest),
        (patient("a", 0), Reason::InvalidRequest),
        (PullRequest { max_bytes: 0, ..patient("a", 1) }, Reason::InvalidRequest),
        (PullRequest { lease_ms: 1, ..patient("a", 1) }, Reason::InvalidRequest),
    ] {
        assert_eq!(hub.pull(wish.clone()).await.unwrap_err().reason, reason, "{wish:?}");
    }
}
