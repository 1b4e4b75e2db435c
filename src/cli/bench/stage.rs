//! What a run works on: events of a shape, in a topic and a subscription of its own.

use futures_util::stream::StreamExt as _;

use super::encoded::payload;
use crate::cli::{Failure, output};
use crate::client::Client;
use crate::proto::v1::place::At;
use crate::proto::v1::{
    CreateSubscriptionRequest, CreateTopicRequest, DeleteSubscriptionRequest, DeleteTopicRequest,
    Event, Ordering as DeliveryOrdering, Place, PriorityPolicy, Start, SubscriptionConfig,
};
use crate::runtime::clock;

/// Events in a call of what is published before.
const FILL_CALL: u64 = 64;
/// Such calls on their way.
const FILL_DEPTH: usize = 32;
/// Events that the measured subscription lets out at once.
const IN_FLIGHT: u32 = 100_000;

/// What the events and their subscription are like.
#[derive(Clone, Debug, Default, clap::Args)]
pub(in crate::cli) struct Shape {
    /// Bytes of each event's payload.
    #[arg(long, default_value_t = 256)]
    pub(super) size: usize,
    /// Give the events priorities 0 to 9 in turn.
    #[arg(long)]
    pub(super) mixed_priorities: bool,
    /// Give the events deadlines a day away, each second apart from the last, in turn over an hour.
    #[arg(long)]
    pub(super) deadlines: bool,
    /// Strict priorities instead of rank.
    #[arg(long)]
    pub(super) strict: bool,
    /// Order by key, with so many keys; 0: no keys.
    #[arg(long, default_value_t = 0)]
    pub(super) keys: u64,
    /// Delay the events until so many seconds after the start, all to the same instant; 0: not.
    #[arg(long, default_value_t = 0)]
    pub(super) delay: u64,
}

impl Shape {
    pub(super) fn event(&self, n: u64, started_ms: u64) -> Event {
        const DAY_SECS: u64 = 86_400;
        let after = |secs| timestamp(started_ms / 1000 + secs);
        Event {
            id: n.to_string(),
            source: "/bench".to_owned(),
            r#type: "bench".to_owned(),
            data: payload(self.size).into(),
            key: if self.keys > 0 { format!("key-{}", n % self.keys) } else { String::new() },
            priority: self.mixed_priorities.then(|| u32::try_from(n % 10).unwrap_or(0)),
            deadline: self.deadlines.then(|| after(DAY_SECS + n % 3600)),
            deliver_at: (self.delay > 0).then(|| after(self.delay)),
            ..Event::default()
        }
    }

    pub(super) fn config(&self) -> SubscriptionConfig {
        let ordering = if self.keys > 0 { DeliveryOrdering::ByKey } else { DeliveryOrdering::None };
        let policy = if self.strict { PriorityPolicy::Strict } else { PriorityPolicy::Rank };
        SubscriptionConfig {
            max_in_flight: Some(IN_FLIGHT),
            max_in_flight_per_consumer: Some(IN_FLIGHT),
            ordering: ordering.into(),
            priority_policy: policy.into(),
            ..SubscriptionConfig::default()
        }
    }
}

fn timestamp(unix_secs: u64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: i64::try_from(unix_secs).unwrap_or(i64::MAX), nanos: 0 }
}

/// A topic and a subscription of the same name, made for one run.
pub(super) struct Stage {
    pub(super) client: Client,
    pub(super) name: String,
}

impl Stage {
    pub(super) async fn set(client: &Client, config: SubscriptionConfig) -> Result<Self, Failure> {
        let name = format!("bench-{}", uuid::Uuid::new_v4());
        let topic = CreateTopicRequest { name: name.clone(), ..Default::default() };
        client.create_topic(topic).await?;
        let subscription = CreateSubscriptionRequest {
            name: name.clone(),
            pattern: name.clone(),
            config: Some(config),
            start: Some(Place { at: Some(At::Start(Start {})) }),
            ..Default::default()
        };
        client.create_subscription(subscription).await?;
        Ok(Self { client: client.clone(), name })
    }

    /// Cleans up. The figures are worth printing even when that fails.
    pub(super) async fn strike(self) {
        let (name, confirm_name) = (self.name.clone(), self.name.clone());
        let subscription = DeleteSubscriptionRequest { name, confirm_name, ..Default::default() };
        let struck = self.client.delete_subscription(subscription).await.map(drop);
        let (name, confirm_name) = (self.name.clone(), self.name.clone());
        let topic = DeleteTopicRequest { name, confirm_name, ..Default::default() };
        let struck = struck.and(self.client.delete_topic(topic).await.map(drop));
        if let Err(rejection) = struck {
            output::complain(&format!("bench {} is left behind: {rejection}", self.name));
        }
    }

    /// Publishes what is to be consumed.
    pub(super) async fn fill(&self, shape: &Shape, events: u64) -> Result<(), Failure> {
        let (publisher, started) = (self.client.publisher(), clock::unix_ms().get());
        let calls = (0..events).step_by(usize::try_from(FILL_CALL).unwrap_or(1));
        let calls = calls.map(|first| {
            let run = (first..events.min(first + FILL_CALL)).map(|n| {
                use prost::Message as _;
                shape.event(n, started).encode_to_vec().into()
            });
            publisher.publish_all(&self.name, run.collect(), Vec::new())
        });
        let mut calls = futures_util::stream::iter(calls).buffer_unordered(FILL_DEPTH);
        while let Some(result) = calls.next().await {
            result?;
        }
        Ok(())
    }
}
