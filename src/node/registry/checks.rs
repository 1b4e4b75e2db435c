//! Checks that the hub itself runs against instances.
//!
//! Each instance is checked by up to three nodes, chosen by hashing, so that the load is spread and no
//! single node's view decides. A node turns its verdict after so many results in a row, and tells the
//! leader; the leader goes by the majority of those who are to tell.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::egress::Egress;
use super::probe::probe;
use crate::machine::registry::records::InstanceRecord;
use crate::model::command::HealthChange;
use crate::model::ids::NodeId;
use crate::model::limits::{
    CHECKERS, CHECKS_AT_ONCE_MAX, CHECKS_LOOK_MS, HEALTH_REASON_BYTES_MAX, VERDICTS_KEPT_MS,
    VERDICTS_TOLD_MS,
};
use crate::model::registry::{Address, Check, CheckKind, Mode, Signal};
use crate::node::Node;
use crate::proto::peer::{CheckVerdict, Sighting};
use crate::runtime::{clock, tasks};

/// What this node thinks of an instance.
#[derive(Clone, Debug)]
struct Opinion {
    due: Instant,
    running: bool,
    /// Results in a row that are the same, and what the last one was.
    in_a_row: u32,
    last_ok: bool,
    /// What it told last, and when.
    verdict: Option<bool>,
    told_at: Option<Instant>,
    reason: String,
}

/// The result of one check.
struct Outcome {
    number: u64,
    result: Result<(), String>,
}

/// The checks of one node.
struct Checker {
    egress: Arc<Egress>,
    /// By incarnation.
    opinions: HashMap<u64, Opinion>,
    permits: Arc<Semaphore>,
    outbox: mpsc::Sender<Outcome>,
}

/// Whether a node is one of those who check an instance: it has one of the largest hashes.
fn is_checker(node: NodeId, members: &[NodeId], number: u64) -> bool {
    let score = |id: NodeId| xxh3_64_with_seed(&id.get().to_be_bytes(), number);
    let mine = score(node);
    members.iter().filter(|id| score(**id) > mine).count() < CHECKERS
}

/// Starts the task. It ends with the node.
pub(super) fn start(node: &Arc<Node>) {
    let weak = Arc::downgrade(node);
    let shutdown = node.shutdown.clone();
    let egress = Arc::clone(&node.registry.egress);
    tasks::spawn("checks", async move {
        let (outbox, mut outcomes) = mpsc::channel(CHECKS_AT_ONCE_MAX);
        let permits = Arc::new(Semaphore::new(CHECKS_AT_ONCE_MAX));
        let mut checker = Checker { egress, opinions: HashMap::new(), permits, outbox };
        let mut looks = tokio::time::interval(Duration::from_millis(CHECKS_LOOK_MS));
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                outcome = outcomes.recv() => {
                    let Some(outcome) = outcome else { return };
                    checker.judge(outcome);
                    continue;
                }
                () = shutdown.wait() => return,
            }
            let Some(node) = Weak::upgrade(&weak) else { return };
            let sighting = checker.look(&node, clock::now());
            if !sighting.checks.is_empty() {
                node.tell(&sighting).await;
            }
        }
    });
}

impl Checker {
    /// Starts what is due; what is to be told.
    fn look(&mut self, node: &Node, now: Instant) -> Sighting {
        let status = node.raft.status();
        let members: Vec<NodeId> = status.members.iter().map(|member| member.node_id).collect();
        let (this, mut seen) = (node.data_dir.node_id(), HashSet::new());
        let mut sighting = Sighting::default();
        for (_, known) in node.registry.view.all() {
            let Some(service) = &known.service else { continue };
            let check = &service.config.health.check;
            if check.kind() == CheckKind::None {
                continue;
            }
            for record in known.instances.iter().filter(|r| r.mode() != Mode::Maintenance) {
                if !is_checker(this, &members, record.number) {
                    continue;
                }
                seen.insert(record.number);
                self.check(record, check, now);
                sighting.checks.extend(self.told(record, check, now));
            }
        }
        self.opinions.retain(|number, _| seen.contains(number));
        sighting
    }

    /// Starts a check when it is due.
    fn check(&mut self, record: &InstanceRecord, check: &Check, now: Instant) {
        let opinion = self.opinions.entry(record.number).or_insert(Opinion {
            due: now,
            running: false,
            in_a_row: 0,
            last_ok: false,
            verdict: None,
            told_at: None,
            reason: String::new(),
        });
        if opinion.running || opinion.due > now {
            return;
        }
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else { return };
        opinion.running = true;
        opinion.due = now + Duration::from_millis(check.interval_ms);
        let (address, check) = (asked(record, check), check.clone());
        let (egress, outbox) = (Arc::clone(&self.egress), self.outbox.clone());
        let number = record.number;
        tasks::spawn("check", async move {
            let patience = Duration::from_millis(check.timeout_ms);
            let asking = async {
                let address = address
                    .ok_or_else(|| format!("it has no address of protocol {}", check.protocol))?;
                probe(&egress, &address, &check).await
            };
            let result = tokio::time::timeout(patience, asking).await;
            let late = |_| Err(format!("no answer within {} ms", check.timeout_ms));
            let result = result.unwrap_or_else(late);
            drop(permit);
            // The node may be stopping.
            drop(outbox.send(Outcome { number, result }).await);
        });
    }

    fn judge(&mut self, outcome: Outcome) {
        let Some(opinion) = self.opinions.get_mut(&outcome.number) else { return };
        let ok = outcome.result.is_ok();
        let same = opinion.in_a_row > 0 && opinion.last_ok == ok;
        opinion.in_a_row = if same { opinion.in_a_row.saturating_add(1) } else { 1 };
        (opinion.last_ok, opinion.running) = (ok, false);
        let reason = outcome.result.err().unwrap_or_else(|| "checks pass".to_owned());
        opinion.reason = reason.chars().take(HEALTH_REASON_BYTES_MAX / 4).collect();
    }

