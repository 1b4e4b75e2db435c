//! Commands of schemas.

use crate::model::schema::{Compatibility, SchemaDefinition, SchemaState};

/// Register a version of a subject, which is made if it is not there. The proposer has compiled it, and
/// judged it against the subject as it was at a revision.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RegisterSchema {
    /// The subject's name.
    #[prost(string, tag = "1")]
    pub subject: String,
    /// What is registered.
    #[prost(message, required, tag = "2")]
    pub definition: SchemaDefinition,
    /// Recognises the same schema.
    #[prost(string, tag = "3")]
    pub fingerprint: String,
    /// The revision that the subject was judged at; 0: it was not there.
    #[prost(uint64, tag = "4")]
    pub judged_at: u64,
    /// Empty: none.
    #[prost(string, tag = "5")]
    pub request_id: String,
}

/// Set what new versions of a subject have to be compatible with; it is made if it is not there.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SetCompatibility {
    /// The subject's name.
    #[prost(string, tag = "1")]
    pub subject: String,
    /// What they have to be.
    #[prost(enumeration = "Compatibility", tag = "2")]
    pub compatibility: i32,
    /// Empty: none.
    #[prost(string, tag = "3")]
    pub request_id: String,
}

/// Deprecate or delete a version, or take that back.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SetSchemaState {
    /// The subject's name.
    #[prost(string, tag = "1")]
    pub subject: String,
    /// The version.
    #[prost(uint32, tag = "2")]
    pub version: u32,
    /// How it is to stand.
    #[prost(enumeration = "SchemaState", tag = "3")]
    pub state: i32,
    /// Empty: none.
    #[prost(string, tag = "4")]
    pub request_id: String,
    /// The subject's revision that a deleted version was judged against that comes back.
    #[prost(uint64, tag = "5")]
    pub judged_at: u64,
}
