//! Between the messages of subscriptions and the words of the hub.

use super::convert::invalid;
use crate::machine::subscription::stats::Stats;
use crate::model::command::subscription::{At, Place};
use crate::model::delivery::{Counters, Pause, PauseReason, Sought, SubscriptionInfo};
use crate::model::filter::Filter;
use crate::model::ids::UnixMs;
use crate::model::rejection::Rejection;
use crate::model::subscription::{
    self as model, DeadLetterPatch, DeliveryOrder, PriorityMode, RetryPatch, SubscriptionPatch,
    TargetPatch,
};
use crate::proto::v1::{
    self, DeadLetterPolicy, FairnessWeights, Labels, Ordering, PriorityPolicy, Reasons,
    RetryPolicy, RetrySchedule, RetryStrategy, SeekSubscriptionResponse, Subscription,
    SubscriptionConfig, SubscriptionCounters, SubscriptionStats, Target, TargetFormat, place,
};
use prost::Message as _;

/// Settings to change.
///
/// # Errors
/// `INVALID_FILTER`, `INVALID_REQUEST`.
pub(super) fn patch(config: Option<SubscriptionConfig>) -> Result<SubscriptionPatch, Rejection> {
    let config = config.unwrap_or_default();
    let order = match Ordering::try_from(config.ordering).map_err(|_| unknown("ordering"))? {
        Ordering::Unspecified => None,
        Ordering::None => Some(DeliveryOrder::None as i32),
        Ordering::ByKey => Some(DeliveryOrder::ByKey as i32),
    };
    let policy = PriorityPolicy::try_from(config.priority_policy);
    let priority_mode = match policy.map_err(|_| unknown("priority_policy"))? {
        PriorityPolicy::Unspecified => None,
        PriorityPolicy::Rank => Some(PriorityMode::Rank as i32),
        PriorityPolicy::Strict => Some(PriorityMode::Strict as i32),
    };
    let some_filter =
        |encoded: &bytes::Bytes| (!encoded.is_empty()).then(|| Filter::parse(encoded));
    Ok(SubscriptionPatch {
        replace_filter: config.filter.is_some(),
        filter: config.filter.as_ref().and_then(some_filter).transpose()?,
        retry: config.retry.map(retry_patch).transpose()?,
        dead_letters: config.dead_letters.map(|policy| DeadLetterPatch {
            disabled: policy.disabled,
            retention_ms: policy.retention_ms,
            trip_disabled: policy.trip_disabled,
            trip_resume_ms: policy.trip_resume_ms,
        }),
        lease_ms: config.lease_ms,
        max_in_flight: config.max_in_flight,
        max_in_flight_per_consumer: config.max_in_flight_per_consumer,
        order,
        priority_mode,
        base_wait_ms: config.base_wait_ms,
        slack_ms: config.slack_ms,
        replace_fairness_weights: config.fairness_weights.is_some(),
        fairness_weights: config
            .fairness_weights
            .map(|weights| weights.weights_milli.into_iter().collect())
            .unwrap_or_default(),
        description: config.description,
        replace_labels: config.labels.is_some(),
        labels: config.labels.map(|labels| labels.labels.into_iter().collect()).unwrap_or_default(),
        target: config.target.map(target_patch).transpose()?,
    })
}

fn target_patch(target: Target) -> Result<TargetPatch, Rejection> {
    let format = TargetFormat::try_from(target.format).map_err(|_| unknown("target.format"))?;
    let format = match format {
        TargetFormat::Unspecified => None,
        TargetFormat::HttpBinary => Some(model::TargetFormat::HttpBinary),
        TargetFormat::HttpStructured => Some(model::TargetFormat::HttpStructured),
        TargetFormat::Grpc => Some(model::TargetFormat::Grpc),
    };
    let Target { service, path, timeout_ms, retry_client_errors, .. } = target;
    let format = format.map(|format| format as i32);
    Ok(TargetPatch { service, format, path, timeout_ms, retry_client_errors })
}

fn unknown(setting: &str) -> Rejection {
    invalid(format!("{setting} has a value that does not exist; take one of the API's"))
}

