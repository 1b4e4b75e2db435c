//! Whether two definitions are the same schema.

use serde_json::Value;
use xxhash_rust::xxh3::Xxh3;

use super::definition::{Definition, Format};

/// The fingerprint of a definition: 32 hexadecimal digits, the XXH3 (128 bits) of its canonical
/// form.
///
/// Definitions have the same one if they have the same format, the same references in whatever
/// order, and for JSON Schema and Avro the same document, whatever its white space and the order of
/// its members; for Protobuf the same texts of all files, byte by byte, and the same main file.
/// Names of files count for Protobuf only, where imports use them. A text that is no JSON counts as
/// it is.
#[must_use]
pub fn fingerprint(definition: &Definition) -> String {
    let mut hasher = Hasher(Xxh3::new());
    hasher.part(definition.format.as_str().as_bytes());
    match definition.format {
        Format::Json | Format::Avro => {
            for file in &definition.files {
                let canonical = serde_json::from_str(&file.text).map(sorted);
                let text = canonical.map_or_else(|_| file.text.clone(), |v| v.to_string());
                hasher.part(text.as_bytes());
            }
        }
        Format::Protobuf => {
            let mut files: Vec<(&str, &str)> =
                definition.files.iter().map(|f| (f.name.as_str(), f.text.as_str())).collect();
            if let Some((_, others)) = files.split_first_mut() {
                others.sort_unstable();
            }
            for (name, text) in files {
                hasher.part(name.as_bytes());
                hasher.part(text.as_bytes());
            }
        }
    }
    let mut references: Vec<_> = definition.references.iter().collect();
    references.sort_unstable();
    for reference in references {
        hasher.part(reference.name.as_bytes());
        hasher.part(reference.subject.as_bytes());
        hasher.part(&reference.version.to_le_bytes());
    }
    format!("{:032x}", hasher.0.digest128())
}

struct Hasher(Xxh3);

impl Hasher {
    /// Adds a part with its length, so that parts do not run into one another.
    fn part(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }
}

/// A value with the members of all its objects in order of their names.
fn sorted(value: Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        Value::Object(members) => {
            let mut members: Vec<(String, Value)> = members.into_iter().collect();
            members.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            Value::Object(members.into_iter().map(|(k, v)| (k, sorted(v))).collect())
        }
        plain => plain,
    }
}
