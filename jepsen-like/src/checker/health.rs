//! Instances and their renewals: nobody is given up while it renews in time, and who falls silent is
//! given up soon and not called any more.

use std::collections::BTreeMap;

use super::{Check, Facts};
use crate::history::{Answer, End, Line, Op};
use crate::workload::registry::{DECIDES_WITHIN, HEARD_WITHIN, TTL};

/// A leader that was deposed may take renewals for so long before it notices: those do not count.
const DEPOSED_US: u64 = 2_000_000;

/// Signs of life of one registration: when those were sent that were answered well.
type Lives = BTreeMap<(u64, u64), Vec<u64>>;

pub(super) fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn lives(facts: &Facts) -> Lives {
    let mut lives = Lives::new();
    for operation in &facts.operations {
        let registration = match (&operation.op, &operation.end) {
            (Op::Register { instance }, End::Ok(Answer::Registered { incarnation })) => {
                (*instance, *incarnation)
            }
            (Op::Renew { instance, incarnation }, End::Ok(Answer::Renewed { lost: false })) => {
                (*instance, *incarnation)
            }
            _ => continue,
        };
        lives.entry(registration).or_default().push(operation.call_us);
    }
    lives
}

/// When each registration was seen critical.
fn given_up(facts: &Facts) -> BTreeMap<(u64, u64), u64> {
    let mut seen = BTreeMap::new();
    for line in &facts.conduct {
        if let Line::Health { at_us, instance, incarnation, passing: false } = line {
            seen.entry((*instance, *incarnation)).or_insert(*at_us);
        }
    }
    seen
}

/// No instance is given up that renewed within the time of a renewal.
#[must_use]
pub fn flaps(facts: &Facts) -> Check {
    let mut check = Check::new("no flaps");
    let (lives, ttl) = (lives(facts), micros(TTL));
    let seen = given_up(facts);
    for ((instance, incarnation), at) in &seen {
        let signs = lives.get(&(*instance, *incarnation)).map_or(&[][..], Vec::as_slice);
        let last = signs.iter().copied().filter(|sent| sent < at).max();
        if let Some(last) = last.filter(|last| last + ttl > at + DEPOSED_US) {
            check.wrong(format!(
                "instance {instance} ({incarnation}) was given up {} ms after it renewed",
                (at - last) / 1000
            ));
        }
    }
    let signs = lives.values().map(Vec::len).sum::<usize>();
    if signs < 100 {
        check.wrong(format!("only {signs} renewals were answered: the run says nothing"));
    }
    check.figure("renewals", signs);
    check.figure("given up", seen.len());
    check
}

/// Without faults, who falls silent is given up within the time of a renewal and a little more, and no
/// node names it from then on.
#[must_use]
pub fn removal(facts: &Facts) -> Check {
    let mut check = Check::new("removal");
    let calm = facts.conduct.iter().find_map(|line| match line {
        Line::Calm { at_us } => Some(*at_us),
        _ => None,
    });
    let end = facts.operations.iter().map(|o| o.call_us).max().unwrap_or(0);
    let Some(calm) = calm else {
        check.wrong("the run has no fault-free end");
        return check;
    };
    let within = micros(TTL + DECIDES_WITHIN);
    let seen = given_up(facts);
    let mut silent = 0;
    // Of each instance the newest registration.
    let newest: BTreeMap<u64, (u64, u64)> = lives(facts)
        .into_iter()
        .filter_map(|((instance, incarnation), signs)| {
            signs.last().map(|last| (instance, (incarnation, *last)))
        })
        .collect();
    for (instance, (incarnation, last)) in newest {
        if last < calm || last + within > end {
            continue;
        }
        silent += 1;
        match seen.get(&(instance, incarnation)) {
            Some(at) if *at <= last + within => named_after(&mut check, facts, instance, *at),
            Some(at) => check.wrong(format!(
                "instance {instance} fell silent and was given up only after {} ms",
                (at - last) / 1000
            )),
            None => check.wrong(format!("instance {instance} fell silent and was never given up")),
        }
    }
    if silent == 0 {
        check.wrong("no instance fell silent at the end: the run says nothing");
    }
    check.figure("silent", silent);
    check
}

fn named_after(check: &mut Check, facts: &Facts, instance: u64, at: u64) {
    for operation in &facts.operations {
        if let (Op::Resolve { node }, End::Ok(Answer::Resolved { instances, stale: false })) =
            (&operation.op, &operation.end)
            && operation.call_us > at + micros(HEARD_WITHIN)
            && instances.contains(&instance)
        {
            check.wrong(format!(
                "node {node} named instance {instance} {} ms after it was given up",
                (operation.call_us - at) / 1000
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::{facts, operation};
    use super::*;
    use crate::history::Operation;

    const S: u64 = 1_000_000;

    fn renewal(instance: u64, at: u64) -> Operation {
        let answer = Answer::Renewed { lost: false };
        operation(Op::Renew { instance, incarnation: 7 }, at, at + 1000, End::Ok(answer))
    }

    fn resolved(at: u64, instances: Vec<u64>) -> Operation {
        let answer = Answer::Resolved { instances, stale: false };
        operation(Op::Resolve { node: 1 }, at, at + 1000, End::Ok(answer))
    }

    fn critical(instance: u64, at_us: u64) -> Line {
        Line::Health { at_us, instance, incarnation: 7, passing: false }
    }

    /// One instance that renews each second from 0 to `until`, and another one that goes on.
    fn history(until: u64, more: Vec<Operation>, seen: Vec<Line>) -> Facts {
        let of_one = (0..=until).map(|n| renewal(1, n * S));
        let of_other = (0..120).map(|n| renewal(2, n * S));
        let mut facts = facts(of_one.chain(of_other).chain(more).collect(), &[]);
        facts.conduct = seen;
        facts.conduct.push(Line::Calm { at_us: 10 * S });
        facts
    }

    #[test]
    fn who_renews_is_not_given_up() {
        assert!(flaps(&history(20, vec![], vec![critical(1, 24 * S + S / 2)])).passes());
        assert!(!flaps(&history(20, vec![], vec![critical(1, 20 * S + S / 2)])).passes());
        let mut few = history(20, vec![], vec![]);
        few.operations.truncate(50);
        assert!(!flaps(&few).passes());
    }

    #[test]
    fn who_is_silent_is_given_up_soon_and_not_named() {
        let good = history(20, vec![resolved(40 * S, vec![2])], vec![critical(1, 25 * S)]);
        assert!(removal(&good).passes(), "{:?}", removal(&good).findings);
        for (more, seen) in [
            (vec![], vec![]),
            (vec![], vec![critical(1, 40 * S)]),
            (vec![resolved(40 * S, vec![1, 2])], vec![critical(1, 25 * S)]),
        ] {
            assert!(!removal(&history(20, more, seen)).passes());
        }
        // Nobody was silent.
        assert!(!removal(&history(119, vec![], vec![])).passes());
    }
}
