//! Reading what is in flight, what failed, and what is dead; what is due next.

use std::ops::ControlFlow;

use super::dead::{self, DeadLetter};
use super::failures::{self, FailureRecord};
use super::leases::{self, LeaseRecord};
use super::timers::Timer;
use crate::machine::Fault;
use crate::machine::apply::Meta;
use crate::machine::key::END;
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::subscription::progress;
use crate::model::ids::{DeadNumber, LeaseId, Offset, SubscriptionId, TopicId, UnixMs};

/// A lease with its number and when it ends, a new leader's grace included.
#[derive(Clone, Debug, PartialEq)]
pub struct LeaseInfo {
    /// Its number.
    pub id: LeaseId,
    /// When the consumer loses it.
    pub ends_at: UnixMs,
    /// The lease.
    pub lease: LeaseRecord,
}

/// Leases of a subscription after one, in the order of granting.
///
/// # Errors
/// When the store fails or is corrupt; so for all functions here.
pub fn leases(
    kv: &impl Kv,
    subscription: SubscriptionId,
    after: LeaseId,
    limit: usize,
) -> Result<Vec<LeaseInfo>, Fault> {
    let (low, mut found) =
        (leases::row_key(subscription, LeaseId(after.get().saturating_add(1))), Vec::new());
    let meta = Meta::load(kv)?;
    let high = leases::row_key(subscription.next(), LeaseId(0));
    kv.scan(Table::Leases, &low, &high, Order::Ascending, &mut |row, value| {
        if found.len() == limit {
            return Ok(ControlFlow::Break(()));
        }
        let lease = LeaseRecord::decode(value)?;
        let (id, ends_at) = (leases::lease_of(row)?, lease.ends_at(&meta));
        found.push(LeaseInfo { id, ends_at, lease });
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// A failed event with its place.
pub type Retry = (TopicId, Offset, FailureRecord);

/// Failed events of a subscription from a place on, the place included. Those of topics that were deleted
/// are none any more, whatever is still stored of them.
///
/// # Errors
/// See [`leases()`].
pub fn retries(
    kv: &impl Kv,
    subscription: SubscriptionId,
    from: (TopicId, Offset),
    limit: usize,
) -> Result<Vec<Retry>, Fault> {
    let (mut from, mut found, mut gone) = (from, Vec::new(), None);
    let high = failures::row_key(subscription.next(), TopicId(0), Offset(0));
    loop {
        let (low, mut known) = (failures::row_key(subscription, from.0, from.1), None);
        kv.scan(Table::Failures, &low, &high, Order::Ascending, &mut |row, value| {
            if found.len() == limit {
                return Ok(ControlFlow::Break(()));
            }
            let (topic, offset) = failures::place_of(row)?;
            if known != Some(topic) && progress::stored(kv, subscription, topic)?.is_none() {
                gone = Some(topic);
                return Ok(ControlFlow::Break(()));
            }
            known = Some(topic);
            found.push((topic, offset, FailureRecord::decode(value)?));
            Ok(ControlFlow::Continue(()))
        })?;
        match gone.take() {
            Some(topic) => from = (topic.next(), Offset(0)),
            None => return Ok(found),
        }
    }
}

/// Hands out the dead letters of a subscription after one, the oldest first.
///
/// # Errors
/// See [`leases()`].
pub fn each_dead_letter(
    kv: &impl Kv,
    subscription: SubscriptionId,
    after: DeadNumber,
    visit: &mut dyn FnMut(DeadNumber, DeadLetter) -> Result<ControlFlow<()>, Fault>,
) -> Result<(), Fault> {
    let low = dead::row_key(subscription, DeadNumber(after.get().saturating_add(1)));
    let high = dead::row_key(subscription.next(), DeadNumber(0));
    kv.scan(Table::DeadLetters, &low, &high, Order::Ascending, &mut |row, value| {
        visit(dead::number_of(row)?, DeadLetter::decode(value)?)
    })
}

/// Dead letters of a subscription after one, the oldest first.
///
/// # Errors
/// See [`leases()`].
pub fn dead_letters(
    kv: &impl Kv,
    subscription: SubscriptionId,
    after: DeadNumber,
    limit: usize,
) -> Result<Vec<(DeadNumber, DeadLetter)>, Fault> {
    let mut found = Vec::new();
    each_dead_letter(kv, subscription, after, &mut |number, letter| {
        if found.len() == limit {
            return Ok(ControlFlow::Break(()));
        }
        found.push((number, letter));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// When the next timer is due.
///
/// # Errors
/// See [`leases()`].
pub fn next_due(kv: &impl Kv) -> Result<Option<UnixMs>, Fault> {
    let mut next = None;
    kv.scan(Table::Timers, &[], &END, Order::Ascending, &mut |row, _| {
        next = Some(Timer::decode(row)?.at);
        Ok(ControlFlow::Break(()))
    })?;
    Ok(next)
}
