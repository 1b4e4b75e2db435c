//! What a node knows of rules and schemas, from call to call.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use super::compile::compiled;
use crate::machine::Fault;
use crate::machine::kv::Kv;
use crate::machine::schema::query;
use crate::model::limits::{SCHEMAS_COMPILED_BYTES_MAX, SCHEMAS_COMPILED_MAX, TOPICS_MAX};
use crate::model::rejection::Rejection;
use crate::model::schema_rule::{SchemaRule, SchemaVerdict};
use crate::schema::Compiled;

/// What is known of rules and schemas, maybe old.
#[derive(Default)]
pub(in crate::node) struct Judges {
    rules: RwLock<HashMap<String, Option<Arc<SchemaRule>>>>,
    subjects: RwLock<Subjects>,
    pub(super) stats: JudgeStats,
}

/// How many events schemas judged on this node, whatever became of their calls then.
#[derive(Debug, Default)]
pub struct JudgeStats {
    /// Valid ones.
    pub valid: AtomicU64,
    /// Invalid ones that were taken all the same.
    pub invalid: AtomicU64,
    /// Calls that were refused for one.
    pub refused: AtomicU64,
}

/// What judges the events of a subject.
pub(super) struct Judge {
    /// What is told of a valid event; version 0: nothing judges.
    pub(super) verdict: SchemaVerdict,
    /// The same as a field of the event.
    pub(super) field: Bytes,
    /// Or why there is none.
    pub(super) schema: Result<Compiled, Rejection>,
}

impl Judge {
    fn source_bytes(&self) -> usize {
        self.schema.as_ref().map_or(0, Compiled::source_bytes)
    }
}

/// By subject.
pub(super) type Known = HashMap<String, Arc<Judge>>;

impl Judges {
    pub(super) fn rule(&self, topic: &str) -> Option<Option<Arc<SchemaRule>>> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).get(topic).cloned()
    }

    pub(super) fn of(&self, subjects: &BTreeSet<String>) -> Known {
        let known = &self.subjects.read().unwrap_or_else(PoisonError::into_inner).judges;
        let found =
            subjects.iter().filter_map(|name| Some((name.clone(), known.get(name)?.clone())));
        found.collect()
    }

    pub(super) fn learn_rule(&self, topic: &str, rule: Option<Arc<SchemaRule>>) {
        let mut rules = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        if rules.len() as u64 >= TOPICS_MAX {
            rules.clear();
        }
        rules.insert(topic.to_owned(), rule);
    }

    pub(super) fn learn(&self, new: &Known) {
        self.subjects.write().unwrap_or_else(PoisonError::into_inner).learn(new);
    }
}

/// What judges subjects, bounded by number and by the bytes of the schemas' texts.
#[derive(Default)]
struct Subjects {
    judges: Known,
    source_bytes: usize,
}

impl Subjects {
    fn learn(&mut self, new: &Known) {
        for (name, judge) in new {
            self.put(name, judge);
        }
        if self.judges.len() <= SCHEMAS_COMPILED_MAX
            && self.source_bytes <= SCHEMAS_COMPILED_BYTES_MAX
        {
            return;
        }
        // Too much is forgotten, and what is asked for is known again soon.
        *self = Self::default();
        for (name, judge) in new {
            let fits = self.source_bytes + judge.source_bytes() <= SCHEMAS_COMPILED_BYTES_MAX;
            if fits && self.judges.len() < SCHEMAS_COMPILED_MAX {
                self.put(name, judge);
            }
        }
    }

    fn put(&mut self, name: &str, judge: &Arc<Judge>) {
        self.source_bytes += judge.source_bytes();
        if let Some(old) = self.judges.insert(name.to_owned(), Arc::clone(judge)) {
            self.source_bytes -= old.source_bytes();
        }
    }
}

