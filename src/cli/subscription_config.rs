//! Settings of a subscription on the command line, by the names of the documentation.

use prost::Message as _;
use serde_json::{Map, Value, json};

use super::Failure;
use super::value::{duration, format_duration, on_off};
use crate::client::filter_json;
use crate::model::filter::Filter;
use crate::proto::v1::{
    FairnessWeights, Labels, Ordering, PriorityPolicy, Reasons, RetrySchedule, RetryStrategy,
    SubscriptionConfig, Target, TargetFormat,
};

/// What `--help` says of them.
pub(super) const SETTINGS: &str = "\
Settings, with their defaults; durations are written like 500ms, 30s, 5m, 12h, 14d:
  retry.strategy=full_jitter        also decorrelated, linear, fixed, schedule
  retry.initial=1s  retry.min=100ms  retry.max=5m  retry.multiplier=2
  retry.schedule=                   delays like 1s,10s,1m, none below retry.min
  max_attempts=16                   0: no limit
  non_retryable_reasons=            like BAD_INPUT,NO_SUCH_USER
  retry_budget=20%  retry_budget.min=3
  lease=30s  max_in_flight=1000  max_in_flight_per_consumer=100
  ordering=none                     also by_key
  priority_policy=rank              also strict
  base_wait=512s  slack=0s
  fairness.KEY=1                    the weight of a fairness key, 0.001 to 1000; others keep theirs
  dead_letters=on  dead_letters.retention=14d  dead_letters.trip=on
  dead_letters.trip_resume=0s       0s: when somebody resumes it
  target=                           a service: the hub itself delivers to its instances
  target.format=http                also http_structured, grpc
  target.path=/  target.timeout=10s
  target.client_errors=reject       also retry
  description=  label.NAME=         other labels stay; an empty one goes";

/// Settings as given. Lists replace the old ones as a whole, and so do weights and labels: see [`keep_others`].
pub(super) fn settings(
    given: Vec<(String, String)>,
    filter: Option<Filter>,
) -> Result<SubscriptionConfig, Failure> {
    let mut config = SubscriptionConfig {
        filter: filter.map(|filter| filter.encode_to_vec().into()),
        ..SubscriptionConfig::default()
    };
    for (key, value) in given {
        set(&mut config, &key, &value)
            .map_err(|why| Failure::usage(format!("--config {key}={value}: {why}")))?;
    }
    Ok(config)
}

/// Whether weights or labels are given.
pub(super) fn names_some(given: &SubscriptionConfig) -> bool {
    given.fairness_weights.is_some() || given.labels.is_some()
}

/// Where weights or labels are given, adds the others that there were: an update replaces all of them. Those
/// that are given as they are without being set go.
pub(super) fn keep_others(given: &mut SubscriptionConfig, old: SubscriptionConfig) {
    if let Some(given) = &mut given.fairness_weights {
        for (key, weight) in old.fairness_weights.unwrap_or_default().weights_milli {
            given.weights_milli.entry(key).or_insert(weight);
        }
        given.weights_milli.retain(|_, weight| *weight != 1000);
    }
    if let Some(given) = &mut given.labels {
        for (name, label) in old.labels.unwrap_or_default().labels {
            given.labels.entry(name).or_insert(label);
        }
        given.labels.retain(|_, label| !label.is_empty());
    }
}

fn number<T: std::str::FromStr>(value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{value:?} is no whole number in range"))
}

