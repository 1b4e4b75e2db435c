//! Subscriptions as queues: each event is done once, by whoever has it.

use super::deliveries::{Ended, Outcome, Story, dead, stories};
use super::{Check, Facts};
use crate::delivered::Action;
use crate::workload::queue::LEASE_MS;

/// How much of a lease must have passed before its events may be with another consumer, percent. The
/// hub's clock may go faster than the harness's by less than the rest.
const LEASE_PERCENT: u64 = 90;

/// Only the newest lease of an event settles it, and nobody gets it while another one has it, nor
/// after it was acknowledged.
#[must_use]
pub fn fencing(facts: &Facts) -> Check {
    let mut check = Check::new("fencing");
    let (mut deliveries, mut again, mut refused) = (0, 0, 0);
    for name in facts.subscriptions.keys() {
        for (value, story) in &stories(facts, name) {
            deliveries += story.got.len();
            again += story.got.len().saturating_sub(1);
            for ended in &story.ended {
                let stale = is_stale(story, ended);
                refused += usize::from(stale && ended.outcome == Outcome::Refused);
                if stale && ended.outcome == Outcome::Done {
                    check.wrong(format!(
                        "value {value}: {:?} by lease {} was accepted at {} us, when another consumer had it already",
                        ended.action, ended.lease, ended.return_us
                    ));
                } else {
                    after_ack(&mut check, *value, story, ended);
                }
            }
            if !clocks_are_lost(facts) {
                owners(&mut check, *value, story);
            }
        }
    }
    if refused == 0 {
        check.wrong("no stale token was ever tried: the run says nothing");
    }
    check.figure("deliveries", deliveries);
    check.figure("redeliveries", again);
    check.figure("stale tokens refused", refused);
    check
}

/// A node that starts knows no better than its wall clock: where that was set, leases may end early.
fn clocks_are_lost(facts: &Facts) -> bool {
    let has = |name: &str| facts.run.nemeses.iter().any(|n| n == name);
    has("N12") && (has("N6") || has("N8") || has("N13"))
}

/// Whether the event was known to be under a newer lease before this began.
fn is_stale(story: &Story<'_>, ended: &Ended) -> bool {
    story.got.iter().any(|got| got.lease > ended.lease && got.take.return_us < ended.call_us)
}

fn after_ack(check: &mut Check, value: u64, story: &Story<'_>, ended: &Ended) {
    if ended.action != Action::Ack || ended.outcome != Outcome::Done {
        return;
    }
    if let Some(got) = story.got.iter().find(|got| got.lease > ended.lease) {
        check.wrong(format!(
            "value {value} was acknowledged by lease {} at {} us, and delivered again by lease {}",
            ended.lease, ended.return_us, got.lease
        ));
    }
}

fn owners(check: &mut Check, value: u64, story: &Story<'_>) {
    for pair in story.got.windows(2) {
        let [first, second] = pair else { continue };
        let early = first.take.call_us + LEASE_MS * 1000 * LEASE_PERCENT / 100;
        let given_back = |ended: &Ended| {
            ended.lease == first.lease
                && ended.action != Action::Ack
                && ended.call_us < second.take.return_us
        };
        let explained = story.ended_by(given_back, &[Outcome::Done, Outcome::Unknown]);
        if second.take.return_us < early && !explained && !first.streamed {
            check.wrong(format!(
                "value {value} was with two consumers: lease {} came at {} us, lease {} at {} us",
                first.lease, first.take.return_us, second.lease, second.take.return_us
            ));
        }
    }
}

