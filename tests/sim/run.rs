//! One seed from beginning to end: form, faults, heal, converge, drain, look at everything.

use std::collections::BTreeSet;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use message_hub::machine::delivery::dead;
use message_hub::machine::kv::Kv;
use message_hub::machine::subscription::query::subscription;
use message_hub::machine::subscription::stats;
use message_hub::machine::transaction;
use message_hub::model::ids::{Offset, TopicId, UnixMs};
use message_hub::model::transaction::TransactionState;
use message_hub::runtime::{fs, sim};
use message_hub::store::files;

use crate::dice::Dice;
use crate::faults::Faults;
use crate::invariants::{Invariants, delivery};
use crate::oracle::{Oracle, SUBSCRIPTIONS, TOPICS};
use crate::seeds::{self, One};
use crate::shared::{Phase, Shared};
use crate::subject::JUDGED;
use crate::{events, host};

const TICK: Duration = Duration::from_millis(4);
/// Simulated time for each part.
const FORM_WITHIN: Duration = Duration::from_secs(20);
const FAULTS_FOR: Duration = Duration::from_secs(6);
const HEAL_WITHIN: Duration = Duration::from_secs(60);

pub(crate) fn one(wish: &One) -> ExitCode {
    if !seeds::is_seeded(wish.seed) {
        let status = seeds::process(wish).stdout(Stdio::inherit()).status().expect("run a process");
        return if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if let Some(name) = &wish.plant {
        plant(name);
    }
    let shared = Shared::new(wish.seed, wish.trace.as_deref());
    // A task that panics would only end itself.
    let (panicked, before) =
        (std::sync::Arc::new(std::sync::Mutex::new(None)), std::panic::take_hook());
    let first = std::sync::Arc::clone(&panicked);
    std::panic::set_hook(Box::new(move |info| {
        before(info);
        first.lock().unwrap().get_or_insert_with(|| info.to_string());
    }));
    let mut run = Run::new(wish.seed, &shared, panicked);
    let result = run.all();
    let (crashes, cuts) = (run.faults.crashes, run.faults.cuts);
    let ticks = run.ticks;
    // Tasks that are dropped outside of the simulation look for it in vain.
    std::mem::forget(run);
    let world = shared.get();
    let (events, deliveries) = (world.oracle.acknowledged(), world.oracle.deliveries);
    let (done, refused) = (world.oracle.ledger.count_done(), world.oracle.subject.count_refused());
    println!(
        "seed {}: {ticks} ticks, {crashes} crashes, {cuts} cuts, {events} events acknowledged, \
         {deliveries} delivered, {done} transactions, {refused} refusals, trace {}",
        wish.seed,
        world.trace.digest()
    );
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            println!("after {:.3} s: {what}", world.trace.now.as_secs_f64());
            ExitCode::FAILURE
        }
    }
}

#[cfg(feature = "planted")]
fn plant(name: &str) {
    use message_hub::model::planted;
    planted::plant(planted::Bug::parse(name).expect("a bug that the hub knows"));
}

#[cfg(not(feature = "planted"))]
fn plant(name: &str) {
    panic!("build with the feature planted for {name}");
}

type Panicked = std::sync::Arc<std::sync::Mutex<Option<String>>>;

struct Run {
    sim: turmoil::Sim<'static>,
    shared: Shared,
    faults: Faults,
    invariants: Invariants,
    nodes: Vec<u64>,
    ticks: u64,
    panicked: Panicked,
}

