//! Replays on real three-node clusters: nothing left out, nothing twice, also over nodes that are killed
//! and replays that are broken off.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use message_hub::client::{Client, ClientOptions, Cursor, Pace, Replay, ReplayOptions, Selection};
use message_hub::model::rejection::Reason;
use message_hub::proto::v1::read_request::From;

use crate::delivery::{client, publish};
use crate::support::{Cluster, mhub, mhub_with_input, poll};

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
fn a_node_without_a_quorum_replays_what_it_has() {
    let mut cluster = Cluster::start(3, &[]);
    cluster.admin(&["topic", "create", "orders"]).succeeds();
    publish(&cluster, 100, "");
    let alone = (cluster.leader() + 1) % 3;
    let node = cluster.nodes[alone].endpoint();
    let replay = |more: &[&str]| {
        let args = ["--timeout", "5", "events", "replay", "-o", "jsonl"];
        mhub(&node, &[&args[..], more].concat())
    };
    let stale = |more: &[&str]| {
        let told = replay(&[more, &["--consistency", "stale"]].concat());
        told.succeeds().stdout().lines().count()
    };
    // It has applied all of it, as it says before it is left alone.
    assert_eq!(replay(&["orders"]).succeeds().stdout().lines().count(), 100);
    for other in (0..3).filter(|other| *other != alone) {
        cluster.nodes[other].kill();
    }
    assert_eq!(stale(&["orders"]), 100);
    assert_eq!(stale(&["orders", "--from", "@2000", "--until", "pos=1000000"]), 100);
    assert_eq!(stale(&["--all", "--until", "60"]), 60);
    replay(&["orders"]).fails(7, "");
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

/// Where an event is, when it was recorded, and what it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    place: (String, u64),
    position: u64,
    recorded_at: jiff::Timestamp,
    correlation: String,
}

/// What was printed, line by line.
fn told(stdout: &str) -> Vec<Told> {
    let one = |line: &str| {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let number = |name: &str| text(&event[name]).parse().unwrap();
        Told {
            place: (text(&event["topic"]), number("offset")),
            position: number("position"),
            recorded_at: text(&event["recorded_at"]).parse().unwrap(),
            correlation: text(&event["event"]["correlationid"]),
        }
    };
    stdout.lines().map(one).collect()
}

