//! Keys as registers of (version, newest value): linearizable, judged by porcupine, key by key.
//!
//! Unknown appends are resolved by the events that each key holds after the run: one that is there
//! took effect at some time, one that is not there never did.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use porcupine_rs::{CheckResult, Model, Operation as Timed, check_operations_timeout};

use super::{Check, Facts};
use crate::history::{Answer, End, Op, Operation};

/// How long one key may take to be judged; beyond, the run fails as undecided.
const KEY_WITHIN: Duration = Duration::from_secs(20);

/// What was done to a key, with what was seen.
#[derive(Clone, Debug)]
enum Step {
    /// Appended, which led to `version`; it was `expect` before.
    Append { expect: u64, version: u64, value: u64 },
    /// Refused, since the version was another one.
    Conflict { actual: u64 },
    /// Seen.
    Head { version: u64, value: u64 },
}

#[derive(Clone, Debug)]
struct Register;

impl Model for Register {
    type State = (u64, u64);
    type Op = Step;
    type Metadata = ();

    fn init() -> Self::State {
        (0, 0)
    }

    fn step(state: &Self::State, op: &Step) -> (bool, Self::State) {
        match op {
            Step::Append { expect, version, value } => {
                (*expect == state.0 && *version > state.0, (*version, *value))
            }
            Step::Conflict { actual } => (*actual == state.0, *state),
            Step::Head { version, value } => ((*version, *value) == *state, *state),
        }
    }
}

/// Judges each key by itself.
#[must_use]
pub fn check(facts: &Facts) -> Check {
    let mut check = Check::new("linearizable keys");
    let mut keys: BTreeMap<u64, Vec<&Operation>> = BTreeMap::new();
    for operation in &facts.operations {
        if let Op::Append { key, .. } | Op::ReadKey { key, .. } = operation.op {
            keys.entry(key).or_default().push(operation);
        }
    }
    let (mut judged, mut acknowledged) = (0, 0);
    for (key, operations) in &keys {
        let Some(held) = facts.keys.get(key) else {
            check.wrong(format!("key {key} was not read after the run"));
            continue;
        };
        chain(&mut check, *key, held, operations);
        let placed = |o: &&&Operation| matches!(o.end, End::Ok(Answer::Placed { .. }));
        acknowledged += operations.iter().filter(placed).count();
        let history = resolved(&mut check, *key, held, operations);
        judged += history.len();
        match check_operations_timeout::<Register>(&history, KEY_WITHIN) {
            CheckResult::Ok => {}
            CheckResult::Illegal => {
                check.wrong(format!("key {key} is not linearizable ({} steps)", history.len()));
            }
            CheckResult::Unknown => {
                check.wrong(format!("key {key} could not be judged within {KEY_WITHIN:?}"));
            }
        }
    }
    if judged == 0 {
        check.wrong("nothing was done to any key: the run says nothing");
    }
    // Events are what a matrix counts.
    let what = if facts.run.workload == "W6" { "changes" } else { "acknowledged" };
    check.figure(what, acknowledged);
    check.figure("keys", keys.len());
    check.figure("steps", judged);
    check
}

/// A version of a key, and its value.
type Held = (u64, u64);

fn version_of(held: &[Held], value: u64) -> Option<u64> {
    held.iter().find(|(_, known)| *known == value).map(|(version, _)| *version)
}

/// The events of a key are what was acknowledged, each at its version, and nothing else.
fn chain(check: &mut Check, key: u64, held: &[Held], operations: &[&Operation]) {
    let mut asked = BTreeSet::new();
    for operation in operations {
        let Op::Append { value, .. } = operation.op else { continue };
        asked.insert(value);
        let at = version_of(held, value);
        match &operation.end {
            End::Ok(Answer::Placed { version, .. }) if at != Some(*version) => check.wrong(format!(
                "key {key}: value {value} was acknowledged as version {version}, and is {at:?} after the run"
            )),
            End::Fail { reason } if at.is_some() => {
                check.wrong(format!("key {key}: value {value} was refused ({reason}), but is there"));
            }
            End::Ok(Answer::Conflict { .. }) if at.is_some() => {
                check.wrong(format!("key {key}: value {value} met a conflict, but is there"));
            }
            End::Ok(_) | End::Fail { .. } | End::Info { .. } => {}
        }
    }
    let distinct: BTreeSet<u64> = held.iter().map(|(_, value)| *value).collect();
    if distinct.len() < held.len() {
        check.wrong(format!("key {key} holds a value twice: {held:?}"));
    }
    for value in distinct.difference(&asked) {
        check.wrong(format!("key {key}: value {value} comes from nowhere"));
    }
}

