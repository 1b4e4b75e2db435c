//! How services stand on a real three-node cluster: ready, failed over, braked; and that it is told.

use std::time::Duration;

use message_hub::client::Client;
use message_hub::proto::v1::{
    Address, Dependency, Failover, InstanceSpec, PutServiceRequest, RegisterInstancesRequest,
    ServiceConfig,
};
use serde_json::{Value, json};

use crate::delivery::client;
use crate::process::get;
use crate::quotas::feed;
use crate::support::{Cluster, poll};

const SOON: Duration = Duration::from_secs(20);

async fn register(client: &Client, service: &str, ids: &[&str], ttl_ms: u64) {
    let spec = |id: &&str| InstanceSpec {
        service: service.to_owned(),
        id: (*id).to_owned(),
        addresses: vec![Address { protocol: "http".into(), address: "10.0.0.1:80".into() }],
        ttl_ms,
        ..InstanceSpec::default()
    };
    let request = RegisterInstancesRequest { instances: ids.iter().map(spec).collect() };
    client.register_instances(request).await.unwrap();
}

async fn put(client: &Client, name: &str, config: ServiceConfig) {
    let (name, config) = (name.to_owned(), Some(config));
    let put = PutServiceRequest { name, config, ..PutServiceRequest::default() };
    client.put_service(put).await.unwrap();
}

/// How often the feed tells this of a service.
fn told(cluster: &Cluster, kind: &str, service: &str) -> usize {
    let is = |line: &&str| {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        event["event"]["type"] == format!("hub.service.{kind}")
            && event["event"]["subject"] == service
    };
    feed(cluster).lines().filter(is).count()
}

fn a_new_leader_says_that_it_gives_up_nobody_yet(cluster: &Cluster) {
    let next = (cluster.leader() + 1) % cluster.nodes.len();
    let id = cluster.nodes[next].id.to_string();
    cluster.admin(&["cluster", "transfer-leader", &id]).succeeds();
    let left = |node| {
        let metrics = get(node, "/metrics").1;
        let of =
            |line: &str| line.strip_prefix("mhub_registry_grace_seconds ")?.parse::<f64>().ok();
        metrics.lines().find_map(of).unwrap()
    };
    let says = || {
        let each: Vec<_> = cluster.nodes.iter().map(|node| left(node) > 0.0).collect();
        let leads = cluster.leader();
        each.iter().enumerate().all(|(at, has)| *has == (at == leads))
    };
    assert!(poll(SOON, || cluster.leader() == next && says()));
}

