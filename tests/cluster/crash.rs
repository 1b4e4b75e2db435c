//! kill -9 of one node, of the leader and of all of them under load: nothing acknowledged is lost,
//! nothing is there twice, and the hub serves again within ten seconds.

use std::time::Duration;

use crate::support::load::{Load, check, read_all};
use crate::support::{Cluster, SERVING_WITHIN};

/// Rounds of the crash test; `MHUB_TEST_ROUNDS` asks for more.
fn rounds() -> u64 {
    std::env::var("MHUB_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(50)
}

/// A small generator (splitmix64), so that a failure can be repeated by its seed.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let seed =
            std::env::var("MHUB_TEST_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or_else(
                || u64::from(std::process::id()) ^ uuid::Uuid::new_v4().as_u64_pair().0,
            );
        println!("MHUB_TEST_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}

#[test]
fn kills_under_load_lose_nothing() {
    let mut dice = Dice::new();
    // Small snapshots and short logs, so that restarts meet purged logs and snapshot transfers too.
    let settings = [("MHUB_RAFT_SNAPSHOT_ENTRIES", "400"), ("MHUB_RAFT_KEEP_ENTRIES", "100")];
    let mut cluster = Cluster::start(3, &settings);
    cluster.mhub(0, &["topic", "create", "load"]).succeeds();
    let load = Load::start(&cluster, "load", 8, 3);
    load.await_progress(100, SERVING_WITHIN);
    for round in 0..rounds() {
        let victims: Vec<usize> = match dice.below(4) {
            0 => vec![usize::try_from(dice.below(3)).unwrap()],
            1 | 2 => vec![cluster.leader()],
            _ => vec![0, 1, 2],
        };
        println!("round {round}: kill {victims:?}");
        for victim in &victims {
            cluster.nodes[*victim].kill();
        }
        // With a quorum left, the hub goes on without the victim.
        if victims.len() == 1 {
            load.await_progress(50, SERVING_WITHIN);
        }
        for victim in &victims {
            cluster.nodes[*victim].start();
        }
        load.await_progress(50, SERVING_WITHIN);
    }
    cluster.await_serving();
    let acknowledged = load.finish();
    for node in &cluster.nodes {
        check(&acknowledged, &read_all(&node.endpoint(), "load"));
    }
    cluster.verify();
    println!("{} acknowledged events, {} rounds", acknowledged.len(), rounds());
}

#[test]
fn a_rolling_restart_fails_no_publish() {
    let mut cluster = Cluster::start(3, &[]);
    cluster.mhub(0, &["topic", "create", "load"]).succeeds();
    let load = Load::start(&cluster, "load", 8, 3);
    for index in 0..3 {
        load.await_progress(200, SERVING_WITHIN);
        let id = cluster.nodes[index].id.to_string();
        let safe = crate::support::poll(SERVING_WITHIN, || {
            cluster.admin(&["cluster", "safe-to-stop", &id]).code() == 0
        });
        assert!(safe, "never safe to stop node {id}");
        assert_eq!(cluster.nodes[index].stop(), Some(0), "{}", cluster.nodes[index].log());
        load.await_progress(200, SERVING_WITHIN);
        cluster.nodes[index].start();
        cluster.await_answering(index);
    }
    load.await_progress(200, Duration::from_secs(10));
    let acknowledged = load.finish();
    check(&acknowledged, &read_all(&cluster.nodes[0].endpoint(), "load"));
    cluster.verify();
}