fn set(config: &mut SubscriptionConfig, key: &str, value: &str) -> Result<(), String> {
    if key.starts_with("retry") || matches!(key, "max_attempts" | "non_retryable_reasons") {
        return set_retry(config, key, value);
    }
    if key.starts_with("dead_letters") {
        return set_dead_letters(config, key, value);
    }
    if key.starts_with("target") {
        return set_target(config, key, value);
    }
    match key {
        "lease" => config.lease_ms = Some(duration(value)?),
        "max_in_flight" => config.max_in_flight = Some(number(value)?),
        "max_in_flight_per_consumer" => config.max_in_flight_per_consumer = Some(number(value)?),
        "ordering" => {
            config.ordering = match value {
                "none" => Ordering::None.into(),
                "by_key" => Ordering::ByKey.into(),
                _ => return Err("use none or by_key".to_owned()),
            }
        }
        "priority_policy" => {
            config.priority_policy = match value {
                "rank" => PriorityPolicy::Rank.into(),
                "strict" => PriorityPolicy::Strict.into(),
                _ => return Err("use rank or strict".to_owned()),
            }
        }
        "base_wait" => config.base_wait_ms = Some(duration(value)?),
        "slack" => config.slack_ms = Some(duration(value)?),
        "description" => config.description = Some(value.to_owned()),
        _ => match (key.strip_prefix("fairness."), key.strip_prefix("label.")) {
            (Some(fairness_key), _) => {
                let weights = config.fairness_weights.get_or_insert_with(FairnessWeights::default);
                weights.weights_milli.insert(fairness_key.to_owned(), thousandths(value)?);
            }
            (None, Some(name)) => {
                let labels = config.labels.get_or_insert_with(Labels::default);
                labels.labels.insert(name.to_owned(), value.to_owned());
            }
            (None, None) => return Err(no_such()),
        },
    }
    Ok(())
}

fn no_such() -> String {
    "there is no such setting; see mhub sub create --help".to_owned()
}

fn set_retry(config: &mut SubscriptionConfig, key: &str, value: &str) -> Result<(), String> {
    let list = || value.split(',').map(str::trim).filter(|item| !item.is_empty());
    let retry = config.retry.get_or_insert_default();
    match key {
        "retry.strategy" => {
            let strategy = RetryStrategy::from_str_name(&strategy_name(value));
            let strategy = strategy.filter(|s| *s != RetryStrategy::Unspecified);
            retry.strategy =
                strategy.ok_or("use full_jitter, decorrelated, linear, fixed or schedule")?.into();
        }
        "retry.initial" => retry.initial_ms = Some(duration(value)?),
        "retry.min" => retry.min_ms = Some(duration(value)?),
        "retry.max" => retry.max_ms = Some(duration(value)?),
        "retry.multiplier" => retry.multiplier_milli = Some(thousandths(value)?),
        "retry.schedule" => {
            let delays_ms = list().map(duration).collect::<Result<_, _>>()?;
            retry.schedule = Some(RetrySchedule { delays_ms });
        }
        "max_attempts" => retry.max_attempts = Some(number(value)?),
        "non_retryable_reasons" => {
            let reasons = list().map(str::to_owned).collect();
            retry.non_retryable_reasons = Some(Reasons { reasons });
        }
        "retry_budget" => {
            let percent = value.strip_suffix('%').ok_or("use a share like 20%")?;
            retry.budget_percent = Some(number(percent)?);
        }
        "retry_budget.min" => retry.budget_min_per_s = Some(number(value)?),
        _ => return Err(no_such()),
    }
    Ok(())
}

fn strategy_name(value: &str) -> String {
    format!("RETRY_STRATEGY_{}", value.to_ascii_uppercase())
}

fn set_dead_letters(config: &mut SubscriptionConfig, key: &str, value: &str) -> Result<(), String> {
    let policy = config.dead_letters.get_or_insert_default();
    match key {
        "dead_letters" => policy.disabled = Some(!on_off(value)?),
        "dead_letters.retention" => policy.retention_ms = Some(duration(value)?),
        "dead_letters.trip" => policy.trip_disabled = Some(!on_off(value)?),
        "dead_letters.trip_resume" => policy.trip_resume_ms = Some(duration(value)?),
        _ => return Err(no_such()),
    }
    Ok(())
}

