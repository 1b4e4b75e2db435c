//! What is done and what is leased above a floor: (subscription id, topic id, offset / 4096) →
//! two bitmaps, stored as runs while these are shorter than plain bits.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::{decode_varint, encode_varint};

use crate::machine::kv::{Kv, Table};
use crate::machine::record::{Kind, body, finish, start};
use crate::machine::{Fault, key};
use crate::model::ids::{Offset, SubscriptionId, TopicId};
use crate::model::limits::MARKS_OFFSETS;
use crate::model::ranges::OffsetRange;

const WORDS: usize = 64;
const PLAIN: u8 = 0;
const RUNS: u8 = 1;

/// A set of places in a row: 0 to 4095.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bits([u64; WORDS]);

impl Default for Bits {
    fn default() -> Self {
        Self([0; WORDS])
    }
}

impl Bits {
    /// The words that the places `from..until` touch, each with a mask of the places in it.
    fn masks(from: u64, until: u64) -> impl Iterator<Item = (usize, u64)> {
        let until = until.min(MARKS_OFFSETS);
        let words = from / 64..until.div_ceil(64).max(from / 64);
        words.map(move |word| {
            let low = from.saturating_sub(word * 64);
            let high = (until - word * 64).min(64);
            let mask = (u64::MAX << low) & (u64::MAX >> (64 - high));
            (usize::try_from(word).unwrap_or(WORDS), mask)
        })
    }

    /// Adds the places `from..until`.
    pub fn set(&mut self, from: u64, until: u64) {
        for (word, mask) in Self::masks(from, until.max(from)) {
            if from < until {
                self.0[word] |= mask;
            }
        }
    }

    /// Takes the places `from..until` out.
    pub fn clear(&mut self, from: u64, until: u64) {
        for (word, mask) in Self::masks(from, until.max(from)) {
            if from < until {
                self.0[word] &= !mask;
            }
        }
    }

    /// Adds all places of another set.
    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(word, more)| *word |= more);
    }

    /// Whether the place is in it.
    #[must_use]
    pub fn has(&self, place: u64) -> bool {
        let word = usize::try_from(place / 64).unwrap_or(WORDS);
        self.0.get(word).is_some_and(|w| w >> (place % 64) & 1 == 1)
    }

    /// How many places.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().map(|w| u64::from(w.count_ones())).sum()
    }

    /// How many of the places `from..until`.
    #[must_use]
    pub fn count_in(&self, from: u64, until: u64) -> u64 {
        if from >= until {
            return 0;
        }
        Self::masks(from, until).map(|(word, m)| u64::from((self.0[word] & m).count_ones())).sum()
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|w| *w == 0)
    }

    /// The first place at or after `from` that is in it (`true`) or not (`false`); 4096: none.
    #[must_use]
    pub fn next(&self, from: u64, wanted: bool) -> u64 {
        next_in(|word| self.0[word], from, wanted)
    }

    /// How many runs of neighbouring places.
    fn runs(&self) -> usize {
        let begins = self.0.iter().scan(0, |before, word| {
            let begins = word & !(word << 1 | *before >> 63);
            *before = *word;
            Some(begins.count_ones() as usize)
        });
        begins.sum()
    }

    fn encode(&self, buf: &mut BytesMut) {
        let mut runs = BytesMut::new();
        let (mut from, mut count) = (0, 0_u64);
        // A run takes two bytes at least.
        let too_many = self.runs() >= WORDS * 4;
        while !too_many && runs.len() < WORDS * 8 {
            let first = self.next(from, true);
            if first == MARKS_OFFSETS {
                break;
            }
            let end = self.next(first, false);
            encode_varint(first - from, &mut runs);
            encode_varint(end - first, &mut runs);
            (from, count) = (end, count + 1);
        }
        if !too_many && runs.len() < WORDS * 8 {
            buf.put_u8(RUNS);
            encode_varint(count, buf);
            buf.put_slice(&runs);
        } else {
            buf.put_u8(PLAIN);
            self.0.iter().for_each(|word| buf.put_u64_le(*word));
        }
    }

    fn decode(buf: &mut &[u8]) -> Result<Self, Fault> {
        let mut bits = Self::default();
        match buf.try_get_u8() {
            Ok(PLAIN) if buf.len() >= WORDS * 8 => {
                bits.0.iter_mut().for_each(|word| *word = buf.get_u64_le());
            }
            Ok(RUNS) => {
                let mut at = 0;
                for _ in 0..decode_varint(buf).map_err(|_| corrupt())? {
                    let gap = decode_varint(buf).map_err(|_| corrupt())?;
                    let length = decode_varint(buf).map_err(|_| corrupt())?;
                    let first = gap.saturating_add(at);
                    let end = first.saturating_add(length);
                    if end > MARKS_OFFSETS {
                        return Err(corrupt());
                    }
                    bits.set(first, end);
                    at = end;
                }
            }
            _ => return Err(corrupt()),
        }
        Ok(bits)
    }
}

/// The first place at or after `from` whose bit is set (`true`) or not (`false`) in words; 4096:
/// none.
fn next_in(word_at: impl Fn(usize) -> u64, from: u64, wanted: bool) -> u64 {
    let mut place = from;
    while place < MARKS_OFFSETS {
        let word = usize::try_from(place / 64).map_or(0, &word_at);
        let word = if wanted { word } else { !word };
        let ahead = word >> (place % 64);
        if ahead != 0 {
            return place + u64::from(ahead.trailing_zeros());
        }
        place = (place / 64 + 1) * 64;
    }
    MARKS_OFFSETS
}

