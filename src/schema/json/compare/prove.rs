//! The proofs, keyword by keyword.

use serde_json::Value;

use super::facts::Facts;
use super::number::Num;
use super::types::Types;
use super::{At, Compare};
use crate::schema::json::keywords::Slot;

/// A group of keywords that is proved by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    False,
    Type,
    Enum,
    Const,
    Above,
    Below,
    MultipleOf,
    MinLength,
    MaxLength,
    Pattern,
    MinItems,
    MaxItems,
    UniqueItems,
    Elements,
    UnevaluatedItems,
    Contains,
    MinProperties,
    MaxProperties,
    Required,
    DependentRequired,
    Dependent,
    Members,
    UnevaluatedProperties,
    PropertyNames,
    Ref,
    DynamicRef,
    AllOf,
    AnyOf,
    OneOf,
    Not,
    Condition,
}

/// The groups of the keywords with plain values.
const OWN: [(&str, Part); 18] = [
    ("type", Part::Type),
    ("enum", Part::Enum),
    ("const", Part::Const),
    ("minimum", Part::Above),
    ("exclusiveMinimum", Part::Above),
    ("maximum", Part::Below),
    ("exclusiveMaximum", Part::Below),
    ("multipleOf", Part::MultipleOf),
    ("minLength", Part::MinLength),
    ("maxLength", Part::MaxLength),
    ("pattern", Part::Pattern),
    ("minItems", Part::MinItems),
    ("maxItems", Part::MaxItems),
    ("uniqueItems", Part::UniqueItems),
    ("minProperties", Part::MinProperties),
    ("maxProperties", Part::MaxProperties),
    ("required", Part::Required),
    ("dependentRequired", Part::DependentRequired),
];

/// The groups of the keywords with sub-schemas.
const SLOTS: [(Slot, Part); 17] = [
    (Slot::PrefixItem, Part::Elements),
    (Slot::Items, Part::Elements),
    (Slot::UnevaluatedItems, Part::UnevaluatedItems),
    (Slot::Contains, Part::Contains),
    (Slot::Property, Part::Members),
    (Slot::PatternProperty, Part::Members),
    (Slot::AdditionalProperties, Part::Members),
    (Slot::UnevaluatedProperties, Part::UnevaluatedProperties),
    (Slot::PropertyNames, Part::PropertyNames),
    (Slot::Ref, Part::Ref),
    (Slot::DynamicRef, Part::DynamicRef),
    (Slot::AllOf, Part::AllOf),
    (Slot::AnyOf, Part::AnyOf),
    (Slot::OneOf, Part::OneOf),
    (Slot::Dependent, Part::Dependent),
    (Slot::Not, Part::Not),
    (Slot::If, Part::Condition),
];

/// What is known of the value while one sub-schema is proved.
pub(super) struct Known<'f> {
    pub(super) facts: &'f Facts,
    pub(super) conjuncts: Vec<At>,
    pub(super) types: Types,
}

