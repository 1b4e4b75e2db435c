//! Changes of a subscription's settings.

use std::collections::BTreeMap;

use super::{
    DeadLetterPolicy, DeliveryOrder, PriorityMode, RetryPolicy, RetryStrategy, SubscriptionConfig,
    TargetPatch,
};
use crate::model::filter::Filter;

/// Settings to change; absent ones stay.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SubscriptionPatch {
    /// The new filter, when `replace_filter`; absent then: all events.
    #[prost(message, optional, tag = "1")]
    pub filter: Option<Filter>,
    /// Whether `filter` counts.
    #[prost(bool, tag = "2")]
    pub replace_filter: bool,
    /// Of when to try again.
    #[prost(message, optional, tag = "3")]
    pub retry: Option<RetryPatch>,
    /// Of what becomes of the dead.
    #[prost(message, optional, tag = "4")]
    pub dead_letters: Option<DeadLetterPatch>,
    /// See [`SubscriptionConfig`].
    #[prost(uint64, optional, tag = "5")]
    pub lease_ms: Option<u64>,
    /// See [`SubscriptionConfig`].
    #[prost(uint32, optional, tag = "6")]
    pub max_in_flight: Option<u32>,
    /// See [`SubscriptionConfig`].
    #[prost(uint32, optional, tag = "7")]
    pub max_in_flight_per_consumer: Option<u32>,
    /// See [`SubscriptionConfig`].
    #[prost(enumeration = "DeliveryOrder", optional, tag = "8")]
    pub order: Option<i32>,
    /// See [`SubscriptionConfig`].
    #[prost(enumeration = "PriorityMode", optional, tag = "9")]
    pub priority_mode: Option<i32>,
    /// See [`SubscriptionConfig`].
    #[prost(uint64, optional, tag = "10")]
    pub base_wait_ms: Option<u64>,
    /// See [`SubscriptionConfig`].
    #[prost(uint64, optional, tag = "11")]
    pub slack_ms: Option<u64>,
    /// The weights that replace the old ones, when `replace_fairness_weights`.
    #[prost(btree_map = "string, uint64", tag = "12")]
    pub fairness_weights: BTreeMap<String, u64>,
    /// Whether `fairness_weights` counts.
    #[prost(bool, tag = "13")]
    pub replace_fairness_weights: bool,
    /// See [`SubscriptionConfig`].
    #[prost(string, optional, tag = "14")]
    pub description: Option<String>,
    /// The labels that replace the old ones, when `replace_labels`.
    #[prost(btree_map = "string, string", tag = "15")]
    pub labels: BTreeMap<String, String>,
    /// Whether `labels` counts.
    #[prost(bool, tag = "16")]
    pub replace_labels: bool,
    /// Of whom the hub itself delivers to.
    #[prost(message, optional, tag = "17")]
    pub target: Option<TargetPatch>,
}

/// Changes of a [`RetryPolicy`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RetryPatch {
    /// See [`RetryPolicy`].
    #[prost(enumeration = "RetryStrategy", optional, tag = "1")]
    pub strategy: Option<i32>,
    /// See [`RetryPolicy`].
    #[prost(uint64, optional, tag = "2")]
    pub initial_ms: Option<u64>,
    /// See [`RetryPolicy`].
    #[prost(uint64, optional, tag = "3")]
    pub min_ms: Option<u64>,
    /// See [`RetryPolicy`].
    #[prost(uint64, optional, tag = "4")]
    pub max_ms: Option<u64>,
    /// See [`RetryPolicy`].
    #[prost(uint64, optional, tag = "5")]
    pub multiplier_milli: Option<u64>,
    /// The delays that replace the old ones, when `replace_schedule`.
    #[prost(uint64, repeated, tag = "6")]
    pub schedule_ms: Vec<u64>,
    /// Whether `schedule_ms` counts.
    #[prost(bool, tag = "7")]
    pub replace_schedule: bool,
    /// See [`RetryPolicy`].
    #[prost(uint32, optional, tag = "8")]
    pub max_attempts: Option<u32>,
    /// The reasons that replace the old ones, when `replace_non_retryable_reasons`.
    #[prost(string, repeated, tag = "9")]
    pub non_retryable_reasons: Vec<String>,
    /// Whether `non_retryable_reasons` counts.
    #[prost(bool, tag = "10")]
    pub replace_non_retryable_reasons: bool,
    /// See [`RetryPolicy`].
    #[prost(uint32, optional, tag = "11")]
    pub budget_percent: Option<u32>,
    /// See [`RetryPolicy`].
    #[prost(uint32, optional, tag = "12")]
    pub budget_min_per_s: Option<u32>,
}

