//! Watching the registry: what is there, and every change after it, without gaps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::view::Snapshot;
use super::{Change, Consistency, Known};
use crate::machine::registry::changes::ChangeRecord;
use crate::machine::registry::watch::changes;
use crate::model::limits::{
    PAGE_BYTES_TARGET, REGISTRY_PAGE, WATCH_STALE_LOOK_MS, WATCHED_SERVICES_MAX,
};
use crate::model::quota::check_service;
use crate::model::rejection::{Reason, Rejection};
use crate::node::Node;

/// What a watcher is told at once: about as much as a page takes.
#[derive(Clone, Debug, Default)]
pub struct WatchPart {
    /// In order.
    pub changes: Vec<Change>,
    /// Of the services whose instances changed: how long those may be silent that do not say, as it is now.
    pub ttls_ms: BTreeMap<String, u64>,
    /// All changes up to here were told.
    pub revision: u64,
    /// The rest of what was there at the beginning is still to come.
    pub continues: bool,
    /// This node hears of no leader, or has not caught up: changes may be missing until it says otherwise.
    pub stale: bool,
}

/// What is there when somebody begins to watch, shared with the registry and with who else does; only what is
/// told next becomes changes.
#[derive(Default)]
struct Begin {
    revision: u64,
    services: Snapshot,
    /// Which service is next, and how many of its changes were told: itself, then its instances.
    place: (usize, usize),
}

impl Begin {
    /// As many changes as one part takes.
    fn page(&mut self) -> Vec<Change> {
        let (mut page, mut bytes) = (Vec::new(), 0);
        while page.len() < REGISTRY_PAGE && bytes < PAGE_BYTES_TARGET {
            let Some(change) = self.next() else { break };
            bytes += change.encoded_len();
            page.push((self.revision, change));
        }
        page
    }

    fn next(&mut self) -> Option<ChangeRecord> {
        loop {
            let (at, told) = self.place;
            let (name, known) = self.services.get(at)?;
            let service = name.clone();
            let Some(before) = told.checked_sub(1) else {
                self.place = (at, 1);
                let service_after = known.service.clone();
                return Some(ChangeRecord { service, service_after, ..Default::default() });
            };
            if let Some(instance) = known.instances.get(before) {
                self.place = (at, told + 1);
                let (id, after) = (instance.spec.id.clone(), Some((**instance).clone()));
                let change = ChangeRecord { service, instance: id, ..Default::default() };
                return Some(ChangeRecord { instance_after: after, ..change });
            }
            self.place = (at + 1, 0);
        }
    }

    /// Whether all was told.
    fn is_over(&self) -> bool {
        let (at, told) = self.place;
        let is_last = at + 1 == self.services.len();
        let over = |(_, known): &(String, Arc<Known>)| is_last && told > known.instances.len();
        self.services.get(at).is_none_or(over)
    }
}

/// Somebody who watches.
pub struct Watch {
    node: Arc<Node>,
    /// Empty: all services.
    services: BTreeSet<String>,
    told: broadcast::Receiver<Arc<Change>>,
    /// `None`: what is there comes first.
    after: Option<u64>,
    revision: u64,
    /// What was there at the beginning, as far as it was not told; `None`: nobody has looked yet.
    begin: Option<Begin>,
    begun: bool,
    /// There are changes that were not heard, or too many to hear.
    behind: bool,
    stale: bool,
    /// While it is stale: what has to be told before it is not any more; `None`: that is not known yet.
    up_to: Option<u64>,
    /// Which answer will tell it.
    asked: Option<u64>,
    answers: watch::Receiver<(u64, u64)>,
    _permit: OwnedSemaphorePermit,
}

/// Who watches keeps what it named for as long as it watches.
fn check_names(services: &BTreeSet<String>) -> Result<(), Rejection> {
    if services.len() > WATCHED_SERVICES_MAX {
        let text = format!(
            "{} services are more than {WATCHED_SERVICES_MAX}; watch all of them, or with several watches",
            services.len()
        );
        return Err(Rejection::new(Reason::InvalidRequest, text));
    }
    services.iter().try_for_each(|name| check_service(name))
}

impl Node {
    /// Watches services (none: all of them): from a revision on, or what is there first.
    ///
    /// # Errors
    /// `INVALID_REQUEST` for too many names, `INVALID_NAME`, `OVERLOADED`, `WATCH_COMPACTED`, `BEYOND_END` for a revision that this node, having caught up,
    /// has not seen; and those of [`Node::fresh`].
    pub async fn watch_services(
        self: &Arc<Self>,
        services: BTreeSet<String>,
        after: Option<u64>,
    ) -> Result<Watch, Rejection> {
        check_names(&services)?;
        let permit = Arc::clone(&self.registry.watchers).try_acquire_owned().map_err(|_| {
            Rejection::new(Reason::Overloaded, "too many watch on this node; watch on another")
        })?;
        if let Some(after) = after {
            if after > self.registry.view.revision() {
                // It may just be late.
                self.fresh(Consistency::Linearizable, self.deadline()).await?;
            }
            self.read(move |db| changes(db, after, 1)).await??;
        }
        Ok(Watch {
            node: Arc::clone(self),
            services,
            told: self.registry.view.changes(),
            after,
            revision: after.unwrap_or(0),
            begin: None,
            begun: false,
            behind: false,
            stale: false,
            up_to: None,
            asked: None,
            answers: self.registry.freshness.answers(),
            _permit: permit,
        })
    }
}

