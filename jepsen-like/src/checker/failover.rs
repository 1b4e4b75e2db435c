//! Failing over: when all instances of the pair are silent each node names instances of the fleet in their place,
//! and goes on with that until the pair has been back for its hold.

use super::health::micros;
use super::{Check, Facts};
use crate::history::{Answer, End, Line, Op, Operation};
use crate::workload::registry::{
    DECIDES_WITHIN, FAILOVER_HOLD, HEARD_WITHIN, INSTANCES, PAIR_FIRST, PAIR_SECOND, TTL,
};

/// The hub's time may run so much faster over the hold.
const EARLY_US: u64 = 1_000_000;

/// A time in which it is certain who has to be named.
struct Phase {
    /// Answers count that were asked for after this.
    from_us: u64,
    /// And came before this.
    until_us: u64,
    /// Whether an instance may be named.
    may_be: fn(u64) -> bool,
    /// Who that is.
    who: &'static str,
    /// What is going on.
    what: &'static str,
}

fn is_of_fleet(instance: u64) -> bool {
    instance < INSTANCES
}

fn is_back(instance: u64) -> bool {
    PAIR_SECOND.contains(&instance)
}

/// What is certain, in the order of time; why nothing is.
fn phases(facts: &Facts) -> Result<[Phase; 3], &'static str> {
    let calm = facts.conduct.iter().find_map(|line| match line {
        Line::Calm { at_us } => Some(*at_us),
        _ => None,
    });
    let calm = calm.ok_or("the run has no fault-free end")?;
    // Whatever came of it, it may have been a sign of life.
    let sign = |o: &&Operation| match &o.op {
        Op::Register { instance } | Op::Renew { instance, .. } => PAIR_FIRST.contains(instance),
        _ => false,
    };
    let silent = facts.operations.iter().filter(sign).map(|o| o.call_us).max();
    let silent = silent.filter(|last| *last >= calm);
    let silent = silent.ok_or("the pair did not fall silent in the fault-free end")?;
    let second = |o: &&Operation| matches!(&o.op, Op::Register { instance } if is_back(*instance));
    let begins = facts.operations.iter().filter(second).map(|o| o.call_us).min();
    let done = |o: &&Operation| matches!(o.end, End::Ok(Answer::Registered { .. }));
    let back = facts.operations.iter().filter(second).filter(done).map(|o| o.return_us).min();
    let (begins, back) = begins.zip(back).ok_or("nobody took the place of the pair")?;
    Ok([
        Phase {
            from_us: silent + micros(TTL + DECIDES_WITHIN + HEARD_WITHIN),
            until_us: begins,
            may_be: is_of_fleet,
            who: "the fleet",
            what: "all of the pair had to be given up",
        },
        Phase {
            from_us: begins,
            until_us: begins + micros(FAILOVER_HOLD) - EARLY_US,
            may_be: is_of_fleet,
            who: "the fleet",
            what: "the pair began to be back, and its hold had not passed",
        },
        Phase {
            from_us: back + micros(FAILOVER_HOLD + DECIDES_WITHIN + HEARD_WITHIN),
            until_us: u64::MAX,
            may_be: is_back,
            who: "those of the pair who are back",
            what: "the hold of the pair was over",
        },
    ])
}

/// Without faults, each node names the fleet soon after the pair fell silent, and the pair again after its hold.
#[must_use]
pub fn check(facts: &Facts) -> Check {
    let mut check = Check::new("failover");
    match phases(facts) {
        Ok(phases) => phases.iter().for_each(|phase| judge(&mut check, facts, phase)),
        Err(why) => check.wrong(format!("{why}: the run says nothing")),
    }
    check
}

