//! How calls went, one after the other, without a word for each of them.

/// Calls in their order, as far as a circuit breaker has to know it: gatherings of them, however they are
/// cut, add up to what they would have told one by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// Calls that succeeded.
    pub ok: u64,
    /// Calls that failed.
    pub failed: u64,
    /// Of those, before the first that succeeded: all, where none did.
    pub at_start: u64,
    /// Most failures in a row.
    pub longest: u64,
    /// Of those that failed, after the last that succeeded: all, where none did.
    pub at_end: u64,
}

/// What is told of failures in a row; what is not told follows from the rest.
#[derive(Clone, Copy, Debug, Default)]
pub struct InARow {
    /// Not told: none, where any call succeeded.
    pub at_start: Option<u64>,
    /// Not told: those at the end.
    pub longest: Option<u64>,
    /// Not told: all.
    pub at_end: Option<u64>,
}

impl Runs {
    /// One call.
    #[must_use]
    pub fn of(ok: bool) -> Self {
        Self::told(u64::from(ok), u64::from(!ok), InARow::default())
    }

    /// Calls as somebody tells them, who may tell what cannot be.
    #[must_use]
    pub fn told(ok: u64, failed: u64, row: InARow) -> Self {
        if ok == 0 {
            return Self { ok, failed, at_start: failed, longest: failed, at_end: failed };
        }
        let at_end = row.at_end.map_or(failed, |count| count.min(failed));
        let at_start = row.at_start.map_or(0, |count| count.min(failed - at_end));
        let longest = row.longest.map_or(at_end, |count| count.min(failed));
        Self { ok, failed, at_start, longest: longest.max(at_start).max(at_end), at_end }
    }

    /// These, and then those.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        Self {
            ok: self.ok.saturating_add(next.ok),
            failed: self.failed.saturating_add(next.failed),
            at_start: self.followed(next.at_start),
            longest: self.longest.max(next.longest).max(self.at_end.saturating_add(next.at_start)),
            at_end: next.following(self.at_end),
        }
    }

    /// Failures in a row after these, when there were so many before them.
    #[must_use]
    pub fn following(self, before: u64) -> u64 {
        if self.ok == 0 { before.saturating_add(self.failed) } else { self.at_end }
    }

    /// Failures before the first success, when so many come after these.
    fn followed(self, after: u64) -> u64 {
        if self.ok == 0 { self.failed.saturating_add(after) } else { self.at_start }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(calls: &[bool]) -> Runs {
        calls.iter().fold(Runs::default(), |sum, ok| sum.then(Runs::of(*ok)))
    }

    proptest::proptest! {
        #[test]
        fn calls_add_up_however_they_are_cut(
            all in proptest::collection::vec(proptest::bool::weighted(0.3), 0..40),
            cuts in proptest::collection::vec(0..40_usize, 0..6)
        ) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(all.len())).collect();
            cuts.extend([0, all.len()]);
            cuts.sort_unstable();
            let parts = cuts.windows(2).map(|ends| calls(&all[ends[0]..ends[1]]));
            let sum = parts.fold(Runs::default(), Runs::then);
            let row = |calls: &[bool]| calls.iter().take_while(|ok| !**ok).count() as u64;
            let back: Vec<_> = all.iter().rev().copied().collect();
            let failed = all.iter().filter(|ok| !**ok).count() as u64;
            let wanted = Runs {
                ok: all.len() as u64 - failed,
                failed,
                at_start: row(&all),
                longest: (0..all.len()).map(|from| row(&all[from..])).max().unwrap_or(0),
                at_end: row(&back),
            };
            proptest::prop_assert_eq!(sum, wanted);
        }
    }

    #[test]
    fn what_is_not_told_follows_and_what_cannot_be_is_not_taken() {
        let untold = Runs::told(3, 2, InARow::default());
        assert_eq!((untold.at_start, untold.longest, untold.at_end), (0, 2, 2));
        let scattered = InARow { at_end: Some(0), ..InARow::default() };
        let scattered = Runs::told(90, 10, scattered);
        assert_eq!((scattered.at_start, scattered.longest, scattered.at_end), (0, 0, 0));
        let much = InARow { at_start: Some(9), longest: Some(9), at_end: Some(9) };
        let much = Runs::told(1, 2, much);
        assert_eq!((much.at_start, much.longest, much.at_end), (0, 2, 2));
        // Where none succeeded, they are all in one row.
        let none = InARow { at_end: Some(0), ..InARow::default() };
        assert_eq!(Runs::told(0, 7, none), calls(&[false; 7]));
    }
}
