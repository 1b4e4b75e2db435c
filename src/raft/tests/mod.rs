//! Consensus over real logs, states and loopback connections.

mod cluster;
mod refusals;
mod snapshots;
mod suite;
mod support;
