//! N9, N10, N11 and N14: disks that are slow, that fail, that are full, and that tell lies.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::{Fault, Undo, Victims, World};
use crate::history::Line;
use crate::tools::{now, poll};

/// How long strace may take to attach or to detach.
const TRACER_WITHIN: Duration = Duration::from_secs(10);
/// How long a node may go on after a sync failed.
const STOPS_WITHIN: Duration = Duration::from_secs(10);
/// How long after a full disk has room again a write may still fail.
const LAST_WRITES: Duration = Duration::from_millis(500);
/// A slow sync takes one of these, milliseconds.
const SLOW_MS: [u32; 4] = [5, 20, 100, 400];
const SYNCS: &str = "fsync,fdatasync";

/// strace, attached to a node, and what it tells.
#[derive(Debug)]
pub struct Tracer {
    child: Child,
    told: PathBuf,
}

impl Tracer {
    /// Attaches to all threads of a node.
    async fn attach(world: &World, index: usize, inject: &str) -> anyhow::Result<Self> {
        let node = &world.cluster.nodes[index];
        let pid = node.pid().with_context(|| format!("node {} does not run", node.slot))?;
        let told = node.log_path().with_extension("strace");
        let child = Command::new("strace")
            .args(["-f", "-qq", "-e", &format!("trace={SYNCS}"), "-e"])
            .arg(format!("inject={SYNCS}:{inject}"))
            .arg("-o")
            .arg(&told)
            .args(["-p", &pid.as_raw_nonzero().to_string()])
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("start strace; is it installed?")?;
        let status = format!("/proc/{}/status", pid.as_raw_nonzero());
        let attached = poll(TRACER_WITHIN, || async {
            let text = std::fs::read_to_string(&status).ok()?;
            let tracer = text.lines().find_map(|line| line.strip_prefix("TracerPid:"))?;
            (tracer.trim() != "0").then_some(())
        });
        attached.await.context("strace does not attach")?;
        Ok(Self { child, told })
    }

    /// How often it did what it was told to.
    fn count(&self) -> usize {
        let told = std::fs::read_to_string(&self.told).unwrap_or_default();
        told.lines()
            .filter(|line| line.contains("(INJECTED)") || line.contains("(DELAYED)"))
            .count()
    }

    async fn detach(mut self) -> anyhow::Result<usize> {
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
            kill_process(pid, Signal::TERM)?;
        }
        tokio::time::timeout(TRACER_WITHIN, self.child.wait()).await.context("strace hangs")??;
        Ok(self.count())
    }
}

/// Every sync of a node takes longer.
///
/// # Errors
/// When no node runs, or strace does not attach.
pub async fn slow(world: &mut World) -> anyhow::Result<Fault> {
    let (nodes, who) = world.victims(&[Victims::One, Victims::Leader]).await;
    let index = *nodes.first().context("no node runs")?;
    let ms = SLOW_MS[world.rng.usize(..SLOW_MS.len())];
    let tracer = Tracer::attach(world, index, &format!("delay_enter={}", ms * 1000)).await?;
    let detail = format!("syncs of {who} ({}) take {ms} ms longer", world.slots(&nodes));
    Ok(Fault { detail, undo: Undo::Slow(tracer) })
}

/// Syncs are as fast as ever.
///
/// # Errors
/// When strace does not detach.
pub async fn fast(tracer: Tracer) -> anyhow::Result<String> {
    let count = tracer.detach().await?;
    Ok(if count == 0 { String::new() } else { format!("{count} slow syncs") })
}

/// One sync of a node fails. The node must stop, and neither try it again nor go on.
///
/// # Errors
/// When no node runs, or strace does not attach.
pub async fn failing(world: &mut World) -> anyhow::Result<Fault> {
    let (nodes, who) = world.victims(&[Victims::One, Victims::Leader]).await;
    let index = *nodes.first().context("no node runs")?;
    world.cluster.nodes[index].excuse();
    let tracer = Tracer::attach(world, index, "error=EIO:when=1").await?;
    let detail = format!("a sync of {who} ({}) fails with EIO", world.slots(&nodes));
    Ok(Fault { detail, undo: Undo::Failing(index, tracer) })
}

