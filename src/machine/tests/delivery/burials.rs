//! Dead letters of many bytes: each entry and each tick writes some, ticks go on with the others.

use bytes::Bytes;
use prost::Message as _;

use super::cases::{Hub, create, event};
use super::policies::{nack_at_once, update};
use super::random::Timestamp;
use super::sweeps::{tick, tick_all};
use crate::machine::apply::Machine;
use crate::machine::delivery::dead::DeadLetter;
use crate::machine::delivery::query as delivery;
use crate::machine::kv::{Table, Write};
use crate::machine::subscription::query::{subscription, subscriptions};
use crate::model::command::delivery::{Ack, Action, Reject};
use crate::model::command::{
    CancelRetry, CommandBatch, DeleteSubscription, DeleteTopic, Kind, RetryNow, Tick,
};
use crate::model::delivery::{DeadReason, Moved};
use crate::model::ids::{DeadNumber, LogIndex};
use crate::model::limits::DEAD_LETTERS_BURIED_BYTES;
use crate::model::outcome::Outcome;
use crate::model::rejection::Reason;
use crate::model::subscription::{
    DeadLetterPatch, RetryPatch, SubscriptionConfig, SubscriptionPatch,
};

const EVENT_BYTES: usize = 40 << 10;
const SUBSCRIPTIONS: usize = 12;
/// What one entry may write: the letter that reaches the bound is written.
const WRITTEN_MAX: usize = DEAD_LETTERS_BURIED_BYTES + EVENT_BYTES + 1000;

/// A topic of large events, with a subscription that no dead letter pauses.
fn hub(events: usize) -> Hub {
    let mut config = SubscriptionConfig::defaults("t");
    config.dead_letters.trip_disabled = true;
    let mut hub = Hub::new(config);
    if events > 0 {
        hub.publish(&vec![event(|e| e.id = "x".repeat(EVENT_BYTES)); events]);
    }
    hub
}

/// Bytes of dead letters that a command would write.
fn written(hub: &Hub, kind: Kind) -> usize {
    let mut machine = Machine::load(&hub.kv).unwrap();
    let entry = CommandBatch { stamp_ms: hub.now_ms, commands: vec![kind.into()] };
    machine.apply(LogIndex(hub.entries + 1), &Bytes::from(entry.encode_to_vec())).unwrap();
    let counted = machine.letter_bytes();
    let bytes = |write: &Write| match write {
        Write::Put(Table::DeadLetters, _, row) => row.len(),
        _ => 0,
    };
    let all: usize = machine.into_writes().iter().map(bytes).sum();
    assert!(counted <= all, "what is counted is written");
    all
}

/// Ticks until nothing is due, each a bounded bit; how often.
fn tick_bounded(hub: &mut Hub) -> usize {
    let mut ticks = 1;
    loop {
        let bytes = written(hub, Kind::Tick(Tick {}));
        assert!(bytes <= WRITTEN_MAX, "{bytes} bytes in tick {ticks}");
        if !tick(hub).more {
            return ticks;
        }
        ticks += 1;
    }
}

/// Number, offset and reason of each dead letter of a subscription.
fn letters(hub: &Hub, name: &str) -> Vec<(u64, u64, DeadReason)> {
    let id = subscription(&hub.kv, name).unwrap().unwrap().id;
    let found = delivery::dead_letters(&hub.kv, id, DeadNumber(0), 99).unwrap();
    let one = |(number, letter): (DeadNumber, DeadLetter)| {
        assert!(letter.event.len() > EVENT_BYTES);
        (number.get(), letter.offset, letter.reason())
    };
    found.into_iter().map(one).collect()
}

#[test]
fn an_event_that_expires_for_many_subscriptions_is_buried_bit_by_bit() {
    let mut hub = hub(0);
    for n in 1..SUBSCRIPTIONS {
        hub.apply(create(&format!("s{n:02}"), SubscriptionConfig::defaults("t"), ""));
    }
    let deadline = Some(Timestamp::of(12_000));
    let large = event(|e| (e.id, e.deadline) = ("x".repeat(EVENT_BYTES), deadline));
    hub.publish(&[large]);
    hub.now_ms = 12_000;
    let bytes = written(&hub, Kind::Tick(Tick {}));
    assert!((EVENT_BYTES..=WRITTEN_MAX).contains(&bytes), "{bytes}");
    assert!(tick(&mut hub).more);
    let all = subscriptions(&hub.kv, "", 99).unwrap();
    assert_eq!(all.len(), SUBSCRIPTIONS);
    let waits = |name: &str| letters(&hub, name).is_empty();
    let late: Vec<_> = all.iter().map(|info| info.name.clone()).filter(|n| waits(n)).collect();
    assert_eq!(late.len(), SUBSCRIPTIONS - 2, "two of them are the bytes of one tick");
    // Nobody gets what is dead, and one that goes meanwhile takes it along.
    let gone = late[0].clone();
    let delete = DeleteSubscription { name: gone.clone(), ..DeleteSubscription::default() };
    hub.apply(Kind::DeleteSubscription(delete));
    assert!(hub.lease(&[(0, 1)]).is_empty());
    assert_eq!(tick_bounded(&mut hub), (SUBSCRIPTIONS - 3).div_ceil(2));
    for info in all.iter().filter(|info| info.name != gone) {
        assert_eq!(letters(&hub, &info.name), [(1, 0, DeadReason::Expired)], "{}", info.name);
        let counters = subscription(&hub.kv, &info.name).unwrap().unwrap().counters;
        assert_eq!((counters.dead, counters.dropped), (1, 0));
    }
    assert_eq!(hub.kv.rows(Table::Failures), 0);
    hub.now_ms += 30 * 24 * 3_600_000;
    tick_all(&mut hub);
    assert_eq!((hub.kv.rows(Table::Timers), hub.kv.rows(Table::DeadLetters)), (0, 0));
}

