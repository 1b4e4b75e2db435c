//! Single cases of what a lease still has, and of tokens from before.

use super::cases::{Hub, create, event, plain};
use super::random::Timestamp;
use super::searches::wakes;
use crate::machine::tests::transact::on;
use crate::model::command::delivery::{Ack, Action, Extend, Nack, Release, SettleItem};
use crate::model::command::{DeleteSubscription, Kind, Settle, Tick, Transact};
use crate::model::delivery::{Granted, Settled};
use crate::model::ids::{LeaseId, Offset};
use crate::model::outcome::Outcome;
use crate::model::ranges::OffsetRange;
use crate::model::rejection::Reason;
use crate::model::subscription::SubscriptionConfig;

/// A settlement of events of a lease of topic `t`; none: of all that it still has.
fn settle(lease: LeaseId, offsets: &[u64], action: Action) -> Settle {
    let ranges = offsets.iter().map(|offset| OffsetRange::one(Offset(*offset))).collect();
    let item =
        SettleItem { lease_id: lease.get(), term: 1, topic_id: 1, ranges, action: Some(action) };
    Settle { subscription: "s".into(), consumer: "c".into(), items: vec![item] }
}

/// What would become of a settlement: what was done, and why not the rest.
fn tried(hub: &Hub, settle: Settle) -> (Vec<u64>, Option<Reason>) {
    let (_, outcomes) = on(hub, vec![Kind::Settle(settle)]);
    let Outcome::Settled(settled) = &outcomes[0] else { panic!("{outcomes:?}") };
    let Settled { done, refused, .. } = &settled[0];
    (done.iter().map(Offset::get).collect(), *refused)
}

/// Why a transaction of this settlement alone would be refused.
fn refused(hub: &Hub, settle: Settle) -> Option<Reason> {
    let transact = Transact { settles: vec![settle], ..Transact::default() };
    match on(hub, vec![Kind::Transact(transact)]).1.remove(0) {
        Outcome::Transacted(_) => None,
        Outcome::Rejected(rejection) => Some(rejection.reason),
        other => panic!("{other:?}"),
    }
}

#[test]
fn whoever_settles_a_lease_as_a_whole_is_told_that_an_event_has_left_it() {
    let ack = || Action::Ack(Ack {});
    let nack = || Action::Nack(Nack::default());
    let release = || Action::Release(Release {});
    let mut hub = Hub::plain();
    let deadline = Some(Timestamp::of(50_000));
    hub.publish(&[event(|_| ()), event(|e| e.deadline = deadline), event(|_| ())]);
    let lease = hub.lease(&[(0, 3)]).remove(0).lease_id;
    hub.now_ms = 35_000;
    let extend = || Action::Extend(Extend { lease_ms: 30_000 });
    assert_eq!(hub.settle(lease, extend()), None);
    for action in [ack, nack, release] {
        assert_eq!(tried(&hub, settle(lease, &[], action())), (vec![0, 1, 2], None));
    }
    assert_eq!(refused(&hub, settle(lease, &[], ack())), None, "it has all of its events");
    hub.now_ms = 50_000;
    hub.apply(Kind::Tick(Tick {}));
    // The others go on, and are settled as before by name.
    assert_eq!(tried(&hub, settle(lease, &[], extend())), (vec![0, 2], None));
    assert_eq!(tried(&hub, settle(lease, &[0, 2], ack())), (vec![0, 2], None));
    assert_eq!(refused(&hub, settle(lease, &[0, 2], ack())), None);
    let expired = Some(Reason::LeaseExpired);
    for action in [ack, nack, release] {
        assert_eq!(tried(&hub, settle(lease, &[], action())), (vec![0, 2], expired));
    }
    assert_eq!(tried(&hub, settle(lease, &[0, 1], ack())), (vec![0], expired));
    // What came of all three must not be handed on.
    for whole in [settle(lease, &[], ack()), settle(lease, &[0, 1, 2], ack())] {
        assert_eq!(refused(&hub, whole), expired);
    }
    // Nor once the rest was renewed and settled in part.
    assert_eq!(hub.settle(lease, extend()), None);
    hub.apply(Kind::Settle(settle(lease, &[0], ack())));
    assert_eq!(tried(&hub, settle(lease, &[], ack())), (vec![2], expired));
}

#[test]
fn tokens_of_a_deleted_subscription_settle_nothing_of_one_with_its_name() {
    let mut hub = Hub::plain();
    hub.publish(&plain(3));
    let old: Vec<_> = [0, 1].map(|n| hub.lease(&[(n, 1)]).remove(0).lease_id).into();
    let delete = |name: &str| {
        Kind::DeleteSubscription(DeleteSubscription { name: name.into(), ..Default::default() })
    };
    assert!(wakes(&hub, delete("s")), "who waits for its events is told");
    for round in 1..=2 {
        assert_eq!(hub.apply(delete("s")), Outcome::Done);
        // One that had no leases takes none of the numbers back.
        hub.apply(create("other", SubscriptionConfig::defaults("t"), ""));
        hub.apply(delete("other"));
        hub.apply(create("s", SubscriptionConfig::defaults("t"), ""));
        for lease in &old {
            let acked = hub.settle(*lease, Action::Ack(Ack {}));
            assert_eq!(acked, Some(Reason::LeaseExpired), "before it has leases");
        }
        let new: Vec<Granted> = [0, 1].map(|n| hub.lease(&[(n, 1)]).remove(0)).into();
        for lease in &old {
            for action in [Action::Ack(Ack {}), Action::Extend(Extend { lease_ms: 0 })] {
                let settle = settle(*lease, &[], action);
                assert_eq!(tried(&hub, settle), (vec![], Some(Reason::LeaseExpired)), "{round}");
            }
            assert_eq!(hub.settle(*lease, Action::Ack(Ack {})), Some(Reason::LeaseExpired));
        }
        assert_eq!(new[0].lease_id, LeaseId(round * 2 + 1));
        assert_eq!(hub.settle(new[0].lease_id, Action::Ack(Ack {})), None);
    }
}
