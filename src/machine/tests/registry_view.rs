//! What somebody who watches the registry, or asks it, knows, against what is there.

use std::collections::BTreeMap;

use prost::Message as _;

use super::apply;
use crate::machine::mem::MemKv;
use crate::machine::registry::changes::ChangeRecord;
use crate::machine::registry::graph::{self, Lack};
use crate::machine::registry::{query, watch};
use crate::model::command::{CommandBatch, Kind, PutService, RegisterInstances};
use crate::model::limits::{
    DEPENDENCIES_MAX, DEPENDENCY_CHAIN_MAX, LABEL_VALUE_BYTES_MAX, LABELS_MAX, LACK_VERSIONS_MAX,
    PAGE_BYTES_TARGET, REGISTRY_LOG_MAX,
};
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
        let page = watch::changes(kv, *revision, usize::MAX).unwrap().unwrap();
        let (changes, more) = (page.changes, page.more);
        assert!(!more, "{context}");
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
fn of_versions_that_will_not_do_the_first_are_named() {
    let mut kv = MemKv::default();
    let instance = |n: usize| InstanceSpec {
        service: "shop".to_owned(),
        id: format!("i-{n}"),
        addresses: vec![Address { protocol: "http".into(), address: "10.0.0.1:80".into() }],
        version: format!("1.{:02}.0", 99 - n),
        weight_milli: 1000,
        ..InstanceSpec::default()
    };
    let (service, requirement) = ("shop".to_owned(), "^2".to_owned());
    let dependencies = vec![Dependency { service, requirement, optional: false }];
    let config = ServiceConfig { dependencies, ..ServiceConfig::defaults() };
    let put = PutService { name: "web".to_owned(), config, ..PutService::default() };
    let web = InstanceSpec { service: "web".to_owned(), ..instance(0) };
    let mut register = |entry: u64, instances: Vec<InstanceSpec>| {
        let register = Kind::RegisterInstances(RegisterInstances { instances });
        let commands = vec![Kind::PutService(put.clone()).into(), register.into()];
        apply(&mut kv, &[CommandBatch { stamp_ms: entry, commands }], entry);
        let tree = graph::tree(&kv, "web").unwrap().unwrap();
        let lack = tree.causes()[0].last().unwrap().lack.clone();
        let Some(Lack::Incompatible { versions, more }) = lack else { panic!("{lack:?}") };
        (versions, more)
    };
    let named = |count: usize| {
        let first = |n: usize| format!("1.{:02}.0", 100 - count + n);
        (0..count.min(LACK_VERSIONS_MAX)).map(first).collect::<Vec<_>>()
    };
    let mut all: Vec<_> = (0..LACK_VERSIONS_MAX).map(instance).collect();
    all.push(web);
    assert_eq!(register(1, all), (named(LACK_VERSIONS_MAX), false));
    let another = vec![instance(LACK_VERSIONS_MAX)];
    assert_eq!(register(2, another), (named(LACK_VERSIONS_MAX + 1), true));
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

/// Services that declare as much as they may.
fn wide(kv: &mut MemKv, services: u64) {
    for n in 0..services {
        let mut config = ServiceConfig::defaults();
        let needed = |m: usize| Dependency {
            service: format!("{}-{n}-{m}", "needed".repeat(18)),
            requirement: format!(">=1.0.0-{}", "a".repeat(200)),
            optional: true,
        };
        config.dependencies = (0..DEPENDENCIES_MAX).map(needed).collect();
        let label = |m: usize| (m.to_string(), "x".repeat(LABEL_VALUE_BYTES_MAX));
        config.labels = (0..LABELS_MAX).map(label).collect();
        let name = format!("{}-{n:03}", "needing".repeat(16));
        let put = PutService { name, config, ..PutService::default() };
        let entry = CommandBatch { stamp_ms: 1, commands: vec![Kind::PutService(put).into()] };
        let outcome = apply(kv, &[entry], 1).remove(0).remove(0);
        assert!(matches!(outcome, Outcome::Service(_)), "{outcome:?}");
    }
}

#[test]
fn dependencies_and_changes_come_in_pages_that_fit() {
    let mut kv = MemKv::default();
    wide(&mut kv, 100);
    let whole = graph::edges(&kv, "").unwrap().unwrap();
    assert_eq!(whole.len(), 100 * DEPENDENCIES_MAX);
    let (mut told, mut after, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = graph::edges_page(&kv, "", &after).unwrap().unwrap();
        let bytes: usize = page.edges.iter().map(|(from, d)| from.len() + d.encoded_len()).sum();
        assert!(bytes <= PAGE_BYTES_TARGET, "{bytes} bytes");
        assert_eq!(page.edges.len() % DEPENDENCIES_MAX, 0, "what one declares is told at once");
        after.clone_from(&page.edges.last().unwrap().0);
        (told, pages) = ([told, page.edges].concat(), pages + 1);
        if !page.more {
            break;
        }
    }
    assert!(pages > 1);
    assert_eq!(told, whole);
    // Nothing comes after the last, and of nobody nothing is known.
    assert_eq!(graph::edges_page(&kv, "", &after).unwrap(), Some(graph::Edges::default()));
    assert_eq!(graph::edges_page(&kv, "nobody", "").unwrap(), None);
    // So do changes.
    let newest = watch::revision(&kv).unwrap();
    let (mut at, mut pages) = (newest - REGISTRY_LOG_MAX, 0);
    loop {
        let page = watch::changes(&kv, at, usize::MAX).unwrap().unwrap();
        let bytes: usize = page.changes.iter().map(|(_, change)| change.encoded_len()).sum();
        assert!(bytes <= PAGE_BYTES_TARGET, "{bytes} bytes");
        for (revision, _) in &page.changes {
            assert_eq!(*revision, at + 1);
            at = *revision;
        }
        pages += 1;
        if !page.more {
            break;
        }
    }
    assert_eq!((at, pages), (newest, 2));
}

/// Instances of a service, with so many bytes to say of themselves.
fn register_large(kv: &mut MemKv, instances: usize, bytes: usize) {
    let metadata: BTreeMap<_, _> =
        (0..bytes / 250).map(|n| (n.to_string(), "x".repeat(250))).collect();
    let spec = |n: usize| InstanceSpec {
        service: "shop".to_owned(),
        id: format!("i-{n:03}"),
        addresses: vec![Address { protocol: "http".into(), address: "10.0.0.1:80".into() }],
        weight_milli: 1000,
        metadata: metadata.clone(),
        ..InstanceSpec::default()
    };
    let instances = (0..instances).map(spec).collect();
    let register = RegisterInstances { instances };
    let commands = vec![Kind::RegisterInstances(register).into()];
    let outcome = apply(kv, &[CommandBatch { stamp_ms: 1, commands }], 1).remove(0).remove(0);
    let Outcome::Instances(each) = outcome else { panic!("{outcome:?}") };
    assert!(each.iter().all(Result::is_ok), "{each:?}");
}

#[test]
fn instances_come_in_pages_that_fit() {
    let mut kv = MemKv::default();
    register_large(&mut kv, 30, 12_000);
    let ids = |page: &query::Page| {
        page.instances.iter().map(|instance| instance.spec.id.clone()).collect::<Vec<_>>()
    };
    let page = |after: &str, limit| query::page(&kv, "shop", after, limit).unwrap().unwrap();
    let all = page("", usize::MAX);
    assert_eq!((all.instances.len(), all.more, all.service.instances), (30, false, 30));
    let (first, second) = (page("", 20), page("i-019", 20));
    assert_eq!((first.more, second.more), (true, false));
    assert_eq!([ids(&first), ids(&second)].concat(), ids(&all));
    assert!(page("i-029", 20).instances.is_empty());
    assert!(query::page(&kv, "nothing", "", 20).unwrap().is_none());
    // With more than a page takes.
    let mut kv = MemKv::default();
    register_large(&mut kv, 200, 15_000);
    let first = query::page(&kv, "shop", "", usize::MAX).unwrap().unwrap();
    let bytes: usize = first.instances.iter().map(|one| one.spec.encoded_len()).sum();
    assert!(first.more && bytes <= PAGE_BYTES_TARGET, "{bytes} bytes");
    assert!(bytes > PAGE_BYTES_TARGET * 9 / 10, "{bytes} bytes");
}
