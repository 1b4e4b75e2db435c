//! A subscription's settings.

mod patch;
mod target;

use std::collections::BTreeMap;

pub use self::patch::{DeadLetterPatch, RetryPatch, SubscriptionPatch};
pub use self::target::{Target, TargetFormat, TargetPatch};
use super::delivery::is_reason;
use super::filter::Filter;
use super::limits::{
    ATTEMPTS_MAX, BASE_WAIT_MS, DEAD_LETTER_RETENTION_MS_MAX, DESCRIPTION_BYTES_MAX,
    FAIRNESS_KEY_BYTES_MAX, FAIRNESS_WEIGHT_MILLI, FAIRNESS_WEIGHTS_MAX, IN_FLIGHT_MAX, LEASE_MS,
    NACK_REASON_BYTES_MAX, NON_RETRYABLE_REASONS_MAX, RETRY_BUDGET_MIN_MAX,
    RETRY_BUDGET_PERCENT_MAX, RETRY_DELAY_MS_MAX, RETRY_MULTIPLIER_MILLI, RETRY_SCHEDULE_MAX,
    SLACK_MS_MAX, TRIP_RESUME_MS_MAX,
};
use super::pattern::TopicPattern;
use super::rejection::{Reason, Rejection};
use super::topic::check_labels;

/// How the delays of retries grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum RetryStrategy {
    /// A random part of an exponential delay.
    FullJitter = 0,
    /// Random, up to three times the delay before.
    Decorrelated = 1,
    /// initial × n.
    Linear = 2,
    /// initial.
    Fixed = 3,
    /// A list; the last delay repeats.
    Schedule = 4,
}

/// When and how often a failed delivery is tried again.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RetryPolicy {
    /// How delays grow.
    #[prost(enumeration = "RetryStrategy", tag = "1")]
    pub strategy: i32,
    /// The first delay, milliseconds.
    #[prost(uint64, tag = "2")]
    pub initial_ms: u64,
    /// No delay is shorter, milliseconds.
    #[prost(uint64, tag = "3")]
    pub min_ms: u64,
    /// No delay is longer, milliseconds.
    #[prost(uint64, tag = "4")]
    pub max_ms: u64,
    /// Growth per failure, thousandths.
    #[prost(uint64, tag = "5")]
    pub multiplier_milli: u64,
    /// The delays of `Schedule`, milliseconds.
    #[prost(uint64, repeated, tag = "6")]
    pub schedule_ms: Vec<u64>,
    /// Deliveries that may fail before the event is dead; 0: no limit.
    #[prost(uint32, tag = "7")]
    pub max_attempts: u32,
    /// Failures with these reasons are not retried.
    #[prost(string, repeated, tag = "8")]
    pub non_retryable_reasons: Vec<String>,
    /// Retries among the deliveries of a second, percent.
    #[prost(uint32, tag = "9")]
    pub budget_percent: u32,
    /// Retries that are allowed in any second.
    #[prost(uint32, tag = "10")]
    pub budget_min_per_s: u32,
}

/// What becomes of events that are not to be delivered any more.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DeadLetterPolicy {
    /// Dead letters are dropped instead of kept.
    #[prost(bool, tag = "1")]
    pub disabled: bool,
    /// Milliseconds; 0: for ever.
    #[prost(uint64, tag = "2")]
    pub retention_ms: u64,
    /// Too many dead letters do not pause the subscription.
    #[prost(bool, tag = "3")]
    pub trip_disabled: bool,
    /// A tripped subscription resumes after this, milliseconds; 0: when somebody resumes it.
    #[prost(uint64, tag = "4")]
    pub trip_resume_ms: u64,
}

/// Which event goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum PriorityMode {
    /// The lowest rank: high priority waits less, nothing starves.
    Rank = 0,
    /// Higher priorities always first.
    Strict = 1,
}

/// Whether events wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum DeliveryOrder {
    /// No.
    None = 0,
    /// An event waits until the one of its key before it is done.
    ByKey = 1,
}

