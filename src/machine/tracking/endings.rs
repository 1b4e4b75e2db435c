//! How an event ended of which delivery itself keeps nothing any more: (subscription id, topic id, offset) → what
//! is left to tell.
//!
//! An event that is done and has no row here, and no dead letter, was acknowledged without ever having failed.
//! Topics in which no event has a correlation id have no rows: no trace tells of these. What led to an end is kept for
//! `ENDINGS_KEPT_MS`, and that an event was not acknowledged for as long as the event.

use bytes::Bytes;

use crate::machine::Fault;
use crate::machine::apply::Machine;
use crate::machine::delivery::dead::{self, DeadLetter};
use crate::machine::delivery::failures::{self, FailureRecord};
use crate::machine::delivery::timers::{self, Due};
use crate::machine::delivery::work::Work;
use crate::machine::kv::{Kv, Table};
use crate::machine::record::{Kind, decode_message, encode_message};
use crate::model::delivery::{Attempt, DeadReason};
use crate::model::ids::{DeadNumber, Offset, SubscriptionId, TopicId, UnixMs};
use crate::model::limits::ENDINGS_KEPT_MS;

/// How an event ended. The numbers are persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum End {
    /// It was acknowledged after it had failed, or been redriven.
    Acked = 0,
    /// It had failed, and a filter that was set since does not let it through.
    Filtered = 1,
    /// It died, and no dead letter is kept of it.
    Dead = 2,
}

/// An ending as stored.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct EndingRecord {
    /// How.
    #[prost(enumeration = "End", tag = "1")]
    pub end: i32,
    /// Why it died.
    #[prost(enumeration = "DeadReason", tag = "2")]
    pub reason: i32,
    /// When, Unix milliseconds.
    #[prost(uint64, tag = "3")]
    pub ended_at_ms: u64,
    /// Failures since the last redrive.
    #[prost(uint32, tag = "4")]
    pub failures: u32,
    /// The first and the newest of them, for as long as they are kept.
    #[prost(message, repeated, tag = "5")]
    pub attempts: Vec<Attempt>,
    /// How often it came back from the dead.
    #[prost(uint32, tag = "6")]
    pub redrives: u32,
}

impl EndingRecord {
    /// Reads a stored row.
    ///
    /// # Errors
    /// When it is corrupt.
    pub fn decode(row: &[u8]) -> Result<Self, Fault> {
        decode_message(Kind::Ending, row)
    }

    /// The row to store.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        encode_message(Kind::Ending, self)
    }
}

/// The row's key.
fn row_key(subscription: SubscriptionId, topic: TopicId, offset: Offset) -> Vec<u8> {
    [subscription.to_key(), topic.to_key(), offset.to_key()].concat()
}

/// How an event ended, if that is noted.
///
/// # Errors
/// When the store fails or the row is corrupt.
pub fn get(
    kv: &impl Kv,
    subscription: SubscriptionId,
    topic: TopicId,
    offset: Offset,
) -> Result<Option<EndingRecord>, Fault> {
    let row = kv.get(Table::Endings, &row_key(subscription, topic, offset))?;
    row.map(|row| EndingRecord::decode(&row)).transpose()
}

fn put<K: Kv>(
    machine: &mut Machine<'_, K>,
    id: SubscriptionId,
    (topic, offset): (TopicId, Offset),
    ending: &EndingRecord,
) {
    let row = row_key(id, topic, offset);
    machine.overlay_mut().put(Table::Endings, row, ending.encode());
    // Nothing of the others is given up later.
    if ending.end() == End::Acked || !ending.attempts.is_empty() {
        let until = UnixMs(ending.ended_at_ms.saturating_add(ENDINGS_KEPT_MS));
        timers::set(machine, until, Due::Ending(id, topic, offset));
    }
}

/// A failed event is over without being dead.
pub(crate) fn note<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &mut Work,
    (topic, offset): (TopicId, Offset),
    end: End,
) -> Result<(), Fault> {
    if !work.topic(topic)?.correlated {
        return Ok(());
    }
    let story = failures::get(machine.overlay(), work.id, topic, offset)?.unwrap_or_default();
    put(machine, work.id, (topic, offset), &after(machine.now(), story, end));
    Ok(())
}

/// An event died, and no dead letter is kept.
pub(crate) fn note_dropped<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &mut Work,
    (topic, offset): (TopicId, Offset),
    story: FailureRecord,
    reason: DeadReason,
) -> Result<(), Fault> {
    if work.topic(topic)?.correlated {
        let ending =
            EndingRecord { reason: reason as i32, ..after(machine.now(), story, End::Dead) };
        put(machine, work.id, (topic, offset), &ending);
    }
    Ok(())
}

fn after(now: UnixMs, story: FailureRecord, end: End) -> EndingRecord {
    EndingRecord {
        end: end as i32,
        reason: DeadReason::Unspecified as i32,
        ended_at_ms: now.get(),
        failures: story.failures,
        attempts: story.attempts,
        redrives: story.redrives,
    }
}

/// A dead letter is about to go for good: that its event died is to be told on, unless it was delivered anew since.
pub(crate) fn note_lost<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &Work,
    number: DeadNumber,
    letter: &DeadLetter,
) -> Result<(), Fault> {
    let (id, topic, offset) = (work.id, TopicId(letter.topic_id), Offset(letter.offset));
    let stands = machine.topic(&letter.topic)?.is_some_and(|t| t.id == topic.get() && t.correlated);
    if !stands || number.get() <= work.state.dead_before_seek {
        return Ok(());
    }
    let kv = machine.overlay();
    let told = dead::newest(kv, id, topic, offset)? == Some(number)
        && get(kv, id, topic, offset)?.is_none()
        && failures::get(kv, id, topic, offset)?.is_none();
    if told {
        let ending = EndingRecord {
            end: End::Dead as i32,
            reason: letter.reason,
            ended_at_ms: letter.died_at_ms,
            failures: letter.failures,
            attempts: Vec::new(),
            redrives: letter.redrives,
        };
        put(machine, id, (topic, offset), &ending);
    }
    Ok(())
}

/// An event is under way again.
pub(crate) fn forget<K: Kv>(
    machine: &mut Machine<'_, K>,
    id: SubscriptionId,
    (topic, offset): (TopicId, Offset),
) {
    machine.overlay_mut().delete(Table::Endings, row_key(id, topic, offset));
}

/// What led to an end was kept long enough.
pub(crate) fn due<K: Kv>(
    machine: &mut Machine<'_, K>,
    id: SubscriptionId,
    (topic, offset): (TopicId, Offset),
) -> Result<(), Fault> {
    let Some(mut ending) = get(machine.overlay(), id, topic, offset)? else { return Ok(()) };
    if ending.ended_at_ms.saturating_add(ENDINGS_KEPT_MS) > machine.now().get() {
        // It ended once more since, and has a timer of its own.
        return Ok(());
    }
    if ending.end() == End::Acked {
        forget(machine, id, (topic, offset));
    } else {
        ending.attempts.clear();
        put(machine, id, (topic, offset), &ending);
    }
    Ok(())
}
