//! Whether everything that one JSON Schema takes, another takes too.
//!
//! The question is never answered by likeness but by proof: [`Compare::included`] shows that each
//! value which satisfies some sub-schemas ("facts") satisfies another, keyword by keyword, and by
//! cases where the facts offer alternatives. What cannot be shown is an incompatibility; where that
//! does not mean that there is one, its rule is `cannot_prove`.
//!
//! Recursive schemas lead back to questions that are open. Such a question counts as answered if a
//! part of the value was entered in between: that is induction over the size of the value. If not,
//! it counts as failed. What was proved while relying on an open question is forgotten when that
//! question fails.
//!
//! The rule families are those of Confluent's `json-schema-provider` (content models: open, partially
//! open, closed) and of Karapace; where those tolerate a change under which some valid value becomes
//! invalid (a branch added to `oneOf` that overlaps another, a property with a `default` that
//! becomes required), this room does not.

mod array;
mod explain;
mod facts;
mod number;
mod object;
mod prove;
mod same;
mod types;
mod values;

use std::collections::{BTreeMap, BTreeSet};

use self::facts::Facts;
use self::types::Types;
use super::graph::{Graph, Node, NodeId};
use super::keywords::Slot;
use crate::schema::limits::{COMPARE_DEPTH_MAX, SCHEMA_DEPTH_MAX};
use crate::schema::report::Incompatibility;
use crate::schema::steps::Steps;

/// Which of the two schemas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Side {
    Reader,
    Writer,
}

/// A sub-schema of either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct At {
    side: Side,
    id: NodeId,
}

/// Something to be proved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Question {
    /// What satisfies the facts, satisfies the sub-schema.
    Included(Facts, At),
    /// Nothing satisfies the facts.
    Empty(Facts),
}

/// What is known of a question.
#[derive(Clone, Copy, Debug)]
enum Answer {
    Yes,
    No,
    /// It is being answered since the value was entered so many times.
    Open(usize),
}

/// A comparison under way.
struct Compare<'g> {
    reader: &'g Graph,
    writer: &'g Graph,
    answers: BTreeMap<Question, Answer>,
    /// Questions that were answered with yes, in that order.
    proved: Vec<Question>,
    /// How many parts of the value were entered to get here.
    entered: usize,
    /// How many questions are open.
    open: usize,
    /// How many sub-schemas are being explained, within one another.
    explaining: usize,
    steps: usize,
    /// The steps that it may take to prove, and as many again to find the places.
    steps_max: usize,
    found: Vec<Incompatibility>,
    explained: BTreeSet<(Facts, At)>,
    /// The types that sub-schemas allow, as far as they were asked for.
    types: BTreeMap<At, Types>,
    /// Pairs that are known not to be [`Compare::same`].
    differ: BTreeSet<(At, At)>,
    /// What the long lists of `enum` have, as far as they were asked for.
    enums: BTreeMap<At, BTreeSet<String>>,
}

/// Sub-schemas that are looked at to find the types which one allows; the rest allow all.
const TYPE_LOOKS_MAX: usize = 1024;

/// Why readers with the schema `reader` cannot read all that is written with `writer`.
pub(super) fn incompatibilities(
    reader: &Graph,
    writer: &Graph,
    budget: &mut Steps,
) -> Vec<Incompatibility> {
    let mut compare = Compare {
        reader,
        writer,
        answers: BTreeMap::new(),
        proved: Vec::new(),
        entered: 0,
        open: 0,
        explaining: 0,
        steps: 0,
        steps_max: budget.at_once(),
        found: Vec::new(),
        explained: BTreeSet::new(),
        types: BTreeMap::new(),
        differ: BTreeSet::new(),
        enums: BTreeMap::new(),
    };
    let written = At { side: Side::Writer, id: NodeId::ROOT };
    let read = At { side: Side::Reader, id: NodeId::ROOT };
    // The same documents mean the same, dynamic references included.
    if reader.digest == writer.digest {
        return Vec::new();
    }
    let facts = Facts::of([written]);
    let included = compare.included(&facts, read);
    budget.take(compare.steps);
    if included {
        return Vec::new();
    }
    if !compare.exhausted() {
        // To find the places takes as many steps again at most.
        compare.steps = 0;
        compare.explain(&facts, read);
        budget.take(compare.steps);
    }
    compare.conclude()
}

