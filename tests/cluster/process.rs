//! A node as a process: its settings, its port, its start and its stop.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{Cluster, Node, SERVING_WITHIN, free_port, mhub, poll};

/// The status line and the body of an answer to a GET.
pub(crate) fn get(node: &Node, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", node.client_port)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[test]
fn one_port_serves_probes_metrics_and_problems() {
    let mut cluster = Cluster::start(3, &[]);
    cluster.mhub(0, &["topic", "create", "orders"]).succeeds();
    let leader = cluster.leader();
    let node = &cluster.nodes[leader];
    assert_eq!(get(node, "/healthz").0, "HTTP/1.1 200 OK");
    assert_eq!(get(node, "/readyz").0, "HTTP/1.1 200 OK");
    let metrics = get(node, "/metrics").1;
    for line in ["mhub_raft_is_leader 1", "mhub_raft_members 3", "mhub_proposed_entries_total "] {
        assert!(metrics.lines().any(|l| l.starts_with(line)), "{line} is not in:\n{metrics}");
    }
    let (status, body) = get(node, "/nowhere");
    assert_eq!(status, "HTTP/1.1 404 Not Found");
    let problem: serde_json::Value =
        serde_json::from_str(body.lines().find(|l| l.starts_with('{')).unwrap()).unwrap();
    assert_eq!(problem["reason"], "PATH_NOT_FOUND");
    // Without a quorum a node lives on, and says that it is not ready.
    for index in (0..3).filter(|index| *index != leader) {
        cluster.nodes[index].kill();
    }
    let node = &cluster.nodes[leader];
    assert!(poll(SERVING_WITHIN, || get(node, "/readyz").0.contains("503")));
    assert_eq!(get(node, "/healthz").0, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn grpc_tells_health_and_reflects_itself() {
    use tonic_reflection::pb::{v1, v1alpha};
    let cluster = Cluster::start(1, &[]);
    let endpoint = format!("http://{}", cluster.nodes[0].endpoint());
    let channel = Endpoint::from_shared(endpoint).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "liveness"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        // The service looks at the node a few times a second.
        let mut changes = health.watch(request).await.unwrap().into_inner();
        let serves = async {
            while changes.message().await.unwrap().unwrap().status() != ServingStatus::Serving {}
        };
        tokio::time::timeout(SERVING_WITHIN, serves).await.expect(service);
    }
    let wanted = "messagehub.v1.Events";
    let mut newer = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let list = v1::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = v1::ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let mut answers =
        newer.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    assert!(format!("{answer:?}").contains(wanted), "{answer:?}");
    let mut older = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let list = v1alpha::server_reflection_request::MessageRequest::ListServices(String::new());
    let request =
        v1alpha::ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let mut answers =
        older.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    assert!(format!("{answer:?}").contains(wanted), "{answer:?}");
}

#[test]
fn a_node_for_development_needs_nothing_and_keeps_its_data() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = format!("127.0.0.1:{}", free_port());
    for round in 0..2 {
        let mut node = Command::new(env!("CARGO_BIN_EXE_mhub"))
            .args(["dev", "--listen", &endpoint])
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let run = |args: &[&str]| mhub(&endpoint, args);
        let serves = poll(SERVING_WITHIN, || run(&["topic", "ls"]).code() == 0);
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
        assert!(serves && log.contains("mhub-data"), "{log}");
        if round == 0 {
            run(&["topic", "create", "orders"]).succeeds();
            run(&["events", "publish", "orders", "--data", "x"]).succeeds();
        }
        let read = run(&["events", "read", "orders", "-o", "json"]).json();
        assert_eq!(read.as_array().unwrap().len(), 1);
        node.kill().unwrap();
        node.wait().unwrap();
    }
}

#[test]
fn settings_tell_where_they_come_from_and_unknown_ones_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("mhub.toml"), "[raft]\nheartbeat_ms = 200\n").unwrap();
    let run = |variable: (&str, &str), args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_mhub"))
            .args(args)
            .env(variable.0, variable.1)
            .current_dir(dir.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), text)
    };
    let show = ["config", "show", "-o", "jsonl", "--set", "raft.keep_entries=7"];
    let (code, text) = run(("MHUB_RAFT_FLUSH_SECS", "9"), &show);
    assert_eq!(code, Some(0), "{text}");
    for (key, value, origin) in [
        ("raft.heartbeat_ms", "200", "file"),
        ("raft.flush_secs", "9", "MHUB_RAFT_FLUSH_SECS"),
        ("raft.keep_entries", "7", "flag"),
        ("raft.election_min_ms", "800", "default"),
    ] {
        let line = text.lines().find(|l| l.contains(&format!("\"{key}\""))).unwrap();
        assert!(line.contains(&format!("\"{value}\"")) && line.contains(origin), "{line}");
    }
    let (code, text) = run(("MHUB_RAFT_FLUSHSECS", "9"), &["serve"]);
    assert!(code == Some(2) && text.contains("MHUB_RAFT_FLUSH_SECS"), "{code:?}: {text}");
    let (code, text) = run(("MHUB_TRACE_OTLP_ENDPOINT", "https://127.0.0.1:4317"), &["serve"]);
    assert!(code == Some(2) && text.contains("needs TLS"), "{code:?}: {text}");
    let (code, text) = run(("X", ""), &["serve", "--listen", "0.0.0.0:0"]);
    assert!(code == Some(2) && text.contains("--insecure"), "{code:?}: {text}");
}

#[test]
fn a_stop_hands_leadership_over_and_leaves_nothing_to_be_applied_again() {
    let mut cluster = Cluster::start(3, &[]);
    cluster.mhub(0, &["topic", "create", "orders"]).succeeds();
    let leader = cluster.leader();
    let started = Instant::now();
    assert_eq!(cluster.nodes[leader].stop(), Some(0), "{}", cluster.nodes[leader].log());
    let log = cluster.nodes[leader].log();
    assert!(log.contains("leadership handed over"), "{log}");
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    cluster.admin(&["events", "publish", "orders", "--data", "x"]).succeeds();
    cluster.nodes[leader].start();
    cluster.await_answering(leader);
    cluster.verify();
}

#[test]
fn log_lines_are_json_when_asked_for() {
    let cluster = Cluster::start(1, &[("MHUB_LOG_FORMAT", "json")]);
    let log = cluster.nodes[0].log();
    let started = log.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    assert!(started.into_iter().any(|l| l["message"] == "node started"), "{log}");
}
