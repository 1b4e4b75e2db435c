//! What becomes of services and instances, and what the feed tells of it.

use super::apply;
use crate::machine::mem::MemKv;
use crate::machine::registry::graph::{self, Lack, Node};
use crate::machine::registry::records::ServiceRecord;
use crate::machine::registry::{query as services, standing};
use crate::machine::{lifecycle, query};
use crate::model::command::{
    CommandBatch, DeleteService, DeregisterInstances, HealthChange, InstanceName, Kind, Notice,
    NoticeKind, PutService, RegisterInstances, SetBreaker, SetHealth, Tick,
};
use crate::model::event::EventView;
use crate::model::ids::{Offset, UnixMs};
use crate::model::outcome::Outcome;
use crate::model::registry::{
    Address, BreakerState, Dependency, Failover, InstanceSpec, ServiceConfig, Signal,
};

/// A hub whose feed is read on and on.
#[derive(Default)]
pub(super) struct Hub {
    pub(super) kv: MemKv,
    pub(super) now: u64,
    entries: u64,
    read: u64,
}

impl Hub {
    fn apply(&mut self, kind: Kind) -> Outcome {
        self.entries += 1;
        self.now = self.now.max(1000);
        let entry = CommandBatch { stamp_ms: self.now, commands: vec![kind.into()] };
        apply(&mut self.kv, &[entry], self.entries).remove(0).remove(0)
    }

    /// What the feed tells since it was asked last: kinds without `hub.`, and subjects.
    pub(super) fn told(&mut self) -> Vec<String> {
        let Some(feed) = query::topic(&self.kv, lifecycle::TOPIC).unwrap() else { return vec![] };
        let from = std::mem::replace(&mut self.read, feed.next_offset.get());
        let text = |offset| {
            let stored = query::event_at(&self.kv, &feed, Offset(offset)).unwrap().unwrap();
            let view = EventView::parse(&stored.event).unwrap();
            format!("{} {}", view.kind.trim_start_matches("hub."), view.subject)
        };
        (from..self.read).map(text).collect()
    }

    /// What the newest event of the feed says.
    fn last_data(&self) -> String {
        let feed = query::topic(&self.kv, lifecycle::TOPIC).unwrap().unwrap();
        let newest = Offset(feed.next_offset.get() - 1);
        let stored = query::event_at(&self.kv, &feed, newest).unwrap().unwrap();
        String::from_utf8(EventView::parse(&stored.event).unwrap().data.to_vec()).unwrap()
    }

    /// What the newest event of a kind says.
    fn last_data_of(&self, kind: &str) -> String {
        let feed = query::topic(&self.kv, lifecycle::TOPIC).unwrap().unwrap();
        let event =
            |offset| query::event_at(&self.kv, &feed, Offset(offset)).unwrap().unwrap().event;
        let events = (0..feed.next_offset.get()).rev().map(event);
        let data = |event: bytes::Bytes| {
            let view = EventView::parse(&event).unwrap();
            (view.kind == kind).then(|| String::from_utf8(view.data.to_vec()).unwrap())
        };
        events.into_iter().find_map(data).unwrap()
    }

    pub(super) fn put(&mut self, name: &str, needs: &[&str], failover: &[&str]) {
        self.put_with(name, needs, failover, |_| ());
    }

    /// A service that nobody gets until what it requires is ready.
    pub(super) fn hold(&mut self, name: &str, needs: &[&str]) {
        self.put_with(name, needs, &[], |config| config.hold_until_ready = true);
    }

    fn put_with(
        &mut self,
        name: &str,
        needs: &[&str],
        failover: &[&str],
        change: impl FnOnce(&mut ServiceConfig),
    ) {
        let mut config = ServiceConfig::defaults();
        change(&mut config);
        let need = |service: &&str| {
            let service = (*service).to_owned();
            Dependency { service, requirement: String::new(), optional: false }
        };
        let step =
            |service: &&str| Failover { service: (*service).to_owned(), zone: String::new() };
        config.dependencies = needs.iter().map(need).collect();
        config.breaker.ejected_percent = 100;
        config.failover = failover.iter().map(step).collect();
        let put = PutService { name: name.to_owned(), config, ..PutService::default() };
        assert!(matches!(self.apply(Kind::PutService(put)), Outcome::Service(_)));
    }

    pub(super) fn register(&mut self, service: &str, id: &str) {
        let spec = InstanceSpec {
            service: service.to_owned(),
            id: id.to_owned(),
            version: "1.0.0".to_owned(),
            addresses: vec![Address { protocol: "http".into(), address: "10.0.0.1:80".into() }],
            weight_milli: 1000,
            ..InstanceSpec::default()
        };
        let register = RegisterInstances { instances: vec![spec] };
        self.apply(Kind::RegisterInstances(register));
    }

