//! The registry against a naive model: random registrations, losses, checks, breakers and time.

use std::collections::{BTreeMap, BTreeSet};

use super::random::Dice;
use super::registry_random::{SERVICES, after_open, breaker_state, config, name, spec};
use super::registry_view::check_watch;
use super::{apply, first_seed, sequences};
use crate::machine::mem::MemKv;
use crate::machine::registry::records::ServiceRecord;
use crate::machine::registry::{graph, query, watch};
use crate::model::command::{
    CommandBatch, DeleteService, DeregisterInstances, HealthChange, InstanceName, Kind, PutService,
    RegisterInstances, SetBreaker, SetHealth, SetMode, Tick,
};
use crate::model::limits::REGISTRY_LOG_MAX;
use crate::model::outcome::Outcome;
use crate::model::registry::{BreakerState, CheckKind, Health, Mode, ServiceConfig, Signal};
use crate::model::rejection::Reason;

/// An instance as simple as can be: what was said of it, and all that it ever was.
#[derive(Clone, Debug)]
struct Known {
    owner: String,
    lost_at: Option<u64>,
    failing: bool,
    mode: Mode,
    by_operator: bool,
    process: String,
    passing: bool,
    /// Since when it is, or is not.
    since: u64,
    /// When it changed, ever.
    changed: Vec<u64>,
    held_until: u64,
    holds: u32,
    breaker: BreakerState,
    opened: u64,
}

#[derive(Clone, Debug, Default)]
struct World {
    now: u64,
    /// Few instances, whose health is told of all the time.
    restless: bool,
    services: BTreeMap<String, ServiceConfig>,
    /// Breakers of services that did not stay as they were made.
    breakers: BTreeMap<String, BreakerState>,
    /// Services that somebody took calls for, and those for which nobody does any more.
    available_once: BTreeSet<String>,
    down: BTreeSet<String>,
    instances: BTreeMap<(String, String), Known>,
}

impl World {
    /// Whether the dependencies run in a circle through a service, by trying all ways.
    fn circles(&self, name: &str, config: &ServiceConfig) -> bool {
        let (mut open, mut seen): (Vec<String>, BTreeSet<String>) = (Vec::new(), BTreeSet::new());
        open.extend(config.dependencies.iter().map(|d| d.service.clone()));
        while let Some(next) = open.pop() {
            if next == name {
                return true;
            }
            if seen.insert(next.clone()) {
                let known = self.services.get(&next);
                open.extend(
                    known
                        .into_iter()
                        .flat_map(|c| c.dependencies.iter())
                        .map(|d| d.service.clone()),
                );
            }
        }
        false
    }

    fn is_checked(&self, service: &str) -> bool {
        self.services.get(service).is_some_and(|c| c.health.check.kind() != CheckKind::None)
    }

    fn healthy(&self, service: &str) -> u64 {
        let of = self.instances.iter().filter(|((s, _), _)| s == service);
        of.filter(|(_, i)| i.passing && i.mode == Mode::Up).count() as u64
    }

    fn breaker(&self, service: &str) -> BreakerState {
        self.breakers.get(service).copied().unwrap_or(BreakerState::Closed)
    }

    /// Whether somebody answers behind breakers that are closed.
    fn is_available(&self, service: &str) -> bool {
        let closed = |b| matches!(b, BreakerState::Closed | BreakerState::ForcedClosed);
        let mut of = self.instances.iter().filter(|((s, _), _)| s == service);
        closed(self.breaker(service))
            && of.any(|(_, i)| i.passing && i.mode == Mode::Up && closed(i.breaker))
    }

    fn ejected(&self, service: &str) -> u64 {
        let of = self.instances.iter().filter(|((s, _), _)| s == service);
        let shut = |b| matches!(b, BreakerState::Open | BreakerState::ForcedOpen);
        of.filter(|(_, i)| shut(i.breaker)).count() as u64
    }

