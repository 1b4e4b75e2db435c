//! Registering, deregistering and draining instances.

use super::changes::{change_instance, free_number, number, put_service};
use super::health::judge;
use super::records::{
    InstanceRecord, NumberRecord, ServiceRecord, instance, instance_not_found, service,
};
use super::services;
use crate::machine::Fault;
use crate::machine::apply::Machine;
use crate::machine::delivery::timers::{self, Due};
use crate::machine::kv::Kv;
use crate::machine::{quota, requests};
use crate::model::command::{DeregisterInstances, InstanceName, RegisterInstances, SetMode};
use crate::model::ids::UnixMs;
use crate::model::limits::{INSTANCES_MAX, INSTANCES_PER_SERVICE_MAX, SERVICES_MAX};
use crate::model::outcome::{InstanceOutcome, Outcome};
use crate::model::registry::{BreakerState, Health, InstanceSpec, Mode, ServiceConfig};
use crate::model::rejection::{Reason, Rejection};

/// Registers instances, each by itself; a service that nobody registered gets its defaults.
pub(crate) fn register<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: RegisterInstances,
) -> Result<Outcome, Fault> {
    let mut outcomes = Vec::with_capacity(command.instances.len());
    for spec in command.instances {
        outcomes.push(register_one(machine, spec)?);
    }
    Ok(Outcome::Instances(outcomes))
}

fn register_one<K: Kv>(
    machine: &mut Machine<'_, K>,
    spec: InstanceSpec,
) -> Result<InstanceOutcome, Fault> {
    if let Err(rejection) = spec.check() {
        return Ok(Err(rejection));
    }
    let before = instance(machine.overlay(), &spec.service, &spec.id)?;
    let known = service(machine.overlay(), &spec.service)?;
    if let Some(rejection) = refuse(machine, &spec, before.as_ref(), known.as_ref())? {
        return Ok(Err(rejection));
    }
    let known = match known {
        Some(known) => known,
        None => {
            let mut record = services::new(machine, &spec.service, ServiceConfig::defaults());
            put_service(machine, &spec.service, &mut record, true);
            record
        }
    };
    let config = known.config;
    if let Some(before) = &before {
        free_number(machine, before.number);
    } else {
        machine.meta_mut().instances += 1;
    }
    let named = NumberRecord { service: spec.service.clone(), instance: spec.id.clone() };
    let begun = begin(before.as_ref(), &spec, &config, machine.now());
    let record = InstanceRecord {
        number: number(machine, &named),
        registered_at_ms: machine.now().get(),
        spec,
        lost_at_ms: 0,
        ..begun
    };
    let after = judge(machine, before.as_ref(), record, "registered");
    expect(machine, &after);
    let after = change_instance(machine, before.as_ref(), Some(after))?;
    Ok(after.map(|record| record.info(&config)).ok_or_else(gone))
}

/// Times anew what goes on under a number that is new: a hold, and an open breaker.
fn expect<K: Kv>(machine: &mut Machine<'_, K>, record: &InstanceRecord) {
    let open_until = match record.breaker.state() {
        BreakerState::Open => record.breaker.until_ms,
        _ => 0,
    };
    for at in [record.held_until_ms, open_until].into_iter().filter(|at| *at > 0) {
        timers::set(machine, UnixMs(at), Due::Registry(record.number));
    }
}

/// What stays of an instance that registers again: it must not wash its history off.
fn begin(
    before: Option<&InstanceRecord>,
    spec: &InstanceSpec,
    config: &ServiceConfig,
    now: UnixMs,
) -> InstanceRecord {
    let Some(before) = before else {
        // What the hub checks has to pass first.
        return InstanceRecord {
            failing: config.health.is_checked(),
            health_since_ms: now.get(),
            ..InstanceRecord::default()
        };
    };
    let mut record = before.clone();
    let is_same = spec.process == before.spec.process;
    // What an owner said of its mode goes with its process. An operator's word stays.
    if !record.mode_by_operator && (!is_same || spec.process.is_empty()) {
        record.mode = Mode::Up as i32;
    }
    // A process that took over before anybody noticed starts slowly, too.
    if !is_same && record.health() == Health::Passing {
        record.health_since_ms = now.get();
    }
    record
}

fn gone() -> Rejection {
    Rejection::new(Reason::Internal, "an instance that was just written is gone; report this")
}

