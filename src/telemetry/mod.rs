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

/// Time of processors that this process used, milliseconds; 0 where the system does not tell.
#[must_use]
pub fn cpu_ms() -> u64 {
    std::fs::read_to_string("/proc/self/stat").ok().and_then(|stat| cpu_ms_of(&stat)).unwrap_or(0)
}

/// `utime` and `stime` of `proc_pid_stat(5)`, in ticks of 10 ms; the name before them may have blanks.
fn cpu_ms_of(stat: &str) -> Option<u64> {
    const TICK_MS: u64 = 10;
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut times = after_name.split_whitespace().skip(11);
    let ticks: u64 = times.next()?.parse::<u64>().ok()? + times.next()?.parse::<u64>().ok()?;
    Some(ticks * TICK_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_processors_are_found_behind_any_name() {
        let stat = "7 (a) b 9 (c) S 1 7 7 0 -1 4194560 900 0 3 0 120 34 0 0 20 0 9 0 55 1 2";
        assert_eq!(cpu_ms_of(stat), Some(1540));
        assert_eq!(cpu_ms_of("7 (a) S 1"), None);
        let before = cpu_ms();
        while cpu_ms() == before {
            std::hint::black_box(std::fs::read_to_string("/proc/self/stat").ok());
        }
    }
}