    /// Those that nobody forced.
    fn close_breakers(&mut self, service: &str) {
        let tripped = |b| matches!(b, BreakerState::Open | BreakerState::HalfOpen);
        self.breakers.retain(|name, b| name != service || !tripped(*b));
        let of = self.instances.iter_mut().filter(|((s, _), k)| s == service && tripped(k.breaker));
        for (_, known) in of {
            (known.breaker, known.opened) = (BreakerState::Closed, 0);
        }
    }

    fn count(&self, service: &str) -> u64 {
        self.instances.keys().filter(|(s, _)| s == service).count() as u64
    }
}

impl Known {
    /// Judges it: six changes within ten minutes, this one counted, hold it; the end of a hold is none.
    fn judge(&mut self, now: u64) {
        let is_let_go = self.held_until > 0 && self.held_until <= now;
        if self.held_until <= now {
            self.held_until = 0;
        }
        let wanted = self.lost_at.is_none() && !self.failing && self.held_until == 0;
        if wanted == self.passing {
            return;
        }
        self.since = now;
        // Sixteen changes are remembered.
        let kept = self.changed.iter().rev().take(16);
        let recent = kept.filter(|at| now - **at < 600_000).count();
        if recent == 0 && !is_let_go {
            self.holds = 0;
        }
        let mut to = wanted;
        if recent >= 5 && !is_let_go {
            self.held_until = now + (30_000 << self.holds).min(600_000);
            self.holds += 1;
            to = false;
        }
        if to != self.passing {
            self.passing = to;
            self.changed.push(now);
        }
    }
}

/// A command, and why it is refused, if it is.
type Said = (Kind, Option<Reason>);

/// A command, and what the model says to it: a reason, or nothing. The numbers of instances are the
/// machine's; commands that need one take it from there.
fn step(dice: &mut Dice, world: &mut World, kv: &MemKv) -> Said {
    let what = if world.restless && dice.below(2) == 0 { 7 } else { dice.below(10) };
    match what {
        0 => put(dice, world),
        1 => delete(dice, world),
        2..5 => register(dice, world),
        5 => deregister(dice, world),
        6 => set_mode(dice, world),
        7 | 8 => set_health(dice, world, kv),
        _ => set_breaker(dice, world),
    }
}

fn put(dice: &mut Dice, world: &mut World) -> Said {
    let (name, config) = (SERVICES[dice.below(5) as usize].to_owned(), config(dice));
    let reason = if config.dependencies.iter().any(|d| d.service == name) {
        Some(Reason::InvalidConfig)
    } else if world.circles(&name, &config) {
        Some(Reason::DependencyCycle)
    } else {
        let was_checked = world.is_checked(&name);
        let before = world.services.insert(name.clone(), config.clone());
        if before.is_some_and(|c| !c.breaker.disabled) && config.breaker.disabled {
            world.close_breakers(&name);
        }
        if was_checked && !world.is_checked(&name) {
            let now = world.now;
            let of = world.instances.iter_mut().filter(|((s, _), k)| *s == name && k.failing);
            for (_, known) in of {
                known.failing = false;
                known.judge(now);
            }
        }
        None
    };
    let request_id = String::new();
    (Kind::PutService(PutService { name, config, if_revision: 0, request_id }), reason)
}

fn delete(dice: &mut Dice, world: &mut World) -> Said {
    let name = SERVICES[dice.below(5) as usize].to_owned();
    let reason = if !world.services.contains_key(&name) {
        Some(Reason::ServiceNotFound)
    } else if world.count(&name) > 0 {
        Some(Reason::ServiceInUse)
    } else {
        world.services.remove(&name);
        world.breakers.remove(&name);
        world.available_once.remove(&name);
        world.down.remove(&name);
        None
    };
    (Kind::DeleteService(DeleteService { name, request_id: String::new() }), reason)
}

