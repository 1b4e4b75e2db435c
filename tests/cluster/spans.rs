//! Spans of traced events, as a collector gets them.

use std::sync::{Arc, Mutex};

use message_hub::client::EventBuilder;
use message_hub::model::rejection::Reason;
use message_hub::proto::v1::PullRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use tonic::{Request, Response, Status};

use crate::delivery::client;
use crate::support::Cluster;
use crate::support::worker::offsets;

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

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
    let collector = Collector::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let service = TraceServiceServer::new(collector.clone());
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let serving = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(serving.serve_with_incoming(incoming));

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
    let spans = collector.0.lock().unwrap().clone();
    let named =
        |name: &str| spans.iter().filter(|span| span.name == name).cloned().collect::<Vec<_>>();
    let published = named("publish orders");
    let parents: Vec<_> =
        published.iter().map(|s| (s.trace_id.clone(), s.parent_span_id.clone())).collect();
    assert_eq!(parents, [(vec![1; 16], vec![1; 8]), (vec![2; 16], vec![2; 8])]);
    assert!(
        published
            .iter()
            .all(|s| s.start_time_unix_nano <= s.end_time_unix_nano && s.start_time_unix_nano > 0)
    );
    let refused = named("publish nowhere");
    assert_eq!((refused.len(), refused[0].trace_id.clone()), (1, vec![4; 16]));
    let status = refused[0].status.clone().unwrap();
    assert!(status.code == 2 && status.message.contains("nowhere"), "{status:?}");
    let delivered = named("deliver s");
    let mut linked: Vec<_> = delivered
        .iter()
        .flat_map(|s| &s.links)
        .map(|l| (l.trace_id.clone(), l.span_id.clone()))
        .collect();
    linked.sort();
    assert_eq!(linked, [(vec![1; 16], vec![1; 8]), (vec![2; 16], vec![2; 8])]);
    assert_eq!(spans.len(), published.len() + refused.len() + delivered.len(), "{spans:?}");
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
