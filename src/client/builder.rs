//! Building events.

use std::time::Duration;

use bytes::Bytes;
use prost_types::Timestamp;

use crate::proto::v1::Event;

/// Builds events; the id of each is a new UUID unless one is given.
#[derive(Clone, Debug)]
pub struct EventBuilder(Event, Option<String>);

impl EventBuilder {
    /// An event with what every event must have.
    #[must_use]
    pub fn new(source: impl Into<String>, kind: impl Into<String>) -> Self {
        let (source, kind) = (source.into(), kind.into());
        Self(Event { source, r#type: kind, ..Event::default() }, None)
    }

    /// Its id; unique with its source.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.1 = Some(id.into());
        self
    }

    /// The entity that it belongs to.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.0.key = key.into();
        self
    }

    /// Its payload.
    #[must_use]
    pub fn data(mut self, data: impl Into<Bytes>) -> Self {
        self.0.data = data.into();
        self
    }

    /// The media type of its payload.
    #[must_use]
    pub fn content_type(mut self, media_type: impl Into<String>) -> Self {
        self.0.datacontenttype = media_type.into();
        self
    }

    /// 0 to 9, high first; 4 when not said.
    #[must_use]
    pub fn priority(mut self, priority: u32) -> Self {
        self.0.priority = Some(priority);
        self
    }

    /// After this instant, Unix milliseconds, the event is of no use.
    #[must_use]
    pub fn deadline(mut self, unix_ms: u64) -> Self {
        self.0.deadline = Some(timestamp(unix_ms));
        self
    }

    /// The same as so long from now, by this machine's clock: where it is behind the hub's, the event has less
    /// time.
    #[must_use]
    pub fn ttl(self, ttl: Duration) -> Self {
        self.deadline(in_the_future(ttl))
    }

    /// Not to be delivered before this instant, Unix milliseconds.
    #[must_use]
    pub fn deliver_at(mut self, unix_ms: u64) -> Self {
        self.0.deliver_at = Some(timestamp(unix_ms));
        self
    }

    /// The same as so long from now, by this machine's clock: where it is ahead of the hub's, the event waits
    /// longer.
    #[must_use]
    pub fn delay(self, delay: Duration) -> Self {
        self.deliver_at(in_the_future(delay))
    }

    /// Whose share of a subscription's attention it takes.
    #[must_use]
    pub fn fairness_key(mut self, key: impl Into<String>) -> Self {
        self.0.fairness_key = key.into();
        self
    }

    /// What it belongs to, with others: a trace shows all of it. At most 256 bytes.
    #[must_use]
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.0.correlation_id = id.into();
        self
    }

    /// The id of the event that caused it. At most 256 bytes.
    #[must_use]
    pub fn causation_id(mut self, id: impl Into<String>) -> Self {
        self.0.causation_id = id.into();
        self
    }

    /// The W3C trace context that it belongs to.
    #[must_use]
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.0.traceparent = traceparent.into();
        self
    }

    /// The event.
    #[must_use]
    pub fn build(self) -> Event {
        let Self(event, id) = self;
        let id = id.unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        Event { id, ..event }
    }
}

fn timestamp(unix_ms: u64) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(unix_ms / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(unix_ms % 1000).unwrap_or(0) * 1_000_000,
    }
}

fn in_the_future(wait: Duration) -> u64 {
    let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
    now.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
}
