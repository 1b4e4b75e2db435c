//! Transactions: refused exactly when one of their parts would be, without a trace; else the same as their
//! parts one after the other.

use super::apply;
use super::delivery::cases::{Hub, create};
use super::random::{Dice, keyed_publish};
use crate::machine::mem::MemKv;
use crate::machine::query::{self, Bounds};
use crate::machine::subscription::query::subscription;
use crate::model::command::delivery::{Ack, Action, Nack, Reject, Release, SettleItem};
use crate::model::command::{
    CommandBatch, CreateTopic, Expectation, Kind, Lease, Publish, Settle, Transact,
};
use crate::model::delivery::{Granted, Pick};
use crate::model::expectation::Expect;
use crate::model::ids::{KeyVersion, Offset};
use crate::model::outcome::Outcome;
use crate::model::ranges::{OffsetRange, Ranges};
use crate::model::rejection::Reason;
use crate::model::subscription::SubscriptionConfig;
use crate::model::topic::TopicConfig;

const KEYS: [&str; 3] = ["a", "b", "c"];
const TOPICS: [&str; 3] = ["t", "u", "gone"];
const SUBSCRIPTIONS: [&str; 3] = ["s", "other", "missing"];

pub(super) fn hub() -> Hub {
    let mut hub = Hub::plain();
    let config = TopicConfig { dedup_window_ms: 60_000, ..TopicConfig::defaults() };
    let create_u = CreateTopic { name: "u".into(), config, request_id: String::new() };
    hub.apply(Kind::CreateTopic(create_u));
    hub.apply(create("other", SubscriptionConfig::defaults("u"), ""));
    hub
}

