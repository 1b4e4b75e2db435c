//! Settings of a service on the command line, by the names of the documentation.

use serde_json::{Map, Value, json};

use super::Failure;
use super::value::{duration, format_duration, on_off};
use crate::proto::v1::{
    BalancePolicy, CheckKind, Dependency, Failover, HealthCheck, ServiceConfig,
};

/// What `--help` says of them.
pub(super) const SETTINGS: &str = "\
Settings, with their defaults; durations are written like 500ms, 30s, 5m, 12h:
  version=                          a semantic version of the interface
  ttl=15s                           how long a renewal lasts
  deregister_after=60s              0s: never
  check=none                        also http:/PATH, tcp, grpc, grpc:SERVICE
  check.protocol=                   the address that is asked, by its protocol; default: the first
  check.interval=5s  check.timeout=1s  check.failures=2  check.passes=2
  balance=p2c_ewma                  also round_robin, weighted, random, least_outstanding,
                                    consistent_hash
  zones_equal=off                   off: instances of the caller's zone come first
  slow_start=30s
  panic=50%                         when fewer are healthy, all count as healthy but
                                    those that a breaker shuts off; 0%: never
  failover_hold=10s                 how long it has to be back before callers are
  hold_until_ready=off              on: not given to callers until what it requires is ready
  breaker=on  breaker.failures=5  breaker.failure_percent=50%  breaker.min_calls=20
  breaker.window=10s  breaker.open=30s  breaker.open_max=5m  breaker.probes=3  breaker.ejected=33%
  description=  label.NAME=         label.NAME= takes a label away
--depends and --failover are flags of their own; --no-depends and --no-failover take them away.";

/// Changes settings as given.
pub(super) fn change(
    config: &mut ServiceConfig,
    given: Vec<(String, String)>,
) -> Result<(), Failure> {
    for (key, value) in given {
        set(config, &key, &value)
            .map_err(|why| Failure::usage(format!("--config {key}={value}: {why}")))?;
    }
    Ok(())
}

fn number<T: std::str::FromStr>(value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{value:?} is no whole number in range"))
}

fn percent(value: &str) -> Result<u32, String> {
    let share = value.strip_suffix('%').ok_or("use a share like 20%")?;
    number(share)
}

fn set(config: &mut ServiceConfig, key: &str, value: &str) -> Result<(), String> {
    if key == "check" || key.starts_with("check.") {
        return set_check(config.check.get_or_insert_default(), key, value);
    }
    if key == "breaker" || key.starts_with("breaker.") {
        return set_breaker(config, key, value);
    }
    match key {
        "version" => value.clone_into(&mut config.version),
        "description" => value.clone_into(&mut config.description),
        "ttl" => config.ttl_ms = Some(duration(value)?),
        "deregister_after" => config.deregister_after_ms = Some(duration(value)?),
        "balance" => config.balance = balance(value)?.into(),
        "zones_equal" => config.zones_equal = Some(on_off(value)?),
        "slow_start" => config.slow_start_ms = Some(duration(value)?),
        "panic" => config.panic_percent = Some(percent(value)?),
        "failover_hold" => config.failover_hold_ms = Some(duration(value)?),
        "hold_until_ready" => config.hold_until_ready = Some(on_off(value)?),
        "depends" => return Err("use --depends, or --no-depends for none".to_owned()),
        "failover" => return Err("use --failover, or --no-failover for none".to_owned()),
        _ => match key.strip_prefix("label.") {
            Some(name) if value.is_empty() => drop(config.labels.remove(name)),
            Some(name) => drop(config.labels.insert(name.to_owned(), value.to_owned())),
            None => return Err(no_such()),
        },
    }
    Ok(())
}

fn no_such() -> String {
    "there is no such setting; see mhub service register --help".to_owned()
}

/// A policy by its name in lower case.
pub(super) fn balance(value: &str) -> Result<BalancePolicy, String> {
    let name = format!("BALANCE_POLICY_{}", value.to_ascii_uppercase());
    BalancePolicy::from_str_name(&name).filter(|p| *p != BalancePolicy::Unspecified).ok_or_else(
        || {
            "use p2c_ewma, round_robin, weighted, random, least_outstanding or consistent_hash"
                .to_owned()
        },
    )
}

