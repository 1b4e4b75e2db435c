//! Transactions: strictly serializable, as adya finds by looking for cycles in what reads and appends say of
//! their order; and each of them all or nothing, by what the keys hold in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use adya::history::{History, Interner, Mop, Op as AdyaOp, OpType, ReadValue, Scalar};
use adya::{Opts, Valid, Workload};

use super::{Check, Facts};
use crate::history::{Answer, End, Op, Operation, Part};

/// How long a search for cycles may take, per component of the graph.
const SEARCH: Duration = Duration::from_secs(20);
/// The client that reads everything in the end.
const LAST: i64 = i64::MAX;

/// A transaction of a history.
struct Transaction<'f> {
    operation: &'f Operation,
    parts: &'f [Part],
    /// What its reads saw, when it is known to have been done.
    reads: &'f [Vec<u64>],
}

fn transactions(facts: &Facts) -> Vec<Transaction<'_>> {
    facts.operations.iter().filter_map(transaction_of).collect()
}

fn transaction_of(operation: &Operation) -> Option<Transaction<'_>> {
    let Op::Transact { parts, .. } = &operation.op else { return None };
    let reads = match &operation.end {
        End::Ok(Answer::Transacted { reads }) => reads.as_slice(),
        _ => &[],
    };
    Some(Transaction { operation, parts, reads })
}

/// What became of it. A conflict is an answer, and says that nothing was done.
fn fate(transaction: &Transaction<'_>) -> OpType {
    match &transaction.operation.end {
        End::Ok(Answer::Transacted { .. }) => OpType::Ok,
        End::Ok(_) | End::Fail { .. } => OpType::Fail,
        End::Info { .. } => OpType::Info,
    }
}

/// No anomaly that a strictly serializable history is free of.
#[must_use]
pub fn serializable(facts: &Facts) -> Check {
    let mut check = Check::new("strictly serializable");
    let all = transactions(facts);
    let are = |wanted| all.iter().filter(|transaction| fate(transaction) == wanted).count();
    let done = are(OpType::Ok);
    check.figure("transactions", done);
    check.figure("refused", are(OpType::Fail));
    check.figure("unknown", are(OpType::Info));
    check.figure("keys", facts.keys.len());
    if done == 0 {
        check.wrong("no transaction was done: that proves nothing");
        return check;
    }
    let options =
        Opts { models: vec!["strict-serializable".to_owned()], timeout: SEARCH, ..Opts::default() };
    let report = adya::check(&history(facts, &all), Workload::ListAppend, &options);
    for anomaly in report.anomalies.values().flatten() {
        check.wrong(format!("{}: {}", anomaly.kind, anomaly.explanation));
    }
    if report.valid != Valid::True && check.passes() {
        check.wrong(format!("no verdict: {:?}", report.anomaly_types));
    }
    check
}

