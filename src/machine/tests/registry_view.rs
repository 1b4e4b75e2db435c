//! What somebody who watches the registry knows, against what is there.

use std::collections::BTreeMap;

use crate::machine::mem::MemKv;
use crate::machine::registry::changes::ChangeRecord;
use crate::machine::registry::{query, watch};
use crate::model::limits::REGISTRY_LOG_MAX;
use crate::model::registry::ServiceConfig;
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
