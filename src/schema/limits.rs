//! Every bound of the room, by name. All of them are inclusive.

/// Bytes of the texts of one definition, over all its files: 256 KiB.
pub const SCHEMA_BYTES_MAX: usize = 256 << 10;
/// Bytes of a definition together with everything that it refers to, however indirectly: 2 MiB.
pub const SCHEMA_TREE_BYTES_MAX: usize = 2 << 20;
/// Definitions in such a tree, the root not counted.
pub const SCHEMA_TREE_MAX: usize = 512;
/// Levels of nesting of a schema's text, and of references from definition to definition. Also the
/// longest chain of JSON sub-schemas that apply to one and the same value (`$ref`, `allOf` …).
pub const SCHEMA_DEPTH_MAX: usize = 64;
/// References that one definition makes.
pub const SCHEMA_REFERENCES_MAX: usize = 64;
/// Files of one definition.
pub const SCHEMA_FILES_MAX: usize = 64;
/// Bytes of the name of a file, of a reference or of the subject that it names.
pub const SCHEMA_NAME_BYTES_MAX: usize = 1024;
/// Sub-schemas (JSON), types and fields (Avro), messages, fields and enum values (Protobuf) of a
/// definition with everything that it uses. Also the JSON sub-schemas that may apply to one value,
/// each counted as often as it is reached.
pub const SCHEMA_NODES_MAX: usize = 10_000;
/// Distinct regular expressions of one JSON Schema.
pub const SCHEMA_PATTERNS_MAX: usize = 256;
/// Bytes of one compiled regular expression, and of the cache for its matching: 256 KiB each.
pub const PATTERN_BYTES_MAX: usize = 256 << 10;

/// Levels of nesting of a payload. For JSON that is the parser's own bound: 127 containers within
/// one another and a plain value inside.
pub const INSTANCE_DEPTH_MAX: usize = 128;
/// Sub-schemas that JSON validation may have open at once, over all levels of a payload; a schema
/// with long chains of `$ref` therefore takes less deep payloads. It bounds the stack.
pub const INSTANCE_FRAMES_MAX: usize = 1024;
/// Looks at a part of a payload in one JSON validation. It bounds the time of schemas whose parts
/// multiply.
pub const JSON_STEPS_MAX: u64 = 10_000_000;
/// Violations that JSON validation gathers at most, those inside of `anyOf` and `oneOf` counted.
pub const JSON_ERRORS_MAX: u64 = 4096;
/// Elements without any bytes (of `null`, of an empty record) in one Avro payload.
pub const AVRO_EMPTY_ITEMS_MAX: u64 = 1_000_000;

/// Problems that a refused definition names. Of this list and the next two: one entry more says that there are more.
pub const PROBLEMS_MAX: usize = 100;
/// Violations that a refused payload names.
pub const VIOLATIONS_MAX: usize = 100;
/// Incompatibilities that one comparison names.
pub const INCOMPATIBILITIES_MAX: usize = 100;
/// Changes that one difference names.
pub const CHANGES_MAX: usize = 1000;
/// Bytes of any one place, path or text in these lists; a longer one ends in `…`.
pub const TEXT_BYTES_MAX: usize = 1024;

/// Questions that one comparison of schemas may ask before it gives up as `cannot_prove`.
pub const COMPARE_STEPS_MAX: usize = 1_000_000;
/// Questions that may be open within one another before a comparison gives up.
pub const COMPARE_DEPTH_MAX: usize = 128;
