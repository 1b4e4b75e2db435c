//! Places where a test makes this process end or fail. Not part of a release build.
//!
//! `FAILPOINTS=NAME=ACTION` is read as the crate `fail` has it; `MHUB_TEST_CRASH_AT=NAME:N` aborts
//! the process when it comes by for the Nth time, as a crash would; `MHUB_TEST_HOLD_AT=NAME=FILE` holds up
//! who comes by until there is such a file. With the feature `planted`,
//! `MHUB_TEST_PLANT=NAME` plants a bug.

use std::sync::atomic::{AtomicU64, Ordering};

/// Arms what the environment asks for; disarmed when dropped.
pub(super) struct Armed(
    #[expect(dead_code, reason = "held for its end")] fail::FailScenario<'static>,
);

pub(super) fn arm() -> Armed {
    #[cfg(feature = "planted")]
    if let Err(unknown) = crate::runtime::planted::arm() {
        super::output::complain(&unknown);
        std::process::abort();
    }
    let scenario = fail::FailScenario::setup();
    if let Ok(wanted) = std::env::var("MHUB_TEST_CRASH_AT") {
        let (name, count) = wanted.rsplit_once(':').unwrap_or((&wanted, "1"));
        let left = AtomicU64::new(count.parse().unwrap_or(1));
        let crash = move || {
            if left.fetch_sub(1, Ordering::SeqCst) == 1 {
                std::process::abort();
            }
        };
        if let Err(error) = fail::cfg_callback(name, crash) {
            super::output::complain(&format!("MHUB_TEST_CRASH_AT={wanted}: {error}"));
            std::process::abort();
        }
    }
    if let Ok(wanted) = std::env::var("MHUB_TEST_HOLD_AT") {
        let (name, file) = wanted.split_once('=').unwrap_or((&wanted, ""));
        let file = std::path::PathBuf::from(file);
        let hold = move || {
            while !file.exists() {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        };
        if let Err(error) = fail::cfg_callback(name, hold) {
            super::output::complain(&format!("MHUB_TEST_HOLD_AT={wanted}: {error}"));
            std::process::abort();
        }
    }
    Armed(scenario)
}