/// The node that had a failing sync has stopped; it is started again.
///
/// # Errors
/// When it cannot be started.
pub async fn stopped(world: &mut World, index: usize, tracer: Tracer) -> anyhow::Result<String> {
    let until = now() + STOPS_WITHIN;
    let mut status = None;
    while now() < until && status.is_none() && tracer.count() > 0 {
        status = world.cluster.nodes[index].ended();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let count = tracer.detach().await?;
    let node = &mut world.cluster.nodes[index];
    node.excused();
    let slot = node.slot;
    if status.is_none() && count > 0 && node.runs() {
        let what = format!("it goes on {STOPS_WITHIN:?} after a sync failed");
        world.recorder.tell(|_| Line::Complaint { node: slot, what });
    }
    node.kill().await?;
    world.cluster.start_node(index)?;
    Ok(match status {
        Some(status) => format!("{count} syncs failed, node {slot} ended: {status}"),
        None => String::new(),
    })
}

/// The disk of a node is full.
///
/// # Errors
/// When no node runs, or it has no disk of its own.
pub async fn full(world: &mut World) -> anyhow::Result<Fault> {
    let (nodes, who) = world.victims(&[Victims::One, Victims::Leader]).await;
    let index = *nodes.first().context("no node runs")?;
    let log = world.cluster.nodes[index].log_bytes();
    world.cluster.nodes[index].excuse();
    let disk = world.cluster.nodes[index].disk().context("the node has no disk of its own")?;
    if let Err(error) = disk.fill().await {
        // No fault may stay behind that nobody heals.
        room(world, index, log).await?;
        return Err(error);
    }
    let detail = format!("the disk of {who} ({}) is full", world.slots(&nodes));
    Ok(Fault { detail, undo: Undo::Full { index, log } })
}

/// The disk has room again; a node that stopped is started. Its log was so long when the disk was full.
///
/// # Errors
/// When the room cannot be given back.
pub async fn room(world: &mut World, index: usize, log: u64) -> anyhow::Result<String> {
    let node = &mut world.cluster.nodes[index];
    let slot = node.slot;
    node.disk().context("the node has no disk of its own")?.empty().await?;
    // What it was writing when the room came back may still end it.
    tokio::time::sleep(LAST_WRITES).await;
    let mut ended = node.ended();
    let until = now() + STOPS_WITHIN;
    while ended.is_none() && node.runs() && node.is_ending(log)? && now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
        ended = node.ended();
    }
    let runs = node.runs();
    if !runs {
        world.cluster.start_node(index)?;
    }
    world.cluster.nodes[index].excused();
    Ok(match ended {
        Some(status) => format!("node {slot} ended: {status}"),
        None => format!("node {slot} could not write"),
    })
}

/// A bit of a follower's files flips, or the end of one is cut off, while it is down. It may refuse to
/// start, or stop later; it must not serve what is wrong.
///
/// # Errors
/// When there is no follower that can be spared.
pub async fn damage(world: &mut World) -> anyhow::Result<Fault> {
    let index = super::membership::follower(world).await?;
    world.cluster.nodes[index].excuse();
    world.cluster.nodes[index].kill().await?;
    let mut files = Vec::new();
    data_files(&world.cluster.nodes[index].data_dir(), &mut files)?;
    files.sort();
    ensure!(!files.is_empty(), "the node has no files");
    let path = files[world.rng.usize(..files.len())].clone();
    let mut bytes = std::fs::read(&path)?;
    let at = world.rng.usize(..bytes.len());
    let how = if world.rng.bool() {
        bytes[at] ^= 1 << world.rng.u8(..8);
        "a bit flips"
    } else {
        bytes.truncate(at);
        "the file ends"
    };
    std::fs::write(&path, &bytes)?;
    world.cluster.start_node(index)?;
    let name = path.strip_prefix(world.cluster.nodes[index].data_dir()).unwrap_or(&path);
    let detail = format!(
        "node {}: {how} at byte {at} of {}",
        world.cluster.nodes[index].slot,
        name.display()
    );
    Ok(Fault { detail, undo: Undo::Damaged(index) })
}

/// The damaged node is replaced by a new one.
///
/// # Errors
/// When the hub does not let it in.
pub async fn replaced(world: &mut World, index: usize) -> anyhow::Result<String> {
    let node = &mut world.cluster.nodes[index];
    let slot = node.slot;
    let how = match node.ended() {
        Some(status) => format!("it ended: {status}"),
        None => "it went on".to_owned(),
    };
    node.kill().await?;
    node.excused();
    world.cluster.settle_one(index, crate::cluster::Comeback::AsNew).await?;
    Ok(format!("node {slot} was damaged, {how}; it is replaced"))
}

/// Files with stored data, empty ones left out.
fn data_files(dir: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    const STORED: &[&str] = &["log", "sst"];
    for entry in std::fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            data_files(&path, found)?;
        } else if path.extension().is_some_and(|e| STORED.iter().any(|s| e == *s))
            && path.metadata()?.len() > 0
        {
            found.push(path);
        }
    }
    Ok(())
}
