//! What has to hold after every entry.

use std::collections::{BTreeMap, BTreeSet};

use super::fates;
use super::leasing::ends_at;
use super::model::{Status, Subscription, Topic, World, topic_of};
use super::world::{matches, passes};
use crate::machine::delivery::failures::Standing;
use crate::machine::delivery::{loads, query as delivery};
use crate::machine::mem::MemKv;
use crate::machine::schedule::candidates::{Candidates, candidates, candidates_within};
use crate::machine::schedule::cursor::Cursor;
use crate::machine::subscription::backlog;
use crate::machine::subscription::query::subscription;
use crate::machine::subscription::stats::{Stats, stats};
use crate::machine::tests::apply;
use crate::machine::tests::random::Dice;
use crate::model::command::{CommandBatch, Kind, Lease};
use crate::model::delivery::Pick;
use crate::model::ids::{DeadNumber, LeaseId, Offset, SubscriptionId, TopicId, UnixMs};
use crate::model::limits::ATTEMPTS_KEPT_MAX;
use crate::model::outcome::Outcome;

/// Searches that may see but a part, find nothing and say so.
const SEARCHES_MAX: u32 = 32;

/// Attempts that are kept; these are small.
const KEPT: u64 = ATTEMPTS_KEPT_MAX as u64;

/// Cursors that live as long as a leader.
pub(super) type Cursors = BTreeMap<String, Cursor>;

/// An event of a subscription, and how it is to be ordered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Wanted {
    rank: (u64, u64),
    topic: u64,
    offset: u64,
}

pub(super) fn check(
    world: &World,
    kv: &MemKv,
    cursors: &mut Cursors,
    dice: &mut Dice,
    context: &str,
) {
    let in_flight = loads::of_service(kv, "x").unwrap().in_flight;
    assert_eq!(in_flight, world.in_flight_to("x", None), "{context}");
    if dice.below(4) == 0 {
        fates::check(world, kv, dice, context);
    }
    for (name, sub) in &world.subscriptions {
        let context = format!("{context}, subscription {name}");
        check_counts(world, kv, name, sub, &context);
        check_rows(world, kv, sub, &context);
        check_candidates(
            world,
            kv,
            (name, sub),
            cursors.entry(name.clone()).or_default(),
            dice,
            &context,
        );
    }
}

fn topics<'w>(
    world: &'w World,
    sub: &'w Subscription,
) -> impl Iterator<Item = (&'w str, &'w Topic)> {
    let mine = |name: &&String| matches(&sub.config.pattern, name);
    world.topics.iter().filter(move |(name, _)| mine(name)).map(|(name, t)| (name.as_str(), t))
}

fn check_counts(world: &World, kv: &MemKv, name: &str, sub: &Subscription, context: &str) {
    let mut expected = Stats { dead: sub.dead.len() as u64, ..Stats::default() };
    for (_, topic) in topics(world, sub) {
        for (offset, event) in (0..).zip(&topic.events) {
            let story = sub.story(topic, offset);
            if story.status != Status::Done {
                let recorded = UnixMs(world.recorded[event.position as usize]);
                expected.oldest = expected.oldest.into_iter().chain([recorded]).min();
            }
            match story.status {
                Status::Free if event.cancelled => expected.cancelled += 1,
                Status::Free if event.ready_at > world.now => expected.delayed += 1,
                Status::Free => {
                    expected.pending += 1;
                    expected.pending_by_priority[event.priority as usize] += 1;
                }
                Status::Leased => expected.leased += 1,
                Status::Retry | Status::Ready | Status::Dying => {
                    expected.retrying += 1;
                    let is_due = story.status == Status::Retry && story.due <= world.now;
                    expected.due += u64::from(story.status == Status::Ready || is_due);
                }
                Status::Done => {}
            }
        }
    }
    let actual = stats(kv, name, UnixMs(world.now)).unwrap().unwrap();
    assert_eq!(actual, expected, "{context}");
    let info = subscription(kv, name).unwrap().unwrap();
    let waiting = expected.pending + expected.delayed + expected.cancelled;
    let open = waiting + expected.leased + expected.retrying;
    assert_eq!(backlog::waiting(kv, &info).unwrap(), open, "{context}");
    assert_eq!(info.counters, sub.counters, "{context}");
    assert_eq!(info.reordering, sub.placing, "{context}");
    assert_eq!((info.revision, info.start.get()), (sub.revision, sub.start), "{context}");
    let pause = info.pause.map(|p| (p.reason(), p.resume_at_ms));
    assert_eq!(pause, sub.pause, "{context}");
}

