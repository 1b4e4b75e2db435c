//! What is reported: problems, violations, incompatibilities; each with its place, all bounded. A list that was cut
//! has one entry more than its bound, which says so.

use std::fmt::{self, Write};

use super::limits::{INCOMPATIBILITIES_MAX, PROBLEMS_MAX, TEXT_BYTES_MAX, VIOLATIONS_MAX};

/// A reason why a definition is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where: a JSON pointer into the main schema (for Avro too), or `name#pointer` into that of a
    /// reference; for Protobuf `file:line:column`, or `file`. Empty for the definition as a whole.
    pub place: String,
    /// What is wrong and what to do.
    pub text: String,
}

/// A definition is refused. Shape: 1 to [`PROBLEMS_MAX`] problems, and a last one that says so if there are more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The reasons, in the order of the text.
    pub problems: Vec<Problem>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("schema is refused")?;
        for (index, Problem { place, text }) in self.problems.iter().enumerate() {
            f.write_str(if index == 0 { ": " } else { "; " })?;
            if !place.is_empty() {
                write!(f, "at {place}: ")?;
            }
            f.write_str(text)?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}

impl Invalid {
    /// One problem.
    pub(super) fn one(place: &str, text: String) -> Self {
        Self { problems: vec![Problem { place: shorten(place), text: shorten(&text) }] }
    }
}

/// A reason why a payload is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where, as a JSON pointer into the payload; for Protobuf and Avro by the names of fields.
    pub pointer: String,
    /// What is wrong and where the schema asks for it.
    pub text: String,
}

impl Violation {
    /// A violation with bounded texts.
    pub(super) fn new(pointer: &str, text: &str) -> Self {
        Self { pointer: shorten(pointer), text: shorten(text) }
    }

    /// Notes a violation, or that there are more than the bound.
    pub(super) fn note(list: &mut Vec<Self>, pointer: &str, text: &str) {
        if list.len() < VIOLATIONS_MAX {
            list.push(Self::new(pointer, text));
        } else if list.len() == VIOLATIONS_MAX {
            list.push(Self::new("", &more(VIOLATIONS_MAX)));
        }
    }
}

/// A reason why readers with one schema cannot read what was written with another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incompatibility {
    /// Where in the reader's schema: a JSON pointer, `name#pointer` within a reference, or for
    /// Protobuf `message/number`. What the reader lacks is placed where it would be.
    pub path: String,
    /// The rule that is broken: a stable snake_case name.
    pub rule: &'static str,
    /// What differs and what to do.
    pub text: String,
}

/// The rule of what says that there are more incompatibilities.
const MORE: &str = "more";

impl Incompatibility {
    /// Notes an incompatibility, or that there are more than the bound.
    pub(super) fn note(list: &mut Vec<Self>, path: &str, rule: &'static str, text: &str) {
        if list.len() < INCOMPATIBILITIES_MAX {
            list.push(Self { path: shorten(path), rule, text: shorten(text) });
        } else if list.len() == INCOMPATIBILITIES_MAX {
            list.push(Self { path: String::new(), rule: MORE, text: more(INCOMPATIBILITIES_MAX) });
        }
    }

    /// What a comparison ends with that had to be ended before it had found everything.
    pub(super) fn maybe_more() -> Self {
        let text = "there may be more: the comparison took too many steps to find them".to_owned();
        Self { path: String::new(), rule: "cannot_prove", text }
    }
}

/// What the entry after the last one of a list that was cut says.
fn more(told: usize) -> String {
    format!("there are more; the first {told} are told")
}

/// Problems as they are found.
#[derive(Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    /// Notes a problem, or that there are more than the bound.
    pub(super) fn push(&mut self, place: &str, text: String) {
        if self.0.len() < PROBLEMS_MAX {
            self.0.push(Problem { place: shorten(place), text: shorten(&text) });
        } else if self.0.len() == PROBLEMS_MAX {
            self.0.push(Problem { place: String::new(), text: more(PROBLEMS_MAX) });
        }
    }

    /// Notes a problem, unless the same text is there already.
    pub(super) fn push_once(&mut self, place: &str, text: String) {
        if !self.0.iter().any(|problem| problem.text == text) {
            self.push(place, text);
        }
    }

    /// Nothing was noted.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The verdict.
    ///
    /// # Errors
    /// What was noted.
    pub(super) fn into_result(self) -> Result<(), Invalid> {
        if self.0.is_empty() { Ok(()) } else { Err(Invalid { problems: self.0 }) }
    }
}

/// The text, or its beginning within [`TEXT_BYTES_MAX`] and `…`.
pub(super) fn shorten(text: &str) -> String {
    shorten_to(text, TEXT_BYTES_MAX)
}

/// The text, or its beginning within `bytes_max` and `…`.
pub(super) fn shorten_to(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(bytes_max.saturating_sub('…'.len_utf8()));
    format!("{}…", text.get(..end).unwrap_or_default())
}

/// What a value displays as, within `bytes_max`: displaying stops there, so that a large payload is
/// never written out.
pub(super) fn display_to(value: &impl fmt::Display, bytes_max: usize) -> String {
    struct Bounded {
        text: String,
        bytes_max: usize,
    }
    impl Write for Bounded {
        fn write_str(&mut self, part: &str) -> fmt::Result {
            let room = self.bytes_max.saturating_sub(self.text.len());
            let end = part.floor_char_boundary(room.min(part.len()));
            self.text.push_str(part.get(..end).unwrap_or_default());
            if end < part.len() { Err(fmt::Error) } else { Ok(()) }
        }
    }
    let mut bounded = Bounded { text: String::new(), bytes_max };
    if write!(bounded, "{value}").is_err() {
        bounded.text.push('…');
    }
    bounded.text
}

/// Adds a segment to a JSON pointer (RFC 6901).
pub(super) fn push_segment(pointer: &mut String, segment: &str) {
    pointer.push('/');
    for character in segment.chars() {
        match character {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            _ => pointer.push(character),
        }
    }
}

/// `pointer` with one more segment.
pub(super) fn join(pointer: &str, segment: &str) -> String {
    let mut joined = String::with_capacity(pointer.len() + segment.len() + 1);
    joined.push_str(pointer);
    push_segment(&mut joined, segment);
    joined
}
