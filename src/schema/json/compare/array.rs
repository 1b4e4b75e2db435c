//! Proofs about arrays.

use super::facts::Facts;
use super::prove::{Known, Part};
use super::{At, Compare};
use crate::schema::json::keywords::Slot;

impl Compare<'_> {
    /// The sub-schema for the elements after those of `prefixItems`.
    pub(super) fn rest(&self, at: At) -> Option<At> {
        let rest = self.part(at, Slot::Items);
        // `contains` looks at elements too, so that `unevaluatedItems` beside it says less.
        let alone = self.evaluates_alone(at) && self.part(at, Slot::Contains).is_none();
        if rest.is_some() || !alone {
            return rest;
        }
        self.part(at, Slot::UnevaluatedItems)
    }

    /// The sub-schema of `at` for the element at a position.
    pub(super) fn for_position(&self, at: At, position: usize) -> Option<At> {
        let prefix = self.node(at).all(Slot::PrefixItem);
        let found = prefix.get(position).map(|edge| At { side: at.side, id: edge.target });
        if found.is_some() { found } else { self.rest(at) }
    }

    /// What the facts say about the element at a position.
    pub(super) fn facts_for_position(&self, known: &Known<'_>, position: usize) -> Facts {
        let conjuncts = known.conjuncts.iter();
        Facts::of(conjuncts.filter_map(|at| self.for_position(*at, position)).collect::<Vec<_>>())
    }

    /// How long the prefixes of the facts and of `at` are: the elements after that are all alike.
    pub(super) fn prefix_len(&self, known: &Known<'_>, at: Option<At>) -> usize {
        let all = known.conjuncts.iter().chain(&at);
        all.map(|at| self.node(*at).all(Slot::PrefixItem).len()).max().unwrap_or(0)
    }

    /// Elements that there are at least.
    fn fewest(&self, known: &Known<'_>) -> u64 {
        let given = self.largest(&known.conjuncts, "minItems").unwrap_or(0);
        let contained = known.conjuncts.iter().filter_map(|at| {
            let node = self.node(*at);
            node.one(Slot::Contains).map(|_| node.natural("minContains").unwrap_or(1))
        });
        contained.fold(given, u64::max)
    }

    /// Elements that there are at most.
    pub(super) fn most(&self, known: &Known<'_>) -> u64 {
        let given = self.smallest(&known.conjuncts, "maxItems").unwrap_or(u64::MAX);
        let closed = known.conjuncts.iter().filter_map(|at| {
            let shut = self.rest(*at).is_some_and(|rest| self.node(rest).is_false);
            shut.then(|| self.node(*at).all(Slot::PrefixItem).len() as u64)
        });
        closed.fold(given, u64::min)
    }

    pub(super) fn proved_array(&mut self, known: &Known<'_>, at: At, part: Part) -> bool {
        match part {
            Part::MinItems => self.node(at).natural("minItems").unwrap_or(0) <= self.fewest(known),
            Part::MaxItems => {
                self.most(known) <= self.node(at).natural("maxItems").unwrap_or(u64::MAX)
            }
            Part::UniqueItems => {
                let unique = |at: At| {
                    self.node(at).own.get("uniqueItems").and_then(|v| v.as_bool()).unwrap_or(false)
                };
                !unique(at)
                    || self.most(known) <= 1
                    || known.conjuncts.iter().any(|fact| unique(*fact))
            }
            Part::Elements => self.proved_elements(known, at),
            // Where it stands alone it counts as `items`.
            Part::UnevaluatedItems => {
                let trivial = self
                    .part(at, Slot::UnevaluatedItems)
                    .is_none_or(|rest| self.included(&Facts::of([]), rest));
                let alone = self.evaluates_alone(at) && self.part(at, Slot::Contains).is_none();
                trivial || (alone && self.proved_elements(known, at))
            }
            _ => self.proved_contains(known, at),
        }
    }

    fn proved_elements(&mut self, known: &Known<'_>, at: At) -> bool {
        let prefix = self.prefix_len(known, Some(at));
        self.each_element(known, prefix, |compare, position, facts| {
            let target = compare.for_position(at, position);
            target.is_none_or(|target| compare.included_within(facts, target))
        })
    }

    /// Asks about each position that may be filled and is not like the one before: those of the
    /// prefixes, and one after.
    pub(super) fn each_element(
        &mut self,
        known: &Known<'_>,
        prefix: usize,
        mut holds: impl FnMut(&mut Self, usize, &Facts) -> bool,
    ) -> bool {
        let most = self.most(known);
        (0..=prefix).take_while(|position| (*position as u64) < most).all(|position| {
            let facts = self.facts_for_position(known, position);
            self.step(1) && holds(self, position, &facts)
        })
    }

    fn proved_contains(&mut self, known: &Known<'_>, at: At) -> bool {
        let Some(wanted) = self.part(at, Slot::Contains) else { return true };
        let fewest = self.node(at).natural("minContains").unwrap_or(1);
        let most = self.node(at).natural("maxContains");
        let given: Vec<(At, u64, Option<u64>)> = known
            .conjuncts
            .iter()
            .filter_map(|fact| {
                let node = self.node(*fact);
                let fewest = node.natural("minContains").unwrap_or(1);
                Some((self.part(*fact, Slot::Contains)?, fewest, node.natural("maxContains")))
            })
            .collect();
        let enough = fewest == 0
            || given.iter().any(|(contained, least, _)| {
                *least >= fewest && self.included_within(&Facts::of([*contained]), wanted)
            })
            || (self.fewest(known) >= fewest && {
                let prefix = self.prefix_len(known, None);
                self.each_element(known, prefix, |compare, _, facts| {
                    compare.included_within(facts, wanted)
                })
            });
        enough
            && most.is_none_or(|most| {
                self.most(known) <= most
                    || given.iter().any(|(contained, _, limit)| {
                        limit.is_some_and(|limit| limit <= most)
                            && self.included_within(&Facts::of([wanted]), *contained)
                    })
            })
    }

    /// Whether no array satisfies the facts.
    pub(super) fn impossible_array(&mut self, known: &Known<'_>) -> bool {
        let (fewest, most) = (self.fewest(known), self.most(known));
        if fewest > most {
            return true;
        }
        let prefix = self.prefix_len(known, None) as u64;
        let needed = fewest.min(prefix.saturating_add(1));
        (0..needed).any(|position| {
            let position = usize::try_from(position).unwrap_or(usize::MAX);
            let facts = self.facts_for_position(known, position);
            self.step(1) && self.empty_within(&facts)
        })
    }
}
