//! Events that failed or were redriven: (subscription id, topic id, offset) → their story.
//!
//! An event with a row here is marked as done in the log: from then on the row alone says how it
//! stands, so that one failing event holds up neither the floor nor the bitmaps.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::machine::apply::Machine;
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::record::{Kind, decode_message, encode_message};
use crate::machine::schedule::rank::Rank;
use crate::machine::{Fault, key};
use crate::model::delivery::{Attempt, DeadReason};
use crate::model::ids::{Offset, SubscriptionId, TopicId, UnixMs};
use crate::model::limits::{ATTEMPTS_KEPT_BYTES_MAX, ATTEMPTS_KEPT_MAX};
use crate::model::ranges::Ranges;

/// How a failed event stands. The numbers are persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Standing {
    /// It waits for its due time; there is a timer.
    Retry = 0,
    /// It is due; there is a row in `Ready`.
    Ready = 1,
    /// A consumer has it.
    Leased = 2,
    /// It is dead, and a tick will write its dead letter; there is a timer.
    Dying = 3,
}

/// A failed event as stored.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FailureRecord {
    /// Failures so far; a redrive begins anew.
    #[prost(uint32, tag = "1")]
    pub failures: u32,
    /// The delay before, milliseconds.
    #[prost(uint64, tag = "2")]
    pub previous_delay_ms: u64,
    /// See [`Rank`].
    #[prost(uint64, tag = "3")]
    pub tier: u64,
    /// See [`Rank`].
    #[prost(uint64, tag = "4")]
    pub rank: u64,
    /// When it may be delivered again, Unix milliseconds.
    #[prost(uint64, tag = "5")]
    pub due_ms: u64,
    /// How it stands.
    #[prost(enumeration = "Standing", tag = "6")]
    pub standing: i32,
    /// The first and the newest failed deliveries.
    #[prost(message, repeated, tag = "7")]
    pub attempts: Vec<Attempt>,
    /// How often it came back from the dead. Its deadline does not count any more then.
    #[prost(uint32, tag = "8")]
    pub redrives: u32,
    /// The event's fairness key.
    #[prost(string, tag = "9")]
    pub flow: String,
    /// Why it is dead, while its dead letter is not written.
    #[prost(enumeration = "DeadReason", tag = "10")]
    pub dead_reason: i32,
}

impl FailureRecord {
    /// Reads a stored row.
    ///
    /// # Errors
    /// When it is corrupt.
    pub fn decode(row: &[u8]) -> Result<Self, Fault> {
        decode_message(Kind::Failure, row)
    }

    /// The row to store.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        encode_message(Kind::Failure, self)
    }

    /// How it stands.
    #[must_use]
    pub fn stands(&self) -> Standing {
        self.standing()
    }

    /// Sets how it stands.
    pub fn stand(&mut self, standing: Standing) {
        self.set_standing(standing);
    }

    /// Its place among what is ready.
    #[must_use]
    pub fn place(&self) -> Rank {
        Rank { tier: self.tier, value: self.rank }
    }

    /// Sets its place.
    pub fn set_place(&mut self, rank: Rank) {
        (self.tier, self.rank) = (rank.tier, rank.value);
    }

    /// Whether it may be delivered.
    #[must_use]
    pub fn is_due(&self, now: UnixMs) -> bool {
        match self.stands() {
            Standing::Ready => true,
            Standing::Retry => self.due_ms <= now.get(),
            Standing::Leased | Standing::Dying => false,
        }
    }

    /// Adds a failed delivery to the story. The first stays, and the oldest after it go when there are too many; of too
    /// many bytes the oldest details after the first go.
    pub fn tell(&mut self, attempt: Attempt) {
        self.attempts.push(attempt);
        if self.attempts.len() > ATTEMPTS_KEPT_MAX {
            self.attempts.remove(1);
        }
        let of_one = |a: &Attempt| a.reason.len() + a.detail.len() + a.consumer.len();
        let mut size: usize = self.attempts.iter().map(of_one).sum();
        let newest = self.attempts.len() - 1;
        for attempt in self.attempts.iter_mut().take(newest).skip(1) {
            if size <= ATTEMPTS_KEPT_BYTES_MAX {
                break;
            }
            size -= std::mem::take(&mut attempt.detail).len();
        }
    }
}

