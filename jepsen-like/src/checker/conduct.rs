//! The run itself: faults that really were there, a hub that serves once they are gone, states that
//! are equal, logs without complaints.

use std::collections::BTreeMap;

use super::{Check, Facts};
use crate::history::{Answer, End, Line, Operation};

/// How soon after the last fault the hub must serve, microseconds.
pub const SERVES_WITHIN_US: u64 = 10_000_000;

/// Each chosen fault really was installed often enough; else the run says nothing.
#[must_use]
pub fn faults(facts: &Facts) -> Check {
    let mut check = Check::new("faults");
    let mut names = BTreeMap::new();
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for line in &facts.conduct {
        match line {
            Line::Fault { number, nemesis, .. } => {
                names.insert(*number, nemesis.as_str());
            }
            Line::Healed { number, evidence, .. } if !evidence.is_empty() => {
                if let Some(name) = names.get(number) {
                    *counts.entry(*name).or_default() += 1;
                }
            }
            _ => {}
        }
    }
    for name in &facts.run.nemeses {
        let count = counts.get(name.as_str()).copied().unwrap_or(0);
        if count < facts.run.installed_min {
            check.wrong(format!(
                "{name} was really there {count} times, {} are needed; let the run last longer",
                facts.run.installed_min
            ));
        }
    }
    check.figure("installed", counts.values().sum::<u32>() as usize);
    if let Some(cuts) = counts.get("N8") {
        check.figure("power cuts", *cuts as usize);
    }
    check
}

/// The hub serves soon after the last fault, and goes on serving.
#[must_use]
pub fn serving(facts: &Facts) -> Check {
    let mut check = Check::new("serving");
    let calm = facts.conduct.iter().find_map(|line| match line {
        Line::Calm { at_us } => Some(*at_us),
        _ => None,
    });
    let Some(calm) = calm else {
        check.wrong("the run has no fault-free end");
        return check;
    };
    let until = calm + SERVES_WITHIN_US;
    let writes = |o: &&Operation| {
        matches!(o.end, End::Ok(Answer::Placed { .. } | Answer::Transacted { .. }))
    };
    let served = facts.operations.iter().filter(|o| o.call_us >= calm).find(writes);
    match served {
        Some(first) if first.return_us <= until => {
            check.figure("ms until served", ((first.return_us - calm) / 1000) as usize);
        }
        _ => check.wrong("nothing was acknowledged within 10 s after the last fault"),
    }
    for operation in facts.operations.iter().filter(|o| o.call_us > until) {
        if let End::Fail { reason } | End::Info { reason } = &operation.end {
            check.wrong(format!(
                "{:?} ended with {reason} at {} us, in the fault-free time since {calm} us",
                operation.op, operation.return_us
            ));
        }
    }
    check
}

/// All nodes hash their state at one entry, to the same.
#[must_use]
pub fn hashes(facts: &Facts) -> Check {
    let mut check = Check::new("equal states");
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    for line in &facts.conduct {
        let Line::Hash { node, hash } = line else { continue };
        match hash {
            Ok(hash) => {
                seen.insert(hash, *node);
            }
            Err(why) => check.wrong(format!("node {node} gave no hash: {why}")),
        }
    }
    if seen.is_empty() {
        check.wrong("no node gave a hash");
    } else if seen.len() > 1 {
        check.wrong(format!("the states differ: {seen:?}"));
    }
    check
}

/// Nothing was complained of that no fault explains.
#[must_use]
pub fn complaints(facts: &Facts) -> Check {
    let mut check = Check::new("complaints");
    for line in &facts.conduct {
        if let Line::Complaint { node, what } = line {
            check.wrong(format!("node {node}: {what}"));
        }
    }
    check
}

#[cfg(test)]
mod tests {
    use super::super::made::{facts, failed, operation, published};
    use super::*;
    use crate::history::Op;

    fn fault(number: u64, nemesis: &str, evidence: &str) -> [Line; 2] {
        let nemesis = nemesis.to_owned();
        [
            Line::Fault { at_us: 0, number, nemesis, detail: String::new() },
            Line::Healed { at_us: 1, number, evidence: evidence.to_owned() },
        ]
    }

    #[test]
    fn faults_count_only_with_evidence() {
        let mut facts = facts(vec![], &[]);
        facts.run.nemeses = vec!["N1".to_owned()];
        facts.run.installed_min = 2;
        facts.conduct.extend(fault(1, "N1", "9 packets dropped"));
        facts.conduct.extend(fault(2, "N1", ""));
        facts.conduct.extend(fault(3, "N6", "killed"));
        assert!(!faults(&facts).passes());
        facts.conduct.extend(fault(4, "N1", "3 packets dropped"));
        assert!(faults(&facts).passes());
    }

    #[test]
    fn the_hub_has_to_serve_soon_and_on() {
        let calm = Line::Calm { at_us: 1000 };
        let at = |call, until| published(1, 0, call, until);
        let fails = |call| operation(Op::Publish { value: 2 }, call, call + 1, failed());
        for (operations, good) in [
            (vec![at(2000, 3000)], true),
            (vec![fails(2000), at(2000, 3000)], true),
            (vec![at(10, 3000)], false),
            (vec![at(2000, SERVES_WITHIN_US + 1001)], false),
            (vec![at(2000, 3000), fails(SERVES_WITHIN_US + 1001)], false),
            (vec![], false),
        ] {
            let mut facts = facts(operations.clone(), &[]);
            facts.conduct.push(calm.clone());
            assert_eq!(serving(&facts).passes(), good, "{operations:?}");
            facts.conduct.clear();
            assert!(!serving(&facts).passes());
        }
    }

    #[test]
    fn states_have_to_be_equal_and_complete() {
        let hash = |node, hash: &str| Line::Hash { node, hash: Ok(hash.to_owned()) };
        for (lines, good) in [
            (vec![hash(1, "a"), hash(2, "a")], true),
            (vec![hash(1, "a"), hash(2, "b")], false),
            (vec![hash(1, "a"), Line::Hash { node: 2, hash: Err("gone".to_owned()) }], false),
            (vec![], false),
        ] {
            let mut facts = facts(vec![], &[]);
            facts.conduct = lines;
            assert_eq!(hashes(&facts).passes(), good);
        }
    }

    #[test]
    fn complaints_fail_a_run() {
        let mut facts = facts(vec![], &[]);
        assert!(complaints(&facts).passes());
        facts.conduct.push(Line::Complaint { node: 1, what: "panicked".to_owned() });
        assert!(!complaints(&facts).passes());
    }
}
