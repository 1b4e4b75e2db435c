//! From the JSON of Avro schemas to a model.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::defaults;
use super::model::{Field, Model, Named, Place, Primitive, Type, TypeId};
use crate::schema::definition::{Definition, Resolved};
use crate::schema::limits::{SCHEMA_DEPTH_MAX, SCHEMA_NODES_MAX};
use crate::schema::report::{Invalid, Problems, join, push_segment};

/// Parses a schema, after those that it refers to.
///
/// # Errors
/// Text that is not JSON or nests too deep; types that are unknown, malformed or defined twice;
/// unions that the specification forbids; defaults that do not fit; a reference whose schema does
/// not define the type of its name; more than [`SCHEMA_NODES_MAX`] types and fields.
pub(super) fn parse(
    definition: &Definition,
    resolved: &[Resolved],
) -> Result<(Model, TypeId), Invalid> {
    let mut parse = Parse {
        model: Model::default(),
        names: BTreeMap::new(),
        fields: 0,
        problems: Problems::default(),
        stand_ins: BTreeSet::new(),
        prefix: String::new(),
    };
    parse.references(resolved, &mut Vec::new())?;
    let root = parse.schema(definition, String::new())?;
    let Parse { mut model, mut problems, .. } = parse;
    if problems.is_empty() {
        defaults::check(&model, &mut problems);
    }
    problems.into_result()?;
    model.mark_solid();
    Ok((model, root))
}

struct Parse {
    model: Model,
    /// Types by their full names.
    names: BTreeMap<String, TypeId>,
    fields: usize,
    problems: Problems,
    /// What stands for types that had a problem.
    stand_ins: BTreeSet<TypeId>,
    /// What the places of the schema at hand begin with.
    prefix: String,
}

