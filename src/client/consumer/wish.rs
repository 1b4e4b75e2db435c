//! What somebody wants to be settled, and how wishes become items of a batch.

use prost::Message as _;
use tokio::sync::oneshot;

use crate::model::limits::RANGES_MAX;
use crate::model::ranges::{OffsetRange, Ranges};
use crate::model::rejection::{Reason, Rejection};
use crate::proto::v1::settlement::Action;
use crate::proto::v1::{self, Settlement};

pub(super) type Answer = oneshot::Sender<Result<(), Rejection>>;

/// A settlement that somebody wants.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) lease_id: u64,
    /// Empty: all that is left.
    pub(super) events: Ranges,
    action: Action,
    answer: Option<Answer>,
    /// Sent before without an answer: it may have been done.
    repeated: bool,
    /// Refused together with others: sent again by itself.
    pub(super) alone: bool,
}

impl Wish {
    pub(super) fn new(lease_id: u64, events: Ranges, action: Action) -> Self {
        Self { lease_id, events, action, answer: None, repeated: false, alone: false }
    }

    pub(super) fn answered_to(mut self, answer: Answer) -> Self {
        self.answer = Some(answer);
        self
    }

    pub(super) fn repeated(mut self) -> Self {
        self.repeated = true;
        self
    }

    pub(super) fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    pub(super) fn is_extension(&self) -> bool {
        matches!(self.action, Action::Extend(_))
    }

    /// Whether it is joined with others of its lease: acknowledgements of single events.
    pub(super) fn is_part(&self) -> bool {
        matches!(self.action, Action::Ack(_)) && !self.events.is_empty() && !self.alone
    }

    /// About what it takes in a batch.
    pub(super) fn encoded_len(&self) -> usize {
        /// Tag, length and numbers.
        const OVERHEAD: usize = 32;
        let ranges = self.events.as_slice().len() * OVERHEAD;
        let text = match &self.action {
            Action::Nack(nack) => nack.encoded_len(),
            Action::Reject(reject) => reject.encoded_len(),
            Action::Ack(_) | Action::Release(_) | Action::Extend(_) => 0,
        };
        OVERHEAD + ranges + text
    }

    pub(super) fn answer(self, result: Result<(), Rejection>) {
        if let Some(answer) = self.answer {
            // Whoever does not wait for it has no use for it.
            drop(answer.send(result));
        }
    }

    /// The hub refused it. What was sent before may have been done then.
    pub(super) fn refused(self, rejection: Rejection) {
        let rejection = match rejection.reason {
            Reason::LeaseExpired if self.repeated => Rejection::new(
                Reason::OutcomeUnknown,
                "the connection broke while this was settled; it was settled then, or the lease has run out",
            ),
            _ => rejection,
        };
        self.answer(Err(rejection));
    }
}

/// One item of a batch: wishes of one lease for the same action. Not empty.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) wishes: Vec<Wish>,
    /// How many ranges they name.
    ranges: usize,
}

impl Item {
    pub(super) fn new(wish: Wish) -> Self {
        let ranges = wish.events.as_slice().len();
        Self { wishes: vec![wish], ranges }
    }

    /// Adds another wish of the same lease for the same action.
    pub(super) fn push(&mut self, wish: Wish) {
        self.ranges += wish.events.as_slice().len();
        self.wishes.push(wish);
    }

    pub(super) fn lease_id(&self) -> Option<u64> {
        self.wishes.first().map(|wish| wish.lease_id)
    }

    /// Whether another wish fits in.
    pub(super) fn takes(&self, wish: &Wish) -> bool {
        self.ranges + wish.events.as_slice().len() <= RANGES_MAX
    }

    /// As it is sent; `left` are the events that the lease still has.
    pub(super) fn settlement(&self, term: u64, topic_id: u64, left: &Ranges) -> Option<Settlement> {
        let first = self.wishes.first()?;
        let named = self.wishes.iter().flat_map(|wish| wish.events.as_slice().iter().copied());
        let events = Ranges::from_unsorted(&named.collect::<Vec<OffsetRange>>());
        let events = if events == *left { Ranges::new() } else { events };
        let range = |r: OffsetRange| v1::OffsetRange { first: r.first, count: r.count };
        Some(Settlement {
            lease_id: first.lease_id,
            term,
            topic_id,
            ranges: events.into_vec().into_iter().map(range).collect(),
            action: Some(first.action.clone()),
        })
    }
}
