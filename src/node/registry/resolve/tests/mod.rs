//! Who is chosen from, and who is not.

mod all;

use super::*;
use crate::machine::registry::changes::ChangeRecord;
use crate::model::registry::{InstanceSpec, ServiceConfig};
use crate::node::registry::egress::Egress;
use crate::runtime::clock;

struct Instance(&'static str, &'static str, Health);

/// A service: its name, its settings, its instances.
type Told<'t> = (&'t str, fn(&mut ServiceConfig), &'t [Instance]);

fn registry(services: &[Told<'_>]) -> Registry {
    let registry = Registry::new(Egress::default());
    let mut changes = Vec::new();
    for (name, change, instances) in services {
        let mut config = ServiceConfig::defaults();
        config.slow_start_ms = 0;
        change(&mut config);
        let service = ServiceRecord { config, ..ServiceRecord::default() };
        let (service_name, service_after) = ((*name).to_owned(), Some(service));
        changes.push(ChangeRecord { service: service_name, service_after, ..Default::default() });
        for Instance(id, zone, health) in *instances {
            let spec = InstanceSpec {
                service: (*name).to_owned(),
                id: (*id).to_owned(),
                zone: (*zone).to_owned(),
                version: "1.0.0".to_owned(),
                weight_milli: 1000,
                ..InstanceSpec::default()
            };
            let health = *health as i32;
            let record = InstanceRecord { spec, health, ..InstanceRecord::default() };
            changes.push(ChangeRecord {
                service: (*name).to_owned(),
                instance: (*id).to_owned(),
                instance_after: Some(record),
                service_after: None,
            });
        }
    }
    (1..).zip(changes).for_each(|change| registry.view.add(change));
    registry
}

fn resolve(registry: &Registry, change: impl FnOnce(&mut Wanted)) -> Result<String, Reason> {
    let mut wanted = Wanted { service: "s".into(), count: 1000, ..Wanted::default() };
    change(&mut wanted);
    let found = registry.choose(&wanted, 7, UnixMs(100_000), clock::now());
    found.map(|found| text(&found)).map_err(|rejection| rejection.reason)
}

/// The service that it was failed over to, the ids, and whether it is a panic.
fn text(found: &Resolved) -> String {
    let mut ids: Vec<_> = found.instances.iter().map(|i| i.spec.id.as_str()).collect();
    ids.sort_unstable();
    let panic = if found.panic { "!" } else { "" };
    format!("{}{}{panic}", found.failed_over_to.as_deref().unwrap_or_default(), ids.join(","))
}

use Health::{Critical, Passing};

#[test]
fn only_those_that_answer_are_given() {
    let registry = registry(&[(
        "s",
        |_| (),
        &[Instance("a", "", Passing), Instance("b", "", Critical), Instance("c", "", Passing)],
    )]);
    assert_eq!(resolve(&registry, |_| ()).unwrap(), "a,c");
    assert_eq!(resolve(&registry, |w| w.requirement = "^1".into()).unwrap(), "a,c");
    assert_eq!(resolve(&registry, |w| w.requirement = "^2".into()), Err(Reason::NoInstance));
    assert_eq!(resolve(&registry, |w| w.protocol = "http".into()), Err(Reason::NoInstance));
    assert_eq!(resolve(&registry, |w| w.service = "t".into()), Err(Reason::ServiceNotFound));
    assert_eq!(resolve(&registry, |w| w.requirement = "one".into()), Err(Reason::InvalidConfig));
    assert_eq!(resolve(&registry, |w| w.count = 0), Err(Reason::InvalidRequest));
}

#[test]
fn when_too_few_answer_all_are_given() {
    let few =
        &[Instance("a", "", Passing), Instance("b", "", Critical), Instance("c", "", Critical)];
    assert_eq!(resolve(&registry(&[("s", |_| (), few)]), |_| ()).unwrap(), "a,b,c!");
    let calm = registry(&[("s", |c| c.panic_percent = 0, few)]);
    assert_eq!(resolve(&calm, |_| ()).unwrap(), "a");
    let none = registry(&[("s", |c| c.panic_percent = 0, &[Instance("a", "", Critical)])]);
    assert_eq!(resolve(&none, |_| ()), Err(Reason::NoInstance));
}

#[test]
fn the_callers_zone_comes_first() {
    let three =
        &[Instance("a", "x", Passing), Instance("b", "y", Passing), Instance("c", "z", Critical)];
    let plain = registry(&[("s", |_| (), three)]);
    let from = |registry: &Registry, zone: &str| {
        let zone = zone.to_owned();
        resolve(registry, |w| w.zone = zone).unwrap()
    };
    assert_eq!(from(&plain, "x"), "a");
    assert_eq!(from(&plain, "z"), "a,b", "nobody answers there");
    assert_eq!(from(&plain, ""), "a,b");
    assert_eq!(from(&registry(&[("s", |c| c.zones_equal = true, three)]), "x"), "a,b");
    let next = |c: &mut ServiceConfig| {
        c.failover = vec![Failover { service: String::new(), zone: "y".into() }];
    };
    assert_eq!(from(&registry(&[("s", next, three)]), "z"), "b");
}

#[test]
fn who_is_sent_to_another_zone_is_told_and_counted() {
    let two = &[Instance("a", "x", Passing), Instance("b", "y", Passing)];
    let to_t = |c: &mut ServiceConfig| {
        c.failover = vec![Failover { service: "t".into(), zone: String::new() }];
    };
    let of_t = &[Instance("c", "y", Passing)];
    let registry = registry(&[
        ("s", |_| (), two),
        ("equal", |c| c.zones_equal = true, two),
        ("down", to_t, &[Instance("d", "x", Critical)]),
        ("t", |_| (), of_t),
        ("panics", |_| (), &[Instance("e", "", Critical)]),
    ]);
    let from = |service: &str, zone: &str, all: bool| {
        let (service, zone) = (service.to_owned(), zone.to_owned());
        let wanted = Wanted { service, zone, count: 1, all, ..Wanted::default() };
        let found = registry.choose(&wanted, 7, UnixMs(100_000), clock::now()).unwrap();
        let zone = found.instances[0].spec.zone.clone();
        let told = found.other_zone.clone();
        assert!(told.is_none_or(|told| told == zone), "{found:?}");
        found.other_zone
    };
    let told = |zone: &str| Some(zone.to_owned());
    assert_eq!(from("s", "x", false), None);
    assert_eq!(from("s", "", false), None, "whoever is nowhere is sent anywhere");
    assert_eq!(from("equal", "z", false), None, "zones do not matter");
    assert_eq!(registry.out_of_zone.load(Ordering::Relaxed), 0);
    assert!(from("s", "z", false).is_some());
    assert_eq!(from("down", "x", false), told("y"), "of a service that is called in its place");
    assert_eq!(from("panics", "x", false), told(""));
    assert_eq!(registry.out_of_zone.load(Ordering::Relaxed), 3);
    // Who chooses by itself is told, too, and counts by itself.
    assert_eq!(from("s", "y", true), None);
    assert!(from("s", "z", true).is_some());
    assert_eq!(registry.out_of_zone.load(Ordering::Relaxed), 3);
}

/// Gives the instances of `s` the numbers from 100 on, and changes them.
fn renumber(registry: &Registry, change: impl Fn(&mut InstanceRecord)) {
    renumber_of(registry, "s", 100, change);
}

fn renumber_of(
    registry: &Registry,
    service: &str,
    from: u64,
    change: impl Fn(&mut InstanceRecord),
) {
    let known = registry.view.service(service).unwrap();
    for (number, record) in (from..).zip(&known.instances) {
        let mut record = InstanceRecord { number, ..(**record).clone() };
        change(&mut record);
        let (service, instance) = (service.to_owned(), record.spec.id.clone());
        let instance_after = Some(record);
        let change = ChangeRecord { service, instance, instance_after, service_after: None };
        registry.view.add((number, change));
    }
}

#[test]
fn who_has_tried_the_callers_zone_gets_others_and_then_other_services_only_when_all_are_down() {
    let back_up = |c: &mut ServiceConfig| {
        c.failover = vec![
            Failover { service: String::new(), zone: "y".into() },
            Failover { service: "t".into(), zone: String::new() },
        ];
    };
    let three =
        &[Instance("a", "x", Passing), Instance("b", "y", Passing), Instance("c", "z", Passing)];
    let registry =
        registry(&[("s", back_up, three), ("t", |_| (), &[Instance("d", "x", Passing)])]);
    renumber(&registry, |_| ());
    let except = |numbers: &[u64]| {
        resolve(&registry, |w| {
            (w.zone, w.healthy_only, w.except) = ("x".into(), true, numbers.to_vec());
        })
    };
    assert_eq!(except(&[]).unwrap(), "a");
    assert_eq!(except(&[100]).unwrap(), "b");
    assert_eq!(except(&[100, 101]).unwrap(), "c");
    assert_eq!(except(&[100, 101, 102]), Err(Reason::NoInstance));
    let zone = "x".to_owned();
    let wanted = Wanted { service: "s".into(), zone, healthy_only: true, ..Wanted::default() };
    let all = Some(("s".to_owned(), vec![100, 101, 102]));
    assert_eq!(registry.takers(&wanted, UnixMs(100_000)), all, "a zone that is full is no bound");
    // Nobody answers at home: the next zone, and back at once.
    let health = |critical: &[&str]| {
        renumber(&registry, |record| {
            let is_critical = critical.contains(&record.spec.id.as_str());
            record.health = if is_critical { Critical } else { Passing } as i32;
        });
    };
    health(&["a"]);
    assert_eq!(except(&[]).unwrap(), "b");
    health(&[]);
    assert_eq!(except(&[]).unwrap(), "a");
    health(&["a", "b", "c"]);
    assert_eq!(except(&[]).unwrap(), "td");
}

#[test]
fn in_a_panic_who_is_shut_off_counts_as_unhealthy_and_is_not_called() {
    let five = &[
        Instance("a", "", Passing),
        Instance("b", "", Passing),
        Instance("c", "", Passing),
        Instance("d", "", Critical),
        Instance("e", "", Critical),
    ];
    let registry = registry(&[("s", |_| (), five)]);
    assert_eq!(resolve(&registry, |_| ()).unwrap(), "a,b,c", "three of five are enough");
    renumber(&registry, |record| {
        if record.spec.id == "c" {
            record.breaker.state = BreakerState::Open as i32;
        }
    });
    assert_eq!(resolve(&registry, |_| ()).unwrap(), "a,b,d,e!", "two of five are not");
    assert_eq!(resolve(&registry, |w| w.healthy_only = true).unwrap(), "a,b");
}

#[test]
fn a_service_that_breakers_shut_off_falls_back_and_comes_back_late() {
    for (of_service, of_instances) in [
        (BreakerState::ForcedOpen, BreakerState::Closed),
        (BreakerState::Open, BreakerState::Closed),
        (BreakerState::Closed, BreakerState::Open),
    ] {
        let registry = tried_registry(of_service, of_instances);
        assert_eq!(resolve(&registry, |_| ()), Err(Reason::NoInstance));
        registry_of_t().into_iter().for_each(|change| registry.view.add(change));
        assert_eq!(resolve(&registry, |_| ()).unwrap(), "tb");
        // Closed, five seconds ago; then ten.
        renumber(&registry, |record| record.breaker.state = BreakerState::Closed as i32);
        let mut service = registry.view.service("s").unwrap().service.clone().unwrap();
        service.breaker.state = BreakerState::Closed as i32;
        for (recovered_at_ms, wanted) in [(95_000, "tb"), (90_000, "a,b")] {
            service.recovered_at_ms = recovered_at_ms;
            let service_after = Some(service.clone());
            let service = "s".to_owned();
            let change = ChangeRecord { service, service_after, ..ChangeRecord::default() };
            registry.view.add((300, change));
            assert_eq!(resolve(&registry, |_| ()).unwrap(), wanted);
        }
    }
}

#[test]
fn a_service_that_is_down_falls_back_and_comes_back_late() {
    let back_up = |c: &mut ServiceConfig| {
        c.failover = vec![
            Failover { service: "gone".into(), zone: String::new() },
            Failover { service: "t".into(), zone: String::new() },
        ];
    };
    let other = &[Instance("b", "", Passing)];
    let registry =
        registry(&[("s", back_up, &[Instance("a", "", Critical)]), ("t", |_| (), other)]);
    assert_eq!(resolve(&registry, |_| ()).unwrap(), "tb");
    // It is back, five seconds ago.
    let known = registry.view.service("s").unwrap();
    let mut service = known.service.clone().unwrap();
    service.recovered_at_ms = 95_000;
    let mut instance = (*known.instances[0]).clone();
    instance.health = Passing as i32;
    let put = |service: ServiceRecord, revision| {
        let change = ChangeRecord {
            service: "s".into(),
            service_after: Some(service),
            ..ChangeRecord::default()
        };
        registry.view.add((revision, change));
    };
    put(service.clone(), 100);
    let change = ChangeRecord {
        service: "s".into(),
        instance: "a".into(),
        instance_after: Some(instance),
        service_after: None,
    };
    registry.view.add((101, change));
    assert_eq!(resolve(&registry, |_| ()).unwrap(), "tb");
    service.recovered_at_ms = 90_000;
    put(service, 102);
    assert_eq!(resolve(&registry, |_| ()).unwrap(), "a");
}

#[test]
fn services_that_are_passed_over_do_not_end_the_list() {
    let back_up = |c: &mut ServiceConfig| {
        let step = |service: &str| Failover { service: service.into(), zone: String::new() };
        c.failover = ["t", "u"].map(step).into();
    };
    let own = &[Instance("a", "", Critical)];
    let (t, u) = (&[Instance("b", "", Passing)], &[Instance("c", "", Passing)]);
    let registry = registry(&[("s", back_up, own), ("t", |_| (), t), ("u", |_| (), u)]);
    renumber_of(&registry, "u", 300, |_| ());
    let without = |names: &[&str], all| {
        let passed_over = names.iter().map(|name| (*name).to_owned()).collect();
        resolve(&registry, |w| (w.passed_over, w.all) = (passed_over, all)).unwrap()
    };
    for all in [false, true] {
        assert_eq!(without(&[], all), "tb");
        assert_eq!(without(&["t"], all), "uc");
        assert_eq!(without(&["t", "u"], all), "a!", "nobody is left but their own");
    }
    let passed_over = vec!["t".to_owned()];
    let wanted = Wanted { service: "s".into(), passed_over, ..Wanted::default() };
    let of_u = Some(("u".to_owned(), vec![300]));
    assert_eq!(registry.takers(&wanted, UnixMs(100_000)), of_u);
}

#[test]
fn a_breaker_that_is_tried_lets_few_calls_through() {
    let two = &[Instance("a", "", Passing), Instance("b", "", Passing)];
    let registry = registry(&[("s", |c| c.balance = BalancePolicy::RoundRobin as i32, two)]);
    let known = registry.view.service("s").unwrap();
    let mut records: Vec<_> = known.instances.iter().map(|i| (**i).clone()).collect();
    records[0].breaker.state = BreakerState::HalfOpen as i32;
    let changes = (100..).zip(records).map(|(number, record)| {
        let record = InstanceRecord { number, ..record };
        let (service, instance) = ("s".to_owned(), record.spec.id.clone());
        let instance_after = Some(record);
        (number, ChangeRecord { service, instance, instance_after, service_after: None })
    });
    changes.for_each(|change| registry.view.add(change));
    let of_a = (0..20).filter(|_| resolve(&registry, |w| w.count = 1).unwrap() == "a").count();
    assert_eq!(of_a, 3);
}

/// Two instances with the numbers 100 and 101 whose breakers stand as told, and so does the service's.
fn tried_registry(of_service: BreakerState, of_instances: BreakerState) -> Registry {
    let back_up = |c: &mut ServiceConfig| {
        c.failover = vec![Failover { service: "t".into(), zone: String::new() }];
    };
    let two = &[Instance("a", "", Passing), Instance("b", "", Passing)];
    let registry = registry(&[("s", back_up, two)]);
    let known = registry.view.service("s").unwrap();
    let mut service = known.service.clone().unwrap();
    service.breaker.state = of_service as i32;
    let service_after = Some(service);
    let change = ChangeRecord { service: "s".into(), service_after, ..ChangeRecord::default() };
    registry.view.add((99, change));
    renumber(&registry, |record| record.breaker.state = of_instances as i32);
    registry
}

#[test]
fn when_all_are_being_tried_by_enough_calls_one_more_is_refused() {
    for (of_service, of_instances, probes) in [
        (BreakerState::Closed, BreakerState::HalfOpen, 6),
        (BreakerState::HalfOpen, BreakerState::Closed, 3),
        (BreakerState::HalfOpen, BreakerState::HalfOpen, 3),
    ] {
        let registry = tried_registry(of_service, of_instances);
        let one = |w: &mut Wanted| w.count = 1;
        for _ in 0..probes {
            resolve(&registry, one).unwrap();
        }
        let wanted = Wanted { service: "s".into(), count: 1, ..Wanted::default() };
        let refused = registry.choose(&wanted, 7, UnixMs(100_000), clock::now()).unwrap_err();
        assert_eq!(refused.reason, Reason::NoInstance);
        assert_eq!(refused.retry_delay_ms(), Some(PROBES_RETRY_MS), "{refused}");
        assert!(registry.takers(&wanted, UnixMs(100_000)).is_some(), "it is not down");
        // One is over: another one may go.
        for number in [100, 101] {
            registry.calls.reported(number, 1, 0, clock::now());
        }
        resolve(&registry, one).unwrap();
        // Those of the list get what is too much.
        let of_t = registry_of_t();
        of_t.into_iter().for_each(|change| registry.view.add(change));
        let found: Vec<_> = (0..20).map(|_| resolve(&registry, one).unwrap()).collect();
        assert!(found.iter().filter(|id| *id != "tb").count() <= probes, "{found:?}");
        assert_eq!(found.last().unwrap(), "tb");
    }
}

/// A service `t` with an instance `b`.
fn registry_of_t() -> Vec<super::super::view::Change> {
    let config = ServiceConfig { slow_start_ms: 0, ..ServiceConfig::defaults() };
    let service_after = Some(ServiceRecord { config, ..ServiceRecord::default() });
    let spec = InstanceSpec { service: "t".into(), id: "b".into(), ..InstanceSpec::default() };
    let record = InstanceRecord { spec, number: 200, ..InstanceRecord::default() };
    let instance_after = Some(InstanceRecord { health: Passing as i32, ..record });
    let (service, instance) = ("t".to_owned(), "b".to_owned());
    let of_service =
        ChangeRecord { service: service.clone(), service_after, ..ChangeRecord::default() };
    let of_instance = ChangeRecord { service, instance, instance_after, service_after: None };
    vec![(200, of_service), (201, of_instance)]
}

#[test]
fn at_most_as_many_are_given_as_the_breaker_of_a_service_lets_through() {
    let registry = tried_registry(BreakerState::HalfOpen, BreakerState::Closed);
    assert_eq!(resolve(&registry, |_| ()).unwrap(), "a,b");
    let one = resolve(&registry, |_| ()).unwrap();
    assert!(one == "a" || one == "b", "{one}: three are enough");
}

#[test]
fn an_open_breaker_is_not_passed_for_lack_of_others() {
    let registry = tried_registry(BreakerState::Closed, BreakerState::Open);
    assert_eq!(resolve(&registry, |_| ()), Err(Reason::NoInstance));
}

/// How often `b` is chosen, of so many choices by each caller in turn: the service that is called, and from where.
fn turns_of_b(registry: &Registry, callers: &[(&str, &str)], rounds: usize) -> Vec<usize> {
    let mut of_b = vec![0; callers.len()];
    for _ in 0..rounds {
        for ((service, zone), of_b) in callers.iter().zip(&mut of_b) {
            let (service, zone) = ((*service).to_owned(), (*zone).to_owned());
            let found = resolve(registry, |w| (w.service, w.zone, w.count) = (service, zone, 1));
            *of_b += usize::from(found.unwrap() == "b");
        }
    }
    of_b
}

#[test]
fn services_and_callers_do_not_take_each_others_turns() {
    let two = &[Instance("a", "x", Passing), Instance("b", "y", Passing)];
    let round: fn(&mut ServiceConfig) = |c| c.balance = BalancePolicy::RoundRobin as i32;
    let rounds = registry(&[("s", round, two), ("t", round, two)]);
    // Nobody is in the zones of the last two.
    let callers = [("s", ""), ("t", ""), ("s", "v"), ("s", "w")];
    assert_eq!(turns_of_b(&rounds, &callers, 100), [50; 4]);
    // Steps of 610 along the multiples of the golden ratio hardly move.
    let weighted: fn(&mut ServiceConfig) = |c| c.balance = BalancePolicy::Weighted as i32;
    let weighted = registry(&[("s", weighted, two), ("t", weighted, two)]);
    renumber(&weighted, |record| {
        record.spec.weight_milli = if record.spec.id == "b" { 2000 } else { 1000 };
    });
    let callers: Vec<_> = std::iter::once(("s", "")).chain([("t", ""); 609]).collect();
    let of_b = turns_of_b(&weighted, &callers, 90)[0];
    assert!((57..=63).contains(&of_b), "{of_b} of 90");
}

#[test]
fn warmth_grows() {
    let record = InstanceRecord { health_since_ms: 1000, ..InstanceRecord::default() };
    let at = |ms| warmth_milli(&record, 10_000, UnixMs(ms));
    assert_eq!([at(1000), at(3000), at(6000), at(11_000)], [100, 200, 500, 1000]);
}

#[test]
fn who_delivers_takes_only_those_that_answer_and_not_the_same_twice() {
    let few =
        &[Instance("a", "", Passing), Instance("b", "", Critical), Instance("c", "", Critical)];
    let registry = registry(&[("s", |_| (), few)]);
    let healthy = |w: &mut Wanted| w.healthy_only = true;
    assert_eq!(resolve(&registry, healthy).unwrap(), "a");
    // All made here have incarnation 0.
    let except = |w: &mut Wanted| (w.healthy_only, w.except) = (true, vec![0]);
    assert_eq!(resolve(&registry, except), Err(Reason::NoInstance));
    let mut wanted = Wanted { service: "s".into(), healthy_only: true, ..Wanted::default() };
    assert_eq!(registry.takers(&wanted, UnixMs(0)), Some(("s".to_owned(), vec![0])));
    wanted.protocol = "http".into();
    assert_eq!(registry.takers(&wanted, UnixMs(0)), None);
}

#[test]
fn who_is_busy_is_no_reason_to_fall_back() {
    let back_up = |c: &mut ServiceConfig| {
        c.failover = vec![Failover { service: "t".into(), zone: String::new() }];
    };
    let (own, other) = (&[Instance("a", "", Passing)], &[Instance("b", "", Passing)]);
    let registry = registry(&[("s", back_up, own), ("t", |_| (), other)]);
    let known = registry.view.service("t").unwrap();
    let record = InstanceRecord { number: 5, ..(*known.instances[0]).clone() };
    let (service, instance) = ("t".to_owned(), "b".to_owned());
    let instance_after = Some(record);
    let change = ChangeRecord { service, instance, instance_after, service_after: None };
    registry.view.add((100, change));
    // Incarnation 0 is that of a.
    let busy = |w: &mut Wanted| (w.healthy_only, w.except) = (true, vec![0]);
    assert_eq!(resolve(&registry, busy), Err(Reason::NoInstance));
}

#[test]
fn what_the_breaker_of_a_service_shuts_off_is_not_called_for_lack_of_others() {
    let registry = registry(&[("s", |_| (), &[Instance("a", "", Passing)])]);
    let mut service = registry.view.service("s").unwrap().service.clone().unwrap();
    service.breaker.state = BreakerState::Open as i32;
    let service_after = Some(service);
    let change = ChangeRecord { service: "s".into(), service_after, ..ChangeRecord::default() };
    registry.view.add((100, change));
    assert_eq!(resolve(&registry, |_| ()), Err(Reason::NoInstance));
}
