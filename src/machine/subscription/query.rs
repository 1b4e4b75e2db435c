//! Reading subscriptions: by name, in lists, by topic; the topics of a pattern.

use std::ops::ControlFlow;

use super::record::{self, SubscriptionRecord};
use super::state;
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::topic::record::TopicRecord;
use crate::machine::{Fault, key};
use crate::model::delivery::SubscriptionInfo;
use crate::model::ids::SubscriptionId;
use crate::model::outcome::TopicInfo;
use crate::model::pattern::TopicPattern;

/// A subscription by name.
///
/// # Errors
/// When the store fails or is corrupt; so for all functions here.
pub fn subscription(kv: &impl Kv, name: &str) -> Result<Option<SubscriptionInfo>, Fault> {
    let Some(record) = record::get(kv, name)? else { return Ok(None) };
    let state = state::get(kv, record.subscription_id())?.unwrap_or_default();
    Ok(Some(record.info(&state)))
}

/// The name of a subscription by number.
///
/// # Errors
/// See [`subscription`].
pub fn name_of(kv: &impl Kv, id: SubscriptionId) -> Result<Option<String>, Fault> {
    Ok(state::get(kv, id)?.map(|state| state.name))
}

/// Subscriptions after a name, in the order of names.
///
/// # Errors
/// See [`subscription`].
pub fn subscriptions(
    kv: &impl Kv,
    after: &str,
    limit: usize,
) -> Result<Vec<SubscriptionInfo>, Fault> {
    let mut start = after.as_bytes().to_vec();
    start.push(0);
    let mut found = Vec::new();
    kv.scan(Table::Subscriptions, &start, &key::END, Order::Ascending, &mut |_, row| {
        if found.len() == limit {
            return Ok(ControlFlow::Break(()));
        }
        let record = SubscriptionRecord::decode(row)?;
        let state = state::get(kv, record.subscription_id())?.unwrap_or_default();
        found.push(record.info(&state));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// What each subscription takes, in the order of their names.
///
/// # Errors
/// See [`subscription`].
pub fn patterns(kv: &impl Kv) -> Result<Vec<(SubscriptionId, TopicPattern)>, Fault> {
    let mut found = Vec::new();
    kv.scan(Table::Subscriptions, &[], &key::END, Order::Ascending, &mut |_, row| {
        let record = SubscriptionRecord::decode(row)?;
        let pattern = TopicPattern::from_checked(&record.config.pattern);
        found.push((record.subscription_id(), pattern));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// The subscriptions that take a topic, in the order of their names.
///
/// # Errors
/// See [`subscription`].
pub fn ids_of_topic(kv: &impl Kv, topic: &str) -> Result<Vec<SubscriptionId>, Fault> {
    let all = patterns(kv)?.into_iter();
    Ok(all.filter(|(_, pattern)| pattern.matches(topic)).map(|(id, _)| id).collect())
}

/// The topics that a pattern takes, after a name, in the order of names.
///
/// # Errors
/// See [`subscription`].
pub fn topics_of(
    kv: &impl Kv,
    pattern: &TopicPattern,
    after: &str,
    limit: usize,
) -> Result<Vec<TopicInfo>, Fault> {
    let low = pattern.prefix().as_bytes().max(after.as_bytes()).to_vec();
    let high = match pattern.single() {
        Some(name) => [name.as_bytes(), &[0]].concat(),
        None => key::after_prefix(pattern.prefix().as_bytes()),
    };
    let mut topics = Vec::new();
    kv.scan(Table::Topics, &low, &high, Order::Ascending, &mut |row, value| {
        if topics.len() == limit {
            return Ok(ControlFlow::Break(()));
        }
        let name = String::from_utf8_lossy(row);
        if pattern.matches(&name) && (after.is_empty() || *name > *after) {
            topics.push(TopicRecord::decode(value)?.info(&name));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(topics)
}
