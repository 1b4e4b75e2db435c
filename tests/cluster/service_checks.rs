//! Checks by tcp and grpc that the hub runs against real listeners, and what it tells of them.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic_health::ServingStatus;
use tonic_health::server::health_reporter;

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
    let registered = ("passing", "registered");
    // Nobody listens any more; who does, says that it does not serve.
    close(accepting).await;
    close(serving).await;
    let serving = answer(grpc, ServingStatus::NotServing).await;
    let refused = ("critical", format!("no connection to 127.0.0.1:{tcp}"));
    let refused = (refused.0, refused.1.as_str());
    let unfit = ("critical", "NOT_SERVING");
    await_history(&cluster, "tcp", &[registered, refused]);
    await_history(&cluster, "grpc", &[registered, unfit]);
    let nobody = || cluster.admin(&["service", "resolve", "tcp"]);
    assert!(poll(Duration::from_secs(5), || nobody().code() == 7), "{}", nobody().all());
    assert!(nobody().stderr().contains("critical"), "{}", nobody().all());
    // Both are back.
    let accepting = accept(tcp).await;
    close(serving).await;
    let serving = answer(grpc, ServingStatus::Serving).await;
    let back = ("passing", "checks pass");
    await_history(&cluster, "tcp", &[registered, refused, back]);
    await_history(&cluster, "grpc", &[registered, unfit, back]);
    // A health service that is gone is no better than one that says no.
    close(serving).await;
    let gone = ("critical", "no connection to");
    await_history(&cluster, "grpc", &[registered, unfit, back, gone]);
    let serving = answer(grpc, ServingStatus::Serving).await;
    await_history(&cluster, "grpc", &[registered, unfit, back, gone, back]);
    await_history(&cluster, "tcp", &[registered, refused, back]);
    cluster.admin(&["service", "resolve", "grpc"]).succeeds();
    close(accepting).await;
    close(serving).await;
    cluster.verify();
}
