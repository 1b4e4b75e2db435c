//! The documents of a JSON Schema: its own and those that it refers to, each under its URI.

use std::collections::HashSet;
use std::error::Error;

use jsonschema::{Draft, Registry, Retrieve, Uri, uri};
use serde_json::Value;
use xxhash_rust::xxh3::Xxh3;

use crate::schema::definition::{Definition, Resolved};
use crate::schema::limits::SCHEMA_DEPTH_MAX;
use crate::schema::report::{Invalid, join};

/// What `$schema` may say.
pub(super) const DIALECTS: &str =
    "https://json-schema.org/draft/2020-12/schema or http://json-schema.org/draft-07/schema";

/// The base of a document that has no absolute `$id`.
const BASE: &str = "json-schema:///";

/// A result whose error is one problem: a document is looked into only once it is sound as a whole.
type Checked<T> = Result<T, Invalid>;

/// A document.
pub(super) struct Document {
    /// What its places begin with: nothing for the main one, else the reference's name and `#`.
    pub(super) prefix: String,
    /// Where the others find it.
    uri: Uri<String>,
    /// Its dialect.
    pub(super) draft: Draft,
    /// Its text, parsed.
    pub(super) value: Value,
}

impl Document {
    /// Where the others find it.
    pub(super) fn uri(&self) -> &Uri<String> {
        &self.uri
    }
}

/// All documents of a schema; the first is the main one.
pub(super) struct Documents(Vec<Document>);

/// Gives every URI that is not a document's an empty schema. Nothing is ever fetched: such a schema
/// is recognised afterwards, by its being none of the documents', and refused with its place.
struct Blank;

impl Retrieve for Blank {
    fn retrieve(&self, _: &Uri<String>) -> Result<Value, Box<dyn Error + Send + Sync>> {
        Ok(Value::Bool(true))
    }
}

impl Documents {
    /// Parses the documents.
    ///
    /// # Errors
    /// A text that is not JSON, nests too deep or is neither an object nor a boolean; another
    /// dialect; a malformed URI; two different documents under the same URI.
    pub(super) fn parse(definition: &Definition, resolved: &[Resolved]) -> Checked<Self> {
        let base = absolute(BASE, "")?;
        let mut documents = Self(Vec::new());
        let main = documents.add(String::new(), &base, "", definition.main_text())?;
        documents.add_references(&main, resolved)?;
        Ok(documents)
    }

    /// The main document.
    pub(super) fn main(&self) -> &Value {
        self.0.first().map_or(&Value::Null, |document| &document.value)
    }

    /// The dialect of the main document.
    pub(super) fn main_draft(&self) -> Draft {
        self.0.first().map_or(Draft::Draft202012, |document| document.draft)
    }

