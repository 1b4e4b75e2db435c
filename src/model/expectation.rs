//! Optimistic concurrency: what a key's version has to be.

use super::ids::KeyVersion;

/// What the caller expects of a key before its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing: accept whatever is there.
    Any,
    /// No event with this key.
    NoKey,
    /// At least one event with this key.
    Exists,
    /// Exactly this version.
    Exact(KeyVersion),
}

impl Expect {
    /// Whether a key at `actual` (0: no event yet) meets the expectation.
    #[must_use]
    pub fn holds(self, actual: KeyVersion) -> bool {
        match self {
            Self::Any => true,
            Self::NoKey => actual.get() == 0,
            Self::Exists => actual.get() > 0,
            Self::Exact(expected) => expected == actual,
        }
    }
}

impl std::fmt::Display for Expect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::NoKey => f.write_str("no_key"),
            Self::Exists => f.write_str("exists"),
            Self::Exact(version) => write!(f, "exact({version})"),
        }
    }
}
