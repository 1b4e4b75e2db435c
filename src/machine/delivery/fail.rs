//! How a delivery fails: one atomic move, from the lease to a retry or to the dead letters.

use std::ops::ControlFlow;

use prost::Message as _;

use super::dead::{self, DeadLetter};
use super::failures::{self, FailureRecord, Standing};
use super::ready::{self, ReadyKey};
use super::retry;
use super::timers::{self, Due};
use super::work::Work;
use crate::machine::apply::Machine;
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::schedule::rank::Rank;
use crate::machine::schedule::specials::{self, SpecialRecord};
use crate::machine::subscription::state::Placing;
use crate::machine::tracking::endings;
use crate::machine::{Fault, query};
use crate::model::delivery::{Attempt, DeadReason, REASON_LEASE_EXPIRED};
use crate::model::ids::{DeadNumber, Offset, TopicId, UnixMs};
use crate::model::limits::{
    FAILURES_SWEPT_MAX, NACK_DETAIL_BYTES_MAX, NACK_REASON_BYTES_MAX, PRIORITY_DEFAULT,
    RETRY_AFTER_MS_MAX,
};
use crate::model::ranges::Ranges;
use crate::model::rejection::Reason;

/// Why it failed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cause<'a> {
    Nack { retry_after_ms: Option<u64>, reason: &'a str, detail: &'a str },
    Reject { reason: &'a str, detail: &'a str },
    Expired,
}

impl Cause<'_> {
    fn attempt(&self, now: UnixMs, consumer: &str, number: u32) -> Attempt {
        let (reason, detail) = match self {
            Self::Nack { reason, detail, .. } | Self::Reject { reason, detail } => {
                (*reason, *detail)
            }
            Self::Expired => (REASON_LEASE_EXPIRED, ""),
        };
        Attempt {
            failed_at_ms: now.get(),
            consumer: consumer.to_owned(),
            reason: cut(reason, NACK_REASON_BYTES_MAX).to_owned(),
            detail: cut(detail, NACK_DETAIL_BYTES_MAX).to_owned(),
            number,
        }
    }
}

/// The longest beginning of a text that has at most so many bytes.
fn cut(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max)).unwrap_or_default()
}

/// Which deliveries fail: events of one lease.
pub(crate) struct Failing<'a> {
    pub(crate) topic: TopicId,
    pub(crate) events: &'a Ranges,
    /// They have rows in `Failures`.
    pub(crate) retried: bool,
    pub(crate) consumer: &'a str,
}

/// Fails deliveries.
pub(crate) fn fail<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &mut Work,
    failing: &Failing<'_>,
    cause: Cause<'_>,
) -> Result<(), Fault> {
    let (now, topic) = (machine.now(), failing.topic);
    for offset in failing.events.iter() {
        let special = special_of(machine, work, topic, offset)?;
        let mut story = if failing.retried {
            failures::get(machine.overlay(), work.id, topic, offset)?.unwrap_or_default()
        } else {
            first_failure(machine, work, (topic, offset), special.as_ref())?
        };
        story.failures = story.failures.saturating_add(1);
        story.tell(cause.attempt(now, failing.consumer, story.failures));
        let deadline = special.and_then(|s| s.deadline()).filter(|_| story.redrives == 0);
        match judge(work, (topic, offset), &story, cause, now) {
            Verdict::Dead(reason) => end(machine, work, failing, offset, story, reason)?,
            Verdict::Retry { due, .. } if deadline.is_some_and(|deadline| due >= deadline) => {
                end(machine, work, failing, offset, story, DeadReason::DeadlineUnreachable)?;
            }
            Verdict::Retry { due, delay_ms } => {
                (story.due_ms, story.previous_delay_ms) = (due.get(), delay_ms);
                story.stand(Standing::Retry);
                failures::put(machine, work.id, (topic, offset), &story);
                timers::set(machine, due, Due::Retry(work.id, topic, offset));
                work.count_failures(topic, u64::from(!failing.retried), 0)?;
            }
        }
    }
    if !failing.retried {
        work.done(machine, topic, failing.events)?;
    }
    work.wakes = true;
    Ok(())
}

