//! Nodes come and go while the hub serves.

use std::time::Duration;

use crate::support::load::{Load, check, read_all};
use crate::support::{Cluster, Node, SERVING_WITHIN, poll, tail};

#[test]
fn nodes_are_added_and_removed_under_load() {
    let mut cluster = Cluster::start(3, &[]);
    cluster.mhub(0, &["topic", "create", "load"]).succeeds();
    let load = Load::start(&cluster, "load", 4, 3);
    load.await_progress(200, SERVING_WITHIN);
    let fourth = cluster.start_node(4, &[]);
    cluster.join(fourth);
    cluster.promote(fourth);
    load.await_progress(200, SERVING_WITHIN);
    // The leader goes: leadership is handed over, and the load goes on.
    let leader = cluster.leader();
    let id = cluster.nodes[leader].id.to_string();
    cluster.admin(&["cluster", "demote", &id]).succeeds();
    load.await_progress(200, SERVING_WITHIN);
    cluster.admin(&["cluster", "remove", &id, "--yes"]).succeeds();
    load.await_progress(200, SERVING_WITHIN);
    let members = cluster.admin(&["cluster", "members", "-o", "json"]).json().to_string();
    assert!(!members.contains(&format!("\"node_id\":\"{id}\"")), "{members}");
    cluster.nodes[leader].kill();
    let acknowledged = load.finish();
    check(&acknowledged, &read_all(&cluster.nodes[fourth].endpoint(), "load"));
    cluster.verify();
}

#[test]
fn a_new_node_gets_a_snapshot_while_the_hub_serves() {
    let settings = [("MHUB_RAFT_SNAPSHOT_ENTRIES", "50"), ("MHUB_RAFT_KEEP_ENTRIES", "10")];
    let mut cluster = Cluster::start(1, &settings);
    cluster.mhub(0, &["topic", "create", "load"]).succeeds();
    let load = Load::start(&cluster, "load", 2, 20);
    let purged = poll(Duration::from_secs(30), || cluster.number(0, "purged_index") > 20);
    assert!(purged, "the log was never purged: {}", cluster.status(0));
    let second = cluster.start_node(2, &settings);
    cluster.join(second);
    cluster.promote(second);
    load.await_progress(100, SERVING_WITHIN);
    let acknowledged = load.finish();
    check(&acknowledged, &read_all(&cluster.nodes[second].endpoint(), "load"));
    cluster.verify();
}

#[test]
fn a_wiped_node_comes_back_only_under_a_new_id() {
    let mut cluster = Cluster::start(3, &[]);
    cluster.mhub(0, &["topic", "create", "orders"]).succeeds();
    let leader = cluster.leader();
    let victim = (leader + 1) % 3;
    cluster.nodes[victim].kill();
    std::fs::remove_dir_all(cluster.nodes[victim].data_dir()).unwrap();
    cluster.nodes[victim].start();
    cluster.await_answering(victim);
    let to = cluster.nodes[leader].endpoint();
    cluster.mhub(victim, &["cluster", "join", &to]).fails(4, "NODE_ID_TAKEN");
    let old = cluster.nodes[victim].id.to_string();
    cluster.nodes[victim].kill();
    cluster.admin(&["cluster", "remove", &old, "--yes"]).succeeds();
    // The removed id is refused for ever, a new one is welcome.
    std::fs::remove_dir_all(cluster.nodes[victim].data_dir()).unwrap();
    cluster.nodes[victim].start();
    cluster.await_answering(victim);
    cluster.mhub(victim, &["cluster", "join", &to]).fails(4, "NODE_ID_TAKEN");
    cluster.nodes[victim].kill();
    let fresh = cluster.start_node(9, &[]);
    cluster.join(fresh);
    cluster.promote(fresh);
    cluster.verify();
}

#[test]
fn a_learner_that_is_not_caught_up_is_not_promoted() {
    let mut cluster = Cluster::start(1, &[]);
    let learner = cluster.start_node(2, &[]);
    cluster.join(learner);
    cluster.nodes[learner].kill();
    cluster.mhub(0, &["cluster", "promote", "2"]).fails(4, "NOT_CAUGHT_UP");
    // The hub does not depend on it.
    cluster.mhub(0, &["topic", "create", "orders"]).succeeds();
    cluster.nodes[learner].start();
    cluster.promote(learner);
    cluster.verify();
}

