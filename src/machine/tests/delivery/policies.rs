//! Single cases of what holds over many events: shares, settings that change, the work that it takes.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;

use super::cases::{Hub, create, event, plain};
use super::random::{TestEvent, Timestamp, create_topic, publish_of};
use super::sweeps::Counting;
use crate::machine::apply::Machine;
use crate::machine::delivery::query as delivery;
use crate::machine::kv::{Table, Write};
use crate::machine::schedule::candidates::{Candidates, candidates, candidates_within};
use crate::machine::schedule::cursor::Cursor;
use crate::machine::subscription::backlog;
use crate::machine::subscription::query::subscription;
use crate::machine::subscription::stats::stats;
use crate::model::command::delivery::{Ack, Action, Extend, Nack, Reject, Release, SettleItem};
use crate::model::command::{
    CancelEvent, CancelRetry, CommandBatch, DeleteTopic, Housekeep, Kind, Lease, Publish, Redrive,
    Settle, Tick, UpdateSubscription,
};
use crate::model::delivery::{DeadReason, Granted};
use crate::model::filter::{Comparison, Filter, Test};
use crate::model::ids::{DeadNumber, LeaseId, LogIndex, Offset, UnixMs};
use crate::model::limits::EARLY_DEAD_MAX;
use crate::model::outcome::Outcome;
use crate::model::rejection::Reason;
use crate::model::subscription::{
    DeadLetterPatch, DeliveryOrder, PriorityMode, SubscriptionConfig, SubscriptionPatch,
};

fn look(hub: &Hub, cursor: &mut Cursor, events: u64) -> Candidates {
    candidates(&hub.kv, "s", UnixMs(hub.now_ms), cursor, events).unwrap().unwrap()
}

/// The offsets that a new search finds, and those that it skips.
pub(super) fn found(hub: &Hub) -> (Vec<u64>, Vec<u64>) {
    let found = look(hub, &mut Cursor::default(), 99);
    let [picks, skips] = [found.picks, found.skips]
        .map(|picks| picks.iter().flat_map(|pick| pick.ranges.iter().map(Offset::get)).collect());
    (picks, skips)
}

/// Leases what a new search finds.
pub(super) fn take(hub: &mut Hub, service: &str) -> Vec<Granted> {
    let found = look(hub, &mut Cursor::default(), 99);
    let lease = Lease {
        subscription: "s".into(),
        revision: found.revision,
        term: hub.term,
        consumer: "c".into(),
        service: service.into(),
        picks: found.picks,
        skips: found.skips,
        ..Lease::default()
    };
    match hub.apply(Kind::Lease(lease)) {
        Outcome::Leased(leased) => leased.grants,
        other => panic!("{other:?}"),
    }
}

pub(super) fn update(hub: &mut Hub, patch: SubscriptionPatch) {
    let name = "s".to_owned();
    let updated = UpdateSubscription { name, patch, ..UpdateSubscription::default() };
    let outcome = hub.apply(Kind::UpdateSubscription(updated));
    assert!(matches!(outcome, Outcome::Subscription(_)), "{outcome:?}");
}

pub(super) fn nack_at_once() -> Action {
    Action::Nack(Nack { retry_after_ms: Some(0), ..Nack::default() })
}

fn only_a() -> Option<Filter> {
    let comparison = Comparison { attribute: "type".into(), value: "a".into() };
    Some(Filter { test: Some(Test::Exact(comparison)) })
}

pub(super) fn by_key(filter: Option<Filter>) -> Hub {
    let order = DeliveryOrder::ByKey as i32;
    Hub::new(SubscriptionConfig { order, filter, ..SubscriptionConfig::defaults("t") })
}

#[test]
fn weights_hold_however_little_each_search_asks_for() {
    for most in [1, 7, 25] {
        let mut config = SubscriptionConfig::defaults("t");
        config.fairness_weights = BTreeMap::from([("big".to_owned(), 3000)]);
        (config.max_in_flight, config.max_in_flight_per_consumer) = (1000, 1000);
        let mut hub = Hub::new(config);
        let of = |flow: &str, count| vec![event(|e| e.flow = flow.to_owned()); count];
        hub.publish(&of("noisy", 300));
        hub.publish(&of("big", 300));
        let (mut cursor, mut counts, mut left) = (Cursor::default(), [0, 0], 256);
        while left > 0 {
            let picks = look(&hub, &mut cursor, most.min(left)).picks;
            let ranges: Vec<_> = picks.iter().flat_map(|p| p.ranges.as_slice().to_vec()).collect();
            assert!(!ranges.is_empty());
            for range in ranges {
                assert!(!hub.lease(&[(range.first, range.count)]).is_empty());
                counts[usize::from(range.first >= 300)] += range.count;
                left -= range.count;
            }
        }
        assert_eq!(counts, [64, 192], "{most} at a time");
    }
}

