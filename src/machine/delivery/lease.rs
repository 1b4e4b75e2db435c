//! Handing events to a consumer.
//!
//! The leader has picked them from what it saw; each is judged again here, and what is not to be
//! had any more is left out. A plain subscription over default events never looks into events or
//! at rows of single events: whole ranges are leased by a handful of rows.

use std::collections::BTreeMap;

use super::eligible::{self, Predecessors};
use super::fail::{self, bury};
use super::failures::{self, FailureRecord, Standing};
use super::leases::{self, LeaseRecord};
use super::loads;
use super::timers::{self, Due};
use super::work::{TopicWork, Work};
use crate::machine::Fault;
use crate::machine::apply::Machine;
use crate::machine::kv::{Kv, Table};
use crate::machine::schedule::specials;
use crate::machine::subscription::record::not_found;
use crate::machine::tracking::endings::{self, End};
use crate::model::command::Lease;
use crate::model::delivery::{DeadReason, Granted, Leased, Pick, Seen};
use crate::model::ids::{LeaseId, Offset, Term, TopicId, UnixMs};
use crate::model::limits::{HUB_CONSUMER, LEASE_EVENTS_MAX, LEASE_MS};
use crate::model::outcome::Outcome;
use crate::model::ranges::{OffsetRange, Ranges};
use crate::model::rejection::{Reason, Rejection};
use crate::model::subscription::DeliveryOrder;

pub(crate) fn apply<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: &Lease,
) -> Result<Outcome, Fault> {
    let Some(mut work) = Work::open(machine, &command.subscription)? else {
        return Ok(Outcome::Rejected(not_found(&command.subscription)));
    };
    if let Err(rejection) = check(machine, &work, command) {
        return Ok(Outcome::Rejected(rejection));
    }
    let mut leased =
        Leased { filtered: skip(machine, &mut work, &command.skips)?, ..Leased::default() };
    let mut plan = Plan::new(machine, &mut work, command)?;
    for pick in &command.picks {
        let topic = TopicId(pick.topic_id);
        if work.enter(machine, topic, Some(&pick.topic))? {
            let named = pick.ranges.first(LEASE_EVENTS_MAX);
            plan.take(machine, &mut work, topic, &named, pick.seen.as_ref())?;
        }
    }
    leased.filtered += plan.skipped;
    leased.dead = plan.dead;
    leased.grants = plan.grant(machine, &mut work, command)?;
    work.finish(machine)?;
    Ok(Outcome::Leased(leased))
}

fn check<K: Kv>(machine: &Machine<'_, K>, work: &Work, command: &Lease) -> Result<(), Rejection> {
    let name = &command.subscription;
    if work.state.pause.is_some() {
        return Err(paused(name));
    }
    if let Some(target) = &work.record.config.target
        && command.consumer != HUB_CONSUMER
    {
        return Err(routed(name, &target.service));
    }
    if command.revision != work.record.revision {
        return Err(Rejection::new(
            Reason::RevisionMismatch,
            format!(
                "subscription {name} has revision {}, not {}; read it again and decide anew",
                work.record.revision, command.revision
            ),
        )
        .with("expected", command.revision)
        .with("actual", work.record.revision));
    }
    if command.term < machine.meta().term {
        return Err(Rejection::new(
            Reason::NotLeader,
            format!(
                "term {} has passed, {} is the newest; ask the new leader",
                command.term,
                machine.meta().term
            ),
        ));
    }
    Ok(())
}

/// The refusal for consumers of a subscription that the hub itself delivers.
#[must_use]
pub fn routed(name: &str, service: &str) -> Rejection {
    let text = format!(
        "the hub itself delivers subscription {name} to service {service}; to consume it, end that with: mhub sub update {name} --config target="
    );
    Rejection::new(Reason::SubscriptionRouted, text).with("service", service)
}