enum Verdict {
    Dead(DeadReason),
    Retry { due: UnixMs, delay_ms: u64 },
}

fn judge(
    work: &Work,
    (topic, offset): (TopicId, Offset),
    story: &FailureRecord,
    cause: Cause<'_>,
    now: UnixMs,
) -> Verdict {
    let policy = &work.record.config.retry;
    let (reason, retry_after_ms) = match cause {
        Cause::Reject { reason, .. } => return Verdict::Dead(rejected(reason)),
        Cause::Nack { reason, retry_after_ms, .. } => (reason, retry_after_ms),
        Cause::Expired => (REASON_LEASE_EXPIRED, None),
    };
    if !reason.is_empty() && policy.non_retryable_reasons.iter().any(|r| r == reason) {
        return Verdict::Dead(DeadReason::NonRetryable);
    }
    if policy.max_attempts > 0 && story.failures >= policy.max_attempts {
        return Verdict::Dead(DeadReason::MaxAttempts);
    }
    let delay_ms = retry::delay_ms(
        policy,
        &retry::Failure {
            topic,
            offset,
            subscription: work.id,
            number: story.failures,
            previous_ms: story.previous_delay_ms,
        },
    );
    let wait_ms = retry_after_ms.map_or(delay_ms, |ms| ms.min(RETRY_AFTER_MS_MAX));
    Verdict::Retry { due: UnixMs(now.get().saturating_add(wait_ms)), delay_ms }
}

/// As what an event dies that a consumer rejects.
fn rejected(reason: &str) -> DeadReason {
    if reason == Reason::SchemaViolated.as_str() {
        DeadReason::SchemaInvalid
    } else {
        DeadReason::Rejected
    }
}

/// The special attributes of an event, without looking where a topic has none.
pub(crate) fn special_of<K: Kv>(
    machine: &Machine<'_, K>,
    work: &mut Work,
    topic: TopicId,
    offset: Offset,
) -> Result<Option<SpecialRecord>, Fault> {
    if work.topic(topic)?.specials == 0 {
        return Ok(None);
    }
    specials::get(machine.overlay(), topic, offset)
}

/// An empty story, with the rank that the event keeps.
fn first_failure<K: Kv>(
    machine: &Machine<'_, K>,
    work: &Work,
    (topic, offset): (TopicId, Offset),
    special: Option<&SpecialRecord>,
) -> Result<FailureRecord, Fault> {
    let mut story = FailureRecord::default();
    let ready_at = match special {
        Some(special) => UnixMs(special.ready_at_ms),
        None => query::recorded_at(machine.overlay(), topic, offset)?.unwrap_or(machine.now()),
    };
    story.set_place(rank_of(work, special, ready_at));
    if let Some(special) = special {
        story.flow.clone_from(&special.flow);
    }
    Ok(story)
}

/// An event's rank, deadline and all.
pub(crate) fn rank_of(work: &Work, special: Option<&SpecialRecord>, ready_at: UnixMs) -> Rank {
    let config = &work.record.config;
    let priority = special.map_or(PRIORITY_DEFAULT, |s| s.priority);
    let by_wait = Rank::by_wait(config, priority, ready_at);
    let deadline = special.and_then(SpecialRecord::deadline);
    deadline.map_or(by_wait, |d| by_wait.min(Rank::by_deadline(config, priority, d)))
}

/// Makes a failed event ready. It keeps its rank, among those that come first by the policy of today.
pub(crate) fn make_ready<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &mut Work,
    (topic, offset): (TopicId, Offset),
    story: &mut FailureRecord,
) -> Result<(), Fault> {
    let special = special_of(machine, work, topic, offset)?;
    let priority = special.map_or(PRIORITY_DEFAULT, |s| s.priority);
    story.set_place(story.place().under(&work.record.config, priority));
    story.stand(Standing::Ready);
    let row = ready_key(work, (topic, offset), story);
    machine.overlay_mut().put(Table::Ready, row, ready::value());
    failures::put(machine, work.id, (topic, offset), story);
    work.wakes = true;
    Ok(())
}

