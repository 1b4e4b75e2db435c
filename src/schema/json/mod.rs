//! JSON Schema, drafts 2020-12 and 7.
//!
//! `jsonschema` validates; this room decides what it is given. A schema is parsed and checked
//! against its meta-schema, every reference is followed within the documents that were given
//! ([`walk`]; nothing is ever fetched), and the graph that results must promise that validation ends
//! soon ([`bounds`]). Regular expressions run on an engine that takes linear time. `format`,
//! `contentEncoding` and `contentMediaType` assert nothing, in draft 7 neither.

mod bounds;
mod compare;
mod documents;
mod graph;
mod keywords;
mod meter;
mod payload;
mod walk;

use jsonschema::error::ValidationErrorKind;
use jsonschema::{Draft, PatternOptions, Regex, Registry, ValidationError, Validator};
use serde_json::Value;

use self::documents::Documents;
use self::graph::{Graph, NodeId};
use self::keywords::Slot;
use self::meter::{Metered, Part, is_worthless, metered};
use self::payload::{Borrowed, Payload, Seen};
use super::definition::{Definition, Resolved};
use super::limits::{
    JSON_ERRORS_MAX, JSON_STEPS_MAX, PATTERN_BYTES_MAX, SCHEMA_PATTERNS_MAX, TEXT_BYTES_MAX,
    VIOLATIONS_MAX,
};
use super::report::{Incompatibility, Invalid, Problems, Violation, display_to, push_segment};
use super::steps::Steps;

/// A JSON Schema, ready to validate and to be compared.
pub(super) struct Json {
    /// For the first look, which only tells whether a payload is valid.
    first: Validator<Borrowed>,
    validator: Validator<Metered>,
    graph: Graph,
    /// Levels that a payload may nest.
    depth_max: usize,
}

impl Json {
    /// Compiles a schema whose sizes were checked.
    ///
    /// # Errors
    /// Everything that [`Documents::parse`], the meta-schema, [`walk::walk`], [`bounds::check`] and
    /// the regular expressions find, in that order; one stage's problems hide those of the next.
    pub(super) fn compile(definition: &Definition, resolved: &[Resolved]) -> Result<Self, Invalid> {
        let documents = Documents::parse(definition, resolved)?;
        check_meta_schemas(&documents)?;
        let mut graph = walk::walk(&documents)?;
        let depth_max = bounds::check(&graph)?;
        compile_patterns(&mut graph)?;
        let registry = documents.registry()?;
        let first = validator::<Borrowed>(&documents, &registry)?;
        let validator = validator::<Metered>(&documents, &registry)?;
        Ok(Self { first, validator, graph, depth_max })
    }

    /// Checks a payload.
    ///
    /// # Errors
    /// What [`super::Compiled::validate`] describes.
    pub(super) fn validate(&self, payload: &[u8]) -> Result<(), Vec<Violation>> {
        if self.is_valid_at_first_sight(payload) {
            return Ok(());
        }
        let value: Value = serde_json::from_slice(payload).map_err(|e| {
            let text = format!("payload is not JSON: {e}; send one JSON document");
            vec![Violation::new("", &text)]
        })?;
        self.validate_value(&value)
    }

    fn is_valid_at_first_sight(&self, payload: &[u8]) -> bool {
        let Some(payload) = Payload::read(payload) else { return false };
        if payload.depth() > self.depth_max {
            return false;
        }
        let look = || self.first.is_valid(Seen(&payload));
        metered(JSON_STEPS_MAX, u64::MAX, look) == (true, true)
    }

    /// Checks a parsed payload.
    ///
    /// # Errors
    /// What [`super::Compiled::validate`] describes.
    fn validate_value(&self, value: &Value) -> Result<(), Vec<Violation>> {
        let nesting = nesting(value);
        if nesting.depth > self.depth_max {
            let text = format!(
                "payload nests {} levels deep; this schema takes up to {}",
                nesting.depth, self.depth_max
            );
            return Err(vec![Violation::new("", &text)]);
        }
        let (is_valid, sufficed) =
            metered(JSON_STEPS_MAX, u64::MAX, || self.validator.is_valid(Part(value)));
        if !sufficed {
            let text = format!(
                "payload takes more than {JSON_STEPS_MAX} steps to check; send a smaller one, or \
                 give the schema fewer branches that apply to the same value"
            );
            return Err(vec![Violation::new("", &text)]);
        }
        if is_valid { Ok(()) } else { Err(self.violations(value, nesting.pointer_bytes)) }
    }

