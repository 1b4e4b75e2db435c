//! Message Hub: a Raft-replicated event log in one binary.
//!
//! The modules are rooms, and a message walks through them from top to bottom: [`api`] takes the
//! call, [`node`] validates, stamps and coalesces it, [`raft`] replicates it, [`machine`] applies it
//! over [`store`]. [`model`] holds the words that all of them use. A room imports only rooms below
//! it; `tests/tidy.rs` holds that line. `ARCHITECTURE.md` tells why.

#[cfg(all(feature = "planted", not(debug_assertions)))]
compile_error!("planted bugs are not part of a release build: leave the feature `planted` out");

pub mod machine;
pub mod model;

#[cfg(feature = "client")]
pub mod balance;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "client")]
pub mod proto;

#[cfg(all(feature = "server", not(feature = "sim")))]
pub mod api;
#[cfg(all(feature = "server", not(feature = "sim")))]
pub mod cli;
#[cfg(feature = "server")]
pub mod config;
#[cfg(all(feature = "server", not(feature = "sim")))]
pub mod gateway;
#[cfg(feature = "server")]
pub mod node;
#[cfg(feature = "server")]
pub mod raft;
#[cfg(feature = "server")]
pub mod runtime;
#[cfg(feature = "server")]
pub mod schema;
#[cfg(feature = "server")]
pub mod store;
#[cfg(feature = "server")]
pub mod telemetry;
