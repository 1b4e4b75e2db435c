//! The order of deliveries: the most urgent first, and nothing after its deadline.

use std::collections::{BTreeMap, BTreeSet};

use super::deliveries::{Got, stories, value_at};
use super::{Check, Facts};
use crate::delivered::Event;
use crate::history::{Answer, End, Op, Operation};
use crate::workload::urgency::{BASE_WAIT_MS, STRICT};

/// Where an event stands among those that are ready; the lowest first.
type Place = (u64, u64, u64);

fn place(subscription: &str, event: &Event) -> Place {
    let by_wait = event.recorded_at_ms + (BASE_WAIT_MS >> event.priority.min(9));
    let rank = if event.deadline_ms == 0 { by_wait } else { by_wait.min(event.deadline_ms) };
    let tier = if subscription == STRICT { 9 - u64::from(event.priority.min(9)) } else { 0 };
    (tier, rank, event.offset)
}

/// A first delivery.
struct First<'f> {
    got: Got<'f>,
    place: Place,
    /// When its publish was acknowledged.
    published_us: u64,
}

/// Within one leader's term, nobody gets an event while a more urgent one is ready that comes later.
#[must_use]
pub fn inversions(facts: &Facts) -> Check {
    let mut check = Check::new("inversions");
    let mut acknowledged = BTreeMap::new();
    for operation in &facts.operations {
        if let (Op::Publish { value }, End::Ok(_)) = (&operation.op, &operation.end) {
            acknowledged.insert(*value, operation.return_us);
        }
    }
    let (mut judged, mut overtakes) = (0, 0);
    for name in facts.subscriptions.keys() {
        let mut terms: BTreeMap<u64, Vec<First<'_>>> = BTreeMap::new();
        for (value, story) in stories(facts, name) {
            let (Some(published_us), Some(got)) = (acknowledged.get(&value), story.got.first())
            else {
                continue;
            };
            // A later attempt: the first one was with somebody who never heard of it.
            if got.event.attempt == 1 {
                let place = place(name, &got.event);
                let first = First { got: *got, place, published_us: *published_us };
                terms.entry(got.term).or_default().push(first);
            }
        }
        let troubles = troubles(facts, name);
        for firsts in terms.values_mut() {
            firsts.sort_by_key(|first| first.got.lease);
            judged += firsts.len();
            overtakes += overtaking(firsts);
            for inversion in within(firsts, &troubles) {
                check.wrong(format!("{name}: {inversion}"));
            }
        }
    }
    if overtakes == 0 {
        check.wrong("nothing ever overtook anything: the run says nothing");
    }
    check.figure("first deliveries", judged);
    check.figure("overtakes", overtakes);
    check
}

/// Takes whose events nobody knows of: they may have been with them for a while.
fn troubles(facts: &Facts, name: &str) -> Vec<(u64, u64)> {
    let lost = |operation: &&Operation| {
        matches!(&operation.op, Op::Take { subscription, .. } if subscription == name)
            && !matches!(operation.end, End::Ok(_))
    };
    facts.operations.iter().filter(lost).map(|o| (o.call_us, o.return_us)).collect()
}