/// Whether all nodes have this line among their metrics.
fn all_measure(cluster: &Cluster, line: &str) -> bool {
    let has = |node| get(node, "/metrics").1.lines().any(|known| known == line);
    cluster.nodes.iter().all(has)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_breaker_shuts_off_is_not_ready_and_is_failed_over_as_all_nodes_tell() {
    let cluster = Cluster::start(3, &[]);
    let client = client(&cluster);
    let spare = Failover { service: "spare".into(), ..Failover::default() };
    let failover = vec![spare];
    put(
        &client,
        "shop",
        ServiceConfig { failover, failover_hold_ms: Some(500), ..Default::default() },
    )
    .await;
    let shop = Dependency { service: "shop".into(), ..Dependency::default() };
    put(&client, "web", ServiceConfig { dependencies: vec![shop], ..Default::default() }).await;
    for (service, id) in [("shop", "i"), ("spare", "other"), ("web", "i")] {
        register(&client, service, &[id], 600_000).await;
    }
    let service = |args: &[&str]| cluster.admin(&[&["service"], args].concat());
    service(&["ready", "web"]).succeeds();
    assert!(poll(SOON, || told(&cluster, "ready", "web") == 1));
    service(&["breaker", "shop", "i", "open"]).succeeds();
    let why = service(&["ready", "web"]);
    why.fails(10, "");
    assert!(why.stdout().contains("shut off by breakers"), "{}", why.stdout());
    assert!(poll(SOON, || told(&cluster, "not_ready", "web") == 1));
    assert!(poll(SOON, || told(&cluster, "failed_over", "shop") == 1));
    for line in [
        "mhub_service_ready{service=\"web\"} 0",
        "mhub_service_ready{service=\"spare\"} 1",
        "mhub_service_failed_over{service=\"shop\"} 1",
        "mhub_service_braked{service=\"shop\"} 0",
        "mhub_service_changes_total{what=\"registered\"} 3",
        "mhub_service_changes_total{what=\"down\"} 1",
        "mhub_service_changes_total{what=\"failed_over\"} 1",
    ] {
        assert!(poll(SOON, || all_measure(&cluster, line)), "{line}");
    }
    let called = || {
        let found = service(&["resolve", "shop", "-o", "json"]).stdout();
        serde_json::from_str::<Value>(&found).map_or(Value::Null, |found| found[0].clone())
    };
    let over = || called()["id"] == "other";
    assert!(poll(SOON, over), "another service is called");
    let is_told = |called: &Value| called["failed_over_to"] == "spare" && called["panic"] == false;
    assert!(poll(SOON, || is_told(&called())), "{:#}", called());
    // Who asks of a service is told all of that.
    let info = |name: &str| service(&["info", name, "-o", "json"]).json();
    let (shop, web, spare) = (info("shop"), info("web"), info("spare"));
    let stands = |info: &Value| (info["ready"].clone(), info["not_ready_as"].clone());
    assert_eq!(stands(&shop), (json!(false), json!("shop: shut off by breakers")));
    assert_eq!(stands(&web), (json!(false), json!("web -> shop: shut off by breakers")));
    assert_eq!(stands(&spare), (json!(true), Value::Null));
    assert_eq!(shop["failed_over_to"], "spare");
    assert!(shop["failed_over_since"].is_string(), "{shop:#}");
    assert_eq!((&web["failed_over_to"], &web["failed_over_since"]), (&Value::Null, &Value::Null));
    let table = service(&["info", "shop"]).stdout();
    for (name, value) in [("ready", "false"), ("failed_over_to", "spare"), ("braked_since", "")] {
        let shows =
            |line: &str| line.split_once(' ').map(|(n, v)| (n, v.trim())) == Some((name, value));
        assert!(table.lines().any(shows), "{name} {value}: {table}");
    }
    assert!(table.contains("shop: shut off by breakers"), "{table}");
    // And back, a while after it is.
    service(&["breaker", "shop", "i", "auto"]).succeeds();
    service(&["ready", "web"]).succeeds();
    assert!(poll(SOON, || told(&cluster, "failed_back", "shop") == 1));
    assert!(poll(SOON, || all_measure(&cluster, "mhub_service_failed_over{service=\"shop\"} 0")));
    assert!(poll(SOON, || !over()));
    let shop = info("shop");
    assert_eq!(stands(&shop), (json!(true), Value::Null));
    let over = (&shop["failed_over_to"], &shop["failed_over_since"]);
    assert_eq!(over, (&Value::Null, &Value::Null));
    a_new_leader_says_that_it_gives_up_nobody_yet(&cluster);
    cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_brake_is_told_when_it_is_pulled_and_when_it_is_let_go() {
    let mut cluster = Cluster::start(3, &[]);
    let client = client(&cluster);
    let ids = ["a", "b", "c", "d", "e", "f"];
    register(&client, "many", &ids, 1000).await;
    // Nobody renews.
    assert!(poll(SOON, || told(&cluster, "brake_engaged", "many") == 1));
    let engaged = "mhub_service_braked{service=\"many\"} 1";
    assert!(poll(SOON, || all_measure(&cluster, engaged)));
    let braked_since = |cluster: &Cluster| {
        let info = cluster.admin(&["service", "info", "many", "-o", "json"]).json();
        info["braked_since"].clone()
    };
    let since = braked_since(&cluster);
    assert!(since.is_string(), "{since}");
    // The next leader goes on with it.
    let leader = cluster.leader();
    cluster.nodes[leader].kill();
    cluster.nodes[leader].start();
    cluster.await_serving();
    assert_eq!(braked_since(&cluster), since);
    for id in &ids[1..] {
        cluster.admin(&["service", "deregister", "many", id, "--force"]).succeeds();
    }
    // Of one, nobody says that it is too many.
    assert!(poll(SOON, || told(&cluster, "brake_released", "many") == 1));
    assert!(poll(SOON, || all_measure(&cluster, "mhub_service_braked{service=\"many\"} 0")));
    assert_eq!(braked_since(&cluster), Value::Null);
    assert_eq!(told(&cluster, "brake_engaged", "many"), 1, "{}", feed(&cluster));
    cluster.verify();
}

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn who_falls_silent_is_given_up_however_long_it_takes_to_look_how_services_stand_and_to_tell()
{
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use message_hub::client::ClientOptions;
    use message_hub::proto::v1::{CallOutcome, ReportOutcomesRequest};
    let mut cluster = Cluster::start(3, &[]);
    for node in &mut cluster.nodes {
        node.kill();
        node.set("FAILPOINTS", "registry::standings=sleep(2500);registry::tells=sleep(2500)");
        node.start();
    }
    cluster.await_serving();
    let client = client(&cluster);
    register(&client, "shop", &["i"], 1000).await;
    // So that each node has calls to tell of all the time.
    let pinned = ClientOptions { pinned: true, ..ClientOptions::default() };
    let reported = Arc::new(AtomicU64::new(0));
    let callers = cluster.nodes.iter().map(|node| {
        let caller = Client::with_options([node.endpoint()], pinned.clone()).unwrap();
        let reported = Arc::clone(&reported);
        tokio::spawn(async move {
            let (service, instance) = ("shop".to_owned(), "i".to_owned());
            let call = CallOutcome { service, instance, ok: 1, ..CallOutcome::default() };
            loop {
                let outcomes = vec![call.clone()];
                // One that is lost is no matter: there are more.
                if caller.report_outcomes(ReportOutcomesRequest { outcomes }).await.is_ok() {
                    reported.fetch_add(1, Ordering::Relaxed);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    });
    let callers: Vec<_> = callers.collect();
    let is_down = || {
        // So that there is something to look at all the time.
        cluster.admin(&["service", "register", "other"]).succeeds();
        told(&cluster, "down", "shop") == 1
    };
    assert!(poll(SOON, is_down));
    for caller in callers {
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled(), "it called until now");
    }
    assert!(reported.load(Ordering::Relaxed) > 10, "{reported:?}");
    cluster.verify();
}
