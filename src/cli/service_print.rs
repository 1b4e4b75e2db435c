//! Services and instances as they are printed.

use serde_json::{Value, json};

use super::Failure;
use super::output::{self, Output, instant};
use super::service_config::{print, print_dependency};
use super::service_graph::cause;
use super::value::format_age;
use crate::proto::v1::{
    Breaker, BreakerState, GetServiceResponse, HealthTransition, Instance, InstanceHealth,
    InstanceMode, ResolveResponse, Service, ServiceChange, ServiceConfig,
};

/// A weight in thousandths.
pub(super) fn weight(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no weight from 0.001 to 1000");
    let weight: f64 = text.parse().map_err(|_| wrong())?;
    let thousandths = (weight * 1000.0).round();
    if !(1.0..=1_000_000.0).contains(&thousandths) {
        return Err(wrong());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is in range")]
    Ok(thousandths as u64)
}

/// What a table of services shows.
pub(super) const COLUMNS: [&str; 6] =
    ["name", "healthy", "instances", "balance", "breaker", "revision"];
/// What a table of instances shows.
pub(super) const INSTANCE_COLUMNS: [&str; 9] =
    ["id", "health", "mode", "breaker", "version", "zone", "addresses", "for", "why"];
/// What a table of changes of health shows.
const HISTORY_COLUMNS: [&str; 4] = ["instance", "at", "to", "reason"];
/// The newest changes of health that are shown for people; JSON has all that are kept.
const HISTORY_SHOWN: usize = 20;

/// A service as JSON; 64-bit numbers are strings, as in the JSON mapping of protobuf.
pub(super) fn summary(service: &Service) -> Value {
    let config = service.config.clone().unwrap_or_default();
    let policy = ServiceConfig::balance(&config).as_str_name();
    json!({
        "name": service.name,
        "healthy": service.healthy.to_string(),
        "instances": service.instances.to_string(),
        "balance": policy.trim_start_matches("BALANCE_POLICY_").to_ascii_lowercase(),
        "breaker": breaker(service.breaker.as_ref()),
        "depends": config.dependencies.iter().map(print_dependency).collect::<Vec<_>>(),
        "down_since": since(service.down_since_ms),
        "recovered_at": since(service.recovered_at_ms),
        "failed_over_to": text(&service.failed_over_to),
        "failed_over_since": since(service.failed_over_since_ms),
        "braked_since": since(service.braked_since_ms),
        "created_at": instant(service.created_at_ms),
        "updated_at": instant(service.updated_at_ms),
        "revision": service.revision.to_string(),
    })
}

fn since(ms: u64) -> Value {
    if ms == 0 { Value::Null } else { Value::String(instant(ms)) }
}

fn text(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { Value::String(text.to_owned()) }
}

/// A service with its settings, how it stands, and its instances.
pub(super) fn show(found: &GetServiceResponse, output: Output) -> Result<(), Failure> {
    let service = found.service.clone().unwrap_or_default();
    let (mut all, instances) = (summary(&service), found.instances.iter().map(instance));
    let instances: Vec<_> = instances.collect();
    all["breaker_state"] = all["breaker"].take(); // A setting has the same name.
    all["ready"] = json!(found.ready);
    all["not_ready_as"] = found.not_ready.as_ref().map(cause).into();
    if let (Value::Object(all), Value::Object(settings)) =
        (&mut all, print(&service.config.unwrap_or_default()))
    {
        all.extend(settings);
        all.insert("instances".to_owned(), Value::Array(instances.clone()));
        all.insert("registry_revision".to_owned(), json!(found.revision.to_string()));
    }
    output::item(output, &all)?;
    if output == Output::Table && !instances.is_empty() {
        output::line("")?;
        output::list(output, &INSTANCE_COLUMNS, &instances)?;
        let history = history(&found.instances);
        if !history.is_empty() {
            output::line("")?;
            output::list(output, &HISTORY_COLUMNS, &history)?;
        }
    }
    Ok(())
}

/// The newest changes of health of instances, the newest last.
fn history(instances: &[Instance]) -> Vec<Value> {
    let of_each = instances.iter().flat_map(|instance| {
        let id = instance.spec.as_ref().map_or("", |spec| spec.id.as_str());
        instance.transitions.iter().map(move |transition| (id, transition))
    });
    let mut all: Vec<_> = of_each.collect();
    // Those of one instant stay in their order.
    all.sort_by_key(|(_, transition)| transition.at_ms);
    let surplus = all.len().saturating_sub(HISTORY_SHOWN);
    let told = all.split_off(surplus).into_iter().map(|(id, one)| {
        let mut told = transition(one);
        told["instance"] = json!(id);
        told
    });
    told.collect()
}

fn transition(one: &HealthTransition) -> Value {
    let to = if one.to() == InstanceHealth::Critical { "critical" } else { "passing" };
    json!({ "at": instant(one.at_ms), "to": to, "reason": one.reason })
}

/// Why an instance is critical; nothing of one that is not.
fn why(instance: &Instance) -> Value {
    if instance.health() != InstanceHealth::Critical {
        return Value::Null;
    }
    let reason = instance.transitions.last().map_or("", |transition| transition.reason.as_str());
    match (instance.held_until_ms, reason) {
        (0, reason) => text(reason),
        (until, "") => json!(format!("held until {}", instant(until))),
        (until, reason) => json!(format!("held until {}: {reason}", instant(until))),
    }
}

fn breaker(breaker: Option<&Breaker>) -> String {
    state_name(breaker.map_or(BreakerState::Closed, Breaker::state))
}

fn state_name(state: BreakerState) -> String {
    state.as_str_name().trim_start_matches("BREAKER_STATE_").to_ascii_lowercase()
}

/// Where a breaker was put: that of an instance, or of the service.
pub(super) fn put_breaker(service: &str, instance: &str, state: BreakerState) -> Value {
    json!({ "service": service, "instance": text(instance), "breaker": state_name(state) })
}

/// The instances that were chosen as JSON, each with how that was done.
pub(super) fn chosen(found: &ResolveResponse) -> Vec<Value> {
    let told = |one: &Instance| {
        let mut told = instance(one);
        told["failed_over_to"] = text(&found.failed_over_to);
        told["other_zone"] = json!(found.other_zone);
        told["panic"] = json!(found.panic);
        told["stale"] = json!(found.stale);
        told["registry_revision"] = json!(found.revision.to_string());
        told
    };
    found.instances.iter().map(told).collect()
}

/// An instance as JSON.
pub(super) fn instance(instance: &Instance) -> Value {
    let spec = instance.spec.clone().unwrap_or_default();
    let health = match instance.health() {
        InstanceHealth::Passing | InstanceHealth::Unspecified => "passing",
        InstanceHealth::Critical => "critical",
    };
    let mode = match instance.mode() {
        InstanceMode::Up | InstanceMode::Unspecified => "up",
        InstanceMode::Draining => "draining",
        InstanceMode::Maintenance => "maintenance",
    };
    let addresses = spec.addresses.iter().map(|a| format!("{}={}", a.protocol, a.address));
    let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
    json!({
        "service": spec.service,
        "id": spec.id,
        "health": health,
        "mode": mode,
        "breaker": breaker(instance.breaker.as_ref()),
        "version": spec.version,
        "zone": spec.zone,
        "addresses": addresses.collect::<Vec<_>>().join(","),
        "weight": format_weight(spec.weight_milli.unwrap_or(1000)),
        "metadata": spec.metadata,
        "ttl_ms": instance.ttl_ms.to_string(),
        "for": format_age(now.saturating_sub(instance.health_since_ms)),
        "health_since": instant(instance.health_since_ms),
        "held_until": since(instance.held_until_ms),
        "registered_at": instant(instance.registered_at_ms),
        "incarnation": instance.incarnation.to_string(),
        "revision": instance.revision.to_string(),
        "why": why(instance),
        "transitions": instance.transitions.iter().map(transition).collect::<Vec<_>>(),
    })
}

fn format_weight(thousandths: u64) -> String {
    let text = format!("{}.{:03}", thousandths / 1000, thousandths % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A change of the registry as JSON.
pub(super) fn change_line(change: &ServiceChange) -> Value {
    let (what, state, detail) = match (&change.service_after, &change.instance_after) {
        (_, Some(after)) => {
            let value = instance(after);
            let up = after.mode() == InstanceMode::Up;
            let what = if up { value["health"].clone() } else { value["mode"].clone() };
            (what, breaker(after.breaker.as_ref()), value)
        }
        (Some(after), None) => {
            let what = if after.down_since_ms > 0 { "down" } else { "service" };
            (json!(what), breaker(after.breaker.as_ref()), summary(after))
        }
        (None, None) => (json!("gone"), String::new(), Value::Null),
    };
    json!({
        "revision": change.revision.to_string(),
        "service": change.service,
        "instance": change.instance,
        "change": what,
        "breaker": state,
        "after": detail,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::InstanceSpec;

    #[test]
    fn how_instances_were_chosen_is_told_with_each() {
        let spec = |id: &str| Some(InstanceSpec { id: id.into(), ..InstanceSpec::default() });
        let one = |id| Instance { spec: spec(id), revision: 3, ..Instance::default() };
        let found = ResolveResponse {
            instances: vec![one("a"), one("b")],
            failed_over_to: "spare".into(),
            panic: true,
            revision: 7,
            other_zone: Some("us".into()),
            ..ResolveResponse::default()
        };
        let told = chosen(&found);
        assert_eq!(told.iter().map(|one| &one["id"]).collect::<Vec<_>>(), ["a", "b"]);
        for one in told {
            assert_eq!(
                (&one["failed_over_to"], &one["other_zone"]),
                (&json!("spare"), &json!("us"))
            );
            assert_eq!((&one["panic"], &one["stale"]), (&json!(true), &json!(false)));
            assert_eq!((&one["revision"], &one["registry_revision"]), (&json!("3"), &json!("7")));
        }
        let usual = ResolveResponse { instances: vec![one("a")], ..ResolveResponse::default() };
        let told = chosen(&usual).remove(0);
        assert_eq!((&told["failed_over_to"], &told["other_zone"]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn a_table_tells_why_an_instance_is_critical_and_what_became_of_it() {
        let spec = |id: &str| Some(InstanceSpec { id: id.into(), ..InstanceSpec::default() });
        let moved = |at_ms, to: InstanceHealth, reason: &str| HealthTransition {
            at_ms,
            to: to.into(),
            reason: reason.into(),
        };
        let (passing, critical) = (InstanceHealth::Passing, InstanceHealth::Critical);
        let silent = Instance {
            spec: spec("a"),
            health: critical.into(),
            transitions: vec![moved(1000, passing, "registered"), moved(3000, critical, "silent")],
            ..Instance::default()
        };
        let held = Instance {
            spec: spec("b"),
            held_until_ms: 60_000,
            transitions: vec![moved(2000, critical, "check failed")],
            ..silent.clone()
        };
        let fine = Instance { health: passing.into(), ..silent.clone() };
        let all = [&silent, &held, &fine].map(instance);
        let table = output::rows(&INSTANCE_COLUMNS, &all);
        assert!(table[0].ends_with("WHY") && table[1].ends_with("  silent"), "{table:?}");
        assert!(table[2].ends_with("held until 1970-01-01T00:01:00Z: check failed"), "{table:?}");
        assert!(!table[3].contains("silent"), "{table:?}");
        let table = output::rows(&HISTORY_COLUMNS, &history(&[silent.clone(), held]));
        let words: Vec<Vec<_>> = table.iter().map(|row| row.split_whitespace().collect()).collect();
        assert_eq!(words[0], ["INSTANCE", "AT", "TO", "REASON"]);
        assert_eq!(words[1], ["a", "1970-01-01T00:00:01Z", "passing", "registered"]);
        assert_eq!(words[2], ["b", "1970-01-01T00:00:02Z", "critical", "check", "failed"]);
        assert_eq!(words[3], ["a", "1970-01-01T00:00:03Z", "critical", "silent"]);
        // The newest of many.
        let transitions = (0..16).map(|n| moved(n, critical, "")).collect();
        let restless = Instance { transitions, ..silent };
        let newest = history(&[restless.clone(), restless]);
        assert_eq!((newest.len(), &newest[0]["at"]), (HISTORY_SHOWN, &json!(instant(6))));
    }

    #[test]
    fn weights_are_in_thousandths() {
        assert_eq!(
            ["1", "0.5", "0.001", "1000"].map(weight),
            [Ok(1000), Ok(500), Ok(1), Ok(1_000_000)]
        );
        assert_eq!(
            [1000, 500, 1, 1_000_000, 1250].map(format_weight),
            ["1", "0.5", "0.001", "1000", "1.25"]
        );
        for wrong in ["0", "-1", "NaN", "inf", "1001", "x", ""] {
            assert!(weight(wrong).is_err(), "{wrong}");
        }
    }
}
