//! Nothing vanishes and nothing multiplies: published = acknowledged + dead, once everything has come
//! to its end; and nothing comes to its end without a cause.

use std::collections::BTreeMap;

use super::deliveries::{Ended, Outcome, Story, dead, stories};
use super::{Check, Facts};
use crate::delivered::{Action, Death, Letter};
use crate::workload::failures::{MAX_ATTEMPTS, RETRY_MS};

const DONE_OR_UNKNOWN: &[Outcome] = &[Outcome::Done, Outcome::Unknown];
/// How much of a retry's delay must have passed, percent: the hub's clock may go faster.
const DELAY_PERCENT: u64 = 90;
/// What the rounding of instants may take off a delay.
const DELAY_SLACK_US: u64 = 20_000;

/// Each event in the log is acknowledged or dead, not both, and once.
#[must_use]
pub fn check(facts: &Facts) -> Check {
    let mut check = Check::new("conservation");
    let (mut acked, mut buried, mut resolved) = (0, 0, 0);
    for name in facts.subscriptions.keys() {
        let stories = stories(facts, name);
        let dead = dead(facts, name);
        for (offset, value) in facts.log().iter().enumerate() {
            let story = stories.get(value);
            let letters = dead.get(value).map_or(0, Vec::len);
            let (certain, possible) =
                (story.is_some_and(Story::acked), story.is_some_and(Story::may_be_acked));
            acked += usize::from(certain);
            buried += letters;
            let place = format!("{name}: value {value} at offset {offset}");
            match (certain, letters) {
                (true, 0) | (false, 1) => {}
                (true, _) => check.wrong(format!("{place} was acknowledged, and is dead")),
                (false, 0) if possible => resolved += 1,
                (false, 0) => check.wrong(format!(
                    "{place} is lost: neither acknowledged nor dead; delivered {} times",
                    story.map_or(0, |story| story.got.len())
                )),
                (false, _) => check.wrong(format!("{place} is dead {letters} times")),
            }
        }
        counts(&mut check, facts, name);
        causes(&mut check, name, &stories, &dead);
    }
    if facts.subscriptions.is_empty() || acked == 0 {
        check.wrong("nothing was acknowledged by a consumer: the run says nothing");
    }
    check.figure("acknowledged by consumers", acked);
    check.figure("dead", buried);
    check.figure("acknowledged without an answer", resolved);
    check
}

fn counts(check: &mut Check, facts: &Facts, name: &str) {
    let Some((counts, letters)) = facts.subscriptions.get(name) else { return };
    let published = facts.log().len() as u64;
    if counts.acked + counts.dead + counts.dropped + counts.open() != published {
        check.wrong(format!("{name} does not add up to {published} events: {counts:?}"));
    }
    if counts.open() > 0 {
        check.wrong(format!("{name} was not finished in time: {counts:?}"));
    }
    let kept = letters.len() as u64;
    if counts.dead_letters != kept || counts.dead != kept || counts.dropped > 0 {
        check.wrong(format!("{name} lists {kept} dead letters, and counts {counts:?}"));
    }
}

/// Each death has a cause that consumers know of.
fn causes(
    check: &mut Check,
    name: &str,
    stories: &BTreeMap<u64, Story<'_>>,
    dead: &BTreeMap<u64, Vec<Letter>>,
) {
    let none = Story::default();
    for (value, letters) in dead {
        let story = stories.get(value).unwrap_or(&none);
        for letter in letters {
            let by = |action| story.ended_by(|e: &Ended| e.action == action, DONE_OR_UNKNOWN);
            let explained = match letter.death {
                Death::MaxAttempts => letter.failures == MAX_ATTEMPTS,
                Death::Rejected => by(Action::Reject),
                Death::NonRetryable => by(Action::NackForGood),
                Death::TooLate => true,
                Death::Other => false,
            };
            if !explained {
                check.wrong(format!("{name}: value {value} is dead without a cause: {letter:?}"));
            }
        }
    }
}

