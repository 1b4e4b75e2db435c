//! What somebody who watches the registry, or asks it, knows, against what is there.

use std::collections::BTreeMap;

use super::apply;
use crate::machine::mem::MemKv;
use crate::machine::registry::changes::ChangeRecord;
use crate::machine::registry::{graph, query, watch};
use crate::model::command::{CommandBatch, Kind, PutService, RegisterInstances};
use crate::model::limits::REGISTRY_LOG_MAX;
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