/// The steps of a key, without those that never took effect.
fn resolved(
    check: &mut Check,
    key: u64,
    held: &[Held],
    operations: &[&Operation],
) -> Vec<Timed<Register>> {
    let mut history = Vec::new();
    for operation in operations {
        let (step, return_us) = match (&operation.op, &operation.end) {
            (Op::Append { expect, value, .. }, End::Ok(Answer::Placed { version, .. })) => {
                let (expect, version, value) = (*expect, *version, *value);
                (Step::Append { expect, version, value }, operation.return_us)
            }
            (Op::Append { .. }, End::Ok(Answer::Conflict { actual })) => {
                (Step::Conflict { actual: *actual }, operation.return_us)
            }
            (Op::Append { expect, value, .. }, End::Info { .. }) => {
                // What is not there never took effect.
                let Some(version) = version_of(held, *value) else { continue };
                (Step::Append { expect: *expect, version, value: *value }, u64::MAX)
            }
            (Op::ReadKey { .. }, End::Ok(Answer::Head { version, value })) => {
                (Step::Head { version: *version, value: *value }, operation.return_us)
            }
            (_, End::Ok(answer)) => {
                check.wrong(format!("key {key}: {:?} was answered with {answer:?}", operation.op));
                continue;
            }
            (_, End::Info { .. } | End::Fail { .. }) => continue,
        };
        history.push(Timed {
            client_id: u32::try_from(operation.process).ok(),
            call_time: i64::try_from(operation.call_us).unwrap_or(i64::MAX),
            return_time: i64::try_from(return_us).unwrap_or(i64::MAX),
            op: step,
            metadata: None,
        });
    }
    history
}

#[cfg(test)]
mod tests {
    use super::super::made::{facts, operation, unknown};
    use super::*;

    fn append(expect: u64, value: u64, from: u64, until: u64) -> Operation {
        let answer = Answer::Placed { offset: 0, position: 0, version: expect + 1 };
        operation(Op::Append { key: 1, expect, value }, from, until, End::Ok(answer))
    }

    fn conflict(expect: u64, actual: u64, from: u64, until: u64) -> Operation {
        let op = Op::Append { key: 1, expect, value: 77 };
        operation(op, from, until, End::Ok(Answer::Conflict { actual }))
    }

    fn head(version: u64, value: u64, from: u64, until: u64) -> Operation {
        let op = Op::ReadKey { key: 1, node: 1 };
        operation(op, from, until, End::Ok(Answer::Head { version, value }))
    }

    fn open(expect: u64, value: u64, from: u64) -> Operation {
        operation(Op::Append { key: 1, expect, value }, from, u64::MAX, unknown())
    }

    fn judged(operations: Vec<Operation>, held: &[u64]) -> Check {
        let mut facts = facts(operations, &[]);
        facts.keys.insert(1, (1..).zip(held.iter().copied()).collect());
        check(&facts)
    }

    #[test]
    fn good_histories_pass() {
        for (operations, held) in [
            (vec![append(0, 5, 0, 9), head(0, 0, 1, 2), head(1, 5, 3, 4)], vec![5]),
            (vec![append(0, 5, 0, 1), conflict(0, 1, 2, 3), append(1, 6, 4, 5)], vec![5, 6]),
            // The unknown append took effect long after it was given up.
            (vec![open(0, 5, 0), head(0, 0, 8, 9), append(1, 6, 10, 11)], vec![5, 6]),
            (vec![open(0, 5, 0), append(0, 6, 10, 11), head(1, 6, 12, 13)], vec![6]),
        ] {
            let check = judged(operations, &held);
            assert!(check.passes(), "{:?}", check.findings);
        }
    }

    #[test]
    fn bad_histories_are_found() {
        for (operations, held, says) in [
            // A stale read.
            (vec![append(0, 5, 0, 1), head(0, 0, 2, 3)], vec![5], "not linearizable"),
            // A read of something that was undone again.
            (
                vec![open(0, 5, 0), head(1, 5, 2, 3), append(0, 6, 4, 5)],
                vec![6],
                "not linearizable",
            ),
            // A conflict with a version that comes later.
            (vec![conflict(0, 1, 0, 1), append(0, 5, 2, 3)], vec![5], "not linearizable"),
            (vec![append(0, 5, 0, 1)], vec![], "was acknowledged as version 1"),
            (vec![append(0, 5, 0, 1)], vec![5, 9], "comes from nowhere"),
            (vec![append(0, 5, 0, 1)], vec![5, 5], "twice"),
            (vec![append(0, 5, 0, 1), conflict(0, 1, 2, 3)], vec![5, 77], "met a conflict"),
            (vec![], vec![], "says nothing"),
        ] {
            let check = judged(operations, &held);
            assert!(check.findings.iter().any(|f| f.contains(says)), "{says}: {check:?}");
        }
    }
}
