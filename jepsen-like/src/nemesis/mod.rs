//! What breaks: one file a kind of fault, and the schedule that makes them.

pub mod clock;
pub mod delay;
pub mod membership;
pub mod network;
pub mod power;
pub mod process;
pub mod storage;

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use crate::cluster::Cluster;
use crate::history::{Line, Recorder};
use crate::sandbox::Reach;
use crate::tools::{now, say};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nemesis {
    /// Both directions between two groups are cut.
    Partition,
    /// One direction is cut.
    OneWay,
    /// Each node loses some others, yet none loses all.
    Bridge,
    /// Some packets are lost, or all are late.
    Loss,
    /// Connections are reset.
    Resets,
    /// kill -9.
    Kill,
    /// SIGSTOP.
    Pause,
    /// What was not synced is gone.
    Power,
    /// Syncs take long.
    Slow,
    /// A sync fails.
    Failing,
    /// The disk is full.
    Full,
    /// The wall clock jumps.
    Clock,
    /// Members come, go, and hand leadership over.
    Membership,
    /// Stored bytes change.
    Damage,
}

/// All of them: name, kind, what it does.
pub const ALL: &[(&str, Nemesis, &str)] = &[
    ("N1", Nemesis::Partition, "symmetric partition, the leader in the majority or the minority"),
    ("N2", Nemesis::OneWay, "one direction between the leader and others is cut"),
    ("N3", Nemesis::Bridge, "bridge (three nodes) or ring (five)"),
    (
        "N4",
        Nemesis::Loss,
        "3 or 20 % of the packets between nodes are lost, or all of them are late, by jitter out of order",
    ),
    ("N5", Nemesis::Resets, "connections between nodes are reset"),
    ("N6", Nemesis::Kill, "kill -9 of one node, the leader, or all"),
    ("N7", Nemesis::Pause, "SIGSTOP of one node, the leader, or all"),
    ("N8", Nemesis::Power, "power loss of one node, a majority, or all"),
    ("N9", Nemesis::Slow, "syncs take 5 to 400 ms longer"),
    ("N10", Nemesis::Failing, "a sync fails with EIO: the node has to stop"),
    ("N11", Nemesis::Full, "the disk is full"),
    (
        "N12",
        Nemesis::Clock,
        "the wall clock jumps by up to an hour, or to and fro; needs a hub with the feature failpoints",
    ),
    ("N13", Nemesis::Membership, "leader transfer; a member is replaced, added, removed, wiped"),
    ("N14", Nemesis::Damage, "a bit flips, or a file loses its end, on one follower"),
];