fn refuse<K: Kv>(
    machine: &Machine<'_, K>,
    spec: &InstanceSpec,
    before: Option<&InstanceRecord>,
    known: Option<&ServiceRecord>,
) -> Result<Option<Rejection>, Fault> {
    if let Some(before) = before {
        return Ok(owned(before, &spec.owner).err());
    }
    let full = |most: u64, of: &str| {
        let text =
            format!("there are {most} instances, the most that {of} has; deregister some first");
        Some(Rejection::new(Reason::LimitReached, text))
    };
    let count = known.map_or(0, |record| record.instances);
    if machine.meta().instances >= INSTANCES_MAX {
        return Ok(full(INSTANCES_MAX, "a hub"));
    }
    if count >= INSTANCES_PER_SERVICE_MAX {
        return Ok(full(INSTANCES_PER_SERVICE_MAX, "a service"));
    }
    if known.is_none() && machine.meta().services >= SERVICES_MAX {
        return Ok(Some(services::too_many()));
    }
    let limits = quota::get(machine.overlay(), &spec.service)?.unwrap_or_default();
    if limits.instances > 0 && count >= limits.instances {
        let name = &spec.service;
        let text = format!(
            "service {name} has as many instances as its quota allows, {count}; deregister some, or raise it with: mhub quota set {name} --instances"
        );
        let exceeded = Rejection::new(Reason::QuotaExceeded, text);
        return Ok(Some(exceeded.with("service", name).with("limit", "instances")));
    }
    Ok(None)
}

/// Only who registered an instance changes it.
fn owned(record: &InstanceRecord, owner: &str) -> Result<(), Rejection> {
    if record.spec.owner == owner {
        return Ok(());
    }
    let (service, id) = (&record.spec.service, &record.spec.id);
    let text = format!(
        "instance {id} of {service} belongs to somebody else; choose another id, or deregister it with: mhub service deregister {service} {id} --force"
    );
    Err(Rejection::new(Reason::InstanceOwned, text).with("service", service).with("instance", id))
}

/// Deregisters instances, each by itself.
pub(crate) fn deregister<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: DeregisterInstances,
) -> Result<Outcome, Fault> {
    let mut outcomes = Vec::with_capacity(command.instances.len());
    for name in command.instances {
        outcomes.push(match find(machine, &name, command.force)? {
            Ok((record, config)) => {
                remove(machine, &record)?;
                Ok(record.info(&config))
            }
            Err(rejection) => Err(rejection),
        });
    }
    Ok(Outcome::Instances(outcomes))
}

/// Takes an instance away.
pub(super) fn remove<K: Kv>(
    machine: &mut Machine<'_, K>,
    record: &InstanceRecord,
) -> Result<(), Fault> {
    free_number(machine, record.number);
    let meta = machine.meta_mut();
    meta.instances = meta.instances.saturating_sub(1);
    change_instance(machine, Some(record), None)?;
    Ok(())
}

/// Drains instances, takes them into maintenance, or back.
pub(crate) fn set_mode<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: SetMode,
) -> Result<Outcome, Fault> {
    let mode = command.mode();
    let mode_by_operator = command.force && mode != Mode::Up;
    // What came after the first call stays; the answer tells how they are now.
    let is_repeated = requests::is_answered(machine.overlay(), &command.request_id)?;
    let mut outcomes = Vec::with_capacity(command.instances.len());
    for name in command.instances {
        outcomes.push(match find(machine, &name, command.force)? {
            Ok((before, config)) if is_repeated || stays(&before, mode, command.force) => {
                Ok(before.info(&config))
            }
            Ok((before, config)) => {
                let mut after =
                    InstanceRecord { mode: mode as i32, mode_by_operator, ..before.clone() };
                let was_kept = before.mode() == Mode::Maintenance && mode != Mode::Maintenance;
                if was_kept && after.lost_at_ms > 0 {
                    // It was kept while somebody worked on it; now it has to show up again.
                    after.lost_at_ms = machine.now().get();
                    let again = machine.now().plus(config.health.deregister_after_ms);
                    timers::set(machine, again, Due::Registry(after.number));
                }
                let after = change_instance(machine, Some(&before), Some(after))?;
                after.map(|record| record.info(&config)).ok_or_else(gone)
            }
            Err(rejection) => Err(rejection),
        });
    }
    if !is_repeated && outcomes.iter().any(Result::is_ok) {
        requests::remember(machine, command.request_id, &Outcome::Done);
    }
    Ok(Outcome::Instances(outcomes))
}

/// Whether a mode is what is asked for, or an operator's that its owner may end but not replace.
fn stays(before: &InstanceRecord, mode: Mode, force: bool) -> bool {
    if before.mode_by_operator && !force {
        return mode != Mode::Up;
    }
    before.mode() == mode && (before.mode_by_operator == force || mode == Mode::Up)
}

/// An instance that a caller may change, with its service's settings.
fn find<K: Kv>(
    machine: &Machine<'_, K>,
    name: &InstanceName,
    force: bool,
) -> Result<Result<(InstanceRecord, ServiceConfig), Rejection>, Fault> {
    let found = instance(machine.overlay(), &name.service, &name.id)?;
    let known = service(machine.overlay(), &name.service)?;
    let Some((record, known)) = found.zip(known) else {
        return Ok(Err(instance_not_found(&name.service, &name.id)));
    };
    if !force && let Err(rejection) = owned(&record, &name.owner) {
        return Ok(Err(rejection));
    }
    Ok(Ok((record, known.config)))
}
