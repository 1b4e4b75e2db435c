//! The Parsing Canonical Form of a schema and its CRC-64-AVRO (Avro specification, schema
//! fingerprints). Types of references are written where they are first used, so that a schema has
//! the same fingerprint however it is split.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::model::{Model, Type, TypeId};

/// The fingerprint of the empty text, from which the polynomial comes too.
const EMPTY: u64 = 0xc15d_213a_a4d7_a795;

/// The Rabin fingerprint of a schema's canonical form.
pub(super) fn fingerprint(model: &Model, root: TypeId) -> u64 {
    crc_64_avro(canonical_form(model, root).as_bytes())
}

/// The canonical form.
pub(super) fn canonical_form(model: &Model, root: TypeId) -> String {
    let mut form = Form { model, text: String::new(), written: BTreeSet::new() };
    form.write(root);
    form.text
}

/// CRC-64-AVRO of some bytes.
pub(super) fn crc_64_avro(bytes: &[u8]) -> u64 {
    bytes.iter().fold(EMPTY, |crc, byte| {
        let low = (crc ^ u64::from(*byte)) & 0xff;
        (crc >> 8) ^ (0..8).fold(low, |part, _| (part >> 1) ^ (EMPTY & (part & 1).wrapping_neg()))
    })
}

struct Form<'m> {
    model: &'m Model,
    text: String,
    /// Named types that were written: the next time their name suffices.
    written: BTreeSet<TypeId>,
}

impl Form<'_> {
    fn write(&mut self, id: TypeId) {
        match self.model.of(id) {
            Type::Primitive(primitive) => self.quoted(primitive.as_str()),
            Type::Array(items) => self.wrapped("{\"type\":\"array\",\"items\":", *items),
            Type::Map(values) => self.wrapped("{\"type\":\"map\",\"values\":", *values),
            Type::Union(branches) => {
                self.text.push('[');
                for (index, branch) in branches.iter().enumerate() {
                    self.comma(index);
                    self.write(*branch);
                }
                self.text.push(']');
            }
            Type::Fixed { name, .. } | Type::Enum { name, .. } | Type::Record { name, .. } => {
                if self.written.insert(id) {
                    self.definition(id);
                } else {
                    self.quoted(&name.full);
                }
            }
        }
    }

    fn definition(&mut self, id: TypeId) {
        match self.model.of(id) {
            Type::Fixed { name, size } => {
                self.head(&name.full, "fixed");
                // Writing to a string does not fail.
                let _ = write!(self.text, ",\"size\":{size}");
            }
            Type::Enum { name, symbols, .. } => {
                self.head(&name.full, "enum");
                self.text.push_str(",\"symbols\":[");
                for (index, symbol) in symbols.iter().enumerate() {
                    self.comma(index);
                    self.quoted(symbol);
                }
                self.text.push(']');
            }
            Type::Record { name, fields, .. } => {
                self.head(&name.full, "record");
                self.text.push_str(",\"fields\":[");
                for (index, field) in fields.iter().enumerate() {
                    self.comma(index);
                    self.text.push_str("{\"name\":");
                    self.quoted(&field.name);
                    self.text.push_str(",\"type\":");
                    self.write(field.of);
                    self.text.push('}');
                }
                self.text.push(']');
            }
            _ => {}
        }
        self.text.push('}');
    }

    fn head(&mut self, name: &str, kind: &str) {
        self.text.push_str("{\"name\":");
        self.quoted(name);
        self.text.push_str(",\"type\":");
        self.quoted(kind);
    }

    fn wrapped(&mut self, head: &str, inner: TypeId) {
        self.text.push_str(head);
        self.write(inner);
        self.text.push('}');
    }

    fn comma(&mut self, index: usize) {
        if index > 0 {
            self.text.push(',');
        }
    }

    /// Names have nothing to be escaped.
    fn quoted(&mut self, name: &str) {
        self.text.push('"');
        self.text.push_str(name);
        self.text.push('"');
    }
}
