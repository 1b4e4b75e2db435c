//! How calls went, as callers tell: for balancing here, for breakers at the leader.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, Weak};

use bytes::Bytes;
use prost::Message as _;

use super::Registry;
use super::breakers::{CallOutcome, Counts, Of, Window};
use crate::balance::runs::{InARow, Runs};
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

/// Adds to what the leader is to be told: all of it or, where it is too much, nothing.
fn gather<'a>(
    untold: &mut Untold,
    outcomes: impl Iterator<Item = &'a CallOutcome> + Clone,
) -> Result<(), Rejection> {
    let key = |outcome: &CallOutcome| (outcome.service.clone(), outcome.instance.clone());
    let new = outcomes.clone().map(key).filter(|key| !untold.contains_key(key));
    if untold.len() + new.collect::<HashSet<_>>().len() > CALLS_GATHERED_MAX {
        let text = "too many calls wait to be told to the leader; report later";
        return Err(Rejection::new(Reason::Overloaded, text));
    }
    for outcome in outcomes {
        let counts =
            Counts { calls: outcome.calls, not_connected: u64::from(outcome.not_connected) };
        let sum = untold.entry(key(outcome)).or_default();
        *sum = sum.then(counts);
    }
    Ok(())
}

/// What the leader is told of calls to an instance.
fn told(service: String, instance: String, counts: Counts) -> CallCounts {
    let Counts { calls: Runs { ok, failed, at_start, longest, at_end }, not_connected } = counts;
    CallCounts {
        service,
        instance,
        ok,
        failed,
        failed_at_end: at_end,
        not_connected,
        failed_at_start: Some(at_start),
        failed_in_a_row: Some(longest),
    }
}

/// What a node told.
fn counts(told: &CallCounts) -> Counts {
    let CallCounts { ok, failed, failed_at_end, not_connected, .. } = *told;
    let row = InARow {
        at_start: told.failed_at_start,
        longest: told.failed_in_a_row,
        at_end: Some(failed_at_end),
    };
    Counts { calls: Runs::told(ok, failed, row), not_connected }
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
        let known = |outcome: &CallOutcome| {
            let known = self.registry.view.service(&outcome.service)?;
            Some(known.instance(&outcome.instance)?.number)
        };
        let about: Vec<_> = outcomes.iter().filter_map(|o| Some((known(o)?, o))).collect();
        let mut untold = self.registry.untold.lock().unwrap_or_else(PoisonError::into_inner);
        gather(&mut untold, about.iter().map(|(_, outcome)| *outcome))?;
        drop(untold);
        let now = clock::now();
        for (number, outcome) in about {
            let count = outcome.calls.ok.saturating_add(outcome.calls.failed);
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            // Who fails at once is not fast.
            let latency_us = if outcome.calls.ok > 0 { outcome.latency_us } else { 0 };
            self.registry.calls.reported(number, count, latency_us, now);
        }
        Ok(())
    }

    /// Tells the leader what this node saw.
    pub(super) async fn tell(&self, sighting: &Sighting) {
        #[cfg(feature = "failpoints")]
        super::tells::hold_up().await;
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
                ..SetBreaker::default()
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
        let (counts, now) = (counts(calls), clock::now());
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

impl Registry {
    /// The calls that the leader was not told of yet; it is for the caller to tell them.
    pub(super) fn sighting(&self) -> Option<Sighting> {
        let untold = {
            let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *untold)
        };
        let calls =
            untold.into_iter().map(|((service, instance), counts)| told(service, instance, counts));
        let calls: Vec<_> = calls.collect();
        (!calls.is_empty()).then(|| Sighting { calls, checks: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_whole_or_not_at_all() {
        let outcome = |n: usize| {
            let (service, instance) = ("s".to_owned(), n.to_string());
            CallOutcome { service, instance, calls: Runs::of(true), ..CallOutcome::default() }
        };
        let mut untold = Untold::default();
        let most: Vec<_> = (0..CALLS_GATHERED_MAX - 1).map(outcome).collect();
        gather(&mut untold, most.iter()).unwrap();
        let (known, new) = (outcome(0), CALLS_GATHERED_MAX);
        let much = [known.clone(), outcome(new), outcome(new + 1)];
        assert_eq!(gather(&mut untold, much.iter()).unwrap_err().reason, Reason::Overloaded);
        let of_known = |untold: &Untold| untold[&("s".to_owned(), "0".to_owned())].calls.ok;
        assert_eq!((untold.len(), of_known(&untold)), (CALLS_GATHERED_MAX - 1, 1));
        gather(&mut untold, [&known, &much[1], &much[1]].into_iter()).unwrap();
        assert_eq!((untold.len(), of_known(&untold)), (CALLS_GATHERED_MAX, 2));
    }

    #[test]
    fn calls_mean_the_same_at_the_leader_and_those_of_older_nodes_are_understood() {
        let calls = [false, false, true, false, false, false, true, false].map(Runs::of);
        let calls = calls.into_iter().fold(Runs::default(), Runs::then);
        let gathered = Counts { calls, not_connected: 1 };
        let told = told("s".to_owned(), "i".to_owned(), gathered);
        assert_eq!(counts(&told), gathered);
        let of_older = CallCounts { failed_at_start: None, failed_in_a_row: None, ..told };
        let Runs { at_start, longest, at_end, .. } = counts(&of_older).calls;
        assert_eq!((at_start, longest, at_end), (0, 1, 1));
        let failed_only = CallCounts { ok: 0, failed: 6, failed_at_end: 6, ..of_older };
        let Runs { at_start, longest, at_end, .. } = counts(&failed_only).calls;
        assert_eq!((at_start, longest, at_end), (6, 6, 6));
    }
}