/// The refusal for a subscription that is paused.
#[must_use]
pub fn paused(name: &str) -> Rejection {
    Rejection::new(
        Reason::SubscriptionPaused,
        format!("subscription {name} is paused; resume it with: mhub sub resume {name}"),
    )
    .with("subscription", name)
}

/// Marks events as done that the filter does not let through; how many.
fn skip<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &mut Work,
    skips: &[Pick],
) -> Result<u64, Fault> {
    let mut count = 0;
    for skip in skips {
        let topic = TopicId(skip.topic_id);
        if work.enter(machine, topic, Some(&skip.topic))? {
            let named = skip.ranges.first(LEASE_EVENTS_MAX);
            let free = work.free(machine, topic, &named)?;
            work.done(machine, topic, &free)?;
            count += free.count();
        }
    }
    work.state.counters.filtered += count;
    Ok(count)
}

/// What goes into one lease: the topic, whether the events are retries, a deadline (0: none).
type Sheaf = (TopicId, bool, u64);

struct Plan {
    /// How many more events may be taken.
    room: u64,
    /// Of these, retries.
    retries: u64,
    lease_ms: u64,
    by_key: bool,
    sheaves: BTreeMap<Sheaf, Vec<OffsetRange>>,
    /// Of the retries: which attempt, and since when it was due.
    attempts: BTreeMap<(TopicId, Offset), (u32, UnixMs)>,
    /// Cancelled, or failed events that a filter of today does not let through.
    skipped: u64,
    dead: u64,
}

impl Plan {
    fn new<K: Kv>(
        machine: &Machine<'_, K>,
        work: &mut Work,
        command: &Lease,
    ) -> Result<Self, Fault> {
        let config = &work.record.config;
        let of_consumer = match command.in_flight_max_consumer {
            0 => config.in_flight_max_of_consumer(),
            n => n,
        };
        let of_all = u64::from(config.max_in_flight);
        let by_key = config.order() == DeliveryOrder::ByKey;
        let lease_ms = lease_ms(command.lease_ms, config.lease_ms);
        let retries = work.state.budget.left(machine.now(), &config.retry);
        let load = work.load(machine, &command.consumer)?;
        let (of_service, retries_of_service) = loads::left(machine, &command.service)?;
        let retries = retries.min(retries_of_service);
        let room = of_all
            .saturating_sub(work.state.in_flight)
            .min(u64::from(of_consumer).saturating_sub(load))
            .min(of_service)
            .min(LEASE_EVENTS_MAX);
        Ok(Self {
            room,
            retries,
            lease_ms,
            by_key,
            sheaves: BTreeMap::new(),
            attempts: BTreeMap::new(),
            skipped: 0,
            dead: 0,
        })
    }

    /// Takes what may be had of some offsets.
    fn take<K: Kv>(
        &mut self,
        machine: &mut Machine<'_, K>,
        work: &mut Work,
        topic: TopicId,
        offsets: &Ranges,
        seen: Option<&Seen>,
    ) -> Result<(), Fault> {
        let mut fresh = work.free(machine, topic, offsets)?;
        if work.topic(topic)?.progress.failures > 0 {
            self.retry(machine, work, topic, &offsets.minus(&fresh))?;
        }
        let mut dated = Vec::new();
        if !self.still_holds(machine.now(), work.topic(topic)?, seen) {
            dated = self.sort_out(machine, work, topic, &mut fresh)?;
        }
        if self.by_key {
            fresh = eligible::in_turn(machine, work, topic, &fresh, self.room)?;
        }
        let taken = fresh.first(self.room);
        self.room -= taken.count();
        work.lease(machine, topic, &taken)?;
        let mut plain = taken.clone();
        for (offset, deadline) in dated {
            if taken.contains(offset) {
                let one = Ranges::from_iter([offset]);
                plain = plain.minus(&one);
                self.put((topic, false, deadline.get()), &one);
            }
        }
        self.put((topic, false, 0), &plain);
        Ok(())
    }

