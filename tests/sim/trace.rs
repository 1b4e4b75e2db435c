//! Everything that happened in a run, line by line.

use std::fmt::Display;
use std::hash::Hasher as _;
use std::time::Duration;

use xxhash_rust::xxh3::Xxh3Default;

pub(crate) struct Trace {
    hash: Xxh3Default,
    lines: u64,
    /// Kept only where somebody wants to read them.
    kept: Option<Vec<String>>,
    pub(crate) now: Duration,
}

impl Trace {
    pub(crate) fn new(keep: bool) -> Self {
        let kept = keep.then(Vec::new);
        Self { hash: Xxh3Default::new(), lines: 0, kept, now: Duration::ZERO }
    }

    pub(crate) fn say(&mut self, who: impl Display, what: impl Display) {
        let line = format!("{:>8.3} {who}: {what}", self.now.as_secs_f64());
        self.hash.write(line.as_bytes());
        self.lines += 1;
        if let Some(kept) = &mut self.kept {
            kept.push(line);
        }
    }

    /// A number that two runs share only when they did the same.
    pub(crate) fn digest(&self) -> String {
        format!("{:016x} of {} lines", self.hash.digest(), self.lines)
    }

    pub(crate) fn text(&self) -> String {
        self.kept.as_deref().unwrap_or_default().join("\n") + "\n"
    }
}
