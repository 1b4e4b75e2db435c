//! Choosing, by answers that are given.

use super::*;
use crate::client::fake;
use crate::model::limits::PROBES_RETRY_MS;
use crate::proto::v1::{Breaker, BreakerState, InstanceSpec};

/// Two instances, whose breakers stand as told; three calls may try one.
fn answer(service_half_open: bool, states: [BreakerState; 2]) -> ResolveResponse {
    let instance = |(incarnation, state): (u64, BreakerState)| {
        let id = format!("i{incarnation}");
        let breaker = Breaker { state: state.into(), ..Breaker::default() };
        Instance {
            spec: Some(InstanceSpec { service: "s".into(), id, ..InstanceSpec::default() }),
            incarnation,
            breaker: Some(breaker),
            ..Instance::default()
        }
    };
    let instances = (1..).zip(states).map(instance).collect();
    ResolveResponse { instances, probes: 3, service_half_open, ..ResolveResponse::default() }
}

fn resolver(answer: ResolveResponse) -> Resolver {
    let known = Known { pools: Arc::default(), nobody: None, unreachable: false };
    let shared = Arc::new(Shared {
        client: fake::client(&[&fake::nobody()], 100),
        service: "s".to_owned(),
        options: ResolverOptions::default(),
        known: RwLock::new(known),
        stats: CallStats::default(),
        turns: Turns::default(),
        tried: Mutex::default(),
        watch_is_stale: AtomicBool::new(false),
        untold: Mutex::default(),
    });
    shared.take(answer);
    Resolver { shared, _stop: watch::channel(()).0 }
}

/// Two instances of another service, with the numbers from one on.
fn other(from: u64, state: BreakerState) -> ResolveResponse {
    let mut next = answer(false, [state, state]);
    next.failed_over_to = "t".into();
    (from..).zip(&mut next.instances).for_each(|(n, instance)| instance.incarnation = n);
    next
}

const CLOSED: BreakerState = BreakerState::Closed;
const HALF_OPEN: BreakerState = BreakerState::HalfOpen;

#[tokio::test]
async fn breakers_that_are_tried_get_few_calls_of_a_client() {
    for (of_service, of_instances, probes) in [
        (false, [HALF_OPEN, HALF_OPEN], 6),
        (true, [CLOSED, CLOSED], 3),
        (true, [HALF_OPEN, HALF_OPEN], 3),
    ] {
        let resolver = resolver(answer(of_service, of_instances));
        let mut calls: Vec<_> = (0..probes).map(|_| resolver.pick("").unwrap()).collect();
        let refused = resolver.pick("").unwrap_err();
        assert_eq!(refused.reason, Reason::NoInstance);
        assert_eq!(refused.retry_delay_ms(), Some(PROBES_RETRY_MS), "{refused}");
        // One is over: another one may go.
        calls.pop().unwrap().done(true);
        calls.push(resolver.pick("").unwrap());
        assert!(resolver.pick("").is_err());
    }
    // The others get what one that is tried may not have.
    let resolver = resolver(answer(false, [HALF_OPEN, CLOSED]));
    let calls: Vec<_> = (0..30).map(|_| resolver.pick("").unwrap()).collect();
    let of_one = calls.iter().filter(|call| call.instance().incarnation == 1).count();
    assert!(of_one <= 3, "{of_one}");
    let unbounded = ResolveResponse { probes: 0, ..answer(true, [HALF_OPEN, HALF_OPEN]) };
    let resolver = self::resolver(unbounded);
    let calls: Vec<_> = (0..30).map(|_| resolver.pick("").unwrap()).collect();
    assert_eq!(calls.len(), 30);
}

#[tokio::test]
async fn what_is_too_much_for_those_that_are_tried_goes_to_the_next_as_the_hub_tells() {
    for (of_service, of_instances, probes) in [
        (false, [HALF_OPEN, HALF_OPEN], 6),
        (true, [CLOSED, CLOSED], 3),
        (true, [HALF_OPEN, HALF_OPEN], 3),
    ] {
        let next = vec![other(11, HALF_OPEN), other(21, CLOSED)];
        let first = ResolveResponse { next, ..answer(of_service, of_instances) };
        let resolver = resolver(first.clone());
        let mut calls: Vec<_> = (0..probes + 6 + 20).map(|_| resolver.pick("").unwrap()).collect();
        let tens = calls.iter().map(|call| call.instance().incarnation / 10).collect::<Vec<_>>();
        let wanted = [vec![0; probes], vec![1; 6], vec![2; 20]].concat();
        assert_eq!(tens, wanted);
        // One is over: it is for the first again.
        calls.remove(0).done(true);
        let again = resolver.pick("").unwrap();
        assert_eq!(again.instance().incarnation / 10, 0);
        assert_eq!(resolver.pick("").unwrap().instance().incarnation / 10, 2);
        assert_eq!(resolver.instances(), first.instances);
        // Where all are tried, one more is refused.
        let next = vec![other(11, HALF_OPEN)];
        let all_tried = ResolveResponse { next, ..first };
        resolver.shared.take(all_tried);
        let refused = resolver.pick("").unwrap_err();
        assert_eq!(refused.retry_delay_ms(), Some(PROBES_RETRY_MS), "{refused}");
    }
}

