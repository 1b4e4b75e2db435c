//! Everything that happened in a run, line by line.

use std::fmt::Display;
use std::fs::File;
use std::hash::Hasher as _;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use xxhash_rust::xxh3::Xxh3Default;

pub(crate) struct Trace {
    hash: Xxh3Default,
    lines: u64,
    /// Written as it goes, so that it is there when a run hangs.
    file: Option<File>,
    pub(crate) now: Duration,
}

impl Trace {
    pub(crate) fn new(path: Option<&Path>) -> Self {
        let file = path.map(|path| File::create(path).expect("make the file of the trace"));
        Self { hash: Xxh3Default::new(), lines: 0, file, now: Duration::ZERO }
    }

    pub(crate) fn say(&mut self, who: impl Display, what: impl Display) {
        let line = format!("{:>8.3} {who}: {what}", self.now.as_secs_f64());
        self.hash.write(line.as_bytes());
        self.lines += 1;
        if let Some(file) = &mut self.file {
            writeln!(file, "{line}").expect("write the trace");
        }
    }

    /// A number that two runs share only when they did the same.
    pub(crate) fn digest(&self) -> String {
        format!("{:016x} of {} lines", self.hash.digest(), self.lines)
    }
}
