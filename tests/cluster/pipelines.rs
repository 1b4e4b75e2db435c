//! Consuming, transforming and producing exactly once: with transactions of one's own, and with `mhub tx pipe`.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use message_hub::client::{Client, ClientOptions, recorded_events};
use message_hub::proto::v1::settlement::Action;
use message_hub::proto::v1::{
    Ack, Event, EventBatch, LeasedEvents, PullRequest, SettleRequest, Settlement, TransactRequest,
};
use prost::Message as _;

use crate::delivery::{client, counter, publish, shop};
use crate::support::{Cluster, mhub_with_input, poll};
use crate::transactions::{event, part, payloads};

/// The events of a lease.
fn leased(lease: &LeasedEvents) -> Vec<String> {
    let mut found = Vec::new();
    for batch in &lease.batches {
        let batch = EventBatch::decode(batch.clone()).unwrap();
        for recorded in recorded_events(&batch) {
            let event = Event::decode(recorded.event).unwrap();
            found.push(String::from_utf8(event.data.to_vec()).unwrap());
        }
    }
    found
}

/// Takes, transforms, and hands on with the acknowledgement in one transaction.
async fn worker(
    client: Client,
    name: String,
    until: std::sync::Arc<std::sync::atomic::AtomicBool>,
) {
    while !until.load(std::sync::atomic::Ordering::Relaxed) {
        let pull = PullRequest {
            subscription: "s".into(),
            consumer: name.clone(),
            max_events: 20,
            wait_ms: 300,
            ..PullRequest::default()
        };
        let Ok(pulled) = client.pull(pull).await else { continue };
        for lease in pulled.leased {
            let doubled = leased(&lease).into_iter().map(|data| event(format!("{data}!")));
            let ack = Settlement {
                lease_id: lease.lease_id,
                term: lease.term,
                topic_id: lease.topic_id,
                action: Some(Action::Ack(Ack {})),
                ..Settlement::default()
            };
            let request = TransactRequest {
                parts: vec![part("out", doubled.collect())],
                settles: vec![SettleRequest {
                    subscription: "s".into(),
                    consumer: name.clone(),
                    items: vec![ack],
                }],
                ..TransactRequest::default()
            };
            // What is refused was done by somebody else; what is unknown shows itself.
            drop(client.transact(request).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_hands_on_each_event_once_through_leaders_that_are_killed() {
    const EVENTS: usize = 4000;
    const KILLS: usize = 20;
    let mut cluster = Cluster::start(3, &[]);
    for topic in ["orders", "out"] {
        cluster.admin(&["topic", "create", topic]).succeeds();
    }
    // Leases that are lost come again soon, and no event is given up.
    let settings =
        ["lease=3s", "max_attempts=0", "retry.min=10ms", "retry.initial=50ms", "retry.max=50ms"];
    let mut args = vec!["sub", "create", "s", "--topic", "orders", "--from", "start"];
    settings.iter().for_each(|setting| args.extend(["--config", setting]));
    cluster.admin(&args).succeeds();
    let until = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut workers = tokio::task::JoinSet::new();
    for n in 0..4 {
        let options = ClientOptions { timeout: Duration::from_secs(15), ..Default::default() };
        let client = Client::with_options(cluster.all_endpoints(), options).unwrap();
        workers.spawn(worker(client, format!("w-{n}"), std::sync::Arc::clone(&until)));
    }
    for kill in 0..KILLS {
        publish(&cluster, EVENTS / KILLS, "");
        let leader = cluster.leader();
        cluster.nodes[leader].kill();
        cluster.nodes[leader].start();
        cluster.await_serving();
        println!("killed leader {leader} ({kill})");
    }
    let client = client(&cluster);
    let began = Instant::now();
    let mut out = Vec::new();
    while out.len() < EVENTS && began.elapsed() < Duration::from_secs(60) {
        out = payloads(&client, "out").await;
    }
    until.store(true, std::sync::atomic::Ordering::Relaxed);
    workers.join_all().await;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for data in payloads(&client, "out").await {
        *counts.entry(data).or_default() += 1;
    }
    let mut wanted: BTreeMap<String, usize> = BTreeMap::new();
    for data in payloads(&client, "orders").await {
        *wanted.entry(format!("{data}!")).or_default() += 1;
    }
    assert_eq!(wanted.values().sum::<usize>(), EVENTS);
    assert_eq!(counts, wanted, "each once, no other");
    cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_piping_process_hands_on_each_event_once_through_leaders_that_are_killed() {
    const EVENTS: usize = 300;
    const KILLS: usize = 3;
    const PATIENCE: Duration = Duration::from_secs(60);
    let settings =
        ["lease=3s", "max_attempts=0", "retry.min=10ms", "retry.initial=50ms", "retry.max=50ms"];
    let mut cluster = shop(3, EVENTS, &settings);
    cluster.admin(&["topic", "create", "out"]).succeeds();
    let client = client(&cluster);
    // The command takes its time, so that leaders are killed in the middle of the work.
    let command = r#"read n; sleep 0.02; printf '%s!' "$n""#;
    let mut pipe = Command::new(env!("CARGO_BIN_EXE_mhub"))
        .args(["tx", "pipe", "s", "--into", "out", "--batch", "8", "--run", command])
        .env("MHUB_ENDPOINT", cluster.all_endpoints().join(","))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    for kill in 1..=KILLS {
        let (wanted, began) = (kill * EVENTS / (KILLS + 2), Instant::now());
        while payloads(&client, "out").await.len() < wanted && began.elapsed() < PATIENCE {}
        let leader = cluster.leader();
        let done = payloads(&client, "out").await.len();
        assert!((wanted..EVENTS).contains(&done), "kill {kill} after {done} of {EVENTS}");
        cluster.nodes[leader].kill();
        cluster.nodes[leader].start();
        cluster.await_serving();
    }
    let acked = || counter(&cluster, "acked") == EVENTS as u64;
    let all = poll(PATIENCE, acked);
    let runs = pipe.try_wait().unwrap().is_none();
    let pid = pipe.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success() || !runs);
    let ended = pipe.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(all && runs && ended.status.success(), "{:?} {told}", ended.status);
    let mut out = payloads(&client, "out").await;
    let mut wanted: Vec<_> = (0..EVENTS).map(|n| format!("{n}!")).collect();
    out.sort();
    wanted.sort();
    assert_eq!(out, wanted, "each once, no other: {told}");
    assert_eq!(counter(&cluster, "in_flight"), 0);
    cluster.verify();
}

#[test]
fn who_is_asked_to_end_gives_back_what_it_has_and_no_attempt_counts() {
    let cluster = shop(1, 3, &[]);
    cluster.admin(&["topic", "create", "out"]).succeeds();
    let dir = tempfile::tempdir().unwrap();
    let at_work = dir.path().join("at-work");
    let command = format!("touch {}; exec sleep 600", at_work.display());
    let pipe = ["tx", "pipe", "s", "--into", "out", "--run", &command];
    let consume = ["events", "consume", "s", "--limit", "9", "-o", "jsonl"];
    for (args, taken) in [(&pipe[..], true), (&consume[..], false)] {
        let mut process = Command::new(env!("CARGO_BIN_EXE_mhub"))
            .args(args)
            .env("MHUB_ENDPOINT", cluster.nodes[0].endpoint())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let busy = || if taken { at_work.exists() } else { counter(&cluster, "acked") == 3 };
        assert!(poll(Duration::from_secs(30), busy), "{args:?}");
        let pid = process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert!(process.wait().unwrap().success(), "{args:?}");
        let counters = ["released", "expired", "nacked", "in_flight"];
        assert_eq!(counters.map(|name| counter(&cluster, name)), [3, 0, 0, 0], "{args:?}");
    }
}

#[test]
fn a_pipe_counts_what_it_handed_on_not_what_it_lost() {
    let cluster = shop(1, 2, &["lease=1s", "retry.initial=100ms"]);
    cluster.admin(&["topic", "create", "out"]).succeeds();
    // The first try outlasts its lease.
    let dir = tempfile::tempdir().unwrap();
    let tried = dir.path().join("tried");
    let command = format!("test -e {0} || {{ touch {0}; sleep 2; }}; cat", tried.display());
    let pipe = ["tx", "pipe", "s", "--into", "out", "--batch", "1", "--run", &command];
    let piped = cluster.admin(&[&pipe[..], &["--limit", "2", "-o", "jsonl"]].concat());
    assert!(piped.succeeds().stderr().contains("LEASE_EXPIRED"), "{}", piped.all());
    assert_eq!(piped.stdout().lines().count(), 2, "{}", piped.all());
    assert_eq!((counter(&cluster, "acked"), counter(&cluster, "expired")), (2, 1));
}

#[test]
fn a_result_that_is_refused_once_the_lease_is_over_is_no_dead_letter() {
    let cluster = shop(1, 1, &["lease=1s", "retry.initial=100ms"]);
    cluster.admin(&["topic", "create", "out"]).succeeds();
    // The first try outlasts its lease, and makes more than a call takes.
    let dir = tempfile::tempdir().unwrap();
    let tried = dir.path().join("tried");
    let large = "sleep 2; head -c 2000000 /dev/zero";
    let command = format!("test -e {0} && exec cat; touch {0}; {large}", tried.display());
    let pipe = ["tx", "pipe", "s", "--into", "out", "--batch", "1", "--run", &command];
    let piped = cluster.admin(&[&pipe[..], &["--limit", "1", "-o", "jsonl"]].concat());
    let told = piped.succeeds().stderr();
    assert!(told.contains("comes again, it was refused: "), "{told}");
    assert!(!told.contains("dead letter"), "{told}");
    assert_eq!(piped.stdout().lines().count(), 1, "{}", piped.all());
    assert_eq!((counter(&cluster, "acked"), counter(&cluster, "expired")), (1, 1));
}

#[test]
fn the_command_line_pipes_each_event_once_and_what_fails_comes_again() {
    let cluster = Cluster::start(1, &[]);
    for topic in ["orders", "out"] {
        cluster.admin(&["topic", "create", topic]).succeeds();
    }
    let retry =
        ["retry.strategy=fixed", "retry.initial=100ms", "max_attempts=0"].map(|s| ["--config", s]);
    let create = ["sub", "create", "s", "--topic", "orders", "--from", "start"];
    cluster.admin(&[&create[..], &retry.concat()[..]].concat()).succeeds();
    publish(&cluster, 50, "");
    // The command fails for one of them, until a file is there, and has nothing to say of another.
    let dir = tempfile::tempdir().unwrap();
    let flag = dir.path().join("flag");
    let command = format!(
        "read n; case $n in 7) test -e {0} && echo seven;; 8) ;; *) echo \"<$n>\";; esac",
        flag.display()
    );
    let pipe = |extra: &[&str]| {
        let args = ["tx", "pipe", "s", "--into", "out", "--run", &command, "--type", "result"];
        cluster.admin(&[&args[..], extra].concat())
    };
    pipe(&["--limit", "49", "--batch", "7"]).succeeds();
    std::fs::write(&flag, "").unwrap();
    let told = pipe(&["--wait", "2", "-o", "jsonl"]).succeeds().stdout();
    assert!(told.lines().count() == 1 && told.contains("seven"), "{told}");
    let read = cluster.admin(&["events", "read", "out", "-o", "jsonl"]).stdout();
    let events: Vec<serde_json::Value> =
        read.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(events.len(), 49, "one has no result: {read}");
    let causes: std::collections::BTreeSet<_> =
        events.iter().map(|of| of["event"]["causationid"].as_str().unwrap().to_owned()).collect();
    assert_eq!(causes.len(), 49);
    // Also of events of several sources with one id.
    let ids = events.iter().map(|of| of["event"]["id"].as_str().unwrap());
    let offsets = ids.map(|id| id.rsplit_once('/').unwrap().1.parse::<u64>().unwrap());
    assert_eq!(offsets.collect::<std::collections::BTreeSet<_>>().len(), 49);
    assert!(events.iter().all(|of| of["event"]["type"] == "result"));
    assert_eq!(crate::delivery::counter(&cluster, "acked"), 50);
    cluster
        .admin(&["tx", "pipe", "gone", "--into", "out", "--wait", "1"])
        .fails(3, "SUBSCRIPTION_NOT_FOUND");
    cluster.admin(&["tx", "pipe", "s", "--into", "out", "--wait", "-1"]).fails(2, "");
}

#[test]
fn an_event_whose_result_is_refused_is_a_dead_letter_and_the_others_are_handed_on() {
    let cluster = Cluster::start(1, &[]);
    cluster.admin(&["topic", "create", "orders"]).succeeds();
    let register = ["schema", "register", "number", "-", "--format", "json"];
    mhub_with_input(&cluster.nodes[0].endpoint(), &register, Some(r#"{"type": "integer"}"#))
        .succeeds();
    let settings = ["schema.mode=enforce", "schema.subject=number", "max_event_bytes=300000"];
    let settings = settings.map(|setting| ["--config", setting]);
    cluster.admin(&[&["topic", "create", "out"], &settings.concat()[..]].concat()).succeeds();
    cluster.admin(&["sub", "create", "s", "--topic", "orders", "--from", "start"]).succeeds();
    publish(&cluster, 40, "");
    // Two break the schema, one is over the topic's bound, one over that of any call; the last eight are too much at
    // once, and one has no result.
    let command = "read n; case $n in 3|17) echo '\"no\"';; 8) ;; 30) printf '%400000s' 1;; \
        31) printf '%1100000s' 1;; 3[2-9]) printf '%200000s' 1;; *) echo $n;; esac";
    let args = ["tx", "pipe", "s", "--into", "out", "--run", command, "--batch", "40"];
    let pipe = || cluster.admin(&[&args[..], &["--wait", "1", "-o", "jsonl"]].concat());
    let first = pipe();
    let told = first.succeeds().stderr();
    assert!(told.contains("event 17 of topic orders is a dead letter now"), "{told}");
    assert_eq!(first.stdout().lines().count(), 36, "{told}");
    let dead = cluster.admin(&["dlq", "ls", "s", "-o", "json"]).json();
    let mut dead: Vec<_> = dead
        .as_array()
        .unwrap()
        .iter()
        .map(|letter| {
            let offset: u64 = letter["offset"].as_str().unwrap().parse().unwrap();
            let (reason, error) = letter["error"].as_str().unwrap().split_once(' ').unwrap();
            let died = if reason == "SCHEMA_VIOLATED" { "SCHEMA_INVALID" } else { "REJECTED" };
            assert!(letter["reason"] == died && !error.is_empty(), "{letter}");
            (offset, reason.to_owned())
        })
        .collect();
    dead.sort_unstable();
    let reasons = [
        (3, "SCHEMA_VIOLATED"),
        (17, "SCHEMA_VIOLATED"),
        (30, "EVENT_TOO_LARGE"),
        (31, "CALL_TOO_LARGE"),
    ];
    assert_eq!(dead, reasons.map(|(offset, reason)| (offset, reason.to_owned())));
    for (reason, offsets) in [("SCHEMA_INVALID", ["3", "17"]), ("REJECTED", ["30", "31"])] {
        let found = cluster.admin(&["dlq", "ls", "s", "--reason", reason, "-o", "json"]).json();
        let mut found: Vec<_> =
            found.as_array().unwrap().iter().map(|l| l["offset"].as_str().unwrap()).collect();
        found.sort_unstable_by_key(|offset| offset.parse::<u64>().unwrap());
        assert_eq!(found, offsets, "{reason}");
    }
    // Each of the others has one result, in their order, and nothing comes again.
    assert_eq!(pipe().succeeds().stdout(), "");
    let read = cluster.admin(&["events", "read", "out", "-o", "jsonl"]).stdout();
    let from = read.lines().map(|line| {
        let of: serde_json::Value = serde_json::from_str(line).unwrap();
        let id = of["event"]["id"].as_str().unwrap();
        id.rsplit_once('/').unwrap().1.parse::<u64>().unwrap()
    });
    let without = [3, 8, 17, 30, 31];
    let wanted: Vec<_> = (0..40).filter(|offset| !without.contains(offset)).collect();
    assert_eq!(from.collect::<Vec<_>>(), wanted);
    assert_eq!(crate::delivery::counter(&cluster, "acked"), 36);
    assert_eq!(crate::delivery::counter(&cluster, "rejected"), 4);
}
