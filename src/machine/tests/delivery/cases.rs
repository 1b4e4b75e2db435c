//! Single cases: what random sequences are too small or too seldom for.

use std::collections::{BTreeMap, BTreeSet};

use super::random::{TestEvent, Timestamp, create_topic, publish_of};
use crate::machine::delivery::query as delivery;
use crate::machine::kv::{Kv as _, Table};
use crate::machine::mem::MemKv;
use crate::machine::schedule::candidates::{candidates, candidates_within};
use crate::machine::schedule::cursor::Cursor;
use crate::machine::subscription::backlog::bytes_of_topics;
use crate::machine::subscription::query::{subscription, subscriptions};
use crate::machine::subscription::seek::preview;
use crate::machine::subscription::stats::stats;
use crate::machine::tests::apply;
use crate::machine::{lifecycle, query, quota};
use crate::model::command::delivery::{Ack, Action, Nack, Reject, SettleItem};
use crate::model::command::subscription::At;
use crate::model::command::{
    CommandBatch, CreateSubscription, DeleteSubscription, Kind, Lease, NewLeader, Notice,
    NoticeKind, PauseSubscription, SeekSubscription, SetQuota, Settle, Tick,
};
use crate::model::delivery::{DeadReason, Granted, Pick};
use crate::model::event::EventView;
use crate::model::ids::{DeadNumber, LeaseId, Offset, UnixMs};
use crate::model::outcome::Outcome;
use crate::model::quota::QuotaLimits;
use crate::model::ranges::{OffsetRange, Ranges};
use crate::model::rejection::Reason;
use crate::model::subscription::SubscriptionConfig;

pub(in crate::machine::tests) struct Hub {
    pub(in crate::machine::tests) kv: MemKv,
    pub(in crate::machine::tests) entries: u64,
    pub(in crate::machine::tests) now_ms: u64,
    pub(in crate::machine::tests) term: u64,
}

impl Hub {
    pub(in crate::machine::tests) fn new(config: SubscriptionConfig) -> Self {
        let mut hub = Self { kv: MemKv::default(), entries: 0, now_ms: 10_000, term: 1 };
        hub.apply(create_topic("t"));
        hub.apply(create("s", config, ""));
        hub
    }

    pub(in crate::machine::tests) fn plain() -> Self {
        let mut config = SubscriptionConfig::defaults("t");
        config.max_in_flight = 100_000;
        config.max_in_flight_per_consumer = 100_000;
        Self::new(config)
    }

    pub(in crate::machine::tests) fn apply(&mut self, kind: Kind) -> Outcome {
        self.entries += 1;
        let entry = CommandBatch { stamp_ms: self.now_ms, commands: vec![kind.into()] };
        apply(&mut self.kv, &[entry], self.entries).remove(0).remove(0)
    }

    pub(in crate::machine::tests) fn publish(&mut self, events: &[TestEvent]) {
        let outcome = self.apply(Kind::Publish(publish_of("t", events)));
        assert!(matches!(outcome, Outcome::Published(_)), "{outcome:?}");
    }