/// Begins to place those that are ready anew, after the policy changed: ticks go on with what is left.
pub(crate) fn begin_placing<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &mut Work,
) -> Result<(), Fault> {
    work.state.placing = Some(Placing::default());
    if place_some(machine, work, FAILURES_SWEPT_MAX)?.1 {
        timers::set(machine, machine.now(), Due::Place(work.id));
    }
    Ok(())
}

/// Goes on placing: looks at so many failed events. How many it looked at, and whether more are left.
/// What becomes ready meanwhile goes to its place by itself.
pub(crate) fn place_some<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &mut Work,
    limit: usize,
) -> Result<(u64, bool), Fault> {
    let Some(Placing { topic_id, offset }) = work.state.placing else { return Ok((0, false)) };
    let low = failures::row_key(work.id, TopicId(topic_id), Offset(offset));
    let high = failures::row_key(work.id.next(), TopicId(0), Offset(0));
    let (mut seen, mut ready, mut next) = (0, Vec::new(), None);
    machine.overlay().scan(Table::Failures, &low, &high, Order::Ascending, &mut |row, value| {
        let place = failures::place_of(row)?;
        if seen == limit {
            next = Some(Placing { topic_id: place.0.get(), offset: place.1.get() });
            return Ok(ControlFlow::Break(()));
        }
        seen += 1;
        if FailureRecord::decode(value)?.stands() == Standing::Ready {
            ready.push(place);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    for (topic, offset) in ready {
        if work.enter(machine, topic, None)?
            && let Some(mut story) = failures::get(machine.overlay(), work.id, topic, offset)?
        {
            unwait(machine, work, (topic, offset), &story);
            make_ready(machine, work, (topic, offset), &mut story)?;
        }
    }
    work.state.placing = next;
    Ok((seen as u64, next.is_some()))
}

/// The row of `Ready` of a failed event.
pub(crate) fn ready_key(
    work: &Work,
    (topic, offset): (TopicId, Offset),
    story: &FailureRecord,
) -> Vec<u8> {
    let (subscription, rank) = (work.id, story.place());
    ReadyKey { subscription, flow: &story.flow, rank, topic, offset }.encode()
}

/// Removes what waits for a failed event: its timer, or its row in `Ready`.
pub(crate) fn unwait<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &Work,
    (topic, offset): (TopicId, Offset),
    story: &FailureRecord,
) {
    match story.stands() {
        Standing::Retry => {
            timers::clear(machine, UnixMs(story.due_ms), Due::Retry(work.id, topic, offset));
        }
        Standing::Ready => {
            let row = ready_key(work, (topic, offset), story);
            machine.overlay_mut().delete(Table::Ready, row);
        }
        Standing::Dying => {
            timers::clear(machine, UnixMs(story.due_ms), Due::Bury(work.id, topic, offset));
        }
        Standing::Leased => {}
    }
}

/// Removes a failed event's row.
pub(crate) fn forget<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &mut Work,
    topic: TopicId,
    offset: Offset,
) -> Result<(), Fault> {
    let row = failures::row_key(work.id, topic, offset);
    machine.overlay_mut().delete(Table::Failures, row);
    work.count_failures(topic, 0, 1)
}

/// Forgets failed events of a topic that was deleted, from an offset on: looks at so many. How many it
/// looked at, and where to go on.
pub(crate) fn sweep<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &Work,
    (topic, from): (TopicId, Offset),
    limit: usize,
) -> Result<(usize, Option<Offset>), Fault> {
    let low = failures::row_key(work.id, topic, from);
    let mut high = failures::row_key(work.id, topic.next(), Offset(0));
    let (mut seen, mut ready, mut next) = (0, Vec::new(), None);
    machine.overlay().scan(Table::Failures, &low, &high, Order::Ascending, &mut |row, value| {
        let place = failures::place_of(row)?;
        if seen == limit {
            next = Some(place.1);
            return Ok(ControlFlow::Break(()));
        }
        seen += 1;
        let story = FailureRecord::decode(value)?;
        if story.stands() == Standing::Ready {
            ready.push(ready_key(work, place, &story));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let overlay = machine.overlay_mut();
    ready.into_iter().for_each(|row| overlay.delete(Table::Ready, row));
    if let Some(next) = next {
        high = failures::row_key(work.id, topic, next);
    }
    if seen > 0 {
        overlay.delete_range(Table::Failures, low, high);
    }
    Ok((seen, next))
}

fn end<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &mut Work,
    failing: &Failing<'_>,
    offset: Offset,
    story: FailureRecord,
    reason: DeadReason,
) -> Result<(), Fault> {
    if failing.retried {
        forget(machine, work, failing.topic, offset)?;
    }
    bury(machine, work, (failing.topic, offset), story, reason)
}

/// Makes an event a dead letter, or drops it where dead letters are off. What else there is of the
/// event is the caller's to remove.
pub(crate) fn bury<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &mut Work,
    (topic, offset): (TopicId, Offset),
    story: FailureRecord,
    reason: DeadReason,
) -> Result<(), Fault> {
    work.ended.1 += 1;
    keep(machine, work, (topic, offset), story, reason)
}

/// The same when a person ends it: that says nothing of how the subscription fares.
pub(crate) fn keep<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &mut Work,
    (topic, offset): (TopicId, Offset),
    story: FailureRecord,
    reason: DeadReason,
) -> Result<(), Fault> {
    let policy = &work.record.config.dead_letters;
    let (retention_ms, disabled) = (policy.retention_ms, policy.disabled);
    if !disabled && machine.is_full_of_letters() {
        return put_off(machine, work, (topic, offset), story, reason);
    }
    let event = query::stored_event(machine.overlay(), topic, offset)?;
    let Some(event) = event.filter(|_| !disabled) else {
        work.state.counters.dropped += 1;
        return endings::note_dropped(machine, work, (topic, offset), story, reason);
    };
    let now = machine.now();
    let number = DeadNumber(work.state.last_dead_number).next();
    let letter = DeadLetter {
        topic: work.topic(topic)?.progress.topic.clone(),
        topic_id: topic.get(),
        offset: offset.get(),
        position: event.position.get(),
        recorded_at_ms: event.recorded_at.get(),
        key_version: event.key_version.get(),
        event: event.event,
        reason: reason as i32,
        failures: story.failures,
        attempts: story.attempts,
        died_at_ms: now.get(),
        redrives: story.redrives,
    };
    machine.count_letter(letter.encoded_len());
    dead::put(machine, work.id, number, &letter);
    dead::time(machine, work.id, (number, now), retention_ms);
    work.state.last_dead_number = number.get();
    work.state.dead_letters += 1;
    work.state.counters.dead += 1;
    work.letters += 1;
    Ok(())
}

/// Leaves the dead letter of an event to a tick.
fn put_off<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &mut Work,
    (topic, offset): (TopicId, Offset),
    mut story: FailureRecord,
    reason: DeadReason,
) -> Result<(), Fault> {
    let now = machine.now();
    story.due_ms = now.get();
    story.stand(Standing::Dying);
    story.set_dead_reason(reason);
    failures::put(machine, work.id, (topic, offset), &story);
    timers::set(machine, now, Due::Bury(work.id, topic, offset));
    work.count_failures(topic, 1, 0)
}

/// Writes the dead letter of an event that was left to a tick at an instant.
pub(crate) fn bury_late<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &mut Work,
    (topic, offset): (TopicId, Offset),
    at: UnixMs,
) -> Result<(), Fault> {
    let found = failures::get(machine.overlay(), work.id, topic, offset)?;
    let is_due = |s: &FailureRecord| s.stands() == Standing::Dying && s.due_ms == at.get();
    let Some(story) = found.filter(is_due) else { return Ok(()) };
    if work.enter(machine, topic, None)? {
        forget(machine, work, topic, offset)?;
        work.wakes = true;
        let reason = story.dead_reason();
        keep(machine, work, (topic, offset), story, reason)?;
    }
    Ok(())
}
