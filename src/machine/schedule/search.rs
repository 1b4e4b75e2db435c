//! What one search shares among its streams: the state it reads, its bound, what it found.

use std::collections::{BTreeMap, BTreeSet};

use super::rank::Rank;
use super::scheduled::Waiting;
use super::topics::{Mark, TopicView};
use super::turns::Turns;
use crate::machine::Fault;
use crate::machine::delivery::budget::Budget;
use crate::machine::delivery::failures;
use crate::machine::kv::Kv;
use crate::machine::record::Kind;
use crate::machine::subscription::record::SubscriptionRecord;
use crate::machine::subscription::state::SubscriptionState;
use crate::model::delivery::{Pick, Seen};
use crate::model::filter::Compiled;
use crate::model::ids::{Offset, TopicId, UnixMs};
use crate::model::ranges::{OffsetRange, Ranges};
use crate::model::subscription::DeliveryOrder;

/// Events that go at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Item {
    pub(super) rank: Rank,
    pub(super) topic: TopicId,
    pub(super) range: OffsetRange,
    /// The events' deadline, Unix milliseconds; 0: none.
    pub(super) deadline_ms: u64,
}

/// Whether a failed event may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retry {
    Yes,
    /// Not in this window.
    OverBudget,
    /// It is gone, not in turn, or none of this search's.
    No,
}

pub(super) struct Search<'k, K> {
    pub(super) kv: &'k K,
    pub(super) record: SubscriptionRecord,
    pub(super) now: UnixMs,
    /// Rows and events that may still be looked at.
    pub(super) rows: u64,
    pub(super) topics: BTreeMap<TopicId, TopicView>,
    /// When to search again, if nothing happens before.
    pub(super) wake_at: Option<UnixMs>,
    pub(super) picks: Vec<Pick>,
    pub(super) skips: Vec<Pick>,
    /// The search did not begin at the beginning, or did not come to the end.
    pub(super) partial: bool,
    filter: Option<Compiled>,
    pub(super) by_key: bool,
    /// In order by key, what is known of events.
    pub(super) turns: Turns,
    /// Retries that the budget still allows.
    retries: u64,
    /// Of the picks, those that are retries.
    pub(super) retried: BTreeSet<(TopicId, Offset)>,
    /// Events with a deadline that were found: another stream comes to them too.
    taken: BTreeSet<(TopicId, Offset)>,
}

impl<'k, K: Kv> Search<'k, K> {
    pub(super) fn new(
        kv: &'k K,
        record: SubscriptionRecord,
        state: &SubscriptionState,
        now: UnixMs,
        rows: u64,
    ) -> Result<Self, Fault> {
        let filter = record.config.filter.as_ref().map(|filter| {
            let corrupt = |e: crate::model::rejection::Rejection| Fault::Corrupt {
                record: Kind::Subscription,
                what: e.message,
            };
            filter.compile().map_err(corrupt)
        });
        Ok(Self {
            kv,
            now,
            rows,
            filter: filter.transpose()?,
            by_key: record.config.order() == DeliveryOrder::ByKey,
            turns: Turns::default(),
            retries: state.budget.left(now, &record.config.retry),
            record,
            topics: BTreeMap::new(),
            retried: BTreeSet::new(),
            wake_at: None,
            picks: Vec::new(),
            skips: Vec::new(),
            partial: false,
            taken: BTreeSet::new(),
        })
    }

    /// Lowers how many failed events are found.
    pub(super) fn allow_retries(&mut self, most: u64) {
        self.retries = self.retries.min(most);
    }

    pub(super) fn topic(&mut self, topic: TopicId) -> Result<&mut TopicView, Fault> {
        self.topics.get_mut(&topic).ok_or_else(gone)
    }

    pub(super) fn mark(&mut self, topic: TopicId, offset: Offset) -> Result<Mark, Fault> {
        let kv = self.kv;
        self.topic(topic)?.mark(kv, offset)
    }

    /// Whether events have to be looked into one by one.
    pub(super) fn looks_inside(&self) -> bool {
        self.by_key || self.filter.is_some()
    }

    /// Whether there is nothing to lease or to skip.
    pub(super) fn found_nothing(&self) -> bool {
        self.picks.is_empty() && self.skips.is_empty()
    }

    pub(super) fn spend(&mut self, rows: u64) {
        self.rows = self.rows.saturating_sub(rows);
    }

    pub(super) fn wake_at(&mut self, at: UnixMs) {
        self.wake_at = Some(self.wake_at.map_or(at, |known| known.min(at)));
    }

    /// Whether the budget leaves no retries.
    pub(super) fn is_out_of_retries(&self) -> bool {
        self.retries == 0
    }

    /// Whether a failed event may go.
    pub(super) fn may_retry(&mut self, topic: TopicId, offset: Offset) -> Result<Retry, Fault> {
        // The search that has its topic comes to it.
        if self.topics.get(&topic).is_none_or(|view| view.is_reserved(offset)) {
            return Ok(Retry::No);
        }
        let (kv, id) = (self.kv, self.record.subscription_id());
        let Some(story) = failures::get(kv, id, topic, offset)? else { return Ok(Retry::No) };
        if story.failures > 0 && self.retries == 0 {
            self.wake_at(Budget::next_window(self.now));
            return Ok(Retry::OverBudget);
        }
        if self.by_key && !self.is_in_turn(topic, offset)? {
            return Ok(Retry::No);
        }
        if story.failures > 0 {
            self.retries = self.retries.saturating_sub(1);
            self.retried.insert((topic, offset));
        }
        Ok(Retry::Yes)
    }

