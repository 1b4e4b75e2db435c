//! Between the messages of failures and the words of the hub.

use super::convert::invalid;
use crate::machine::delivery::dead::DeadLetter;
use crate::machine::delivery::failures::Standing;
use crate::model::delivery::{Attempt, DeadReason, Moved};
use crate::model::event::EventView;
use crate::model::ids::{DeadNumber, Offset, TopicId};
use crate::model::rejection::Rejection;
use crate::node::failures::{DeadLetterChoice, DeadLetterFilter, RetryInfo};
use crate::proto::v1::{self, MoveDeadLettersResponse, Retry, RetryStanding};

/// Reasons that one filter names.
const REASONS_MAX: usize = 16;

pub(super) fn filter(filter: Option<v1::DeadLetterFilter>) -> Result<DeadLetterFilter, Rejection> {
    let filter = filter.unwrap_or_default();
    if filter.reasons.len() > REASONS_MAX {
        return Err(invalid(format!(
            "the filter names {} reasons, {REASONS_MAX} is the most; name fewer",
            filter.reasons.len()
        )));
    }
    let mut reasons = Vec::new();
    for reason in filter.reasons {
        // The numbers of the API are those that are persisted.
        let known = DeadReason::try_from(reason).ok().filter(|r| *r != DeadReason::Unspecified);
        reasons.push(known.ok_or_else(|| {
            invalid(format!("dead letters have no reason {reason}; take one of the API's"))
        })?);
    }
    Ok(DeadLetterFilter {
        reasons,
        event_type: filter.event_type,
        key: filter.key,
        topic: filter.topic,
        died_from_ms: filter.died_from_ms,
        died_until_ms: filter.died_until_ms,
    })
}

pub(super) fn choice(choice: Option<v1::DeadLetterChoice>) -> Result<DeadLetterChoice, Rejection> {
    let choice = choice.unwrap_or_default();
    if !choice.numbers.is_empty() && choice.filter.is_some() {
        return Err(invalid("dead letters are named by number and by a filter; use one of them"));
    }
    Ok(DeadLetterChoice {
        filter: filter(choice.filter)?,
        numbers: choice.numbers,
        after: DeadNumber(choice.after),
        up_to: match choice.up_to {
            0 => DeadNumber(u64::MAX),
            number => DeadNumber(number),
        },
        limit: usize::try_from(choice.limit).unwrap_or(usize::MAX),
    })
}

/// Whether a dead letter is one of many.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum InList {
    Yes,
    No,
}

pub(super) fn dead_letter(
    number: DeadNumber,
    mut letter: DeadLetter,
    in_list: InList,
) -> v1::DeadLetter {
    // It was checked when it was published.
    let event = EventView::read(&letter.event).unwrap_or_default();
    let [event_id, event_source, event_type, key] =
        [event.id, event.source, event.kind, event.key].map(str::to_owned);
    if in_list == InList::Yes {
        letter.attempts.drain(..letter.attempts.len().saturating_sub(1));
    }
    v1::DeadLetter {
        number: number.get(),
        reason: letter.reason,
        died_at_ms: letter.died_at_ms,
        topic: letter.topic,
        offset: letter.offset,
        position: letter.position,
        recorded_at_ms: letter.recorded_at_ms,
        event_id,
        event_source,
        event_type,
        key,
        key_version: letter.key_version,
        failures: letter.failures,
        attempts: letter.attempts.into_iter().map(attempt).collect(),
        redrives: letter.redrives,
        event: if in_list == InList::Yes { bytes::Bytes::new() } else { letter.event },
    }
}

pub(super) fn attempt(attempt: Attempt) -> v1::Attempt {
    v1::Attempt {
        number: attempt.number,
        failed_at_ms: attempt.failed_at_ms,
        consumer: attempt.consumer,
        reason: attempt.reason,
        detail: attempt.detail,
    }
}

pub(super) fn moved((moved, last): (Moved, DeadNumber)) -> MoveDeadLettersResponse {
    let next = moved.next.map_or(0, DeadNumber::get);
    MoveDeadLettersResponse { moved: moved.count, left: moved.left, next, last: last.get() }
}

pub(super) fn retry(info: RetryInfo) -> Retry {
    let standing = match info.story.stands() {
        Standing::Retry | Standing::Dying => RetryStanding::Waiting,
        Standing::Ready => RetryStanding::Ready,
        Standing::Leased => RetryStanding::InFlight,
    };
    Retry {
        topic: info.topic,
        offset: info.place.1.get(),
        standing: standing.into(),
        failures: info.story.failures,
        due_at_ms: info.story.due_ms,
        attempts: info.story.attempts.into_iter().map(attempt).collect(),
        redrives: info.story.redrives,
    }
}

fn no_token(token: &str) -> Rejection {
    invalid(format!("page_token {token:?} is of no page; take it from the answer before"))
}

/// A page token of dead letters.
pub(super) fn number(token: &str) -> Result<DeadNumber, Rejection> {
    match token {
        "" => Ok(DeadNumber(0)),
        _ => token.parse().map(DeadNumber).map_err(|_| no_token(token)),
    }
}

/// A page token of retries.
pub(super) fn place(token: &str) -> Result<(TopicId, Offset), Rejection> {
    if token.is_empty() {
        return Ok((TopicId(0), Offset(0)));
    }
    let parts = token.split_once('-').and_then(|(topic, offset)| {
        Some((TopicId(topic.parse().ok()?), Offset(offset.parse().ok()?)))
    });
    parts.ok_or_else(|| no_token(token))
}

pub(super) fn next_place(place: Option<(TopicId, Offset)>) -> String {
    place.map(|(topic, offset)| format!("{topic}-{offset}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back() {
        for at in [(TopicId(3), Offset(7)), (TopicId(u64::MAX), Offset(0))] {
            assert_eq!(place(&next_place(Some(at))).unwrap(), at);
        }
        assert_eq!(place("").unwrap(), (TopicId(0), Offset(0)));
        assert_eq!(number("").unwrap(), DeadNumber(0));
        for token in ["x", "1", "-", "1-", "1-x"] {
            assert!(place(token).is_err(), "{token}");
        }
        assert!(number("-1").is_err());
    }

    #[test]
    fn the_numbers_of_reasons_are_those_of_the_state() {
        for n in 0..=6 {
            let public = v1::DeadReason::try_from(n).unwrap().as_str_name();
            let kept = DeadReason::try_from(n).unwrap().as_str();
            assert_eq!(public, format!("DEAD_REASON_{kept}"));
        }
        assert!(
            filter(Some(v1::DeadLetterFilter { reasons: vec![0], ..Default::default() })).is_err()
        );
    }
}
