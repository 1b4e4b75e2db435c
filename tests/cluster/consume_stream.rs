//! The consume stream as it is spoken, and what must not be said on it.

use message_hub::model::limits::{
    CREDIT_BYTES_MAX, CREDIT_EVENTS_MAX, NACK_DETAIL_BYTES_MAX, RETRY_AFTER_MS_MAX,
};
use message_hub::model::rejection::{Reason, Rejection};
use message_hub::proto::status::{from_call_error, from_status};
use message_hub::proto::v1::consume_request::Request;
use message_hub::proto::v1::consume_response::Response;
use message_hub::proto::v1::delivery_client::DeliveryClient;
use message_hub::proto::v1::settlement::Action;
use message_hub::proto::v1::{
    ConsumeRequest, ConsumeResponse, Credit, Extend, LeasedEvents, Nack, OffsetRange, OpenConsume,
    PullRequest, SettleBatch, SettleBatchResult, Settlement,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::delivery::{counter, publish, shop};
use crate::support::worker::{Worker, ack, extend, nack, offsets, refused, release, whole};
use crate::support::{Cluster, SERVING_WITHIN, poll};

/// One stream, spoken by hand.
struct Stream {
    requests: mpsc::Sender<ConsumeRequest>,
    responses: Streaming<ConsumeResponse>,
}

impl Stream {
    /// Begins with one request, whatever it is.
    async fn begin(cluster: &Cluster, node: usize, request: Request) -> Self {
        let endpoint = format!("http://{}", cluster.nodes[node].endpoint());
        let client: DeliveryClient<Channel> = DeliveryClient::connect(endpoint).await.unwrap();
        let (requests, queue) = mpsc::channel(16);
        let mut client = client.max_decoding_message_size(64 << 20);
        requests.send(ConsumeRequest { request: Some(request) }).await.unwrap();
        let responses = client.consume(ReceiverStream::new(queue)).await.unwrap().into_inner();
        Self { requests, responses }
    }

    /// Opens it at the leader.
    async fn open(cluster: &Cluster, consumer: &str) -> Self {
        let mut stream = Self::begin(cluster, cluster.leader(), open("s", consumer)).await;
        assert!(matches!(stream.hear().await, Ok(Response::Opened(o)) if o.term > 0));
        stream
    }

    async fn say(&self, request: Request) {
        self.requests.send(ConsumeRequest { request: Some(request) }).await.unwrap();
    }

    /// The next response; the refusal that ends the stream otherwise.
    async fn hear(&mut self) -> Result<Response, Rejection> {
        match tokio::time::timeout(SERVING_WITHIN, self.responses.message()).await.unwrap() {
            Ok(Some(response)) => Ok(response.response.unwrap()),
            Ok(None) => panic!("the stream ended without a word"),
            Err(status) => Err(from_status(&status)),
        }
    }

    async fn hear_deliveries(&mut self) -> Vec<LeasedEvents> {
        match self.hear().await.unwrap() {
            Response::Deliveries(deliveries) => deliveries.leased,
            other => panic!("{other:?}"),
        }
    }

    async fn hear_settled(&mut self) -> SettleBatchResult {
        match self.hear().await.unwrap() {
            Response::Settled(settled) => settled,
            other => panic!("{other:?}"),
        }
    }

    async fn settle(&mut self, batch: u64, items: Vec<Settlement>) -> SettleBatchResult {
        self.say(Request::Settle(SettleBatch { batch, items })).await;
        let settled = self.hear_settled().await;
        assert_eq!(settled.batch, batch);
        settled
    }
}

fn open(subscription: &str, consumer: &str) -> Request {
    let (subscription, consumer) = (subscription.to_owned(), consumer.to_owned());
    Request::Open(OpenConsume { subscription, consumer, lease_ms: 0 })
}

fn credit(events: i64, bytes: i64) -> Request {
    Request::Credit(Credit { events, bytes })
}

#[tokio::test(flavor = "multi_thread")]
async fn credits_bound_what_comes_and_a_clean_end_gives_the_rest_back() {
    let cluster = shop(3, 20, &[]);
    let mut stream = Stream::open(&cluster, "c").await;
    // A single byte lets one event through.
    stream.say(credit(4, 1)).await;
    let got = stream.hear_deliveries().await;
    assert_eq!(offsets(&got), [(0, 1)]);
    // Nothing more without credit: the next thing heard is the answer to a settlement.
    let settled = stream.settle(7, vec![whole(&got[0], ack())]).await;
    assert_eq!(settled.results[0].done, [OffsetRange { first: 0, count: 1 }]);
    stream.say(credit(2, 1 << 20)).await;
    let got = stream.hear_deliveries().await;
    assert_eq!(offsets(&got), [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1)]);
    drop(stream.requests);
    assert!(stream.responses.message().await.unwrap().is_none());
    assert_eq!((counter(&cluster, "released"), counter(&cluster, "in_flight")), (5, 0));
    let mut worker = Worker::new(&cluster, "s", "w");
    assert_eq!(offsets(&worker.pull_some(1).await), [(1, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_goes_without_a_word_loses_its_leases_by_time() {
    let cluster = shop(1, 1, &["lease=1s", "retry.initial=100ms"]);
    let taking = async {
        let mut stream = Stream::open(&cluster, "c").await;
        stream.say(credit(1, 1000)).await;
        stream.hear_deliveries().await;
        // Neither end of the stream is let go of: the connection under it just ends.
        std::mem::forget(stream);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(taking);
            runtime.shutdown_background();
        });
    });
    let mut worker = Worker::new(&cluster, "s", "w");
    let again = worker.pull_some(1).await;
    assert_eq!(offsets(&again), [(0, 2)]);
    assert_eq!((counter(&cluster, "expired"), counter(&cluster, "released")), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_the_leader_s_name_when_leadership_moves() {
    let cluster = shop(3, 2, &[]);
    let mut stream = Stream::open(&cluster, "c").await;
    stream.say(credit(1, 1000)).await;
    let got = stream.hear_deliveries().await;
    cluster.admin(&["cluster", "transfer-leader"]).succeeds();
    let refused_with = stream.hear().await.unwrap_err();
    assert!(matches!(refused_with.reason, Reason::NotLeader | Reason::NoLeader), "{refused_with}");
    // The lease holds at the new leader, with the same token.
    let mut worker = Worker::new(&cluster, "s", "c");
    worker.settle_all(&got, ack()).await;
    assert_eq!(counter(&cluster, "acked"), 1);
    let follower = (cluster.leader() + 1) % 3;
    let mut stream = Stream::begin(&cluster, follower, open("s", "c")).await;
    assert_eq!(stream.hear().await.unwrap_err().reason, Reason::NotLeader);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_not_be_said_ends_the_stream_by_name() {
    let cluster = shop(1, 1, &[]);
    for (first, reason) in [
        (credit(1, 1), Reason::InvalidRequest),
        (open("nope", "c"), Reason::SubscriptionNotFound),
        (open("no pe", "c"), Reason::InvalidName),
        (open("s", ""), Reason::InvalidRequest),
        (open("s", &"x".repeat(129)), Reason::InvalidRequest),
    ] {
        let mut stream = Stream::begin(&cluster, 0, first.clone()).await;
        assert_eq!(stream.hear().await.unwrap_err().reason, reason, "{first:?}");
    }
    for wrong in [
        credit(0, 1000),
        credit(10, 0),
        credit(-5, 1000),
        credit(10, -1),
        credit(i64::MAX, 1),
        credit(1, i64::MAX),
        credit(i64::MIN, i64::MIN),
        credit(CREDIT_EVENTS_MAX + 1, 1),
        credit(1, CREDIT_BYTES_MAX + 1),
        open("s", "c"),
    ] {
        let mut stream = Stream::open(&cluster, "c").await;
        stream.say(wrong.clone()).await;
        assert_eq!(stream.hear().await.unwrap_err().reason, Reason::InvalidRequest, "{wrong:?}");
    }
    let mut stream = Stream::open(&cluster, "c").await;
    stream.requests.send(ConsumeRequest { request: None }).await.unwrap();
    assert_eq!(stream.hear().await.unwrap_err().reason, Reason::InvalidRequest);
    assert_eq!(counter(&cluster, "delivered"), 0);
    cluster.await_serving();
}

#[tokio::test(flavor = "multi_thread")]
async fn settlements_that_cannot_be_are_refused_by_name_and_their_neighbours_done() {
    let cluster = shop(1, 3, &["lease=1s", "retry.initial=10s", "retry.min=10s"]);
    let mut stream = Stream::open(&cluster, "c").await;
    stream.say(credit(3, 1 << 20)).await;
    let got = stream.hear_deliveries().await;
    let lease = &got[0];
    let one = |first: u64| Settlement {
        ranges: vec![OffsetRange { first, count: 1 }],
        ..whole(lease, ack())
    };
    let good = || whole(lease, ack());
    // Item by item: the good ones are done.
    let settled = stream
        .settle(
            1,
            vec![
                Settlement { lease_id: lease.lease_id + 100, ..good() },
                Settlement { term: lease.term + 1, ..good() },
                Settlement { topic_id: lease.topic_id + 1, ..good() },
                one(0),
                one(0),
                one(99),
                whole(lease, extend()),
            ],
        )
        .await;
    let reasons: Vec<_> = settled.results.iter().map(refused).collect();
    let (unknown, expired) = (Some(Reason::LeaseUnknown), Some(Reason::LeaseExpired));
    assert_eq!(reasons, [unknown, unknown, unknown, None, expired, expired, None]);
    // Somebody else's lease is unknown to this consumer.
    let mut other = Worker::new(&cluster, "s", "other");
    let foreign = other.settle(vec![whole(lease, ack())]).await;
    assert_eq!(refused(&foreign[0]), unknown);
    // A batch that breaks a bound is refused as a whole.
    let detail = "x".repeat(NACK_DETAIL_BYTES_MAX + 1);
    let nack_of = |nack: Nack| whole(lease, Action::Nack(nack));
    for bad in [
        whole(lease, nack(RETRY_AFTER_MS_MAX + 1)),
        whole(lease, nack(u64::MAX)),
        nack_of(Nack { reason: "lower".to_owned(), ..Nack::default() }),
        nack_of(Nack { detail, ..Nack::default() }),
        whole(lease, Action::Extend(Extend { lease_ms: 1 })),
        Settlement { action: None, ..good() },
        Settlement { ranges: vec![OffsetRange { first: 1, count: 0 }], ..good() },
    ] {
        let settled = stream.settle(2, vec![one(1), bad.clone()]).await;
        let error = from_call_error(settled.error.unwrap());
        assert_eq!(error.reason, Reason::InvalidRequest, "{bad:?}");
        assert_eq!(error.fact("item"), Some("1"), "{bad:?}");
    }
    assert_eq!(counter(&cluster, "acked"), 1);
    // After its time everything of the lease is refused.
    assert!(poll(SERVING_WITHIN, || counter(&cluster, "expired") == 2));
    let settled = stream.settle(3, vec![one(1), whole(lease, release())]).await;
    assert_eq!(settled.results.iter().map(refused).collect::<Vec<_>>(), [expired, expired]);
    cluster.await_serving();
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_that_cannot_be_are_refused_by_name() {
    let cluster = shop(1, 1, &[]);
    let mut worker = Worker::new(&cluster, "s", "w");
    let got = worker.pull_some(1).await;
    let mut client = worker.connect().await.unwrap();
    let valid = || PullRequest {
        subscription: "s".to_owned(),
        consumer: "w".to_owned(),
        ..PullRequest::default()
    };
    for (wrong, reason) in [
        (PullRequest { subscription: "nope".to_owned(), ..valid() }, Reason::SubscriptionNotFound),
        (PullRequest { subscription: String::new(), ..valid() }, Reason::InvalidName),
        (PullRequest { consumer: String::new(), ..valid() }, Reason::InvalidRequest),
        (PullRequest { lease_ms: 999, ..valid() }, Reason::InvalidRequest),
        (PullRequest { lease_ms: u64::MAX, ..valid() }, Reason::InvalidRequest),
        (PullRequest { wait_ms: u64::MAX, ..valid() }, Reason::InvalidRequest),
    ] {
        let status = client.pull(wrong.clone()).await.unwrap_err();
        assert_eq!(from_status(&status).reason, reason, "{wrong:?}");
    }
    cluster.admin(&["sub", "pause", "s"]).succeeds();
    let status = client.pull(valid()).await.unwrap_err();
    assert_eq!(from_status(&status).reason, Reason::SubscriptionPaused);
    // What is leased may be settled during a pause.
    worker.settle_all(&got, ack()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_never_reads_is_bounded_and_holds_nobody_up() {
    let cluster = shop(1, 0, &["max_in_flight=100000", "max_in_flight_per_consumer=100000"]);
    // 300 events of 100 kB: 30 MB.
    let line = |n: usize| {
        let data = "x".repeat(100_000);
        format!(r#"{{"specversion":"1.0","id":"{n}","source":"/t","type":"t","data":"{data}"}}"#)
    };
    let lines: Vec<String> = (0..300).map(line).collect();
    let endpoint = cluster.nodes[0].endpoint();
    let args = ["events", "publish", "orders", "-"];
    crate::support::mhub_with_input(&endpoint, &args, Some(&lines.join("\n"))).succeeds();
    let stream = Stream::open(&cluster, "deaf").await;
    stream.say(credit(CREDIT_EVENTS_MAX, CREDIT_BYTES_MAX)).await;
    // It stalls: what is in flight stays where it is, far below its credit.
    let mut before = 0;
    let stalls = poll(SERVING_WITHIN, || {
        let now = counter(&cluster, "in_flight");
        std::mem::replace(&mut before, now) == now && now > 0
    });
    assert!(stalls && before < 200, "{before} events in flight");
    let mut worker = Worker::new(&cluster, "s", "w");
    let mut others = 0;
    while others < 300 - before {
        let got = worker.pull_some(100).await;
        others += offsets(&got).len() as u64;
        worker.settle_all(&got, ack()).await;
    }
    publish(&cluster, 1, "");
    assert_eq!(offsets(&worker.pull_some(1).await), [(300, 1)]);
    drop(stream);
}
