//! Registering and deleting services.

use super::changes::{self, put_service, remove_service, turn};
use super::records::{NumberRecord, ServiceRecord, service, service_not_found};
use super::{breaker, graph, health};
use crate::machine::apply::Machine;
use crate::machine::kv::Kv;
use crate::machine::lifecycle::Report;
use crate::machine::{Fault, requests};
use crate::model::command::{DeleteService, PutService};
use crate::model::ids::UnixMs;
use crate::model::limits::{DEPENDENCY_CHAIN_MAX, SERVICES_MAX};
use crate::model::outcome::Outcome;
use crate::model::quota::check_service;
use crate::model::registry::ServiceConfig;
use crate::model::rejection::{Reason, Rejection};

/// Registers a service, or replaces its settings.
pub(crate) fn put<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: PutService,
) -> Result<Outcome, Fault> {
    if let Some(first) = requests::first_answer(machine, &command.request_id)? {
        return Ok(first);
    }
    let PutService { name, config, if_revision, request_id } = command;
    let known = service(machine.overlay(), &name)?;
    if let Some(rejection) = refuse(machine, &name, &config, known.as_ref(), if_revision)? {
        return Ok(Outcome::Rejected(rejection));
    }
    let checked = known.as_ref().is_some_and(|record| record.config.health.is_checked());
    let is_over = checked && !config.health.is_checked();
    let was_off = known.as_ref().is_some_and(|record| record.config.breaker.disabled);
    let turned_off = known.is_some() && !was_off && config.breaker.disabled;
    let mut record = match known {
        Some(record) => {
            if record.config.health.deregister_after_ms != config.health.deregister_after_ms {
                health::expect_gone(machine, &name, config.health.deregister_after_ms)?;
            }
            if record.config != config {
                machine.report(&name, Report::ServiceChanged);
            }
            let grace_until_ms = grace_until_ms(&record, &config, machine.now());
            ServiceRecord { config, grace_until_ms, ..record }
        }
        None => new(machine, &name, config),
    };
    let (was_available, now) = (record.is_available(), machine.now());
    if turned_off && breaker::close(&mut record.breaker, now) {
        machine.report(&name, Report::ServiceBreaker(record.breaker.state()));
        turn(machine, &name, was_available, &mut record);
    }
    put_service(machine, &name, &mut record, true);
    if is_over {
        health::unchecked(machine, &name)?;
    }
    if turned_off {
        // Nobody would count the calls that close them.
        breaker::close_all(machine, &name)?;
    }
    if is_over || turned_off {
        record = service(machine.overlay(), &name)?.unwrap_or(record);
    }
    let outcome = Outcome::Service(Box::new(record.info(&name)));
    requests::remember(machine, request_id, &outcome);
    Ok(outcome)
}

/// Until when renewals by an earlier time will do, once they last as the settings say.
fn grace_until_ms(before: &ServiceRecord, after: &ServiceConfig, now: UnixMs) -> u64 {
    if after.health.ttl_ms >= before.config.health.ttl_ms {
        return before.grace_until_ms;
    }
    before.grace_until_ms.max(now.plus(before.config.health.ttl_ms).get())
}

/// A service that is not there yet, to be written.
pub(super) fn new<K: Kv>(
    machine: &mut Machine<'_, K>,
    name: &str,
    config: ServiceConfig,
) -> ServiceRecord {
    let number = NumberRecord { service: name.to_owned(), instance: String::new() };
    let number = changes::number(machine, &number);
    machine.meta_mut().services += 1;
    machine.report(name, Report::ServiceRegistered);
    let created_at_ms = machine.now().get();
    ServiceRecord { number, config, created_at_ms, ..ServiceRecord::default() }
}

/// The refusal for one service too many.
pub(super) fn too_many() -> Rejection {
    let text =
        format!("there are {SERVICES_MAX} services, the most that a hub has; delete one first");
    Rejection::new(Reason::LimitReached, text)
}

fn refuse<K: Kv>(
    machine: &Machine<'_, K>,
    name: &str,
    config: &ServiceConfig,
    known: Option<&ServiceRecord>,
    if_revision: u64,
) -> Result<Option<Rejection>, Fault> {
    if let Err(rejection) = check_service(name).and_then(|()| config.check(name)) {
        return Ok(Some(rejection));
    }
    let revision = known.map_or(0, |record| record.revision);
    if if_revision > 0 && if_revision != revision {
        let text = format!(
            "service {name} is at revision {revision}, not {if_revision}; look at it again, then repeat"
        );
        return Ok(Some(Rejection::new(Reason::RevisionMismatch, text).with("revision", revision)));
    }
    if known.is_none() && machine.meta().services >= SERVICES_MAX {
        return Ok(Some(too_many()));
    }
    if config.dependencies.is_empty()
        || known.is_some_and(|record| record.config.dependencies == config.dependencies)
    {
        return Ok(None);
    }
    if let Some(path) = graph::cycle(machine.overlay(), name, &config.dependencies)? {
        let path = path.join(" -> ");
        let text =
            format!("the dependencies of {name} would run in a circle: {path}; remove one of them");
        return Ok(Some(Rejection::new(Reason::DependencyCycle, text).with("path", path)));
    }
    let chain = graph::chain(machine.overlay(), name, &config.dependencies)?;
    Ok((chain > DEPENDENCY_CHAIN_MAX).then(|| {
        let text = format!(
            "a chain of more than {DEPENDENCY_CHAIN_MAX} services would lead through {name}, each requiring the next; declare fewer dependencies"
        );
        Rejection::new(Reason::LimitReached, text)
    }))
}

/// Deletes a service that has no instances. Those that require it lack it from then on.
pub(crate) fn delete<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: DeleteService,
) -> Result<Outcome, Fault> {
    if let Some(first) = requests::first_answer(machine, &command.request_id)? {
        return Ok(first);
    }
    let Some(record) = service(machine.overlay(), &command.name)? else {
        return Ok(Outcome::Rejected(service_not_found(&command.name)));
    };
    if record.instances > 0 {
        let text = format!(
            "service {} has {} instances; drain and deregister them first",
            command.name, record.instances
        );
        return Ok(Outcome::Rejected(Rejection::new(Reason::ServiceInUse, text)));
    }
    remove_service(machine, &command.name, &record);
    machine.report(&command.name, Report::ServiceDeleted);
    machine.meta_mut().services -= 1;
    requests::remember(machine, command.request_id, &Outcome::Done);
    Ok(Outcome::Done)
}
