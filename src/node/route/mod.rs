//! Delivering events to the instances of services: the leader itself is the consumer of subscriptions
//! that have a target.
//!
//! Each such subscription has a route (`worker.rs`): it pulls events as any consumer does, chooses an
//! instance for each, calls it (`call.rs`), and settles by what it answers (`answer.rs`). A route keeps
//! nothing that is not in the state: a new leader begins anew, and what was under way at the old one
//! comes again when its leases end.

mod answer;
mod call;
mod parcel;
mod worker;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;

use self::call::Carrier;
use self::worker::{Route, Settings};
use crate::machine::Fault;
use crate::machine::kv::Kv;
use crate::machine::subscription::query;
use crate::model::limits::ROUTES_MAX;
use crate::node::Node;
use crate::raft::hints::Interest;
use crate::runtime::tasks;

/// Subscriptions that are read in one go.
const PAGE: usize = 1000;
/// The rest after a look at all subscriptions.
const LOOK: Duration = Duration::from_millis(100);

/// Calls to instances so far.
#[derive(Debug, Default)]
pub(super) struct Routed {
    ok: AtomicU64,
    failed: AtomicU64,
    not_connected: AtomicU64,
}

impl Node {
    /// Calls of this node to instances that it delivered events to, by how they ended.
    #[must_use]
    pub fn routed_calls(&self) -> [(&'static str, u64); 3] {
        let Routed { ok, failed, not_connected } = &self.routed;
        [("ok", ok), ("failed", failed), ("not_connected", not_connected)]
            .map(|(result, count)| (result, count.load(Ordering::Relaxed)))
    }
}

/// Routes by subscription. One whose settings nobody can change any more ends.
type Routes = BTreeMap<String, watch::Sender<Settings>>;

/// Starts the task. It ends with the node.
pub(super) fn start(node: &Arc<Node>) {
    let weak = Arc::downgrade(node);
    let mut hints = node.raft.listen();
    hints.attend(Interest::Targets);
    let mut announced = node.lead.announced();
    let shutdown = node.shutdown.clone();
    let carrier = Arc::new(Carrier::new(&node.registry.egress()));
    tasks::spawn("routes", async move {
        let mut routes = Routes::new();
        loop {
            let Some(node) = Weak::upgrade(&weak) else { return };
            // What changes from here on is looked at again.
            hints.forget();
            if announced.borrow_and_update().is_none() {
                routes.clear();
            } else if let Ok(found) = node.read(|db| targets(db)).await {
                follow(&node, &carrier, &mut routes, found);
            }
            drop(node);
            tokio::time::sleep(LOOK).await;
            tokio::select! {
                () = hints.hear() => {}
                changed = announced.changed() => if changed.is_err() { return },
                () = shutdown.wait() => return,
            }
        }
    });
}

/// All subscriptions with a target.
fn targets(kv: &impl Kv) -> Result<BTreeMap<String, Settings>, Fault> {
    let (mut found, mut after) = (BTreeMap::new(), String::new());
    loop {
        let page = query::subscriptions(kv, &after, PAGE)?;
        let Some(last) = page.last() else { return Ok(found) };
        after.clone_from(&last.name);
        for info in page {
            let Some(target) = info.config.target else { continue };
            let per_instance = info.config.max_in_flight_per_consumer;
            let max_in_flight = info.config.max_in_flight;
            found.insert(info.name, Settings { target, per_instance, max_in_flight });
        }
    }
}

/// Starts routes, tells them of new settings, and ends those that have no target any more.
fn follow(
    node: &Arc<Node>,
    carrier: &Arc<Carrier>,
    routes: &mut Routes,
    found: BTreeMap<String, Settings>,
) {
    // A route that ended by itself is started anew.
    routes.retain(|name, way| found.contains_key(name) && !way.is_closed());
    for (name, settings) in found {
        if let Some(way) = routes.get(&name) {
            way.send_if_modified(|known| {
                let changes = *known != settings;
                *known = settings;
                changes
            });
            continue;
        }
        if routes.len() >= ROUTES_MAX {
            tracing::warn!(subscription = %name, "too many subscriptions have a target: it waits");
            continue;
        }
        let (way, told) = watch::channel(settings);
        let route = Route::new(node, &name, told, carrier);
        tasks::spawn("route", route.run());
        routes.insert(name, way);
    }
}
