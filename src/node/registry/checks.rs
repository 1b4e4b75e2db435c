//! Checks that the hub itself runs against instances.
//!
//! Each instance is checked by three voters, chosen by hashing, so that the load is spread and no single
//! node's view decides; in a large cluster by a majority of them, so that one of them is there whenever
//! there is a quorum. A node turns its verdict after so many results in a row, and tells the leader; the
//! leader goes by the majority of those whom it hears of.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::egress::Egress;
use super::probe::probe;
use super::view::Known;
use crate::machine::registry::records::InstanceRecord;
use crate::model::command::HealthChange;
use crate::model::ids::NodeId;
use crate::model::limits::{
    CHECKER_SILENT_MS, CHECKERS, CHECKS_AT_ONCE_MAX, CHECKS_LOOK_MS, HEALTH_REASON_BYTES_MAX,
    VERDICTS_KEPT_MS, VERDICTS_TOLD_MS,
};
use crate::model::registry::{Address, Check, CheckKind, Mode, Signal};
use crate::node::Node;
use crate::proto::peer::{CheckVerdict, Sighting};
use crate::raft::MemberStatus;
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

/// An instance that a node checks, and when the next check of it is due.
struct Checked {
    due: Instant,
    known: Arc<Known>,
    record: Arc<InstanceRecord>,
}

impl Checked {
    fn check(&self) -> Option<&Check> {
        self.known.service.as_ref().map(|service| &service.config.health.check)
    }
}

/// Whether a node is one of those who check an instance: a voter with one of the largest hashes.
fn is_checker(node: NodeId, voters: &[NodeId], number: u64) -> bool {
    let score = |id: NodeId| xxh3_64_with_seed(&id.get().to_be_bytes(), number);
    let (mine, count) = (score(node), CHECKERS.max(voters.len() / 2 + 1));
    voters.contains(&node) && voters.iter().filter(|id| score(**id) > mine).count() < count
}

fn voters(members: &[MemberStatus]) -> Vec<NodeId> {
    members.iter().filter(|member| member.voter).map(|member| member.node_id).collect()
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
        let voters = voters(&node.raft.status().members);
        let (this, mut seen) = (node.data_dir.node_id(), HashSet::new());
        let (mut sighting, mut due) = (Sighting::default(), Vec::new());
        for (_, known) in node.registry.view.all() {
            let Some(service) = &known.service else { continue };
            let check = &service.config.health.check;
            if check.kind() == CheckKind::None {
                continue;
            }
            for record in known.instances.iter().filter(|r| r.mode() != Mode::Maintenance) {
                if !is_checker(this, &voters, record.number) {
                    continue;
                }
                seen.insert(record.number);
                let (known, record) = (Arc::clone(&known), Arc::clone(record));
                sighting.checks.extend(self.told(&record, check, now));
                due.push(Checked { due: self.due(record.number, now), known, record });
            }
        }
        self.opinions.retain(|number, _| seen.contains(number));
        due.retain(|checked| checked.due <= now);
        self.start(due, now);
        sighting
    }

    /// When the next check of an instance is due.
    fn due(&mut self, number: u64, now: Instant) -> Instant {
        let new = || Opinion {
            due: now,
            running: false,
            in_a_row: 0,
            last_ok: false,
            verdict: None,
            told_at: None,
            reason: String::new(),
        };
        self.opinions.entry(number).or_insert_with(new).due
    }

    /// Starts checks, as many as may run: what has waited longest comes first, so that no instance
    /// starves while many others do not answer.
    fn start(&mut self, mut due: Vec<Checked>, now: Instant) {
        due.sort_unstable_by_key(|checked| (checked.due, checked.record.number));
        for checked in due {
            let Some(check) = checked.check() else { continue };
            if self.opinions.get(&checked.record.number).is_none_or(|known| known.running) {
                continue;
            }
            let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else { return };
            self.check(&checked.record, check, permit, now);
        }
    }

    fn check(
        &mut self,
        record: &InstanceRecord,
        check: &Check,
        permit: OwnedSemaphorePermit,
        now: Instant,
    ) {
        let Some(opinion) = self.opinions.get_mut(&record.number) else { return };
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

/// What nodes told the leader.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    /// By incarnation and node.
    told: HashMap<u64, BTreeMap<NodeId, Told>>,
    /// From when on this is about what the leader hears.
    since: Option<Instant>,
}

