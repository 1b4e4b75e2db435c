//! Searches one after the other, and what makes somebody search again.

use bytes::Bytes;
use prost::Message as _;

use super::cases::{Hub, event};
use super::random::{TestEvent, Timestamp};
use crate::machine::apply::Machine;
use crate::machine::schedule::candidates::{Candidates, candidates_within};
use crate::machine::schedule::cursor::Cursor;
use crate::machine::subscription::query::subscription;
use crate::model::command::delivery::{Ack, Action, Nack};
use crate::model::command::{CommandBatch, Kind, Lease, Tick};
use crate::model::delivery::{DeadReason, Pick};
use crate::model::filter::{Comparison, Filter, Test};
use crate::model::ids::{LogIndex, Offset, UnixMs};
use crate::model::limits::{CANDIDATE_ROWS_MAX, MARKS_OFFSETS};
use crate::model::outcome::{Effect, Outcome};
use crate::model::ranges::Ranges;
use crate::model::subscription::{DeliveryOrder, PriorityMode, SubscriptionConfig};

fn by_key() -> SubscriptionConfig {
    let order = DeliveryOrder::ByKey as i32;
    SubscriptionConfig { order, ..SubscriptionConfig::defaults("t") }
}

fn keyed(change: impl FnOnce(&mut TestEvent)) -> TestEvent {
    event(|e| {
        e.key = "k".into();
        change(e);
    })
}

fn search(hub: &Hub, cursor: &mut Cursor, events: u64, rows: u64) -> Candidates {
    let now = UnixMs(hub.now_ms);
    candidates_within(&hub.kv, "s", now, cursor, events.into(), rows).unwrap().unwrap()
}

fn lease_of(hub: &Hub, picks: Vec<Pick>, skips: Vec<Pick>) -> Kind {
    let revision = subscription(&hub.kv, "s").unwrap().unwrap().revision;
    let (subscription, consumer, term) = ("s".into(), "c".into(), hub.term);
    Kind::Lease(Lease { subscription, revision, term, consumer, picks, skips, ..Lease::default() })
}

/// Leases one event of topic `t`.
fn lease_one(hub: &Hub, offset: u64) -> Kind {
    let ranges = Ranges::from_iter([Offset(offset)]);
    lease_of(hub, vec![Pick { topic: "t".into(), topic_id: 1, ranges, seen: None }], Vec::new())
}

/// Whether those who wait would hear of a command.
pub(super) fn wakes(hub: &Hub, kind: Kind) -> bool {
    let mut machine = Machine::load(&hub.kv).unwrap();
    let entry = CommandBatch { stamp_ms: hub.now_ms, commands: vec![kind.into()] };
    let entry = Bytes::from(entry.encode_to_vec());
    let applied = machine.apply(LogIndex(hub.entries + 1), &entry).unwrap();
    let id = subscription(&hub.kv, "s").unwrap().unwrap().id;
    applied.effects.contains(&Effect::Wake(id))
}

fn offsets(picks: &[Pick]) -> Vec<u64> {
    picks.iter().flat_map(|pick| pick.ranges.iter().map(Offset::get)).collect()
}

#[test]
fn fairness_keys_take_turns_though_something_is_always_left_over() {
    let mut config = SubscriptionConfig::defaults("t");
    (config.max_in_flight, config.max_in_flight_per_consumer) = (1000, 1000);
    let mut hub = Hub::new(config);
    let of = |flow: &str| vec![event(|e| e.flow = flow.to_owned()); 200];
    hub.publish(&of("f1"));
    hub.publish(&of("f2"));
    let (mut cursor, mut counts) = (Cursor::default(), [0, 0]);
    for _ in 0..6 {
        let places = cursor.places();
        let found = offsets(&search(&hub, &mut cursor, 27, CANDIDATE_ROWS_MAX).picks);
        assert_eq!(found.len(), 27);
        for offset in &found[..26] {
            counts[usize::from(*offset >= 200)] += 1;
            let leased = hub.lease(&[(*offset, 1)]);
            assert_eq!(leased.len(), 1);
        }
        cursor.go_back(places, true);
        let again = offsets(&search(&hub, &mut Cursor::default(), 999, CANDIDATE_ROWS_MAX).picks);
        assert!(again.contains(&found[26]), "what was left over is there");
    }
    assert!(counts.iter().all(|count| *count >= 52), "{counts:?}");
}

