//! Random commands of delivery against a naive model: the same outcomes, every event in exactly one
//! place, no retry too early, no inversion of rank, keys in order, and the same state however the
//! entries are grouped.

mod burials;
pub(super) mod cases;
mod checks;
mod fates;
mod leases;
mod leasing;
mod model;
mod policies;
pub(super) mod random;
mod rounds;
mod searches;
mod sweeps;
mod targets;
mod ticking;
mod world;

use std::collections::BTreeMap;

use self::model::{Status, World};
use self::random::Mix;
use self::world::{Said, said};
use super::random::Dice;
use super::{apply, first_seed, sequences};
use crate::machine::mem::MemKv;
use crate::machine::schedule::candidates::candidates;
use crate::machine::schedule::cursor::Cursor;
use crate::model::command::{CommandBatch, Kind, Lease};
use crate::model::delivery::{PauseReason, Settled};
use crate::model::ids::UnixMs;
use crate::model::outcome::Outcome;

/// The subscription that a command is about.
fn subscription_of(kind: &Kind) -> &str {
    match kind {
        Kind::CreateSubscription(c) => &c.name,
        Kind::UpdateSubscription(c) => &c.name,
        Kind::DeleteSubscription(c) => &c.name,
        Kind::PauseSubscription(c) => &c.name,
        Kind::ResumeSubscription(c) => &c.name,
        Kind::SeekSubscription(c) => &c.name,
        Kind::Lease(c) => &c.subscription,
        Kind::Settle(c) => &c.subscription,
        Kind::RetryNow(c) => &c.subscription,
        Kind::CancelRetry(c) => &c.subscription,
        Kind::Redrive(c) => &c.subscription,
        Kind::PurgeDead(c) => &c.subscription,
        _ => "",
    }
}

/// What a leader whose clock shows `now` would lease, for one of the subscriptions.
fn planned_lease(dice: &mut Dice, kv: &MemKv, world: &World, now: u64) -> Option<Kind> {
    let names: Vec<_> = world.subscriptions.keys().collect();
    let name = names.get(dice.below(2) as usize)?.as_str();
    let events = 1 + dice.below(12);
    let now = UnixMs(now);
    let found = candidates(kv, name, now, &mut Cursor::default(), events).unwrap()?;
    Some(Kind::Lease(Lease {
        subscription: name.to_owned(),
        revision: found.revision,
        term: world.term.max(1),
        consumer: random::CONSUMERS[dice.below(2) as usize].to_owned(),
        service: random::SERVICES[dice.below(2) as usize].to_owned(),
        picks: found.picks,
        skips: found.skips,
        ..Lease::default()
    }))
}

fn compare(expected: &[Said], actual: &[Outcome], context: (u64, &CommandBatch)) {
    assert_eq!(expected.len(), actual.len(), "{context:#?}");
    for (expected, actual) in expected.iter().zip(actual) {
        if let (Said::Exactly(Outcome::Ticked(expected)), Outcome::Ticked(ticked)) =
            (expected, actual)
        {
            assert_eq!(ticked.more, expected.more, "{context:#?}: what a tick leaves");
            continue;
        }
        assert_eq!(*expected, said(actual), "{context:#?}: {actual:?}");
    }
}

