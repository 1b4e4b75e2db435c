//! Delivery as plainly as possible: a status per event, vectors and maps, no tables, no ranges.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::random::BULKY_BYTES;
use crate::machine::delivery::retry;
use crate::model::command::subscription::{At, Place};
use crate::model::delivery::{Counters, DeadReason, PauseReason};
use crate::model::ids::{Offset, SubscriptionId, TopicId};
use crate::model::limits::{DEAD_LETTERS_BURIED_BYTES, EARLY_DEAD_MAX, FAILURES_SWEPT_MAX};
use crate::model::quota::QuotaLimits;
use crate::model::rejection::Reason;
use crate::model::subscription::{DeliveryOrder, PriorityMode, SubscriptionConfig};

#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) position: u64,
    pub(super) kind: String,
    pub(super) key: String,
    pub(super) priority: u32,
    pub(super) deadline: Option<u64>,
    pub(super) ready_at: u64,
    pub(super) flow: String,
    pub(super) cancelled: bool,
    /// A tick saw its deadline pass.
    pub(super) fired: bool,
    /// So large that few of them are as many bytes of dead letters as one entry writes.
    pub(super) bulky: bool,
}

/// So many bulky events one entry buries, and a tick.
const BULKY_BURIED_MAX: u64 = (DEAD_LETTERS_BURIED_BYTES / BULKY_BYTES + 1) as u64;

#[derive(Clone, Debug)]
pub(super) struct Topic {
    pub(super) id: u64,
    /// Some of its events were not to be delivered at once.
    pub(super) delays: bool,
    pub(super) events: Vec<Event>,
}

/// How an event stands with a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Free,
    Leased,
    Retry,
    Ready,
    /// Dead, without a dead letter yet.
    Dying,
    /// Acknowledged, filtered, dead, dropped, or from before the start.
    Done,
}

#[derive(Clone, Debug)]
pub(super) struct Story {
    pub(super) status: Status,
    /// It failed or was redriven, and has not ended since.
    pub(super) failing: bool,
    pub(super) failures: u32,
    pub(super) previous_ms: u64,
    pub(super) due: u64,
    pub(super) redrives: u32,
    /// Tier and value; kept from the first failure, anew at a redrive. The tier is that of the
    /// policy when it became ready.
    pub(super) rank: (u64, u64),
    /// What is told of it: failures and calls off, also from before redrives.
    pub(super) told: u64,
    /// Why it is dead, while it has no dead letter.
    pub(super) reason: Option<DeadReason>,
    /// How it came to be done, and when; `None`: it is not, or the subscription begins behind it.
    pub(super) end: Option<(End, u64)>,
    /// What led to that was kept long enough.
    pub(super) swept: bool,
}

/// How an event came to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Acked,
    /// The filter did not let it through, or somebody skipped it.
    Filtered,
    Cancelled,
    /// Without a number: dead letters were off.
    Dead(DeadReason, Option<u64>),
}

impl Story {
    pub(super) fn new(status: Status) -> Self {
        Self {
            status,
            failing: false,
            failures: 0,
            previous_ms: 0,
            due: 0,
            redrives: 0,
            rank: (0, 0),
            told: 0,
            reason: None,
            end: None,
            swept: false,
        }
    }

    /// The same when it is over.
    pub(super) fn ended(self, end: End, now: u64) -> Self {
        Self { status: Status::Done, failing: false, end: Some((end, now)), ..self }
    }
}

