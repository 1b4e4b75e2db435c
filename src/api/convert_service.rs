//! Between the messages of services and the words of the hub.

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message as _;

use super::convert::invalid;
use super::convert_readiness::cause;
use crate::machine::registry::graph;
use crate::model::command::InstanceName;
use crate::model::ids::UnixMs;
use crate::model::limits::PAGE_BYTES_TARGET;
use crate::model::outcome::InstanceOutcome;
use crate::model::registry::{
    self as model, BreakerState, BreakerStatus, CheckKind, Health, InstanceInfo, Mode, ServiceInfo,
};
use crate::model::rejection::Rejection;
use crate::node::registry::{
    CallOutcome, Change, InARow, Renewal, Resolved, Runs, Shown, Wanted, WatchPart,
};
use crate::proto::status::to_call_error;
use crate::proto::v1::{
    self, Address, BalancePolicy, Breaker, DependencyEdge, GetDependenciesResponse,
    GetServiceResponse, HealthTransition, Instance, InstanceHealth, InstanceMode, InstanceResult,
    InstanceSpec, RenewResponse, ResolveRequest, ResolveResponse, Service, ServiceChange,
    ServiceConfig, WatchServicesResponse, instance_result,
};

fn unknown(what: &str) -> Rejection {
    invalid(format!("{what} has a value that does not exist; look it up in the API's reference"))
}

/// All settings: what is absent gets its default.
///
/// # Errors
/// `INVALID_REQUEST` for a value of an enumeration that does not exist.
pub(super) fn config(config: Option<ServiceConfig>) -> Result<model::ServiceConfig, Rejection> {
    let config = config.unwrap_or_default();
    let mut known = model::ServiceConfig::defaults();
    known.version = config.version;
    known.description = config.description;
    known.labels = config.labels.into_iter().collect();
    let health = &mut known.health;
    health.ttl_ms = config.ttl_ms.unwrap_or(health.ttl_ms);
    health.deregister_after_ms = config.deregister_after_ms.unwrap_or(health.deregister_after_ms);
    if let Some(given) = config.check {
        let check = &mut health.check;
        let kind = v1::CheckKind::try_from(given.kind).map_err(|_| unknown("check.kind"))?;
        check.kind = match kind {
            v1::CheckKind::Unspecified => CheckKind::None,
            v1::CheckKind::Http => CheckKind::Http,
            v1::CheckKind::Tcp => CheckKind::Tcp,
            v1::CheckKind::Grpc => CheckKind::Grpc,
        } as i32;
        (check.protocol, check.path) = (given.protocol, given.path);
        check.interval_ms = given.interval_ms.unwrap_or(check.interval_ms);
        check.timeout_ms = given.timeout_ms.unwrap_or(check.timeout_ms);
        check.failures = given.failures.unwrap_or(check.failures);
        check.passes = given.passes.unwrap_or(check.passes);
    }
    known.balance = balance(config.balance)?.unwrap_or(known.balance()) as i32;
    known.zones_equal = config.zones_equal.unwrap_or(known.zones_equal);
    known.slow_start_ms = config.slow_start_ms.unwrap_or(known.slow_start_ms);
    known.panic_percent = config.panic_percent.unwrap_or(known.panic_percent);
    let step = |f: v1::Failover| model::Failover { service: f.service, zone: f.zone };
    known.failover = config.failover.into_iter().map(step).collect();
    known.failover_hold_ms = config.failover_hold_ms.unwrap_or(known.failover_hold_ms);
    known.dependencies = config.dependencies.into_iter().map(dependency).collect();
    if let Some(given) = config.breaker {
        let breaker = &mut known.breaker;
        breaker.disabled = given.disabled.unwrap_or(breaker.disabled);
        breaker.failures = given.failures.unwrap_or(breaker.failures);
        breaker.failure_percent = given.failure_percent.unwrap_or(breaker.failure_percent);
        breaker.min_calls = given.min_calls.unwrap_or(breaker.min_calls);
        breaker.window_ms = given.window_ms.unwrap_or(breaker.window_ms);
        breaker.open_ms = given.open_ms.unwrap_or(breaker.open_ms);
        breaker.open_max_ms = given.open_max_ms.unwrap_or(breaker.open_max_ms);
        breaker.probes = given.probes.unwrap_or(breaker.probes);
        breaker.ejected_percent = given.ejected_percent.unwrap_or(breaker.ejected_percent);
    }
    known.hold_until_ready = config.hold_until_ready.unwrap_or(known.hold_until_ready);
    Ok(known)
}

