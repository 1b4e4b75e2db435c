//! What a trace says of each event, against what the model knows of it.

use super::cases::{Hub, create, event, plain};
use super::model::{End, Letter, Status, Subscription, Topic, World};
use super::policies::nack_at_once;
use super::random::{CORRELATION, TestEvent};
use super::world::{matches, passes};
use crate::machine::delivery::failures::{self, FailureRecord};
use crate::machine::kv::{Table, Write};
use crate::machine::mem::MemKv;
use crate::machine::record::{self, encode_message};
use crate::machine::tests::random::Dice;
use crate::machine::tracking::query::{Traced, trace};
use crate::model::command::delivery::{Ack, Action, Reject};
use crate::model::command::subscription::At;
use crate::model::command::{DeleteTopic, Kind, PurgeDead, SeekSubscription, Tick};
use crate::model::delivery::{Attempt, DeadReason};
use crate::model::ids::{DeadNumber, LeaseId, Offset, Position, SubscriptionId, TopicId, UnixMs};
use crate::model::limits::{
    ATTEMPTS_KEPT_MAX, ENDINGS_KEPT_MS, PAGE_BYTES_TARGET, TRACE_FATES_MAX,
};
use crate::model::outcome::Outcome;
use crate::model::subscription::SubscriptionConfig;
use crate::model::trace::{Chosen, Death, Fate, Standing};

/// Attempts that are kept; those of the model are small.
const KEPT: u64 = ATTEMPTS_KEPT_MAX as u64;

pub(super) fn check(world: &World, kv: &MemKv, dice: &mut Dice, context: &str) {
    let (mut traced, mut from) = (Vec::new(), Position(0));
    let page = 1 + dice.below(20) as usize;
    loop {
        let found = trace(kv, (CORRELATION, &Chosen::All), from, page, UnixMs(world.now)).unwrap();
        assert!(found.events.len() <= page, "{context}");
        traced.extend(found.events);
        let Some(next) = found.next else { break };
        from = next;
    }
    let events = |(name, topic): (&String, &Topic)| -> Vec<_> {
        (0..).zip(&topic.events).map(|(at, e)| (e.position, name.clone(), at)).collect()
    };
    let mut expected: Vec<_> = world.topics.iter().flat_map(events).collect();
    expected.sort_unstable();
    let actual: Vec<_> = traced
        .iter()
        .map(|t| (t.event.position.get(), t.topic.clone(), t.event.offset.get()))
        .collect();
    assert_eq!(actual, expected, "{context}");
    for Traced { topic, event, fates, more_fates } in &traced {
        let subs = world.subscriptions.iter().filter(|(_, s)| matches(&s.config.pattern, topic));
        let names: Vec<_> = subs.clone().map(|(name, _)| name.as_str()).collect();
        let told: Vec<_> = fates.iter().map(|fate| fate.name.as_str()).collect();
        assert_eq!((told, *more_fates), (names, false), "{context}");
        for (fate, (name, sub)) in fates.iter().zip(subs) {
            let context = format!("{context}, {topic} {} in {name}", event.offset);
            check_one(world, sub, &world.topics[topic], event.offset.get(), fate, &context);
        }
    }
}

fn check_one(
    world: &World,
    sub: &Subscription,
    topic: &Topic,
    offset: u64,
    fate: &Fate,
    context: &str,
) {
    let (story, event) = (sub.story(topic, offset), &topic.events[offset as usize]);
    match (&fate.standing, story.status) {
        (Standing::Leased(holder), Status::Leased) => {
            let has =
                |l: &&super::model::LeaseRow| l.topic == topic.id && l.events.contains(&offset);
            let lease = sub.leases.values().find(has).unwrap();
            assert_eq!(holder.consumer, lease.consumer, "{context}");
        }
        (Standing::Retrying(due), Status::Retry | Status::Ready) => {
            assert_eq!((due.get(), fate.failures), (story.due, story.failures), "{context}");
            assert_eq!(fate.redrives, story.redrives, "{context}");
        }
        (Standing::Dead(Death { number: None, reason, at }), Status::Dying) => {
            assert_eq!((Some(*reason), at.get()), (story.reason, story.due), "{context}");
            assert_eq!((fate.failures, fate.redrives), (story.failures, story.redrives));
        }
        (Standing::Filtered, Status::Free) => assert!(!passes(sub, event), "{context}"),
        (Standing::Pending, Status::Free) => {
            assert!(event.ready_at <= world.now && !event.cancelled, "{context}");
        }
        (Standing::Delayed(until), Status::Free) => {
            assert_eq!((until.get(), event.cancelled), (event.ready_at, false), "{context}");
            assert!(event.ready_at > world.now, "{context}");
        }
        (Standing::Cancelled, Status::Free) => assert!(event.cancelled, "{context}"),
        (_, Status::Done) => check_done(sub, topic, offset, fate, context),
        (told, is) => panic!("{context}: told {told:?}, is {is:?}"),
    }
}

