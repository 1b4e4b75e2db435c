//! The leader's wall clock jumps by an hour: what is due comes when it is due, and nothing else.

use std::time::{Duration, Instant};

use crate::support::Cluster;
use crate::support::worker::{Worker, ack, nack, offsets};

/// A delay of the test, and how exactly it is kept: since the jump time goes 5 % faster or slower.
const SOON_MS: u64 = 4000;
const SOON_AT_LEAST: Duration = Duration::from_secs(2);
const SOON_AT_MOST: Duration = Duration::from_secs(15);

/// Each node looks for its clock's error in its own directory.
const CLOCK: (&str, &str) = ("MHUB_TEST_CLOCK", "clock");

/// Sets the wall clock of a node.
fn jump(cluster: &Cluster, index: usize, wrong_by_ms: i64) {
    let file = cluster.nodes[index].data_dir().with_file_name(CLOCK.1);
    // Replaced at once, as it is read at any time.
    let new = file.with_extension("new");
    std::fs::write(&new, wrong_by_ms.to_string()).unwrap();
    std::fs::rename(new, file).unwrap();
}

fn publish(cluster: &Cluster, delay: &str) -> Instant {
    let before = Instant::now();
    let event = ["events", "publish", "orders", "--data", "x", "--delay", delay];
    cluster.admin(&event).succeeds();
    before
}

/// Waits for one event, which has to come at its time.
async fn comes(worker: &mut Worker, event: (u64, u32), since: Instant) {
    let came = worker.pull_some(10).await;
    let took = since.elapsed();
    assert_eq!(offsets(&came), [event]);
    println!("{event:?} after {took:?}");
    assert!((SOON_AT_LEAST..SOON_AT_MOST).contains(&took), "{event:?} came after {took:?}");
    worker.settle_all(&came, ack()).await;
}

#[tokio::test]
async fn a_wall_clock_that_jumps_by_an_hour_fires_nothing_early_and_holds_nothing_up() {
    for wrong_by_ms in [3_600_000, -3_600_000] {
        println!("the wall clock jumps by {wrong_by_ms} ms");
        let mut cluster = Cluster::start(3, &[CLOCK]);
        cluster.admin(&["topic", "create", "orders"]).succeeds();
        let create = ["sub", "create", "s", "--topic", "orders", "--from", "start"];
        cluster.admin(&create).succeeds();
        let mut worker = Worker::new(&cluster, "s", "w");
        cluster.admin(&["events", "publish", "orders", "--data", "x"]).succeeds();
        let failing = worker.pull_some(1).await;
        publish(&cluster, "30m");
        let delayed_at = publish(&cluster, "4s");
        let leader = cluster.leader();
        jump(&cluster, leader, wrong_by_ms);
        comes(&mut worker, (2, 1), delayed_at).await;
        let failed_at = Instant::now();
        worker.settle_all(&failing, nack(SOON_MS)).await;
        comes(&mut worker, (0, 2), failed_at).await;
        // And whoever leads next goes on from there, whatever the wall clock says.
        let delayed_at = publish(&cluster, "4s");
        cluster.nodes[leader].kill();
        comes(&mut worker, (3, 1), delayed_at).await;
        let stats = cluster.admin(&["sub", "stats", "s", "-o", "json"]).json();
        assert_eq!((&stats["delayed"], &stats["in_flight"]), (&"1".into(), &"0".into()));
        assert!(cluster.nodes[leader].log().contains("the wall clock was set"));
        cluster.nodes[leader].start();
        cluster.await_answering(leader);
        cluster.verify();
    }
}
