//! Reads of the log while it grows: no gap, no repetition, nothing that is not in the log after the
//! run, and never less than the asked freshness promises.

use super::{Check, Facts};
use crate::history::{Answer, End, Freshness, Op, Operation};

/// Judges every read and every part of a tail.
#[must_use]
pub fn check(facts: &Facts) -> Check {
    let mut check = Check::new("reads");
    let log = facts.log();
    let acked = Acked::new(&facts.operations);
    let (mut reads, mut events) = (0, 0);
    for operation in &facts.operations {
        let End::Ok(Answer::Events { first, values, at_end }) = &operation.end else { continue };
        let (Op::Read { from, .. } | Op::Tail { from }) = operation.op else {
            check.wrong(format!("{:?} was answered with events", operation.op));
            continue;
        };
        reads += 1;
        events += values.len();
        if !values.is_empty() && *first != from {
            check.wrong(format!("a read from offset {from} began at offset {first}"));
            continue;
        }
        compare(&mut check, log, from, values);
        let next = from + values.len() as u64;
        if *at_end && let Some(least) = acked.promised(operation).filter(|least| *least > next) {
            check.wrong(format!(
                "{:?} at {} us ended at offset {next}, although offset {} was acknowledged before",
                operation.op,
                operation.call_us,
                least - 1
            ));
        }
    }
    check.figure("reads", reads);
    check.figure("events read", events);
    check
}

fn compare(check: &mut Check, log: &[u64], from: u64, values: &[u64]) {
    for (offset, value) in (from..).zip(values) {
        let there = usize::try_from(offset).ok().and_then(|at| log.get(at));
        if there != Some(value) {
            check.wrong(format!(
                "value {value} was read at offset {offset}, where the log has {there:?} after the run"
            ));
            return;
        }
    }
}

/// What was acknowledged when.
struct Acked {
    /// (when, the offset after the highest one so far), in the order of time.
    by_time: Vec<(u64, u64)>,
    /// (position, offset), in the order of positions.
    by_position: Vec<(u64, u64)>,
}

impl Acked {
    fn new(operations: &[Operation]) -> Self {
        let mut by_time = Vec::new();
        let mut by_position = Vec::new();
        for operation in operations {
            let Op::Publish { .. } = operation.op else { continue };
            if let End::Ok(Answer::Placed { offset, position, .. }) = operation.end {
                by_time.push((operation.return_us, offset + 1));
                by_position.push((position, offset));
            }
        }
        by_time.sort_unstable();
        by_position.sort_unstable();
        let mut highest = 0;
        for (_, next) in &mut by_time {
            highest = highest.max(*next);
            *next = highest;
        }
        Self { by_time, by_position }
    }

    /// Where a read that reached the end must at least have come to.
    fn promised(&self, read: &Operation) -> Option<u64> {
        let Op::Read { freshness, .. } = read.op else { return None };
        match freshness {
            Freshness::Stale => None,
            Freshness::Linearizable => {
                let before = self.by_time.partition_point(|(at, _)| *at < read.call_us);
                before.checked_sub(1).map(|last| self.by_time[last].1)
            }
            Freshness::AtLeast(position) => {
                let until = self.by_position.partition_point(|(at, _)| *at <= position);
                until.checked_sub(1).map(|last| self.by_position[last].1 + 1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::{facts, operation, published};
    use super::*;

    fn read(from: u64, freshness: Freshness, values: &[u64], call_us: u64) -> Operation {
        let op = Op::Read { node: 1, from, limit: 0, freshness };
        let answer = Answer::Events { first: from, values: values.to_vec(), at_end: true };
        operation(op, call_us, call_us + 1, End::Ok(answer))
    }

    fn log() -> Vec<Operation> {
        vec![published(10, 0, 0, 5), published(11, 1, 1, 6), published(12, 2, 10, 20)]
    }

    fn judged(extra: Operation) -> Check {
        let mut operations = log();
        operations.push(extra);
        check(&facts(operations, &[&[10, 11, 12]]))
    }

    #[test]
    fn good_reads_pass() {
        for good in [
            read(0, Freshness::Linearizable, &[10, 11], 7),
            read(1, Freshness::Linearizable, &[11, 12], 21),
            // It began before the last acknowledgement.
            read(0, Freshness::Linearizable, &[10, 11], 20),
            read(0, Freshness::Linearizable, &[10, 11, 12], 12),
            read(0, Freshness::Stale, &[10], 30),
            read(0, Freshness::AtLeast(1), &[10, 11], 30),
            read(3, Freshness::Linearizable, &[], 30),
        ] {
            let check = judged(good.clone());
            assert!(check.passes(), "{good:?}: {:?}", check.findings);
        }
    }

    #[test]
    fn bad_reads_are_found() {
        for (bad, says) in [
            (read(0, Freshness::Linearizable, &[10, 11], 21), "although offset 2"),
            (read(0, Freshness::AtLeast(2), &[10, 11], 30), "although offset 2"),
            (read(0, Freshness::Stale, &[10, 12], 30), "was read at offset 1"),
            (read(0, Freshness::Stale, &[10, 11, 12, 13], 30), "was read at offset 3"),
        ] {
            let check = judged(bad.clone());
            assert!(check.findings.iter().any(|f| f.contains(says)), "{bad:?}: {check:?}");
        }
        let answer = Answer::Events { first: 2, values: vec![12], at_end: false };
        let gap = operation(Op::Tail { from: 1 }, 30, 31, End::Ok(answer));
        assert!(judged(gap).findings[0].contains("began at offset 2"));
    }
}