    fn deregister(&mut self, service: &str, id: &str) {
        let (service, id, owner) = (service.to_owned(), id.to_owned(), String::new());
        let instances = vec![InstanceName { service, id, owner }];
        self.apply(Kind::DeregisterInstances(DeregisterInstances { instances, force: true }));
    }

    /// Moves a breaker, of the service when there is no instance.
    fn breaker(&mut self, service: &str, instance: &str, to: BreakerState) {
        let set = SetBreaker {
            service: service.to_owned(),
            instance: instance.to_owned(),
            to: to as i32,
            forced: true,
            ..SetBreaker::default()
        };
        assert_eq!(self.apply(Kind::SetBreaker(set)), Outcome::Done);
    }

    pub(super) fn renews(&mut self, service: &str, id: &str, ok: bool) {
        let found = services::instances(&self.kv, service).unwrap();
        let record = found.into_iter().find(|record| record.spec.id == id).unwrap();
        let change = HealthChange {
            service: service.to_owned(),
            id: id.to_owned(),
            incarnation: record.number,
            signal: Signal::Ttl as i32,
            ok,
            reason: "said so".to_owned(),
        };
        self.apply(Kind::SetHealth(SetHealth { changes: vec![change] }));
    }

    pub(super) fn tick_at(&mut self, now: u64) {
        self.now = now;
        self.apply(Kind::Tick(Tick {}));
    }

    pub(super) fn service(&self, name: &str) -> ServiceRecord {
        services::service(&self.kv, name).unwrap().unwrap().0
    }

    fn tree(&self, name: &str) -> Node {
        graph::tree(&self.kv, name).unwrap().unwrap()
    }

    /// Tells what a leader would, until there is nothing more; when time alone changes something.
    pub(super) fn lead(&mut self) -> Option<UnixMs> {
        loop {
            let (news, next) = standing::news(&self.kv, UnixMs(self.now)).unwrap();
            if news.is_empty() {
                return next;
            }
            for notice in news {
                self.apply(Kind::Notice(notice.clone()));
                // Nothing is told twice, whoever saw it.
                let known = self.kv.clone();
                let feed =
                    |kv: &MemKv| query::topic(kv, lifecycle::TOPIC).unwrap().unwrap().next_offset;
                self.apply(Kind::Notice(notice));
                assert_eq!(feed(&self.kv), feed(&known));
            }
        }
    }
}

#[test]
fn a_service_whose_breakers_let_nothing_through_is_down_until_one_closes() {
    let mut hub = Hub::default();
    hub.put("shop", &["db"], &[]);
    for id in ["i", "j"] {
        hub.register("shop", id);
    }
    hub.register("db", "k");
    assert!(hub.tree("shop").is_ready());
    hub.told();
    // One of two, then the other.
    hub.breaker("shop", "i", BreakerState::Open);
    assert!(hub.tree("shop").is_ready());
    hub.now = 5000;
    hub.breaker("shop", "j", BreakerState::ForcedOpen);
    assert_eq!(hub.service("shop").down_since_ms, 5000);
    let told = hub.told();
    let wanted =
        ["breaker_opened shop/i", "breaker_forced_open shop/j"].map(|t| format!("instance.{t}"));
    assert_eq!(told, [&wanted[..], &["service.down shop".to_owned()]].concat());
    assert_eq!(hub.tree("shop").lack, Some(Lack::ShutOff { tried: false }));
    // It is tried, which is not back yet, and fails: nothing flaps.
    hub.tick_at(60_000);
    assert_eq!(hub.told(), ["instance.breaker_half_open shop/i"]);
    assert_eq!(hub.tree("shop").lack, Some(Lack::ShutOff { tried: true }));
    hub.breaker("shop", "i", BreakerState::Open);
    hub.tick_at(200_000);
    let told = hub.told();
    assert!(told.iter().all(|told| told.starts_with("instance.")), "{told:?}");
    assert_eq!(hub.service("shop").down_since_ms, 5000);
    hub.breaker("shop", "i", BreakerState::Closed);
    assert_eq!(hub.told(), ["instance.breaker_closed shop/i", "service.recovered shop"]);
    let record = hub.service("shop");
    assert_eq!((record.down_since_ms, record.recovered_at_ms), (0, 200_000));
    assert!(hub.tree("shop").is_ready());
    // The breaker of the service as a whole does the same.
    hub.breaker("shop", "", BreakerState::ForcedOpen);
    assert_eq!(hub.told(), ["service.breaker_forced_open shop", "service.down shop"]);
    assert_eq!(hub.tree("shop").lack, Some(Lack::ShutOff { tried: false }));
    // Who is shut off is still healthy: what it lacks is said, not that nobody answers.
    assert_eq!(hub.tree("shop").healthy, 2);
    hub.breaker("shop", "", BreakerState::ForcedClosed);
    assert_eq!(hub.told(), ["service.breaker_forced_closed shop", "service.recovered shop"]);
}

