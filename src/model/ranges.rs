//! Sets of offsets as ranges: what leases hold and settlements name.

use bytes::{Buf, BufMut};
use prost::encoding::{
    DecodeContext, WireType, decode_varint, encode_key, encode_varint, encoded_len_varint, key_len,
    skip_field,
};
use prost::{DecodeError, Message};

use super::ids::Offset;

/// Neighbouring offsets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, prost::Message)]
pub struct OffsetRange {
    /// The first offset.
    #[prost(uint64, tag = "1")]
    pub first: u64,
    /// How many.
    #[prost(uint64, tag = "2")]
    pub count: u64,
}

impl OffsetRange {
    /// The offsets with `first <= offset < end`.
    #[must_use]
    pub fn between(first: u64, end: u64) -> Self {
        Self { first, count: end.saturating_sub(first) }
    }

    /// One offset.
    #[must_use]
    pub fn one(offset: Offset) -> Self {
        Self { first: offset.get(), count: 1 }
    }

    /// The offset after the last.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first.saturating_add(self.count)
    }

    /// Whether an offset is in it.
    #[must_use]
    pub fn has(&self, offset: Offset) -> bool {
        (self.first..self.end()).contains(&offset.get())
    }

    /// What both have.
    #[must_use]
    pub fn overlap(&self, other: Self) -> Self {
        Self::between(self.first.max(other.first), self.end().min(other.end()))
    }
}

/// A set of offsets: ranges that are sorted, not empty, and do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<OffsetRange>);

impl Ranges {
    /// No offset.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The set of all offsets in ranges from outside, in whatever order.
    #[must_use]
    pub fn from_unsorted(ranges: &[OffsetRange]) -> Self {
        let mut sorted: Vec<_> = ranges.iter().filter(|r| r.count > 0).copied().collect();
        sorted.sort_unstable();
        let mut set = Self(Vec::with_capacity(sorted.len()));
        for range in sorted {
            set.push(range);
        }
        set
    }

    /// Adds a range that does not begin before the last one does.
    pub fn push(&mut self, range: OffsetRange) {
        if range.count == 0 {
            return;
        }
        match self.0.last_mut() {
            Some(last) if range.first <= last.end() => {
                *last = OffsetRange::between(last.first, last.end().max(range.end()));
            }
            _ => self.0.push(range),
        }
    }

    /// The ranges.
    #[must_use]
    pub fn as_slice(&self) -> &[OffsetRange] {
        &self.0
    }

    /// The ranges.
    #[must_use]
    pub fn into_vec(self) -> Vec<OffsetRange> {
        self.0
    }

    /// How many offsets.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum, r| sum.saturating_add(r.count))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The offsets, in order.
    pub fn iter(&self) -> impl Iterator<Item = Offset> + '_ {
        self.0.iter().flat_map(|r| r.first..r.end()).map(Offset)
    }

    /// The smallest offset and the one after the largest.
    #[must_use]
    pub fn bounds(&self) -> Option<(Offset, Offset)> {
        Some((Offset(self.0.first()?.first), Offset(self.0.last()?.end())))
    }

    /// The first so many offsets.
    #[must_use]
    pub fn first(&self, count: u64) -> Self {
        if self.count() <= count {
            return self.clone();
        }
        let (mut left, mut set) = (count, Self::new());
        for range in &self.0 {
            let count = range.count.min(left);
            set.push(OffsetRange { count, ..*range });
            left -= count;
            if left == 0 {
                break;
            }
        }
        set
    }

    /// Whether the offset is in the set.
    #[must_use]
    pub fn contains(&self, offset: Offset) -> bool {
        let at = self.0.partition_point(|r| r.end() <= offset.get());
        self.0.get(at).is_some_and(|r| r.first <= offset.get())
    }

    /// What of it is in a range.
    #[must_use]
    pub fn within(&self, range: OffsetRange) -> Self {
        let from = self.0.partition_point(|r| r.end() <= range.first);
        let until = self.0.partition_point(|r| r.first < range.end());
        let mut set = Self::new();
        for near in self.0.get(from..until).unwrap_or_default() {
            set.push(near.overlap(range));
        }
        set
    }

    /// What both sets have.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        let (mut set, mut a, mut b) = (Self::new(), self.0.iter(), other.0.iter());
        let (mut left, mut right) = (a.next(), b.next());
        while let (Some(x), Some(y)) = (left, right) {
            set.push(x.overlap(*y));
            if x.end() <= y.end() {
                left = a.next();
            } else {
                right = b.next();
            }
        }
        set
    }

    /// What this set has and the other has not.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let mut set = Self::new();
        let mut holes = other.0.iter().peekable();
        for range in &self.0 {
            let mut from = range.first;
            while holes.next_if(|h| h.end() <= from).is_some() {}
            let mut ahead = holes.clone();
            while let Some(hole) = ahead.next_if(|h| h.first < range.end()) {
                set.push(OffsetRange::between(from, hole.first));
                from = hole.end();
            }
            set.push(OffsetRange::between(from, range.end()));
        }
        set
    }
}

/// The only field of the message: for each range the gap before it and its length, packed.
const PACKED: u32 = 1;

impl Ranges {
    /// Gap and length of each range.
    fn packed(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().scan(0, |end, range| {
            let gap = range.first.wrapping_sub(*end);
            *end = range.end();
            Some((gap, range.count))
        })
    }