fn judge(check: &mut Check, facts: &Facts, phase: &Phase) {
    for node in 1..=facts.run.nodes {
        let mut asked = 0;
        for operation in &facts.operations {
            let End::Ok(Answer::Resolved { instances, stale: false }) = &operation.end else {
                continue;
            };
            let is_in = operation.call_us > phase.from_us && operation.return_us < phase.until_us;
            if operation.op != (Op::ResolvePair { node }) || !is_in {
                continue;
            }
            asked += 1;
            if instances.is_empty() || !instances.iter().all(|i| (phase.may_be)(*i)) {
                check.wrong(format!(
                    "node {node} named {instances:?} instead of {}, {} ms after {}",
                    phase.who,
                    (operation.call_us - phase.from_us) / 1000,
                    phase.what
                ));
            }
        }
        if asked == 0 {
            let what = phase.what;
            check.wrong(format!("node {node} said nothing after {what}: the run says nothing"));
        }
        *check.figures.entry("answers").or_default() += asked;
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::{facts, operation};
    use super::*;

    const S: u64 = 1_000_000;
    const NODES: u8 = 3;

    fn resolved(node: u8, at: u64, instances: &[u64], stale: bool) -> Operation {
        let answer = Answer::Resolved { instances: instances.to_vec(), stale };
        operation(Op::ResolvePair { node }, at, at + 1000, End::Ok(answer))
    }

    fn renewal(instance: u64, at: u64) -> Operation {
        let answer = Answer::Renewed { lost: false };
        operation(Op::Renew { instance, incarnation: 7 }, at, at + 1000, End::Ok(answer))
    }

    fn registration(instance: u64, at: u64) -> Operation {
        let answer = Answer::Registered { incarnation: 8 };
        operation(Op::Register { instance }, at, at + 1000, End::Ok(answer))
    }

    /// Without faults from 10 on, silent after 20, given up at 25, others register at 40 and are named from 44 on.
    fn history() -> Facts {
        let mut operations = Vec::new();
        for second in 0..=20 {
            operations.extend(PAIR_FIRST.map(|instance| renewal(instance, second * S)));
        }
        operations.extend(PAIR_SECOND.map(|instance| registration(instance, 40 * S)));
        for second in 0..60 {
            let named: &[u64] = match second {
                0..25 => &[12, 13],
                25..44 => &[0, 3, 11],
                _ => &[14, 15],
            };
            let at = second * S + S / 2;
            operations.extend((1..=NODES).map(|node| resolved(node, at, named, false)));
        }
        let mut facts = facts(operations, &[]);
        facts.run.nodes = NODES;
        facts.conduct.push(Line::Calm { at_us: 10 * S });
        facts
    }

    fn with(more: Operation) -> Facts {
        let mut facts = history();
        facts.operations.push(more);
        facts
    }

    #[test]
    fn who_fails_over_and_back_in_time_is_right() {
        let good = check(&history());
        assert!(good.passes(), "{:?}", good.findings);
        assert!(good.figures["answers"] > 60, "{:?}", good.figures);
        for more in [
            // Until it has to be noticed, and while it has to be noticed that the hold is over.
            resolved(2, 27 * S, &[12], false),
            resolved(2, 27 * S, &[], false),
            resolved(2, 47 * S, &[3], false),
            resolved(2, 44 * S, &[14], false),
            // It says that it does not know better.
            resolved(2, 30 * S, &[12], true),
        ] {
            let found = check(&with(more.clone()));
            assert!(found.passes(), "{more:?}: {:?}", found.findings);
        }
    }

    #[test]
    fn who_names_others_is_told_of() {
        for (more, what) in [
            (resolved(2, 30 * S, &[], false), "node 2 named [] instead of the fleet"),
            (resolved(2, 30 * S, &[12], false), "node 2 named [12] instead of the fleet"),
            (resolved(3, 42 * S, &[14], false), "node 3 named [14] instead of the fleet"),
            (resolved(1, 50 * S, &[3], false), "node 1 named [3] instead of those of the pair"),
            (resolved(1, 50 * S, &[12, 14], false), "node 1 named [12, 14] instead of those"),
            (resolved(1, 50 * S, &[], false), "node 1 named [] instead of those of the pair"),
        ] {
            let found = check(&with(more));
            assert_eq!((found.wrong, found.findings.len()), (1, 1), "{:?}", found.findings);
            assert!(found.findings[0].starts_with(what), "{:?}", found.findings);
        }
    }

    #[test]
    fn a_run_in_which_it_did_not_come_to_that_says_nothing() {
        // One node was not asked, nobody came back, or the pair lived on, or was silent before.
        let is_of = |o: &Operation, node| o.op == (Op::ResolvePair { node });
        let spoils: [&dyn Fn(&mut Facts); 6] = [
            &|facts| facts.operations.retain(|o| !is_of(o, 3)),
            &|facts| facts.operations.retain(|o| !is_of(o, 3) || o.call_us < 45 * S),
            &|facts| facts.operations.retain(|o| !matches!(o.op, Op::Register { .. })),
            &|facts| facts.operations.push(renewal(13, 39 * S)),
            &|facts| facts.conduct = vec![Line::Calm { at_us: 21 * S }],
            &|facts| facts.conduct.clear(),
        ];
        for (index, spoil) in spoils.iter().enumerate() {
            let mut facts = history();
            spoil(&mut facts);
            let found = check(&facts);
            assert!(!found.passes(), "{index}");
            let says = |finding: &String| finding.ends_with("the run says nothing");
            assert!(found.findings.iter().all(says), "{index}: {:?}", found.findings);
        }
    }
}
