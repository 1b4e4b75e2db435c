//! Writing to the registry: each change gets a revision, and stands in the log that watchers read.

use bytes::Bytes;

use super::records::{
    InstanceRecord, NumberRecord, ServiceRecord, instance_key, service as service_row,
};
use crate::machine::Fault;
use crate::machine::apply::Machine;
use crate::machine::kv::{Kv, Table};
use crate::machine::lifecycle::Report;
use crate::machine::record::{Kind, decode_message, encode_message};
use crate::model::limits::REGISTRY_LOG_MAX;
use crate::model::registry::{BreakerState, Health};

/// A change of the registry, as stored: what it is about, as it is afterwards.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ChangeRecord {
    /// The service.
    #[prost(string, tag = "1")]
    pub service: String,
    /// The instance; empty: the change is of the service itself.
    #[prost(string, tag = "2")]
    pub instance: String,
    /// The service afterwards; absent with an instance, or when it is gone.
    #[prost(message, optional, tag = "3")]
    pub service_after: Option<ServiceRecord>,
    /// The instance afterwards; absent with a service, or when it is gone.
    #[prost(message, optional, tag = "4")]
    pub instance_after: Option<InstanceRecord>,
}

impl ChangeRecord {
    /// Reads a stored row.
    ///
    /// # Errors
    /// When it is corrupt.
    pub fn decode(row: &[u8]) -> Result<Self, Fault> {
        decode_message(Kind::RegistryChange, row)
    }

    fn encode(&self) -> Bytes {
        encode_message(Kind::RegistryChange, self)
    }
}

/// Gives out a number.
pub(super) fn number<K: Kv>(machine: &mut Machine<'_, K>, of: &NumberRecord) -> u64 {
    let meta = machine.meta_mut();
    meta.last_registry_number += 1;
    let number = meta.last_registry_number;
    let row = number.to_be_bytes().to_vec();
    machine.overlay_mut().put(Table::RegistryNumbers, row, of.encode());
    number
}

/// Takes a number back.
pub(super) fn free_number<K: Kv>(machine: &mut Machine<'_, K>, number: u64) {
    machine.overlay_mut().delete(Table::RegistryNumbers, number.to_be_bytes().to_vec());
}

/// The revision of the change that is being made.
fn advance<K: Kv>(machine: &mut Machine<'_, K>) -> u64 {
    let meta = machine.meta_mut();
    meta.registry_revision += 1;
    meta.registry_revision
}

fn log<K: Kv>(machine: &mut Machine<'_, K>, revision: u64, change: &ChangeRecord) {
    let overlay = machine.overlay_mut();
    overlay.put(Table::RegistryLog, revision.to_be_bytes().to_vec(), change.encode());
    if let Some(old) = revision.checked_sub(REGISTRY_LOG_MAX).filter(|old| *old > 0) {
        overlay.delete(Table::RegistryLog, old.to_be_bytes().to_vec());
    }
    machine.registry_changed(&change.service);
}

/// Writes a service, and tells watchers; its settings count as changed when `settings` says so.
pub(super) fn put_service<K: Kv>(
    machine: &mut Machine<'_, K>,
    name: &str,
    record: &mut ServiceRecord,
    settings: bool,
) {
    let revision = advance(machine);
    if settings {
        record.revision = revision;
        record.updated_at_ms = machine.now().get();
    }
    machine.overlay_mut().put(Table::Services, name.as_bytes().to_vec(), record.encode());
    let service = name.to_owned();
    let service_after = Some(record.clone());
    log(machine, revision, &ChangeRecord { service, service_after, ..ChangeRecord::default() });
}

/// Removes a service that has no instances, and tells watchers.
pub(super) fn remove_service<K: Kv>(
    machine: &mut Machine<'_, K>,
    name: &str,
    record: &ServiceRecord,
) {
    let revision = advance(machine);
    free_number(machine, record.number);
    machine.overlay_mut().delete(Table::Services, name.as_bytes().to_vec());
    log(machine, revision, &ChangeRecord { service: name.to_owned(), ..ChangeRecord::default() });
}

