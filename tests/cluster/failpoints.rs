//! Crashes at the worst moments: around syncs, applies, votes, purges and snapshots.

use std::time::Duration;

use crate::support::load::{Load, check, read_all};
use crate::support::{Cluster, SERVING_WITHIN, poll, tail};

/// Where, and at which time of passing. Snapshots are frequent in this test, so that all of these
/// places are passed soon.
const PLACES: &[&str] = &[
    "log::before_write:30",
    "log::before_sync:30",
    "log::after_sync:30",
    "apply::before_write:30",
    "apply::after_write:30",
    "snapshot::built:1",
    "log::purge:1",
    "state::flush:1",
];

const FREQUENT: &[(&str, &str)] = &[
    ("MHUB_RAFT_SNAPSHOT_ENTRIES", "100"),
    ("MHUB_RAFT_KEEP_ENTRIES", "20"),
    ("MHUB_RAFT_FLUSH_SECS", "1"),
];

#[test]
fn a_crash_at_any_place_loses_nothing() {
    let mut cluster = Cluster::start(3, FREQUENT);
    cluster.mhub(0, &["topic", "create", "load"]).succeeds();
    let load = Load::start(&cluster, "load", 4, 3);
    for (n, place) in PLACES.iter().enumerate() {
        let victim = n % 3;
        cluster.nodes[victim].kill();
        cluster.nodes[victim].set("MHUB_TEST_CRASH_AT", place);
        cluster.nodes[victim].start();
        let code = cluster.nodes[victim].wait_exit(Duration::from_secs(60));
        let log = tail(&cluster.nodes[victim].log());
        assert!(!cluster.nodes[victim].runs(), "{place} was never passed: {log}");
        // A crash ends by a signal, which is no exit code.
        assert_eq!(code, None, "{place}: {log}");
        cluster.nodes[victim].unset("MHUB_TEST_CRASH_AT");
        cluster.nodes[victim].start();
        cluster.await_answering(victim);
        load.await_progress(30, SERVING_WITHIN);
        println!("survived {place}");
    }
    let acknowledged = load.finish();
    for node in &cluster.nodes {
        check(&acknowledged, &read_all(&node.endpoint(), "load"));
    }
    cluster.verify();
}

#[test]
fn a_crash_while_a_snapshot_is_taken_over_loses_nothing() {
    let mut cluster = Cluster::start(1, FREQUENT);
    cluster.mhub(0, &["topic", "create", "load"]).succeeds();
    let load = Load::start(&cluster, "load", 2, 3);
    let purged = poll(Duration::from_secs(30), || cluster.number(0, "purged_index") > 20);
    assert!(purged, "the log was never purged: {}", cluster.status(0));
    let learner = cluster.start_node(2, FREQUENT);
    for place in ["snapshot::received:1", "snapshot::rename:1", "snapshot::installed:1"] {
        cluster.nodes[learner].kill();
        std::fs::remove_dir_all(cluster.nodes[learner].data_dir()).unwrap();
        // Every life of a wiped node has a new id.
        cluster.nodes[learner].id += 1;
        cluster.nodes[learner].set("MHUB_TEST_CRASH_AT", place);
        cluster.nodes[learner].start();
        cluster.await_answering(learner);
        cluster.join(learner);
        assert_eq!(cluster.nodes[learner].wait_exit(Duration::from_secs(60)), None);
        assert!(!cluster.nodes[learner].runs(), "{place} was never passed");
        cluster.nodes[learner].unset("MHUB_TEST_CRASH_AT");
        cluster.nodes[learner].start();
        cluster.await_answering(learner);
        let goal = load.acknowledged();
        let caught_up =
            poll(Duration::from_secs(30), || cluster.number(learner, "applied_position") >= goal);
        assert!(caught_up, "{place}: {}", cluster.status(learner));
        println!("survived {place}");
        let id = cluster.nodes[learner].id.to_string();
        cluster.mhub(0, &["cluster", "remove", &id, "--yes"]).succeeds();
    }
    drop(load.finish());
}

#[test]
fn a_membership_change_that_its_leader_left_half_done_is_completed() {
    let mut cluster = Cluster::start(3, &[]);
    cluster.mhub(0, &["topic", "create", "load"]).succeeds();
    let load = Load::start(&cluster, "load", 4, 3);
    let fourth = cluster.start_node(4, &[]);
    cluster.join(fourth);
    let victim = 0;
    // With its state flushed, so that no earlier change is applied again.
    cluster.nodes[victim].stop();
    cluster.nodes[victim].set("MHUB_TEST_CRASH_AT", "membership::joint:1");
    cluster.nodes[victim].start();
    cluster.await_answering(victim);
    let id = cluster.nodes[victim].id.to_string();
    let leads = poll(SERVING_WITHIN, || {
        cluster.admin(&["cluster", "transfer-leader", &id]).code() == 0
            && cluster.leader() == victim
    });
    assert!(leads, "node {id} does not take over");
    load.await_progress(30, SERVING_WITHIN);
    // It dies with the old and the new voters deciding together; whoever asked does not know.
    let promoted = cluster.mhub(victim, &["cluster", "promote", "4", "--timeout", "3"]);
    assert_ne!(promoted.code(), 0, "{}", promoted.all());
    assert_eq!(cluster.nodes[victim].wait_exit(Duration::from_secs(20)), None);
    cluster.nodes[victim].unset("MHUB_TEST_CRASH_AT");
    let done = poll(Duration::from_secs(20), || {
        let status = cluster.status(cluster.leader());
        status["joint"] == false && status["has_quorum"] == true
    });
    assert!(done, "{}", cluster.status(cluster.leader()));
    load.await_progress(50, SERVING_WITHIN);
    cluster.nodes[victim].start();
    cluster.await_answering(victim);
    cluster.promote(fourth);
    let acknowledged = load.finish();
    check(&acknowledged, &read_all(&cluster.nodes[fourth].endpoint(), "load"));
    cluster.verify();
}

#[test]
fn a_failed_sync_stops_the_node_and_the_cluster_goes_on() {
    for (place, says) in [("log::before_sync", "sync"), ("state::write", "write")] {
        let mut cluster = Cluster::start(3, &[]);
        cluster.mhub(0, &["topic", "create", "load"]).succeeds();
        let load = Load::start(&cluster, "load", 4, 3);
        load.await_progress(100, SERVING_WITHIN);
        let victim = cluster.leader();
        cluster.nodes[victim].kill();
        cluster.nodes[victim].set("FAILPOINTS", format!("{place}=200*off->return"));
        cluster.nodes[victim].start();
        let code = cluster.nodes[victim].wait_exit(Duration::from_secs(60));
        let log = tail(&cluster.nodes[victim].log());
        assert_eq!(code, Some(1), "{place}: {log}");
        assert!(log.contains(says) && log.contains("fault"), "{place}: {log}");
        load.await_progress(100, SERVING_WITHIN);
        cluster.nodes[victim].unset("FAILPOINTS");
        cluster.nodes[victim].start();
        cluster.await_answering(victim);
        load.await_progress(50, SERVING_WITHIN);
        let acknowledged = load.finish();
        check(&acknowledged, &read_all(&cluster.nodes[victim].endpoint(), "load"));
        cluster.verify();
    }
}