impl Nemesis {
    /// The kind with this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn parse(name: &str) -> Result<Self, String> {
        let found = ALL.iter().find(|(known, _, _)| known.eq_ignore_ascii_case(name));
        found
            .map(|(_, kind, _)| *kind)
            .ok_or_else(|| format!("there is no nemesis {name:?}; `jepsen-like list` names them"))
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        ALL.iter().find(|(_, kind, _)| *kind == self).map_or("", |(name, _, _)| name)
    }

    /// Whether it needs the sandbox.
    #[must_use]
    pub fn needs(self) -> Reach {
        match self {
            Self::Partition
            | Self::OneWay
            | Self::Bridge
            | Self::Loss
            | Self::Resets
            | Self::Power
            | Self::Full
            | Self::Slow
            | Self::Failing => Reach::Everything,
            Self::Kill | Self::Pause | Self::Clock | Self::Membership | Self::Damage => {
                Reach::Processes
            }
        }
    }

    /// Whether each node needs a file system of its own.
    #[must_use]
    pub fn needs_disks(self) -> bool {
        matches!(self, Self::Power | Self::Full)
    }

    /// Faults of one class exclude each other; those of different ones may overlap.
    fn class(self) -> Class {
        match self {
            Self::Partition | Self::OneWay | Self::Bridge | Self::Loss | Self::Resets => {
                Class::Network
            }
            Self::Kill
            | Self::Pause
            | Self::Power
            | Self::Slow
            | Self::Failing
            | Self::Full
            | Self::Membership
            | Self::Damage => Class::Nodes,
            Self::Clock => Class::Clock,
        }
    }

    async fn install(self, world: &mut World) -> anyhow::Result<Fault> {
        match self {
            Self::Partition => network::partition(world).await,
            Self::OneWay => network::one_way(world).await,
            Self::Bridge => network::bridge(world).await,
            Self::Loss => network::loss(world).await,
            Self::Resets => network::resets(world).await,
            Self::Kill => process::kill(world).await,
            Self::Pause => process::pause(world).await,
            Self::Power => power::cut(world).await,
            Self::Slow => storage::slow(world).await,
            Self::Failing => storage::failing(world).await,
            Self::Full => storage::full(world).await,
            Self::Clock => clock::jump(world).await,
            Self::Membership => membership::change(world).await,
            Self::Damage => storage::damage(world).await,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Network,
    Nodes,
    Clock,
}

/// A fault that is there.
#[derive(Debug)]
pub struct Fault {
    /// What it is.
    pub detail: String,
    /// How it goes away.
    pub undo: Undo,
}

/// How a fault goes away.
#[derive(Debug)]
pub enum Undo {
    /// Let all packets pass; so many were stopped before.
    Network {
        /// The counter when the fault was installed.
        hits: u64,
    },
    /// Start these nodes again, by index.
    Start(Vec<usize>),
    /// Let these go on.
    Resume(Vec<usize>),
    /// Give these their power back.
    Power(Vec<usize>),
    /// Let syncs be fast again.
    Slow(storage::Tracer),
    /// Start the node whose sync failed.
    Failing(usize, storage::Tracer),
    /// Give the node room on its disk.
    Full {
        /// The node.
        index: usize,
        /// How long its log was.
        log: u64,
    },
    /// Set the clocks right; with the lengths of the nodes' logs before.
    Clock(Vec<(usize, u64)>),
    /// Let packets come in time again.
    Delay(delay::Delayer),
    /// Replace the damaged node.
    Damaged(usize),
    /// It is over already; this proves that it was there.
    Done(String),
}

/// What faults act on.
#[derive(Debug)]
pub struct World {
    /// The cluster.
    pub cluster: Cluster,
    /// Everything that is drawn comes from it.
    pub rng: Rng,
    recorder: Arc<Recorder>,
    numbers: u64,
}

/// How long faults last and how long the hub is left alone in between.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The longest fault.
    pub hold_max: Duration,
    /// The longest rest.
    pub rest_max: Duration,
}

const HOLD_MIN: Duration = Duration::from_millis(500);
const REST_MIN: Duration = Duration::from_millis(500);
/// One fault of so many overlaps with one of another class, where both were chosen.
const OVERLAPS_ONE_OF: u32 = 3;

impl World {
    /// A world with all nodes up.
    #[must_use]
    pub fn new(cluster: Cluster, seed: u64, recorder: Arc<Recorder>) -> Self {
        Self { cluster, rng: Rng::with_seed(seed), recorder, numbers: 0 }
    }

    /// Makes faults for so long, each kind in its turn, and leaves the hub without any.
    ///
    /// # Errors
    /// When a fault does not go away again.
    pub async fn haunt(
        &mut self,
        kinds: &[Nemesis],
        time: Duration,
        pace: Pace,
    ) -> anyhow::Result<()> {
        let until = now() + time;
        let mut turn = 0;
        while now() < until {
            let Some(kind) = kinds.get(turn % kinds.len().max(1)).copied() else {
                tokio::time::sleep(until.duration_since(now())).await;
                break;
            };
            turn += 1;
            self.rest(REST_MIN, pace.rest_max).await;
            let Some(first) = self.strike(kind).await else { continue };
            let others: Vec<Nemesis> =
                kinds.iter().copied().filter(|other| other.class() != kind.class()).collect();
            let mut second = None;
            if !others.is_empty() && self.rng.u32(..OVERLAPS_ONE_OF) == 0 {
                self.rest(Duration::ZERO, pace.hold_max / 2).await;
                let other = others[self.rng.usize(..others.len())];
                second = self.strike(other).await;
            }
            self.rest(HOLD_MIN, pace.hold_max).await;
            self.heal(first).await?;
            if let Some(second) = second {
                self.heal(second).await?;
            }
            self.cluster.look_after()?;
        }
        Ok(())
    }

