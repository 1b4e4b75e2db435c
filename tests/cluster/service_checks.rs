//! Checks that the hub runs against real listeners, and what it tells of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use message_hub::client::ServiceHandle;
use message_hub::model::rejection::Reason;
use message_hub::proto::v1::{Address, CheckKind, RegisterInstancesRequest, instance_result};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic_health::ServingStatus;
use tonic_health::server::health_reporter;

use crate::delivery::client;
use crate::services::{await_ids, put, spec};
use crate::support::{Cluster, free_port, poll};

/// Accepts connections and hangs up, until it is aborted.
async fn accept(port: u16) -> JoinHandle<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} })
}

/// Serves `grpc.health.v1` with one status for the service `shop`, until it is aborted.
async fn answer(port: u16, status: ServingStatus) -> JoinHandle<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let (reporter, service) = health_reporter();
    reporter.set_service_status("shop", status).await;
    let serving = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(async move {
        serving.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
    })
}

/// Ends a listener; its port is free afterwards.
async fn close(serving: JoinHandle<()>) {
    serving.abort();
    assert!(serving.await.unwrap_err().is_cancelled());
}

/// Waits until the only instance of a service has gone through these changes of health and no others,
/// each for a reason that says so.
fn await_history(cluster: &Cluster, service: &str, wanted: &[(&str, &str)]) {
    let mut instance = serde_json::Value::Null;
    let reached = poll(Duration::from_secs(15), || {
        let info = cluster.admin(&["service", "info", service, "-o", "json"]).json();
        instance = info["instances"][0].clone();
        let told = instance["transitions"].as_array().unwrap();
        told.len() == wanted.len()
            && told.iter().zip(wanted).all(|(told, (to, why))| {
                told["to"] == *to && told["reason"].as_str().unwrap().contains(why)
            })
    });
    assert!(reached, "{wanted:?} wanted of {instance:#}");
    assert_eq!(instance["health"], wanted.last().unwrap().0);
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_by_tcp_and_grpc_turn_with_what_listens_and_tell_why() {
    let cluster = Cluster::start(3, &[("MHUB_EGRESS_ALLOW", "127.0.0.0/8")]);
    let (tcp, grpc) = (free_port(), free_port());
    let accepting = accept(tcp).await;
    let serving = answer(grpc, ServingStatus::Serving).await;
    for (service, check, port) in [("tcp", "check=tcp", tcp), ("grpc", "check=grpc:shop", grpc)] {
        let at = format!("any=127.0.0.1:{port}");
        let args = ["service", "register", service, "--instance", "a", "--address", &at];
        let settings = [check, "check.interval=100ms", "check.timeout=500ms", "panic=0%"];
        let settings = settings.map(|setting| ["--config", setting]).concat();
        cluster.admin(&[&args[..], &["--ttl", "10m"], &settings].concat()).succeeds();
    }
    // Nobody gets calls before the checks say so.
    let (registered, passes) = (("critical", "registered"), ("passing", "checks pass"));
    await_history(&cluster, "tcp", &[registered, passes]);
    await_history(&cluster, "grpc", &[registered, passes]);
    // Nobody listens any more; who does, says that it does not serve.
    close(accepting).await;
    close(serving).await;
    let serving = answer(grpc, ServingStatus::NotServing).await;
    let refused = ("critical", format!("no connection to 127.0.0.1:{tcp}"));
    let refused = (refused.0, refused.1.as_str());
    let unfit = ("critical", "NOT_SERVING");
    await_history(&cluster, "tcp", &[registered, passes, refused]);
    await_history(&cluster, "grpc", &[registered, passes, unfit]);
    let nobody = || cluster.admin(&["service", "resolve", "tcp"]);
    assert!(poll(Duration::from_secs(5), || nobody().code() == 7), "{}", nobody().all());
    assert!(nobody().stderr().contains("critical"), "{}", nobody().all());
    // Both are back.
    let accepting = accept(tcp).await;
    close(serving).await;
    let serving = answer(grpc, ServingStatus::Serving).await;
    await_history(&cluster, "tcp", &[registered, passes, refused, passes]);
    await_history(&cluster, "grpc", &[registered, passes, unfit, passes]);
    // A health service that is gone is no better than one that says no.
    close(serving).await;
    let gone = ("critical", "no connection to");
    await_history(&cluster, "grpc", &[registered, passes, unfit, passes, gone]);
    await_history(&cluster, "tcp", &[registered, passes, refused, passes]);
    cluster.admin(&["service", "resolve", "tcp"]).succeeds();
    close(accepting).await;
    cluster.verify();
}

/// Answers every request over HTTP with a status, which may change.
fn answering(status: &Arc<AtomicU16>) -> String {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let status = Arc::clone(status);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // What is asked does not matter; whoever asks may have gone.
            drop(stream.read(&mut [0; 4096]));
            let status = status.load(Ordering::Relaxed);
            let head = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n");
            drop(stream.write_all(head.as_bytes()));
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hub_asks_instances_itself() {
    let cluster = Cluster::start(3, &[("MHUB_EGRESS_ALLOW", "127.0.0.0/8")]);
    let client = client(&cluster);
    put(&client, "shop", |c| {
        c.panic_percent = Some(0);
        let check = c.check.get_or_insert_default();
        (check.kind, check.path) = (CheckKind::Http.into(), "/healthz".to_owned());
        (check.interval_ms, check.timeout_ms) = (Some(100), Some(100));
    })
    .await;
    let status = Arc::new(AtomicU16::new(503));
    let at = |address: String| vec![Address { protocol: "http".into(), address }];
    let mut sick = spec("shop", "sick", 60_000);
    sick.addresses = at(answering(&status));
    let mut well = spec("shop", "well", 60_000);
    well.addresses = at(answering(&Arc::new(AtomicU16::new(204))));
    let _handle = ServiceHandle::register(&client, vec![sick, well]).await.unwrap();
    await_ids(&cluster, "shop", &["well"], Duration::from_secs(10)).await;
    status.store(200, Ordering::Relaxed);
    await_ids(&cluster, "shop", &["sick", "well"], Duration::from_secs(10)).await;
    // Redirects are not followed.
    status.store(302, Ordering::Relaxed);
    await_ids(&cluster, "shop", &["well"], Duration::from_secs(10)).await;
    let info = cluster.admin(&["service", "info", "shop", "-o", "json"]).json();
    let reason = info["instances"][0]["transitions"].as_array().unwrap().last().unwrap();
    assert!(reason["reason"].as_str().unwrap().contains("status 302"), "{reason}");
    status.store(200, Ordering::Relaxed);
    await_ids(&cluster, "shop", &["sick", "well"], Duration::from_secs(10)).await;
    // A private address is none that this hub may reach. The others of the call, before and after it, are registered,
    // also in a service that is not checked.
    let forbidden = ServiceHandle::register(&client, vec![spec("shop", "far", 60_000)]).await;
    assert_eq!(forbidden.unwrap_err().reason, Reason::AddressForbidden);
    let mut near = spec("shop", "near", 60_000);
    near.addresses = at(answering(&Arc::new(AtomicU16::new(204))));
    let instances = vec![spec("desk", "x", 60_000), spec("shop", "far", 60_000), near];
    let request = RegisterInstancesRequest { instances };
    let answer = client.register_instances(request).await.unwrap();
    let told = answer.results.into_iter().map(|result| match result.result.unwrap() {
        instance_result::Result::Instance(instance) => instance.spec.unwrap().id,
        instance_result::Result::Refused(error) => error.reason,
    });
    assert_eq!(told.collect::<Vec<_>>(), ["x", "ADDRESS_FORBIDDEN", "near"]);
    await_ids(&cluster, "shop", &["near", "sick", "well"], Duration::from_secs(10)).await;
    cluster.verify();
}
