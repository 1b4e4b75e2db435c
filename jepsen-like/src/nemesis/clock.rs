//! N12: wall clocks jump. The monotonic clock does not.
//!
//! A hub that is built with the feature `failpoints` adds what a file says to its wall clock.

use std::time::Duration;

use anyhow::ensure;

use super::{Fault, Undo, Victims, World};

/// How far a clock jumps, milliseconds.
const JUMPS_MS: [i64; 6] = [-3_600_000, -60_000, -2000, 2000, 60_000, 3_600_000];
/// How often a strobing clock jumps.
const STROBES: u32 = 20;
const STROBE_EVERY: Duration = Duration::from_millis(150);

/// The clock of one node, the leader, or all jumps, once or to and fro.
///
/// # Errors
/// When no node runs, or its clock cannot be set.
pub async fn jump(world: &mut World) -> anyhow::Result<Fault> {
    let (nodes, who) = world.victims(&[Victims::One, Victims::Leader, Victims::All]).await;
    ensure!(!nodes.is_empty(), "no node runs");
    let since = nodes.iter().map(|i| (*i, world.cluster.nodes[*i].log_bytes())).collect();
    let by_ms = JUMPS_MS[world.rng.usize(..JUMPS_MS.len())];
    let strobes = world.rng.u8(..3) == 0;
    if strobes {
        for _ in 0..STROBES {
            let by_ms = if world.rng.bool() { by_ms } else { 0 };
            set(world, &nodes, by_ms)?;
            tokio::time::sleep(STROBE_EVERY).await;
        }
    }
    set(world, &nodes, by_ms)?;
    let how = if strobes { "strobes by" } else { "jumps by" };
    let detail = format!("the clock of {who} ({}) {how} {by_ms} ms", world.slots(&nodes));
    Ok(Fault { detail, undo: Undo::Clock(since) })
}

/// The clocks are right again. `since` has the nodes, and how long their logs were before.
///
/// # Errors
/// When one cannot be set.
pub fn right(world: &mut World, since: &[(usize, u64)]) -> anyhow::Result<String> {
    let nodes: Vec<usize> = since.iter().map(|(index, _)| *index).collect();
    let mut told = Vec::new();
    for (index, from) in since {
        if world.cluster.nodes[*index].clock_was_set(*from)? {
            told.push(*index);
        }
    }
    set(world, &nodes, 0)?;
    Ok(if told.is_empty() {
        String::new()
    } else {
        format!("{} saw another time", world.slots(&told))
    })
}

fn set(world: &World, nodes: &[usize], by_ms: i64) -> anyhow::Result<()> {
    for index in nodes {
        world.cluster.nodes[*index].set_clock(by_ms)?;
    }
    Ok(())
}
