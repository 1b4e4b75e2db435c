//! What somebody who watches the registry, or asks it, knows, against what is there.

use std::collections::BTreeMap;

use super::apply;
use crate::machine::mem::MemKv;
use crate::machine::registry::changes::ChangeRecord;
use crate::machine::registry::{graph, query, watch};
use crate::model::command::{CommandBatch, Kind, PutService, RegisterInstances};
use crate::model::limits::{DEPENDENCY_CHAIN_MAX, REGISTRY_LOG_MAX};
use crate::model::outcome::Outcome;
use crate::model::registry::{Address, Dependency, InstanceSpec, ServiceConfig};
use crate::model::rejection::Reason;

/// Watching from any kept revision, and applying what is told, leads to what is there.
pub(super) fn check_watch(kv: &MemKv, views: &mut Vec<(u64, View)>, context: &str) {
    let now = View::of(kv);
    let newest = watch::revision(kv).unwrap();
    views.retain(|(revision, _)| newest - revision <= REGISTRY_LOG_MAX);
    for (revision, view) in &*views {
        let mut view = view.clone();
        let changes = watch::changes(kv, *revision, usize::MAX).unwrap().unwrap();
        let told: Vec<_> = changes.iter().map(|(revision, _)| *revision).collect();
        assert_eq!(told, (revision + 1..=newest).collect::<Vec<_>>(), "{context}");
        changes.into_iter().for_each(|(_, change)| view.apply(change));
        assert_eq!(view, now, "{context}: from {revision}");
    }
    views.push((newest, now));
    let beyond = watch::changes(kv, newest + 1, 1).unwrap();
    assert_eq!(beyond.unwrap_err().reason, Reason::BeyondEnd, "{context}");
    if newest > REGISTRY_LOG_MAX {
        let old = watch::changes(kv, 0, 1).unwrap();
        assert_eq!(old.unwrap_err().reason, Reason::WatchCompacted, "{context}");
    }
}

/// What a watcher knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct View {
    services: BTreeMap<String, (u64, ServiceConfig)>,
    instances: BTreeMap<(String, String), (u64, i32, i32, i32)>,
}

impl View {
    fn of(kv: &MemKv) -> Self {
        let mut view = Self::default();
        for info in query::services(kv, "", 100).unwrap() {
            for record in query::instances(kv, &info.name).unwrap() {
                let key = (info.name.clone(), record.spec.id.clone());
                let stands = (record.health, record.mode, record.breaker.state);
                view.instances.insert(key, (record.revision, stands.0, stands.1, stands.2));
            }
            view.services.insert(info.name, (info.revision, info.config));
        }
        view
    }

    fn apply(&mut self, change: ChangeRecord) {
        let ChangeRecord { service, instance, service_after, instance_after } = change;
        if instance.is_empty() {
            match service_after {
                Some(record) => {
                    self.services.insert(service, (record.revision, record.config));
                }
                None => drop(self.services.remove(&service)),
            }
            return;
        }
        match instance_after {
            Some(r) => {
                let stands = (r.revision, r.health, r.mode, r.breaker.state);
                self.instances.insert((service, instance), stands);
            }
            None => drop(self.instances.remove(&(service, instance))),
        }
    }
}

