//! Bad input: a clear reason, nothing lost, and the server stays up.

use std::time::Duration;

use message_hub::model::rejection::Reason;
use message_hub::proto::status::{from_call_error, from_status};
use message_hub::proto::v1::events_client::EventsClient;
use message_hub::proto::v1::publish_answer::Answer;
use message_hub::proto::v1::{
    AttributeValue, Event, KeyExpectation, ProducerRef, PublishAnswer, PublishCall, PublishResult,
    attribute_value, key_expectation,
};
use prost::Message as _;
use tonic::transport::Channel;

use crate::support::{Cluster, mhub_with_input};

/// One node is enough for what is refused before it is proposed.
fn single() -> Cluster {
    let cluster = Cluster::start(1, &[]);
    cluster.mhub(0, &["topic", "create", "orders"]).succeeds();
    cluster
}

async fn connect(cluster: &Cluster) -> EventsClient<Channel> {
    EventsClient::connect(format!("http://{}", cluster.nodes[0].endpoint())).await.unwrap()
}

pub(crate) fn event(id: &str) -> Event {
    Event {
        id: id.to_owned(),
        source: "/tests".to_owned(),
        r#type: "test.happened".to_owned(),
        data: b"hello".to_vec().into(),
        ..Event::default()
    }
}

fn in_hours(hours: u64) -> Option<prost_types::Timestamp> {
    let then = std::time::SystemTime::now() + Duration::from_secs(hours * 3600);
    Some(then.into())
}

fn call(events: Vec<Event>) -> PublishCall {
    PublishCall {
        call: 1,
        topic: "orders".to_owned(),
        events: events.iter().map(|e| e.encode_to_vec().into()).collect(),
        ..PublishCall::default()
    }
}

async fn publish(
    client: &mut EventsClient<Channel>,
    call: PublishCall,
) -> Result<PublishResult, Reason> {
    match client.publish(call).await {
        Ok(answer) => Ok(answer.into_inner()),
        Err(status) => Err(from_status(&status).reason),
    }
}

