//! What keeps callers from a service, on real three-node clusters: what it requires is not there, an
//! operator shut it off, or it fails as a whole. What the hub delivers meanwhile, and what it tells.

use serde_json::{Value, json};

use crate::delivery::{client, counter, publish};
use crate::quotas::feed;
use crate::route_faults::PATIENT;
use crate::routing::{SOON, hub, ok, paused, register};
use crate::support::target::{Behaviour, Target};
use crate::support::{Cluster, Run, poll};

fn service(cluster: &Cluster, args: &[&str]) -> Run {
    cluster.admin(&[&["service"], args].concat())
}

fn info(cluster: &Cluster) -> Value {
    service(cluster, &["info", "shop", "-o", "json"]).json()
}

/// Registers an instance for ten minutes.
fn add(cluster: &Cluster, name: &str, id: &str, version: &str) {
    let args = ["register", name, "--instance", id, "--address", "http=10.0.0.1:80"];
    service(cluster, &[&args[..], &["--version", version, "--ttl", "10m"]].concat()).succeeds();
}

/// It is not ready for this one cause, which people and programs are told, and nobody is given it.
fn waits(cluster: &Cluster, chain: &[&str], lack: &str, says: &str) {
    let ready = service(cluster, &["ready", "shop"]);
    let line = format!("  {}: {says}", chain.join(" -> "));
    assert_eq!(ready.code(), 10, "{}", ready.all());
    assert_eq!(ready.stdout().lines().collect::<Vec<_>>(), ["shop is not ready:", line.as_str()]);
    let ready = service(cluster, &["ready", "shop", "-o", "json"]);
    let told: Value = serde_json::from_str(&ready.stdout()).unwrap();
    assert_eq!(told["ready"], false);
    let mut cause = json!({"services": chain, "lack": lack});
    if let Some(version) = says.strip_prefix("only versions ") {
        cause["versions"] = json!([version]);
    }
    assert_eq!(told["causes"], json!([cause]));
    // A node may know of it a moment later.
    let resolve = || service(cluster, &["resolve", "shop"]);
    let refused = || resolve().code() == 7 && resolve().stderr().contains(&chain.join(" -> "));
    assert!(poll(SOON, refused), "{}", resolve().all());
    assert!(poll(SOON, || paused(cluster)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_waits_for_what_it_requires_and_is_then_served() {
    let cluster = hub(&[]);
    let client = client(&cluster);
    service(&cluster, &["register", "ledger", "--depends", "vault@^2"]).succeeds();
    let depends = ["register", "shop", "--depends", "ledger", "--depends", "mail?"];
    let waiting = ["--config", "hold_until_ready=on"];
    service(&cluster, &[&depends[..], &waiting].concat()).succeeds();
    // Who needs whom.
    let tree = service(&cluster, &["deps", "ledger"]).stdout();
    assert!(tree.lines().any(|line| line == "needed by shop"), "{tree}");
    let edges = service(&cluster, &["deps", "-o", "json"]).json();
    let edge = |from: &str, to: &str, versions: &str, optional: bool| json!({"service": from, "needs": to, "versions": versions, "optional": optional});
    let ledger = edge("ledger", "vault", "^2", false);
    let shop = [edge("shop", "ledger", "", false), edge("shop", "mail", "", true)];
    assert_eq!(edges, json!([ledger, shop[0], shop[1]]));
    let target = Target::start(ok());
    let _shop = register(&client, &[("a", &target)]).await;
    publish(&cluster, 3, "");
    waits(&cluster, &["shop", "ledger"], "unhealthy", "no healthy instance");
    add(&cluster, "ledger", "l", "1.0.0");
    let chain = ["shop", "ledger", "vault"];
    waits(&cluster, &chain, "missing", "missing");
    add(&cluster, "vault", "v", "1.9.0");
    waits(&cluster, &chain, "incompatible", "only versions 1.9.0");
    assert_eq!(target.got().len(), 0);
    add(&cluster, "vault", "v", "2.1.0");
    assert!(poll(SOON, || counter(&cluster, "acked") == 3), "{:?}", target.got().len());
    assert_eq!(service(&cluster, &["ready", "shop"]).succeeds().stdout(), "shop is ready\n");
    assert!(poll(SOON, || service(&cluster, &["resolve", "shop"]).code() == 0));
    // What it requires goes again, at the far end.
    service(&cluster, &["drain", "vault", "v", "--force"]).succeeds();
    waits(&cluster, &chain, "unhealthy", "no healthy instance");
    publish(&cluster, 2, "");
    assert_eq!(target.got().len(), 3);
    service(&cluster, &["drain", "vault", "v", "--force", "--undo"]).succeeds();
    assert!(poll(SOON, || counter(&cluster, "acked") == 5));
    assert_eq!((target.got().len(), counter(&cluster, "nacked")), (5, 0));
    // Whoever falls back passes over it while it waits.
    let list = ["register", "front", "--failover", "shop", "--failover", "desk"];
    service(&cluster, &list).succeeds();
    add(&cluster, "desk", "d", "1.0.0");
    let given = |name: &str| {
        let found = service(&cluster, &["resolve", "front", "-o", "json"]).stdout();
        found.contains(&format!("\"failed_over_to\": \"{name}\""))
    };
    assert!(poll(SOON, || given("shop")));
    service(&cluster, &["drain", "vault", "v", "--force"]).succeeds();
    assert!(poll(SOON, || given("desk")));
    cluster.verify();
}

/// Where the feed tells that a breaker went, in order: of `shop`, or of an instance of it.
fn moves(cluster: &Cluster, subject: &str) -> Vec<String> {
    let told = feed(cluster);
    let told = told.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of_it = told.filter(|told| told["event"]["subject"] == subject);
    let to =
        |told: Value| Some(told["event"]["type"].as_str()?.split_once(".breaker_")?.1.to_owned());
    of_it.filter_map(to).collect()
}

/// The moves of a breaker that opened by itself, once or again after it was tried, and closed at last.
fn opened_and_closed(moves: &[String]) -> bool {
    let Some((last, tried)) = moves.split_last() else { return false };
    let mut pairs = tried.chunks(2);
    last == "closed" && !tried.is_empty() && pairs.all(|pair| pair == ["opened", "half_open"])
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_forces_holds_until_it_is_left_alone_again() {
    let cluster = hub(&PATIENT);
    let client = client(&cluster);
    let target = Target::start(ok());
    let _handle = register(&client, &[("a", &target)]).await;
    let settings = ["breaker.failures=2", "breaker.min_calls=10000", "breaker.open=1s"];
    let settings = settings.map(|setting| ["--config", setting]).concat();
    service(&cluster, &[&["register", "shop"][..], &settings].concat()).succeeds();
    // Open: nothing comes through, of the instance and of the service alike.
    let of_instance = (&["breaker", "shop", "a"][..], "1 are shut off by a breaker;");
    let of_service = (&["breaker", "shop"][..], "1 are behind the service's breaker;");
    for (n, (breaker, why)) in (0..).zip([of_instance, of_service]) {
        let forced = service(&cluster, &[breaker, &["open", "-o", "jsonl"]].concat()).json();
        assert_eq!(forced["instance"], breaker.get(2).map_or(Value::Null, |id| json!(id)));
        assert_eq!(forced["breaker"], "forced_open");
        let resolve = || service(&cluster, &["resolve", "shop"]);
        let refused = || resolve().code() == 7 && resolve().stderr().contains(why);
        assert!(poll(SOON, refused), "{}", resolve().all());
        assert!(poll(SOON, || paused(&cluster)));
        publish(&cluster, 1, "");
        assert_eq!((target.got().len(), counter(&cluster, "acked")), (n, n as u64));
        service(&cluster, &[breaker, &["auto"]].concat()).succeeds();
        assert!(poll(SOON, || counter(&cluster, "acked") == n as u64 + 1));
    }
    assert_eq!(moves(&cluster, "shop"), ["forced_open", "closed"]);
    // Closed: it stays so, whatever fails.
    let forced = service(&cluster, &["breaker", "shop", "a", "closed", "-o", "json"]).json();
    assert_eq!(forced, json!({"service": "shop", "instance": "a", "breaker": "forced_closed"}));
    assert_eq!(info(&cluster)["instances"][0]["breaker"], "forced_closed");
    target.behave(Behaviour::Answer(500, String::new()));
    publish(&cluster, 1, "");
    assert!(poll(SOON, || counter(&cluster, "nacked") >= 8), "{}", counter(&cluster, "nacked"));
    let forced = ["forced_open", "closed", "forced_closed"];
    assert_eq!(moves(&cluster, "shop/a"), forced);
    // Left alone, it opens, is tried, and closes once all is well.
    service(&cluster, &["breaker", "shop", "a", "auto"]).succeeds();
    assert!(poll(SOON, || moves(&cluster, "shop/a").contains(&"opened".to_owned())));
    target.behave(ok());
    publish(&cluster, 5, "");
    assert!(poll(SOON, || counter(&cluster, "acked") == 8));
    assert!(poll(SOON, || info(&cluster)["instances"][0]["breaker"] == "closed"));
    let all = moves(&cluster, "shop/a");
    assert_eq!(all[..4], [&forced[..], &["closed"]].concat());
    assert!(opened_and_closed(&all[4..]), "{all:?}");
    assert_eq!(moves(&cluster, "shop"), ["forced_open", "closed"]);
    // What is none is refused by name.
    service(&cluster, &["breaker", "shop", "a", "ajar"]).fails(2, "ajar");
    service(&cluster, &["breaker", "shop", "nobody", "open"]).fails(3, "INSTANCE_NOT_FOUND");
    service(&cluster, &["breaker", "nothing", "open"]).fails(3, "SERVICE_NOT_FOUND");
    cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_fails_as_a_whole_is_left_alone_until_it_is_well() {
    let cluster = hub(&PATIENT);
    let client = client(&cluster);
    // Instances alone never open: one of them has half of the calls.
    let settings = ["breaker.failures=10000", "breaker.min_calls=20", "breaker.open=1s"];
    let settings = settings.map(|setting| ["--config", setting]).concat();
    let more = ["--config", "breaker.open_max=1s", "--config", "breaker.probes=2"];
    service(&cluster, &[&["register", "shop"][..], &settings, &more].concat()).succeeds();
    let targets = ["a", "b"].map(|id| (id, Target::start(Behaviour::Answer(500, String::new()))));
    let _handle = register(&client, &targets.each_ref().map(|(id, target)| (*id, target))).await;
    publish(&cluster, 20, "");
    assert!(poll(SOON, || !moves(&cluster, "shop").is_empty()), "{}", info(&cluster));
    targets.iter().for_each(|(_, target)| target.behave(ok()));
    assert!(poll(SOON, || counter(&cluster, "acked") == 20), "{}", counter(&cluster, "acked"));
    assert!(poll(SOON, || info(&cluster)["breaker_state"] == "closed"), "{}", info(&cluster));
    let all = moves(&cluster, "shop");
    assert!(opened_and_closed(&all), "{all:?}");
    assert!(counter(&cluster, "nacked") >= 20);
    cluster.verify();
}