#[test]
fn an_event_that_waits_behind_many_filtered_ones_of_its_key_costs_no_search_more_than_others() {
    let comparison = Comparison { attribute: "type".into(), value: "a".into() };
    let filter = Some(Filter { test: Some(Test::Exact(comparison)) });
    let priority_mode = PriorityMode::Strict as i32;
    let mut hub = Hub::new(SubscriptionConfig { filter, priority_mode, ..by_key() });
    hub.publish(&vec![keyed(|e| e.kind = "b".into()); 1000]);
    hub.publish(&[keyed(|e| e.priority = Some(9))]);
    let all = search(&hub, &mut Cursor::default(), 9, CANDIDATE_ROWS_MAX);
    assert_eq!(offsets(&all.picks), [1000]);
    assert_eq!(all.skips.len(), 1, "neighbours are skipped together");
    assert_eq!(offsets(&all.skips), (0..1000).collect::<Vec<_>>());
    let mut cursor = Cursor::default();
    let first = search(&hub, &mut cursor, 9, 100);
    assert_eq!((offsets(&first.picks).len(), first.more), (0, true));
    let mut searches = 0;
    loop {
        let found = search(&hub, &mut cursor, 9, 100);
        let planned = offsets(&found.picks);
        let lease = lease_of(&hub, found.picks, found.skips);
        hub.apply(lease);
        if planned == [1000] {
            break;
        }
        searches += 1;
        assert!(found.more && searches < 500, "after {searches} searches: {planned:?}");
    }
    assert_eq!(subscription(&hub.kv, "s").unwrap().unwrap().counters.delivered, 1);
}

#[test]
fn who_waits_hears_of_an_event_that_expires_where_it_is_leased() {
    let mut hub = Hub::new(by_key());
    let deadline = Some(Timestamp::of(12_000));
    hub.publish(&[keyed(|_| ()), keyed(|e| e.deadline = deadline), keyed(|_| ())]);
    let first = hub.lease(&[(0, 1)]).remove(0).lease_id;
    hub.now_ms = 12_000;
    // Before a tick comes to it.
    assert_eq!(hub.settle(first, Action::Ack(Ack {})), None);
    assert!(wakes(&hub, lease_one(&hub, 1)), "the third may go");
    hub.apply(lease_one(&hub, 1));
    assert_eq!(hub.dead(), [DeadReason::Expired]);
    assert!(!wakes(&hub, lease_one(&hub, 2)), "nothing else may go");
}

#[test]
fn who_waits_hears_of_a_failed_event_that_expires() {
    let mut hub = Hub::new(by_key());
    let deadline = Some(Timestamp::of(12_000));
    hub.publish(&[keyed(|e| e.deadline = deadline), keyed(|_| ())]);
    let first = hub.lease(&[(0, 1)]).remove(0).lease_id;
    let nack = Nack { retry_after_ms: Some(0), ..Nack::default() };
    assert_eq!(hub.settle(first, Action::Nack(nack)), None);
    hub.apply(Kind::Tick(Tick {}));
    assert!(!wakes(&hub, Kind::Tick(Tick {})));
    hub.now_ms = 12_000;
    assert!(wakes(&hub, Kind::Tick(Tick {})), "by its timer");
    assert!(wakes(&hub, lease_one(&hub, 0)), "where it is leased");
    let Outcome::Leased(leased) = hub.apply(lease_one(&hub, 0)) else { panic!("not leased") };
    assert_eq!((leased.grants.len(), leased.dead), (0, 1));
}

#[test]
fn what_was_settled_lets_the_next_of_its_key_go_before_those_further_ahead_and_holds_none_of_them_up()
 {
    // A search looks at whole rows of marks.
    const BEHIND: u64 = 5 * MARKS_OFFSETS;
    let mut hub = Hub::new(by_key());
    let of = |key: &str| keyed(|e| e.key = key.to_owned());
    let mut events = vec![of("a"), of("b")];
    events.resize(BEHIND as usize, of("a"));
    events.push(of("c"));
    hub.publish(&events);
    let mut cursor = Cursor::default();
    let look = |hub: &Hub, cursor: &mut Cursor| {
        let found = search(hub, cursor, MARKS_OFFSETS, 10);
        (offsets(&found.picks), found.more)
    };
    assert_eq!(look(&hub, &mut cursor), (vec![0, 1], true));
    let first = hub.lease(&[(0, 1)]).remove(0).lease_id;
    hub.lease(&[(1, 1)]);
    for _ in 0..3 {
        assert_eq!(look(&hub, &mut cursor), (vec![], true), "it goes on and on");
    }
    assert_eq!(hub.settle(first, Action::Ack(Ack {})), None);
    cursor.look_back();
    assert_eq!(look(&hub, &mut cursor).0, [2]);
    hub.lease(&[(2, 1)]);
    // However often there is something to look back for.
    let mut searches = 0;
    loop {
        cursor.look_back();
        let (found, more) = look(&hub, &mut cursor);
        if !found.is_empty() {
            break assert_eq!(found, [BEHIND]);
        }
        searches += 1;
        assert!(more && searches < 20, "{searches} searches");
    }
}
