//! What the events of a key amount to.

use bytes::Bytes;

use super::ids::{KeyVersion, UnixMs};

/// A snapshot of a key: whoever has it needs only the events after its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySnapshot {
    /// The version of the last event that is in it.
    pub version: KeyVersion,
    /// Media type of the content; may be empty.
    pub content_type: String,
    /// The content.
    pub data: Bytes,
    /// When the hub took it.
    pub taken_at: UnixMs,
}