fn dependency(given: v1::Dependency) -> model::Dependency {
    let v1::Dependency { service, requirement, optional } = given;
    model::Dependency { service, requirement, optional }
}

fn told_dependency(known: model::Dependency) -> v1::Dependency {
    let model::Dependency { service, requirement, optional } = known;
    v1::Dependency { service, requirement, optional }
}

fn balance(given: i32) -> Result<Option<model::BalancePolicy>, Rejection> {
    Ok(match BalancePolicy::try_from(given).map_err(|_| unknown("balance"))? {
        BalancePolicy::Unspecified => None,
        BalancePolicy::P2cEwma => Some(model::BalancePolicy::P2cEwma),
        BalancePolicy::RoundRobin => Some(model::BalancePolicy::RoundRobin),
        BalancePolicy::Weighted => Some(model::BalancePolicy::Weighted),
        BalancePolicy::Random => Some(model::BalancePolicy::Random),
        BalancePolicy::LeastOutstanding => Some(model::BalancePolicy::LeastOutstanding),
        BalancePolicy::ConsistentHash => Some(model::BalancePolicy::ConsistentHash),
    })
}

fn told_policy(policy: model::BalancePolicy) -> BalancePolicy {
    match policy {
        model::BalancePolicy::P2cEwma => BalancePolicy::P2cEwma,
        model::BalancePolicy::RoundRobin => BalancePolicy::RoundRobin,
        model::BalancePolicy::Weighted => BalancePolicy::Weighted,
        model::BalancePolicy::Random => BalancePolicy::Random,
        model::BalancePolicy::LeastOutstanding => BalancePolicy::LeastOutstanding,
        model::BalancePolicy::ConsistentHash => BalancePolicy::ConsistentHash,
    }
}

fn told_config(known: model::ServiceConfig) -> ServiceConfig {
    let balance = told_policy(known.balance());
    let check = known.health.check;
    let kind = match check.kind() {
        CheckKind::None => v1::CheckKind::Unspecified,
        CheckKind::Http => v1::CheckKind::Http,
        CheckKind::Tcp => v1::CheckKind::Tcp,
        CheckKind::Grpc => v1::CheckKind::Grpc,
    };
    let breaker = known.breaker;
    let step = |f: model::Failover| v1::Failover { service: f.service, zone: f.zone };
    ServiceConfig {
        version: known.version,
        description: known.description,
        labels: known.labels.into_iter().collect(),
        ttl_ms: Some(known.health.ttl_ms),
        deregister_after_ms: Some(known.health.deregister_after_ms),
        check: Some(v1::HealthCheck {
            kind: kind as i32,
            protocol: check.protocol,
            path: check.path,
            interval_ms: Some(check.interval_ms),
            timeout_ms: Some(check.timeout_ms),
            failures: Some(check.failures),
            passes: Some(check.passes),
        }),
        balance: balance as i32,
        zones_equal: Some(known.zones_equal),
        slow_start_ms: Some(known.slow_start_ms),
        panic_percent: Some(known.panic_percent),
        failover: known.failover.into_iter().map(step).collect(),
        failover_hold_ms: Some(known.failover_hold_ms),
        dependencies: known.dependencies.into_iter().map(told_dependency).collect(),
        breaker: Some(v1::BreakerPolicy {
            disabled: Some(breaker.disabled),
            failures: Some(breaker.failures),
            failure_percent: Some(breaker.failure_percent),
            min_calls: Some(breaker.min_calls),
            window_ms: Some(breaker.window_ms),
            open_ms: Some(breaker.open_ms),
            open_max_ms: Some(breaker.open_max_ms),
            probes: Some(breaker.probes),
            ejected_percent: Some(breaker.ejected_percent),
        }),
        hold_until_ready: Some(known.hold_until_ready),
    }
}

