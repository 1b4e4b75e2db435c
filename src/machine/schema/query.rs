//! Reading the registry of schemas.

use std::ops::ControlFlow;

use super::record::{self, SubjectRecord};
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::{Fault, key};
use crate::model::rejection::Rejection;
use crate::model::schema::{SchemaInfo, SubjectInfo};

/// A subject by name.
///
/// # Errors
/// When the store fails or a row is corrupt; so for all functions here.
pub fn subject(kv: &impl Kv, name: &str) -> Result<Option<SubjectInfo>, Fault> {
    Ok(record::subject(kv, name)?.map(|known| known.info(name)))
}

/// Subjects after a name, in the order of names.
///
/// # Errors
/// See [`subject`].
pub fn subjects(kv: &impl Kv, after: &str, limit: usize) -> Result<Vec<SubjectInfo>, Fault> {
    let mut start = after.as_bytes().to_vec();
    start.push(0);
    let mut found = Vec::new();
    kv.scan(Table::Subjects, &start, &key::END, Order::Ascending, &mut |row, value| {
        if found.len() == limit {
            return Ok(ControlFlow::Break(()));
        }
        found.push(SubjectRecord::decode(value)?.info(&String::from_utf8_lossy(row)));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// A version of a subject, deleted or not.
///
/// # Errors
/// See [`subject`].
pub fn schema(kv: &impl Kv, name: &str, version: u32) -> Result<Option<SchemaInfo>, Fault> {
    match record::subject(kv, name)? {
        Some(known) => record::schema(kv, name, &known, version),
        None => Ok(None),
    }
}

/// The refusal for a subject, or a version of it, that is not there.
#[must_use]
pub fn not_found(subject: &str, version: Option<u32>) -> Rejection {
    record::not_found(subject, version)
}