impl Watch {
    /// What comes next; waits until there is something. The first part comes soon, be it empty: also who wants
    /// nothing of what is there is told whether this may be old.
    ///
    /// # Errors
    /// `SHUTTING_DOWN`, `WATCH_COMPACTED` for who was too slow.
    pub async fn next(&mut self) -> Result<WatchPart, Rejection> {
        if !self.begun {
            let mut begin = match self.begin.take() {
                Some(begin) => begin,
                None => self.look().await,
            };
            let changes = begin.page();
            self.begun = begin.is_over();
            self.begin = Some(begin).filter(|_| !self.begun);
            return Ok(self.part(changes));
        }
        loop {
            let stale = self.is_stale();
            if stale != self.stale {
                self.stale = stale;
                return Ok(self.part(Vec::new()));
            }
            // Read first: what it knows of was told before.
            let known = self.node.registry.view.revision();
            if self.behind || (known > self.revision && self.told.is_empty()) {
                let changes = self.catch_up().await?;
                if !changes.is_empty() {
                    return Ok(self.part(changes));
                }
                continue;
            }
            let look = Duration::from_millis(WATCH_STALE_LOOK_MS);
            let shutdown = self.node.shutdown.clone();
            tokio::select! {
                heard = self.told.recv() => {
                    let changes = self.hear(heard)?;
                    if !changes.is_empty() {
                        return Ok(self.part(changes));
                    }
                }
                // Now it may be known what is missing.
                _ = self.answers.changed(), if self.stale => {}
                () = tokio::time::sleep(look) => {}
                () = shutdown.wait() => return Err(crate::node::lead::stopping()),
            }
        }
    }

    /// What is there, when this node has caught up or could not in time.
    async fn look(&mut self) -> Begin {
        self.up_to = self.node.catch_up_to().await;
        let (revision, services, told) = self.node.registry.view.subscribe(&self.services);
        self.told = told;
        self.revision = self.after.unwrap_or(revision);
        self.behind = self.revision < revision;
        self.stale = self.node.is_cut_off() || self.up_to.is_none_or(|up_to| revision < up_to);
        // Who named a revision knows what was there.
        let services = if self.after.is_none() { services } else { Snapshot::default() };
        Begin { revision, services, place: (0, 0) }
    }

    /// Whether what was told may be old. Once it may be, it is until all was told that the hub knew when this node
    /// asked.
    fn is_stale(&mut self) -> bool {
        if self.node.is_cut_off() {
            (self.up_to, self.asked) = (None, None);
            return true;
        }
        if self.stale && self.up_to.is_none() {
            let asked = *self.asked.get_or_insert_with(|| self.node.registry.freshness.ask());
            let (answered, up_to) = *self.answers.borrow_and_update();
            self.up_to = (answered >= asked).then_some(up_to);
        }
        self.stale && self.up_to.is_none_or(|up_to| self.revision < up_to)
    }

    /// The changes that follow what was told, from the state.
    async fn catch_up(&mut self) -> Result<Vec<Change>, Rejection> {
        let after = self.revision;
        let found = self.node.read(move |db| changes(db, after, REGISTRY_PAGE)).await??;
        self.behind = found.more;
        Ok(self.passed(found.changes))
    }

    /// Notes what is told, and leaves out what nobody asked for.
    fn passed(&mut self, mut found: Vec<Change>) -> Vec<Change> {
        if let Some((last, _)) = found.last() {
            self.revision = *last;
        }
        let wanted =
            |c: &ChangeRecord| self.services.is_empty() || self.services.contains(&c.service);
        found.retain(|(_, change)| wanted(change));
        found
    }

    /// The changes that follow what was told, as they were heard.
    fn hear(&mut self, heard: Result<Arc<Change>, RecvError>) -> Result<Vec<Change>, Rejection> {
        match heard {
            Ok(change) if change.0 == self.revision + 1 => {
                let (found, gap) = neighbours(&change, &mut self.told);
                self.behind |= gap;
                return Ok(self.passed(found));
            }
            Ok(change) if change.0 <= self.revision => {}
            Ok(_) | Err(RecvError::Lagged(_)) => self.behind = true,
            Err(RecvError::Closed) => return Err(crate::node::lead::stopping()),
        }
        Ok(Vec::new())
    }