impl Compare<'_> {
    fn node(&self, at: At) -> &Node {
        self.graph(at.side).node(at.id)
    }

    fn graph(&self, side: Side) -> &Graph {
        match side {
            Side::Reader => self.reader,
            Side::Writer => self.writer,
        }
    }

    /// What a sub-schema that only refers to another refers to: so that the same question is asked
    /// by the same words.
    fn followed(&self, mut at: At) -> At {
        for _ in 0..SCHEMA_DEPTH_MAX {
            let node = self.node(at);
            match node.edges.as_slice() {
                [edge] if edge.slot == Slot::Ref && node.own.is_empty() => at.id = edge.target,
                _ => break,
            }
        }
        at
    }

    fn followed_all(&self, facts: &Facts) -> Facts {
        let mut schemas: Vec<At> = facts.schemas.iter().map(|at| self.followed(*at)).collect();
        schemas.sort_unstable();
        schemas.dedup();
        Facts { schemas, ..facts.clone() }
    }

    /// Takes steps; false when they are used up.
    fn step(&mut self, steps: usize) -> bool {
        self.steps = self.steps.saturating_add(steps);
        self.steps <= self.steps_max
    }

    /// Whether every value that satisfies the facts satisfies the sub-schema.
    fn included(&mut self, facts: &Facts, at: At) -> bool {
        let at = self.followed(at);
        let node = self.node(at);
        if !node.is_false && node.own.is_empty() && node.edges.is_empty() {
            return true;
        }
        self.ask(Question::Included(self.followed_all(facts), at))
    }

    /// Whether no value satisfies the facts.
    fn empty(&mut self, facts: &Facts) -> bool {
        if facts.schemas.is_empty() && !facts.types.is_none() {
            return false;
        }
        self.ask(Question::Empty(self.followed_all(facts)))
    }

    /// [`Self::included`] for a part of the value.
    fn included_within(&mut self, facts: &Facts, at: At) -> bool {
        self.entered += 1;
        let included = self.included(facts, at);
        self.entered -= 1;
        included
    }

    /// [`Self::empty`] for a part of the value.
    fn empty_within(&mut self, facts: &Facts) -> bool {
        self.entered += 1;
        let empty = self.empty(facts);
        self.entered -= 1;
        empty
    }

    fn ask(&mut self, question: Question) -> bool {
        match self.answers.get(&question) {
            Some(Answer::Yes) => return true,
            Some(Answer::No) => return false,
            Some(Answer::Open(since)) => return *since < self.entered,
            None => {}
        }
        if self.open >= COMPARE_DEPTH_MAX || !self.step(1) {
            return false;
        }
        self.answers.insert(question.clone(), Answer::Open(self.entered));
        self.open += 1;
        let proved = self.proved.len();
        let answer = match &question {
            Question::Included(facts, at) => self.prove_included(facts, *at),
            Question::Empty(facts) => self.prove_empty(facts),
        };
        self.open -= 1;
        if answer {
            self.answers.insert(question.clone(), Answer::Yes);
            self.proved.push(question);
        } else {
            for forgotten in self.proved.split_off(proved) {
                self.answers.remove(&forgotten);
            }
            self.answers.insert(question, Answer::No);
        }
        answer
    }

    /// Whether the budget is used up, so that what failed may only have been too much.
    fn exhausted(&self) -> bool {
        self.steps > self.steps_max
    }

    /// The types that a sub-schema allows at all.
    fn types_of(&mut self, at: At) -> Types {
        if let Some(types) = self.types.get(&at) {
            return *types;
        }
        let mut looks = TYPE_LOOKS_MAX;
        let types = self.types_within(at, &mut looks);
        self.types.insert(at, types);
        types
    }
}
