//! Schema resolution of the Avro specification, as its `SchemaCompatibility` and with it the
//! registries of Confluent, Karapace and Apicurio apply it.
//!
//! - `int` reads as `long`, `float`, `double`; `long` as `float`, `double`; `float` as `double`;
//!   `string` and `bytes` as one another.
//! - Records, enums and fixed match by their names without namespaces, or by an alias of the
//!   reader's; fixed also by size.
//! - A reader's field that writers lack, under its name and its aliases, needs a default.
//! - A symbol that readers lack needs a default of the reader's enum.
//! - Readers must take each branch of a writer's union, in some branch of theirs if they have one.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{Field, Model, Named, Primitive, Type, TypeId};
use crate::schema::limits::{COMPARE_DEPTH_MAX, INCOMPATIBILITIES_MAX};
use crate::schema::report::Incompatibility;
use crate::schema::steps::Steps;

/// Why readers with the schema `reader` cannot read what is written with `writer`.
pub(super) fn incompatibilities(
    reader: (&Model, TypeId),
    writer: (&Model, TypeId),
    budget: &mut Steps,
) -> Vec<Incompatibility> {
    let mut compare = Compare {
        reader: reader.0,
        writer: writer.0,
        answers: BTreeMap::new(),
        proved: Vec::new(),
        open: 0,
        steps: 0,
        steps_max: budget.at_once(),
        explaining: 0,
        explained: BTreeSet::new(),
        found: Vec::new(),
    };
    if !compare.reads(reader.1, writer.1) {
        compare.explain(reader.1, writer.1);
        if compare.found.is_empty() {
            let text = format!(
                "the schemas are too intricate to be compared within {} steps; \
                 simplify them, or check by hand and register without this rule",
                compare.steps_max
            );
            compare.report(String::new(), "cannot_prove", text);
        }
    }
    budget.take(compare.steps);
    compare.found
}

struct Compare<'m> {
    reader: &'m Model,
    writer: &'m Model,
    /// Whether the reader's type reads the writer's. While that is open, it counts as so: what
    /// leads back to it is a part of the value.
    answers: BTreeMap<(TypeId, TypeId), bool>,
    /// What was answered with yes, in that order: forgotten when a question that was open then is
    /// answered with no.
    proved: Vec<(TypeId, TypeId)>,
    open: usize,
    steps: usize,
    steps_max: usize,
    explaining: usize,
    explained: BTreeSet<(TypeId, TypeId)>,
    found: Vec<Incompatibility>,
}