    fn part(&self, changes: Vec<Change>) -> WatchPart {
        let (revision, continues, stale) = (self.revision, !self.begun, self.stale);
        let told = changes.iter().filter(|(_, change)| change.instance_after.is_some());
        let services: BTreeSet<_> = told.map(|(_, change)| change.service.as_str()).collect();
        let ttl_ms = |name: &str| {
            let known = self.node.registry.view.service(name)?;
            Some((name.to_owned(), known.service.as_ref()?.config.health.ttl_ms))
        };
        let ttls_ms = services.into_iter().filter_map(ttl_ms).collect();
        WatchPart { changes, ttls_ms, revision, continues, stale }
    }
}

/// A change and those that are heard after it, as many as one part has; and whether one between them was not
/// told, as where the state of another node was taken over.
fn neighbours(first: &Change, told: &mut broadcast::Receiver<Arc<Change>>) -> (Vec<Change>, bool) {
    let (mut found, mut bytes, mut last) = (vec![first.clone()], first.1.encoded_len(), first.0);
    while found.len() < REGISTRY_PAGE
        && bytes < PAGE_BYTES_TARGET
        && let Ok(next) = told.try_recv()
    {
        if next.0 != last + 1 {
            return (found, true);
        }
        bytes += next.1.encoded_len();
        last = next.0;
        found.push((*next).clone());
    }
    (found, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::registry::records::{InstanceRecord, ServiceRecord};
    use crate::model::registry::InstanceSpec;

    /// A service with so many instances, each with so many bytes to say.
    fn known(service: &str, instances: usize, bytes: usize) -> (String, Arc<Known>) {
        let instance = |n: usize| {
            let metadata = [("x".to_owned(), "y".repeat(bytes))].into();
            let id = format!("i-{n}");
            let spec = InstanceSpec { id, metadata, ..InstanceSpec::default() };
            Arc::new(InstanceRecord { spec, ..InstanceRecord::default() })
        };
        let instances = (0..instances).map(instance).collect();
        let known = Known { service: Some(ServiceRecord::default()), instances };
        (service.to_owned(), Arc::new(known))
    }

    fn begin(services: Vec<(String, Arc<Known>)>) -> Begin {
        Begin { revision: 7, services: services.into(), place: (0, 0) }
    }

    #[test]
    fn what_is_there_is_told_once_and_in_order_in_parts_that_fit() {
        let kib = 1 << 10;
        let services = vec![
            known("empty", 0, 0),
            known("many", REGISTRY_PAGE, 0),
            known("large", 100, 30 * kib),
            known("last", 2, 3 * PAGE_BYTES_TARGET),
        ];
        let wanted = services.iter().flat_map(|(name, known)| {
            let ids = known.instances.iter().map(|instance| instance.spec.id.clone());
            std::iter::once(String::new()).chain(ids).map(|id| (name.clone(), id))
        });
        let wanted: Vec<_> = wanted.collect();
        let (mut begin, mut told) = (begin(services), Vec::new());
        while !begin.is_over() {
            let page = begin.page();
            let sizes: Vec<_> = page.iter().map(|(_, change)| change.encoded_len()).collect();
            let before_last: usize = sizes.iter().rev().skip(1).sum();
            assert!(!page.is_empty() && page.len() <= REGISTRY_PAGE, "{sizes:?}");
            assert!(before_last < PAGE_BYTES_TARGET, "{sizes:?}");
            for (revision, change) in page {
                assert_eq!(revision, 7);
                assert_eq!(change.service_after.is_some(), change.instance.is_empty());
                assert_eq!(change.instance_after.is_some(), !change.instance.is_empty());
                told.push((change.service, change.instance));
            }
        }
        assert_eq!(told, wanted);
    }

    #[test]
    fn changes_that_are_heard_together_have_no_gap() {
        let (tell, mut told) = broadcast::channel(16);
        let heard = |told: &mut _| {
            let (found, gap) = neighbours(&(7, ChangeRecord::default()), told);
            (found.into_iter().map(|(revision, _)| revision).collect::<Vec<_>>(), gap)
        };
        assert_eq!(heard(&mut told), (vec![7], false));
        for revision in [8, 9, 12] {
            tell.send(Arc::new((revision, ChangeRecord::default()))).unwrap();
        }
        assert_eq!(heard(&mut told), (vec![7, 8, 9], true));
    }

    #[test]
    fn who_watches_names_so_many_services_and_no_more() {
        let names = |count: usize| (0..count).map(|n| format!("s{n}")).collect::<BTreeSet<_>>();
        check_names(&names(0)).unwrap();
        check_names(&names(WATCHED_SERVICES_MAX)).unwrap();
        let refused = |names| check_names(&names).unwrap_err().reason;
        assert_eq!(refused(names(WATCHED_SERVICES_MAX + 1)), Reason::InvalidRequest);
        assert_eq!(refused(BTreeSet::from(["x".repeat(1 << 20)])), Reason::InvalidName);
    }

    #[test]
    fn where_nothing_is_all_was_told() {
        let mut nothing = begin(Vec::new());
        assert!(nothing.is_over() && nothing.page().is_empty());
        let mut one = begin(vec![known("s", 0, 0)]);
        assert!(!one.is_over());
        assert_eq!(one.page().len(), 1);
        assert!(one.is_over());
    }
}
