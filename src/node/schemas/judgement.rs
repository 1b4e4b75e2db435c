//! What was found of a schema, and the refusal that tells of it.

use std::collections::BTreeSet;

use crate::model::limits::PAGE_BYTES_TARGET;
use crate::model::listed;
use crate::model::rejection::{Reason, Rejection};
use crate::schema::{Direction, Incompatibility, Problem};

/// What was found of a schema that somebody wants to register.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// The revision of the subject that it was judged against; 0: it was not there.
    pub judged_at: u64,
    /// The same schema has the same.
    pub fingerprint: String,
    /// The version that is the same schema.
    pub same_as: Option<u32>,
    /// Why it is none.
    pub problems: Vec<Problem>,
    /// Why it cannot follow versions.
    pub incompatible: Incompatible,
}

/// Why a schema cannot follow versions: as many reasons as an answer has room for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Incompatible {
    /// By version and direction.
    pub told: Vec<(u32, Direction, Incompatibility)>,
    /// How many more reasons were found.
    pub more: usize,
    versions: BTreeSet<u32>,
    bytes: usize,
}

/// Bytes that a reason takes in an answer beside its texts, at most.
const OVERHEAD_BYTES: usize = 40;

impl Incompatible {
    /// Notes a reason, or counts it where there is no room.
    pub(super) fn add(&mut self, version: u32, direction: Direction, why: Incompatibility) {
        self.versions.insert(version);
        self.bytes += OVERHEAD_BYTES + why.path.len() + why.rule.len() + why.text.len();
        if self.bytes > PAGE_BYTES_TARGET && !self.told.is_empty() {
            self.more += 1;
        } else {
            self.told.push((version, direction, why));
        }
    }

    /// It can follow all of them.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.told.is_empty()
    }
}

impl Judgement {
    /// Whether it may be registered, or is.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty() && self.incompatible.is_empty()
    }

    /// None was made: the state takes nothing by it that has to be judged.
    pub(super) fn none() -> Self {
        Self { judged_at: u64::MAX, ..Self::default() }
    }

    /// The judgement, if nothing stands against the schema.
    pub(super) fn or_refused(self, subject: &str) -> Result<Self, Rejection> {
        if self.is_ok() { Ok(self) } else { Err(self.refusal(subject)) }
    }

    /// Tells every reason that there is room for, and all versions that it cannot follow.
    fn refusal(&self, subject: &str) -> Rejection {
        let told = |reason, head: &str, each: Vec<String>, more: usize| {
            let (list, left) = listed::joined(&each);
            let all = if left > 0 { "; `mhub schema check` tells more of them" } else { "" };
            let refused = Rejection::new(reason, format!("{head}: {list}{all}"));
            refused.with("subject", subject).with("failing", each.len() + more)
        };
        if !self.problems.is_empty() {
            let each = self.problems.iter().map(|problem| at(&problem.place, &problem.text));
            return told(Reason::SchemaMalformed, "the schema is none", each.collect(), 0);
        }
        let each = self.incompatible.told.iter().map(|(version, direction, why)| {
            let who = match direction {
                Direction::Backward => format!("readers with it cannot read version {version}"),
                Direction::Forward => format!("readers with version {version} cannot read it"),
            };
            at(&why.path, &format!("{who}: {} ({})", why.text, why.rule))
        });
        let head = format!("the schema is incompatible with subject {subject}");
        let versions = self.incompatible.versions.iter().map(|version| u64::from(*version));
        told(Reason::SchemaIncompatible, &head, each.collect(), self.incompatible.more)
            .with("versions", listed::numbers(versions))
    }
}

/// What is wrong, behind its place.
pub(super) fn at(place: &str, text: &str) -> String {
    if place.is_empty() { text.to_owned() } else { format!("at {place}: {text}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::limits::REFUSAL_BYTES_MAX;

    #[test]
    fn a_refusal_counts_all_and_lists_what_there_is_room_for() {
        let why = |n: u32| Incompatibility {
            path: format!("/properties/{n}"),
            rule: "type_changed",
            text: "x".repeat(100),
        };
        let incompatible = |versions: std::ops::Range<u32>| {
            let mut incompatible = Incompatible::default();
            versions.rev().for_each(|n| incompatible.add(n, Direction::Backward, why(n)));
            Judgement { incompatible, ..Judgement::default() }
        };
        let few = incompatible(3..5).or_refused("s").unwrap_err();
        assert_eq!((few.fact("failing"), few.fact("versions")), (Some("2"), Some("3-4")));
        assert!(few.message.ends_with("(type_changed)") && few.message.contains("/properties/3"));
        let many = incompatible(1..501).or_refused("s").unwrap_err();
        assert_eq!(many.reason, Reason::SchemaIncompatible);
        assert_eq!((many.fact("failing"), many.fact("versions")), (Some("500"), Some("1-500")));
        assert!(many.message.len() < REFUSAL_BYTES_MAX + 200, "{}", many.message.len());
        assert!(many.message.contains(" more; `mhub schema check`"), "{many}");
        let problem = Problem { place: "/type".to_owned(), text: "no type".to_owned() };
        let problems = vec![problem; 100];
        let none = Judgement { problems, ..Judgement::default() }.or_refused("s").unwrap_err();
        assert_eq!((none.reason, none.fact("failing")), (Reason::SchemaMalformed, Some("100")));
        assert!(Judgement::none().or_refused("s").is_ok());
    }

    #[test]
    fn reasons_are_kept_by_their_bytes_and_all_of_them_count() {
        let text = "x".repeat(PAGE_BYTES_TARGET / 4);
        let mut incompatible = Incompatible::default();
        for n in 1..=10 {
            let why =
                Incompatibility { path: String::new(), rule: "type_changed", text: text.clone() };
            incompatible.add(n, Direction::Forward, why);
        }
        assert_eq!((incompatible.told.len(), incompatible.more), (3, 7));
        let refused = Judgement { incompatible, ..Judgement::default() }.or_refused("s");
        let refused = refused.unwrap_err();
        assert_eq!((refused.fact("failing"), refused.fact("versions")), (Some("10"), Some("1-10")));
        // One goes out in any case.
        let mut large = Incompatible::default();
        let text = "x".repeat(2 * PAGE_BYTES_TARGET);
        let why = Incompatibility { path: String::new(), rule: "type_changed", text };
        large.add(1, Direction::Forward, why);
        assert_eq!((large.told.len(), large.more), (1, 0));
    }
}