/// Every setting of a subscription, resolved. Ranges: `SubscriptionConfig::check`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SubscriptionConfig {
    /// Which topics; never changes.
    #[prost(string, tag = "1")]
    pub pattern: String,
    /// Which events; absent: all.
    #[prost(message, optional, tag = "2")]
    pub filter: Option<Filter>,
    /// When to try again.
    #[prost(message, required, tag = "3")]
    pub retry: RetryPolicy,
    /// What becomes of the dead.
    #[prost(message, required, tag = "4")]
    pub dead_letters: DeadLetterPolicy,
    /// How long a consumer has, unless it says otherwise, milliseconds.
    #[prost(uint64, tag = "5")]
    pub lease_ms: u64,
    /// Events in flight.
    #[prost(uint32, tag = "6")]
    pub max_in_flight: u32,
    /// Events in flight of one consumer; of one instance where there is a target.
    #[prost(uint32, tag = "7")]
    pub max_in_flight_per_consumer: u32,
    /// Whether events wait for each other.
    #[prost(enumeration = "DeliveryOrder", tag = "8")]
    pub order: i32,
    /// Which event goes first.
    #[prost(enumeration = "PriorityMode", tag = "9")]
    pub priority_mode: i32,
    /// The wait that priority 0 bears, milliseconds; each priority more halves it.
    #[prost(uint64, tag = "10")]
    pub base_wait_ms: u64,
    /// How long before its deadline an event becomes urgent, milliseconds.
    #[prost(uint64, tag = "11")]
    pub slack_ms: u64,
    /// Weights by fairness key, thousandths; 1000 for all others.
    #[prost(btree_map = "string, uint64", tag = "12")]
    pub fairness_weights: BTreeMap<String, u64>,
    /// Free text.
    #[prost(string, tag = "13")]
    pub description: String,
    /// Free labels.
    #[prost(btree_map = "string, string", tag = "14")]
    pub labels: BTreeMap<String, String>,
    /// Whom the hub itself delivers to; absent: consumers pull.
    #[prost(message, optional, tag = "15")]
    pub target: Option<Target>,
}

impl SubscriptionConfig {
    /// The settings of a subscription for which only the pattern was said.
    #[must_use]
    pub fn defaults(pattern: &str) -> Self {
        Self {
            pattern: pattern.to_owned(),
            filter: None,
            retry: RetryPolicy {
                strategy: RetryStrategy::FullJitter as i32,
                initial_ms: 1000,
                min_ms: 100,
                max_ms: 300_000,
                multiplier_milli: 2000,
                schedule_ms: Vec::new(),
                max_attempts: 16,
                non_retryable_reasons: Vec::new(),
                budget_percent: 20,
                budget_min_per_s: 3,
            },
            dead_letters: DeadLetterPolicy {
                disabled: false,
                retention_ms: 14 * 24 * 3600 * 1000,
                trip_disabled: false,
                trip_resume_ms: 0,
            },
            lease_ms: 30_000,
            max_in_flight: 1000,
            max_in_flight_per_consumer: 100,
            order: DeliveryOrder::None as i32,
            priority_mode: PriorityMode::Rank as i32,
            base_wait_ms: 512_000,
            slack_ms: 0,
            fairness_weights: BTreeMap::new(),
            description: String::new(),
            labels: BTreeMap::new(),
            target: None,
        }
    }

    /// Events in flight of one consumer: where there is a target, the hub is the only one, and bounds
    /// what instances have.
    #[must_use]
    pub fn in_flight_max_of_consumer(&self) -> u32 {
        match self.target {
            Some(_) => self.max_in_flight,
            None => self.max_in_flight_per_consumer,
        }
    }

    /// Checks every range.
    ///
    /// # Errors
    /// `INVALID_CONFIG`, naming the setting; `INVALID_PATTERN`; `INVALID_FILTER`; `INVALID_NAME` of a
    /// target.
    pub fn check(&self) -> Result<(), Rejection> {
        self.check_but(&[])
    }

