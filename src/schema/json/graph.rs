//! A JSON Schema with all its documents as one graph of sub-schemas, references followed.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::{Map, Value};

use super::keywords::Slot;
use crate::schema::report::push_segment;

/// A sub-schema of a [`Graph`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NodeId(u32);

impl NodeId {
    /// The sub-schema that the whole schema is.
    pub(super) const ROOT: Self = Self(0);

    /// Its position.
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A sub-schema within another.
#[derive(Clone, Debug)]
pub(super) struct Edge {
    /// Its role.
    pub(super) slot: Slot,
    /// The property, pattern or position; empty where there is none.
    pub(super) key: String,
    /// The sub-schema.
    pub(super) target: NodeId,
}

/// Where a sub-schema stands.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// It is a document; its places begin so.
    Document(String),
    /// Below another, at these segments of a JSON pointer, escaped.
    Below(NodeId, String),
}

/// A sub-schema.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Where it stands.
    pub(super) place: Place,
    /// It is the schema `false`.
    pub(super) is_false: bool,
    /// What it asserts by plain values: `type`, `minimum` …; lists of names in `dependencies` are
    /// under `dependentRequired`.
    pub(super) own: Map<String, Value>,
    /// The schemas within it that count.
    pub(super) edges: Vec<Edge>,
    /// Its `$dynamicAnchor`.
    pub(super) dynamic_anchor: Option<String>,
}

/// The sub-schemas, and the regular expressions in them.
#[derive(Default)]
pub(super) struct Graph {
    nodes: Vec<Node>,
    /// By their text.
    patterns: BTreeMap<String, Validator>,
    /// Some sub-schema has a `$dynamicRef`.
    pub(super) is_dynamic: bool,
    /// Of all documents: the same for the same schema.
    pub(super) digest: u128,
}

/// What is never reached: ids come from the graph that is asked.
static NOWHERE: LazyLock<Node> = LazyLock::new(|| Node {
    place: Place::Document(String::new()),
    is_false: false,
    own: Map::new(),
    edges: Vec::new(),
    dynamic_anchor: None,
});

impl Graph {
    /// Adds a sub-schema.
    pub(super) fn add(&mut self, node: Node) -> NodeId {
        let id = NodeId(u32::try_from(self.nodes.len()).unwrap_or(u32::MAX));
        self.nodes.push(node);
        id
    }

    /// A sub-schema.
    pub(super) fn node(&self, id: NodeId) -> &Node {
        self.nodes.get(id.index()).unwrap_or(&NOWHERE)
    }

    /// A sub-schema, to be filled.
    pub(super) fn node_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(id.index())
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// All ids.
    pub(super) fn ids(&self) -> impl DoubleEndedIterator<Item = NodeId> + use<> {
        (0..self.nodes.len()).map(|index| NodeId(u32::try_from(index).unwrap_or(u32::MAX)))
    }

    /// Keeps a compiled regular expression.
    pub(super) fn keep_pattern(&mut self, text: &str, matcher: Validator) {
        self.patterns.insert(text.to_owned(), matcher);
    }

    /// Whether the pattern is known already.
    pub(super) fn knows_pattern(&self, text: &str) -> bool {
        self.patterns.contains_key(text)
    }

    /// How many regular expressions there are.
    pub(super) fn patterns(&self) -> usize {
        self.patterns.len()
    }

    /// Whether `subject` matches a pattern of this graph; `None` for any other pattern.
    pub(super) fn matches(&self, pattern: &str, subject: &str) -> Option<bool> {
        let matcher = self.patterns.get(pattern)?;
        Some(matcher.is_valid(&Value::String(subject.to_owned())))
    }

    /// Where a sub-schema stands, as a JSON pointer with the document's prefix.
    pub(super) fn place(&self, id: NodeId) -> String {
        let mut segments = Vec::new();
        let mut at = id;
        let mut place = loop {
            match &self.node(at).place {
                Place::Document(prefix) => break prefix.clone(),
                Place::Below(parent, segment) => {
                    segments.push(segment);
                    at = *parent;
                }
            }
        };
        for segment in segments.iter().rev() {
            place.push_str(segment);
        }
        place
    }

    /// [`Self::place`] with the name of one of its keywords.
    pub(super) fn place_of(&self, id: NodeId, keyword: &str) -> String {
        let mut place = self.place(id);
        push_segment(&mut place, keyword);
        place
    }
}

impl Node {
    /// Brings the sub-schemas in order: by role, and where the key is a name by key.
    pub(super) fn sort(&mut self) {
        self.edges.sort_by(|a, b| {
            let by_key = if a.slot.has_names() { a.key.cmp(&b.key) } else { Ordering::Equal };
            a.slot.cmp(&b.slot).then(by_key)
        });
    }

    /// The sub-schemas in a role, once they are in order.
    pub(super) fn all(&self, slot: Slot) -> &[Edge] {
        let start = self.edges.partition_point(|edge| edge.slot < slot);
        let end = self.edges.partition_point(|edge| edge.slot <= slot);
        self.edges.get(start..end).unwrap_or_default()
    }

    /// The sub-schema in a role that has only one.
    pub(super) fn one(&self, slot: Slot) -> Option<NodeId> {
        self.all(slot).first().map(|edge| edge.target)
    }

    /// The sub-schema under a name.
    pub(super) fn named(&self, slot: Slot, name: &str) -> Option<NodeId> {
        let edges = self.all(slot);
        let at = edges.binary_search_by(|edge| edge.key.as_str().cmp(name)).ok()?;
        edges.get(at).map(|edge| edge.target)
    }

    /// The strings of an array among its plain values.
    pub(super) fn strings(&self, keyword: &str) -> impl Iterator<Item = &str> {
        let list = self.own.get(keyword).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str)
    }

    /// A count among its plain values, such as `minLength`. Larger numbers than `u64` knows are
    /// taken for the largest.
    pub(super) fn natural(&self, keyword: &str) -> Option<u64> {
        let number = self.own.get(keyword)?.as_number()?;
        if let Some(natural) = number.as_u64() {
            return Some(natural);
        }
        let number = number.as_f64()?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the conversion saturates, as described"
        )]
        (number >= 0.0).then_some(number as u64)
    }
}
