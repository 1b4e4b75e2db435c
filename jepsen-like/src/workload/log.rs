//! W2: a log. Writers publish distinct values; readers look at its end on every node.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use message_hub::client::{Client, EventBuilder};
use message_hub::proto::v1::read_options::Consistency;
use message_hub::proto::v1::read_request::From;
use message_hub::proto::v1::{Linearizable, ReadOptions, ReadRequest, Stale};
use tokio::task::JoinSet;

use super::{Shared, TOPIC, event, joined, pace};
use crate::cluster::Cluster;
use crate::cluster::node::Node;
use crate::history::{Answer, Freshness, Line, Op};

/// Writers where nothing but writing is asked of the hub.
pub(super) const WRITERS: u64 = 24;
/// How far before the known end readers begin.
const LOOK_BACK: u64 = 30;
/// After so many events a writer goes on as another producer.
const PRODUCER_TURNS: u64 = 50;
/// How often a reader reads.
const READ_EVERY: Duration = Duration::from_millis(200);
/// How long a whole replica may take to be read.
const READ_BACK: Duration = Duration::from_secs(20);

pub(super) fn start(shared: &Arc<Shared>, tasks: &mut JoinSet<()>) -> anyhow::Result<()> {
    writers(shared, tasks, WRITERS, |value, _| event(value))?;
    for slot in 1..=shared.nodes {
        let client = shared.pinned(slot)?;
        tasks.spawn(end_reader(Arc::clone(shared), client, slot));
    }
    Ok(())
}

/// So many clients that publish.
pub(super) fn writers(
    shared: &Arc<Shared>,
    tasks: &mut JoinSet<()>,
    count: u64,
    event_of: EventOf,
) -> anyhow::Result<()> {
    for label in 1..=count {
        let client = shared.client()?;
        tasks.spawn(writer(Arc::clone(shared), client, (label, count), event_of));
    }
    Ok(())
}

/// The event that carries a value.
type EventOf = fn(u64, &mut fastrand::Rng) -> EventBuilder;

async fn writer(
    shared: Arc<Shared>,
    client: Client,
    (label, count): (u64, u64),
    event_of: EventOf,
) {
    let mut rng = shared.rng(label);
    let mut process = shared.next_process();
    let mut publisher = client.publisher();
    for turn in 1_u64.. {
        if !shared.publishes() {
            break;
        }
        pace(&shared, count, &mut rng).await;
        let value = shared.next_value();
        let event = event_of(value, &mut rng).build();
        let publish = async {
            let receipt = publisher.publish(TOPIC, event).await?;
            shared.acked.fetch_max(receipt.offset + 1, Ordering::AcqRel);
            Ok(Answer::Placed {
                offset: receipt.offset,
                position: receipt.position,
                version: receipt.key_version,
            })
        };
        let (known, _) = shared.record(process, Op::Publish { value }, publish).await;
        if !known {
            process = shared.next_process();
        }
        // The hub remembers what those published that are gone.
        if !known || turn.is_multiple_of(PRODUCER_TURNS) {
            publisher = client.publisher();
        }
    }
}

async fn end_reader(shared: Arc<Shared>, client: Client, slot: u8) {
    let process = shared.next_process();
    while shared.goes_on() {
        tokio::time::sleep(READ_EVERY).await;
        let from = shared.acked.load(Ordering::Acquire).saturating_sub(LOOK_BACK);
        read(&shared, &client, process, slot, from, 0, Freshness::Linearizable).await;
    }
}

/// One read, written down.
pub(super) async fn read(
    shared: &Shared,
    client: &Client,
    process: u64,
    node: u8,
    from: u64,
    limit: u64,
    freshness: Freshness,
) -> Option<Answer> {
    let op = Op::Read { node, from, limit, freshness };
    let request = request(from, limit, freshness);
    let done = async {
        let parts = client.read_all(request).await?;
        joined(&parts, limit == 0)
    };
    shared.record(process, op, done).await.1
}

pub(super) fn request(from: u64, limit: u64, freshness: Freshness) -> ReadRequest {
    let consistency = match freshness {
        Freshness::Linearizable => Consistency::Linearizable(Linearizable {}),
        Freshness::Stale => Consistency::Stale(Stale {}),
        Freshness::AtLeast(position) => Consistency::AtLeastPosition(position),
    };
    ReadRequest {
        topic: TOPIC.to_owned(),
        from: Some(From::Offset(from)),
        limit,
        options: Some(ReadOptions { consistency: Some(consistency) }),
        ..ReadRequest::default()
    }
}

/// Writes down the whole log of each replica.
pub(super) async fn read_back(shared: &Shared, cluster: &Cluster) -> anyhow::Result<()> {
    for index in cluster.running() {
        let node = &cluster.nodes[index];
        // The others are worth reading, too.
        shared.recorder.expect(node.slot, "read back", read_replica(shared, node).await);
    }
    Ok(())
}

async fn read_replica(shared: &Shared, node: &Node) -> anyhow::Result<()> {
    let client = node.client(READ_BACK)?;
    let mut reader = client.read(request(0, 0, Freshness::Linearizable));
    while let Some(part) = reader.next().await? {
        let Answer::Events { first, values, .. } = joined(&[part], false)? else { continue };
        shared.recorder.tell(|_| Line::Replica { node: node.slot, first, values });
    }
    Ok(())
}
