//! Small records that only this node reads: bincode inside of the frame that every record has.
//!
//! The one place that names bincode. Integers have a fixed length, so that a record can be written
//! over in place; lengths are bounded and trailing bytes are refused.

use bincode::Options as _;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::machine::Fault;
use crate::machine::record::{self, Kind};

/// Bytes of a body.
const BYTES_MAX: u64 = 4096;

fn options() -> impl bincode::Options {
    bincode::options().with_fixint_encoding().with_limit(BYTES_MAX).reject_trailing_bytes()
}

/// Frames a value. One that cannot be encoded, which none of ours is, reads back as corrupt.
pub(super) fn encode(kind: Kind, value: &impl Serialize) -> Bytes {
    record::encode(kind, &options().serialize(value).unwrap_or_default())
}

/// The value in a framed record.
///
/// # Errors
/// When it is corrupt, too long, or not of this type.
pub(super) fn decode<T: DeserializeOwned>(kind: Kind, stored: &[u8]) -> Result<T, Fault> {
    options()
        .deserialize(record::body(kind, stored)?)
        .map_err(|error| Fault::Corrupt { record: kind, what: format!("bincode: {error}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailing_bytes_and_long_values_are_refused() {
        let stored = encode(Kind::SyncedMark, &(1_u64, 2_u8));
        assert_eq!(decode::<(u64, u8)>(Kind::SyncedMark, &stored).unwrap(), (1, 2));
        assert!(decode::<u64>(Kind::SyncedMark, &stored).is_err());
        assert!(decode::<(u64, u64)>(Kind::SyncedMark, &stored).is_err());
        let lying = record::encode(Kind::SyncedMark, &u64::MAX.to_le_bytes());
        assert!(decode::<Vec<u8>>(Kind::SyncedMark, &lying).is_err());
    }
}