#[test]
fn deadlines_of_what_is_done_cost_little() {
    let mut hub = Hub::plain();
    let deadline = Some(Timestamp::of(60_000));
    hub.publish(&vec![event(|e| e.deadline = deadline); 50]);
    for n in 0..30 {
        hub.apply(create(&format!("other-{n}"), SubscriptionConfig::defaults("other"), ""));
    }
    let lease = hub.lease(&[(0, 50)]).remove(0).lease_id;
    assert_eq!(hub.settle(lease, Action::Ack(Ack {})), None);
    let counting = Counting::new(&hub.kv, Table::Subscriptions);
    let mut machine = Machine::load(&counting).unwrap();
    let entry = CommandBatch { stamp_ms: 60_000, commands: vec![Kind::Tick(Tick {}).into()] };
    let entry = Bytes::from(entry.encode_to_vec());
    let outcomes = machine.apply(LogIndex(hub.entries + 1), &entry).unwrap().outcomes;
    let Outcome::Ticked(ticked) = &outcomes[0] else { panic!("{outcomes:?}") };
    assert_eq!((ticked.timers, ticked.more), (50, false));
    assert_eq!(counting.rows.get(), 31, "each subscription is looked at once");
    let state = |write: &Write| matches!(write, Write::Put(Table::SubscriptionStates, ..));
    assert!(!machine.into_writes().iter().any(state), "nothing changed");
}

#[test]
fn a_renewed_lease_holds_no_event_beyond_its_deadline() {
    let mut hub = Hub::plain();
    let deadline = Some(Timestamp::of(50_000));
    hub.publish(&[event(|_| ()), event(|e| e.deadline = deadline), event(|_| ())]);
    let grants = hub.lease(&[(0, 3)]);
    assert_eq!(grants.len(), 1, "the deadline is further away than the lease lasts");
    let lease = grants[0].lease_id;
    hub.now_ms = 35_000;
    assert_eq!(hub.settle(lease, Action::Extend(Extend { lease_ms: 30_000 })), None);
    hub.now_ms = 49_999;
    hub.apply(Kind::Tick(Tick {}));
    assert!(hub.dead().is_empty());
    hub.now_ms = 50_000;
    hub.apply(Kind::Tick(Tick {}));
    assert_eq!(hub.dead(), [DeadReason::DeadlineUnreachable]);
    let kept =
        delivery::leases(&hub.kv, subscription(&hub.kv, "s").unwrap().unwrap().id, LeaseId(0), 9);
    let kept: Vec<_> = kept.unwrap()[0].lease.events.iter().map(Offset::get).collect();
    assert_eq!(kept, [0, 2], "the others stay where they are");
    let released = hub.settle(lease, Action::Release(Release {}));
    assert_eq!(released, Some(Reason::LeaseExpired), "one of its events was not");
    assert_eq!(found(&hub), (vec![0, 2], vec![]));
    assert_eq!(hub.kv.rows(Table::Timers), 1, "that of the dead letter");
}

#[test]
fn what_nobody_will_get_does_not_hold_up_its_key() {
    let mut hub = by_key(only_a());
    let keyed = |kind: &str, delayed: bool| {
        event(|e| {
            (e.key, e.kind) = ("k".into(), kind.into());
            e.deliver_at = delayed.then(|| Timestamp::of(9_000_000));
        })
    };
    hub.publish(&[keyed("a", true), keyed("b", true), keyed("a", false), keyed("a", false)]);
    let mut cursor = Cursor::default();
    assert!(look(&hub, &mut cursor, 9).picks.is_empty(), "the first is delayed");
    let cancel = CancelEvent { topic: "t".into(), offset: 0, ..CancelEvent::default() };
    assert_eq!(hub.apply(Kind::CancelEvent(cancel)), Outcome::Done);
    assert_eq!(look(&hub, &mut cursor, 9).picks[0].ranges.iter().next(), Some(Offset(2)));
    let grants = take(&mut hub, "");
    assert_eq!(grants[0].ranges.iter().map(Offset::get).collect::<Vec<_>>(), [2]);
    assert_eq!(found(&hub), (vec![], vec![]), "the next waits for the one in flight");
    assert_eq!(subscription(&hub.kv, "s").unwrap().unwrap().counters.filtered, 2);
}