    /// The verdict, when it is new or was not told for a while.
    fn told(
        &mut self,
        record: &InstanceRecord,
        check: &Check,
        now: Instant,
    ) -> Option<CheckVerdict> {
        let opinion = self.opinions.get_mut(&record.number)?;
        let enough = if opinion.last_ok { check.passes } else { check.failures };
        let verdict =
            if opinion.in_a_row >= enough { Some(opinion.last_ok) } else { opinion.verdict };
        let passing = verdict?;
        let again = Duration::from_millis(VERDICTS_TOLD_MS);
        let fresh = opinion.told_at.is_some_and(|at| now - at < again);
        if opinion.verdict == verdict && fresh {
            return None;
        }
        (opinion.verdict, opinion.told_at) = (verdict, Some(now));
        Some(CheckVerdict {
            service: record.spec.service.clone(),
            instance: record.spec.id.clone(),
            incarnation: record.number,
            passing,
            reason: opinion.reason.clone(),
        })
    }
}

/// The address that is asked.
fn asked(record: &InstanceRecord, check: &Check) -> Option<Address> {
    let mut addresses = record.spec.addresses.iter();
    if check.protocol.is_empty() {
        return addresses.next().cloned();
    }
    addresses.find(|address| address.protocol == check.protocol).cloned()
}

/// A verdict as it was told.
#[derive(Clone, Debug)]
struct Told {
    passing: bool,
    reason: String,
    at: Instant,
}

/// What nodes told the leader, by incarnation and node.
#[derive(Debug, Default)]
pub(super) struct Verdicts(HashMap<u64, BTreeMap<NodeId, Told>>);

impl Verdicts {
    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Forgets an instance that is gone.
    pub(super) fn forget(&mut self, number: u64) {
        self.0.remove(&number);
    }

    /// Takes a verdict in; what the majority says now, if there is one: of `checkers`, those who are
    /// to tell. `None` as well where they are evenly divided.
    fn take(
        &mut self,
        from: NodeId,
        verdict: &CheckVerdict,
        checkers: usize,
        now: Instant,
    ) -> Option<(bool, String)> {
        let told = self.0.entry(verdict.incarnation).or_default();
        let (passing, reason) = (verdict.passing, verdict.reason.clone());
        told.insert(from, Told { passing, reason, at: now });
        told.retain(|_, told| now - told.at < Duration::from_millis(VERDICTS_KEPT_MS));
        let enough = |count: usize| count * 2 > checkers;
        let passing = told.values().filter(|told| told.passing).count();
        if enough(passing) {
            return Some((true, "checks pass".to_owned()));
        }
        let failing = told.values().find(|told| !told.passing)?;
        enough(told.len() - passing).then(|| (false, failing.reason.clone()))
    }
}

impl Node {
    /// What verdicts of a node change.
    pub(super) fn weigh(&self, from: NodeId, sighting: &Sighting) -> Vec<HealthChange> {
        let (now, voters) = (clock::now(), self.raft.status().members.len());
        let checkers = voters.clamp(1, CHECKERS);
        let mut changes = Vec::new();
        for verdict in &sighting.checks {
            let Some(known) = self.registry.view.service(&verdict.service) else { continue };
            let Some(record) = known.instance(&verdict.instance) else { continue };
            if record.number != verdict.incarnation {
                continue;
            }
            let weighed = self.registry.verdicts().take(from, verdict, checkers, now);
            if let Some((passing, reason)) =
                weighed.filter(|(passing, _)| *passing == record.failing)
            {
                changes.push(HealthChange {
                    service: verdict.service.clone(),
                    id: verdict.instance.clone(),
                    incarnation: verdict.incarnation,
                    signal: Signal::Check as i32,
                    ok: passing,
                    reason,
                });
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::clock;

    fn verdict(passing: bool) -> CheckVerdict {
        CheckVerdict { incarnation: 7, passing, reason: "no".into(), ..CheckVerdict::default() }
    }

    #[test]
    fn the_majority_of_those_who_are_to_tell_decides() {
        let (mut verdicts, now) = (Verdicts::default(), clock::now());
        let mut take = |from, passing, at| {
            verdicts.take(NodeId(from), &verdict(passing), 3, at).map(|(passing, _)| passing)
        };
        assert_eq!(take(1, true, now), None, "one of three");
        assert_eq!(take(2, true, now), Some(true));
        assert_eq!(take(3, false, now), Some(true));
        assert_eq!(take(2, false, now), Some(false));
        // What was told long ago counts no more.
        let later = now + Duration::from_millis(VERDICTS_KEPT_MS);
        assert_eq!(take(1, true, later), None);
        let mut alone = Verdicts::default();
        assert!(!alone.take(NodeId(1), &verdict(false), 1, now).unwrap().0);
    }

    #[test]
    fn checks_are_spread_over_the_nodes() {
        let members: Vec<NodeId> = (1..=5).map(NodeId).collect();
        let mut counts = [0; 5];
        for number in 0..5000 {
            let checkers: Vec<_> =
                members.iter().filter(|id| is_checker(**id, &members, number)).collect();
            assert_eq!(checkers.len(), 3);
            checkers.iter().for_each(|id| counts[usize::try_from(id.get()).unwrap() - 1] += 1);
        }
        assert!(counts.iter().all(|count| (2800..3200).contains(count)), "{counts:?}");
        assert!(is_checker(NodeId(1), &members[..1], 9));
    }
}
