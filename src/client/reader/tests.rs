use bytes::Bytes;

use super::*;
use crate::client::fake::{Fake, client, nobody};
use crate::proto::v1::{End, Event, GetEventRequest, RecordedEvent, Start};

fn batch(first: u64, count: u64) -> Bytes {
    let events = (0..count).map(|n| {
        let event = Event { id: (first + n).to_string(), ..Event::default() };
        event.encode_to_vec().into()
    });
    EventBatch {
        topic: "t".into(),
        first_offset: first,
        first_position: first * 10,
        events: events.collect(),
        ..EventBatch::default()
    }
    .encode_to_vec()
    .into()
}

fn answer(batches: &[(u64, u64)], next: u64, at_end: bool) -> ReadResponse {
    let batches = batches.iter().map(|(first, count)| batch(*first, *count)).collect();
    ReadResponse { batches, applied_position: 99, next, at_end }
}

fn request(from: From) -> ReadRequest {
    ReadRequest { topic: "t".into(), from: Some(from), ..ReadRequest::default() }
}

/// The first offset and the number of events of each batch.
fn shape(part: Option<ReadPart>) -> Vec<(u64, usize)> {
    part.unwrap().batches.iter().map(|b| (b.first_offset, b.events.len())).collect()
}

#[tokio::test]
async fn a_tail_goes_on_where_it_was_on_another_node() {
    let (mut a, mut b) = (Fake::start().await, Fake::start().await);
    let client = client(&[&a.endpoint, &b.endpoint], 10_000);
    let mut tail = client.tail(request(From::Start(Start {})));
    let (part, ()) = tokio::join!(tail.next(), async {
        let stream = a.reading().await;
        assert!(stream.is_tail);
        stream.answer(answer(&[(0, 2), (2, 3)], 5, false)).await;
    });
    assert_eq!(shape(part.unwrap()), [(0, 2), (2, 3)]);
    let (part, ()) = tokio::join!(tail.next(), async {
        // The first stream ended with its node; the other node still has to catch up.
        let stream = b.reading().await;
        assert_eq!(stream.request.from, Some(From::Offset(5)));
        stream.refuse(&Rejection::new(Reason::BeyondEnd, "offset 5 is beyond the end")).await;
        let stream = a.reading().await;
        assert_eq!(stream.request.from, Some(From::Offset(5)));
        stream.answer(answer(&[(5, 1)], 6, true)).await;
    });
    assert_eq!(shape(part.unwrap()), [(5, 1)]);
}

#[tokio::test]
async fn the_end_is_pinned_before_a_tail_waits_for_more() {
    let mut fake = Fake::start().await;
    let client = client(&[&fake.endpoint], 10_000);
    let mut tail = client.tail(request(From::End(End {})));
    let (part, ()) = tokio::join!(tail.next(), async {
        let stream = fake.reading().await;
        assert!(!stream.is_tail);
        stream.answer(answer(&[], 42, true)).await;
        let stream = fake.reading().await;
        assert_eq!((stream.is_tail, stream.request.from), (true, Some(From::Offset(42))));
        // It breaks before there was anything.
        stream.refuse(&Rejection::new(Reason::ShuttingDown, "the node stops")).await;
        let stream = fake.reading().await;
        assert_eq!((stream.is_tail, stream.request.from), (true, Some(From::Offset(42))));
        stream.answer(answer(&[(42, 1)], 43, false)).await;
    });
    assert_eq!(shape(part.unwrap()), [(42, 1)]);
}

#[tokio::test]
async fn a_gap_or_a_repetition_is_an_error_never_silent() {
    for wrong in [4, 6] {
        let mut fake = Fake::start().await;
        let client = client(&[&fake.endpoint], 10_000);
        let mut read = client.read(request(From::Start(Start {})));
        let (parts, ()) = tokio::join!(async { (read.next().await, read.next().await) }, async {
            let stream = fake.reading().await;
            stream.answer(answer(&[(0, 5)], 5, false)).await;
            stream.answer(answer(&[(wrong, 1)], wrong + 1, true)).await;
        });
        assert_eq!(shape(parts.0.unwrap()), [(0, 5)]);
        assert_eq!(parts.1.unwrap_err().reason, Reason::Internal, "{wrong}");
    }
}