#[test]
fn nothing_is_skipped_before_it_is_its_keys_turn() {
    let mut hub = by_key(only_a());
    let keyed = |kind: &str| event(|e| (e.key, e.kind) = ("k".into(), kind.into()));
    hub.publish(&[keyed("a"), keyed("b"), keyed("b"), keyed("a")]);
    let first = take(&mut hub, "");
    assert_eq!(first[0].ranges.iter().map(Offset::get).collect::<Vec<_>>(), [0]);
    assert_eq!(found(&hub), (vec![], vec![]), "else the last would go beside the first");
    assert_eq!(hub.settle(first[0].lease_id, Action::Ack(Ack {})), None);
    assert_eq!(found(&hub), (vec![3], vec![1, 2]));
}

/// Events of one key, with deadlines or without.
fn of_one_key(deadlines: &[Option<u64>]) -> Vec<TestEvent> {
    let one = |deadline: &Option<u64>| {
        event(|e| (e.key, e.deadline) = ("k".into(), deadline.map(Timestamp::of)))
    };
    deadlines.iter().map(one).collect()
}

#[test]
fn an_event_that_expires_before_its_keys_turn_is_dead_at_once_and_lets_nobody_overtake() {
    let mut hub = by_key(None);
    hub.publish(&of_one_key(&[None, Some(12_000), Some(12_000), None]));
    let first = take(&mut hub, "").remove(0);
    hub.now_ms = 12_000;
    hub.apply(Kind::Tick(Tick {}));
    assert_eq!(hub.dead(), [DeadReason::Expired; 2]);
    assert_eq!(found(&hub), (vec![], vec![]), "the first is in flight");
    assert!(hub.lease(&[(3, 1)]).is_empty());
    let later = Nack { retry_after_ms: Some(1000), ..Nack::default() };
    assert_eq!(hub.settle(first.lease_id, Action::Nack(later)), None);
    assert_eq!(found(&hub), (vec![], vec![]), "the first waits to be tried again");
    assert!(hub.lease(&[(3, 1)]).is_empty());
    hub.now_ms = 13_000;
    hub.apply(Kind::Tick(Tick {}));
    let first = take(&mut hub, "").remove(0);
    assert_eq!((first.ranges.iter().next(), &first.attempts[..]), (Some(Offset(0)), &[2][..]));
    assert_eq!(hub.settle(first.lease_id, Action::Ack(Ack {})), None);
    assert_eq!(found(&hub).0, [3]);
    assert_eq!(hub.lease(&[(3, 1)]).len(), 1);
    assert_eq!(subscription(&hub.kv, "s").unwrap().unwrap().counters.dead, 2);
}

#[test]
fn of_many_that_expire_before_their_turn_some_are_buried_in_it() {
    let mut hub = by_key(None);
    let count = EARLY_DEAD_MAX + 2;
    let dated = vec![Some(12_000); count as usize];
    hub.publish(&of_one_key(&[vec![None], dated, vec![None]].concat()));
    let first = take(&mut hub, "").remove(0);
    hub.now_ms = 12_000;
    hub.apply(Kind::Tick(Tick {}));
    assert_eq!(hub.dead().len() as u64, EARLY_DEAD_MAX);
    assert_eq!(hub.settle(first.lease_id, Action::Ack(Ack {})), None);
    assert_eq!(found(&hub).0, [EARLY_DEAD_MAX + 1]);
    assert!(take(&mut hub, "").is_empty() && take(&mut hub, "").is_empty());
    assert_eq!(hub.dead().len() as u64, count);
    let last = take(&mut hub, "").remove(0);
    assert_eq!(last.ranges.iter().map(Offset::get).collect::<Vec<_>>(), [count + 1]);
    // Those that died before count no more, others may.
    hub.publish(&of_one_key(&[Some(14_000)]));
    hub.now_ms = 14_000;
    hub.apply(Kind::Tick(Tick {}));
    assert_eq!(hub.dead().len() as u64, count + 1);
}