/// A standing with failures, redrives, and attempts that are told.
type Told = (Standing, u32, u32, u64);

/// What is told of an event that is done is how it came to that, with what led to it.
fn check_done(sub: &Subscription, topic: &Topic, offset: u64, fate: &Fate, context: &str) {
    let (story, event) = (sub.story(topic, offset), &topic.events[offset as usize]);
    let of_letter = |l: &Letter| -> Told {
        let (number, at) = (Some(DeadNumber(l.number)), UnixMs(l.died_at));
        let dead = Standing::Dead(Death { number, reason: l.reason, at });
        (dead, l.failures, l.redrives, l.told.min(KEPT))
    };
    let kept = if story.swept { 0 } else { story.told.min(KEPT) };
    let with_story = |standing: Standing, kept: u64| -> Told {
        (standing, story.failures, story.redrives, kept)
    };
    // Where nothing is noted: `before`, when it counts as from before the start.
    let unnoted = |before: bool| -> Told {
        let of_event = |d: &&Letter| (d.topic_id, d.offset) == (topic.id, offset);
        let letter = sub.dead.iter().rev().find(of_event);
        if let Some(letter) = letter.filter(|l| before || l.number > sub.dead_before_seek) {
            return of_letter(letter);
        }
        let standing = match before {
            _ if event.cancelled => Standing::Cancelled,
            _ if !passes(sub, event) => Standing::Filtered,
            true => Standing::Before,
            false => Standing::Acked,
        };
        (standing, 0, 0, 0)
    };
    let led = story.failures > 0 || story.redrives > 0;
    let mut expected = match story.end {
        Some((End::Acked, _)) if led && !story.swept => with_story(Standing::Acked, kept),
        Some((End::Filtered, _)) if led => with_story(Standing::Filtered, kept),
        Some((End::Dead(reason, number), at)) => {
            let own = sub.dead.iter().find(|letter| Some(letter.number) == number);
            let dead = Standing::Dead(Death { number: None, reason, at: UnixMs(at) });
            let kept = if number.is_some() { 0 } else { kept };
            own.map_or_else(|| with_story(dead, kept), of_letter)
        }
        Some((End::Acked | End::Filtered | End::Cancelled, _)) => unnoted(false),
        None => unnoted(true),
    };
    let told = (fate.standing.clone(), fate.failures, fate.redrives, fate.attempts.len() as u64);
    // After a seek to an offset, it does not show whether it was delivered since.
    let unclear = event.position < sub.start && expected == unnoted(false);
    if unclear && told == unnoted(true) {
        expected = unnoted(true);
    }
    assert_eq!(told, expected, "{context}: {story:?}");
}

#[test]
fn a_page_is_cut_by_what_its_fates_take() {
    const EVENTS: u64 = 40;
    let mut hub = Hub::plain();
    for name in ["u", "v"] {
        hub.apply(create(name, SubscriptionConfig::defaults("t"), ""));
    }
    let event = TestEvent { correlation_id: CORRELATION.into(), ..plain(1).remove(0) };
    hub.publish(&vec![event; EVENTS as usize]);
    let attempt = Attempt { detail: "x".repeat(4 << 10), ..Attempt::default() };
    let story = FailureRecord { attempts: vec![attempt; 4], ..FailureRecord::default() };
    let row = encode_message(record::Kind::Failure, &story);
    for (subscription, offset) in (1..=3).flat_map(|sub| (0..EVENTS).map(move |at| (sub, at))) {
        let key = failures::row_key(SubscriptionId(subscription), TopicId(1), Offset(offset));
        hub.kv.write(vec![Write::Put(Table::Failures, key, row.clone())]);
    }
    let (mut offsets, mut from, mut pages) = (Vec::new(), Position(0), 0);
    loop {
        let page =
            trace(&hub.kv, (CORRELATION, &Chosen::All), from, 1000, UnixMs(hub.now_ms)).unwrap();
        let bytes: usize = page.events.iter().map(Traced::bytes).sum();
        assert!(bytes <= PAGE_BYTES_TARGET && !page.events.is_empty(), "{bytes} bytes");
        assert!(page.events.iter().all(|traced| traced.fates.len() == 3));
        offsets.extend(page.events.iter().map(|traced| traced.event.offset.get()));
        pages += 1;
        let Some(next) = page.next else { break };
        from = next;
    }
    assert_eq!((offsets, pages), ((0..EVENTS).collect(), 2));
}

