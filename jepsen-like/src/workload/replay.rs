//! W8: replay on every node. Readers replay from the past, read what they know to exist, and follow
//! the end across nodes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use message_hub::client::Client;
use tokio::task::JoinSet;

use super::log::{WRITERS, read, request, writers};
use super::{Shared, TOPIC, event, joined};
use crate::history::{Answer, End, Freshness, Op};

/// How often a reader reads.
const READ_EVERY: Duration = Duration::from_millis(100);
/// Events of a replay.
const REPLAY: u64 = 500;
/// Tails that roam from node to node.
const TAILS: u64 = 2;

pub(super) fn start(shared: &Arc<Shared>, tasks: &mut JoinSet<()>) -> anyhow::Result<()> {
    writers(shared, tasks, WRITERS, |value, _| event(value))?;
    for slot in 1..=shared.nodes {
        tasks.spawn(replayer(Arc::clone(shared), shared.pinned(slot)?, slot));
        let (writes, reads) = (shared.client()?, shared.pinned(slot)?);
        tasks.spawn(reads_own_writes(Arc::clone(shared), writes, reads, slot));
    }
    for _ in 0..TAILS {
        tasks.spawn(tail(Arc::clone(shared), shared.client()?));
    }
    Ok(())
}

/// Reads somewhere in the past, whatever the node has, and the end, linearizably.
async fn replayer(shared: Arc<Shared>, client: Client, slot: u8) {
    let process = shared.next_process();
    let mut rng = shared.rng(1000 + u64::from(slot));
    while shared.goes_on() {
        tokio::time::sleep(READ_EVERY).await;
        let end = shared.acked.load(Ordering::Acquire);
        let (from, limit, freshness) = if rng.bool() {
            (rng.u64(0..=end), REPLAY, Freshness::Stale)
        } else {
            (end.saturating_sub(10), 0, Freshness::Linearizable)
        };
        read(&shared, &client, process, slot, from, limit, freshness).await;
    }
}

/// Publishes to the leader, then reads that on one node by its position.
async fn reads_own_writes(shared: Arc<Shared>, writes: Client, reads: Client, slot: u8) {
    let process = shared.next_process();
    let mut publisher = writes.publisher();
    while shared.goes_on() {
        tokio::time::sleep(READ_EVERY).await;
        let value = shared.next_value();
        let publish = async {
            let receipt = publisher.publish(TOPIC, event(value).build()).await?;
            Ok(Answer::Placed { offset: receipt.offset, position: receipt.position, version: 0 })
        };
        let (known, answer) = shared.record(process, Op::Publish { value }, publish).await;
        if !known {
            publisher = writes.publisher();
        }
        let Some(Answer::Placed { offset, position, .. }) = answer else { continue };
        let freshness = Freshness::AtLeast(position);
        read(&shared, &reads, process, slot, offset, 0, freshness).await;
    }
}

/// Follows the log from its beginning; the client goes to another node by itself.
async fn tail(shared: Arc<Shared>, client: Client) {
    const LOOK: Duration = Duration::from_millis(500);
    let process = shared.next_process();
    let mut from = 0;
    let mut reader = client.tail(request(0, 0, Freshness::Stale));
    while shared.goes_on() {
        // A quiet log is no operation: only what arrives is written down.
        let Ok(part) = tokio::time::timeout(LOOK, reader.next()).await else { continue };
        let Ok(Some(part)) = part else {
            reader = client.tail(request(from, 0, Freshness::Stale));
            continue;
        };
        let id = shared.recorder.invoke(process, Op::Tail { from });
        match joined(&[part], false) {
            Ok(answer) => {
                if let Answer::Events { first, values, .. } = &answer {
                    from = first + values.len() as u64;
                }
                shared.recorder.done(id, End::Ok(answer));
            }
            Err(trouble) => {
                shared.recorder.done(id, End::Fail { reason: trouble.message });
            }
        }
    }
}
