//! The lifecycle feed: what happens to subscriptions, services and instances, as events of the topic
//! `hub.lifecycle`.
//!
//! Each command says a bounded number of things: what concerns many events is said once, with a
//! count. Nothing is said about subscriptions to the hub's own topics.

use bytes::Bytes;
use prost::Message as _;

use super::Fault;
use super::apply::Machine;
use super::kv::Kv;
use super::registry::standing;
use super::subscription::record;
use super::topic::publish;
use super::topic::record::TopicRecord;
use crate::model::command::{Notice, NoticeKind};
use crate::model::outcome::Outcome;
use crate::model::pattern::TopicPattern;
use crate::model::registry::{BreakerState, Mode};
use crate::model::topic::TopicConfig;

/// The topic of the feed.
pub const TOPIC: &str = "hub.lifecycle";
/// The `source` of its events.
pub const SOURCE: &str = "/hub";

/// Something that happened to a subscription, a service or an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    DeadLettered { count: u64 },
    LeasesExpired { count: u64 },
    Tripped { resume_at_ms: u64 },
    Paused { resume_at_ms: u64 },
    TargetDown,
    Resumed,
    Sought { start: u64, redelivered: u64, skipped: u64 },
    Deleted,
    Lagging { waiting: u64 },
    CaughtUp { waiting: u64 },
    QuotaHit { limit: &'static str, value: u64 },
    ServiceRegistered,
    ServiceChanged,
    ServiceDeleted,
    ServiceDown,
    ServiceRecovered,
    ServiceBreaker(BreakerState),
    BrakeEngaged { silent: u64 },
    BrakeReleased,
    Ready,
    NotReady { reason: String },
    FailedOver { to: String },
    FailedBack,
    // Of an instance: what it is about is SERVICE/ID.
    Registered,
    Deregistered,
    Passing,
    Critical { reason: String },
    HoldBegun { until_ms: u64 },
    HoldEnded,
    Mode(Mode),
    Breaker(BreakerState),
}

/// The limits of a service as the feed names them.
const QUOTA_LIMITS: [&str; 5] =
    ["publish_events_per_s", "publish_bytes_per_s", "in_flight", "retries_per_s", "backlog_bytes"];

/// Tells what the leader saw; nothing of subscriptions that are gone, or take the hub's own topics.
pub(crate) fn notice<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: &Notice,
) -> Result<Outcome, Fault> {
    let report = match command.kind() {
        NoticeKind::QuotaHit => {
            let limit = QUOTA_LIMITS.into_iter().find(|limit| *limit == command.limit);
            limit.map(|limit| Report::QuotaHit { limit, value: command.value })
        }
        NoticeKind::Lagging => Some(Report::Lagging { waiting: command.value }),
        NoticeKind::CaughtUp => Some(Report::CaughtUp { waiting: command.value }),
        NoticeKind::BrakeEngaged
        | NoticeKind::BrakeReleased
        | NoticeKind::Ready
        | NoticeKind::NotReady
        | NoticeKind::FailedOver
        | NoticeKind::FailedBack => return standing::note(machine, command),
        NoticeKind::Unspecified => None,
    };
    let report = report.ok_or_else(|| {
        Fault::Undecodable("a notice of a newer version; run a newer mhub".to_owned())
    })?;
    let told = match report {
        Report::QuotaHit { .. } => true,
        _ => record::get(machine.overlay(), &command.about)?
            .is_some_and(|s| !TopicPattern::from_checked(&s.config.pattern).is_system()),
    };
    if told {
        machine.report(&command.about, report);
    }
    Ok(Outcome::Done)
}

