//! Keys: their versions, and the index from a version to its offset.

use bytes::{BufMut, Bytes};

use crate::machine::Fault;
use crate::machine::kv::{Kv, Table};
use crate::machine::record::{Kind, body, finish, start};
use crate::model::ids::{KeyVersion, Offset, TopicId};

/// The row that holds a key's version.
#[must_use]
pub fn head_key(topic: TopicId, key: &str) -> Vec<u8> {
    let mut row = Vec::with_capacity(8 + key.len());
    row.extend_from_slice(&topic.to_key());
    row.extend_from_slice(key.as_bytes());
    row
}

/// The row of one version of a key. The key's length comes first, so that no key's rows lie
/// between those of another.
#[must_use]
pub fn entry_key(topic: TopicId, key: &str, version: KeyVersion) -> Vec<u8> {
    let mut row = Vec::with_capacity(18 + key.len());
    row.extend_from_slice(&topic.to_key());
    row.extend_from_slice(&u16::try_from(key.len()).unwrap_or(u16::MAX).to_be_bytes());
    row.extend_from_slice(key.as_bytes());
    row.extend_from_slice(&version.to_key());
    row
}

/// The version in a row's key.
///
/// # Errors
/// When the key is not one.
pub fn entry_version(row: &[u8]) -> Result<KeyVersion, Fault> {
    let bytes = row
        .last_chunk::<8>()
        .ok_or(Fault::Corrupt { record: Kind::KeyEntry, what: "malformed key".to_owned() })?;
    Ok(KeyVersion(u64::from_be_bytes(*bytes)))
}

/// A key's version; 0 when no event has it.
///
/// # Errors
/// When the store fails or the row is corrupt.
pub fn head(kv: &impl Kv, topic: TopicId, key: &str) -> Result<KeyVersion, Fault> {
    let row = kv.get(Table::KeyHeads, &head_key(topic, key))?;
    row.map_or(Ok(KeyVersion(0)), |row| Ok(KeyVersion(decode_number(Kind::KeyHead, &row)?)))
}

/// The value of a head row.
#[must_use]
pub fn encode_head(version: KeyVersion) -> Bytes {
    encode_number(Kind::KeyHead, version.get())
}

/// The value of an entry row.
#[must_use]
pub fn encode_entry(offset: Offset) -> Bytes {
    encode_number(Kind::KeyEntry, offset.get())
}

/// The offset in an entry row.
///
/// # Errors
/// When the row is corrupt.
pub fn decode_entry(row: &[u8]) -> Result<Offset, Fault> {
    decode_number(Kind::KeyEntry, row).map(Offset)
}

fn encode_number(kind: Kind, number: u64) -> Bytes {
    let mut buf = start(kind, 8);
    buf.put_u64_le(number);
    finish(buf)
}

fn decode_number(kind: Kind, row: &[u8]) -> Result<u64, Fault> {
    let bytes: Result<[u8; 8], _> = body(kind, row)?.try_into();
    bytes
        .map(u64::from_le_bytes)
        .map_err(|_| Fault::Corrupt { record: kind, what: "length".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_one_key_are_neighbours() {
        let topic = TopicId(1);
        let mut rows = Vec::new();
        for key in ["a", "aa", "b", "a\0", ""] {
            for version in [1, 2, 300] {
                rows.push((entry_key(topic, key, KeyVersion(version)), key));
            }
        }
        rows.sort();
        let keys: Vec<_> = rows.chunks(3).map(|c| (c[0].1, c[2].1)).collect();
        assert!(keys.iter().all(|(first, last)| first == last), "{keys:?}");
        assert_eq!(entry_version(&entry_key(topic, "a", KeyVersion(9))).unwrap(), KeyVersion(9));
    }
}
