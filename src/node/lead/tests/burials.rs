//! Dead letters of more bytes than one entry writes.

use super::*;
use crate::model::command::delivery::Reject;
use crate::model::limits::DEAD_LETTERS_BURIED_BYTES;

#[tokio::test(flavor = "multi_thread")]
async fn the_ticker_writes_the_dead_letters_that_one_settlement_leaves() {
    const EVENTS: u64 = 9;
    let hub = Hub::start(|config| config.dead_letters.trip_disabled = true).await;
    let event = v1::Event {
        id: "1".to_owned(),
        source: "/test".to_owned(),
        r#type: "t".to_owned(),
        data: vec![b'x'; DEAD_LETTERS_BURIED_BYTES / 2].into(),
        ..v1::Event::default()
    };
    let events = (0..EVENTS).map(|_| event.encode_to_vec().into()).collect();
    let request =
        PublishRequest { topic: "orders".to_owned(), events, ..PublishRequest::default() };
    let publish = validate::publish(request, hub.node.now()).unwrap();
    hub.node.publish("default", publish).await.unwrap();
    let mut applied = hub.node.raft().applied();
    let deliveries = hub.pull(now("a", 100)).await.unwrap();
    for delivery in &deliveries {
        let settled = hub.settle("a", delivery, Action::Reject(Reject::default())).await;
        assert_eq!(settled.refused, None);
    }
    assert_eq!((hub.info().in_flight, hub.info().counters.rejected), (0, EVENTS));
    let all = async {
        while hub.info().dead_letters < EVENTS {
            applied.changed().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, all).await.unwrap();
    assert_eq!(hub.info().counters.dead, EVENTS);
    assert!(hub.pull(now("a", 100)).await.unwrap().is_empty());
}