/// Changes of a [`DeadLetterPolicy`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DeadLetterPatch {
    /// See [`DeadLetterPolicy`].
    #[prost(bool, optional, tag = "1")]
    pub disabled: Option<bool>,
    /// See [`DeadLetterPolicy`].
    #[prost(uint64, optional, tag = "2")]
    pub retention_ms: Option<u64>,
    /// See [`DeadLetterPolicy`].
    #[prost(bool, optional, tag = "3")]
    pub trip_disabled: Option<bool>,
    /// See [`DeadLetterPolicy`].
    #[prost(uint64, optional, tag = "4")]
    pub trip_resume_ms: Option<u64>,
}

impl SubscriptionPatch {
    /// The settings after this change.
    #[must_use]
    pub fn onto(&self, old: &SubscriptionConfig) -> SubscriptionConfig {
        let mut new = old.clone();
        if self.replace_filter {
            new.filter.clone_from(&self.filter);
        }
        if self.replace_fairness_weights {
            new.fairness_weights.clone_from(&self.fairness_weights);
        }
        if self.replace_labels {
            new.labels.clone_from(&self.labels);
        }
        if let Some(retry) = &self.retry {
            new.retry = retry.onto(&old.retry);
        }
        if let Some(dead_letters) = &self.dead_letters {
            new.dead_letters = dead_letters.onto(&old.dead_letters);
        }
        if let Some(target) = &self.target {
            new.target = target.onto(old.target.as_ref());
        }
        if let Some(description) = &self.description {
            new.description.clone_from(description);
        }
        new.lease_ms = self.lease_ms.unwrap_or(old.lease_ms);
        new.max_in_flight = self.max_in_flight.unwrap_or(old.max_in_flight);
        new.max_in_flight_per_consumer =
            self.max_in_flight_per_consumer.unwrap_or(old.max_in_flight_per_consumer);
        new.order = self.order.unwrap_or(old.order);
        new.priority_mode = self.priority_mode.unwrap_or(old.priority_mode);
        new.base_wait_ms = self.base_wait_ms.unwrap_or(old.base_wait_ms);
        new.slack_ms = self.slack_ms.unwrap_or(old.slack_ms);
        new
    }
}

impl RetryPatch {
    fn onto(&self, old: &RetryPolicy) -> RetryPolicy {
        let (schedule_ms, non_retryable_reasons) = (
            if self.replace_schedule { &self.schedule_ms } else { &old.schedule_ms },
            if self.replace_non_retryable_reasons {
                &self.non_retryable_reasons
            } else {
                &old.non_retryable_reasons
            },
        );
        RetryPolicy {
            strategy: self.strategy.unwrap_or(old.strategy),
            initial_ms: self.initial_ms.unwrap_or(old.initial_ms),
            min_ms: self.min_ms.unwrap_or(old.min_ms),
            max_ms: self.max_ms.unwrap_or(old.max_ms),
            multiplier_milli: self.multiplier_milli.unwrap_or(old.multiplier_milli),
            schedule_ms: schedule_ms.clone(),
            max_attempts: self.max_attempts.unwrap_or(old.max_attempts),
            non_retryable_reasons: non_retryable_reasons.clone(),
            budget_percent: self.budget_percent.unwrap_or(old.budget_percent),
            budget_min_per_s: self.budget_min_per_s.unwrap_or(old.budget_min_per_s),
        }
    }
}

impl DeadLetterPatch {
    fn onto(&self, old: &DeadLetterPolicy) -> DeadLetterPolicy {
        DeadLetterPolicy {
            disabled: self.disabled.unwrap_or(old.disabled),
            retention_ms: self.retention_ms.unwrap_or(old.retention_ms),
            trip_disabled: self.trip_disabled.unwrap_or(old.trip_disabled),
            trip_resume_ms: self.trip_resume_ms.unwrap_or(old.trip_resume_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_patch_changes_nothing() {
        let config = SubscriptionConfig::defaults("a");
        assert_eq!(SubscriptionPatch::default().onto(&config), config);
        let empty = SubscriptionPatch {
            retry: Some(RetryPatch::default()),
            dead_letters: Some(DeadLetterPatch::default()),
            ..SubscriptionPatch::default()
        };
        assert_eq!(empty.onto(&config), config);
    }

    #[test]
    fn one_setting_of_a_group_leaves_its_neighbours() {
        let mut config = SubscriptionConfig::defaults("a");
        config.retry.initial_ms = 7;
        let retry = RetryPatch { max_attempts: Some(3), ..RetryPatch::default() };
        let patch = SubscriptionPatch { retry: Some(retry), ..SubscriptionPatch::default() };
        let new = patch.onto(&config);
        assert_eq!((new.retry.max_attempts, new.retry.initial_ms), (3, 7));
        assert_eq!(new.retry.max_ms, config.retry.max_ms);
    }
}