#[tokio::test]
async fn calls_that_break_a_rule_are_refused_and_leave_nothing() {
    let cluster = single();
    let mut client = connect(&cluster).await;
    let with = |change: fn(&mut Event)| {
        let mut broken = event("e1");
        change(&mut broken);
        call(vec![event("e0"), broken])
    };
    let extension = |name: &str| {
        let mut broken = event("e1");
        let value = AttributeValue { attr: Some(attribute_value::Attr::CeString("v".to_owned())) };
        broken.extensions.insert(name.to_owned(), value);
        call(vec![broken])
    };
    let expecting = |exact: u64| {
        let mut one = event("e1");
        one.key = "k".to_owned();
        let expect = Some(key_expectation::Expect::Exact(exact));
        PublishCall {
            expectations: vec![KeyExpectation { key: "k".to_owned(), expect }],
            ..call(vec![one])
        }
    };
    let raw = |bytes: &'static [u8]| PublishCall { events: vec![bytes.into()], ..call(vec![]) };
    let far = |e: &mut Event| e.deliver_at = in_hours(366 * 24);
    let too_late = |e: &mut Event| (e.deadline, e.deliver_at) = (in_hours(1), in_hours(2));
    let past = |e: &mut Event| e.deadline = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
    let cases: Vec<(&str, PublishCall, Reason)> = vec![
        (
            "unknown topic",
            PublishCall { topic: "nope".into(), ..call(vec![event("e")]) },
            Reason::TopicNotFound,
        ),
        (
            "invalid name",
            PublishCall { topic: "no pe".into(), ..call(vec![event("e")]) },
            Reason::InvalidName,
        ),
        ("no events", call(vec![]), Reason::InvalidRequest),
        ("513 events", call(vec![event("e"); 513]), Reason::CallTooLarge),
        ("missing id", with(|e| e.id.clear()), Reason::EventInvalid),
        ("missing source", with(|e| e.source.clear()), Reason::EventInvalid),
        ("missing type", with(|e| e.r#type.clear()), Reason::EventInvalid),
        ("priority 10", with(|e| e.priority = Some(10)), Reason::EventInvalid),
        ("deadline past", with(past), Reason::DeadlinePast),
        ("deliver_at after the deadline", with(too_late), Reason::EventInvalid),
        ("delay over a year", with(far), Reason::EventInvalid),
        ("long fairness key", with(|e| e.fairness_key = "k".repeat(65)), Reason::EventInvalid),
        ("long key", with(|e| e.key = "k".repeat(257)), Reason::EventInvalid),
        ("event over the limit", with(|e| e.data = vec![0; 1 << 20].into()), Reason::CallTooLarge),
        (
            "call over the limit",
            call(vec![Event { data: vec![0; 300_000].into(), ..event("e") }; 4]),
            Reason::CallTooLarge,
        ),
        ("reserved extension", extension("specversion"), Reason::EventInvalid),
        ("malformed extension", extension("Not_Allowed"), Reason::EventInvalid),
        ("garbage", raw(b"\xff\xff\xff\xff"), Reason::EventInvalid),
        ("wrong expectation", expecting(7), Reason::VersionConflict),
    ];
    for (name, call, reason) in cases {
        assert_eq!(publish(&mut client, call).await, Err(reason), "{name}");
    }
    let topic = cluster.mhub(0, &["topic", "info", "orders", "-o", "json"]).json();
    assert_eq!(topic["next_offset"], "0");
    assert_eq!(publish(&mut client, call(vec![event("good")])).await.unwrap().first_offset, 0);
}

#[tokio::test]
async fn a_conflict_tells_expected_and_actual() {
    let cluster = single();
    let mut client = connect(&cluster).await;
    let mut keyed = event("e");
    keyed.key = "order-1".to_owned();
    publish(&mut client, call(vec![keyed.clone(), keyed.clone()])).await.unwrap();
    let expect = Some(key_expectation::Expect::Exact(1));
    let refused = PublishCall {
        expectations: vec![KeyExpectation { key: "order-1".to_owned(), expect }],
        ..call(vec![keyed])
    };
    let rejection = from_status(&client.publish(refused).await.unwrap_err());
    assert_eq!(rejection.reason, Reason::VersionConflict);
    assert_eq!((rejection.fact("key"), rejection.fact("actual")), (Some("order-1"), Some("2")));
    assert!(rejection.fact("expected").unwrap().contains('1'), "{rejection:?}");
    cluster
        .mhub(
            0,
            &[
                "events", "append", "orders", "--key", "order-1", "--expect", "none", "--data",
                "x", "--type", "t", "--source", "/s",
            ],
        )
        .fails(4, "VERSION_CONFLICT");
}

#[tokio::test]
async fn a_repeated_sequence_gets_its_first_answer() {
    let cluster = single();
    let mut client = connect(&cluster).await;
    let with = |epoch, sequence| PublishCall {
        producer: Some(ProducerRef { id: "p".into(), epoch, sequence, acknowledged_below: 0 }),
        ..call(vec![event("a"), event("b")])
    };
    let first = publish(&mut client, with(2, 1)).await.unwrap();
    let again = publish(&mut client, with(2, 1)).await.unwrap();
    assert!(!first.duplicate && again.duplicate);
    assert_eq!(
        (first.first_offset, first.first_position),
        (again.first_offset, again.first_position)
    );
    assert_eq!(publish(&mut client, with(1, 2)).await, Err(Reason::ProducerFenced));
    assert_eq!(publish(&mut client, with(2, 2)).await.unwrap().first_offset, 2);
}

#[tokio::test]
async fn one_refusal_in_a_stream_does_not_touch_its_neighbours() {
    let cluster = single();
    let mut client = connect(&cluster).await;
    let calls: Vec<PublishCall> = (0..100)
        .map(|n| PublishCall {
            call: n,
            topic: if n % 10 == 3 { "nope".into() } else { "orders".into() },
            // An event without an id is refused before anything is proposed.
            ..call(vec![if n % 10 == 7 { event("") } else { event(&n.to_string()) }])
        })
        .collect();
    let mut answers = client.publish_stream(tokio_stream::iter(calls)).await.unwrap().into_inner();
    let (mut done, mut refused) = (Vec::new(), Vec::new());
    while let Some(PublishAnswer { call, answer }) = answers.message().await.unwrap() {
        match answer.unwrap() {
            Answer::Result(result) => done.push(result.first_offset),
            Answer::Error(error) => refused.push((call, from_call_error(error).reason)),
        }
    }
    done.sort_unstable();
    refused.sort_unstable_by_key(|(call, _)| *call);
    assert_eq!(done, (0..80).collect::<Vec<_>>());
    let of_ten = |n: u64| [(n * 10 + 3, Reason::TopicNotFound), (n * 10 + 7, Reason::EventInvalid)];
    assert_eq!(refused, (0..10).flat_map(of_ten).collect::<Vec<_>>());
}

#[test]
fn the_command_line_refuses_with_the_documented_exit_codes() {
    let cluster = single();
    let run = |args: &[&str]| cluster.mhub(0, args);
    run(&["topic", "create", "bad name"]).fails(2, "INVALID_NAME");
    run(&["topic", "create", "hub.mine"]).fails(2, "INVALID_NAME");
    run(&["topic", "create", "orders"]).fails(4, "TOPIC_EXISTS");
    run(&["topic", "create", "t", "--config", "max_event_bytes=0"]).fails(2, "INVALID_CONFIG");
    run(&["topic", "create", "t", "--config", "no_such=1"]).fails(2, "no_such");
    run(&["topic", "info", "nope"]).fails(3, "TOPIC_NOT_FOUND");
    run(&["events", "read", "orders", "--from", "99"]).fails(2, "BEYOND_END");
    run(&["events", "read", "orders", "--from", "start", "--consistency", "eventual"])
        .fails(2, "eventual");
    run(&["events", "get", "orders", "5"]).fails(3, "EVENT_NOT_FOUND");
    run(&["events", "get", "orders", "--id", "x"]).fails(2, "index_ids");
    run(&["cluster", "init"]).fails(4, "ALREADY_INITIALIZED");
    run(&["cluster", "remove", "9", "--yes"]).fails(3, "NODE_NOT_FOUND");
    run(&["no-such-noun"]).fails(2, "no-such-noun");
    let lines =
        "{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/s\",\"type\":\"t\"}\nnot json\n";
    let half = mhub_with_input(
        &cluster.nodes[0].endpoint(),
        &["events", "publish", "orders", "-"],
        Some(lines),
    );
    assert!(matches!(half.code(), 2 | 8), "{}", half.all());
    assert!(half.stderr().contains("line 2"), "{}", half.all());
    cluster.await_serving();
}
