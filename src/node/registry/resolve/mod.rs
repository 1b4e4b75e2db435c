//! Resolving: which instances of a service to call, from what this node knows of it.

mod all;
mod held;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use prost::Message as _;

use super::Registry;
use super::view::Known;
use crate::balance::{Candidate, Draw, choose, turns};
use crate::machine::registry::breaker::{lets_any_through, lets_through};
use crate::machine::registry::records::{InstanceRecord, ServiceRecord, service_not_found};
use crate::model::ids::UnixMs;
use crate::model::limits::{PROBES_RETRY_MS, RESOLVE_BYTES_TARGET, RESOLVE_INSTANCES_MAX};
use crate::model::registry::{
    BalancePolicy, BreakerState, Failover, Health, InstanceInfo, Mode, check_requirement, meets,
};
use crate::model::rejection::{Reason, Rejection};
use crate::node::Node;

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
    /// Incarnations that will not do: others are taken, of other zones where need be, but not of other services.
    pub except: Vec<u64>,
    /// Services of the failover list that nobody falls back to.
    pub passed_over: Vec<String>,
    /// All that would be chosen from, up to a bound, also those that are excepted; nothing counts as a call.
    pub all: bool,
}

impl Wanted {
    /// Whether a step of the failover list is a service that may be called.
    fn may_fall_back_to(&self, step: &str) -> bool {
        !step.is_empty() && !self.passed_over.iter().any(|name| name == step)
    }
}

/// What to call.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The best first.
    pub instances: Vec<InstanceInfo>,
    /// Whose they are, when not the service's own.
    pub failed_over_to: Option<String>,
    /// Of which zone the first of them is, when zones matter and it is not the caller's.
    pub other_zone: Option<String>,
    /// Too few are healthy, so that all count as healthy.
    pub panic: bool,
    /// The registry's revision that this shows.
    pub revision: u64,
    /// How one is to be chosen.
    pub policy: BalancePolicy,
    /// Of all that would be chosen from: how much of its share each gets by now, thousandths.
    pub warmth_milli: Vec<u32>,
    /// Of all that would be chosen from: how many calls at once a half-open breaker lets through to each;
    /// 0: any number.
    pub probes: u32,
    /// The breaker of the service as a whole is half-open: so many to all of them together.
    pub service_half_open: bool,
    /// Of all that would be chosen from: whom from when breakers that are being tried let no call more through to
    /// those above, in this order.
    pub next: Vec<Self>,
}

/// Instances of a service that will do, and whether they had to be taken as they are.
struct Pool {
    name: String,
    known: Arc<Known>,
    members: Vec<Arc<InstanceRecord>>,
    panic: bool,
}

impl Pool {
    /// Some of its instances, as callers see them.
    fn tell(
        &self,
        service: &ServiceRecord,
        wanted: &Wanted,
        chosen: &[Arc<InstanceRecord>],
        revision: u64,
    ) -> Resolved {
        let breaker = &service.config.breaker;
        Resolved {
            instances: chosen.iter().map(|instance| instance.info(&service.config)).collect(),
            failed_over_to: (self.name != wanted.service).then(|| self.name.clone()),
            other_zone: other_zone(service, wanted, chosen),
            panic: self.panic,
            revision,
            policy: wanted.policy.unwrap_or(service.config.balance()),
            warmth_milli: Vec::new(),
            probes: if breaker.disabled { 0 } else { breaker.probes },
            service_half_open: service.breaker.state() == BreakerState::HalfOpen,
            next: Vec::new(),
        }
    }
}

