//! The only place that looks at a clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::model::ids::UnixMs;

/// The wall clock, for what is told to people.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// The wall clock. Only ever a proposal: the state machine takes the larger of it and what it saw.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn unix_ms() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let right = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    #[cfg(feature = "failpoints")]
    let right = super::wrong_clock::told_instead_of(right);
    UnixMs(right)
}

/// The monotonic clock.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn now() -> Instant {
    Instant::now()
}
