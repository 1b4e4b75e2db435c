//! What keeps a node's registry going: one task that hears of changes, and on the leader looks who
//! fell silent.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;

use super::view::{News, news};
use crate::machine::registry::changes::ChangeRecord;
use crate::model::command::{HealthChange, Kind, SetHealth};
use crate::model::ids::Term;
use crate::model::limits::{HEALTH_CHANGES_MAX, RENEWALS_LOOK_MS};
use crate::node::Node;
use crate::raft::hints::Interest;
use crate::runtime::{clock, tasks};

/// Starts the task. It ends with the node.
pub(super) fn start(node: &Arc<Node>) {
    let weak = Arc::downgrade(node);
    let mut hints = node.raft.listen();
    hints.attend(Interest::Registry);
    let mut announced = node.lead.announced();
    let shutdown = node.shutdown.clone();
    tasks::spawn("registry", async move {
        let mut looks = tokio::time::interval(Duration::from_millis(RENEWALS_LOOK_MS));
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let Some(node) = Weak::upgrade(&weak) else { return };
            node.catch_up().await;
            let term = *announced.borrow_and_update();
            if node.registry.renewals().term() != term {
                node.begin_term(term);
            }
            if term.is_some() {
                node.give_up_silent().await;
            }
            node.tell_calls().await;
            drop(node);
            tokio::select! {
                () = hints.hear() => {}
                _ = looks.tick() => {}
                changed = announced.changed() => if changed.is_err() { return },
                () = shutdown.wait() => return,
            }
            hints.forget();
        }
    });
}

impl Node {
    /// Takes in what was applied since.
    async fn catch_up(&self) {
        loop {
            let after = self.registry.view.revision();
            // A node that cannot read its state stops.
            let Ok(found) = self.read(move |db| news(db, after)).await else { return };
            match found {
                News::Changes(changes, more) => {
                    for change in changes {
                        self.heed(&change.1);
                        self.registry.view.add(change);
                    }
                    if !more {
                        return;
                    }
                }
                News::Whole(revision, services) => {
                    self.registry.view.replace(revision, services);
                    // Not in one expression: the lock would still be held.
                    let term = self.registry.renewals().term();
                    self.begin_term(term);
                    return;
                }
            }
        }
    }

    /// What a change that is not taken in yet means for who renews and who is called.
    fn heed(&self, change: &ChangeRecord) {
        if change.instance.is_empty() {
            self.registry.breakers().forget(&change.service, 0);
            return;
        }
        let known = self.registry.view.service(&change.service);
        let before = known.as_ref().and_then(|known| known.instance(&change.instance));
        self.registry.transitions.count(before.map(|record| &**record), change);
        let after = change.instance_after.as_ref();
        if let Some(before) = before {
            let moved = after.is_none_or(|after| after.breaker.state != before.breaker.state);
            if moved {
                self.registry.breakers().forget(&change.service, before.number);
                self.registry.calls.settle(before.number);
            }
            if after.is_none_or(|after| after.number != before.number) {
                self.registry.renewals().forget(before.number);
                self.registry.calls.forget(before.number);
                self.registry.verdicts().forget(before.number);
            }
        }
        if let Some(after) = after {
            // A service that is not known yet has the instance's own time, or its default.
            let service = known.as_ref().and_then(|known| known.service.as_ref());
            let config = service.map(|service| service.config.clone());
            let config = config.unwrap_or_else(crate::model::registry::ServiceConfig::defaults);
            let ttl = Duration::from_millis(after.ttl_ms(&config));
            let mut renewals = self.registry.renewals();
            if renewals.term().is_some() {
                renewals.track(after, ttl, clock::now());
            }
        }
    }

    /// Begins to lead, or ceases to.
    fn begin_term(&self, term: Option<Term>) {
        let mut instances = Vec::new();
        for (_, known) in self.registry.view.all().into_iter().filter(|_| term.is_some()) {
            let Some(service) = &known.service else { continue };
            for record in &known.instances {
                let ttl = Duration::from_millis(record.ttl_ms(&service.config));
                instances.push(((**record).clone(), ttl));
            }
        }
        self.registry.renewals().begin(term, instances, clock::now());
        self.registry.breakers().clear();
        self.registry.verdicts().clear();
    }

    /// Proposes to give those up who fell silent, and says when it does not.
    async fn give_up_silent(&self) {
        let found = self.registry.renewals().look(clock::now());
        for (service, brake) in found.braked {
            tracing::warn!(%service, silent = brake.silent, instances = brake.instances,
                "too many instances fell silent at once: none is given up for now");
        }
        for service in found.released {
            tracing::info!(%service, "instances that fall silent are given up again");
        }
        let told =
            found.changes.chunks(HEALTH_CHANGES_MAX).map(|some| self.tell_health(some.to_vec()));
        join_all(told).await;
    }

    pub(super) async fn tell_health(&self, changes: Vec<HealthChange>) {
        let told = self.execute(Kind::SetHealth(SetHealth { changes: changes.clone() })).await;
        if let Err(rejection) = told {
            tracing::debug!(%rejection, "silent instances are not told yet");
            self.registry.renewals().untold(&changes);
        }
    }
}
