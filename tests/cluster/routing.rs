//! Events that the hub itself delivers, on real three-node clusters: to whom, how often, and what the
//! answers of bad instances lead to.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::time::Duration;

use message_hub::client::{Client, Resolver, ResolverOptions, ServiceHandle};
use message_hub::model::rejection::Reason;
use message_hub::proto::v1::{
    Address, BalancePolicy, BreakerPolicy, Failover, InstanceSpec, PullRequest, PutServiceRequest,
    ServiceConfig,
};

use crate::delivery::{client, counter, publish};
use crate::support::target::{Behaviour, Target};
use crate::support::{Cluster, mhub_with_input, poll};

pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) fn ok() -> Behaviour {
    Behaviour::Answer(204, String::new())
}

/// A cluster that may connect to this machine, with a topic `orders` and a subscription `s` to it that
/// is delivered to the service `shop`.
pub(crate) fn hub(settings: &[&str]) -> Cluster {
    hub_in("", settings)
}

/// The same, with all nodes in a zone.
fn hub_in(zone: &str, settings: &[&str]) -> Cluster {
    let environment = [("MHUB_EGRESS_ALLOW", "127.0.0.0/8"), ("MHUB_NODE_ZONE", zone)];
    let cluster = Cluster::start(3, &environment);
    cluster.admin(&["topic", "create", "orders"]).succeeds();
    let mut args = vec!["sub", "create", "s", "--topic", "orders", "--config", "target=shop"];
    settings.iter().for_each(|setting| args.extend(["--config", setting]));
    cluster.admin(&args).succeeds();
    cluster
}

pub(crate) fn spec(service: &str, id: &str, address: &str, ttl_ms: u64) -> InstanceSpec {
    InstanceSpec {
        service: service.to_owned(),
        id: id.to_owned(),
        addresses: vec![Address { protocol: "http".into(), address: address.to_owned() }],
        ttl_ms,
        ..InstanceSpec::default()
    }
}

pub(crate) async fn register(client: &Client, targets: &[(&str, &Target)]) -> ServiceHandle {
    let specs = targets.iter().map(|(id, target)| spec("shop", id, &target.address, 60_000));
    ServiceHandle::register(client, specs.collect()).await.unwrap()
}

pub(crate) async fn set_breaker(client: &Client, change: impl FnOnce(&mut BreakerPolicy)) {
    let mut breaker = BreakerPolicy::default();
    change(&mut breaker);
    let config = ServiceConfig { breaker: Some(breaker), ..ServiceConfig::default() };
    let put = PutServiceRequest { name: "shop".into(), config: Some(config), ..Default::default() };
    client.put_service(put).await.unwrap();
}

pub(crate) fn offsets(targets: &[&Target]) -> BTreeSet<u64> {
    targets.iter().flat_map(|target| target.got()).map(|got| got.offset()).collect()
}

pub(crate) fn paused(cluster: &Cluster) -> bool {
    let info = cluster.admin(&["sub", "info", "s", "-o", "json"]).json();
    info["paused"] == "target down"
}