/// Everything in the log was acknowledged by somebody, and nothing else was delivered.
#[must_use]
pub fn total(facts: &Facts) -> Check {
    let mut check = Check::new("total queue");
    for (name, (counts, _)) in &facts.subscriptions {
        if counts.open() > 0 {
            check.wrong(format!("{name} was not finished in time: {counts:?}"));
        }
        let stories = stories(facts, name);
        let dead = dead(facts, name);
        let mut acked = 0;
        for (offset, value) in facts.log().iter().enumerate() {
            let story = stories.get(value);
            acked += usize::from(story.is_some_and(Story::acked));
            if !story.is_some_and(Story::may_be_acked) && !dead.contains_key(value) {
                check.wrong(format!(
                    "value {value} at offset {offset} is lost: nobody acknowledged it, and {name} is finished; it was delivered {} times",
                    story.map_or(0, |story| story.got.len())
                ));
            }
        }
        for (value, story) in &stories {
            for got in &story.got {
                let at = usize::try_from(got.event.offset).unwrap_or(usize::MAX);
                if facts.log().get(at) != Some(value) {
                    check.wrong(format!("{name} delivered value {value} at offset {at}, where the log has another one"));
                }
            }
        }
        let ended = counts.acked + counts.dead + counts.dropped;
        if counts.open() == 0 && ended != facts.log().len() as u64 {
            check.wrong(format!(
                "{name} counts {} acknowledged and {} dead events of {}",
                counts.acked,
                counts.dead + counts.dropped,
                facts.log().len()
            ));
        }
        if acked == 0 {
            check.wrong(format!("nothing of {name} was acknowledged: the run says nothing"));
        }
        check.figure("acknowledged by consumers", acked);
        check.figure("leases run out", usize::try_from(counts.expired).unwrap_or(0));
    }
    if facts.subscriptions.is_empty() {
        check.wrong("no subscription was looked at after the run");
    }
    check
}

#[cfg(test)]
mod tests {
    use super::super::deliveries::made::{event, lost, refused, run, settle, take};
    use super::*;
    use crate::delivered::Counts;
    use crate::history::Operation;

    const LATER: u64 = LEASE_MS * 1000;
    const NACK: Action = Action::Nack { after_ms: None };

    fn done(count: u64) -> Counts {
        Counts { acked: count, ..Counts::default() }
    }

    /// Value 1 runs out with one consumer and is done by another, whose lease is the newer one.
    fn good() -> Vec<Operation> {
        vec![
            take(1, &[event(1, 1), event(2, 1)], 10, 20),
            settle(1, Action::Ack, 2, 30),
            take(2, &[event(1, 2)], LATER, LATER + 20),
            refused(settle(1, Action::Ack, 1, LATER + 30)),
            settle(2, Action::Ack, 1, LATER + 40),
        ]
    }

    #[test]
    fn a_good_history_passes() {
        let facts = run(2, good(), done(2), &[]);
        for check in [fencing(&facts), total(&facts)] {
            assert!(check.passes(), "{:?}", check.findings);
        }
        let mut given_back = good();
        given_back.insert(1, settle(1, NACK, 1, 25));
        given_back[3] = take(2, &[event(1, 2)], 40, 50);
        given_back[5] = settle(2, Action::Ack, 1, LATER + 40);
        let facts = run(2, given_back, done(2), &[]);
        assert!(fencing(&facts).passes(), "{:?}", fencing(&facts).findings);
        // An acknowledgement whose answer was lost may have been done.
        let mut unknown = good();
        unknown[4] = lost(settle(2, Action::Ack, 1, LATER + 40));
        assert!(total(&run(2, unknown, done(2), &[])).passes());
    }

    #[test]
    fn broken_fences_are_found() {
        let mut stale = good();
        stale[3] = settle(1, Action::Ack, 1, LATER + 30);
        let mut again = good();
        again.push(take(3, &[event(2, 2)], LATER, LATER + 90));
        let mut two_owners = good();
        two_owners[2] = take(2, &[event(1, 2)], 40, 50);
        let mut nothing_tried = good();
        nothing_tried.remove(3);
        for (operations, says) in [
            (stale, "was accepted"),
            (again, "delivered again by lease 3"),
            (two_owners, "two consumers"),
            (nothing_tried, "says nothing"),
        ] {
            let check = fencing(&run(2, operations, done(2), &[]));
            assert!(check.findings.iter().any(|f| f.contains(says)), "{says}: {check:?}");
        }
    }

    #[test]
    fn lost_and_foreign_events_are_found() {
        let open = Counts { in_flight: 1, ..done(1) };
        let mut never = good();
        never[4] = refused(settle(2, Action::Ack, 1, LATER + 40));
        let mut foreign = good();
        foreign.push(take(4, &[event(7, 1)], 50, 60));
        for (operations, counts, says) in [
            (good(), open, "not finished"),
            (never, done(2), "value 1 at offset 0 is lost"),
            (foreign, done(2), "the log has another one"),
            (good(), done(3), "counts 3 acknowledged"),
            (vec![], done(2), "says nothing"),
        ] {
            let check = total(&run(2, operations, counts, &[]));
            assert!(check.findings.iter().any(|f| f.contains(says)), "{says}: {check:?}");
        }
    }
}
