//! An event on the command line.

use std::time::Duration;

use super::read::instant;
use super::value::duration;
use crate::client::EventBuilder;
use crate::proto::v1::Event;

/// One event from flags.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct EventArgs {
    /// The payload.
    #[arg(long)]
    pub(super) data: Option<String>,
    /// CloudEvents type.
    #[arg(long = "type", default_value = "message", value_name = "TYPE")]
    kind: String,
    /// CloudEvents source.
    #[arg(long, default_value = "/mhub/cli")]
    source: String,
    /// CloudEvents id; default: a new UUID.
    #[arg(long)]
    id: Option<String>,
    /// The entity that the event belongs to.
    #[arg(long)]
    pub(super) key: Option<String>,
    /// Media type of the payload.
    #[arg(long, default_value = "", hide_default_value = true)]
    content_type: String,
    #[command(flatten)]
    tracking: TrackingArgs,
    #[command(flatten)]
    delivery: DeliveryArgs,
}

/// What an event has to do with others.
#[derive(Clone, Debug, clap::Args)]
struct TrackingArgs {
    /// What the event belongs to, like an order: mhub events trace shows all of it.
    #[arg(long, value_name = "ID")]
    correlation: Option<String>,
    /// The id of the event that caused it.
    #[arg(long, value_name = "EVENT_ID")]
    causation: Option<String>,
    /// The W3C trace context that it belongs to.
    #[arg(long, value_name = "TRACEPARENT")]
    traceparent: Option<String>,
}

impl TrackingArgs {
    fn apply(self, mut builder: EventBuilder) -> EventBuilder {
        if let Some(id) = self.correlation {
            builder = builder.correlation_id(id);
        }
        if let Some(id) = self.causation {
            builder = builder.causation_id(id);
        }
        if let Some(traceparent) = self.traceparent {
            builder = builder.traceparent(traceparent);
        }
        builder
    }
}

/// How an event is to be delivered to subscriptions.
#[derive(Clone, Debug, clap::Args)]
struct DeliveryArgs {
    /// 0 to 9, high first; 4 when not said.
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=9))]
    priority: Option<u32>,
    /// Of no use after this, from now on by this machine's clock: 30s, 5m, 12h, 14d.
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "deadline")]
    ttl: Option<u64>,
    /// Of no use after this instant, RFC 3339 or Unix milliseconds.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    deadline: Option<u64>,
    /// Not to be delivered before this, from now on by this machine's clock; at most 365d.
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "deliver_at")]
    delay: Option<u64>,
    /// Not to be delivered before this instant, RFC 3339 or Unix milliseconds.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    deliver_at: Option<u64>,
    /// Whose share of a subscription's attention it takes, like a tenant's name.
    #[arg(long, value_name = "KEY")]
    fairness_key: Option<String>,
}

impl DeliveryArgs {
    fn apply(self, mut builder: EventBuilder) -> EventBuilder {
        if let Some(priority) = self.priority {
            builder = builder.priority(priority);
        }
        if let Some(ttl_ms) = self.ttl {
            builder = builder.ttl(Duration::from_millis(ttl_ms));
        }
        if let Some(deadline) = self.deadline {
            builder = builder.deadline(deadline);
        }
        if let Some(delay_ms) = self.delay {
            builder = builder.delay(Duration::from_millis(delay_ms));
        }
        if let Some(deliver_at) = self.deliver_at {
            builder = builder.deliver_at(deliver_at);
        }
        if let Some(key) = self.fairness_key {
            builder = builder.fairness_key(key);
        }
        builder
    }
}

impl EventArgs {
    pub(super) fn event(self, data: String) -> Event {
        let mut builder =
            EventBuilder::new(self.source, self.kind).data(data).content_type(self.content_type);
        if let Some(id) = self.id {
            builder = builder.id(id);
        }
        if let Some(key) = self.key {
            builder = builder.key(key);
        }
        self.delivery.apply(self.tracking.apply(builder)).build()
    }
}
