//! Commands over the naive model.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::leasing::{lease, settle};
use super::model::{Event, Status, Story, Subscription, Topic, World, topic_of};
use crate::machine::tests::delivery::random::{BULKY_BYTES, TestEvent};
use crate::model::command::{CommandBatch, CreateSubscription, Kind, Publish, Redrive};
use crate::model::delivery::{Counters, DeadReason, Moved, PauseReason, Sought};
use crate::model::event_run;
use crate::model::ids::{DeadNumber, Position};
use crate::model::limits::FAILURES_SWEPT_MAX;
use crate::model::outcome::Outcome;
use crate::model::pattern::TopicPattern;
use crate::model::ranges::OffsetRange;
use crate::model::rejection::Reason;

/// What the model says of an outcome: all that matters of it.
#[derive(Debug, PartialEq)]
pub(super) enum Said {
    Exactly(Outcome),
    Refused(Reason),
    /// The topic, or the subscription with its revision and whether it is paused.
    Topic(u64),
    Subscription(u64, u64, bool),
    Published(u64, u32),
}

pub(super) fn said(outcome: &Outcome) -> Said {
    match outcome {
        Outcome::Rejected(r) => Said::Refused(r.reason),
        Outcome::Topic(t) => Said::Topic(t.id.get()),
        Outcome::Subscription(s) => Said::Subscription(s.id.get(), s.revision, s.pause.is_some()),
        Outcome::Published(p) => Said::Published(p.first_offset.get(), p.count),
        other => Said::Exactly(other.clone()),
    }
}

pub(super) fn matches(pattern: &str, topic: &str) -> bool {
    TopicPattern::from_checked(pattern).matches(topic)
}

pub(super) fn passes(sub: &Subscription, event: &Event) -> bool {
    sub.config.filter.is_none() || event.kind == "a"
}

impl World {
    pub(super) fn apply(&mut self, entry: &CommandBatch) -> Vec<Said> {
        self.now = self.now.max(entry.stamp_ms);
        self.buried.set(0);
        entry.commands.iter().map(|c| self.command(c.kind.clone().unwrap())).collect()
    }

    fn command(&mut self, kind: Kind) -> Said {
        self.subscriptions.values_mut().for_each(|s| s.outcomes_before = s.outcomes.len());
        match self.done(kind) {
            Ok(said) => said,
            Err(reason) => Said::Refused(reason),
        }
    }

    fn done(&mut self, kind: Kind) -> Result<Said, Reason> {
        match kind {
            Kind::CreateTopic(c) => {
                if self.topics.contains_key(&c.name) {
                    return Err(Reason::TopicExists);
                }
                self.last_topic += 1;
                let topic = Topic { id: self.last_topic, delays: false, events: Vec::new() };
                self.topics.insert(c.name, topic);
                Ok(Said::Topic(self.last_topic))
            }
            Kind::DeleteTopic(c) => {
                let topic = self.topics.remove(&c.name).ok_or(Reason::TopicNotFound)?;
                let mut room = FAILURES_SWEPT_MAX;
                for sub in self.subscriptions.values_mut() {
                    let of_topic =
                        |((t, _), s): &(&(u64, u64), &Story)| *t == topic.id && s.failing;
                    let failing = sub.stories.iter().filter(of_topic).map(|(place, _)| *place);
                    let failing: Vec<_> = failing.collect();
                    sub.unswept.extend(failing.iter().skip(room));
                    room = room.saturating_sub(failing.len());
                    sub.stories.retain(|(t, _), _| *t != topic.id);
                    sub.leases.retain(|_, l| l.topic != topic.id);
                    sub.early.retain(|(t, _)| *t != topic.id);
                }
                Ok(Said::Exactly(Outcome::Done))
            }
            Kind::Publish(c) => self.publish(&c),
            Kind::CreateSubscription(c) => self.create(c),
            Kind::NewLeader(c) => {
                if c.term >= self.term {
                    (self.term, self.led_since) = (c.term, self.now);
                    self.grace_until = self.grace_until.max(self.now + c.grace_ms);
                }
                Ok(Said::Exactly(Outcome::Done))
            }
            Kind::Tick(_) => Ok(self.tick()),
            Kind::SetQuota(c) => {
                self.quotas.insert(c.service, c.limits);
                Ok(Said::Exactly(Outcome::Done))
            }
            Kind::CancelEvent(c) => {
                let topic = self.topics.get_mut(&c.topic).ok_or(Reason::TopicNotFound)?;
                let event = topic.events.get_mut(c.offset as usize).ok_or(Reason::EventNotFound)?;
                if !event.cancelled && event.ready_at <= self.now {
                    return Err(Reason::NotScheduled);
                }
                event.cancelled = true;
                Ok(Said::Exactly(Outcome::Done))
            }
            kind => self.of_subscription(kind),
        }
    }

