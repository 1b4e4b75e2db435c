//! The bytes of delivery on disk, as they were when their version was new. They are read for ever.

use super::apply;
use super::delivery::random::{TestEvent, Timestamp, create_topic, publish_of};
use super::golden::{rows, stored};
use crate::machine::kv::Table;
use crate::machine::mem::MemKv;
use crate::machine::schedule::candidates::candidates;
use crate::machine::schedule::cursor::Cursor;
use crate::machine::subscription::query::subscription;
use crate::machine::subscription::stats::stats;
use crate::model::command::delivery::{Action, Nack, Reject, SettleItem};
use crate::model::command::subscription::At;
use crate::model::command::{
    CommandBatch, CreateSubscription, DeleteTopic, Kind, Lease, Redrive, SetQuota, Settle,
};
use crate::model::delivery::Pick;
use crate::model::filter::{Comparison, Filter, Test};
use crate::model::ids::UnixMs;
use crate::model::outcome::Outcome;
use crate::model::quota::QuotaLimits;
use crate::model::ranges::{OffsetRange, Ranges};
use crate::model::subscription::SubscriptionConfig;

/// One row a line: table, key, value; the latter two in hexadecimal.
pub(super) const VERSION_1: &str = include_str!("golden-delivery-v1.txt");
/// All of them, the newest last.
const VERSIONS: &[&str] = &[VERSION_1];

fn event(change: impl FnOnce(&mut TestEvent)) -> TestEvent {
    let mut event =
        TestEvent { id: "1".into(), source: "/s".into(), kind: "a".into(), ..TestEvent::default() };
    change(&mut event);
    event
}

fn lease(first: u64, count: u64) -> Kind {
    let ranges = vec![OffsetRange { first, count }];
    Kind::Lease(Lease {
        subscription: "s".into(),
        revision: 1,
        term: 2,
        consumer: "c".into(),
        service: "shop".into(),
        picks: vec![Pick {
            topic: "t".into(),
            topic_id: 1,
            ranges: Ranges::from_unsorted(&ranges),
            seen: None,
        }],
        ..Lease::default()
    })
}

fn settle(lease_id: u64, action: Action) -> Kind {
    let item =
        SettleItem { lease_id, term: 2, topic_id: 1, ranges: Vec::new(), action: Some(action) };
    Kind::Settle(Settle { subscription: "s".into(), consumer: "c".into(), items: vec![item] })
}

fn entries() -> Vec<CommandBatch> {
    let at = |stamp_ms, kinds: Vec<Kind>| CommandBatch {
        stamp_ms,
        commands: kinds.into_iter().map(Into::into).collect(),
    };
    let mut config = SubscriptionConfig::defaults("t.>");
    config.pattern = "*".into();
    config.filter = Some(Filter {
        test: Some(Test::Exact(Comparison { attribute: "type".into(), value: "a".into() })),
    });
    let events = [
        // Enough for stripes.
        event(|e| e.id = "1".repeat(150)),
        event(|_| ()),
        event(|_| ()),
        event(|e| e.priority = Some(9)),
        event(|e| e.deadline = Some(Timestamp::of(90_000))),
        event(|e| e.deliver_at = Some(Timestamp::of(80_000))),
        event(|e| e.flow = "tenant".into()),
        event(|_| ()),
    ];
    let limits = QuotaLimits { publish_bytes_per_s: 9, ..QuotaLimits::default() };
    let nack = Nack { retry_after_ms: None, reason: "TIMEOUT".into(), detail: "d".into() };
    let create = CreateSubscription {
        name: "s".into(),
        config,
        start: At::Start(true).into(),
        request_id: "request-s".into(),
    };
    vec![
        at(1000, vec![create_topic("t"), Kind::CreateSubscription(create)]),
        at(2000, vec![Kind::Publish(publish_of("t", &events))]),
        at(3000, vec![Kind::SetQuota(SetQuota { service: "shop".into(), limits })]),
        at(4000, vec![lease(0, 1), lease(1, 1), lease(2, 1), lease(7, 1)]),
        at(5000, vec![settle(1, Action::Nack(nack))]),
        at(6000, vec![settle(2, Action::Reject(Reject::default()))]),
        at(6000, vec![settle(3, Action::Reject(Reject::default()))]),
        at(
            7000,
            vec![Kind::Redrive(Redrive {
                subscription: "s".into(),
                numbers: vec![1],
                ..Redrive::default()
            })],
        ),
    ]
}

#[test]
fn the_newest_version_is_written_as_it_always_was() {
    let mut kv = MemKv::default();
    apply(&mut kv, &entries(), 1);
    assert_eq!(rows(&kv), VERSION_1, "the bytes on disk have changed: that takes a new version");
}

#[test]
fn every_version_is_read() {
    for golden in VERSIONS {
        let mut kv = stored(golden);
        let info = subscription(&kv, "s").unwrap().unwrap();
        assert_eq!((info.revision, info.in_flight, info.dead_letters), (1, 1, 1));
        assert_eq!((info.counters.delivered, info.counters.redriven), (4, 1));
        let stats = stats(&kv, "s", UnixMs(7000)).unwrap().unwrap();
        assert_eq!((stats.pending, stats.delayed, stats.leased, stats.retrying), (3, 1, 1, 2));
        let found = candidates(&kv, "s", UnixMs(7000), &mut Cursor::default(), 99).unwrap();
        let picks = found.unwrap().picks;
        assert_eq!(picks.iter().map(Pick::count).sum::<u64>(), 4);
        // And it is gone on from: the lease that is out can be acknowledged.
        let ack = Action::Ack(crate::model::command::delivery::Ack {});
        let entry = CommandBatch { stamp_ms: 8000, commands: vec![settle(4, ack).into()] };
        let outcome = apply(&mut kv, &[entry], 9).remove(0).remove(0);
        assert!(matches!(outcome, Outcome::Settled(s) if s[0].refused.is_none()));
        assert_eq!(kv.rows(Table::Leases), 0);
    }
}

#[test]
fn a_deleted_topic_takes_the_rows_of_its_events_with_it() {
    let mut kv = MemKv::default();
    apply(&mut kv, &entries(), 1);
    let tables = [Table::Stripes, Table::Specials, Table::Scheduled, Table::Deadlines];
    assert!(tables.iter().all(|table| kv.rows(*table) > 0));
    let delete = DeleteTopic { name: "t".into(), ..DeleteTopic::default() };
    let entry = CommandBatch { stamp_ms: 8000, commands: vec![Kind::DeleteTopic(delete).into()] };
    apply(&mut kv, &[entry], 9);
    for table in tables {
        assert_eq!(kv.rows(table), 0, "{}", table.name());
    }
}
