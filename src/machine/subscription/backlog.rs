//! How much waits for subscriptions: counted by ranges, without looking at events.

use std::ops::ControlFlow;

use super::marks::{self, Marks};
use super::progress;
use super::query::topics_of;
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::topic::record::TopicRecord;
use crate::machine::{Fault, key};
use crate::model::delivery::SubscriptionInfo;
use crate::model::limits::{MARKS_OFFSETS, SEEK_TOPICS_MAX};
use crate::model::outcome::TopicInfo;
use crate::model::pattern::TopicPattern;

/// Events that are not done for a subscription: waiting, delayed, in flight or failing, and those
/// that its filter will skip. Over at most `limits::SEEK_TOPICS_MAX` topics.
///
/// # Errors
/// When the store fails or is corrupt; so for all functions here.
pub fn waiting(kv: &impl Kv, subscription: &SubscriptionInfo) -> Result<u64, Fault> {
    let pattern = TopicPattern::from_checked(&subscription.config.pattern);
    let mut all = 0_u64;
    for topic in topics_of(kv, &pattern, "", SEEK_TOPICS_MAX)? {
        all = all.saturating_add(waiting_in(kv, subscription, &topic)?);
    }
    Ok(all)
}

fn waiting_in(
    kv: &impl Kv,
    subscription: &SubscriptionInfo,
    topic: &TopicInfo,
) -> Result<u64, Fault> {
    let progress = progress::load(kv, subscription.id, subscription.start, topic)?;
    let mut done = 0;
    let low = marks::row_key(subscription.id, topic.id, progress.floor / MARKS_OFFSETS);
    let high = marks::row_key(subscription.id, topic.id, u64::MAX);
    kv.scan(Table::Marks, &low, &high, Order::Ascending, &mut |_, value| {
        done += Marks::decode(value)?.done.count();
        Ok(ControlFlow::Continue(()))
    })?;
    let open = topic.next_offset.get().saturating_sub(progress.floor).saturating_sub(done);
    Ok(open.saturating_add(progress.failures))
}

/// Bytes of a topic that wait for the slowest of its subscriptions, by the mean size of its events;
/// 0 when the topic does not exist or nobody subscribes to it.
///
/// # Errors
/// See [`waiting`].
pub fn bytes_of_topic(kv: &impl Kv, name: &str) -> Result<u64, Fault> {
    let Some(row) = kv.get(Table::Topics, name.as_bytes())? else { return Ok(0) };
    let topic = TopicRecord::decode(&row)?.info(name);
    let mut subscriptions = Vec::new();
    kv.scan(Table::Subscriptions, &[], &key::END, Order::Ascending, &mut |_, row| {
        let record = super::record::SubscriptionRecord::decode(row)?;
        if TopicPattern::from_checked(&record.config.pattern).matches(name) {
            subscriptions.push(record.info(&super::state::SubscriptionState::default()));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let mut most = 0;
    for subscription in subscriptions {
        most = most.max(waiting_in(kv, &subscription, &topic)?);
    }
    let bytes =
        u128::from(topic.bytes) * u128::from(most) / u128::from(topic.next_offset.get().max(1));
    Ok(u64::try_from(bytes).unwrap_or(u64::MAX))
}
