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
    Ok(some_topics_of(kv, pattern, after, (limit, usize::MAX))?.0)
}

/// The same within bounds of what is found and of the names that are passed; and after which name to go
/// on, `None` when those are all.
///
/// # Errors
/// See [`subscription`].
pub fn some_topics_of(
    kv: &impl Kv,
    pattern: &TopicPattern,
    after: &str,
    (limit, names): (usize, usize),
) -> Result<(Vec<TopicInfo>, Option<String>), Fault> {
    let behind = [after.as_bytes(), &[0]].concat();
    let prefix = pattern.prefix().as_bytes();
    let low = if after.is_empty() { prefix } else { prefix.max(&behind) };
    let high = match pattern.single() {
        Some(name) => [name.as_bytes(), &[0]].concat(),
        None => key::after_prefix(prefix),
    };
    let (mut topics, mut passed, mut last, mut more) = (Vec::new(), 0, String::new(), false);
    kv.scan(Table::Topics, low, &high, Order::Ascending, &mut |row, value| {
        let name = String::from_utf8_lossy(row);
        let fits = pattern.matches(&name);
        more = passed == names || (fits && topics.len() == limit);
        if more {
            return Ok(ControlFlow::Break(()));
        }
        if fits {
            topics.push(TopicRecord::decode(value)?.info(&name));
        }
        passed += 1;
        last = name.into_owned();
        Ok(ControlFlow::Continue(()))
    })?;
    Ok((topics, more.then_some(last)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::kv::Write;
    use crate::machine::mem::MemKv;

    #[test]
    fn topics_come_in_parts_however_many_names_lie_between() {
        let mut kv = MemKv::default();
        let name = |n: u64| format!("t{n:02}.{}", if n.is_multiple_of(10) { "x" } else { "y" });
        let row = |n| TopicRecord { id: n, ..TopicRecord::default() }.encode();
        kv.write(
            (0..50).map(|n| Write::Put(Table::Topics, name(n).into_bytes(), row(n))).collect(),
        );
        let pattern = TopicPattern::from_checked("*.x");
        let some = |after: &str, bounds| {
            let (topics, next) = some_topics_of(&kv, &pattern, after, bounds).unwrap();
            (topics.iter().map(|topic| topic.id.get()).collect::<Vec<_>>(), next)
        };
        assert_eq!(some("", (2, 99)), (vec![0, 10], Some(name(19))));
        assert_eq!(some(&name(19), (3, 99)), (vec![20, 30, 40], None), "no other one fits");
        assert_eq!(some("", (9, 50)), (vec![0, 10, 20, 30, 40], None));
        assert_eq!(some("", (9, 8)), (vec![0], Some(name(7))));
        assert_eq!(some(&name(11), (9, 8)), (vec![], Some(name(19))), "none so far");
        assert_eq!(topics_of(&kv, &pattern, &name(10), 9).unwrap().len(), 3);
    }
}
