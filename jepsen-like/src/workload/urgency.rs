//! W5: events with priorities and deadlines. Consumers are slow at times, so that events wait and the
//! urgent ones have something to overtake.

use std::sync::Arc;
use std::time::{Duration, Instant};

use message_hub::client::EventBuilder;
use message_hub::proto::v1::{DeadLetterPolicy, PriorityPolicy, RetryPolicy, SubscriptionConfig};
use tokio::task::JoinSet;

use super::consume::{Puller, look_at_letters};
use super::{Shared, WORKERS, log};
use crate::delivered::Action;
use crate::tools::now;

/// The subscription whose order is by rank.
pub(super) const RANK: &str = "rank";
/// The subscription whose order is by priority first.
pub const STRICT: &str = "strict";
/// What the rank of priority 0 waits.
pub const BASE_WAIT_MS: u64 = 16_000;
/// Consumers of each subscription.
const CONSUMERS: u64 = 3;
/// Events that a consumer takes at once.
const AT_ONCE: u32 = 6;
/// Of so many seconds consumers rest the first ones, all of them.
const ROUND_S: u64 = 6;
const REST_S: u64 = 2;
/// How often those who rest look at the time.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Of so many events one has a deadline.
const DEADLINES_ONE_OF: u8 = 4;

pub(super) async fn start(shared: &Arc<Shared>, tasks: &mut JoinSet<()>) -> anyhow::Result<()> {
    let started = now();
    for (name, policy) in [(RANK, PriorityPolicy::Rank), (STRICT, PriorityPolicy::Strict)] {
        shared.subscribe(name, config(policy)).await?;
        for _ in 0..CONSUMERS {
            let puller = Puller::new(shared, name)?;
            tasks.spawn(consumer(Arc::clone(shared), puller, started));
        }
        look_at_letters(shared, tasks, name)?;
    }
    log::writers(shared, tasks, WORKERS, urgent)
}

fn config(policy: PriorityPolicy) -> SubscriptionConfig {
    SubscriptionConfig {
        priority_policy: policy.into(),
        base_wait_ms: Some(BASE_WAIT_MS),
        lease_ms: Some(5000),
        retry: Some(RetryPolicy { max_attempts: Some(0), ..RetryPolicy::default() }),
        dead_letters: Some(DeadLetterPolicy {
            trip_disabled: Some(true),
            ..DeadLetterPolicy::default()
        }),
        ..SubscriptionConfig::default()
    }
}

fn urgent(value: u64, rng: &mut fastrand::Rng) -> EventBuilder {
    let event = super::event(value).priority(rng.u32(..10));
    if rng.u8(..DEADLINES_ONE_OF) > 0 {
        return event;
    }
    event.ttl(Duration::from_millis(rng.u64(800..6000)))
}

async fn consumer(shared: Arc<Shared>, mut puller: Puller, started: Instant) {
    while shared.goes_on() {
        if shared.publishes() && started.elapsed().as_secs() % ROUND_S < REST_S {
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        }
        for lease in puller.take(&shared, AT_ONCE).await {
            let all = lease.events.clone();
            puller.settle(&shared, &lease, &all, Action::Ack).await;
        }
    }
}
