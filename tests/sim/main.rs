//! Deterministic simulation: clusters under faults, each by a seed, each the same whenever it runs.
//!
//! What is real: the rooms `machine`, `raft` and `node`, openraft, gRPC and HTTP/2 between the nodes,
//! snapshots as files that are sent and installed, the guards of the data directory. What is
//! simulated, and where: sockets and time (turmoil), threads, wall clocks and files
//! (`src/runtime/sim`), the two databases (`src/store/sim`). What is left out: RocksDB itself, the
//! client port (`api`, `gateway`) and its clients; callers live in the nodes' processes here.
//!
//! How a run becomes repeatable: all of it is one thread, and every bit of randomness that is not
//! drawn by the simulation's own dice comes from the system (hash maps, election timeouts, the order
//! in which `select!` looks, UUIDs). The system's source is replaced: a seed runs in a process of its
//! own, into which a small library (`seeded.c`, built with the linker's `cc`) is loaded that answers
//! `getrandom` by the seed. That needs no `--cfg tokio_unstable`, so that nothing is built twice.
//!
//! `cargo test --features sim --test sim -- --seeds 300 --from 1` runs many seeds; a seed that fails
//! says how to run it alone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a test may end at once, print its seed, and look at the clock"
)]

mod clients;
mod dice;
mod disk;
mod errand;
mod events;
mod faults;
mod host;
mod invariants;
mod ledger;
mod oracle;
mod run;
mod schemas;
mod seeds;
mod shared;
mod subject;
mod trace;
mod transactions;

use std::process::ExitCode;

fn main() -> ExitCode {
    let given: Vec<String> = std::env::args().skip(1).collect();
    match seeds::parse(&given) {
        Ok(seeds::Wish::Many(wish)) => seeds::run(&wish),
        Ok(seeds::Wish::One(wish)) => run::one(&wish),
        Ok(seeds::Wish::Nothing) => ExitCode::SUCCESS,
        Err(what) => {
            println!("{what}\n{}", seeds::USAGE);
            ExitCode::FAILURE
        }
    }
}
