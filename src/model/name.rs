//! The names of topics and subscriptions.

use std::fmt;

use super::limits::{SUBJECT_BYTES_MAX, SUBSCRIPTION_NAME_BYTES_MAX, TOPIC_NAME_BYTES_MAX};
use super::rejection::{Reason, Rejection};

/// The prefix of the hub's own topics.
pub const SYSTEM_PREFIX: &str = "hub.";

/// A topic's name: tokens of `A-Za-z0-9_-`, joined by single dots, at most 128 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(String);

impl TopicName {
    /// Checks a name that came from outside, of a topic that is to be changed.
    ///
    /// # Errors
    /// `INVALID_NAME` for anything but the grammar above, and for names that begin with `hub.`.
    pub fn parse(name: &str) -> Result<Self, Rejection> {
        let parsed = Self::parse_readable(name)?;
        if name.starts_with(SYSTEM_PREFIX) {
            return Err(refuse(name, "begins with hub., which belongs to the hub"));
        }
        Ok(parsed)
    }

    /// Checks a name that came from outside, of a topic that is to be read: the hub's own may be.
    ///
    /// # Errors
    /// `INVALID_NAME` for anything but the grammar above.
    pub fn parse_readable(name: &str) -> Result<Self, Rejection> {
        let refuse = |why: &str| Err(refuse(name, why));
        if name.is_empty() {
            return refuse("is empty");
        }
        if name.len() > TOPIC_NAME_BYTES_MAX {
            return refuse(&format!("is longer than {TOPIC_NAME_BYTES_MAX} bytes"));
        }
        if name.split('.').any(str::is_empty) {
            return refuse("has an empty token");
        }
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')) {
            return refuse("has a character that is not allowed");
        }
        Ok(Self(name.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn refuse(name: &str, why: &str) -> Rejection {
    Rejection::new(
        Reason::InvalidName,
        format!(
            "topic name {name:?} {why}; use dotted tokens of A-Z a-z 0-9 _ -, like orders.created"
        ),
    )
    .with("name", name)
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Checks the name of a subscription: 1 to 128 characters of `A-Za-z0-9_.-`.
///
/// # Errors
/// `INVALID_NAME`.
pub fn check_subscription(name: &str) -> Result<(), Rejection> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if (1..=SUBSCRIPTION_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(plain) {
        return Ok(());
    }
    Err(Rejection::new(
        Reason::InvalidName,
        format!("subscription name {name:?} is not 1 to {SUBSCRIPTION_NAME_BYTES_MAX} characters of A-Z a-z 0-9 _ - .; choose another"),
    )
    .with("name", name))
}

/// Checks the name of a subject of schemas.
///
/// # Errors
/// `INVALID_NAME`.
pub fn check_subject(name: &str) -> Result<(), Rejection> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-./:".contains(&b);
    if (1..=SUBJECT_BYTES_MAX).contains(&name.len()) && name.bytes().all(plain) {
        return Ok(());
    }
    let text = format!(
        "subject {name:?} is not 1 to {SUBJECT_BYTES_MAX} characters of A-Z a-z 0-9 _ - . / :; choose another"
    );
    Err(Rejection::new(Reason::InvalidName, text).with("name", name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_dotted_tokens() {
        for name in ["a", "orders.created", "A-1_b.c", &"x".repeat(128)] {
            assert_eq!(TopicName::parse(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn the_hubs_own_topics_are_only_read() {
        assert!(TopicName::parse_readable("hub.lifecycle").is_ok());
        assert!(TopicName::parse("hub.lifecycle").is_err());
        assert!(TopicName::parse_readable("hub..x").is_err());
    }

    #[test]
    fn subscriptions_have_plain_names() {
        assert!(check_subscription("billing.eu-1_a").is_ok());
        for name in ["", "a b", "a\"b", &"x".repeat(129)] {
            assert_eq!(check_subscription(name).unwrap_err().reason, Reason::InvalidName);
        }
    }

    #[test]
    fn refuses_everything_else() {
        for name in ["", ".", "a.", ".a", "a..b", "a b", "a/b", "ä", "a*", "hub.lifecycle", "a\0"]
        {
            assert_eq!(TopicName::parse(name).unwrap_err().reason, Reason::InvalidName, "{name}");
        }
        assert!(TopicName::parse(&"x".repeat(129)).is_err());
    }
}