fn set_check(check: &mut HealthCheck, key: &str, value: &str) -> Result<(), String> {
    match key {
        "check" => {
            let (kind, path) = value.split_once(':').unwrap_or((value, ""));
            check.kind = match kind {
                "none" => CheckKind::Unspecified,
                "http" => CheckKind::Http,
                "tcp" => CheckKind::Tcp,
                "grpc" => CheckKind::Grpc,
                _ => return Err("use none, http:/PATH, tcp, grpc or grpc:SERVICE".to_owned()),
            }
            .into();
            path.clone_into(&mut check.path);
        }
        "check.protocol" => value.clone_into(&mut check.protocol),
        "check.interval" => check.interval_ms = Some(duration(value)?),
        "check.timeout" => check.timeout_ms = Some(duration(value)?),
        "check.failures" => check.failures = Some(number(value)?),
        "check.passes" => check.passes = Some(number(value)?),
        _ => return Err(no_such()),
    }
    Ok(())
}

fn set_breaker(config: &mut ServiceConfig, key: &str, value: &str) -> Result<(), String> {
    let breaker = config.breaker.get_or_insert_default();
    match key {
        "breaker" => breaker.disabled = Some(!on_off(value)?),
        "breaker.failures" => breaker.failures = Some(number(value)?),
        "breaker.failure_percent" => breaker.failure_percent = Some(percent(value)?),
        "breaker.min_calls" => breaker.min_calls = Some(number(value)?),
        "breaker.window" => breaker.window_ms = Some(duration(value)?),
        "breaker.open" => breaker.open_ms = Some(duration(value)?),
        "breaker.open_max" => breaker.open_max_ms = Some(duration(value)?),
        "breaker.probes" => breaker.probes = Some(number(value)?),
        "breaker.ejected" => breaker.ejected_percent = Some(percent(value)?),
        _ => return Err(no_such()),
    }
    Ok(())
}

/// A dependency as given: SERVICE, SERVICE@REQUIREMENT, with a ? at the end when it is optional.
pub(super) fn dependency(text: &str) -> Result<Dependency, String> {
    let (text, optional) = match text.strip_suffix('?') {
        Some(text) => (text, true),
        None => (text, false),
    };
    let (service, requirement) = text.split_once('@').unwrap_or((text, ""));
    if service.is_empty() {
        return Err("name a service, like billing, billing@^1.4 or billing?".to_owned());
    }
    let (service, requirement) = (service.to_owned(), requirement.to_owned());
    Ok(Dependency { service, requirement, optional })
}

/// A dependency as it is given.
pub(super) fn print_dependency(dependency: &Dependency) -> String {
    let at = if dependency.requirement.is_empty() { "" } else { "@" };
    let optional = if dependency.optional { "?" } else { "" };
    format!("{}{at}{}{optional}", dependency.service, dependency.requirement)
}

/// A step of failover as given: SERVICE or zone:ZONE.
pub(super) fn failover(text: &str) -> Result<Failover, String> {
    match text.strip_prefix("zone:") {
        Some("") => Err("name a zone, like zone:eu-west".to_owned()),
        Some(zone) => Ok(Failover { service: String::new(), zone: zone.to_owned() }),
        None if text.is_empty() => Err("name a service, or a zone like zone:eu-west".to_owned()),
        None => Ok(Failover { service: text.to_owned(), zone: String::new() }),
    }
}

fn print_failover(step: &Failover) -> String {
    if step.zone.is_empty() { step.service.clone() } else { format!("zone:{}", step.zone) }
}

