//! Schemas as the registry keeps them: subjects with versions.

use super::ids::UnixMs;

/// The language of a schema. The numbers are persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum SchemaFormat {
    /// JSON Schema, 2020-12 or draft 7.
    Json = 0,
    /// Protobuf: files with imports.
    Protobuf = 1,
    /// Avro.
    Avro = 2,
}

/// What a new version of a subject has to be compatible with. The numbers are persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Compatibility {
    /// Readers with the new version read what was written with any earlier one.
    BackwardTransitive = 0,
    /// The same, with the newest one only.
    Backward = 1,
    /// Readers with any earlier version read what is written with the new one.
    ForwardTransitive = 2,
    /// The same, with the newest one only.
    Forward = 3,
    /// Both, with all earlier ones.
    FullTransitive = 4,
    /// Both, with the newest one.
    Full = 5,
    /// Anything goes.
    None = 6,
}

/// How a version stands. The numbers are persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum SchemaState {
    /// It judges events, if it is the newest such.
    Active = 0,
    /// As an active one; whoever asks for it is told not to use it any more.
    Deprecated = 1,
    /// It judges nothing any more. It stays readable, for the events that it judged.
    Deleted = 2,
}

/// A file of a schema.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SchemaFile {
    /// For Protobuf the path by which others import it.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its text.
    #[prost(string, tag = "2")]
    pub text: String,
}

/// A use of another registered schema.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, prost::Message)]
pub struct SchemaReference {
    /// How the schema calls the other one.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The other one's subject.
    #[prost(string, tag = "2")]
    pub subject: String,
    /// Its version there.
    #[prost(uint32, tag = "3")]
    pub version: u32,
}

/// What a schema consists of.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SchemaDefinition {
    /// Its language.
    #[prost(enumeration = "SchemaFormat", tag = "1")]
    pub format: i32,
    /// The first is the main one.
    #[prost(message, repeated, tag = "2")]
    pub files: Vec<SchemaFile>,
    /// Registered schemas that it uses.
    #[prost(message, repeated, tag = "3")]
    pub references: Vec<SchemaReference>,
}

/// A subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectInfo {
    /// Its name.
    pub name: String,
    /// What new versions have to be compatible with.
    pub compatibility: Compatibility,
    /// Its versions, the oldest first.
    pub versions: Vec<(u32, SchemaState)>,
    /// Grows with every change of the subject or of one of its versions, from 1.
    pub revision: u64,
    /// When it was made.
    pub created_at: UnixMs,
    /// When it was last changed.
    pub updated_at: UnixMs,
}

impl SubjectInfo {
    /// The version that judges events: the newest that is not deleted.
    #[must_use]
    pub fn judge(&self) -> Option<u32> {
        let standing = self.versions.iter().rev().find(|(_, state)| *state != SchemaState::Deleted);
        standing.map(|(number, _)| *number)
    }
}

/// A version of a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaInfo {
    /// Its subject.
    pub subject: String,
    /// Its number, from 1; never used again.
    pub version: u32,
    /// What it consists of.
    pub definition: SchemaDefinition,
    /// The same schema has the same.
    pub fingerprint: String,
    /// How it stands.
    pub state: SchemaState,
    /// When it was registered.
    pub created_at: UnixMs,
}
