//! What is known of a value: the sub-schemas that it satisfies, taken together.

use serde_json::Value;

use super::number::{Limit, Num};
use super::types::Types;
use super::{At, Compare};
use crate::schema::json::keywords::Slot;

/// A conjunction of sub-schemas.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Facts {
    /// The sub-schemas, in order.
    pub(super) schemas: Vec<At>,
    /// The types that are considered, in this case.
    pub(super) types: Types,
    /// The alternatives that were taken apart on the way to this case, in order.
    pub(super) split: Vec<(At, Slot)>,
}

/// Alternatives of the facts that one proof takes apart within one another.
const SPLITS_MAX: usize = 2;

/// Sub-schemas that a conjunction may be expanded to; further ones are not used as facts.
const CONJUNCTS_MAX: usize = 256;

impl Facts {
    /// What satisfies all of these.
    pub(super) fn of(schemas: impl IntoIterator<Item = At>) -> Self {
        let mut facts = Self { schemas: Vec::new(), types: Types::ALL, split: Vec::new() };
        for schema in schemas {
            facts.add(schema);
        }
        facts
    }

    fn add(&mut self, schema: At) {
        if let Err(at) = self.schemas.binary_search(&schema) {
            self.schemas.insert(at, schema);
        }
    }

    /// And this too.
    pub(super) fn with(&self, schema: At) -> Self {
        let mut facts = self.clone();
        facts.add(schema);
        facts
    }

    /// The case of some of the types.
    pub(super) fn with_types(&self, types: Types) -> Self {
        Self { types: self.types.and(types), ..self.clone() }
    }

    /// The case of one of the alternatives of a sub-schema.
    pub(super) fn with_branch(&self, of: (At, Slot), branch: At) -> Self {
        let mut facts = self.with(branch);
        if let Err(at) = facts.split.binary_search(&of) {
            facts.split.insert(at, of);
        }
        facts
    }
}

