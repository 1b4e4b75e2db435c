//! Registering a version of a subject.

use prost::Message as _;

use super::record::{self, SchemaRecord, SubjectRecord, VersionRecord};
use crate::machine::apply::Machine;
use crate::machine::kv::{Kv, Table};
use crate::machine::record::{Kind, encode_message};
use crate::machine::{Fault, requests};
use crate::model::command::RegisterSchema;
use crate::model::limits::{SCHEMA_VERSIONS_MAX, SCHEMAS_BYTES_MAX};
use crate::model::outcome::Outcome;
use crate::model::rejection::{Reason, Rejection};
use crate::model::schema::{SchemaReference, SchemaState};

/// Registers it. The same schema again is the version that is there, if it is not deleted.
pub(crate) fn apply<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: RegisterSchema,
) -> Result<Outcome, Fault> {
    if let Some(first) = requests::first_answer(machine, &command.request_id)? {
        return Ok(first);
    }
    let RegisterSchema { subject: name, definition, fingerprint, judged_at, request_id } = command;
    let mut subject = match record::subject_or_new(machine, &name)? {
        Ok(subject) => subject,
        Err(rejection) => return Ok(Outcome::Rejected(rejection)),
    };
    if let Some(version) = same(&subject, &fingerprint) {
        let found = record::schema(machine.overlay(), &name, &subject, version)?;
        let info = found.ok_or_else(|| missing(&name, version))?;
        return Ok(Outcome::Schema(Box::new(info)));
    }
    if subject.revision != judged_at {
        return Ok(Outcome::Rejected(changed(&name, &subject)));
    }
    let bytes = definition.encoded_len() as u64;
    if let Some(rejection) = over(machine, &name, &subject, bytes) {
        return Ok(Outcome::Rejected(rejection));
    }
    for reference in &definition.references {
        if let Some(rejection) = lacks(machine, reference)? {
            return Ok(Outcome::Rejected(rejection));
        }
    }
    let version = u32::try_from(subject.versions.len() + 1).unwrap_or(u32::MAX);
    let references = definition.references.clone();
    let record = SchemaRecord { definition, created_at_ms: machine.now().get() };
    let row = encode_message(Kind::Schema, &record);
    machine.overlay_mut().put(Table::Schemas, record::schema_key(&name, version), row);
    machine.meta_mut().schema_bytes += bytes;
    subject.versions.push(VersionRecord { fingerprint, ..VersionRecord::default() });
    record::put_subject(machine, &name, &mut subject);
    count(machine, &references, true)?;
    let found = super::query::schema(machine.overlay(), &name, version)?;
    let info = found.ok_or_else(|| missing(&name, version))?;
    let outcome = Outcome::Schema(Box::new(info));
    requests::remember(machine, request_id, &outcome);
    Ok(outcome)
}

/// The version that is the same schema.
fn same(subject: &SubjectRecord, fingerprint: &str) -> Option<u32> {
    let is = |known: &&VersionRecord| {
        known.fingerprint == fingerprint && known.state() != SchemaState::Deleted
    };
    (1..).zip(&subject.versions).find(|(_, known)| is(known)).map(|(number, _)| number)
}

fn missing(subject: &str, version: u32) -> Fault {
    let what = format!("version {version} of subject {subject} has no row");
    Fault::Corrupt { record: Kind::Schema, what }
}

pub(super) fn changed(name: &str, subject: &SubjectRecord) -> Rejection {
    let text = format!("subject {name} was changed in between; try again");
    let refused = Rejection::new(Reason::SchemaChanged, text);
    refused.with("subject", name).with("revision", subject.revision)
}

fn over<K: Kv>(
    machine: &Machine<'_, K>,
    name: &str,
    subject: &SubjectRecord,
    bytes: u64,
) -> Option<Rejection> {
    let text = if subject.versions.len() >= SCHEMA_VERSIONS_MAX {
        format!("subject {name} has {SCHEMA_VERSIONS_MAX} versions, the most; use another subject")
    } else if machine.meta().schema_bytes + bytes > SCHEMAS_BYTES_MAX {
        format!("all schemas would have more than {SCHEMAS_BYTES_MAX} bytes; keep them smaller")
    } else {
        return None;
    };
    Some(Rejection::new(Reason::LimitReached, text))
}

/// Why a reference leads nowhere.
pub(super) fn lacks<K: Kv>(
    machine: &Machine<'_, K>,
    reference: &SchemaReference,
) -> Result<Option<Rejection>, Fault> {
    let SchemaReference { subject, version, .. } = reference;
    let known = record::subject(machine.overlay(), subject)?;
    let standing = known.as_ref().and_then(|known| known.version(*version));
    let usable = standing.is_some_and(|standing| standing.state() != SchemaState::Deleted);
    Ok((!usable).then(|| record::not_found(subject, Some(*version))))
}

/// Counts who is referred to. It does not change what the others judge, nor what is judged against them.
pub(super) fn count<K: Kv>(
    machine: &mut Machine<'_, K>,
    references: &[SchemaReference],
    more: bool,
) -> Result<(), Fault> {
    for SchemaReference { subject: name, version, .. } in references {
        let Some(mut subject) = record::subject(machine.overlay(), name)? else { continue };
        let Some(known) = subject.version_mut(*version) else { continue };
        known.used_by =
            if more { known.used_by.saturating_add(1) } else { known.used_by.saturating_sub(1) };
        record::put_subject(machine, name, &mut subject);
    }
    Ok(())
}
