//! What happened in a run, as JSON lines: everything that a verdict rests on.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::delivered::{Counts, Letter};
pub use crate::operation::{Answer, End, Freshness, Op, Part};
use crate::tools::{now, say};

/// Settings of a run: with them it can be started again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInfo {
    /// The workload's name.
    pub workload: String,
    /// The faults' names.
    pub nemeses: Vec<String>,
    /// Nodes at the start.
    pub nodes: u8,
    /// Operations a second that are aimed at.
    pub rate: u32,
    /// How long faults are made, seconds.
    pub time_s: u64,
    /// The fault-free time at the end, seconds.
    pub calm_s: u64,
    /// Everything that is drawn comes from it.
    pub seed: u64,
    /// How often each fault must really have been installed.
    pub installed_min: u32,
}

/// One line of a history. Times are microseconds since the run began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum Line {
    /// The first line.
    Run(RunInfo),
    /// A client begins an operation.
    Invoke {
        /// When.
        at_us: u64,
        /// Pairs it with its end.
        id: u64,
        /// The client; one whose operation ended unknown gets a new number.
        process: u64,
        /// What it wants.
        op: Op,
    },
    /// An operation ended.
    Done {
        /// When.
        at_us: u64,
        /// Of its invocation.
        id: u64,
        /// How.
        end: End,
    },
    /// A fault was installed.
    Fault {
        /// When.
        at_us: u64,
        /// Its number in the run.
        number: u64,
        /// N1 to N14.
        nemesis: String,
        /// What it was.
        detail: String,
    },
    /// A fault was taken away.
    Healed {
        /// When.
        at_us: u64,
        /// Of its [`Line::Fault`].
        number: u64,
        /// What proves that it was there; empty when nothing does: then it does not count.
        evidence: String,
    },
    /// The fault-free end began.
    Calm {
        /// When.
        at_us: u64,
    },
    /// Part of the log as one replica holds it after the run.
    Replica {
        /// Its slot.
        node: u8,
        /// The offset of the first value.
        first: u64,
        /// In the order of offsets.
        values: Vec<u64>,
    },
    /// All events of a key after the run.
    Key {
        /// The key's number.
        key: u64,
        /// In the order of versions.
        values: Vec<u64>,
        /// Where they are not 1, 2, 3, and so on.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        versions: Vec<u64>,
    },
    /// The hub says of an instance whether it answers.
    Health {
        /// When it was heard.
        at_us: u64,
        /// The instance.
        instance: u64,
        /// Which registration of it.
        incarnation: u64,
        /// Whether it answers.
        passing: bool,
    },
    /// A subscription after the run, when its consumers had time to finish.
    Subscription {
        /// Its name.
        name: String,
        /// What it says of itself.
        counts: Counts,
        /// All of its dead letters.
        letters: Vec<Letter>,
    },
    /// The hash of a node's state at the entry that all nodes were asked for.
    Hash {
        /// The node's id.
        node: u64,
        /// Hexadecimal, or why there is none.
        hash: Result<String, String>,
    },
    /// Something that no fault explains: an ERROR or a panic in a node's log, a process that ended.
    Complaint {
        /// Its slot.
        node: u8,
        /// What it is.
        what: String,
    },
}

/// An operation with its end.
#[derive(Clone, Debug)]
pub struct Operation {
    /// The client.
    pub process: u64,
    /// What was wanted.
    pub op: Op,
    /// When it began.
    pub call_us: u64,
    /// When it ended; `u64::MAX` when it never did.
    pub return_us: u64,
    /// How it ended.
    pub end: End,
}

/// Writes the history of a run. Shared by all who have something to tell.
#[derive(Debug)]
pub struct Recorder {
    started: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: BufWriter<File>,
    next_id: u64,
    trouble: Option<std::io::Error>,
}