impl Compare<'_> {
    /// All sub-schemas that a value satisfies if it satisfies the facts: those, and what they refer
    /// to or combine by `allOf`.
    pub(super) fn conjuncts(&self, facts: &Facts) -> Vec<At> {
        let mut conjuncts: Vec<At> = Vec::new();
        let mut open: Vec<At> = facts.schemas.iter().rev().copied().collect();
        while let Some(at) = open.pop() {
            if conjuncts.len() >= CONJUNCTS_MAX || conjuncts.contains(&at) {
                continue;
            }
            conjuncts.push(at);
            let node = self.node(at);
            for slot in [Slot::AllOf, Slot::Ref] {
                let targets = node.all(slot).iter().rev();
                open.extend(targets.map(|edge| At { side: at.side, id: edge.target }));
            }
        }
        conjuncts
    }

    /// The sub-schemas that `at` has in a role.
    pub(super) fn parts(&self, at: At, slot: Slot) -> Vec<At> {
        let edges = self.node(at).all(slot).iter();
        edges.map(|edge| At { side: at.side, id: edge.target }).collect()
    }

    /// The sub-schema that `at` has in a role that has only one.
    pub(super) fn part(&self, at: At, slot: Slot) -> Option<At> {
        self.node(at).one(slot).map(|id| At { side: at.side, id })
    }

    /// The types that the facts leave.
    pub(super) fn types(&mut self, facts: &Facts, conjuncts: &[At]) -> Types {
        conjuncts.iter().fold(facts.types, |types, at| types.and(self.types_of(*at)))
    }

    /// The types that a sub-schema leaves, found in at most so many looks.
    pub(super) fn types_within(&self, at: At, looks: &mut usize) -> Types {
        let node = self.node(at);
        if node.is_false {
            return Types::NONE;
        }
        if *looks == 0 {
            return Types::ALL;
        }
        *looks -= 1;
        let mut types = Types::of_keyword(node.own.get("type"));
        if let Some(values) = listed(node.own.get("enum"), node.own.get("const")) {
            let listed = values.iter().map(|value| Types::of_value(value));
            types = types.and(listed.fold(Types::NONE, Types::or));
        }
        for slot in [Slot::Ref, Slot::AllOf] {
            for part in self.parts(at, slot) {
                types = types.and(self.types_within(part, looks));
            }
        }
        for slot in [Slot::AnyOf, Slot::OneOf] {
            let parts = self.parts(at, slot);
            if !parts.is_empty() {
                let each = parts.iter().map(|part| self.types_within(*part, looks));
                types = types.and(each.fold(Types::NONE, Types::or));
            }
        }
        if let Some(not) = self.part(at, Slot::Not) {
            let refused = self.node(not);
            if refused.edges.is_empty() && !refused.is_false && refused.own.len() <= 1 {
                let only_type = refused.own.get("type");
                if only_type.is_some() || refused.own.is_empty() {
                    types = types.without(Types::of_keyword(only_type));
                }
            }
        }
        types
    }

    /// The bound from below that the facts set, the strictest; rounded up when only whole numbers
    /// are left.
    pub(super) fn above(&self, conjuncts: &[At], types: Types) -> Option<Limit> {
        let limits = conjuncts.iter().flat_map(|at| {
            let own = &self.node(*at).own;
            let inclusive = Num::under(own, "minimum").map(|at| Limit { at, exclusive: false });
            let exclusive =
                Num::under(own, "exclusiveMinimum").map(|at| Limit { at, exclusive: true });
            [inclusive, exclusive]
        });
        let limit = limits.flatten().reduce(Limit::higher)?;
        Some(if types.meets(Types::FRACTION) { limit } else { limit.whole_above() })
    }

    /// The bound from above, likewise.
    pub(super) fn below(&self, conjuncts: &[At], types: Types) -> Option<Limit> {
        let limits = conjuncts.iter().flat_map(|at| {
            let own = &self.node(*at).own;
            let inclusive = Num::under(own, "maximum").map(|at| Limit { at, exclusive: false });
            let exclusive =
                Num::under(own, "exclusiveMaximum").map(|at| Limit { at, exclusive: true });
            [inclusive, exclusive]
        });
        let limit = limits.flatten().reduce(Limit::lower)?;
        Some(if types.meets(Types::FRACTION) { limit } else { limit.whole_below() })
    }

    /// The largest of the counts that the facts have under a keyword.
    pub(super) fn largest(&self, conjuncts: &[At], keyword: &str) -> Option<u64> {
        conjuncts.iter().filter_map(|at| self.node(*at).natural(keyword)).max()
    }

    /// The smallest of the counts that the facts have under a keyword.
    pub(super) fn smallest(&self, conjuncts: &[At], keyword: &str) -> Option<u64> {
        conjuncts.iter().filter_map(|at| self.node(*at).natural(keyword)).min()
    }

    /// The values to which the facts confine the value; `None` when they are not listed.
    pub(super) fn confined(&self, conjuncts: &[At], types: Types) -> Option<Vec<Value>> {
        let lists = conjuncts.iter().filter_map(|at| {
            let own = &self.node(*at).own;
            listed(own.get("enum"), own.get("const"))
        });
        if let Some(shortest) = lists.min_by_key(Vec::len) {
            let values = shortest.into_iter().filter(|v| Types::of_value(v).within(types));
            return Some(values.cloned().collect());
        }
        if !types.within(Types::NULL.or(Types::BOOLEAN)) {
            return None;
        }
        let all = [Value::Null, Value::Bool(false), Value::Bool(true)];
        Some(all.into_iter().filter(|value| Types::of_value(value).within(types)).collect())
    }

    /// The alternatives among the facts that were not taken apart yet; none once enough were.
    pub(super) fn alternatives(&self, facts: &Facts, conjuncts: &[At]) -> Vec<(At, Slot)> {
        let mut found = Vec::new();
        if facts.split.len() >= SPLITS_MAX {
            return found;
        }
        for at in conjuncts {
            for slot in [Slot::AnyOf, Slot::OneOf] {
                let is_there = !self.node(*at).all(slot).is_empty();
                if is_there && facts.split.binary_search(&(*at, slot)).is_err() {
                    found.push((*at, slot));
                }
            }
        }
        found
    }
}

/// The values that `const`, else `enum` lists.
fn listed<'v>(list: Option<&'v Value>, constant: Option<&'v Value>) -> Option<Vec<&'v Value>> {
    if let Some(constant) = constant {
        return Some(vec![constant]);
    }
    list.and_then(Value::as_array).map(|values| values.iter().collect())
}