    /// The same after a change: reasons that the settings had before may stay, whatever they are.
    ///
    /// # Errors
    /// Those of [`Self::check`].
    pub fn check_change(&self, before: &Self) -> Result<(), Rejection> {
        self.check_but(&before.retry.non_retryable_reasons)
    }

    fn check_but(&self, reasons_before: &[String]) -> Result<(), Rejection> {
        TopicPattern::parse(&self.pattern)?;
        if let Some(filter) = &self.filter {
            filter.compile()?;
        }
        self.retry.check(reasons_before)?;
        self.dead_letters.check()?;
        within("lease_ms", self.lease_ms, *LEASE_MS.start(), *LEASE_MS.end())?;
        let in_flight_max = u64::from(IN_FLIGHT_MAX);
        within("max_in_flight", u64::from(self.max_in_flight), 1, in_flight_max)?;
        let per_consumer = u64::from(self.max_in_flight_per_consumer);
        within("max_in_flight_per_consumer", per_consumer, 1, in_flight_max)?;
        known("ordering", DeliveryOrder::try_from(self.order).is_ok())?;
        known("priority_policy", PriorityMode::try_from(self.priority_mode).is_ok())?;
        within("base_wait_ms", self.base_wait_ms, *BASE_WAIT_MS.start(), *BASE_WAIT_MS.end())?;
        within("slack_ms", self.slack_ms, 0, SLACK_MS_MAX)?;
        within(
            "fairness_weights",
            self.fairness_weights.len() as u64,
            0,
            FAIRNESS_WEIGHTS_MAX as u64,
        )?;
        for (key, weight) in &self.fairness_weights {
            within("fairness_weights", key.len() as u64, 0, FAIRNESS_KEY_BYTES_MAX as u64)?;
            let (min, max) = (*FAIRNESS_WEIGHT_MILLI.start(), *FAIRNESS_WEIGHT_MILLI.end());
            within("fairness_weights", *weight, min, max)?;
        }
        check_labels(&self.labels)?;
        self.target.as_ref().map_or(Ok(()), Target::check)?;
        within("description", self.description.len() as u64, 0, DESCRIPTION_BYTES_MAX as u64)
    }
}

impl RetryPolicy {
    fn check(&self, reasons_before: &[String]) -> Result<(), Rejection> {
        known("retry.strategy", RetryStrategy::try_from(self.strategy).is_ok())?;
        within("retry.max_ms", self.max_ms, 1, RETRY_DELAY_MS_MAX)?;
        within("retry.initial_ms", self.initial_ms, 1, self.max_ms)?;
        within("retry.min_ms", self.min_ms, 0, self.max_ms)?;
        let (min, max) = (*RETRY_MULTIPLIER_MILLI.start(), *RETRY_MULTIPLIER_MILLI.end());
        within("retry.multiplier_milli", self.multiplier_milli, min, max)?;
        let scheduled = self.strategy() == RetryStrategy::Schedule;
        let delays = self.schedule_ms.len() as u64;
        within("retry.schedule_ms", delays, u64::from(scheduled), RETRY_SCHEDULE_MAX as u64)?;
        for delay in &self.schedule_ms {
            within("retry.schedule_ms", *delay, 0, RETRY_DELAY_MS_MAX)?;
        }
        within("max_attempts", u64::from(self.max_attempts), 0, u64::from(ATTEMPTS_MAX))?;
        let reasons = self.non_retryable_reasons.len() as u64;
        within("non_retryable_reasons", reasons, 0, NON_RETRYABLE_REASONS_MAX as u64)?;
        for reason in &self.non_retryable_reasons {
            within("non_retryable_reasons", reason.len() as u64, 1, NACK_REASON_BYTES_MAX as u64)?;
            if !is_reason(reason) && !reasons_before.contains(reason) {
                let why = format!("{reason:?} is not UPPER_SNAKE, so no failure has it");
                return Err(refuse("non_retryable_reasons", &why));
            }
        }
        let percent = u64::from(self.budget_percent);
        within("retry.budget_percent", percent, 0, u64::from(RETRY_BUDGET_PERCENT_MAX))?;
        let rate = u64::from(self.budget_min_per_s);
        within("retry.budget_min_per_s", rate, 1, u64::from(RETRY_BUDGET_MIN_MAX))
    }
}