fn register(dice: &mut Dice, world: &mut World) -> Said {
    let now = world.now;
    let spec = spec(dice, world.restless);
    let key = (spec.service.clone(), spec.id.clone());
    let failing = world.is_checked(&key.0);
    let reason = match world.instances.get_mut(&key) {
        Some(known) if known.owner != spec.owner => Some(Reason::InstanceOwned),
        Some(known) => {
            let again = known.process == spec.process;
            if !(known.by_operator || (again && !spec.process.is_empty())) {
                known.mode = Mode::Up;
            }
            if known.passing && !again {
                known.since = now;
            }
            (known.lost_at, known.process) = (None, spec.process.clone());
            known.judge(now);
            None
        }
        None => {
            let defaults = ServiceConfig::defaults();
            world.services.entry(key.0.clone()).or_insert(defaults);
            let known = Known {
                owner: spec.owner.clone(),
                lost_at: None,
                failing,
                mode: Mode::Up,
                by_operator: false,
                process: spec.process.clone(),
                passing: !failing,
                since: now,
                changed: vec![now],
                held_until: 0,
                holds: 0,
                breaker: BreakerState::Closed,
                opened: 0,
            };
            world.instances.insert(key, known);
            None
        }
    };
    (Kind::RegisterInstances(RegisterInstances { instances: vec![spec] }), reason)
}

fn deregister(dice: &mut Dice, world: &mut World) -> Said {
    let (name, force) = (name(dice, world.restless), dice.below(8) == 0);
    let key = (name.service.clone(), name.id.clone());
    let reason = match world.instances.get(&key) {
        None => Some(Reason::InstanceNotFound),
        Some(known) if !force && known.owner != name.owner => Some(Reason::InstanceOwned),
        Some(_) => {
            world.instances.remove(&key);
            None
        }
    };
    let instances = vec![name];
    (Kind::DeregisterInstances(DeregisterInstances { instances, force }), reason)
}

fn set_mode(dice: &mut Dice, world: &mut World) -> Said {
    let now = world.now;
    let mode = Mode::try_from(dice.below(3) as i32).unwrap();
    let (name, force) = (name(dice, world.restless), dice.below(4) == 0);
    let known = world.instances.get_mut(&(name.service.clone(), name.id.clone()));
    let reason = match known {
        None => Some(Reason::InstanceNotFound),
        Some(known) if !force && known.owner != name.owner => Some(Reason::InstanceOwned),
        // An operator's mode gives way to no other one of its owner's.
        Some(known) if known.by_operator && !force && mode != Mode::Up => None,
        Some(known) => {
            if known.mode == Mode::Maintenance && mode != Mode::Maintenance {
                known.lost_at = known.lost_at.map(|_| now);
            }
            (known.mode, known.by_operator) = (mode, force && mode != Mode::Up);
            None
        }
    };
    let mode = mode as i32;
    (Kind::SetMode(SetMode { instances: vec![name], mode, force, ..SetMode::default() }), reason)
}

fn set_health(dice: &mut Dice, world: &mut World, kv: &MemKv) -> Said {
    let now = world.now;
    let name = name(dice, world.restless);
    let found = query::instances(kv, &name.service).unwrap();
    let found = found.into_iter().find(|record| record.spec.id == name.id);
    let stale = dice.below(8) == 0;
    let incarnation = found.map_or(7, |record| record.number + u64::from(stale));
    let (check, ok) = (dice.below(2) == 0, dice.below(2) == 0);
    let checked = world.is_checked(&name.service);
    let known = world.instances.get_mut(&(name.service.clone(), name.id.clone()));
    if let Some(known) = known.filter(|_| !stale) {
        if check {
            known.failing = checked && !ok;
        } else if ok {
            known.lost_at = None;
        } else {
            known.lost_at.get_or_insert(now);
        }
        known.judge(now);
    }
    let signal = if check { Signal::Check } else { Signal::Ttl } as i32;
    let InstanceName { service, id, .. } = name;
    let reason = "said so".to_owned();
    let change = HealthChange { service, id, incarnation, signal, ok, reason };
    (Kind::SetHealth(SetHealth { changes: vec![change] }), None)
}