    fn packed_len(&self) -> usize {
        self.packed().map(|(gap, count)| encoded_len_varint(gap) + encoded_len_varint(count)).sum()
    }
}

/// As protobuf knows no sets, this one is `repeated uint64 packed = 1`: gap, length, gap, length…
impl Message for Ranges {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        if self.is_empty() {
            return;
        }
        encode_key(PACKED, WireType::LengthDelimited, buf);
        encode_varint(self.packed_len() as u64, buf);
        for (gap, count) in self.packed() {
            encode_varint(gap, buf);
            encode_varint(count, buf);
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        if tag != PACKED || wire_type != WireType::LengthDelimited {
            return skip_field(wire_type, tag, buf, context);
        }
        let len = usize::try_from(decode_varint(buf)?).unwrap_or(usize::MAX);
        if len > buf.remaining() {
            return Err(malformed());
        }
        let rest = buf.remaining() - len;
        // Not more than the bytes can hold, whatever they say.
        self.0.reserve(len / 2);
        let mut end = self.0.last().map_or(0, OffsetRange::end);
        while buf.remaining() > rest {
            let (gap, count) = (decode_varint(buf)?, decode_varint(buf)?);
            let first = end.checked_add(gap).ok_or_else(malformed)?;
            end = first.checked_add(count).filter(|_| count > 0).ok_or_else(malformed)?;
            self.push(OffsetRange { first, count });
        }
        if buf.remaining() == rest { Ok(()) } else { Err(malformed()) }
    }

    fn encoded_len(&self) -> usize {
        if self.is_empty() {
            return 0;
        }
        let packed = self.packed_len();
        key_len(PACKED) + encoded_len_varint(packed as u64) + packed
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

#[expect(deprecated, reason = "prost has no other way for messages that are not derived")]
fn malformed() -> DecodeError {
    DecodeError::new("malformed ranges")
}

impl FromIterator<Offset> for Ranges {
    /// Of offsets in ascending order.
    fn from_iter<I: IntoIterator<Item = Offset>>(offsets: I) -> Self {
        let mut set = Self::new();
        for offset in offsets {
            set.push(OffsetRange::one(offset));
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set(ranges: &[(u64, u64)]) -> (Ranges, BTreeSet<u64>) {
        let ranges: Vec<_> = ranges
            .iter()
            .map(|(first, count)| OffsetRange { first: *first, count: *count })
            .collect();
        let plain = ranges.iter().flat_map(|r| r.first..r.end()).collect();
        (Ranges::from_unsorted(&ranges), plain)
    }

    fn plain(ranges: &Ranges) -> BTreeSet<u64> {
        ranges.iter().map(Offset::get).collect()
    }

    proptest! {
        #[test]
        fn they_are_sets(
            a in prop::collection::vec((0_u64..40, 0_u64..9), 0..8),
            b in prop::collection::vec((0_u64..40, 0_u64..9), 0..8),
        ) {
            let ((x, p), (y, q)) = (set(&a), set(&b));
            prop_assert_eq!(plain(&x), p.clone());
            prop_assert_eq!(x.count(), p.len() as u64);
            prop_assert_eq!(plain(&x.intersect(&y)), p.intersection(&q).copied().collect());
            prop_assert_eq!(plain(&x.minus(&y)), p.difference(&q).copied().collect());
            prop_assert!(x.minus(&y).as_slice().windows(2).all(|w| w[0].end() < w[1].first));
            prop_assert_eq!(Ranges::decode(&*x.encode_to_vec()).unwrap(), x.clone());
            prop_assert_eq!(plain(&x.first(7)), p.iter().take(7).copied().collect());
            prop_assert_eq!(x.encoded_len(), x.encode_to_vec().len());
            for range in b.iter().map(|(first, count)| OffsetRange { first: *first, count: *count }) {
                let (near, (only, _)) = (x.within(range), set(&[(range.first, range.count)]));
                prop_assert_eq!(near, x.intersect(&only));
            }
            for n in 0..50 {
                prop_assert_eq!(x.contains(Offset(n)), p.contains(&n));
            }
        }
    }

    #[test]
    fn malformed_bytes_are_told() {
        let packed = |numbers: &[u64]| {
            let mut body = Vec::new();
            numbers.iter().for_each(|n| encode_varint(*n, &mut body));
            let mut all = vec![0x0a, u8::try_from(body.len()).unwrap()];
            all.append(&mut body);
            all
        };
        assert_eq!(Ranges::decode(&*packed(&[3, 2, 1, 1])).unwrap().count(), 3);
        for bad in [&[3][..], &[3, 0], &[3, 2, u64::MAX, 1], &[u64::MAX, 1]] {
            assert!(Ranges::decode(&*packed(bad)).is_err(), "{bad:?}");
        }
        assert!(Ranges::decode(&[0x0a, 5, 1, 1][..]).is_err());
    }

    #[test]
    fn a_range_that_runs_over_the_end_is_cut() {
        let (far, _) =
            (Ranges::from_unsorted(&[OffsetRange { first: u64::MAX - 1, count: 9 }]), ());
        assert_eq!(far.as_slice()[0].end(), u64::MAX);
    }
}