pub(super) fn service(info: ServiceInfo) -> Service {
    Service {
        name: info.name,
        config: Some(told_config(info.config)),
        revision: info.revision,
        created_at_ms: info.created_at.get(),
        updated_at_ms: info.updated_at.get(),
        instances: info.instances,
        healthy: info.healthy,
        down_since_ms: info.down_since.map_or(0, UnixMs::get),
        recovered_at_ms: info.recovered_at.map_or(0, UnixMs::get),
        breaker: Some(breaker(&info.breaker)),
        braked_since_ms: info.braked_since.map_or(0, UnixMs::get),
        failed_over_to: info.failed_over_to,
        failed_over_since_ms: info.failed_over_since.map_or(0, UnixMs::get),
    }
}

fn breaker(known: &BreakerStatus) -> Breaker {
    let state = match known.state() {
        BreakerState::Closed => v1::BreakerState::Closed,
        BreakerState::Open => v1::BreakerState::Open,
        BreakerState::HalfOpen => v1::BreakerState::HalfOpen,
        BreakerState::ForcedOpen => v1::BreakerState::ForcedOpen,
        BreakerState::ForcedClosed => v1::BreakerState::ForcedClosed,
    };
    Breaker {
        state: state as i32,
        opened: known.opened,
        until_ms: known.until_ms,
        since_ms: known.since_ms,
    }
}

/// Where a breaker shall stand.
///
/// # Errors
/// `INVALID_REQUEST`.
pub(super) fn breaker_state(given: i32) -> Result<BreakerState, Rejection> {
    match v1::BreakerState::try_from(given).map_err(|_| unknown("state"))? {
        v1::BreakerState::Unspecified => Err(invalid("no state is named; name one")),
        v1::BreakerState::Closed => Ok(BreakerState::Closed),
        v1::BreakerState::Open => Ok(BreakerState::Open),
        v1::BreakerState::HalfOpen => Ok(BreakerState::HalfOpen),
        v1::BreakerState::ForcedOpen => Ok(BreakerState::ForcedOpen),
        v1::BreakerState::ForcedClosed => Ok(BreakerState::ForcedClosed),
    }
}

/// What an instance says of itself; what is absent gets its default.
pub(super) fn spec(given: InstanceSpec) -> model::InstanceSpec {
    let address = |a: Address| model::Address { protocol: a.protocol, address: a.address };
    model::InstanceSpec {
        service: given.service,
        id: given.id,
        addresses: given.addresses.into_iter().map(address).collect(),
        zone: given.zone,
        version: given.version,
        weight_milli: given.weight_milli.unwrap_or(1000),
        metadata: given.metadata.into_iter().collect(),
        ttl_ms: given.ttl_ms,
        owner: given.owner,
        process: given.process,
    }
}

pub(super) fn name(given: v1::InstanceName) -> InstanceName {
    let v1::InstanceName { service, id, owner } = given;
    InstanceName { service, id, owner }
}

/// What an instance shall be.
///
/// # Errors
/// `INVALID_REQUEST`.
pub(super) fn mode(given: i32) -> Result<Mode, Rejection> {
    match InstanceMode::try_from(given).map_err(|_| unknown("mode"))? {
        InstanceMode::Unspecified => Err(invalid("no mode is named; name one")),
        InstanceMode::Up => Ok(Mode::Up),
        InstanceMode::Draining => Ok(Mode::Draining),
        InstanceMode::Maintenance => Ok(Mode::Maintenance),
    }
}