    /// Why readers with this schema cannot read all that is written with another.
    pub(super) fn incompatibilities(
        &self,
        writer: &Self,
        budget: &mut Steps,
    ) -> Vec<Incompatibility> {
        compare::incompatibilities(&self.graph, &writer.graph, budget)
    }

    /// What is wrong with a payload that is not valid.
    fn violations(&self, value: &Value, pointer_bytes: u64) -> Vec<Violation> {
        // Errors carry their pointers: long names mean fewer of them.
        let errors_max = JSON_ERRORS_MAX.min(((16 << 20) / pointer_bytes.max(1)).max(1));
        let (mut violations, sufficed) = metered(JSON_STEPS_MAX / 5, errors_max, || {
            let errors = self.validator.iter_errors(Part(value));
            let errors = errors.filter(|error| !is_worthless(error.instance()));
            let mut told = Vec::new();
            for error in errors.take(VIOLATIONS_MAX + 1) {
                let Violation { pointer, text } = violation(&error);
                Violation::note(&mut told, &pointer, &text);
            }
            told
        });
        if violations.is_empty() {
            let text = "payload does not match the schema, in more ways than can be listed; \
                        compare it with the schema, or send less at a time";
            return vec![Violation::new("", text)];
        }
        if !sufficed && violations.len() <= VIOLATIONS_MAX {
            let text = "there may be more; to list them takes too many steps";
            violations.push(Violation::new("", text));
        }
        violations
    }
}

/// A validator of payloads in a representation.
fn validator<F: jsonschema::json::Json>(
    documents: &Documents,
    registry: &Registry<'_>,
) -> Result<Validator<F>, Invalid> {
    jsonschema::options_for::<F>()
        .with_registry(registry)
        .offline()
        .with_pattern_options(pattern_options())
        .should_validate_formats(false)
        .without_content_media_type_support("application/json")
        .without_content_encoding_support("base64")
        .build(documents.main())
        .map_err(|e| {
            let text = format!("{}; correct the schema there", display_to(&e, TEXT_BYTES_MAX));
            Invalid::one(e.instance_path().as_str(), text)
        })
}

fn violation(error: &ValidationError<'_>) -> Violation {
    let mut pointer = error.instance_path().as_str().to_owned();
    if let ValidationErrorKind::Required { property: Value::String(name) } = error.kind() {
        // The place where it is missing says more than the object that lacks it.
        push_segment(&mut pointer, name);
    }
    let mut text = describe(error);
    if let Some(closest) = closest(error) {
        let at = display_to(closest.instance_path(), 128);
        text = format!("{text}; closest to that, at {at:?}: {}", describe(closest));
    }
    let asked = display_to(error.schema_path(), 256);
    Violation::new(&pointer, &format!("{text}; the schema asks for it at {asked}"))
}

/// What an error says, with the beginning of the value that it is about.
fn describe(error: &ValidationError<'_>) -> String {
    display_to(&error.masked_with(display_to(error.instance().as_ref(), 64)), 256)
}

/// Of the errors in the branches of an `anyOf` or a `oneOf` the one deepest in the payload: most
/// likely its branch was meant. If that is of the same kind, its own closest, and so on.
fn closest<'e>(error: &'e ValidationError<'_>) -> Option<&'e ValidationError<'static>> {
    let mut found: Option<&ValidationError<'static>> = None;
    let mut kind = error.kind();
    while let ValidationErrorKind::AnyOf { context }
    | ValidationErrorKind::OneOfNotValid { context } = kind
    {
        let errors = context.iter().flatten().filter(|inner| !is_worthless(inner.instance()));
        let depth = |inner: &&ValidationError<'static>| inner.instance_path().segments().count();
        let Some(deepest) = errors.rev().max_by_key(depth) else { break };
        found = Some(deepest);
        kind = deepest.kind();
    }
    found.filter(|found| found.instance_path() != error.instance_path())
}

