//! Whether a sub-schema takes one given value, as far as that is certain.

use std::collections::BTreeSet;

use jsonschema::json::{cmp, unique};
use serde_json::{Map, Value};

use super::number::{Limit, Num};
use super::prove::Part;
use super::types::Types;
use super::{At, Compare};
use crate::schema::json::keywords::Slot;

/// Yes, no, or unknown.
type Verdict = Option<bool>;

/// All must hold.
fn all(verdicts: impl IntoIterator<Item = Verdict>) -> Verdict {
    let mut result = Some(true);
    for verdict in verdicts {
        match verdict {
            Some(false) => return Some(false),
            Some(true) => {}
            None => result = None,
        }
    }
    result
}

/// A text that equal values share, and no others.
fn key(value: &Value) -> String {
    match value {
        Value::Number(number) => Num::of(number).key(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(key).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(members) => {
            let mut members: Vec<String> = members
                .iter()
                .map(|(name, member)| format!("{}:{}", Value::from(name.as_str()), key(member)))
                .collect();
            members.sort_unstable();
            format!("{{{}}}", members.join(","))
        }
        plain => plain.to_string(),
    }
}

fn not(verdict: Verdict) -> Verdict {
    verdict.map(|holds| !holds)
}

impl Compare<'_> {
    /// Whether a sub-schema takes a value; `None` where that is not certain.
    pub(super) fn admits(&mut self, at: At, value: &Value) -> Verdict {
        if !self.step(1) {
            return None;
        }
        let mut result = Some(true);
        for part in self.parts_of(at) {
            match self.part_admits(at, part, value) {
                Some(false) => return Some(false),
                Some(true) => {}
                None => result = None,
            }
        }
        result
    }

    /// Whether one group of keywords of a sub-schema takes a value.
    pub(super) fn part_admits(&mut self, at: At, part: Part, value: &Value) -> Verdict {
        match part {
            Part::False => Some(false),
            Part::Type => {
                let types = Types::of_keyword(self.node(at).own.get("type"));
                Some(Types::of_value(value).within(types))
            }
            Part::Enum => self.enum_admits(at, value),
            Part::Const => self.node(at).own.get("const").map(|known| cmp::equal(known, value)),
            Part::Ref => self.each_admits(at, Slot::Ref, value),
            Part::AllOf => self.each_admits(at, Slot::AllOf, value),
            Part::DynamicRef | Part::UnevaluatedItems | Part::UnevaluatedProperties => None,
            Part::AnyOf => {
                let branches = self.parts(at, Slot::AnyOf);
                not(all(branches.into_iter().map(|branch| not(self.admits(branch, value)))))
            }
            Part::OneOf => {
                let branches = self.parts(at, Slot::OneOf);
                let verdicts: Option<Vec<bool>> =
                    branches.into_iter().map(|branch| self.admits(branch, value)).collect();
                verdicts.map(|verdicts| verdicts.into_iter().filter(|holds| *holds).count() == 1)
            }
            Part::Not => {
                let refused = self.part(at, Slot::Not)?;
                not(self.admits(refused, value))
            }
            Part::Condition => {
                let condition = self.part(at, Slot::If)?;
                let holds = self.admits(condition, value)?;
                let slot = if holds { Slot::Then } else { Slot::Else };
                self.part(at, slot).map_or(Some(true), |then| self.admits(then, value))
            }
            _ => match value {
                Value::Number(number) => Some(self.number_admits(at, part, Num::of(number))?),
                Value::String(string) => self.string_admits(at, part, string),
                Value::Array(items) => self.array_admits(at, part, items),
                Value::Object(members) => self.object_admits(at, part, members),
                Value::Null | Value::Bool(_) => Some(true),
            },
        }
    }

    /// Long lists are looked up by what their values are alike in.
    fn enum_admits(&mut self, at: At, value: &Value) -> Verdict {
        if let Some(keys) = self.enums.get(&at) {
            return Some(keys.contains(&key(value)));
        }
        let list = self.node(at).own.get("enum")?.as_array()?;
        if list.len() <= 16 {
            return Some(list.iter().any(|known| cmp::equal(known, value)));
        }
        let keys: BTreeSet<String> = list.iter().map(key).collect();
        let holds = keys.contains(&key(value));
        self.enums.insert(at, keys);
        Some(holds)
    }

    fn each_admits(&mut self, at: At, slot: Slot, value: &Value) -> Verdict {
        let targets = self.parts(at, slot);
        all(targets.into_iter().map(|target| self.admits(target, value)))
    }

    fn number_admits(&self, at: At, part: Part, number: Num) -> Verdict {
        let own = &self.node(at).own;
        let limit = |keyword: &str, exclusive: bool| {
            Num::under(own, keyword).map(|at| Limit { at, exclusive })
        };
        match part {
            Part::Above => {
                let limits = [limit("minimum", false), limit("exclusiveMinimum", true)];
                all(limits.into_iter().flatten().map(|limit| limit.admits_above(number)))
            }
            Part::Below => {
                let limits = [limit("maximum", false), limit("exclusiveMaximum", true)];
                all(limits.into_iter().flatten().map(|limit| limit.admits_below(number)))
            }
            Part::MultipleOf => match (number, Num::under(own, "multipleOf")?) {
                (Num::Int(int), Num::Int(of)) if of != 0 => Some(int % of == 0),
                _ => None,
            },
            _ => Some(true),
        }
    }

    fn string_admits(&self, at: At, part: Part, string: &str) -> Verdict {
        let node = self.node(at);
        let length = string.chars().count() as u64;
        match part {
            Part::MinLength => Some(length >= node.natural("minLength")?),
            Part::MaxLength => Some(length <= node.natural("maxLength")?),
            Part::Pattern => {
                let pattern = node.own.get("pattern")?.as_str()?;
                self.graph(at.side).matches(pattern, string)
            }
            _ => Some(true),
        }
    }

    fn array_admits(&mut self, at: At, part: Part, items: &[Value]) -> Verdict {
        let node = self.node(at);
        let length = items.len() as u64;
        match part {
            Part::MinItems => Some(length >= node.natural("minItems")?),
            Part::MaxItems => Some(length <= node.natural("maxItems")?),
            Part::UniqueItems => {
                Some(!node.own.get("uniqueItems")?.as_bool()? || unique::is_unique(items))
            }
            Part::Elements => all(items.iter().enumerate().map(|(position, item)| {
                let target = self.for_position(at, position);
                target.map_or(Some(true), |target| self.admits(target, item))
            })),
            Part::Contains => {
                let (fewest, most) =
                    (node.natural("minContains").unwrap_or(1), node.natural("maxContains"));
                let wanted = self.part(at, Slot::Contains)?;
                let verdicts: Option<Vec<bool>> =
                    items.iter().map(|item| self.admits(wanted, item)).collect();
                let found = verdicts?.into_iter().filter(|holds| *holds).count() as u64;
                Some(found >= fewest && most.is_none_or(|most| found <= most))
            }
            _ => Some(true),
        }
    }

    fn object_admits(&mut self, at: At, part: Part, members: &Map<String, Value>) -> Verdict {
        let node = self.node(at);
        let length = members.len() as u64;
        match part {
            Part::MinProperties => Some(length >= node.natural("minProperties")?),
            Part::MaxProperties => Some(length <= node.natural("maxProperties")?),
            Part::Required => Some(node.strings("required").all(|name| members.contains_key(name))),
            Part::DependentRequired => {
                let all = node.own.get("dependentRequired")?.as_object()?;
                Some(all.iter().filter(|(name, _)| members.contains_key(*name)).all(|(_, list)| {
                    let names = list.as_array().into_iter().flatten().filter_map(Value::as_str);
                    names.into_iter().all(|name| members.contains_key(name))
                }))
            }
            Part::Dependent => {
                let edges = node.all(Slot::Dependent).to_vec();
                let value = Value::Object(members.clone());
                all(edges
                    .iter()
                    .filter(|edge| members.contains_key(&edge.key))
                    .map(|edge| self.admits(At { side: at.side, id: edge.target }, &value)))
            }
            Part::Members => all(members.iter().map(|(name, member)| {
                let targets = self.for_name(at, name);
                all(targets.into_iter().map(|target| self.admits(target, member)))
            })),
            Part::PropertyNames => {
                let wanted = self.part(at, Slot::PropertyNames)?;
                all(members.keys().map(|name| self.admits(wanted, &Value::String(name.clone()))))
            }
            _ => Some(true),
        }
    }
}
