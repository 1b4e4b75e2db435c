//! What is told to who chooses by itself.

use super::*;

#[test]
fn all_are_told_without_counting_as_called() {
    let two = &[Instance("a", "", Passing), Instance("b", "", Passing)];
    let registry = registry(&[("s", |c| c.slow_start_ms = 200_000, two)]);
    let all = |w: &mut Wanted| (w.count, w.all) = (1, true);
    assert_eq!(resolve(&registry, all).unwrap(), "a,b");
    let wanted = Wanted { service: "s".into(), count: 1, all: true, ..Wanted::default() };
    let found = registry.choose(&wanted, 7, UnixMs(100_000), clock::now()).unwrap();
    assert_eq!((found.warmth_milli, found.policy), (vec![500, 500], BalancePolicy::P2cEwma));
    assert_eq!(registry.calls.of([0].into_iter(), clock::now())[0].1, 0);
    // Who chooses among all keeps to what breakers let through.
    assert_eq!((found.probes, found.service_half_open), (3, false));
    let tried = tried_registry(BreakerState::HalfOpen, BreakerState::Closed);
    assert!(tried.choose(&wanted, 7, UnixMs(100_000), clock::now()).unwrap().service_half_open);
}

/// Whom from who chooses by itself is told to choose, in its order; and whom single calls of a node go to,
/// each when those before are tried by enough of them.
fn told_and_called(registry: &Registry) -> [Vec<String>; 2] {
    let choose = |all| {
        let of = Wanted { service: "s".into(), zone: "x".into(), count: 1, ..Wanted::default() };
        registry.choose(&Wanted { all, ..of }, 7, UnixMs(100_000), clock::now()).unwrap()
    };
    let found = choose(true);
    let told = std::iter::once(&found).chain(&found.next).map(text).collect();
    let mut called: Vec<_> = (0..20).map(|_| text(&choose(false))).collect();
    called.dedup();
    [told, called]
}

#[test]
fn who_chooses_by_itself_is_told_whom_a_node_comes_to_when_others_are_being_tried() {
    use BreakerState::{Closed, HalfOpen};
    let back_up = |c: &mut ServiceConfig| {
        c.failover =
            ["y", "", ""].map(|zone| Failover { zone: zone.into(), service: String::new() }).into();
        (c.failover[1].service, c.failover[2].service) = ("t".into(), "u".into());
    };
    let three =
        &[Instance("a", "x", Passing), Instance("b", "y", Passing), Instance("c", "z", Passing)];
    let registry_of = |of_service: BreakerState, of_instances: BreakerState, recovered_at_ms| {
        let (d, e) = (&[Instance("d", "x", Passing)], &[Instance("e", "z", Passing)]);
        let registry = registry(&[("s", back_up, three), ("t", |_| (), d), ("u", |_| (), e)]);
        let mut service = registry.view.service("s").unwrap().service.clone().unwrap();
        service.breaker.state = of_service as i32;
        service.recovered_at_ms = recovered_at_ms;
        let service_after = Some(service);
        let change = ChangeRecord { service: "s".into(), service_after, ..ChangeRecord::default() };
        registry.view.add((99, change));
        renumber(&registry, |record| record.breaker.state = of_instances as i32);
        renumber_of(&registry, "t", 200, |r| r.breaker.state = HalfOpen as i32);
        renumber_of(&registry, "u", 300, |_| ());
        registry
    };
    for (of_service, of_instances, recovered_at_ms, wanted) in [
        (Closed, Closed, 0, &["a"][..]),
        (Closed, HalfOpen, 0, &["a", "b", "c", "td", "ue"]),
        (HalfOpen, Closed, 0, &["a", "td", "ue"]),
        (HalfOpen, HalfOpen, 0, &["a", "td", "ue"]),
        (Closed, HalfOpen, 95_000, &["td", "ue"]),
    ] {
        let registry = registry_of(of_service, of_instances, recovered_at_ms);
        assert_eq!(told_and_called(&registry), [wanted; 2]);
    }
    // Nobody answers: in the end those who do not are called.
    let to_t = |c: &mut ServiceConfig| {
        c.failover = vec![Failover { service: "t".into(), zone: String::new() }];
    };
    let (a, d) = (&[Instance("a", "x", Critical)], &[Instance("d", "", Passing)]);
    let registry = registry(&[("s", to_t, a), ("t", |_| (), d)]);
    renumber(&registry, |_| ());
    renumber_of(&registry, "t", 200, |r| r.breaker.state = HalfOpen as i32);
    assert_eq!(told_and_called(&registry), [["td", "a!"]; 2]);
}

