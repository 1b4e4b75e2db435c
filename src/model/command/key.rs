//! Commands of keys.

use bytes::Bytes;

/// Keep what the events of a key amount to, up to a version. It takes the place of an earlier one.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PutKeySnapshot {
    /// The topic's name.
    #[prost(string, tag = "1")]
    pub topic: String,
    /// The key.
    #[prost(string, tag = "2")]
    pub key: String,
    /// The version of the last event that is in it.
    #[prost(uint64, tag = "3")]
    pub version: u64,
    /// Media type of the content.
    #[prost(string, tag = "4")]
    pub content_type: String,
    /// The content.
    #[prost(bytes = "bytes", tag = "5")]
    pub data: Bytes,
    /// A repeated one gets its first answer; empty: none.
    #[prost(string, tag = "6")]
    pub request_id: String,
}

/// Forget a key's snapshot; its events stay.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DeleteKeySnapshot {
    /// The topic's name.
    #[prost(string, tag = "1")]
    pub topic: String,
    /// The key.
    #[prost(string, tag = "2")]
    pub key: String,
    /// A repeated one gets its first answer; empty: none.
    #[prost(string, tag = "3")]
    pub request_id: String,
}