#[test]
fn breakers_that_are_disabled_close_unless_somebody_forced_them() {
    let switch = |hub: &mut Hub, disabled| {
        let mut config = hub.service("shop").config;
        config.breaker.disabled = disabled;
        let put = PutService { name: "shop".to_owned(), config, ..PutService::default() };
        let outcome = hub.apply(Kind::PutService(put));
        let Outcome::Service(info) = outcome else { panic!("{outcome:?}") };
        let record = hub.service("shop");
        assert_eq!(*info, record.info("shop"));
        (record.down_since_ms, record.recovered_at_ms)
    };
    for (about, kind) in [("", "service"), ("i", "instance")] {
        let mut hub = Hub::default();
        hub.put("web", &["shop"], &[]);
        hub.put("shop", &[], &[]);
        hub.register("web", "i");
        hub.register("shop", "i");
        hub.lead();
        let name = if about.is_empty() { "shop" } else { "shop/i" };
        for (at, state) in [(5000, BreakerState::Open), (7000, BreakerState::HalfOpen)] {
            hub.now = at;
            hub.breaker("shop", about, state);
            assert!(!hub.tree("web").is_ready());
            hub.told();
            assert_eq!(switch(&mut hub, true), (0, at), "{kind} {state:?}");
            let mut told = hub.told();
            told.sort();
            let closed = format!("{kind}.breaker_closed {name}");
            let mut wanted = ["service.changed shop", closed.as_str(), "service.recovered shop"];
            wanted.sort_unstable();
            assert_eq!(told, wanted);
            assert!(hub.tree("web").is_ready());
            switch(&mut hub, false);
        }
        // It was to be opened before, and is only now: it closes when its time is over.
        switch(&mut hub, true);
        hub.breaker("shop", about, BreakerState::Open);
        assert_eq!(hub.service("shop").down_since_ms, 7000);
        hub.told();
        hub.tick_at(100_000);
        let wanted = [format!("{kind}.breaker_closed {name}"), "service.recovered shop".to_owned()];
        assert_eq!(hub.told(), wanted);
        let record = hub.service("shop");
        assert_eq!((record.down_since_ms, record.recovered_at_ms), (0, 100_000));
        // What is forced stays.
        switch(&mut hub, false);
        hub.breaker("shop", about, BreakerState::ForcedOpen);
        assert_eq!(switch(&mut hub, true), (100_000, 100_000));
    }
}

#[test]
fn who_requires_what_is_shut_off_names_it_and_may_call_once_it_is_tried() {
    let mut hub = Hub::default();
    hub.put("web", &["shop"], &[]);
    hub.put("shop", &["db"], &[]);
    for service in ["web", "shop", "db"] {
        hub.register(service, "i");
    }
    let cause = |hub: &Hub| {
        let tree = hub.tree("web");
        let causes = tree.causes();
        let names = causes[0].iter().map(|node| node.service.clone()).collect::<Vec<_>>();
        (names.join(" "), causes[0].last().unwrap().lack.clone(), tree.waits_for().is_empty())
    };
    hub.breaker("db", "i", BreakerState::Open);
    let shut_off = |tried| Some(Lack::ShutOff { tried });
    assert_eq!(cause(&hub), ("web shop db".to_owned(), shut_off(false), false));
    hub.tick_at(60_000);
    assert_eq!(cause(&hub), ("web shop db".to_owned(), shut_off(true), true));
    // Instances of a version that nobody wants do not help, nor do those of the right one that are shut off.
    let mut config = hub.service("web").config;
    config.dependencies[0].requirement = "^2".to_owned();
    let put = PutService { name: "web".to_owned(), config: config.clone(), ..Default::default() };
    hub.apply(Kind::PutService(put));
    let (versions, more) = (vec!["1.0.0".to_owned()], false);
    assert_eq!(cause(&hub).1, Some(Lack::Incompatible { versions, more }));
    config.dependencies[0].requirement = "^1".to_owned();
    let put = PutService { name: "web".to_owned(), config, ..PutService::default() };
    hub.apply(Kind::PutService(put));
    hub.breaker("shop", "i", BreakerState::Open);
    assert_eq!(cause(&hub), ("web shop".to_owned(), shut_off(false), false));
    // Its own breaker being tried makes no difference to that.
    hub.breaker("web", "i", BreakerState::HalfOpen);
    let tree = hub.tree("web");
    assert_eq!((&tree.lack, tree.waits_for().len()), (&shut_off(true), 1));
}