    /// Every document.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Document> {
        self.0.iter()
    }

    /// The documents but for the main one, ready for references to be looked up.
    ///
    /// # Errors
    /// A malformed URI somewhere in a document.
    pub(super) fn registry(&self) -> Checked<Registry<'_>> {
        let mut builder = Registry::new().retriever(Blank);
        for document in self.0.iter().skip(1) {
            let resource = document.draft.create_resource_ref(&document.value);
            builder = builder.add(document.uri.as_str(), resource).map_err(|e| malformed(&e))?;
        }
        builder.prepare().map_err(|e| malformed(&e))
    }

    /// [`Self::registry`] and the main document, with its URI.
    ///
    /// # Errors
    /// A malformed URI somewhere in the main document.
    pub(super) fn with_main<'r>(
        &'r self,
        registry: &'r Registry<'r>,
    ) -> Checked<(Registry<'r>, Uri<String>)> {
        let resource = self.main_draft().create_resource_ref(self.main());
        let base = uri::from_str(resource.id().unwrap_or(BASE)).map_err(|e| malformed(&e))?;
        let registry = registry
            .add(base.as_str(), resource)
            .and_then(|builder| builder.retriever(Blank).draft(self.main_draft()).prepare())
            .map_err(|e| malformed(&e))?;
        Ok((registry, base))
    }

    /// The same for the same documents in the same order.
    pub(super) fn digest(&self) -> u128 {
        let mut hasher = Xxh3::new();
        for document in &self.0 {
            let text = document.value.to_string();
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
            hasher.update(document.uri.as_str().as_bytes());
        }
        hasher.digest128()
    }

    /// The address of every value of every document: what a reference may lead to.
    pub(super) fn addresses(&self) -> HashSet<usize> {
        let mut addresses = HashSet::new();
        let mut open: Vec<&Value> = self.0.iter().map(|document| &document.value).collect();
        while let Some(value) = open.pop() {
            addresses.insert(address(value));
            match value {
                Value::Array(items) => open.extend(items),
                Value::Object(members) => open.extend(members.values()),
                _ => {}
            }
        }
        addresses
    }

    /// Parses one document and keeps it; answers the base of its relative URIs.
    fn add(
        &mut self,
        prefix: String,
        base: &Uri<String>,
        name: &str,
        text: &str,
    ) -> Checked<Uri<String>> {
        let value: Value = serde_json::from_str(text).map_err(|e| {
            let text = format!("text is not JSON: {e}; give one JSON document");
            Invalid::one(&prefix, text)
        })?;
        check_nesting(&value, &prefix)?;
        let draft = draft_of(&value, &prefix)?;
        let uri = absolute_at(base, name, &prefix)?;
        let id = draft.create_resource_ref(&value).id().unwrap_or("").to_owned();
        let id_base = absolute_at(&uri, &id, &prefix)?;
        for known in &self.0 {
            let resource = known.draft.create_resource_ref(&known.value);
            let id = resource.id().unwrap_or_default();
            let known_base = absolute_at(&known.uri, id, &known.prefix)?;
            let same_place = [&known.uri, &known_base].iter().any(|u| **u == uri || **u == id_base);
            if same_place && known.value != value {
                let text = format!(
                    "two different schemas are called {:?}; give each its own name and $id",
                    uri.as_str()
                );
                return Err(Invalid::one(&prefix, text));
            }
            if known.uri == uri {
                return Ok(id_base);
            }
        }
        self.0.push(Document { prefix, uri, draft, value });
        Ok(id_base)
    }

    fn add_references(&mut self, base: &Uri<String>, resolved: &[Resolved]) -> Checked<()> {
        for found in resolved {
            let prefix = format!("{}#", found.name);
            let base = self.add(prefix, base, &found.name, found.definition.main_text())?;
            self.add_references(&base, &found.resolved)?;
        }
        Ok(())
    }
}

/// Where a value lies in memory; the documents neither move nor change while one asks.
pub(super) fn address(value: &Value) -> usize {
    std::ptr::from_ref(value) as usize
}

/// The dialect that `$schema` names, when it is one of the two.
pub(super) fn dialect(uri: &str) -> Option<Draft> {
    match Draft::from_schema_uri(uri) {
        draft @ (Draft::Draft7 | Draft::Draft202012) => Some(draft),
        _ => None,
    }
}

fn draft_of(value: &Value, prefix: &str) -> Checked<Draft> {
    let Value::Object(members) = value else {
        if value.is_boolean() {
            return Ok(Draft::Draft202012);
        }
        let text = "schema is neither an object nor a boolean; write it as an object".to_owned();
        return Err(Invalid::one(prefix, text));
    };
    match members.get("$schema") {
        None => Ok(Draft::Draft202012),
        Some(Value::String(uri)) if dialect(uri).is_some() => {
            Ok(dialect(uri).unwrap_or(Draft::Draft202012))
        }
        Some(other) => {
            let text = format!("$schema {other} is not supported; use {DIALECTS}, or leave it out");
            Err(Invalid::one(&join(prefix, "$schema"), text))
        }
    }
}

/// Refuses a document that nests deeper than [`SCHEMA_DEPTH_MAX`].
fn check_nesting(value: &Value, prefix: &str) -> Checked<()> {
    let mut open = vec![(value, 1)];
    while let Some((value, depth)) = open.pop() {
        if depth > SCHEMA_DEPTH_MAX {
            let text = format!(
                "schema nests deeper than {SCHEMA_DEPTH_MAX} levels; move inner parts into $defs"
            );
            return Err(Invalid::one(prefix, text));
        }
        match value {
            Value::Array(items) => open.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(members) => open.extend(members.values().map(|item| (item, depth + 1))),
            _ => {}
        }
    }
    Ok(())
}

fn absolute(base: &str, relative: &str) -> Checked<Uri<String>> {
    let base = uri::from_str(base).map_err(|e| malformed(&e))?;
    absolute_at(&base, relative, "")
}

fn absolute_at(base: &Uri<String>, relative: &str, place: &str) -> Checked<Uri<String>> {
    let relative = relative.split('#').next().unwrap_or_default();
    uri::resolve_against(&base.borrow(), relative).map_err(|e| {
        let text = format!("{relative:?} is not a URI: {e}; write one like order.json");
        Invalid::one(place, text)
    })
}

fn malformed(error: &jsonschema::ReferencingError) -> Invalid {
    Invalid::one("", format!("{error}; correct that $id, $ref or $schema"))
}
