//! Reading what changed in the registry since a revision.

use std::ops::ControlFlow;

use super::changes::ChangeRecord;
use crate::machine::apply::Meta;
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::{Fault, key};
use crate::model::limits::{PAGE_BYTES_TARGET, REGISTRY_LOG_MAX};
use crate::model::rejection::{Reason, Rejection};

/// The revision of the newest change.
///
/// # Errors
/// When the store fails or is corrupt.
pub fn revision(kv: &impl Kv) -> Result<u64, Fault> {
    Ok(Meta::load(kv)?.registry_revision)
}

/// Changes of the registry, each with the revision that it led to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// In order.
    pub changes: Vec<(u64, ChangeRecord)>,
    /// There are more after them.
    pub more: bool,
}

/// Changes after a revision, at most so many, and no more than a page takes, but one in any case; a refusal when
/// they are not kept any more, or when there never was such a revision.
///
/// # Errors
/// When the store fails or is corrupt.
pub fn changes(kv: &impl Kv, after: u64, limit: usize) -> Result<Result<Page, Rejection>, Fault> {
    let newest = revision(kv)?;
    if after > newest {
        let text = format!(
            "the registry is at revision {newest}, not yet at {after}; watch from {newest}"
        );
        return Ok(Err(Rejection::new(Reason::BeyondEnd, text).with("revision", newest)));
    }
    if newest - after > REGISTRY_LOG_MAX {
        let text = format!(
            "changes after revision {after} are not kept any more; list the services, then watch from the revision that the list names"
        );
        return Ok(Err(Rejection::new(Reason::WatchCompacted, text).with("revision", newest)));
    }
    let (mut page, mut bytes, start) = (Page::default(), 0, (after + 1).to_be_bytes());
    kv.scan(Table::RegistryLog, &start, &key::END, Order::Ascending, &mut |row, value| {
        bytes += value.len();
        let is_full = bytes > PAGE_BYTES_TARGET && !page.changes.is_empty();
        if page.changes.len() == limit || is_full {
            page.more = true;
            return Ok(ControlFlow::Break(()));
        }
        let mut reader = key::Reader::new(crate::machine::record::Kind::RegistryChange, row);
        page.changes.push((reader.number()?, ChangeRecord::decode(value)?));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(Ok(page))
}