#[tokio::test(flavor = "multi_thread")]
async fn events_go_to_all_instances_once_each_as_cloudevents() {
    let cluster = hub(&["target.path=/events"]);
    let client = client(&cluster);
    let (a, b) = (Target::start(ok()), Target::start(ok()));
    let _handle = register(&client, &[("a", &a), ("b", &b)]).await;
    publish(&cluster, 200, "k 1");
    let done = poll(SOON, || counter(&cluster, "acked") == 200);
    assert!(done, "{} of 200", counter(&cluster, "acked"));
    assert_eq!(offsets(&[&a, &b]), (0..200).collect());
    assert_eq!(a.got().len() + b.got().len(), 200, "each once");
    assert!(a.got().len() > 20 && b.got().len() > 20, "{} to a", a.got().len());
    let first = &a.got()[0];
    assert!(first.head.starts_with("POST /events HTTP/1.1"), "{}", first.head);
    assert_eq!(first.header("ce-partitionkey"), Some("k%201"));
    assert_eq!(first.header("mhub-topic"), Some("orders"));
    assert_eq!(first.header("mhub-attempt"), Some("1"));
    assert_eq!(first.body, first.offset().to_string());
    // Nobody else gets them.
    let consume = cluster.admin(&["events", "consume", "s", "--wait", "1"]);
    consume.fails(4, "SUBSCRIPTION_ROUTED");
    let pull =
        PullRequest { subscription: "s".into(), consumer: "hub".into(), ..PullRequest::default() };
    assert_eq!(client.pull(pull).await.unwrap_err().reason, Reason::InvalidRequest);
    // Structured, by consistent hashing: one key, one instance.
    let structured = "target.format=http_structured";
    cluster.admin(&["sub", "update", "s", "--config", structured]).succeeds();
    let config =
        ServiceConfig { balance: BalancePolicy::ConsistentHash.into(), ..ServiceConfig::default() };
    let put = PutServiceRequest { name: "shop".into(), config: Some(config), ..Default::default() };
    client.put_service(put).await.unwrap();
    let mut published = 200;
    let structured = poll(SOON, || {
        publish(&cluster, 1, "two");
        published += 1;
        let all = [&a, &b].into_iter().flat_map(Target::got);
        all.into_iter().any(|got| got.body.contains("\"two\""))
    });
    assert!(structured && poll(SOON, || counter(&cluster, "acked") == published));
    let before = [a.got().len(), b.got().len()];
    publish(&cluster, 50, "one");
    published += 50;
    assert!(poll(SOON, || counter(&cluster, "acked") == published));
    let after = [a.got().len() - before[0], b.got().len() - before[1]];
    assert!(after.contains(&0), "{after:?} of one key");
    let last = [&a, &b].into_iter().flat_map(|t| t.got()).find(|got| got.body.contains("\"one\""));
    let event: serde_json::Value = serde_json::from_str(&last.unwrap().body).unwrap();
    assert_eq!((&event["specversion"], &event["partitionkey"]), (&"1.0".into(), &"one".into()));
    // Without a target, consumers pull again.
    cluster.admin(&["sub", "update", "s", "--config", "target="]).succeeds();
    publish(&cluster, 1, "");
    let pulled = cluster.admin(&["events", "consume", "s", "--limit", "1", "-o", "jsonl"]);
    assert!(pulled.succeeds().stdout().contains(&format!("\"offset\":\"{published}\"")));
    cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_settle_and_bad_instances_cost_only_attempts() {
    let cluster = hub(&[
        "retry.initial=50ms",
        "retry.max=50ms",
        "retry.min=10ms",
        "retry.strategy=fixed",
        "retry_budget.min=1000",
        "target.timeout=300ms",
    ]);
    let client = client(&cluster);
    // Its breaker shall not hide it.
    set_breaker(&client, |breaker| breaker.disabled = Some(true)).await;
    let target = Target::start(ok());
    let _handle = register(&client, &[("a", &target)]).await;
    let redirect = "location: http://127.0.0.1:1/\r\n".to_owned();
    let mut acked = 0;
    for (behaviour, why) in [
        (Behaviour::Answer(500, String::new()), "HTTP_500"),
        (Behaviour::Answer(302, redirect), "HTTP_302"),
        (Behaviour::Answer(429, "retry-after: 0\r\n".into()), "HTTP_429"),
        (Behaviour::Never, "TIMEOUT"),
        (Behaviour::Close, "CONNECTION_LOST"),
        (Behaviour::Nonsense, "CONNECTION_LOST"),
        (Behaviour::Cut("HTTP/1.1 200 x\r\ncontent-le"), "CONNECTION_LOST"),
        (Behaviour::Cut("HTTP/1.1 500 x\r\ncontent-length: 9\r\n\r\nwhy"), "HTTP_500"),
    ] {
        let (before, seen) = (counter(&cluster, "nacked"), target.got().len());
        target.behave(behaviour.clone());
        publish(&cluster, 1, "");
        assert!(poll(SOON, || counter(&cluster, "nacked") >= before + 2), "{behaviour:?}");
        let retries = cluster.admin(&["retries", "ls", "s", "-o", "json"]).stdout();
        assert!(retries.contains(why), "{why} in {retries}");
        target.behave(ok());
        acked += 1;
        assert!(poll(SOON, || counter(&cluster, "acked") == acked), "{behaviour:?}");
        assert!(target.got().len() > seen + 2, "{behaviour:?}");
    }
    // Longer than anybody reads, or cut off: its status settles it.
    let resident = || cluster.number(cluster.leader(), "resident_bytes");
    let before = resident();
    let cut_off = Behaviour::Cut("HTTP/1.1 200 x\r\ncontent-length: 9\r\n\r\nwhy");
    for behaviour in [Behaviour::Endless, cut_off] {
        target.behave(behaviour.clone());
        publish(&cluster, 1, "");
        acked += 1;
        assert!(poll(SOON, || counter(&cluster, "acked") == acked), "{behaviour:?}");
    }
    assert!(resident() < before + (256 << 20), "{before} bytes before, {} after", resident());
    // What blames the event is not tried again.
    target.behave(Behaviour::Answer(422, String::new()));
    publish(&cluster, 1, "");
    assert!(poll(SOON, || counter(&cluster, "rejected") == 1));
    let dead = cluster.admin(&["dlq", "ls", "s", "-o", "json"]).stdout();
    assert!(dead.contains("HTTP_422") && dead.contains("why"), "{dead}");
    cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_zone_of_the_node_comes_first_and_the_others_when_it_refuses() {
    let cluster = hub_in("x", &[]);
    let client = client(&cluster);
    // One that nobody answers for would open its breaker.
    set_breaker(&client, |breaker| breaker.disabled = Some(true)).await;
    let (near, far) = (Target::start(ok()), Target::start(ok()));
    let at = |id: &str, address: &str, zone: &str| InstanceSpec {
        zone: zone.to_owned(),
        ..spec("shop", id, address, 60_000)
    };
    let handle = ServiceHandle::register(&client, vec![at("near", &near.address, "x")]);
    let handle = handle.await.unwrap();
    let _far = ServiceHandle::register(&client, vec![at("far", &far.address, "y")]).await.unwrap();
    let both = || {
        let info = cluster.admin(&["service", "info", "shop", "-o", "json"]).json();
        info["instances"].as_array().map(Vec::len) == Some(2)
    };
    assert!(poll(SOON, both));
    publish(&cluster, 50, "");
    assert!(poll(SOON, || counter(&cluster, "acked") == 50));
    assert_eq!((near.got().len(), far.got().len()), (50, 0));
    // Whoever is near refuses: what is far is tried at once, and it costs no attempt.
    handle.deregister().await.unwrap();
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refusing = unused.local_addr().unwrap().to_string();
    drop(unused);
    let _gone = ServiceHandle::register(&client, vec![at("gone", &refusing, "x")]).await.unwrap();
    publish(&cluster, 10, "");
    assert!(poll(SOON, || counter(&cluster, "acked") == 60));
    assert_eq!(far.got().len(), 10);
    assert!(far.got().iter().all(|got| got.header("mhub-attempt") == Some("1")));
    cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_down_pauses_without_costing_attempts() {
    let cluster =
        hub(&["max_attempts=2", "retry.min=10ms", "retry.initial=50ms", "retry.max=50ms"]);
    let client = client(&cluster);
    publish(&cluster, 20, "");
    assert!(poll(SOON, || paused(&cluster)), "nobody is there");
    let feed =
        ["events", "tail", "hub.lifecycle", "--from", "start", "--limit", "1", "-o", "jsonl"];
    let feed = cluster.admin(&feed).stdout();
    assert!(feed.contains("hub.subscription.target_down"), "{feed}");
    // One that nobody answers for would open the breaker of the service.
    set_breaker(&client, |breaker| breaker.disabled = Some(true)).await;
    // One whose address refuses connections, and one that answers.
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refusing = unused.local_addr().unwrap().to_string();
    drop(unused);
    let gone = ServiceHandle::register(&client, vec![spec("shop", "gone", &refusing, 60_000)]);
    let _gone = gone.await.unwrap();
    assert!(poll(SOON, || counter(&cluster, "released") >= 10), "they are tried");
    let well = Target::start(ok());
    let _handle = register(&client, &[("well", &well)]).await;
    assert!(poll(SOON, || counter(&cluster, "acked") == 20), "{}", counter(&cluster, "acked"));
    assert_eq!((counter(&cluster, "nacked"), counter(&cluster, "expired")), (0, 0));
    assert!(well.got().iter().all(|got| got.header("mhub-attempt") == Some("1")));
    assert!(!paused(&cluster));
    // A pause that somebody asked for is not ended by it.
    cluster.admin(&["sub", "pause", "s"]).succeeds();
    drop(_handle);
    drop(_gone);
    publish(&cluster, 1, "");
    let again = Target::start(ok());
    let _again = register(&client, &[("again", &again)]).await;
    assert!(!poll(Duration::from_secs(2), || counter(&cluster, "acked") > 20));
    cluster.admin(&["sub", "resume", "s"]).succeeds();
    assert!(poll(SOON, || counter(&cluster, "acked") == 21));
    cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_instances_and_leaders_are_killed() {
    // What was on its way to the one that is killed, and from the leader that is, comes again: without a
    // budget for retries of its own that takes a minute.
    let mut cluster = hub(&["target.timeout=2s", "retry_budget.min=1000"]);
    let client = client(&cluster);
    let survivor = Target::start(ok());
    let _handle = register(&client, &[("survivor", &survivor)]).await;
    let endpoints = cluster.all_endpoints().join(",");
    let mut doomed = Command::new(env!("CARGO_BIN_EXE_mhub"))
        .args(["service", "handle", "shop", "--id", "doomed", "--ttl", "2s", "-o", "jsonl"])
        .env("MHUB_ENDPOINT", &endpoints)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let registered = || {
        let info = cluster.admin(&["service", "info", "shop", "-o", "json"]).json();
        info["healthy"] == "2"
    };
    assert!(poll(SOON, registered));
    for n in 0..4 {
        publish(&cluster, 500, "");
        match n {
            1 => {
                doomed.kill().unwrap();
                doomed.wait().unwrap();
            }
            2 => {
                let leader = cluster.leader();
                cluster.nodes[leader].kill();
                cluster.nodes[leader].start();
            }
            _ => {}
        }
    }
    // The service as a whole is never shut off for the instance that nobody can connect to.
    let within = Duration::from_secs(25);
    assert!(poll(within, || counter(&cluster, "acked") == 2000), "{}", counter(&cluster, "acked"));
    // Once it is given up, no event goes to it: all of these come at once and to the other one.
    let given_up = || {
        let info = cluster.admin(&["service", "info", "shop", "-o", "json"]).json();
        info["healthy"] == "1"
    };
    assert!(poll(SOON, given_up));
    let before = counter(&cluster, "released");
    publish(&cluster, 100, "");
    assert!(poll(SOON, || counter(&cluster, "acked") == 2100));
    assert_eq!(counter(&cluster, "released"), before);
    let dead = cluster.admin(&["dlq", "ls", "s", "-o", "json"]).stdout();
    assert_eq!(dead.trim(), "[]", "nothing died");
    cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_leave_time_for_a_call_and_end_with_a_redrive() {
    let cluster = hub(&["dead_letters.trip=off"]);
    let client = client(&cluster);
    let publish_for = |ttl: &str| {
        cluster.admin(&["events", "publish", "orders", "--data", "x", "--ttl", ttl]).succeeds();
    };
    // Nobody takes it in time.
    publish_for("200ms");
    assert!(poll(SOON, || counter(&cluster, "dead") == 1));
    let target = Target::start(ok());
    let _handle = register(&client, &[("a", &target)]).await;
    cluster.admin(&["dlq", "redrive", "s", "--all"]).succeeds();
    assert!(poll(SOON, || counter(&cluster, "acked") == 1), "late, as somebody wanted it");
    assert_eq!(target.got().len(), 1);
    // Less than what is kept of other leases for settling; one of them comes in time.
    let in_time = poll(SOON, || {
        publish_for("900ms");
        counter(&cluster, "acked") > 1
    });
    assert!(in_time, "{} calls", target.got().len());
    cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_by_grpc_is_settled_by_its_answer() {
    let cluster =
        hub(&["target.format=grpc", "retry.min=10ms", "retry.initial=50ms", "retry.max=50ms"]);
    let endpoints = cluster.all_endpoints().join(",");
    let handle = |id: &str, answer: &str, limit: &str| {
        Command::new(env!("CARGO_BIN_EXE_mhub"))
            .args(["service", "handle", "shop", "--id", id, "-o", "jsonl", "--answer", answer])
            .args(["--limit", limit])
            .env("MHUB_ENDPOINT", &endpoints)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    publish(&cluster, 1, "k");
    // It nacks twice and goes; the one that comes after it acks.
    let nacking = handle("nacking", "500", "2").wait_with_output().unwrap();
    let lines = String::from_utf8(nacking.stdout).unwrap();
    let told: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&told[0]["attempt"], &told[1]["attempt"]), (&1.into(), &2.into()), "{lines}");
    assert_eq!(told[0]["event"]["partitionkey"], "k");
    let acking = handle("acking", "200", "1").wait_with_output().unwrap();
    assert!(String::from_utf8(acking.stdout).unwrap().contains("\"attempt\":3"));
    assert!(poll(SOON, || counter(&cluster, "acked") == 1));
    assert!(counter(&cluster, "nacked") >= 2);
    // Nothing that speaks gRPC: each attempt fails, the event waits.
    let target = Target::start(Behaviour::Nonsense);
    let mut other = spec("shop", "other", &target.address, 60_000);
    other.addresses[0].protocol = "grpc".to_owned();
    let client = client(&cluster);
    let _other = ServiceHandle::register(&client, vec![other]).await.unwrap();
    publish(&cluster, 1, "k");
    let tried = || counter(&cluster, "nacked") > 2 || counter(&cluster, "released") > 0;
    assert!(poll(SOON, tried));
    assert_eq!(counter(&cluster, "acked"), 1);
    cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hub_connects_nowhere_that_it_may_not() {
    let cluster = Cluster::start(1, &[]);
    cluster.admin(&["topic", "create", "orders"]).succeeds();
    let create = ["sub", "create", "s", "--topic", "orders", "--config", "target=shop"];
    cluster.admin(&create).succeeds();
    let client = client(&cluster);
    let target = Target::start(ok());
    let _handle = register(&client, &[("inside", &target)]).await;
    publish(&cluster, 1, "");
    assert!(poll(SOON, || counter(&cluster, "released") >= 1));
    assert!(target.got().is_empty());
    assert!(poll(SOON, || cluster.nodes[0].log().contains("egress.allow")), "the log says why");
    for bad in ["target=a b", "target.path=x", "target.timeout=1ms"] {
        let args = ["sub", "create", "t", "--topic", "orders", "--config", "target=shop"];
        cluster.admin(&[&args[..], &["--config", bad]].concat()).fails(2, "");
    }
    let lone = ["sub", "create", "t", "--topic", "orders", "--config", "target.timeout=1s"];
    cluster.admin(&lone).fails(2, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resolver_follows_changes_and_goes_on_alone() {
    let mut cluster = Cluster::start(3, &[]);
    let client = client(&cluster);
    let register = async |service: &str, id: &str| {
        let spec = spec(service, id, "10.0.0.1:80", 60_000);
        ServiceHandle::register(&client, vec![spec]).await.unwrap()
    };
    let resolver = Resolver::new(&client, "shop", ResolverOptions::default()).await.unwrap();
    assert_eq!(resolver.pick("").unwrap_err().reason, Reason::ServiceNotFound);
    let config = ServiceConfig {
        balance: BalancePolicy::RoundRobin.into(),
        failover: vec![Failover { service: "spare".into(), zone: String::new() }],
        ..ServiceConfig::default()
    };
    let put = PutServiceRequest { name: "shop".into(), config: Some(config), ..Default::default() };
    client.put_service(put).await.unwrap();
    let picks = || {
        let mut counts = BTreeMap::new();
        for _ in 0..100 {
            let Ok(chosen) = resolver.pick("k") else { break };
            // Said nothing of, so that no breaker hears of it.
            let id = chosen.instance().spec.clone().unwrap().id;
            *counts.entry(id).or_insert(0) += 1;
        }
        counts
    };
    let spare = register("spare", "s").await;
    let only = |id: &str| BTreeMap::from([(id.to_owned(), 100)]);
    assert!(poll(SOON, || picks() == only("s")), "{:?}", picks());
    let a = register("shop", "a").await;
    let b = register("shop", "b").await;
    let both = BTreeMap::from([("a".to_owned(), 50), ("b".to_owned(), 50)]);
    assert!(poll(SOON, || picks() == both), "{:?}", picks());
    // What it was told of calls reaches the hub: the breaker of b opens.
    let of_instances_only = |breaker: &mut BreakerPolicy| breaker.min_calls = Some(10_000);
    set_breaker(&client, of_instances_only).await;
    let fails = || {
        // Once it is shut off it is not chosen any more.
        for _ in 0..20 {
            let chosen = resolver.pick("").unwrap();
            let is_b = chosen.instance().spec.as_ref().unwrap().id == "b";
            chosen.done(!is_b);
            if is_b {
                break;
            }
        }
        picks() == only("a")
    };
    let info = || cluster.admin(&["service", "info", "shop", "-o", "json"]).stdout();
    assert!(poll(SOON, fails), "{:?} of {}", picks(), info());
    // Nobody answers any more: it goes on with what it knows, and says so.
    cluster.nodes.iter_mut().for_each(crate::support::Node::kill);
    assert!(poll(SOON, || resolver.is_stale()));
    assert_eq!(picks(), only("a"));
    drop((spare, a, b));
}

#[test]
fn the_printing_instance_tells_what_it_got() {
    let cluster = hub(&[]);
    let endpoints = cluster.all_endpoints().join(",");
    let event = r#"{"specversion":"1.0","id":"1","source":"/t","type":"t","data":{"n":1}}"#;
    mhub_with_input(&endpoints, &["events", "publish", "orders", "-"], Some(event)).succeeds();
    let args = ["service", "handle", "shop", "--id", "a", "--limit", "1", "-o", "jsonl"];
    let told = cluster.admin(&args).json();
    assert_eq!(told["event"]["data"], serde_json::json!({"n": 1}));
    assert_eq!((&told["subscription"], &told["attempt"]), (&"s".into(), &1.into()));
    // It is gone from the registry at once.
    let info = cluster.admin(&["service", "info", "shop", "-o", "json"]).json();
    assert_eq!(info["instances"], serde_json::json!([]));
    cluster.admin(&["service", "handle", "shop", "--id", "a", "--answer", "42"]).fails(2, "status");
}
