//! Schemas: what they are, whether payloads match them, and whether one can follow another.
//!
//! The room is a leaf: it knows nothing of topics, of storage or of the network, and fetches
//! nothing. A caller registers a [`Definition`], resolves its references to a tree of
//! [`Resolved`], and gets a [`Compiled`] schema that checks payloads and can be compared. Everything
//! is bounded, in [`limits`], because definitions and payloads come from outside: sizes, nesting,
//! the time and the memory that a check takes, and what it reports.
//!
//! Where to start: [`compile`], then [`Compiled::validate`] and [`incompatibilities`]. A room below
//! for each format: `json` (with `json/compare`, the proofs), `protobuf`, `avro`.

mod avro;
mod definition;
mod diff;
mod fingerprint;
mod json;
pub mod limits;
mod protobuf;
mod report;
mod steps;

pub use definition::{Definition, Format, Reference, Resolved, SourceFile};
pub use diff::{Change, ChangeKind, diff};
pub use fingerprint::fingerprint;
pub use report::{Incompatibility, Invalid, Problem, Violation};
pub use steps::Steps;

/// A schema, ready to check payloads and to be compared. It can be shared between threads; checks
/// need no lock.
pub struct Compiled {
    kind: Kind,
    source_bytes: usize,
}

enum Kind {
    Json(Box<json::Json>),
    Protobuf(Box<protobuf::Protobuf>),
    Avro(Box<avro::Avro>),
}

/// Who must be able to read what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Readers with the new schema read what was written with the old one.
    Backward,
    /// Readers with the old schema read what is written with the new one.
    Forward,
}

impl Direction {
    /// The same, seen from the other schema.
    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Self::Backward => Self::Forward,
            Self::Forward => Self::Backward,
        }
    }
}

/// Compiles a definition, with everything that it refers to.
///
/// `resolved` has an entry for each of its references; further ones are of use where they are named
/// too. A definition may be compiled on any thread whose stack has 2 MiB; it takes up to some tenths
/// of a second for the largest, so not on one that serves others.
///
/// # Errors
/// Each problem with its place, in stages: bounds, syntax, references and types, then what would
/// make checks unbounded (JSON: cycles of `$ref` that never reach a part of the value, regular
/// expressions that do not run in linear time). The problems of one stage hide those of the next.
pub fn compile(definition: &Definition, resolved: &[Resolved]) -> Result<Compiled, Invalid> {
    let source_bytes = definition::check_bounds(definition, resolved)?;
    let kind = match definition.format {
        Format::Json => Kind::Json(Box::new(json::Json::compile(definition, resolved)?)),
        Format::Protobuf => {
            Kind::Protobuf(Box::new(protobuf::Protobuf::compile(definition, resolved)?))
        }
        Format::Avro => Kind::Avro(Box::new(avro::Avro::compile(definition, resolved)?)),
    };
    Ok(Compiled { kind, source_bytes })
}

impl Compiled {
    /// The language of the schema.
    #[must_use]
    pub fn format(&self) -> Format {
        match &self.kind {
            Kind::Json(_) => Format::Json,
            Kind::Protobuf(_) => Format::Protobuf,
            Kind::Avro(_) => Format::Avro,
        }
    }

    /// Bytes of the texts that it was made of, with those of everything that it refers to.
    #[must_use]
    pub fn source_bytes(&self) -> usize {
        self.source_bytes
    }

    /// Checks a payload.
    ///
    /// JSON: one document. Protobuf: one message of the type `message`, its full name, or of the
    /// first message of the main file if that is empty; unknown fields are fine. Avro: one value in
    /// binary encoding, or in single-object encoding with this schema's CRC-64-AVRO. `message` only
    /// counts for Protobuf.
    ///
    /// # Errors
    /// Every violation with its place, up to [`limits::VIOLATIONS_MAX`] and a last one that says so if there are
    /// more. Alone stand: a payload that
    /// cannot be parsed (pointer empty, for JSON with line and column); one that nests too deep
    /// ([`limits::INSTANCE_DEPTH_MAX`], or less if a JSON Schema has long chains of `$ref`); one that
    /// takes too long to check; one with more violations than can be told apart. A binary payload is
    /// read up to the first byte that makes no sense.
    pub fn validate(&self, payload: &[u8], message: &str) -> Result<(), Vec<Violation>> {
        match &self.kind {
            Kind::Json(json) => json.validate(payload),
            Kind::Protobuf(protobuf) => protobuf.validate(payload, message),
            Kind::Avro(avro) => avro.validate(payload),
        }
    }
}

/// Why `new` cannot follow `old` in a direction; empty if it can.
///
/// Up to [`limits::INCOMPATIBILITIES_MAX`], and a last one with the rule `more` if there are more, in no particular
/// order of weight. Protobuf takes time by the size of the schemas; the others take steps. The rules are those of
/// the well-known registries: for Avro the schema resolution of its specification; for Protobuf the
/// documented set of Confluent's registry; for JSON Schema the content models of Confluent's, but
/// proved: what is called compatible takes every valid payload, and what cannot be shown to do so is
/// reported with the rule `cannot_prove`. Formats are incompatible with one another.
#[must_use]
pub fn incompatibilities(
    new: &Compiled,
    old: &Compiled,
    direction: Direction,
) -> Vec<Incompatibility> {
    incompatibilities_within(new, old, direction, &mut Steps::new(usize::MAX))
}

/// The same, within what several comparisons may take together; see [`Steps::used_up`].
#[must_use]
pub fn incompatibilities_within(
    new: &Compiled,
    old: &Compiled,
    direction: Direction,
    budget: &mut Steps,
) -> Vec<Incompatibility> {
    let (reader, writer) = match direction {
        Direction::Backward => (new, old),
        Direction::Forward => (old, new),
    };
    match (&reader.kind, &writer.kind) {
        (Kind::Json(reader), Kind::Json(writer)) => reader.incompatibilities(writer, budget),
        (Kind::Protobuf(reader), Kind::Protobuf(writer)) => reader.incompatibilities(writer),
        (Kind::Avro(reader), Kind::Avro(writer)) => reader.incompatibilities(writer, budget),
        _ => vec![Incompatibility {
            path: String::new(),
            rule: "format_changed",
            text: format!(
                "readers have a {} schema, writers a {} schema; keep the format, or register the \
                 schema under another subject",
                reader.format().as_str(),
                writer.format().as_str()
            ),
        }],
    }
}

#[cfg(test)]
mod tests;
