//! Leasing and settling, event by event.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{Cause, End, LeaseRow, Status, Story, Subscription, Topic, topic_of};
use super::world::passes;
use crate::model::command::delivery::{Action, SettleItem};
use crate::model::command::{Lease, Settle};
use crate::model::delivery::{DeadReason, Granted, Leased, Pick, Settled};
use crate::model::ids::{LeaseId, Offset, Term, TopicId, UnixMs};
use crate::model::ranges::{OffsetRange, Ranges};
use crate::model::rejection::Reason;

fn named(ranges: &[OffsetRange]) -> BTreeSet<u64> {
    ranges.iter().flat_map(|r| r.first..r.end()).collect()
}

/// By offset, which attempt it is, and when it became due.
type Attempts = BTreeMap<u64, (u32, UnixMs)>;

/// What a lease command takes, as it goes.
struct Taking<'c> {
    command: &'c Lease,
    now: u64,
    lease_ms: u64,
    room: u64,
    retries: u64,
    leased: Leased,
    /// By topic, whether they are retries, and a deadline.
    sheaves: BTreeMap<(u64, bool, u64), Attempts>,
    /// Topics with events off the defaults.
    delays: BTreeSet<u64>,
}

/// A lease command that is not refused as a whole.
pub(super) fn lease(
    sub: &mut Subscription,
    topics: &BTreeMap<String, Topic>,
    (now, (left_in_flight, left_retries)): (u64, (u64, u64)),
    command: &Lease,
    matches: impl Fn(&str) -> bool,
) -> Leased {
    let picks = |picks: &[Pick]| -> Vec<(String, Topic, Vec<u64>)> {
        picks
            .iter()
            .filter_map(|pick| {
                let topic = topics.get(&pick.topic).filter(|t| t.id == pick.topic_id)?;
                let offsets = named(pick.ranges.as_slice()).into_iter();
                let offsets = offsets.filter(|o| *o < topic.events.len() as u64).collect();
                matches(&pick.topic).then(|| (pick.topic.clone(), topic.clone(), offsets))
            })
            .collect()
    };
    let mut leased = Leased::default();
    for (_, topic, offsets) in picks(&command.skips) {
        for offset in offsets {
            let story = sub.story(&topic, offset);
            if story.status == Status::Free {
                sub.set(&topic, offset, story.ended(End::Filtered, now));
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
            .min(u64::from(of_consumer).saturating_sub(sub.in_flight(Some(&command.consumer))))
            .min(left_in_flight),
        retries: sub.retries_left(now).min(left_retries),
        leased,
        sheaves: BTreeMap::new(),
        delays: topics.values().filter(|t| t.delays).map(|t| t.id).collect(),
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
            if !passes(sub, &topic.events[*offset as usize]) {
                sub.set(topic, *offset, story.ended(End::Filtered, self.now));
                self.leased.filtered += 1;
                continue;
            }
            if !sub.in_turn(topic, *offset) {
                continue;
            }
            self.room -= 1;
            self.retries -= u64::from(story.failures > 0);
            let sheaf = (topic.id, true, self.cut(deadline));
            let attempt = (story.failures + 1, UnixMs(story.due));
            self.sheaves.entry(sheaf).or_default().insert(*offset, attempt);
            sub.set(topic, *offset, Story { status: Status::Leased, ..story });
        }
    }

    fn fresh(&mut self, sub: &mut Subscription, name: &str, topic: &Topic, offsets: &[u64]) {
        let mut fresh = Vec::new();
        for offset in offsets {
            let event = &topic.events[*offset as usize];
            let story = sub.story(topic, *offset);
            if story.status != Status::Free {
                continue;
            }
            if event.cancelled {
                sub.set(topic, *offset, story.ended(End::Cancelled, self.now));
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
            self.sheaves.entry(sheaf).or_default().insert(offset, (1, UnixMs(0)));
            sub.set(topic, offset, Story::new(Status::Leased));
        }
    }

    fn grant(mut self, sub: &mut Subscription) -> Leased {
        sub.counters.filtered += self.leased.filtered;
        for ((topic, retried, deadline), events) in self.sheaves {
            sub.last_lease += 1;
            let until = self.now + self.lease_ms;
            let expires = if deadline > 0 { until.min(deadline) } else { until };
            for (attempt, _) in events.values() {
                sub.deliveries.push((self.now, *attempt > 1));
                sub.counters.delivered += 1;
                sub.counters.redelivered += u64::from(*attempt > 1);
            }
            self.leased.grants.push(Granted {
                lease_id: LeaseId(sub.last_lease),
                term: Term(self.command.term),
                topic_id: TopicId(topic),
                ranges: events.keys().map(|o| Offset(*o)).collect(),
                attempts: events
                    .values()
                    .map(|(attempt, _)| *attempt)
                    .filter(|_| retried)
                    .collect(),
                due: events.values().map(|(_, due)| *due).filter(|_| retried).collect(),
                delayed: !retried && self.delays.contains(&topic),
                expires_at: UnixMs(expires),
            });
            let (consumer, term) = (self.command.consumer.clone(), self.command.term);
            let service = self.command.service.clone();
            let row = LeaseRow {
                topic,
                events: events.into_keys().collect(),
                consumer,
                service,
                term,
                granted: self.now,
                expires,
                deadline,
                lost: false,
            };
            sub.leases.insert(sub.last_lease, row);
        }
        self.leased
    }
}

/// When a lease ends.
pub(super) fn ends_at(lease: &LeaseRow, led_since: u64, grace_until: u64) -> u64 {
    if lease.granted <= led_since { lease.expires.max(grace_until) } else { lease.expires }
}

pub(super) fn settle(
    sub: &mut Subscription,
    topics: &BTreeMap<String, Topic>,
    (now, led_since, grace_until): (u64, u64, u64),
    command: &Settle,
) -> Vec<Settled> {
    let refuse =
        |reason| Settled { done: Ranges::new(), refused: Some(reason), expires_at: UnixMs(0) };
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
        if ends_at(&lease, led_since, grace_until) <= now {
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
        sub.leases.insert(item.lease_id, LeaseRow { expires, ..lease });
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
                let story = sub.story(topic, *offset);
                sub.set(topic, *offset, story.ended(End::Acked, now));
            }
            Action::Nack(nack) => {
                sub.counters.nacked += 1;
                let cause = Cause::Nack(&nack.reason, nack.retry_after_ms);
                sub.fail((name, topic), *offset, cause, now);
            }
            Action::Reject(reject) => {
                sub.counters.rejected += 1;
                sub.fail((name, topic), *offset, Cause::Reject(&reject.reason), now);
            }
            Action::Release(_) => {
                sub.counters.released += 1;
                let story = sub.story(topic, *offset);
                if story.failing {
                    sub.make_ready(topic, *offset, story);
                } else {
                    sub.set(topic, *offset, Story { status: Status::Free, ..story });
                }
            }
            Action::Extend(_) => {}
        }
    }
    let lacks = if all { lease.lost } else { wanted.iter().any(|o| !done.contains(o)) };
    let mut lease = lease;
    lease.events.retain(|o| !done.contains(o));
    if lease.events.is_empty() {
        sub.leases.remove(&item.lease_id);
    } else {
        sub.leases.insert(item.lease_id, lease);
    }
    let refused = lacks.then_some(Reason::LeaseExpired);
    let done = done.into_iter().map(Offset).collect();
    Settled { done, refused, expires_at: UnixMs(0) }
}
