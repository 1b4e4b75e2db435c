//! Hashing the whole state, to compare replicas at one applied entry.

use std::ops::ControlFlow;

use xxhash_rust::xxh3::Xxh3Default;

use super::Fault;
use super::kv::{Kv, Order, Table};

/// Larger than every key.
const END: [u8; 16] = [0xff; 16];

/// The XXH3-128 of all rows of all tables, and their number. Lengths are hashed with keys and
/// values, so that no two states look alike by shifting bytes.
///
/// # Errors
/// When the store fails.
pub fn hash(kv: &impl Kv) -> Result<(u128, u64), Fault> {
    let mut hasher = Xxh3Default::new();
    let mut rows = 0;
    for table in Table::ALL {
        hasher.update(table.name().as_bytes());
        kv.scan(table, &[], &END, Order::Ascending, &mut |key, value| {
            rows += 1;
            hasher.update(&(key.len() as u64).to_le_bytes());
            hasher.update(key);
            hasher.update(&(value.len() as u64).to_le_bytes());
            hasher.update(value);
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok((hasher.digest128(), rows))
}
