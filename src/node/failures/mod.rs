//! Retries and dead letters: looking at them, and moving them by hand.

use std::ops::ControlFlow;

use prost::Message as _;

use super::query::Consistency;
use super::{Node, unexpected};
use crate::machine::Fault;
use crate::machine::delivery::dead::{self, DeadLetter};
use crate::machine::delivery::failures::FailureRecord;
use crate::machine::delivery::query::{self as delivery, each_dead_letter};
use crate::machine::kv::Kv;
use crate::machine::subscription::{progress, state};
use crate::model::command::{CancelRetry, Kind, PurgeDead, Redrive, RetryNow};
use crate::model::delivery::{DeadReason, Moved};
use crate::model::event::EventView;
use crate::model::ids::{DeadNumber, Offset, SubscriptionId, TopicId};
use crate::model::limits::{
    DEAD_LETTERS_MOVED_BYTES, DEAD_LETTERS_PER_COMMAND, DEAD_LETTERS_SCANNED_MAX,
    PAGE_BYTES_TARGET, RETRIES_PER_COMMAND,
};
use crate::model::outcome::Outcome;
use crate::model::ranges::{OffsetRange, Ranges};
use crate::model::rejection::{Reason, Rejection};

/// Which dead letters; what is empty or 0 fits all.
#[derive(Clone, Debug, Default)]
pub struct DeadLetterFilter {
    /// Any of these.
    pub reasons: Vec<DeadReason>,
    /// CloudEvents `type`.
    pub event_type: String,
    /// The event's key.
    pub key: String,
    /// The origin's topic.
    pub topic: String,
    /// Died at or after this, Unix milliseconds.
    pub died_from_ms: u64,
    /// Died before this, Unix milliseconds.
    pub died_until_ms: u64,
}

impl DeadLetterFilter {
    fn fits(&self, letter: &DeadLetter) -> Result<bool, Fault> {
        let named = |wanted: &str, actual: &str| wanted.is_empty() || wanted == actual;
        if !(self.reasons.is_empty() || self.reasons.contains(&letter.reason()))
            || !named(&self.topic, &letter.topic)
            || letter.died_at_ms < self.died_from_ms
            || (self.died_until_ms > 0 && letter.died_at_ms >= self.died_until_ms)
        {
            return Ok(false);
        }
        if self.event_type.is_empty() && self.key.is_empty() {
            return Ok(true);
        }
        let event = EventView::read(&letter.event)?;
        Ok(named(&self.event_type, event.kind) && named(&self.key, event.key))
    }
}

/// Dead letters to move.
#[derive(Clone, Debug)]
pub struct DeadLetterChoice {
    /// These; empty: all that fit the filter.
    pub numbers: Vec<u64>,
    /// Without numbers: which.
    pub filter: DeadLetterFilter,
    /// Only those after this one.
    pub after: DeadNumber,
    /// Only those up to this one.
    pub up_to: DeadNumber,
    /// At most this many, and no more than `limits::DEAD_LETTERS_PER_COMMAND`; 0 is that many.
    pub limit: usize,
}

impl Default for DeadLetterChoice {
    /// All of them.
    fn default() -> Self {
        Self {
            numbers: Vec::new(),
            filter: DeadLetterFilter::default(),
            after: DeadNumber(0),
            up_to: DeadNumber(u64::MAX),
            limit: 0,
        }
    }
}

/// What becomes of dead letters that are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// They are only counted.
    Count,
    /// They are delivered anew.
    Redrive,
    /// They are forgotten.
    Purge,
}

/// A part of a list, and where to go on; `None`: that was all.
pub type Page<T, P> = (Vec<T>, Option<P>);

/// A failed event with the name of its topic.
#[derive(Clone, Debug)]
pub struct RetryInfo {
    /// Its topic.
    pub topic: String,
    /// Its place.
    pub place: (TopicId, Offset),
    /// Its story.
    pub story: FailureRecord,
}

/// What becomes of retries that are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryFate {
    /// They are ready at once.
    Now,
    /// They are dead at once.
    Cancel,
}

impl Node {
    async fn subscription_id(
        &self,
        name: &str,
        wanted: Consistency,
    ) -> Result<SubscriptionId, Rejection> {
        Ok(self.subscription(name, wanted).await?.id)
    }

    /// Dead letters after one, at most `limit` and about 1 MiB of them without their events.
    ///
    /// # Errors
    /// `SUBSCRIPTION_NOT_FOUND`, and those of [`Node::fresh`].
    pub async fn dead_letters(
        &self,
        subscription: &str,
        filter: DeadLetterFilter,
        after: DeadNumber,
        limit: usize,
        wanted: Consistency,
    ) -> Result<Page<(DeadNumber, DeadLetter), DeadNumber>, Rejection> {
        let id = self.subscription_id(subscription, wanted).await?;
        self.read(move |db| {
            let (mut page, mut bytes) = (Vec::new(), 0);
            let all = (after, DeadNumber(u64::MAX));
            let next = fitting(db, id, &filter, all, &mut |number, letter| {
                bytes += letter.attempts.iter().map(|a| a.detail.len()).sum::<usize>();
                bytes += letter.event.len();
                page.push((number, letter));
                page.len() < limit && bytes < PAGE_BYTES_TARGET
            })?;
            Ok((page, next))
        })
        .await
    }