    pub(in crate::machine::tests) fn lease(&mut self, ranges: &[(u64, u64)]) -> Vec<Granted> {
        let ranges: Vec<_> =
            ranges.iter().map(|(f, c)| OffsetRange { first: *f, count: *c }).collect();
        let ranges = Ranges::from_unsorted(&ranges);
        let revision = subscription(&self.kv, "s").unwrap().unwrap().revision;
        let lease = Lease {
            subscription: "s".into(),
            revision,
            term: self.term,
            consumer: "c".into(),
            picks: vec![Pick { topic: "t".into(), topic_id: 1, ranges, seen: None }],
            ..Lease::default()
        };
        match self.apply(Kind::Lease(lease)) {
            Outcome::Leased(leased) => leased.grants,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn settle(&mut self, lease: LeaseId, action: Action) -> Option<Reason> {
        let item = SettleItem {
            lease_id: lease.get(),
            term: self.term,
            topic_id: 1,
            ranges: Vec::new(),
            action: Some(action),
        };
        let (subscription, consumer) = ("s".to_owned(), "c".to_owned());
        match self.apply(Kind::Settle(Settle { subscription, consumer, items: vec![item] })) {
            Outcome::Settled(settled) => settled[0].refused,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn dead(&self) -> Vec<DeadReason> {
        let id = subscription(&self.kv, "s").unwrap().unwrap().id;
        let letters = delivery::dead_letters(&self.kv, id, DeadNumber(0), 99).unwrap();
        letters.into_iter().map(|(_, letter)| letter.reason()).collect()
    }
}

pub(in crate::machine::tests) fn create(
    name: &str,
    config: SubscriptionConfig,
    request_id: &str,
) -> Kind {
    Kind::CreateSubscription(CreateSubscription {
        name: name.into(),
        config,
        start: At::Start(true).into(),
        request_id: request_id.into(),
    })
}

pub(super) fn event(change: impl FnOnce(&mut TestEvent)) -> TestEvent {
    let mut event =
        TestEvent { id: "i".into(), source: "s".into(), kind: "a".into(), ..TestEvent::default() };
    change(&mut event);
    event
}

pub(super) fn plain(count: usize) -> Vec<TestEvent> {
    vec![event(|_| ()); count]
}

#[test]
fn leases_of_an_earlier_leader_are_honoured_even_if_its_term_has_the_same_number() {
    for next_term in [1, 2] {
        let mut hub =
            Hub::new(SubscriptionConfig { lease_ms: 1000, ..SubscriptionConfig::defaults("t") });
        hub.publish(&plain(2));
        let leads = |term| Kind::NewLeader(NewLeader { term, grace_ms: 2000 });
        hub.apply(leads(1));
        hub.now_ms += 10_000;
        let earlier = hub.lease(&[(0, 1)]).remove(0);
        hub.now_ms += 999;
        hub.apply(leads(next_term));
        hub.now_ms += 1;
        hub.term = next_term;
        let own = hub.lease(&[(1, 1)]).remove(0);
        hub.now_ms += 1998;
        hub.apply(Kind::Tick(Tick {}));
        let late = hub.settle(own.lease_id, Action::Ack(Ack {}));
        assert_eq!(late, Some(Reason::LeaseExpired), "its own have no grace");
        hub.term = 1;
        assert_eq!(hub.settle(earlier.lease_id, Action::Ack(Ack {})), None, "term {next_term}");
    }
}

#[test]
fn what_waits_in_topics_is_what_waits_for_the_slowest_of_their_subscriptions() {
    let mut hub = Hub::plain();
    for name in ["a.b", "a.c", "b"] {
        hub.apply(create_topic(name));
        hub.apply(Kind::Publish(publish_of(name, &plain(3))));
    }
    hub.publish(&plain(4));
    hub.apply(create("wild", SubscriptionConfig::defaults("a.*"), ""));
    hub.apply(create("also", SubscriptionConfig::defaults("t"), ""));
    hub.apply(create("far", SubscriptionConfig::defaults("t.>"), ""));
    let names: Vec<String> = ["t", "b", "a.b", "nope"].map(String::from).to_vec();
    let waits = |hub: &Hub| {
        let bytes = |name: &str| query::topic(&hub.kv, name).unwrap().unwrap().bytes;
        let found = bytes_of_topics(&hub.kv, &names).unwrap();
        assert_eq!(found.len(), 3, "one does not exist");
        ["t", "b", "a.b"].map(|name| (found[name], bytes(name)))
    };
    let [(t, t_all), (b, _), (ab, ab_all)] = waits(&hub);
    assert_eq!((t, b, ab), (t_all, 0, ab_all));
    let lease = hub.lease(&[(0, 2)]).remove(0);
    hub.settle(lease.lease_id, Action::Ack(Ack {}));
    assert_eq!(waits(&hub)[0].0, t_all, "the other one has not begun");
    hub.apply(Kind::DeleteSubscription(DeleteSubscription {
        name: "also".into(),
        request_id: String::new(),
    }));
    assert_eq!(waits(&hub)[0].0, t_all / 2);
}

#[test]
fn plain_events_are_leased_in_ranges_by_few_rows() {
    let mut hub = Hub::plain();
    (0..20).for_each(|_| hub.publish(&plain(512)));
    let found = candidates(&hub.kv, "s", UnixMs(hub.now_ms), &mut Cursor::default(), 512);
    assert_eq!(
        found.unwrap().unwrap().picks[0].ranges.as_slice(),
        [OffsetRange { first: 0, count: 512 }]
    );
    let grants: Vec<_> = (0..20).map(|n| hub.lease(&[(n * 512, 512)]).remove(0)).collect();
    assert!(grants.iter().all(|g| g.ranges.as_slice().len() == 1 && g.attempts.is_empty()));
    assert_eq!(stats(&hub.kv, "s", UnixMs(0)).unwrap().unwrap().leased, 10_240);
    // The newest first: nothing is forgotten above the floor, nothing is left once it is done.
    for grant in grants.iter().rev() {
        assert_eq!(hub.settle(grant.lease_id, Action::Ack(Ack {})), None);
    }
    let counts =
        [Table::Marks, Table::Leases, Table::Timers, Table::ConsumerLoads, Table::Failures];
    assert_eq!(counts.map(|table| hub.kv.rows(table)), [0; 5]);
    let stats = stats(&hub.kv, "s", UnixMs(0)).unwrap().unwrap();
    assert_eq!((stats.pending, stats.leased), (0, 0));
}

#[test]
fn a_hole_is_kept_over_many_rows() {
    let mut hub = Hub::plain();
    (0..20).for_each(|_| hub.publish(&plain(512)));
    let hole = hub.lease(&[(4095, 2)]).remove(0).lease_id;
    for first in [0, 4097] {
        let grants = hub.lease(&[(first, 4095)]);
        assert_eq!(hub.settle(grants[0].lease_id, Action::Ack(Ack {})), None);
    }
    assert!(hub.kv.rows(Table::Marks) >= 2);
    let found = candidates(&hub.kv, "s", UnixMs(hub.now_ms), &mut Cursor::default(), 9).unwrap();
    assert_eq!(found.unwrap().picks[0].ranges.as_slice()[0].first, 4097 + 4095);
    assert_eq!(hub.settle(hole, Action::Ack(Ack {})), None);
    let rest = hub.lease(&[(8000, 2240)]).remove(0);
    assert_eq!(rest.ranges.as_slice(), [OffsetRange { first: 8192, count: 2048 }]);
}

#[test]
fn a_lease_that_ran_out_is_refused_before_any_tick() {
    let mut hub = Hub::plain();
    hub.publish(&plain(2));
    let lease = hub.lease(&[(0, 1)]).remove(0);
    assert_eq!(lease.expires_at, UnixMs(40_000));
    hub.now_ms = 40_000;
    assert_eq!(hub.settle(lease.lease_id, Action::Ack(Ack {})), Some(Reason::LeaseExpired));
    assert_eq!(hub.settle(LeaseId(99), Action::Ack(Ack {})), Some(Reason::LeaseUnknown));
    assert!(hub.lease(&[(0, 1)]).is_empty(), "it is still leased");
    hub.apply(Kind::Tick(Tick {}));
    hub.now_ms += 1_000;
    let again = hub.lease(&[(0, 1)]).remove(0);
    assert_eq!(again.attempts, [2]);
}

#[test]
fn no_retry_comes_early() {
    let mut hub = Hub::plain();
    hub.publish(&plain(1));
    let lease = hub.lease(&[(0, 1)]).remove(0).lease_id;
    let nack = Nack { retry_after_ms: Some(500), ..Nack::default() };
    hub.settle(lease, Action::Nack(nack));
    hub.now_ms += 499;
    hub.apply(Kind::Tick(Tick {}));
    assert!(hub.lease(&[(0, 1)]).is_empty());
    hub.now_ms += 1;
    assert_eq!(hub.lease(&[(0, 1)]).remove(0).attempts, [2]);
}

#[test]
fn a_deleted_subscription_leaves_nothing_but_timers() {
    let mut hub = Hub::plain();
    hub.publish(&plain(4));
    let leases: Vec<_> = (0..3).map(|n| hub.lease(&[(n, 1)]).remove(0).lease_id).collect();
    hub.settle(leases[0], Action::Nack(Nack::default()));
    hub.settle(leases[1], Action::Reject(Reject::default()));
    hub.apply(Kind::DeleteSubscription(DeleteSubscription {
        name: "s".into(),
        request_id: String::new(),
    }));
    let tables = [
        Table::Subscriptions,
        Table::SubscriptionStates,
        Table::Progress,
        Table::Marks,
        Table::Leases,
        Table::ConsumerLoads,
        Table::Failures,
        Table::Ready,
        Table::DeadLetters,
    ];
    assert_eq!(tables.map(|table| hub.kv.rows(table)), [0; 9]);
    hub.now_ms += 30 * 24 * 3_600_000;
    hub.apply(Kind::Tick(Tick {}));
    assert_eq!(hub.kv.rows(Table::Timers), 0);
}

#[test]
fn a_lease_lasts_no_longer_than_the_deadline() {
    let mut hub = Hub::plain();
    let deadline = Some(Timestamp::of(12_000));
    hub.publish(&[event(|_| ()), event(|e| e.deadline = deadline), event(|_| ())]);
    let grants = hub.lease(&[(0, 3)]);
    assert_eq!(grants.iter().map(|g| g.ranges.count()).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(grants[1].expires_at, UnixMs(12_000));
    hub.now_ms = 12_000;
    hub.apply(Kind::Tick(Tick {}));
    assert_eq!(hub.dead(), [DeadReason::DeadlineUnreachable]);
}

#[test]
fn nobody_asks_for_what_expired() {
    let mut hub = Hub::plain();
    hub.publish(&[event(|e| e.deadline = Some(Timestamp::of(12_000)))]);
    hub.now_ms = 12_000;
    assert_eq!(delivery::next_due(&hub.kv).unwrap(), Some(UnixMs(12_000)));
    hub.apply(Kind::Tick(Tick {}));
    assert_eq!(hub.dead(), [DeadReason::Expired]);
    assert_eq!(hub.kv.rows(Table::Marks), 0);
}

#[test]
fn failures_tell_their_story() {
    let mut hub = Hub::plain();
    hub.publish(&plain(1));
    let nack = |reason: &str| {
        let (reason, detail) = (reason.to_owned(), "é".repeat(3000));
        Action::Nack(Nack { retry_after_ms: Some(0), reason, detail })
    };
    let lease = hub.lease(&[(0, 1)]).remove(0).lease_id;
    hub.settle(lease, nack("TIMEOUT"));
    let lease = hub.lease(&[(0, 1)]).remove(0).lease_id;
    hub.settle(lease, Action::Reject(Reject { reason: "BAD".into(), detail: String::new() }));
    let id = subscription(&hub.kv, "s").unwrap().unwrap().id;
    let letters = delivery::dead_letters(&hub.kv, id, DeadNumber(0), 9).unwrap();
    let letter = &letters[0].1;
    let told: Vec<_> = letter.attempts.iter().map(|a| (a.number, a.reason.as_str())).collect();
    assert_eq!(told, [(1, "TIMEOUT"), (2, "BAD")]);
    assert_eq!(letter.attempts[0].detail.len(), 4096);
    assert_eq!(EventView::parse(&letter.event).unwrap().id, "i");
    assert_eq!((letter.topic.as_str(), letter.offset, letter.failures), ("t", 0, 2));
}

#[test]
fn fairness_keys_share_by_weight() {
    let mut config = SubscriptionConfig::defaults("t");
    config.fairness_weights = BTreeMap::from([("big".to_owned(), 3000)]);
    let mut hub = Hub::new(config);
    let of = |flow: &str, count| vec![event(|e| e.flow = flow.to_owned()); count];
    hub.publish(&of("noisy", 500));
    hub.publish(&of("big", 200));
    hub.publish(&of("small", 40));
    let found = candidates(&hub.kv, "s", UnixMs(hub.now_ms), &mut Cursor::default(), 160);
    let mut counts = BTreeMap::new();
    for pick in found.unwrap().unwrap().picks {
        for range in pick.ranges.into_vec() {
            let flow = match range.first {
                0..500 => "noisy",
                500..700 => "big",
                _ => "small",
            };
            *counts.entry(flow).or_insert(0) += range.count;
        }
    }
    assert_eq!(counts, BTreeMap::from([("noisy", 32), ("big", 96), ("small", 32)]));
}

#[test]
fn a_new_fairness_key_does_not_wait_for_those_that_are_drained() {
    let mut hub = Hub::plain();
    let of = |flow: u64| event(|e| e.flow = format!("tenant-{flow}"));
    for ten in 0..30 {
        hub.publish(&(ten * 10..ten * 10 + 10).map(of).collect::<Vec<_>>());
    }
    let mut cursor = Cursor::default();
    let mut search =
        |hub: &Hub| candidates(&hub.kv, "s", UnixMs(hub.now_ms), &mut cursor, 9).unwrap().unwrap();
    let mut done = 0;
    loop {
        let found = search(&hub);
        for range in found.picks.iter().flat_map(|pick| pick.ranges.as_slice()) {
            for grant in hub.lease(&[(range.first, range.count)]) {
                hub.settle(grant.lease_id, Action::Ack(Ack {}));
                done += grant.ranges.count();
            }
        }
        if !found.more {
            break;
        }
    }
    assert_eq!(done, 300);
    hub.publish(&[of(1000)]);
    let found = search(&hub);
    assert_eq!(found.picks[0].ranges.as_slice(), [OffsetRange { first: 300, count: 1 }]);
    assert!(!found.more);
    // More new ones than a search may look at.
    hub.publish(&(2000..2012).map(of).collect::<Vec<_>>());
    let mut left: BTreeSet<u64> = (301..313).collect();
    let mut searches = 0;
    while !left.is_empty() {
        let now = UnixMs(hub.now_ms);
        let found = candidates_within(&hub.kv, "s", now, &mut cursor, 999.into(), 5);
        let ranges = found.unwrap().unwrap().picks.into_iter().flat_map(|p| p.ranges.into_vec());
        ranges.for_each(|range| left.retain(|offset| !range.has(Offset(*offset))));
        searches += 1;
        assert!(searches < 2000, "{left:?} are not found");
    }
}

#[test]
fn a_delayed_event_says_when_to_search_again() {
    let mut hub = Hub::plain();
    hub.publish(&[event(|e| e.deliver_at = Some(Timestamp::of(15_000)))]);
    let mut cursor = Cursor::default();
    let found = candidates(&hub.kv, "s", UnixMs(10_000), &mut cursor, 9).unwrap().unwrap();
    assert_eq!((found.picks.len(), found.wake_at), (0, Some(UnixMs(15_000))));
    let found = candidates(&hub.kv, "s", UnixMs(15_000), &mut cursor, 9).unwrap().unwrap();
    assert_eq!((found.picks.len(), found.wake_at), (1, None));
}

#[test]
fn a_deadline_that_is_published_later_and_passes_earlier_goes_first() {
    let mut hub = Hub::plain();
    let urgent = |ms| event(|e| e.deadline = Some(Timestamp::of(ms)));
    hub.publish(&[urgent(30_000)]);
    let mut cursor = Cursor::default();
    let first = hub.lease(&[(0, 1)]).remove(0).lease_id;
    hub.settle(first, Action::Ack(Ack {}));
    candidates(&hub.kv, "s", UnixMs(10_000), &mut cursor, 9).unwrap();
    hub.publish(&[event(|_| ()), urgent(20_000)]);
    let found = candidates(&hub.kv, "s", UnixMs(10_000), &mut cursor, 1).unwrap().unwrap();
    assert_eq!(found.picks[0].ranges.as_slice(), [OffsetRange { first: 2, count: 1 }]);
}

#[test]
fn a_repeated_request_gets_its_first_answer() {
    let mut hub = Hub::plain();
    hub.publish(&plain(3));
    let config = SubscriptionConfig::defaults("t");
    let first = hub.apply(create("other", config.clone(), "r"));
    assert_eq!(first, hub.apply(create("other", config.clone(), "r")));
    let again = hub.apply(create("other", config, ""));
    assert!(matches!(again, Outcome::Rejected(r) if r.reason == Reason::SubscriptionExists));
    let seek =
        SeekSubscription { name: "other".into(), to: At::Offset(2).into(), request_id: "q".into() };
    let told = preview(&hub.kv, "other", &seek.to).unwrap().unwrap().unwrap();
    assert_eq!(hub.apply(Kind::SeekSubscription(seek.clone())), Outcome::Sought(told));
    assert_eq!((told.redelivered, told.skipped), (0, 2));
    assert_eq!(hub.apply(Kind::SeekSubscription(seek)), Outcome::Sought(told));
    let names: Vec<_> =
        subscriptions(&hub.kv, "", 9).unwrap().into_iter().map(|s| s.name).collect();
    assert_eq!(names, ["other", "s"]);
}

#[test]
fn the_feed_tells_of_others_and_not_of_itself() {
    let mut hub = Hub::plain();
    let pause = |name: &str| {
        Kind::PauseSubscription(PauseSubscription { name: name.into(), ..Default::default() })
    };
    hub.apply(create("watcher", SubscriptionConfig::defaults("hub.>"), ""));
    hub.apply(pause("watcher"));
    let lags = |name: &str| {
        let kind = NoticeKind::Lagging as i32;
        Kind::Notice(Notice { about: name.into(), kind, value: 9, ..Notice::default() })
    };
    hub.apply(lags("watcher"));
    assert!(query::topic(&hub.kv, lifecycle::TOPIC).unwrap().is_none());
    hub.apply(pause("s"));
    let feed = query::topic(&hub.kv, lifecycle::TOPIC).unwrap().unwrap();
    assert_eq!(feed.next_offset, Offset(1));
    let stored = query::event_at(&hub.kv, &feed, Offset(0)).unwrap().unwrap();
    let view = EventView::parse(&stored.event).unwrap();
    assert_eq!((view.kind, view.subject), ("hub.subscription.paused", "s"));
    assert_eq!(view.data, br#"{"subscription":"s"}"#);
    hub.apply(lags("s"));
    let feed = query::topic(&hub.kv, lifecycle::TOPIC).unwrap().unwrap();
    assert_eq!(feed.next_offset, Offset(2), "of others it is told");
}

#[test]
fn quotas_are_kept_and_forgotten() {
    let mut hub = Hub::plain();
    let limits = QuotaLimits { publish_events_per_s: 5, ..QuotaLimits::default() };
    let set = |service: &str, limits| Kind::SetQuota(SetQuota { service: service.into(), limits });
    assert_eq!(hub.apply(set("a", limits)), Outcome::Done);
    assert_eq!(hub.apply(set("b", limits)), Outcome::Done);
    let refused = hub.apply(set("a b", limits));
    assert!(matches!(refused, Outcome::Rejected(r) if r.reason == Reason::InvalidName));
    assert_eq!(quota::get(&hub.kv, "a").unwrap(), Some(limits));
    assert_eq!(quota::list(&hub.kv, "a", 9).unwrap(), [("b".to_owned(), limits)]);
    assert_eq!(hub.apply(set("a", QuotaLimits::default())), Outcome::Done);
    assert_eq!(quota::get(&hub.kv, "a").unwrap(), None);
    assert!(hub.kv.get(Table::Quotas, b"a").unwrap().is_none());
}