impl Parse {
    /// Parses what is referred to, innermost first, each schema once.
    fn references<'d>(
        &mut self,
        resolved: &'d [Resolved],
        done: &mut Vec<&'d Definition>,
    ) -> Result<(), Invalid> {
        for found in resolved {
            self.references(&found.resolved, done)?;
            if !done.contains(&&found.definition) {
                self.schema(&found.definition, format!("{}#", found.name))?;
                done.push(&found.definition);
            }
            if !self.names.contains_key(&found.name) {
                let text = format!(
                    "the schema of reference {0:?} defines no type of that name; name the \
                     reference after the full name of a type in it",
                    found.name
                );
                self.problems.push(&found.name, text);
            }
        }
        Ok(())
    }

    fn schema(&mut self, definition: &Definition, prefix: String) -> Result<TypeId, Invalid> {
        let value = parse_text(definition.main_text(), &prefix)?;
        self.prefix.clone_from(&prefix);
        Ok(self.type_of(&value, "", Place::Schema(prefix)))
    }

    fn place(&self, place: &Place) -> String {
        match place {
            Place::Schema(prefix) => prefix.clone(),
            Place::Below(parent, segment) => self.model.place(*parent) + segment,
        }
    }

    /// Notes a problem at a place and answers a type to go on with.
    fn problem(&mut self, place: Place, keyword: &str, text: String) -> TypeId {
        let mut at = self.place(&place);
        if !keyword.is_empty() {
            push_segment(&mut at, keyword);
        }
        self.problems.push(&at, text);
        self.stand_in(place)
    }

    fn stand_in(&mut self, place: Place) -> TypeId {
        let id = self.model.add(place, Type::Primitive(Primitive::Null));
        self.stand_ins.insert(id);
        id
    }

    /// The type that a value describes, within a namespace.
    fn type_of(&mut self, value: &Value, namespace: &str, place: Place) -> TypeId {
        if self.model.len() + self.fields >= SCHEMA_NODES_MAX {
            let text = format!(
                "schema has more than {SCHEMA_NODES_MAX} types and fields; split or shorten it"
            );
            let prefix = self.prefix.clone();
            self.problems.push_once(&prefix, text);
            return self.stand_in(place);
        }
        match value {
            Value::String(name) => self.by_name(name, namespace, place),
            Value::Array(branches) => self.union(branches, namespace, place),
            Value::Object(members) => self.complex(members, namespace, place),
            other => {
                let text = format!("{other} is no type; write a name, an object or a union");
                self.problem(place, "", text)
            }
        }
    }

    fn by_name(&mut self, name: &str, namespace: &str, place: Place) -> TypeId {
        if let Some(primitive) = Primitive::named(name) {
            return self.model.add(place, Type::Primitive(primitive));
        }
        // A name without a namespace may also be one of a type that has none.
        let known = self.names.get(&full_name(name, namespace)).or_else(|| self.names.get(name));
        match known {
            Some(id) => *id,
            None => {
                let text = format!(
                    "type {name:?} is unknown; define it before its first use, or add a reference \
                     of this name"
                );
                self.problem(place, "", text)
            }
        }
    }

    fn union(&mut self, branches: &[Value], namespace: &str, place: Place) -> TypeId {
        let id = self.model.add(place, Type::Union(Vec::new()));
        let mut types = Vec::new();
        let mut names = BTreeSet::new();
        for (index, branch) in branches.iter().enumerate() {
            let below = Place::Below(id, format!("/{index}"));
            let at = self.place(&below);
            let branch = self.type_of(branch, namespace, below);
            let of = self.model.of(branch);
            if matches!(of, Type::Union(_)) {
                let text = "a union stands directly in a union; write its types here";
                self.problems.push(&at, text.to_owned());
            } else if !self.stand_ins.contains(&branch) && !names.insert(of.branch_name()) {
                let text = format!("union has {} twice; remove one", of.describe());
                self.problems.push(&at, text);
            }
            types.push(branch);
        }
        if let Some(of) = self.model.of_mut(id) {
            *of = Type::Union(types);
        }
        id
    }

    fn complex(&mut self, members: &Map<String, Value>, namespace: &str, place: Place) -> TypeId {
        match members.get("type") {
            Some(Value::String(kind)) => match kind.as_str() {
                "array" => self.collection(members, "items", namespace, place),
                "map" => self.collection(members, "values", namespace, place),
                "record" | "enum" | "fixed" => self.named(kind, members, namespace, place),
                name => self.by_name(name, namespace, place),
            },
            Some(inner @ (Value::Object(_) | Value::Array(_))) => {
                self.type_of(inner, namespace, place)
            }
            Some(other) => {
                self.problem(place, "type", format!("type {other} is no type; write a name"))
            }
            None => self.problem(place, "", "type is missing; add it".to_owned()),
        }
    }

    fn collection(
        &mut self,
        members: &Map<String, Value>,
        keyword: &str,
        namespace: &str,
        place: Place,
    ) -> TypeId {
        let Some(inner) = members.get(keyword) else {
            return self.problem(place, "", format!("{keyword} is missing; add it"));
        };
        let id = self.model.add(place, Type::Primitive(Primitive::Null));
        let inner = self.type_of(inner, namespace, Place::Below(id, format!("/{keyword}")));
        if let Some(of) = self.model.of_mut(id) {
            *of = if keyword == "items" { Type::Array(inner) } else { Type::Map(inner) };
        }
        id
    }

    fn named(
        &mut self,
        kind: &str,
        members: &Map<String, Value>,
        namespace: &str,
        place: Place,
    ) -> TypeId {
        let name = members.get("name").and_then(Value::as_str).unwrap_or_default();
        let space = members.get("namespace").and_then(Value::as_str).unwrap_or(namespace);
        let full = full_name(name, space);
        if !is_full_name(&full) || Primitive::named(&full).is_some() {
            let text = format!(
                "name {full:?} is no name; use letters, digits and _ between dots, none of them \
                 beginning with a digit"
            );
            return self.problem(place, "name", text);
        }
        if self.names.contains_key(&full) {
            let text = format!("type {full:?} is defined twice; rename one");
            return self.problem(place, "name", text);
        }
        let own_space = full.rsplit_once('.').map_or("", |(space, _)| space).to_owned();
        let at = self.place(&place);
        let aliases = self.names_in(members, "aliases", &at);
        let aliases = aliases.iter().map(|alias| full_name(alias, &own_space)).collect();
        let name = Named { full: full.clone(), aliases };
        // Known from here on, so that its own parts may name it.
        let id = self
            .model
            .add(place, Type::Record { name: name.clone(), fields: Vec::new(), solid: Vec::new() });
        self.names.insert(full, id);
        let of = match kind {
            "record" => {
                let fields = self.fields_of(id, members, &own_space);
                Type::Record { name, fields, solid: Vec::new() }
            }
            "enum" => self.enumeration(name, members, &at),
            _ => Type::Fixed { name, size: self.size(members, &at) },
        };
        if let Some(known) = self.model.of_mut(id) {
            *known = of;
        }
        id
    }

    fn size(&mut self, members: &Map<String, Value>, at: &str) -> u64 {
        let size = members.get("size").and_then(Value::as_u64);
        size.unwrap_or_else(|| {
            let text = "size is no natural number; write how many bytes there are".to_owned();
            self.problems.push(&join(at, "size"), text);
            0
        })
    }

    fn enumeration(&mut self, name: Named, members: &Map<String, Value>, at: &str) -> Type {
        let symbols = self.names_in(members, "symbols", at);
        let mut seen = BTreeSet::new();
        for symbol in &symbols {
            if !is_name(symbol) || !seen.insert(symbol) {
                let text = format!(
                    "symbol {symbol:?} is no name or is there twice; use letters, digits and _, \
                     and each once"
                );
                self.problems.push(&join(at, "symbols"), text);
            }
        }
        if !members.contains_key("symbols") {
            self.problems.push(at, "symbols are missing; add them".to_owned());
        }
        let default = members.get("default").map(|value| value.as_str().unwrap_or_default());
        if let Some(default) = default
            && !symbols.iter().any(|symbol| symbol == default)
        {
            let text = format!("default {default:?} is none of the symbols; choose one of them");
            self.problems.push(&join(at, "default"), text);
        }
        Type::Enum { name, symbols, default: default.map(str::to_owned) }
    }

    fn fields_of(
        &mut self,
        record: TypeId,
        members: &Map<String, Value>,
        namespace: &str,
    ) -> Vec<Field> {
        let at = self.model.place(record);
        let Some(Value::Array(list)) = members.get("fields") else {
            let text = "fields are missing or no array; add them".to_owned();
            self.problems.push(&join(&at, "fields"), text);
            return Vec::new();
        };
        let mut fields: Vec<Field> = Vec::new();
        let mut names = BTreeSet::new();
        for (index, value) in list.iter().enumerate() {
            let segment = format!("/fields/{index}");
            let here = format!("{at}{segment}");
            let Value::Object(members) = value else {
                let text = format!("{value} is no field; write an object");
                self.problems.push(&here, text);
                continue;
            };
            let name = members.get("name").and_then(Value::as_str).unwrap_or_default();
            if !is_name(name) || !names.insert(name) {
                let text = format!(
                    "field name {name:?} is no name or is there twice; use letters, digits and _, \
                     and each name once"
                );
                self.problems.push(&here, text);
            }
            let Some(of) = members.get("type") else {
                self.problems.push(&here, "type is missing; add it".to_owned());
                continue;
            };
            self.fields += 1;
            let of = self.type_of(of, namespace, Place::Below(record, segment + "/type"));
            let aliases = self.names_in(members, "aliases", &here);
            let default = members.get("default").cloned();
            let name = name.to_owned();
            fields.push(Field { name, aliases, of, default });
        }
        fields
    }

    /// The strings of a list.
    fn names_in(&mut self, members: &Map<String, Value>, keyword: &str, at: &str) -> Vec<String> {
        let Some(value) = members.get(keyword) else { return Vec::new() };
        let list = value.as_array();
        let names: Option<Vec<String>> =
            list.and_then(|list| list.iter().map(|v| v.as_str().map(str::to_owned)).collect());
        names.unwrap_or_else(|| {
            let text = format!("{keyword} is no list of names; write one");
            self.problems.push(&join(at, keyword), text);
            Vec::new()
        })
    }
}

/// Parses the text of a schema. The text `int` alone is no JSON, but a common way to write a schema
/// of one name; it is not taken.
fn parse_text(text: &str, prefix: &str) -> Result<Value, Invalid> {
    let value: Value = serde_json::from_str(text).map_err(|e| {
        Invalid::one(prefix, format!("text is not JSON: {e}; give one JSON document"))
    })?;
    let mut open = vec![(&value, 1)];
    while let Some((value, depth)) = open.pop() {
        if depth > SCHEMA_DEPTH_MAX {
            let text = format!(
                "schema nests deeper than {SCHEMA_DEPTH_MAX} levels; define inner types earlier \
                 and name them"
            );
            return Err(Invalid::one(prefix, text));
        }
        match value {
            Value::Array(items) => open.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(members) => open.extend(members.values().map(|item| (item, depth + 1))),
            _ => {}
        }
    }
    Ok(value)
}

/// A name with its namespace (Avro specification, names).
fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() {
        return name.trim_start_matches('.').to_owned();
    }
    format!("{namespace}.{name}")
}

fn is_full_name(name: &str) -> bool {
    name.split('.').all(is_name)
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