/// The history as adya takes it: in the order of time, and in the end a read of every key.
fn history(facts: &Facts, all: &[Transaction<'_>]) -> History {
    let mut interner = Interner::default();
    let mut lines: Vec<(u64, bool, AdyaOp)> = Vec::new();
    for transaction in all {
        let Operation { process, call_us, return_us, .. } = transaction.operation;
        let kind = fate(transaction);
        let process = i64::try_from(*process).unwrap_or(LAST - 1);
        for (at, kind) in [(*call_us, OpType::Invoke), (*return_us, kind)] {
            let reads = if kind == OpType::Ok { Some(transaction.reads) } else { None };
            let value = mops(&mut interner, transaction.parts, reads);
            let op = AdyaOp { index: 0, kind, process: Some(process), value, time: nanos(at) };
            lines.push((at, kind != OpType::Invoke, op));
        }
    }
    // Of what happens at one instant, beginnings come first: they are concurrent.
    lines.sort_by_key(|(at, ends, _)| (*at, *ends));
    let mut ops: Vec<AdyaOp> = lines.into_iter().map(|(_, _, op)| op).collect();
    for (key, held) in &facts.keys {
        let values = [held.iter().map(|(_, value)| *value).collect()];
        let part = [Part::Read(*key)];
        for (kind, reads) in [(OpType::Invoke, None), (OpType::Ok, Some(&values[..]))] {
            let value = mops(&mut interner, &part, reads);
            ops.push(AdyaOp { index: 0, kind, process: Some(LAST), value, time: None });
        }
    }
    for (index, op) in (0..).zip(&mut ops) {
        op.index = index;
    }
    History::from_ops(ops, interner)
}

fn nanos(us: u64) -> Option<i64> {
    i64::try_from(us).ok()?.checked_mul(1000)
}

fn mops(interner: &mut Interner, parts: &[Part], reads: Option<&[Vec<u64>]>) -> Vec<Mop> {
    let mut number = |n: u64| interner.intern(Scalar::Int(i64::try_from(n).unwrap_or(i64::MAX)));
    let mut reads = reads.map(|reads| reads.iter());
    let mut mop = |part: &Part| match part {
        Part::Append(key, value) => Mop::Append { key: number(*key), value: number(*value) },
        Part::Read(key) => {
            let seen = reads.as_mut().and_then(Iterator::next);
            let value = seen.map_or(ReadValue::Nil, |values| {
                ReadValue::List(values.iter().map(|value| number(*value)).collect())
            });
            Mop::Read { key: number(*key), value }
        }
    };
    parts.iter().map(&mut mop).collect()
}

/// Each transaction's appends are all there, or none of them: all of one that was done, none of one that
/// was refused; and nothing is there that nobody appended.
#[must_use]
pub fn whole(facts: &Facts) -> Check {
    let mut check = Check::new("all or nothing");
    let mut held: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    for (key, values) in &facts.keys {
        for (_, value) in values {
            *held.entry((*key, *value)).or_default() += 1;
        }
    }
    let mut appended = BTreeSet::new();
    for transaction in transactions(facts) {
        let appends = transaction.parts.iter().filter_map(|part| match part {
            Part::Append(key, value) => Some((*key, *value)),
            Part::Read(_) => None,
        });
        let appends: Vec<_> = appends.collect();
        let there = appends.iter().filter(|place| held.contains_key(place)).count();
        let what = told(&transaction);
        match fate(&transaction) {
            OpType::Ok if there < appends.len() => {
                check.wrong(format!("{what} was done, and {there} of its appends are there"));
            }
            OpType::Fail if there > 0 => {
                check.wrong(format!("{what} was refused, and {there} of its appends are there"));
            }
            OpType::Info if there > 0 && there < appends.len() => {
                check.wrong(format!("{what}: only {there} of its appends are there"));
            }
            OpType::Ok | OpType::Fail | OpType::Info | OpType::Invoke => {}
        }
        appended.extend(appends);
    }
    for ((key, value), times) in &held {
        if *times > 1 {
            check.wrong(format!("value {value} is {times} times in key {key}"));
        }
        if !appended.contains(&(*key, *value)) {
            check.wrong(format!("value {value} is in key {key}, and nobody appended it"));
        }
    }
    check.figure("appends", held.len());
    check
}

/// A transaction in a finding.
fn told(transaction: &Transaction<'_>) -> String {
    let staged = matches!(transaction.operation.op, Op::Transact { staged: true, .. });
    format!("the {}transaction {:?}", if staged { "staged " } else { "" }, transaction.parts)
}

#[cfg(test)]
mod tests {
    use super::super::made::{failed, unknown};
    use super::*;
    use Part::{Append, Read};

    fn transaction(
        process: u64,
        (call_us, return_us): (u64, u64),
        parts: &[Part],
        end: End,
    ) -> Operation {
        let op = Op::Transact { parts: parts.to_vec(), staged: false };
        Operation { process, op, call_us, return_us, end }
    }

    fn saw(reads: &[&[u64]]) -> End {
        End::Ok(Answer::Transacted { reads: reads.iter().map(|read| read.to_vec()).collect() })
    }

    fn facts(operations: Vec<Operation>, keys: &[(u64, &[u64])]) -> Facts {
        let held =
            |(key, values): &(u64, &[u64])| (*key, (1..).zip(values.iter().copied()).collect());
        Facts { operations, keys: keys.iter().map(held).collect(), ..Facts::default() }
    }

    #[test]
    fn a_good_history_passes() {
        let facts = facts(
            vec![
                transaction(1, (0, 10), &[Append(1, 1), Append(2, 2)], saw(&[])),
                transaction(2, (5, 30), &[Read(1), Append(1, 3), Read(1)], saw(&[&[1], &[1, 3]])),
                transaction(1, (11, 12), &[Append(2, 4)], failed()),
                transaction(3, (20, u64::MAX), &[Append(1, 5), Append(2, 6)], unknown()),
                transaction(4, (40, 50), &[Read(1), Read(2)], saw(&[&[1, 3, 5], &[2, 6]])),
            ],
            &[(1, &[1, 3, 5]), (2, &[2, 6])],
        );
        let checks = [serializable(&facts), whole(&facts)];
        assert!(checks.iter().all(Check::passes), "{checks:?}");
        assert_eq!(checks[0].figures["transactions"], 3);
    }

    #[test]
    fn write_skew_is_found() {
        let facts = facts(
            vec![
                transaction(1, (0, 10), &[Read(1), Read(2), Append(1, 1)], saw(&[&[], &[]])),
                transaction(2, (0, 10), &[Read(1), Read(2), Append(2, 2)], saw(&[&[], &[]])),
            ],
            &[(1, &[1]), (2, &[2])],
        );
        assert!(serializable(&facts).findings[0].contains("G2"));
        assert!(whole(&facts).passes());
    }

    #[test]
    fn a_stale_read_is_found() {
        let facts = facts(
            vec![
                transaction(1, (0, 10), &[Append(1, 1)], saw(&[])),
                transaction(2, (20, 30), &[Read(1)], saw(&[&[]])),
            ],
            &[(1, &[1])],
        );
        assert!(!serializable(&facts).passes(), "it began after the append was done");
    }

    #[test]
    fn a_lost_update_is_found() {
        let facts = facts(
            vec![
                transaction(1, (0, 10), &[Read(1), Append(1, 1)], saw(&[&[]])),
                transaction(2, (0, 10), &[Read(1), Append(1, 2)], saw(&[&[]])),
            ],
            &[(1, &[1, 2])],
        );
        assert!(!serializable(&facts).passes());
    }

    #[test]
    fn what_was_refused_and_is_there_is_found() {
        for refused in [failed(), End::Ok(Answer::Conflict { actual: 3 })] {
            check_refused(&refused);
        }
    }

    fn check_refused(refused: &End) {
        let facts = facts(
            vec![
                transaction(1, (0, 10), &[Append(1, 1), Append(2, 2)], refused.clone()),
                transaction(2, (20, 30), &[Read(1)], saw(&[&[1]])),
            ],
            &[(1, &[1]), (2, &[])],
        );
        assert!(!serializable(&facts).passes(), "an aborted read");
        assert!(whole(&facts).findings[0].contains("refused"));
    }

    #[test]
    fn half_of_a_transaction_is_found() {
        for (end, says) in [(saw(&[]), "was done"), (unknown(), "only 1")] {
            let parts = [Append(1, 1), Append(2, 2)];
            let facts = facts(vec![transaction(1, (0, 10), &parts, end)], &[(1, &[1]), (2, &[])]);
            assert!(whole(&facts).findings[0].contains(says));
        }
        let done = transaction(1, (0, 10), &[Append(1, 1)], saw(&[]));
        let twice = facts(vec![done.clone()], &[(1, &[1, 1])]);
        assert!(whole(&twice).findings[0].contains("2 times"));
        let foreign = facts(vec![done], &[(1, &[1, 9])]);
        assert!(whole(&foreign).findings[0].contains("nobody"));
    }

    #[test]
    fn a_run_without_transactions_proves_nothing() {
        assert!(!serializable(&facts(Vec::new(), &[])).passes());
    }
}
