//! From documents to the graph: every sub-schema, every reference followed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jsonschema::{Draft, Registry, Uri, uri};
use serde_json::{Map, Value};

use super::documents::{DIALECTS, Documents, address, dialect};
use super::graph::{Edge, Graph, Node, NodeId, Place};
use super::keywords::{Holds, Slot, asserts, holds};
use crate::schema::limits::SCHEMA_NODES_MAX;
use crate::schema::report::{Invalid, Problems, join, push_segment};

/// Builds the graph of the documents; its root is the main one.
///
/// # Errors
/// References that lead nowhere, out of the documents, or to what is no schema; another dialect
/// within a document; more than [`SCHEMA_NODES_MAX`] sub-schemas.
pub(super) fn walk(documents: &Documents) -> Result<Graph, Invalid> {
    let references = documents.registry()?;
    let (registry, base) = documents.with_main(&references)?;
    let mut walk = Walk {
        registry: &registry,
        graph: Graph::default(),
        known: HashMap::new(),
        open: Vec::new(),
        references: Vec::new(),
        addresses: documents.addresses(),
        problems: Problems::default(),
    };
    let mut base = Arc::new(base);
    for (index, document) in documents.iter().enumerate() {
        let resource = document.draft.create_resource_ref(&document.value);
        if index > 0 {
            base = match registry.resolver(document.uri().clone()).in_subresource(resource) {
                Ok(resolver) => resolver.base_uri(),
                Err(_) => Arc::new(document.uri().clone()),
            };
        }
        let place = Place::Document(document.prefix.clone());
        walk.reach(&document.value, &base, document.draft, place);
    }
    walk.work();
    walk.sort();
    walk.link_dynamic_references();
    walk.sort();
    let Walk { mut graph, problems, .. } = walk;
    graph.digest = documents.digest();
    problems.into_result().map(|()| graph)
}

/// A sub-schema whose parts were not looked at yet.
#[derive(Clone)]
struct Open<'r> {
    id: NodeId,
    value: &'r Value,
    base: Arc<Uri<String>>,
    draft: Draft,
}

struct Walk<'r> {
    registry: &'r Registry<'r>,
    graph: Graph,
    /// By the address of the value.
    known: HashMap<usize, NodeId>,
    open: Vec<Open<'r>>,
    /// References to be followed once all is known that stands where it belongs.
    references: Vec<(Open<'r>, Slot, &'r str)>,
    /// Of all values of the documents.
    addresses: HashSet<usize>,
    problems: Problems,
}

impl<'r> Walk<'r> {
    /// The id of the sub-schema that a value is; `None` when there are too many.
    fn reach(
        &mut self,
        value: &'r Value,
        base: &Arc<Uri<String>>,
        draft: Draft,
        place: Place,
    ) -> Option<NodeId> {
        if let Some(id) = self.known.get(&address(value)) {
            return Some(*id);
        }
        if self.graph.len() >= SCHEMA_NODES_MAX {
            let text =
                format!("schema has more than {SCHEMA_NODES_MAX} sub-schemas; split or shorten it");
            self.problems.push_once("", text);
            return None;
        }
        let is_false = *value == Value::Bool(false);
        let (own, edges) = (Map::new(), Vec::new());
        let node = Node { place, is_false, own, edges, dynamic_anchor: None };
        let id = self.graph.add(node);
        self.known.insert(address(value), id);
        if value.is_object() {
            self.open.push(Open { id, value, base: Arc::clone(base), draft });
        } else if !value.is_boolean() {
            let text = "this is neither an object nor a boolean, so no schema; write a schema";
            self.problems.push(&self.graph.place(id), text.to_owned());
        }
        Some(id)
    }

    fn work(&mut self) {
        loop {
            while let Some(open) = self.open.pop() {
                if let Value::Object(members) = open.value {
                    self.look_at(&open, members);
                }
            }
            let Some((open, slot, reference)) = self.references.pop() else { return };
            self.refer(&open, slot, reference);
        }
    }

