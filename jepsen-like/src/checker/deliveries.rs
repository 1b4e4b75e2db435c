//! Deliveries of a subscription, sorted by event: what the checkers of subscriptions look at.

use std::collections::BTreeMap;

use super::Facts;
use crate::delivered::{Action, Event};
use crate::history::{Answer, End, Op, Operation};

/// An event that a consumer got.
#[derive(Clone, Copy, Debug)]
pub struct Got<'f> {
    /// The lease's id: grows with every grant.
    pub lease: u64,
    /// The leader's term; 0 where it was not told.
    pub term: u64,
    /// When the lease ends by the hub's clock; 0 where it was not told.
    pub expires_at_ms: u64,
    /// The event.
    pub event: Event,
    /// The operation that brought it.
    pub take: &'f Operation,
    /// It came by a stream.
    pub streamed: bool,
}

/// What became of a settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The hub says that it was done.
    Done,
    /// The hub says that it was not.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// A settlement of one event.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// The lease that it was done with.
    pub lease: u64,
    /// How.
    pub action: Action,
    /// When it began.
    pub call_us: u64,
    /// When it was answered.
    pub return_us: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// Everything that happened to one event.
#[derive(Clone, Debug, Default)]
pub struct Story<'f> {
    /// By lease, the oldest first.
    pub got: Vec<Got<'f>>,
    /// In the order of time.
    pub ended: Vec<Ended>,
}

impl Story<'_> {
    /// Whether the hub says that a settlement like this was done, or may have been.
    #[must_use]
    pub fn ended_by(&self, wanted: impl Fn(&Ended) -> bool, outcomes: &[Outcome]) -> bool {
        self.ended.iter().any(|ended| wanted(ended) && outcomes.contains(&ended.outcome))
    }

    /// Acknowledged for certain.
    #[must_use]
    pub fn acked(&self) -> bool {
        self.ended_by(|ended| ended.action == Action::Ack, &[Outcome::Done])
    }

    /// Acknowledged, as far as anybody knows.
    #[must_use]
    pub fn may_be_acked(&self) -> bool {
        self.ended_by(|ended| ended.action == Action::Ack, &[Outcome::Done, Outcome::Unknown])
    }
}

/// The stories of a subscription's events, by value.
#[must_use]
pub fn stories<'f>(facts: &'f Facts, subscription: &str) -> BTreeMap<u64, Story<'f>> {
    let mut stories: BTreeMap<u64, Story<'f>> = BTreeMap::new();
    for operation in &facts.operations {
        match (&operation.op, &operation.end) {
            (Op::Take { subscription: name, streamed, .. }, End::Ok(Answer::Leased { leases }))
                if name == subscription =>
            {
                for lease in leases {
                    for event in &lease.events {
                        stories.entry(event.value).or_default().got.push(Got {
                            lease: lease.id,
                            term: lease.term,
                            expires_at_ms: lease.expires_at_ms,
                            event: *event,
                            take: operation,
                            streamed: *streamed,
                        });
                    }
                }
            }
            (Op::Settle { subscription: name, lease, action, values, .. }, end)
                if name == subscription =>
            {
                for value in values {
                    stories.entry(*value).or_default().ended.push(Ended {
                        lease: *lease,
                        action: *action,
                        call_us: operation.call_us,
                        return_us: operation.return_us,
                        outcome: outcome(end, *value),
                    });
                }
            }
            _ => {}
        }
    }
    for story in stories.values_mut() {
        story.got.sort_by_key(|got| got.lease);
    }
    stories
}

/// What is not refused counts as done, whatever the hub says that it was done to.
fn outcome(end: &End, value: u64) -> Outcome {
    match end {
        End::Ok(Answer::Settled { done, refused }) => {
            if done.contains(&value) || refused.is_empty() {
                Outcome::Done
            } else {
                Outcome::Refused
            }
        }
        End::Ok(_) | End::Info { .. } => Outcome::Unknown,
        End::Fail { .. } => Outcome::Refused,
    }
}

/// The dead letters of a subscription after the run, by value.
#[must_use]
pub fn dead(facts: &Facts, subscription: &str) -> BTreeMap<u64, Vec<crate::delivered::Letter>> {
    let mut dead: BTreeMap<u64, Vec<crate::delivered::Letter>> = BTreeMap::new();
    let letters = facts.subscriptions.get(subscription).map_or(&[][..], |(_, letters)| letters);
    for letter in letters {
        dead.entry(value_at(facts, letter.offset)).or_default().push(*letter);
    }
    dead
}

/// The value at an offset of the log; 0, which is none, where there is nothing.
#[must_use]
pub fn value_at(facts: &Facts, offset: u64) -> u64 {
    let at = usize::try_from(offset).unwrap_or(usize::MAX);
    facts.log().get(at).copied().unwrap_or(0)
}

#[cfg(test)]
pub(crate) mod made {
    //! Deliveries made by hand.

    use super::super::made::{operation, published};
    use super::*;
    use crate::delivered::{Counts, Lease, Letter};

    pub(crate) const NAME: &str = "sub";

    /// An event that was published at the offset before its value.
    pub(crate) fn event(value: u64, attempt: u32) -> Event {
        let offset = value - 1;
        Event { value, offset, attempt, priority: 4, deadline_ms: 0, recorded_at_ms: 1000 }
    }

    pub(crate) fn take(lease: u64, events: &[Event], call_us: u64, return_us: u64) -> Operation {
        let op = Op::Take { subscription: NAME.to_owned(), consumer: 1, streamed: false };
        let lease =
            Lease { id: lease, term: 1, topic_id: 1, expires_at_ms: 5000, events: events.to_vec() };
        operation(op, call_us, return_us, End::Ok(Answer::Leased { leases: vec![lease] }))
    }

    pub(crate) fn settle(lease: u64, action: Action, value: u64, call_us: u64) -> Operation {
        let op = Op::Settle {
            subscription: NAME.to_owned(),
            consumer: 1,
            lease,
            action,
            values: vec![value],
        };
        let answer = Answer::Settled { done: vec![value], refused: String::new() };
        operation(op, call_us, call_us + 1, End::Ok(answer))
    }

    pub(crate) fn refused(mut settle: Operation) -> Operation {
        let refused = "LEASE_EXPIRED".to_owned();
        settle.end = End::Ok(Answer::Settled { done: Vec::new(), refused });
        settle
    }

    pub(crate) fn lost(mut settle: Operation) -> Operation {
        settle.end = super::super::made::unknown();
        settle
    }

    /// A run in which values 1 to `count` were published.
    pub(crate) fn run(
        count: u64,
        operations: Vec<Operation>,
        counts: Counts,
        letters: &[Letter],
    ) -> Facts {
        let log: Vec<u64> = (1..=count).collect();
        let mut all: Vec<Operation> =
            log.iter().map(|value| published(*value, value - 1, 0, 1)).collect();
        all.extend(operations);
        let mut facts = super::super::made::facts(all, &[&log]);
        facts.subscriptions.insert(NAME.to_owned(), (counts, letters.to_vec()));
        facts
    }
}