impl Recorder {
    /// A new history in a new file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn create(path: &Path, info: RunInfo) -> anyhow::Result<Self> {
        let file = File::create_new(path).with_context(|| format!("create {}", path.display()))?;
        let inner = Inner { file: BufWriter::new(file), next_id: 1, trouble: None };
        let recorder = Self { started: now(), inner: Mutex::new(inner) };
        recorder.tell(|_| Line::Run(info));
        Ok(recorder)
    }

    /// Writes a line that carries the time.
    pub fn tell(&self, line: impl FnOnce(u64) -> Line) {
        let mut inner = self.lock();
        // Taken under the lock, so that the file is in the order of time.
        let at_us = self.micros();
        inner.write(&line(at_us));
    }

    /// Tells of something that has to succeed after a run and did not. `node` is 0 for the cluster.
    pub fn expect(&self, node: u8, what: &str, ended: anyhow::Result<()>) {
        let Err(error) = ended else { return };
        let what = format!("{what}: {error:#}");
        say(&what);
        self.tell(|_| Line::Complaint { node, what });
    }

    /// Begins an operation; the number to end it with.
    pub fn invoke(&self, process: u64, op: Op) -> u64 {
        let mut inner = self.lock();
        let id = inner.next_id;
        inner.next_id += 1;
        let at_us = self.micros();
        inner.write(&Line::Invoke { at_us, id, process, op });
        id
    }

    /// Ends an operation.
    pub fn done(&self, id: u64, end: End) {
        self.tell(|at_us| Line::Done { at_us, id, end });
    }

    /// Everything is on its way to the disk.
    /// # Errors
    /// When any line could not be written.
    pub fn flush(&self) -> anyhow::Result<()> {
        let mut inner = self.lock();
        if let Some(trouble) = inner.trouble.take() {
            return Err(trouble).context("write the history");
        }
        inner.file.flush().context("write the history")
    }

    fn micros(&self) -> u64 {
        u64::try_from(now().duration_since(self.started).as_micros()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn write(&mut self, line: &Line) {
        let written = serde_json::to_writer(&mut self.file, line)
            .map_err(std::io::Error::from)
            .and_then(|()| self.file.write_all(b"\n"));
        if let Err(trouble) = written {
            self.trouble.get_or_insert(trouble);
        }
    }
}

/// Reads a history.
///
/// # Errors
/// When the file cannot be read, or a line is no line of a history.
pub fn load(path: &Path) -> anyhow::Result<Vec<Line>> {
    let file = File::open(path).with_context(|| format!("open history {}", path.display()))?;
    let mut lines = Vec::new();
    for (number, text) in BufReader::new(file).lines().enumerate() {
        let line = serde_json::from_str(&text?)
            .with_context(|| format!("line {} of {}", number + 1, path.display()))?;
        lines.push(line);
    }
    Ok(lines)
}

/// The operations of a history in the order in which they began. One without an end is unknown.
#[must_use]
pub fn operations(lines: &[Line]) -> Vec<Operation> {
    let mut ends: BTreeMap<u64, (u64, &End)> = BTreeMap::new();
    for line in lines {
        if let Line::Done { at_us, id, end } = line {
            ends.insert(*id, (*at_us, end));
        }
    }
    let mut operations = Vec::new();
    for line in lines {
        let Line::Invoke { at_us, id, process, op } = line else { continue };
        let unknown = End::Info { reason: "NO_END".to_owned() };
        let (return_us, end) =
            ends.get(id).map_or((u64::MAX, unknown), |(at, end)| (*at, (*end).clone()));
        operations.push(Operation {
            process: *process,
            op: op.clone(),
            call_us: *at_us,
            return_us,
            end,
        });
    }
    operations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_had_to_succeed_and_did_not_is_a_complaint() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.jsonl");
        let recorder = Recorder::create(&path, RunInfo::default()).unwrap();
        recorder.expect(0, "compare", Ok(()));
        let why = anyhow::anyhow!("nobody answers").context("ask for hashes");
        recorder.expect(2, "compare", Err(why));
        recorder.flush().unwrap();
        let what = "compare: ask for hashes: nobody answers".to_owned();
        assert_eq!(load(&path).unwrap()[1..], [Line::Complaint { node: 2, what }]);
    }

    #[test]
    fn what_is_written_is_read_again_and_paired() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.jsonl");
        let recorder = Recorder::create(&path, RunInfo::default()).unwrap();
        let first = recorder.invoke(7, Op::Publish { value: 1 });
        let second = recorder.invoke(8, Op::Publish { value: 2 });
        let answer = Answer::Placed { offset: 0, position: 0, version: 0 };
        recorder.done(second, End::Ok(answer.clone()));
        recorder.tell(|_| Line::Hash { node: 1, hash: Err("gone".to_owned()) });
        recorder.flush().unwrap();
        let lines = load(&path).unwrap();
        assert_eq!(lines.len(), 5);
        assert_eq!(lines[0], Line::Run(RunInfo::default()));
        let operations = operations(&lines);
        assert_eq!(first, 1);
        assert!(matches!(operations[0].end, End::Info { .. }));
        assert_eq!(operations[0].return_us, u64::MAX);
        assert_eq!(operations[1].end, End::Ok(answer));
        assert!(operations[1].return_us >= operations[1].call_us);
    }
}
