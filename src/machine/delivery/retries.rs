//! Failed events, moved by hand: ready at once, or dead at once.

use super::fail;
use super::failures::{self, FailureRecord, Standing};
use super::work::Work;
use crate::machine::Fault;
use crate::machine::apply::Machine;
use crate::machine::kv::Kv;
use crate::machine::subscription::record::not_found;
use crate::model::command::{CancelRetry, RetryNow};
use crate::model::delivery::{Attempt, DeadReason, Moved, REASON_CANCELLED};
use crate::model::ids::{Offset, TopicId};
use crate::model::limits::RETRIES_PER_COMMAND;
use crate::model::outcome::Outcome;
use crate::model::ranges::{OffsetRange, Ranges};

pub(crate) fn now<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: &RetryNow,
) -> Result<Outcome, Fault> {
    let place = (command.subscription.as_str(), TopicId(command.topic_id));
    each(machine, place, &command.ranges, |machine, work, place, mut story| {
        if story.stands() != Standing::Retry {
            return Ok(false);
        }
        fail::unwait(machine, work, place, &story);
        story.due_ms = machine.now().get();
        fail::make_ready(machine, work, place, &mut story)?;
        Ok(true)
    })
}

pub(crate) fn cancel<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: &CancelRetry,
) -> Result<Outcome, Fault> {
    let place = (command.subscription.as_str(), TopicId(command.topic_id));
    each(machine, place, &command.ranges, |machine, work, place, mut story| {
        if matches!(story.stands(), Standing::Leased | Standing::Dying) {
            return Ok(false);
        }
        fail::unwait(machine, work, place, &story);
        fail::forget(machine, work, place.0, place.1)?;
        story.tell(Attempt {
            failed_at_ms: machine.now().get(),
            reason: REASON_CANCELLED.to_owned(),
            number: story.failures,
            ..Attempt::default()
        });
        work.wakes = true;
        fail::keep(machine, work, place, story, DeadReason::Rejected)?;
        Ok(true)
    })
}

/// Does something to each failed event that is named.
fn each<K: Kv>(
    machine: &mut Machine<'_, K>,
    (subscription, topic): (&str, TopicId),
    ranges: &[OffsetRange],
    mut act: impl FnMut(
        &mut Machine<'_, K>,
        &mut Work,
        (TopicId, Offset),
        FailureRecord,
    ) -> Result<bool, Fault>,
) -> Result<Outcome, Fault> {
    let Some(mut work) = Work::open(machine, subscription)? else {
        return Ok(Outcome::Rejected(not_found(subscription)));
    };
    let mut moved = Moved::default();
    if work.enter(machine, topic, None)? {
        let named = if ranges.is_empty() {
            Ranges::from_unsorted(&[OffsetRange::between(0, u64::MAX)])
        } else {
            Ranges::from_unsorted(ranges)
        };
        let (kv, id, limit) = (machine.overlay(), work.id, RETRIES_PER_COMMAND);
        for (offset, story) in failures::among(kv, id, topic, &named, limit)? {
            if act(machine, &mut work, (topic, offset), story)? {
                moved.count += 1;
            } else {
                moved.left += 1;
            }
        }
        work.finish(machine)?;
    }
    Ok(Outcome::Moved(moved))
}