    /// A dead letter.
    ///
    /// # Errors
    /// `SUBSCRIPTION_NOT_FOUND`, `DEAD_LETTER_NOT_FOUND`, and those of [`Node::fresh`].
    pub async fn dead_letter(
        &self,
        subscription: &str,
        number: DeadNumber,
        wanted: Consistency,
    ) -> Result<DeadLetter, Rejection> {
        let id = self.subscription_id(subscription, wanted).await?;
        let found = self.read(move |db| dead::get(db, id, number)).await?;
        found.ok_or_else(|| no_dead_letters(subscription, &format!("no dead letter {number}")))
    }

    /// Moves a bounded number of dead letters; and which was the last that ever died.
    ///
    /// # Errors
    /// `SUBSCRIPTION_NOT_FOUND`, `DEAD_LETTER_NOT_FOUND` when all that were named are gone, and those
    /// of any proposal.
    pub async fn move_dead_letters(
        &self,
        subscription: &str,
        choice: DeadLetterChoice,
        fate: Fate,
    ) -> Result<(Moved, DeadNumber), Rejection> {
        if choice.numbers.len() > DEAD_LETTERS_PER_COMMAND {
            return Err(Rejection::new(
                Reason::InvalidRequest,
                format!(
                    "{} dead letters are named, {DEAD_LETTERS_PER_COMMAND} is the most; name fewer at once",
                    choice.numbers.len()
                ),
            ));
        }
        let id = self.subscription_id(subscription, Consistency::Linearizable).await?;
        let named = !choice.numbers.is_empty() && choice.after == DeadNumber(0);
        let found = self.read(move |db| {
            let last = state::get(db, id)?.map_or(0, |state| state.last_dead_number);
            Ok((chosen(db, id, &choice)?, DeadNumber(last)))
        });
        let ((numbers, next), last) = found.await?;
        if numbers.is_empty() && named {
            return Err(no_dead_letters(subscription, "none of the dead letters that were named"));
        }
        if numbers.is_empty() || fate == Fate::Count {
            return Ok((Moved { count: numbers.len() as u64, left: 0, next }, last));
        }
        let subscription = subscription.to_owned();
        let kind = match fate {
            Fate::Redrive => Kind::Redrive(Redrive { subscription, numbers, ..Redrive::default() }),
            Fate::Purge | Fate::Count => {
                Kind::PurgeDead(PurgeDead { subscription, numbers, up_to: 0 })
            }
        };
        match self.execute(kind).await {
            Ok(Outcome::Moved(moved)) => Ok((Moved { next, ..moved }, last)),
            Ok(other) => Err(unexpected(&other)),
            // Somebody else was faster; there may be more to do.
            Err(gone) if gone.reason == Reason::DeadLetterNotFound && !named => {
                Ok((Moved { next, ..Moved::default() }, last))
            }
            Err(rejection) => Err(rejection),
        }
    }

    /// Failed events from a place on.
    ///
    /// # Errors
    /// `SUBSCRIPTION_NOT_FOUND`, and those of [`Node::fresh`].
    pub async fn retries(
        &self,
        subscription: &str,
        from: (TopicId, Offset),
        limit: usize,
        wanted: Consistency,
    ) -> Result<Page<RetryInfo, (TopicId, Offset)>, Rejection> {
        let id = self.subscription_id(subscription, wanted).await?;
        self.read(move |db| retries(db, id, from, limit)).await
    }

    /// Moves a bounded number of failed events: those at the offsets of a topic, or from a place on.
    ///
    /// # Errors
    /// `SUBSCRIPTION_NOT_FOUND`, `TOPIC_NOT_FOUND`, and those of any proposal.
    pub async fn move_retries(
        &self,
        subscription: &str,
        topic: Option<&str>,
        offsets: &[u64],
        from: (TopicId, Offset),
        fate: RetryFate,
    ) -> Result<(Moved, Option<(TopicId, Offset)>), Rejection> {
        let id = self.subscription_id(subscription, Consistency::Linearizable).await?;
        let topic = match topic {
            Some(name) => Some(self.known_topic(name).await?.id),
            None => None,
        };
        if let (Some(topic), false) = (topic, offsets.is_empty()) {
            let ranges: Vec<_> =
                offsets.iter().map(|offset| OffsetRange::one(Offset(*offset))).collect();
            let ranges = Ranges::from_unsorted(&ranges).into_vec();
            return Ok((self.move_retries_of(subscription, topic, ranges, fate).await?, None));
        }
        let from = topic.map_or(from, |topic| from.max((topic, Offset(0))));
        // One command is about one topic: what the page has of the next one waits for the next call.
        let (page, next) = self.read(move |db| retries(db, id, from, RETRIES_PER_COMMAND)).await?;
        let Some((first, _)) = page.first().map(|retry| retry.place) else {
            return Ok((Moved::default(), None));
        };
        if topic.is_some_and(|topic| topic != first) {
            return Ok((Moved::default(), None));
        }
        let other = page.iter().map(|retry| retry.place).find(|place| place.0 != first);
        let offsets = page.iter().filter(|r| r.place.0 == first).map(|r| r.place.1);
        let ranges = offsets.collect::<Ranges>().into_vec();
        let next = other.or(next).filter(|next| topic.is_none_or(|topic| topic == next.0));
        Ok((self.move_retries_of(subscription, first, ranges, fate).await?, next))
    }

