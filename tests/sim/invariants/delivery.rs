//! Conservation: every event of a subscription is in exactly one place. What was published is what
//! was acked, died, was filtered out, or still waits, is leased or retried.

use std::collections::BTreeMap;
use std::sync::Arc;

use message_hub::machine::kv::Kv;
use message_hub::machine::subscription::query::subscription;
use message_hub::machine::subscription::stats;
use message_hub::machine::{Fault, query};
use message_hub::model::ids::{LogIndex, UnixMs};
use message_hub::node::Node;

use crate::oracle::{SUBSCRIPTIONS, TOPICS};

/// Counting takes longer than a tick: each node is looked at this often.
const EVERY_TICKS: u64 = 16;

#[derive(Default)]
pub(crate) struct Delivery {
    ticks: u64,
    /// How far the state was that was looked at last.
    seen: BTreeMap<u64, LogIndex>,
}

impl Delivery {
    pub(crate) fn see(&mut self, id: u64, node: &Arc<Node>) -> Result<(), String> {
        self.ticks += 1;
        if !self.ticks.is_multiple_of(EVERY_TICKS) {
            return Ok(());
        }
        let applied = node.status().applied_index;
        if self.seen.insert(id, applied) == Some(applied) {
            return Ok(());
        }
        let db = node.raft().state();
        let counted = db.view(|view| {
            SUBSCRIPTIONS.iter().try_for_each(|(name, _)| conserved(view, name).map(drop))
        });
        counted.map_err(|wrong| format!("node {id} at {applied}: {wrong}"))
    }
}

/// Checks one subscription; how many of its events have come to an end.
pub(crate) fn conserved(kv: &impl Kv, name: &str) -> Result<u64, String> {
    count(kv, name).map_err(|fault| fault.to_string())?
}

fn count(kv: &impl Kv, name: &str) -> Result<Result<u64, String>, Fault> {
    // It may not exist yet.
    let Some(info) = subscription(kv, name)? else { return Ok(Ok(0)) };
    let Some(stats) = stats::stats(kv, name, UnixMs(0))? else { return Ok(Ok(0)) };
    let mut published = 0;
    for topic in TOPICS {
        let pattern = message_hub::model::pattern::TopicPattern::from_checked(&info.config.pattern);
        if pattern.matches(topic) {
            published += query::topic(kv, topic)?.map_or(0, |topic| topic.next_offset.get());
        }
    }
    let counters = &info.counters;
    let ended = counters.acked + counters.dead + counters.dropped + counters.filtered;
    let waiting = stats.pending + stats.delayed + stats.cancelled + stats.leased + stats.retrying;
    if published != ended + waiting {
        return Ok(Err(format!(
            "{name} has {published} events, but {ended} ended and {waiting} wait: {counters:?}, {stats:?}"
        )));
    }
    Ok(Ok(ended))
}