impl Compare<'_> {
    fn reads(&mut self, read: TypeId, written: TypeId) -> bool {
        if let Some(answer) = self.answers.get(&(read, written)) {
            return *answer;
        }
        self.steps += 1;
        if self.open >= COMPARE_DEPTH_MAX || self.steps > self.steps_max {
            return false;
        }
        self.answers.insert((read, written), true);
        self.open += 1;
        let proved = self.proved.len();
        let answer = self.resolve(read, written);
        self.open -= 1;
        if answer {
            self.proved.push((read, written));
        } else {
            for forgotten in self.proved.split_off(proved) {
                self.answers.remove(&forgotten);
            }
            self.answers.insert((read, written), false);
        }
        answer
    }

    fn resolve(&mut self, read: TypeId, written: TypeId) -> bool {
        let (reader, writer) = (self.reader, self.writer);
        match (reader.of(read), writer.of(written)) {
            (_, Type::Union(branches)) => branches.iter().all(|branch| self.reads(read, *branch)),
            (Type::Union(branches), _) => {
                branches.iter().any(|branch| self.reads(*branch, written))
            }
            (Type::Primitive(read), Type::Primitive(written)) => promotes(*written, *read),
            (Type::Array(read), Type::Array(written)) | (Type::Map(read), Type::Map(written)) => {
                self.reads(*read, *written)
            }
            (Type::Fixed { name, size }, Type::Fixed { name: other, size: other_size }) => {
                matches(name, other) && size == other_size
            }
            (
                Type::Enum { name, symbols, default },
                Type::Enum { name: other, symbols: written, .. },
            ) => {
                matches(name, other)
                    && (default.is_some() || missing_symbols(symbols, written).is_empty())
            }
            (
                Type::Record { name, fields, .. },
                Type::Record { name: other, fields: written, .. },
            ) => {
                matches(name, other)
                    && pair(fields, written).into_iter().all(|(field, written)| match written {
                        Some(written) => self.reads(field.of, written.of),
                        None => field.default.is_some(),
                    })
            }
            _ => false,
        }
    }

    /// Reports why a type does not read another; it is known that it does not.
    fn explain(&mut self, read: TypeId, written: TypeId) {
        if self.found.len() > INCOMPATIBILITIES_MAX
            || self.explaining >= COMPARE_DEPTH_MAX
            || self.reads(read, written)
            || !self.explained.insert((read, written))
        {
            return;
        }
        self.explaining += 1;
        let (reader, writer) = (self.reader, self.writer);
        let place = reader.place(read);
        match (reader.of(read), writer.of(written)) {
            (_, Type::Union(branches)) => {
                for branch in branches {
                    self.explain(read, *branch);
                }
            }
            (Type::Union(_), missing) => {
                let text = format!(
                    "readers have no branch for {}, which writers may write; add one",
                    missing.describe()
                );
                self.report(place, "missing_union_branch", text);
            }
            (Type::Array(read), Type::Array(written)) | (Type::Map(read), Type::Map(written)) => {
                self.explain(*read, *written);
            }
            (
                Type::Record { name, fields, .. },
                Type::Record { name: other, fields: written, .. },
            ) if matches(name, other) => {
                self.explain_fields(&place, fields, written);
            }
            (read, written) => self.explain_plain(place, read, written),
        }
        self.explaining -= 1;
    }

    fn explain_fields(&mut self, place: &str, fields: &[Field], written: &[Field]) {
        for (index, (field, written)) in pair(fields, written).into_iter().enumerate() {
            match written {
                Some(written) => self.explain(field.of, written.of),
                None if field.default.is_none() => {
                    let text = format!(
                        "readers have a field {} without a default, writers lack it; give it a \
                         default",
                        field.name
                    );
                    let place = format!("{place}/fields/{index}");
                    self.report(place, "reader_field_missing_default_value", text);
                }
                None => {}
            }
        }
    }

    fn explain_plain(&mut self, place: String, read: &Type, written: &Type) {
        let (now, before) = (read.describe(), written.describe());
        match (read, written) {
            (Type::Enum { name, symbols, .. }, Type::Enum { name: other, symbols: all, .. })
                if matches(name, other) =>
            {
                let missing = missing_symbols(symbols, all);
                let text = format!(
                    "readers lack the symbols {} of {now}, and have no default; keep them, or give \
                     the enum a default",
                    missing.join(", ")
                );
                self.report(place + "/symbols", "missing_enum_symbols", text);
            }
            (Type::Fixed { name, size }, Type::Fixed { name: other, size: written })
                if matches(name, other) =>
            {
                let text = format!("{now} has {size} bytes for readers, {written} for writers");
                let text = text + "; keep its size";
                self.report(place + "/size", "fixed_size_mismatch", text);
            }
            (Type::Enum { .. }, Type::Enum { .. })
            | (Type::Fixed { .. }, Type::Fixed { .. })
            | (Type::Record { .. }, Type::Record { .. }) => {
                let text = format!(
                    "readers have {now}, writers {before}; keep the name, or let it be an alias"
                );
                self.report(place + "/name", "name_mismatch", text);
            }
            _ => {
                let text = format!(
                    "readers have {now}, writers {before}, which it cannot read; keep the type, or \
                     use a union of both"
                );
                self.report(place, "type_mismatch", text);
            }
        }
    }

    fn report(&mut self, path: String, rule: &'static str, text: String) {
        Incompatibility::note(&mut self.found, &path, rule, &text);
    }
}

/// The symbols that writers have and readers lack.
fn missing_symbols<'m>(read: &[String], written: &'m [String]) -> Vec<&'m str> {
    let known: BTreeSet<&str> = read.iter().map(String::as_str).collect();
    written.iter().map(String::as_str).filter(|symbol| !known.contains(symbol)).collect()
}

/// The reader's fields, each with the writer's field of its name, else of its first alias that
/// there is.
fn pair<'m>(read: &'m [Field], written: &'m [Field]) -> Vec<(&'m Field, Option<&'m Field>)> {
    let known: BTreeMap<&str, &Field> =
        written.iter().map(|field| (field.name.as_str(), field)).collect();
    let find = |field: &'m Field| {
        let mut names = [&field.name].into_iter().chain(&field.aliases);
        names.find_map(|name| known.get(name.as_str()).copied())
    };
    read.iter().map(|field| (field, find(field))).collect()
}

/// Whether types match by name: without namespaces, or by an alias of the reader's.
fn matches(read: &Named, written: &Named) -> bool {
    read.short() == written.short() || read.aliases.contains(&written.full)
}

/// Whether values of one primitive type are read as another.
fn promotes(written: Primitive, read: Primitive) -> bool {
    written == read
        || matches!(
            (written, read),
            (Primitive::Int, Primitive::Long | Primitive::Float | Primitive::Double)
                | (Primitive::Long, Primitive::Float | Primitive::Double)
                | (Primitive::Float, Primitive::Double)
                | (Primitive::String, Primitive::Bytes)
                | (Primitive::Bytes, Primitive::String)
        )
}