    /// Takes a single free event, unless it was taken before or may not go; how many.
    pub(super) fn take_one(
        &mut self,
        topic: TopicId,
        offset: Offset,
        deadline_ms: u64,
    ) -> Result<u64, Fault> {
        // Two streams have those with a deadline.
        if deadline_ms > 0 && !self.taken.insert((topic, offset)) {
            return Ok(0);
        }
        self.take(topic, OffsetRange::one(offset), deadline_ms)
    }

    /// Takes free events that may go, and skips what the filter does not let through; how many
    /// were taken.
    pub(super) fn take(
        &mut self,
        topic: TopicId,
        range: OffsetRange,
        deadline_ms: u64,
    ) -> Result<u64, Fault> {
        if !self.looks_inside() {
            self.pick(topic, range, deadline_ms)?;
            return Ok(range.count);
        }
        let mut count = 0;
        for offset in (range.first..range.end()).map(Offset) {
            self.spend(1);
            let passes = self.passes(topic, offset)?;
            if self.by_key && !self.is_in_turn(topic, offset)? {
                continue;
            }
            if passes {
                self.pick(topic, OffsetRange::one(offset), deadline_ms)?;
                count += 1;
            } else {
                self.skip(topic, offset)?;
            }
        }
        Ok(count)
    }

    /// Whether the filter lets an event through.
    pub(super) fn passes(&mut self, topic: TopicId, offset: Offset) -> Result<bool, Fault> {
        if self.filter.is_none() {
            return Ok(true);
        }
        if let Some(known) = self.turns.verdict(topic, offset) {
            return Ok(known);
        }
        let kv = self.kv;
        let read = self.topic(topic)?.reader.read(kv, topic, offset)?;
        let passes = match (&self.filter, read) {
            (Some(filter), Some(event)) => filter.matches(&event)?,
            _ => true,
        };
        if self.by_key {
            // Those after it in its key ask again.
            self.turns.judge(topic, offset, passes);
        }
        Ok(passes)
    }

    /// Whether there is a filter.
    pub(super) fn filters(&self) -> bool {
        self.filter.is_some()
    }

    /// Takes free events, in order, that were not taken before, when nothing has to be looked into; how many.
    pub(super) fn take_all(
        &mut self,
        topic: TopicId,
        waiting: impl Iterator<Item = Waiting>,
    ) -> Result<u64, Fault> {
        let (mut events, mut first_deadline) = (Ranges::new(), None::<u64>);
        for Waiting { offset, deadline_ms, .. } in waiting {
            // Two streams have those with a deadline.
            if deadline_ms == 0 || self.taken.insert((topic, offset)) {
                events.push(OffsetRange::one(offset));
                let deadline = Some(deadline_ms).filter(|ms| *ms > 0);
                first_deadline = first_deadline.into_iter().chain(deadline).min();
            }
        }
        self.pick_all(topic, events.as_slice(), first_deadline.unwrap_or(0))?;
        Ok(events.count())
    }

    /// Picks events that may go, with their first deadline.
    pub(super) fn pick(
        &mut self,
        topic: TopicId,
        range: OffsetRange,
        deadline_ms: u64,
    ) -> Result<(), Fault> {
        self.pick_all(topic, &[range], deadline_ms)
    }

    fn pick_all(
        &mut self,
        topic: TopicId,
        ranges: &[OffsetRange],
        deadline_ms: u64,
    ) -> Result<(), Fault> {
        let info = &view(&self.topics, topic)?.info;
        let seen = Seen { at_ms: self.now.get(), cancels: info.cancels, deadline_ms };
        for range in ranges {
            Pick::append(&mut self.picks, topic, &info.name, *range, Some(seen));
        }
        Ok(())
    }

    /// Skips a cancelled event, in order by key when it is in turn: what is done lets others go.
    pub(super) fn skip_cancelled(&mut self, topic: TopicId, offset: Offset) -> Result<(), Fault> {
        if !self.by_key || self.is_in_turn(topic, offset)? {
            self.skip(topic, offset)?;
        }
        Ok(())
    }

    pub(super) fn skip(&mut self, topic: TopicId, offset: Offset) -> Result<(), Fault> {
        if self.by_key && !self.turns.drop_once(topic, offset) {
            return Ok(());
        }
        let info = &view(&self.topics, topic)?.info;
        Pick::append(&mut self.skips, topic, &info.name, OffsetRange::one(offset), None);
        Ok(())
    }
}

fn view(topics: &BTreeMap<TopicId, TopicView>, topic: TopicId) -> Result<&TopicView, Fault> {
    topics.get(&topic).ok_or_else(gone)
}

fn gone() -> Fault {
    let what = "a topic that was just read is gone".to_owned();
    Fault::Corrupt { record: Kind::Topic, what }
}
