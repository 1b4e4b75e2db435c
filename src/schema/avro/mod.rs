//! Apache Avro, specification 1.12.
//!
//! The room reads schemas and payloads itself. `apache-avro` decodes without a bound on nesting, so
//! that a payload of some kilobytes for a recursive schema overflows the stack; takes a payload that
//! ends before a boolean for a whole one; and names no places. It serves as the second opinion of
//! the tests.
//!
//! Logical types assert nothing: values are those of the underlying types.

mod canonical;
mod compare;
mod defaults;
mod model;
mod parse;
mod wire;

use self::model::{Model, TypeId};
use super::definition::{Definition, Resolved};
use super::report::{Incompatibility, Invalid, Violation};
use super::steps::Steps;

/// An Avro schema, ready to validate and to be compared.
pub(super) struct Avro {
    model: Model,
    root: TypeId,
    /// CRC-64-AVRO of its canonical form.
    fingerprint: u64,
}

impl Avro {
    /// Compiles a schema whose sizes were checked.
    ///
    /// # Errors
    /// What [`parse::parse`] describes.
    pub(super) fn compile(definition: &Definition, resolved: &[Resolved]) -> Result<Self, Invalid> {
        let (model, root) = parse::parse(definition, resolved)?;
        let fingerprint = canonical::fingerprint(&model, root);
        Ok(Self { model, root, fingerprint })
    }

    /// Checks a payload.
    ///
    /// # Errors
    /// What [`super::Compiled::validate`] describes.
    pub(super) fn validate(&self, payload: &[u8]) -> Result<(), Vec<Violation>> {
        wire::check(&self.model, self.root, self.fingerprint, payload)
    }

    /// Why readers with this schema cannot read all that is written with another.
    pub(super) fn incompatibilities(
        &self,
        writer: &Self,
        budget: &mut Steps,
    ) -> Vec<Incompatibility> {
        compare::incompatibilities((&self.model, self.root), (&writer.model, writer.root), budget)
    }
}