/// A hub with events of a correlation id, all of which a consumer has.
fn with_leased(config: SubscriptionConfig, events: usize) -> (Hub, Vec<LeaseId>) {
    let mut hub = Hub::new(config);
    hub.publish(&vec![event(|e| e.correlation_id = CORRELATION.into()); events]);
    let leases = (0..events as u64).map(|at| hub.lease(&[(at, 1)]).remove(0).lease_id).collect();
    (hub, leases)
}

fn fate_of(hub: &Hub, offset: usize) -> Fate {
    let page =
        trace(&hub.kv, (CORRELATION, &Chosen::All), Position(0), 1000, UnixMs(hub.now_ms)).unwrap();
    page.events[offset].fates[0].clone()
}

fn tick(hub: &mut Hub) {
    assert!(matches!(hub.apply(Kind::Tick(Tick {})), Outcome::Ticked(ticked) if !ticked.more));
}

fn reject() -> Action {
    Action::Reject(Reject { reason: "BAD".into(), detail: "no total".into() })
}

fn dead(number: Option<u64>, at: u64) -> Standing {
    let (number, at) = (number.map(DeadNumber), UnixMs(at));
    Standing::Dead(Death { number, reason: DeadReason::Rejected, at })
}

#[test]
fn what_died_stays_dead_in_traces_without_its_letter_until_it_is_delivered_anew() {
    let mut config = SubscriptionConfig::defaults("t");
    (config.dead_letters.retention_ms, config.dead_letters.trip_disabled) = (60_000, true);
    let (mut hub, leases) = with_leased(config, 3);
    let died = hub.now_ms;
    for lease in leases {
        assert_eq!(hub.settle(lease, reject()), None);
    }
    assert_eq!(fate_of(&hub, 0).standing, dead(Some(1), died));
    let purge = PurgeDead { subscription: "s".into(), numbers: vec![1], up_to: 0 };
    hub.apply(Kind::PurgeDead(purge));
    hub.now_ms += 60_000;
    tick(&mut hub);
    assert_eq!((hub.dead().len(), hub.kv.rows(Table::Endings)), (0, 3));
    for offset in 0..3 {
        let fate = fate_of(&hub, offset);
        assert_eq!((&fate.standing, fate.failures), (&dead(None, died), 1), "{offset}");
        assert!(fate.attempts.is_empty(), "it was not to be kept any longer");
    }
    // Nothing of that is left once it is delivered again.
    let to = At::Start(true).into();
    let seek = SeekSubscription { name: "s".into(), to, request_id: String::new() };
    hub.apply(Kind::SeekSubscription(seek));
    assert_eq!((fate_of(&hub, 1).standing, hub.kv.rows(Table::Endings)), (Standing::Pending, 0));
    let lease = hub.lease(&[(1, 1)]).remove(0).lease_id;
    assert_eq!(hub.settle(lease, Action::Ack(Ack {})), None);
    assert_eq!((fate_of(&hub, 1).standing, fate_of(&hub, 1).failures), (Standing::Acked, 0));
}

#[test]
fn a_letter_from_before_a_seek_tells_nothing_of_what_became_of_its_event_since() {
    let (mut hub, leases) = with_leased(SubscriptionConfig::defaults("t"), 1);
    assert_eq!(hub.settle(leases[0], reject()), None);
    let to = At::Start(true).into();
    let seek = SeekSubscription { name: "s".into(), to, request_id: String::new() };
    hub.apply(Kind::SeekSubscription(seek));
    let lease = hub.lease(&[(0, 1)]).remove(0).lease_id;
    assert_eq!(hub.settle(lease, Action::Ack(Ack {})), None);
    assert_eq!((fate_of(&hub, 0).standing, hub.dead().len()), (Standing::Acked, 1));
    hub.apply(Kind::PurgeDead(PurgeDead { subscription: "s".into(), numbers: vec![1], up_to: 0 }));
    assert_eq!((fate_of(&hub, 0).standing, hub.dead().len()), (Standing::Acked, 0));
}