/// Settings as they are given.
pub(super) fn print(config: &ServiceConfig) -> Value {
    let mut all = Map::new();
    let mut put = |key: &str, value: String| drop(all.insert(key.to_owned(), Value::String(value)));
    let time = |ms: Option<u64>| format_duration(ms.unwrap_or_default());
    let switch = |on: bool| if on { "on" } else { "off" }.to_owned();
    let share = |percent: Option<u32>| format!("{}%", percent.unwrap_or_default());
    let count = |number: Option<u32>| number.unwrap_or_default().to_string();
    put("version", config.version.clone());
    put("ttl", time(config.ttl_ms));
    put("deregister_after", time(config.deregister_after_ms));
    let check = config.check.clone().unwrap_or_default();
    let kind = match check.kind() {
        CheckKind::Unspecified => "none",
        CheckKind::Http => "http",
        CheckKind::Tcp => "tcp",
        CheckKind::Grpc => "grpc",
    };
    let colon = if check.path.is_empty() { "" } else { ":" };
    put("check", format!("{kind}{colon}{}", check.path));
    if check.kind() != CheckKind::Unspecified {
        put("check.protocol", check.protocol.clone());
        put("check.interval", time(check.interval_ms));
        put("check.timeout", time(check.timeout_ms));
        put("check.failures", count(check.failures));
        put("check.passes", count(check.passes));
    }
    let policy = config.balance().as_str_name().trim_start_matches("BALANCE_POLICY_");
    put("balance", policy.to_ascii_lowercase());
    put("zones_equal", switch(config.zones_equal.unwrap_or_default()));
    put("slow_start", time(config.slow_start_ms));
    put("panic", share(config.panic_percent));
    put("failover_hold", time(config.failover_hold_ms));
    put("hold_until_ready", switch(config.hold_until_ready.unwrap_or_default()));
    let breaker = config.breaker.unwrap_or_default();
    put("breaker", switch(!breaker.disabled.unwrap_or_default()));
    put("breaker.failures", count(breaker.failures));
    put("breaker.failure_percent", share(breaker.failure_percent));
    put("breaker.min_calls", count(breaker.min_calls));
    put("breaker.window", time(breaker.window_ms));
    put("breaker.open", time(breaker.open_ms));
    put("breaker.open_max", time(breaker.open_max_ms));
    put("breaker.probes", count(breaker.probes));
    put("breaker.ejected", share(breaker.ejected_percent));
    put("description", config.description.clone());
    let mut labels: Vec<_> = config.labels.iter().collect();
    labels.sort_unstable();
    labels.into_iter().for_each(|(name, value)| put(&format!("label.{name}"), value.clone()));
    let failover: Vec<_> = config.failover.iter().map(print_failover).collect();
    let depends: Vec<_> = config.dependencies.iter().map(print_dependency).collect();
    put("failover", failover.join(","));
    put("depends", depends.join(","));
    json!(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_what_was_given() {
        let given = [
            ("version", "1.4.0"),
            ("ttl", "20s"),
            ("check", "http:/healthz"),
            ("check.interval", "2s"),
            ("balance", "consistent_hash"),
            ("panic", "0%"),
            ("hold_until_ready", "on"),
            ("breaker", "off"),
            ("breaker.failures", "9"),
            ("label.team", "red"),
        ];
        let mut config = ServiceConfig::default();
        let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        change(&mut config, given.into_iter().map(owned).collect()).unwrap();
        let printed = print(&config);
        for (key, value) in given {
            assert_eq!(printed[key], value, "{key}");
        }
        for (key, value) in [
            ("ttl", "soon"),
            ("check", "udp"),
            ("balance", "best"),
            ("panic", "50"),
            ("breaker.failures", "-1"),
            ("depends", ""),
            ("nope", "1"),
        ] {
            let given = vec![(key.to_owned(), value.to_owned())];
            assert!(change(&mut ServiceConfig::default(), given).is_err(), "{key}={value}");
        }
    }

    #[test]
    fn a_label_without_a_value_is_taken_away() {
        let mut config = ServiceConfig::default();
        let mut set = |value: &str| {
            change(&mut config, vec![("label.team".to_owned(), value.to_owned())]).unwrap();
            config.labels.get("team").cloned()
        };
        assert_eq!((set("red"), set(""), set("")), (Some("red".to_owned()), None, None));
    }

    #[test]
    fn dependencies_and_steps_are_short() {
        for text in ["billing", "billing@^1.4", "billing?", "billing@>=1.0, <2.0?"] {
            assert_eq!(print_dependency(&dependency(text).unwrap()), text);
        }
        for text in ["backup", "zone:eu"] {
            assert_eq!(print_failover(&failover(text).unwrap()), text);
        }
        assert!(dependency("?").is_err() && failover("").is_err() && failover("zone:").is_err());
    }
}
