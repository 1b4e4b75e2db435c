//! What a schema is before it is compiled.

use super::limits::{
    SCHEMA_BYTES_MAX, SCHEMA_DEPTH_MAX, SCHEMA_FILES_MAX, SCHEMA_NAME_BYTES_MAX,
    SCHEMA_REFERENCES_MAX, SCHEMA_TREE_BYTES_MAX, SCHEMA_TREE_MAX,
};
use super::report::{Invalid, Problems};

/// The languages of schemas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// JSON Schema, draft 2020-12 or draft 7.
    Json,
    /// Protocol Buffers, proto2 or proto3.
    Protobuf,
    /// Apache Avro 1.12.
    Avro,
}

impl Format {
    /// Its name in texts: `json`, `protobuf` or `avro`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Protobuf => "protobuf",
            Self::Avro => "avro",
        }
    }
}

/// A file of a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// For Protobuf the path by which other files import it; for the others it only serves texts.
    pub name: String,
    /// Its whole text.
    pub text: String,
}

/// A use of another registered schema.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// How the schema calls the other one: for JSON Schema the URI in `$ref`, absolute or relative,
    /// without its fragment; for Protobuf the path in `import`; for Avro the full name of a type.
    pub name: String,
    /// The subject under which the other one is registered.
    pub subject: String,
    /// Its version there.
    pub version: u32,
}

/// A schema as it is registered.
///
/// Shape: at least one file, the first of which is the main one; more than one only for Protobuf.
/// Bounds: [`SCHEMA_BYTES_MAX`], [`SCHEMA_FILES_MAX`], [`SCHEMA_REFERENCES_MAX`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Its language.
    pub format: Format,
    /// Its files.
    pub files: Vec<SourceFile>,
    /// The other schemas that it uses.
    pub references: Vec<Reference>,
}

/// A reference together with what it names, and that with what it names in turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// [`Reference::name`].
    pub name: String,
    /// What was found there.
    pub definition: Definition,
    /// The references of `definition`, resolved.
    pub resolved: Vec<Resolved>,
}

impl Definition {
    /// The text of the main file; empty when there is none.
    #[must_use]
    pub fn main_text(&self) -> &str {
        self.files.first().map_or("", |file| file.text.as_str())
    }

    /// The name of the main file; empty when there is none.
    #[must_use]
    pub fn main_name(&self) -> &str {
        self.files.first().map_or("", |file| file.name.as_str())
    }

    /// Bytes of all its texts.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.files.iter().map(|file| file.text.len()).sum()
    }
}

/// Checks the counts and sizes of a definition and of all that it refers to. The bytes of their texts.
///
/// # Errors
/// Each bound that does not hold; a reference that was not resolved, or is of another format.
pub(super) fn check_bounds(
    definition: &Definition,
    resolved: &[Resolved],
) -> Result<usize, Invalid> {
    let mut problems = Problems::default();
    check_shape(definition, "", &mut problems);
    for reference in &definition.references {
        if !resolved.iter().any(|found| found.name == reference.name) {
            let Reference { name, subject, version } = reference;
            problems.push(
                name,
                format!(
                    "reference {name:?} to version {version} of {subject:?} was not resolved; \
                     register that version first"
                ),
            );
        }
    }
    let mut tree = Tree { definitions: 0, bytes: definition.bytes() };
    tree.check(resolved, definition.format, 1, &mut problems);
    problems.into_result().map(|()| tree.bytes)
}

fn check_shape(definition: &Definition, place: &str, problems: &mut Problems) {
    let format = definition.format.as_str();
    if definition.files.is_empty() {
        problems.push(place, "definition has no files; give at least its main file".to_owned());
    }
    let files = definition.files.len();
    let files_max = if definition.format == Format::Protobuf { SCHEMA_FILES_MAX } else { 1 };
    if files > files_max {
        let text = format!("definition has {files} files; a {format} schema has up to {files_max}");
        problems.push(place, text);
    }
    let bytes = definition.bytes();
    if bytes > SCHEMA_BYTES_MAX {
        let text = format!(
            "definition has {bytes} bytes of text; keep it within {SCHEMA_BYTES_MAX}, for \
             example by moving parts of it into schemas that it refers to"
        );
        problems.push(place, text);
    }
    let references = definition.references.len();
    if references > SCHEMA_REFERENCES_MAX {
        let text = format!(
            "definition has {references} references; keep them within {SCHEMA_REFERENCES_MAX}"
        );
        problems.push(place, text);
    }
    for (index, reference) in definition.references.iter().enumerate() {
        if definition.references.iter().take(index).any(|known| known.name == reference.name) {
            let text = format!("two references are called {:?}; remove one", reference.name);
            problems.push(place, text);
        }
    }
    let files = definition.files.iter().map(|file| &file.name);
    let references = definition.references.iter().flat_map(|r| [&r.name, &r.subject]);
    for name in files.chain(references) {
        if name.len() > SCHEMA_NAME_BYTES_MAX {
            let text = format!(
                "a name of {} bytes begins with {:?}; keep names within {SCHEMA_NAME_BYTES_MAX}",
                name.len(),
                name.chars().take(32).collect::<String>()
            );
            problems.push(place, text);
        }
    }
}

/// What was counted of a tree of references so far.
struct Tree {
    definitions: usize,
    bytes: usize,
}

impl Tree {
    /// Goes through the tree; at the first bound of the tree itself it stops.
    fn check(&mut self, resolved: &[Resolved], format: Format, depth: usize, to: &mut Problems) {
        for found in resolved {
            let name = &found.name;
            self.definitions += 1;
            self.bytes = self.bytes.saturating_add(found.definition.bytes());
            if self.definitions > SCHEMA_TREE_MAX || self.bytes > SCHEMA_TREE_BYTES_MAX {
                let text = format!(
                    "the references lead to more than {SCHEMA_TREE_MAX} definitions or \
                     {SCHEMA_TREE_BYTES_MAX} bytes; refer to fewer or smaller schemas"
                );
                return to.push_once(name, text);
            }
            if depth > SCHEMA_DEPTH_MAX {
                let text = format!(
                    "reference {name:?} is more than {SCHEMA_DEPTH_MAX} references away; refer to \
                     it more directly"
                );
                return to.push_once(name, text);
            }
            if found.definition.format != format {
                let (is, wanted) = (found.definition.format.as_str(), format.as_str());
                to.push(
                    name,
                    format!("reference {name:?} is a {is} schema; refer to {wanted} schemas only"),
                );
            }
            check_shape(&found.definition, name, to);
            self.check(&found.resolved, format, depth + 1, to);
        }
    }
}