#[tokio::test]
async fn calls_from_before_a_breaker_is_tried_take_no_place() {
    for (of_service, of_instances, probes) in
        [(false, [HALF_OPEN, HALF_OPEN], 6), (true, [CLOSED, CLOSED], 3)]
    {
        let resolver = resolver(answer(false, [CLOSED, CLOSED]));
        let mut calls: Vec<_> = (0..20).map(|_| resolver.pick("").unwrap()).collect();
        resolver.shared.take(answer(of_service, of_instances));
        calls.extend((0..probes).map(|_| resolver.pick("").unwrap()));
        assert!(resolver.pick("").is_err());
        // An answer that tells nothing new frees none.
        resolver.shared.take(answer(of_service, of_instances));
        assert!(resolver.pick("").is_err());
    }
}

#[tokio::test]
async fn those_that_get_what_is_too_much_take_turns() {
    let mut spare = other(11, CLOSED);
    spare.policy = BalancePolicy::RoundRobin.into();
    let resolver =
        resolver(ResolveResponse { next: vec![spare], ..answer(false, [HALF_OPEN, HALF_OPEN]) });
    let tries: Vec<_> = (0..6).map(|_| resolver.pick("").unwrap()).collect();
    let calls: Vec<_> = (0..20).map(|_| resolver.pick("").unwrap()).collect();
    let of = |number| calls.iter().filter(|call| call.instance().incarnation == number).count();
    assert_eq!((of(11), of(12)), (10, 10));
    assert!(tries.iter().all(|call| call.instance().incarnation < 3));
}

#[tokio::test]
async fn those_that_are_not_told_of_for_a_while_are_not_tried_anew() {
    let first = answer(false, [HALF_OPEN, HALF_OPEN]);
    let both = ResolveResponse { next: vec![other(11, HALF_OPEN)], ..first.clone() };
    let resolver = resolver(both.clone());
    let _calls: Vec<_> = (0..12).map(|_| resolver.pick("").unwrap()).collect();
    resolver.shared.take(first);
    resolver.shared.take(both);
    assert!(resolver.pick("").is_err(), "as many as may try them do");
}

#[tokio::test]
async fn calls_from_before_a_breaker_opened_take_no_place_of_those_that_try_it() {
    let resolver = resolver(answer(false, [CLOSED, CLOSED]));
    let _calls: Vec<_> = (0..20).map(|_| resolver.pick("").unwrap()).collect();
    // While they are open, they are not told of.
    resolver.shared.take(other(11, CLOSED));
    resolver.shared.take(answer(false, [HALF_OPEN, HALF_OPEN]));
    let _tries: Vec<_> = (0..6).map(|_| resolver.pick("").unwrap()).collect();
    assert!(resolver.pick("").is_err());
}

#[tokio::test]
async fn a_service_that_is_denied_while_what_is_told_may_be_old_is_gone_on_with() {
    let resolver = resolver(answer(false, [CLOSED, CLOSED]));
    let denied = || Rejection::new(Reason::ServiceNotFound, "there is none");
    resolver.shared.watch_is_stale.store(true, Ordering::Relaxed);
    assert!(resolver.shared.go_on_without(denied()).is_err());
    assert!(resolver.is_stale());
    resolver.pick("").unwrap().done(true);
    // A node that knows denies it.
    resolver.shared.watch_is_stale.store(false, Ordering::Relaxed);
    resolver.shared.go_on_without(denied()).unwrap();
    assert_eq!(resolver.pick("").unwrap_err().reason, Reason::ServiceNotFound);
}

#[tokio::test]
async fn what_is_reported_of_calls_keeps_which_failures_were_in_a_row() {
    let resolver = resolver(answer(false, [CLOSED, CLOSED]));
    let instance = resolver.instances().remove(0);
    let report = |calls: &[bool]| {
        calls.iter().for_each(|ok| resolver.shared.note(&instance, *ok, 10));
        let told = resolver.shared.take_untold();
        assert_eq!(told.len(), 1);
        let told = &told[0];
        assert_eq!((told.service.as_str(), told.instance.as_str()), ("s", "i1"));
        let rows = [told.failed_at_start, told.failed_in_a_row, told.failed_at_end];
        (told.ok, told.failed, rows.map(Option::unwrap), told.latency_us)
    };
    // Ten failures among a hundred that went well are none in a row.
    let scattered: Vec<_> = (0..110).map(|n| n % 11 != 5).collect();
    assert_eq!(report(&scattered), (100, 10, [0, 1, 0], 10));
    assert_eq!(report(&[true, false, false, false, false, false]), (1, 5, [0, 5, 5], 10));
    assert_eq!(report(&[false, false, false, false, false, true]), (1, 5, [5, 5, 0], 10));
    assert_eq!(report(&[false, false]), (0, 2, [2, 2, 2], 0));
    assert!(resolver.shared.take_untold().is_empty(), "told once");
}
