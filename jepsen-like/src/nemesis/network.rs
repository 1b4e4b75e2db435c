//! N1 to N5: packets between nodes are dropped, lost now and then, or answered with resets. Each node sends from
//! its own address, so a direction is a pair of addresses.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::{Fault, Undo, World, delay};
use crate::tools::command;

/// Directions: indices of the sender and the receiver.
type Cuts = Vec<(usize, usize)>;

const FLUSH: &str = "flush set ip chaos cut; flush set ip chaos torn; \
                     flush set ip chaos few; flush set ip chaos many";
/// How long connections are reset.
const RESETS_LAST: Duration = Duration::from_millis(300);

/// Two groups lose each other; the leader is in the minority or in the majority.
///
/// # Errors
/// When fewer than two nodes run.
pub async fn partition(world: &mut World) -> anyhow::Result<Fault> {
    let order = leader_first(world).await?;
    let minority = order.len().div_ceil(2) - 1;
    let leader_is_cut_off = world.rng.bool();
    let (left, right) = if leader_is_cut_off {
        order.split_at(minority.max(1))
    } else {
        let (majority, minority) = order.split_at(order.len() - minority.max(1));
        (minority, majority)
    };
    let side = if leader_is_cut_off { "leader in the minority" } else { "leader in the majority" };
    let detail = format!("partition {} | {}, {side}", world.slots(left), world.slots(right));
    let mut cuts = across(left, right);
    cuts.extend(across(right, left));
    install("cut", world, &cuts, detail).await
}

/// The leader does not hear the others, or they don't hear it, or one of them.
///
/// # Errors
/// When fewer than two nodes run.
pub async fn one_way(world: &mut World) -> anyhow::Result<Fault> {
    let order = leader_first(world).await?;
    let (leader, others) = order.split_at(1);
    let (from, to) = match world.rng.u8(..3) {
        0 => (leader, others),
        1 => (others, leader),
        _ => (leader, &others[..1]),
    };
    let detail = format!("{} is not heard by {}", world.slots(from), world.slots(to));
    install("cut", world, &across(from, to), detail).await
}

/// Three nodes: two of them see only the third. Five: each sees only its neighbours in a ring.
///
/// # Errors
/// When fewer than three nodes run.
pub async fn bridge(world: &mut World) -> anyhow::Result<Fault> {
    let mut order = world.cluster.running();
    ensure!(order.len() > 2, "{} nodes run, a bridge needs three", order.len());
    world.rng.shuffle(&mut order);
    let (cuts, detail) = if order.len() > 3 && world.rng.bool() {
        (ring(&order), format!("ring {}", world.slots(&order)))
    } else {
        let (over, sides) = order.split_at(1);
        let (left, right) = sides.split_at(sides.len() / 2);
        let mut cuts = across(left, right);
        cuts.extend(across(right, left));
        let (left, over, right) = (world.slots(left), world.slots(over), world.slots(right));
        (cuts, format!("bridge {left} - {over} - {right}"))
    };
    install("cut", world, &cuts, detail).await
}

/// One packet of some is lost, in all directions, or all of them are late.
///
/// # Errors
/// When fewer than two nodes run.
pub async fn loss(world: &mut World) -> anyhow::Result<Fault> {
    let order = leader_first(world).await?;
    if delay::possible() && world.rng.bool() {
        return delay::begin(world.rng.u64(..)).await;
    }
    let mut cuts = across(&order, &order);
    cuts.retain(|(from, to)| from != to);
    let few = world.rng.bool();
    let (set, percent) = if few { ("few", 3) } else { ("many", 20) };
    let detail = format!("{percent} % of the packets between {} are lost", world.slots(&order));
    install(set, world, &cuts, detail).await
}

/// All connections between nodes are reset for a moment.
///
/// # Errors
/// When fewer than two nodes run.
pub async fn resets(world: &mut World) -> anyhow::Result<Fault> {
    let order = leader_first(world).await?;
    let mut cuts = across(&order, &order);
    cuts.retain(|(from, to)| from != to);
    let detail = format!("resets between {}", world.slots(&order));
    let fault = install("torn", world, &cuts, detail).await?;
    tokio::time::sleep(RESETS_LAST).await;
    let Undo::Network { hits } = fault.undo else { return Ok(fault) };
    Ok(Fault { undo: Undo::Done(heal(hits).await?), ..fault })
}

/// Lets everything pass again; how many packets were stopped.
///
/// # Errors
/// When the rules cannot be changed.
pub async fn heal(before: u64) -> anyhow::Result<String> {
    let stopped = hits().await?.saturating_sub(before);
    command("nft", &[FLUSH]).await?;
    Ok(if stopped == 0 { String::new() } else { format!("{stopped} packets stopped") })
}

async fn install(
    set: &str,
    world: &World,
    cuts: &[(usize, usize)],
    detail: String,
) -> anyhow::Result<Fault> {
    let hits = hits().await?;
    let mut elements = String::new();
    for (from, to) in cuts {
        let (from, to) = (&world.cluster.nodes[*from], &world.cluster.nodes[*to]);
        let comma = if elements.is_empty() { "" } else { ", " };
        write!(elements, "{comma}{} . {}", from.address(), to.address())?;
    }
    command("nft", &[&format!("add element ip chaos {set} {{ {elements} }}")]).await?;
    Ok(Fault { detail, undo: Undo::Network { hits } })
}

/// How many packets were stopped since the sandbox was made.
async fn hits() -> anyhow::Result<u64> {
    let told = command("nft", &["list counter ip chaos hits"]).await?;
    let mut words = told.split_whitespace().skip_while(|word| *word != "packets").skip(1);
    words.next().and_then(|n| n.parse().ok()).with_context(|| format!("no counter in {told:?}"))
}

/// The running nodes, the leader first and the others in a drawn order.
async fn leader_first(world: &mut World) -> anyhow::Result<Vec<usize>> {
    let mut order = world.cluster.running();
    ensure!(order.len() > 1, "{} nodes run, a partition needs two", order.len());
    world.rng.shuffle(&mut order);
    let leader = world.cluster.leader().await.context("there is no leader")?;
    order.retain(|index| *index != leader);
    order.insert(0, leader);
    Ok(order)
}

fn across(from: &[usize], to: &[usize]) -> Cuts {
    from.iter().flat_map(|a| to.iter().map(|b| (*a, *b))).collect()
}

/// Everything is cut but the way to the two neighbours.
fn ring(order: &[usize]) -> Cuts {
    let count = order.len();
    let mut cuts = Cuts::new();
    for a in 0..count {
        for b in 0..count {
            let apart = (a + count - b) % count;
            if apart > 1 && apart < count - 1 {
                cuts.push((order[a], order[b]));
            }
        }
    }
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_of_a_ring_sees_two_others() {
        let cuts = ring(&[4, 2, 0, 1, 3]);
        assert_eq!(cuts.len(), 10);
        for node in 0..5 {
            assert_eq!(cuts.iter().filter(|(from, _)| *from == node).count(), 2);
            assert_eq!(cuts.iter().filter(|(_, to)| *to == node).count(), 2);
        }
        assert!(!cuts.contains(&(4, 2)) && !cuts.contains(&(3, 4)) && cuts.contains(&(4, 0)));
    }

    #[test]
    fn cuts_go_across() {
        assert_eq!(across(&[1], &[2, 3]), vec![(1, 2), (1, 3)]);
    }
}
