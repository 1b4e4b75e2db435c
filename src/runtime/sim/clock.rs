//! The clocks of the node that runs.

use std::time::{Duration, Instant, SystemTime};

use crate::model::ids::UnixMs;

/// When simulations begin, by the wall clock: an ordinary day.
const BEGIN_MS: u64 = 1_750_000_000_000;

/// The wall clock.
#[must_use]
pub fn unix_ms() -> UnixMs {
    let elapsed = turmoil::sim_elapsed().unwrap_or_default().as_millis();
    let now_ms = BEGIN_MS + u64::try_from(elapsed).unwrap_or(u64::MAX);
    let offset_ms = super::this_node()
        .and_then(|node| super::WALL_OFFSETS_MS.with_borrow(|offsets| offsets.get(&node).copied()));
    UnixMs(now_ms.saturating_add_signed(offset_ms.unwrap_or(0)))
}

/// The wall clock, for what is told to people.
#[must_use]
pub fn wall() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(unix_ms().get())
}

/// The monotonic clock.
#[must_use]
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