#[derive(Clone, Debug)]
pub(super) struct LeaseRow {
    pub(super) topic: u64,
    pub(super) events: BTreeSet<u64>,
    pub(super) consumer: String,
    pub(super) service: String,
    pub(super) term: u64,
    pub(super) granted: u64,
    pub(super) expires: u64,
    pub(super) deadline: u64,
    /// An event left it at its deadline.
    pub(super) lost: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) number: u64,
    pub(super) topic: String,
    pub(super) topic_id: u64,
    pub(super) offset: u64,
    pub(super) reason: DeadReason,
    pub(super) failures: u32,
    pub(super) redrives: u32,
    pub(super) told: u64,
    pub(super) died_at: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Subscription {
    pub(super) id: u64,
    pub(super) config: SubscriptionConfig,
    pub(super) revision: u64,
    pub(super) start: u64,
    pub(super) pause: Option<(PauseReason, u64)>,
    pub(super) stories: BTreeMap<(u64, u64), Story>,
    pub(super) leases: BTreeMap<u64, LeaseRow>,
    pub(super) dead: Vec<Letter>,
    pub(super) counters: Counters,
    pub(super) last_lease: u64,
    pub(super) last_dead: u64,
    /// Dead letters up to this number are from before the newest seek.
    pub(super) dead_before_seek: u64,
    /// (when, is a retry).
    pub(super) deliveries: Vec<(u64, bool)>,
    /// (when, is dead).
    pub(super) outcomes: Vec<(u64, bool)>,
    /// Outcomes before the command that is being done: a resumption forgets these.
    pub(super) outcomes_before: usize,
    /// By topic and offset, what died before its turn.
    pub(super) early: BTreeSet<(u64, u64)>,
    /// By topic and offset, failed events of deleted topics that are still stored.
    pub(super) unswept: BTreeSet<(u64, u64)>,
    /// Failed events are left to be placed by a changed policy.
    pub(super) placing: bool,
    /// The same for all subscriptions: bulky events that the entry or the tick has buried.
    pub(super) buried: Rc<Cell<u64>>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct World {
    pub(super) now: u64,
    pub(super) term: u64,
    /// Since when the newest leader leads, and until when leases of earlier ones last.
    pub(super) led_since: u64,
    pub(super) grace_until: u64,
    pub(super) last_topic: u64,
    pub(super) last_subscription: u64,
    /// The largest number of a lease of subscriptions that were deleted.
    pub(super) last_deleted_lease: u64,
    pub(super) next_position: u64,
    pub(super) feed: bool,
    /// When each position was recorded.
    pub(super) recorded: Vec<u64>,
    pub(super) quotas: BTreeMap<String, QuotaLimits>,
    /// (when, of which service).
    pub(super) service_retries: Vec<(u64, String)>,
    pub(super) topics: BTreeMap<String, Topic>,
    pub(super) subscriptions: BTreeMap<String, Subscription>,
    pub(super) buried: Rc<Cell<u64>>,
}

impl World {
    pub(super) fn report(&mut self) {
        if !self.feed {
            self.feed = true;
            self.last_topic += 1;
        }
        self.next_position += 1;
        self.recorded.push(self.now);
    }

    /// Events in flight to a service, beside those of one subscription.
    pub(super) fn in_flight_to(&self, service: &str, and: Option<&Subscription>) -> u64 {
        let leases = self.subscriptions.values().chain(and).flat_map(|s| s.leases.values());
        leases.filter(|l| l.service == service).map(|l| l.events.len() as u64).sum()
    }

    /// Whether as many bulky events were buried as one entry or tick does.
    pub(super) fn is_full(&self) -> bool {
        self.buried.get() >= BULKY_BURIED_MAX
    }

    /// What the quota of a service leaves: events in flight, and retries in this second.
    pub(super) fn left(&self, service: &str, sub: &Subscription) -> (u64, u64) {
        let limits = self.quotas.get(service).copied().unwrap_or_default();
        let of = |limit: u64, used: u64| {
            if limit == 0 { u64::MAX } else { limit.saturating_sub(used) }
        };
        let lately = |(at, s): &&(u64, String)| at / 1000 == self.now / 1000 && s == service;
        let retries = self.service_retries.iter().filter(lately).count() as u64;
        let in_flight = self.in_flight_to(service, Some(sub));
        (of(limits.in_flight, in_flight), of(limits.retries_per_s, retries))
    }

    pub(super) fn place(
        &self,
        place: &Place,
        pattern: &str,
    ) -> Result<(u64, Option<(u64, u64)>), Reason> {
        let end = self.next_position;
        match place.at {
            None | Some(At::End(_)) => Ok((end, None)),
            Some(At::Start(_)) => Ok((0, None)),
            Some(At::Position(p)) => Ok((p.min(end), None)),
            Some(At::TimeMs(instant)) => {
                let later = self.recorded.iter().position(|at| *at >= instant);
                Ok((later.map_or(end, |p| p as u64), None))
            }
            Some(At::Offset(_)) if pattern.contains(['*', '>']) => Err(Reason::InvalidRequest),
            Some(At::Offset(offset)) => match self.topics.get(pattern) {
                None => Err(Reason::TopicNotFound),
                Some(t) => Ok((end, Some((t.id, offset.min(t.events.len() as u64))))),
            },
        }
    }
}

impl Subscription {
    pub(super) fn by_key(&self) -> bool {
        self.config.order() == DeliveryOrder::ByKey
    }

    /// How an event stands; what was never touched follows from the start.
    pub(super) fn story(&self, topic: &Topic, offset: u64) -> Story {
        self.stories.get(&(topic.id, offset)).cloned().unwrap_or_else(|| {
            let before = topic.events[offset as usize].position < self.start;
            Story::new(if before { Status::Done } else { Status::Free })
        })
    }

    pub(super) fn set(&mut self, topic: &Topic, offset: u64, story: Story) {
        self.stories.insert((topic.id, offset), story);
    }

    pub(super) fn tier(&self, event: &Event) -> u64 {
        match self.config.priority_mode() {
            PriorityMode::Rank => 0,
            PriorityMode::Strict => u64::from(9 - event.priority),
        }
    }

    pub(super) fn update(&mut self, config: SubscriptionConfig, topics: &BTreeMap<String, Topic>) {
        let same = config.priority_mode == self.config.priority_mode;
        self.config = config;
        self.revision += 1;
        if !same {
            self.place(topics, FAILURES_SWEPT_MAX);
        }
    }

    /// Places the first so many failed events by the policy.
    pub(super) fn place(&mut self, topics: &BTreeMap<String, Topic>, limit: usize) {
        let failing = self.stories.iter().filter(|(_, story)| story.failing);
        let stored: BTreeSet<_> =
            failing.map(|(place, _)| *place).chain(self.unswept.iter().copied()).collect();
        self.placing = stored.len() > limit;
        for (topic, offset) in stored.into_iter().take(limit) {
            let story = self.stories.get(&(topic, offset)).cloned();
            if let Some(story) = story.filter(|story| story.status == Status::Ready) {
                let (_, topic) = topic_of(topics, topic).unwrap();
                self.make_ready(topic, offset, story);
            }
        }
    }

    /// A failed event is ready now.
    pub(super) fn make_ready(&mut self, topic: &Topic, offset: u64, story: Story) {
        let rank = (self.tier(&topic.events[offset as usize]), story.rank.1);
        self.set(topic, offset, Story { status: Status::Ready, rank, ..story });
    }

    pub(super) fn rank(&self, event: &Event, deadline: Option<u64>, ready_at: u64) -> (u64, u64) {
        let tier = self.tier(event);
        let by_wait = ready_at + self.config.base_wait_ms / 2_u64.pow(event.priority);
        let by_deadline = deadline.map(|d| d.saturating_sub(self.config.slack_ms));
        (tier, by_deadline.map_or(by_wait, |d| d.min(by_wait)))
    }

    pub(super) fn in_turn(&self, topic: &Topic, offset: u64) -> bool {
        let key = &topic.events[offset as usize].key;
        if !self.by_key() || key.is_empty() {
            return true;
        }
        let same = |o: &u64| topic.events[*o as usize].key == *key;
        let before = (0..offset).rev().filter(same).find(|o| !self.died_early(topic, *o));
        before.is_none_or(|o| self.story(topic, o).status == Status::Done)
    }

    /// Whether an event is done for having died before its turn.
    pub(super) fn died_early(&self, topic: &Topic, offset: u64) -> bool {
        self.early.contains(&(topic.id, offset)) && self.story(topic, offset).status == Status::Done
    }

    /// Remembers an event that dies before its turn, unless there are too many such.
    pub(super) fn note_early(&mut self, topic: &Topic, offset: u64) -> bool {
        let of = |early: &BTreeSet<(u64, u64)>| {
            early.range((topic.id, 0)..(topic.id + 1, 0)).count() as u64
        };
        if of(&self.early) >= EARLY_DEAD_MAX {
            let end = topic.events.len() as u64;
            let open = (0..end).find(|o| self.story(topic, *o).status != Status::Done);
            self.early.retain(|(t, o)| *t != topic.id || *o >= open.unwrap_or(end));
        }
        let room = of(&self.early) < EARLY_DEAD_MAX;
        if room {
            self.early.insert((topic.id, offset));
        }
        room
    }

    pub(super) fn in_flight(&self, consumer: Option<&str>) -> u64 {
        let of = |l: &&LeaseRow| consumer.is_none_or(|c| l.consumer == c);
        self.leases.values().filter(of).map(|l| l.events.len() as u64).sum()
    }

    pub(super) fn retries_left(&self, now: u64) -> u64 {
        let count = |second: u64, retry: bool| {
            let within = |(at, r): &&(u64, bool)| at / 1000 == second && *r == retry;
            self.deliveries.iter().filter(within).count() as u64
        };
        let second = now / 1000;
        let before = if second == 0 { 0 } else { count(second - 1, false) };
        let share = count(second, false).max(before) * u64::from(self.config.retry.budget_percent);
        (share / 100)
            .max(self.config.retry.budget_min_per_s.into())
            .saturating_sub(count(second, true))
    }

    pub(super) fn bury(
        &mut self,
        name: &str,
        topic: &Topic,
        offset: u64,
        reason: DeadReason,
        now: u64,
    ) {
        self.outcomes.push((now, true));
        self.keep(name, topic, offset, reason, now);
    }

    /// What a person ends counts as no outcome.
    pub(super) fn keep(
        &mut self,
        name: &str,
        topic: &Topic,
        offset: u64,
        reason: DeadReason,
        now: u64,
    ) {
        let story = self.story(topic, offset);
        let disabled = self.config.dead_letters.disabled;
        if !disabled && self.buried.get() >= BULKY_BURIED_MAX {
            let (status, reason) = (Status::Dying, Some(reason));
            let story = Story { status, reason, failing: true, due: now, ..story };
            return self.set(topic, offset, story);
        }
        let number = (!disabled).then_some(self.last_dead + 1);
        self.set(topic, offset, story.clone().ended(End::Dead(reason, number), now));
        if disabled {
            self.counters.dropped += 1;
            return;
        }
        let bulky = topic.events[offset as usize].bulky;
        self.buried.set(self.buried.get() + u64::from(bulky));
        self.last_dead += 1;
        self.counters.dead += 1;
        self.dead.push(Letter {
            number: self.last_dead,
            topic: name.to_owned(),
            topic_id: topic.id,
            offset,
            reason,
            failures: story.failures,
            redrives: story.redrives,
            told: story.told,
            died_at: now,
        });
    }

    pub(super) fn fail(
        &mut self,
        (name, topic): (&str, &Topic),
        offset: u64,
        cause: Cause<'_>,
        now: u64,
    ) {
        let event = &topic.events[offset as usize];
        let mut story = self.story(topic, offset);
        if !story.failing {
            story.rank = self.rank(event, event.deadline, event.ready_at);
        }
        story.failing = true;
        story.failures += 1;
        story.told += 1;
        let policy = self.config.retry.clone();
        let delay = retry::delay_ms(
            &policy,
            &retry::Failure {
                topic: TopicId(topic.id),
                offset: Offset(offset),
                subscription: SubscriptionId(self.id),
                number: story.failures,
                previous_ms: story.previous_ms,
            },
        );
        let deadline = event.deadline.filter(|_| story.redrives == 0);
        let dead = match cause {
            Cause::Reject("SCHEMA_VIOLATED") => Some(DeadReason::SchemaInvalid),
            Cause::Reject(_) => Some(DeadReason::Rejected),
            Cause::Nack(reason, _) if policy.non_retryable_reasons.iter().any(|r| r == reason) => {
                Some(DeadReason::NonRetryable)
            }
            _ if policy.max_attempts > 0 && story.failures >= policy.max_attempts => {
                Some(DeadReason::MaxAttempts)
            }
            Cause::Nack(_, after) => {
                story.due = now + after.unwrap_or(delay);
                deadline.filter(|d| story.due >= *d).map(|_| DeadReason::DeadlineUnreachable)
            }
        };
        story.previous_ms = delay;
        story.status = Status::Retry;
        self.set(topic, offset, story);
        if let Some(reason) = dead {
            self.bury(name, topic, offset, reason, now);
        }
    }

    /// Whether the breaker trips.
    pub(super) fn trips(&self, now: u64) -> bool {
        let slot = now / 1000;
        let lately: Vec<_> = self.outcomes.iter().filter(|(at, _)| at / 1000 + 10 > slot).collect();
        let dead = lately.iter().filter(|(_, dead)| *dead).count();
        lately.len() >= 20 && dead * 2 > lately.len() && !self.config.dead_letters.trip_disabled
    }
}

/// Why a delivery fails: a nack with its reason and `retry_after`, or a reject with its reason.
#[derive(Clone, Copy)]
pub(super) enum Cause<'a> {
    Nack(&'a str, Option<u64>),
    Reject(&'a str),
}

pub(super) fn topic_of(topics: &BTreeMap<String, Topic>, id: u64) -> Option<(&str, &Topic)> {
    topics.iter().find(|(_, t)| t.id == id).map(|(name, t)| (name.as_str(), t))
}
