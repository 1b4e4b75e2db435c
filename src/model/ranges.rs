//! Sets of offsets as ranges: what leases hold and settlements name.

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
        let mut set = Self::new();
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
    fn a_range_that_runs_over_the_end_is_cut() {
        let (far, _) =
            (Ranges::from_unsorted(&[OffsetRange { first: u64::MAX - 1, count: 9 }]), ());
        assert_eq!(far.as_slice()[0].end(), u64::MAX);
    }
}
