//! Quotas: service name → limits. Enforced where calls come in; here they are only kept.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::apply::Machine;
use super::kv::{Kv, Order, Table};
use super::record::{Kind, decode_message, encode_message};
use super::{Fault, key};
use crate::model::command::SetQuota;
use crate::model::limits::QUOTAS_MAX;
use crate::model::outcome::Outcome;
use crate::model::quota::{QuotaLimits, check_service};
use crate::model::rejection::{Reason, Rejection};

fn encode(limits: &QuotaLimits) -> Bytes {
    encode_message(Kind::Quota, limits)
}

fn decode(row: &[u8]) -> Result<QuotaLimits, Fault> {
    decode_message(Kind::Quota, row)
}

pub(crate) fn set<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: SetQuota,
) -> Result<Outcome, Fault> {
    if let Err(rejection) = check_service(&command.service) {
        return Ok(Outcome::Rejected(rejection));
    }
    let known = get(machine.overlay(), &command.service)?.is_some();
    let row = command.service.into_bytes();
    if command.limits.is_unlimited() {
        machine.meta_mut().quotas -= u64::from(known);
        machine.overlay_mut().delete(Table::Quotas, row);
        return Ok(Outcome::Done);
    }
    if !known && machine.meta().quotas >= QUOTAS_MAX {
        return Ok(Outcome::Rejected(Rejection::new(
            Reason::LimitReached,
            format!("there are {QUOTAS_MAX} quotas, the most that a hub has; remove one first"),
        )));
    }
    machine.meta_mut().quotas += u64::from(!known);
    machine.overlay_mut().put(Table::Quotas, row, encode(&command.limits));
    Ok(Outcome::Done)
}

/// The limits of a service; `None`: it has none.
///
/// # Errors
/// When the store fails or the row is corrupt.
pub fn get(kv: &impl Kv, service: &str) -> Result<Option<QuotaLimits>, Fault> {
    kv.get(Table::Quotas, service.as_bytes())?.map(|row| decode(&row)).transpose()
}

/// Quotas after a service, in the order of names.
///
/// # Errors
/// When the store fails or a row is corrupt.
pub fn list(kv: &impl Kv, after: &str, limit: usize) -> Result<Vec<(String, QuotaLimits)>, Fault> {
    let mut start = after.as_bytes().to_vec();
    start.push(0);
    let mut quotas = Vec::new();
    kv.scan(Table::Quotas, &start, &key::END, Order::Ascending, &mut |row, value| {
        if quotas.len() == limit {
            return Ok(ControlFlow::Break(()));
        }
        quotas.push((String::from_utf8_lossy(row).into_owned(), decode(value)?));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(quotas)
}
