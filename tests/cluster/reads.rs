//! Reading while nodes come and go: nothing skipped, nothing twice, and as fresh as was asked for.

use std::time::{Duration, Instant};

use message_hub::client::{Client, EventBuilder};
use message_hub::proto::v1::read_request::From;
use message_hub::proto::v1::{
    End, Event, ReadKeyRequest, ReadOptions, ReadRequest, Start, read_options,
};
use prost::Message as _;

use crate::support::load::Load;
use crate::support::{Cluster, SERVING_WITHIN};

fn request(topic: &str, from: From) -> ReadRequest {
    ReadRequest { topic: topic.to_owned(), from: Some(from), ..ReadRequest::default() }
}

fn consistent(consistency: read_options::Consistency) -> Option<ReadOptions> {
    Some(ReadOptions { consistency: Some(consistency) })
}

/// Follows a topic (the whole hub when it is empty) until it has so many events: their offsets, or
/// positions, in the order of arrival.
async fn follow(client: Client, topic: &'static str, count: usize) -> Vec<u64> {
    let mut tail = client.tail(request(topic, From::Start(Start {})));
    let mut seen = Vec::new();
    while seen.len() < count {
        let part = tail.next().await.unwrap().expect("a tail has no end");
        for batch in part.batches {
            let first = if topic.is_empty() { batch.first_position } else { batch.first_offset };
            seen.extend((first..).take(batch.events.len()));
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_neither_skips_nor_repeats_through_kills_and_restarts() {
    const EVENTS: usize = 6000;
    let mut cluster = Cluster::start(3, &[]);
    cluster.mhub(0, &["topic", "create", "load"]).succeeds();
    let load = Load::start(&cluster, "load", 4, 5);
    // One begins at each node, and one follows the whole hub.
    let mut tails = Vec::new();
    for first in 0..3 {
        let mut endpoints = cluster.all_endpoints();
        endpoints.rotate_left(first);
        let client = Client::new(endpoints).unwrap();
        tails.push(tokio::spawn(follow(client.clone(), "load", EVENTS)));
        tails.push(tokio::spawn(follow(client, "", EVENTS)));
    }
    let work = tokio::task::spawn_blocking(move || {
        for round in 0..4 {
            load.await_progress(300, SERVING_WITHIN);
            let victim = if round % 2 == 0 { cluster.leader() } else { round % 3 };
            cluster.nodes[victim].kill();
            load.await_progress(100, SERVING_WITHIN);
            cluster.nodes[victim].start();
            cluster.await_answering(victim);
        }
        while load.acknowledged() < EVENTS as u64 {
            load.await_progress(100, SERVING_WITHIN);
        }
        drop(load.finish());
        cluster
    });
    let cluster = work.await.unwrap();
    for tail in tails {
        let seen = tokio::time::timeout(Duration::from_secs(60), tail).await.unwrap().unwrap();
        let wrong = (0..).zip(&seen).find(|(expected, actual)| expected != *actual);
        assert_eq!(wrong, None);
    }
    tokio::task::spawn_blocking(move || cluster.verify()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_reads_what_was_written_before() {
    let cluster = Cluster::start(3, &[]);
    cluster.mhub(0, &["topic", "create", "orders"]).succeeds();
    let publisher = Client::new(cluster.all_endpoints()).unwrap().publisher();
    for round in 0..20_u64 {
        let event = EventBuilder::new("/t", "t").key("k").data(round.to_string()).build();
        let receipt = publisher.publish("orders", event).await.unwrap();
        assert_eq!((receipt.offset, receipt.key_version), (round, round + 1));
        for node in &cluster.nodes {
            let client = Client::new([node.endpoint()]).unwrap();
            for consistency in [
                read_options::Consistency::AtLeastPosition(receipt.position),
                read_options::Consistency::Linearizable(Default::default()),
            ] {
                let read = ReadRequest {
                    options: consistent(consistency),
                    backward: true,
                    limit: 1,
                    ..request("orders", From::End(End {}))
                };
                let parts = client.read_all(read).await.unwrap();
                let last = &parts[0].batches[0];
                let data = Event::decode(last.events[0].clone()).unwrap().data;
                assert_eq!(data, round.to_string(), "node {}, {consistency:?}", node.id);
                let key = client
                    .read_key(ReadKeyRequest {
                        topic: "orders".to_owned(),
                        key: "k".to_owned(),
                        options: consistent(consistency),
                        ..ReadKeyRequest::default()
                    })
                    .await
                    .unwrap();
                assert_eq!(key.version, round + 1, "node {}, {consistency:?}", node.id);
            }
        }
    }
}

#[test]
fn a_position_that_does_not_come_is_waited_for_in_bounded_time() {
    let cluster = Cluster::start(1, &[("MHUB_LIMITS_REQUEST_TIMEOUT_MS", "500")]);
    cluster.mhub(0, &["topic", "create", "orders"]).succeeds();
    let started = Instant::now();
    let read = ["events", "read", "orders", "--consistency", "at-least=99"];
    cluster.mhub(0, &read).fails(7, "99");
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    cluster.mhub(0, &["events", "read", "orders", "--consistency", "stale"]).succeeds();
}

#[test]
fn a_range_begins_where_it_is_asked_to() {
    let cluster = Cluster::start(1, &[]);
    cluster.mhub(0, &["topic", "create", "orders", "--config", "index_ids=true"]).succeeds();
    cluster.mhub(0, &["topic", "create", "other"]).succeeds();
    let publish = |topic: &str, id: &str| {
        let run = cluster.mhub(0, &["events", "publish", topic, "--id", id, "--data", id]);
        run.succeeds();
    };
    for id in ["a", "b"] {
        publish("orders", id);
        publish("other", id);
    }
    let recorded = |offset: &str| {
        let event = cluster.mhub(0, &["events", "get", "orders", offset, "-o", "json"]).json();
        event["recorded_at"].as_str().unwrap().to_owned()
    };
    let ids = |args: &[&str]| -> String {
        let mut all = vec!["events", "read"];
        all.extend_from_slice(args);
        all.extend(["-o", "jsonl"]);
        let run = cluster.mhub(0, &all);
        run.succeeds();
        let lines = run.stdout();
        let events = lines.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
        events.map(|e| e["event"]["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&["orders", "--from", "start"]), "ab");
    assert_eq!(ids(&["orders", "--from", "1"]), "b");
    assert_eq!(ids(&["orders", "--from", "end"]), "");
    assert_eq!(ids(&["orders", "--from", "end", "--back"]), "ba");
    assert_eq!(ids(&["orders", "--from", "end", "--back", "--limit", "1"]), "b");
    assert_eq!(ids(&["orders", "--from", "pos=1"]), "b");
    assert_eq!(ids(&["orders", "--from", &format!("@{}", recorded("0"))]), "ab");
    assert_eq!(ids(&["orders", "--from", &format!("@{}", recorded("1"))]), "b");
    assert_eq!(ids(&["--all", "--from", "pos=1"]), "abb");
    assert_eq!(ids(&["orders", "--max-bytes", "1"]), "a");
    let found = cluster.mhub(0, &["events", "get", "orders", "--id", "b", "-o", "json"]).json();
    assert_eq!(found["offset"], "1");
}
