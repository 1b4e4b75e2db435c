//! How calls went, as callers tell: for balancing here, for breakers at the leader.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, Weak};

use bytes::Bytes;
use prost::Message as _;

use super::breakers::{CallOutcome, Counts, Of, Window};
use crate::model::command::{Kind, SetBreaker};
use crate::model::ids::NodeId;
use crate::model::limits::{CALLS_GATHERED_MAX, HEALTH_CHANGES_MAX};
use crate::model::registry::{BreakerState, BreakerStatus};
use crate::model::rejection::{Reason, Rejection};
use crate::node::Node;
use crate::proto::peer::{CallCounts, Sighting};
use crate::runtime::{clock, tasks};

/// By service and instance.
pub(super) type Untold = HashMap<(String, String), Counts>;

/// Starts the task that hears what other nodes saw. It ends with the node.
pub(super) fn start(node: &Arc<Node>) {
    let Some(mut notes) = node.raft.notes() else { return };
    let weak = Arc::downgrade(node);
    let shutdown = node.shutdown.clone();
    tasks::spawn("sightings", async move {
        loop {
            let note = tokio::select! {
                note = notes.recv() => note,
                () = shutdown.wait() => return,
            };
            let (Some(note), Some(node)) = (note, Weak::upgrade(&weak)) else { return };
            match Sighting::decode(note.body) {
                Ok(sighting) => node.heard(note.from, sighting).await,
                Err(error) => tracing::warn!(from = %note.from, %error, "a malformed note"),
            }
        }
    });
}

/// A move of a breaker that calls led to.
struct Move {
    service: String,
    instance: String,
    incarnation: u64,
    from: BreakerState,
    to: BreakerState,
}

impl Node {
    /// Takes note of how calls went.
    ///
    /// # Errors
    /// `INVALID_REQUEST` for too many.
    pub fn report_calls(&self, outcomes: &[CallOutcome]) -> Result<(), Rejection> {
        if !outcomes.is_empty() {
            super::check_count(outcomes.len(), "outcomes")?;
        }
        let now = clock::now();
        let mut untold = self.registry.untold.lock().unwrap_or_else(PoisonError::into_inner);
        for outcome in outcomes {
            let Some(known) = self.registry.view.service(&outcome.service) else { continue };
            let Some(record) = known.instance(&outcome.instance) else { continue };
            let count = outcome.ok.saturating_add(outcome.failed);
            self.registry.calls.reported(record.number, count, outcome.latency_us, now);
            let key = (outcome.service.clone(), outcome.instance.clone());
            if untold.len() >= CALLS_GATHERED_MAX && !untold.contains_key(&key) {
                let text = "too many calls wait to be told to the leader; report later";
                return Err(Rejection::new(Reason::Overloaded, text));
            }
            let failed = u64::from(outcome.failed);
            let counts = Counts {
                ok: u64::from(outcome.ok),
                failed,
                failed_at_end: failed,
                not_connected: u64::from(outcome.not_connected),
            };
            let sum = untold.entry(key).or_default();
            *sum = sum.then(counts);
        }
        Ok(())
    }

    /// Tells the leader of calls, be it this node or another one.
    pub(super) async fn tell_calls(&self) {
        let untold = {
            let mut untold = self.registry.untold.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *untold)
        };
        if untold.is_empty() {
            return;
        }
        let calls = untold.into_iter().map(|((service, instance), counts)| {
            let Counts { ok, failed, failed_at_end, not_connected } = counts;
            CallCounts { service, instance, ok, failed, failed_at_end, not_connected }
        });
        self.tell(&Sighting { calls: calls.collect(), checks: Vec::new() }).await;
    }

    /// Tells the leader what this node saw.
    pub(super) async fn tell(&self, sighting: &Sighting) {
        if !self.raft.tell_leader(Bytes::from(sighting.encode_to_vec())).await {
            tracing::debug!("no leader was told what this node saw of instances");
        }
    }

    /// Counts what a node saw, and moves breakers that it is enough for.
    async fn heard(&self, from: NodeId, sighting: Sighting) {
        if self.registry.renewals().term().is_none() {
            return;
        }
        let changes = self.weigh(from, &sighting);
        for some in changes.chunks(HEALTH_CHANGES_MAX) {
            self.tell_health(some.to_vec()).await;
        }
        let moves: Vec<Move> = sighting.calls.iter().flat_map(|calls| self.count(calls)).collect();
        for Move { service, instance, incarnation, from, to } in moves {
            let set = SetBreaker {
                service,
                instance,
                incarnation,
                from: from as i32,
                to: to as i32,
                forced: false,
            };
            if let Err(rejection) = self.execute(Kind::SetBreaker(set)).await {
                tracing::debug!(%rejection, "a breaker stays where it is");
            }
        }
    }

    fn count(&self, calls: &CallCounts) -> Vec<Move> {
        let Some(known) = self.registry.view.service(&calls.service) else { return Vec::new() };
        let Some(service) = &known.service else { return Vec::new() };
        let record = known.instance(&calls.instance);
        let CallCounts { ok, failed, failed_at_end, not_connected, .. } = *calls;
        let (counts, now) = (Counts { ok, failed, failed_at_end, not_connected }, clock::now());
        let policy = &service.config.breaker;
        let mut breakers = self.registry.breakers();
        let mut judge = |number, status: &BreakerStatus, of| {
            let window = breakers.window(&calls.service, number)?;
            let counts = if of == Of::Service { counts.of_service() } else { counts };
            let to = window.count((policy, status, of), counts, now)?;
            // Where it may not move, it is counted anew.
            *window = Window::default();
            let instance = if of == Of::Instance { calls.instance.clone() } else { String::new() };
            let (service, from) = (calls.service.clone(), status.state());
            Some(Move { service, instance, incarnation: number, from, to })
        };
        let of_instance =
            record.and_then(|record| judge(record.number, &record.breaker, Of::Instance));
        let of_service = judge(0, &service.breaker, Of::Service);
        of_instance.into_iter().chain(of_service).collect()
    }
}
