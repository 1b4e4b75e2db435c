use prost::Message as _;

use super::*;
use crate::client::ClientOptions;
use crate::client::fake::Fake;
use crate::client::spawn::spawn;
use crate::proto::v1::{EventBatch, ReadResponse};

const EVENTS: u64 = 10;

/// A node with a topic of which it has the first events only.
async fn node_with(events: u64) -> String {
    let mut fake = Fake::start().await;
    fake.topic.lock().unwrap().next_offset = EVENTS;
    let endpoint = fake.endpoint.clone();
    spawn(async move {
        loop {
            let reading = fake.reading().await;
            let Some(From::Offset(first)) = reading.request.from else {
                panic!("{:?}", reading.request)
            };
            if first > events {
                reading.refuse(&Rejection::new(Reason::BeyondEnd, "not that far")).await;
                continue;
            }
            let events_of_it = vec![Bytes::new(); usize::try_from(events - first).unwrap()];
            let batch =
                EventBatch { first_offset: first, events: events_of_it, ..EventBatch::default() };
            let batches = vec![batch.encode_to_vec().into()];
            let batches = if first < events { batches } else { Vec::new() };
            let answer = ReadResponse { batches, next: events, at_end: true, ..Default::default() };
            reading.offer(answer).await;
        }
    });
    endpoint
}

/// What a client plays that asks nodes in this order: offsets, and what ends it.
async fn played_at(nodes: &[String]) -> (Vec<u64>, Result<(), Reason>) {
    let options = ClientOptions {
        timeout: Duration::from_millis(600),
        attempt_timeout: Duration::from_millis(100),
        ..ClientOptions::default()
    };
    let client = Client::with_options(nodes.to_vec(), options).unwrap();
    let options = ReplayOptions { topic: "t".into(), ..ReplayOptions::default() };
    let mut replay = Replay::begin(&client, options, None).await.unwrap();
    let mut seen = Vec::new();
    loop {
        match replay.next().await {
            Ok(Some(events)) => seen.extend(events.iter().map(|event| event.offset)),
            Ok(None) => return (seen, Ok(())),
            Err(ended) => return (seen, Err(ended.reason)),
        }
    }
}

#[tokio::test]
async fn who_lags_is_asked_again_then_others_and_not_for_ever() {
    let [whole, some, less] = [node_with(EVENTS).await, node_with(6).await, node_with(2).await];
    let first = |count: u64| (0..count).collect::<Vec<_>>();
    assert_eq!(played_at(std::slice::from_ref(&whole)).await, (first(EVENTS), Ok(())));
    assert_eq!(played_at(&[some.clone(), less.clone(), whole]).await, (first(EVENTS), Ok(())));
    let late = Err(Reason::DeadlineExceeded);
    assert_eq!(played_at(std::slice::from_ref(&some)).await, (first(6), late));
    assert_eq!(played_at(&[some, less]).await, (first(6), late));
}

fn queue(recorded: &[u64]) -> VecDeque<RecordedEvent> {
    let one = |ms: &u64| RecordedEvent { recorded_at_ms: *ms, ..RecordedEvent::default() };
    recorded.iter().map(one).collect()
}

/// What is let out in how many milliseconds, when it is asked every millisecond.
fn played(pace: Pace, recorded: &[u64], ms: u64) -> usize {
    let (mut clock, mut left) = (PaceClock::new(pace).unwrap(), queue(recorded));
    let began = now();
    for n in 0..=ms {
        if left.is_empty() {
            break;
        }
        if let Ok(count) = clock.due(&left, began + Duration::from_millis(n)) {
            left.drain(..count);
        }
    }
    recorded.len() - left.len()
}

#[test]
fn a_pace_is_kept() {
    let many = vec![0; 5000];
    assert_eq!(played(Pace::Fast, &many, 0), 5000);
    assert_eq!(played(Pace::Rate(100), &many, 1000), 101);
    assert_eq!(played(Pace::Rate(1), &many, 2500), 3);
    assert_eq!(played(Pace::Rate(4000), &many, 500), 2001);
    let apart = [1000, 1000, 1100, 2000, 9000];
    assert_eq!(played(Pace::Original { speed_milli: 1000 }, &apart, 50), 2);
    assert_eq!(played(Pace::Original { speed_milli: 1000 }, &apart, 100), 3);
    assert_eq!(played(Pace::Original { speed_milli: 10_000 }, &apart, 100), 4);
    for zero in [Pace::Rate(0), Pace::Original { speed_milli: 0 }] {
        assert_eq!(PaceClock::new(zero).unwrap_err().reason, Reason::InvalidRequest);
    }
}