/// What is done and what is leased of 4096 offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Done, or handed over to `Failures`.
    pub done: Bits,
    /// Leased for the first time.
    pub leased: Bits,
}

impl Marks {
    /// Reads a stored row.
    ///
    /// # Errors
    /// When it is corrupt.
    pub fn decode(row: &[u8]) -> Result<Self, Fault> {
        let mut rest = body(Kind::Marks, row)?;
        let marks = Self { done: Bits::decode(&mut rest)?, leased: Bits::decode(&mut rest)? };
        if rest.is_empty() { Ok(marks) } else { Err(corrupt()) }
    }

    /// The row to store.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut buf = start(Kind::Marks, 64);
        self.done.encode(&mut buf);
        self.leased.encode(&mut buf);
        finish(buf)
    }

    /// Whether nothing is marked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.done.is_empty() && self.leased.is_empty()
    }

    /// The runs of places among `from..until` that are neither done nor leased, found one by one.
    pub fn free(&self, from: u64, until: u64) -> impl Iterator<Item = OffsetRange> + '_ {
        let next = |at, taken| next_in(|word| self.done.0[word] | self.leased.0[word], at, taken);
        let mut at = from;
        std::iter::from_fn(move || {
            let first = next(at, false).min(until);
            at = if first < until { next(first, true).min(until) } else { first };
            (first < at).then(|| OffsetRange::between(first, at))
        })
    }
}

fn corrupt() -> Fault {
    Fault::Corrupt { record: Kind::Marks, what: "malformed bitmap".to_owned() }
}

/// The number of the row that an offset is in.
#[must_use]
pub fn chunk_of(offset: Offset) -> u64 {
    offset.get() / MARKS_OFFSETS
}

/// The row's key.
#[must_use]
pub fn row_key(subscription: SubscriptionId, topic: TopicId, chunk: u64) -> Vec<u8> {
    [subscription.to_key(), topic.to_key(), chunk.to_be_bytes()].concat()
}

/// The number of the row in its key.
///
/// # Errors
/// When the key is not one.
pub fn chunk_in(row: &[u8]) -> Result<u64, Fault> {
    let mut reader = key::Reader::new(Kind::Marks, row);
    reader.number()?;
    reader.number()?;
    let chunk = reader.number()?;
    reader.end()?;
    Ok(chunk)
}

/// The stored marks of a chunk; none where there is no row.
///
/// # Errors
/// When the store fails or the row is corrupt.
pub fn load(
    kv: &impl Kv,
    subscription: SubscriptionId,
    topic: TopicId,
    chunk: u64,
) -> Result<Marks, Fault> {
    let row = kv.get(Table::Marks, &row_key(subscription, topic, chunk))?;
    row.map_or_else(|| Ok(Marks::default()), |row| Marks::decode(&row))
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers of a test")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bits_are_sets(ops in prop::collection::vec((any::<bool>(), 0_u64..4096, 0_u64..300), 0..40)) {
            let (mut bits, mut plain) = (Bits::default(), vec![false; 4096]);
            for (set, from, count) in ops {
                let until = (from + count).min(4096);
                if set { bits.set(from, until) } else { bits.clear(from, until) }
                (from..until).for_each(|place| plain[place as usize] = set);
            }
            prop_assert!((0..4096).all(|place| bits.has(place) == plain[place as usize]));
            prop_assert_eq!(bits.count(), plain.iter().filter(|p| **p).count() as u64);
            let in_part = plain[100..900].iter().filter(|p| **p).count() as u64;
            prop_assert_eq!(bits.count_in(100, 900), in_part);
            for from in [0_u64, 63, 64, 1000, 4095] {
                for wanted in [true, false] {
                    let first = (from..4096).find(|p| plain[*p as usize] == wanted).unwrap_or(4096);
                    prop_assert_eq!(bits.next(from, wanted), first);
                }
            }
            let marks = Marks { done: bits.clone(), leased: Bits::default() };
            prop_assert_eq!(Marks::decode(&marks.encode()).unwrap(), marks.clone());
            let free: Vec<u64> = marks.free(5, 4000).flat_map(|r| r.first..r.end()).collect();
            prop_assert_eq!(free, (5..4000).filter(|p| !plain[*p as usize]).collect::<Vec<_>>());
        }
    }

    #[test]
    fn many_runs_are_stored_as_plain_bits() {
        let mut marks = Marks::default();
        (0..2048).for_each(|n| marks.done.set(n * 2, n * 2 + 1));
        marks.leased.set(0, 4096);
        let row = marks.encode();
        assert!(row.len() < 1100, "{}", row.len());
        assert_eq!(Marks::decode(&row).unwrap(), marks);
    }

    #[test]
    fn a_key_gives_back_its_chunk() {
        let row = row_key(SubscriptionId(1), TopicId(2), 3);
        assert_eq!(chunk_in(&row).unwrap(), 3);
        assert!(chunk_in(&row[1..]).is_err());
        assert_eq!(chunk_of(Offset(4096)), 1);
    }
}
