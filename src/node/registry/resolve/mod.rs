//! Resolving: which instances of a service to call, from what this node knows of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Registry;
use super::view::Known;
use crate::balance::{Candidate, Draw, choose};
use crate::machine::registry::breaker::lets_through;
use crate::machine::registry::records::{InstanceRecord, ServiceRecord, service_not_found};
use crate::model::ids::UnixMs;
use crate::model::limits::RESOLVE_INSTANCES_MAX;
use crate::model::registry::{
    BalancePolicy, BreakerState, Failover, Health, InstanceInfo, Mode, check_requirement, meets,
};
use crate::model::rejection::{Reason, Rejection};

/// The least share of its weight that an instance gets in its slow start, thousandths.
const WARMTH_MILLI_MIN: u32 = 100;

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
    /// Only those that answer, however few they are.
    pub healthy_only: bool,
    /// Incarnations that will not do.
    pub except: Vec<u64>,
    /// All that would be chosen from, up to a bound; nothing counts as a call.
    pub all: bool,
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
    /// How one is to be chosen.
    pub policy: BalancePolicy,
    /// Of all that would be chosen from: how much of its share each gets by now, thousandths.
    pub warmth_milli: Vec<u32>,
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
    pub(in crate::node) fn choose(
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
        let mut pool = self.pool(wanted, now)?;
        // Only now: who will not do for this call is no reason to fall back to another service.
        pool.members.retain(|member| !wanted.except.contains(&member.number));
        let Some(service) = &pool.known.service else {
            return Err(service_not_found(&wanted.service));
        };
        if pool.members.is_empty() {
            return Err(none(&wanted.service, service, &pool.known, wanted));
        }
        let policy = wanted.policy.unwrap_or(service.config.balance());
        let (chosen, warmth_milli) = if wanted.all {
            let some = sample(&pool.members, dice);
            let slow = service.config.slow_start_ms;
            let warmth = some.iter().map(|member| warmth_milli(member, slow, now)).collect();
            (some, warmth)
        } else {
            let draw = Draw { dice, turn: self.calls.turn(), key: &wanted.key };
            (self.draw(&pool, service, policy, (wanted.count, &draw), now, at), Vec::new())
        };
        let instances = chosen.iter().map(|instance| instance.info(&service.config)).collect();
        let failed_over_to = (pool.name != wanted.service).then(|| pool.name.clone());
        Ok(Resolved {
            instances,
            failed_over_to,
            panic: pool.panic,
            revision,
            policy,
            warmth_milli,
        })
    }

    /// How many instances would be chosen from.
    pub(in crate::node) fn takers(&self, wanted: &Wanted, now: UnixMs) -> usize {
        self.pool(wanted, now).map_or(0, |pool| pool.members.len())
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
        // What a breaker shuts off is not called because nobody else is left.
        let panics = service.config.panic_percent > 0 && !wanted.healthy_only && !is_shut(service);
        let members = if panics { fitting(&known, wanted) } else { Vec::new() };
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
        if !wanted.healthy_only && healthy.len() * 100 < all.len() * percent {
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
                f64::from(warmth_milli(member, service.config.slow_start_ms, now)) / 1000.0,
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

/// Whether the breaker of the service as a whole lets nothing through.
fn is_shut(service: &ServiceRecord) -> bool {
    matches!(service.breaker.state(), BreakerState::Open | BreakerState::ForcedOpen)
}

/// Those that fit, answer, and are not shut off.
fn healthy(known: &Known, wanted: &Wanted) -> Vec<Arc<InstanceRecord>> {
    let shut = known.service.as_ref().is_some_and(is_shut);
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

/// How much of its share an instance gets by now, thousandths.
fn warmth_milli(record: &InstanceRecord, slow_start_ms: u64, now: UnixMs) -> u32 {
    let passed = now.since(UnixMs(record.health_since_ms));
    if passed >= slow_start_ms {
        return 1000;
    }
    u32::try_from(passed * 1000 / slow_start_ms).unwrap_or(1000).max(WARMTH_MILLI_MIN)
}

/// All, or so many of them as one answer takes: others for each number that nobody foresees.
fn sample(members: &[Arc<InstanceRecord>], dice: u64) -> Vec<Arc<InstanceRecord>> {
    let mut some = members.to_vec();
    if some.len() > RESOLVE_INSTANCES_MAX {
        some.sort_by_cached_key(|member| xxh3_64_with_seed(&member.number.to_be_bytes(), dice));
        some.truncate(RESOLVE_INSTANCES_MAX);
    }
    some
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
    if is_shut(service) {
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
mod tests;
