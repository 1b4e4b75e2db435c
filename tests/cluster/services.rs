//! Services on real three-node clusters: who is there, who falls silent, which of them to call.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use message_hub::client::{Client, ClientOptions, ServiceHandle, ServiceNews, Watched};
use message_hub::model::rejection::Reason;
use message_hub::proto::v1::{
    Address, CallOutcome, InstanceHealth, InstanceSpec, PutServiceRequest,
    RegisterInstancesRequest, RenewRequest, Renewal, ReportOutcomesRequest, ResolveRequest,
    ServiceConfig, instance_result,
};

use crate::delivery::client;
use crate::support::{Cluster, Run, mhub, poll};

pub(crate) fn spec(service: &str, id: &str, ttl_ms: u64) -> InstanceSpec {
    InstanceSpec {
        service: service.to_owned(),
        id: id.to_owned(),
        addresses: vec![Address { protocol: "http".into(), address: "10.0.0.1:80".into() }],
        ttl_ms,
        ..InstanceSpec::default()
    }
}

fn resolve(service: &str, count: u32) -> ResolveRequest {
    ResolveRequest { service: service.to_owned(), count, ..ResolveRequest::default() }
}

/// The ids that a node resolves now, sorted; empty when there are none.
async fn ids(client: &Client, service: &str) -> Vec<String> {
    match client.resolve(resolve(service, 1000)).await {
        Ok(found) => {
            let ids = found.instances.into_iter().filter_map(|i| i.spec).map(|spec| spec.id);
            let mut ids: Vec<_> = ids.collect();
            ids.sort_unstable();
            ids
        }
        // It has just started, whether it has heard of a leader yet or not: it will know.
        Err(rejection) if [Reason::NoLeader, Reason::NoQuorum].contains(&rejection.reason) => {
            vec!["unknown".to_owned()]
        }
        Err(rejection) => {
            let known = [Reason::NoInstance, Reason::ServiceNotFound];
            assert!(known.contains(&rejection.reason), "{rejection}");
            Vec::new()
        }
    }
}