    fn publish(&mut self, c: &Publish) -> Result<Said, Reason> {
        let (now, next) = (self.now, &mut self.next_position);
        let topic = self.topics.get_mut(&c.topic).ok_or(Reason::TopicNotFound)?;
        let first = topic.events.len() as u64;
        for encoded in event_run::iter(&c.events) {
            let encoded = encoded.unwrap();
            let bulky = encoded.len() >= BULKY_BYTES;
            let event = <TestEvent as prost::Message>::decode(encoded).unwrap();
            topic.delays |= event.deliver_at.as_ref().is_some_and(|t| t.ms() > now);
            topic.events.push(Event {
                position: *next,
                priority: event.priority.unwrap_or(4),
                deadline: event.deadline.as_ref().map(|t| t.ms()),
                ready_at: event.deliver_at.as_ref().map_or(now, |t| t.ms().max(now)),
                kind: event.kind,
                key: event.key,
                flow: event.flow,
                cancelled: false,
                fired: false,
                bulky,
            });
            *next += 1;
            self.recorded.push(now);
        }
        Ok(Said::Published(first, c.count))
    }

    fn create(&mut self, c: CreateSubscription) -> Result<Said, Reason> {
        if self.subscriptions.contains_key(&c.name) {
            return Err(Reason::SubscriptionExists);
        }
        let (start, offset) = self.place(&c.start, &c.config.pattern)?;
        self.last_subscription += 1;
        let mut sub = Subscription {
            id: self.last_subscription,
            config: c.config,
            revision: 1,
            start,
            pause: None,
            stories: BTreeMap::new(),
            leases: BTreeMap::new(),
            dead: Vec::new(),
            counters: Counters::default(),
            last_lease: self.last_deleted_lease,
            last_dead: 0,
            dead_before_seek: 0,
            deliveries: Vec::new(),
            outcomes: Vec::new(),
            outcomes_before: 0,
            early: BTreeSet::new(),
            unswept: BTreeSet::new(),
            placing: false,
            buried: Rc::clone(&self.buried),
        };
        start_at(&mut sub, &self.topics, offset);
        self.subscriptions.insert(c.name, sub);
        Ok(Said::Subscription(self.last_subscription, 1, false))
    }

    fn of_subscription(&mut self, kind: Kind) -> Result<Said, Reason> {
        let name = super::subscription_of(&kind).to_owned();
        let mut sub = self.subscriptions.remove(&name).ok_or(Reason::SubscriptionNotFound)?;
        let (dead_before, keep) = (sub.counters.dead, !matches!(kind, Kind::DeleteSubscription(_)));
        let said = self.with(&mut sub, kind);
        self.finish(&mut sub, dead_before);
        if keep {
            self.subscriptions.insert(name, sub);
        }
        said
    }

    /// What every command ends with: a word about the dead, and the breaker.
    pub(super) fn finish(&mut self, sub: &mut Subscription, letters_before: u64) {
        if sub.counters.dead > letters_before {
            self.report();
        }
        let died = sub.outcomes[sub.outcomes_before..].iter().any(|(_, dead)| *dead);
        if died && sub.pause.is_none() && sub.trips(self.now) {
            let wait = sub.config.dead_letters.trip_resume_ms;
            let at = if wait > 0 { self.now + wait } else { 0 };
            sub.pause = Some((PauseReason::Tripped, at));
            self.report();
        }
    }