impl Node {
    /// How often this node chose instances of another zone than the caller's, since it started.
    #[must_use]
    pub fn resolved_out_of_zone(&self) -> u64 {
        self.registry.out_of_zone.load(Ordering::Relaxed)
    }
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
        if wanted.all {
            return self.all(wanted, dice, now, revision);
        }
        let mut pool = self.pool(wanted, now, Some(at))?;
        // Only now: who will not do for this call is no reason to fall back to another service.
        pool.members.retain(|member| !wanted.except.contains(&member.number));
        let Some(service) = &pool.known.service else {
            return Err(service_not_found(&wanted.service));
        };
        if pool.members.is_empty() {
            return Err(none(&wanted.service, service, &pool.known, wanted));
        }
        let policy = wanted.policy.unwrap_or(service.config.balance());
        let draw = Draw { dice, turn: self.turn(policy, &pool, wanted, dice), key: &wanted.key };
        let count = wanted.count.min(self.room(&pool.known, at));
        let chosen = self.draw(&pool, service, policy, (count, &draw), now, at);
        let found = pool.tell(service, wanted, &chosen, revision);
        if found.other_zone.is_some() {
            self.out_of_zone.fetch_add(1, Ordering::Relaxed);
        }
        Ok(found)
    }

    /// The number of a choice, for policies that go round: callers that are given different instances do not take
    /// each other's turns.
    fn turn(&self, policy: BalancePolicy, pool: &Pool, wanted: &Wanted, dice: u64) -> u64 {
        match policy {
            BalancePolicy::RoundRobin | BalancePolicy::Weighted => {
                let words = [&pool.name, &wanted.zone, &wanted.requirement, &wanted.protocol];
                self.turns.take(turns::pool(&words.map(String::as_str)), dice)
            }
            BalancePolicy::P2cEwma
            | BalancePolicy::Random
            | BalancePolicy::LeastOutstanding
            | BalancePolicy::ConsistentHash => 0,
        }
    }

    /// Whose instances would be chosen from, and the incarnations of those of all zones; `None`: nobody's.
    pub(in crate::node) fn takers(
        &self,
        wanted: &Wanted,
        now: UnixMs,
    ) -> Option<(String, Vec<u64>)> {
        let anywhere = Wanted { zone: String::new(), ..wanted.clone() };
        let pool = self.pool(&anywhere, now, None).ok()?;
        Some((pool.name, pool.members.iter().map(|member| member.number).collect()))
    }

    /// The instances that are chosen from: the service's own, else those that it falls back to. Without
    /// an instant, it does not matter what is under way to breakers that are being tried.
    fn pool(&self, wanted: &Wanted, now: UnixMs, at: Option<Instant>) -> Result<Pool, Rejection> {
        let name = wanted.service.as_str();
        let Some(known) = self.view.service(name) else { return Err(service_not_found(name)) };
        let Some(service) = &known.service else { return Err(service_not_found(name)) };
        let healthy = healthy(&known, wanted);
        let own = self.shape(name, &known, &healthy, wanted, at);
        if own.is_some() && recovered(service, now) {
            return own.ok_or_else(|| tried(name));
        }
        let found = self.fall_back(&service.config.failover, wanted, at).or(own);
        if let Some(pool) = found {
            return Ok(pool);
        }
        let is_panic = healthy.is_empty() && panics(service, wanted);
        let left = if is_panic { unshut(&known, wanted) } else { healthy };
        let members = self.with_room(&known, &left, at);
        if members.is_empty() {
            let nobody = || none(name, service, &known, wanted);
            return Err(if left.is_empty() { nobody() } else { tried(name) });
        }
        Ok(Pool { name: name.to_owned(), known: Arc::clone(&known), members, panic: true })
    }

    /// The first service of a list that has somebody healthy, one step deep: lists do not run in
    /// circles then.
    fn fall_back(&self, steps: &[Failover], wanted: &Wanted, at: Option<Instant>) -> Option<Pool> {
        steps.iter().filter(|step| wanted.may_fall_back_to(&step.service)).find_map(|step| {
            let known = self.view.service(&step.service)?;
            self.shape(&step.service, &known, &healthy(&known, wanted), wanted, at)
        })
    }

    /// Narrows down to the zone that comes first, as long as anybody in it will do, or widens to all when too
    /// few are healthy; `None`: nobody is left.
    ///
    /// As with Envoy's panic threshold, who is shut off by a breaker is not healthy, and the zone does not
    /// matter in a panic. Unlike there, a panic disregards only what renewals and checks say: a breaker opened
    /// as calls failed, is bounded in how many it shuts off, and has its own way of trying.
    fn shape(
        &self,
        name: &str,
        known: &Arc<Known>,
        healthy: &[Arc<InstanceRecord>],
        wanted: &Wanted,
        at: Option<Instant>,
    ) -> Option<Pool> {
        let service = known.service.as_ref()?;
        if healthy.is_empty() {
            return None;
        }
        let all = known.instances.iter().filter(|i| fits(i, wanted)).count();
        let percent = usize::try_from(service.config.panic_percent).unwrap_or(0);
        let panic = !wanted.healthy_only && healthy.len() * 100 < all * percent;
        let members = if panic {
            self.with_room(known, &unshut(known, wanted), at)
        } else {
            let members = self.with_room(known, healthy, at);
            in_zone(service, &members, wanted).unwrap_or(members)
        };
        let (name, known) = (name.to_owned(), Arc::clone(known));
        (!members.is_empty()).then_some(Pool { name, known, members, panic })
    }

    /// How many calls more a service's breaker lets through: while it is being tried, as many as it takes
    /// to close it are under way at once.
    fn room(&self, known: &Known, at: Instant) -> usize {
        let Some(service) = &known.service else { return usize::MAX };
        if !is_tried_whole(service) {
            return usize::MAX;
        }
        let stats = self.calls.of(known.instances.iter().map(|member| member.number), at);
        let under_way =
            stats.iter().map(|(_, outstanding)| *outstanding).fold(0, u32::saturating_add);
        let room = service.config.breaker.probes.saturating_sub(under_way);
        usize::try_from(room).unwrap_or(usize::MAX)
    }

    /// Those whose breakers, and whose service's, let one call more through.
    fn with_room(
        &self,
        known: &Known,
        members: &[Arc<InstanceRecord>],
        at: Option<Instant>,
    ) -> Vec<Arc<InstanceRecord>> {
        let (Some(service), Some(at)) = (&known.service, at) else { return members.to_vec() };
        if self.room(known, at) == 0 {
            return Vec::new();
        }
        let policy = &service.config.breaker;
        let is_tried = |member: &InstanceRecord| {
            !policy.disabled && member.breaker.state() == BreakerState::HalfOpen
        };
        if !members.iter().any(|member| is_tried(member)) {
            return members.to_vec();
        }
        let stats = self.calls.of(members.iter().map(|member| member.number), at);
        let outstanding = stats.into_iter().map(|(_, outstanding)| outstanding);
        let room = members.iter().zip(outstanding);
        let room = room.filter(|(member, calls)| !is_tried(member) || *calls < policy.probes);
        room.map(|(member, _)| Arc::clone(member)).collect()
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
        let (mut chosen, mut bytes) = (Vec::with_capacity(count.min(left.len())), 0);
        while chosen.len() < count && bytes < RESOLVE_BYTES_TARGET {
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
            if count > 1 {
                bytes += member.encoded_len();
            }
            chosen.push(member);
        }
        chosen
    }
}

