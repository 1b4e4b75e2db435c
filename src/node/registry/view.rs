//! The registry in memory: what this node has applied of it, ready to be resolved from and watched.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use tokio::sync::{broadcast, watch};

use crate::machine::Fault;
use crate::machine::kv::Kv;
use crate::machine::registry::changes::ChangeRecord;
use crate::machine::registry::records::{InstanceRecord, ServiceRecord};
use crate::machine::registry::{query, watch as changes};
use crate::model::limits::{REGISTRY_CHANGES_KEPT, REGISTRY_PAGE};

/// A service and its instances.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// Absent for a moment when a watcher hears of instances first; never in what is read whole.
    pub service: Option<ServiceRecord>,
    /// In the order of their ids.
    pub instances: Vec<Arc<InstanceRecord>>,
}

impl Known {
    /// An instance.
    #[must_use]
    pub fn instance(&self, id: &str) -> Option<&Arc<InstanceRecord>> {
        self.place(id).ok().map(|at| &self.instances[at])
    }

    /// Where an instance is, or would be.
    fn place(&self, id: &str) -> Result<usize, usize> {
        self.instances.binary_search_by(|instance| instance.spec.id.as_str().cmp(id))
    }
}

/// A change, with the revision that it led to.
pub type Change = (u64, ChangeRecord);

/// Services as they were at one revision, by name, in no order.
pub(super) type Snapshot = Arc<[(String, Arc<Known>)]>;

/// A revision, what was there, and what comes after it.
pub(super) type Subscribed = (u64, Snapshot, broadcast::Receiver<Arc<Change>>);

/// A snapshot that some may hold, and its revision.
type Shared = (u64, Weak<[(String, Arc<Known>)]>);

fn nothing() -> Shared {
    (0, Weak::<[(String, Arc<Known>); 0]>::new())
}

/// What this node knows.
pub(super) struct View {
    inner: RwLock<Inner>,
    /// All services at a revision, while somebody reads them: who begins to watch at the same one shares them.
    shared: Mutex<Shared>,
    /// The revision that is known.
    revision: watch::Sender<u64>,
    /// What came last, for those who watch and keep up.
    changes: broadcast::Sender<Arc<Change>>,
}

#[derive(Default)]
struct Inner {
    revision: u64,
    services: HashMap<String, Arc<Known>>,
}

impl Default for View {
    fn default() -> Self {
        Self {
            inner: RwLock::default(),
            shared: Mutex::new(nothing()),
            revision: watch::Sender::default(),
            changes: broadcast::Sender::new(REGISTRY_CHANGES_KEPT),
        }
    }
}

/// What the state has beyond what is known.
pub(super) enum News {
    /// Changes, in order, and whether there are more.
    Changes(Vec<Change>, bool),
    /// Too much to tell: all of it, as of a revision.
    Whole(u64, HashMap<String, Arc<Known>>),
}

/// Reads what came after a revision.
pub(super) fn news(kv: &impl Kv, after: u64) -> Result<News, Fault> {
    fail::fail_point!("registry::news");
    fail::fail_point!("registry::whole", |_| whole(kv));
    match changes::changes(kv, after, REGISTRY_PAGE)? {
        Ok(page) => Ok(News::Changes(page.changes, page.more)),
        Err(_) => whole(kv),
    }
}

fn whole(kv: &impl Kv) -> Result<News, Fault> {
    let (mut services, mut after) = (HashMap::new(), String::new());
    loop {
        let page = query::services(kv, &after, REGISTRY_PAGE)?;
        let Some(last) = page.last() else { break };
        after.clone_from(&last.name);
        for info in page {
            let Some((service, instances)) = query::service(kv, &info.name)? else { continue };
            let instances = instances.into_iter().map(Arc::new).collect();
            services.insert(info.name, Arc::new(Known { service: Some(service), instances }));
        }
    }
    Ok(News::Whole(changes::revision(kv)?, services))
}

impl View {
    /// The revision that is known.
    pub(super) fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    /// Tells of each new revision.
    pub(super) fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// A service.
    pub(super) fn service(&self, name: &str) -> Option<Arc<Known>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).services.get(name).cloned()
    }

    /// All services, in no order.
    pub(super) fn all(&self) -> Vec<(String, Arc<Known>)> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.services.iter().map(|(name, known)| (name.clone(), Arc::clone(known))).collect()
    }

    /// All that comes from now on.
    pub(super) fn changes(&self) -> broadcast::Receiver<Arc<Change>> {
        self.changes.subscribe()
    }

    /// These services (none: all of them) at one revision, and all that comes after it.
    pub(super) fn subscribe(&self, names: &BTreeSet<String>) -> Subscribed {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        // Under the same lock under which changes are told.
        let changes = self.changes.subscribe();
        let snapshot = if names.is_empty() { self.whole(&inner) } else { inner.some(names) };
        (inner.revision, snapshot, changes)
    }

    fn whole(&self, inner: &Inner) -> Snapshot {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let (revision, known) = &*shared;
        if let Some(known) = known.upgrade().filter(|_| *revision == inner.revision) {
            return known;
        }
        let all = inner.services.iter().map(|(name, known)| (name.clone(), Arc::clone(known)));
        let all: Snapshot = all.collect();
        *shared = (inner.revision, Arc::downgrade(&all));
        all
    }

    /// Begins anew. Those who watch find that something is missing, and read it.
    pub(super) fn replace(&self, revision: u64, services: HashMap<String, Arc<Known>>) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        *inner = Inner { revision, services };
        *self.shared.lock().unwrap_or_else(PoisonError::into_inner) = nothing();
        self.revision.send_replace(revision);
    }

    /// Takes a change in, and tells those who watch.
    pub(super) fn add(&self, (revision, change): Change) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.revision = revision;
        inner.change(&change);
        // Nobody may watch.
        let _ = self.changes.send(Arc::new((revision, change)));
        self.revision.send_replace(revision);
    }
}