    fn with(&mut self, sub: &mut Subscription, kind: Kind) -> Result<Said, Reason> {
        let now = self.now;
        match kind {
            Kind::UpdateSubscription(c) => {
                if c.if_revision != 0 && c.if_revision != sub.revision {
                    return Err(Reason::RevisionMismatch);
                }
                sub.update(c.patch.onto(&sub.config), &self.topics);
                Ok(Said::Subscription(sub.id, sub.revision, sub.pause.is_some()))
            }
            Kind::DeleteSubscription(_) => {
                self.last_deleted_lease = self.last_deleted_lease.max(sub.last_lease);
                self.report();
                Ok(Said::Exactly(Outcome::Done))
            }
            Kind::PauseSubscription(c) => {
                self.report();
                sub.pause = Some((PauseReason::Requested, c.resume_at_ms));
                Ok(Said::Subscription(sub.id, sub.revision, true))
            }
            Kind::ResumeSubscription(_) => {
                self.resume(sub);
                Ok(Said::Subscription(sub.id, sub.revision, false))
            }
            Kind::SeekSubscription(c) => {
                let (start, offset) = self.place(&c.to, &sub.config.pattern)?;
                let sought = self.seek(sub, start, offset);
                Ok(Said::Exactly(Outcome::Sought(sought)))
            }
            Kind::Lease(c) => {
                if sub.pause.is_some() {
                    return Err(Reason::SubscriptionPaused);
                }
                if c.revision != sub.revision {
                    return Err(Reason::RevisionMismatch);
                }
                if c.term < self.term {
                    return Err(Reason::NotLeader);
                }
                let pattern = sub.config.pattern.clone();
                let left = self.left(&c.service, sub);
                let matches = |topic: &str| matches(&pattern, topic);
                let leased = lease(sub, &self.topics, (now, left), &c, matches);
                let retries = leased.grants.iter().flat_map(|g| &g.attempts).filter(|n| **n > 1);
                if !c.service.is_empty() {
                    self.service_retries.extend(retries.map(|_| (now, c.service.clone())));
                }
                Ok(Said::Exactly(Outcome::Leased(leased)))
            }
            Kind::Settle(c) => {
                let times = (now, self.led_since, self.grace_until);
                Ok(Said::Exactly(Outcome::Settled(settle(sub, &self.topics, times, &c))))
            }
            Kind::RetryNow(c) => Ok(self.moved(sub, c.topic_id, &c.ranges, false)),
            Kind::CancelRetry(c) => Ok(self.moved(sub, c.topic_id, &c.ranges, true)),
            Kind::Redrive(c) => self.redrive(sub, &c),
            Kind::PurgeDead(c) => {
                let before = sub.dead.len();
                let gone = |n: u64| {
                    if c.numbers.is_empty() { n <= c.up_to } else { c.numbers.contains(&n) }
                };
                sub.dead.retain(|letter| !gone(letter.number));
                let count = (before - sub.dead.len()) as u64;
                if count == 0 && !c.numbers.is_empty() {
                    return Err(Reason::DeadLetterNotFound);
                }
                Ok(Said::Exactly(Outcome::Moved(Moved { count, ..Moved::default() })))
            }
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn resume(&mut self, sub: &mut Subscription) {
        if sub.pause.take().is_some() {
            // A command's own outcomes count once it is done.
            sub.outcomes.drain(..sub.outcomes_before);
            sub.outcomes_before = 0;
            self.report();
        }
    }

    fn seek(&mut self, sub: &mut Subscription, start: u64, offset: Option<(u64, u64)>) -> Sought {
        let mut sought = Sought { start: Position(start), ..Sought::default() };
        let old = sub.clone();
        sub.stories.clear();
        sub.leases.clear();
        sub.early.clear();
        sub.unswept.clear();
        sub.start = start;
        sub.dead_before_seek = sub.last_dead;
        sub.revision += 1;
        start_at(sub, &self.topics, offset);
        for (name, topic) in &self.topics {
            if !matches(&sub.config.pattern, name) {
                continue;
            }
            for offset in 0..topic.events.len() as u64 {
                let was = old.story(topic, offset).status == Status::Done;
                let is = sub.story(topic, offset).status == Status::Done;
                sought.redelivered += u64::from(was && !is);
                sought.skipped += u64::from(!was && is);
            }
        }
        self.report();
        sought
    }

    fn moved(
        &mut self,
        sub: &mut Subscription,
        topic_id: u64,
        ranges: &[OffsetRange],
        cancel: bool,
    ) -> Said {
        let mut moved = Moved::default();
        if let Some((name, topic)) = topic_of(&self.topics, topic_id) {
            for offset in 0..topic.events.len() as u64 {
                let story = sub.story(topic, offset);
                let named = ranges.is_empty()
                    || ranges.iter().any(|r| (r.first..r.end()).contains(&offset));
                if !named || !story.failing {
                    continue;
                }
                match story.status {
                    Status::Retry | Status::Ready if cancel => {
                        let told = story.told + 1;
                        sub.set(topic, offset, Story { told, ..story });
                        sub.keep(name, topic, offset, DeadReason::Rejected, self.now);
                        moved.count += 1;
                    }
                    Status::Retry => {
                        sub.make_ready(topic, offset, Story { due: self.now, ..story });
                        moved.count += 1;
                    }
                    _ => moved.left += 1,
                }
            }
        }
        Said::Exactly(Outcome::Moved(moved))
    }

    fn redrive(&mut self, sub: &mut Subscription, c: &Redrive) -> Result<Said, Reason> {
        let wanted = |n: u64| {
            if c.numbers.is_empty() { n > c.after } else { c.numbers.contains(&n) }
        };
        let mut letters: Vec<_> = sub.dead.iter().filter(|l| wanted(l.number)).cloned().collect();
        if letters.is_empty() && !c.numbers.is_empty() {
            return Err(Reason::DeadLetterNotFound);
        }
        let mut moved = Moved::default();
        let limit = if c.limit == 0 { 1024 } else { c.limit as usize };
        if c.numbers.is_empty() && letters.len() > limit {
            letters.truncate(limit);
            moved.next = letters.last().map(|l| DeadNumber(l.number));
        }
        if !c.numbers.is_empty() {
            // Names are cut off at the limit, the ones that are there or not.
            let first: Vec<u64> = c.numbers.iter().take(limit).copied().collect();
            letters.retain(|l| first.contains(&l.number));
            if letters.is_empty() {
                return Err(Reason::DeadLetterNotFound);
            }
        }
        for letter in letters {
            let topic = self.topics.get(&letter.topic).filter(|t| t.id == letter.topic_id);
            let Some(topic) = topic.filter(|t| sub.story(t, letter.offset).status == Status::Done)
            else {
                moved.left += 1;
                continue;
            };
            let event = &topic.events[letter.offset as usize];
            let story = Story {
                failing: true,
                redrives: letter.redrives + 1,
                told: letter.told,
                due: self.now,
                rank: sub.rank(event, None, self.now),
                ..Story::new(Status::Ready)
            };
            sub.set(topic, letter.offset, story);
            sub.dead.retain(|l| l.number != letter.number);
            moved.count += 1;
        }
        sub.counters.redriven += moved.count;
        Ok(Said::Exactly(Outcome::Moved(moved)))
    }
}

fn start_at(sub: &mut Subscription, topics: &BTreeMap<String, Topic>, offset: Option<(u64, u64)>) {
    let Some((topic_id, first)) = offset else { return };
    let Some((_, topic)) = topic_of(topics, topic_id) else { return };
    for offset in 0..topic.events.len() as u64 {
        let status = if offset < first { Status::Done } else { Status::Free };
        sub.set(topic, offset, Story::new(status));
    }
}