#[test]
fn a_cause_is_named_where_what_needs_it_was_unfolded_for_somebody_optional() {
    let mut kv = MemKv::default();
    let needs = |service: &str, optional| {
        let service = service.to_owned();
        Dependency { service, requirement: String::new(), optional }
    };
    let services = [
        ("b", vec![needs("e", false)], false),
        ("d", vec![needs("b", true), needs("e", false)], true),
        ("e", vec![needs("a", false)], true),
    ];
    let mut commands = Vec::new();
    for (name, dependencies, has_instance) in services {
        let config = ServiceConfig { dependencies, ..ServiceConfig::defaults() };
        let put = PutService { name: name.to_owned(), config, ..PutService::default() };
        commands.push(Kind::PutService(put).into());
        let instance = InstanceSpec {
            service: name.to_owned(),
            id: "i".to_owned(),
            addresses: vec![Address { protocol: "http".into(), address: "10.0.0.1:80".into() }],
            weight_milli: 1000,
            ..InstanceSpec::default()
        };
        let instances = if has_instance { vec![instance] } else { Vec::new() };
        commands.push(Kind::RegisterInstances(RegisterInstances { instances }).into());
    }
    apply(&mut kv, &[CommandBatch { stamp_ms: 1, commands }], 1);
    let tree = graph::tree(&kv, "d").unwrap().unwrap();
    let names = |chain: &Vec<&graph::Node>| {
        chain.iter().map(|node| node.service.as_str()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(tree.causes().iter().map(names).collect::<Vec<_>>(), ["d e a"]);
}

#[test]
fn a_chain_of_dependencies_is_bounded_from_either_end_and_in_the_middle() {
    let put = |kv: &mut MemKv, entry: u64, name: usize, on: Option<usize>| {
        let dependencies =
            on.map(|on| Dependency { service: format!("s{on}"), ..Default::default() });
        let config = ServiceConfig {
            dependencies: dependencies.into_iter().collect(),
            ..ServiceConfig::defaults()
        };
        let put = PutService { name: format!("s{name}"), config, ..PutService::default() };
        let commands = vec![Kind::PutService(put).into()];
        match apply(kv, &[CommandBatch { stamp_ms: 1, commands }], entry).remove(0).remove(0) {
            Outcome::Rejected(rejection) => Some(rejection.reason),
            _ => None,
        }
    };
    let most = DEPENDENCY_CHAIN_MAX;
    let middle = most / 2;
    // Two halves: s1 -> s2 ... up to the middle, and from behind it to the last, which needs nobody.
    let mut kv = MemKv::default();
    let links = (1..most).filter(|at| *at != middle);
    for (entry, at) in (1..).zip(links.collect::<Vec<_>>().into_iter().rev()) {
        assert_eq!(put(&mut kv, entry, at, Some(at + 1)), None);
    }
    assert_eq!(put(&mut kv, 100, middle, Some(middle + 1)), None, "of {most} services");
    assert_eq!(put(&mut kv, 101, 0, Some(1)), Some(Reason::LimitReached));
    assert_eq!(put(&mut kv, 102, most, Some(most + 1)), Some(Reason::LimitReached));
    // A longer half may be joined in the middle no more, and what is there may be put again.
    assert_eq!(put(&mut kv, 103, middle, None), None);
    assert_eq!(put(&mut kv, 104, most, Some(most + 1)), None);
    assert_eq!(put(&mut kv, 105, middle, Some(middle + 1)), Some(Reason::LimitReached));
    assert_eq!(put(&mut kv, 106, 1, Some(2)), None);
    assert!(graph::tree(&kv, "s1").unwrap().is_some());
}

#[test]
fn the_way_round_a_circle_is_named() {
    let mut kv = MemKv::default();
    let mut put = |name: &str, needs: &[&str]| {
        let mut config = ServiceConfig::defaults();
        let dependency = |service: &&str| Dependency {
            service: (*service).to_owned(),
            requirement: String::new(),
            optional: false,
        };
        config.dependencies = needs.iter().map(dependency).collect();
        let put = PutService { name: name.to_owned(), config, ..PutService::default() };
        let entry = CommandBatch { stamp_ms: 1, commands: vec![Kind::PutService(put).into()] };
        apply(&mut kv, &[entry], 1).remove(0).remove(0)
    };
    for (name, needs) in [("a", &["b"][..]), ("b", &["x", "c"]), ("c", &["d"]), ("d", &["e"])] {
        assert!(matches!(put(name, needs), Outcome::Service(_)));
    }
    let Outcome::Rejected(rejection) = put("e", &["x", "a"]) else { panic!("it is taken") };
    assert_eq!(rejection.reason, Reason::DependencyCycle);
    assert_eq!(rejection.fact("path"), Some("e -> a -> b -> c -> d -> e"));
    assert!(matches!(put("e", &["x"]), Outcome::Service(_)));
    let edges = |name: &str| {
        let found = graph::edges(&kv, name).unwrap()?;
        let texts = found.iter().map(|(from, d)| format!("{from}-{}", d.service));
        Some(texts.collect::<Vec<_>>().join(" "))
    };
    assert_eq!(edges("x").unwrap(), "b-x e-x");
    assert_eq!(edges("b").unwrap(), "a-b b-x b-c");
    assert_eq!(edges("").unwrap(), "a-b b-x b-c c-d d-e e-x");
    assert_eq!(edges("y"), None);
}
