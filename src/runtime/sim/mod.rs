//! A simulated system: one thread, a clock that stands still between events, a network of turmoil, a
//! disk in memory that forgets what was not synced, and dice that fall by a seed.
//!
//! What it offers has the names and shapes of what it stands for, so that the rooms above do not
//! know the difference. The differences are these:
//! - Threads are tasks. Work on the pool of blocking threads is done at once, or after a moment.
//! - A node's wall clock is the simulation's plus an offset ([`set_wall_offset_ms`]). Which node a
//!   task belongs to goes on from the task that started it, from [`as_node`] on.
//! - Files are those of [`fs`]; the databases keep maps in memory and a journal there
//!   (`store/sim/`).

pub mod clock;
pub mod fs;
pub mod net;
pub mod tasks;
pub mod worker;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

thread_local! {
    static DICE: Cell<u64> = const { Cell::new(0) };
    static WALL_OFFSETS_MS: RefCell<BTreeMap<u64, i64>> = const { RefCell::new(BTreeMap::new()) };
    /// The longest that a sync of a disk takes.
    static SYNC_MS_MAX: Cell<u64> = const { Cell::new(3) };
}

tokio::task_local! {
    static NODE: u64;
}

/// Begins the sequence of the dice.
pub fn seed(seed: u64) {
    DICE.set(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x6a09_e667_f3bc_c909);
}

/// The next number of the sequence, below a bound. (Splitmix64, by Sebastiano Vigna.)
#[must_use]
pub fn below(bound: u64) -> u64 {
    let state = DICE.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    DICE.set(state);
    let mut mixed = state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) % bound.max(1)
}

/// Whether something happens that happens so many times in a hundred.
#[must_use]
pub fn chance(percent: u64) -> bool {
    below(100) < percent
}

/// Runs something as part of a node.
pub fn as_node<F: Future>(node: u64, future: F) -> impl Future<Output = F::Output> {
    NODE.scope(node, future)
}

fn this_node() -> Option<u64> {
    NODE.try_with(|node| *node).ok()
}

/// Sets a node's wall clock that far ahead of the others, or behind.
pub fn set_wall_offset_ms(node: u64, offset_ms: i64) {
    WALL_OFFSETS_MS.with_borrow_mut(|offsets| offsets.insert(node, offset_ms));
}

/// Makes disks fast or slow.
pub fn set_sync_ms_max(ms: u64) {
    SYNC_MS_MAX.set(ms);
}

/// How long the next sync takes.
fn sync_takes() -> Duration {
    Duration::from_micros(below(SYNC_MS_MAX.get() * 1000 + 1))
}
