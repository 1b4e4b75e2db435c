//! How much waits for subscriptions: counted by ranges, without looking at events.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::marks::{self, Marks};
use super::progress;
use super::query::{self, some_topics_of};
use super::record::SubscriptionRecord;
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::topic::record::TopicRecord;
use crate::machine::{Fault, key};
use crate::model::delivery::SubscriptionInfo;
use crate::model::ids::{Position, SubscriptionId};
use crate::model::limits::MARKS_OFFSETS;
use crate::model::outcome::TopicInfo;
use crate::model::pattern::TopicPattern;

/// Topics that are in memory at once, and topics whose names are passed to find them.
const TOPICS_PAGE: (usize, usize) = (256, 1024);

/// Events that are not done for a subscription: waiting, delayed, in flight or failing, and those
/// that its filter will skip; of all its topics.
///
/// # Errors
/// When the store fails or is corrupt; so for all functions here.
pub fn waiting(kv: &impl Kv, subscription: &SubscriptionInfo) -> Result<u64, Fault> {
    let (mut begun, mut rows) = (Begun::default(), usize::MAX);
    begun.go_on(kv, subscription, &mut rows)?;
    Ok(begun.waiting)
}

/// How many events wait for subscriptions, by name.
pub type Waits = Vec<(String, u64)>;

/// How far counting what waits for all subscriptions has come.
#[derive(Clone, Debug, Default)]
pub struct Walk {
    /// The last one of which all was counted.
    after: String,
    /// The one that is being counted, where it is not done.
    begun: Option<(String, Begun)>,
}

/// A subscription of which a part was counted.
#[derive(Clone, Debug, Default)]
struct Begun {
    /// The last of its topics that was counted, or passed.
    after: String,
    waiting: u64,
}

/// What waits for each of some subscriptions, as [`waiting`] counts it, in the order of names. It looks at so
/// many rows, and at one topic more at most, and says where to go on; `None`: those were the last.
///
/// # Errors
/// See [`waiting`].
pub fn waiting_for_some(
    kv: &impl Kv,
    from: &Walk,
    rows: usize,
) -> Result<(Waits, Option<Walk>), Fault> {
    let (mut walk, mut rows, mut found) = (from.clone(), rows.max(1), Vec::new());
    loop {
        let (begun, subscription) = match walk.begun.take() {
            Some((name, begun)) => (begun, query::subscription(kv, &name)?),
            None => (Begun::default(), None),
        };
        // One that was deleted meanwhile is passed over.
        let (mut begun, subscription) = match subscription {
            Some(subscription) => (begun, subscription),
            None => match query::subscriptions(kv, &walk.after, 1)?.pop() {
                Some(next) => (Begun::default(), next),
                None => return Ok((found, None)),
            },
        };
        if rows == 0 || !begun.go_on(kv, &subscription, &mut rows)? {
            walk.begun = Some((subscription.name, begun));
            return Ok((found, Some(walk)));
        }
        walk.after.clone_from(&subscription.name);
        found.push((subscription.name, begun.waiting));
    }
}

impl Begun {
    /// Counts what waits in more topics, until so many rows were looked at; whether those were all.
    fn go_on(
        &mut self,
        kv: &impl Kv,
        subscription: &SubscriptionInfo,
        rows: &mut usize,
    ) -> Result<bool, Fault> {
        let pattern = TopicPattern::from_checked(&subscription.config.pattern);
        loop {
            let (topics, next) = some_topics_of(kv, &pattern, &self.after, TOPICS_PAGE)?;
            *rows = rows.saturating_sub(if next.is_some() { TOPICS_PAGE.1 } else { 1 });
            for topic in topics {
                let of = (subscription.id, subscription.start);
                let (waiting, looked_at) = waiting_in(kv, of, &topic)?;
                self.waiting = self.waiting.saturating_add(waiting);
                self.after = topic.name;
                *rows = rows.saturating_sub(looked_at);
                if *rows == 0 {
                    return Ok(false);
                }
            }
            match next {
                Some(next) => self.after = next,
                None => return Ok(true),
            }
            if *rows == 0 {
                return Ok(false);
            }
        }
    }
}

/// What waits in a topic, and how many rows that took.
fn waiting_in(
    kv: &impl Kv,
    (subscription, start): (SubscriptionId, Position),
    topic: &TopicInfo,
) -> Result<(u64, usize), Fault> {
    let progress = progress::load(kv, subscription, start, topic)?;
    let (mut done, mut rows) = (0, 1);
    let low = marks::row_key(subscription, topic.id, progress.floor / MARKS_OFFSETS);
    let high = marks::row_key(subscription, topic.id, u64::MAX);
    kv.scan(Table::Marks, &low, &high, Order::Ascending, &mut |_, value| {
        done += Marks::decode(value)?.done.count();
        rows += 1;
        Ok(ControlFlow::Continue(()))
    })?;
    let open = topic.next_offset.get().saturating_sub(progress.floor).saturating_sub(done);
    Ok((open.saturating_add(progress.failures), rows))
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
            *most = waiting_in(kv, subscription, topic)?.0.max(*most);
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
