//! N13: leadership is handed over; members are replaced, wiped, added and removed.

use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::{Fault, Undo, World};

const TRANSFER_WITHIN: Duration = Duration::from_secs(5);

/// One change. It is over when this returns.
///
/// # Errors
/// When the hub refuses it, or it takes too long.
pub async fn change(world: &mut World) -> anyhow::Result<Fault> {
    let spare = world.cluster.nodes.len() - 1;
    match world.rng.u8(..4) {
        0 => transfer(world).await,
        1 => replace(world).await,
        2 => wipe(world).await,
        _ if world.cluster.nodes[spare].runs() => shrink(world, spare).await,
        _ => grow(world, spare).await,
    }
}

async fn transfer(world: &mut World) -> anyhow::Result<Fault> {
    let before = world.cluster.leader().await.context("there is no leader")?;
    let before = world.cluster.nodes[before].id;
    let after = world.cluster.client(TRANSFER_WITHIN)?.transfer_leader(0).await?;
    ensure!(after != before, "node {before} leads still");
    done("leadership is handed over", format!("from id {before} to id {after}"))
}

async fn replace(world: &mut World) -> anyhow::Result<Fault> {
    let index = follower(world).await?;
    let old = world.cluster.nodes[index].id;
    world.cluster.remove(index).await?;
    come_back(world, index, old, "is removed and replaced").await
}

/// A node loses its data: it is taken out by its old id and comes back under a new one.
async fn wipe(world: &mut World) -> anyhow::Result<Fault> {
    let index = follower(world).await?;
    let old = world.cluster.nodes[index].id;
    world.cluster.nodes[index].kill().await?;
    if let Err(refused) = world.cluster.remove(index).await {
        // It stays a member, and has its data still.
        world.cluster.start_node(index)?;
        return Err(refused);
    }
    come_back(world, index, old, "loses its disk and comes back as a new one").await
}

async fn come_back(world: &mut World, index: usize, old: u64, how: &str) -> anyhow::Result<Fault> {
    world.cluster.start_node(index)?;
    world.cluster.join(index).await?;
    let node = &world.cluster.nodes[index];
    done(&format!("node {} {how}", node.slot), format!("id {old} became id {}", node.id))
}

async fn grow(world: &mut World, spare: usize) -> anyhow::Result<Fault> {
    world.cluster.start_node(spare)?;
    world.cluster.join(spare).await?;
    let node = &world.cluster.nodes[spare];
    done("the cluster grows", format!("id {} is a voter", node.id))
}

async fn shrink(world: &mut World, spare: usize) -> anyhow::Result<Fault> {
    let id = world.cluster.nodes[spare].id;
    world.cluster.remove(spare).await?;
    done("the cluster shrinks", format!("id {id} is out"))
}

pub(super) async fn follower(world: &mut World) -> anyhow::Result<usize> {
    let leader = world.cluster.leader().await.context("there is no leader")?;
    let mut others = world.cluster.running();
    others.retain(|index| *index != leader);
    ensure!(others.len() > 1, "{} nodes beside the leader, two are needed", others.len());
    Ok(others[world.rng.usize(..others.len())])
}

fn done(detail: &str, evidence: String) -> anyhow::Result<Fault> {
    let detail = format!("{detail}, {evidence}");
    Ok(Fault { detail, undo: Undo::Done(evidence) })
}