/// Writes an instance or takes it away, counts it at its service, and tells watchers.
pub(super) fn change_instance<K: Kv>(
    machine: &mut Machine<'_, K>,
    before: Option<&InstanceRecord>,
    after: Option<InstanceRecord>,
) -> Result<Option<InstanceRecord>, Fault> {
    let Some(spec) = after.as_ref().or(before).map(|record| &record.spec) else { return Ok(None) };
    let (service, id) = (spec.service.clone(), spec.id.clone());
    let revision = advance(machine);
    let row = instance_key(&service, &id);
    let after = after.map(|record| InstanceRecord { revision, ..record });
    match &after {
        Some(record) => machine.overlay_mut().put(Table::Instances, row, record.encode()),
        None => machine.overlay_mut().delete(Table::Instances, row),
    }
    tell(machine, &service, &id, before, after.as_ref());
    let (instance, instance_after) = (id, after.clone());
    let change =
        ChangeRecord { service: service.clone(), instance, instance_after, service_after: None };
    log(machine, revision, &change);
    count(machine, &service, before, after.as_ref())?;
    Ok(after)
}

/// What the lifecycle feed says of it.
fn tell<K: Kv>(
    machine: &mut Machine<'_, K>,
    service: &str,
    id: &str,
    before: Option<&InstanceRecord>,
    after: Option<&InstanceRecord>,
) {
    let about = format!("{service}/{id}");
    let health = |record: Option<&InstanceRecord>| record.map(InstanceRecord::health);
    let mode = |record: Option<&InstanceRecord>| record.map(InstanceRecord::mode);
    match (before, after) {
        (None, Some(_)) => machine.report(&about, Report::Registered),
        (Some(_), None) => machine.report(&about, Report::Deregistered),
        _ => {}
    }
    if after.is_some() && health(before) != health(after) {
        match health(after) {
            Some(Health::Critical) => {
                let last = after.and_then(|record| record.transitions.last());
                let reason = last.map(|last| last.reason.clone()).unwrap_or_default();
                machine.report(&about, Report::Critical { reason });
            }
            _ if before.is_some() => machine.report(&about, Report::Passing),
            _ => {}
        }
    }
    let held = |record: Option<&InstanceRecord>| record.map_or(0, |record| record.held_until_ms);
    match held(after) {
        until_ms if until_ms > 0 && until_ms != held(before) => {
            machine.report(&about, Report::HoldBegun { until_ms });
        }
        0 if after.is_some() && held(before) > 0 => machine.report(&about, Report::HoldEnded),
        _ => {}
    }
    if before.is_some()
        && mode(before) != mode(after)
        && let Some(after) = after
    {
        machine.report(&about, Report::Mode(after.mode()));
    }
    let breaker = |record: Option<&InstanceRecord>| record.map(|record| record.breaker.state());
    if breaker(before) != breaker(after)
        && let Some(state) = breaker(after).filter(|_| before.is_some())
    {
        machine.report(&about, Report::Breaker(state));
    }
}

/// Whether a breaker lets no calls through.
pub(super) fn ejects(record: &InstanceRecord) -> bool {
    matches!(record.breaker.state(), BreakerState::Open | BreakerState::ForcedOpen)
}

/// Keeps the counters of a service, and tells when it goes down and comes back.
fn count<K: Kv>(
    machine: &mut Machine<'_, K>,
    name: &str,
    before: Option<&InstanceRecord>,
    after: Option<&InstanceRecord>,
) -> Result<(), Fault> {
    let Some(mut service) = service_row(machine.overlay(), name)? else { return Ok(()) };
    let was_available = service.is_available();
    let each = |record: Option<&InstanceRecord>, what: fn(&InstanceRecord) -> bool| {
        u64::from(record.is_some_and(what))
    };
    for (counter, what) in [
        (&mut service.instances, (|_| true) as fn(&InstanceRecord) -> bool),
        (&mut service.healthy, InstanceRecord::takes_work),
        (&mut service.ejected, ejects),
        (&mut service.tripped, InstanceRecord::is_tripped),
    ] {
        *counter = (*counter + each(after, what)).saturating_sub(each(before, what));
    }
    if turn(machine, name, was_available, &mut service) {
        put_service(machine, name, &mut service, false);
    } else {
        // Counters alone are not told: they follow from the instances.
        let row = service.encode();
        machine.overlay_mut().put(Table::Services, name.as_bytes().to_vec(), row);
    }
    Ok(())
}

/// Takes note of it when a service goes down or is back; whether it did. It is for the caller to write it.
pub(super) fn turn<K: Kv>(
    machine: &mut Machine<'_, K>,
    name: &str,
    was_available: bool,
    service: &mut ServiceRecord,
) -> bool {
    let now = machine.now().get();
    match (was_available, service.is_available()) {
        (true, false) => {
            service.down_since_ms = now;
            machine.report(name, Report::ServiceDown);
            true
        }
        (false, true) if service.down_since_ms > 0 => {
            service.down_since_ms = 0;
            service.recovered_at_ms = now;
            machine.report(name, Report::ServiceRecovered);
            true
        }
        _ => false,
    }
}
