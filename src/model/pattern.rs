//! The patterns by which subscriptions choose topics.

use super::limits::PATTERN_BYTES_MAX;
use super::name::SYSTEM_PREFIX;
use super::rejection::{Reason, Rejection};

/// Which topics a subscription takes: a topic's name whose tokens may be `*` (any one token) and
/// whose last may be `>` (one or more tokens). The hub's own topics match only patterns that begin
/// with `hub.`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPattern(String);

impl TopicPattern {
    /// Checks a pattern that came from outside.
    ///
    /// # Errors
    /// `INVALID_PATTERN`.
    pub fn parse(pattern: &str) -> Result<Self, Rejection> {
        let refuse = |why: &str| {
            Err(Rejection::new(
                Reason::InvalidPattern,
                format!("pattern {pattern:?} {why}; use a topic's name, or tokens like orders.* and orders.>"),
            )
            .with("pattern", pattern))
        };
        if pattern.is_empty() {
            return refuse("is empty");
        }
        if pattern.len() > PATTERN_BYTES_MAX {
            return refuse(&format!("is longer than {PATTERN_BYTES_MAX} bytes"));
        }
        let mut tokens = pattern.split('.').peekable();
        while let Some(token) = tokens.next() {
            let plain =
                token.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
            match token {
                "" => return refuse("has an empty token"),
                ">" if tokens.peek().is_some() => return refuse("has a > before its end"),
                "*" | ">" => {}
                _ if plain => {}
                _ => return refuse("has a token that is neither plain, nor *, nor >"),
            }
        }
        Ok(Self(pattern.to_owned()))
    }

    /// A pattern that was checked before.
    #[must_use]
    pub fn from_checked(pattern: &str) -> Self {
        Self(pattern.to_owned())
    }

    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The one topic that it names; `None` when it has wildcards.
    #[must_use]
    pub fn single(&self) -> Option<&str> {
        (!self.0.split('.').any(|token| matches!(token, "*" | ">"))).then_some(self.0.as_str())
    }

    /// What the names of all topics that it takes begin with; may be empty.
    #[must_use]
    pub fn prefix(&self) -> &str {
        let mut end = 0;
        for token in self.0.split_inclusive('.') {
            if matches!(token.trim_end_matches('.'), "*" | ">") {
                break;
            }
            end += token.len();
        }
        self.0.get(..end).unwrap_or_default()
    }

    /// Whether it takes the hub's own topics.
    #[must_use]
    pub fn is_system(&self) -> bool {
        self.0.starts_with(SYSTEM_PREFIX)
    }

    /// Whether it takes a topic.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        if topic.starts_with(SYSTEM_PREFIX) && !self.is_system() {
            return false;
        }
        let mut tokens = topic.split('.');
        for wanted in self.0.split('.') {
            let Some(token) = tokens.next() else { return false };
            match wanted {
                ">" => return true,
                "*" => {}
                _ if wanted == token => {}
                _ => return false,
            }
        }
        tokens.next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_take_tokens() {
        for (pattern, yes, no) in [
            (
                "orders.created",
                &["orders.created"][..],
                &["orders", "orders.created.x", "orders.c"][..],
            ),
            ("orders.*", &["orders.a", "orders.b"], &["orders", "orders.a.b", "ordersx.a"]),
            ("orders.>", &["orders.a", "orders.a.b"], &["orders", "order.a"]),
            ("*.a", &["x.a"], &["a", "x.b", "x.a.a", "hub.a"]),
            (">", &["a", "a.b"], &["hub.lifecycle"]),
            ("hub.>", &["hub.lifecycle"], &["a"]),
            ("*.*.c", &["a.b.c"], &["a.c"]),
        ] {
            let pattern = TopicPattern::parse(pattern).unwrap();
            for topic in yes {
                assert!(pattern.matches(topic), "{pattern:?} {topic}");
                assert!(topic.starts_with(pattern.prefix()), "{pattern:?} {topic}");
            }
            for topic in no {
                assert!(!pattern.matches(topic), "{pattern:?} {topic}");
            }
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for pattern in ["", ".", "a..b", "a.>.b", "a*", "a b", ">x", &"x".repeat(129)] {
            let refused = TopicPattern::parse(pattern).unwrap_err();
            assert_eq!(refused.reason, Reason::InvalidPattern, "{pattern}");
        }
    }

    #[test]
    fn only_names_are_single() {
        assert_eq!(TopicPattern::from_checked("a.b").single(), Some("a.b"));
        assert_eq!(TopicPattern::from_checked("a.*").single(), None);
        assert_eq!(TopicPattern::from_checked("a.*.c").prefix(), "a.");
        assert_eq!(TopicPattern::from_checked(">").prefix(), "");
    }
}
