//! How much waits for subscriptions: counted by ranges, without looking at events.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::marks::{self, Marks};
use super::progress;
use super::query::topics_of;
use super::record::SubscriptionRecord;
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::topic::record::TopicRecord;
use crate::machine::{Fault, key};
use crate::model::delivery::SubscriptionInfo;
use crate::model::ids::{Position, SubscriptionId};
use crate::model::limits::MARKS_OFFSETS;
use crate::model::outcome::TopicInfo;
use crate::model::pattern::TopicPattern;

/// Topics that are in memory at once.
const TOPICS_PAGE: usize = 256;

/// Events that are not done for a subscription: waiting, delayed, in flight or failing, and those
/// that its filter will skip; of all its topics.
///
/// # Errors
/// When the store fails or is corrupt; so for all functions here.
pub fn waiting(kv: &impl Kv, subscription: &SubscriptionInfo) -> Result<u64, Fault> {
    let pattern = TopicPattern::from_checked(&subscription.config.pattern);
    let (mut all, mut after) = (0_u64, String::new());
    loop {
        let topics = topics_of(kv, &pattern, &after, TOPICS_PAGE)?;
        for topic in &topics {
            let subscription = (subscription.id, subscription.start);
            all = all.saturating_add(waiting_in(kv, subscription, topic)?);
        }
        match topics.into_iter().nth(TOPICS_PAGE - 1) {
            Some(last) => after = last.name,
            None => return Ok(all),
        }
    }
}

fn waiting_in(
    kv: &impl Kv,
    (subscription, start): (SubscriptionId, Position),
    topic: &TopicInfo,
) -> Result<u64, Fault> {
    let progress = progress::load(kv, subscription, start, topic)?;
    let mut done = 0;
    let low = marks::row_key(subscription, topic.id, progress.floor / MARKS_OFFSETS);
    let high = marks::row_key(subscription, topic.id, u64::MAX);
    kv.scan(Table::Marks, &low, &high, Order::Ascending, &mut |_, value| {
        done += Marks::decode(value)?.done.count();
        Ok(ControlFlow::Continue(()))
    })?;
    let open = topic.next_offset.get().saturating_sub(progress.floor).saturating_sub(done);
    Ok(open.saturating_add(progress.failures))
}

/// For each of some topics, the bytes that wait for the slowest of its subscriptions, by the mean
/// size of its events; 0 when nobody subscribes to it. Topics that do not exist are left out.
///
/// # Errors
/// See [`waiting`].
pub fn bytes_of_topics(kv: &impl Kv, names: &[String]) -> Result<BTreeMap<String, u64>, Fault> {
    let mut topics = BTreeMap::new();
    for name in names {
        if let Some(row) = kv.get(Table::Topics, name.as_bytes())? {
            let topic = TopicRecord::decode(&row)?.info(name);
            topics.insert(name.clone(), (topic, 0));
        }
    }
    if topics.is_empty() {
        return Ok(BTreeMap::new());
    }
    kv.scan(Table::Subscriptions, &[], &key::END, Order::Ascending, &mut |_, row| {
        let record = SubscriptionRecord::decode(row)?;
        let subscription = (record.subscription_id(), Position(record.start_position));
        let pattern = TopicPattern::from_checked(&record.config.pattern);
        let near = topics.range_mut(pattern.prefix().to_owned()..);
        let near = near.take_while(|(name, _)| name.starts_with(pattern.prefix()));
        for (_, (topic, most)) in near.filter(|(name, _)| pattern.matches(name)) {
            *most = waiting_in(kv, subscription, topic)?.max(*most);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let bytes = |(name, (topic, most)): (String, (TopicInfo, u64))| {
        let events = u128::from(topic.next_offset.get().max(1));
        let bytes = u128::from(topic.bytes) * u128::from(most) / events;
        (name, u64::try_from(bytes).unwrap_or(u64::MAX))
    };
    Ok(topics.into_iter().map(bytes).collect())
}