fn set_breaker(dice: &mut Dice, world: &mut World) -> Said {
    let InstanceName { service, id: instance, .. } = name(dice, world.restless);
    let (from, to) = (breaker_state(dice), breaker_state(dice));
    let forced =
        matches!(to, BreakerState::ForcedOpen | BreakerState::ForcedClosed) || dice.below(8) == 0;
    if dice.below(4) == 0 {
        return set_service_breaker(world, service, (from, to, forced));
    }
    let (count, ejected) = (world.count(&service), world.ejected(&service));
    let known = world.instances.get_mut(&(service.clone(), instance.clone()));
    let percent = world.services.get(&service).map_or(0, |c| u64::from(c.breaker.ejected_percent));
    let shut = |b| matches!(b, BreakerState::Open | BreakerState::ForcedOpen);
    let reason = match known {
        None if !world.services.contains_key(&service) => Some(Reason::ServiceNotFound),
        None => Some(Reason::InstanceNotFound),
        Some(known)
            if to == BreakerState::Open
                && !shut(known.breaker)
                && ejected >= (count * percent / 100).max(1) =>
        {
            Some(Reason::LimitReached)
        }
        Some(known) => {
            if forced || (from == known.breaker && to != known.breaker) {
                known.breaker = to;
                match to {
                    BreakerState::Open => known.opened += 1,
                    BreakerState::Closed => known.opened = 0,
                    _ => {}
                }
            }
            None
        }
    };
    let (from, to) = (from as i32, to as i32);
    let set = SetBreaker { service, instance, from, to, forced, ..SetBreaker::default() };
    (Kind::SetBreaker(set), reason)
}

/// The breaker of a service as a whole.
fn set_service_breaker(
    world: &mut World,
    service: String,
    (from, to, forced): (BreakerState, BreakerState, bool),
) -> Said {
    let stands = world.breaker(&service);
    let reason = (!world.services.contains_key(&service)).then_some(Reason::ServiceNotFound);
    if reason.is_none() && (forced || from == stands) {
        world.breakers.insert(service.clone(), to);
    }
    let (from, to) = (from as i32, to as i32);
    let set = SetBreaker { service, from, to, forced, ..SetBreaker::default() };
    (Kind::SetBreaker(set), reason)
}

/// What timers do: instances that are gone for long enough go, holds end, breakers may be tried.
fn tick(world: &mut World, kv: &MemKv) {
    let now = world.now;
    let services = world.services.clone();
    world.instances.retain(|(service, _), known| {
        let patience = services[service].health.deregister_after_ms;
        let gone = known.lost_at.is_some_and(|at| patience > 0 && now - at >= patience);
        !gone || known.mode == Mode::Maintenance
    });
    for ((service, id), known) in &mut world.instances {
        if known.held_until > 0 && known.held_until <= now {
            known.judge(now);
        }
        // When it may be tried is drawn by the machine; the bounds are checked where it is drawn.
        if known.breaker == BreakerState::Open {
            let records = query::instances(kv, service).unwrap();
            let record = records.iter().find(|record| record.spec.id == *id).unwrap();
            if record.breaker.until_ms <= now {
                known.breaker = after_open(&services[service]);
                known.opened *= u64::from(known.breaker == BreakerState::HalfOpen);
            }
        }
    }
    for (service, breaker) in &mut world.breakers {
        let (record, _) = query::service(kv, service).unwrap().unwrap();
        if *breaker == BreakerState::Open && record.breaker.until_ms <= now {
            *breaker = after_open(&services[service]);
        }
    }
}

fn reason_of(outcome: &Outcome) -> Option<Reason> {
    match outcome {
        Outcome::Rejected(rejection) => Some(rejection.reason),
        Outcome::Instances(each) => {
            each.iter().find_map(|one| one.as_ref().err().map(|rejection| rejection.reason))
        }
        _ => None,
    }
}