#[test]
fn no_more_instances_are_told_than_one_answer_takes() {
    let (registry, many) = (registry(&[("s", |_| (), &[])]), RESOLVE_INSTANCES_MAX as u64);
    for number in 1..=many + 10 {
        let zone = if number <= many - 5 { "x" } else { "y" }.to_owned();
        let (service, id, weight_milli) = ("s".to_owned(), number.to_string(), 1000);
        let spec = InstanceSpec { service, id, zone, weight_milli, ..InstanceSpec::default() };
        let mut record = InstanceRecord { number, spec, ..InstanceRecord::default() };
        (record.health, record.breaker.state) = (Passing as i32, BreakerState::HalfOpen as i32);
        let (service, instance) = ("s".to_owned(), record.spec.id.clone());
        let instance_after = Some(record);
        let change = ChangeRecord { service, instance, instance_after, service_after: None };
        registry.view.add((number + 1, change));
    }
    let wanted = Wanted { service: "s".into(), zone: "x".into(), count: 1, ..Wanted::default() };
    let wanted = Wanted { all: true, ..wanted };
    let found = registry.choose(&wanted, 7, UnixMs(100_000), clock::now()).unwrap();
    let counts: Vec<_> = found.next.iter().map(|next| next.instances.len()).collect();
    assert_eq!((found.instances.len(), counts), (RESOLVE_INSTANCES_MAX - 5, vec![5]));
}

#[test]
fn nobody_is_told_twice_and_nothing_empty_is() {
    let twice = |c: &mut ServiceConfig| {
        c.failover = vec![Failover { service: "t".into(), zone: String::new() }; 2];
    };
    let (a, d) = (&[Instance("a", "x", Critical)], &[Instance("d", "", Passing)]);
    let registry = registry(&[("s", twice, a), ("t", |_| (), d)]);
    // Nobody of its own is called, not even in a panic.
    renumber(&registry, |record| record.breaker.state = BreakerState::Open as i32);
    renumber_of(&registry, "t", 200, |r| r.breaker.state = BreakerState::HalfOpen as i32);
    let wanted = Wanted { service: "s".into(), count: 1, all: true, ..Wanted::default() };
    let found = registry.choose(&wanted, 7, UnixMs(100_000), clock::now()).unwrap();
    let told: Vec<_> = std::iter::once(&found).chain(&found.next).map(text).collect();
    assert_eq!(told, ["td"]);
}

/// Adds instances of `s` that are passing and say so many bytes of themselves, in the order of their numbers.
fn add_large(registry: &Registry, numbers: std::ops::RangeInclusive<u64>, bytes: usize) {
    for number in numbers {
        let (service, id) = ("s".to_owned(), format!("i-{number:04}"));
        let metadata = [("x".to_owned(), "y".repeat(bytes))].into();
        let spec = InstanceSpec { service, id, metadata, weight_milli: 1000, ..Default::default() };
        let record = InstanceRecord { number, spec, ..InstanceRecord::default() };
        let (service, instance) = ("s".to_owned(), record.spec.id.clone());
        let instance_after = Some(InstanceRecord { health: Passing as i32, ..record });
        let change = ChangeRecord { service, instance, instance_after, service_after: None };
        registry.view.add((number + 1, change));
    }
}

#[test]
fn no_more_bytes_are_told_than_one_answer_takes() {
    let kib = 1 << 10;
    let registry = registry(&[("s", |_| (), &[])]);
    add_large(&registry, 1..=200, 20 * kib);
    let told = |all: bool, dice: u64| {
        let wanted = Wanted { service: "s".into(), count: 200, all, ..Wanted::default() };
        let found = registry.choose(&wanted, dice, UnixMs(100_000), clock::now()).unwrap();
        found.instances.iter().map(|instance| instance.incarnation).collect::<BTreeSet<_>>()
    };
    // 3 MiB are some 150 of them, with what they say beside that; others each time.
    let some = [told(true, 1), told(true, 2), told(false, 3)];
    for numbers in &some {
        assert!((140..=160).contains(&numbers.len()), "{}", numbers.len());
    }
    assert_ne!(some[0], some[1]);
    // What fits is told whole, and one is in any case.
    let small = super::registry(&[("s", |_| (), &[])]);
    add_large(&small, 1..=200, kib);
    assert_eq!(resolve(&small, |w| w.all = true).unwrap().split(',').count(), 200);
    assert_eq!(resolve(&small, |_| ()).unwrap().split(',').count(), 200);
    let huge = super::registry(&[("s", |_| (), &[])]);
    add_large(&huge, 1..=3, 2 * RESOLVE_BYTES_TARGET);
    assert_eq!(resolve(&huge, |w| w.all = true).unwrap().split(',').count(), 1);
    assert_eq!(resolve(&huge, |_| ()).unwrap().split(',').count(), 1);
}