    async fn rest(&mut self, least: Duration, most: Duration) {
        let least = u64::try_from(least.as_millis()).unwrap_or(u64::MAX);
        let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX).max(least);
        tokio::time::sleep(Duration::from_millis(self.rng.u64(least..=most))).await;
    }

    /// Installs a fault; `None` when the cluster was in no state for it.
    async fn strike(&mut self, kind: Nemesis) -> Option<(u64, Nemesis, Undo)> {
        match kind.install(self).await {
            Ok(Fault { detail, undo }) => {
                self.numbers += 1;
                let number = self.numbers;
                say(format!("{:>4} {detail}", kind.name()));
                let nemesis = kind.name().to_owned();
                self.recorder.tell(|at_us| Line::Fault { at_us, number, nemesis, detail });
                Some((number, kind, undo))
            }
            Err(error) => {
                say(format!("{:>4} not installed: {error:#}", kind.name()));
                None
            }
        }
    }

    async fn heal(&mut self, (number, kind, undo): (u64, Nemesis, Undo)) -> anyhow::Result<()> {
        let evidence = match undo {
            Undo::Network { hits } => network::heal(hits).await?,
            Undo::Start(nodes) => process::start(self, &nodes)?,
            Undo::Resume(nodes) => process::resume(self, &nodes)?,
            Undo::Power(nodes) => power::restore(self, &nodes).await?,
            Undo::Slow(tracer) => storage::fast(tracer).await?,
            Undo::Failing(node, tracer) => storage::stopped(self, node, tracer).await?,
            Undo::Full { index, log } => storage::room(self, index, log).await?,
            Undo::Clock(since) => clock::right(self, &since)?,
            Undo::Delay(delayer) => delayer.end().await?,
            Undo::Damaged(node) => storage::replaced(self, node).await?,
            Undo::Done(evidence) => evidence,
        };
        say(format!(
            "{:>4} over: {}",
            kind.name(),
            if evidence.is_empty() { "no effect" } else { &evidence }
        ));
        self.recorder.tell(|at_us| Line::Healed { at_us, number, evidence });
        Ok(())
    }

    /// Draws who is hit: one node, the leader, a majority, or all; with a word for it.
    pub(crate) async fn victims(&mut self, choices: &[Victims]) -> (Vec<usize>, &'static str) {
        let mut running = self.cluster.running();
        let choice = choices[self.rng.usize(..choices.len())];
        self.rng.shuffle(&mut running);
        match choice {
            Victims::Leader => match self.cluster.leader().await {
                Some(leader) => (vec![leader], "the leader"),
                None => (running.into_iter().take(1).collect(), "one node"),
            },
            Victims::One => (running.into_iter().take(1).collect(), "one node"),
            Victims::Majority => {
                let majority = running.len() / 2 + 1;
                (running.into_iter().take(majority).collect(), "a majority")
            }
            Victims::All => (running, "all nodes"),
        }
    }

    /// The slots of these nodes, for people.
    pub(crate) fn slots(&self, nodes: &[usize]) -> String {
        let slots: Vec<String> =
            nodes.iter().map(|index| self.cluster.nodes[*index].slot.to_string()).collect();
        slots.join("+")
    }
}

/// Who is hit.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Victims {
    One,
    Leader,
    Majority,
    All,
}
