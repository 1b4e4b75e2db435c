//! The log: nothing acknowledged is lost, nothing refused is there, and all replicas hold the same.

use std::collections::BTreeMap;

use super::{Check, Facts};
use crate::history::{Answer, End, Op};

/// Every replica holds the same log: none diverges, none is shorter.
#[must_use]
pub fn replicas(facts: &Facts) -> Check {
    let mut check = Check::new("replicas");
    let longest = facts.log();
    for (node, log) in &facts.replicas {
        if let Some(offset) = (0..log.len()).find(|&at| log[at] != longest[at]) {
            check.wrong(format!(
                "node {node} diverges at offset {offset}: {} where another one has {}",
                log[offset], longest[offset]
            ));
        } else if log.len() < longest.len() {
            let short = longest.len() - log.len();
            check.wrong(format!("node {node} lacks the last {short} of {} events", longest.len()));
        }
    }
    if facts.replicas.len() < usize::from(facts.run.nodes) {
        check.wrong(format!("only {} replicas could be read", facts.replicas.len()));
    }
    check.figure("replicas", facts.replicas.len());
    check.figure("events", longest.len());
    check
}

/// Each acknowledged value is where its answer said, each refused one nowhere, none is there twice
/// or from nowhere, and the order of the log respects the order in time.
#[must_use]
pub fn set_full(facts: &Facts) -> Check {
    let mut check = Check::new("set-full");
    let log = facts.log();
    let mut places: BTreeMap<u64, usize> = BTreeMap::new();
    for (offset, value) in log.iter().enumerate() {
        if let Some(first) = places.insert(*value, offset) {
            check.wrong(format!("value {value} is there twice, at offsets {first} and {offset}"));
        }
    }
    let (mut acknowledged, mut unknown, mut present) = (0, 0, 0);
    let mut acked: Vec<(u64, u64, u64)> = Vec::new();
    for operation in &facts.operations {
        let Op::Publish { value } = operation.op else { continue };
        let found = places.remove(&value);
        match (&operation.end, found) {
            (End::Ok(Answer::Placed { offset, .. }), found) => {
                acknowledged += 1;
                acked.push((operation.call_us, operation.return_us, *offset));
                match found {
                    None => check.wrong(format!(
                        "value {value} is lost: it was acknowledged at offset {offset}, {} us after the start",
                        operation.return_us
                    )),
                    Some(at) if at as u64 != *offset => check.wrong(format!(
                        "value {value} is at offset {at}, but was acknowledged at offset {offset}"
                    )),
                    Some(_) => {}
                }
            }
            (End::Ok(answer), _) => {
                check.wrong(format!("value {value} was published and answered with {answer:?}"));
            }
            (End::Fail { reason }, Some(at)) => {
                check.wrong(format!("value {value} was refused ({reason}), but is at offset {at}"));
            }
            (End::Fail { .. }, None) => {}
            (End::Info { .. }, found) => {
                unknown += 1;
                present += usize::from(found.is_some());
            }
        }
    }
    for (value, offset) in places {
        check.wrong(format!("value {value} at offset {offset} comes from nowhere"));
    }
    real_time(&mut check, acked);
    if acknowledged == 0 {
        check.wrong("nothing was acknowledged: the run says nothing");
    }
    check.figure("acknowledged", acknowledged);
    check.figure("unknown", unknown);
    check.figure("unknown but done", present);
    check
}

/// What was acknowledged before something else began comes before it in the log.
fn real_time(check: &mut Check, mut acked: Vec<(u64, u64, u64)>) {
    let mut by_return = acked.clone();
    by_return.sort_unstable_by_key(|(_, returned, _)| *returned);
    acked.sort_unstable();
    let mut earlier = by_return.into_iter().peekable();
    let mut highest = None;
    for (call, _, offset) in acked {
        while let Some((_, _, before)) = earlier.next_if(|(_, returned, _)| *returned < call) {
            highest = highest.max(Some(before));
        }
        if let Some(before) = highest.filter(|before| *before > offset) {
            check.wrong(format!(
                "offset {offset} was given to a publish that began after offset {before} was acknowledged"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::{facts, failed, operation, published, unknown};
    use super::*;

    fn publish(value: u64, end: End) -> crate::history::Operation {
        operation(Op::Publish { value }, 0, 9, end)
    }

    #[test]
    fn a_good_history_passes() {
        let operations = vec![
            published(10, 0, 0, 5),
            published(11, 1, 1, 6),
            publish(12, failed()),
            publish(13, unknown()),
            publish(14, unknown()),
        ];
        let facts = facts(operations, &[&[10, 11, 13], &[10, 11, 13]]);
        let check = set_full(&facts);
        assert!(check.passes(), "{:?}", check.findings);
        assert_eq!(check.figures["acknowledged"], 2);
        assert_eq!(check.figures["unknown but done"], 1);
        assert!(replicas(&facts).passes());
    }

    #[test]
    fn each_kind_of_loss_is_found() {
        let one = || published(10, 0, 0, 5);
        for (operations, log, says) in [
            (vec![one()], vec![], "is lost"),
            (vec![one(), publish(11, unknown())], vec![11, 10], "is at offset 1"),
            (vec![one(), publish(11, failed())], vec![10, 11], "was refused"),
            (vec![one()], vec![10, 10], "is there twice"),
            (vec![one()], vec![10, 99], "from nowhere"),
            (vec![publish(1, failed())], vec![], "says nothing"),
            (vec![published(10, 1, 0, 5), published(11, 0, 6, 9)], vec![11, 10], "began after"),
        ] {
            let check = set_full(&facts(operations, &[&log]));
            assert!(check.findings.iter().any(|f| f.contains(says)), "{says}: {check:?}");
        }
    }

    #[test]
    fn replicas_that_differ_are_found() {
        let differs = replicas(&facts(vec![], &[&[1, 2, 3], &[1, 9, 3]]));
        assert!(differs.findings[0].contains("diverges at offset 1"), "{differs:?}");
        let short = replicas(&facts(vec![], &[&[1, 2, 3], &[1]]));
        assert!(short.findings[0].contains("lacks the last 2"), "{short:?}");
        let mut few = facts(vec![], &[&[1]]);
        few.run.nodes = 3;
        assert!(!replicas(&few).passes());
    }
}
