//! Single cases of what goes on bit by bit, and of what it costs.

use std::cell::Cell;

use bytes::Bytes;
use prost::Message as _;

use super::cases::{Hub, create, event, plain};
use super::policies::{found, nack_at_once, take, update};
use super::random::{Timestamp, create_topic, publish_of};
use crate::machine::Fault;
use crate::machine::apply::Machine;
use crate::machine::delivery::query as delivery;
use crate::machine::kv::{Kv, Order, Table, Visit};
use crate::machine::mem::MemKv;
use crate::machine::subscription::backlog::{self, Walk, waiting_for_some};
use crate::machine::subscription::query::{subscription, subscriptions};
use crate::model::command::delivery::{Ack, Action, Extend, Reject, SettleItem};
use crate::model::command::{CommandBatch, DeleteSubscription, DeleteTopic, Kind, Settle, Tick};
use crate::model::delivery::{Granted, SubscriptionInfo, Ticked};
use crate::model::ids::LogIndex;
use crate::model::limits::{FAILURES_SWEPT_MAX, TICK_EVENTS_MAX};
use crate::model::outcome::Outcome;
use crate::model::subscription::{
    DeadLetterPatch, PriorityMode, SubscriptionConfig, SubscriptionPatch,
};

/// Counts the rows of a table that are visited, and the scans of it.
pub(super) struct Counting<'k> {
    kv: &'k MemKv,
    table: Table,
    pub(super) rows: Cell<u64>,
    scans: Cell<u64>,
}

impl<'k> Counting<'k> {
    pub(super) fn new(kv: &'k MemKv, table: Table) -> Self {
        Self { kv, table, rows: Cell::new(0), scans: Cell::new(0) }
    }
}

impl Kv for Counting<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        self.kv.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        order: Order,
        visit: &mut Visit<'_>,
    ) -> Result<(), Fault> {
        self.scans.set(self.scans.get() + u64::from(table == self.table));
        self.kv.scan(table, start, end, order, &mut |row, value| {
            self.rows.set(self.rows.get() + u64::from(table == self.table));
            visit(row, value)
        })
    }
}

pub(super) fn tick(hub: &mut Hub) -> Ticked {
    match hub.apply(Kind::Tick(Tick {})) {
        Outcome::Ticked(ticked) => ticked,
        other => panic!("{other:?}"),
    }
}

/// Ticks until nothing is due; how often.
pub(super) fn tick_all(hub: &mut Hub) -> usize {
    (1..).find(|_| !tick(hub).more).unwrap()
}

/// A subscription with failed events of topic `t` that are ready, of the lowest priority.
fn with_ready(count: u64) -> Hub {
    let strict = PriorityMode::Strict as i32;
    let mut config =
        SubscriptionConfig { priority_mode: strict, ..SubscriptionConfig::defaults("t") };
    (config.max_in_flight, config.max_in_flight_per_consumer) = (100_000, 100_000);
    let mut hub = Hub::new(config);
    let mut left = count;
    while left > 0 {
        let (first, some) = (count - left, left.min(4000));
        hub.publish(&vec![event(|e| e.priority = Some(0)); some as usize]);
        let lease = hub.lease(&[(first, some)]).remove(0).lease_id;
        assert_eq!(hub.settle(lease, nack_at_once()), None);
        left -= some;
    }
    tick_all(&mut hub);
    assert_eq!(hub.kv.rows(Table::Ready) as u64, count);
    hub
}

/// Of the failed events that are ready, how many have a tier other than 0.
fn in_tiers(hub: &Hub) -> usize {
    let id = subscription(&hub.kv, "s").unwrap().unwrap().id;
    let failed = delivery::retries(&hub.kv, id, Default::default(), usize::MAX).unwrap();
    failed.iter().filter(|(_, _, story)| story.place().tier > 0).count()
}

fn mode(mode: PriorityMode) -> SubscriptionPatch {
    SubscriptionPatch { priority_mode: Some(mode as i32), ..SubscriptionPatch::default() }
}

