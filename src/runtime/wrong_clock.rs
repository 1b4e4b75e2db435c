//! A wall clock that is wrong, for tests; the monotonic one is left alone. Not part of a release
//! build.
//!
//! `MHUB_TEST_CLOCK` names a file with a number of milliseconds, which may be negative. The file may
//! be replaced at any time: the wall clock then jumps, as it does when somebody sets it.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};

/// Names the file.
const VARIABLE: &str = "MHUB_TEST_CLOCK";

static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
/// What was told last, so that each jump is logged once.
static LAST: AtomicI64 = AtomicI64::new(0);

/// What the wall clock says at the instant that a right one calls `right_ms`.
pub(super) fn told_instead_of(right_ms: u64) -> u64 {
    let file = FILE.get_or_init(|| std::env::var_os(VARIABLE).map(PathBuf::from));
    let Some(file) = file else { return right_ms };
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let wrong_by_ms = text.trim().parse().unwrap_or(0);
    if LAST.swap(wrong_by_ms, Ordering::Relaxed) != wrong_by_ms {
        tracing::info!(wrong_by_ms, "the wall clock was set");
    }
    right_ms.saturating_add_signed(wrong_by_ms)
}
