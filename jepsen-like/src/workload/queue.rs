//! W3: a subscription as a queue. Consumers acknowledge, fail, give back and fall asleep; those that
//! wake up late try the lease that they had.

use std::sync::Arc;
use std::time::Duration;

use message_hub::client::{Client, ConsumerOptions, Delivery};
use message_hub::model::rejection::{Reason, Rejection};
use message_hub::proto::v1::{
    DeadLetterPolicy, Nack, RetryPolicy, RetryStrategy, SubscriptionConfig,
};
use tokio::task::JoinSet;

use super::consume::{Puller, event};
use super::{Shared, WORKERS, log};
use crate::delivered::{Action, Lease};
use crate::history::{Answer, End, Op};

/// The subscription.
pub(super) const NAME: &str = "queue";
/// How long its leases last.
pub const LEASE_MS: u64 = 2000;
/// The delay of its retries.
const RETRY_MS: u64 = 100;
/// Consumers that pull.
const PULLERS: u64 = 6;
/// Consumers that take a stream.
const STREAMS: u64 = 2;
/// Events that a consumer takes at once.
const AT_ONCE: u32 = 10;
/// Leases that a sleeping consumer has on its mind.
const ASLEEP_MAX: usize = 20;

pub(super) async fn start(shared: &Arc<Shared>, tasks: &mut JoinSet<()>) -> anyhow::Result<()> {
    shared.subscribe(NAME, config()).await?;
    log::writers(shared, tasks, WORKERS, |value, _| super::event(value))?;
    for label in 1..=PULLERS {
        let puller = Puller::new(shared, NAME)?;
        tasks.spawn(consumer(Arc::clone(shared), puller, label));
    }
    for label in 1..=STREAMS {
        tasks.spawn(streamed(Arc::clone(shared), shared.client()?, label));
    }
    Ok(())
}

fn config() -> SubscriptionConfig {
    SubscriptionConfig {
        lease_ms: Some(LEASE_MS),
        retry: Some(RetryPolicy {
            strategy: RetryStrategy::Fixed.into(),
            initial_ms: Some(RETRY_MS),
            min_ms: Some(0),
            max_attempts: Some(0),
            budget_percent: Some(100),
            budget_min_per_s: Some(100_000),
            ..RetryPolicy::default()
        }),
        dead_letters: Some(DeadLetterPolicy {
            trip_disabled: Some(true),
            ..DeadLetterPolicy::default()
        }),
        ..SubscriptionConfig::default()
    }
}

async fn consumer(shared: Arc<Shared>, mut puller: Puller, label: u64) {
    let mut rng = shared.rng(100 + label);
    let mut asleep: Vec<Lease> = Vec::new();
    while shared.goes_on() {
        for lease in puller.take(&shared, AT_ONCE).await {
            let all = lease.events.clone();
            match rng.u8(..10) {
                // Once nothing is published any more, everybody stays awake.
                0 | 1 if shared.publishes() => {
                    asleep.push(lease);
                    if asleep.len() > ASLEEP_MAX {
                        asleep.remove(0);
                    }
                }
                2 => {
                    let after_ms = Some(rng.u64(..300)).filter(|_| rng.bool());
                    puller.settle(&shared, &lease, &all, Action::Nack { after_ms }).await;
                }
                3 => puller.settle(&shared, &lease, &all, Action::Release).await,
                4 => {
                    let (done, failed) = all.split_at(all.len() / 2);
                    puller.settle(&shared, &lease, done, Action::Ack).await;
                    puller.settle(&shared, &lease, failed, Action::Nack { after_ms: None }).await;
                }
                _ => puller.settle(&shared, &lease, &all, Action::Ack).await,
            }
        }
        let mut still = Vec::new();
        for lease in asleep {
            // Others have had these since: the lease has run out for certain.
            let gone = shared.newest.gone(NAME, &lease);
            if gone.is_empty() {
                still.push(lease);
            } else {
                puller.settle(&shared, &lease, &gone, Action::Ack).await;
            }
        }
        asleep = still;
    }
}

/// A consumer of the client library, which renews its leases.
async fn streamed(shared: Arc<Shared>, client: Client, label: u64) {
    const LOOK: Duration = Duration::from_millis(500);
    let mut rng = shared.rng(200 + label);
    let process = shared.next_process();
    let options = || ConsumerOptions {
        name: format!("stream-{process}"),
        events: 20,
        ..ConsumerOptions::default()
    };
    let mut consumer = client.consume(NAME, options());
    while shared.goes_on() {
        let Ok(next) = tokio::time::timeout(LOOK, consumer.next()).await else { continue };
        let Ok(Some(delivery)) = next else {
            shared.breathe().await;
            consumer = client.consume(NAME, options());
            continue;
        };
        let lease = arrived(&delivery);
        shared.newest.saw(NAME, &lease);
        let op = Op::Take { subscription: NAME.to_owned(), consumer: process, streamed: true };
        let id = shared.recorder.invoke(process, op);
        let values = lease.events.iter().map(|event| event.value).collect();
        let lease_id = lease.id;
        shared.recorder.done(id, End::Ok(Answer::Leased { leases: vec![lease] }));
        let fails = rng.u8(..8) == 0;
        let action = if fails { Action::Nack { after_ms: None } } else { Action::Ack };
        settle(&shared, process, &delivery, (lease_id, values, action)).await;
    }
    consumer.shutdown(Duration::ZERO).await;
}

fn arrived(delivery: &Delivery) -> Lease {
    Lease {
        id: delivery.lease_id(),
        term: 0,
        topic_id: 0,
        expires_at_ms: 0,
        events: delivery.events().map(|e| event(&e.recorded, e.attempt)).collect(),
    }
}

async fn settle(
    shared: &Shared,
    process: u64,
    delivery: &Delivery,
    (lease, values, action): (u64, Vec<u64>, Action),
) {
    let done = values.clone();
    let subscription = NAME.to_owned();
    let op = Op::Settle { subscription, consumer: process, lease, action, values };
    let settled = async {
        let offsets: Vec<u64> = delivery.events().map(|e| e.recorded.offset).collect();
        let settling = match action {
            Action::Ack => delivery.ack_events(&offsets),
            _ => delivery.nack_events(&offsets, Nack::default()),
        };
        match settling.await {
            Ok(()) => Ok(Answer::Settled { done, refused: String::new() }),
            Err(refused) if refused.reason == Reason::LeaseExpired => {
                let refused = refused.reason.as_str().to_owned();
                Ok(Answer::Settled { done: Vec::new(), refused })
            }
            // The client gave up on it: it may have been sent before.
            Err(other) => Err(Rejection::new(Reason::OutcomeUnknown, other.message)),
        }
    };
    shared.record(process, op, settled).await;
}