#[tokio::test]
async fn a_broken_read_counts_what_it_has_toward_its_limit() {
    let mut fake = Fake::start().await;
    let client = client(&[&fake.endpoint], 10_000);
    let mut read = client.read(ReadRequest { limit: 7, ..request(From::Start(Start {})) });
    let (parts, ()) =
        tokio::join!(async { (read.next().await, read.next().await, read.next().await) }, async {
            fake.reading().await.answer(answer(&[(0, 5)], 5, false)).await;
            let stream = fake.reading().await;
            assert_eq!((stream.request.limit, stream.request.from), (2, Some(From::Offset(5))));
            stream.answer(answer(&[(5, 2)], 7, false)).await;
        });
    assert_eq!((shape(parts.0.unwrap()), shape(parts.1.unwrap())), (vec![(0, 5)], vec![(5, 2)]));
    assert!(parts.2.unwrap().is_none());
}

#[tokio::test]
async fn backward_goes_on_below_what_it_has_and_ends_at_the_start() {
    let mut fake = Fake::start().await;
    let client = client(&[&fake.endpoint], 10_000);
    let mut read = client.read(ReadRequest { backward: true, ..request(From::End(End {})) });
    let (parts, ()) =
        tokio::join!(async { (read.next().await, read.next().await, read.next().await) }, async {
            fake.reading().await.answer(answer(&[(8, 2), (6, 2)], 5, false)).await;
            let stream = fake.reading().await;
            assert_eq!(stream.request.from, Some(From::Offset(5)));
            stream.answer(answer(&[(0, 6)], 0, false)).await;
        });
    assert_eq!(shape(parts.0.unwrap()), [(8, 2), (6, 2)]);
    assert_eq!(shape(parts.1.unwrap()), [(0, 6)]);
    assert!(parts.2.unwrap().is_none());
}

#[tokio::test]
async fn a_refused_read_says_why() {
    let mut fake = Fake::start().await;
    let client = client(&[&fake.endpoint], 10_000);
    let mut read = client.read(request(From::Offset(9)));
    let (part, ()) = tokio::join!(read.next(), async {
        let stream = fake.reading().await;
        stream.refuse(&Rejection::new(Reason::BeyondEnd, "beyond the end").with("next", 3)).await;
    });
    let rejection = part.unwrap_err();
    assert_eq!((rejection.reason, rejection.fact("next")), (Reason::BeyondEnd, Some("3")));
    assert!(read.next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_point_read_passes_over_nodes_that_cannot_answer() {
    let mut fake = Fake::start().await;
    let client = client(&[&nobody(), &fake.endpoint], 10_000);
    fake.answer_event(Err(Rejection::new(Reason::NoLeader, "no leader yet"))).await;
    fake.answer_event(Ok(RecordedEvent { offset: 5, ..RecordedEvent::default() })).await;
    assert_eq!(client.event(GetEventRequest::default()).await.unwrap().offset, 5);
    assert_eq!(fake.events_asked(), 2);
}

#[tokio::test]
async fn a_point_read_follows_a_hint_and_gives_up_in_time() {
    let (mut follower, mut leader) = (Fake::start().await, Fake::start().await);
    let hint =
        Rejection::new(Reason::NotLeader, "ask there").with("leader_endpoint", &leader.endpoint);
    follower.answer_event(Err(hint)).await;
    leader.answer_event(Ok(RecordedEvent::default())).await;
    client(&[&follower.endpoint], 10_000).event(GetEventRequest::default()).await.unwrap();
    assert_eq!((follower.events_asked(), leader.events_asked()), (1, 1));

    let refused = client(&[&nobody()], 300).event(GetEventRequest::default()).await.unwrap_err();
    assert_eq!(refused.reason, Reason::Unreachable);
    let silent = client(&[&follower.endpoint], 300).event(GetEventRequest::default()).await;
    assert_eq!(silent.unwrap_err().reason, Reason::DeadlineExceeded);
}