#[test]
fn a_new_filter_judges_what_failed() {
    let mut hub = Hub::plain();
    hub.publish(&[event(|_| ()), event(|e| e.kind = "b".into())]);
    let lease = hub.lease(&[(0, 2)]).remove(0).lease_id;
    assert_eq!(hub.settle(lease, nack_at_once()), None);
    let filter = SubscriptionPatch {
        replace_filter: true,
        filter: only_a(),
        ..SubscriptionPatch::default()
    };
    update(&mut hub, filter);
    hub.apply(Kind::Tick(Tick {}));
    let grants = take(&mut hub, "");
    assert_eq!(grants[0].ranges.iter().map(Offset::get).collect::<Vec<_>>(), [0]);
    assert_eq!(hub.kv.rows(Table::Failures), 1);
    let info = subscription(&hub.kv, "s").unwrap().unwrap();
    assert_eq!((info.counters.filtered, info.counters.dead), (1, 0));
}

#[test]
fn a_redriven_event_keeps_its_story() {
    let mut hub = Hub::plain();
    hub.publish(&plain(1));
    let reject =
        |reason: &str| Action::Reject(Reject { reason: reason.into(), detail: String::new() });
    let lease = hub.lease(&[(0, 1)]).remove(0).lease_id;
    hub.settle(lease, reject("FIRST"));
    hub.apply(Kind::Redrive(Redrive { subscription: "s".into(), ..Redrive::default() }));
    let lease = hub.lease(&[(0, 1)]).remove(0);
    assert_eq!(lease.attempts, [1], "it begins anew");
    hub.settle(lease.lease_id, reject("SECOND"));
    let id = subscription(&hub.kv, "s").unwrap().unwrap().id;
    let letters = delivery::dead_letters(&hub.kv, id, DeadNumber(0), 9).unwrap();
    let letter = &letters[0].1;
    let told: Vec<_> = letter.attempts.iter().map(|a| (a.number, a.reason.as_str())).collect();
    assert_eq!(told, [(1, "FIRST"), (1, "SECOND")]);
    assert_eq!((letter.failures, letter.redrives), (1, 1));
}

#[test]
fn a_changed_retention_holds_for_the_dead_letters_that_are_kept() {
    let retention = |ms| SubscriptionPatch {
        dead_letters: Some(DeadLetterPatch {
            retention_ms: Some(ms),
            ..DeadLetterPatch::default()
        }),
        ..SubscriptionPatch::default()
    };
    for before in [0, 14 * 24 * 3_600_000] {
        let mut hub = Hub::plain();
        update(&mut hub, retention(before));
        hub.publish(&plain(4));
        for offset in 0..4 {
            let lease = hub.lease(&[(offset, 1)]).remove(0).lease_id;
            hub.settle(lease, Action::Reject(Reject::default()));
            hub.now_ms += 1000;
        }
        update(&mut hub, retention(10_000));
        // The oldest, which had the only timer, goes another way.
        hub.apply(Kind::Redrive(Redrive {
            subscription: "s".into(),
            numbers: vec![1],
            ..Redrive::default()
        }));
        hub.now_ms = 21_999;
        hub.apply(Kind::Tick(Tick {}));
        assert_eq!(hub.dead().len(), 2, "those of 12 and 13 s, kept {before} ms before");
        assert_eq!(delivery::next_due(&hub.kv).unwrap(), Some(UnixMs(22_000)));
        hub.now_ms = 23_000;
        hub.apply(Kind::Tick(Tick {}));
        assert!(hub.dead().is_empty());
    }
}

#[test]
fn what_a_person_ends_does_not_trip_a_subscription() {
    let mut hub = Hub::plain();
    hub.publish(&plain(30));
    let lease = hub.lease(&[(0, 30)]).remove(0).lease_id;
    hub.settle(lease, nack_at_once());
    let cancel = CancelRetry { subscription: "s".into(), topic_id: 1, ranges: Vec::new() };
    hub.apply(Kind::CancelRetry(cancel));
    assert_eq!(hub.dead().len(), 30);
    assert_eq!(subscription(&hub.kv, "s").unwrap().unwrap().pause, None);
    // The same end by a consumer does.
    hub.publish(&plain(30));
    let lease = hub.lease(&[(30, 30)]).remove(0).lease_id;
    hub.settle(lease, Action::Reject(Reject::default()));
    assert!(subscription(&hub.kv, "s").unwrap().unwrap().pause.is_some());
}

