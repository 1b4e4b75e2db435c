//! What is due at an instant: (due, kind, what) → nothing.
//!
//! A timer may be stale: what it is about may have ended or moved. Whoever fires it looks first.

use bytes::Bytes;

use crate::machine::apply::Machine;
use crate::machine::kv::{Kv, Table};
use crate::machine::record::{Kind, encode};
use crate::machine::{Fault, key};
use crate::model::ids::{
    DeadNumber, LeaseId, Offset, SubscriptionId, TopicId, TransactionId, UnixMs,
};

/// What is due. The order is the order of firing at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// A lease ends.
    Lease(SubscriptionId, LeaseId),
    /// A failed event may be delivered again.
    Retry(SubscriptionId, TopicId, Offset),
    /// A paused subscription resumes.
    Resume(SubscriptionId),
    /// An event's deadline passes.
    Deadline(TopicId, Offset),
    /// A dead letter was kept long enough.
    Forget(SubscriptionId, DeadNumber),
    /// Something about the service or the instance that this number was given to.
    Registry(u64),
    /// A staged transaction expires.
    Transaction(TransactionId),
    /// The placing of failed events goes on, after the priority policy changed.
    Place(SubscriptionId),
    /// Failed events of a topic that was deleted are forgotten, from one on.
    Sweep(SubscriptionId, TopicId, Offset),
    /// The dead letter of an event is to be written: there were too many at once.
    Bury(SubscriptionId, TopicId, Offset),
    /// What led to the end of an event was kept long enough.
    Ending(SubscriptionId, TopicId, Offset),
}

/// A row's key, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timer {
    /// When.
    pub at: UnixMs,
    /// What.
    pub due: Due,
}

impl Timer {
    /// The row's key.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let (kind, numbers) = match self.due {
            Due::Lease(subscription, lease) => (1, [subscription.0, lease.0, 0]),
            Due::Retry(subscription, topic, offset) => (2, [subscription.0, topic.0, offset.0]),
            Due::Resume(subscription) => (3, [subscription.0, 0, 0]),
            Due::Deadline(topic, offset) => (4, [topic.0, offset.0, 0]),
            Due::Forget(subscription, number) => (5, [subscription.0, number.0, 0]),
            Due::Registry(number) => (6, [number, 0, 0]),
            Due::Transaction(id) => (7, [id.0, 0, 0]),
            Due::Place(subscription) => (8, [subscription.0, 0, 0]),
            Due::Sweep(subscription, topic, offset) => (9, [subscription.0, topic.0, offset.0]),
            Due::Bury(subscription, topic, offset) => (10, [subscription.0, topic.0, offset.0]),
            Due::Ending(subscription, topic, offset) => (11, [subscription.0, topic.0, offset.0]),
        };
        let mut row = Vec::with_capacity(33);
        row.extend_from_slice(&self.at.to_key());
        row.push(kind);
        numbers.iter().for_each(|n: &u64| row.extend_from_slice(&n.to_be_bytes()));
        row
    }

    /// Takes a row's key apart.
    ///
    /// # Errors
    /// When the key is not one.
    pub fn decode(row: &[u8]) -> Result<Self, Fault> {
        let mut reader = key::Reader::new(Kind::Timer, row);
        let (at, kind) = (UnixMs(reader.number()?), reader.byte()?);
        let [a, b, c] = [reader.number()?, reader.number()?, reader.number()?];
        reader.end()?;
        let due = match kind {
            1 => Due::Lease(SubscriptionId(a), LeaseId(b)),
            2 => Due::Retry(SubscriptionId(a), TopicId(b), Offset(c)),
            3 => Due::Resume(SubscriptionId(a)),
            4 => Due::Deadline(TopicId(a), Offset(b)),
            5 => Due::Forget(SubscriptionId(a), DeadNumber(b)),
            6 => Due::Registry(a),
            7 => Due::Transaction(TransactionId(a)),
            8 => Due::Place(SubscriptionId(a)),
            9 => Due::Sweep(SubscriptionId(a), TopicId(b), Offset(c)),
            10 => Due::Bury(SubscriptionId(a), TopicId(b), Offset(c)),
            11 => Due::Ending(SubscriptionId(a), TopicId(b), Offset(c)),
            _ => {
                let what = format!("timer of kind {kind}");
                return Err(Fault::Corrupt { record: Kind::Timer, what });
            }
        };
        Ok(Self { at, due })
    }
}

pub(crate) fn set<K: Kv>(machine: &mut Machine<'_, K>, at: UnixMs, due: Due) {
    let row = Timer { at, due }.encode();
    machine.overlay_mut().put(Table::Timers, row, encode(Kind::Timer, &[]));
}

pub(crate) fn clear<K: Kv>(machine: &mut Machine<'_, K>, at: UnixMs, due: Due) {
    machine.overlay_mut().delete(Table::Timers, Timer { at, due }.encode());
}

/// The value of a row: nothing.
#[must_use]
pub fn value() -> Bytes {
    encode(Kind::Timer, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_timers_do() {
        let (s, t, o) = (SubscriptionId(1), TopicId(2), Offset(3));
        let dues = [
            Due::Lease(s, LeaseId(9)),
            Due::Retry(s, t, o),
            Due::Resume(s),
            Due::Deadline(t, o),
            Due::Forget(s, DeadNumber(1)),
            Due::Registry(1),
            Due::Transaction(TransactionId(1)),
            Due::Place(s),
            Due::Sweep(s, t, o),
            Due::Bury(s, t, o),
            Due::Ending(s, t, o),
        ];
        let timers: Vec<_> =
            [1, 300].iter().flat_map(|at| dues.map(|due| Timer { at: UnixMs(*at), due })).collect();
        let rows: Vec<_> = timers.iter().map(|t| t.encode()).collect();
        assert!(rows.is_sorted() && timers.is_sorted());
        for (row, timer) in rows.iter().zip(timers) {
            assert_eq!(Timer::decode(row).unwrap(), timer);
        }
        assert!(Timer::decode(&rows[0][1..]).is_err());
    }
}
