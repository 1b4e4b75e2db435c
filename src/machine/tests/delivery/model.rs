//! Delivery as plainly as possible: a status per event, vectors and maps, no tables, no ranges.

use std::collections::{BTreeMap, BTreeSet};

use crate::machine::delivery::retry;
use crate::model::command::delivery::{Action, SettleItem};
use crate::model::command::subscription::{At, Place};
use crate::model::command::{Lease, Settle};
use crate::model::delivery::{Counters, DeadReason, Granted, Leased, PauseReason, Pick, Settled};
use crate::model::ids::{LeaseId, Offset, SubscriptionId, Term, TopicId, UnixMs};
use crate::model::ranges::{OffsetRange, Ranges};
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
}

#[derive(Clone, Debug)]
pub(super) struct Topic {
    pub(super) id: u64,
    pub(super) events: Vec<Event>,
}

/// How an event stands with a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Free,
    Leased,
    Retry,
    Ready,
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
    /// Tier and value; kept from the first failure, anew at a redrive.
    pub(super) rank: (u64, u64),
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
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct LeaseRow {
    pub(super) topic: u64,
    pub(super) events: BTreeSet<u64>,
    pub(super) consumer: String,
    pub(super) term: u64,
    pub(super) expires: u64,
    pub(super) deadline: u64,
    /// When a tick looks at it.
    pub(super) timer: u64,
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
    /// (when, is a retry).
    pub(super) deliveries: Vec<(u64, bool)>,
    /// (when, is dead).
    pub(super) outcomes: Vec<(u64, bool)>,
    /// Outcomes before the command that is being done: a resumption forgets these.
    pub(super) outcomes_before: usize,
}

#[derive(Clone, Debug, Default)]
pub(super) struct World {
    pub(super) now: u64,
    pub(super) term: u64,
    pub(super) grace_until: u64,
    pub(super) last_topic: u64,
    pub(super) last_subscription: u64,
    pub(super) next_position: u64,
    pub(super) feed: bool,
    /// When each position was recorded.
    pub(super) recorded: Vec<u64>,
    pub(super) topics: BTreeMap<String, Topic>,
    pub(super) subscriptions: BTreeMap<String, Subscription>,
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

