//! Moving a subscription to another place.
//!
//! Its progress, leases and retries go as ranges; what it is then follows from the new start, as
//! for a new subscription. The preview is the same count without the move.

use std::ops::ControlFlow;

use super::progress::{self, ProgressRecord};
use super::record::{self, SubscriptionRecord, not_found};
use super::{delete, marks, query as subscriptions};
use crate::machine::apply::Machine;
use crate::machine::delivery::failures;
use crate::machine::delivery::work::Work;
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::lifecycle::Report;
use crate::machine::topic::record::not_found as no_topic;
use crate::machine::{Fault, query, requests};
use crate::model::command::SeekSubscription;
use crate::model::command::subscription::{At, Place};
use crate::model::delivery::Sought;
use crate::model::ids::{Offset, Position, SubscriptionId, TopicId, UnixMs};
use crate::model::limits::{MARKS_OFFSETS, SEEK_TOPICS_MAX};
use crate::model::outcome::{Outcome, TopicInfo};
use crate::model::pattern::TopicPattern;
use crate::model::rejection::{Reason, Rejection};

pub(crate) fn apply<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: SeekSubscription,
) -> Result<Outcome, Fault> {
    if let Some(first) = requests::first_answer(machine, &command.request_id)? {
        return Ok(first);
    }
    machine.settle();
    let Some(mut work) = Work::open(machine, &command.name)? else {
        return Ok(Outcome::Rejected(not_found(&command.name)));
    };
    let end = machine.next_position();
    let pattern = work.record.config.pattern.clone();
    let target = match target(machine.overlay(), end, &pattern, &command.to)? {
        Ok(target) => target,
        Err(rejection) => return Ok(Outcome::Rejected(rejection)),
    };
    let sought = count(machine.overlay(), &work.record, &target)?;
    let id = work.id;
    delete::forget_progress(machine, id)?;
    work.state.in_flight = 0;
    work.state.dead_before_seek = work.state.last_dead_number;
    work.record.start_position = target.start.get();
    // Plans and cursors from before the seek are void.
    work.record.revision += 1;
    let row = work.record.encode();
    machine.overlay_mut().put(Table::Subscriptions, command.name.into_bytes(), row);
    target.write(machine, id);
    let Sought { start, redelivered, skipped, .. } = sought;
    work.report(machine, Report::Sought { start: start.get(), redelivered, skipped });
    work.wakes = true;
    work.finish(machine)?;
    let outcome = Outcome::Sought(sought);
    requests::remember(machine, command.request_id, &outcome);
    Ok(outcome)
}

/// What a seek would do; `None`: there is no such subscription.
///
/// # Errors
/// When the store fails or is corrupt.
pub fn preview(
    kv: &impl Kv,
    name: &str,
    to: &Place,
) -> Result<Option<Result<Sought, Rejection>>, Fault> {
    let Some(record) = record::get(kv, name)? else { return Ok(None) };
    match target(kv, query::next_position(kv)?, &record.config.pattern, to)? {
        Ok(target) => Ok(Some(Ok(count(kv, &record, &target)?))),
        Err(rejection) => Ok(Some(Err(rejection))),
    }
}

/// The end that a place lies beyond; `None`: it lies within, or what it is of does not exist.
///
/// # Errors
/// When the store fails or is corrupt.
pub fn beyond(kv: &impl Kv, pattern: &str, place: &Place) -> Result<Option<u64>, Fault> {
    let (at, end) = match place.at {
        Some(At::Position(position)) => (position, query::next_position(kv)?.get()),
        Some(At::Offset(offset)) => {
            let topic = query::topic(kv, pattern)?;
            (offset, topic.map_or(u64::MAX, |topic| topic.next_offset.get()))
        }
        None | Some(At::Start(_) | At::End(_) | At::TimeMs(_)) => return Ok(None),
    };
    Ok((at > end).then_some(end))
}

/// Where a subscription goes: a position, and the floor in its one topic when an offset was named.
pub(crate) struct Target {
    pub(crate) start: Position,
    offset: Option<(TopicId, ProgressRecord)>,
}

