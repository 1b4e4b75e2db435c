//! What goes wrong, and when: drawn by dice of their own.

use std::time::Duration;

use message_hub::runtime::{fs, sim};

use crate::dice::Dice;
use crate::host;
use crate::shared::Shared;

/// A fault that ends by itself at some moment.
enum Under {
    Cut(u64, u64),
    CutOneWay(u64, u64),
    Held(u64, u64),
    Down(u64),
    Slow,
}

pub(crate) struct Faults {
    dice: Dice,
    nodes: Vec<u64>,
    next: Duration,
    under_way: Vec<(Duration, Under)>,
    pub(crate) crashes: u64,
    pub(crate) cuts: u64,
}

impl Faults {
    pub(crate) fn new(seed: u64, nodes: &[u64]) -> Self {
        let dice = Dice::new(seed, 90);
        Self {
            dice,
            nodes: nodes.to_vec(),
            next: Duration::ZERO,
            under_way: Vec::new(),
            crashes: 0,
            cuts: 0,
        }
    }

    fn ms(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.dice.between(low, high))
    }

    /// To be called before each tick.
    pub(crate) fn act(&mut self, sim: &mut turmoil::Sim<'_>, shared: &Shared) {
        let now = sim.elapsed();
        self.end(sim, shared, Some(now));
        if self.next == Duration::ZERO {
            self.next = now + self.ms(100, 800);
        }
        if now >= self.next {
            self.begin(sim, shared, now);
            self.next = now + self.ms(30, 700);
        }
    }

    /// Ends what is over by now; `None`: everything.
    pub(crate) fn end(
        &mut self,
        sim: &mut turmoil::Sim<'_>,
        shared: &Shared,
        now: Option<Duration>,
    ) {
        let (over, on) = std::mem::take(&mut self.under_way)
            .into_iter()
            .partition(|(until, _)| now.is_none_or(|now| *until <= now));
        self.under_way = on;
        for (_, fault) in over {
            match fault {
                Under::Cut(a, b) => sim.repair(host::name(a), host::name(b)),
                Under::CutOneWay(a, b) => sim.repair_oneway(host::name(a), host::name(b)),
                Under::Held(a, b) => sim.release(host::name(a), host::name(b)),
                Under::Down(node) => {
                    shared.say(host::name(node), "starts");
                    sim.bounce(host::name(node));
                }
                Under::Slow => sim::set_sync_ms_max(3),
            }
        }
    }

    fn begin(&mut self, sim: &mut turmoil::Sim<'_>, shared: &Shared, now: Duration) {
        let count = self.nodes.len() as u64;
        match self.dice.below(100) {
            0..28 => {
                let node = self.victim(shared);
                let until = now + self.ms(20, 1000);
                self.crash(sim, shared, node, until);
            }
            28..40 => {
                // Power goes for several at once, perhaps all; they come back one by one.
                for node in self.nodes.clone() {
                    if self.dice.chance(70) {
                        let until = now + self.ms(20, 1000);
                        self.crash(sim, shared, node, until);
                    }
                }
            }
            40..65 => {
                let node = self.victim(shared);
                let until = now + self.ms(100, 2000);
                let both_ways = self.dice.chance(60);
                shared.say("fault", format!("{node} is cut off, both ways: {both_ways}"));
                for other in self.others(node) {
                    self.cut(sim, (node, other), until, both_ways);
                }
            }
            65..75 if count > 2 => {
                let (a, b) = self.pair();
                let until = now + self.ms(100, 2000);
                shared.say("fault", format!("{a} and {b} do not see each other"));
                self.cut(sim, (a, b), until, true);
            }
            65..85 => {
                let (a, b) = self.pair();
                let until = now + self.ms(50, 1500);
                shared.say("fault", format!("messages between {a} and {b} wait"));
                if self.is_free(a, b) {
                    sim.hold(host::name(a), host::name(b));
                    self.under_way.push((until, Under::Held(a, b)));
                }
            }
            85..92 => {
                let node = self.dice.pick(&self.nodes.clone());
                let hour: i64 = 3_600_000;
                let offset = self.dice.pick(&[-hour, -5000, 0, 5000, hour]);
                shared.say("fault", format!("{node}'s wall clock is off by {offset} ms"));
                sim::set_wall_offset_ms(node, offset);
            }
            _ => {
                let until = now + self.ms(500, 3000);
                shared.say("fault", "disks are slow");
                sim::set_sync_ms_max(self.dice.between(20, 300));
                self.under_way.push((until, Under::Slow));
            }
        }
    }

    /// The leader more often than not: it has most to lose.
    fn victim(&mut self, shared: &Shared) -> u64 {
        let leader =
            self.nodes.iter().copied().find(|node| {
                shared.node(*node).is_some_and(|node| node.status().state == "leader")
            });
        let any = self.dice.pick(&self.nodes.clone());
        leader.filter(|_| self.dice.chance(50)).unwrap_or(any)
    }

    fn others(&self, node: u64) -> Vec<u64> {
        self.nodes.iter().copied().filter(|other| *other != node).collect()
    }

    fn pair(&mut self) -> (u64, u64) {
        let a = self.dice.pick(&self.nodes.clone());
        let b = self.dice.pick(&self.others(a));
        (a, b)
    }

    /// Whether nothing is wrong between two nodes: one thing at a time.
    fn is_free(&self, a: u64, b: u64) -> bool {
        !self.under_way.iter().any(|(_, fault)| match fault {
            Under::Cut(c, d) | Under::CutOneWay(c, d) | Under::Held(c, d) => {
                (*c, *d) == (a, b) || (*c, *d) == (b, a)
            }
            Under::Down(_) | Under::Slow => false,
        })
    }

    fn cut(
        &mut self,
        sim: &mut turmoil::Sim<'_>,
        (a, b): (u64, u64),
        until: Duration,
        both_ways: bool,
    ) {
        if !self.is_free(a, b) {
            return;
        }
        self.cuts += 1;
        if both_ways {
            sim.partition(host::name(a), host::name(b));
            self.under_way.push((until, Under::Cut(a, b)));
        } else {
            sim.partition_oneway(host::name(a), host::name(b));
            self.under_way.push((until, Under::CutOneWay(a, b)));
        }
    }

    fn crash(&mut self, sim: &mut turmoil::Sim<'_>, shared: &Shared, node: u64, until: Duration) {
        if self.under_way.iter().any(|(_, fault)| matches!(fault, Under::Down(n) if *n == node)) {
            return;
        }
        shared.say(host::name(node), "crashes");
        self.crashes += 1;
        {
            let mut world = shared.change();
            world.nodes.remove(&node);
            world.oracle.crashed(node);
        }
        sim.crash(host::name(node));
        fs::crash(&host::dir(node)).expect("a node has a disk");
        self.under_way.push((until, Under::Down(node)));
    }
}