impl Run {
    fn new(seed: u64, shared: &Shared, panicked: Panicked) -> Self {
        sim::seed(seed);
        let mut dice = Dice::new(seed, 1);
        let nodes: Vec<u64> = if dice.chance(75) { (1..=3).collect() } else { (1..=5).collect() };
        let mut sim = turmoil::Builder::new()
            .rng_seed(seed)
            .tick_duration(TICK)
            .simulation_duration(Duration::from_secs(3600))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(dice.pick(&[2, 10, 40])))
            .tcp_capacity(1 << 16)
            .enable_random_order()
            .build();
        for id in &nodes {
            fs::create_dir_all(host::dir(*id)).expect("make a disk");
        }
        files::sync_dir(std::path::Path::new("/")).expect("keep the disks");
        for id in nodes.clone() {
            let shared = shared.clone();
            sim.host(host::name(id), move || host::run(id, shared.clone()));
        }
        Self {
            sim,
            shared: shared.clone(),
            faults: Faults::new(seed, &nodes),
            invariants: Invariants::default(),
            nodes,
            ticks: 0,
            panicked,
        }
    }

    fn all(&mut self) -> Result<(), String> {
        self.until("form a cluster", FORM_WITHIN, |run| run.all_vote())?;
        self.shared.change().phase = Phase::Faults;
        let until = self.sim.elapsed() + FAULTS_FOR;
        while self.sim.elapsed() < until {
            self.faults.act(&mut self.sim, &self.shared);
            self.tick()?;
        }
        self.shared.say("run", "heals");
        self.shared.change().phase = Phase::Healing;
        self.faults.end(&mut self.sim, &self.shared, None);
        self.until("answer every caller", HEAL_WITHIN, |run| run.shared.get().oracle.is_idle())?;
        self.until("deliver everything", HEAL_WITHIN, Self::is_drained)?;
        // A leader that was deposed might have seen nothing left.
        self.until("agree", HEAL_WITHIN, |run| run.agree() && run.is_drained())?;
        self.look()
    }

    fn until(
        &mut self,
        what: &str,
        within: Duration,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), String> {
        let until = self.sim.elapsed() + within;
        while !done(self) {
            if self.sim.elapsed() >= until {
                return Err(format!("it takes more than {within:?} to {what}: {}", self.status()));
            }
            self.tick()?;
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<(), String> {
        self.shared.change().trace.now = self.sim.elapsed();
        self.sim.step().map_err(|error| format!("the simulation fails: {error}"))?;
        self.ticks += 1;
        let wrong = self.invariants.look(&self.shared, &self.nodes);
        if let Err(wrong) = wrong {
            self.shared.wrong(wrong);
        }
        if let Some(panic) = self.panicked.lock().unwrap().take() {
            self.shared.wrong(panic);
        }
        match self.shared.get().wrong.first() {
            Some(wrong) => Err(wrong.clone()),
            None => Ok(()),
        }
    }

    fn status(&self) -> String {
        let status = |id: &u64| match self.shared.node(*id) {
            None => format!("node {id} is down"),
            Some(node) => {
                let s = node.status();
                format!(
                    "node {id}: {} of term {}, log {}, committed {}, applied {}",
                    s.state, s.term, s.last_log_index, s.committed_index, s.applied_index
                )
            }
        };
        self.nodes.iter().map(status).collect::<Vec<_>>().join("; ")
    }

    fn all_vote(&self) -> bool {
        self.nodes.iter().all(|id| {
            self.shared.node(*id).is_some_and(|node| {
                let status = node.status();
                let voters = status.members.iter().filter(|member| member.voter).count();
                voters == self.nodes.len() && !status.joint
            })
        })
    }

    /// Whether some leader sees nothing left to deliver.
    fn is_drained(&mut self) -> bool {
        // Looking costs more than a tick.
        self.ticks.is_multiple_of(25)
            && self.nodes.iter().filter_map(|id| self.shared.node(*id)).any(|node| {
                node.status().state == "leader"
                    && SUBSCRIPTIONS.iter().all(|(name, _)| {
                        let db = node.raft().state();
                        // Looking at the node's own clock from here would change it.
                        let found = db.view(|view| stats::stats(view, name, UnixMs(0)));
                        found.ok().flatten().is_some_and(|s| {
                            s.pending + s.delayed + s.leased + s.retrying + s.cancelled == 0
                        })
                    })
            })
    }

    /// Whether all nodes have applied the same, and everything.
    fn agree(&self) -> bool {
        let all: Vec<_> = self
            .nodes
            .iter()
            .filter_map(|id| self.shared.node(*id))
            .map(|node| node.status())
            .map(|s| (s.last_log_index, s.committed_index, s.applied_index))
            .collect();
        all.len() == self.nodes.len()
            && all.iter().all(|state| *state == all[0] && state.0 == state.2 && state.0 == state.1)
    }

    /// Everything that was acknowledged is there, on every node, and nothing is twice.
    fn look(&self) -> Result<(), String> {
        let mut hashes = Vec::new();
        for id in &self.nodes {
            let node = self.shared.node(*id).ok_or_else(|| format!("node {id} is down"))?;
            let world = self.shared.get();
            let db = node.raft().state();
            let checked: Result<_, String> = db.view(|view| {
                let wrong = |wrong| format!("node {id}: {wrong}");
                check_events(view, &world.oracle).map_err(wrong)?;
                for (name, _) in SUBSCRIPTIONS {
                    let ended = delivery::conserved(view, name)?;
                    let told = world.oracle.ended(name);
                    if ended < told {
                        return Err(format!(
                            "node {id}: {name} has ended {ended} events, but consumers ended {told}"
                        ));
                    }
                }
                message_hub::machine::verify::hash(view).map_err(|fault| fault.to_string())
            });
            hashes.push(checked?);
        }
        if hashes.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err(format!("the nodes' states differ: {hashes:?}"));
        }
        Ok(())
    }
}

/// The events that are there are those that callers were told of.
fn check_events(kv: &impl Kv, oracle: &Oracle) -> Result<(), String> {
    let mut there = BTreeSet::new();
    for topic in TOPICS.into_iter().chain([JUDGED]) {
        let events = events::of_topic(kv, topic)?;
        let ids = events::ids(&events)?;
        oracle.check_topic(topic, &ids)?;
        if topic == JUDGED {
            oracle.subject.check(&events)?;
        }
        there.extend(ids);
    }
    check_transactions(kv, oracle, &there)
}

/// What a transaction staged, appended and acked was done together, or not at all.
fn check_transactions(
    kv: &impl Kv,
    oracle: &Oracle,
    there: &BTreeSet<String>,
) -> Result<(), String> {
    let fault = |fault: message_hub::machine::Fault| fault.to_string();
    let found = oracle.ledger.check(there)?;
    for (id, done) in found.staged {
        let view = transaction::query::transaction(kv, id).map_err(fault)?;
        let state = view.ok_or(format!("transaction {id} is gone"))?.info.state;
        if (state == TransactionState::Committed) != done {
            return Err(format!("transaction {id} is {}, and done: {done}", state.as_str()));
        }
    }
    for (held, done) in found.consuming {
        let info = subscription(kv, held.subscription).map_err(fault)?;
        let info = info.ok_or(format!("{} is gone", held.subscription))?;
        let (topic, offset) = (TopicId(held.topic_id), Offset(held.offset));
        let dead = dead::at(kv, info.id, topic, offset).map_err(fault)?.is_some();
        let later = oracle.handed_on(held);
        // What it acks has ended by then, one way or another.
        if done == (dead || later.is_some()) {
            return Err(format!(
                "the transaction that acks {held} is done: {done}, handed on by {later:?}, dead: {dead}"
            ));
        }
    }
    Ok(())
}