    pub(super) fn place(&self, place: &Place, pattern: &str) -> Result<(u64, Option<(u64, u64)>), Reason> {
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

    pub(super) fn rank(&self, event: &Event, deadline: Option<u64>, ready_at: u64) -> (u64, u64) {
        let tier = match self.config.priority_mode() {
            PriorityMode::Rank => 0,
            PriorityMode::Strict => u64::from(9 - event.priority),
        };
        let by_wait = ready_at + self.config.base_wait_ms / 2_u64.pow(event.priority);
        let by_deadline = deadline.map(|d| d.saturating_sub(self.config.slack_ms));
        (tier, by_deadline.map_or(by_wait, |d| d.min(by_wait)))
    }

    pub(super) fn in_turn(&self, topic: &Topic, offset: u64) -> bool {
        let key = &topic.events[offset as usize].key;
        if !self.by_key() || key.is_empty() {
            return true;
        }
        let before = (0..offset).rev().find(|o| topic.events[*o as usize].key == *key);
        before.is_none_or(|o| self.story(topic, o).status == Status::Done)
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
        (share / 100).max(self.config.retry.budget_min_per_s.into()).saturating_sub(count(second, true))
    }

    pub(super) fn bury(&mut self, name: &str, topic: &Topic, offset: u64, reason: DeadReason, now: u64) {
        let story = self.story(topic, offset);
        self.outcomes.push((now, true));
        self.set(topic, offset, Story::new(Status::Done));
        if self.config.dead_letters.disabled {
            self.counters.dropped += 1;
            return;
        }
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
            died_at: now,
        });
    }

    /// `cause`: the reason of a nack with its `retry_after`; `None`: rejected.
    pub(super) fn fail(
        &mut self,
        (name, topic): (&str, &Topic),
        offset: u64,
        cause: Option<(&str, Option<u64>)>,
        now: u64,
    ) {
        let event = &topic.events[offset as usize];
        let mut story = self.story(topic, offset);
        if !story.failing {
            story.rank = self.rank(event, event.deadline, event.ready_at);
        }
        story.failing = true;
        story.failures += 1;
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
            None => Some(DeadReason::Rejected),
            Some((reason, _)) if policy.non_retryable_reasons.iter().any(|r| r == reason) => {
                Some(DeadReason::NonRetryable)
            }
            _ if policy.max_attempts > 0 && story.failures >= policy.max_attempts => {
                Some(DeadReason::MaxAttempts)
            }
            Some((_, after)) => {
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

pub(super) fn topic_of(topics: &BTreeMap<String, Topic>, id: u64) -> Option<(&str, &Topic)> {
    topics.iter().find(|(_, t)| t.id == id).map(|(name, t)| (name.as_str(), t))
}

fn named(ranges: &[OffsetRange]) -> BTreeSet<u64> {
    ranges.iter().flat_map(|r| r.first..r.end()).collect()
}

/// What a lease command takes, as it goes.
struct Taking<'c> {
    command: &'c Lease,
    now: u64,
    lease_ms: u64,
    room: u64,
    retries: u64,
    leased: Leased,
    /// (topic, retried, deadline) → (offset, attempt).
    sheaves: BTreeMap<(u64, bool, u64), BTreeMap<u64, u32>>,
}

/// A lease command that is not refused as a whole.
pub(super) fn lease(
    sub: &mut Subscription,
    topics: &BTreeMap<String, Topic>,
    now: u64,
    command: &Lease,
    matches: impl Fn(&str) -> bool,
) -> Leased {
    let picks = |picks: &[Pick]| -> Vec<(String, Topic, Vec<u64>)> {
        picks
            .iter()
            .filter_map(|pick| {
                let topic = topics.get(&pick.topic).filter(|t| t.id == pick.topic_id)?;
                let offsets = named(&pick.ranges).into_iter();
                let offsets = offsets.filter(|o| *o < topic.events.len() as u64).collect();
                matches(&pick.topic).then(|| (pick.topic.clone(), topic.clone(), offsets))
            })
            .collect()
    };
    let mut leased = Leased::default();
    for (_, topic, offsets) in picks(&command.skips) {
        for offset in offsets {
            if sub.story(&topic, offset).status == Status::Free {
                sub.set(&topic, offset, Story::new(Status::Done));
                leased.filtered += 1;
            }
        }
    }
    let of_consumer = match command.in_flight_max_consumer {
        0 => sub.config.max_in_flight_per_consumer,
        n => n,
    };
    let mut taking = Taking {
        command,
        now,
        lease_ms: match command.lease_ms {
            0 => sub.config.lease_ms,
            ms => ms.clamp(1000, 12 * 3_600_000),
        },
        room: u64::from(sub.config.max_in_flight)
            .saturating_sub(sub.in_flight(None))
            .min(u64::from(of_consumer).saturating_sub(sub.in_flight(Some(&command.consumer)))),
        retries: sub.retries_left(now),
        leased,
        sheaves: BTreeMap::new(),
    };
    for (name, topic, offsets) in picks(&command.picks) {
        taking.retries(sub, &name, &topic, &offsets);
        taking.fresh(sub, &name, &topic, &offsets);
    }
    taking.grant(sub)
}

impl Taking<'_> {
    fn cut(&self, deadline: Option<u64>) -> u64 {
        deadline.filter(|d| d - self.now < self.lease_ms).unwrap_or(0)
    }

    fn retries(&mut self, sub: &mut Subscription, name: &str, topic: &Topic, offsets: &[u64]) {
        for offset in offsets {
            let story = sub.story(topic, *offset);
            let deadline = topic.events[*offset as usize].deadline.filter(|_| story.redrives == 0);
            let due = match story.status {
                Status::Ready => true,
                Status::Retry => story.due <= self.now,
                _ => false,
            };
            if !due || self.room == 0 || (story.failures > 0 && self.retries == 0) {
                continue;
            }
            if deadline.is_some_and(|d| d <= self.now) {
                sub.bury(name, topic, *offset, DeadReason::Expired, self.now);
                self.leased.dead += 1;
                continue;
            }
            if !sub.in_turn(topic, *offset) {
                continue;
            }
            self.room -= 1;
            self.retries -= u64::from(story.failures > 0);
            let sheaf = (topic.id, true, self.cut(deadline));
            self.sheaves.entry(sheaf).or_default().insert(*offset, story.failures + 1);
            sub.set(topic, *offset, Story { status: Status::Leased, ..story });
        }
    }

    fn fresh(&mut self, sub: &mut Subscription, name: &str, topic: &Topic, offsets: &[u64]) {
        let mut fresh = Vec::new();
        for offset in offsets {
            let event = &topic.events[*offset as usize];
            if sub.story(topic, *offset).status != Status::Free {
                continue;
            }
            if event.cancelled {
                sub.set(topic, *offset, Story::new(Status::Done));
                self.leased.filtered += 1;
            } else if event.deadline.is_some_and(|d| d <= self.now) {
                sub.bury(name, topic, *offset, DeadReason::Expired, self.now);
                self.leased.dead += 1;
            } else if event.ready_at <= self.now {
                fresh.push(*offset);
            }
        }
        for offset in fresh {
            if self.room == 0 || !sub.in_turn(topic, offset) {
                continue;
            }
            self.room -= 1;
            let sheaf = (topic.id, false, self.cut(topic.events[offset as usize].deadline));
            self.sheaves.entry(sheaf).or_default().insert(offset, 1);
            sub.set(topic, offset, Story::new(Status::Leased));
        }
    }

    fn grant(mut self, sub: &mut Subscription) -> Leased {
        sub.counters.filtered += self.leased.filtered;
        for ((topic, retried, deadline), events) in self.sheaves {
            sub.last_lease += 1;
            let until = self.now + self.lease_ms;
            let expires = if deadline > 0 { until.min(deadline) } else { until };
            for attempt in events.values() {
                sub.deliveries.push((self.now, *attempt > 1));
                sub.counters.delivered += 1;
                sub.counters.redelivered += u64::from(*attempt > 1);
            }
            self.leased.grants.push(Granted {
                lease_id: LeaseId(sub.last_lease),
                term: Term(self.command.term),
                topic_id: TopicId(topic),
                ranges: events.keys().map(|o| Offset(*o)).collect(),
                attempts: if retried { events.values().copied().collect() } else { Vec::new() },
                expires_at: UnixMs(expires),
            });
            let (consumer, term) = (self.command.consumer.clone(), self.command.term);
            let (events, timer) = (events.into_keys().collect(), expires);
            let row = LeaseRow { topic, events, consumer, term, expires, deadline, timer };
            sub.leases.insert(sub.last_lease, row);
        }
        self.leased
    }
}