#[test]
fn a_changed_priority_policy_comes_to_all_failed_events_bit_by_bit() {
    let count = TICK_EVENTS_MAX + 1000;
    let mut hub = with_ready(count);
    let reordering = |hub: &Hub| subscription(&hub.kv, "s").unwrap().unwrap().reordering;
    assert_eq!((in_tiers(&hub) as u64, reordering(&hub)), (count, false));
    update(&mut hub, mode(PriorityMode::Rank));
    assert_eq!(in_tiers(&hub) as u64, count - FAILURES_SWEPT_MAX as u64);
    assert!(reordering(&hub));
    assert!(tick(&mut hub).more);
    assert!(in_tiers(&hub) > 0 && reordering(&hub), "one tick is not enough");
    assert_eq!(tick_all(&mut hub), 1);
    assert_eq!((in_tiers(&hub), reordering(&hub)), (0, false));
    let tables = [Table::Ready, Table::Timers].map(|table| hub.kv.rows(table) as u64);
    assert_eq!(tables, [count, 0]);
    // By rank what waited for long comes first, whatever its priority.
    hub.now_ms += 600_000;
    hub.publish(&plain(1));
    assert_eq!(found(&hub).0[..3], [0, 1, 2]);
}

#[test]
fn a_policy_that_changes_back_meanwhile_holds_for_all() {
    let mut hub = with_ready(10);
    update(&mut hub, mode(PriorityMode::Rank));
    update(&mut hub, mode(PriorityMode::Strict));
    assert_eq!(in_tiers(&hub), 10);
    update(&mut hub, mode(PriorityMode::Rank));
    tick_all(&mut hub);
    assert_eq!(in_tiers(&hub), 0);
}

/// How many timers the next tick fires, and what it does to a table: rows visited and scans.
fn cost_of_tick(hub: &Hub, table: Table) -> (u64, u64, u64) {
    let counting = Counting::new(&hub.kv, table);
    let mut machine = Machine::load(&counting).unwrap();
    let entry = CommandBatch { stamp_ms: hub.now_ms, commands: vec![Kind::Tick(Tick {}).into()] };
    let entry = Bytes::from(entry.encode_to_vec());
    let outcomes = machine.apply(LogIndex(hub.entries + 1), &entry).unwrap().outcomes;
    let Outcome::Ticked(ticked) = &outcomes[0] else { panic!("{outcomes:?}") };
    (ticked.timers, counting.rows.get(), counting.scans.get())
}

#[test]
fn timers_of_dead_letters_that_are_gone_look_for_no_others() {
    let retention = |ms| SubscriptionPatch {
        dead_letters: Some(DeadLetterPatch {
            retention_ms: Some(ms),
            ..DeadLetterPatch::default()
        }),
        ..SubscriptionPatch::default()
    };
    for changed in [false, true] {
        let mut config = SubscriptionConfig::defaults("t");
        config.dead_letters.trip_disabled = true;
        let mut hub = Hub::new(config);
        update(&mut hub, retention(if changed { 100_000 } else { 10_000 }));
        hub.publish(&plain(51));
        for (first, count) in [(0, 50), (50, 1)] {
            let lease = hub.lease(&[(first, count)]).remove(0).lease_id;
            assert_eq!(hub.settle(lease, Action::Reject(Reject::default())), None);
            hub.now_ms += 5000;
        }
        update(&mut hub, retention(10_000));
        let (timers, rows, scans) = cost_of_tick(&hub, Table::DeadLetters);
        assert_eq!(timers, if changed { 1 } else { 50 });
        // Each of those that go finds the next; the overlay passes over what this tick removed.
        assert_eq!((rows, scans), (50, 50), "changed: {changed}");
        tick_all(&mut hub);
        assert_eq!(hub.dead().len(), 1);
        hub.now_ms += 5000;
        tick_all(&mut hub);
        assert_eq!(hub.dead().len(), 0);
        // Timers by the retention of before find nothing, each by one look.
        assert_eq!(hub.kv.rows(Table::Timers), if changed { 51 } else { 0 });
        hub.now_ms += 100_000;
        assert_eq!(cost_of_tick(&hub, Table::DeadLetters), (if changed { 51 } else { 0 }, 0, 0));
        tick_all(&mut hub);
        assert_eq!(hub.kv.rows(Table::Timers), 0);
    }
}