fn run(seed: u64, tally: &mut BTreeMap<String, u64>) {
    let mut dice = Dice::new(seed);
    let mix = Mix {
        special: dice.below(3) > 0,
        keyed: dice.below(2) == 0,
        flows: [0, 0, 0, 0, 2, 30][dice.below(6) as usize],
        gloomy: dice.below(6) == 0,
        bulky: false,
    };
    let bulky = dice.below(12) == 0;
    let mix = Mix { bulky, gloomy: bulky || mix.gloomy, ..mix };
    let (mut world, mut kv) = (World::default(), MemKv::default());
    let mut cursors = checks::Cursors::default();
    let (mut entries, mut apart) = (Vec::new(), Vec::new());
    let (mut stamp_ms, mut held) = (1000, None);
    for n in 0..10 + dice.below(40) {
        let step_ms = if dice.below(4) == 0 { 4000 } else { 400 };
        stamp_ms += dice.below(3) * (1 + dice.below(step_ms));
        let mut kinds: Vec<Kind> = Vec::new();
        if n == 0 {
            kinds.extend(random::beginning(&mut dice, mix));
        }
        let planned =
            (dice.below(4) > 0).then(|| planned_lease(&mut dice, &kv, &world, world.now)).flatten();
        let mut ahead = world.clone();
        ahead.now = ahead.now.max(stamp_ms);
        let begun = kinds.len() as u64;
        kinds.extend((0..=dice.below(2)).map(|_| random::command(&mut dice, &ahead, mix)));
        if let Some(lease) = planned {
            // What is planned may have changed by the time that it comes.
            let at = begun + dice.below(kinds.len() as u64 - begun + 1);
            kinds.insert(at as usize, lease);
        }
        // A leader plans while entries from before are still on their way.
        kinds.extend(held.take());
        if dice.below(2) == 0 {
            let now = ahead.now + dice.below(4000);
            held = planned_lease(&mut dice, &kv, &world, now);
        }
        let entry =
            CommandBatch { stamp_ms, commands: kinds.into_iter().map(Into::into).collect() };
        let expected = world.apply(&entry);
        let outcomes = apply(&mut kv, std::slice::from_ref(&entry), n + 1).remove(0);
        compare(&expected, &outcomes, (seed, &entry));
        count_unfinished(&world, tally);
        if dice.below(3) == 0 {
            let context = format!("seed {seed}, entry {n}");
            checks::check(&world, &kv, &mut cursors, &mut dice, &context);
        }
        apart.push(outcomes);
        entries.push(entry);
    }
    let mut together = MemKv::default();
    let outcomes = apply(&mut together, &entries, 1);
    assert_eq!(outcomes, apart, "seed {seed}: outcomes depend on how entries are grouped");
    assert_eq!(together, kv, "seed {seed}: state depends on how entries are grouped");
    count(&world, &apart, tally);
}

/// What an entry leaves to later ones.
fn count_unfinished(world: &World, tally: &mut BTreeMap<String, u64>) {
    let mut add = |what: &str, n: usize| *tally.entry(what.to_owned()).or_default() += n as u64;
    for sub in world.subscriptions.values() {
        add("dead before their turn", sub.early.len());
        add("being placed anew", usize::from(sub.placing));
        add("left of deleted topics", sub.unswept.len());
        let dying = sub.stories.values().filter(|s| s.status == Status::Dying);
        add("dead without a letter", dying.count());
    }
}

/// What happened: a generator that does not come to something tests nothing of it.
fn count(world: &World, outcomes: &[Vec<Outcome>], tally: &mut BTreeMap<String, u64>) {
    let mut add = |what: &str, n: u64| *tally.entry(what.to_owned()).or_default() += n;
    for sub in world.subscriptions.values() {
        let c = &sub.counters;
        add("redelivered", c.redelivered);
        add("acked", c.acked);
        add("expired", c.expired);
        add("dropped", c.dropped);
        add("filtered", c.filtered);
        add("redriven", c.redriven);
        add("released", c.released);
        for letter in &sub.dead {
            add(letter.reason.as_str(), 1);
            add("died after a redrive", u64::from(letter.redrives > 0));
        }
        let tripped = matches!(sub.pause, Some((PauseReason::Tripped, _)));
        add("tripped", u64::from(tripped));
        add("leased at the end", sub.leases.len() as u64);
    }
    for outcome in outcomes.iter().flatten() {
        match outcome {
            Outcome::Rejected(r) => add(r.reason.as_str(), 1),
            Outcome::Sought(s) => add("sought", s.redelivered.min(s.skipped)),
            Outcome::Leased(l) => {
                add("granted", l.grants.len() as u64);
                add("expired at the lease", l.dead);
            }
            Outcome::Settled(settled) => {
                let refused = settled.iter().filter(|s| s.refused.is_some());
                add("refused settlements", refused.count() as u64);
                let partly = |s: &&Settled| s.refused.is_some() && !s.done.is_empty();
                add("settlements of a part", settled.iter().filter(partly).count() as u64);
            }
            _ => {}
        }
    }
}

#[test]
fn delivery_does_what_the_naive_model_does() {
    let first = first_seed();
    println!("seeds {first} to {}: MHUB_TEST_SEED, MHUB_TEST_SEQUENCES", first + sequences() - 1);
    let mut tally = BTreeMap::new();
    for seed in first..first + sequences() {
        run(seed, &mut tally);
    }
    println!("{tally:#?}");
    if sequences() >= 1000 {
        let never: Vec<_> = tally.iter().filter(|(_, n)| **n == 0).collect();
        assert!(never.is_empty(), "the generator never comes to {never:?}");
    }
}
