//! Whose retries a round plans where quotas bound them.

use super::super::plan::{Ask, Asked, Bounds, Look, Memory, Share, look};
use super::*;
use crate::machine::delivery::loads;
use crate::model::command::Tick;
use crate::model::ids::{Offset, UnixMs};

const RETRIES: u64 = 20;
const FRESH: u64 = 15;

/// A node with failed events that are due, and two services: as many retries as it may have in a second went
/// to `used`, at the instant that is given back; `other` has no quota.
async fn start() -> (Hub, UnixMs) {
    let hub = Hub::start(|config| {
        (config.max_in_flight, config.max_in_flight_per_consumer) = (1000, 1000);
        (config.retry.budget_percent, config.retry.budget_min_per_s) = (100, 1000);
    })
    .await;
    let limits = QuotaLimits { retries_per_s: 1, ..QuotaLimits::default() };
    hub.node.set_quota("used", limits).await.unwrap();
    hub.publish(0..RETRIES + 1).await;
    for delivery in hub.pull(now("a", 100)).await.unwrap() {
        let nack = Nack { retry_after_ms: Some(0), ..Nack::default() };
        hub.settle("a", &delivery, Action::Nack(nack)).await;
    }
    hub.node.execute(Kind::Tick(Tick {})).await.unwrap();
    let before = hub.node.now();
    let of_used = PullRequest { service: "used".to_owned(), ..now("a", 1) };
    assert_eq!(numbers(&hub.pull(of_used).await.unwrap()), [(0, 2)]);
    let used_up = [before, hub.node.now()].into_iter().find(|at| {
        let state = hub.node.raft().state();
        loads::left_of_service(&state.tables(), "used", *at).unwrap().1 == 0
    });
    (hub, used_up.unwrap())
}

/// How many retries and how many fresh events each of those who ask is to get.
fn planned(hub: &Hub, at: UnixMs, asks: &[(&str, u64)]) -> Vec<(u64, u64)> {
    planned_beside(hub, at, asks, &[])
}

/// The same while others are about to get something.
fn planned_beside(
    hub: &Hub,
    at: UnixMs,
    asks: &[(&str, u64)],
    ahead: &[(&str, u64)],
) -> Vec<(u64, u64)> {
    let ask = |(service, events): &(&str, u64)| Ask {
        consumer: (*service).to_owned(),
        service: (*service).to_owned(),
        events: *events,
        bytes: PULL_BYTES_MAX,
    };
    let (asks, ahead) = (asks.iter().map(ask).collect(), ahead.iter().map(ask).collect());
    let bounds = Bounds { events: 1000, bytes: 8 * PULL_BYTES_MAX };
    let asked = Asked { asks, ahead, bounds };
    let state = hub.node.raft().state();
    let found = look(&state.tables(), "s", at, &mut Memory::default(), &asked).unwrap();
    let Look::Plan(plan) = found else { panic!("{found:?}") };
    let of = |share: &Share| {
        let offsets: Vec<u64> =
            share.picks.iter().flat_map(|pick| pick.ranges.iter().map(Offset::get)).collect();
        let parts: u64 = share.parts.iter().map(|part| part.events.count()).sum();
        assert_eq!(parts, offsets.len() as u64, "what is leased is what is read");
        let retries = offsets.iter().filter(|offset| **offset <= RETRIES).count() as u64;
        (retries, parts - retries)
    };
    plan.shares.iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_without_retries_left_holds_nobody_up_and_gets_fresh_events() {
    let (hub, at) = start().await;
    let both = [("used", 100), ("other", 100)];
    assert_eq!(planned(&hub, at, &both), [(0, 0), (RETRIES, 0)], "there are only retries");
    hub.publish(RETRIES + 1..RETRIES + 1 + FRESH).await;
    assert_eq!(planned(&hub, at, &both[..1]), [(0, FRESH)]);
    assert_eq!(planned(&hub, at, &both[1..]), [(RETRIES, FRESH)]);
    assert_eq!(planned(&hub, at, &both), [(0, FRESH), (RETRIES, 0)]);
    // As many retries as were asked for would be found before any fresh event.
    assert_eq!(planned(&hub, at, &[("used", 10), ("other", 10)])[0], (0, 10));
    let shares = planned(&hub, at, &[("used", 5), ("used", 5), ("other", 30)]);
    assert_eq!(shares, [(0, 5), (0, 5), (RETRIES, 5)]);
    // In the next second it may have one again, however many ask for it.
    let next = UnixMs(at.get() + 1000);
    let shares = planned(&hub, next, &[("used", 100), ("used", 100), ("other", 100)]);
    assert_eq!(shares, [(1, 11), (0, 4), (11, 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_about_to_be_leased_counts_as_in_flight() {
    let hub = Hub::start(|config| {
        (config.max_in_flight, config.max_in_flight_per_consumer) = (20, 15);
    })
    .await;
    let limits = QuotaLimits { in_flight: 8, ..QuotaLimits::default() };
    hub.node.set_quota("limited", limits).await.unwrap();
    hub.publish(0..100).await;
    let at = hub.node.now();
    let all = |asks: &[(&str, u64)], ahead: &[(&str, u64)]| {
        let planned = planned_beside(&hub, at, asks, ahead);
        planned.iter().map(|(retries, fresh)| retries + fresh).sum::<u64>()
    };
    assert_eq!(all(&[("other", 50)], &[]), 15);
    assert_eq!(all(&[("limited", 50)], &[]), 8);
    // Of the consumer, of the service, and of all.
    assert_eq!(all(&[("other", 50)], &[("other", 5)]), 10);
    assert_eq!(all(&[("limited", 50)], &[("limited", 5)]), 3);
    assert_eq!(all(&[("other", 50)], &[("third", 15)]), 5);
}