impl Report {
    /// The `type` of the event.
    fn kind(&self) -> &'static str {
        match self {
            Self::DeadLettered { .. } => "hub.subscription.dead_lettered",
            Self::LeasesExpired { .. } => "hub.subscription.leases_expired",
            Self::Tripped { .. } => "hub.subscription.tripped",
            Self::Paused { .. } => "hub.subscription.paused",
            Self::TargetDown => "hub.subscription.target_down",
            Self::Resumed => "hub.subscription.resumed",
            Self::Sought { .. } => "hub.subscription.sought",
            Self::Deleted => "hub.subscription.deleted",
            Self::Lagging { .. } => "hub.subscription.lagging",
            Self::CaughtUp { .. } => "hub.subscription.caught_up",
            Self::QuotaHit { .. } => "hub.service.quota_hit",
            Self::ServiceRegistered => "hub.service.registered",
            Self::ServiceChanged => "hub.service.changed",
            Self::ServiceDeleted => "hub.service.deleted",
            Self::BrakeEngaged { .. } => "hub.service.brake_engaged",
            Self::BrakeReleased => "hub.service.brake_released",
            Self::Ready => "hub.service.ready",
            Self::NotReady { .. } => "hub.service.not_ready",
            Self::FailedOver { .. } => "hub.service.failed_over",
            Self::FailedBack => "hub.service.failed_back",
            Self::ServiceDown => "hub.service.down",
            Self::ServiceRecovered => "hub.service.recovered",
            Self::ServiceBreaker(state) => match state {
                BreakerState::Closed => "hub.service.breaker_closed",
                BreakerState::Open => "hub.service.breaker_opened",
                BreakerState::HalfOpen => "hub.service.breaker_half_open",
                BreakerState::ForcedOpen => "hub.service.breaker_forced_open",
                BreakerState::ForcedClosed => "hub.service.breaker_forced_closed",
            },
            Self::Registered => "hub.instance.registered",
            Self::Deregistered => "hub.instance.deregistered",
            Self::Passing => "hub.instance.passing",
            Self::Critical { .. } => "hub.instance.critical",
            Self::HoldBegun { .. } => "hub.instance.hold_begun",
            Self::HoldEnded => "hub.instance.hold_ended",
            Self::Mode(Mode::Up) => "hub.instance.up",
            Self::Mode(Mode::Draining) => "hub.instance.draining",
            Self::Mode(Mode::Maintenance) => "hub.instance.maintenance",
            Self::Breaker(state) => match state {
                BreakerState::Closed => "hub.instance.breaker_closed",
                BreakerState::Open => "hub.instance.breaker_opened",
                BreakerState::HalfOpen => "hub.instance.breaker_half_open",
                BreakerState::ForcedOpen => "hub.instance.breaker_forced_open",
                BreakerState::ForcedClosed => "hub.instance.breaker_forced_closed",
            },
        }
    }

    fn is_of_service(&self) -> bool {
        matches!(
            self,
            Self::QuotaHit { .. }
                | Self::ServiceRegistered
                | Self::ServiceChanged
                | Self::ServiceDeleted
                | Self::ServiceDown
                | Self::ServiceRecovered
                | Self::ServiceBreaker(_)
                | Self::BrakeEngaged { .. }
                | Self::BrakeReleased
                | Self::Ready
                | Self::NotReady { .. }
                | Self::FailedOver { .. }
                | Self::FailedBack
        )
    }

    fn facts(&self) -> Vec<(&'static str, u64)> {
        match *self {
            Self::DeadLettered { count } | Self::LeasesExpired { count } => vec![("count", count)],
            Self::Tripped { resume_at_ms: 0 } | Self::Paused { resume_at_ms: 0 } => Vec::new(),
            Self::Tripped { resume_at_ms } | Self::Paused { resume_at_ms } => {
                vec![("resume_at_ms", resume_at_ms)]
            }
            Self::Sought { start, redelivered, skipped } => {
                vec![("start", start), ("redelivered", redelivered), ("skipped", skipped)]
            }
            Self::Lagging { waiting } | Self::CaughtUp { waiting } => vec![("waiting", waiting)],
            Self::QuotaHit { limit, value } => vec![(limit, value)],
            Self::BrakeEngaged { silent } => vec![("silent", silent)],
            Self::HoldBegun { until_ms } => vec![("until_ms", until_ms)],
            _ => Vec::new(),
        }
    }

    /// 64-bit numbers are JSON strings. Names need no escaping: their grammar has no quotes.
    fn data(&self, about: &str) -> String {
        let mut json = match about.split_once('/') {
            Some((service, id)) => format!("{{\"service\":\"{service}\",\"instance\":\"{id}\""),
            None if self.is_of_service() => format!("{{\"service\":\"{about}\""),
            None => format!("{{\"subscription\":\"{about}\""),
        };
        for (name, value) in self.facts() {
            json.push_str(&format!(",\"{name}\":\"{value}\""));
        }
        if let Self::FailedOver { to } = self {
            json.push_str(&format!(",\"to\":\"{to}\""));
        }
        if let Self::Critical { reason } | Self::NotReady { reason } = self
            && !reason.is_empty()
        {
            json.push_str(&format!(",\"reason\":\"{}\"", escaped(reason)));
        }
        json.push('}');
        json
    }
}

