use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::poll;
use prost::Message as _;

use super::*;
use crate::client::fake::{Fake, PublishStream, client, nobody};
use crate::client::{Client, ClientOptions};
use crate::proto::v1::key_expectation::Expect;

type Outcome = Result<Receipt, Rejection>;

fn event(id: &str) -> Bytes {
    Event { id: id.into(), source: "/s".into(), r#type: "t".into(), ..Event::default() }
        .encode_to_vec()
        .into()
}

fn keyed(key: &str) -> Bytes {
    let event = Event {
        id: "1".into(),
        source: "/s".into(),
        r#type: "t".into(),
        key: key.into(),
        ..Event::default()
    };
    event.encode_to_vec().into()
}

fn ids(call: &PublishCall) -> Vec<String> {
    call.events.iter().map(|e| Event::decode(e.clone()).unwrap().id).collect()
}

fn refusal(reason: Reason) -> Rejection {
    Rejection::new(reason, "refused by the test")
}

use crate::proto::v1::PublishCall;

/// Starts publishes without waiting for them: polled once, they are in the queue.
async fn start<F: Future>(publishes: impl IntoIterator<Item = F>) -> Vec<Pin<Box<F>>> {
    let mut started = Vec::new();
    for publish in publishes {
        let mut publish = Box::pin(publish);
        assert!(poll!(&mut publish).is_pending());
        started.push(publish);
    }
    started
}

/// A publisher with one call on its way, so that everything else waits for room.
async fn busy(
    fake: &mut Fake,
    client: &Client,
) -> (Publisher, Pending, PublishStream, PublishCall) {
    let publisher = client.publisher();
    let first = publisher.submit("t", event("first")).await.unwrap();
    let mut stream = fake.publish_stream().await;
    let call = stream.call().await;
    (publisher, first, stream, call)
}

#[tokio::test]
async fn a_lone_publish_goes_at_once() {
    let mut fake = Fake::start().await;
    let client = client(&[&fake.endpoint], 10_000);
    let (_publisher, first, stream, call) = busy(&mut fake, &client).await;
    assert_eq!((call.topic.as_str(), ids(&call)), ("t", vec!["first".to_owned()]));
    let producer = call.producer.clone().unwrap();
    assert_eq!((producer.epoch, producer.sequence, producer.acknowledged_below), (1, 1, 1));
    stream.accept(&call, 7).await;
    let receipt = first.await.unwrap();
    assert_eq!((receipt.offset, receipt.position, receipt.duplicate), (7, 1007, false));
}

#[tokio::test]
async fn concurrent_publishes_are_joined_per_topic_up_to_the_bound() {
    let mut fake = Fake::start().await;
    let client = client(&[&fake.endpoint], 10_000);
    let (publisher, first, mut stream, call) = busy(&mut fake, &client).await;
    let others: Vec<_> = (0..600).map(|n| (["t", "u"][n % 2], event(&n.to_string()))).collect();
    let more: Vec<_> = (0..CALL_EVENTS_MAX).map(|n| ("u", event(&format!("more{n}")))).collect();
    let publishes = others.into_iter().chain(more);
    let started = start(publishes.map(|(t, e)| publisher.publish_encoded(t, e))).await;
    stream.accept(&call, 0).await;
    assert_eq!(first.await.unwrap().offset, 0);
    let mut sizes = Vec::new();
    for first_offset in [1, 10_000, 20_000] {
        let call = stream.call().await;
        sizes.push((call.topic.clone(), call.events.len()));
        assert_eq!(call.producer.as_ref().unwrap().acknowledged_below, call.call);
        stream.accept(&call, first_offset).await;
    }
    let size = |topic: &str, count| (topic.to_owned(), count);
    assert_eq!(sizes, [size("t", 300), size("u", CALL_EVENTS_MAX), size("u", 300)]);
    let offsets: Vec<u64> =
        join_all(started).await.into_iter().map(|r| r.unwrap().offset).collect();
    assert_eq!(&offsets[..4], [1, 10_000, 2, 10_001]);
    assert_eq!(offsets[600 + CALL_EVENTS_MAX - 1], 20_299);
}

#[tokio::test]
async fn what_has_no_answer_is_sent_again_in_order_with_its_sequence() {
    let mut fake = Fake::start().await;
    let client = client(&[&fake.endpoint], 10_000);
    let publisher = client.publisher();
    let calls = (0..3).map(|n| publisher.publish_all("t", vec![event(&n.to_string()); 2], vec![]));
    let started = start(calls).await;
    let mut stream = fake.publish_stream().await;
    let sent = [stream.call().await, stream.call().await, stream.call().await];
    stream.accept(&sent[1], 5).await;
    drop(stream);

    let mut stream = fake.publish_stream().await;
    let again = [stream.call().await, stream.call().await];
    // The middle one may or may not have been heard of before the break.
    assert_eq!(again[0], sent[0]);
    let last = if again[1] == sent[1] { stream.call().await } else { again[1].clone() };
    assert_eq!(last, sent[2]);
    for (call, offset) in [(&sent[0], 1), (&sent[1], 5), (&sent[2], 9)] {
        stream.accept(call, offset).await;
    }
    let offsets: Vec<u64> =
        join_all(started).await.into_iter().map(|r| r.unwrap().first_offset).collect();
    assert_eq!(offsets, [1, 5, 9]);
}

#[tokio::test]
async fn a_hint_leads_to_the_leader_with_the_same_sequence() {
    let (mut follower, mut leader) = (Fake::start().await, Fake::start().await);
    let client = client(&[&follower.endpoint], 10_000);
    let (_publisher, first, stream, call) = busy(&mut follower, &client).await;
    let hint = refusal(Reason::NotLeader).with("leader_endpoint", &leader.endpoint);
    stream.refuse(&call, &hint).await;
    let mut stream = leader.publish_stream().await;
    let again = stream.call().await;
    assert_eq!(again, call);
    stream.accept(&again, 3).await;
    assert_eq!(first.await.unwrap().offset, 3);
    // The next publisher begins with the leader.
    let second = client.publisher().submit("t", event("second")).await.unwrap();
    let mut stream = leader.publish_stream().await;
    let call = stream.call().await;
    stream.accept(&call, 4).await;
    assert_eq!(second.await.unwrap().offset, 4);
}

#[tokio::test]
async fn a_silent_node_is_left_for_the_next_one() {
    let (mut silent, mut lively) = (Fake::start().await, Fake::start().await);
    let options =
        ClientOptions { attempt_timeout: Duration::from_millis(50), ..ClientOptions::default() };
    let endpoints = [silent.endpoint.clone(), lively.endpoint.clone()];
    let client = Client::with_options(endpoints, options).unwrap();
    let (_publisher, first, _stream, call) = busy(&mut silent, &client).await;
    let mut stream = lively.publish_stream().await;
    let again = stream.call().await;
    assert_eq!(again, call);
    stream.accept(&again, 3).await;
    assert_eq!(first.await.unwrap().offset, 3);
}

#[tokio::test]
async fn only_the_offender_of_a_joined_call_fails() {
    let mut fake = Fake::start().await;
    let client = client(&[&fake.endpoint], 10_000);
    let (publisher, first, mut stream, call) = busy(&mut fake, &client).await;
    let publishes = ["a", "bad", "c"].map(|id| publisher.publish_encoded("t", event(id)));
    let started = start(publishes).await;
    stream.accept(&call, 0).await;
    let joined = stream.call().await;
    assert_eq!(ids(&joined), ["a", "bad", "c"]);
    stream.refuse(&joined, &refusal(Reason::EventInvalid)).await;
    for offset in 1..4 {
        let alone = stream.call().await;
        assert_eq!(alone.events.len(), 1);
        if ids(&alone) == ["bad"] {
            stream.refuse(&alone, &refusal(Reason::EventInvalid)).await;
        } else {
            stream.accept(&alone, offset).await;
        }
    }
    let outcomes: Vec<Outcome> = join_all(started).await;
    assert_eq!(outcomes[0].as_ref().unwrap().offset, 1);
    assert_eq!(outcomes[1].as_ref().unwrap_err().reason, Reason::EventInvalid);
    assert_eq!(outcomes[2].as_ref().unwrap().offset, 3);
    first.await.unwrap();
}

#[tokio::test]
async fn a_refusal_that_concerns_all_is_given_to_all() {
    let mut fake = Fake::start().await;
    let client = client(&[&fake.endpoint], 10_000);
    let (publisher, _first, mut stream, call) = busy(&mut fake, &client).await;
    let started = start(["a", "b"].map(|id| publisher.publish_encoded("t", event(id)))).await;
    stream.accept(&call, 0).await;
    let joined = stream.call().await;
    stream.refuse(&joined, &refusal(Reason::TopicNotFound)).await;
    for outcome in join_all(started).await {
        assert_eq!(outcome.unwrap_err().reason, Reason::TopicNotFound);
    }
}

fn expect(key: &str, version: u64) -> Vec<KeyExpectation> {
    vec![KeyExpectation { key: key.into(), expect: Some(Expect::Exact(version)) }]
}

#[tokio::test]
async fn appends_are_joined_with_each_key_once_and_apart_from_plain_events() {
    let mut fake = Fake::start().await;
    let client = client(&[&fake.endpoint], 10_000);
    let (publisher, _first, mut stream, call) = busy(&mut fake, &client).await;
    let appends = ["k", "l", "k", "m"]
        .map(|key| publisher.publish_all("t", vec![keyed(key)], expect(key, 0)));
    let started = start(appends).await;
    let plain = start([publisher.publish_encoded("t", keyed("l"))]).await;
    stream.accept(&call, 0).await;
    let mut keys = Vec::new();
    for offset in 1..4 {
        let call = stream.call().await;
        keys.push(call.expectations.iter().map(|e| e.key.clone()).collect::<Vec<_>>());
        stream.accept(&call, offset * 10).await;
    }
    assert_eq!(keys, [vec!["k", "l"], vec![], vec!["k", "m"]]);
    let offsets: Vec<u64> =
        join_all(started).await.into_iter().map(|r| r.unwrap().first_offset).collect();
    assert_eq!(offsets, [10, 11, 30, 31]);
    assert_eq!(join_all(plain).await.pop().unwrap().unwrap().offset, 20);
}

#[tokio::test]
async fn an_append_that_a_refused_call_overtook_gets_another_chance() {
    let mut fake = Fake::start().await;
    let options = ClientOptions { joined_calls_max: 2, ..ClientOptions::default() };
    let client = Client::with_options([fake.endpoint.as_str()], options).unwrap();
    let publisher = client.publisher();
    let keys = [("bad", 9), ("k", 0), ("k", 1)];
    let started =
        start(keys.map(|(key, version)| {
            publisher.publish_all("t", vec![keyed(key)], expect(key, version))
        }))
        .await;
    let mut stream = fake.publish_stream().await;
    let (joined, overtaken) = (stream.call().await, stream.call().await);
    assert_eq!((joined.events.len(), overtaken.events.len()), (2, 1));
    stream.refuse(&joined, &refusal(Reason::VersionConflict)).await;
    stream.refuse(&overtaken, &refusal(Reason::VersionConflict)).await;
    for (offset, (key, version)) in (0..).zip(keys) {
        let alone = stream.call().await;
        let expected = (alone.expectations[0].key.as_str(), alone.expectations[0].expect);
        assert_eq!(expected, (key, Some(Expect::Exact(version))));
        match offset {
            0 => stream.refuse(&alone, &refusal(Reason::VersionConflict)).await,
            _ => stream.accept(&alone, offset).await,
        }
    }
    let outcomes = join_all(started).await;
    assert_eq!(outcomes[0].as_ref().unwrap_err().reason, Reason::VersionConflict);
    assert_eq!(outcomes[2].as_ref().unwrap().first_offset, 2);
}

#[tokio::test]
async fn a_full_publisher_makes_callers_wait_before_they_enqueue() {
    let mut fake = Fake::start().await;
    let client = client(&[&fake.endpoint], 10_000);
    let publisher = client.publisher();
    let large = Bytes::from(vec![7; CALL_BYTES_MAX]);
    let room = PUBLISHER_BYTES_MAX / weight(large.len(), 1);
    let mut taken = Vec::new();
    for _ in 0..room {
        taken.push(publisher.submit("t", large.clone()).await.unwrap());
    }
    let mut waiting = Box::pin(publisher.submit("t", large.clone()));
    assert!(matches!(poll!(&mut waiting), Poll::Pending));
    let mut stream = fake.publish_stream().await;
    let call = stream.call().await;
    assert!(matches!(poll!(&mut waiting), Poll::Pending));
    stream.accept(&call, 0).await;
    assert_eq!(taken.remove(0).await.unwrap().offset, 0);
    waiting.await.unwrap();
    let too_large = publisher.submit("t", Bytes::from(vec![7; CALL_BYTES_MAX + 1])).await;
    assert_eq!(too_large.err().unwrap().reason, Reason::CallTooLarge);
}

#[tokio::test]
async fn without_an_answer_the_outcome_is_unknown_only_if_it_was_sent() {
    let mut fake = Fake::start().await;
    let client = client(&[&fake.endpoint], 300);
    let (publisher, first, _stream, _call) = busy(&mut fake, &client).await;
    let second = publisher.publish_encoded("t", event("second")).await;
    assert_eq!(first.await.unwrap_err().reason, Reason::OutcomeUnknown);
    assert_eq!(second.unwrap_err().reason, Reason::DeadlineExceeded);

    let nobody = nobody();
    let publisher = super::super::fake::client(&[&nobody], 300).publisher();
    let refused = publisher.publish_encoded("t", event("third")).await.unwrap_err();
    assert_eq!(refused.reason, Reason::Unreachable);
}

#[tokio::test]
async fn a_leader_that_is_missing_is_waited_for() {
    let mut fake = Fake::start().await;
    let client = client(&[&fake.endpoint], 10_000);
    let (_publisher, first, mut stream, call) = busy(&mut fake, &client).await;
    stream.refuse(&call, &refusal(Reason::NoLeader)).await;
    assert!(stream.is_over().await);
    let mut stream = fake.publish_stream().await;
    let again = stream.call().await;
    stream.accept(&again, 1).await;
    assert_eq!(first.await.unwrap().offset, 1);
}

#[tokio::test]
async fn what_was_submitted_is_sent_after_the_publisher_is_gone() {
    let mut fake = Fake::start().await;
    let client = client(&[&fake.endpoint], 10_000);
    let (publisher, first, mut stream, call) = busy(&mut fake, &client).await;
    let second = publisher.submit("t", event("second")).await.unwrap();
    drop(publisher);
    stream.accept(&call, 0).await;
    let call = stream.call().await;
    assert_eq!(ids(&call), ["second"]);
    stream.accept(&call, 1).await;
    assert_eq!((first.await.unwrap().offset, second.await.unwrap().offset), (0, 1));
    assert!(stream.is_over().await);
}

#[tokio::test]
async fn callers_that_go_away_leave_their_slots_to_others() {
    let mut fake = Fake::start().await;
    let client = client(&[&fake.endpoint], 10_000);
    let (publisher, first, mut stream, call) = busy(&mut fake, &client).await;
    drop(start(["a", "b"].map(|id| publisher.publish_encoded("t", event(id)))).await);
    let kept = publisher.submit("t", event("c")).await.unwrap();
    stream.accept(&call, 0).await;
    let call = stream.call().await;
    assert_eq!(ids(&call), ["a", "b", "c"]);
    stream.accept(&call, 1).await;
    assert_eq!((first.await.unwrap().offset, kept.await.unwrap().offset), (0, 3));
    assert_eq!(publisher.handle.0.permits.available_permits(), PUBLISHER_BYTES_MAX);
}
