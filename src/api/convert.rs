//! Between the messages of the API and the words of the hub.

use std::time::{Duration, Instant};

use tonic::metadata::MetadataMap;

use crate::machine::kv::Order;
use crate::machine::query::StoredEvent;
use crate::model::command::Producer;
use crate::model::expectation::Expect;
use crate::model::ids::{KeyVersion, Offset, Position, UnixMs};
use crate::model::limits::{HUB_CONSUMER, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX};
use crate::model::name::TopicName;
use crate::model::outcome::{Published, TopicInfo};
use crate::model::rejection::{Reason, Rejection};
use crate::model::schema_rule::SchemaRule;
use crate::model::topic::TopicPatch;
use crate::node::follow::{AtEnd, ReadPlan};
use crate::node::query::{Consistency, From};
use crate::node::validate::PublishRequest;
use crate::proto::v1::{
    self, PublishCall, PublishResult, ReadOptions, ReadRequest, RecordedEvent, Topic, TopicConfig,
    key_expectation, read_options, read_request,
};

pub(super) fn invalid(message: impl Into<String>) -> Rejection {
    Rejection::new(Reason::InvalidRequest, message)
}

/// Refuses the name that the hub itself consumes under.
pub(super) fn outsider(consumer: &str) -> Result<(), Rejection> {
    if consumer == HUB_CONSUMER {
        return Err(invalid("consumer hub is the hub itself; choose another name"));
    }
    Ok(())
}

pub(super) fn publish(call: PublishCall) -> Result<PublishRequest, Rejection> {
    let mut expectations = Vec::with_capacity(call.expectations.len());
    for expectation in call.expectations {
        let expect = match expectation.expect {
            Some(key_expectation::Expect::NoKey(true)) => Expect::NoKey,
            Some(key_expectation::Expect::Exists(true)) => Expect::Exists,
            Some(key_expectation::Expect::Exact(version)) => Expect::Exact(KeyVersion(version)),
            None => Expect::Any,
            Some(
                key_expectation::Expect::NoKey(false) | key_expectation::Expect::Exists(false),
            ) => {
                return Err(invalid(
                    "an expectation is set to false; leave it out, or set it to true",
                ));
            }
        };
        expectations.push((expectation.key, expect));
    }
    Ok(PublishRequest {
        topic: call.topic,
        producer: call.producer.map(|p| Producer {
            id: p.id,
            epoch: p.epoch,
            sequence: p.sequence,
            acknowledged_below: p.acknowledged_below,
        }),
        expectations,
        events: call.events,
    })
}

pub(super) fn publish_result(published: Published) -> PublishResult {
    let receipts = published.receipts.iter().map(|r| v1::Receipt {
        offset: r.offset.get(),
        position: r.position.get(),
        duplicate: r.duplicate,
    });
    PublishResult {
        first_offset: published.first_offset.get(),
        first_position: published.first_position.get(),
        count: published.count,
        duplicate: published.duplicate,
        key_versions: published.key_versions.iter().map(|v| v.get()).collect(),
        receipts: receipts.collect(),
    }
}

pub(super) fn topic(info: TopicInfo) -> Topic {
    Topic {
        config: Some(TopicConfig {
            max_event_bytes: Some(info.config.max_event_bytes),
            retention_age_ms: Some(info.config.retention_age_ms),
            retention_bytes: Some(info.config.retention_bytes),
            retention_count: Some(info.config.retention_count),
            dedup_window_ms: Some(info.config.dedup_window_ms),
            index_ids: Some(info.config.index_ids),
            description: Some(info.config.description),
            labels: info.config.labels.into_iter().collect(),
            schema: info.config.schema.map(|rule| v1::SchemaRule {
                mode: rule.mode,
                subject: rule.subject,
                message: rule.message,
            }),
        }),
        name: info.name,
        next_offset: info.next_offset.get(),
        first_offset: info.first_offset.get(),
        bytes: info.bytes,
        created_at_ms: info.created_at.get(),
        updated_at_ms: info.updated_at.get(),
        revision: info.revision,
    }
}

/// What happens to the labels of a topic.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Labels {
    Keep,
    Replace,
}

pub(super) fn patch(config: Option<TopicConfig>, labels: Labels) -> TopicPatch {
    let config = config.unwrap_or_default();
    TopicPatch {
        max_event_bytes: config.max_event_bytes,
        retention_age_ms: config.retention_age_ms,
        retention_bytes: config.retention_bytes,
        retention_count: config.retention_count,
        dedup_window_ms: config.dedup_window_ms,
        index_ids: config.index_ids,
        description: config.description,
        labels: config.labels.into_iter().collect(),
        replace_labels: labels == Labels::Replace,
        schema: config.schema.map(|rule| SchemaRule {
            mode: rule.mode,
            subject: rule.subject,
            message: rule.message,
        }),
    }
}

pub(super) fn consistency(options: Option<ReadOptions>) -> Consistency {
    match options.and_then(|options| options.consistency) {
        None | Some(read_options::Consistency::Linearizable(_)) => Consistency::Linearizable,
        Some(read_options::Consistency::Stale(_)) => Consistency::Stale,
        Some(read_options::Consistency::AtLeastPosition(p)) => Consistency::AtLeast(Position(p)),
    }
}

pub(super) fn read_plan(request: ReadRequest, at_end: AtEnd) -> Result<ReadPlan, Rejection> {
    if request.backward && at_end == AtEnd::Follow {
        return Err(invalid("tail does not go backward; use read"));
    }
    let topic = if request.topic.is_empty() {
        None
    } else {
        Some(TopicName::parse_readable(&request.topic)?)
    };
    let from = match request.from {
        None | Some(read_request::From::Start(_)) => From::Start,
        Some(read_request::From::End(_)) => From::End,
        Some(read_request::From::Offset(offset)) => From::Offset(Offset(offset)),
        Some(read_request::From::Position(position)) => From::Position(Position(position)),
        Some(read_request::From::TimeMs(instant)) => From::Time(UnixMs(instant)),
    };
    let bound = |n: u64| if n == 0 { None } else { Some(n) };
    Ok(ReadPlan {
        topic,
        from,
        order: if request.backward { Order::Descending } else { Order::Ascending },
        events_max: bound(request.limit),
        bytes_max: bound(request.max_bytes),
        consistency: consistency(request.options),
        at_end,
    })
}

pub(super) fn recorded_event(topic: &str, event: StoredEvent) -> RecordedEvent {
    RecordedEvent {
        topic: topic.to_owned(),
        offset: event.offset.get(),
        position: event.position.get(),
        recorded_at_ms: event.recorded_at.get(),
        key_version: event.key_version.get(),
        event: event.event,
    }
}

/// 0 means the default; beyond the bound is the bound.
pub(super) fn page_size(wanted: u32) -> usize {
    let size = if wanted == 0 { PAGE_SIZE_DEFAULT } else { wanted.min(PAGE_SIZE_MAX) };
    usize::try_from(size).unwrap_or(usize::MAX)
}

/// When the caller wants its answer: `grpc-timeout`, digits and a unit.
/// Source: the gRPC over HTTP/2 protocol.
pub(super) fn caller_deadline(metadata: &MetadataMap, now: Instant) -> Option<Instant> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let amount: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    let patience = match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    };
    now.checked_add(patience)
}