impl Target {
    /// Writes what the position does not say.
    pub(crate) fn write<K: Kv>(&self, machine: &mut Machine<'_, K>, id: SubscriptionId) {
        if let Some((topic, progress)) = &self.offset {
            let row = progress::row_key(id, *topic);
            machine.overlay_mut().put(Table::Progress, row, progress.encode());
        }
    }

    fn floor(&self, kv: &impl Kv, topic: &TopicInfo) -> Result<Offset, Fault> {
        match &self.offset {
            Some((id, progress)) if *id == topic.id => Ok(Offset(progress.floor)),
            _ => query::offset_of_position(kv, topic, self.start),
        }
    }
}

/// Looks a place up.
pub(crate) fn target(
    kv: &impl Kv,
    end: Position,
    pattern: &str,
    place: &Place,
) -> Result<Result<Target, Rejection>, Fault> {
    let start = match place.at {
        None | Some(At::End(_)) => end,
        Some(At::Start(_)) => Position(0),
        Some(At::Position(position)) => Position(position.min(end.get())),
        Some(At::TimeMs(instant)) => query::position_of_time_before(kv, UnixMs(instant), end)?,
        Some(At::Offset(offset)) => return target_offset(kv, end, pattern, offset),
    };
    Ok(Ok(Target { start, offset: None }))
}

fn target_offset(
    kv: &impl Kv,
    end: Position,
    pattern: &str,
    offset: u64,
) -> Result<Result<Target, Rejection>, Fault> {
    let single = TopicPattern::from_checked(pattern);
    let Some(name) = single.single() else {
        return Ok(Err(Rejection::new(
            Reason::InvalidRequest,
            format!("an offset has a meaning in one topic, and pattern {pattern} may take many; name a position or a time"),
        )
        .with("pattern", pattern)));
    };
    let Some(topic) = query::topic(kv, name)? else { return Ok(Err(no_topic(name))) };
    let floor = offset.min(topic.next_offset.get());
    let progress = ProgressRecord { topic: name.to_owned(), floor, failures: 0, early: None };
    Ok(Ok(Target { start: end, offset: Some((topic.id, progress)) }))
}

fn count(kv: &impl Kv, record: &SubscriptionRecord, target: &Target) -> Result<Sought, Fault> {
    let mut sought = Sought { start: target.start, ..Sought::default() };
    let pattern = TopicPattern::from_checked(&record.config.pattern);
    let topics = subscriptions::topics_of(kv, &pattern, "", SEEK_TOPICS_MAX + 1)?;
    sought.truncated = topics.len() > SEEK_TOPICS_MAX;
    for topic in topics.iter().take(SEEK_TOPICS_MAX) {
        let floor = target.floor(kv, topic)?;
        let (id, start) = (record.subscription_id(), Position(record.start_position));
        let progress = progress::load(kv, id, start, topic)?;
        let below = done_below(kv, id, (topic.id, &progress), floor)?;
        let all = done_below(kv, id, (topic.id, &progress), topic.next_offset)?;
        sought.redelivered += all.saturating_sub(below);
        sought.skipped += floor.get().saturating_sub(below);
    }
    Ok(sought)
}

/// How many events below an offset are done.
fn done_below(
    kv: &impl Kv,
    id: SubscriptionId,
    (topic, progress): (TopicId, &ProgressRecord),
    end: Offset,
) -> Result<u64, Fault> {
    let mut done = progress.floor.min(end.get());
    let low = marks::row_key(id, topic, marks::chunk_of(Offset(progress.floor)));
    let high = marks::row_key(id, topic, end.get().div_ceil(MARKS_OFFSETS));
    kv.scan(Table::Marks, &low, &high, Order::Ascending, &mut |row, value| {
        let base = marks::chunk_in(row)? * MARKS_OFFSETS;
        let from = progress.floor.saturating_sub(base);
        let until = end.get().saturating_sub(base).min(MARKS_OFFSETS);
        done += marks::Marks::decode(value)?.done.count_in(from, until);
        Ok(ControlFlow::Continue(()))
    })?;
    if progress.failures > 0 {
        let (low, high) =
            (failures::row_key(id, topic, Offset(0)), failures::row_key(id, topic, end));
        kv.scan(Table::Failures, &low, &high, Order::Ascending, &mut |_, _| {
            done = done.saturating_sub(1);
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok(done)
}
