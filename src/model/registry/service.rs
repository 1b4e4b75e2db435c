//! A service: its settings, and what is known of it as a whole.

use std::collections::{BTreeMap, BTreeSet};

use super::instance::BreakerStatus;
use super::{check_requirement, check_version, known, refuse, within};
use crate::model::ids::UnixMs;
use crate::model::limits::{
    BREAKER_CALLS, BREAKER_OPEN_MS, BREAKER_WINDOW_MS, CHECK_INTERVAL_MS, CHECK_PATH_BYTES_MAX,
    CHECK_ROUNDS, CHECK_TIMEOUT_MS, DEPENDENCIES_MAX, DEREGISTER_AFTER_MS, DESCRIPTION_BYTES_MAX,
    FAILOVER_HOLD_MS, FAILOVER_MAX, INSTANCE_TTL_MS, SLOW_START_MS, ZONE_BYTES_MAX,
};
use crate::model::quota::check_service;
use crate::model::rejection::Rejection;
use crate::model::topic::check_labels;

/// How one of several instances is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum BalancePolicy {
    /// Of two random ones that with the lower EWMA of latency × (calls in flight + 1) / weight.
    P2cEwma = 0,
    /// Each in turn.
    RoundRobin = 1,
    /// Each in turn as often as its weight says, evenly spread.
    Weighted = 2,
    /// Any.
    Random = 3,
    /// That with the fewest calls in flight for its weight.
    LeastOutstanding = 4,
    /// That which the caller's key belongs to (weighted rendezvous hashing).
    ConsistentHash = 5,
}

/// How a check asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum CheckKind {
    /// Nothing is asked: renewals alone tell.
    None = 0,
    /// GET of a path; 2xx passes.
    Http = 1,
    /// A connection can be made.
    Tcp = 2,
    /// `grpc.health.v1.Health/Check` answers SERVING.
    Grpc = 3,
}

/// A check that the hub itself runs against each instance.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Check {
    /// How it asks.
    #[prost(enumeration = "CheckKind", tag = "1")]
    pub kind: i32,
    /// The protocol of the address that is asked; empty: the instance's first address.
    #[prost(string, tag = "2")]
    pub protocol: String,
    /// Of HTTP the path, of gRPC the service.
    #[prost(string, tag = "3")]
    pub path: String,
    /// Milliseconds between two.
    #[prost(uint64, tag = "4")]
    pub interval_ms: u64,
    /// How long an answer may take, milliseconds.
    #[prost(uint64, tag = "5")]
    pub timeout_ms: u64,
    /// Failures in a row that make an instance unhealthy.
    #[prost(uint32, tag = "6")]
    pub failures: u32,
    /// Passes in a row that make it healthy.
    #[prost(uint32, tag = "7")]
    pub passes: u32,
}

/// When an instance counts as healthy.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HealthPolicy {
    /// How long a renewal lasts, unless the instance says otherwise, milliseconds.
    #[prost(uint64, tag = "1")]
    pub ttl_ms: u64,
    /// How long after its renewals ended an instance is deregistered, milliseconds; 0: never.
    #[prost(uint64, tag = "2")]
    pub deregister_after_ms: u64,
    /// What the hub asks.
    #[prost(message, required, tag = "3")]
    pub check: Check,
}

/// When calls to an instance are stopped for a while.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct BreakerPolicy {
    /// No breaker.
    #[prost(bool, tag = "1")]
    pub disabled: bool,
    /// Failures in a row that open it.
    #[prost(uint32, tag = "2")]
    pub failures: u32,
    /// Percent of failures among the calls of a window that open it.
    #[prost(uint32, tag = "3")]
    pub failure_percent: u32,
    /// Calls that a window has to have for that.
    #[prost(uint32, tag = "4")]
    pub min_calls: u32,
    /// The window, milliseconds.
    #[prost(uint64, tag = "5")]
    pub window_ms: u64,
    /// How long it is open the first time, milliseconds; the n-th time in a row n times as long.
    #[prost(uint64, tag = "6")]
    pub open_ms: u64,
    /// The longest that it is open, milliseconds, before up to 20 % of jitter.
    #[prost(uint64, tag = "7")]
    pub open_max_ms: u64,
    /// Calls that are let through half-open, all of which have to succeed.
    #[prost(uint32, tag = "8")]
    pub probes: u32,
    /// Percent of a service's instances whose breakers may be open at once; one may in any case.
    #[prost(uint32, tag = "9")]
    pub ejected_percent: u32,
}

