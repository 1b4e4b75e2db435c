//! What changed from one definition to another.

mod files;
mod tree;

use super::definition::{Definition, Format, Reference};
use super::limits::CHANGES_MAX;
use super::report::shorten;

/// What happened to a part of a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// It is only in the new one.
    Added,
    /// It is only in the old one.
    Removed,
    /// It is in both, and differs.
    Changed,
}

/// A difference between two definitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where. For JSON Schema and Avro a JSON pointer, into the old document for what was removed
    /// and into the new one otherwise; for Protobuf the names, like `Order.Item.price`, `Color.RED`
    /// or `Orders.Get`, and within a file `file: package`. For references `reference NAME`, and
    /// `format` for the format.
    pub path: String,
    /// What happened to it.
    pub kind: ChangeKind,
    /// What it was; empty for what was added.
    pub old: String,
    /// What it is; empty for what was removed.
    pub new: String,
}

/// What changed from `old` to `new`.
///
/// Shape: at most [`CHANGES_MAX`] changes, in the order of the new definition, each by its innermost
/// part; texts end in `…` when they are long. JSON arrays of named objects (`fields` of Avro) are
/// matched by the names, lists of plain values (`required`, `symbols`) as sets, others by position.
/// Texts that cannot be parsed are compared as a whole.
#[must_use]
pub fn diff(new: &Definition, old: &Definition) -> Vec<Change> {
    let mut changes = Changes(Vec::new());
    if new.format != old.format {
        changes.changed("format", old.format.as_str(), new.format.as_str());
        return changes.0;
    }
    match new.format {
        Format::Json | Format::Avro => tree::diff(new.main_text(), old.main_text(), &mut changes),
        Format::Protobuf => files::diff(&new.files, &old.files, &mut changes),
    }
    diff_references(&new.references, &old.references, &mut changes);
    changes.0
}

fn diff_references(new: &[Reference], old: &[Reference], changes: &mut Changes) {
    let describe = |of: &Reference| format!("{} version {}", of.subject, of.version);
    for reference in new {
        let path = format!("reference {}", reference.name);
        match old.iter().find(|known| known.name == reference.name) {
            None => changes.added(&path, &describe(reference)),
            Some(known) if known != reference => {
                changes.changed(&path, &describe(known), &describe(reference));
            }
            Some(_) => {}
        }
    }
    for reference in old {
        if !new.iter().any(|known| known.name == reference.name) {
            changes.removed(&format!("reference {}", reference.name), &describe(reference));
        }
    }
}

/// Changes as they are found.
struct Changes(Vec<Change>);

impl Changes {
    fn added(&mut self, path: &str, new: &str) {
        self.push(path, ChangeKind::Added, "", new);
    }

    fn removed(&mut self, path: &str, old: &str) {
        self.push(path, ChangeKind::Removed, old, "");
    }

    fn changed(&mut self, path: &str, old: &str, new: &str) {
        self.push(path, ChangeKind::Changed, old, new);
    }

    fn push(&mut self, path: &str, kind: ChangeKind, old: &str, new: &str) {
        if self.0.len() < CHANGES_MAX {
            let (old, new) = (shorten(old), shorten(new));
            self.0.push(Change { path: shorten(path), kind, old, new });
        }
    }
}
