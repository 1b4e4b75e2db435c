//! What a node tells the state and the leader, beside the task that looks who renews: waiting for an answer it
//! would look late, and take itself for one that stood still.

use std::future::Future;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::renewals::Brake;
use crate::model::command::{HealthChange, Kind, Notice, NoticeKind, SetHealth};
use crate::model::ids::Term;
use crate::model::limits::{HEALTH_CHANGES_MAX, SILENT_TELLS_MAX, STANDINGS_TOLD_MAX};
use crate::node::Node;
use crate::runtime::{clock, tasks};

/// Permits for what is being told.
pub(super) struct Telling {
    silent: Arc<Semaphore>,
    brakes: Arc<Semaphore>,
    calls: Arc<Semaphore>,
}

impl Default for Telling {
    fn default() -> Self {
        let permits = |count| Arc::new(Semaphore::new(count));
        Self { silent: permits(SILENT_TELLS_MAX), brakes: permits(1), calls: permits(1) }
    }
}

/// Begins to tell something; the end of the node ends it.
fn beside(
    node: &Node,
    permit: OwnedSemaphorePermit,
    telling: impl Future<Output = ()> + Send + 'static,
) {
    let shutdown = node.shutdown.clone();
    tasks::spawn("registry-tells", async move {
        tokio::select! {
            () = telling => {}
            () = shutdown.wait() => {}
        }
        drop(permit);
    });
}

fn permit(of: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    Arc::clone(of).try_acquire_owned().ok()
}

/// Tests make it slow to tell something.
#[cfg(feature = "failpoints")]
pub(super) async fn hold_up() {
    drop(tasks::spawn_blocking("hold-up", || fail::fail_point!("registry::tells")).await);
}

impl Node {
    /// Proposes to give these up, who fell silent in a term. Those who cannot be told are looked at again.
    pub(super) fn tell_silent(self: &Arc<Self>, changes: Vec<HealthChange>, term: Term) {
        if changes.is_empty() {
            return;
        }
        let Some(permit) = permit(&self.registry.telling.silent) else {
            return self.registry.renewals().untold(&changes);
        };
        let node = Arc::clone(self);
        beside(self, permit, async move {
            let parts = changes.chunks(HEALTH_CHANGES_MAX);
            let told = join_all(parts.clone().map(|some| node.tell_health(some.to_vec()))).await;
            let mut renewals = node.registry.renewals();
            for (some, is_told) in parts.zip(told) {
                if !is_told && renewals.term() == Some(term) {
                    renewals.untold(some);
                }
            }
        });
    }

    /// Tells the state which brakes were pulled or let go in a term. What cannot be told is told again.
    pub(super) fn tell_brakes(self: &Arc<Self>, brakes: Vec<(String, Option<Brake>)>, term: Term) {
        if brakes.is_empty() {
            return;
        }
        let Some(permit) = permit(&self.registry.telling.brakes) else { return };
        let node = Arc::clone(self);
        beside(self, permit, async move {
            let some = brakes.into_iter().take(STANDINGS_TOLD_MAX);
            join_all(some.map(|(service, brake)| node.tell_brake(service, brake, term))).await;
        });
    }

    async fn tell_brake(&self, service: String, brake: Option<Brake>, term: Term) {
        let (kind, value) = match brake {
            Some(brake) => (NoticeKind::BrakeEngaged, brake.silent as u64),
            None => (NoticeKind::BrakeReleased, 0),
        };
        let notice =
            Notice { about: service.clone(), kind: kind as i32, value, ..Notice::default() };
        match self.execute(Kind::Notice(notice)).await {
            Ok(_) => {
                self.registry.renewals().brake_told(term, &service, brake, clock::now());
            }
            Err(rejection) => tracing::debug!(%rejection, "a brake is not told yet"),
        }
    }

    /// Tells the leader of calls, be it this node or another one. Those that come meanwhile are told after these.
    pub(super) fn tell_calls(self: &Arc<Self>) {
        let Some(permit) = permit(&self.registry.telling.calls) else { return };
        let Some(sighting) = self.registry.sighting() else { return };
        let node = Arc::clone(self);
        beside(self, permit, async move { node.tell(&sighting).await });
    }

    /// Tells the state of changes of health; whether it was told.
    pub(super) async fn tell_health(&self, changes: Vec<HealthChange>) -> bool {
        #[cfg(feature = "failpoints")]
        hold_up().await;
        let told = self.execute(Kind::SetHealth(SetHealth { changes })).await;
        if let Err(rejection) = &told {
            tracing::debug!(%rejection, "changes of health are not told yet");
        }
        told.is_ok()
    }
}