impl Compare<'_> {
    /// Takes the facts apart.
    pub(super) fn know<'f>(&mut self, facts: &'f Facts) -> Known<'f> {
        let conjuncts = self.conjuncts(facts);
        self.step(conjuncts.len());
        let types = self.types(facts, &conjuncts);
        Known { facts, conjuncts, types }
    }

    /// The groups of keywords that a sub-schema has.
    pub(super) fn parts_of(&self, at: At) -> Vec<Part> {
        let node = self.node(at);
        if node.is_false {
            return vec![Part::False];
        }
        let own = OWN.iter().filter(|(keyword, _)| node.own.contains_key(*keyword));
        let slots = SLOTS.iter().filter(|(slot, _)| !node.all(*slot).is_empty());
        let mut parts: Vec<Part> = own.map(|(_, part)| *part).collect();
        parts.extend(slots.map(|(_, part)| *part));
        parts.dedup();
        parts
    }

    /// The proof of [`super::Question::Included`].
    pub(super) fn prove_included(&mut self, facts: &Facts, at: At) -> bool {
        if facts.schemas.contains(&at) {
            return true;
        }
        let known = self.know(facts);
        if known.conjuncts.contains(&at)
            || known.conjuncts.clone().into_iter().any(|fact| self.same(fact, at))
            || self.empty(facts)
        {
            return true;
        }
        self.parts_of(at).into_iter().all(|part| self.proved(&known, at, part))
    }

    /// Whether one group of keywords holds: directly, or for each listed value, or in each case.
    pub(super) fn proved(&mut self, known: &Known<'_>, at: At, part: Part) -> bool {
        if !self.step(1) {
            return false;
        }
        if self.proved_directly(known, at, part) || self.proved_by_values(known, at, part) {
            return true;
        }
        let apart = matches!(part, Part::AnyOf | Part::OneOf | Part::Condition | Part::Enum);
        let kinds: Vec<Types> =
            Types::KINDS.into_iter().filter(|kind| kind.meets(known.types)).collect();
        if apart && kinds.len() > 1 {
            let proved = kinds.into_iter().all(|kind| {
                let facts = known.facts.with_types(kind);
                self.proved_in_case(&facts, at, part)
            });
            if proved {
                return true;
            }
        }
        let alternatives = self.alternatives(known.facts, &known.conjuncts);
        alternatives.into_iter().any(|(of, slot)| {
            self.parts(of, slot).into_iter().all(|branch| {
                let facts = known.facts.with_branch((of, slot), branch);
                self.proved_in_case(&facts, at, part)
            })
        })
    }

    fn proved_in_case(&mut self, facts: &Facts, at: At, part: Part) -> bool {
        if self.empty(facts) {
            return true;
        }
        let known = self.know(facts);
        self.proved(&known, at, part)
    }

    fn proved_by_values(&mut self, known: &Known<'_>, at: At, part: Part) -> bool {
        let Some(values) = self.confined(&known.conjuncts, known.types) else { return false };
        values.iter().all(|value| {
            self.part_admits(at, part, value) == Some(true) || self.refused(known, value)
        })
    }

    /// Whether the facts surely refuse a value.
    pub(super) fn refused(&mut self, known: &Known<'_>, value: &Value) -> bool {
        known.conjuncts.iter().any(|fact| self.admits(*fact, value) == Some(false))
    }

    fn proved_directly(&mut self, known: &Known<'_>, at: At, part: Part) -> bool {
        match part {
            Part::False => false,
            Part::Type => known.types.within(Types::of_keyword(self.node(at).own.get("type"))),
            // Only listed values prove these.
            Part::Enum | Part::Const => false,
            Part::Above | Part::Below | Part::MultipleOf => {
                !known.types.meets(Types::NUMBER) || self.proved_number(known, at, part)
            }
            Part::MinLength | Part::MaxLength | Part::Pattern => {
                !known.types.meets(Types::STRING) || self.proved_string(known, at, part)
            }
            Part::MinItems
            | Part::MaxItems
            | Part::UniqueItems
            | Part::Elements
            | Part::UnevaluatedItems
            | Part::Contains => {
                !known.types.meets(Types::ARRAY) || self.proved_array(known, at, part)
            }
            Part::MinProperties
            | Part::MaxProperties
            | Part::Required
            | Part::DependentRequired
            | Part::Dependent
            | Part::Members
            | Part::UnevaluatedProperties
            | Part::PropertyNames => {
                !known.types.meets(Types::OBJECT) || self.proved_object(known, at, part)
            }
            // `same` has found out before what can be known of it.
            Part::DynamicRef => false,
            Part::Ref => self.all_included(known.facts, &self.parts(at, Slot::Ref)),
            Part::AllOf => self.all_included(known.facts, &self.parts(at, Slot::AllOf)),
            Part::AnyOf => {
                let branches = self.parts(at, Slot::AnyOf);
                branches.into_iter().any(|branch| self.included(known.facts, branch))
            }
            Part::OneOf => self.proved_one_of(known.facts, &self.parts(at, Slot::OneOf)),
            Part::Not => self.proved_not(known, at),
            Part::Condition => self.proved_condition(known, at),
        }
    }

    fn all_included(&mut self, facts: &Facts, targets: &[At]) -> bool {
        targets.iter().all(|target| self.included(facts, *target))
    }

    fn proved_number(&mut self, known: &Known<'_>, at: At, part: Part) -> bool {
        let alone = [at];
        match part {
            Part::Above => {
                let wanted = self.above(&alone, known.types);
                let given = self.above(&known.conjuncts, known.types);
                wanted.is_none_or(|wanted| given.is_some_and(|given| given.implies_above(wanted)))
            }
            Part::Below => {
                let wanted = self.below(&alone, known.types);
                let given = self.below(&known.conjuncts, known.types);
                wanted.is_none_or(|wanted| given.is_some_and(|given| given.implies_below(wanted)))
            }
            _ => {
                let Some(wanted) = Num::under(&self.node(at).own, "multipleOf") else {
                    return true;
                };
                let whole = !known.types.meets(Types::FRACTION);
                let given = known.conjuncts.iter();
                let given = given.filter_map(|at| Num::under(&self.node(*at).own, "multipleOf"));
                given.chain(whole.then_some(Num::Int(1))).any(|given| given.is_multiple_of(wanted))
            }
        }
    }

    fn proved_string(&mut self, known: &Known<'_>, at: At, part: Part) -> bool {
        let node = self.node(at);
        match part {
            Part::MinLength => {
                let wanted = node.natural("minLength").unwrap_or(0);
                wanted == 0 || self.largest(&known.conjuncts, "minLength") >= Some(wanted)
            }
            Part::MaxLength => {
                let wanted = node.natural("maxLength").unwrap_or(u64::MAX);
                self.smallest(&known.conjuncts, "maxLength").is_some_and(|most| most <= wanted)
            }
            _ => {
                let wanted = node.own.get("pattern");
                known.conjuncts.iter().any(|fact| self.node(*fact).own.get("pattern") == wanted)
            }
        }
    }

    /// Exactly one holds if one surely does and none of the others can.
    fn proved_one_of(&mut self, facts: &Facts, branches: &[At]) -> bool {
        branches.iter().enumerate().any(|(index, branch)| {
            self.included(facts, *branch)
                && branches
                    .iter()
                    .enumerate()
                    .all(|(other, refused)| other == index || self.empty(&facts.with(*refused)))
        })
    }

    /// Nothing that the facts leave satisfies it; or it is within what they refuse already.
    fn proved_not(&mut self, known: &Known<'_>, at: At) -> bool {
        let Some(wanted) = self.part(at, Slot::Not) else { return true };
        if self.empty(&known.facts.with(wanted)) {
            return true;
        }
        known.conjuncts.iter().any(|fact| {
            let given = self.part(*fact, Slot::Not);
            given.is_some_and(|given| self.included(&Facts::of([wanted]), given))
        })
    }

    /// Of `if`, `then` and `else`. Facts with the same `if` have their say in the same case.
    fn proved_condition(&mut self, known: &Known<'_>, at: At) -> bool {
        let Some(condition) = self.part(at, Slot::If) else { return true };
        let mut when = known.facts.with(condition);
        let mut otherwise = known.facts.clone();
        for fact in &known.conjuncts {
            let Some(given) = self.part(*fact, Slot::If) else { continue };
            if self.same(given, condition) {
                if let Some(then) = self.part(*fact, Slot::Then) {
                    when = when.with(then);
                }
                if let Some(other) = self.part(*fact, Slot::Else) {
                    otherwise = otherwise.with(other);
                }
            }
        }
        let then = self.part(at, Slot::Then).is_none_or(|then| self.included(&when, then));
        then && self.part(at, Slot::Else).is_none_or(|other| {
            self.included(&otherwise, other) || self.included(known.facts, condition)
        })
    }

    /// The proof of [`super::Question::Empty`].
    pub(super) fn prove_empty(&mut self, facts: &Facts) -> bool {
        let known = self.know(facts);
        if known.conjuncts.iter().any(|at| self.node(*at).is_false) || known.types.is_none() {
            return true;
        }
        if let Some(values) = self.confined(&known.conjuncts, known.types) {
            return values.iter().all(|value| self.refused(&known, value));
        }
        let kinds = Types::KINDS.into_iter().filter(|kind| kind.meets(known.types));
        if kinds.into_iter().all(|kind| self.impossible(&known, kind)) {
            return true;
        }
        let refuted = known
            .conjuncts
            .iter()
            .any(|fact| self.part(*fact, Slot::Not).is_some_and(|not| self.included(facts, not)));
        let alternatives = self.alternatives(facts, &known.conjuncts);
        refuted
            || alternatives.into_iter().any(|(of, slot)| {
                self.parts(of, slot).into_iter().all(|branch| {
                    let facts = facts.with_branch((of, slot), branch);
                    self.empty(&facts)
                })
            })
    }

    /// Whether the facts leave no value of a kind.
    fn impossible(&mut self, known: &Known<'_>, kind: Types) -> bool {
        let conjuncts = &known.conjuncts;
        if kind == Types::STRING {
            let most = self.smallest(conjuncts, "maxLength");
            most.is_some_and(|most| self.largest(conjuncts, "minLength") > Some(most))
        } else if kind == Types::NUMBER {
            let above = self.above(conjuncts, known.types);
            let below = self.below(conjuncts, known.types);
            match (above, below) {
                (Some(above), Some(below)) => {
                    above.admits_above(below.at) == Some(false)
                        || below.admits_below(above.at) == Some(false)
                }
                _ => false,
            }
        } else if kind == Types::ARRAY {
            self.impossible_array(known)
        } else if kind == Types::OBJECT {
            self.impossible_object(known)
        } else {
            false
        }
    }
}