#[test]
fn the_failed_events_of_a_deleted_topic_go_bit_by_bit_and_are_nowhere_meanwhile() {
    let count = TICK_EVENTS_MAX + 1000;
    let mut hub = with_ready(count);
    hub.apply(Kind::DeleteTopic(DeleteTopic { name: "t".into(), ..DeleteTopic::default() }));
    let stored = |hub: &Hub| [Table::Failures, Table::Ready].map(|t| hub.kv.rows(t) as u64);
    assert_eq!(stored(&hub), [count - FAILURES_SWEPT_MAX as u64; 2]);
    let gone = |hub: &Hub| {
        let info = subscription(&hub.kv, "s").unwrap().unwrap();
        assert_eq!(backlog::waiting(&hub.kv, &info).unwrap(), 0);
        let retries = delivery::retries(&hub.kv, info.id, Default::default(), 9).unwrap();
        assert_eq!((retries.len(), found(hub)), (0, (vec![], vec![])));
    };
    gone(&hub);
    // A topic of the same name has nothing to do with it.
    hub.apply(create_topic("t"));
    gone(&hub);
    assert!(tick(&mut hub).more);
    let left = stored(&hub);
    assert!(left[0] > 0 && left[0] == left[1], "one tick is not enough: {left:?}");
    gone(&hub);
    assert_eq!(tick_all(&mut hub), 1);
    assert_eq!(stored(&hub), [0, 0]);
    assert_eq!(hub.kv.rows(Table::Timers), 0);
}

#[test]
fn deadlines_in_many_topics_look_at_the_leases_of_a_subscription_once() {
    let mut hub = Hub::new(SubscriptionConfig::defaults(">"));
    let deadline = Some(Timestamp::of(50_000));
    for n in 0..20 {
        let name = format!("d{n:02}");
        hub.apply(create_topic(&name));
        hub.apply(Kind::Publish(publish_of(&name, &[event(|e| e.deadline = deadline.clone())])));
    }
    let grants = take(&mut hub, "");
    assert_eq!(grants.len(), 20, "the deadline is further away than the leases last");
    hub.now_ms = 35_000;
    let extend = |grant: &Granted| SettleItem {
        lease_id: grant.lease_id.get(),
        term: hub.term,
        topic_id: grant.topic_id.get(),
        ranges: Vec::new(),
        action: Some(Action::Extend(Extend { lease_ms: 30_000 })),
    };
    let items = grants.iter().map(extend).collect();
    let (subscription, consumer) = ("s".to_owned(), "c".to_owned());
    hub.apply(Kind::Settle(Settle { subscription, consumer, items }));
    hub.now_ms = 50_000;
    assert_eq!(cost_of_tick(&hub, Table::Leases), (20, 20, 1));
    tick_all(&mut hub);
    assert_eq!((hub.dead().len(), hub.kv.rows(Table::Leases)), (20, 0));
}

#[test]
fn what_waits_for_all_subscriptions_is_counted_in_steps_and_comes_to_the_same() {
    let mut hub = Hub::plain();
    hub.publish(&plain(5));
    let lease = hub.lease(&[(1, 1)]).remove(0).lease_id;
    assert_eq!(hub.settle(lease, Action::Ack(Ack {})), None);
    for n in 0..30 {
        let name = format!("many.{n:02}");
        hub.apply(create_topic(&name));
        hub.apply(Kind::Publish(publish_of(&name, &plain(1 + n % 3))));
    }
    for (name, pattern) in [("all", ">"), ("many", "many.*"), ("none", "x.*"), ("one", "many.07")] {
        hub.apply(create(name, SubscriptionConfig::defaults(pattern), ""));
    }
    let each = subscriptions(&hub.kv, "", 99).unwrap();
    let one =
        |info: &SubscriptionInfo| (info.name.clone(), backlog::waiting(&hub.kv, info).unwrap());
    let expected: Vec<_> = each.iter().map(one).collect();
    let counts: Vec<_> = expected.iter().map(|(_, count)| *count).collect();
    assert_eq!(counts[1..], [60, 0, 2, 4]);
    let step = |kv: &MemKv, from: &Walk, rows: usize| {
        let counting = Counting::new(kv, Table::Marks);
        let step = waiting_for_some(&counting, from, rows).unwrap();
        assert!(counting.scans.get() <= rows as u64, "each topic is a row at least");
        step
    };
    for (rows, reads) in [(1, 60..999), (7, 10..60), (4096, 1..2)] {
        let (mut walk, mut all, mut steps) = (Some(Walk::default()), Vec::new(), 0);
        while let Some(from) = walk {
            let (found, next) = step(&hub.kv, &from, rows);
            all.extend(found);
            (walk, steps) = (next, steps + 1);
        }
        assert_eq!(all, expected, "{rows} rows");
        assert!(reads.contains(&steps), "{steps} steps of {rows} rows");
    }
    // One that is deleted in the middle is left out.
    let (found, walk) = step(&hub.kv, &Walk::default(), 3);
    assert!(found.is_empty());
    let name = "all".to_owned();
    hub.apply(Kind::DeleteSubscription(DeleteSubscription { name, request_id: String::new() }));
    assert_eq!(step(&hub.kv, &walk.unwrap(), 4096).0, expected[1..]);
}
