//! Subscriptions that the hub itself delivers.

use super::cases::{Hub, create, plain};
use crate::machine::delivery::lease::routed;
use crate::machine::subscription::query::subscription;
use crate::model::command::{
    Kind, Lease, PauseSubscription, ResumeSubscription, UpdateSubscription,
};
use crate::model::delivery::{PauseReason, Pick};
use crate::model::ids::Offset;
use crate::model::limits::HUB_CONSUMER;
use crate::model::outcome::Outcome;
use crate::model::ranges::Ranges;
use crate::model::rejection::Reason;
use crate::model::subscription::{SubscriptionConfig, SubscriptionPatch, Target, TargetPatch};

fn hub() -> Hub {
    let target = Some(Target::defaults("shop"));
    let config = SubscriptionConfig {
        target,
        max_in_flight_per_consumer: 2,
        max_in_flight: 5,
        ..SubscriptionConfig::defaults("t")
    };
    let mut hub = Hub::new(config);
    hub.publish(&plain(9));
    hub
}

fn lease(hub: &mut Hub, consumer: &str) -> Outcome {
    let revision = subscription(&hub.kv, "s").unwrap().unwrap().revision;
    let ranges = Ranges::from_iter((0..9).map(Offset));
    hub.apply(Kind::Lease(Lease {
        subscription: "s".into(),
        revision,
        term: hub.term,
        consumer: consumer.into(),
        picks: vec![Pick { topic: "t".into(), topic_id: 1, ranges, seen: None }],
        ..Lease::default()
    }))
}

fn pause(target_down: bool) -> Kind {
    Kind::PauseSubscription(PauseSubscription {
        name: "s".into(),
        target_down,
        ..Default::default()
    })
}

fn resume(target_up: bool) -> Kind {
    Kind::ResumeSubscription(ResumeSubscription {
        name: "s".into(),
        target_up,
        ..Default::default()
    })
}

fn paused(hub: &Hub) -> Option<PauseReason> {
    subscription(&hub.kv, "s").unwrap().unwrap().pause.map(|pause| pause.reason())
}

#[test]
fn only_the_hub_consumes_and_its_bound_is_that_of_all() {
    let mut hub = hub();
    let refused = lease(&mut hub, "somebody");
    assert_eq!(refused, Outcome::Rejected(routed("s", "shop")));
    let Outcome::Leased(leased) = lease(&mut hub, HUB_CONSUMER) else { panic!() };
    // Not two, which is what one instance may have.
    assert_eq!(leased.grants.iter().map(|grant| grant.ranges.count()).sum::<u64>(), 5);
}

#[test]
fn a_pause_for_a_target_gives_way_to_others_and_ends_with_it() {
    let mut hub = hub();
    hub.apply(pause(true));
    assert_eq!(paused(&hub), Some(PauseReason::TargetDown));
    hub.apply(resume(true));
    assert_eq!(paused(&hub), None);
    // What somebody asked for stays.
    hub.apply(pause(false));
    hub.apply(pause(true));
    hub.apply(resume(true));
    assert_eq!(paused(&hub), Some(PauseReason::Requested));
    hub.apply(resume(false));
    // And what waits for a target is not paused any more without one.
    hub.apply(pause(true));
    let service = Some(String::new());
    let target = Some(TargetPatch { service, ..TargetPatch::default() });
    let patch = SubscriptionPatch { target, ..SubscriptionPatch::default() };
    let name = "s".to_owned();
    hub.apply(Kind::UpdateSubscription(UpdateSubscription { name, patch, ..Default::default() }));
    assert_eq!(paused(&hub), None);
    hub.apply(pause(true));
    assert_eq!(paused(&hub), None, "it has no target");
    assert!(matches!(lease(&mut hub, "somebody"), Outcome::Leased(_)));
}

#[test]
fn a_target_is_checked() {
    let mut hub = hub();
    let target = Some(Target { timeout_ms: 0, ..Target::defaults("shop") });
    let config = SubscriptionConfig { target, ..SubscriptionConfig::defaults("t") };
    let refused = hub.apply(create("other", config, ""));
    assert!(matches!(refused, Outcome::Rejected(r) if r.reason == Reason::InvalidConfig));
}
