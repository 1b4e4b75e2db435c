//! Cases of the registry that are looked at one by one.

use super::apply;
use crate::machine::mem::MemKv;
use crate::machine::registry::records;
use crate::model::command::{
    CommandBatch, DeregisterInstances, InstanceName, Kind, PutService, RegisterInstances,
    SetBreaker, SetMode,
};
use crate::model::outcome::Outcome;
use crate::model::registry::{Address, BreakerState, InstanceSpec, Mode, ServiceConfig};

/// One instance, which is registered, told what it shall be, and deregistered, a second apart.
#[derive(Default)]
struct One {
    kv: MemKv,
    at: u64,
}

impl One {
    fn run(&mut self, kind: Kind) {
        self.at += 1000;
        let entry = CommandBatch { stamp_ms: self.at, commands: vec![kind.into()] };
        let outcome = apply(&mut self.kv, &[entry], self.at).remove(0).remove(0);
        let Outcome::Instances(each) = outcome else { panic!("{outcome:?}") };
        assert!(each.iter().all(Result::is_ok), "{each:?}");
    }

    fn register(&mut self, process: &str) {
        let address = Address { protocol: "http".into(), address: "10.0.0.1:80".into() };
        let spec = InstanceSpec {
            service: "s".into(),
            id: "i".into(),
            addresses: vec![address],
            weight_milli: 1000,
            process: process.into(),
            ..InstanceSpec::default()
        };
        self.run(Kind::RegisterInstances(RegisterInstances { instances: vec![spec] }));
    }

    fn name() -> Vec<InstanceName> {
        vec![InstanceName { service: "s".into(), id: "i".into(), owner: String::new() }]
    }

    fn owner_says(&mut self, mode: Mode) {
        let (instances, mode) = (Self::name(), mode as i32);
        self.run(Kind::SetMode(SetMode { instances, mode, ..SetMode::default() }));
    }

    fn operator_says(&mut self, mode: Mode) {
        self.operator_repeats(mode, "");
    }

    fn operator_repeats(&mut self, mode: Mode, request_id: &str) {
        let (instances, mode, request_id) = (Self::name(), mode as i32, request_id.to_owned());
        self.run(Kind::SetMode(SetMode { instances, mode, force: true, request_id }));
    }

    fn deregister(&mut self) {
        let instances = Self::name();
        self.run(Kind::DeregisterInstances(DeregisterInstances { instances, force: false }));
    }

    fn mode(&self) -> Mode {
        records::instance(&self.kv, "s", "i").unwrap().unwrap().mode()
    }

    fn healthy_for(&self) -> u64 {
        self.at - records::instance(&self.kv, "s", "i").unwrap().unwrap().health_since_ms
    }
}

#[test]
fn a_time_that_becomes_shorter_leaves_the_one_before_for_as_long_as_that_was() {
    let mut kv = MemKv::default();
    let mut put = |at_ms: u64, ttl_ms| {
        let mut config = ServiceConfig::defaults();
        config.health.ttl_ms = ttl_ms;
        let put = PutService { name: "s".into(), config, ..PutService::default() };
        let commands = vec![Kind::PutService(put).into()];
        apply(&mut kv, &[CommandBatch { stamp_ms: at_ms, commands }], at_ms);
        records::service(&kv, "s").unwrap().unwrap().grace_until_ms
    };
    assert_eq!(put(1000, 20_000), 0);
    assert_eq!(put(2000, 60_000), 0, "a longer one counts at once");
    assert_eq!(put(10_000, 15_000), 70_000);
    // Somebody may not have heard of the first one yet.
    assert_eq!(put(11_000, 3000), 70_000);
    assert_eq!(put(12_000, 15_000), 70_000);
    assert_eq!(put(69_000, 3000), 84_000);
}

#[test]
fn an_operators_mode_outlasts_every_registration() {
    for mode in [Mode::Draining, Mode::Maintenance] {
        let mut one = One::default();
        one.register("first");
        one.operator_says(mode);
        for process in ["first", "second", "", ""] {
            one.register(process);
            assert_eq!(one.mode(), mode, "{process:?}");
        }
        // The owner may end it, and nothing else.
        one.owner_says(Mode::Draining);
        one.register("third");
        assert_eq!(one.mode(), mode);
        one.owner_says(Mode::Up);
        assert_eq!(one.mode(), Mode::Up);
        // It is an operator's also where the owner had said the same before.
        one.owner_says(mode);
        one.operator_says(mode);
        one.register("fourth");
        assert_eq!(one.mode(), mode);
        one.deregister();
        one.register("fourth");
        assert_eq!(one.mode(), Mode::Up);
    }
}

#[test]
fn an_owners_mode_goes_with_its_process() {
    let mut one = One::default();
    for (first, second, kept) in [("p", "p", true), ("p", "q", false), ("q", "", false)] {
        one.register(first);
        one.owner_says(Mode::Draining);
        one.register(second);
        let wanted = if kept { Mode::Draining } else { Mode::Up };
        assert_eq!(one.mode(), wanted, "{first:?}, then {second:?}");
        one.owner_says(Mode::Up);
    }
    // Of processes that are not named nobody knows whether they are the same.
    one.owner_says(Mode::Draining);
    one.register("");
    assert_eq!(one.mode(), Mode::Up);
}

#[test]
fn a_process_that_takes_over_in_time_starts_slowly_and_one_that_registers_again_does_not() {
    let mut one = One::default();
    one.register("p");
    one.register("p");
    assert_eq!(one.healthy_for(), 1000);
    one.register("q");
    assert_eq!(one.healthy_for(), 0);
    one.register("q");
    assert_eq!(one.healthy_for(), 1000);
    one.register("");
    one.register("");
    assert_eq!(one.healthy_for(), 1000);
}

#[test]
fn a_repeated_call_does_not_undo_what_was_said_since() {
    let mut one = One::default();
    one.register("p");
    one.operator_repeats(Mode::Draining, "first");
    one.operator_says(Mode::Up);
    one.operator_repeats(Mode::Draining, "first");
    assert_eq!(one.mode(), Mode::Up);
    one.operator_repeats(Mode::Draining, "second");
    assert_eq!(one.mode(), Mode::Draining);

    for instance in ["i", ""] {
        let mut force = |to: BreakerState, request_id: &str| {
            let set = SetBreaker {
                service: "s".into(),
                instance: instance.into(),
                to: to as i32,
                forced: true,
                request_id: format!("{request_id}{instance}"),
                ..SetBreaker::default()
            };
            one.at += 1000;
            let commands = vec![Kind::SetBreaker(set).into()];
            let entry = CommandBatch { stamp_ms: one.at, commands };
            let outcome = apply(&mut one.kv, &[entry], one.at).remove(0).remove(0);
            assert!(matches!(outcome, Outcome::Done), "{outcome:?}");
            let service = records::service(&one.kv, "s").unwrap().unwrap();
            let found = records::instance(&one.kv, "s", "i").unwrap().unwrap();
            if instance.is_empty() { service.breaker.state() } else { found.breaker.state() }
        };
        assert_eq!(force(BreakerState::ForcedOpen, "open"), BreakerState::ForcedOpen);
        assert_eq!(force(BreakerState::Closed, "close"), BreakerState::Closed);
        assert_eq!(force(BreakerState::ForcedOpen, "open"), BreakerState::Closed);
        assert_eq!(force(BreakerState::ForcedOpen, "again"), BreakerState::ForcedOpen);
    }
}
