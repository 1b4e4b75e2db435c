//! The generated API types, and how refusals travel.
//!
//! Fields of the types `Event` and `EventBatch` are `Bytes` here: the encoded message. Decode one
//! with [`prost::Message::decode`] where its content matters. Fields of the type `Filter` are `Bytes`
//! too: an encoded [`Filter`](crate::model::filter::Filter).

pub mod batch;
pub mod cloudevents;
pub mod status;

/// The public API: `proto/messagehub/v1`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated"
)]
pub mod v1 {
    tonic::include_proto!("messagehub.v1");
}

/// Between nodes: `proto/messagehub/peer/v1`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated"
)]
pub mod peer {
    tonic::include_proto!("messagehub.peer.v1");
}

/// The metadata of a call that names the service that it belongs to.
pub const SERVICE_METADATA: &str = "mhub-service";

/// The file descriptors of both, as written, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