    /// Whether fresh events are all ready, none is cancelled, and no deadline cuts their lease short.
    fn still_holds(&self, now: UnixMs, topic: &TopicWork, seen: Option<&Seen>) -> bool {
        let far = |seen: &Seen| {
            seen.deadline_ms == 0 || UnixMs(seen.deadline_ms).since(now) >= self.lease_ms
        };
        let holds =
            |seen: &Seen| seen.at_ms <= now.get() && seen.cancels == topic.cancels && far(seen);
        topic.specials == 0 || seen.is_some_and(holds)
    }

    fn put(&mut self, sheaf: Sheaf, events: &Ranges) {
        if !events.is_empty() {
            self.sheaves.entry(sheaf).or_default().extend_from_slice(events.as_slice());
        }
    }

    /// Takes the failed events among the offsets that are due.
    fn retry<K: Kv>(
        &mut self,
        machine: &mut Machine<'_, K>,
        work: &mut Work,
        topic: TopicId,
        offsets: &Ranges,
    ) -> Result<(), Fault> {
        let (now, mut before) = (machine.now(), Predecessors::default());
        let filter = eligible::filter_of(work)?;
        let limit = usize::try_from(LEASE_EVENTS_MAX).unwrap_or(usize::MAX);
        for (offset, story) in failures::among(machine.overlay(), work.id, topic, offsets, limit)? {
            if !story.is_due(now) || self.room == 0 || (story.failures > 0 && self.retries == 0) {
                continue;
            }
            let special = fail::special_of(machine, work, topic, offset)?;
            let deadline = special.and_then(|s| s.deadline()).filter(|_| story.redrives == 0);
            if deadline.is_some_and(|deadline| deadline <= now) {
                self.expire_story(machine, work, (topic, offset), story)?;
                continue;
            }
            if !eligible::passes(machine, filter.as_ref(), topic, offset)? {
                fail::unwait(machine, work, (topic, offset), &story);
                endings::note(machine, work, (topic, offset), End::Filtered)?;
                fail::forget(machine, work, topic, offset)?;
                (self.skipped, work.wakes) = (self.skipped + 1, true);
                work.state.counters.filtered += 1;
                continue;
            }
            if self.by_key && !eligible::is_next(machine, work, &mut before, (topic, offset))? {
                continue;
            }
            self.take_story(machine, work, (topic, offset), story, deadline);
        }
        Ok(())
    }

    fn take_story<K: Kv>(
        &mut self,
        machine: &mut Machine<'_, K>,
        work: &mut Work,
        (topic, offset): (TopicId, Offset),
        mut story: FailureRecord,
        deadline: Option<UnixMs>,
    ) {
        fail::unwait(machine, work, (topic, offset), &story);
        story.stand(Standing::Leased);
        failures::put(machine, work.id, (topic, offset), &story);
        self.room -= 1;
        self.retries = self.retries.saturating_sub(u64::from(story.failures > 0));
        let attempt = (story.failures.saturating_add(1), UnixMs(story.due_ms));
        self.attempts.insert((topic, offset), attempt);
        let cutting = deadline.filter(|d| d.since(machine.now()) < self.lease_ms);
        let sheaf = (topic, true, cutting.map_or(0, UnixMs::get));
        self.put(sheaf, &Ranges::from_iter([offset]));
    }

    fn expire_story<K: Kv>(
        &mut self,
        machine: &mut Machine<'_, K>,
        work: &mut Work,
        (topic, offset): (TopicId, Offset),
        story: FailureRecord,
    ) -> Result<(), Fault> {
        fail::unwait(machine, work, (topic, offset), &story);
        fail::forget(machine, work, topic, offset)?;
        (self.dead, work.wakes) = (self.dead + 1, true);
        bury(machine, work, (topic, offset), story, DeadReason::Expired)
    }