/// When a lease ends.
pub(super) fn ends_at(lease: &LeaseRow, term: u64, grace_until: u64) -> u64 {
    if lease.term < term { lease.expires.max(grace_until) } else { lease.expires }
}

pub(super) fn settle(
    sub: &mut Subscription,
    topics: &BTreeMap<String, Topic>,
    (now, term, grace_until): (u64, u64, u64),
    command: &Settle,
) -> Vec<Settled> {
    let refuse = |reason| Settled { done: Ranges::new(), refused: Some(reason), expires_at: UnixMs(0) };
    let mut results = Vec::new();
    for item in &command.items {
        let Some(lease) = sub.leases.get(&item.lease_id).cloned() else {
            let known = item.lease_id > 0 && item.lease_id <= sub.last_lease;
            results.push(refuse(if known { Reason::LeaseExpired } else { Reason::LeaseUnknown }));
            continue;
        };
        if (lease.term, lease.consumer.as_str(), lease.topic)
            != (item.term, command.consumer.as_str(), item.topic_id)
        {
            results.push(refuse(Reason::LeaseUnknown));
            continue;
        }
        if ends_at(&lease, term, grace_until) <= now {
            results.push(refuse(Reason::LeaseExpired));
            continue;
        }
        results.push(settle_item(sub, topics, now, lease, item));
    }
    results
}

fn settle_item(
    sub: &mut Subscription,
    topics: &BTreeMap<String, Topic>,
    now: u64,
    lease: LeaseRow,
    item: &SettleItem,
) -> Settled {
    let (name, topic) = topic_of(topics, lease.topic).unwrap();
    let action = item.action.clone().unwrap();
    if let Action::Extend(extend) = &action {
        let ms = if extend.lease_ms == 0 { sub.config.lease_ms } else { extend.lease_ms };
        let until = now + ms.clamp(1000, 12 * 3_600_000);
        let expires = if lease.deadline > 0 { until.min(lease.deadline) } else { until };
        let done = lease.events.iter().map(|o| Offset(*o)).collect();
        sub.leases.insert(item.lease_id, LeaseRow { expires, timer: expires, ..lease });
        return Settled { done, refused: None, expires_at: UnixMs(expires) };
    }
    let wanted = named(&item.ranges);
    let all = item.ranges.is_empty();
    let done: BTreeSet<u64> =
        lease.events.iter().filter(|o| all || wanted.contains(o)).copied().collect();
    for offset in &done {
        match &action {
            Action::Ack(_) => {
                sub.counters.acked += 1;
                sub.outcomes.push((now, false));
                sub.set(topic, *offset, Story::new(Status::Done));
            }
            Action::Nack(nack) => {
                sub.counters.nacked += 1;
                let cause = Some((nack.reason.as_str(), nack.retry_after_ms));
                sub.fail((name, topic), *offset, cause, now);
            }
            Action::Reject(_) => {
                sub.counters.rejected += 1;
                sub.fail((name, topic), *offset, None, now);
            }
            Action::Release(_) => {
                sub.counters.released += 1;
                let story = sub.story(topic, *offset);
                let status = if story.failing { Status::Ready } else { Status::Free };
                sub.set(topic, *offset, Story { status, ..story });
            }
            Action::Extend(_) => {}
        }
    }
    let mut lease = lease;
    lease.events.retain(|o| !done.contains(o));
    if lease.events.is_empty() {
        sub.leases.remove(&item.lease_id);
    } else {
        sub.leases.insert(item.lease_id, lease);
    }
    let refused = wanted.iter().any(|o| !done.contains(o)).then_some(Reason::LeaseExpired);
    let done = done.into_iter().map(Offset).collect();
    Settled { done, refused, expires_at: UnixMs(0) }
}