fn retry_patch(policy: RetryPolicy) -> Result<RetryPatch, Rejection> {
    let strategy =
        RetryStrategy::try_from(policy.strategy).map_err(|_| unknown("retry.strategy"))?;
    let strategy = match strategy {
        RetryStrategy::Unspecified => None,
        RetryStrategy::FullJitter => Some(model::RetryStrategy::FullJitter),
        RetryStrategy::Decorrelated => Some(model::RetryStrategy::Decorrelated),
        RetryStrategy::Linear => Some(model::RetryStrategy::Linear),
        RetryStrategy::Fixed => Some(model::RetryStrategy::Fixed),
        RetryStrategy::Schedule => Some(model::RetryStrategy::Schedule),
    };
    Ok(RetryPatch {
        strategy: strategy.map(|strategy| strategy as i32),
        initial_ms: policy.initial_ms,
        min_ms: policy.min_ms,
        max_ms: policy.max_ms,
        multiplier_milli: policy.multiplier_milli,
        replace_schedule: policy.schedule.is_some(),
        schedule_ms: policy.schedule.map(|schedule| schedule.delays_ms).unwrap_or_default(),
        max_attempts: policy.max_attempts,
        replace_non_retryable_reasons: policy.non_retryable_reasons.is_some(),
        non_retryable_reasons: policy
            .non_retryable_reasons
            .map(|reasons| reasons.reasons)
            .unwrap_or_default(),
        budget_percent: policy.budget_percent,
        budget_min_per_s: policy.budget_min_per_s,
    })
}

/// A place; absent: the end.
pub(super) fn place(place: Option<v1::Place>) -> Place {
    match place.and_then(|place| place.at) {
        None | Some(place::At::End(_)) => At::End(true),
        Some(place::At::Start(_)) => At::Start(true),
        Some(place::At::Offset(offset)) => At::Offset(offset),
        Some(place::At::Position(position)) => At::Position(position),
        Some(place::At::TimeMs(instant)) => At::TimeMs(instant),
    }
    .into()
}

pub(super) fn subscription(info: SubscriptionInfo) -> Subscription {
    Subscription {
        name: info.name,
        pattern: info.config.pattern.clone(),
        config: Some(config(info.config)),
        revision: info.revision,
        created_at_ms: info.created_at.get(),
        updated_at_ms: info.updated_at.get(),
        start_position: info.start.get(),
        pause: info.pause.as_ref().map(pause),
        in_flight: info.in_flight,
        dead_letters: info.dead_letters,
        counters: Some(counters(info.counters)),
        reordering: info.reordering,
    }
}

fn config(config: model::SubscriptionConfig) -> SubscriptionConfig {
    let ordering = match config.order() {
        DeliveryOrder::None => Ordering::None,
        DeliveryOrder::ByKey => Ordering::ByKey,
    };
    let policy = match config.priority_mode() {
        PriorityMode::Rank => PriorityPolicy::Rank,
        PriorityMode::Strict => PriorityPolicy::Strict,
    };
    SubscriptionConfig {
        filter: config.filter.map(|filter| filter.encode_to_vec().into()),
        dead_letters: Some(DeadLetterPolicy {
            disabled: Some(config.dead_letters.disabled),
            retention_ms: Some(config.dead_letters.retention_ms),
            trip_disabled: Some(config.dead_letters.trip_disabled),
            trip_resume_ms: Some(config.dead_letters.trip_resume_ms),
        }),
        retry: Some(retry_policy(config.retry)),
        lease_ms: Some(config.lease_ms),
        max_in_flight: Some(config.max_in_flight),
        max_in_flight_per_consumer: Some(config.max_in_flight_per_consumer),
        ordering: ordering.into(),
        priority_policy: policy.into(),
        base_wait_ms: Some(config.base_wait_ms),
        slack_ms: Some(config.slack_ms),
        fairness_weights: Some(FairnessWeights {
            weights_milli: config.fairness_weights.into_iter().collect(),
        }),
        description: Some(config.description),
        labels: Some(Labels { labels: config.labels.into_iter().collect() }),
        target: config.target.map(target),
    }
}

fn target(target: model::Target) -> Target {
    let format = match target.format() {
        model::TargetFormat::HttpBinary => TargetFormat::HttpBinary,
        model::TargetFormat::HttpStructured => TargetFormat::HttpStructured,
        model::TargetFormat::Grpc => TargetFormat::Grpc,
    };
    Target {
        service: Some(target.service),
        format: format.into(),
        path: Some(target.path),
        timeout_ms: Some(target.timeout_ms),
        retry_client_errors: Some(target.retry_client_errors),
    }
}