/// Publishes calls of five events to two topics in turn; every third event is of the story `c`.
fn publish_in_turn(cluster: &Cluster, calls: usize) {
    for call in 0..calls {
        let line = |n: usize| {
            let correlation = if n.is_multiple_of(3) { r#","correlationid":"c""# } else { "" };
            format!(
                r#"{{"specversion":"1.0","id":"{call}-{n}","source":"/t","type":"t"{correlation}}}"#
            )
        };
        let lines: Vec<_> = (call * 5..call * 5 + 5).map(line).collect();
        let topic = ["orders", "mail"][call % 2];
        let args = ["events", "publish", topic, "-"];
        let endpoints = cluster.endpoints().join(",");
        mhub_with_input(&endpoints, &args, Some(&lines.join("\n"))).succeeds();
    }
}

#[test]
fn the_command_line_selects_exactly_what_is_asked_for() {
    let cluster = Cluster::start(1, &[]);
    for topic in ["orders", "mail"] {
        cluster.admin(&["topic", "create", topic]).succeeds();
    }
    publish_in_turn(&cluster, 12);
    let read = cluster.admin(&["events", "read", "orders", "--from", "start", "-o", "jsonl"]);
    let orders = told(&read.succeeds().stdout());
    assert_eq!(orders.len(), 30);
    let replay = |args: &[&str]| {
        let args = [&["events", "replay"], args, &["-o", "jsonl"]].concat();
        told(&cluster.admin(&args).succeeds().stdout())
    };
    let of = |selected: &dyn Fn(&Told) -> bool| {
        let found: Vec<_> = orders.iter().filter(|event| selected(event)).cloned().collect();
        assert!(!found.is_empty() && found.len() < orders.len(), "{found:?}");
        found
    };
    let story = of(&|event| event.correlation == "c");
    assert_eq!(replay(&["orders", "--correlation", "c"]), story);
    let late = story[3..].to_vec();
    let from = late[0].place.1.to_string();
    assert_eq!(replay(&["orders", "--correlation", "c", "--from", &from]), late);
    // Instants as they are told, and the first event of the next instant ends a range.
    let (begins, ends) = (orders[7].recorded_at, orders[22].recorded_at);
    let (from, until) = (format!("@{begins}"), format!("@{ends}"));
    let expected = of(&|event| event.recorded_at >= begins);
    assert_eq!(replay(&["orders", "--from", &from]), expected);
    let expected = of(&|event| event.recorded_at < ends);
    assert_eq!(replay(&["orders", "--until", &until]), expected);
    let expected = of(&|event| event.recorded_at >= begins && event.recorded_at < ends);
    assert_eq!(replay(&["orders", "--from", &from, "--until", &until]), expected);
    // Positions of the hub, here those of events of the other topic: what lies between them.
    let read = cluster.admin(&["events", "read", "mail", "--from", "start", "-o", "jsonl"]);
    let mail = told(&read.succeeds().stdout());
    let (begins, ends) = (mail[2].position, mail[22].position);
    let (from, until) = (format!("pos={begins}"), format!("pos={ends}"));
    let expected = of(&|event| (begins..ends).contains(&event.position));
    assert_eq!(replay(&["orders", "--from", &from, "--until", &until]), expected);
    // A story is one of all topics.
    let mut both = [&orders[..], &mail[..]].concat();
    both.sort_by_key(|event| event.position);
    assert_eq!(replay(&["--all"]), both);
    both.retain(|event| event.correlation == "c");
    assert_eq!(replay(&["--all", "--correlation", "c"]), both);
}

#[test]
fn the_whole_hub_goes_on_by_its_cursor_after_ends_in_the_middle() {
    let cluster = Cluster::start(1, &[]);
    for topic in ["orders", "mail"] {
        cluster.admin(&["topic", "create", topic]).succeeds();
    }
    publish_in_turn(&cluster, 6);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cursor");
    let path = path.to_str().unwrap();
    let replay = |more: &[&str]| {
        let args = ["events", "replay", "--all", "--cursor", path, "-o", "jsonl"];
        let args = [&args[..], more].concat();
        told(&cluster.admin(&args).succeeds().stdout())
    };
    // Within a batch, then at a place that was passed already.
    let mut parts = vec![replay(&["--until", "13"]), replay(&["--until", "pos=13"])];
    assert_eq!((parts[0].len(), parts[1].len()), (13, 0));
    parts.push(replay(&["--until", "17"]));
    publish_in_turn(&cluster, 3);
    parts.push(replay(&[]));
    assert_eq!(replay(&[]), []);
    publish_in_turn(&cluster, 1);
    parts.push(replay(&[]));
    let positions: Vec<_> = parts.concat().iter().map(|event| event.position).collect();
    assert_eq!(positions, (0..50).collect::<Vec<_>>());
    let of = |topic: &str| {
        let parts = parts.iter().flatten().filter(|event| event.place.0 == topic);
        parts.map(|event| event.place.1).collect::<Vec<_>>()
    };
    assert_eq!(of("orders"), (0..30).collect::<Vec<_>>());
    assert_eq!(of("mail"), (0..20).collect::<Vec<_>>());
}

#[test]
fn copies_whose_client_is_killed_go_on_by_their_cursor_and_come_twice_at_most() {
    const EVENTS: u64 = 5000;
    let cluster = Cluster::start(3, &[]);
    for topic in ["orders", "again"] {
        cluster.admin(&["topic", "create", topic]).succeeds();
    }
    publish(&cluster, usize::try_from(EVENTS).unwrap(), "");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cursor");
    let args = ["events", "replay", "orders", "--into", "again", "--cursor"];
    let args = [&args[..], &[path.to_str().unwrap()]].concat();
    let mut replaying = Command::new(env!("CARGO_BIN_EXE_mhub"))
        .args(&args)
        .args(["--rate", "2000"])
        .env("MHUB_ENDPOINT", cluster.all_endpoints().join(","))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let kept = || next(&path);
    let under_way = poll(Duration::from_secs(20), || kept().is_some_and(|next| next > 500));
    let runs = replaying.try_wait().unwrap().is_none();
    replaying.kill().unwrap();
    replaying.wait().unwrap();
    assert!(under_way && runs, "{:?}", kept());
    let next = kept().unwrap();
    assert!(next < EVENTS, "it was over before it was killed");
    cluster.admin(&args).succeeds();
    assert_eq!(kept(), Some(EVENTS));
    let read = ["events", "read", "again", "--from", "start", "-o", "jsonl"];
    let mut copies: BTreeMap<u64, u32> = BTreeMap::new();
    for line in cluster.admin(&read).succeeds().stdout().lines() {
        let copy: serde_json::Value = serde_json::from_str(line).unwrap();
        let from = copy["event"]["replayedfrom"].as_str().unwrap();
        let offset = from.strip_prefix("orders/").unwrap().parse().unwrap();
        *copies.entry(offset).or_default() += 1;
    }
    assert!(copies.keys().copied().eq(0..EVENTS), "{} of {EVENTS} are there", copies.len());
    let twice: Vec<_> = copies.iter().filter(|(_, count)| **count > 1).collect();
    // Those that were under way when it was killed, once more: none that the cursor had passed.
    assert!(twice.iter().all(|(offset, count)| **offset >= next && **count == 2), "{twice:?}");
    cluster.verify();
}

/// Where a cursor goes on.
fn next(cursor: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(cursor).ok()?;
    Some(serde_json::from_str::<Cursor>(&text).unwrap().next)
}

/// A command that says its payload, and then does this with it as `$n`.
fn says(then: &str) -> String {
    format!("n=$(cat); echo \"<$n>\"; {then}")
}

/// What such commands say of these payloads.
fn said(payloads: std::ops::Range<u64>) -> String {
    payloads.map(|n| format!("<{n}>\n")).collect()
}

#[test]
fn a_command_gets_each_event_of_a_range_and_one_that_fails_gets_it_again() {
    let cluster = Cluster::start(1, &[]);
    cluster.admin(&["topic", "create", "orders"]).succeeds();
    // Payloads are offsets; behind them, those of a key begin at 0.
    publish(&cluster, 12, "");
    publish(&cluster, 5, "k");
    let dir = tempfile::tempdir().unwrap();
    let replay = |cursor: &Path, command: &str, more: &[&str]| {
        let cursor = cursor.to_str().unwrap();
        let args = ["events", "replay", "orders", "--cursor", cursor, "--run", command];
        cluster.admin(&[&args[..], more].concat())
    };
    let range = ["--from", "2", "--until", "11", "-o", "json"];
    let cursor = dir.path().join("range");
    let fails = "test $n != 7 || { echo it rains >&2; echo no sevens today >&2; exit 3; }";
    let failed = replay(&cursor, &says(fails), &range);
    failed.fails(8, "event 7 of topic orders (exit status: 3: no sevens today)");
    assert!(failed.stderr().contains("it rains\n"), "all is passed on: {}", failed.all());
    assert!(failed.stderr().contains("\nnext: "), "{}", failed.all());
    assert_eq!((failed.stdout(), next(&cursor)), (said(2..8), Some(7)));
    // Nothing is done before it this time.
    let failed = replay(&cursor, &says(fails), &range);
    failed.fails(1, "event 7 of topic orders (exit status: 3: no sevens today)");
    assert_eq!((failed.stdout(), next(&cursor)), (said(7..8), Some(7)));
    let done = replay(&cursor, &says("true"), &range);
    assert_eq!((done.succeeds().stdout(), next(&cursor)), (said(7..11), Some(11)));
    assert!(done.stderr().contains("4 events replayed; the next one is 11"), "{}", done.all());
    let done = replay(&cursor, &says("true"), &range);
    assert_eq!((done.succeeds().stdout(), next(&cursor)), (String::new(), Some(11)));
    // Of a selection, at a pace: those before it that are not chosen do not come again either.
    let (of_key, cursor) = (["--key", "k", "--rate", "1000"], dir.path().join("selection"));
    replay(&cursor, "kill -9 $$", &of_key).fails(1, "event 12 of topic orders (signal: 9");
    assert_eq!(next(&cursor), Some(12));
    let done = replay(&cursor, &says("true"), &of_key);
    assert_eq!((done.succeeds().stdout(), next(&cursor)), (said(0..5), Some(17)));
    // The whole hub; nothing keeps where it was, and it need not read.
    let whole = ["events", "replay", "--all", "--run", "exit 1"];
    cluster.admin(&whole).fails(1, "event 0 of topic orders (exit status: 1)");
    let both = ["events", "replay", "orders", "--into", "again", "--run", "cat"];
    cluster.admin(&both).fails(2, "cannot be used with");
}

#[test]
fn a_command_that_is_broken_off_gets_its_event_again() {
    const EVENTS: u64 = 6;
    let cluster = Cluster::start(1, &[]);
    cluster.admin(&["topic", "create", "orders"]).succeeds();
    publish(&cluster, usize::try_from(EVENTS).unwrap(), "");
    let dir = tempfile::tempdir().unwrap();
    let (cursor, began) = (dir.path().join("cursor"), dir.path().join("began"));
    let args = ["events", "replay", "orders", "--cursor", cursor.to_str().unwrap(), "--run"];
    // The fourth would take its time.
    let slow = says(&format!("test $n != 3 || {{ touch {}; exec sleep 60; }}", began.display()));
    let replaying = Command::new(env!("CARGO_BIN_EXE_mhub"))
        .args(args)
        .arg(slow)
        .env("MHUB_ENDPOINT", cluster.all_endpoints().join(","))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let under_way = poll(Duration::from_secs(20), || began.exists());
    let (kept, pid) = (next(&cursor), replaying.id().to_string());
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    // All that it started has ended as well, else this would wait for what that says.
    let asked = Instant::now();
    let ended = replaying.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(under_way && asked.elapsed() < Duration::from_secs(30), "{told}");
    assert_eq!(ended.status.code(), Some(8), "{told}");
    assert!(told.contains("3 events replayed; the next one is 3"), "{told}");
    assert_eq!(String::from_utf8_lossy(&ended.stdout), said(0..4));
    assert_eq!((kept, next(&cursor)), (Some(3), Some(3)));
    let good = says("true");
    let go_on = cluster.admin(&[&args[..], &[good.as_str()]].concat());
    assert_eq!((go_on.succeeds().stdout(), next(&cursor)), (said(3..6), Some(EVENTS)));
}
