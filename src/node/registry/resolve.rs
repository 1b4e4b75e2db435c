//! Resolving: which instances of a service to call, from what this node knows of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::Registry;
use super::balance::{Candidate, Draw, choose};
use super::view::Known;
use crate::machine::registry::breaker::lets_through;
use crate::machine::registry::records::{InstanceRecord, ServiceRecord, service_not_found};
use crate::model::ids::UnixMs;
use crate::model::limits::RESOLVE_INSTANCES_MAX;
use crate::model::registry::{
    BalancePolicy, BreakerState, Failover, Health, InstanceInfo, Mode, check_requirement, meets,
};
use crate::model::rejection::{Reason, Rejection};

/// The least share of its weight that an instance gets in its slow start.
const WARMTH_MIN: f64 = 0.1;

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The service.
    pub service: String,
    /// How many instances, 1 to `limits::RESOLVE_INSTANCES_MAX`.
    pub count: usize,
    /// `None`: as the service says.
    pub policy: Option<BalancePolicy>,
    /// What the caller's calls belong to.
    pub key: String,
    /// Of the caller.
    pub zone: String,
    /// Which versions will do; empty: any.
    pub requirement: String,
    /// Which protocol an address has to have; empty: any.
    pub protocol: String,
}

/// What to call.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The best first.
    pub instances: Vec<InstanceInfo>,
    /// Whose they are, when not the service's own.
    pub failed_over_to: Option<String>,
    /// Too few are healthy, so that all count as healthy.
    pub panic: bool,
    /// The registry's revision that this shows.
    pub revision: u64,
}

/// Instances of a service that will do, and whether they had to be taken as they are.
struct Pool {
    name: String,
    known: Arc<Known>,
    members: Vec<Arc<InstanceRecord>>,
    panic: bool,
}

impl Registry {
    /// Chooses instances.
    ///
    /// # Errors
    /// `INVALID_CONFIG` for a requirement that is none, `INVALID_REQUEST`, `SERVICE_NOT_FOUND`,
    /// `NO_INSTANCE`.
    pub(super) fn choose(
        &self,
        wanted: &Wanted,
        dice: u64,
        now: UnixMs,
        at: Instant,
    ) -> Result<Resolved, Rejection> {
        check_requirement("requirement", &wanted.requirement)?;
        if !(1..=RESOLVE_INSTANCES_MAX).contains(&wanted.count) {
            let text = format!("{} instances are not 1 to {RESOLVE_INSTANCES_MAX}", wanted.count);
            return Err(Rejection::new(Reason::InvalidRequest, text));
        }
        let revision = self.view.revision();
        let pool = self.pool(wanted, now)?;
        let Some(service) = &pool.known.service else {
            return Err(service_not_found(&wanted.service));
        };
        let policy = wanted.policy.unwrap_or(service.config.balance());
        let turn = self.calls.turn();
        let draw = Draw { dice, turn, key: &wanted.key };
        let chosen = self.draw(&pool, service, policy, (wanted.count, &draw), now, at);
        let instances = chosen.iter().map(|instance| instance.info(&service.config)).collect();
        let failed_over_to = (pool.name != wanted.service).then(|| pool.name.clone());
        Ok(Resolved { instances, failed_over_to, panic: pool.panic, revision })
    }

    /// The instances that are chosen from: the service's own, else those that it falls back to.
    fn pool(&self, wanted: &Wanted, now: UnixMs) -> Result<Pool, Rejection> {
        let name = wanted.service.as_str();
        let Some(known) = self.view.service(name) else { return Err(service_not_found(name)) };
        let Some(service) = &known.service else { return Err(service_not_found(name)) };
        let own = healthy(&known, wanted);
        let is_back = recovered(service, now);
        if !own.is_empty() && is_back {
            return Ok(self.shape(name, Arc::clone(&known), own, wanted));
        }
        if let Some(pool) = self.fall_back(&service.config.failover, wanted) {
            return Ok(pool);
        }
        if !own.is_empty() {
            return Ok(self.shape(name, Arc::clone(&known), own, wanted));
        }
        let members =
            if service.config.panic_percent > 0 { fitting(&known, wanted) } else { Vec::new() };
        if members.is_empty() {
            return Err(none(name, service, &known, wanted));
        }
        Ok(Pool { name: name.to_owned(), known: Arc::clone(&known), members, panic: true })
    }

