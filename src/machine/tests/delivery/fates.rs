//! What a trace says of each event, against what the model knows of it.

use super::cases::{Hub, create, plain};
use super::model::{Status, Subscription, Topic, World};
use super::random::{CORRELATION, TestEvent};
use super::world::{matches, passes};
use crate::machine::delivery::failures::{self, FailureRecord};
use crate::machine::kv::{Table, Write};
use crate::machine::mem::MemKv;
use crate::machine::record::{Kind, encode_message};
use crate::machine::tests::random::Dice;
use crate::machine::tracking::query::{Traced, trace};
use crate::model::delivery::Attempt;
use crate::model::ids::{Offset, Position, SubscriptionId, TopicId, UnixMs};
use crate::model::limits::PAGE_BYTES_TARGET;
use crate::model::subscription::SubscriptionConfig;
use crate::model::trace::{Fate, Standing};

pub(super) fn check(world: &World, kv: &MemKv, dice: &mut Dice, context: &str) {
    let (mut traced, mut from) = (Vec::new(), Position(0));
    let page = 1 + dice.below(20) as usize;
    loop {
        let found = trace(kv, CORRELATION, from, page, UnixMs(world.now)).unwrap();
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
    let dead = sub.dead.iter().rev().find(|d| (d.topic_id, d.offset) == (topic.id, offset));
    match (&fate.standing, story.status) {
        (Standing::Leased(holder), Status::Leased) => {
            let has =
                |l: &&super::model::LeaseRow| l.topic == topic.id && l.events.contains(&offset);
            let lease = sub.leases.values().find(has).unwrap();
            assert_eq!(holder.consumer, lease.consumer, "{context}");
        }
        (Standing::Retrying(due), Status::Retry | Status::Ready | Status::Dying) => {
            assert_eq!((due.get(), fate.failures), (story.due, story.failures), "{context}");
            assert_eq!(fate.redrives, story.redrives, "{context}");
        }
        (Standing::Filtered, Status::Free | Status::Done) => {
            // A seek lets it wait again; that it died before stays on record.
            let waits = matches!(story.status, Status::Free);
            assert!(!passes(sub, event) && (waits || dead.is_none()), "{context}");
        }
        (Standing::Pending, Status::Free) => {
            assert!(event.ready_at <= world.now && !event.cancelled, "{context}");
        }
        (Standing::Delayed(until), Status::Free) => {
            assert_eq!((until.get(), event.cancelled), (event.ready_at, false), "{context}");
            assert!(event.ready_at > world.now, "{context}");
        }
        (Standing::Cancelled, Status::Free) => assert!(event.cancelled, "{context}"),
        (Standing::Dead(death), Status::Done) => {
            let letter = dead.unwrap();
            let told = (death.number.get(), death.reason, death.at.get());
            assert_eq!(told, (letter.number, letter.reason, letter.died_at), "{context}");
            assert_eq!(fate.failures, letter.failures, "{context}");
        }
        (Standing::Before, Status::Done) => {
            assert!(event.position < sub.start && dead.is_none(), "{context}");
        }
        (Standing::Acked, Status::Done) => {
            assert!(passes(sub, event) && dead.is_none(), "{context}");
        }
        (told, is) => panic!("{context}: told {told:?}, is {is:?}"),
    }
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
    let row = encode_message(Kind::Failure, &story);
    for (subscription, offset) in (1..=3).flat_map(|sub| (0..EVENTS).map(move |at| (sub, at))) {
        let key = failures::row_key(SubscriptionId(subscription), TopicId(1), Offset(offset));
        hub.kv.write(vec![Write::Put(Table::Failures, key, row.clone())]);
    }
    let (mut offsets, mut from, mut pages) = (Vec::new(), Position(0), 0);
    loop {
        let page = trace(&hub.kv, CORRELATION, from, 1000, UnixMs(hub.now_ms)).unwrap();
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
