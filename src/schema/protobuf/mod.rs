//! Protocol Buffers, proto2 and proto3.
//!
//! `protox` compiles, from memory alone: the definition's files, those of its references under the
//! names by which they are imported, and the well-known types that it brings along. Payloads are
//! checked on the wire ([`wire`]) rather than decoded: a payload of many empty messages would take
//! a hundred times its size as messages.

mod compare;
mod source;
mod wire;

use prost_reflect::{DescriptorPool, FileDescriptor, MessageDescriptor};
use protox::Compiler;

use self::source::{Sources, problem_of};
use self::wire::Required;
use super::definition::{Definition, Resolved};
use super::limits::SCHEMA_NODES_MAX;
use super::report::{Incompatibility, Invalid, Problems, Violation};

/// A set of files, ready to validate and to be compared.
pub(super) struct Protobuf {
    pool: DescriptorPool,
    /// The definition's own files, the main one first.
    files: Vec<FileDescriptor>,
    required: Required,
}

impl Protobuf {
    /// Compiles a schema whose sizes were checked.
    ///
    /// # Errors
    /// Files of the same name with different texts; what `protox` finds, the first problem of each
    /// of the definition's files; more than [`SCHEMA_NODES_MAX`] messages, fields and enum values.
    pub(super) fn compile(definition: &Definition, resolved: &[Resolved]) -> Result<Self, Invalid> {
        let sources = Sources::collect(definition, resolved)?;
        let mut problems = Problems::default();
        let mut compiler = Compiler::with_file_resolver(sources);
        compiler.include_source_info(true);
        for file in &definition.files {
            if let Err(e) = compiler.open_file(&file.name) {
                let (place, text) = problem_of(&e, &file.name);
                problems.push_once(&place, text);
            }
        }
        problems.into_result()?;
        let pool = compiler.descriptor_pool();
        let names = definition.files.iter().map(|file| file.name.as_str());
        let files: Vec<FileDescriptor> =
            names.filter_map(|name| pool.get_file_by_name(name)).collect();
        let nodes = nodes(&pool);
        if nodes > SCHEMA_NODES_MAX {
            let text = format!(
                "schema has {nodes} messages, fields and enum values; keep them within \
                 {SCHEMA_NODES_MAX}"
            );
            return Err(Invalid::one(definition.main_name(), text));
        }
        let required = wire::required(pool.all_messages());
        Ok(Self { pool, files, required })
    }

    /// Checks a payload.
    ///
    /// # Errors
    /// What [`super::Compiled::validate`] describes.
    pub(super) fn validate(&self, payload: &[u8], message: &str) -> Result<(), Vec<Violation>> {
        let Some(descriptor) = self.message(message) else {
            let text = if message.is_empty() {
                "the main file of the schema has no message; name the message to check against"
                    .to_owned()
            } else {
                format!(
                    "message {message:?} is not in the schema; give the full name of one that is"
                )
            };
            return Err(vec![Violation::new("", &text)]);
        };
        wire::check(&descriptor, &self.required, payload)
    }

    /// Why readers with this schema cannot read all that is written with another.
    pub(super) fn incompatibilities(&self, writer: &Self) -> Vec<Incompatibility> {
        compare::incompatibilities(&self.files, &writer.files)
    }

    fn message(&self, name: &str) -> Option<MessageDescriptor> {
        if name.is_empty() {
            return self.files.first()?.messages().next();
        }
        self.pool.get_message_by_name(name)
    }
}

/// Messages, their fields, and values of enums, those of imports counted.
fn nodes(pool: &DescriptorPool) -> usize {
    let messages: usize = pool.all_messages().map(|message| 1 + message.fields().len()).sum();
    let enums: usize = pool.all_enums().map(|of| 1 + of.values().len()).sum();
    messages + enums
}
