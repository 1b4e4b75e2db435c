//! Real three-node clusters of real processes, faults included.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a test may end at once, print its seed, and look at the clock"
)]

mod support;

mod bad_input;
#[cfg(feature = "failpoints")]
mod clocks;
mod connections;
mod consume_stream;
mod corruption;
mod crash;
mod delivery;
mod delivery_crash;
mod enforcing;
#[cfg(feature = "failpoints")]
mod failpoints;
mod failures;
mod keys;
mod membership;
mod pipelines;
mod process;
mod quotas;
mod reads;
mod replaying;
mod route_faults;
mod routing;
mod schemas;
mod service_breakers;
mod service_checks;
mod service_faults;
mod service_standing;
mod service_watch;
mod services;
mod spans;
mod staged;
mod subscriptions;
mod tracking;
mod transact_stream;
mod transactions;
mod watching;
