//! N12: wall clocks jump. The monotonic clock does not.

use std::time::Duration;

use anyhow::ensure;

use super::{Fault, Undo, Victims, World};

/// How far a clock jumps, seconds.
const JUMPS_S: [i32; 6] = [-3600, -60, -2, 2, 60, 3600];
/// How often a strobing clock jumps.
const STROBES: u32 = 4;
/// libfaketime looks at its file once a second.
const STROBE_EVERY: Duration = Duration::from_millis(1100);

/// The clock of one node, the leader, or all jumps, once or to and fro.
///
/// # Errors
/// When no node runs, or its clock cannot be set.
pub async fn jump(world: &mut World) -> anyhow::Result<Fault> {
    let (nodes, who) = world.victims(&[Victims::One, Victims::Leader, Victims::All]).await;
    ensure!(!nodes.is_empty(), "no node runs");
    let by = JUMPS_S[world.rng.usize(..JUMPS_S.len())];
    let strobes = world.rng.u8(..3) == 0;
    if strobes {
        for _ in 0..STROBES {
            let by = if world.rng.bool() { by } else { 0 };
            set(world, &nodes, by)?;
            tokio::time::sleep(STROBE_EVERY).await;
        }
    }
    set(world, &nodes, by)?;
    let how = if strobes { "strobes by" } else { "jumps by" };
    let detail = format!("the clock of {who} ({}) {how} {by} s", world.slots(&nodes));
    Ok(Fault { detail, undo: Undo::Clock(nodes) })
}

/// The clocks are right again.
///
/// # Errors
/// When one cannot be set.
pub fn right(world: &mut World, nodes: &[usize]) -> anyhow::Result<String> {
    let faked: Vec<usize> =
        nodes.iter().copied().filter(|index| world.cluster.nodes[*index].clock_is_ours()).collect();
    set(world, nodes, 0)?;
    Ok(if faked.is_empty() {
        String::new()
    } else {
        format!("libfaketime told {} the time", world.slots(&faked))
    })
}

fn set(world: &World, nodes: &[usize], by: i32) -> anyhow::Result<()> {
    for index in nodes {
        world.cluster.nodes[*index].set_clock(by)?;
    }
    Ok(())
}