impl Verdicts {
    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self { told: HashMap::new(), since: Some(clock::now()) };
    }

    /// Forgets an instance that is gone.
    pub(super) fn forget(&mut self, number: u64) {
        self.told.remove(&number);
    }

    /// The voters whom the leader hears of. One that it has never heard of has some time for that.
    fn heard_of(&self, members: &[MemberStatus], now: Instant) -> Vec<NodeId> {
        let led = self.since.map_or(Duration::ZERO, |since| now - since);
        let heard = |member: &&MemberStatus| {
            member.last_heard.unwrap_or(led) <= Duration::from_millis(CHECKER_SILENT_MS)
        };
        members.iter().filter(|m| m.voter).filter(heard).map(|m| m.node_id).collect()
    }

    /// Takes a verdict in; what the majority says now, if there is one: of those who check the
    /// instance and are heard of. `None` as well where they are evenly divided.
    fn take(
        &mut self,
        from: NodeId,
        verdict: &CheckVerdict,
        (voters, heard_of): (&[NodeId], &[NodeId]),
        now: Instant,
    ) -> Option<(bool, String)> {
        let number = verdict.incarnation;
        let told = self.told.entry(number).or_default();
        let (passing, reason) = (verdict.passing, verdict.reason.clone());
        told.insert(from, Told { passing, reason, at: now });
        told.retain(|_, told| now - told.at < Duration::from_millis(VERDICTS_KEPT_MS));
        let checkers: Vec<&NodeId> =
            heard_of.iter().filter(|id| is_checker(**id, voters, number)).collect();
        let counted: Vec<&Told> = checkers.iter().filter_map(|id| told.get(id)).collect();
        let enough = |count: usize| count * 2 > checkers.len();
        let passing = counted.iter().filter(|told| told.passing).count();
        if enough(passing) {
            return Some((true, "checks pass".to_owned()));
        }
        let failing = counted.iter().find(|told| !told.passing)?;
        enough(counted.len() - passing).then(|| (false, failing.reason.clone()))
    }
}