impl Inner {
    fn some(&self, names: &BTreeSet<String>) -> Snapshot {
        let known = |name: &String| Some((name.clone(), Arc::clone(self.services.get(name)?)));
        names.iter().filter_map(known).collect()
    }

    fn change(&mut self, change: &ChangeRecord) {
        if change.instance.is_empty() && change.service_after.is_none() {
            self.services.remove(&change.service);
            return;
        }
        let known = Arc::make_mut(self.services.entry(change.service.clone()).or_default());
        if change.instance.is_empty() {
            known.service.clone_from(&change.service_after);
            return;
        }
        match (known.place(&change.instance), &change.instance_after) {
            (Ok(at), Some(after)) => known.instances[at] = Arc::new(after.clone()),
            (Err(at), Some(after)) => known.instances.insert(at, Arc::new(after.clone())),
            (Ok(at), None) => drop(known.instances.remove(at)),
            (Err(_), None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::registry::InstanceSpec;

    fn change(instance: &str, number: u64, there: bool) -> ChangeRecord {
        let spec = InstanceSpec { id: instance.to_owned(), ..InstanceSpec::default() };
        let after = InstanceRecord { number, spec, ..InstanceRecord::default() };
        let (named, is_service) = (instance.to_owned(), instance.is_empty());
        ChangeRecord {
            service: "s".to_owned(),
            instance: named,
            service_after: (is_service && there).then(ServiceRecord::default),
            instance_after: (!is_service && there).then_some(after),
        }
    }

    #[test]
    fn changes_lead_to_what_is_there() {
        let view = View::default();
        let (revision, all, mut told) = view.subscribe(&BTreeSet::new());
        assert_eq!((revision, all.len()), (0, 0));
        let changes = vec![
            (1, change("", 0, true)),
            (2, change("b", 1, true)),
            (3, change("a", 2, true)),
            (4, change("b", 3, true)),
        ];
        changes.into_iter().for_each(|change| view.add(change));
        let ids = |view: &View| {
            let known = view.service("s")?;
            Some(known.instances.iter().map(|i| (i.spec.id.clone(), i.number)).collect::<Vec<_>>())
        };
        assert_eq!(ids(&view).unwrap(), [("a".to_owned(), 2), ("b".to_owned(), 3)]);
        assert_eq!((1..=4).map(|_| told.try_recv().unwrap().0).collect::<Vec<_>>(), [1, 2, 3, 4]);
        view.add((5, change("a", 0, false)));
        assert_eq!(ids(&view).unwrap().len(), 1);
        view.add((6, change("b", 0, false)));
        view.add((7, change("", 0, false)));
        assert_eq!((ids(&view), view.revision()), (None, 7));
    }
    #[test]
    fn who_begins_to_watch_shares_what_is_known() {
        let view = View::default();
        let changes = [change("", 0, true), change("a", 1, true)];
        (1..).zip(changes).for_each(|change| view.add(change));
        let (all, named) = (BTreeSet::new(), BTreeSet::from(["s".to_owned(), "gone".to_owned()]));
        let (revision, first, _) = view.subscribe(&all);
        let (_, second, _) = view.subscribe(&all);
        let (_, of_s, _) = view.subscribe(&named);
        assert_eq!((revision, first.len(), of_s.len()), (2, 1, 1));
        assert!(Arc::ptr_eq(&first, &second), "one for all");
        let known = view.service("s").unwrap();
        assert!(Arc::ptr_eq(&first[0].1, &known) && Arc::ptr_eq(&of_s[0].1, &known));
        // It stays as it was, and who comes later sees what is new.
        view.add((3, change("b", 2, true)));
        let (revision, third, _) = view.subscribe(&all);
        let counts = [&first, &third].map(|all| all[0].1.instances.len());
        assert_eq!((revision, counts), (3, [1, 2]));
        assert!(Arc::ptr_eq(&first[0].1.instances[0], &third[0].1.instances[0]));
        // A new beginning at the same revision is another one.
        view.replace(3, HashMap::new());
        assert!(view.subscribe(&all).1.is_empty());
    }
}
