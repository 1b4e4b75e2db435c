//! The leader is killed with leases out, in the middle of acknowledging and failing: nothing is
//! lost, nothing that was acknowledged comes again, what was due stays due.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use message_hub::client::{Client, Consumer, ConsumerOptions};
use message_hub::model::rejection::Reason;
use message_hub::proto::v1::Nack;

use crate::delivery::{client, counter, shop};
use crate::support::worker::{Worker, ack, nack, offsets, refused, whole};
use crate::support::{Cluster, SERVING_WITHIN, poll};

/// The longest election timeout of a node that is not told otherwise.
const ELECTION_MAX: Duration = Duration::from_millis(1200);

/// Kills the leader; its index, and when that was.
fn kill_leader(cluster: &mut Cluster) -> (usize, Instant) {
    let leader = cluster.leader();
    let killed_at = Instant::now();
    cluster.nodes[leader].kill();
    (leader, killed_at)
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_hold_over_a_change_of_leader_and_due_times_are_kept() {
    let mut cluster = shop(3, 4, &["lease=1s", "retry.initial=100ms"]);
    let mut worker = Worker::new(&cluster, "s", "w");
    worker.lease_ms = 60_000;
    let long = worker.pull_some(1).await;
    let failed = worker.pull_some(1).await;
    let failed_at = Instant::now();
    worker.settle_all(&failed, nack(6000)).await;
    let mut idle = Worker::new(&cluster, "s", "idle");
    let short = idle.pull_some(1).await;
    let (killed, _) = kill_leader(&mut cluster);
    // What nobody has comes from the new leader at once.
    let free = worker.pull_some(1).await;
    assert_eq!(offsets(&free), [(3, 1)]);
    worker.settle_all(&long, ack()).await;
    worker.settle_all(&free, ack()).await;
    // The short lease had the grace of a new leader, and no more.
    let again = worker.pull_some(1).await;
    assert_eq!(offsets(&again), [(2, 2)]);
    assert!(again[0].term > short[0].term);
    let stale = idle.settle(vec![whole(&short[0], ack())]).await;
    assert_eq!(refused(&stale[0]), Some(Reason::LeaseExpired));
    let mut forged = whole(&again[0], ack());
    forged.term = short[0].term;
    assert_eq!(refused(&worker.settle(vec![forged]).await[0]), Some(Reason::LeaseUnknown));
    worker.settle_all(&again, ack()).await;
    let retried = worker.pull_some(1).await;
    assert_eq!(offsets(&retried), [(1, 2)]);
    assert!(failed_at.elapsed() >= Duration::from_millis(5900), "{:?}", failed_at.elapsed());
    worker.settle_all(&retried, ack()).await;
    assert!(worker.pull(9, 500).await.is_empty());
    cluster.nodes[killed].start();
    cluster.await_answering(killed);
    let counters = ["acked", "nacked", "expired"].map(|name| counter(&cluster, name));
    assert_eq!(counters, [4, 1, 1]);
    cluster.verify();
}

/// A delivery of an event.
#[derive(Clone, Copy)]
struct Seen {
    at: Instant,
    lease_id: u64,
    attempt: u32,
}

/// What several consumers saw and did. Lease ids grow with time, and so tell what came after what.
#[derive(Default)]
struct Record {
    delivered: BTreeMap<u64, Vec<Seen>>,
    /// The lease under which an acknowledgement was answered with success.
    acked: BTreeMap<u64, u64>,
    /// The same of failures.
    nacked: BTreeMap<u64, u64>,
}

/// Acknowledges most, fails one in five at its first attempt; until it is aborted.
async fn work(mut consumer: Consumer, record: Arc<Mutex<Record>>) {
    loop {
        let delivery = consumer.next().await.unwrap().unwrap();
        let (at, lease_id) = (Instant::now(), delivery.lease_id());
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for event in delivery.events() {
            let (offset, attempt) = (event.recorded.offset, event.attempt);
            let seen = Seen { at, lease_id, attempt };
            record.lock().unwrap().delivered.entry(offset).or_default().push(seen);
            if offset % 5 == 0 && attempt == 1 { bad.push(offset) } else { good.push(offset) }
        }
        let reason = "TRY_AGAIN".to_owned();
        let nack = Nack { retry_after_ms: Some(300), reason, ..Nack::default() };
        let (good_done, bad_done) = (delivery.ack_events(&good), delivery.nack_events(&bad, nack));
        // What was not settled for sure is judged by what comes of it.
        let (good_done, bad_done) = (good_done.await.is_ok(), bad_done.await.is_ok());
        let mut record = record.lock().unwrap();
        record.acked.extend(good.iter().filter(|_| good_done).map(|offset| (*offset, lease_id)));
        record.nacked.extend(bad.iter().filter(|_| bad_done).map(|offset| (*offset, lease_id)));
    }
}

fn begin(client: &Client, name: &str) -> Consumer {
    let (name, lease) = (name.to_owned(), Some(Duration::from_secs(2)));
    let events = i64::try_from(EACH).unwrap();
    client.consume("s", ConsumerOptions { name, events, lease, ..ConsumerOptions::default() })
}

/// Events that one of the workers has at once.
const EACH: u64 = 20;

#[tokio::test(flavor = "multi_thread")]
async fn kills_of_the_leader_in_the_middle_of_work_lose_nothing_and_repeat_nothing() {
    const EVENTS: usize = 3000;
    const WORKERS: u64 = 3;
    const KILLS: u64 = 3;
    let mut cluster = shop(3, EVENTS, &["retry_budget=100%", "retry_budget.min=1000"]);
    let client = client(&cluster);
    let record = Arc::new(Mutex::new(Record::default()));
    let workers: Vec<_> = (0..WORKERS)
        .map(|n| tokio::spawn(work(begin(&client, &format!("w{n}")), Arc::clone(&record))))
        .collect();
    for _ in 0..KILLS {
        let acked = |record: &Arc<Mutex<Record>>| record.lock().unwrap().acked.len();
        let before = acked(&record);
        assert!(poll(SERVING_WITHIN, || acked(&record) > before + 20), "no progress");
        let (killed, killed_at) = tokio::task::block_in_place(|| kill_leader(&mut cluster));
        // What was under way at the kill may still be heard of: count what comes after an election.
        let again = poll(SERVING_WITHIN, || {
            let record = record.lock().unwrap();
            let times = record.delivered.values().flatten().map(|seen| seen.at);
            times.max().is_some_and(|at| at > killed_at + ELECTION_MAX / 3)
        });
        let took = killed_at.elapsed();
        println!("deliveries again {took:?} after the kill");
        assert!(again && took < 3 * ELECTION_MAX, "{took:?} after the kill");
        cluster.nodes[killed].start();
        cluster.await_answering(killed);
    }
    let settled = poll(6 * SERVING_WITHIN, || {
        counter(&cluster, "acked") == EVENTS as u64 && counter(&cluster, "in_flight") == 0
    });
    assert!(settled, "{} of {EVENTS} are acknowledged", counter(&cluster, "acked"));
    workers.iter().for_each(tokio::task::JoinHandle::abort);
    let times = check(&record.lock().unwrap(), EVENTS);
    // Beside those that failed, as they were meant to, only what the kills may bring comes twice.
    let [nacked, expired] = ["nacked", "expired"].map(|name| counter(&cluster, name));
    let duplicates = times.saturating_sub(EVENTS as u64 + nacked);
    println!("{times} deliveries, {nacked} failures, {expired} leases ran out");
    assert!(nacked > 0);
    assert!(duplicates <= expired + KILLS * WORKERS * EACH, "{duplicates} duplicates");
    cluster.verify();
}

/// Every event came; none again after its acknowledgement; those that failed with another attempt.
/// How many deliveries there were.
fn check(record: &Record, events: usize) -> u64 {
    assert_eq!(record.delivered.len(), events);
    for (offset, deliveries) in &record.delivered {
        let after = |lease_id: u64| deliveries.iter().filter(move |d| d.lease_id > lease_id);
        if let Some(acked) = record.acked.get(offset) {
            assert_eq!(after(*acked).count(), 0, "{offset} came again after its acknowledgement");
        }
        if let Some(nacked) = record.nacked.get(offset) {
            let again = after(*nacked).map(|d| d.attempt).min();
            assert!(again.is_some_and(|attempt| attempt > 1), "{offset} failed and came {again:?}");
        }
    }
    record.delivered.values().map(|deliveries| deliveries.len() as u64).sum()
}
