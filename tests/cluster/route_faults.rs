//! Routed delivery on real three-node clusters: answers that have no end or break off, instances that are
//! drained, services that are fallen back to, and what metrics tell of it.

use std::process::{Command, Stdio};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use message_hub::client::{Client, ServiceHandle};

use crate::delivery::{client, counter, publish};
use crate::process::get;
use crate::routing::{SOON, hub, offsets, ok, paused, register, set_breaker, spec};
use crate::support::target::{Behaviour, Target};
use crate::support::{Cluster, poll};

/// Failed events come again soon, however often.
pub(crate) const PATIENT: [&str; 6] = [
    "retry.initial=50ms",
    "retry.max=50ms",
    "retry.min=10ms",
    "retry.strategy=fixed",
    "retry_budget.min=1000",
    "max_attempts=0",
];

/// What follows the head of a message.
#[derive(Clone, Copy, Debug)]
enum Rest {
    /// Zeros without end.
    Endless,
    /// Nothing: the answer breaks off.
    Broken,
}

/// Answers every call with the head of a message of so many bytes, and what follows it.
async fn half_answering(bytes: u32, rest: Rest) -> String {
    static ZEROS: [u8; 65_536] = [0; 65_536];
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answer = move || async move {
        let head = Bytes::from([&[0][..], &bytes.to_be_bytes()].concat());
        let part = move |n: u64| match (n, rest) {
            (0, _) => Ok(head.clone()),
            (_, Rest::Endless) => Ok(Bytes::from_static(&ZEROS)),
            (_, Rest::Broken) => Err(std::io::Error::other("it breaks off")),
        };
        let body = Body::from_stream(tokio_stream::iter((0..).map(part)));
        ([("content-type", "application/grpc")], body)
    };
    let app = axum::Router::new().fallback(answer);
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

async fn register_at(client: &Client, service: &str, id: &str, address: &str) -> ServiceHandle {
    ServiceHandle::register(client, vec![spec(service, id, address, 60_000)]).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_whose_answer_has_no_end_or_breaks_off_fail_by_name() {
    let cluster = hub(&[&PATIENT[..], &["target.format=grpc", "target.timeout=1s"]].concat());
    let client = client(&cluster);
    set_breaker(&client, |breaker| breaker.disabled = Some(true)).await;
    let resident = || cluster.number(cluster.leader(), "resident_bytes");
    let before = resident();
    publish(&cluster, 1, "");
    for (bytes, rest, why) in [
        (1 << 30, Rest::Endless, "GRPC_OUT_OF_RANGE"),
        // Messages of no bytes, one after the other.
        (0, Rest::Endless, "GRPC_OUT_OF_RANGE"),
        (100, Rest::Broken, "GRPC_INTERNAL"),
    ] {
        let nacked = counter(&cluster, "nacked");
        let mut bad = spec("shop", "bad", &half_answering(bytes, rest).await, 60_000);
        bad.addresses[0].protocol = "grpc".to_owned();
        let handle = ServiceHandle::register(&client, vec![bad]).await.unwrap();
        assert!(poll(SOON, || counter(&cluster, "nacked") >= nacked + 2), "{bytes} {rest:?}");
        let retries = || cluster.admin(&["retries", "ls", "s", "-o", "json"]).stdout();
        assert!(poll(SOON, || retries().contains(why)), "{why} in {}", retries());
        handle.deregister().await.unwrap();
    }
    assert!(resident() < before + (256 << 20), "{before} bytes before, {} after", resident());
    assert_eq!(counter(&cluster, "acked"), 0);
    // The one that comes after it takes it.
    let good = Command::new(env!("CARGO_BIN_EXE_mhub"))
        .args(["service", "handle", "shop", "--id", "good", "--limit", "1", "-o", "jsonl"])
        .env("MHUB_ENDPOINT", cluster.all_endpoints().join(","))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(good.status.success(), "{good:?}");
    assert!(poll(SOON, || counter(&cluster, "acked") == 1));
    cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_instance_ends_what_it_has_and_gets_no_more() {
    let cluster = hub(&["max_in_flight_per_consumer=4", "target.timeout=30s"]);
    let client = client(&cluster);
    let (a, b) = (Target::start(Behaviour::Held), Target::start(ok()));
    let _a = register(&client, &[("a", &a)]).await;
    publish(&cluster, 10, "");
    assert!(poll(SOON, || a.got().len() == 4), "{} of 4", a.got().len());
    cluster.admin(&["service", "drain", "shop", "a", "--force"]).succeeds();
    assert!(poll(SOON, || paused(&cluster)), "nobody else is there");
    let at_b = register(&client, &[("b", &b)]).await;
    assert!(poll(SOON, || counter(&cluster, "acked") == 6));
    publish(&cluster, 5, "");
    assert!(poll(SOON, || counter(&cluster, "acked") == 11));
    assert_eq!((a.got().len(), b.got().len()), (4, 11));
    // What it has got it may end, and it counts.
    a.behave(ok());
    assert!(poll(SOON, || counter(&cluster, "acked") == 15));
    assert_eq!(offsets(&[&a, &b]), (0..15).collect());
    assert_eq!((a.got().len(), b.got().len()), (4, 11), "each once");
    assert_eq!((counter(&cluster, "nacked"), counter(&cluster, "expired")), (0, 0));
    // Once it is no longer drained it gets work again.
    cluster.admin(&["service", "drain", "shop", "a", "--force", "--undo"]).succeeds();
    at_b.deregister().await.unwrap();
    publish(&cluster, 1, "");
    assert!(poll(SOON, || counter(&cluster, "acked") == 16));
    assert_eq!((a.got().len(), b.got().len()), (5, 11));
    cluster.verify();
}

/// A metric of a node, by its name without prefix and its labels.
fn metric(cluster: &Cluster, index: usize, name: &str) -> Option<u64> {
    let metrics = get(&cluster.nodes[index], "/metrics").1;
    let start = format!("mhub_{name} ");
    metrics.lines().find_map(|line| line.strip_prefix(start.as_str())?.parse().ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn events_go_to_the_next_service_while_theirs_is_down() {
    let cluster = hub(&[]);
    let client = client(&cluster);
    let set = |args: &[&str]| {
        cluster.admin(&[&["service", "register"], args].concat()).succeeds();
    };
    set(&["spare", "--depends", "vault", "--config", "hold_until_ready=on"]);
    set(&["shop", "--failover", "nobody", "--failover", "spare", "--config", "failover_hold=1h"]);
    let (a, spare) = (Target::start(ok()), Target::start(ok()));
    let got = || (a.got().len(), spare.got().len());
    let at_a = register(&client, &[("a", &a)]).await;
    let _spare = register_at(&client, "spare", "s", &spare.address).await;
    publish(&cluster, 5, "");
    assert!(poll(SOON, || counter(&cluster, "acked") == 5));
    assert_eq!(got(), (5, 0));
    // Theirs is down; the next one waits for what it requires.
    at_a.deregister().await.unwrap();
    publish(&cluster, 5, "");
    assert!(poll(SOON, || paused(&cluster)), "{:?}", got());
    assert_eq!(got(), (5, 0));
    let _vault = register_at(&client, "vault", "v", "10.0.0.1:80").await;
    assert!(poll(SOON, || counter(&cluster, "acked") == 10));
    assert_eq!(got(), (5, 5));
    // Theirs is back, but not for long enough.
    let _again = register(&client, &[("a", &a)]).await;
    let passing = "service_instances{service=\"shop\",state=\"passing\"}";
    let leader = cluster.leader();
    assert!(poll(SOON, || metric(&cluster, leader, passing) == Some(1)), "the leader knows it");
    publish(&cluster, 5, "");
    assert!(poll(SOON, || counter(&cluster, "acked") == 15));
    assert_eq!(got(), (5, 10));
    set(&["shop", "--config", "failover_hold=0s"]);
    let mut published = 15;
    let is_back = poll(SOON, || {
        publish(&cluster, 1, "");
        published += 1;
        poll(SOON, || counter(&cluster, "acked") == published) && a.got().len() > 5
    });
    assert!(is_back, "{:?}", got());
    let at_spare = spare.got().len();
    publish(&cluster, 20, "");
    assert!(poll(SOON, || counter(&cluster, "acked") == published + 20));
    assert_eq!(spare.got().len(), at_spare, "none goes there any more");
    cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_how_services_stand_and_how_calls_went() {
    let cluster = hub(&PATIENT);
    let client = client(&cluster);
    let leader = cluster.leader();
    let of = |name: &str| metric(&cluster, leader, name);
    let routed = |result: &str| of(&format!("routed_calls_total{{result=\"{result}\"}}"));
    let all_routed = || ["ok", "failed", "not_connected"].map(routed);
    assert_eq!(all_routed(), [Some(0); 3]);
    set_breaker(&client, |breaker| breaker.disabled = Some(true)).await;
    let target = Target::start(ok());
    let handle = register(&client, &[("a", &target)]).await;
    publish(&cluster, 7, "");
    assert!(poll(SOON, || counter(&cluster, "acked") == 7));
    assert_eq!(all_routed(), [Some(7), Some(0), Some(0)]);
    // An answer that blames the event is one; errors are none.
    target.behave(Behaviour::Answer(422, String::new()));
    publish(&cluster, 1, "");
    assert!(poll(SOON, || counter(&cluster, "rejected") == 1));
    target.behave(Behaviour::Answer(500, String::new()));
    publish(&cluster, 1, "");
    assert!(poll(SOON, || counter(&cluster, "nacked") >= 2));
    target.behave(ok());
    assert!(poll(SOON, || counter(&cluster, "acked") == 8));
    assert_eq!(all_routed(), [Some(9), Some(counter(&cluster, "nacked")), Some(0)]);
    // One that nobody answers at.
    handle.deregister().await.unwrap();
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refusing = unused.local_addr().unwrap().to_string();
    drop(unused);
    let refusing = register_at(&client, "shop", "refusing", &refusing).await;
    publish(&cluster, 1, "");
    assert!(poll(SOON, || routed("not_connected") >= Some(1)), "{:?}", all_routed());
    refusing.deregister().await.unwrap();
    let _again = register(&client, &[("a", &target)]).await;
    assert!(poll(SOON, || counter(&cluster, "acked") == 9));
    assert_eq!(routed("ok"), Some(10));
    // Of instances.
    let at = "http=10.0.0.1:80";
    for (id, ttl) in [("well", "10m"), ("shut", "10m"), ("out", "10m"), ("silent", "1s")] {
        let args = ["service", "register", "store", "--instance", id, "--address", at];
        cluster.admin(&[&args[..], &["--ttl", ttl]].concat()).succeeds();
    }
    cluster.admin(&["service", "drain", "store", "out", "--force"]).succeeds();
    cluster.admin(&["service", "breaker", "store", "shut", "open"]).succeeds();
    let instances = |service: &str, state: &str| {
        of(&format!("service_instances{{service=\"{service}\",state=\"{state}\"}}"))
    };
    let of_store = || {
        let states = ["passing", "critical", "out"].map(|state| instances("store", state));
        (states, of("service_breakers_open{service=\"store\"}"))
    };
    let wanted = ([Some(2), Some(1), Some(1)], Some(1));
    assert!(poll(SOON, || of_store() == wanted), "{:?}", of_store());
    assert_eq!((instances("shop", "passing"), instances("shop", "critical")), (Some(1), Some(0)));
    assert_eq!(of("resolved_out_of_zone_total"), Some(0));
    cluster.mhub(leader, &["service", "resolve", "store", "--zone", "eu"]).succeeds();
    assert_eq!(of("resolved_out_of_zone_total"), Some(1));
    let happened = |kind: &str| of(&format!("service_transitions_total{{to=\"{kind}\"}}"));
    let kinds = ["registered", "deregistered", "passing", "critical", "breaker_opened"];
    assert_eq!(kinds.map(happened), [Some(7), Some(2), Some(0), Some(1), Some(1)]);
    let modes = || ["draining", "maintenance", "up"].map(happened);
    assert_eq!(modes(), [Some(1), Some(0), Some(0)]);
    for to in ["--maintenance", "--undo"] {
        cluster.admin(&["service", "drain", "store", "out", "--force", to]).succeeds();
    }
    assert!(poll(Duration::from_secs(5), || modes() == [Some(1); 3]), "{:?}", modes());
    let of_its_own = || of("service_breaker_open{service=\"store\"}");
    for (state, shows) in [("open", Some(1)), ("auto", Some(0))] {
        cluster.admin(&["service", "breaker", "store", state]).succeeds();
        assert!(poll(SOON, || of_its_own() == shows), "{state}: {:?}", of_its_own());
    }
    cluster.admin(&["service", "breaker", "store", "shut", "auto"]).succeeds();
    assert!(poll(Duration::from_secs(5), || happened("breaker_closed") == Some(1)));
    assert_eq!(of("service_breakers_open{service=\"store\"}"), Some(0));
}
