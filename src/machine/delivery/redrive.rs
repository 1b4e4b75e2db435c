//! Delivering dead letters anew, to the subscription that failed them, and forgetting them.
//!
//! A redriven event begins from zero: its failures, its rank, and its deadline, which does not count
//! any more, since somebody wants it delivered late. An event that is not done (a seek brought it
//! back) or whose topic is gone is left among the dead.

use std::ops::ControlFlow;

use super::dead::{self, DeadLetter};
use super::fail;
use super::failures::FailureRecord;
use super::work::Work;
use crate::machine::apply::Machine;
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::subscription::record::not_found;
use crate::machine::tracking::endings;
use crate::machine::{Fault, query};
use crate::model::command::{PurgeDead, Redrive};
use crate::model::delivery::Moved;
use crate::model::ids::{DeadNumber, Offset, SubscriptionId, TopicId};
use crate::model::limits::DEAD_LETTERS_PER_COMMAND;
use crate::model::outcome::Outcome;
use crate::model::rejection::{Reason, Rejection};

pub(crate) fn redrive<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: &Redrive,
) -> Result<Outcome, Fault> {
    let Some(mut work) = Work::open(machine, &command.subscription)? else {
        return Ok(Outcome::Rejected(not_found(&command.subscription)));
    };
    let limit = match usize::try_from(command.limit).unwrap_or(usize::MAX) {
        0 => DEAD_LETTERS_PER_COMMAND,
        n => n.min(DEAD_LETTERS_PER_COMMAND),
    };
    let after = DeadNumber(command.after);
    let end = DeadNumber(u64::MAX);
    let (letters, next) = choose(machine, work.id, &command.numbers, (after, end), limit)?;
    if letters.is_empty() && !command.numbers.is_empty() {
        return Ok(Outcome::Rejected(none(&command.subscription)));
    }
    let mut moved = Moved { next, ..Moved::default() };
    let first = letters.first().map(|(number, _)| *number);
    for (number, letter) in letters {
        if revive(machine, &mut work, &letter)? {
            remove(machine, &mut work, number, &letter);
            moved.count += 1;
        } else {
            moved.left += 1;
        }
    }
    work.state.counters.redriven += moved.count;
    time_next(machine, &work, first)?;
    work.finish(machine)?;
    Ok(Outcome::Moved(moved))
}

pub(crate) fn purge<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: &PurgeDead,
) -> Result<Outcome, Fault> {
    let Some(mut work) = Work::open(machine, &command.subscription)? else {
        return Ok(Outcome::Rejected(not_found(&command.subscription)));
    };
    let (first, end) = (DeadNumber(0), DeadNumber(command.up_to.saturating_add(1)));
    let limit = DEAD_LETTERS_PER_COMMAND;
    let (letters, next) = choose(machine, work.id, &command.numbers, (first, end), limit)?;
    if letters.is_empty() && !command.numbers.is_empty() {
        return Ok(Outcome::Rejected(none(&command.subscription)));
    }
    let moved = Moved { count: letters.len() as u64, left: 0, next };
    let first = letters.first().map(|(number, _)| *number);
    for (number, letter) in letters {
        endings::note_lost(machine, &work, number, &letter)?;
        remove(machine, &mut work, number, &letter);
    }
    time_next(machine, &work, first)?;
    work.finish(machine)?;
    Ok(Outcome::Moved(moved))
}

type Letters = Vec<(DeadNumber, DeadLetter)>;

/// The dead letters that are named, or those after one and before another; and after which to go
/// on when that is not all.
fn choose<K: Kv>(
    machine: &Machine<'_, K>,
    id: SubscriptionId,
    numbers: &[u64],
    (after, end): (DeadNumber, DeadNumber),
    limit: usize,
) -> Result<(Letters, Option<DeadNumber>), Fault> {
    let mut letters = Vec::new();
    if !numbers.is_empty() {
        let numbers: std::collections::BTreeSet<_> = numbers.iter().take(limit).collect();
        for number in numbers {
            let number = DeadNumber(*number);
            letters
                .extend(dead::get(machine.overlay(), id, number)?.map(|letter| (number, letter)));
        }
        return Ok((letters, None));
    }
    let low = dead::row_key(id, DeadNumber(after.get().saturating_add(1)));
    let high = dead::row_key(id, end);
    let mut more = false;
    machine.overlay().scan(
        Table::DeadLetters,
        &low,
        &high,
        Order::Ascending,
        &mut |row, value| {
            more = letters.len() == limit;
            if more {
                return Ok(ControlFlow::Break(()));
            }
            letters.push((dead::number_of(row)?, DeadLetter::decode(value)?));
            Ok(ControlFlow::Continue(()))
        },
    )?;
    let next = letters.last().filter(|_| more).map(|(number, _)| *number);
    Ok((letters, next))
}

/// Makes a dead event ready; `false` when it cannot be.
fn revive<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &mut Work,
    letter: &DeadLetter,
) -> Result<bool, Fault> {
    let (topic, offset) = (TopicId(letter.topic_id), Offset(letter.offset));
    if !work.enter(machine, topic, Some(&letter.topic))?
        || !work.is_done(machine, topic, offset)?
        || query::stored_event(machine.overlay(), topic, offset)?.is_none()
    {
        return Ok(false);
    }
    let now = machine.now();
    let mut special = fail::special_of(machine, work, topic, offset)?;
    if let Some(special) = &mut special {
        special.deadline_ms = 0;
    }
    let mut story = FailureRecord {
        redrives: letter.redrives.saturating_add(1),
        due_ms: now.get(),
        flow: special.as_ref().map(|s| s.flow.clone()).unwrap_or_default(),
        // What it went through before stays part of its story.
        attempts: letter.attempts.clone(),
        ..FailureRecord::default()
    };
    story.set_place(fail::rank_of(work, special.as_ref(), now));
    work.count_failures(topic, 1, 0)?;
    endings::forget(machine, work.id, (topic, offset));
    fail::make_ready(machine, work, (topic, offset), &mut story)?;
    Ok(true)
}

fn remove<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &mut Work,
    number: DeadNumber,
    letter: &DeadLetter,
) {
    let retention_ms = work.record.config.dead_letters.retention_ms;
    dead::remove(machine, work.id, (number, letter), retention_ms);
    work.state.dead_letters = work.state.dead_letters.saturating_sub(1);
}

/// Times the one that comes after those that went, if nothing was left before them.
fn time_next<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &Work,
    first: Option<DeadNumber>,
) -> Result<(), Fault> {
    let Some(first) = first else { return Ok(()) };
    dead::time_first(machine, work.id, first, work.record.config.dead_letters.retention_ms)
}

fn none(subscription: &str) -> Rejection {
    Rejection::new(
        Reason::DeadLetterNotFound,
        format!("subscription {subscription} has none of these dead letters; list them with: mhub dlq ls {subscription}"),
    )
    .with("subscription", subscription)
}