fn set_target(config: &mut SubscriptionConfig, key: &str, value: &str) -> Result<(), String> {
    let target = config.target.get_or_insert_default();
    match key {
        "target" => target.service = Some(value.to_owned()),
        "target.format" => {
            target.format = match value {
                "http" => TargetFormat::HttpBinary.into(),
                "http_structured" => TargetFormat::HttpStructured.into(),
                "grpc" => TargetFormat::Grpc.into(),
                _ => return Err("use http, http_structured or grpc".to_owned()),
            }
        }
        "target.path" => target.path = Some(value.to_owned()),
        "target.timeout" => target.timeout_ms = Some(duration(value)?),
        "target.client_errors" => {
            target.retry_client_errors = match value {
                "reject" => Some(false),
                "retry" => Some(true),
                _ => return Err("use reject or retry".to_owned()),
            }
        }
        _ => return Err(no_such()),
    }
    Ok(())
}

fn print_target(target: &Target) -> [(&'static str, Value); 5] {
    let format = match target.format() {
        TargetFormat::Unspecified | TargetFormat::HttpBinary => "http",
        TargetFormat::HttpStructured => "http_structured",
        TargetFormat::Grpc => "grpc",
    };
    let client_errors = if target.retry_client_errors() { "retry" } else { "reject" };
    [
        ("target", json!(target.service())),
        ("target.format", json!(format)),
        ("target.path", json!(target.path())),
        ("target.timeout", json!(format_duration(target.timeout_ms()))),
        ("target.client_errors", json!(client_errors)),
    ]
}

/// A number with at most three decimals, as thousandths.
fn thousandths(value: &str) -> Result<u64, String> {
    let (whole, part) = value.split_once('.').unwrap_or((value, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let milli = format!("{whole}{part:0<3}").parse().ok();
    milli
        .filter(|_| !whole.is_empty() && part.len() <= 3 && digits(whole) && digits(part))
        .ok_or_else(|| format!("{value:?} is no number with at most three decimals"))
}

fn format_thousandths(milli: u64) -> String {
    let text = format!("{}.{:03}", milli / 1000, milli % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Settings as they are given.
pub(super) fn print(config: &SubscriptionConfig) -> Map<String, Value> {
    let retry = config.retry.clone().unwrap_or_default();
    let dead_letters = config.dead_letters.unwrap_or_default();
    let on_off = |disabled: bool| if disabled { "off" } else { "on" };
    let strategy = retry.strategy().as_str_name().trim_start_matches("RETRY_STRATEGY_");
    let ordering = config.ordering().as_str_name().trim_start_matches("ORDERING_");
    let policy = config.priority_policy().as_str_name().trim_start_matches("PRIORITY_POLICY_");
    let schedule = retry.schedule.as_ref().map_or(&[][..], |schedule| &schedule.delays_ms);
    let schedule: Vec<_> = schedule.iter().map(|ms| format_duration(*ms)).collect();
    let reasons = retry.non_retryable_reasons.as_ref().map_or(&[][..], |r| &r.reasons);
    let filter = config.filter.as_ref().and_then(|encoded| Filter::decode(encoded.clone()).ok());
    let mut settings: Vec<(&str, Value)> = vec![
        ("retry.strategy", json!(strategy.to_ascii_lowercase())),
        ("retry.initial", json!(format_duration(retry.initial_ms()))),
        ("retry.min", json!(format_duration(retry.min_ms()))),
        ("retry.max", json!(format_duration(retry.max_ms()))),
        ("retry.multiplier", json!(format_thousandths(retry.multiplier_milli()))),
        ("retry.schedule", json!(schedule.join(","))),
        ("max_attempts", json!(retry.max_attempts())),
        ("non_retryable_reasons", json!(reasons.join(","))),
        ("retry_budget", json!(format!("{}%", retry.budget_percent()))),
        ("retry_budget.min", json!(retry.budget_min_per_s())),
        ("lease", json!(format_duration(config.lease_ms()))),
        ("max_in_flight", json!(config.max_in_flight())),
        ("max_in_flight_per_consumer", json!(config.max_in_flight_per_consumer())),
        ("ordering", json!(ordering.to_ascii_lowercase())),
        ("priority_policy", json!(policy.to_ascii_lowercase())),
        ("base_wait", json!(format_duration(config.base_wait_ms()))),
        ("slack", json!(format_duration(config.slack_ms()))),
        ("dead_letters", json!(on_off(dead_letters.disabled()))),
        ("dead_letters.retention", json!(format_duration(dead_letters.retention_ms()))),
        ("dead_letters.trip", json!(on_off(dead_letters.trip_disabled()))),
        ("dead_letters.trip_resume", json!(format_duration(dead_letters.trip_resume_ms()))),
        ("description", json!(config.description())),
    ];
    settings.extend(config.target.iter().flat_map(print_target));
    settings.push(("filter", filter.as_ref().map_or(Value::Null, filter_json::to_json)));
    let mut printed: Map<_, _> =
        settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let weights = config.fairness_weights.iter().flat_map(|w| &w.weights_milli);
    let weights = weights.map(|(k, w)| (format!("fairness.{k}"), format_thousandths(*w)));
    let labels = config.labels.iter().flat_map(|l| &l.labels);
    let labels = labels.map(|(name, value)| (format!("label.{name}"), value.clone()));
    let mut named: Vec<_> = weights.chain(labels).collect();
    named.sort();
    printed.extend(named.into_iter().map(|(name, value)| (name, json!(value))));
    printed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<SubscriptionConfig, Failure> {
        let pairs = text.split(' ').map(|pair| super::super::key_value(pair).unwrap());
        settings(pairs.collect(), None)
    }

    #[test]
    fn what_is_given_is_printed_the_same() {
        let all = "retry.strategy=schedule retry.initial=2s retry.min=0s retry.max=10m retry.multiplier=1.5 retry.schedule=1s,10s,1m max_attempts=3 non_retryable_reasons=BAD,WORSE retry_budget=50% retry_budget.min=9 lease=5m max_in_flight=10 max_in_flight_per_consumer=2 ordering=by_key priority_policy=strict base_wait=1h slack=1500ms dead_letters=off dead_letters.retention=7d dead_letters.trip=off dead_letters.trip_resume=30s target=billing target.format=grpc target.path=/events target.timeout=3s target.client_errors=retry description=d fairness.acme=0.25 label.team=shop";
        let printed = print(&of(all).unwrap());
        for pair in all.split(' ') {
            let (key, value) = pair.split_once('=').unwrap();
            let text = printed[key].as_str().map_or(printed[key].to_string(), str::to_owned);
            assert_eq!(text, value, "{key}");
        }
    }

    #[test]
    fn weights_and_labels_that_are_not_given_stay() {
        let old = of("fairness.a=5 fairness.b=3 label.team=shop label.tier=1").unwrap();
        let updated = |text: &str| {
            let mut given = of(text).unwrap();
            assert!(names_some(&given));
            keep_others(&mut given, old.clone());
            let printed = print(&given);
            let named = |key: &&String| key.starts_with("fairness.") || key.starts_with("label.");
            let keys: Vec<_> = printed.keys().filter(named).cloned().collect();
            keys.into_iter()
                .map(|key| format!("{key}={}", printed[&key].as_str().unwrap()))
                .collect()
        };
        let pairs = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let weights: Vec<String> = updated("fairness.b=2 fairness.c=4");
        assert_eq!(weights, pairs("fairness.a=5 fairness.b=2 fairness.c=4"));
        assert_eq!(updated("fairness.a=1"), pairs("fairness.b=3"));
        assert_eq!(updated("label.tier= label.zone=x"), pairs("label.team=shop label.zone=x"));
        assert!(!names_some(&of("lease=5m").unwrap()));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for pair in [
            "retry.strategy=never",
            "retry.strategy=unspecified",
            "retry.initial=soon",
            "retry.nothing=1",
            "retry.multiplier=1.2345",
            "retry_budget=20",
            "max_attempts=-1",
            "max_in_flight=4294967296",
            "ordering=random",
            "priority_policy=low",
            "dead_letters=perhaps",
            "dead_letters.nothing=on",
            "fairness.a=x",
            "target.format=smtp",
            "target.timeout=soon",
            "target.client_errors=on",
            "target.nothing=1",
            "no_such=1",
        ] {
            let failure = of(pair).unwrap_err();
            assert!(failure.message.contains(pair), "{}", failure.message);
        }
    }
}
