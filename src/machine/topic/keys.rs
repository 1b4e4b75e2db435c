//! Keys: their versions, and the index from a version to its offset.

use bytes::{Buf, BufMut, Bytes};

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

/// The newest event of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The key's version; 0 when no event has it.
    pub version: KeyVersion,
    /// The event's offset.
    pub last: Offset,
}

impl Head {
    /// The row to store.
    #[must_use]
    pub fn encode(self) -> Bytes {
        let mut buf = start(Kind::KeyHead, 16);
        buf.put_u64_le(self.version.get());
        buf.put_u64_le(self.last.get());
        finish(buf)
    }

    fn decode(row: &[u8]) -> Result<Self, Fault> {
        let mut rest = body(Kind::KeyHead, row)?;
        if rest.len() != 16 {
            return Err(Fault::Corrupt { record: Kind::KeyHead, what: "length".to_owned() });
        }
        Ok(Self { version: KeyVersion(rest.get_u64_le()), last: Offset(rest.get_u64_le()) })
    }

    /// How far the event after this one, of the same key, lies behind it; 0 when this is none.
    #[must_use]
    pub fn back_from(self, offset: Offset) -> u64 {
        if self.version.get() == 0 { 0 } else { offset.since(self.last) }
    }
}

/// A key's newest event; version 0 when no event has it.
///
/// # Errors
/// When the store fails or the row is corrupt.
pub fn head(kv: &impl Kv, topic: TopicId, key: &str) -> Result<Head, Fault> {
    let row = kv.get(Table::KeyHeads, &head_key(topic, key))?;
    row.map_or(Ok(Head::default()), |row| Head::decode(&row))
}

/// The value of an entry row.
#[must_use]
pub fn encode_entry(offset: Offset) -> Bytes {
    let mut buf = start(Kind::KeyEntry, 8);
    buf.put_u64_le(offset.get());
    finish(buf)
}

/// The offset in an entry row.
///
/// # Errors
/// When the row is corrupt.
pub fn decode_entry(row: &[u8]) -> Result<Offset, Fault> {
    let bytes: Result<[u8; 8], _> = body(Kind::KeyEntry, row)?.try_into();
    let corrupt = |_| Fault::Corrupt { record: Kind::KeyEntry, what: "length".to_owned() };
    bytes.map(|b| Offset(u64::from_le_bytes(b))).map_err(corrupt)
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
