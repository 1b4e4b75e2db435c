//! The gRPC API: thin. Convert, call the node, convert back.

mod convert;
mod convert_failures;
mod convert_readiness;
mod convert_service;
mod convert_subscription;

mod cluster;
mod consume_state;
mod consume_stream;
mod delivery;
mod events;
mod failures;
mod keys;
mod publish_stream;
mod quotas;
mod schemas;
mod subscriptions;
mod topics;
mod tracking;
mod transact_stream;
mod transactions;

#[cfg(feature = "fuzz")]
pub mod fuzz;

mod connections;
pub mod server;
mod services;
