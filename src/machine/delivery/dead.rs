//! Dead letters: (subscription id, number) → an event that ended for good.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::timers::{self, Due};
use crate::machine::apply::Machine;
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::record::{Kind, decode_message, encode, encode_message};
use crate::machine::{Fault, key};
use crate::model::delivery::{Attempt, DeadReason};
use crate::model::ids::{DeadNumber, Offset, SubscriptionId, TopicId, UnixMs};

/// A dead letter as stored.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeadLetter {
    /// The name of the origin's topic.
    #[prost(string, tag = "1")]
    pub topic: String,
    /// Its number.
    #[prost(uint64, tag = "2")]
    pub topic_id: u64,
    /// The event's offset there.
    #[prost(uint64, tag = "3")]
    pub offset: u64,
    /// The event's position.
    #[prost(uint64, tag = "4")]
    pub position: u64,
    /// When the hub took the event, Unix milliseconds.
    #[prost(uint64, tag = "5")]
    pub recorded_at_ms: u64,
    /// The version of its key; 0 without one.
    #[prost(uint64, tag = "6")]
    pub key_version: u64,
    /// The encoded event: it is kept even when its origin is not.
    #[prost(bytes = "bytes", tag = "7")]
    pub event: Bytes,
    /// Why.
    #[prost(enumeration = "DeadReason", tag = "8")]
    pub reason: i32,
    /// Failures, since the last redrive.
    #[prost(uint32, tag = "9")]
    pub failures: u32,
    /// The first and the newest of them.
    #[prost(message, repeated, tag = "10")]
    pub attempts: Vec<Attempt>,
    /// Unix milliseconds.
    #[prost(uint64, tag = "11")]
    pub died_at_ms: u64,
    /// How often it was redriven before.
    #[prost(uint32, tag = "12")]
    pub redrives: u32,
}

impl DeadLetter {
    /// Reads a stored row.
    ///
    /// # Errors
    /// When it is corrupt.
    pub fn decode(row: &[u8]) -> Result<Self, Fault> {
        decode_message(Kind::DeadLetter, row)
    }

    /// The row to store.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        encode_message(Kind::DeadLetter, self)
    }

    /// When it died.
    #[must_use]
    pub fn died_at(&self) -> UnixMs {
        UnixMs(self.died_at_ms)
    }
}

/// The row's key.
#[must_use]
pub fn row_key(subscription: SubscriptionId, number: DeadNumber) -> Vec<u8> {
    [subscription.to_key(), number.to_key()].concat()
}

/// The number in a row's key.
///
/// # Errors
/// When the key is not one.
pub fn number_of(row: &[u8]) -> Result<DeadNumber, Fault> {
    let mut reader = key::Reader::new(Kind::DeadLetter, row);
    reader.number()?;
    let number = DeadNumber(reader.number()?);
    reader.end()?;
    Ok(number)
}

/// A dead letter.
///
/// # Errors
/// When the store fails or the row is corrupt.
pub fn get(
    kv: &impl Kv,
    subscription: SubscriptionId,
    number: DeadNumber,
) -> Result<Option<DeadLetter>, Fault> {
    let row = kv.get(Table::DeadLetters, &row_key(subscription, number))?;
    row.map(|row| DeadLetter::decode(&row)).transpose()
}

/// What the keys of an event's rows in `DeadPlaces` begin with.
fn place_prefix(subscription: SubscriptionId, topic: TopicId, offset: Offset) -> Vec<u8> {
    [subscription.to_key(), topic.to_key(), offset.to_key()].concat()
}

fn place_key(subscription: SubscriptionId, number: DeadNumber, letter: &DeadLetter) -> Vec<u8> {
    let (topic, offset) = (TopicId(letter.topic_id), Offset(letter.offset));
    [place_prefix(subscription, topic, offset), number.to_key().to_vec()].concat()
}