/// Text as it stands between the quotes of a JSON string.
fn escaped(text: &str) -> String {
    let mut json = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\\' => json.extend(['\\', character]),
            '\u{0}'..'\u{20}' => json.push_str(&format!("\\u{:04x}", u32::from(character))),
            _ => json.push(character),
        }
    }
    json
}

/// The fields of `messagehub.v1.Event` that the feed uses.
#[derive(Clone, PartialEq, prost::Message)]
struct Event {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    source: String,
    #[prost(string, tag = "3")]
    kind: String,
    #[prost(string, tag = "4")]
    subject: String,
    #[prost(string, tag = "6")]
    datacontenttype: String,
    #[prost(bytes = "bytes", tag = "8")]
    data: Bytes,
}

/// Appends what a command reported.
pub(crate) fn publish<K: Kv>(
    machine: &mut Machine<'_, K>,
    reports: Vec<(String, Report)>,
) -> Result<(), Fault> {
    if reports.is_empty() {
        return Ok(());
    }
    let topic = match machine.topic(TOPIC)?.cloned() {
        Some(topic) => topic,
        None => create(machine),
    };
    let position = machine.next_position();
    let events: Vec<Bytes> = (0..)
        .zip(reports)
        .map(|(n, (subscription, report))| {
            let event = Event {
                id: format!("lifecycle-{}", position.plus(n)),
                source: SOURCE.to_owned(),
                kind: report.kind().to_owned(),
                data: report.data(&subscription).into(),
                subject: subscription,
                datacontenttype: "application/json".to_owned(),
            };
            event.encode_to_vec().into()
        })
        .collect();
    publish::append_plain(machine, TOPIC, topic, &events)
}

/// The feed counts as a topic, but its bound does not keep it away.
fn create<K: Kv>(machine: &mut Machine<'_, K>) -> TopicRecord {
    let now = machine.now().get();
    let meta = machine.meta_mut();
    meta.last_topic_id += 1;
    meta.topics += 1;
    TopicRecord {
        id: meta.last_topic_id,
        config: TopicConfig::defaults(),
        created_at_ms: now,
        updated_at_ms: now,
        revision: 1,
        ..TopicRecord::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::EventView;

    #[test]
    fn reports_are_small_json() {
        let report = Report::Sought { start: 7, redelivered: 1, skipped: 0 };
        assert_eq!(
            report.data("s"),
            r#"{"subscription":"s","start":"7","redelivered":"1","skipped":"0"}"#
        );
        assert_eq!(Report::Resumed.data("s"), r#"{"subscription":"s"}"#);
        let hit = Report::QuotaHit { limit: "in_flight", value: 5 };
        assert_eq!(hit.data("shop"), r#"{"service":"shop","in_flight":"5"}"#);
        let over = Report::FailedOver { to: "spare".into() };
        assert_eq!(over.data("shop"), r#"{"service":"shop","to":"spare"}"#);
        let critical = |reason: &str| Report::Critical { reason: reason.into() }.data("shop/h:80");
        assert_eq!(critical(""), r#"{"service":"shop","instance":"h:80"}"#);
        let odd = "status \"5\\0\n3\u{1b}é";
        let wanted =
            r#"{"service":"shop","instance":"h:80","reason":"status \"5\\0\u000a3\u001bé"}"#;
        assert_eq!(critical(odd), wanted);
    }

    #[test]
    fn events_are_valid() {
        let event = Event {
            id: "lifecycle-1".into(),
            source: SOURCE.into(),
            kind: Report::Deleted.kind().into(),
            subject: "s".into(),
            datacontenttype: "application/json".into(),
            data: Report::Deleted.data("s").into(),
        };
        assert!(EventView::parse(&event.encode_to_vec()).is_ok());
    }
}