/// The row's key.
#[must_use]
pub fn row_key(subscription: SubscriptionId, topic: TopicId, offset: Offset) -> Vec<u8> {
    [subscription.to_key(), topic.to_key(), offset.to_key()].concat()
}

/// The topic and the offset in a row's key.
///
/// # Errors
/// When the key is not one.
pub fn place_of(row: &[u8]) -> Result<(TopicId, Offset), Fault> {
    let mut reader = key::Reader::new(Kind::Failure, row);
    reader.number()?;
    let place = (TopicId(reader.number()?), Offset(reader.number()?));
    reader.end()?;
    Ok(place)
}

/// A failed event.
///
/// # Errors
/// When the store fails or the row is corrupt.
pub fn get(
    kv: &impl Kv,
    subscription: SubscriptionId,
    topic: TopicId,
    offset: Offset,
) -> Result<Option<FailureRecord>, Fault> {
    let row = kv.get(Table::Failures, &row_key(subscription, topic, offset))?;
    row.map(|row| FailureRecord::decode(&row)).transpose()
}

pub(crate) fn put<K: Kv>(
    machine: &mut Machine<'_, K>,
    subscription: SubscriptionId,
    place: (TopicId, Offset),
    record: &FailureRecord,
) {
    let key = row_key(subscription, place.0, place.1);
    machine.overlay_mut().put(Table::Failures, key, record.encode());
}

/// The failed events among some offsets, in order.
///
/// # Errors
/// When the store fails or a row is corrupt.
pub fn among(
    kv: &impl Kv,
    subscription: SubscriptionId,
    topic: TopicId,
    offsets: &Ranges,
    limit: usize,
) -> Result<Vec<(Offset, FailureRecord)>, Fault> {
    let mut found = Vec::new();
    for range in offsets.as_slice() {
        let low = row_key(subscription, topic, Offset(range.first));
        let high = row_key(subscription, topic, Offset(range.end()));
        kv.scan(Table::Failures, &low, &high, Order::Ascending, &mut |row, value| {
            if found.len() == limit {
                return Ok(ControlFlow::Break(()));
            }
            found.push((place_of(row)?.1, FailureRecord::decode(value)?));
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::limits::NACK_DETAIL_BYTES_MAX;

    #[test]
    fn a_key_gives_back_its_place() {
        let row = row_key(SubscriptionId(1), TopicId(2), Offset(3));
        assert_eq!(place_of(&row).unwrap(), (TopicId(2), Offset(3)));
        assert!(place_of(&row[..23]).is_err());
    }

    #[test]
    fn the_story_is_bounded() {
        let mut record = FailureRecord::default();
        let detail = "x".repeat(NACK_DETAIL_BYTES_MAX);
        let most = u32::try_from(ATTEMPTS_KEPT_MAX).unwrap();
        let told = |number| Attempt {
            number,
            detail: detail.clone(),
            consumer: format!("c{number}"),
            ..Attempt::default()
        };
        let numbers = |record: &FailureRecord| -> Vec<u32> {
            record.attempts.iter().map(|attempt| attempt.number).collect()
        };
        for number in 1..=most {
            record.tell(told(number));
        }
        // All of them, who had them, and as many details as there is room for.
        assert_eq!(numbers(&record), (1..=most).collect::<Vec<_>>());
        assert!(record.attempts.iter().all(|a| a.consumer == format!("c{}", a.number)));
        let detailed = |record: &FailureRecord| -> Vec<u32> {
            let with = record.attempts.iter().filter(|attempt| !attempt.detail.is_empty());
            with.map(|attempt| attempt.number).collect()
        };
        assert_eq!(detailed(&record), [1, most - 1, most]);
        (most + 1..=100).for_each(|number| record.tell(told(number)));
        let newest = 100 - (most - 2)..=100;
        assert_eq!(numbers(&record), std::iter::once(1).chain(newest).collect::<Vec<_>>());
        assert_eq!(detailed(&record), [1, 99, 100]);
    }
}