#[test]
fn what_led_to_an_end_is_told_for_its_time_and_goes_with_its_topic() {
    let mut config = SubscriptionConfig::defaults("t");
    config.dead_letters.disabled = true;
    let (mut hub, leases) = with_leased(config, 3);
    let ended = hub.now_ms;
    assert_eq!(hub.settle(leases[0], reject()), None);
    assert_eq!(hub.settle(leases[1], nack_at_once()), None);
    assert_eq!(hub.settle(leases[2], Action::Ack(Ack {})), None);
    tick(&mut hub);
    let lease = hub.lease(&[(1, 1)]).remove(0).lease_id;
    assert_eq!(hub.settle(lease, Action::Ack(Ack {})), None);
    let told = |hub: &Hub| -> Vec<_> {
        let told = |at| {
            let fate = fate_of(hub, at);
            (fate.standing, fate.failures, fate.attempts.len())
        };
        (0..3).map(told).collect()
    };
    let plain = (Standing::Acked, 0, 0);
    let all = [(dead(None, ended), 1, 1), (Standing::Acked, 1, 1), plain.clone()];
    assert_eq!(told(&hub), all);
    // What never failed has no row.
    assert_eq!((hub.kv.rows(Table::Endings), hub.kv.rows(Table::Timers)), (2, 2));
    hub.now_ms += ENDINGS_KEPT_MS - 1;
    tick(&mut hub);
    assert_eq!(told(&hub), all);
    hub.now_ms += 1;
    tick(&mut hub);
    assert_eq!(told(&hub), [(dead(None, ended), 1, 0), plain.clone(), plain]);
    assert_eq!((hub.kv.rows(Table::Endings), hub.kv.rows(Table::Timers)), (1, 0));
    hub.apply(Kind::DeleteTopic(DeleteTopic { name: "t".into(), ..DeleteTopic::default() }));
    assert_eq!(hub.kv.rows(Table::Endings), 0);
}

#[test]
fn a_topic_that_no_trace_tells_of_has_no_endings() {
    let mut config = SubscriptionConfig::defaults("t");
    config.dead_letters.disabled = true;
    let mut hub = Hub::new(config);
    hub.publish(&plain(2));
    let leases: Vec<_> = (0..2).map(|at| hub.lease(&[(at, 1)]).remove(0).lease_id).collect();
    assert_eq!(hub.settle(leases[0], reject()), None);
    assert_eq!(hub.settle(leases[1], nack_at_once()), None);
    tick(&mut hub);
    let lease = hub.lease(&[(1, 1)]).remove(0).lease_id;
    assert_eq!(hub.settle(lease, Action::Ack(Ack {})), None);
    assert_eq!((hub.kv.rows(Table::Endings), hub.kv.rows(Table::Timers)), (0, 0));
}

#[test]
fn a_page_holds_no_more_than_its_events() {
    const LARGE: usize = 100_000;
    let mut hub = Hub::plain();
    for _ in 0..3 {
        let first = event(|e| e.correlation_id = CORRELATION.into());
        hub.publish(&[first, event(|e| e.id = "x".repeat(LARGE))]);
    }
    let page =
        trace(&hub.kv, (CORRELATION, &Chosen::All), Position(0), 1000, UnixMs(hub.now_ms)).unwrap();
    assert_eq!(page.events.len(), 3);
    for traced in page.events {
        let held = traced.event.event.try_into_mut().unwrap().capacity();
        assert!(held < LARGE, "{held} bytes");
    }
}

#[test]
fn a_trace_tells_of_the_subscriptions_that_are_asked_for() {
    let mut hub = Hub::plain();
    for n in 0..TRACE_FATES_MAX {
        hub.apply(create(&format!("a.{n:03}"), SubscriptionConfig::defaults("t"), ""));
    }
    hub.apply(create("z.last", SubscriptionConfig::defaults("t"), ""));
    hub.publish(&[event(|e| e.correlation_id = CORRELATION.into())]);
    let told = |chosen: &str| {
        let story = (CORRELATION, &Chosen::parse(chosen).unwrap());
        let page = trace(&hub.kv, story, Position(0), 10, UnixMs(hub.now_ms)).unwrap();
        let traced = page.events.into_iter().next().unwrap();
        let names: Vec<_> = traced.fates.into_iter().map(|fate| fate.name).collect();
        (names, traced.more_fates)
    };
    let (names, more) = told("");
    assert_eq!((names.len(), more), (TRACE_FATES_MAX, true));
    assert!(!names.contains(&"z.last".to_owned()));
    assert_eq!(told("z.last"), (vec!["z.last".to_owned()], false));
    assert_eq!(told("z.*"), (vec!["z.last".to_owned()], false));
    let (names, more) = told("a.*");
    assert_eq!((names.len(), more), (TRACE_FATES_MAX, false));
    assert_eq!(told("nobody"), (Vec::new(), false));
}