#[test]
fn who_requires_a_service_that_is_deleted_lacks_it() {
    let mut hub = Hub::default();
    hub.put("web", &["shop"], &[]);
    hub.put("shop", &["db"], &[]);
    for service in ["web", "shop", "db"] {
        hub.register(service, "i");
    }
    assert!(hub.tree("web").is_ready());
    let delete = |hub: &mut Hub| {
        let delete = DeleteService { name: "db".to_owned(), request_id: String::new() };
        hub.apply(Kind::DeleteService(delete))
    };
    assert!(matches!(delete(&mut hub), Outcome::Rejected(_)), "it has an instance");
    hub.deregister("db", "i");
    assert_eq!(delete(&mut hub), Outcome::Done);
    let tree = hub.tree("web");
    assert_eq!(tree.lack, Some(Lack::NotReady));
    assert_eq!(tree.needs[0].lack, Some(Lack::NotReady));
    let missing = &tree.needs[0].needs[0];
    assert_eq!((missing.service.as_str(), &missing.lack), ("db", &Some(Lack::Missing)));
    let causes = tree.causes();
    let chain: Vec<_> = causes[0].iter().map(|node| node.service.as_str()).collect();
    assert_eq!((causes.len(), chain), (1, vec!["web", "shop", "db"]));
    // It is still known who needs it, and that it may come back.
    let edges = graph::edges(&hub.kv, "db").unwrap().unwrap();
    assert_eq!((edges.len(), edges[0].0.as_str()), (1, "shop"));
    assert!(graph::tree(&hub.kv, "db").unwrap().is_none());
    hub.register("db", "i");
    assert!(hub.tree("web").is_ready());
}

#[test]
fn services_and_holds_are_told() {
    let mut hub = Hub::default();
    hub.put("shop", &[], &[]);
    assert_eq!(hub.told(), ["service.registered shop"]);
    hub.put("shop", &[], &[]);
    assert_eq!(hub.told(), Vec::<String>::new(), "nothing changed");
    hub.put("shop", &["db"], &[]);
    assert_eq!(hub.told(), ["service.changed shop"]);
    hub.register("db", "i");
    assert_eq!(hub.told(), ["service.registered db", "instance.registered db/i"]);
    // The sixth change within ten minutes; it stands as the first did.
    for n in 0..4 {
        hub.renews("db", "i", n % 2 == 1);
    }
    hub.told();
    hub.renews("db", "i", false);
    assert_eq!(hub.told()[1..], ["instance.hold_begun db/i", "service.down db"]);
    let held = services::instances(&hub.kv, "db").unwrap()[0].held_until_ms;
    hub.renews("db", "i", true);
    assert_eq!(hub.told(), Vec::<String>::new());
    assert!(held > hub.now);
    hub.tick_at(held);
    let told = hub.told();
    let wanted = ["instance.passing db/i", "instance.hold_ended db/i", "service.recovered db"];
    assert_eq!(told, wanted);
    hub.deregister("db", "i");
    hub.told();
    let delete = DeleteService { name: "db".to_owned(), request_id: String::new() };
    hub.apply(Kind::DeleteService(delete));
    assert_eq!(hub.told(), ["service.deleted db"]);
}