#[test]
fn two_nodes_with_one_id_and_nodes_of_two_clusters_are_kept_apart() {
    let mut cluster = Cluster::start(2, &[]);
    let to = cluster.nodes[0].endpoint();
    let twin = cluster.start_twin(2);
    cluster.mhub(twin, &["cluster", "join", &to]).fails(4, "NODE_ID_TAKEN");
    let stranger = cluster.start_node(5, &[]);
    cluster.mhub(stranger, &["cluster", "init"]).succeeds();
    cluster.mhub(stranger, &["cluster", "join", &to]).fails(4, "ALREADY_INITIALIZED");
    cluster.mhub(0, &["topic", "create", "orders"]).succeeds();
    let members = cluster.mhub(0, &["cluster", "members", "-o", "json"]).json();
    assert_eq!(members.as_array().unwrap().len(), 2, "{members}");
}

#[test]
fn what_would_lose_the_quorum_is_refused() {
    let mut cluster = Cluster::start(3, &[]);
    let leader = cluster.leader();
    let (dead, alive) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.nodes[dead].kill();
    let alive_id = cluster.nodes[alive].id.to_string();
    let refused = poll(SERVING_WITHIN, || {
        let run = cluster.admin(&["cluster", "safe-to-stop", &alive_id]);
        run.code() != 0
    });
    assert!(refused, "stopping one of two live voters is never safe");
    cluster.admin(&["cluster", "remove", &alive_id, "--yes"]).fails(4, "WOULD_LOSE_QUORUM");
    let told = poll(SERVING_WITHIN, || cluster.admin(&["cluster", "health"]).code() == 10);
    assert!(told, "health does not tell of a dead node");
}

#[test]
fn without_a_quorum_writes_fail_in_bounded_time_and_stale_reads_are_answered() {
    let mut cluster = Cluster::start(3, &[("MHUB_LIMITS_REQUEST_TIMEOUT_MS", "2000")]);
    cluster.mhub(0, &["topic", "create", "orders"]).succeeds();
    cluster
        .admin(&["events", "publish", "orders", "--data", "x", "--type", "t", "--source", "/s"])
        .succeeds();
    let leader = cluster.leader();
    for index in (0..3).filter(|i| *i != leader) {
        cluster.nodes[index].kill();
    }
    let started = std::time::Instant::now();
    let run = cluster.mhub(
        leader,
        &["events", "publish", "orders", "--data", "x", "--type", "t", "--source", "/s"],
    );
    assert_eq!(run.code(), 7, "{}", run.all());
    assert!(started.elapsed() < Duration::from_secs(20), "took {:?}", started.elapsed());
    cluster
        .mhub(
            leader,
            &[
                "events",
                "read",
                "orders",
                "--from",
                "start",
                "--consistency",
                "stale",
                "-o",
                "json",
            ],
        )
        .succeeds();
    cluster.mhub(leader, &["events", "read", "orders", "--from", "start"]).fails(7, "");
}

#[test]
fn leadership_moves_on_request_and_init_happens_once() {
    let cluster = Cluster::start(3, &[]);
    let leader = cluster.leader();
    let target = (leader + 1) % 3;
    let id = cluster.nodes[target].id.to_string();
    cluster.admin(&["cluster", "transfer-leader", &id]).succeeds();
    assert!(poll(SERVING_WITHIN, || cluster.leader() == target));
    for index in 0..3 {
        cluster.mhub(index, &["cluster", "init"]).fails(4, "ALREADY_INITIALIZED");
    }
}

#[test]
fn data_directories_are_guarded() {
    let mut cluster = Cluster::start(1, &[]);
    let data = cluster.nodes[0].data_dir();
    // A second process on the same directory.
    let root = tempfile::tempdir().unwrap();
    let mut second = Node::new(1, root.path());
    second.set("MHUB_NODE_DATA_DIR", data.display());
    refuses(&mut second, "in use");
    cluster.nodes[0].stop();
    // Another node's directory.
    let mut other = Node::new(7, root.path());
    other.set("MHUB_NODE_DATA_DIR", data.display());
    refuses(&mut other, "node");
    // A newer format.
    std::fs::write(data.join("format-version"), "999\n").unwrap();
    let mut newer = Node::new(1, root.path());
    newer.set("MHUB_NODE_DATA_DIR", data.display());
    refuses(&mut newer, "999");
    // A port in use.
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut busy = Node::new(8, root.path());
    busy.client_port = holder.local_addr().unwrap().port();
    refuses(&mut busy, "in use");
}

/// The node ends by itself with a non-zero code and says why.
#[track_caller]
fn refuses(node: &mut Node, says: &str) {
    node.start();
    let code = node.wait_exit(Duration::from_secs(20));
    let log = tail(&node.log());
    assert!(matches!(code, Some(c) if c != 0), "exit {code:?}: {log}");
    assert!(log.contains(says), "wanted {says:?} in: {log}");
}
