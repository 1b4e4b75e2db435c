//! A bound of memory for a node: a control group (version 1) below the one that the harness is in.

use std::path::PathBuf;

use anyhow::Context as _;

/// What a node may use, its share of the page cache included.
pub const BYTES_MAX: u64 = 384 << 20;

/// Where the groups of memory are.
const HIERARCHY: &str = "/sys/fs/cgroup/memory";

/// A group for one node. It has to be empty when it is removed.
#[derive(Debug)]
pub struct Group(PathBuf);

/// Where this process belongs, when there is such a thing here.
fn own() -> Option<PathBuf> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.split_once(":memory:"))?.1;
    let dir = PathBuf::from(HIERARCHY).join(path.trim_start_matches('/'));
    dir.join("memory.limit_in_bytes").is_file().then_some(dir)
}

impl Group {
    /// Makes the group of a slot of a run; `None` where that is not possible.
    #[must_use]
    pub fn make(run: &str, slot: u8) -> Option<Self> {
        let dir = own()?.join(format!("jepsen-like-{run}-{slot}"));
        std::fs::create_dir(&dir).ok()?;
        let group = Self(dir);
        let bounded = std::fs::write(group.file("limit_in_bytes"), BYTES_MAX.to_string());
        if bounded.is_err() {
            group.remove();
            return None;
        }
        Some(group)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(format!("memory.{name}"))
    }

    /// Takes a process in.
    ///
    /// # Errors
    /// When it is gone.
    pub fn take(&self, pid: u32) -> anyhow::Result<()> {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string())
            .with_context(|| format!("put process {pid} into {}", self.0.display()))
    }

    /// The most bytes that were used at a time.
    #[must_use]
    pub fn most(&self) -> u64 {
        let text = std::fs::read_to_string(self.file("max_usage_in_bytes")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    /// Removes the group.
    pub fn remove(&self) {
        // One that is in use still is removed by whoever started the run.
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Removes what a run has left.
pub fn sweep(run: &str) {
    let Some(entries) = own().and_then(|dir| std::fs::read_dir(dir).ok()) else { return };
    let prefix = format!("jepsen-like-{run}-");
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}
