//! Changing subjects and their versions.

use super::record::{self, SubjectRecord};
use super::register;
use crate::machine::apply::Machine;
use crate::machine::kv::Kv;
use crate::machine::{Fault, requests};
use crate::model::command::{SetCompatibility, SetSchemaState};
use crate::model::outcome::Outcome;
use crate::model::rejection::{Reason, Rejection};
use crate::model::schema::SchemaState;

pub(crate) fn set_compatibility<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: SetCompatibility,
) -> Result<Outcome, Fault> {
    if let Some(first) = requests::first_answer(machine, &command.request_id)? {
        return Ok(first);
    }
    let SetCompatibility { subject: name, compatibility, request_id } = command;
    let mut subject = match record::subject_or_new(machine, &name)? {
        Ok(subject) => subject,
        Err(rejection) => return Ok(Outcome::Rejected(rejection)),
    };
    subject.compatibility = compatibility;
    record::put_subject(machine, &name, &mut subject);
    let outcome = Outcome::Subject(Box::new(subject.info(&name)));
    requests::remember(machine, request_id, &outcome);
    Ok(outcome)
}

/// A version that others refer to cannot be deleted; one that refers to a deleted one cannot come back, nor one that
/// was not judged against what stands now.
pub(crate) fn set_state<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: SetSchemaState,
) -> Result<Outcome, Fault> {
    if let Some(first) = requests::first_answer(machine, &command.request_id)? {
        return Ok(first);
    }
    let to = command.state();
    let SetSchemaState { subject: name, version, request_id, judged_at, .. } = command;
    let Some(mut subject) = record::subject(machine.overlay(), &name)? else {
        return Ok(Outcome::Rejected(record::not_found(&name, None)));
    };
    let Some(found) = record::schema(machine.overlay(), &name, &subject, version)? else {
        return Ok(Outcome::Rejected(record::not_found(&name, Some(version))));
    };
    let references = &found.definition.references;
    if let Some(rejection) = forbids(machine, &subject, (&name, version), to)? {
        return Ok(Outcome::Rejected(rejection));
    }
    let was = found.state;
    let (gone, goes) = (was == SchemaState::Deleted, to == SchemaState::Deleted);
    if gone && !goes && subject.revision != judged_at {
        return Ok(Outcome::Rejected(register::changed(&name, &subject)));
    }
    if let Some(known) = subject.version_mut(version) {
        known.set_state(to);
    }
    record::put_subject(machine, &name, &mut subject);
    if gone != goes {
        register::count(machine, references, gone)?;
    }
    let found = super::query::schema(machine.overlay(), &name, version)?;
    let outcome = match found {
        Some(info) => Outcome::Schema(Box::new(info)),
        None => Outcome::Rejected(record::not_found(&name, Some(version))),
    };
    requests::remember(machine, request_id, &outcome);
    Ok(outcome)
}

fn forbids<K: Kv>(
    machine: &Machine<'_, K>,
    subject: &SubjectRecord,
    (name, version): (&str, u32),
    to: SchemaState,
) -> Result<Option<Rejection>, Fault> {
    let Some(known) = subject.version(version) else { return Ok(None) };
    if to == SchemaState::Deleted && known.used_by > 0 {
        let text = format!(
            "{} schemas refer to version {version} of subject {name}; delete them first",
            known.used_by
        );
        let refused = Rejection::new(Reason::SchemaInUse, text).with("used_by", known.used_by);
        return Ok(Some(refused.with("subject", name).with("version", version)));
    }
    if to == SchemaState::Deleted || known.state() != SchemaState::Deleted {
        return Ok(None);
    }
    let Some(found) = record::schema(machine.overlay(), name, subject, version)? else {
        return Ok(None);
    };
    for reference in &found.definition.references {
        if let Some(rejection) = register::lacks(machine, reference)? {
            return Ok(Some(rejection));
        }
    }
    Ok(None)
}
