//! Proofs about objects: which members there may be, and what they are.

use std::collections::BTreeSet;

use super::facts::Facts;
use super::prove::{Known, Part};
use super::types::Types;
use super::{At, Compare};
use crate::schema::json::graph::NodeId;
use crate::schema::json::keywords::Slot;

/// Members of which nothing is known but what their names do not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class<'n> {
    /// Those that match this pattern and are not listed.
    Matching(&'n str),
    /// Those that are neither listed nor match any pattern of the sub-schema to be proved.
    Rest,
}

/// What the facts say about the members of a class.
pub(super) struct Members {
    /// What holds for each.
    always: Facts,
    /// Of each list one holds, if it is not `None`, which says nothing.
    cases: Vec<Vec<Option<At>>>,
}

impl Compare<'_> {
    /// Whether `unevaluatedProperties` of a sub-schema says the same as `additionalProperties`:
    /// nothing else in it can have looked at a member.
    pub(super) fn evaluates_alone(&self, at: At) -> bool {
        !self.node(at).edges.iter().any(|edge| edge.slot.is_in_place())
    }

    /// The sub-schema for the members that are neither listed nor match a pattern.
    pub(super) fn additional(&self, at: At) -> Option<At> {
        let additional = self.part(at, Slot::AdditionalProperties);
        if additional.is_some() || !self.evaluates_alone(at) {
            return additional;
        }
        self.part(at, Slot::UnevaluatedProperties)
    }

    /// The sub-schemas of `at` that apply to the member of this name.
    pub(super) fn for_name(&mut self, at: At, name: &str) -> Vec<At> {
        let node = self.node(at);
        let mut ids: Vec<NodeId> = node.named(Slot::Property, name).into_iter().collect();
        let patterns = node.all(Slot::PatternProperty);
        let looks = patterns.len();
        for edge in patterns {
            if self.graph(at.side).matches(&edge.key, name) == Some(true) {
                ids.push(edge.target);
            }
        }
        let mut found: Vec<At> = ids.into_iter().map(|id| At { side: at.side, id }).collect();
        if found.is_empty() {
            found.extend(self.additional(at));
        }
        // A look at a pattern is much less than a question.
        self.step(looks / 8);
        found
    }

    /// What the facts say about the member of this name.
    pub(super) fn facts_for_name(&mut self, known: &Known<'_>, name: &str) -> Facts {
        let mut found = Vec::new();
        for at in &known.conjuncts {
            found.extend(self.for_name(*at, name));
        }
        Facts::of(found)
    }

    /// The names that the sub-schemas list.
    pub(super) fn names(&self, sub_schemas: &[At]) -> BTreeSet<String> {
        let nodes = sub_schemas.iter().map(|at| self.node(*at));
        nodes.flat_map(|node| node.all(Slot::Property)).map(|edge| edge.key.clone()).collect()
    }

    /// The names that the facts require.
    pub(super) fn required(&self, known: &Known<'_>) -> BTreeSet<String> {
        let nodes = known.conjuncts.iter().map(|at| self.node(*at));
        nodes.flat_map(|node| node.strings("required")).map(str::to_owned).collect()
    }

    /// The names of all members that there may be; `None` if others are possible.
    pub(super) fn closed(&self, known: &Known<'_>) -> Option<BTreeSet<String>> {
        let lists = known.conjuncts.iter().filter_map(|at| {
            let shut = self.additional(*at).is_some_and(|rest| self.node(rest).is_false);
            let patterns = self.node(*at).all(Slot::PatternProperty);
            (shut && patterns.is_empty()).then(|| self.names(&[*at]))
        });
        lists.min_by_key(BTreeSet::len)
    }

    pub(super) fn proved_object(&mut self, known: &Known<'_>, at: At, part: Part) -> bool {
        match part {
            Part::MinProperties => {
                let wanted = self.node(at).natural("minProperties").unwrap_or(0);
                let required = self.required(known).len() as u64;
                let given = self.largest(&known.conjuncts, "minProperties").unwrap_or(0);
                wanted <= required.max(given)
            }
            Part::MaxProperties => {
                let wanted = self.node(at).natural("maxProperties").unwrap_or(u64::MAX);
                let given = self.smallest(&known.conjuncts, "maxProperties");
                let closed = self.closed(known).map(|names| names.len() as u64);
                given.into_iter().chain(closed).any(|most| most <= wanted)
            }
            Part::Required => {
                let given = self.required(known);
                self.node(at).strings("required").all(|name| given.contains(name))
            }
            Part::DependentRequired => self.proved_dependent_required(known, at),
            Part::Dependent => self.proved_dependent(known, at),
            Part::Members => self.proved_members(known, at),
            // Where it stands alone it counts as `additionalProperties`.
            Part::UnevaluatedProperties => {
                let trivial = self
                    .part(at, Slot::UnevaluatedProperties)
                    .is_none_or(|rest| self.included(&Facts::of([]), rest));
                trivial || (self.evaluates_alone(at) && self.proved_members(known, at))
            }
            _ => self.proved_names(known, at),
        }
    }

    fn proved_dependent_required(&mut self, known: &Known<'_>, at: At) -> bool {
        let Some(wanted) = self.node(at).own.get("dependentRequired").and_then(|v| v.as_object())
        else {
            return true;
        };
        let wanted = wanted.clone();
        let required = self.required(known);
        wanted.iter().all(|(trigger, names)| {
            let names = names.as_array().into_iter().flatten().filter_map(|name| name.as_str());
            let mut missing = names.filter(|name| {
                *name != trigger
                    && !required.contains(*name)
                    && !known.conjuncts.iter().any(|fact| self.depends(*fact, trigger, name))
            });
            let holds = missing.next().is_none();
            holds || self.never(known, trigger)
        })
    }

    /// Whether a sub-schema has `dependentRequired` of one name on another.
    fn depends(&self, at: At, trigger: &str, name: &str) -> bool {
        let own = &self.node(at).own;
        let list = own.get("dependentRequired").and_then(|all| all.get(trigger)?.as_array());
        list.is_some_and(|list| list.iter().any(|known| known.as_str() == Some(name)))
    }

    /// Whether there can be no member of this name.
    fn never(&mut self, known: &Known<'_>, name: &str) -> bool {
        let facts = self.facts_for_name(known, name);
        self.empty_within(&facts)
    }

    fn proved_dependent(&mut self, known: &Known<'_>, at: At) -> bool {
        let edges = self.node(at).all(Slot::Dependent).to_vec();
        edges.iter().all(|edge| {
            let mut facts = known.facts.clone();
            for fact in &known.conjuncts {
                if let Some(id) = self.node(*fact).named(Slot::Dependent, &edge.key) {
                    facts = facts.with(At { side: fact.side, id });
                }
            }
            self.included(&facts, At { side: at.side, id: edge.target })
                || self.never(known, &edge.key)
        })
    }

    /// `properties`, `patternProperties` and `additionalProperties` of a sub-schema.
    fn proved_members(&mut self, known: &Known<'_>, at: At) -> bool {
        let mut both = known.conjuncts.clone();
        both.push(at);
        for name in self.names(&both) {
            let targets = self.for_name(at, &name);
            if targets.is_empty() {
                continue;
            }
            let facts = self.facts_for_name(known, &name);
            if !targets.into_iter().all(|target| self.included_within(&facts, target)) {
                return false;
            }
        }
        self.classes(at).into_iter().all(|(pattern, target)| {
            let class = pattern.as_deref().map_or(Class::Rest, Class::Matching);
            self.proved_class(known, at, class, target)
        })
    }

    /// The members that a sub-schema speaks of without listing them: those that match a pattern, and
    /// all the rest.
    pub(super) fn classes(&self, at: At) -> Vec<(Option<String>, At)> {
        let patterns = self.node(at).all(Slot::PatternProperty).iter();
        let mut classes: Vec<(Option<String>, At)> = patterns
            .map(|edge| (Some(edge.key.clone()), At { side: at.side, id: edge.target }))
            .collect();
        classes.extend(self.additional(at).map(|rest| (None, rest)));
        classes
    }

    pub(super) fn proved_class(
        &mut self,
        known: &Known<'_>,
        at: At,
        class: Class<'_>,
        target: At,
    ) -> bool {
        // With no members beyond the listed ones, which were looked at, there is nothing to prove.
        if self.closed(known).is_some() {
            return true;
        }
        let members = self.facts_for_class(known, at, class);
        if self.included_within(&members.always, target) {
            return true;
        }
        members.cases.iter().any(|cases| {
            cases.iter().all(|case| match case {
                Some(case) => self.included_within(&members.always.with(*case), target),
                None => false,
            })
        })
    }

    /// What the facts say about the members of a class. A sub-schema without patterns says the same
    /// about all of them; one with patterns says one thing or another, unless the class settles it.
    pub(super) fn facts_for_class(&self, known: &Known<'_>, at: At, class: Class<'_>) -> Members {
        let mut members = Members { always: Facts::of([]), cases: Vec::new() };
        for fact in &known.conjuncts {
            let node = self.node(*fact);
            let side = fact.side;
            let mut cases: Vec<Option<At>> = Vec::new();
            let mut settled = false;
            for edge in node.all(Slot::PatternProperty) {
                let says = At { side, id: edge.target };
                match class {
                    Class::Matching(pattern) if pattern == edge.key => {
                        members.always = members.always.with(says);
                        settled = true;
                    }
                    // Members of the rest do not match the same pattern on the other side.
                    Class::Rest
                        if self.node(at).named(Slot::PatternProperty, &edge.key).is_some() => {}
                    _ => cases.push(Some(says)),
                }
            }
            if settled {
                continue;
            }
            let rest = self.additional(*fact);
            if cases.is_empty() {
                if let Some(rest) = rest {
                    members.always = members.always.with(rest);
                }
            } else {
                cases.push(rest);
                members.cases.push(cases);
            }
        }
        members
    }

    fn proved_names(&mut self, known: &Known<'_>, at: At) -> bool {
        let Some(wanted) = self.part(at, Slot::PropertyNames) else { return true };
        let given = known.conjuncts.iter().filter_map(|fact| self.part(*fact, Slot::PropertyNames));
        let facts = Facts::of(given.collect::<Vec<_>>()).with_types(Types::STRING);
        if self.included_within(&facts, wanted) {
            return true;
        }
        let Some(names) = self.closed(known) else { return false };
        names.into_iter().all(|name| {
            let value = serde_json::Value::String(name.clone());
            self.admits(wanted, &value) == Some(true) || self.never(known, &name)
        })
    }

    /// Whether no object satisfies the facts.
    pub(super) fn impossible_object(&mut self, known: &Known<'_>) -> bool {
        let required = self.required(known);
        let fewest = self.largest(&known.conjuncts, "minProperties").unwrap_or(0);
        let fewest = fewest.max(required.len() as u64);
        let most = self.smallest(&known.conjuncts, "maxProperties");
        let closed = self.closed(known).map(|names| names.len() as u64);
        if most.into_iter().chain(closed).any(|most| most < fewest) {
            return true;
        }
        required.iter().any(|name| self.never(known, name))
    }
}