fn check(world: &mut World, kv: &MemKv, context: &str) {
    let listed = query::services(kv, "", 100).unwrap();
    let names: Vec<_> = listed.iter().map(|info| info.name.as_str()).collect();
    assert_eq!(names, world.services.keys().collect::<Vec<_>>(), "{context}");
    for info in &listed {
        let (service, instances) = query::service(kv, &info.name).unwrap().unwrap();
        let counts = (service.instances, service.healthy, service.ejected);
        let wanted =
            (world.count(&info.name), world.healthy(&info.name), world.ejected(&info.name));
        assert_eq!(counts, wanted, "{context}: {}", info.name);
        assert_eq!(instances.len() as u64, service.instances, "{context}");
        assert_eq!(service.breaker.state(), world.breaker(&info.name), "{context}");
        check_standing(world, &info.name, &service, context);
        for record in instances {
            let known = &world.instances[&(info.name.clone(), record.spec.id.clone())];
            let passing = record.health() == Health::Passing;
            let stands = (passing, record.mode(), record.held_until_ms, record.breaker.state());
            let wanted = (known.passing, known.mode, known.held_until, known.breaker);
            assert_eq!(stands, wanted, "{context}: {record:?}");
            let stands = (record.mode_by_operator, record.health_since_ms);
            assert_eq!(stands, (known.by_operator, known.since), "{context}: {record:?}");
            let times: Vec<_> = record.transitions.iter().map(|t| t.at_ms).collect();
            assert!(known.changed.ends_with(&times), "{context}: {record:?}");
            assert_eq!(u64::from(record.breaker.opened), known.opened, "{context}: {record:?}");
        }
        let tree = graph::tree(kv, &info.name).unwrap().unwrap();
        assert_eq!(tree.is_ready(), ready(world, &info.name), "{context}: {tree:?}");
        assert_eq!(tree.causes().is_empty(), tree.is_ready(), "{context}: {tree:?}");
        let shut_off = world.healthy(&info.name) > 0 && !world.is_available(&info.name);
        let told = matches!(tree.lack, Some(graph::Lack::ShutOff { .. }));
        assert_eq!(told, shut_off, "{context}: {tree:?}");
    }
}

/// That a service is down, and is back, is told as it comes.
fn check_standing(world: &mut World, name: &str, service: &ServiceRecord, context: &str) {
    if world.is_available(name) {
        assert_eq!(service.down_since_ms, 0, "{context}");
        assert!(!world.down.remove(name) || service.recovered_at_ms > 0, "{context}");
        world.available_once.insert(name.to_owned());
    } else if world.available_once.contains(name) {
        assert!((1..=world.now).contains(&service.down_since_ms), "{context}");
        world.down.insert(name.to_owned());
    }
}

/// By definition: somebody takes calls for it, and for all that it requires.
fn ready(world: &World, service: &str) -> bool {
    let Some(config) = world.services.get(service) else { return false };
    let mut required = config.dependencies.iter().filter(|d| !d.optional);
    world.is_available(service) && required.all(|d| ready(world, &d.service))
}

#[test]
fn the_registry_does_what_the_naive_model_does() {
    let first = first_seed();
    let (mut held, mut compacted, mut down) = (0, 0, 0);
    for seed in first..first + sequences() / 10 {
        let mut dice = Dice::new(seed);
        let restless = dice.below(2) == 0;
        let mut world = World { now: 1000, restless, ..World::default() };
        let mut kv = MemKv::default();
        let mut views = Vec::new();
        for n in 0..10 + dice.below(120) {
            world.now += dice.below(3) * dice.below(30_000);
            let context = format!("seed {seed}, entry {n}");
            tick(&mut world, &kv);
            let ticked =
                CommandBatch { stamp_ms: world.now, commands: vec![Kind::Tick(Tick {}).into()] };
            apply(&mut kv, &[ticked], n * 2 + 1);
            let (kind, reason) = step(&mut dice, &mut world, &kv);
            let entry = CommandBatch { stamp_ms: world.now, commands: vec![kind.into()] };
            let outcome =
                apply(&mut kv, std::slice::from_ref(&entry), n * 2 + 2).remove(0).remove(0);
            assert_eq!(reason_of(&outcome), reason, "{context}: {entry:?}");
            check(&mut world, &kv, &context);
            if dice.below(4) == 0 {
                check_watch(&kv, &mut views, &context);
            }
        }
        held += world.instances.values().filter(|known| known.holds > 0).count();
        down += world.down.len();
        compacted += usize::from(watch::revision(&kv).unwrap() > REGISTRY_LOG_MAX);
    }
    assert!(held > 0 && compacted > 0 && down > 0, "{held} held, {compacted} compacted: too tame");
}
