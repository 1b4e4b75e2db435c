//! A cluster of real `mhub` processes, each on an address of its own.

pub mod disk;
pub mod memory;
pub mod node;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use message_hub::client::{Client, ClientOptions};
use message_hub::model::rejection::Reason;
use message_hub::proto::v1::{
    GetVerifyRequest, InitRequest, JoinRequest, PromoteRequest, RemoveNodeRequest,
};

use self::memory::Group;
use self::node::Node;
use crate::history::{Line, Recorder};
use crate::sandbox::{self, Reach};
use crate::tools::{command, now, poll, say};

/// How long a node may take to answer after its start.
pub const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
/// How long a change of the membership may take, repetitions included.
const CHANGE_WITHIN: Duration = Duration::from_secs(30);
/// How long all nodes may take to hash their state.
const VERIFY_WITHIN: Duration = Duration::from_secs(60);
/// Ids of nodes that come into a slot later.
const LATER_IDS: u64 = 100;
/// What is always on: a snapshot every 100 entries, small buffers, few threads.
const SETTINGS: &[(&str, &str)] = &[
    ("MHUB_RAFT_SNAPSHOT_ENTRIES", "100"),
    ("MHUB_RAFT_KEEP_ENTRIES", "50"),
    ("MHUB_RAFT_FLUSH_SECS", "5"),
    ("MHUB_STORAGE_WRITE_BUFFER_BYTES", "4194304"),
    ("MHUB_STORAGE_BLOCK_CACHE_BYTES", "8388608"),
    ("MHUB_RUNTIME_WORKER_THREADS", "1"),
];

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Nodes at the start.
    pub nodes: u8,
    /// The binary.
    pub mhub: PathBuf,
    /// The run's directory.
    pub dir: PathBuf,
    /// Settings by their environment variable, beyond what is always on.
    pub settings: Vec<(&'static str, String)>,
    /// Whether each node gets a file system of its own.
    pub disks: bool,
    /// Whether each node gets a wall clock that can be set.
    pub clocks: bool,
    /// What can be done to it.
    pub reach: Reach,
}

/// How a node comes back into its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comeback {
    /// With its data, when it is a member still.
    AsItIs,
    /// Without, under a new id.
    AsNew,
}

/// A cluster. All of its processes end with it.
#[derive(Debug)]
pub struct Cluster {
    /// By slot, from 1; the last one is spare.
    pub nodes: Vec<Node>,
    plan: Plan,
    settings: Vec<(&'static str, String)>,
    next_id: u64,
    recorder: Arc<Recorder>,
}

impl Cluster {
    /// Starts the nodes and makes them a cluster.
    ///
    /// # Errors
    /// When that fails; the nodes' logs are in the run's directory.
    pub async fn start(plan: Plan, recorder: Arc<Recorder>) -> anyhow::Result<Self> {
        let ports = match plan.reach {
            Reach::Everything => (7400, 7401),
            // Beside other clusters: below the ports of outgoing connections, apart by process.
            Reach::Processes => {
                let base = 10_000 + u16::try_from(std::process::id() % 10_000).unwrap_or(0) * 2;
                (base, base + 1)
            }
        };
        let mut nodes = Vec::new();
        for slot in 1..=plan.nodes + 1 {
            nodes.push(Node::new(slot, &plan.dir, ports)?);
        }
        if plan.reach == Reach::Everything {
            let run = sandbox::run_name();
            for node in &mut nodes {
                match Group::make(&run, node.slot) {
                    Some(group) => node.use_memory(group),
                    None => say("no control groups for memory here: nodes may use all of it"),
                }
            }
        }
        if plan.clocks {
            nodes.iter().try_for_each(Node::use_clock)?;
        }
        if plan.disks {
            let images = plan.dir.join("disks");
            std::fs::create_dir_all(&images)?;
            let path = images.to_str().context("the run's directory is no UTF-8")?;
            command("mount", &["-t", "tmpfs", "-o", "size=3g", "chaos", path]).await?;
            for node in &mut nodes {
                node.use_disk(&images).await?;
            }
        }
        let mut settings: Vec<_> =
            SETTINGS.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        settings.extend(plan.settings.clone());
        let mut cluster = Self { nodes, plan, settings, next_id: LATER_IDS, recorder };
        cluster.form().await?;
        Ok(cluster)
    }