#[test]
fn only_dead_letters_that_are_kept_are_told_of() {
    for disabled in [false, true] {
        let mut config = SubscriptionConfig::defaults("t");
        config.dead_letters.disabled = disabled;
        let mut hub = Hub::new(config);
        hub.publish(&plain(1));
        let lease = hub.lease(&[(0, 1)]).remove(0).lease_id;
        hub.settle(lease, Action::Reject(Reject::default()));
        let feed = crate::machine::query::topic(&hub.kv, crate::machine::lifecycle::TOPIC);
        assert_eq!(feed.unwrap().is_some(), !disabled);
    }
}

#[test]
fn a_changed_priority_policy_holds_for_what_failed() {
    let strict = PriorityMode::Strict as i32;
    let config = SubscriptionConfig { priority_mode: strict, ..SubscriptionConfig::defaults("t") };
    let mode = |mode: PriorityMode| SubscriptionPatch {
        priority_mode: Some(mode as i32),
        ..SubscriptionPatch::default()
    };
    // Of the lowest priority, one that is ready before the change, and one after.
    let mut hub = Hub::new(config);
    hub.publish(&vec![event(|e| e.priority = Some(0)); 2]);
    let leases: Vec<_> = (0..2).map(|n| hub.lease(&[(n, 1)]).remove(0).lease_id).collect();
    hub.settle(leases[0], nack_at_once());
    let later = Nack { retry_after_ms: Some(1000), ..Nack::default() };
    hub.settle(leases[1], Action::Nack(later));
    hub.apply(Kind::Tick(Tick {}));
    hub.now_ms += 600_000;
    hub.publish(&plain(2));
    assert_eq!(found(&hub).0, [2, 3, 0], "strict: the lowest priority comes last");
    update(&mut hub, mode(PriorityMode::Rank));
    hub.apply(Kind::Tick(Tick {}));
    assert_eq!(found(&hub).0, [0, 1, 2, 3], "it has waited for longer than base_wait");
    update(&mut hub, mode(PriorityMode::Strict));
    assert_eq!(found(&hub).0, [2, 3, 0, 1]);
}

#[test]
fn the_load_of_a_service_that_went_away_is_forgotten() {
    let mut hub = Hub::plain();
    hub.publish(&plain(1));
    let first = take(&mut hub, "shop").remove(0).lease_id;
    hub.settle(first, nack_at_once());
    hub.apply(Kind::Tick(Tick {}));
    let again = take(&mut hub, "shop").remove(0);
    assert_eq!(again.attempts, [2]);
    hub.settle(again.lease_id, Action::Ack(Ack {}));
    hub.apply(Kind::Housekeep(Housekeep {}));
    assert_eq!(hub.kv.rows(Table::ConsumerLoads), 1, "the retry counts in this second");
    hub.now_ms += 1000;
    hub.apply(Kind::Housekeep(Housekeep {}));
    assert_eq!(hub.kv.rows(Table::ConsumerLoads), 0);
}

#[test]
fn an_event_that_fails_is_the_oldest_for_as_long_as_it_does() {
    let mut hub = Hub::plain();
    hub.publish(&plain(1));
    let lease = hub.lease(&[(0, 1)]).remove(0).lease_id;
    hub.settle(lease, nack_at_once());
    hub.now_ms += 5000;
    hub.publish(&plain(1));
    let lease = hub.lease(&[(1, 1)]).remove(0).lease_id;
    hub.settle(lease, Action::Ack(Ack {}));
    let told = stats(&hub.kv, "s", UnixMs(hub.now_ms)).unwrap().unwrap();
    assert_eq!((told.oldest, told.retrying), (Some(UnixMs(10_000)), 1));
}

#[test]
fn what_waits_is_counted_over_all_topics() {
    let mut hub = Hub::plain();
    for n in 0..300 {
        let name = format!("many.{n}");
        hub.apply(create_topic(&name));
        let publish: Publish = publish_of(&name, &plain(2));
        hub.apply(Kind::Publish(publish));
    }
    hub.apply(create("wide", SubscriptionConfig::defaults("many.*"), ""));
    let info = subscription(&hub.kv, "wide").unwrap().unwrap();
    assert_eq!(backlog::waiting(&hub.kv, &info).unwrap(), 600);
}

