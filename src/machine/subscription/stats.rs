//! How a subscription stands: its events by what they wait for.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::marks::{self, Marks};
use super::progress::{self, ProgressRecord};
use super::record::{self, SubscriptionRecord};
use super::{query as subscriptions, state};
use crate::machine::delivery::failures::{self, FailureRecord, Standing};
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::schedule::specials::{self, SpecialRecord};
use crate::machine::{Fault, query};
use crate::model::ids::{Offset, Position, SubscriptionId, TopicId, UnixMs};
use crate::model::limits::{MARKS_OFFSETS, PRIORITY_DEFAULT, PRIORITY_MAX, STATS_ROWS_MAX};
use crate::model::outcome::TopicInfo;
use crate::model::pattern::TopicPattern;
use crate::model::ranges::OffsetRange;

/// Events of a subscription by what they wait for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Never delivered, and ready. Events that the filter will not let through count too, until
    /// they are come to.
    pub pending: u64,
    /// Never delivered, and not before an instant of their own.
    pub delayed: u64,
    /// Called off, and not come to yet.
    pub cancelled: u64,
    /// With a consumer.
    pub leased: u64,
    /// Failed or redriven, and not with a consumer.
    pub retrying: u64,
    /// Of these, those that may be delivered now.
    pub due: u64,
    /// Dead letters that are kept.
    pub dead: u64,
    /// `pending` by priority, 0 to 9.
    pub pending_by_priority: [u64; 10],
    /// When the oldest event that is not done was recorded.
    pub oldest: Option<UnixMs>,
    /// Rows were left uncounted: there are more than `limits::STATS_ROWS_MAX`, or than were allowed.
    pub truncated: bool,
}

/// How a subscription stands; `None`: there is none.
///
/// # Errors
/// When the store fails or is corrupt.
pub fn stats(kv: &impl Kv, name: &str, now: UnixMs) -> Result<Option<Stats>, Fault> {
    stats_within(kv, name, now, STATS_ROWS_MAX)
}

/// The same with a bound of one's own on the rows that are looked at.
///
/// # Errors
/// When the store fails or is corrupt.
pub fn stats_within(
    kv: &impl Kv,
    name: &str,
    now: UnixMs,
    rows: u64,
) -> Result<Option<Stats>, Fault> {
    let Some(record) = record::get(kv, name)? else { return Ok(None) };
    let id = record.subscription_id();
    let state = state::get(kv, id)?.unwrap_or_default();
    let mut count = Count { rows, stats: Stats::default(), now };
    count.stats.leased = state.in_flight;
    count.stats.dead = state.dead_letters;
    let pattern = TopicPattern::from_checked(&record.config.pattern);
    let mut after = String::new();
    while count.rows > 0 {
        let topics = subscriptions::topics_of(kv, &pattern, &after, 64)?;
        let Some(last) = topics.last() else { break };
        after.clone_from(&last.name);
        for topic in &topics {
            count.topic(kv, &record, topic)?;
        }
    }
    count.stats.truncated = count.rows == 0;
    Ok(Some(count.stats))
}

struct Count {
    /// Rows that may still be looked at.
    rows: u64,
    stats: Stats,
    now: UnixMs,
}

impl Count {
    fn row(&mut self) -> ControlFlow<()> {
        self.rows = self.rows.saturating_sub(1);
        if self.rows == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn topic(
        &mut self,
        kv: &impl Kv,
        record: &SubscriptionRecord,
        topic: &TopicInfo,
    ) -> Result<(), Fault> {
        let id = record.subscription_id();
        let progress = progress::load(kv, id, Position(record.start_position), topic)?;
        let marks = self.marks(kv, id, topic.id, &progress)?;
        let taken: u64 = marks.values().map(|m| m.done.count() + m.leased.count()).sum();
        let free = topic.next_offset.get().saturating_sub(progress.floor).saturating_sub(taken);
        let mut special = 0;
        if topic.specials > 0 {
            let range = OffsetRange::between(progress.floor, topic.next_offset.get());
            specials::visit(kv, topic.id, range, &mut |offset, record| {
                let places = marks.get(&marks::chunk_of(offset));
                let place = offset.get() % MARKS_OFFSETS;
                if !places.is_some_and(|m| m.done.has(place) || m.leased.has(place)) {
                    special += 1;
                    self.special(&record);
                }
                Ok(self.row())
            })?;
        }
        let plain = free.saturating_sub(special);
        self.older(query::recorded_at(kv, topic.id, Offset(progress.floor))?);
        self.pending(PRIORITY_DEFAULT, plain);
        if progress.failures > 0 {
            self.failures(kv, id, topic.id)?;
        }
        self.rows = self.rows.saturating_sub(1);
        Ok(())
    }

    fn pending(&mut self, priority: u32, count: u64) {
        let at = usize::try_from(priority.min(PRIORITY_MAX)).unwrap_or(0);
        self.stats.pending += count;
        self.stats.pending_by_priority[at] += count;
    }

    fn special(&mut self, special: &SpecialRecord) {
        if special.cancelled {
            self.stats.cancelled += 1;
        } else if special.ready_at_ms > self.now.get() {
            self.stats.delayed += 1;
        } else {
            self.pending(special.priority, 1);
        }
    }

    fn marks(
        &mut self,
        kv: &impl Kv,
        id: SubscriptionId,
        topic: TopicId,
        progress: &ProgressRecord,
    ) -> Result<BTreeMap<u64, Marks>, Fault> {
        let mut found = BTreeMap::new();
        let low = marks::row_key(id, topic, marks::chunk_of(Offset(progress.floor)));
        let high = marks::row_key(id, topic, u64::MAX);
        kv.scan(Table::Marks, &low, &high, Order::Ascending, &mut |row, value| {
            found.insert(marks::chunk_in(row)?, Marks::decode(value)?);
            Ok(self.row())
        })?;
        Ok(found)
    }

    fn older(&mut self, recorded_at: Option<UnixMs>) {
        self.stats.oldest = self.stats.oldest.into_iter().chain(recorded_at).min();
    }

    fn failures(&mut self, kv: &impl Kv, id: SubscriptionId, topic: TopicId) -> Result<(), Fault> {
        let low = failures::row_key(id, topic, Offset(0));
        let high = failures::row_key(id, topic, Offset(u64::MAX));
        let mut first = None;
        kv.scan(Table::Failures, &low, &high, Order::Ascending, &mut |row, value| {
            if first.is_none() {
                first = Some(failures::place_of(row)?.1);
            }
            let story = FailureRecord::decode(value)?;
            self.stats.retrying += u64::from(story.stands() != Standing::Leased);
            self.stats.due += u64::from(story.is_due(self.now));
            Ok(self.row())
        })?;
        // The first is the oldest: along a topic, times never decrease.
        if let Some(first) = first {
            self.older(query::recorded_at(kv, topic, first)?);
        }
        Ok(())
    }
}