/// No event is tried more often than allowed, nor again before its delay has passed.
#[must_use]
pub fn retries(facts: &Facts) -> Check {
    let mut check = Check::new("retries");
    let (mut retried, mut delayed) = (0, 0);
    for name in facts.subscriptions.keys() {
        for (value, story) in &stories(facts, name) {
            for got in &story.got {
                retried += usize::from(got.event.attempt > 1);
                if got.event.attempt > MAX_ATTEMPTS {
                    check.wrong(format!(
                        "{name}: value {value} was delivered for the {}th time, {MAX_ATTEMPTS} are allowed",
                        got.event.attempt
                    ));
                }
            }
            for ended in &story.ended {
                let Action::Nack { after_ms } = ended.action else { continue };
                if ended.outcome != Outcome::Done {
                    continue;
                }
                let delay_us = after_ms.unwrap_or(RETRY_MS) * 1000 * DELAY_PERCENT / 100;
                let early = (ended.call_us + delay_us).saturating_sub(DELAY_SLACK_US);
                let Some(next) = story.got.iter().find(|got| got.lease > ended.lease) else {
                    continue;
                };
                delayed += 1;
                if next.take.return_us < early {
                    check.wrong(format!(
                        "{name}: value {value} failed at {} us and came again at {} us, too early for {:?}",
                        ended.call_us, next.take.return_us, ended.action
                    ));
                }
            }
        }
    }
    if retried == 0 {
        check.wrong("nothing was retried: the run says nothing");
    }
    check.figure("retries", retried);
    check.figure("delays", delayed);
    check
}

#[cfg(test)]
mod tests {
    use super::super::deliveries::made::{event, lost, run, settle, take};
    use super::*;
    use crate::delivered::Counts;
    use crate::history::Operation;

    const NACK: Action = Action::Nack { after_ms: None };
    const LATER: u64 = RETRY_MS * 1000 + 100;

    fn letter(value: u64, death: Death) -> Letter {
        Letter { number: value, offset: value - 1, death, failures: 1 }
    }

    fn counts() -> Counts {
        Counts { acked: 1, dead: 1, dead_letters: 1, ..Counts::default() }
    }

    /// Value 1 fails once and is done then, value 2 is rejected.
    fn good() -> Vec<Operation> {
        vec![
            take(1, &[event(1, 1), event(2, 1)], 10, 20),
            settle(1, NACK, 1, 30),
            settle(1, Action::Reject, 2, 40),
            take(2, &[event(1, 2)], LATER, LATER + 10),
            settle(2, Action::Ack, 1, LATER + 20),
        ]
    }

    #[test]
    fn a_good_history_passes() {
        let facts = run(2, good(), counts(), &[letter(2, Death::Rejected)]);
        for check in [check(&facts), retries(&facts)] {
            assert!(check.passes(), "{:?}", check.findings);
        }
        let mut unknown = good();
        unknown[4] = lost(settle(2, Action::Ack, 1, LATER + 20));
        unknown.push(take(3, &[event(3, 1)], 0, 5));
        unknown.push(settle(3, Action::Ack, 3, 6));
        let all = Counts { acked: 2, ..counts() };
        let check = check(&run(3, unknown, all, &[letter(2, Death::Rejected)]));
        assert!(check.passes(), "{:?}", check.findings);
        assert_eq!(check.figures["acknowledged without an answer"], 1);
    }

    #[test]
    fn every_imbalance_is_found() {
        let rejected = letter(2, Death::Rejected);
        let twice = Counts { dead: 2, dead_letters: 2, ..counts() };
        let without = Counts { dead: 0, dead_letters: 0, ..counts() };
        for (counts, letters, says) in [
            (without, vec![], "value 2 at offset 1 is lost"),
            (counts(), vec![], "lists 0 dead letters"),
            (twice, vec![rejected, rejected], "is dead 2 times"),
            (twice, vec![rejected, letter(1, Death::MaxAttempts)], "was acknowledged, and is dead"),
            (counts(), vec![letter(2, Death::NonRetryable)], "without a cause"),
            (counts(), vec![letter(2, Death::MaxAttempts)], "without a cause"),
            (Counts { acked: 0, ..counts() }, vec![rejected], "does not add up"),
            (Counts { acked: 0, retrying: 1, ..counts() }, vec![rejected], "not finished"),
        ] {
            let check = check(&run(2, good(), counts, &letters));
            assert!(check.findings.iter().any(|f| f.contains(says)), "{says}: {check:?}");
        }
    }

    #[test]
    fn early_and_endless_retries_are_found() {
        let letters = [letter(2, Death::Rejected)];
        let mut early = good();
        early[3] = take(2, &[event(1, 2)], 50, 60);
        let mut endless = good();
        endless[3] = take(2, &[event(1, MAX_ATTEMPTS + 1)], LATER, LATER + 10);
        let mut none = good();
        none[3] = take(2, &[event(1, 1)], LATER, LATER + 10);
        for (operations, says) in
            [(early, "too early"), (endless, "are allowed"), (none, "says nothing")]
        {
            let check = retries(&run(2, operations, counts(), &letters));
            assert!(check.findings.iter().any(|f| f.contains(says)), "{says}: {check:?}");
        }
    }
}
