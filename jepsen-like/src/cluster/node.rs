//! One node: its address, its directory, and its process while it runs.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use message_hub::client::{Client, ClientOptions};
use message_hub::proto::v1::{StatusRequest, StatusResponse};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::disk::Disk;
use super::memory::Group;
use crate::tools::poll;

/// How long a killed process may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(30);
/// For questions about one node.
const ASK: Duration = Duration::from_millis(1000);

/// A place for a node, with an address of its own. A node that lost its data comes back in the same
/// slot under a new id.
#[derive(Debug)]
pub struct Node {
    /// From 1; the last number of its address.
    pub slot: u8,
    /// Of the node that is in the slot now.
    pub id: u64,
    dir: PathBuf,
    ports: (u16, u16),
    disk: Option<Disk>,
    process: Option<Child>,
    memory: Option<Group>,
    /// Parts of the log, in bytes, in which complaints are explained by a fault.
    excused: Vec<std::ops::Range<u64>>,
}

impl Node {
    /// A slot with an empty directory.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new(slot: u8, root: &Path, ports: (u16, u16)) -> anyhow::Result<Self> {
        let dir = root.join(format!("node-{slot}"));
        std::fs::create_dir_all(dir.join("data"))
            .with_context(|| format!("create {}", dir.display()))?;
        Ok(Self {
            slot,
            id: u64::from(slot),
            dir,
            ports,
            disk: None,
            process: None,
            memory: None,
            excused: Vec::new(),
        })
    }

    /// Gives the slot a file system of its own, that can lose its power.
    ///
    /// # Errors
    /// When it cannot be made or mounted.
    pub async fn use_disk(&mut self, images: &Path) -> anyhow::Result<()> {
        let image = images.join(format!("node-{}.ext4", self.slot));
        // Both ways that ext4 orders data are met in each cluster.
        let options =
            if self.slot.is_multiple_of(2) { "data=writeback,commit=60" } else { "data=ordered" };
        self.disk = Some(Disk::make(image, self.mount_point(), options).await?);
        Ok(())
    }

    /// Gives the slot a bound of memory.
    pub fn use_memory(&mut self, group: Group) {
        self.memory = Some(group);
    }

    /// Its bound of memory, when it has one.
    #[must_use]
    pub fn memory(&self) -> Option<&Group> {
        self.memory.as_ref()
    }

    /// Its IP address.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.1.{}", self.slot)
    }

    /// HOST:PORT for clients.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("{}:{}", self.address(), self.ports.0)
    }

    /// What it wrote to its log, over all of its starts.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    fn mount_point(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// What the node has stored.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.mount_point().join("mhub")
    }

    /// Its file system, when it has one of its own.
    pub fn disk(&mut self) -> Option<&mut Disk> {
        self.disk.as_mut()
    }

    /// Gives the slot a wall clock that can be set. To be called before the node is started.
    ///
    /// # Errors
    /// When its file cannot be written.
    pub fn use_clock(&self) -> anyhow::Result<()> {
        self.set_clock(0)
    }

    fn clock_path(&self) -> PathBuf {
        self.dir.join("clock")
    }

    /// Lets the node's wall clock be wrong by so many milliseconds.
    ///
    /// # Errors
    /// When its file cannot be written.
    pub fn set_clock(&self, by_ms: i64) -> anyhow::Result<()> {
        // By a rename: the node may read it at any moment.
        let next = self.dir.join("clock.next");
        std::fs::write(&next, format!("{by_ms}\n"))?;
        std::fs::rename(&next, self.clock_path()).context("set a clock")
    }

    /// Whether the node took note of a clock that was set, in its log from a length on.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn clock_was_set(&self, from: u64) -> anyhow::Result<bool> {
        Ok(self.log_from(from)?.contains("the wall clock was set"))
    }

    /// From here on complaints in the log are explained by a fault, until [`Self::excused`].
    pub fn excuse(&mut self) {
        self.excused.push(self.log_bytes()..u64::MAX);
    }

    /// From here on complaints count again.
    pub fn excused(&mut self) {
        let end = self.log_bytes();
        for range in self.excused.iter_mut().filter(|range| range.end == u64::MAX) {
            range.end = end;
        }
    }

    /// How long its log is.
    pub fn log_bytes(&self) -> u64 {
        std::fs::metadata(self.log_path()).map_or(0, |meta| meta.len())
    }

    /// The lines of its log that no fault excuses.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log_lines(&self) -> anyhow::Result<Vec<String>> {
        if !self.log_path().exists() {
            return Ok(Vec::new());
        }
        let bytes = std::fs::read(self.log_path()).context("read a node's log")?;
        let mut at = 0;
        let mut lines = Vec::new();
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            if !self.excused.iter().any(|range| range.contains(&at)) {
                lines.push(String::from_utf8_lossy(line).trim_end().to_owned());
            }
            at += line.len() as u64;
        }
        Ok(lines)
    }

    /// Starts the process; it need not be ready when this returns.
    ///
    /// # Errors
    /// When it runs already, or cannot be started.
    pub fn start(&mut self, mhub: &Path, settings: &[(&str, String)]) -> anyhow::Result<()> {
        anyhow::ensure!(self.process.is_none(), "node {} runs already", self.slot);
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let child = Command::new(mhub)
            .arg("serve")
            .current_dir(&self.dir)
            .env_remove("MHUB_CONFIG")
            .env("NO_COLOR", "1")
            .env("RUST_BACKTRACE", "1")
            .env("MHUB_NODE_ID", self.id.to_string())
            .env("MHUB_NODE_DATA_DIR", self.data_dir())
            .env("MHUB_LISTEN_CLIENT", self.endpoint())
            .env("MHUB_LISTEN_PEER", format!("{}:{}", self.address(), self.ports.1))
            .envs(self.clock_settings())
            .envs(settings.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", mhub.display()))?;
        if let (Some(group), Some(pid)) = (&self.memory, child.id()) {
            group.take(pid)?;
        }
        self.process = Some(child);
        Ok(())
    }

    fn clock_settings(&self) -> Option<(&'static str, PathBuf)> {
        self.clock_path().exists().then(|| ("MHUB_TEST_CLOCK", self.clock_path()))
    }

    /// Whether a process was started and not taken away. It may have ended by itself.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// How the process ended by itself, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.process.as_mut()?.try_wait().ok()??;
        self.process = None;
        Some(status)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When no process runs.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.pid().with_context(|| format!("node {} does not run", self.slot))?;
        kill_process(pid, signal)
            .with_context(|| format!("signal {signal:?} to node {}", self.slot))
    }

    /// Of its process.
    #[must_use]
    pub fn pid(&self) -> Option<Pid> {
        let id = i32::try_from(self.process.as_ref()?.id()?).ok()?;
        Pid::from_raw(id)
    }

    /// kill -9; true when it was this that ended the process.
    ///
    /// # Errors
    /// When the process does not go away.
    pub async fn kill(&mut self) -> anyhow::Result<bool> {
        let Some(mut process) = self.process.take() else { return Ok(false) };
        let _ = process.start_kill();
        let Ok(status) = tokio::time::timeout(GONE_WITHIN, process.wait()).await else {
            bail!("node {} is not gone {GONE_WITHIN:?} after it was killed", self.slot);
        };
        Ok(std::os::unix::process::ExitStatusExt::signal(&status?) == Some(Signal::KILL.as_raw()))
    }

    /// Whether all threads of the process are held still by a signal.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        let Some(pid) = self.pid() else { return false };
        let threads = std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero()));
        let Ok(threads) = threads else { return false };
        // After the name, which is in parentheses, comes the state. A thread without one has ended.
        let stands = |thread: std::fs::DirEntry| {
            let stat = std::fs::read_to_string(thread.path().join("stat"));
            stat.map_or(true, |stat| {
                stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T"))
            })
        };
        threads.flatten().all(stands)
    }

    /// Whether it met a fault and is about to end, by its log from a length on.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn is_ending(&self, from: u64) -> anyhow::Result<bool> {
        Ok(self.log_from(from)?.contains("the node stops"))
    }

    fn log_from(&self, from: u64) -> anyhow::Result<String> {
        let log = std::fs::read(self.log_path()).context("read a node's log")?;
        let new = log.get(usize::try_from(from)?..).unwrap_or_default();
        Ok(String::from_utf8_lossy(new).into_owned())
    }

    /// Deletes everything that the node has stored. It must not run.
    ///
    /// # Errors
    /// When it runs, or something cannot be deleted.
    pub fn wipe(&mut self, id: u64) -> anyhow::Result<()> {
        anyhow::ensure!(self.process.is_none(), "node {} runs", self.slot);
        let dir = self.data_dir();
        if dir.exists() {
            std::fs::remove_dir_all(&dir).with_context(|| format!("delete {}", dir.display()))?;
        }
        self.id = id;
        Ok(())
    }

    /// A client that talks to this node alone.
    ///
    /// # Errors
    /// Never for an address of ours.
    pub fn client(&self, timeout: Duration) -> anyhow::Result<Client> {
        let options = ClientOptions {
            timeout,
            attempt_timeout: timeout,
            connect_timeout: ASK,
            pinned: true,
            ..ClientOptions::default()
        };
        Ok(Client::with_options([self.endpoint()], options)?)
    }

    /// The node's view; `None` when it does not answer.
    pub async fn status(&self) -> Option<StatusResponse> {
        self.process.as_ref()?;
        self.client(ASK).ok()?.status(StatusRequest {}).await.ok()
    }

    /// Waits until the node answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn answers(&self, within: Duration) -> anyhow::Result<StatusResponse> {
        poll(within, || self.status()).await.with_context(|| {
            format!(
                "node {} does not answer within {within:?}; see {}",
                self.slot,
                self.log_path().display()
            )
        })
    }
}