fn health(known: Health) -> InstanceHealth {
    match known {
        Health::Passing => InstanceHealth::Passing,
        Health::Critical => InstanceHealth::Critical,
    }
}

pub(super) fn instance(info: InstanceInfo) -> Instance {
    let mode = match info.mode {
        Mode::Up => InstanceMode::Up,
        Mode::Draining => InstanceMode::Draining,
        Mode::Maintenance => InstanceMode::Maintenance,
    };
    let transition = |t: model::Transition| HealthTransition {
        at_ms: t.at_ms,
        to: health(t.to()) as i32,
        reason: t.reason,
    };
    let address = |a: model::Address| Address { protocol: a.protocol, address: a.address };
    let model::InstanceSpec { service, id, addresses, zone, version, .. } = info.spec;
    Instance {
        spec: Some(InstanceSpec {
            service,
            id,
            addresses: addresses.into_iter().map(address).collect(),
            zone,
            version,
            weight_milli: Some(info.spec.weight_milli),
            metadata: info.spec.metadata.into_iter().collect(),
            ttl_ms: info.spec.ttl_ms,
            owner: String::new(),
            process: String::new(),
        }),
        incarnation: info.incarnation,
        revision: info.revision,
        ttl_ms: info.ttl_ms,
        registered_at_ms: info.registered_at.get(),
        health: health(info.health) as i32,
        health_since_ms: info.health_since.get(),
        mode: mode as i32,
        held_until_ms: info.held_until.map_or(0, UnixMs::get),
        breaker: Some(breaker(&info.breaker)),
        transitions: info.transitions.into_iter().map(transition).collect(),
    }
}

pub(super) fn results(outcomes: Vec<InstanceOutcome>) -> Vec<InstanceResult> {
    let one = |outcome: InstanceOutcome| match outcome {
        Ok(info) => instance_result::Result::Instance(instance(info)),
        Err(rejection) => instance_result::Result::Refused(to_call_error(&rejection)),
    };
    let mut bytes = 0;
    let result = |outcome| {
        let mut result = InstanceResult { result: Some(one(outcome)) };
        bytes += result.encoded_len();
        if bytes > PAGE_BYTES_TARGET {
            shorten(&mut result);
        }
        result
    };
    outcomes.into_iter().map(result).collect()
}

/// Leaves out of an instance what may be long.
fn shorten(result: &mut InstanceResult) {
    let Some(instance_result::Result::Instance(instance)) = &mut result.result else { return };
    instance.transitions.clear();
    if let Some(spec) = &mut instance.spec {
        spec.addresses.clear();
        spec.metadata.clear();
    }
}

pub(super) fn renewals(given: Vec<v1::Renewal>) -> Vec<Renewal> {
    let one = |v1::Renewal { service, id, incarnation }| Renewal { service, id, incarnation };
    given.into_iter().map(one).collect()
}

pub(super) fn renewed(lasting: Vec<Option<Duration>>) -> RenewResponse {
    let lost = (0..).zip(&lasting).filter(|(_, lasts)| lasts.is_none());
    let lost = lost.map(|(place, _)| place).collect();
    let ms = |lasts: Duration| u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
    RenewResponse { lost, ttls_ms: lasting.into_iter().map(|lasts| lasts.map_or(0, ms)).collect() }
}

/// What is wanted.
///
/// # Errors
/// `INVALID_REQUEST` for a policy that does not exist.
pub(super) fn wanted(request: ResolveRequest) -> Result<Wanted, Rejection> {
    Ok(Wanted {
        service: request.service,
        count: usize::try_from(request.count.max(1)).unwrap_or(usize::MAX),
        policy: balance(request.policy)?,
        key: request.key,
        zone: request.zone,
        requirement: request.requirement,
        protocol: request.protocol,
        all: request.all,
        ..Wanted::default()
    })
}