fn check_rows(world: &World, kv: &MemKv, sub: &Subscription, context: &str) {
    let id = SubscriptionId(sub.id);
    let leases = delivery::leases(kv, id, LeaseId(0), 999).unwrap();
    let actual: Vec<_> = leases
        .iter()
        .map(|l| {
            let events: Vec<u64> = l.lease.events.iter().map(Offset::get).collect();
            (l.id.get(), l.lease.topic_id, events, l.ends_at.get())
        })
        .collect();
    let expected: Vec<_> = sub
        .leases
        .iter()
        .map(|(id, l)| {
            let ends = ends_at(l, world.led_since, world.grace_until);
            (*id, l.topic, l.events.iter().copied().collect::<Vec<_>>(), ends)
        })
        .collect();
    assert_eq!(actual, expected, "{context}");
    let failing = sub.stories.iter().filter(|(_, s)| s.failing);
    let expected: Vec<_> = failing
        .map(|((topic, offset), s)| {
            let told = s.told.min(KEPT);
            (*topic, *offset, s.failures, s.redrives, s.due, s.status, s.rank, told)
        })
        .collect();
    let actual: Vec<_> = delivery::retries(kv, id, (TopicId(0), Offset(0)), 999)
        .unwrap()
        .into_iter()
        .map(|(topic, offset, r)| {
            let status = match r.stands() {
                Standing::Retry => Status::Retry,
                Standing::Ready => Status::Ready,
                Standing::Leased => Status::Leased,
                Standing::Dying => Status::Dying,
            };
            let rank = (r.place().tier, r.place().value);
            let told = r.attempts.len() as u64;
            (topic.get(), offset.get(), r.failures, r.redrives, r.due_ms, status, rank, told)
        })
        .collect();
    assert_eq!(actual, expected, "{context}");
    let actual: Vec<_> = delivery::dead_letters(kv, id, DeadNumber(0), 999)
        .unwrap()
        .into_iter()
        .map(|(n, d)| {
            let (counts, told) = ((d.failures, d.redrives), d.attempts.len() as u64);
            (n.get(), d.topic_id, d.offset, d.reason(), counts, d.died_at_ms, told)
        })
        .collect();
    let expected: Vec<_> = sub
        .dead
        .iter()
        .map(|l| {
            let (counts, told) = ((l.failures, l.redrives), l.told.min(KEPT));
            (l.number, l.topic_id, l.offset, l.reason, counts, l.died_at, told)
        })
        .collect();
    assert_eq!(actual, expected, "{context}");
}

/// Everything that may be leased, by fairness key, in the order of rank.
fn ready(world: &World, sub: &Subscription) -> BTreeMap<String, Vec<Wanted>> {
    let mut found: BTreeMap<String, Vec<Wanted>> = BTreeMap::new();
    if sub.pause.is_some() {
        return found;
    }
    for (_, topic) in topics(world, sub) {
        for (offset, event) in (0..).zip(&topic.events) {
            let story = sub.story(topic, offset);
            let free = story.status == Status::Free
                && event.ready_at <= world.now
                && !event.cancelled
                && passes(sub, event);
            if !(free || story.status == Status::Ready) || !comes_next(sub, topic, offset) {
                continue;
            }
            // What expired is found by its readiness: a tick will bury it.
            let deadline = event.deadline.filter(|d| *d > world.now);
            let rank = if free { sub.rank(event, deadline, event.ready_at) } else { story.rank };
            let wanted = Wanted { rank, topic: topic.id, offset };
            found.entry(event.flow.clone()).or_default().push(wanted);
        }
    }
    found.values_mut().for_each(|f| f.sort());
    found
}

/// Whether an event waits, and nobody will ever get it.
fn is_void(sub: &Subscription, topic: &Topic, offset: u64) -> bool {
    let event = &topic.events[offset as usize];
    sub.story(topic, offset).status == Status::Free && (event.cancelled || !passes(sub, event))
}