fn retry_policy(policy: model::RetryPolicy) -> RetryPolicy {
    let strategy = match policy.strategy() {
        model::RetryStrategy::FullJitter => RetryStrategy::FullJitter,
        model::RetryStrategy::Decorrelated => RetryStrategy::Decorrelated,
        model::RetryStrategy::Linear => RetryStrategy::Linear,
        model::RetryStrategy::Fixed => RetryStrategy::Fixed,
        model::RetryStrategy::Schedule => RetryStrategy::Schedule,
    };
    RetryPolicy {
        strategy: strategy.into(),
        initial_ms: Some(policy.initial_ms),
        min_ms: Some(policy.min_ms),
        max_ms: Some(policy.max_ms),
        multiplier_milli: Some(policy.multiplier_milli),
        schedule: Some(RetrySchedule { delays_ms: policy.schedule_ms }),
        max_attempts: Some(policy.max_attempts),
        non_retryable_reasons: Some(Reasons { reasons: policy.non_retryable_reasons }),
        budget_percent: Some(policy.budget_percent),
        budget_min_per_s: Some(policy.budget_min_per_s),
    }
}

fn pause(pause: &Pause) -> v1::Pause {
    v1::Pause {
        since_ms: pause.since_ms,
        tripped: pause.reason() == PauseReason::Tripped,
        target_down: pause.reason() == PauseReason::TargetDown,
        resume_at_ms: pause.resume_at_ms,
    }
}

fn counters(counters: Counters) -> SubscriptionCounters {
    SubscriptionCounters {
        delivered: counters.delivered,
        redelivered: counters.redelivered,
        acked: counters.acked,
        nacked: counters.nacked,
        rejected: counters.rejected,
        released: counters.released,
        expired: counters.expired,
        dead: counters.dead,
        dropped: counters.dropped,
        filtered: counters.filtered,
        redriven: counters.redriven,
    }
}

pub(super) fn sought(sought: Sought) -> SeekSubscriptionResponse {
    SeekSubscriptionResponse {
        start_position: sought.start.get(),
        redelivered: sought.redelivered,
        skipped: sought.skipped,
        truncated: sought.truncated,
    }
}

pub(super) fn stats(info: SubscriptionInfo, stats: Stats, now: UnixMs) -> SubscriptionStats {
    SubscriptionStats {
        pending: stats.pending,
        pending_by_priority: stats.pending_by_priority.to_vec(),
        delayed: stats.delayed,
        cancelled: stats.cancelled,
        in_flight: stats.leased,
        retrying: stats.retrying,
        due: stats.due,
        dead_letters: stats.dead,
        oldest_age_ms: stats.oldest.map_or(0, |at| now.since(at)),
        truncated: stats.truncated,
        counters: Some(counters(info.counters)),
        pause: info.pause.as_ref().map(pause),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_given_back() {
        let mut full = model::SubscriptionConfig::defaults("a.>");
        full.filter = Some(Filter::parse(b"\x0a\x09\x0a\x04type\x12\x01x").unwrap());
        full.order = DeliveryOrder::ByKey as i32;
        full.priority_mode = PriorityMode::Strict as i32;
        full.retry.strategy = model::RetryStrategy::Schedule as i32;
        full.retry.schedule_ms = vec![1, 2];
        full.retry.non_retryable_reasons = vec!["BAD".to_owned()];
        full.fairness_weights.insert("tenant".to_owned(), 7);
        full.labels.insert("team".to_owned(), "shop".to_owned());
        let again = patch(Some(config(full.clone()))).unwrap();
        assert_eq!(again.onto(&model::SubscriptionConfig::defaults("a.>")), full);
    }

    #[test]
    fn nothing_said_changes_nothing() {
        let old = model::SubscriptionConfig::defaults("a");
        assert_eq!(patch(None).unwrap().onto(&old), old);
    }

    #[test]
    fn an_empty_filter_takes_everything() {
        let mut old = model::SubscriptionConfig::defaults("a");
        old.filter = Some(Filter::parse(b"\x0a\x09\x0a\x04type\x12\x01x").unwrap());
        let empty = SubscriptionConfig {
            filter: Some(bytes::Bytes::new()),
            ..SubscriptionConfig::default()
        };
        assert_eq!(patch(Some(empty)).unwrap().onto(&old).filter, None);
    }
}
