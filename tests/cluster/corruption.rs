//! A disk that gives back something else than was written: the node stops and says so, the cluster
//! goes on, and nothing is repaired by guessing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::load::{Load, check, read_all};
use crate::support::{Cluster, SERVING_WITHIN, poll, tail};

/// The largest file below a directory whose name ends like this.
fn largest(dir: &Path, ending: &str) -> PathBuf {
    let mut found: Option<(u64, PathBuf)> = None;
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let size = path.metadata().unwrap().len();
            if path.is_dir() {
                dirs.push(path);
            } else if path.to_string_lossy().ends_with(ending)
                && found.as_ref().is_none_or(|(best, _)| size > *best)
            {
                found = Some((size, path));
            }
        }
    }
    found.expect("a file to damage").1
}

fn flip(path: &Path, at: impl FnOnce(usize) -> usize) {
    let mut content = std::fs::read(path).unwrap();
    let at = at(content.len());
    content[at] ^= 0x10;
    std::fs::write(path, content).unwrap();
}

/// A cluster under load, and one of its followers, which has stopped with everything on disk.
fn with_a_stopped_follower() -> (Cluster, Load, usize) {
    let mut cluster = Cluster::start(3, &[]);
    cluster.mhub(0, &["topic", "create", "load"]).succeeds();
    let load = Load::start(&cluster, "load", 4, 3);
    load.await_progress(600, SERVING_WITHIN);
    let victim = (cluster.leader() + 1) % 3;
    assert_eq!(cluster.nodes[victim].stop(), Some(0));
    (cluster, load, victim)
}

/// The node ends by itself, with the code of a fault and a reason.
#[track_caller]
fn stops(cluster: &mut Cluster, victim: usize, says: &[&str]) {
    let code = cluster.nodes[victim].wait_exit(Duration::from_secs(60));
    let log = tail(&cluster.nodes[victim].log());
    assert_eq!(code, Some(1), "{log}");
    assert!(says.iter().any(|says| log.contains(says)), "none of {says:?} in: {log}");
}

#[test]
fn a_damaged_log_is_refused_and_the_node_comes_back_under_a_new_id() {
    for place in [|len: usize| len / 4, |len: usize| len / 2] {
        let (mut cluster, load, victim) = with_a_stopped_follower();
        flip(&largest(&cluster.nodes[victim].data_dir().join("raft-log"), ".log"), place);
        cluster.nodes[victim].start();
        stops(&mut cluster, victim, &["raft log", "Corruption"]);
        load.await_progress(100, SERVING_WITHIN);
        // What the message says to do.
        let id = cluster.nodes[victim].id.to_string();
        cluster.admin(&["cluster", "remove", &id, "--yes"]).succeeds();
        let fresh = cluster.start_node(9, &[]);
        cluster.join(fresh);
        cluster.promote(fresh);
        let acknowledged = load.finish();
        check(&acknowledged, &read_all(&cluster.nodes[fresh].endpoint(), "load"));
        cluster.verify();
    }
}

#[test]
fn a_damaged_table_file_stops_the_node_that_reads_it() {
    let (mut cluster, load, victim) = with_a_stopped_follower();
    flip(&largest(&cluster.nodes[victim].data_dir().join("state"), ".sst"), |len| len / 3);
    cluster.nodes[victim].start();
    // It may come up; whoever compares the states reads every row.
    if poll(SERVING_WITHIN, || !cluster.status(victim).is_null()) {
        // It differs, or the node ends meanwhile.
        println!("{}", cluster.admin(&["cluster", "verify", "--timeout", "5"]).all());
    }
    stops(&mut cluster, victim, &["orrupt", "checksum"]);
    load.await_progress(100, SERVING_WITHIN);
    let acknowledged = load.finish();
    let leader = cluster.leader();
    check(&acknowledged, &read_all(&cluster.nodes[leader].endpoint(), "load"));
}

#[test]
fn a_damaged_snapshot_is_not_given_on() {
    let settings = [("MHUB_RAFT_SNAPSHOT_ENTRIES", "100"), ("MHUB_RAFT_KEEP_ENTRIES", "10")];
    let mut cluster = Cluster::start(1, &settings);
    cluster.mhub(0, &["topic", "create", "load"]).succeeds();
    let load = Load::start(&cluster, "load", 2, 20);
    assert!(poll(Duration::from_secs(30), || cluster.number(0, "purged_index") > 100));
    drop(load.finish());
    cluster.nodes[0].kill();
    let snapshots = cluster.nodes[0].data_dir().join("snapshots");
    // A copy of its own, so that the state, which shares the file, stays sound.
    let file = largest(&snapshots, ".sst");
    let content = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, content).unwrap();
    flip(&file, |len| len / 2);
    cluster.nodes[0].start();
    cluster.await_answering(0);
    cluster.await_serving();
    let second = cluster.start_node(2, &settings);
    let to = cluster.nodes[0].endpoint();
    cluster.mhub(second, &["cluster", "join", &to]).succeeds();
    stops(&mut cluster, 0, &["checksum"]);
    // Nothing of it was taken over.
    assert_eq!(cluster.status(second)["applied_position"], "0");
}