/// What judges a subject now; the same as before, if it is.
pub(super) fn judge(
    kv: &impl Kv,
    subject: &str,
    old: Option<&Arc<Judge>>,
) -> Result<Arc<Judge>, Fault> {
    let version = query::subject(kv, subject)?.and_then(|info| info.judge()).unwrap_or(0);
    if let Some(old) = old.filter(|old| old.verdict.version == version) {
        return Ok(Arc::clone(old));
    }
    let schema = match query::schema(kv, subject, version)? {
        Some(info) => compiled(kv, &info.definition)?,
        None => Err(query::not_found(subject, None)),
    };
    let verdict = SchemaVerdict { subject: subject.to_owned(), version, violations: 0 };
    Ok(Arc::new(Judge { field: verdict.as_field(), verdict, schema }))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::schema::{Definition, Format, Reference, Resolved, SourceFile, compile};

    fn definition(text: &str) -> Definition {
        let files = vec![SourceFile { name: "s".to_owned(), text: text.to_owned() }];
        Definition { format: Format::Json, files, references: Vec::new() }
    }

    fn judge_of(subject: &str, version: u32, schema: Compiled) -> Known {
        let verdict = SchemaVerdict { subject: subject.to_owned(), version, violations: 0 };
        let judge = Judge { field: verdict.as_field(), verdict, schema: Ok(schema) };
        Known::from([(subject.to_owned(), Arc::new(judge))])
    }

    /// What judges one subject.
    pub(in super::super) fn known(subject: &str, version: u32, schema: &str) -> Known {
        let compiled = compile(&definition(schema), &[]);
        judge_of(subject, version, compiled.unwrap_or_else(|error| panic!("{error}")))
    }

    /// A schema of so many bytes.
    fn of_bytes(subject: &str, bytes: usize) -> Known {
        known(subject, 1, &format!("{:bytes$}", "{}"))
    }

    fn names(known: &Known) -> BTreeSet<&str> {
        known.keys().map(String::as_str).collect()
    }

    #[test]
    fn what_is_kept_is_bounded_by_the_bytes_of_schemas() {
        let half = SCHEMAS_COMPILED_BYTES_MAX / 2;
        let mut kept = Subjects::default();
        kept.learn(&of_bytes("a", half));
        kept.learn(&of_bytes("b", half));
        // The same again takes no more room, and a smaller one leaves some.
        kept.learn(&of_bytes("b", half));
        kept.learn(&of_bytes("a", half - 2));
        kept.learn(&of_bytes("c", 2));
        assert_eq!(names(&kept.judges), BTreeSet::from(["a", "b", "c"]));
        assert_eq!(kept.source_bytes, SCHEMAS_COMPILED_BYTES_MAX);
        kept.learn(&of_bytes("d", 2));
        assert_eq!((names(&kept.judges), kept.source_bytes), (BTreeSet::from(["d"]), 2));
        // Of a call that needs too much at once, what has room is kept.
        let mut many = of_bytes("e", half);
        many.extend(of_bytes("f", half + 1));
        kept.learn(&many);
        assert_eq!(kept.judges.len(), 1);
        assert!(kept.source_bytes <= SCHEMAS_COMPILED_BYTES_MAX && kept.source_bytes >= half);
    }

    #[test]
    fn what_a_schema_refers_to_counts() {
        let mut whole = definition(r#"{"$ref": "other"}"#);
        let (name, subject) = ("other".to_owned(), "o".to_owned());
        whole.references.push(Reference { name: name.clone(), subject, version: 1 });
        let other = definition(r#"{"type": "integer"}"#);
        let bytes = whole.bytes() + other.bytes();
        let resolved = [Resolved { name, definition: other, resolved: Vec::new() }];
        let compiled = compile(&whole, &resolved).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(compiled.source_bytes(), bytes);
        let mut kept = Subjects::default();
        kept.learn(&judge_of("a", 1, compiled));
        assert_eq!(kept.source_bytes, bytes);
    }
}