/// Where to go when no instance is healthy: one of the two is named.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Failover {
    /// Another service.
    #[prost(string, tag = "1")]
    pub service: String,
    /// A zone of the same service.
    #[prost(string, tag = "2")]
    pub zone: String,
}

/// What a service needs.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Dependency {
    /// The other service.
    #[prost(string, tag = "1")]
    pub service: String,
    /// Which versions of its instances will do, as Cargo has it; empty: any.
    #[prost(string, tag = "2")]
    pub requirement: String,
    /// It is better with it, and ready without.
    #[prost(bool, tag = "3")]
    pub optional: bool,
}

/// Every setting of a service, resolved. Ranges: `ServiceConfig::check`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ServiceConfig {
    /// The version of its interface; free of that of its instances.
    #[prost(string, tag = "1")]
    pub version: String,
    /// Free text.
    #[prost(string, tag = "2")]
    pub description: String,
    /// Free labels.
    #[prost(btree_map = "string, string", tag = "3")]
    pub labels: BTreeMap<String, String>,
    /// When instances are healthy.
    #[prost(message, required, tag = "4")]
    pub health: HealthPolicy,
    /// How instances are chosen.
    #[prost(enumeration = "BalancePolicy", tag = "5")]
    pub balance: i32,
    /// Instances of other zones than the caller's count like those of its own.
    #[prost(bool, tag = "6")]
    pub zones_equal: bool,
    /// How long the share of an instance grows after it became healthy, milliseconds.
    #[prost(uint64, tag = "7")]
    pub slow_start_ms: u64,
    /// When fewer percent are healthy, all count as healthy but those that a breaker shuts off.
    #[prost(uint32, tag = "8")]
    pub panic_percent: u32,
    /// Where to go when none is healthy, in this order.
    #[prost(message, repeated, tag = "9")]
    pub failover: Vec<Failover>,
    /// How long the service has to be healthy again before callers go back to it, milliseconds.
    #[prost(uint64, tag = "10")]
    pub failover_hold_ms: u64,
    /// What it needs.
    #[prost(message, repeated, tag = "11")]
    pub dependencies: Vec<Dependency>,
    /// When calls are stopped.
    #[prost(message, required, tag = "12")]
    pub breaker: BreakerPolicy,
    /// Its instances are not given to callers until what it requires is ready.
    #[prost(bool, tag = "13")]
    pub hold_until_ready: bool,
}

impl ServiceConfig {
    /// The settings of a service of which nothing was said.
    #[must_use]
    pub fn defaults() -> Self {
        Self {
            version: String::new(),
            description: String::new(),
            labels: BTreeMap::new(),
            health: HealthPolicy {
                ttl_ms: 15_000,
                deregister_after_ms: 60_000,
                check: Check {
                    kind: CheckKind::None as i32,
                    protocol: String::new(),
                    path: String::new(),
                    interval_ms: 5000,
                    timeout_ms: 1000,
                    failures: 2,
                    passes: 2,
                },
            },
            balance: BalancePolicy::P2cEwma as i32,
            zones_equal: false,
            slow_start_ms: 30_000,
            panic_percent: 50,
            failover: Vec::new(),
            failover_hold_ms: 10_000,
            dependencies: Vec::new(),
            breaker: BreakerPolicy {
                disabled: false,
                failures: 5,
                failure_percent: 50,
                min_calls: 20,
                window_ms: 10_000,
                open_ms: 30_000,
                open_max_ms: 300_000,
                probes: 3,
                ejected_percent: 33,
            },
            hold_until_ready: false,
        }
    }

    /// Checks every range; `name` is the service's own.
    ///
    /// # Errors
    /// `INVALID_CONFIG`, naming the setting; `INVALID_NAME`.
    pub fn check(&self, name: &str) -> Result<(), Rejection> {
        check_version("version", &self.version)?;
        let described = self.description.len() as u64;
        within("description", described, &(0..=DESCRIPTION_BYTES_MAX as u64))?;
        check_labels(&self.labels)?;
        self.health.check()?;
        known("balance", BalancePolicy::try_from(self.balance).is_ok())?;
        within("slow_start_ms", self.slow_start_ms, &SLOW_START_MS)?;
        within("panic_percent", u64::from(self.panic_percent), &(0..=100))?;
        within("failover", self.failover.len() as u64, &(0..=FAILOVER_MAX as u64))?;
        self.failover.iter().try_for_each(|target| target.check(name))?;
        within("failover_hold_ms", self.failover_hold_ms, &FAILOVER_HOLD_MS)?;
        self.breaker.check()?;
        self.check_dependencies(name)
    }