/// Whether the breaker of a service as a whole is being tried.
fn is_tried_whole(service: &ServiceRecord) -> bool {
    !service.config.breaker.disabled && service.breaker.state() == BreakerState::HalfOpen
}

/// Whether those are called who do not answer, when nobody does. What the breaker of a service shuts off is not
/// called because nobody else is left.
fn panics(service: &ServiceRecord, wanted: &Wanted) -> bool {
    service.config.panic_percent > 0 && !wanted.healthy_only && lets_any_through(service)
}

/// Whether an instance is what is wanted at all.
fn fits(record: &InstanceRecord, wanted: &Wanted) -> bool {
    let speaks = |protocol: &str| record.spec.addresses.iter().any(|a| a.protocol == protocol);
    record.mode() == Mode::Up
        && record.breaker.state() != BreakerState::ForcedOpen
        && meets(&record.spec.version, &wanted.requirement)
        && (wanted.protocol.is_empty() || speaks(&wanted.protocol))
}

/// Those that fit and are not shut off, be they healthy or not.
fn unshut(known: &Known, wanted: &Wanted) -> Vec<Arc<InstanceRecord>> {
    known.instances.iter().filter(|i| fits(i, wanted) && lets_through(i)).cloned().collect()
}

/// The refusal while a breaker is being tried by as many calls as it lets through.
fn tried(name: &str) -> Rejection {
    let text = format!(
        "a breaker of {name} is being tried, by as many calls as it lets through: call again when they are over"
    );
    Rejection::new(Reason::NoInstance, text).with("service", name).retry_after_ms(PROBES_RETRY_MS)
}

/// Those that fit, answer, and are not shut off.
fn healthy(known: &Known, wanted: &Wanted) -> Vec<Arc<InstanceRecord>> {
    let shut = known.service.as_ref().is_some_and(|service| !lets_any_through(service));
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

/// The instances of the caller's zone, else of the first zone in the list that has any that will do; `None`:
/// all zones are the same.
fn in_zone(
    service: &ServiceRecord,
    healthy: &[Arc<InstanceRecord>],
    wanted: &Wanted,
) -> Option<Vec<Arc<InstanceRecord>>> {
    if wanted.zone.is_empty() || service.config.zones_equal {
        return None;
    }
    let steps = service.config.failover.iter().map(|step| step.zone.as_str());
    let zones = std::iter::once(wanted.zone.as_str()).chain(steps.filter(|zone| !zone.is_empty()));
    let of = |zone: &str| {
        let of =
            healthy.iter().filter(|i| i.spec.zone == zone && !wanted.except.contains(&i.number));
        of.cloned().collect::<Vec<_>>()
    };
    zones.map(of).find(|members| !members.is_empty())
}

/// Of which zone the first of those is who were chosen, when zones matter and it is not the caller's.
fn other_zone(
    service: &ServiceRecord,
    wanted: &Wanted,
    chosen: &[Arc<InstanceRecord>],
) -> Option<String> {
    let zones_matter = !wanted.zone.is_empty() && !service.config.zones_equal;
    let zone = &chosen.first().filter(|_| zones_matter)?.spec.zone;
    (*zone != wanted.zone).then(|| zone.clone())
}

/// How much of its share an instance gets by now, thousandths.
fn warmth_milli(record: &InstanceRecord, slow_start_ms: u64, now: UnixMs) -> u32 {
    let passed = now.since(UnixMs(record.health_since_ms));
    if passed >= slow_start_ms {
        return 1000;
    }
    u32::try_from(passed * 1000 / slow_start_ms).unwrap_or(1000).max(WARMTH_MILLI_MIN)
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
            _ if !lets_any_through(service) => "behind the service's breaker",
            _ => "without such an address",
        });
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
