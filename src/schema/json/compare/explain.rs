//! From a proof that failed to what is reported: where it failed, and by which rule.

use serde_json::Value;

use super::facts::Facts;
use super::object::Class;
use super::prove::{Known, Part};
use super::types::Types;
use super::{At, Compare};
use crate::schema::json::keywords::Slot;
use crate::schema::limits::INCOMPATIBILITIES_MAX;
use crate::schema::report::{Incompatibility, display_to, join, shorten};

/// Sub-schemas that are explained within one another; what is further in is not looked into.
const EXPLAIN_DEPTH_MAX: usize = 128;

/// The rule of what could not be proved either way.
const CANNOT_PROVE: &str = "cannot_prove";

impl Compare<'_> {
    /// What is reported in the end: never nothing.
    pub(super) fn conclude(mut self) -> Vec<Incompatibility> {
        if self.exhausted() && (1..=INCOMPATIBILITIES_MAX).contains(&self.found.len()) {
            self.found.push(Incompatibility::maybe_more());
        }
        if self.found.is_empty() {
            let text = if self.exhausted() {
                format!(
                    "the schemas are too intricate to be compared within {} \
                     steps; simplify them, or check by hand and register without this rule",
                    self.steps_max
                )
            } else {
                "it cannot be shown that readers take all that writers may write; keep this part \
                 unchanged, or check by hand and register without this rule"
                    .to_owned()
            };
            self.found.push(Incompatibility { path: String::new(), rule: CANNOT_PROVE, text });
        }
        self.found
    }

    /// Reports why a sub-schema does not take all that satisfies the facts, if so. Answers whether
    /// that was reported, now or before.
    pub(super) fn explain(&mut self, facts: &Facts, at: At) -> bool {
        if self.found.len() > INCOMPATIBILITIES_MAX || self.exhausted() {
            return true;
        }
        if self.included(facts, at) {
            return false;
        }
        if self.explaining >= EXPLAIN_DEPTH_MAX {
            return false;
        }
        if !self.explained.insert((facts.clone(), at)) {
            return true;
        }
        self.explaining += 1;
        let known = self.know(facts);
        let mut explained = false;
        for part in self.parts_of(at) {
            if !self.proved(&known, at, part) {
                explained |= self.explain_part(&known, at, part);
            }
        }
        self.explaining -= 1;
        explained
    }

    fn explain_part(&mut self, known: &Known<'_>, at: At, part: Part) -> bool {
        let explained = match part {
            Part::Ref => self.explain_all(known.facts, &self.parts(at, Slot::Ref)),
            Part::AllOf => self.explain_all(known.facts, &self.parts(at, Slot::AllOf)),
            Part::Members => self.explain_members(known, at),
            Part::Elements => self.explain_elements(known, at),
            Part::Required => self.explain_required(known, at),
            _ => false,
        };
        if explained {
            return true;
        }
        let (keyword, rule) = self.rule(known, at, part);
        let place = match part {
            Part::False => self.graph(at.side).place(at.id),
            _ => self.graph(at.side).place_of(at.id, keyword),
        };
        let text = self.text(known, at, keyword, rule);
        self.report(place, rule, text);
        true
    }

    fn explain_all(&mut self, facts: &Facts, targets: &[At]) -> bool {
        let mut explained = false;
        for target in targets {
            explained |= self.explain(facts, *target);
        }
        explained
    }

    fn explain_required(&mut self, known: &Known<'_>, at: At) -> bool {
        let mut explained = false;
        let given = self.required(known);
        let wanted: Vec<String> = self.node(at).strings("required").map(str::to_owned).collect();
        for name in wanted.into_iter().filter(|name| !given.contains(name)) {
            let place = join(&self.graph(at.side).place_of(at.id, "required"), &name);
            let text = format!(
                "readers require the property {name:?}, which writers may leave out; let it be \
                 optional"
            );
            self.report(place, "required_property_added", text);
            explained = true;
        }
        explained
    }

    /// Member by member, with the rules of content models.
    fn explain_members(&mut self, known: &Known<'_>, at: At) -> bool {
        let mut explained = false;
        let mut both = known.conjuncts.clone();
        both.push(at);
        for name in self.names(&both) {
            let targets = self.for_name(at, &name);
            let facts = self.facts_for_name(known, &name);
            let targets = targets.into_iter();
            let missed: Vec<At> =
                targets.filter(|target| !self.included_within(&facts, *target)).collect();
            if !missed.is_empty() {
                self.explain_member(known, at, &name, &facts, &missed);
                explained = true;
            }
        }
        for (pattern, target) in self.classes(at) {
            let class = pattern.as_deref().map_or(Class::Rest, Class::Matching);
            if self.proved_class(known, at, class, target) {
                continue;
            }
            let place = self.graph(at.side).place(target.id);
            let refuses = self.node(target).is_false;
            let (rule, what) = match (class, refuses) {
                (Class::Rest, true) => ("additional_properties_removed", "no other properties"),
                (Class::Rest, false) => ("additional_properties_narrowed", "less in others"),
                (Class::Matching(_), _) => ("pattern_property_narrowed", "less in these"),
            };
            let text = format!(
                "writers may write properties that their schema does not list, and readers take \
                 {what}; let readers take them too"
            );
            self.report(place, rule, text);
            explained = true;
        }
        explained
    }

    fn explain_member(
        &mut self,
        known: &Known<'_>,
        at: At,
        name: &str,
        facts: &Facts,
        missed: &[At],
    ) {
        let listed_by_reader = self.node(at).named(Slot::Property, name).is_some();
        let listed_by_writer = known
            .conjuncts
            .iter()
            .any(|fact| self.node(*fact).named(Slot::Property, name).is_some());
        let closed = missed.iter().any(|target| self.node(*target).is_false);
        let place = join(&self.graph(at.side).place_of(at.id, "properties"), name);
        let rule = match (listed_by_writer, listed_by_reader) {
            (true, true) => return self.explain_all_within(facts, missed, &place),
            (true, false) if closed => "property_removed_from_closed_content_model",
            (true, false) => "property_removed_not_covered_by_partially_open_content_model",
            (false, _) if facts.schemas.is_empty() => "property_added_to_open_content_model",
            (false, _) => "property_added_not_covered_by_partially_open_content_model",
        };
        let text = match (listed_by_writer, listed_by_reader) {
            (true, _) => format!(
                "writers may write the property {name:?}, which readers no longer take; keep it"
            ),
            _ => format!(
                "writers do not list the property {name:?} and may write anything in it, readers \
                 take less; choose a name that writers cannot use, or let readers take anything"
            ),
        };
        self.report(place, rule, text);
    }

    fn explain_all_within(&mut self, facts: &Facts, targets: &[At], place: &str) {
        self.entered += 1;
        let explained = self.explain_all(facts, targets);
        self.entered -= 1;
        if !explained {
            let text = "readers take less than writers may write here; see what changed in it";
            self.report(place.to_owned(), CANNOT_PROVE, text.to_owned());
        }
    }

    fn explain_elements(&mut self, known: &Known<'_>, at: At) -> bool {
        let mut explained = false;
        let prefix = self.prefix_len(known, Some(at));
        for position in 0..=prefix {
            if position as u64 >= self.most(known) {
                break;
            }
            let facts = self.facts_for_position(known, position);
            let Some(target) = self.for_position(at, position) else { continue };
            if self.included_within(&facts, target) {
                continue;
            }
            explained = true;
            let place = self.graph(at.side).place(target.id);
            if self.node(target).is_false {
                let text = format!(
                    "readers take no element at position {position} or later, and writers may \
                     write one; let readers take it"
                );
                self.report(place, "items_removed_from_closed_content_model", text);
            } else {
                self.explain_all_within(&facts, &[target], &place);
            }
        }
        explained
    }

    /// The keyword that stands for a group, and the rule that is broken by it.
    fn rule(&mut self, known: &Known<'_>, at: At, part: Part) -> (&'static str, &'static str) {
        let given = |compare: &Self, keyword: &str| {
            known.conjuncts.iter().any(|fact| compare.node(*fact).own.contains_key(keyword))
        };
        let either = |compare: &Self, keyword: &str, changed, added| {
            if given(compare, keyword) { changed } else { added }
        };
        let own = &self.node(at).own;
        match part {
            Part::False => ("", "narrowed_to_nothing"),
            Part::Type => {
                let wanted = Types::of_keyword(own.get("type"));
                let some = known.types.meets(wanted);
                ("type", if some { "type_narrowed" } else { "type_changed" })
            }
            Part::Enum => ("enum", either(self, "enum", "enum_narrowed", "enum_added")),
            Part::Const => ("const", either(self, "const", "const_changed", "const_added")),
            Part::Above if own.contains_key("minimum") => {
                ("minimum", either(self, "minimum", "minimum_increased", "minimum_added"))
            }
            Part::Above => ("exclusiveMinimum", "exclusive_minimum_increased"),
            Part::Below if own.contains_key("maximum") => {
                ("maximum", either(self, "maximum", "maximum_decreased", "maximum_added"))
            }
            Part::Below => ("exclusiveMaximum", "exclusive_maximum_decreased"),
            Part::MultipleOf => (
                "multipleOf",
                either(self, "multipleOf", "multiple_of_changed", "multiple_of_added"),
            ),
            Part::MinLength => {
                ("minLength", either(self, "minLength", "min_length_increased", "min_length_added"))
            }
            Part::MaxLength => {
                ("maxLength", either(self, "maxLength", "max_length_decreased", "max_length_added"))
            }
            Part::Pattern => ("pattern", either(self, "pattern", CANNOT_PROVE, "pattern_added")),
            Part::MinItems => {
                ("minItems", either(self, "minItems", "min_items_increased", "min_items_added"))
            }
            Part::MaxItems => {
                ("maxItems", either(self, "maxItems", "max_items_decreased", "max_items_added"))
            }
            Part::UniqueItems => ("uniqueItems", "unique_items_added"),
            Part::Required => ("required", "required_property_added"),
            _ => self.rule_of_parts(known, at, part),
        }
    }

    /// [`Self::rule`] for the other groups.
    fn rule_of_parts(
        &mut self,
        known: &Known<'_>,
        at: At,
        part: Part,
    ) -> (&'static str, &'static str) {
        let given = |compare: &Self, slot: Slot| {
            known.conjuncts.iter().any(|fact| !compare.node(*fact).all(slot).is_empty())
        };
        match part {
            Part::MinProperties => ("minProperties", "min_properties_increased"),
            Part::MaxProperties => ("maxProperties", "max_properties_decreased"),
            Part::DependentRequired => ("dependentRequired", "dependent_required_added"),
            Part::Dependent => {
                let changed = given(self, Slot::Dependent);
                let rule = if changed { CANNOT_PROVE } else { "dependent_schema_added" };
                ("dependentSchemas", rule)
            }
            Part::PropertyNames => ("propertyNames", "property_names_narrowed"),
            Part::Contains => {
                let changed = given(self, Slot::Contains);
                ("contains", if changed { "contains_narrowed" } else { "contains_added" })
            }
            Part::AnyOf => {
                let shrunk = self.shrunk(known, at, Slot::AnyOf);
                ("anyOf", if shrunk { "any_of_narrowed" } else { CANNOT_PROVE })
            }
            Part::OneOf => {
                let shrunk = self.shrunk(known, at, Slot::OneOf);
                ("oneOf", if shrunk { "one_of_narrowed" } else { CANNOT_PROVE })
            }
            Part::Not => ("not", CANNOT_PROVE),
            Part::Condition => ("if", CANNOT_PROVE),
            Part::UnevaluatedItems => ("unevaluatedItems", CANNOT_PROVE),
            Part::UnevaluatedProperties => ("unevaluatedProperties", CANNOT_PROVE),
            Part::DynamicRef => ("$dynamicRef", CANNOT_PROVE),
            Part::Elements => ("items", CANNOT_PROVE),
            Part::Ref => ("$ref", CANNOT_PROVE),
            Part::AllOf => ("allOf", CANNOT_PROVE),
            _ => ("properties", CANNOT_PROVE),
        }
    }

    /// Whether writers have alternatives of which readers lost some.
    fn shrunk(&self, known: &Known<'_>, at: At, slot: Slot) -> bool {
        let left = self.node(at).all(slot).len();
        known.conjuncts.iter().any(|fact| {
            let node = self.node(*fact);
            node.all(Slot::AnyOf).len() > left || node.all(Slot::OneOf).len() > left
        })
    }

    fn text(&self, known: &Known<'_>, at: At, keyword: &str, rule: &str) -> String {
        let advice = if rule == CANNOT_PROVE {
            "keep it unchanged, or check by hand and register without this rule"
        } else {
            "loosen it, or register the schema under another subject"
        };
        let wanted = self.node(at).own.get(keyword);
        let given = known.conjuncts.iter().find_map(|fact| self.node(*fact).own.get(keyword));
        match (wanted, given) {
            _ if rule == "type_changed" || rule == "type_narrowed" => format!(
                "readers take {}, writers may write {}; {advice}",
                wanted.map_or_else(String::new, short),
                known.types.names()
            ),
            (Some(wanted), Some(given)) => format!(
                "readers have {keyword} {}, writers {}; {advice}",
                short(wanted),
                short(given)
            ),
            (Some(wanted), None) => {
                format!("readers have {keyword} {}, writers none; {advice}", short(wanted))
            }
            (None, _) if keyword.is_empty() => {
                format!("readers take nothing here, and writers may write something; {advice}")
            }
            (None, _) => format!("readers take less by {keyword} than writers may write; {advice}"),
        }
    }

    fn report(&mut self, path: String, rule: &'static str, text: String) {
        // What failed for want of steps says nothing.
        if self.exhausted() {
            return;
        }
        let (path, text) = (shorten(&path), shorten(&text));
        if !self
            .found
            .iter()
            .any(|known| (&known.path, known.rule, &known.text) == (&path, rule, &text))
        {
            Incompatibility::note(&mut self.found, &path, rule, &text);
        }
    }
}

fn short(value: &Value) -> String {
    display_to(value, 128)
}
