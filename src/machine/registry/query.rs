//! Reading services and instances.

use std::ops::ControlFlow;

use super::records::{InstanceRecord, ServiceRecord, instance_key, instances_of};
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::{Fault, key};
use crate::model::limits::PAGE_BYTES_TARGET;
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

/// What callers see of a service and some of its instances.
#[derive(Clone, Debug)]
pub struct Page {
    /// The service.
    pub service: ServiceInfo,
    /// In the order of their ids.
    pub instances: Vec<InstanceInfo>,
    /// There are more after them.
    pub more: bool,
}

/// A service with its instances after an id, at most so many, and no more than a page takes, but one in any case;
/// `None`: there is no such service.
///
/// # Errors
/// When the store fails or a row is corrupt.
pub fn page(kv: &impl Kv, name: &str, after: &str, limit: usize) -> Result<Option<Page>, Fault> {
    let Some(record) = super::records::service(kv, name)? else { return Ok(None) };
    let mut page = Page { service: record.info(name), instances: Vec::new(), more: false };
    let (prefix, mut bytes) = (instances_of(name), 0);
    let (mut start, end) = (instance_key(name, after), key::after_prefix(&prefix));
    if !after.is_empty() {
        start.push(0);
    }
    kv.scan(Table::Instances, &start, &end, Order::Ascending, &mut |_, row| {
        bytes += row.len();
        let is_full = bytes > PAGE_BYTES_TARGET && !page.instances.is_empty();
        if page.instances.len() == limit || is_full {
            page.more = true;
            return Ok(ControlFlow::Break(()));
        }
        page.instances.push(InstanceRecord::decode(row)?.info(&record.config));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(Some(page))
}