#[test]
fn readiness_and_failover_are_told_as_they_change() {
    let mut hub = Hub::default();
    hub.put("web", &["shop"], &[]);
    hub.put("shop", &[], &["gone", "spare"]);
    hub.lead();
    hub.told();
    for service in ["shop", "spare", "web"] {
        hub.register(service, "i");
    }
    hub.told();
    assert_eq!(hub.lead(), None);
    assert_eq!(hub.told(), ["service.ready shop", "service.ready spare", "service.ready web"]);
    assert!(hub.service("web").ready);
    // It is down: so is who requires it, and another one is called.
    hub.breaker("shop", "i", BreakerState::ForcedOpen);
    hub.told();
    assert_eq!(hub.lead(), None);
    let wanted = ["service.not_ready shop", "service.failed_over shop", "service.not_ready web"];
    assert_eq!(hub.told(), wanted);
    let over = |hub: &Hub| {
        let info = hub.service("shop").info("shop");
        (info.failed_over_to, info.failed_over_since)
    };
    let spare = || "spare".to_owned();
    assert_eq!(over(&hub), (spare(), Some(UnixMs(1000))));
    // Since when is not told anew.
    hub.now = 2000;
    let (about, limit) = ("shop".to_owned(), spare());
    let again = Notice { about, kind: NoticeKind::FailedOver as i32, limit, value: 0 };
    hub.apply(Kind::Notice(again));
    assert_eq!((over(&hub), hub.told()), ((spare(), Some(UnixMs(1000))), vec![]));
    // It is back, and called when it has been back for long enough.
    hub.now = 50_000;
    hub.breaker("shop", "i", BreakerState::Closed);
    hub.told();
    let back = hub.lead();
    assert_eq!(back, Some(UnixMs(60_000)));
    assert_eq!(hub.told(), ["service.ready shop", "service.ready web"]);
    hub.now = 59_999;
    assert_eq!(hub.lead(), back);
    hub.now = 60_000;
    assert_eq!(hub.lead(), None);
    assert_eq!(hub.told(), ["service.failed_back shop"]);
    assert_eq!(over(&hub), (String::new(), None));
    // Whoever was called is down, too: nobody is left.
    hub.renews("shop", "i", false);
    hub.lead();
    assert!(hub.last_data().contains("\"service\":\"web\""), "{}", hub.last_data());
    hub.renews("spare", "i", false);
    hub.told();
    hub.lead();
    assert_eq!(hub.told(), ["service.failed_back shop", "service.not_ready spare"]);
    hub.renews("spare", "i", true);
    hub.lead();
    assert_eq!(hub.service("shop").failed_over_to, "spare");
}

#[test]
fn it_is_told_why_an_instance_is_critical_and_a_service_is_not_ready() {
    let mut hub = Hub::default();
    hub.put("web", &["shop"], &[]);
    hub.put("shop", &[], &[]);
    for service in ["web", "shop"] {
        hub.register(service, "i");
    }
    hub.lead();
    hub.renews("shop", "i", false);
    let critical = hub.last_data_of("hub.instance.critical");
    assert_eq!(critical, r#"{"service":"shop","instance":"i","reason":"said so"}"#);
    hub.lead();
    let not_ready = hub.last_data_of("hub.service.not_ready");
    assert_eq!(not_ready, r#"{"service":"web","reason":"web -> shop: no healthy instance"}"#);
    hub.renews("shop", "i", true);
    hub.lead();
    hub.breaker("web", "i", BreakerState::ForcedOpen);
    hub.lead();
    let not_ready = hub.last_data_of("hub.service.not_ready");
    assert_eq!(not_ready, r#"{"service":"web","reason":"web: shut off by breakers"}"#);
}

#[test]
fn who_was_never_there_is_neither_down_nor_failed_over() {
    let mut hub = Hub::default();
    hub.put("shop", &[], &["spare"]);
    hub.register("spare", "i");
    hub.lead();
    assert_eq!(hub.service("shop").failed_over_to, "");
    let told = hub.told();
    assert_eq!(told.last().unwrap(), "service.ready spare");
}

#[test]
fn the_brake_is_told_once_and_only_of_services_that_are_there() {
    let mut hub = Hub::default();
    hub.put("shop", &[], &[]);
    hub.told();
    let notice = |about: &str, kind: NoticeKind, value| {
        let limit = String::new();
        Kind::Notice(Notice { about: about.to_owned(), kind: kind as i32, limit, value })
    };
    hub.now = 7000;
    for _ in 0..2 {
        hub.apply(notice("shop", NoticeKind::BrakeEngaged, 40));
        hub.now += 1000;
    }
    assert_eq!(hub.told(), ["service.brake_engaged shop"]);
    assert_eq!(hub.last_data(), r#"{"service":"shop","silent":"40"}"#);
    assert_eq!(hub.service("shop").info("shop").braked_since, Some(UnixMs(7000)));
    let revision = hub.service("shop").revision;
    for _ in 0..2 {
        hub.apply(notice("shop", NoticeKind::BrakeReleased, 0));
    }
    assert_eq!(hub.told(), ["service.brake_released shop"]);
    assert_eq!(hub.service("shop").info("shop").braked_since, None);
    assert_eq!(hub.service("shop").revision, revision, "its settings are as they were");
    assert_eq!(hub.apply(notice("gone", NoticeKind::BrakeEngaged, 40)), Outcome::Done);
    assert_eq!(hub.told(), Vec::<String>::new());
}