    /// Sorts out special events among fresh ones: the cancelled are skipped, the delayed left, the
    /// expired buried. Returns those whose deadline cuts the lease short.
    fn sort_out<K: Kv>(
        &mut self,
        machine: &mut Machine<'_, K>,
        work: &mut Work,
        topic: TopicId,
        fresh: &mut Ranges,
    ) -> Result<Vec<(Offset, UnixMs)>, Fault> {
        let now = machine.now();
        let (mut dated, mut ended, mut delayed) = (Vec::new(), Ranges::new(), Ranges::new());
        let mut buried = Vec::new();
        for range in fresh.as_slice() {
            for (offset, special) in specials::within(machine.overlay(), topic, *range, usize::MAX)?
            {
                let deadline = special.deadline();
                if special.cancelled {
                    ended.push(OffsetRange::one(offset));
                    self.skipped += 1;
                    work.state.counters.filtered += 1;
                } else if deadline.is_some_and(|deadline| deadline <= now) {
                    ended.push(OffsetRange::one(offset));
                    buried.push(offset);
                } else if special.ready_at_ms > now.get() {
                    delayed.push(OffsetRange::one(offset));
                } else if let Some(deadline) = deadline
                    && deadline.since(now) < self.lease_ms
                {
                    dated.push((offset, deadline));
                }
            }
        }
        for offset in buried {
            self.dead += 1;
            let story = FailureRecord::default();
            bury(machine, work, (topic, offset), story, DeadReason::Expired)?;
        }
        if !ended.is_empty() {
            work.done(machine, topic, &ended)?;
            // The next of their keys may go.
            work.wakes = true;
        }
        *fresh = fresh.minus(&ended).minus(&delayed);
        Ok(dated)
    }

    /// Writes the leases.
    fn grant<K: Kv>(
        self,
        machine: &mut Machine<'_, K>,
        work: &mut Work,
        command: &Lease,
    ) -> Result<Vec<Granted>, Fault> {
        let now = machine.now();
        let (mut grants, mut events, mut retries) = (Vec::new(), 0, 0);
        for ((topic, retried, deadline_ms), ranges) in self.sheaves {
            let ranges = Ranges::from_unsorted(&ranges);
            let lease_id = LeaseId(work.state.last_lease_id).next();
            work.state.last_lease_id = lease_id.get();
            let until = now.get().saturating_add(self.lease_ms);
            let expires_at = UnixMs(if deadline_ms > 0 { until.min(deadline_ms) } else { until });
            let record = LeaseRecord {
                topic_id: topic.get(),
                consumer: command.consumer.clone(),
                service: command.service.clone(),
                term: command.term,
                granted_at_ms: now.get(),
                expires_at_ms: expires_at.get(),
                retried,
                deadline_ms,
                events: ranges.clone(),
                lost: false,
            };
            let (attempts, due): (Vec<u32>, Vec<UnixMs>) = if retried {
                ranges.iter().filter_map(|o| self.attempts.get(&(topic, o)).copied()).unzip()
            } else {
                Default::default()
            };
            let delayed = !retried && work.topic(topic)?.delays > 0;
            events += ranges.count();
            retries += attempts.iter().filter(|n| **n > 1).count() as u64;
            let row = leases::row_key(work.id, lease_id);
            machine.overlay_mut().put(Table::Leases, row, record.encode());
            timers::set(machine, expires_at, Due::Lease(work.id, lease_id));
            let term = Term(command.term);
            grants.push(Granted {
                lease_id,
                term,
                topic_id: topic,
                ranges,
                attempts,
                due,
                delayed,
                expires_at,
            });
        }
        work.count_in_flight(machine, &command.consumer, events, 0)?;
        loads::count_service(machine, &command.service, (events, retries), 0)?;
        work.state.counters.delivered += events;
        work.state.counters.redelivered += retries;
        work.state.budget.spend(now, events - retries, retries);
        Ok(grants)
    }
}

/// How long a lease lasts.
pub(crate) fn lease_ms(asked_ms: u64, default_ms: u64) -> u64 {
    let ms = if asked_ms == 0 { default_ms } else { asked_ms };
    ms.clamp(*LEASE_MS.start(), *LEASE_MS.end())
}
