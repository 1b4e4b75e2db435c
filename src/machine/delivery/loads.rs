//! What is in flight: by consumer, (subscription id, consumer) → count, no row for none; and by
//! service over all subscriptions, (0, service) → count and retries of late, as no subscription has
//! the number 0.

use bytes::{Buf, BufMut, Bytes};

use crate::machine::apply::Machine;
use crate::machine::kv::{Kv, Table};
use crate::machine::record::{Kind, body, decode_message, encode_message, finish, start};
use crate::machine::{Fault, key, quota};
use crate::model::ids::{SubscriptionId, UnixMs};
use crate::model::limits::RETRY_BUDGET_WINDOW_MS;
use crate::model::quota::QuotaLimits;

/// The row's key.
#[must_use]
pub fn row_key(subscription: SubscriptionId, consumer: &str) -> Vec<u8> {
    [subscription.to_key().as_slice(), consumer.as_bytes()].concat()
}

/// The consumer in a row's key.
///
/// # Errors
/// When the key is not one.
pub fn consumer_of(row: &[u8]) -> Result<&str, Fault> {
    let corrupt = || Fault::Corrupt { record: Kind::ConsumerLoad, what: "malformed key".into() };
    key::Reader::new(Kind::ConsumerLoad, row).number()?;
    std::str::from_utf8(row.get(8..).unwrap_or_default()).map_err(|_| corrupt())
}

/// Reads a stored row.
///
/// # Errors
/// When it is corrupt.
pub fn decode(row: &[u8]) -> Result<u64, Fault> {
    let corrupt = || Fault::Corrupt { record: Kind::ConsumerLoad, what: "length".into() };
    let mut rest = body(Kind::ConsumerLoad, row)?;
    if rest.len() == 8 { Ok(rest.get_u64_le()) } else { Err(corrupt()) }
}

fn encode(count: u64) -> Bytes {
    let mut buf = start(Kind::ConsumerLoad, 8);
    buf.put_u64_le(count);
    finish(buf)
}

/// Events in flight of a consumer.
///
/// # Errors
/// When the store fails or the row is corrupt.
pub fn get(kv: &impl Kv, subscription: SubscriptionId, consumer: &str) -> Result<u64, Fault> {
    let row = kv.get(Table::ConsumerLoads, &row_key(subscription, consumer))?;
    row.map_or(Ok(0), |row| decode(&row))
}

pub(crate) fn set<K: Kv>(
    machine: &mut Machine<'_, K>,
    subscription: SubscriptionId,
    consumer: &str,
    count: u64,
) {
    let key = row_key(subscription, consumer);
    if count == 0 {
        machine.overlay_mut().delete(Table::ConsumerLoads, key);
    } else {
        machine.overlay_mut().put(Table::ConsumerLoads, key, encode(count));
    }
}

/// What the consumers of a service have.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ServiceLoad {
    /// Events in flight.
    #[prost(uint64, tag = "1")]
    pub in_flight: u64,
    /// The number of the window that retries are counted in: its beginning by its length.
    #[prost(uint64, tag = "2")]
    window: u64,
    /// Retries that were handed out in it.
    #[prost(uint64, tag = "3")]
    retries: u64,
}

impl ServiceLoad {
    /// Retries that were handed out in the window of `now`.
    #[must_use]
    pub fn retries_at(&self, now: UnixMs) -> u64 {
        if self.window == now.get() / RETRY_BUDGET_WINDOW_MS { self.retries } else { 0 }
    }

    /// What a quota leaves of events in flight and of retries in the window of `now`.
    #[must_use]
    pub fn left(&self, limits: &QuotaLimits, now: UnixMs) -> (u64, u64) {
        let left = |limit: u64, used: u64| {
            if limit == 0 { u64::MAX } else { limit.saturating_sub(used) }
        };
        (left(limits.in_flight, self.in_flight), left(limits.retries_per_s, self.retries_at(now)))
    }
}

fn service_key(service: &str) -> Vec<u8> {
    row_key(SubscriptionId(0), service)
}

/// The rows of services come before this key.
pub(crate) fn services_end() -> [u8; 8] {
    SubscriptionId(1).to_key()
}

/// Whether a service's row says nothing any more: nothing is in flight, no retry was of late.
pub(crate) fn is_idle(row: &[u8], now: UnixMs) -> Result<bool, Fault> {
    let load: ServiceLoad = decode_message(Kind::ServiceLoad, row)?;
    Ok(load.in_flight == 0 && load.retries_at(now) == 0)
}

/// What the consumers of a service have.
///
/// # Errors
/// When the store fails or the row is corrupt.
pub fn of_service(kv: &impl Kv, service: &str) -> Result<ServiceLoad, Fault> {
    let row = kv.get(Table::ConsumerLoads, &service_key(service))?;
    row.map_or(Ok(ServiceLoad::default()), |row| decode_message(Kind::ServiceLoad, &row))
}

/// What the quota of a service leaves of events in flight and of retries now.
///
/// # Errors
/// When the store fails or a row is corrupt.
pub fn left_of_service(kv: &impl Kv, service: &str, now: UnixMs) -> Result<(u64, u64), Fault> {
    let limits = if service.is_empty() { None } else { quota::get(kv, service)? };
    match limits {
        Some(limits) => Ok(of_service(kv, service)?.left(&limits, now)),
        None => Ok((u64::MAX, u64::MAX)),
    }
}

/// The same while a command is applied; it costs nothing where there are no quotas at all.
pub(crate) fn left<K: Kv>(machine: &Machine<'_, K>, service: &str) -> Result<(u64, u64), Fault> {
    match machine.meta().quotas {
        0 => Ok((u64::MAX, u64::MAX)),
        _ => left_of_service(machine.overlay(), service, machine.now()),
    }
}

/// Counts events that came to a service's consumers, retries among them, and that went.
pub(crate) fn count_service<K: Kv>(
    machine: &mut Machine<'_, K>,
    service: &str,
    (came, retries): (u64, u64),
    went: u64,
) -> Result<(), Fault> {
    if service.is_empty() {
        return Ok(());
    }
    let (now, mut load) = (machine.now(), of_service(machine.overlay(), service)?);
    let lost = || Fault::Corrupt { record: Kind::ServiceLoad, what: "fewer than none".into() };
    load.in_flight = load.in_flight.saturating_add(came).checked_sub(went).ok_or_else(lost)?;
    if retries > 0 {
        load.retries = load.retries_at(now).saturating_add(retries);
        load.window = now.get() / RETRY_BUDGET_WINDOW_MS;
    }
    let row = service_key(service);
    if load.in_flight == 0 && load.retries_at(now) == 0 {
        machine.overlay_mut().delete(Table::ConsumerLoads, row);
    } else {
        let value = encode_message(Kind::ServiceLoad, &load);
        machine.overlay_mut().put(Table::ConsumerLoads, row, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_back() {
        let row = row_key(SubscriptionId(1), "worker-é");
        assert_eq!(consumer_of(&row).unwrap(), "worker-é");
        assert!(consumer_of(&row[..7]).is_err());
        assert_eq!(decode(&encode(77)).unwrap(), 77);
    }
}