/// A lease that was granted: of which subscription.
pub(super) type Held = (&'static str, Granted);

pub(super) fn lease(hub: &mut Hub, dice: &mut Dice) -> Vec<Held> {
    let at = dice.below(2) as usize;
    let (name, topic) = (SUBSCRIPTIONS[at], TOPICS[at]);
    let first = dice.below(8);
    let ranges = Ranges::from_unsorted(&[OffsetRange { first, count: 1 + dice.below(4) }]);
    let outcome = hub.apply(Kind::Lease(Lease {
        subscription: name.into(),
        revision: subscription(&hub.kv, name).unwrap().unwrap().revision,
        term: hub.term,
        consumer: "c".into(),
        lease_ms: 1000 + dice.below(2) * 9000,
        picks: vec![Pick { topic: topic.into(), topic_id: at as u64 + 1, ranges, seen: None }],
        ..Lease::default()
    }));
    let Outcome::Leased(leased) = outcome else { panic!("{outcome:?}") };
    leased.grants.into_iter().map(|grant| (name, grant)).collect()
}

fn part(dice: &mut Dice, topic: &str) -> Publish {
    let events = dice.below(3) as usize;
    let mut part = keyed_publish(dice, topic, events, &KEYS);
    for key in &KEYS[..dice.below(3) as usize] {
        let expect = match dice.below(4) {
            0 => Expect::NoKey,
            1 => Expect::Exists,
            n => Expect::Exact(KeyVersion(n - 1 + dice.below(2))),
        };
        // Most hold.
        let expect = if dice.below(3) == 0 { expect } else { Expect::Any };
        part.expectations.push(Expectation::new((*key).to_owned(), expect));
    }
    part
}

fn item(dice: &mut Dice, grant: &Granted) -> SettleItem {
    let action = match dice.below(4) {
        0 => Action::Nack(Nack::default()),
        1 => Action::Reject(Reject::default()),
        2 => Action::Release(Release {}),
        _ => Action::Ack(Ack {}),
    };
    let first = grant.ranges.iter().next().map_or(0, Offset::get);
    let ranges = match dice.below(6) {
        0 => vec![OffsetRange { first, count: 1 }],
        1 => vec![OffsetRange { first, count: 40 }],
        _ => Vec::new(),
    };
    SettleItem {
        lease_id: grant.lease_id.get() + u64::from(dice.below(12) == 0),
        term: grant.term.get() + u64::from(dice.below(20) == 0),
        topic_id: grant.topic_id.get(),
        ranges,
        action: Some(action),
    }
}

pub(super) fn transact(dice: &mut Dice, held: &[Held]) -> Transact {
    let mut parts = Vec::new();
    for topic in TOPICS {
        let wanted = if topic == "gone" { dice.below(12) == 0 } else { dice.below(2) == 0 };
        if wanted {
            parts.push(part(dice, topic));
        }
    }
    let mut settles = Vec::new();
    for name in SUBSCRIPTIONS {
        let of_it: Vec<_> = held.iter().filter(|(of, _)| *of == name).collect();
        let mut items = Vec::new();
        for (_, grant) in of_it.iter().rev().take(dice.below(3) as usize) {
            items.push(item(dice, grant));
        }
        items.dedup_by_key(|item| item.lease_id);
        if !items.is_empty() || (name == "missing" && dice.below(15) == 0) {
            let (subscription, consumer) = (name.to_owned(), "c".to_owned());
            settles.push(Settle { subscription, consumer, items });
        }
    }
    Transact { parts, settles, request_id: String::new() }
}

pub(super) fn on(hub: &Hub, commands: Vec<Kind>) -> (MemKv, Vec<Outcome>) {
    let mut kv = hub.kv.clone();
    let commands = commands.into_iter().map(Into::into).collect();
    let entry = CommandBatch { stamp_ms: hub.now_ms, commands };
    let outcomes = apply(&mut kv, &[entry], hub.entries + 1).remove(0);
    (kv, outcomes)
}

/// Whether anything stands against it, asked piece by piece.
pub(super) fn is_refused(hub: &Hub, command: &Transact) -> bool {
    let expectation_fails = |part: &Publish| {
        let Some(info) = query::topic(&hub.kv, &part.topic).unwrap() else { return true };
        part.expectations.iter().any(|expectation| {
            let from = KeyVersion(u64::MAX);
            let order = crate::machine::kv::Order::Descending;
            let read = query::read_key(
                &hub.kv,
                &info,
                &expectation.key,
                from,
                order,
                Bounds { events: 1, bytes: usize::MAX },
            );
            !expectation.expect().holds(read.unwrap().1)
        })
    };
    let settle_fails = |settle: &Settle| {
        let missing = subscription(&hub.kv, &settle.subscription).unwrap().is_none();
        missing
            || settle.items.iter().any(|item| {
                let alone = Settle { items: vec![item.clone()], ..settle.clone() };
                let (_, outcomes) = on(hub, vec![Kind::Settle(alone)]);
                let Outcome::Settled(settled) = &outcomes[0] else { panic!("{outcomes:?}") };
                settled[0].refused.is_some()
            })
    };
    command.parts.iter().any(expectation_fails) || command.settles.iter().any(settle_fails)
}

fn check(hub: &Hub, command: &Transact, seed: u64) -> bool {
    let (kv, outcomes) = on(hub, vec![Kind::Transact(command.clone())]);
    if is_refused(hub, command) {
        assert!(matches!(outcomes[0], Outcome::Rejected(_)), "seed {seed}: {outcomes:?}");
        assert_eq!(kv, on(hub, Vec::new()).0, "seed {seed}: a refusal left a trace");
        return false;
    }
    let settles = command.settles.iter().cloned().map(Kind::Settle);
    let publishes = command.parts.iter().filter(|part| part.count > 0).cloned();
    let apart = publishes.map(Kind::Publish).chain(settles).collect();
    let (expected, each) = on(hub, apart);
    let Outcome::Transacted(parts) = &outcomes[0] else { panic!("seed {seed}: {outcomes:?}") };
    let published = each.iter().filter_map(|outcome| match outcome {
        Outcome::Published(published) => Some(published),
        _ => None,
    });
    let with_events = command.parts.iter().zip(parts).filter(|(part, _)| part.count > 0);
    assert!(published.eq(with_events.map(|(_, told)| told)), "seed {seed}");
    assert_eq!(kv, expected, "seed {seed}");
    true
}

#[test]
fn a_transaction_is_all_of_its_parts_or_nothing() {
    let (mut done, mut refused) = (0, 0);
    let count = super::sequences() / 10;
    for seed in super::first_seed()..super::first_seed() + count {
        let mut dice = Dice::new(seed);
        let mut hub = hub();
        let mut held = Vec::new();
        for _ in 0..4 + dice.below(10) {
            match dice.below(4) {
                0 => {
                    let topic = TOPICS[dice.below(2) as usize];
                    let events = 1 + dice.below(3) as usize;
                    hub.apply(Kind::Publish(keyed_publish(&mut dice, topic, events, &KEYS)));
                }
                1 => held.extend(lease(&mut hub, &mut dice)),
                2 => hub.now_ms += dice.below(1500),
                _ => {
                    let command = transact(&mut dice, &held);
                    if check(&hub, &command, seed) {
                        done += 1;
                    } else {
                        refused += 1;
                    }
                    hub.apply(Kind::Transact(command));
                }
            }
        }
    }
    // Both happen often enough to say something.
    assert!(done > count / 4 && refused > count / 4, "{done} done, {refused} refused");
}

#[test]
fn everything_that_fails_is_told_and_a_repetition_gets_the_first_answer() {
    let mut hub = hub();
    let mut dice = Dice::new(1);
    let expecting = |topic: &str, key: &str, expect| Publish {
        topic: topic.into(),
        expectations: vec![Expectation::new(key.into(), expect)],
        ..Publish::default()
    };
    let command = Transact {
        parts: vec![
            expecting("t", "a", Expect::Exists),
            expecting("u", "b", Expect::Exact(KeyVersion(3))),
            expecting("gone", "c", Expect::NoKey),
        ],
        settles: vec![Settle { subscription: "missing".into(), ..Settle::default() }],
        request_id: "r".into(),
    };
    let Outcome::Rejected(refused) = hub.apply(Kind::Transact(command)) else { panic!() };
    assert_eq!((refused.reason, refused.fact("failing")), (Reason::VersionConflict, Some("4")));
    // Those of a topic that is not there have their numbers, too.
    assert_eq!(refused.fact("failing_expectations"), Some("0-1"));
    for told in ["\"a\"", "\"b\"", "topic gone", "missing"] {
        assert!(refused.message.contains(told), "{}", refused.message);
    }
    let late = vec![expecting("gone", "c", Expect::NoKey), expecting("u", "b", Expect::Exists)];
    let late = Transact { parts: late, ..Transact::default() };
    let Outcome::Rejected(refused) = hub.apply(Kind::Transact(late)) else { panic!() };
    assert_eq!((refused.reason, refused.fact("failing")), (Reason::TopicNotFound, Some("2")));
    assert_eq!(refused.fact("failing_expectations"), Some("1"));
    // A refusal is not remembered: the same id may be used when things have changed.
    let parts = vec![
        keyed_publish(&mut dice, "t", 2, &KEYS),
        expecting("u", "b", Expect::NoKey),
        keyed_publish(&mut dice, "u", 1, &KEYS),
    ];
    let command = Transact { parts, settles: Vec::new(), request_id: "r".into() };
    let Outcome::Transacted(first) = hub.apply(Kind::Transact(command.clone())) else { panic!() };
    assert_eq!(first.iter().map(|part| part.count).collect::<Vec<_>>(), [2, 0, 1]);
    let before = hub.kv.clone();
    let Outcome::Transacted(again) = hub.apply(Kind::Transact(command)) else { panic!() };
    assert!(again[0].duplicate && again[2].duplicate && !again[1].duplicate);
    assert_eq!(again[0].first_offset, first[0].first_offset);
    assert_eq!(again[0].key_versions, first[0].key_versions);
    let topic = |kv: &MemKv| query::topic(kv, "t").unwrap().unwrap().next_offset;
    assert_eq!(topic(&before), topic(&hub.kv), "nothing is appended twice");
}
