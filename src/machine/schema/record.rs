//! Rows of the registry of schemas.

use bytes::Bytes;

use crate::machine::apply::Machine;
use crate::machine::kv::{Kv, Table};
use crate::machine::record::{Kind, decode_message, encode_message};
use crate::machine::{Fault, key};
use crate::model::ids::UnixMs;
use crate::model::limits::SUBJECTS_MAX;
use crate::model::rejection::{Reason, Rejection};
use crate::model::schema::{Compatibility, SchemaDefinition, SchemaInfo, SchemaState, SubjectInfo};

/// A subject as stored.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct SubjectRecord {
    #[prost(enumeration = "Compatibility", tag = "1")]
    pub(super) compatibility: i32,
    /// The oldest first; version 1 and so on.
    #[prost(message, repeated, tag = "2")]
    pub(super) versions: Vec<VersionRecord>,
    #[prost(uint64, tag = "3")]
    pub(super) revision: u64,
    /// Unix milliseconds.
    #[prost(uint64, tag = "4")]
    pub(super) created_at_ms: u64,
    /// Unix milliseconds.
    #[prost(uint64, tag = "5")]
    pub(super) updated_at_ms: u64,
}

/// What of a version is looked at without its text.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct VersionRecord {
    #[prost(string, tag = "1")]
    pub(super) fingerprint: String,
    #[prost(enumeration = "SchemaState", tag = "2")]
    pub(super) state: i32,
    /// Versions that are not deleted and refer to it.
    #[prost(uint32, tag = "3")]
    pub(super) used_by: u32,
}

/// A version as stored.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct SchemaRecord {
    #[prost(message, required, tag = "1")]
    pub(super) definition: SchemaDefinition,
    /// Unix milliseconds.
    #[prost(uint64, tag = "2")]
    pub(super) created_at_ms: u64,
}

impl SubjectRecord {
    pub(super) fn decode(row: &[u8]) -> Result<Self, Fault> {
        decode_message(Kind::Subject, row)
    }

    fn encode(&self) -> Bytes {
        encode_message(Kind::Subject, self)
    }

    /// A version by its number.
    pub(super) fn version(&self, number: u32) -> Option<&VersionRecord> {
        self.versions.get(place(number)?)
    }

    pub(super) fn version_mut(&mut self, number: u32) -> Option<&mut VersionRecord> {
        self.versions.get_mut(place(number)?)
    }

    /// The version that judges events: the newest that is not deleted.
    pub(super) fn judge(&self) -> Option<u32> {
        let newest = self.versions.iter().rposition(|known| known.state() != SchemaState::Deleted);
        newest.and_then(|place| u32::try_from(place + 1).ok())
    }

    pub(super) fn info(self, name: &str) -> SubjectInfo {
        let versions = (1..).zip(&self.versions).map(|(number, known)| (number, known.state()));
        SubjectInfo {
            name: name.to_owned(),
            compatibility: self.compatibility(),
            versions: versions.collect(),
            revision: self.revision,
            created_at: UnixMs(self.created_at_ms),
            updated_at: UnixMs(self.updated_at_ms),
        }
    }
}

fn place(number: u32) -> Option<usize> {
    usize::try_from(number).ok()?.checked_sub(1)
}

/// The key of a version's row.
pub(super) fn schema_key(subject: &str, version: u32) -> Vec<u8> {
    let mut row = Vec::with_capacity(subject.len() + 6);
    key::push_text(&mut row, subject);
    row.extend_from_slice(&version.to_be_bytes());
    row
}

pub(super) fn subject(kv: &impl Kv, name: &str) -> Result<Option<SubjectRecord>, Fault> {
    let row = kv.get(Table::Subjects, name.as_bytes())?;
    row.map(|row| SubjectRecord::decode(&row)).transpose()
}

/// A version of a subject that is known.
pub(super) fn schema(
    kv: &impl Kv,
    subject: &str,
    known: &SubjectRecord,
    version: u32,
) -> Result<Option<SchemaInfo>, Fault> {
    let Some(standing) = known.version(version) else { return Ok(None) };
    let Some(row) = kv.get(Table::Schemas, &schema_key(subject, version))? else { return Ok(None) };
    let record: SchemaRecord = decode_message(Kind::Schema, &row)?;
    Ok(Some(SchemaInfo {
        subject: subject.to_owned(),
        version,
        definition: record.definition,
        fingerprint: standing.fingerprint.clone(),
        state: standing.state(),
        created_at: UnixMs(record.created_at_ms),
    }))
}

/// The subject, or a new one if there is room for it.
pub(super) fn subject_or_new<K: Kv>(
    machine: &mut Machine<'_, K>,
    name: &str,
) -> Result<Result<SubjectRecord, Rejection>, Fault> {
    if let Some(known) = subject(machine.overlay(), name)? {
        return Ok(Ok(known));
    }
    if machine.meta().subjects >= SUBJECTS_MAX {
        let text =
            format!("there are {SUBJECTS_MAX} subjects, the most that a hub has; use another one");
        return Ok(Err(Rejection::new(Reason::LimitReached, text)));
    }
    let created_at_ms = machine.now().get();
    Ok(Ok(SubjectRecord { created_at_ms, ..SubjectRecord::default() }))
}

/// Stores a subject that was changed.
pub(super) fn put_subject<K: Kv>(
    machine: &mut Machine<'_, K>,
    name: &str,
    record: &mut SubjectRecord,
) {
    machine.meta_mut().subjects += u64::from(record.revision == 0);
    record.revision += 1;
    record.updated_at_ms = machine.now().get();
    machine.overlay_mut().put(Table::Subjects, name.as_bytes().to_vec(), record.encode());
}

/// The refusal for what is not there.
#[must_use]
pub(super) fn not_found(subject: &str, version: Option<u32>) -> Rejection {
    let refused =
        |text: String| Rejection::new(Reason::SchemaNotFound, text).with("subject", subject);
    match version {
        None => refused(format!(
            "subject {subject} has no schema; register one with: mhub schema register {subject} FILE"
        )),
        Some(version) => refused(format!(
            "subject {subject} has no version {version}; list them with: mhub schema ls {subject}"
        ))
        .with("version", version),
    }
}
