//! N6 and N7: processes are killed or held still.

use anyhow::ensure;
use rustix::process::Signal;

use super::{Fault, Undo, Victims, World};

/// kill -9 of one node, the leader, or all.
///
/// # Errors
/// When no node runs.
pub async fn kill(world: &mut World) -> anyhow::Result<Fault> {
    let (nodes, who) =
        world.victims(&[Victims::One, Victims::Leader, Victims::Majority, Victims::All]).await;
    ensure!(!nodes.is_empty(), "no node runs");
    let mut killed = Vec::new();
    for index in nodes {
        if world.cluster.nodes[index].kill().await? {
            killed.push(index);
        }
    }
    ensure!(!killed.is_empty(), "no node was killed");
    let detail = format!("kill -9 of {who} ({})", world.slots(&killed));
    Ok(Fault { detail, undo: Undo::Start(killed) })
}

/// Starts killed nodes.
///
/// # Errors
/// When one cannot be started.
pub fn start(world: &mut World, nodes: &[usize]) -> anyhow::Result<String> {
    for index in nodes {
        world.cluster.start_node(*index)?;
    }
    Ok(format!("{} ended by SIGKILL", world.slots(nodes)))
}

/// SIGSTOP of one node, the leader, or all.
///
/// # Errors
/// When no node runs.
pub async fn pause(world: &mut World) -> anyhow::Result<Fault> {
    let (nodes, who) =
        world.victims(&[Victims::One, Victims::Leader, Victims::Leader, Victims::All]).await;
    ensure!(!nodes.is_empty(), "no node runs");
    for index in &nodes {
        world.cluster.nodes[*index].signal(Signal::STOP)?;
    }
    let detail = format!("SIGSTOP of {who} ({})", world.slots(&nodes));
    Ok(Fault { detail, undo: Undo::Resume(nodes) })
}

/// Lets paused nodes go on.
///
/// # Errors
/// When one does not run any more.
pub fn resume(world: &mut World, nodes: &[usize]) -> anyhow::Result<String> {
    let stopped: Vec<usize> =
        nodes.iter().copied().filter(|index| world.cluster.nodes[*index].is_stopped()).collect();
    for index in nodes {
        // One that was killed in the meantime by another fault has nothing to go on with.
        if world.cluster.nodes[*index].runs() {
            world.cluster.nodes[*index].signal(Signal::CONT)?;
        }
    }
    Ok(if stopped.is_empty() {
        String::new()
    } else {
        format!("{} stood still", world.slots(&stopped))
    })
}