impl DeadLetterPolicy {
    fn check(&self) -> Result<(), Rejection> {
        within("dead_letters.retention_ms", self.retention_ms, 0, DEAD_LETTER_RETENTION_MS_MAX)?;
        within("dead_letters.trip_resume_ms", self.trip_resume_ms, 0, TRIP_RESUME_MS_MAX)
    }
}

fn refuse(setting: &str, why: &str) -> Rejection {
    Rejection::new(Reason::InvalidConfig, format!("{setting} {why}; correct the setting"))
        .with("setting", setting)
}

fn within(setting: &str, value: u64, min: u64, max: u64) -> Result<(), Rejection> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(refuse(setting, &format!("{value} is not in {min}..={max}")))
}

fn known(setting: &str, known: bool) -> Result<(), Rejection> {
    if known { Ok(()) } else { Err(refuse(setting, "has a value that does not exist")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_in_range() {
        let mut config = SubscriptionConfig::defaults("a.>");
        assert_eq!(config.check(), Ok(()));
        config.retry.non_retryable_reasons = vec!["BAD_INPUT_4".into()];
        assert_eq!(config.check(), Ok(()));
    }

    #[test]
    fn reasons_from_before_hold_up_no_change() {
        let mut before = SubscriptionConfig::defaults("a");
        before.retry.non_retryable_reasons = vec!["bad-input".into()];
        let mut after = SubscriptionConfig { slack_ms: 7, ..before.clone() };
        assert_eq!(after.check_change(&before), Ok(()));
        after.retry.non_retryable_reasons.push("worse-input".into());
        assert_eq!(after.check_change(&before).unwrap_err().reason, Reason::InvalidConfig);
        assert_eq!(before.check().unwrap_err().reason, Reason::InvalidConfig);
    }

    #[test]
    fn every_range_is_checked() {
        let refused = |change: fn(&mut SubscriptionConfig)| {
            let mut config = SubscriptionConfig::defaults("a");
            change(&mut config);
            config.check().unwrap_err().reason
        };
        assert_eq!(refused(|c| c.pattern = "a..".into()), Reason::InvalidPattern);
        assert_eq!(refused(|c| c.filter = Some(Filter::default())), Reason::InvalidFilter);
        for change in [
            (|c| c.lease_ms = 999) as fn(&mut SubscriptionConfig),
            |c| c.max_in_flight = 0,
            |c| c.max_in_flight_per_consumer = IN_FLIGHT_MAX + 1,
            |c| c.order = 9,
            |c| c.priority_mode = 9,
            |c| c.base_wait_ms = 0,
            |c| c.slack_ms = SLACK_MS_MAX + 1,
            |c| c.retry.strategy = 9,
            |c| c.retry.strategy = RetryStrategy::Schedule as i32,
            |c| c.retry.initial_ms = 0,
            |c| c.retry.min_ms = c.retry.max_ms + 1,
            |c| c.retry.max_ms = RETRY_DELAY_MS_MAX + 1,
            |c| c.retry.multiplier_milli = 999,
            |c| c.retry.max_attempts = ATTEMPTS_MAX + 1,
            |c| c.retry.budget_min_per_s = 0,
            |c| c.retry.non_retryable_reasons = vec!["bad input".into()],
            |c| c.retry.non_retryable_reasons = vec![String::new()],
            |c| c.dead_letters.retention_ms = DEAD_LETTER_RETENTION_MS_MAX + 1,
            |c| c.fairness_weights = BTreeMap::from([("k".into(), 0)]),
            |c| c.target = Some(Target { format: 9, ..Target::defaults("s") }),
        ] {
            assert_eq!(refused(change), Reason::InvalidConfig);
        }
    }
}