#[test]
fn retries_over_the_budget_are_come_to_once_in_a_second() {
    let mut config = SubscriptionConfig::defaults("t");
    (config.max_in_flight, config.max_in_flight_per_consumer) = (1000, 1000);
    (config.retry.budget_min_per_s, config.retry.budget_percent) = (1, 0);
    let mut hub = Hub::new(config);
    hub.publish(&plain(100));
    let lease = hub.lease(&[(0, 100)]).remove(0).lease_id;
    hub.settle(lease, nack_at_once());
    hub.apply(Kind::Tick(Tick {}));
    assert_eq!(hub.lease(&[(0, 1)]).remove(0).attempts, [2], "the budget of this second");
    hub.publish(&plain(3));
    let mut cursor = Cursor::default();
    let mut search = |hub: &Hub, rows: u64| {
        let now = UnixMs(hub.now_ms);
        let found = candidates_within(&hub.kv, "s", now, &mut cursor, 9.into(), rows);
        let found = found.unwrap().unwrap();
        let picks = found.picks.iter().flat_map(|p| p.ranges.iter().map(Offset::get));
        (picks.collect::<Vec<_>>(), found.wake_at)
    };
    let (window, fresh) = (Some(UnixMs(11_000)), vec![100, 101, 102]);
    assert_eq!(search(&hub, 1000), (fresh.clone(), window));
    assert_eq!(search(&hub, 20), (fresh, window), "few rows are enough now");
    // What is redriven is under no budget, and may come before.
    hub.publish(&[event(|e| e.priority = Some(9))]);
    let urgent = hub.lease(&[(103, 1)]).remove(0).lease_id;
    hub.settle(urgent, Action::Reject(Reject::default()));
    hub.apply(Kind::Redrive(Redrive { subscription: "s".into(), ..Redrive::default() }));
    assert_eq!(search(&hub, 1000).0, [103, 100, 101, 102]);
    hub.now_ms = 11_000;
    assert_eq!(search(&hub, 1000).0, [103, 1, 100, 101, 102], "the budget of the next second");
}

#[test]
fn deleting_a_topic_forgets_its_failed_events_and_no_others() {
    let mut hub = Hub::new(SubscriptionConfig::defaults(">"));
    hub.apply(create_topic("u"));
    hub.publish(&plain(2));
    hub.apply(Kind::Publish(publish_of("u", &plain(3))));
    let grants = take(&mut hub, "");
    assert_eq!(grants.len(), 2);
    for grant in grants {
        let item = SettleItem {
            lease_id: grant.lease_id.get(),
            term: hub.term,
            topic_id: grant.topic_id.get(),
            ranges: Vec::new(),
            action: Some(nack_at_once()),
        };
        let (subscription, consumer) = ("s".to_owned(), "c".to_owned());
        hub.apply(Kind::Settle(Settle { subscription, consumer, items: vec![item] }));
    }
    hub.apply(Kind::Tick(Tick {}));
    assert_eq!([Table::Ready, Table::Failures].map(|table| hub.kv.rows(table)), [5, 5]);
    hub.apply(Kind::DeleteTopic(DeleteTopic { name: "u".into(), request_id: String::new() }));
    assert_eq!([Table::Ready, Table::Failures].map(|table| hub.kv.rows(table)), [2, 2]);
    assert_eq!(found(&hub).0, [0, 1]);
}

#[test]
fn what_is_rejected_for_its_schema_dies_of_that() {
    let mut hub = Hub::plain();
    hub.publish(&plain(4));
    let reject =
        |reason: &str| Action::Reject(Reject { reason: reason.into(), detail: String::new() });
    // Who gives it back may get it again.
    let back = Action::Nack(Nack { reason: "SCHEMA_VIOLATED".into(), ..Nack::default() });
    let actions = [reject("SCHEMA_VIOLATED"), reject("EVENT_TOO_LARGE"), reject(""), back];
    for (offset, action) in (0..).zip(actions) {
        let lease = hub.lease(&[(offset, 1)]).remove(0).lease_id;
        assert_eq!(hub.settle(lease, action), None);
    }
    let rejected = DeadReason::Rejected;
    assert_eq!(hub.dead(), [DeadReason::SchemaInvalid, rejected, rejected]);
}