    async fn move_retries_of(
        &self,
        subscription: &str,
        topic: TopicId,
        ranges: Vec<OffsetRange>,
        fate: RetryFate,
    ) -> Result<Moved, Rejection> {
        let (subscription, topic_id) = (subscription.to_owned(), topic.get());
        let kind = match fate {
            RetryFate::Now => Kind::RetryNow(RetryNow { subscription, topic_id, ranges }),
            RetryFate::Cancel => Kind::CancelRetry(CancelRetry { subscription, topic_id, ranges }),
        };
        match self.execute(kind).await? {
            Outcome::Moved(moved) => Ok(moved),
            other => Err(unexpected(&other)),
        }
    }
}

fn no_dead_letters(subscription: &str, which: &str) -> Rejection {
    Rejection::new(
        Reason::DeadLetterNotFound,
        format!(
            "subscription {subscription} has {which}; list them with: mhub dlq ls {subscription}"
        ),
    )
    .with("subscription", subscription)
}

/// Hands out the dead letters after one and up to another that fit, while `take` wants more; the one to go
/// on after, `None` when there are no more.
fn fitting(
    kv: &impl Kv,
    id: SubscriptionId,
    filter: &DeadLetterFilter,
    (after, up_to): (DeadNumber, DeadNumber),
    take: &mut dyn FnMut(DeadNumber, DeadLetter) -> bool,
) -> Result<Option<DeadNumber>, Fault> {
    let (mut seen, mut last, mut more, mut wanted) = (0, after, false, true);
    each_dead_letter(kv, id, after, &mut |number, letter| {
        if number > up_to {
            return Ok(ControlFlow::Break(()));
        }
        more = !wanted || seen == DEAD_LETTERS_SCANNED_MAX;
        if more {
            return Ok(ControlFlow::Break(()));
        }
        (seen, last) = (seen + 1, number);
        if filter.fits(&letter)? {
            wanted = take(number, letter);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(more.then_some(last))
}

/// The numbers of the dead letters to move, and the one to go on after.
fn chosen(
    kv: &impl Kv,
    id: SubscriptionId,
    choice: &DeadLetterChoice,
) -> Result<(Vec<u64>, Option<DeadNumber>), Fault> {
    let limit = match choice.limit {
        0 => DEAD_LETTERS_PER_COMMAND,
        limit => limit.min(DEAD_LETTERS_PER_COMMAND),
    };
    let (mut numbers, mut bytes) = (Vec::new(), 0);
    let mut take = |number: DeadNumber, letter: DeadLetter| {
        numbers.push(number.get());
        // A redrive writes its story anew.
        bytes += letter.encoded_len();
        numbers.len() < limit && bytes < DEAD_LETTERS_MOVED_BYTES
    };
    if choice.numbers.is_empty() {
        let bounds = (choice.after, choice.up_to);
        let next = fitting(kv, id, &choice.filter, bounds, &mut take)?;
        return Ok((numbers, next));
    }
    let named = choice.numbers.iter().map(|number| DeadNumber(*number));
    let mut wanted: Vec<_> = named.filter(|number| *number <= choice.up_to).collect();
    wanted.sort_unstable();
    wanted.dedup();
    for number in wanted.iter().copied().filter(|number| *number > choice.after) {
        let Some(letter) = dead::get(kv, id, number)? else { continue };
        if !take(number, letter) {
            return Ok((numbers, wanted.last().is_some_and(|l| *l > number).then_some(number)));
        }
    }
    Ok((numbers, None))
}

fn retries(
    kv: &impl Kv,
    id: SubscriptionId,
    from: (TopicId, Offset),
    limit: usize,
) -> Result<Page<RetryInfo, (TopicId, Offset)>, Fault> {
    let found = delivery::retries(kv, id, from, limit + 1)?;
    let (mut page, mut bytes) = (Vec::<RetryInfo>::new(), 0);
    for (topic, offset, story) in found {
        if page.len() == limit || bytes > PAGE_BYTES_TARGET {
            return Ok((page, Some((topic, offset))));
        }
        bytes += story.encoded_len();
        let name = match page.last() {
            Some(before) if before.place.0 == topic => before.topic.clone(),
            _ => progress::stored(kv, id, topic)?.map(|p| p.topic).unwrap_or_default(),
        };
        page.push(RetryInfo { topic: name, place: (topic, offset), story });
    }
    Ok((page, None))
}

#[cfg(test)]
mod tests;