/// How often an event came before one that was published earlier.
fn overtaking(firsts: &[First<'_>]) -> usize {
    let mut highest = 0;
    let mut count = 0;
    for first in firsts {
        count += usize::from(first.got.event.offset < highest);
        highest = highest.max(first.got.event.offset);
    }
    count
}

/// `firsts` are of one term, in the order of their leases.
fn within(firsts: &[First<'_>], troubles: &[(u64, u64)]) -> Vec<String> {
    let mut found = Vec::new();
    for (at, early) in firsts.iter().enumerate() {
        let asked_us = early.got.take.call_us;
        let overtaken = firsts[at..].iter().find(|late| {
            // One round of the leader may serve several who ask, in any order.
            late.got.take.call_us > early.got.take.return_us
                && late.got.lease > early.got.lease
                && late.place < early.place
                && late.published_us < asked_us
                && !troubles.iter().any(|(from, until)| {
                    *from < late.got.take.return_us && *until > late.published_us
                })
        });
        if let Some(late) = overtaken {
            found.push(format!(
                "value {} (priority {}) was delivered at {} us by lease {}, and value {} (priority {}), which is more urgent and was ready since {} us, later by lease {}",
                early.got.event.value,
                early.got.event.priority,
                early.got.take.return_us,
                early.got.lease,
                late.got.event.value,
                late.got.event.priority,
                late.published_us,
                late.got.lease
            ));
        }
    }
    found
}

/// No lease outlasts an event's deadline, and nothing is delivered that was seen to be dead.
#[must_use]
pub fn deadlines(facts: &Facts) -> Check {
    let mut check = Check::new("deadlines");
    let (mut in_time, mut expired) = (0, 0);
    for name in facts.subscriptions.keys() {
        let seen = seen_dead(facts, name);
        for (value, story) in stories(facts, name) {
            for got in &story.got {
                let deadline_ms = got.event.deadline_ms;
                in_time += usize::from(deadline_ms > 0);
                if deadline_ms > 0 && got.expires_at_ms > deadline_ms {
                    check.wrong(format!(
                        "{name}: value {value} has the deadline {deadline_ms}, and a lease until {}",
                        got.expires_at_ms
                    ));
                }
                if let Some(at) = seen.get(&value).filter(|at| **at < got.take.call_us) {
                    check.wrong(format!(
                        "{name}: value {value} was dead at {at} us, and delivered at {} us",
                        got.take.return_us
                    ));
                }
            }
        }
        let late = late(facts, name);
        expired += late.len();
    }
    if in_time == 0 || expired == 0 {
        check.wrong(format!(
            "{in_time} events were delivered before their deadline, {expired} died of it: the run says nothing"
        ));
    }
    check.figure("delivered in time", in_time);
    check.figure("died of their deadline", expired);
    check
}

fn late(facts: &Facts, name: &str) -> BTreeSet<u64> {
    let letters = facts.subscriptions.get(name).map_or(&[][..], |(_, letters)| letters);
    let of_deadline = letters.iter().filter(|l| l.death == crate::delivered::Death::TooLate);
    of_deadline.map(|letter| letter.offset).collect()
}

/// When each dead event was first seen to be dead, by value.
fn seen_dead(facts: &Facts, name: &str) -> BTreeMap<u64, u64> {
    let mut seen = BTreeMap::new();
    for operation in &facts.operations {
        let Op::Letters { subscription } = &operation.op else { continue };
        let End::Ok(Answer::Letters { letters }) = &operation.end else { continue };
        if subscription != name {
            continue;
        }
        for letter in letters {
            let at = seen.entry(value_at(facts, letter.offset)).or_insert(operation.return_us);
            *at = operation.return_us.min(*at);
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::super::deliveries::made::{NAME, event, run, take};
    use super::super::made::{operation, unknown};
    use super::*;
    use crate::delivered::{Counts, Death, Letter};

    fn urgent(value: u64, priority: u32) -> Event {
        Event { priority, ..event(value, 1) }
    }

    fn due(value: u64, deadline_ms: u64) -> Event {
        Event { deadline_ms, ..event(value, 1) }
    }

    fn judged(operations: Vec<Operation>) -> Check {
        inversions(&run(3, operations, Counts::default(), &[]))
    }

    #[test]
    fn the_most_urgent_first_is_good() {
        let good =
            vec![take(1, &[urgent(2, 9)], 10, 20), take(2, &[urgent(1, 4), urgent(3, 0)], 30, 40)];
        assert!(judged(good.clone()).passes(), "{:?}", judged(good));
        // It was asked for before the urgent one was there.
        let early = vec![
            take(1, &[urgent(3, 0)], 0, 20),
            take(2, &[urgent(2, 9)], 30, 40),
            take(3, &[urgent(1, 4)], 50, 60),
        ];
        assert!(judged(early.clone()).passes(), "{:?}", judged(early));
        let soon = vec![take(1, &[due(2, 1001)], 10, 20), take(2, &[urgent(1, 9)], 30, 40)];
        assert!(judged(soon.clone()).passes(), "{:?}", judged(soon));
    }

    #[test]
    fn inversions_are_found() {
        let bad = vec![
            take(1, &[urgent(3, 4)], 10, 20),
            take(2, &[urgent(2, 9)], 30, 40),
            take(3, &[urgent(1, 0)], 50, 60),
        ];
        let check = judged(bad.clone());
        assert!(check.findings[0].contains("value 2 (priority 9)"), "{check:?}");
        // Somebody who was never heard of may have had it.
        let mut excused = bad.clone();
        let op = Op::Take { subscription: NAME.to_owned(), consumer: 2, streamed: false };
        excused.push(operation(op, 5, 25, unknown()));
        assert!(judged(excused).passes());
        // Another leader begins anew.
        let mut other = bad;
        for answer in &mut other[1..] {
            let End::Ok(Answer::Leased { leases }) = &mut answer.end else { panic!("a take") };
            leases[0].term = 2;
        }
        assert!(judged(other).passes());
        let in_order = vec![take(1, &[urgent(1, 4)], 10, 20), take(2, &[urgent(2, 4)], 30, 40)];
        assert!(judged(in_order).findings[0].contains("says nothing"));
    }

    #[test]
    fn deliveries_after_a_deadline_are_found() {
        let letter = Letter { number: 1, offset: 2, death: Death::TooLate, failures: 0 };
        let saw = |at| {
            let op = Op::Letters { subscription: NAME.to_owned() };
            operation(op, at, at + 1, End::Ok(Answer::Letters { letters: vec![letter] }))
        };
        let judged = |operations, letters: &[Letter]| {
            deadlines(&run(3, operations, Counts::default(), letters))
        };
        let in_time = take(1, &[due(1, 5000)], 10, 20);
        let good = judged(vec![in_time.clone(), saw(30)], &[letter]);
        assert!(good.passes(), "{good:?}");
        for (operations, letters, says) in [
            (vec![take(1, &[due(1, 4000)], 10, 20)], vec![letter], "a lease until"),
            (
                vec![in_time.clone(), saw(5), take(2, &[due(3, 9000)], 10, 20)],
                vec![letter],
                "was dead at",
            ),
            (vec![in_time], vec![], "says nothing"),
        ] {
            let check = judged(operations, &letters);
            assert!(check.findings.iter().any(|f| f.contains(says)), "{says}: {check:?}");
        }
    }
}
