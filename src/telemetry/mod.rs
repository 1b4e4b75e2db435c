//! What a node tells of itself: logs, metrics, and spans of traced events.

pub mod logs;
pub mod metrics;
pub mod spans;

/// Resident memory of this process, bytes; 0 where the system does not tell.
#[must_use]
pub fn resident_bytes() -> u64 {
    const PAGE_BYTES: u64 = 4096;
    let Ok(statm) = std::fs::read_to_string("/proc/self/statm") else { return 0 };
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * PAGE_BYTES
}