    /// The first service of a list that has somebody healthy, one step deep: lists do not run in
    /// circles then.
    fn fall_back(&self, steps: &[Failover], wanted: &Wanted) -> Option<Pool> {
        steps.iter().filter(|step| !step.service.is_empty()).find_map(|step| {
            let known = self.view.service(&step.service)?;
            let members = healthy(&known, wanted);
            (!members.is_empty()).then(|| self.shape(&step.service, known, members, wanted))
        })
    }

    /// Narrows down to the zone that comes first, or widens to all when too few are healthy.
    fn shape(
        &self,
        name: &str,
        known: Arc<Known>,
        healthy: Vec<Arc<InstanceRecord>>,
        wanted: &Wanted,
    ) -> Pool {
        let name = name.to_owned();
        let Some(service) = &known.service else {
            return Pool { name, known, members: healthy, panic: false };
        };
        let all = fitting(&known, wanted);
        let percent = usize::try_from(service.config.panic_percent).unwrap_or(0);
        if healthy.len() * 100 < all.len() * percent {
            return Pool { name, known, members: all, panic: true };
        }
        let members = in_zone(service, &healthy, &wanted.zone).unwrap_or(healthy);
        Pool { name, known, members, panic: false }
    }

    fn draw(
        &self,
        pool: &Pool,
        service: &ServiceRecord,
        policy: BalancePolicy,
        (count, draw): (usize, &Draw<'_>),
        now: UnixMs,
        at: Instant,
    ) -> Vec<Arc<InstanceRecord>> {
        let stats = self.calls.of(pool.members.iter().map(|member| member.number), at);
        let candidate = |(member, (latency_us, outstanding)): (&Arc<InstanceRecord>, _)| {
            let thousandths = u32::try_from(member.spec.weight_milli).unwrap_or(u32::MAX);
            (
                Arc::clone(member),
                f64::from(thousandths) / 1000.0,
                warmth(member, service.config.slow_start_ms, now),
                outstanding,
                latency_us,
            )
        };
        let mut left: Vec<_> = pool.members.iter().zip(stats).map(candidate).collect();
        // A breaker that is being tried lets through as many calls as it takes to close it.
        let tried = |member: &InstanceRecord, outstanding: u32| {
            member.breaker.state() == BreakerState::HalfOpen
                && outstanding >= service.config.breaker.probes
        };
        if left.iter().any(|(member, _, _, outstanding, _)| !tried(member, *outstanding)) {
            left.retain(|(member, _, _, outstanding, _)| !tried(member, *outstanding));
        }
        let mut chosen = Vec::with_capacity(count.min(left.len()));
        while chosen.len() < count {
            let candidates: Vec<_> = left
                .iter()
                .map(|(member, weight, warmth, outstanding, latency_us)| Candidate {
                    id: &member.spec.id,
                    weight: *weight,
                    warmth: *warmth,
                    outstanding: *outstanding,
                    latency_us: *latency_us,
                })
                .collect();
            let Some(best) = choose(policy, &candidates, draw) else { break };
            let (member, ..) = left.remove(best);
            self.calls.resolved(member.number, at);
            chosen.push(member);
        }
        chosen
    }
}

/// Whether an instance is what is wanted at all.
fn fits(record: &InstanceRecord, wanted: &Wanted) -> bool {
    let speaks = |protocol: &str| record.spec.addresses.iter().any(|a| a.protocol == protocol);
    record.mode() == Mode::Up
        && record.breaker.state() != BreakerState::ForcedOpen
        && meets(&record.spec.version, &wanted.requirement)
        && (wanted.protocol.is_empty() || speaks(&wanted.protocol))
}

fn fitting(known: &Known, wanted: &Wanted) -> Vec<Arc<InstanceRecord>> {
    known.instances.iter().filter(|i| fits(i, wanted)).cloned().collect()
}

/// Those that fit, answer, and are not shut off.
fn healthy(known: &Known, wanted: &Wanted) -> Vec<Arc<InstanceRecord>> {
    let shut = known.service.as_ref().is_some_and(|service| {
        matches!(service.breaker.state(), BreakerState::Open | BreakerState::ForcedOpen)
    });
    let answers = |i: &&Arc<InstanceRecord>| {
        fits(i, wanted) && i.health() == Health::Passing && lets_through(i)
    };
    known.instances.iter().filter(|_| !shut).filter(answers).cloned().collect()
}

/// Whether a service that was down has been back for long enough.
fn recovered(service: &ServiceRecord, now: UnixMs) -> bool {
    let back = service.recovered_at_ms;
    back == 0 || now.since(UnixMs(back)) >= service.config.failover_hold_ms
}

/// The instances of the caller's zone, else of the first zone in the list that has any; `None`: all
/// zones are the same.
fn in_zone(
    service: &ServiceRecord,
    healthy: &[Arc<InstanceRecord>],
    zone: &str,
) -> Option<Vec<Arc<InstanceRecord>>> {
    if zone.is_empty() || service.config.zones_equal {
        return None;
    }
    let steps = service.config.failover.iter().map(|step| step.zone.as_str());
    let zones = std::iter::once(zone).chain(steps.filter(|zone| !zone.is_empty()));
    zones
        .map(|zone| healthy.iter().filter(|i| i.spec.zone == zone).cloned().collect::<Vec<_>>())
        .find(|members| !members.is_empty())
}

/// How much of its share an instance gets by now.
fn warmth(record: &InstanceRecord, slow_start_ms: u64, now: UnixMs) -> f64 {
    let passed = now.since(UnixMs(record.health_since_ms));
    if slow_start_ms == 0 || passed >= slow_start_ms {
        return 1.0;
    }
    let part = |ms| std::time::Duration::from_millis(ms).as_secs_f64();
    (part(passed) / part(slow_start_ms)).max(WARMTH_MIN)
}

fn none(name: &str, service: &ServiceRecord, known: &Known, wanted: &Wanted) -> Rejection {
    let all = known.instances.len();
    let mut why = BTreeSet::new();
    for instance in &known.instances {
        why.insert(match (instance.health(), instance.mode()) {
            _ if !meets(&instance.spec.version, &wanted.requirement) => "of another version",
            (Health::Critical, _) => "critical",
            (_, Mode::Draining) => "draining",
            (_, Mode::Maintenance) => "in maintenance",
            _ if !lets_through(instance) => "shut off by a breaker",
            _ => "without such an address",
        });
    }
    if matches!(service.breaker.state(), BreakerState::Open | BreakerState::ForcedOpen) {
        why.insert("behind the service's breaker");
    }
    let why = if why.is_empty() {
        "there are none".to_owned()
    } else {
        format!("{all} are {}", why.into_iter().collect::<Vec<_>>().join(", "))
    };
    let text = format!(
        "no instance of {name} takes calls: {why}; look at them with: mhub service info {name}"
    );
    Rejection::new(Reason::NoInstance, text).with("service", name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::registry::changes::ChangeRecord;
    use crate::model::registry::{InstanceSpec, ServiceConfig};
    use crate::node::registry::egress::Egress;
    use crate::node::registry::view::News;
    use crate::runtime::clock;

    struct Instance(&'static str, &'static str, Health);

    /// A service: its name, its settings, its instances.
    type Told<'t> = (&'t str, fn(&mut ServiceConfig), &'t [Instance]);

    fn registry(services: &[Told<'_>]) -> Registry {
        let registry = Registry::new(Egress::default());
        let mut changes = Vec::new();
        for (name, change, instances) in services {
            let mut config = ServiceConfig::defaults();
            config.slow_start_ms = 0;
            change(&mut config);
            let service = ServiceRecord { config, ..ServiceRecord::default() };
            let (service_name, service_after) = ((*name).to_owned(), Some(service));
            changes.push(ChangeRecord {
                service: service_name,
                service_after,
                ..Default::default()
            });
            for Instance(id, zone, health) in *instances {
                let spec = InstanceSpec {
                    service: (*name).to_owned(),
                    id: (*id).to_owned(),
                    zone: (*zone).to_owned(),
                    version: "1.0.0".to_owned(),
                    weight_milli: 1000,
                    ..InstanceSpec::default()
                };
                let health = *health as i32;
                let record = InstanceRecord { spec, health, ..InstanceRecord::default() };
                changes.push(ChangeRecord {
                    service: (*name).to_owned(),
                    instance: (*id).to_owned(),
                    instance_after: Some(record),
                    service_after: None,
                });
            }
        }
        registry.view.take(News::Changes((1..).zip(changes).collect(), false));
        registry
    }

    fn resolve(registry: &Registry, change: impl FnOnce(&mut Wanted)) -> Result<String, Reason> {
        let mut wanted = Wanted { service: "s".into(), count: 1000, ..Wanted::default() };
        change(&mut wanted);
        let found = registry.choose(&wanted, 7, UnixMs(100_000), clock::now());
        let found = found.map_err(|rejection| rejection.reason)?;
        let mut ids: Vec<_> = found.instances.iter().map(|i| i.spec.id.as_str()).collect();
        ids.sort_unstable();
        let panic = if found.panic { "!" } else { "" };
        Ok(format!("{}{}{panic}", found.failed_over_to.unwrap_or_default(), ids.join(",")))
    }

    use Health::{Critical, Passing};

    #[test]
    fn only_those_that_answer_are_given() {
        let registry = registry(&[(
            "s",
            |_| (),
            &[Instance("a", "", Passing), Instance("b", "", Critical), Instance("c", "", Passing)],
        )]);
        assert_eq!(resolve(&registry, |_| ()).unwrap(), "a,c");
        assert_eq!(resolve(&registry, |w| w.requirement = "^1".into()).unwrap(), "a,c");
        assert_eq!(resolve(&registry, |w| w.requirement = "^2".into()), Err(Reason::NoInstance));
        assert_eq!(resolve(&registry, |w| w.protocol = "http".into()), Err(Reason::NoInstance));
        assert_eq!(resolve(&registry, |w| w.service = "t".into()), Err(Reason::ServiceNotFound));
        assert_eq!(
            resolve(&registry, |w| w.requirement = "one".into()),
            Err(Reason::InvalidConfig)
        );
        assert_eq!(resolve(&registry, |w| w.count = 0), Err(Reason::InvalidRequest));
    }

    #[test]
    fn when_too_few_answer_all_are_given() {
        let few =
            &[Instance("a", "", Passing), Instance("b", "", Critical), Instance("c", "", Critical)];
        assert_eq!(resolve(&registry(&[("s", |_| (), few)]), |_| ()).unwrap(), "a,b,c!");
        let calm = registry(&[("s", |c| c.panic_percent = 0, few)]);
        assert_eq!(resolve(&calm, |_| ()).unwrap(), "a");
        let none = registry(&[("s", |c| c.panic_percent = 0, &[Instance("a", "", Critical)])]);
        assert_eq!(resolve(&none, |_| ()), Err(Reason::NoInstance));
    }

    #[test]
    fn the_callers_zone_comes_first() {
        let three = &[
            Instance("a", "x", Passing),
            Instance("b", "y", Passing),
            Instance("c", "z", Critical),
        ];
        let plain = registry(&[("s", |_| (), three)]);
        let from = |registry: &Registry, zone: &str| {
            let zone = zone.to_owned();
            resolve(registry, |w| w.zone = zone).unwrap()
        };
        assert_eq!(from(&plain, "x"), "a");
        assert_eq!(from(&plain, "z"), "a,b", "nobody answers there");
        assert_eq!(from(&plain, ""), "a,b");
        assert_eq!(from(&registry(&[("s", |c| c.zones_equal = true, three)]), "x"), "a,b");
        let next = |c: &mut ServiceConfig| {
            c.failover = vec![Failover { service: String::new(), zone: "y".into() }];
        };
        assert_eq!(from(&registry(&[("s", next, three)]), "z"), "b");
    }

    #[test]
    fn a_service_that_is_down_falls_back_and_comes_back_late() {
        let back_up = |c: &mut ServiceConfig| {
            c.failover = vec![
                Failover { service: "gone".into(), zone: String::new() },
                Failover { service: "t".into(), zone: String::new() },
            ];
        };
        let other = &[Instance("b", "", Passing)];
        let registry =
            registry(&[("s", back_up, &[Instance("a", "", Critical)]), ("t", |_| (), other)]);
        assert_eq!(resolve(&registry, |_| ()).unwrap(), "tb");
        // It is back, five seconds ago.
        let known = registry.view.service("s").unwrap();
        let mut service = known.service.clone().unwrap();
        service.recovered_at_ms = 95_000;
        let mut instance = (*known.instances[0]).clone();
        instance.health = Passing as i32;
        let put = |service: ServiceRecord, revision| {
            let change = ChangeRecord {
                service: "s".into(),
                service_after: Some(service),
                ..ChangeRecord::default()
            };
            registry.view.take(News::Changes(vec![(revision, change)], false));
        };
        put(service.clone(), 100);
        let change = ChangeRecord {
            service: "s".into(),
            instance: "a".into(),
            instance_after: Some(instance),
            service_after: None,
        };
        registry.view.take(News::Changes(vec![(101, change)], false));
        assert_eq!(resolve(&registry, |_| ()).unwrap(), "tb");
        service.recovered_at_ms = 90_000;
        put(service, 102);
        assert_eq!(resolve(&registry, |_| ()).unwrap(), "a");
    }

    #[test]
    fn a_breaker_that_is_tried_lets_few_calls_through() {
        let two = &[Instance("a", "", Passing), Instance("b", "", Passing)];
        let registry = registry(&[("s", |c| c.balance = BalancePolicy::RoundRobin as i32, two)]);
        let known = registry.view.service("s").unwrap();
        let mut records: Vec<_> = known.instances.iter().map(|i| (**i).clone()).collect();
        records[0].breaker.state = BreakerState::HalfOpen as i32;
        let changes = (100..).zip(records).map(|(number, record)| {
            let record = InstanceRecord { number, ..record };
            let (service, instance) = ("s".to_owned(), record.spec.id.clone());
            let instance_after = Some(record);
            (number, ChangeRecord { service, instance, instance_after, service_after: None })
        });
        registry.view.take(News::Changes(changes.collect(), false));
        let of_a = (0..20).filter(|_| resolve(&registry, |w| w.count = 1).unwrap() == "a").count();
        assert_eq!(of_a, 3);
    }

    #[test]
    fn warmth_grows() {
        let record = InstanceRecord { health_since_ms: 1000, ..InstanceRecord::default() };
        let at = |ms| (warmth(&record, 10_000, UnixMs(ms)) * 100.0).round();
        assert_eq!([at(1000), at(3000), at(6000), at(11_000)], [10.0, 20.0, 50.0, 100.0]);
    }
}
