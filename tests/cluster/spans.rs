//! Spans of traced events, as a collector gets them.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use message_hub::client::EventBuilder;
use message_hub::model::rejection::Reason;
use message_hub::proto::v1::key_expectation::Expect;
use message_hub::proto::v1::{
    BeginTransactionRequest, CommitTransactionRequest, KeyExpectation, PullRequest,
    StageTransactionRequest, TransactRequest, TransactionPart,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tonic::{Request, Response, Status};

use crate::delivery::client;
use crate::support::Cluster;
use crate::support::worker::offsets;

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

impl Collector {
    /// One that listens, and where.
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let service = TraceServiceServer::new(collector.clone());
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let serving = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(serving.serve_with_incoming(incoming));
        (collector, endpoint)
    }

    fn spans(&self) -> Vec<Span> {
        self.0.lock().unwrap().clone()
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes = request.into_inner().resource_spans.into_iter().flat_map(|of| of.scope_spans);
        self.0.lock().unwrap().extend(scopes.flat_map(|scope| scope.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn traceparent(trace: u8, span: u8, flags: u8) -> String {
    format!(
        "00-{}-{}-{flags:02x}",
        format!("{trace:02x}").repeat(16),
        format!("{span:02x}").repeat(8)
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn traced_events_are_told_to_the_collector_with_links() {
    let (collector, endpoint) = Collector::start().await;
    let mut cluster = Cluster::start(1, &[("MHUB_TRACE_OTLP_ENDPOINT", &endpoint)]);
    cluster.admin(&["topic", "create", "orders"]).succeeds();
    cluster.admin(&["sub", "create", "s", "--topic", "orders"]).succeeds();
    let client = client(&cluster);
    let publisher = client.publisher();
    let publish = async |topic: &str, traceparent: &str| {
        let event = EventBuilder::new("/t", "t").data("x").traceparent(traceparent).build();
        publisher.publish(topic, event).await
    };
    publish("orders", &traceparent(1, 1, 1)).await.unwrap();
    publish("orders", &traceparent(2, 2, 1)).await.unwrap();
    // Not sampled, and no trace context at all: carried, but not told.
    publish("orders", &traceparent(3, 3, 0)).await.unwrap();
    publish("orders", "nonsense").await.unwrap();
    let refused = publish("nowhere", &traceparent(4, 4, 1)).await.unwrap_err();
    assert_eq!(refused.reason, Reason::TopicNotFound);
    let (subscription, consumer) = ("s".to_owned(), "c".to_owned());
    let pull =
        PullRequest { subscription, consumer, max_events: 10, wait_ms: 5000, ..Default::default() };
    let mut events = 0;
    while events < 4 {
        let pulled = client.pull(pull.clone()).await.unwrap();
        events += offsets(&pulled.leased).len();
    }
    // A node that stops sends what waits.
    assert_eq!(cluster.nodes[0].stop(), Some(0));
    let spans = collector.spans();
    let named =
        |name: &str| spans.iter().filter(|span| span.name == name).cloned().collect::<Vec<_>>();
    let published = named("publish orders");
    assert_eq!(published.iter().map(linked).collect::<Vec<_>>(), [[1], [2]]);
    assert!(
        published
            .iter()
            .all(|s| s.start_time_unix_nano <= s.end_time_unix_nano && s.start_time_unix_nano > 0)
    );
    let refused = named("publish nowhere");
    assert_eq!(refused.iter().map(linked).collect::<Vec<_>>(), [[4]]);
    let status = refused[0].status.clone().unwrap();
    assert!(status.code == 2 && status.message.contains("nowhere"), "{status:?}");
    let delivered = named("deliver orders");
    let mut links: Vec<_> = delivered.iter().flat_map(linked).collect();
    links.sort_unstable();
    assert_eq!(links, [1, 2]);
    assert_eq!(spans.len(), published.len() + refused.len() + delivered.len(), "{spans:?}");
    assert!(spans.iter().all(|span| span.parent_span_id.is_empty()), "{spans:?}");
    assert_conventional(&published[0], ["publish", "send", "orders"], None);
    assert_conventional(&delivered[0], ["deliver", "receive", "orders"], Some("s"));
}

/// What the conventions for messaging ask of a span: operation, its type, and the topic; of a delivery the
/// subscription, too.
fn assert_conventional(span: &Span, wanted: [&str; 3], subscription: Option<&str>) {
    let told = |name: &str| match attribute(span, &format!("messaging.{name}")) {
        Some(Value::StringValue(text)) => Some(text),
        _ => None,
    };
    assert_eq!(told("system").as_deref(), Some("mhub"));
    let names = ["operation.name", "operation.type", "destination.name"];
    assert_eq!(names.map(told), wanted.map(|text| Some(text.to_owned())));
    assert_eq!(told("destination.subscription.name").as_deref(), subscription);
}

fn attribute(span: &Span, name: &str) -> Option<Value> {
    let found = span.attributes.iter().find(|attribute| attribute.key == name)?;
    found.value.clone()?.value
}

/// What a span has links to, by the number that each context was made of.
fn linked(span: &Span) -> Vec<u8> {
    for link in &span.links {
        let number = link.span_id[0];
        assert_eq!((&link.trace_id, &link.span_id), (&vec![number; 16], &vec![number; 8]));
    }
    span.links.iter().map(|link| link.span_id[0]).collect()
}

/// What a span of a publish tells: its name, what it has links to, the number of its events where there are
/// several, and whether it was refused. It is a child of nothing.
fn told(span: &Span) -> (&str, Vec<u8>, i64, bool) {
    assert!(span.parent_span_id.is_empty(), "{span:?}");
    let count = match attribute(span, "messaging.batch.message_count") {
        Some(Value::IntValue(count)) => count,
        _ => 0,
    };
    let refused = span.status.as_ref().is_some_and(|status| status.code == 2);
    (&span.name, linked(span), count, refused)
}

fn traced_part(topic: &str, contexts: &[u8]) -> TransactionPart {
    let event = |n: &u8| {
        let event = EventBuilder::new("/t", "t").data("x").traceparent(traceparent(*n, *n, 1));
        Bytes::from(event.build().encode_to_vec())
    };
    let events = contexts.iter().map(event).collect();
    TransactionPart { topic: topic.to_owned(), expectations: Vec::new(), events }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_and_transactions_are_told_alike_also_those_that_are_staged() {
    let (collector, endpoint) = Collector::start().await;
    let mut cluster = Cluster::start(1, &[("MHUB_TRACE_OTLP_ENDPOINT", &endpoint)]);
    for topic in ["a", "b"] {
        cluster.admin(&["topic", "create", topic]).succeeds();
    }
    let client = client(&cluster);
    // A call with events of several contexts is one span.
    let events = traced_part("a", &[1, 2, 2]).events;
    client.publisher().publish_all("a", events, Vec::new()).await.unwrap();
    let parts = vec![traced_part("a", &[3]), traced_part("b", &[4, 4])];
    client.transact(TransactRequest { parts, ..Default::default() }).await.unwrap();
    let begin =
        async || client.begin_transaction(BeginTransactionRequest::default()).await.unwrap().id;
    let stage = async |id: u64, part: TransactionPart| {
        let request = StageTransactionRequest { id, parts: vec![part], ..Default::default() };
        client.stage_transaction(request).await
    };
    let commit = async |id: u64| client.commit_transaction(CommitTransactionRequest { id }).await;
    let id = begin().await;
    for part in [traced_part("a", &[5]), traced_part("b", &[6]), traced_part("a", &[7])] {
        stage(id, part).await.unwrap();
    }
    commit(id).await.unwrap();
    // Nothing happens once more, so nothing is told.
    commit(id).await.unwrap();
    let id = begin().await;
    let expectations = vec![KeyExpectation { key: "k".to_owned(), expect: Some(Expect::Exact(9)) }];
    stage(id, TransactionPart { expectations, ..traced_part("a", &[8]) }).await.unwrap();
    assert_eq!(commit(id).await.unwrap_err().reason, Reason::VersionConflict);
    let gone = stage(id, traced_part("gone", &[9])).await.unwrap_err();
    assert_eq!(gone.reason, Reason::TopicNotFound);
    assert_eq!(cluster.nodes[0].stop(), Some(0));
    let spans = collector.spans();
    let told: Vec<_> = spans.iter().map(told).collect();
    let expected = [
        ("publish a", vec![1, 2], 3, false),
        ("publish a", vec![3], 0, false),
        ("publish b", vec![4], 2, false),
        ("publish a", vec![5, 7], 2, false),
        ("publish b", vec![6], 0, false),
        ("publish a", vec![8], 0, true),
        ("publish gone", vec![9], 0, true),
    ];
    assert_eq!(told, expected);
}

/// Nothing waits for a collector that is not there.
#[test]
fn a_collector_that_is_away_holds_up_nothing() {
    let nobody = format!("http://127.0.0.1:{}", crate::support::free_port());
    let mut cluster = Cluster::start(1, &[("MHUB_TRACE_OTLP_ENDPOINT", &nobody)]);
    cluster.admin(&["topic", "create", "orders"]).succeeds();
    let parent = traceparent(1, 1, 1);
    for _ in 0..3 {
        let args =
            ["events", "publish", "orders", "--type", "t", "--data", "x", "--traceparent", &parent];
        cluster.admin(&args).succeeds();
    }
    assert_eq!(cluster.nodes[0].stop(), Some(0));
}
