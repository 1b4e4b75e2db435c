//! Quotas: enforced at the leader, and kept over its death.

use message_hub::model::rejection::{Reason, Rejection};
use message_hub::proto::SERVICE_METADATA;
use message_hub::proto::status::from_status;
use message_hub::proto::v1::PublishCall;
use message_hub::proto::v1::events_client::EventsClient;
use prost::Message as _;
use tonic::Request;

use crate::bad_input::event;
use crate::support::Cluster;

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