    fn check_dependencies(&self, name: &str) -> Result<(), Rejection> {
        let count = self.dependencies.len() as u64;
        within("dependencies", count, &(0..=DEPENDENCIES_MAX as u64))?;
        let mut services = BTreeSet::new();
        for dependency in &self.dependencies {
            check_service(&dependency.service)?;
            check_requirement("dependencies", &dependency.requirement)?;
            if dependency.service == name {
                return Err(refuse("dependencies", "name the service itself"));
            }
            if !services.insert(&dependency.service) {
                return Err(refuse("dependencies", &format!("name {} twice", dependency.service)));
            }
        }
        Ok(())
    }
}

impl HealthPolicy {
    /// Whether the hub checks instances.
    #[must_use]
    pub fn is_checked(&self) -> bool {
        self.check.kind() != CheckKind::None
    }

    fn check(&self) -> Result<(), Rejection> {
        within("health.ttl_ms", self.ttl_ms, &INSTANCE_TTL_MS)?;
        within("health.deregister_after_ms", self.deregister_after_ms, &DEREGISTER_AFTER_MS)?;
        let check = &self.check;
        known("health.check.kind", CheckKind::try_from(check.kind).is_ok())?;
        within("health.check.interval_ms", check.interval_ms, &CHECK_INTERVAL_MS)?;
        within("health.check.timeout_ms", check.timeout_ms, &CHECK_TIMEOUT_MS)?;
        within("health.check.failures", u64::from(check.failures), &CHECK_ROUNDS)?;
        within("health.check.passes", u64::from(check.passes), &CHECK_ROUNDS)?;
        let path = check.path.len() as u64;
        within("health.check.path", path, &(0..=CHECK_PATH_BYTES_MAX as u64))?;
        if check.kind() == CheckKind::Http && !check.path.is_empty() {
            let plain = check.path.bytes().all(|b| b.is_ascii_graphic());
            if !check.path.starts_with('/') || !plain {
                let why = format!("{:?} is no path like /healthz", check.path);
                return Err(refuse("health.check.path", &why));
            }
        }
        Ok(())
    }
}

impl BreakerPolicy {
    fn check(&self) -> Result<(), Rejection> {
        within("breaker.failures", u64::from(self.failures), &BREAKER_CALLS)?;
        within("breaker.failure_percent", u64::from(self.failure_percent), &(1..=100))?;
        within("breaker.min_calls", u64::from(self.min_calls), &BREAKER_CALLS)?;
        within("breaker.window_ms", self.window_ms, &BREAKER_WINDOW_MS)?;
        within("breaker.open_ms", self.open_ms, &BREAKER_OPEN_MS)?;
        within("breaker.open_max_ms", self.open_max_ms, &(self.open_ms..=*BREAKER_OPEN_MS.end()))?;
        within("breaker.probes", u64::from(self.probes), &BREAKER_CALLS)?;
        within("breaker.ejected_percent", u64::from(self.ejected_percent), &(0..=100))
    }
}

impl Failover {
    fn check(&self, name: &str) -> Result<(), Rejection> {
        match (self.service.as_str(), self.zone.as_str()) {
            ("", "") => Err(refuse("failover", "names neither a service nor a zone")),
            (service, "") if service == name => {
                Err(refuse("failover", "names the service itself without a zone"))
            }
            (service, "") => check_service(service),
            ("", zone) => within("failover", zone.len() as u64, &(1..=ZONE_BYTES_MAX as u64)),
            _ => Err(refuse("failover", "names both a service and a zone in one step")),
        }
    }
}

