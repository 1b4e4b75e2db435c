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
use crate::machine::subscription::progress;
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
#[derive(Clone, Debug, Default)]
pub struct DeadLetterChoice {
    /// These; empty: all that fit the filter.
    pub numbers: Vec<u64>,
    /// Without numbers: which.
    pub filter: DeadLetterFilter,
    /// Only those after this one.
    pub after: DeadNumber,
    /// At most this many, and no more than `limits::DEAD_LETTERS_PER_COMMAND`; 0 is that many.
    pub limit: usize,
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
            let next = fitting(db, id, &filter, after, &mut |number, letter| {
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

    /// Moves a bounded number of dead letters.
    ///
    /// # Errors
    /// `SUBSCRIPTION_NOT_FOUND`, `DEAD_LETTER_NOT_FOUND` when all that were named are gone, and those
    /// of any proposal.
    pub async fn move_dead_letters(
        &self,
        subscription: &str,
        choice: DeadLetterChoice,
        fate: Fate,
    ) -> Result<Moved, Rejection> {
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
        let (numbers, next) = self.read(move |db| chosen(db, id, &choice)).await?;
        if numbers.is_empty() && named {
            return Err(no_dead_letters(subscription, "none of the dead letters that were named"));
        }
        if numbers.is_empty() || fate == Fate::Count {
            return Ok(Moved { count: numbers.len() as u64, left: 0, next });
        }
        let subscription = subscription.to_owned();
        let kind = match fate {
            Fate::Redrive => Kind::Redrive(Redrive { subscription, numbers, ..Redrive::default() }),
            Fate::Purge | Fate::Count => {
                Kind::PurgeDead(PurgeDead { subscription, numbers, up_to: 0 })
            }
        };
        match self.execute(kind).await {
            Ok(Outcome::Moved(moved)) => Ok(Moved { next, ..moved }),
            Ok(other) => Err(unexpected(&other)),
            // Somebody else was faster; there may be more to do.
            Err(gone) if gone.reason == Reason::DeadLetterNotFound && !named => {
                Ok(Moved { next, ..Moved::default() })
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

/// Hands out the dead letters after one that fit, while `take` wants more; the one to go on after,
/// `None` when there are no more.
fn fitting(
    kv: &impl Kv,
    id: SubscriptionId,
    filter: &DeadLetterFilter,
    after: DeadNumber,
    take: &mut dyn FnMut(DeadNumber, DeadLetter) -> bool,
) -> Result<Option<DeadNumber>, Fault> {
    let (mut seen, mut last, mut more, mut wanted) = (0, after, false, true);
    each_dead_letter(kv, id, after, &mut |number, letter| {
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
        bytes += letter.event.len();
        numbers.len() < limit && bytes < DEAD_LETTERS_MOVED_BYTES
    };
    if choice.numbers.is_empty() {
        let next = fitting(kv, id, &choice.filter, choice.after, &mut take)?;
        return Ok((numbers, next));
    }
    let mut wanted: Vec<_> = choice.numbers.iter().map(|number| DeadNumber(*number)).collect();
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
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::machine::kv::{Table, Write};
    use crate::machine::mem::MemKv;
    use crate::model::event::EventView;
    use crate::proto::v1::Event;

    const ID: SubscriptionId = SubscriptionId(1);

    /// Dead letters 1 to 6 and one of another subscription: even ones were rejected and have key
    /// `k`, all of type `t` and died at their number.
    fn kv(data_len: usize) -> MemKv {
        let mut kv = MemKv::default();
        let letter = |id: SubscriptionId, number: u64| {
            let event = Event {
                id: number.to_string(),
                source: "/s".to_owned(),
                r#type: "t".to_owned(),
                key: if number.is_multiple_of(2) { "k".to_owned() } else { String::new() },
                data: vec![0; data_len].into(),
                ..Event::default()
            };
            let event = event.encode_to_vec();
            assert!(EventView::parse(&event).is_ok());
            let reason = match number % 2 {
                0 => DeadReason::Rejected,
                _ => DeadReason::MaxAttempts,
            };
            let letter = DeadLetter {
                topic: "orders".to_owned(),
                event: event.into(),
                reason: reason as i32,
                died_at_ms: number,
                ..DeadLetter::default()
            };
            let row = dead::row_key(id, DeadNumber(number));
            Write::Put(Table::DeadLetters, row, letter.encode())
        };
        let mut writes: Vec<_> = (1..=6).map(|number| letter(ID, number)).collect();
        writes.push(letter(ID.next(), 1));
        kv.write(writes);
        kv
    }

    fn numbers(choice: &DeadLetterChoice) -> (Vec<u64>, Option<DeadNumber>) {
        chosen(&kv(10), ID, choice).unwrap()
    }

    fn filtered(change: impl FnOnce(&mut DeadLetterFilter)) -> Vec<u64> {
        let mut filter = DeadLetterFilter::default();
        change(&mut filter);
        numbers(&DeadLetterChoice { filter, ..DeadLetterChoice::default() }).0
    }

    #[test]
    fn a_filter_asks_for_everything_that_it_names() {
        assert_eq!(filtered(|_| ()), [1, 2, 3, 4, 5, 6]);
        assert_eq!(filtered(|f| f.reasons = vec![DeadReason::Rejected]), [2, 4, 6]);
        assert_eq!(filtered(|f| f.key = "k".into()), [2, 4, 6]);
        assert_eq!(filtered(|f| f.event_type = "other".into()), [0; 0]);
        assert_eq!(filtered(|f| f.topic = "orders".into()).len(), 6);
        assert_eq!(filtered(|f| (f.died_from_ms, f.died_until_ms) = (2, 5)), [2, 3, 4]);
        let both = |f: &mut DeadLetterFilter| {
            f.key = "k".into();
            f.died_from_ms = 3;
        };
        assert_eq!(filtered(both), [4, 6]);
    }

    #[test]
    fn steps_lead_to_the_end() {
        let filter = DeadLetterFilter { key: "k".into(), ..DeadLetterFilter::default() };
        let mut choice = DeadLetterChoice { filter, limit: 2, ..DeadLetterChoice::default() };
        let (first, next) = numbers(&choice);
        assert_eq!((first, next), (vec![2, 4], Some(DeadNumber(4))));
        choice.after = DeadNumber(4);
        assert_eq!(numbers(&choice), (vec![6], None));
        let named = DeadLetterChoice { numbers: vec![5, 99, 1, 5], ..Default::default() };
        assert_eq!(numbers(&named), (vec![1, 5], None));
        let some = DeadLetterChoice { numbers: vec![5, 1], limit: 1, ..Default::default() };
        assert_eq!(numbers(&some), (vec![1], Some(DeadNumber(1))));
        assert_eq!(numbers(&DeadLetterChoice { after: DeadNumber(1), ..some }), (vec![5], None));
    }

    #[test]
    fn a_step_is_bounded_in_bytes() {
        let kv = kv(DEAD_LETTERS_MOVED_BYTES / 2);
        for numbers in [vec![], vec![1, 2, 3, 4]] {
            let choice = DeadLetterChoice { numbers, ..DeadLetterChoice::default() };
            let (chosen, next) = chosen(&kv, ID, &choice).unwrap();
            assert_eq!((chosen, next), (vec![1, 2], Some(DeadNumber(2))));
        }
    }

    #[test]
    fn retries_come_in_pages() {
        let mut kv = MemKv::default();
        let places = [(1, 5), (1, 6), (2, 0)];
        kv.write(
            places
                .map(|(topic, offset)| {
                    let row = crate::machine::delivery::failures::row_key(
                        ID,
                        TopicId(topic),
                        Offset(offset),
                    );
                    Write::Put(Table::Failures, row, FailureRecord::default().encode())
                })
                .into(),
        );
        let page = |from, limit| {
            let (page, next) = retries(&kv, ID, from, limit).unwrap();
            let places = page.into_iter().map(|r| (r.place.0.get(), r.place.1.get()));
            (places.collect::<Vec<_>>(), next)
        };
        let (first, next) = page((TopicId(0), Offset(0)), 2);
        assert_eq!((&first[..], next), (&places[..2], Some((TopicId(2), Offset(0)))));
        assert_eq!(page(next.unwrap(), 2), (places[2..].to_vec(), None));
    }
}
