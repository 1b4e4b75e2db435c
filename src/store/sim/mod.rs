//! Databases of a simulated node: maps in memory, and a journal on the simulated disk.
//!
//! They keep what the real ones promise and nothing more: a write survives a crash once it was
//! synced (the log) or flushed (the state), all of a batch or nothing of it, and what was not synced
//! survives up to some point, or not at all.

mod journal;
pub mod log_db;
pub mod state;
pub mod watch;

use std::time::Duration;

/// Nothing runs in the background here.
#[must_use]
pub fn wait_closed(_patience: Duration) -> bool {
    true
}