/// A service with what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceInfo {
    /// Its name.
    pub name: String,
    /// Its settings.
    pub config: ServiceConfig,
    /// The registry's revision at its last change of settings.
    pub revision: u64,
    /// When it was first registered.
    pub created_at: UnixMs,
    /// When its settings were last changed.
    pub updated_at: UnixMs,
    /// Its instances.
    pub instances: u64,
    /// Those of them that are healthy and take work.
    pub healthy: u64,
    /// Since when no healthy instance is behind closed breakers; `None`: one is, or there never was one.
    pub down_since: Option<UnixMs>,
    /// When one was again after there was none; `None`: it was never down.
    pub recovered_at: Option<UnixMs>,
    /// The breaker of the whole service.
    pub breaker: BreakerStatus,
    /// Since when none of its instances is given up, as too many fell silent at once; `None`: they are given up.
    pub braked_since: Option<UnixMs>,
    /// Which service is called in its place; empty: none.
    pub failed_over_to: String,
    /// Since when that one is.
    pub failed_over_since: Option<UnixMs>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::rejection::Reason;

    fn dependency(service: &str, requirement: &str) -> Dependency {
        Dependency {
            service: service.to_owned(),
            requirement: requirement.to_owned(),
            optional: false,
        }
    }

    #[test]
    fn the_defaults_are_in_range() {
        assert_eq!(ServiceConfig::defaults().check("a"), Ok(()));
    }

    #[test]
    fn bounds_of_breakers_are_in_range_and_what_is_beyond_is_not() {
        type Setting = fn(&mut BreakerPolicy, u64);
        let check = |set: Setting, value: u64| {
            let mut config = ServiceConfig::defaults();
            set(&mut config.breaker, value);
            config.check("a").map_err(|rejection| (rejection.reason, rejection.message))
        };
        let settings: [(&str, Setting, [u64; 2]); 8] = [
            // The shortest and the longest time that it is open.
            (
                "breaker.open_ms",
                |b, n| (b.open_ms, b.open_max_ms) = (n, 3_600_000),
                [100, 3_600_000],
            ),
            ("breaker.open_max_ms", |b, n| (b.open_ms, b.open_max_ms) = (200, n), [200, 3_600_000]),
            ("breaker.window_ms", |b, n| b.window_ms = n, [1000, 600_000]),
            ("breaker.failures", |b, n| b.failures = number(n), [1, 10_000]),
            ("breaker.min_calls", |b, n| b.min_calls = number(n), [1, 10_000]),
            ("breaker.probes", |b, n| b.probes = number(n), [1, 10_000]),
            ("breaker.failure_percent", |b, n| b.failure_percent = number(n), [1, 100]),
            ("breaker.ejected_percent", |b, n| b.ejected_percent = number(n), [0, 100]),
        ];
        for (name, set, [least, most]) in settings {
            assert_eq!([least, most].map(|n| check(set, n)), [Ok(()), Ok(())], "{name}");
            for beyond in [least.checked_sub(1), Some(most + 1)].into_iter().flatten() {
                let (reason, says) = check(set, beyond).unwrap_err();
                assert_eq!(reason, Reason::InvalidConfig, "{name}={beyond}");
                assert!(says.contains(name), "{name}={beyond}: {says}");
            }
        }
    }

    fn number(n: u64) -> u32 {
        u32::try_from(n).unwrap()
    }

    #[test]
    fn every_range_is_checked() {
        for change in [
            (|c| c.version = "one".into()) as fn(&mut ServiceConfig),
            |c| c.health.ttl_ms = 999,
            |c| c.health.ttl_ms = 600_001,
            |c| c.health.check.kind = 9,
            |c| c.health.check.interval_ms = 0,
            |c| c.health.check.timeout_ms = 0,
            |c| c.health.check.failures = 0,
            |c| c.health.check.passes = 0,
            |c| {
                c.health.check.kind = CheckKind::Http as i32;
                c.health.check.path = "healthz".into();
            },
            |c| c.balance = 9,
            |c| c.panic_percent = 101,
            |c| c.failover = vec![Failover::default()],
            |c| c.failover = vec![Failover { service: "a".into(), zone: String::new() }],
            |c| c.failover = vec![Failover { service: "b".into(), zone: "z".into() }],
            |c| c.breaker.failures = 0,
            |c| c.breaker.failure_percent = 0,
            |c| c.breaker.open_max_ms = c.breaker.open_ms - 1,
            |c| c.breaker.probes = 0,
            |c| c.dependencies = vec![dependency("a", "")],
            |c| c.dependencies = vec![dependency("b", "one or two")],
            |c| c.dependencies = vec![dependency("b", ""), dependency("b", "^1")],
        ] {
            let mut config = ServiceConfig::defaults();
            change(&mut config);
            assert_eq!(config.check("a").unwrap_err().reason, Reason::InvalidConfig);
        }
        let mut config = ServiceConfig::defaults();
        config.dependencies = vec![dependency("b c", "")];
        assert_eq!(config.check("a").unwrap_err().reason, Reason::InvalidName);
    }
}
