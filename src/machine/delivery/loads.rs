//! Events in flight by consumer: (subscription id, consumer) → count; no row for none.

use bytes::{Buf, BufMut, Bytes};

use crate::machine::apply::Machine;
use crate::machine::kv::{Kv, Table};
use crate::machine::record::{Kind, body, finish, start};
use crate::machine::{Fault, key};
use crate::model::ids::SubscriptionId;

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