    async fn form(&mut self) -> anyhow::Result<()> {
        let count = usize::from(self.plan.nodes);
        for index in 0..count {
            self.start_node(index)?;
        }
        for node in &self.nodes[..count] {
            node.answers(ANSWERS_WITHIN).await?;
        }
        self.nodes[0].client(CHANGE_WITHIN)?.init(InitRequest {}).await?;
        for index in 1..count {
            self.join(index).await?;
        }
        say(format!("{count} nodes are up"));
        Ok(())
    }

    /// The endpoints of all slots, spare ones too.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(Node::endpoint).collect()
    }

    /// Starts the process of a slot.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_node(&mut self, index: usize) -> anyhow::Result<()> {
        self.nodes[index].start(&self.plan.mhub, &self.settings)
    }

    /// The indices of the slots whose process runs.
    #[must_use]
    pub fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|index| self.nodes[*index].runs()).collect()
    }

    /// The index of the leader, as far as any node says that it leads.
    pub async fn leader(&self) -> Option<usize> {
        let mut best = None;
        for index in self.running() {
            let Some(status) = self.nodes[index].status().await else { continue };
            if status.state == "leader" {
                best = best.max(Some((status.term, index)));
            }
        }
        best.map(|(_, index)| index)
    }

    /// A client that follows the hub to its leader.
    ///
    /// # Errors
    /// Never for addresses of ours.
    pub fn client(&self, timeout: Duration) -> anyhow::Result<Client> {
        let endpoints: Vec<String> =
            self.running().into_iter().map(|index| self.nodes[index].endpoint()).collect();
        let options = ClientOptions { timeout, ..ClientOptions::default() };
        Ok(Client::with_options(endpoints, options)?)
    }

    /// Makes the running node of a slot a voter.
    ///
    /// # Errors
    /// When it is none in time.
    pub async fn join(&mut self, index: usize) -> anyhow::Result<()> {
        let node = &self.nodes[index];
        node.answers(ANSWERS_WITHIN).await?;
        let pinned = node.client(CHANGE_WITHIN)?;
        let until = now() + CHANGE_WITHIN;
        let members: Vec<usize> = self.running().into_iter().filter(|i| *i != index).collect();
        let mut turn = members.iter().cycle();
        loop {
            let member = turn.next().context("there is no other node to join")?;
            let endpoint = self.nodes[*member].endpoint();
            match pinned.join(JoinRequest { endpoint }).await {
                Ok(_) => break,
                // An earlier attempt was taken although its answer was lost.
                Err(refused) if refused.reason.as_str() == "ALREADY_INITIALIZED" => break,
                Err(refused) if now() >= until => {
                    return Err(refused).context(format!("join node {}", node.slot));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
        let client = self.client(CHANGE_WITHIN)?;
        let request = PromoteRequest { node_id: node.id };
        let promoted = poll(CHANGE_WITHIN, || async {
            client.promote(request).await.ok()?;
            Some(())
        });
        promoted.await.with_context(|| format!("node {} was not promoted", node.slot))
    }

    /// Takes the node of a slot out for good, ends its process and deletes its data.
    ///
    /// # Errors
    /// When the hub refuses.
    pub async fn remove(&mut self, index: usize) -> anyhow::Result<()> {
        let request = RemoveNodeRequest { node_id: self.nodes[index].id, force: false };
        match self.client(CHANGE_WITHIN)?.remove_node(request).await {
            // Of an earlier request nobody knew what became: it was done.
            Err(refused) if refused.reason == Reason::NodeNotFound => {}
            answered => drop(answered?),
        }
        self.nodes[index].kill().await?;
        let id = self.next_id;
        self.next_id += 1;
        self.nodes[index].wipe(id)
    }

    /// Tells of processes that ended by themselves, and starts them again.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn look_after(&mut self) -> anyhow::Result<()> {
        for index in 0..self.nodes.len() {
            let Some(status) = self.nodes[index].ended() else { continue };
            let node = self.nodes[index].slot;
            say(format!("node {node} ended by itself: {status}"));
            let what = format!("its process ended by itself: {status}");
            self.recorder.tell(|_| Line::Complaint { node, what });
            self.start_node(index)?;
        }
        Ok(())
    }

    /// Makes each slot that the cluster began with a member again, after changes that did not come
    /// to their end.
    ///
    /// # Errors
    /// When the hub does not let them in.
    pub async fn settle(&mut self) -> anyhow::Result<()> {
        for index in 0..self.nodes.len() {
            self.settle_one(index, Comeback::AsItIs).await?;
        }
        Ok(())
    }

    /// The same for one slot, which may have to be replaced whatever it is.
    ///
    /// # Errors
    /// When the hub does not let it in.
    pub async fn settle_one(&mut self, index: usize, comeback: Comeback) -> anyhow::Result<()> {
        let leader =
            poll(CHANGE_WITHIN, || async { self.nodes[self.leader().await?].status().await });
        let members = leader.await.context("there is no leader")?.members;
        let id = self.nodes[index].id;
        let spare = index >= usize::from(self.plan.nodes);
        let runs = self.nodes[index].runs();
        let role = members.iter().find(|m| m.node_id == id).map(|m| m.role.as_str());
        match (role, comeback) {
            (Some("voter"), Comeback::AsItIs) if runs => return Ok(()),
            (Some(_), Comeback::AsItIs) if runs => return self.join(index).await,
            (Some(_), Comeback::AsItIs) => return self.start_node(index),
            (Some(_), Comeback::AsNew) => self.remove(index).await?,
            (None, _) => {
                self.nodes[index].kill().await?;
                self.nodes[index].wipe(self.next_id)?;
                self.next_id += 1;
            }
        }
        if spare {
            return Ok(());
        }
        self.start_node(index)?;
        self.join(index).await
    }

    /// Compares the states of all nodes and writes their hashes down.
    ///
    /// # Errors
    /// When no comparison can be started.
    pub async fn verify(&self) -> anyhow::Result<()> {
        let verify_id = self.client(CHANGE_WITHIN)?.begin_verify().await?;
        for index in self.running() {
            let node = &self.nodes[index];
            let client = node.client(CHANGE_WITHIN)?;
            let mut last = String::new();
            let until = now() + VERIFY_WITHIN;
            let hash = loop {
                match client.verify_result(GetVerifyRequest { verify_id }).await {
                    Ok(answer) => break Ok(answer.hash),
                    Err(refused) => refused.message.clone_into(&mut last),
                }
                if now() >= until {
                    break Err(last);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            };
            self.recorder.tell(|_| Line::Hash { node: node.id, hash });
        }
        Ok(())
    }

    /// Looks for lines in the nodes' logs that wake someone.
    ///
    /// # Errors
    /// When a log cannot be read.
    pub fn read_logs(&self) -> anyhow::Result<()> {
        for node in &self.nodes {
            for line in node.log_lines()?.iter().filter(|line| is_complaint(line)) {
                let what = line.chars().take(400).collect();
                self.recorder.tell(|_| Line::Complaint { node: node.slot, what });
            }
        }
        Ok(())
    }

    /// Ends all processes.
    ///
    /// # Errors
    /// When one does not go away.
    pub async fn end(mut self) -> anyhow::Result<()> {
        for node in &mut self.nodes {
            node.kill().await?;
        }
        let most = self.nodes.iter().filter_map(Node::memory).map(Group::most).max();
        if let Some(most) = most {
            say(format!("a node used {} MiB of {} at most", most >> 20, memory::BYTES_MAX >> 20));
        }
        self.nodes.iter().filter_map(Node::memory).for_each(Group::remove);
        for node in &mut self.nodes {
            if let Some(disk) = node.disk() {
                disk.unmount().await?;
            }
        }
        Ok(())
    }
}

/// What openraft logs as an error, and what a fault alone explains: a change of the membership that
/// a leader did not bring to its end. The caller is told that its outcome is unknown.
const EXPLAINED: &str = "openraft::raft::api::management:";

fn is_complaint(line: &str) -> bool {
    let mut words = line.split_whitespace().skip(1);
    let is_error = words.next() == Some("ERROR") && words.next() != Some(EXPLAINED);
    is_error || line.contains("panicked at")
}

/// The binary to test: the given one, or the one beside this program.
///
/// # Errors
/// When there is none.
pub fn find_mhub(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let beside = std::env::current_exe()?.with_file_name("mhub");
    let path = given.unwrap_or(&beside);
    if !path.is_file() {
        bail!(
            "there is no {}; build it with cargo build --bin mhub, or name one with --mhub",
            path.display()
        );
    }
    Ok(std::fs::canonicalize(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_errors_and_panics() {
        for line in [
            "2026-11-24T10:00:00.0Z ERROR message_hub::runtime::fatal: the node stops fault=\"x\"",
            "thread 'mhub-worker' panicked at src/raft/log_store.rs:1:2:",
        ] {
            assert!(is_complaint(line), "{line}");
        }
        for line in [
            "2026-11-24T10:00:00.0Z  INFO message_hub: no ERROR here",
            "2026-11-24T10:00:00.0Z ERROR openraft::raft::api::management: the first step error: x",
        ] {
            assert!(!is_complaint(line), "{line}");
        }
    }
}