/// The number of the newest dead letter of an event.
pub(crate) fn newest(
    kv: &impl Kv,
    subscription: SubscriptionId,
    topic: TopicId,
    offset: Offset,
) -> Result<Option<DeadNumber>, Fault> {
    let low = place_prefix(subscription, topic, offset);
    let (high, mut newest) = (key::after_prefix(&low), None);
    kv.scan(Table::DeadPlaces, &low, &high, Order::Descending, &mut |row, _| {
        let number = row.last_chunk::<8>().map(|bytes| DeadNumber(u64::from_be_bytes(*bytes)));
        newest = number;
        Ok(ControlFlow::Break(()))
    })?;
    Ok(newest)
}

/// The newest dead letter of an event.
///
/// # Errors
/// When the store fails or a row is corrupt.
pub fn at(
    kv: &impl Kv,
    subscription: SubscriptionId,
    topic: TopicId,
    offset: Offset,
) -> Result<Option<(DeadNumber, DeadLetter)>, Fault> {
    let Some(number) = newest(kv, subscription, topic, offset)? else { return Ok(None) };
    Ok(get(kv, subscription, number)?.map(|letter| (number, letter)))
}

/// Keeps a dead letter.
pub(crate) fn put<K: Kv>(
    machine: &mut Machine<'_, K>,
    subscription: SubscriptionId,
    number: DeadNumber,
    letter: &DeadLetter,
) {
    let place = place_key(subscription, number, letter);
    let overlay = machine.overlay_mut();
    overlay.put(Table::DeadPlaces, place, encode(Kind::DeadPlace, &[]));
    overlay.put(Table::DeadLetters, row_key(subscription, number), letter.encode());
}

/// The first dead letter that is kept, from a number on.
///
/// # Errors
/// When the store fails or the row is corrupt.
pub fn first(
    kv: &impl Kv,
    subscription: SubscriptionId,
    from: DeadNumber,
) -> Result<Option<(DeadNumber, DeadLetter)>, Fault> {
    let (low, high) = (row_key(subscription, from), row_key(subscription.next(), DeadNumber(0)));
    let mut found = None;
    kv.scan(Table::DeadLetters, &low, &high, Order::Ascending, &mut |row, value| {
        found = Some((number_of(row)?, DeadLetter::decode(value)?));
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found)
}

/// Times the end of a dead letter, unless it is kept for ever. The oldest always has a timer: whoever
/// removes it, or changes the retention, times the one that is the oldest then.
pub(crate) fn time<K: Kv>(
    machine: &mut Machine<'_, K>,
    subscription: SubscriptionId,
    (number, died_at): (DeadNumber, UnixMs),
    retention_ms: u64,
) {
    if retention_ms > 0 {
        let at = UnixMs(died_at.get().saturating_add(retention_ms));
        timers::set(machine, at, Due::Forget(subscription, number));
    }
}

/// Times the end of the first dead letter from a number on: the oldest, when all before it went.
pub(crate) fn time_first<K: Kv>(
    machine: &mut Machine<'_, K>,
    subscription: SubscriptionId,
    from: DeadNumber,
    retention_ms: u64,
) -> Result<(), Fault> {
    if let Some((number, letter)) = first(machine.overlay(), subscription, from)? {
        time(machine, subscription, (number, letter.died_at()), retention_ms);
    }
    Ok(())
}

/// Forgets a dead letter with its timer, which is stale when the retention was changed since it was set:
/// then it goes by itself.
pub(crate) fn remove<K: Kv>(
    machine: &mut Machine<'_, K>,
    subscription: SubscriptionId,
    (number, letter): (DeadNumber, &DeadLetter),
    retention_ms: u64,
) {
    let overlay = machine.overlay_mut();
    overlay.delete(Table::DeadPlaces, place_key(subscription, number, letter));
    overlay.delete(Table::DeadLetters, row_key(subscription, number));
    if retention_ms > 0 {
        let at = UnixMs(letter.died_at_ms.saturating_add(retention_ms));
        timers::clear(machine, at, Due::Forget(subscription, number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_gives_back_its_number() {
        let row = row_key(SubscriptionId(3), DeadNumber(9));
        assert_eq!(number_of(&row).unwrap(), DeadNumber(9));
        assert!(number_of(&row[..15]).is_err());
    }
}
