//! W4: events fail and are retried, until they are done or dead. Nothing may vanish on the way.

use std::sync::Arc;

use message_hub::proto::v1::{
    DeadLetterPolicy, Reasons, RetryPolicy, RetryStrategy, SubscriptionConfig,
};
use tokio::task::JoinSet;

use super::consume::{FOR_GOOD, Puller};
use super::{Shared, WORKERS, log};
use crate::delivered::{Action, Event};

/// The subscription.
pub(super) const NAME: &str = "failures";
/// Failures until an event is dead.
pub const MAX_ATTEMPTS: u32 = 3;
/// The delay of retries.
pub const RETRY_MS: u64 = 400;
const LEASE_MS: u64 = 1500;
const CONSUMERS: u64 = 6;
/// Events that a consumer takes at once.
const AT_ONCE: u32 = 8;

pub(super) async fn start(shared: &Arc<Shared>, tasks: &mut JoinSet<()>) -> anyhow::Result<()> {
    shared.subscribe(NAME, config()).await?;
    log::writers(shared, tasks, WORKERS, |value, _| super::event(value))?;
    for label in 1..=CONSUMERS {
        let puller = Puller::new(shared, NAME)?;
        tasks.spawn(consumer(Arc::clone(shared), puller, label));
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
            max_attempts: Some(MAX_ATTEMPTS),
            non_retryable_reasons: Some(Reasons { reasons: vec![FOR_GOOD.to_owned()] }),
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
    let mut rng = shared.rng(300 + label);
    while shared.goes_on() {
        for lease in puller.take(&shared, AT_ONCE).await {
            // Each event goes its own way; those that are forgotten run out.
            let mut ways: [Vec<Event>; 5] = Default::default();
            for event in &lease.events {
                let way = match rng.u8(..20) {
                    0..=4 => 1,
                    5 | 6 => 2,
                    7 => 3,
                    8 if shared.publishes() => 4,
                    _ => 0,
                };
                ways[way].push(*event);
            }
            let [done, failed, rejected, for_good, _forgotten] = ways;
            let after_ms = rng.bool().then(|| rng.u64(..1200));
            for (events, action) in [
                (done, Action::Ack),
                (failed, Action::Nack { after_ms }),
                (rejected, Action::Reject),
                (for_good, Action::NackForGood),
            ] {
                puller.settle(&shared, &lease, &events, action).await;
            }
        }
    }
}