/// Checks every document against the meta-schema of its dialect.
fn check_meta_schemas(documents: &Documents) -> Result<(), Invalid> {
    let mut problems = Problems::default();
    for document in documents.iter() {
        let meta = match document.draft {
            Draft::Draft7 => jsonschema::draft7::meta::validator(),
            _ => jsonschema::draft202012::meta::validator(),
        };
        for error in meta.iter_errors(&document.value) {
            let place = format!("{}{}", document.prefix, error.instance_path());
            let text = display_to(&error, TEXT_BYTES_MAX / 2);
            problems.push(&place, format!("{text}; see the meta-schema of its draft"));
        }
    }
    problems.into_result()
}

fn pattern_options() -> PatternOptions<Regex> {
    PatternOptions::regex().size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX)
}

/// Compiles every regular expression of the graph by itself, so that each problem has its place,
/// and keeps them.
fn compile_patterns(graph: &mut Graph) -> Result<(), Invalid> {
    let mut problems = Problems::default();
    for id in graph.ids() {
        for (pattern, place) in patterns_of(graph, id) {
            if graph.knows_pattern(&pattern) {
                continue;
            }
            if graph.patterns() >= SCHEMA_PATTERNS_MAX {
                let text = format!(
                    "schema has more than {SCHEMA_PATTERNS_MAX} different regular expressions; \
                     share or drop some"
                );
                problems.push_once(&place, text);
                continue;
            }
            let schema = serde_json::json!({ "pattern": pattern });
            match jsonschema::options().with_pattern_options(pattern_options()).build(&schema) {
                Ok(matcher) => graph.keep_pattern(&pattern, matcher),
                Err(_) => problems.push(
                    &place,
                    format!(
                        "{pattern:?} is no regular expression that matches in linear time; write \
                         one without look-around, without back references and with fewer \
                         repetitions (compiled, {PATTERN_BYTES_MAX} bytes at most)"
                    ),
                ),
            }
        }
    }
    problems.into_result()
}

/// The regular expressions of a sub-schema and where they stand.
fn patterns_of(graph: &Graph, id: NodeId) -> Vec<(String, String)> {
    let node = graph.node(id);
    let mut patterns = Vec::new();
    if let Some(Value::String(pattern)) = node.own.get("pattern") {
        patterns.push((pattern.clone(), graph.place_of(id, "pattern")));
    }
    for edge in node.all(Slot::PatternProperty) {
        let mut place = graph.place_of(id, "patternProperties");
        push_segment(&mut place, &edge.key);
        patterns.push((edge.key.clone(), place));
    }
    patterns
}

/// How deep a payload nests, and how long the pointers into it get.
struct Nesting {
    depth: usize,
    pointer_bytes: u64,
}

fn nesting(value: &Value) -> Nesting {
    match value {
        Value::Array(items) => {
            let mut deepest = Nesting { depth: 0, pointer_bytes: 0 };
            for item in items {
                // Plain values are most of a payload, and all alike.
                let inner = nesting(item);
                deepest.depth = deepest.depth.max(inner.depth);
                deepest.pointer_bytes = deepest.pointer_bytes.max(inner.pointer_bytes);
            }
            Nesting { depth: deepest.depth + 1, pointer_bytes: deepest.pointer_bytes + 8 }
        }
        Value::Object(members) => {
            let mut deepest = Nesting { depth: 0, pointer_bytes: 0 };
            for (name, member) in members {
                let inner = nesting(member);
                deepest.depth = deepest.depth.max(inner.depth);
                let bytes = inner.pointer_bytes + name.len() as u64 + 1;
                deepest.pointer_bytes = deepest.pointer_bytes.max(bytes);
            }
            Nesting { depth: deepest.depth + 1, pointer_bytes: deepest.pointer_bytes }
        }
        _ => Nesting { depth: 1, pointer_bytes: 0 },
    }
}
