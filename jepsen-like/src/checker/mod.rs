//! Judging a history: one checker a file, each tested with good and bad histories made by hand.

pub mod conduct;
pub mod conservation;
pub mod deliveries;
pub mod failover;
pub mod health;
pub mod log;
pub mod order;
pub mod queue;
pub mod reads;
pub mod register;
pub mod transactions;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::delivered::{Counts, Letter};
use crate::history::{Line, Operation, RunInfo, operations};

/// The most findings that a check tells in full; the rest is counted.
const FINDINGS_MAX: usize = 20;

/// What one checker found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Check {
    /// What was judged.
    pub name: &'static str,
    /// What is wrong, at most so many; empty when all is well.
    pub findings: Vec<String>,
    /// How much is wrong in all.
    pub wrong: u64,
    /// Figures for people.
    pub figures: BTreeMap<&'static str, u64>,
}

impl Check {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, ..Self::default() }
    }

    pub(crate) fn wrong(&mut self, finding: impl Into<String>) {
        self.wrong += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding.into());
        }
    }

    pub(crate) fn figure(&mut self, name: &'static str, value: usize) {
        self.figures.insert(name, value as u64);
    }

    /// Whether all is well.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.wrong == 0
    }
}

/// The judgement of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// Whether all checks pass.
    pub pass: bool,
    /// Of this run.
    pub run: RunInfo,
    /// What was judged.
    pub checks: Vec<Check>,
}

/// A history in the form that checkers use.
#[derive(Debug, Default)]
pub struct Facts {
    /// Settings of the run.
    pub run: RunInfo,
    /// In the order in which they began.
    pub operations: Vec<Operation>,
    /// The log as each replica holds it after the run, by slot.
    pub replicas: BTreeMap<u8, Vec<u64>>,
    /// What each key held up to the end of the run: version and value.
    pub keys: BTreeMap<u64, Vec<(u64, u64)>>,
    /// Subscriptions after the run, by name.
    pub subscriptions: BTreeMap<String, (Counts, Vec<Letter>)>,
    /// Lines of the history that are about the run itself.
    pub conduct: Vec<Line>,
}

impl Facts {
    /// Sorts the lines of a history.
    ///
    /// # Errors
    /// When a replica's log is not told from its beginning, without gaps.
    pub fn new(lines: &[Line]) -> anyhow::Result<Self> {
        let mut facts = Self { operations: operations(lines), ..Self::default() };
        for line in lines {
            match line {
                Line::Run(info) => facts.run = info.clone(),
                Line::Replica { node, first, values } => {
                    let log = facts.replicas.entry(*node).or_default();
                    anyhow::ensure!(
                        log.len() as u64 == *first,
                        "the log of node {node} goes on at {first} after {} values",
                        log.len()
                    );
                    log.extend(values);
                }
                Line::Key { key, values, versions } if versions.is_empty() => {
                    facts.keys.insert(*key, (1..).zip(values.iter().copied()).collect());
                }
                Line::Key { key, values, versions } => {
                    let held = versions.iter().copied().zip(values.iter().copied());
                    facts.keys.insert(*key, held.collect());
                }
                Line::Subscription { name, counts, letters } => {
                    facts.subscriptions.insert(name.clone(), (*counts, letters.clone()));
                }
                Line::Invoke { .. } | Line::Done { .. } => {}
                Line::Fault { .. }
                | Line::Healed { .. }
                | Line::Calm { .. }
                | Line::Hash { .. }
                | Line::Health { .. }
                | Line::Complaint { .. } => facts.conduct.push(line.clone()),
            }
        }
        Ok(facts)
    }

    /// The longest log of any replica.
    #[must_use]
    pub fn log(&self) -> &[u64] {
        self.replicas.values().max_by_key(|log| log.len()).map_or(&[], Vec::as_slice)
    }
}

/// Judges a history.
///
/// # Errors
/// When it is none.
pub fn judge(lines: &[Line]) -> anyhow::Result<Verdict> {
    let facts = Facts::new(lines)?;
    let mut checks = vec![
        conduct::faults(&facts),
        conduct::serving(&facts),
        conduct::hashes(&facts),
        conduct::complaints(&facts),
    ];
    match facts.run.workload.as_str() {
        "W1" => checks.push(register::check(&facts)),
        "W2" | "W8" => {
            checks.push(log::replicas(&facts));
            checks.push(log::set_full(&facts));
            checks.push(reads::check(&facts));
        }
        "W3" => {
            checks.push(log::replicas(&facts));
            checks.push(log::set_full(&facts));
            checks.push(queue::fencing(&facts));
            checks.push(queue::total(&facts));
        }
        "W4" => {
            checks.push(log::replicas(&facts));
            checks.push(log::set_full(&facts));
            checks.push(conservation::check(&facts));
            checks.push(conservation::retries(&facts));
        }
        "W5" => {
            checks.push(log::replicas(&facts));
            checks.push(log::set_full(&facts));
            checks.push(conservation::check(&facts));
            checks.push(order::inversions(&facts));
            checks.push(order::deadlines(&facts));
        }
        "W6" => {
            checks.push(register::check(&facts));
            checks.push(health::flaps(&facts));
            checks.push(health::removal(&facts));
            checks.push(failover::check(&facts));
        }
        "W7" => {
            checks.push(transactions::serializable(&facts));
            checks.push(transactions::whole(&facts));
        }
        other => anyhow::bail!("workload {other:?} has no checker; `jepsen-like list` names them"),
    }
    let pass = checks.iter().all(Check::passes);
    Ok(Verdict { pass, run: facts.run, checks })
}

#[cfg(test)]
pub(crate) mod made {
    //! Histories made by hand.

    use super::*;
    use crate::history::{Answer, End, Op};

    /// A publish at an offset, from `call_us` until `return_us`.
    pub(crate) fn published(value: u64, offset: u64, call_us: u64, return_us: u64) -> Operation {
        let answer = Answer::Placed { offset, position: offset, version: 0 };
        operation(Op::Publish { value }, call_us, return_us, End::Ok(answer))
    }

    pub(crate) fn operation(op: Op, call_us: u64, return_us: u64, end: End) -> Operation {
        Operation { process: 1, op, call_us, return_us, end }
    }

    pub(crate) fn unknown() -> End {
        End::Info { reason: "OUTCOME_UNKNOWN".to_owned() }
    }

    pub(crate) fn failed() -> End {
        End::Fail { reason: "NO_LEADER".to_owned() }
    }

    pub(crate) fn facts(operations: Vec<Operation>, replicas: &[&[u64]]) -> Facts {
        let replicas = (1..).zip(replicas.iter().map(|log| log.to_vec())).collect();
        Facts { operations, replicas, ..Facts::default() }
    }
}