pub(super) fn resolved(found: Resolved, stale: bool) -> ResolveResponse {
    ResolveResponse {
        instances: found.instances.into_iter().map(instance).collect(),
        failed_over_to: found.failed_over_to.unwrap_or_default(),
        panic: found.panic,
        stale,
        revision: found.revision,
        policy: told_policy(found.policy).into(),
        warmth_milli: found.warmth_milli,
        probes: found.probes,
        service_half_open: found.service_half_open,
        other_zone: found.other_zone,
        next: found.next.into_iter().map(|next| resolved(next, stale)).collect(),
    }
}

pub(super) fn outcomes(given: Vec<v1::CallOutcome>) -> Vec<CallOutcome> {
    let one = |call: v1::CallOutcome| {
        let row = InARow {
            at_start: call.failed_at_start.map(u64::from),
            longest: call.failed_in_a_row.map(u64::from),
            at_end: call.failed_at_end.map(u64::from),
        };
        CallOutcome {
            service: call.service,
            instance: call.instance,
            calls: Runs::told(call.ok.into(), call.failed.into(), row),
            not_connected: 0,
            latency_us: call.latency_us,
        }
    };
    given.into_iter().map(one).collect()
}

fn change((revision, known): Change, ttls_ms: &BTreeMap<String, u64>) -> ServiceChange {
    let mut config = model::ServiceConfig::defaults();
    config.health.ttl_ms = ttls_ms.get(&known.service).copied().unwrap_or(config.health.ttl_ms);
    ServiceChange {
        revision,
        service_after: known.service_after.map(|record| service(record.info(&known.service))),
        instance_after: known.instance_after.map(|record| instance(record.info(&config))),
        service: known.service,
        instance: known.instance,
    }
}

pub(super) fn watched(part: WatchPart) -> WatchServicesResponse {
    WatchServicesResponse {
        changes: part.changes.into_iter().map(|one| change(one, &part.ttls_ms)).collect(),
        revision: part.revision,
        snapshot_continues: part.continues,
        stale: part.stale,
    }
}

pub(super) fn shown(shown: Shown) -> GetServiceResponse {
    let page = shown.page;
    let last = page.instances.last().filter(|_| page.more);
    GetServiceResponse {
        next_page_token: last.map(|last| last.spec.id.clone()).unwrap_or_default(),
        service: Some(service(page.service)),
        instances: page.instances.into_iter().map(instance).collect(),
        revision: shown.revision,
        ready: shown.tree.is_ready(),
        not_ready: shown.tree.causes().into_iter().next().map(cause),
    }
}

pub(super) fn edges(known: graph::Edges) -> GetDependenciesResponse {
    let one =
        |(from, dependency)| DependencyEdge { from, dependency: Some(told_dependency(dependency)) };
    let last = known.edges.last().filter(|_| known.more);
    GetDependenciesResponse {
        next_page_token: last.map(|(from, _)| from.clone()).unwrap_or_default(),
        edges: known.edges.into_iter().map(one).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_back_as_they_went() {
        let mut known = model::ServiceConfig::defaults();
        assert_eq!(config(None).unwrap(), known);
        known.health.check.kind = CheckKind::Grpc as i32;
        known.balance = model::BalancePolicy::ConsistentHash as i32;
        known.panic_percent = 0;
        known.breaker.disabled = true;
        let step = model::Failover { service: "b".into(), zone: String::new() };
        known.failover = vec![step];
        let needs = |service: &str| model::Dependency {
            service: service.into(),
            requirement: "^1".into(),
            optional: true,
        };
        known.dependencies = vec![needs("d")];
        assert_eq!(config(Some(told_config(known.clone()))).unwrap(), known);
        let wrong = ServiceConfig { balance: 99, ..ServiceConfig::default() };
        assert!(config(Some(wrong)).is_err());
    }
}