/// Whether all of its key before it is done, but for what nobody will get or died before its turn.
fn comes_next(sub: &Subscription, topic: &Topic, offset: u64) -> bool {
    let key = &topic.events[offset as usize].key;
    if !sub.by_key() || key.is_empty() {
        return true;
    }
    let same = |o: &u64| topic.events[*o as usize].key == *key;
    let passed_over = |o: u64| is_void(sub, topic, o) || sub.died_early(topic, o);
    let before = (0..offset).rev().filter(same).find(|o| !passed_over(*o));
    before.is_none_or(|o| sub.story(topic, o).status == Status::Done)
}

fn places(picks: &[Pick]) -> Vec<(u64, u64)> {
    let of = |p: &Pick| {
        let topic = p.topic_id;
        p.ranges.iter().map(move |o| (topic, o.get())).collect::<Vec<_>>()
    };
    picks.iter().flat_map(of).collect()
}

fn picked(found: &Candidates) -> Vec<(u64, u64)> {
    places(&found.picks)
}

/// Only what nobody will ever get is skipped, and in order by key not before it is in turn.
fn check_skips(world: &World, sub: &Subscription, found: &Candidates, context: &str) {
    for (topic, offset) in places(&found.skips) {
        let (_, topic) = topic_of(&world.topics, topic).unwrap();
        let skipped = is_void(sub, topic, offset) && comes_next(sub, topic, offset);
        assert!(skipped, "{context}: {offset} of {topic:?} is skipped");
    }
}

/// Whether the budget holds an event back.
fn is_over_budget(world: &World, sub: &Subscription, wanted: &Wanted) -> bool {
    let story = sub.stories.get(&(wanted.topic, wanted.offset));
    story.is_some_and(|s| s.failures > 0) && sub.retries_left(world.now) == 0
}

fn check_candidates(
    world: &World,
    kv: &MemKv,
    (name, sub): (&str, &Subscription),
    cursor: &mut Cursor,
    dice: &mut Dice,
    context: &str,
) {
    let now = UnixMs(world.now);
    let ready = ready(world, sub);
    let all: Vec<&Wanted> = ready.values().flatten().collect();
    for (events, cursor) in [(999, &mut Cursor::default()), (1 + dice.below(5), cursor)] {
        let mut found = candidates(kv, name, now, cursor, events).unwrap().unwrap();
        let mut searches = 1;
        while found.more && found.picks.is_empty() && searches < SEARCHES_MAX {
            found = candidates(kv, name, now, cursor, events).unwrap().unwrap();
            searches += 1;
        }
        let picks = picked(&found);
        check_found(world, sub, &picks, &ready, events, context);
        check_skips(world, sub, &found, context);
        if !found.picks.is_empty() {
            continue;
        }
        let late = all.iter().all(|w| is_over_budget(world, sub, w));
        assert!(late, "{context}: nothing found of {all:?}");
    }
    if dice.below(16) == 0 {
        check_small_steps(kv, (name, sub), now, &all, dice, context);
    }
    if dice.below(4) == 0 {
        check_reserved(world, kv, (name, sub), dice, context);
    }
}