/// Asks all nodes until each of them resolves to these.
pub(crate) async fn await_ids(cluster: &Cluster, service: &str, wanted: &[&str], within: Duration) {
    let started = Instant::now();
    for node in &cluster.nodes {
        let pinned = Client::with_options(
            [node.endpoint()],
            ClientOptions { pinned: true, ..Default::default() },
        );
        let pinned = pinned.unwrap();
        while ids(&pinned, service).await != wanted {
            let found = ids(&pinned, service).await;
            assert!(started.elapsed() < within, "{wanted:?} expected, {found:?} found");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub(crate) async fn put(client: &Client, name: &str, change: impl FnOnce(&mut ServiceConfig)) {
    let mut config = ServiceConfig::default();
    change(&mut config);
    let request = PutServiceRequest {
        name: name.to_owned(),
        config: Some(config),
        ..PutServiceRequest::default()
    };
    client.put_service(request).await.unwrap();
}

/// What a command printed, however it ended.
fn told(run: &Run) -> serde_json::Value {
    serde_json::from_str(&run.stdout()).unwrap()
}

#[test]
fn the_command_line_registers_shows_chooses_and_refuses() {
    let cluster = Cluster::start(3, &[]);
    let service = |args: &[&str]| cluster.admin(&[&["service"], args].concat());
    let at = |id: &str| format!("http=10.0.0.{id}:80");
    service(&["register", "ledger", "--config", "panic=0%"]).succeeds();
    service(&["register", "billing", "--depends", "ledger@^2", "--config", "label.team=red"])
        .succeeds();
    for (id, version) in [("1", "1.4.0"), ("2", "1.5.0")] {
        let address = at(id);
        let args = ["register", "billing", "--instance", id, "--address", &address];
        service(&[&args[..], &["--version", version, "--owner", "me"]].concat()).succeeds();
    }
    let info = service(&["info", "billing", "-o", "json"]).json();
    assert_eq!((&info["healthy"], &info["label.team"]), (&"2".into(), &"red".into()));
    assert_eq!(info["instances"].as_array().unwrap().len(), 2);
    let chosen = service(&["resolve", "billing", "--requires", "^1.5", "-o", "json"]).json();
    assert_eq!((&chosen[0]["id"], &chosen[0]["stale"]), (&"2".into(), &false.into()));
    service(&["resolve", "billing", "--requires", "^2"]).fails(7, "NO_INSTANCE");
    // What it requires is there, but has nobody.
    service(&["ready", "billing"]).fails(10, "");
    let why = told(&service(&["ready", "billing", "-o", "json"]));
    assert_eq!(why["causes"][0]["services"], serde_json::json!(["billing", "ledger"]));
    let address = at("9");
    let wrong = ["register", "ledger", "--instance", "9", "--address", &address];
    service(&[&wrong[..], &["--version", "1.0.0"]].concat()).succeeds();
    let why = told(&service(&["ready", "billing", "-o", "json"]));
    assert_eq!(why["causes"][0]["lack"], "incompatible");
    assert_eq!(why["causes"][0]["versions"], serde_json::json!(["1.0.0"]));
    service(&[&wrong[..], &["--version", "2.1.0"]].concat()).succeeds();
    service(&["ready", "billing"]).succeeds();
    assert!(service(&["deps", "billing"]).stdout().contains("ledger@^2  ready"));
    assert!(service(&["deps", "--dot"]).stdout().contains("\"billing\" -> \"ledger\""));
    // Refusals say why.
    service(&["register", "ledger", "--depends", "billing"])
        .fails(4, "ledger -> billing -> ledger");
    service(&["register", "x", "--depends", "x"]).fails(2, "itself");
    service(&["register", "x", "--depends", "y@two"]).fails(2, "requirement");
    service(&["register", "x", "--instance", "1", "--address", "http=nowhere"])
        .fails(2, "HOST:PORT");
    service(&["register", "x", "--instance", "1", "--address", &address, "--ttl", "1ms"])
        .fails(2, "ttl_ms");
    let stolen = ["register", "billing", "--instance", "1", "--address", &address];
    service(&[&stolen[..], &["--owner", "you"]].concat()).fails(4, "INSTANCE_OWNED");
    service(&["deregister", "billing", "1"]).fails(4, "INSTANCE_OWNED");
    service(&["deregister", "billing", "nobody"]).fails(3, "INSTANCE_NOT_FOUND");
    service(&["info", "nothing"]).fails(3, "SERVICE_NOT_FOUND");
    service(&["rm", "billing", "--yes"]).fails(4, "SERVICE_IN_USE");
    // Operators shut off and take out.
    let left = |service: &dyn Fn(&[&str]) -> Run| {
        let chosen = service(&["resolve", "billing", "--count", "9", "-o", "json"]).json();
        chosen.as_array().unwrap().iter().map(|i| i["id"].to_string()).collect::<BTreeSet<_>>()
    };
    service(&["breaker", "billing", "1", "open"]).succeeds();
    assert!(poll(Duration::from_secs(5), || left(&service).len() == 1));
    service(&["breaker", "billing", "1", "auto"]).succeeds();
    service(&["drain", "billing", "2", "--force"]).succeeds();
    let only_one = BTreeSet::from(["\"1\"".to_owned()]);
    assert!(poll(Duration::from_secs(5), || left(&service) == only_one));
    // So it stays when it registers again.
    let again = ["register", "billing", "--instance", "2", "--address", "http=10.0.0.2:80"];
    service(&[&again[..], &["--version", "1.5.0", "--owner", "me"]].concat()).succeeds();
    let info = service(&["info", "billing", "-o", "json"]).json();
    assert_eq!(info["instances"][1]["mode"], "draining");
    service(&["drain", "billing", "2", "--force", "--undo"]).succeeds();
    for id in ["1", "2"] {
        service(&["deregister", "billing", id, "--owner", "me"]).succeeds();
    }
    service(&["rm", "billing", "--yes"]).succeeds();
    // All of it was told.
    let told =
        cluster.admin(&["events", "read", "hub.lifecycle", "--from", "start", "-o", "jsonl"]);
    for kind in ["registered", "draining", "breaker_forced_open", "up", "deregistered"] {
        assert!(told.stdout().contains(&format!("hub.instance.{kind}")), "{kind} is not told");
    }
    cluster.verify();
}

#[test]
fn what_a_service_was_given_can_be_taken_away() {
    let cluster = Cluster::start(1, &[]);
    let service = |args: &[&str]| cluster.admin(&[&["service"], args].concat());
    service(&["register", "ledger"]).succeeds();
    service(&["register", "billing", "--depends", "ledger", "--config", "label.team=red"])
        .succeeds();
    let given = ["register", "ledger", "--depends", "billing", "--failover", "billing"];
    service(&given).fails(4, "ledger -> billing -> ledger");
    // The other way round the circle is the only one that billing declares.
    let nothing = ["register", "billing", "--no-depends", "--config", "label.team="];
    service(&nothing).succeeds();
    let info = service(&["info", "billing", "-o", "json"]).json();
    assert_eq!((&info["depends"], &info["label.team"]), (&"".into(), &serde_json::Value::Null));
    service(&given).succeeds();
    service(&["register", "ledger", "--no-depends", "--no-failover"]).succeeds();
    let info = service(&["info", "ledger", "-o", "json"]).json();
    assert_eq!((&info["depends"], &info["failover"]), (&"".into(), &"".into()));
    service(&[&given[..], &["--no-depends"]].concat()).fails(2, "cannot be used with");
    // Whoever is sent out of its zone is told.
    let at = ["--instance", "1", "--address", "http=10.0.0.1:80", "--zone", "us"];
    service(&[&["register", "billing"], &at[..]].concat()).succeeds();
    for (zone, told) in [("eu", "of us, not of eu"), ("us", "")] {
        let found = service(&["resolve", "billing", "--zone", zone]);
        let is_told = found.succeeds().stderr().contains("not of");
        assert_eq!(is_told, !told.is_empty(), "{}", found.all());
        assert!(found.stderr().contains(told), "{}", found.all());
    }
}

#[test]
fn quotas_bound_how_many_instances_a_service_has() {
    let cluster = Cluster::start(1, &[]);
    cluster.admin(&["quota", "set", "shop", "--instances", "2"]).succeeds();
    let register = |id: &str| {
        let at = "http=10.0.0.1:80";
        cluster.admin(&["service", "register", "shop", "--instance", id, "--address", at])
    };
    register("a").succeeds();
    register("b").succeeds();
    register("c").fails(6, "QUOTA_EXCEEDED");
    register("a").succeeds();
    cluster.admin(&["service", "deregister", "shop", "a"]).succeeds();
    register("c").succeeds();
}

/// A process of its own that keeps an instance registered.
fn keep(cluster: &Cluster, service: &str, id: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_mhub"))
        .args(["service", "register", service, "--instance", id, "--keep", "--ttl", "2s"])
        .args(["--address", "http=10.0.0.1:80", "-o", "jsonl"])
        .env("MHUB_ENDPOINT", cluster.endpoints().join(","))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_killed_is_given_up_and_then_forgotten() {
    let cluster = Cluster::start(3, &[]);
    let client = client(&cluster);
    put(&client, "shop", |c| {
        c.deregister_after_ms = Some(1000);
        c.panic_percent = Some(0);
    })
    .await;
    let (mut stays, mut dies) = (keep(&cluster, "shop", "stays"), keep(&cluster, "shop", "dies"));
    await_ids(&cluster, "shop", &["dies", "stays"], Duration::from_secs(20)).await;
    dies.kill().unwrap();
    dies.wait().unwrap();
    let killed = Instant::now();
    await_ids(&cluster, "shop", &["stays"], Duration::from_secs(6)).await;
    assert!(killed.elapsed() > Duration::from_secs(1), "{:?}", killed.elapsed());
    let known = || {
        let info = cluster.admin(&["service", "info", "shop", "-o", "json"]).json();
        info["instances"].as_array().unwrap().len()
    };
    assert!(poll(Duration::from_secs(6), || known() == 1), "it is never forgotten");
    // Ctrl-C deregisters at once.
    let pid = i32::try_from(stays.id()).unwrap();
    nix_kill(pid, "-INT");
    stays.wait().unwrap();
    await_ids(&cluster, "shop", &[], Duration::from_secs(6)).await;
    cluster.verify();
}

fn nix_kill(pid: i32, signal: &str) {
    let done = Command::new("kill").args([signal, &pid.to_string()]).status().unwrap();
    assert!(done.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_shorter_than_the_ttl_is_no_loss_and_a_longer_one_heals() {
    let cluster = Cluster::start(3, &[]);
    let client = client(&cluster);
    put(&client, "shop", |c| c.panic_percent = Some(0)).await;
    let mut kept = keep(&cluster, "shop", "a");
    await_ids(&cluster, "shop", &["a"], Duration::from_secs(20)).await;
    let pid = i32::try_from(kept.id()).unwrap();
    let transitions = || {
        let info = cluster.admin(&["service", "info", "shop", "-o", "json"]).json();
        info["instances"][0]["transitions"].as_array().unwrap().len()
    };
    nix_kill(pid, "-STOP");
    tokio::time::sleep(Duration::from_millis(1000)).await;
    nix_kill(pid, "-CONT");
    assert_eq!(transitions(), 1, "a pause of half a renewal's time");
    nix_kill(pid, "-STOP");
    await_ids(&cluster, "shop", &[], Duration::from_secs(6)).await;
    nix_kill(pid, "-CONT");
    await_ids(&cluster, "shop", &["a"], Duration::from_secs(6)).await;
    assert_eq!(transitions(), 3);
    kept.kill().unwrap();
    kept.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_loses_none_of_a_thousand_instances() {
    let mut cluster = Cluster::start(3, &[]);
    let client = client(&cluster);
    // More than one call has.
    let specs = (0..1100).map(|n| spec("shop", &format!("i-{n:04}"), 3000)).collect();
    let mut handle = ServiceHandle::register(&client, specs).await.unwrap();
    let revision = handle.instances().iter().map(|instance| instance.revision).max().unwrap();
    let mut watch = client.watch_services(Vec::new(), Some(revision));
    for _ in 0..2 {
        let leader = cluster.leader();
        cluster.nodes[leader].kill();
        // As long as it takes for those to run out who are not renewed.
        let until = tokio::time::Instant::now() + Duration::from_secs(6);
        while let Ok(told) = tokio::time::timeout_at(until, watch.next()).await {
            if let Watched::Changes(part) = told.unwrap() {
                let of_instances = part.changes.iter().filter(|c| !c.instance.is_empty());
                assert_eq!(of_instances.count(), 0, "{:?}", part.changes);
            }
        }
        cluster.nodes[leader].start();
        cluster.await_serving();
    }
    assert!(tokio::time::timeout(Duration::from_millis(10), handle.news()).await.is_err());
    assert_eq!(client.resolve(resolve("shop", 1000)).await.unwrap().instances.len(), 1000);
    handle.deregister().await.unwrap();
    await_ids(&cluster, "shop", &[], Duration::from_secs(10)).await;
    cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_given_up_hears_it_and_registers_again() {
    let cluster = Cluster::start(3, &[]);
    let client = client(&cluster);
    let request = RegisterInstancesRequest { instances: vec![spec("shop", "a", 1000)] };
    let answer = client.register_instances(request).await.unwrap();
    let Some(instance_result::Result::Instance(first)) = answer.results[0].result.clone() else {
        panic!("{answer:?}");
    };
    let renew = |incarnation| {
        let (service, id) = ("shop".to_owned(), "a".to_owned());
        client.renew(RenewRequest { renewals: vec![Renewal { service, id, incarnation }] })
    };
    let renewed = renew(first.incarnation).await.unwrap();
    assert_eq!((renewed.lost, renewed.ttls_ms), (vec![], vec![1000]));
    let renewed = renew(first.incarnation + 7).await.unwrap();
    assert_eq!((renewed.lost, renewed.ttls_ms), (vec![0], vec![0]), "nobody has that");
    // Nobody renews it: a renewal that comes too late is told.
    let critical = || {
        let info = cluster.admin(&["service", "info", "shop", "-o", "json"]).json();
        info["instances"][0]["health"] == "critical"
    };
    assert!(poll(Duration::from_secs(5), critical));
    assert_eq!(renew(first.incarnation).await.unwrap().lost, [0]);
    // A handle does it by itself.
    let mut handle = ServiceHandle::register(&client, vec![spec("shop", "b", 1000)]).await.unwrap();
    cluster.admin(&["service", "deregister", "shop", "b", "--force"]).succeeds();
    let news = [handle.news().await.unwrap(), handle.news().await.unwrap()];
    let (service, id) = ("shop".to_owned(), "b".to_owned());
    assert_eq!(news[0], ServiceNews::Lost { service, id });
    let ServiceNews::Registered(again) = &news[1] else { panic!("{news:?}") };
    assert_eq!(again.health(), InstanceHealth::Passing);
    drop(handle);
    let gone = || {
        !mhub(&cluster.nodes[0].endpoint(), &["service", "info", "shop"]).stdout().contains("b  ")
    };
    assert!(poll(Duration::from_secs(5), gone), "it is not deregistered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_services_new_ttl_reaches_who_renews_already() {
    let cluster = Cluster::start(3, &[]);
    let client = client(&cluster);
    let specs = vec![spec("shop", "a", 0), spec("shop", "b", 60_000)];
    let handle = ServiceHandle::register(&client, specs).await.unwrap();
    let renewals: Vec<_> = handle
        .instances()
        .into_iter()
        .map(|instance| {
            let spec = instance.spec.unwrap();
            let (service, id, incarnation) = (spec.service, spec.id, instance.incarnation);
            Renewal { service, id, incarnation }
        })
        .collect();
    for ttl_ms in [1000, 30_000] {
        put(&client, "shop", |c| c.ttl_ms = Some(ttl_ms)).await;
        let started = Instant::now();
        loop {
            let renewals = renewals.clone();
            let renewed = client.renew(RenewRequest { renewals }).await.unwrap();
            assert!(renewed.lost.is_empty(), "{renewed:?}");
            if renewed.ttls_ms == [ttl_ms, 60_000] {
                break;
            }
            assert!(started.elapsed() < Duration::from_secs(5), "{renewed:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_to_any_node_open_the_breaker_everywhere() {
    let cluster = Cluster::start(3, &[]);
    let client = client(&cluster);
    put(&client, "shop", |c| {
        c.panic_percent = Some(0);
        c.slow_start_ms = Some(0);
        let breaker = c.breaker.get_or_insert_default();
        (breaker.open_ms, breaker.open_max_ms) = (Some(1000), Some(1000));
    })
    .await;
    let specs = ["bad", "good"].map(|id| spec("shop", id, 60_000)).to_vec();
    let _handle = ServiceHandle::register(&client, specs).await.unwrap();
    await_ids(&cluster, "shop", &["bad", "good"], Duration::from_secs(5)).await;
    let follower = (cluster.leader() + 1) % 3;
    let options = ClientOptions { pinned: true, ..Default::default() };
    let endpoint = cluster.nodes[follower].endpoint();
    let pinned = Client::with_options([endpoint], options).unwrap();
    let report = |ok, failed| {
        let outcome = CallOutcome {
            service: "shop".into(),
            instance: "bad".into(),
            ok,
            failed,
            latency_us: 100,
            ..CallOutcome::default()
        };
        pinned.report_outcomes(ReportOutcomesRequest { outcomes: vec![outcome] })
    };
    report(0, 4).await.unwrap();
    report(1, 1).await.unwrap();
    await_ids(&cluster, "shop", &["bad", "good"], Duration::from_secs(5)).await;
    report(0, 4).await.unwrap();
    await_ids(&cluster, "shop", &["good"], Duration::from_secs(5)).await;
    // After its time it may be tried, and closes once all probes succeeded.
    await_ids(&cluster, "shop", &["bad", "good"], Duration::from_secs(8)).await;
    report(3, 0).await.unwrap();
    let closed = || {
        let info = cluster.admin(&["service", "info", "shop", "-o", "json"]).json();
        info["instances"][0]["breaker"] == "closed"
    };
    assert!(poll(Duration::from_secs(5), closed));
    cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_misses_nothing_over_nodes_that_are_killed() {
    let mut cluster = Cluster::start(3, &[]);
    let client = client(&cluster);
    put(&client, "shop", |_| ()).await;
    let mut watch = client.watch_services(vec!["shop".to_owned()], None);
    let mut known: BTreeSet<String> = BTreeSet::new();
    let register = async |n: usize| {
        let mut instance = spec("shop", &format!("i-{n:03}"), 60_000);
        instance.owner = "me".into();
        let request = RegisterInstancesRequest { instances: vec![instance] };
        client.register_instances(request).await.unwrap();
    };
    let mut revision = 0;
    for n in 0..60 {
        register(n).await;
        if n % 20 == 10 {
            let leader = cluster.leader();
            cluster.nodes[leader].kill();
            cluster.nodes[leader].start();
        }
        // Read on now and then, so that it is behind sometimes.
        while n % 7 == 0 && known.len() <= n {
            match watch.next().await.unwrap() {
                Watched::Restarted => known.clear(),
                Watched::Changes(part) => {
                    assert!(part.revision >= revision, "it goes back");
                    revision = part.revision;
                    for change in part.changes.into_iter().filter(|c| !c.instance.is_empty()) {
                        assert!(change.instance_after.is_some());
                        known.insert(change.instance);
                    }
                }
            }
        }
    }
    let options = ClientOptions { timeout: Duration::from_secs(2), ..Default::default() };
    let hurried = Client::with_options(cluster.all_endpoints(), options).unwrap();
    let mut beyond = hurried.watch_services(Vec::new(), Some(1_000_000));
    assert_eq!(beyond.next().await.unwrap_err().reason, Reason::BeyondEnd);
    cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn renewals_alone_leave_the_log_as_it_is() {
    let cluster = Cluster::start(3, &[]);
    let client = client(&cluster);
    // Each is renewed three times meanwhile, at least.
    let specs = (0..100).map(|n| spec("shop", &format!("i-{n}"), 2000)).collect();
    let _handle = ServiceHandle::register(&client, specs).await.unwrap();
    let leader = cluster.leader();
    let last = || cluster.number(leader, "last_log_index");
    let rests = || {
        let before = last();
        !poll(Duration::from_millis(2500), || last() != before)
    };
    assert!(poll(Duration::from_secs(10), rests), "the log grows: {}", last());
    let info = cluster.admin(&["service", "info", "shop", "-o", "json"]).json();
    assert_eq!(info["healthy"], "100");
    // What it costs is measured.
    assert!(cluster.number(leader, "cpu_ms") > 0);
    let bench = ["bench", "registry", "--instances", "4", "--services", "2", "--watchers", "2"];
    let bench = [&bench[..], &["--secs", "0.1", "--rest", "0.5", "-o", "json"]].concat();
    let told = cluster.admin(&bench).json();
    let cost = told["leader_cpu_percent_at_rest"].as_f64().unwrap();
    assert!(cost < 400.0 && told["log_entries_at_rest"].is_u64(), "{told}");
    assert!(told["changes"].as_u64().unwrap() >= 1, "{told}");
}
