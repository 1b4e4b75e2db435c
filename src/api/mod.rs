//! The gRPC API: thin. Convert, call the node, convert back.

mod convert;

mod cluster;
mod consume_state;
mod consume_stream;
mod delivery;
mod events;
mod publish_stream;
mod topics;

mod connections;
pub mod server;