/// While a lease is on its way, a search finds what it would find after it; and when the lease comes to nothing,
/// its events are found again.
fn check_reserved(
    world: &World,
    kv: &MemKv,
    (name, sub): (&str, &Subscription),
    dice: &mut Dice,
    context: &str,
) {
    let (now, mut cursor, mut later) = (UnixMs(world.now), Cursor::default(), Cursor::default());
    let (first, second) = (1 + dice.below(6), 1 + dice.below(6));
    let find = |kv: &MemKv, cursor: &mut Cursor, events: u64| {
        candidates(kv, name, now, cursor, events).unwrap().unwrap()
    };
    let found = find(kv, &mut cursor, first);
    find(kv, &mut later, first);
    if found.picks.is_empty() || !found.retries.is_empty() {
        return;
    }
    let reservation = cursor.reserve(&found.picks, &found.skips);
    let planned = find(kv, &mut cursor, second);
    let mut leased = kv.clone();
    let lease = Kind::Lease(Lease {
        subscription: name.to_owned(),
        revision: found.revision,
        term: world.term.max(1),
        consumer: "nobody else".to_owned(),
        picks: found.picks.clone(),
        skips: found.skips.clone(),
        ..Lease::default()
    });
    let entry = CommandBatch { stamp_ms: world.now, commands: vec![lease.into()] };
    let outcome = apply(&mut leased, &[entry], 1_000_000).remove(0).remove(0);
    let Outcome::Leased(outcome) = outcome else { return };
    let granted: u64 = outcome.grants.iter().map(|grant| grant.ranges.count()).sum();
    if granted == count_of(&found) && outcome.dead == 0 {
        let expected = find(&leased, &mut later, second);
        // Leases make room for retries, and what is skipped lets the next of its key go.
        let retries = !expected.retries.is_empty() || !planned.retries.is_empty();
        if !retries && (found.skips.is_empty() || !sub.by_key()) {
            assert_eq!(picked(&planned), picked(&expected), "{context}: beside {found:?}");
        }
    }
    assert!(!cursor.conclude(&reservation, 0), "{context}");
    let mut left: BTreeSet<_> = picked(&found).into_iter().collect();
    for _ in 0..SEARCHES_MAX {
        let again = picked(&find(kv, &mut cursor, 999));
        left.retain(|pick| !again.contains(pick));
        if left.is_empty() {
            break;
        }
    }
    assert!(left.is_empty(), "{context}: {left:?} of {found:?} is passed over");
}

/// How many events were found.
fn count_of(found: &Candidates) -> u64 {
    found.picks.iter().map(Pick::count).sum()
}

/// Searches that run out of rows go on, and come to everything.
fn check_small_steps(
    kv: &MemKv,
    (name, sub): (&str, &Subscription),
    now: UnixMs,
    all: &[&Wanted],
    dice: &mut Dice,
    context: &str,
) {
    // Which of the failed ones are within the budget differs from search to search.
    let fresh = |w: &&Wanted| sub.stories.get(&(w.topic, w.offset)).is_none_or(|s| s.failures == 0);
    let mut left: BTreeSet<_> =
        all.iter().copied().filter(fresh).map(|w| (w.topic, w.offset)).collect();
    let mut small = Cursor::default();
    for _ in 0..500 {
        let rows = 1 + dice.below(30);
        let found =
            candidates_within(kv, name, now, &mut small, 999.into(), rows).unwrap().unwrap();
        let picks = picked(&found);
        left.retain(|place| !picks.contains(place));
        if left.is_empty() || !found.more {
            break;
        }
    }
    assert!(left.is_empty(), "{context}: {left:?} is never found");
}

fn check_found(
    world: &World,
    sub: &Subscription,
    picks: &[(u64, u64)],
    ready: &BTreeMap<String, Vec<Wanted>>,
    events: u64,
    context: &str,
) {
    assert!(picks.len() as u64 <= events, "{context}");
    let mut places = BTreeMap::new();
    for (flow, wanted) in ready {
        for w in wanted {
            places.insert((w.topic, w.offset), (flow.as_str(), w));
        }
    }
    let mut last: BTreeMap<&str, &Wanted> = BTreeMap::new();
    let mut unique = BTreeSet::new();
    for pick in picks {
        assert!(unique.insert(pick), "{context}: {pick:?} twice in {picks:?}");
        let Some((flow, wanted)) = places.get(pick) else {
            panic!("{context}: {pick:?} is not ready, {ready:?}");
        };
        if let Some(before) = last.insert(flow, wanted) {
            assert!(before < wanted, "{context}: {before:?} before {wanted:?}");
        }
    }
    // Of each fairness key a beginning of its order; retries may be over the budget.
    for (flow, wanted) in ready {
        let Some(newest) = last.get(flow.as_str()) else { continue };
        for w in wanted.iter().filter(|w| w < newest) {
            let retry = sub.stories.get(&(w.topic, w.offset)).is_some_and(|s| s.failures > 0);
            let found = unique.contains(&(w.topic, w.offset));
            assert!(found || retry, "{context}: {w:?} was passed over in {flow:?}: {picks:?}");
        }
    }
    let retries =
        picks.iter().filter(|p| sub.stories.get(p).is_some_and(|s| s.failures > 0)).count() as u64;
    assert!(retries <= sub.retries_left(world.now), "{context}: {retries} retries");
}
