//! What became of an event, subscription by subscription.

use super::delivery::{Attempt, DeadReason};
use super::ids::{DeadNumber, SubscriptionId, UnixMs};
use super::name;
use super::pattern::TopicPattern;
use super::rejection::Rejection;

/// Which subscriptions a trace tells of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Chosen {
    /// The first ones by name.
    #[default]
    All,
    /// One.
    Named(String),
    /// Those whose names a pattern takes, as it does names of topics.
    Like(TopicPattern),
}

impl Chosen {
    /// Reads a name or a pattern; empty: all.
    ///
    /// # Errors
    /// `INVALID_NAME`, `INVALID_PATTERN`.
    pub fn parse(text: &str) -> Result<Self, Rejection> {
        if text.is_empty() {
            return Ok(Self::All);
        }
        if text.contains(['*', '>']) {
            return Ok(Self::Like(TopicPattern::parse(text)?));
        }
        name::check_subscription(text)?;
        Ok(Self::Named(text.to_owned()))
    }

    /// Whether it tells of a subscription with this name.
    #[must_use]
    pub fn has(&self, subscription: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(name) => name == subscription,
            Self::Like(pattern) => pattern.matches(subscription),
        }
    }
}

/// How an event stands with a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may be delivered.
    Pending,
    /// It may be delivered from then on.
    Delayed(UnixMs),
    /// It was called off before it could be delivered, and is not going to be.
    Cancelled,
    /// A consumer has it, for the first time or again.
    Leased(Holder),
    /// It failed, or was redriven, and may be delivered again from then on.
    Retrying(UnixMs),
    /// It was acknowledged.
    Acked,
    /// It does not pass the subscription's filter.
    Filtered,
    /// It is from before the place where the subscription starts.
    Before,
    /// It ended for good.
    Dead(Death),
}

/// Who has an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// The consumer; empty: the hub did not look through all leases.
    pub consumer: String,
    /// Until when.
    pub until: UnixMs,
}

/// The end of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// Its number among the subscription's dead letters; `None`: none is kept of it.
    pub number: Option<DeadNumber>,
    /// Why.
    pub reason: DeadReason,
    /// When.
    pub at: UnixMs,
}

/// What became of an event in one subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fate {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// Its name.
    pub name: String,
    /// How the event stands there.
    pub standing: Standing,
    /// Failures since the last redrive.
    pub failures: u32,
    /// The first and the newest of them, while they are kept.
    pub attempts: Vec<Attempt>,
    /// How often it came back from the dead.
    pub redrives: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::rejection::Reason;

    #[test]
    fn subscriptions_are_chosen_by_name_or_pattern() {
        for (text, yes, no) in [
            ("", &["a", "a.b"][..], &[][..]),
            ("mail", &["mail"], &["mail.x", "mailer"]),
            (".odd.", &[".odd."], &["odd"]),
            ("mail.*", &["mail.x"], &["mail", "mail.x.y"]),
            ("mail.>", &["mail.x", "mail.x.y"], &["mail"]),
        ] {
            let chosen = Chosen::parse(text).unwrap();
            assert!(yes.iter().all(|name| chosen.has(name)), "{text}");
            assert!(!no.iter().any(|name| chosen.has(name)), "{text}");
        }
        for (text, reason) in [("a b", Reason::InvalidName), ("a*", Reason::InvalidPattern)] {
            assert_eq!(Chosen::parse(text).unwrap_err().reason, reason, "{text}");
        }
    }
}
