//! Snapshots of keys on real clusters.

use message_hub::model::rejection::Reason;
use message_hub::proto::v1::{
    KeySnapshot, KeyState, PutSnapshotRequest, ReadKeyRequest, ReadStateRequest,
};

use crate::delivery::client;
use crate::support::{Cluster, mhub_with_input};

fn snapshot(key: &str, version: u64, data: &str) -> PutSnapshotRequest {
    let snapshot = KeySnapshot { version, data: data.to_owned().into(), ..KeySnapshot::default() };
    PutSnapshotRequest {
        topic: "orders".into(),
        key: key.into(),
        snapshot: Some(snapshot),
        ..PutSnapshotRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_read_from_its_newest_snapshot_on_also_by_the_next_leader() {
    let mut cluster = Cluster::start(3, &[]);
    cluster.admin(&["topic", "create", "orders"]).succeeds();
    let endpoint = cluster.nodes[0].endpoint();
    let publish = |data: &str| {
        let args = ["events", "publish", "orders", "--key", "k", "--data", data, "--type", "t"];
        cluster.admin(&args).succeeds();
    };
    (1..=5).for_each(|n| publish(&n.to_string()));
    let client = client(&cluster);
    let state = async || -> KeyState {
        let request =
            ReadStateRequest { topic: "orders".into(), key: "k".into(), ..Default::default() };
        client.key_state(request).await.unwrap()
    };
    let versions = |state: &KeyState| -> Vec<u64> {
        state.events.iter().map(|event| event.key_version).collect()
    };
    let found = state().await;
    assert_eq!((found.snapshot.is_none(), versions(&found)), (true, vec![1, 2, 3, 4, 5]));
    client.put_key_snapshot(snapshot("k", 2, "two")).await.unwrap();
    client.put_key_snapshot(snapshot("k", 4, "four")).await.unwrap();
    let found = state().await;
    let kept = found.snapshot.clone().unwrap();
    assert_eq!((kept.version, &kept.data[..], versions(&found)), (4, &b"four"[..], vec![5]));
    assert_eq!(found.version, 5);
    // What is no snapshot of what is there.
    for (request, reason) in [
        (snapshot("k", 6, "x"), Reason::VersionNotFound),
        (snapshot("k", 0, "x"), Reason::VersionNotFound),
        (snapshot("unknown", 1, "x"), Reason::VersionNotFound),
        (snapshot("k", 3, "x"), Reason::SnapshotSuperseded),
        (snapshot("", 1, "x"), Reason::InvalidRequest),
        (snapshot("k", 4, &"x".repeat((512 << 10) + 1)), Reason::CallTooLarge),
        (PutSnapshotRequest { snapshot: None, ..snapshot("k", 4, "x") }, Reason::InvalidRequest),
        (
            PutSnapshotRequest { topic: "gone".into(), ..snapshot("k", 4, "x") },
            Reason::TopicNotFound,
        ),
    ] {
        let what = format!("{} {}", request.topic, request.key);
        assert_eq!(client.put_key_snapshot(request).await.unwrap_err().reason, reason, "{what}");
    }
    let leader = cluster.leader();
    cluster.nodes[leader].kill();
    cluster.nodes[leader].start();
    cluster.await_serving();
    assert_eq!(state().await.snapshot, Some(kept));
    // The command line.
    let content = r#"{"paid": true}"#;
    let args = ["key", "snapshot", "orders", "k", "--version", "5", "-"];
    mhub_with_input(&endpoint, &args, Some(content)).succeeds();
    let read = cluster.admin(&["key", "read", "orders", "k", "-o", "json"]).json();
    assert_eq!((&read["snapshot"]["data"]["paid"], &read["version"]), (&true.into(), &"5".into()));
    assert!(read["events"].as_array().unwrap().is_empty());
    cluster.admin(&["key", "read", "orders", "unknown"]).fails(3, "unknown");
    cluster.admin(&["key", "rm-snapshot", "orders", "k", "--yes"]).succeeds();
    let table = cluster.admin(&["key", "read", "orders", "k"]).succeeds().stdout();
    assert!(table.starts_with("no snapshot") && table.lines().count() == 7, "{table}");
    cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_read_however_large_its_events_are() {
    let cluster = Cluster::start(1, &[]);
    cluster.admin(&["topic", "create", "orders"]).succeeds();
    let endpoint = cluster.nodes[0].endpoint();
    let data = "x".repeat(600 << 10);
    for n in 1..=10 {
        let line = format!(
            r#"{{"specversion":"1.0","id":"{n}","source":"/t","type":"t","partitionkey":"k","data":"{data}"}}"#
        );
        let args = ["events", "publish", "orders", "-"];
        mhub_with_input(&endpoint, &args, Some(&line)).succeeds();
    }
    let client = client(&cluster);
    client.put_key_snapshot(snapshot("k", 1, &"y".repeat(512 << 10))).await.unwrap();
    // A page has what there is room for, and says where to go on.
    let request =
        ReadStateRequest { topic: "orders".into(), key: "k".into(), limit: 1000, options: None };
    let state = client.key_state(request).await.unwrap();
    assert_eq!((state.events.len(), state.version, state.next_version), (1, 10, 3));
    let request = ReadKeyRequest {
        topic: "orders".into(),
        key: "k".into(),
        backward: true,
        limit: 1000,
        ..ReadKeyRequest::default()
    };
    let page = client.read_key(request).await.unwrap();
    assert_eq!((page.events.len(), page.next_version), (1, 9));
    // The command line goes on by itself.
    let read = cluster.admin(&["key", "read", "orders", "k", "-o", "json"]).json();
    let read = read["events"].as_array().unwrap();
    assert_eq!((read.len(), &read[8]["version"]), (9, &"10".into()));
    let versions = |back: &[&str]| -> Vec<u64> {
        let args = ["events", "read", "orders", "--key", "k", "-o", "jsonl"];
        let lines = cluster.admin(&[&args[..], back].concat());
        let version = |line: &str| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            event["version"].as_str().unwrap().parse().unwrap()
        };
        lines.succeeds().stdout().lines().map(version).collect()
    };
    assert_eq!(versions(&[]), (1..=10).collect::<Vec<_>>());
    assert_eq!(versions(&["--back", "--from", "end"]), (1..=10).rev().collect::<Vec<_>>());
    assert_eq!(versions(&["--limit", "3"]), [1, 2, 3]);
}