    fn look_at(&mut self, open: &Open<'r>, members: &'r Map<String, Value>) {
        if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
            self.references.push((open.clone(), Slot::Ref, reference));
            if open.draft == Draft::Draft7 {
                // Draft 7, core 8.3: all other members of an object with $ref are ignored.
                return;
            }
        }
        if let Some(reference) = members.get("$dynamicRef").and_then(Value::as_str)
            && open.draft != Draft::Draft7
        {
            self.references.push((open.clone(), Slot::DynamicRef, reference));
        }
        let anchor = members.get("$dynamicAnchor").and_then(Value::as_str);
        let own = own_assertions(open.draft, members);
        if let Some(node) = self.graph.node_mut(open.id) {
            node.own = own;
            node.dynamic_anchor = anchor.map(str::to_owned);
        }
        for (keyword, value) in members {
            let Some(held) = holds(open.draft, keyword) else { continue };
            // Draft 7, validation 6.4.2: additionalItems counts next to a list of items only.
            let idle = open.draft == Draft::Draft7
                && keyword == "additionalItems"
                && !members.get("items").is_some_and(Value::is_array);
            self.descend(open, keyword, if idle { Holds::Annotation } else { held }, value);
        }
    }

    /// Reaches the schemas in the value of a keyword.
    fn descend(&mut self, open: &Open<'r>, keyword: &str, held: Holds, value: &'r Value) {
        match (held, value) {
            (Holds::One(slot), _) => self.child(open, Some(slot), keyword, None, value),
            (Holds::Annotation, _) => self.child(open, None, keyword, None, value),
            (Holds::OneOrList(_, slot) | Holds::List(slot), Value::Array(items)) => {
                for (index, item) in items.iter().enumerate() {
                    self.child(open, Some(slot), keyword, Some(&index.to_string()), item);
                }
            }
            (Holds::OneOrList(slot, _), _) => self.child(open, Some(slot), keyword, None, value),
            (Holds::Map(slot), Value::Object(members)) => {
                for (key, member) in members {
                    self.child(open, Some(slot), keyword, Some(key), member);
                }
            }
            (Holds::MapOrNames(slot), Value::Object(members)) => {
                for (key, member) in members.iter().filter(|(_, member)| !member.is_array()) {
                    self.child(open, Some(slot), keyword, Some(key), member);
                }
            }
            (Holds::Definitions, Value::Object(members)) => {
                for (key, member) in members {
                    self.child(open, None, keyword, Some(key), member);
                }
            }
            // The meta-schema has refused it before.
            _ => {}
        }
    }

    /// Reaches a schema within another.
    fn child(
        &mut self,
        open: &Open<'r>,
        slot: Option<Slot>,
        keyword: &str,
        key: Option<&str>,
        value: &'r Value,
    ) {
        let mut segment = String::new();
        push_segment(&mut segment, keyword);
        if let Some(key) = key {
            push_segment(&mut segment, key);
        }
        let place = Place::Below(open.id, segment);
        let draft = match value.get("$schema") {
            None => open.draft,
            Some(Value::String(uri)) if dialect(uri).is_some() => {
                dialect(uri).unwrap_or(open.draft)
            }
            Some(other) => {
                let text = format!("$schema {other} is not supported; use {DIALECTS}");
                self.problems.push(&join(&self.place(&place), "$schema"), text);
                return;
            }
        };
        let resource = draft.create_resource_ref(value);
        let base = if resource.id().is_some() {
            match self.registry.resolver((*open.base).clone()).in_subresource(resource) {
                Ok(resolver) => resolver.base_uri(),
                Err(e) => {
                    let text = format!("$id is no URI: {e}; write one like order.json");
                    self.problems.push(&join(&self.place(&place), "$id"), text);
                    return;
                }
            }
        } else {
            Arc::clone(&open.base)
        };
        if let Some(target) = self.reach(value, &base, draft, place)
            && let Some(slot) = slot
            && let Some(node) = self.graph.node_mut(open.id)
        {
            let key = key.unwrap_or_default().to_owned();
            node.edges.push(Edge { slot, key, target });
        }
    }

    /// Follows a reference.
    fn refer(&mut self, open: &Open<'r>, slot: Slot, reference: &str) {
        match self.follow(open, reference) {
            Ok(target) => {
                let edge = target.map(|target| Edge { slot, key: String::new(), target });
                if let Some(node) = self.graph.node_mut(open.id) {
                    node.edges.extend(edge);
                }
            }
            Err(text) => {
                let place = self.graph.place_of(open.id, slot.keyword());
                self.problems.push(&place, text);
            }
        }
    }

    /// The sub-schema that a reference leads to; `None` when there are too many.
    fn follow(&mut self, open: &Open<'r>, reference: &str) -> Result<Option<NodeId>, String> {
        let resolver = self.registry.resolver((*open.base).clone());
        let elsewhere = || {
            format!(
                "{reference:?} is neither within the schema nor one of its references; nothing is \
                 fetched: register that schema and add a reference of this name"
            )
        };
        let nowhere =
            || format!("{reference:?} leads to nothing; correct it, or define what it should name");
        let document = reference.split('#').next().unwrap_or_default();
        let whole = resolver.lookup(document).map_err(|_| elsewhere())?;
        if !self.addresses.contains(&address(whole.contents())) {
            return Err(elsewhere());
        }
        let found = resolver.lookup(reference).map_err(|_| nowhere())?;
        let (value, resolver, draft) = found.into_inner();
        let base = resolver.base_uri();
        let place = self.place_of_target(open, reference);
        Ok(self.reach(value, &base, draft, place))
    }

    /// The place of what a reference leads to, if that was reached in no other way.
    fn place_of_target(&self, open: &Open<'r>, reference: &str) -> Place {
        let absolute = uri::resolve_against(&open.base.borrow(), reference);
        let text = absolute.map_or_else(|_| reference.to_owned(), |uri| uri.as_str().to_owned());
        let fragment = text.split_once('#').map_or("", |(_, fragment)| fragment);
        if reference.starts_with('#') && fragment.starts_with('/') {
            let document = self.document_prefix(open.id);
            return Place::Document(format!("{document}{fragment}"));
        }
        Place::Document(text)
    }

    fn document_prefix(&self, id: NodeId) -> String {
        let mut at = id;
        loop {
            match &self.graph.node(at).place {
                Place::Document(prefix) => return prefix.clone(),
                Place::Below(parent, _) => at = *parent,
            }
        }
    }

    fn place(&self, place: &Place) -> String {
        match place {
            Place::Document(prefix) => prefix.clone(),
            Place::Below(parent, segment) => self.graph.place(*parent) + segment,
        }
    }

    /// Brings the parts of all sub-schemas in order.
    fn sort(&mut self) {
        for id in self.graph.ids() {
            if let Some(node) = self.graph.node_mut(id) {
                node.sort();
            }
        }
    }

    /// A `$dynamicRef` may lead to every `$dynamicAnchor` of that name: which one depends on the
    /// way to it, so that all count.
    fn link_dynamic_references(&mut self) {
        let mut anchors: HashMap<String, Vec<NodeId>> = HashMap::new();
        for id in self.graph.ids() {
            if let Some(anchor) = &self.graph.node(id).dynamic_anchor {
                anchors.entry(anchor.clone()).or_default().push(id);
            }
        }
        for id in self.graph.ids() {
            let Some(first) = self.graph.node(id).one(Slot::DynamicRef) else { continue };
            self.graph.is_dynamic = true;
            let Some(anchor) = self.graph.node(first).dynamic_anchor.clone() else { continue };
            let targets = anchors.get(&anchor).into_iter().flatten().filter(|id| **id != first);
            let slot = Slot::DynamicRef;
            let edges: Vec<Edge> =
                targets.map(|target| Edge { slot, key: String::new(), target: *target }).collect();
            if let Some(node) = self.graph.node_mut(id) {
                node.edges.extend(edges);
            }
        }
    }
}

/// What the members of a schema assert by plain values.
fn own_assertions(draft: Draft, members: &Map<String, Value>) -> Map<String, Value> {
    let mut own = Map::new();
    for (keyword, value) in members.iter().filter(|(keyword, _)| asserts(draft, keyword)) {
        own.insert(keyword.clone(), value.clone());
    }
    let Some(Value::Object(dependencies)) = members.get("dependencies") else { return own };
    let Value::Object(required) =
        own.entry("dependentRequired").or_insert_with(|| Value::Object(Map::new()))
    else {
        return own;
    };
    for (key, value) in dependencies {
        let Value::Array(names) = value else { continue };
        match required.entry(key.clone()).or_insert_with(|| Value::Array(Vec::new())) {
            Value::Array(list) => list.extend(names.iter().cloned()),
            other => *other = value.clone(),
        }
    }
    own
}
