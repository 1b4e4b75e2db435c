//! Replays on real three-node clusters: nothing left out, nothing twice, also over nodes that are killed
//! and replays that are broken off.

use std::time::{Duration, Instant};

use message_hub::client::{Client, ClientOptions, Cursor, Pace, Replay, ReplayOptions, Selection};
use message_hub::model::rejection::Reason;
use message_hub::proto::v1::read_request::From;

use crate::delivery::{client, publish};
use crate::support::Cluster;

const EVENTS: usize = 20_000;

fn orders() -> ReplayOptions {
    ReplayOptions { topic: "orders".into(), ..ReplayOptions::default() }
}

async fn offsets(replay: &mut Replay) -> Vec<u64> {
    let mut seen = Vec::new();
    while let Some(events) = replay.next().await.unwrap() {
        seen.extend(events.iter().map(|event| event.offset));
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_from_a_follower_that_is_killed_misses_and_repeats_nothing() {
    let mut cluster = Cluster::start(3, &[]);
    cluster.admin(&["topic", "create", "orders"]).succeeds();
    publish(&cluster, EVENTS, "");
    let follower = (cluster.leader() + 1) % 3;
    // A client that asks the follower first.
    let mut endpoints = vec![cluster.nodes[follower].endpoint()];
    endpoints.extend(cluster.all_endpoints());
    let options = ClientOptions { timeout: Duration::from_secs(20), ..ClientOptions::default() };
    let client = Client::with_options(endpoints, options).unwrap();
    let paced = || ReplayOptions { pace: Pace::Rate(10_000), ..orders() };
    let mut replay = Replay::begin(&client, paced(), None).await.unwrap();
    let mut seen: Vec<u64> = Vec::new();
    while seen.len() < EVENTS / 4 {
        let events = replay.next().await.unwrap().unwrap();
        seen.extend(events.iter().map(|event| event.offset));
    }
    cluster.nodes[follower].kill();
    while seen.len() < EVENTS / 2 {
        let events = replay.next().await.unwrap().unwrap();
        seen.extend(events.iter().map(|event| event.offset));
    }
    // It is broken off, and another process goes on by the cursor, as it was written down.
    let text = serde_json::to_string(&replay.cursor()).unwrap();
    drop(replay);
    cluster.nodes[follower].start();
    let cursor: Cursor = serde_json::from_str(&text).unwrap();
    let mut replay = Replay::begin(&client, orders(), Some(cursor)).await.unwrap();
    seen.extend(offsets(&mut replay).await);
    assert!(seen.iter().copied().eq(0..EVENTS as u64), "{} events", seen.len());
    let done = replay.cursor();
    assert_eq!(done.next, EVENTS as u64);
    let mut nothing = Replay::begin(&client, orders(), Some(done)).await.unwrap();
    assert_eq!(offsets(&mut nothing).await, Vec::<u64>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_selections_and_paces() {
    let cluster = Cluster::start(1, &[]);
    cluster.admin(&["topic", "create", "orders"]).succeeds();
    publish(&cluster, 50, "a");
    publish(&cluster, 50, "b");
    let client = client(&cluster);
    let of_key = Selection { key: Some("b".into()), ..Selection::default() };
    let options = ReplayOptions { selection: of_key, ..orders() };
    let mut replay = Replay::begin(&client, options, None).await.unwrap();
    assert_eq!(offsets(&mut replay).await, (50..100).collect::<Vec<_>>());
    let range = ["events", "replay", "orders", "--from", "10", "--until", "20", "-o", "jsonl"];
    let lines = cluster.admin(&range).succeeds().stdout();
    assert_eq!(lines.lines().count(), 10);
    assert!(lines.lines().next().unwrap().contains("\"offset\":\"10\""), "{lines}");
    let hub = ["events", "replay", "--all", "--until", "30", "-o", "jsonl"];
    assert_eq!(cluster.admin(&hub).succeeds().stdout().lines().count(), 30);
    let began = Instant::now();
    let slow = ReplayOptions { pace: Pace::Rate(100), ..orders() };
    let mut replay = Replay::begin(&client, slow, None).await.unwrap();
    assert_eq!(offsets(&mut replay).await.len(), 100);
    assert!(began.elapsed() > Duration::from_millis(900), "{:?}", began.elapsed());
    let filtered = ["--filter", r#"{"exact": {"key": "a"}}"#, "--original", "--speed", "100"];
    let filtered = [&["events", "replay", "orders", "-o", "jsonl"][..], &filtered].concat();
    assert_eq!(cluster.admin(&filtered).succeeds().stdout().lines().count(), 50);
    // Positions mean the hub's, also on a topic.
    cluster.admin(&["topic", "create", "mail"]).succeeds();
    cluster.admin(&["events", "publish", "mail", "--data", "x"]).succeeds();
    let until = |until: &str| {
        let args = ["events", "replay", "mail", "--until", until, "-o", "jsonl"];
        cluster.admin(&args).succeeds().stdout().lines().count()
    };
    assert_eq!((until("pos=1"), until("pos=1000000")), (0, 1));
    // An empty range is one.
    let empty = ["events", "replay", "orders", "--from", "7", "--until", "7", "-o", "jsonl"];
    assert_eq!(cluster.admin(&empty).succeeds().stdout(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_replayed_is_refused() {
    let cluster = Cluster::start(1, &[]);
    for topic in ["orders", "mail"] {
        cluster.admin(&["topic", "create", topic]).succeeds();
    }
    publish(&cluster, 10, "");
    let client = client(&cluster);
    let refused = async |options: ReplayOptions, cursor: Option<Cursor>| {
        Replay::begin(&client, options, cursor).await.unwrap_err().reason
    };
    let cursor = Replay::begin(&client, orders(), None).await.unwrap().cursor();
    let mail = ReplayOptions { topic: "mail".into(), ..ReplayOptions::default() };
    assert_eq!(refused(mail, Some(cursor.clone())).await, Reason::InvalidRequest);
    let beyond = ReplayOptions { from: Some(From::Offset(11)), ..orders() };
    assert_eq!(refused(beyond, None).await, Reason::BeyondEnd);
    let gone = ReplayOptions { topic: "gone".into(), ..ReplayOptions::default() };
    assert_eq!(refused(gone, None).await, Reason::TopicNotFound);
    // Also of the topic of this name that was there before.
    cluster.admin(&["topic", "rm", "orders", "--yes"]).succeeds();
    cluster.admin(&["topic", "create", "orders"]).succeeds();
    assert_eq!(refused(orders(), Some(cursor)).await, Reason::InvalidRequest);
    publish(&cluster, 10, "");
    let replay = |args: &[&str]| cluster.admin(&[&["events", "replay", "orders"], args].concat());
    replay(&["--rate", "0"]).fails(2, "zero");
    replay(&["--from", "5", "--until", "4"]).fails(2, "ends before");
    replay(&["--from", "11"]).fails(2, "BEYOND_END");
    replay(&["--from", "@2000", "--until", "@1000"]).fails(2, "ends before");
    replay(&["--until", "soon"]).fails(2, "none of");
    replay(&["--speed", "2"]).fails(2, "--original");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "no cursor").unwrap();
    let path = file.path().to_str().unwrap();
    replay(&["--cursor", path]).fails(2, "no cursor of a replay");
}

#[test]
fn copies_go_on_where_they_were_broken_off() {
    let cluster = Cluster::start(3, &[]);
    for topic in ["orders", "again"] {
        cluster.admin(&["topic", "create", topic]).succeeds();
    }
    publish(&cluster, 3000, "");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cursor");
    let path = path.to_str().unwrap();
    let args = ["events", "replay", "orders", "--into", "again", "--cursor", path];
    let copy = |more: &[&str]| cluster.admin(&[&args[..], more].concat());
    copy(&["--until", "1200"]).succeeds();
    copy(&[]).succeeds();
    copy(&[]).succeeds();
    let read = ["events", "read", "again", "--from", "start", "-o", "jsonl"];
    let copies = cluster.admin(&read).succeeds().stdout();
    let from: Vec<String> = copies
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|copy| copy["event"]["replayedfrom"].as_str().unwrap().to_owned())
        .collect();
    assert!(from.iter().cloned().eq((0..3000).map(|n| format!("orders/{n}"))), "{}", from.len());
    cluster.verify();
}

#[test]
fn a_cursor_without_events_says_where_to_go_on() {
    let cluster = Cluster::start(1, &[]);
    cluster.admin(&["topic", "create", "orders"]).succeeds();
    publish(&cluster, 10, "");
    let dir = tempfile::tempdir().unwrap();
    for (from, name) in [("end", "a.x"), ("@4000000000000", "a.y"), ("pos=1000000", "a")] {
        let path = dir.path().join(name);
        let path = path.to_str().unwrap();
        let args = ["events", "replay", "orders", "--from", from, "--cursor", path, "-o", "jsonl"];
        for _ in 0..2 {
            assert_eq!(cluster.admin(&args).succeeds().stdout(), "", "{from}");
        }
    }
}