impl Node {
    /// What verdicts of a node change.
    pub(super) fn weigh(&self, from: NodeId, sighting: &Sighting) -> Vec<HealthChange> {
        let (now, members) = (clock::now(), self.raft.status().members);
        let voters = voters(&members);
        let heard_of = self.registry.verdicts().heard_of(&members, now);
        let mut changes = Vec::new();
        for verdict in &sighting.checks {
            let Some(known) = self.registry.view.service(&verdict.service) else { continue };
            let Some(record) = known.instance(&verdict.instance) else { continue };
            if record.number != verdict.incarnation {
                continue;
            }
            let weighed = self.registry.verdicts().take(from, verdict, (&voters, &heard_of), now);
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
        let three: Vec<NodeId> = (1..=3).map(NodeId).collect();
        let mut take = |from, passing, at| {
            let said = verdicts.take(NodeId(from), &verdict(passing), (&three, &three), at);
            said.map(|(passing, _)| passing)
        };
        assert_eq!(take(1, true, now), None, "one of three");
        assert_eq!(take(2, true, now), Some(true));
        assert_eq!(take(3, false, now), Some(true));
        assert_eq!(take(2, false, now), Some(false));
        // What was told long ago counts no more.
        let later = now + Duration::from_millis(VERDICTS_KEPT_MS);
        assert_eq!(take(1, true, later), None);
        let mut alone = Verdicts::default();
        let one = &three[..1];
        assert!(!alone.take(NodeId(1), &verdict(false), (one, one), now).unwrap().0);
    }

    fn member(id: u64, voter: bool, last_heard: Option<Duration>) -> MemberStatus {
        let addresses = crate::raft::PeerNode::default();
        let node_id = NodeId(id);
        MemberStatus { node_id, voter, addresses, leader: false, matched_index: None, last_heard }
    }

    #[test]
    fn whom_the_leader_does_not_hear_of_is_not_waited_for() {
        let (soon, long) = (Some(Duration::ZERO), Some(Duration::from_secs(60)));
        let silent = [2, 3];
        let heard = |id| if silent.contains(&id) { long } else { soon };
        let mut members: Vec<_> = (1..=5).map(|id| member(id, true, heard(id))).collect();
        members.push(member(6, false, soon));
        let (mut verdicts, now, voters) = (Verdicts::default(), clock::now(), voters(&members));
        let heard_of = verdicts.heard_of(&members, now);
        assert_eq!(heard_of, [1, 4, 5].map(NodeId));
        for incarnation in 0..1000 {
            let checkers = || heard_of.iter().filter(|id| is_checker(**id, &voters, incarnation));
            assert!(checkers().count() > 0, "nobody checks {incarnation}");
            let said = CheckVerdict { incarnation, passing: false, ..verdict(false) };
            // Neither a learner nor one who is not heard of counts.
            for other in [2, 3, 6].map(NodeId) {
                let weighed = verdicts.take(other, &said, (&voters, &heard_of), now);
                assert_eq!(weighed, None, "{other} of {incarnation}");
            }
            let weigh = |id: &NodeId| verdicts.take(*id, &said, (&voters, &heard_of), now);
            assert!(!checkers().filter_map(weigh).last().unwrap().0);
        }
    }

    #[test]
    fn a_new_leader_waits_for_those_that_it_has_not_heard_of_yet() {
        let mut verdicts = Verdicts::default();
        verdicts.clear();
        let (members, began) = ([member(1, true, None)], verdicts.since.unwrap());
        assert_eq!(verdicts.heard_of(&members, began).len(), 1);
        let later = began + Duration::from_millis(CHECKER_SILENT_MS + 1);
        assert_eq!(verdicts.heard_of(&members, later).len(), 0);
    }

    #[tokio::test]
    async fn what_has_waited_longest_is_checked_first() {
        let (outbox, _outcomes) = mpsc::channel(9);
        let (egress, permits) = (Arc::new(Egress::default()), Arc::new(Semaphore::new(2)));
        let mut checker = Checker { egress, opinions: HashMap::new(), permits, outbox };
        let (now, second) = (clock::now(), Duration::from_secs(1));
        let service = Some(crate::machine::registry::records::ServiceRecord::default());
        let known = Arc::new(Known { service, instances: Vec::new() });
        let mut due = |number: u64, ago: u32| {
            let due = checker.due(number, now - second * ago);
            let record = Arc::new(InstanceRecord { number, ..InstanceRecord::default() });
            Checked { due, known: Arc::clone(&known), record }
        };
        let all = vec![due(1, 0), due(2, 2), due(3, 1), due(4, 3)];
        checker.start(all, now);
        let running = |number| checker.opinions[&number].running;
        assert_eq!([1, 2, 3, 4].map(running), [false, true, false, true]);
    }

    #[test]
    fn checks_are_spread_over_the_nodes() {
        let members: Vec<NodeId> = (1..=5).map(NodeId).collect();
        let mut counts = [0; 5];
        for number in 0..5000 {
            let checkers: Vec<_> =
                members.iter().filter(|id| is_checker(**id, &members, number)).collect();
            assert_eq!(checkers.len(), 3);
            assert!(!is_checker(NodeId(9), &members, number), "it is no voter");
            checkers.iter().for_each(|id| counts[usize::try_from(id.get()).unwrap() - 1] += 1);
        }
        assert!(counts.iter().all(|count| (2800..3200).contains(count)), "{counts:?}");
        assert!(is_checker(NodeId(1), &members[..1], 9));
        // Of seven, three may be down: one of four is there.
        let seven: Vec<NodeId> = (1..=7).map(NodeId).collect();
        assert_eq!(seven.iter().filter(|id| is_checker(**id, &seven, 9)).count(), 4);
    }
}
