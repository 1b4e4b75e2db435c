//! Reading services and instances.

use std::ops::ControlFlow;

use super::records::{InstanceRecord, ServiceRecord, instances_of};
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::{Fault, key};
use crate::model::registry::{InstanceInfo, ServiceInfo};

/// A service with its instances, in the order of their ids; `None`: there is no such service.
///
/// # Errors
/// When the store fails or a row is corrupt.
pub fn service(
    kv: &impl Kv,
    name: &str,
) -> Result<Option<(ServiceRecord, Vec<InstanceRecord>)>, Fault> {
    let Some(record) = super::records::service(kv, name)? else { return Ok(None) };
    Ok(Some((record, instances(kv, name)?)))
}

/// The instances of a service, in the order of their ids.
///
/// # Errors
/// When the store fails or a row is corrupt.
pub fn instances(kv: &impl Kv, service: &str) -> Result<Vec<InstanceRecord>, Fault> {
    let mut found = Vec::new();
    let prefix = instances_of(service);
    let end = key::after_prefix(&prefix);
    kv.scan(Table::Instances, &prefix, &end, Order::Ascending, &mut |_, row| {
        found.push(InstanceRecord::decode(row)?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// Services after a name, in the order of names.
///
/// # Errors
/// When the store fails or a row is corrupt.
pub fn services(kv: &impl Kv, after: &str, limit: usize) -> Result<Vec<ServiceInfo>, Fault> {
    let mut start = after.as_bytes().to_vec();
    start.push(0);
    let mut found = Vec::new();
    kv.scan(Table::Services, &start, &key::END, Order::Ascending, &mut |row, value| {
        if found.len() == limit {
            return Ok(ControlFlow::Break(()));
        }
        found.push(ServiceRecord::decode(value)?.info(&String::from_utf8_lossy(row)));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// What callers see of a service's instances.
///
/// # Errors
/// When the store fails or a row is corrupt.
pub fn infos(kv: &impl Kv, name: &str) -> Result<Option<(ServiceInfo, Vec<InstanceInfo>)>, Fault> {
    Ok(service(kv, name)?.map(|(record, instances)| {
        let infos = instances.iter().map(|instance| instance.info(&record.config)).collect();
        (record.info(name), infos)
    }))
}
