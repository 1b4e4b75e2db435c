//! N8: nodes lose their power. What was not synced is gone.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustix::process::Signal;

use super::{Fault, Undo, Victims, World};
use crate::cluster::disk::Disk;
use crate::tools::poll;

/// How soon a process stands still that was told so.
const STILL_WITHIN: Duration = Duration::from_secs(5);

/// Power loss of one node, the leader, a majority, or all at one moment.
///
/// # Errors
/// When no node runs, or a disk does not lose its power.
pub async fn cut(world: &mut World) -> anyhow::Result<Fault> {
    let choices = [Victims::One, Victims::Leader, Victims::Majority, Victims::All];
    let (nodes, who) = world.victims(&choices).await;
    ensure!(!nodes.is_empty(), "no node runs");
    // All stand still first, so that they lose their power at the same moment, and none of them
    // sees its disk fail: a machine without power sees nothing.
    for index in &nodes {
        world.cluster.nodes[*index].signal(Signal::STOP)?;
    }
    // A thread that has not heard of it yet would see its disk fail.
    let still = || async {
        nodes.iter().all(|index| world.cluster.nodes[*index].is_stopped()).then_some(())
    };
    if poll(STILL_WITHIN, still).await.is_none() {
        super::process::resume(world, &nodes)?;
        bail!("a node does not stand still");
    }
    let lost = lose(world, &nodes).await;
    if lost.is_err() {
        // No fault may stay behind that nobody heals.
        super::process::resume(world, &nodes)?;
    }
    lost?;
    let detail = format!("power loss of {who} ({})", world.slots(&nodes));
    Ok(Fault { detail, undo: Undo::Power(nodes) })
}

async fn lose(world: &mut World, nodes: &[usize]) -> anyhow::Result<()> {
    for index in nodes {
        disk(world, *index)?.cut().await?;
    }
    for index in nodes {
        world.cluster.nodes[*index].kill().await?;
        disk(world, *index)?.unmount().await?;
    }
    Ok(())
}

fn disk(world: &mut World, index: usize) -> anyhow::Result<&mut Disk> {
    world.cluster.nodes[index].disk().context("the node has no disk of its own")
}

/// Gives the power back.
///
/// # Errors
/// When a file system cannot be mounted, or a node not be started.
pub async fn restore(world: &mut World, nodes: &[usize]) -> anyhow::Result<String> {
    for index in nodes {
        disk(world, *index)?.mount().await?;
    }
    for index in nodes {
        world.cluster.start_node(*index)?;
    }
    Ok(format!("{} could not write, and mounted again", world.slots(nodes)))
}