#[test]
fn what_is_rejected_at_once_is_dead_at_once_and_buried_bit_by_bit() {
    let mut hub = hub(9);
    let lease = hub.lease(&[(0, 9)]).remove(0).lease_id;
    assert_eq!(hub.settle(lease, Action::Reject(Reject::default())), None);
    assert_eq!(letters(&hub, "s").len(), 2);
    // The others are neither tried again nor called off, and their lease has ended.
    assert_eq!(hub.settle(lease, Action::Ack(Ack {})), Some(Reason::LeaseExpired));
    let (subscription, topic_id) = ("s".to_owned(), 1);
    let (of_s, ranges) = (subscription.clone(), Vec::new());
    let now = RetryNow { subscription: of_s, topic_id, ranges: ranges.clone() };
    let cancel = CancelRetry { subscription, topic_id, ranges };
    for kind in [Kind::RetryNow(now), Kind::CancelRetry(cancel)] {
        let moved = Moved { left: 7, ..Moved::default() };
        assert_eq!(hub.apply(kind), Outcome::Moved(moved));
    }
    assert!(hub.lease(&[(0, 9)]).is_empty());
    assert_eq!(tick_bounded(&mut hub), 4, "two, two, two and the last");
    let told: Vec<_> = (0..9).map(|n| (n + 1, n, DeadReason::Rejected)).collect();
    assert_eq!(letters(&hub, "s"), told);
    assert_eq!(hub.kv.rows(Table::Failures), 0);
}

#[test]
fn leases_that_run_out_and_retries_that_are_called_off_are_buried_bit_by_bit() {
    for expires in [true, false] {
        let mut hub = hub(7);
        let retry = RetryPatch { max_attempts: expires.then_some(1), ..RetryPatch::default() };
        update(&mut hub, SubscriptionPatch { retry: Some(retry), ..SubscriptionPatch::default() });
        let lease = hub.lease(&[(0, 7)]).remove(0);
        if expires {
            hub.now_ms = lease.expires_at.get();
        } else {
            assert_eq!(hub.settle(lease.lease_id, nack_at_once()), None);
            let subscription = "s".to_owned();
            let cancel = CancelRetry { subscription, topic_id: 1, ranges: Vec::new() };
            let cancel = Kind::CancelRetry(cancel);
            assert!(written(&hub, cancel.clone()) <= WRITTEN_MAX);
            let moved = Moved { count: 7, ..Moved::default() };
            assert_eq!(hub.apply(cancel), Outcome::Moved(moved));
        }
        let ticks = tick_bounded(&mut hub);
        assert!((3..=4).contains(&ticks), "{ticks}");
        let reason = if expires { DeadReason::MaxAttempts } else { DeadReason::Rejected };
        let told: Vec<_> = (0..7).map(|n| (n + 1, n, reason)).collect();
        assert_eq!(letters(&hub, "s"), told);
    }
}

#[test]
fn what_is_left_to_be_buried_goes_with_its_topic_and_without_dead_letters_is_dropped() {
    let reject = || Action::Reject(Reject::default());
    let mut hub = hub(6);
    let lease = hub.lease(&[(0, 3)]).remove(0).lease_id;
    hub.settle(lease, reject());
    let off = DeadLetterPatch { disabled: Some(true), ..DeadLetterPatch::default() };
    update(&mut hub, SubscriptionPatch { dead_letters: Some(off), ..Default::default() });
    tick_all(&mut hub);
    let counters = |hub: &Hub| subscription(&hub.kv, "s").unwrap().unwrap().counters;
    assert_eq!((counters(&hub).dead, counters(&hub).dropped), (2, 1));
    let on = DeadLetterPatch { disabled: Some(false), ..DeadLetterPatch::default() };
    update(&mut hub, SubscriptionPatch { dead_letters: Some(on), ..Default::default() });
    let lease = hub.lease(&[(3, 3)]).remove(0).lease_id;
    hub.settle(lease, reject());
    assert_eq!(hub.kv.rows(Table::Failures), 1);
    hub.apply(Kind::DeleteTopic(DeleteTopic { name: "t".into(), ..DeleteTopic::default() }));
    tick_all(&mut hub);
    assert_eq!((hub.kv.rows(Table::Failures), hub.kv.rows(Table::DeadLetters)), (0, 4));
    assert_eq!((counters(&hub).dead, counters(&hub).dropped), (4, 1));
}
