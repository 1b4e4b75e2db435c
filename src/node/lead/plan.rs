//! What one round of dispatch asks the state for: who is to get which events, and their bytes.
//! It reads only, and runs off the async threads.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::machine::Fault;
use crate::machine::delivery::loads;
use crate::machine::kv::Kv;
use crate::machine::schedule::candidates::{Most, candidates};
use crate::machine::schedule::cursor::Cursor;
use crate::machine::subscription::query::subscription;
use crate::machine::topic::batch::Batch;
use crate::machine::topic::runs::{Least, RunReader, Taken};
use crate::model::delivery::{Pick, Seen, SubscriptionInfo};
use crate::model::ids::{Offset, TopicId, UnixMs};
use crate::model::limits::{DISPATCH_PORTION_EVENTS, LEASE_EVENTS_MAX};
use crate::model::ranges::{OffsetRange, Ranges};
use crate::model::subscription::DeliveryOrder;
use crate::node::quotas::Limit;

/// Who asks, and for how much.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) consumer: String,
    pub(super) service: String,
    pub(super) events: u64,
    pub(super) bytes: usize,
}

/// The bounds of a round, over all who ask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) events: u64,
    /// One event for each who asks may go over it.
    pub(super) bytes: usize,
}

/// A look at a subscription: who asks, and what all of them together may get.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) asks: Vec<Ask>,
    /// What others are about to get of an earlier look; the state may count it already.
    pub(super) ahead: Vec<Ask>,
    pub(super) bounds: Bounds,
}

/// Events of one topic that are stored together, with their bytes.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) topic: TopicId,
    pub(super) events: Ranges,
    pub(super) batch: Batch,
}

/// What one of those who asked is to get.
#[derive(Clone, Debug, Default)]
pub(super) struct Share {
    /// In the order of wishing.
    pub(super) picks: Vec<Pick>,
    /// The same events.
    pub(super) parts: Vec<Part>,
}

impl Share {
    fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.batch.encoded.len()).sum()
    }
}

/// What the searches of one dispatcher remember.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) cursor: Cursor,
    pub(super) reader: RunReader,
}

/// What holds one of those who asked back.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeldBack {
    /// Its consumer or its service has as many events as it may: it gets none.
    pub(super) full: bool,
    /// Which limit of its service is used up.
    pub(super) limit: Option<Limit>,
}

/// What to lease.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) revision: u64,
    /// One for each of those who asked.
    pub(super) shares: Vec<Share>,
    /// What holds each of them back.
    pub(super) held_back: Vec<HeldBack>,
    /// What the filter does not let through.
    pub(super) skips: Vec<Pick>,
    /// Look again, whatever comes of this.
    pub(super) more: bool,
    /// It was one of several looks that go round the topics.
    pub(super) goes_round: bool,
    /// Look again then.
    pub(super) wake_at: Option<UnixMs>,
    /// What comes next lies behind what was found: it is worth reading ahead.
    pub(super) goes_on: bool,
    /// Some of what was found failed before: how many more of these may go is known once they are leased.
    pub(super) retries: bool,
}

/// What a look at a subscription led to.
#[derive(Debug)]
pub(super) enum Look {
    /// There is no such subscription.
    Missing,
    /// It is paused.
    Paused,
    /// As many events as allowed are in flight; and what holds each of those who asked back.
    Full(Vec<HeldBack>),
    /// What to lease; may be nothing.
    Plan(Box<Plan>),
}

impl Look {
    /// Whether it found nothing to lease.
    pub(super) fn is_vain(&self) -> bool {
        match self {
            Self::Missing | Self::Paused | Self::Full(_) => true,
            Self::Plan(plan) => plan.shares.iter().all(|share| share.picks.is_empty()),
        }
    }
}

/// Looks for events for those who ask.
pub(super) fn look(
    kv: &impl Kv,
    name: &str,
    now: UnixMs,
    memory: &mut Memory,
    asked: &Asked,
) -> Result<Look, Fault> {
    let Asked { asks, ahead, bounds } = asked;
    let Some(info) = subscription(kv, name)? else { return Ok(Look::Missing) };
    if info.pause.is_some() {
        return Ok(Look::Paused);
    }
    let in_flight = info.in_flight + sum(ahead, |_| true);
    let room = u64::from(info.config.max_in_flight).saturating_sub(in_flight);
    let mut wanted = wanted(kv, &info, now, asked)?;
    let events = wanted.events.iter().sum::<u64>().min(room).min(bounds.events);
    if events == 0 {
        return Ok(Look::Full(wanted.held_back));
    }
    let places = memory.cursor.places();
    let most = Most { events, retries: wanted.retries(asks) };
    let Some(found) = candidates(kv, name, now, &mut memory.cursor, most)? else {
        return Ok(Look::Missing);
    };
    let count = found.picks.iter().map(Pick::count).sum();
    let failed = !found.retries.is_empty();
    // Where everybody may have them all, retries are events like others.
    let retries = if wanted.limits_retries() { found.retries } else { BTreeSet::new() };
    wanted.leave_out(asks, count, retries.len() as u64);
    let mut picks = wishes(found.picks, &retries);
    let (mut shares, mut bytes) = (Vec::with_capacity(asks.len()), bounds.bytes);
    // What is left over will be found again: then few large portions are better than many small.
    let least = if found.more { DISPATCH_PORTION_EVENTS } else { 1 };
    for (ask, events) in asks.iter().zip(portions(count, &wanted.events, least)) {
        let most = (if bytes == 0 { 0 } else { events }, ask.bytes.min(bytes));
        let retries = wanted.retries.entry(&ask.service).or_default();
        let share = fill(kv, &mut memory.reader, &mut picks, most, retries)?;
        bytes = bytes.saturating_sub(share.bytes());
        shares.push(share);
    }
    if !picks.is_empty() {
        // What was found and is not asked for now has to be found again.
        let some_taken = shares.iter().any(|share| !share.picks.is_empty());
        memory.cursor.go_back(places, some_taken);
    }
    let more = found.more || !picks.is_empty();
    Ok(Look::Plan(Box::new(Plan {
        revision: found.revision,
        shares,
        held_back: wanted.held_back,
        skips: bounded(found.skips),
        more,
        goes_round: found.goes_round,
        goes_on: more && info.config.order() == DeliveryOrder::None,
        retries: failed,
        wake_at: found.wake_at,
    })))
}

/// What those who ask may be given.
struct Wanted<'a> {
    /// For each, how many events.
    events: Vec<u64>,
    /// For each, what holds it back.
    held_back: Vec<HeldBack>,
    /// By service, how many retries its quota leaves.
    retries: BTreeMap<&'a str, u64>,
}

impl Wanted<'_> {
    /// How many retries all of them together may have.
    fn retries(&self, asks: &[Ask]) -> u64 {
        let mut wanted = BTreeMap::<&str, u64>::new();
        for (ask, events) in asks.iter().zip(&self.events) {
            *wanted.entry(&ask.service).or_default() += events;
        }
        let left = |service: &str| self.retries.get(service).copied().unwrap_or_default();
        wanted.into_iter().map(|(service, events)| events.min(left(service))).sum()
    }

    /// Whether any of them may not have as many retries as there are.
    fn limits_retries(&self) -> bool {
        self.retries.values().any(|left| *left < u64::MAX)
    }

    /// Lowers what each wants to what it may have of those that were found.
    fn leave_out(&mut self, asks: &[Ask], found: u64, retries: u64) {
        for (ask, events) in asks.iter().zip(&mut self.events) {
            let left = self.retries.get(ask.service.as_str()).copied().unwrap_or_default();
            *events = (*events).min(found - retries.saturating_sub(left));
        }
    }
}

/// How many events some of those who were served before are about to get.
fn sum(ahead: &[Ask], which: impl Fn(&Ask) -> bool) -> u64 {
    ahead.iter().filter(|ask| which(ask)).map(|ask| ask.events).sum()
}

/// As far as consumers and services have room.
fn wanted<'a>(
    kv: &impl Kv,
    info: &SubscriptionInfo,
    now: UnixMs,
    Asked { asks, ahead, .. }: &'a Asked,
) -> Result<Wanted<'a>, Fault> {
    let (mut rooms, mut services) = (BTreeMap::new(), BTreeMap::new());
    let (events, held_back, retries) = (Vec::new(), Vec::new(), BTreeMap::new());
    let mut all = Wanted { events, held_back, retries };
    for ask in asks {
        let room = match rooms.get_mut(ask.consumer.as_str()) {
            Some(room) => room,
            None => {
                let load = loads::get(kv, info.id, &ask.consumer)?;
                let load = load + sum(ahead, |other| other.consumer == ask.consumer);
                let most = u64::from(info.config.in_flight_max_of_consumer());
                rooms.entry(ask.consumer.as_str()).or_insert(most.saturating_sub(load))
            }
        };
        let (of_service, retries, is_sure) = match services.get_mut(ask.service.as_str()) {
            Some(left) => left,
            None => {
                let (events, retries) = loads::left_of_service(kv, &ask.service, now)?;
                let soon = sum(ahead, |other| other.service == ask.service);
                let left = (events.saturating_sub(soon), retries, soon == 0 || events == 0);
                services.entry(ask.service.as_str()).or_insert(left)
            }
        };
        let events = ask.events.min(LEASE_EVENTS_MAX).min(*room).min(*of_service);
        let limit = match (*of_service, *retries) {
            (0, _) if *is_sure => Some(Limit::InFlight),
            (_, 0) => Some(Limit::Retries),
            _ => None,
        };
        all.held_back.push(HeldBack { full: events == 0, limit });
        all.retries.insert(ask.service.as_str(), *retries);
        *room -= events;
        *of_service -= events;
        all.events.push(events);
    }
    Ok(all)
}

/// Divides events among those who want them: evenly, and what one does not want goes to the others.
/// The first gets what cannot be divided. With fewer than `least` for each, the last get none.
fn portions(count: u64, wanted: &[u64], least: u64) -> Vec<u64> {
    let sharers = usize::try_from(count / least).unwrap_or(usize::MAX).max(1);
    let asking = (0..wanted.len()).filter(|at| wanted[*at] > 0);
    let mut order: Vec<usize> = asking.take(sharers).collect();
    order.sort_by_key(|at| wanted[*at]);
    let (mut left, mut sharers) = (count, order.len() as u64);
    let mut portions = vec![0; wanted.len()];
    for at in order {
        portions[at] = wanted[at].min(left.div_ceil(sharers));
        left -= portions[at];
        sharers -= 1;
    }
    portions
}

/// Events of one topic that were found, and not taken yet.
struct Wish {
    topic: TopicId,
    name: String,
    seen: Option<Seen>,
    ranges: Vec<OffsetRange>,
    /// How many of the ranges are taken.
    taken: usize,
    /// They are retries, which not everybody may have.
    retried: bool,
}

/// What was found, in its order, with these retries apart from other events.
fn wishes(picks: Vec<Pick>, retries: &BTreeSet<(TopicId, Offset)>) -> VecDeque<Wish> {
    let mut wishes = VecDeque::with_capacity(picks.len());
    for pick in picks {
        let topic = TopicId(pick.topic_id);
        let wish = |retried, ranges| {
            let (name, seen) = (pick.topic.clone(), pick.seen);
            Wish { topic, name, seen, ranges, taken: 0, retried }
        };
        if retries.is_empty() {
            wishes.push_back(wish(false, pick.ranges.into_vec()));
            continue;
        }
        let mut runs = Vec::<(bool, Ranges)>::new();
        for offset in pick.ranges.iter() {
            let retried = retries.contains(&(topic, offset));
            match runs.last_mut().filter(|(of, _)| *of == retried) {
                Some((_, run)) => run.push(OffsetRange::one(offset)),
                None => runs.push((retried, Ranges::from_iter([offset]))),
            }
        }
        wishes.extend(runs.into_iter().map(|(retried, run)| wish(retried, run.into_vec())));
    }
    wishes
}

impl Wish {
    /// What is left, sorted.
    fn left(&self) -> &[OffsetRange] {
        &self.ranges[self.taken..]
    }

    /// Takes some of its first events.
    fn take(&mut self, mut count: u64) {
        while let Some(range) = self.ranges.get_mut(self.taken).filter(|_| count > 0) {
            let some = range.count.min(count);
            *range = OffsetRange::between(range.first + some, range.end());
            self.taken += usize::from(range.count == 0);
            count -= some;
        }
    }
}

/// Takes the first of the events that were found, within bounds of events and bytes; at least one of what
/// there is. What it may not have any more of retries is left for others.
fn fill(
    kv: &impl Kv,
    reader: &mut RunReader,
    wishes: &mut VecDeque<Wish>,
    (mut events, mut bytes): (u64, usize),
    retries: &mut u64,
) -> Result<Share, Fault> {
    let (mut share, mut at) = (Share::default(), 0);
    while events > 0
        && let Some(wish) = wishes.get_mut(at)
    {
        let most = if wish.retried { events.min(*retries) } else { events };
        if most == 0 {
            at += 1;
            continue;
        }
        let least = if share.parts.is_empty() { Least::One } else { Least::None };
        match reader.take(kv, wish.topic, wish.left(), (most, bytes), least)? {
            Taken::Batch(batch, taken) => {
                for range in taken.as_slice() {
                    Pick::append(&mut share.picks, wish.topic, &wish.name, *range, wish.seen);
                }
                wish.take(taken.count());
                events -= taken.count();
                *retries -= if wish.retried { taken.count() } else { 0 };
                bytes = bytes.saturating_sub(batch.encoded.len());
                share.parts.push(Part { topic: wish.topic, events: taken, batch });
            }
            Taken::Full => break,
            // The whole range is: retention goes by batches.
            Taken::Gone => wish.take(wish.left().first().map_or(0, |range| range.count)),
        }
        if wish.left().is_empty() {
            wishes.remove(at);
        }
    }
    Ok(share)
}

/// The same picks, none of more events than a command takes of it.
fn bounded(picks: Vec<Pick>) -> Vec<Pick> {
    let mut all = Vec::with_capacity(picks.len());
    for mut pick in picks {
        while pick.count() > LEASE_EVENTS_MAX {
            let first = pick.ranges.first(LEASE_EVENTS_MAX);
            pick.ranges = pick.ranges.minus(&first);
            all.push(Pick { ranges: first, ..pick.clone() });
        }
        all.push(pick);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_divided_evenly_as_far_as_they_are_wanted() {
        assert_eq!(portions(10, &[5, 5], 1), [5, 5]);
        assert_eq!(portions(1, &[5, 5, 5], 1), [1, 0, 0]);
        assert_eq!(portions(10, &[2, 100, 100], 1), [2, 4, 4]);
        assert_eq!(portions(10, &[100, 2, 100], 1), [4, 2, 4]);
        assert_eq!(portions(100, &[1, 0, 3], 1), [1, 0, 3]);
        assert_eq!(portions(7, &[4, 4], 1), [4, 3]);
        assert!(portions(5, &[], 1).is_empty());
    }

    #[test]
    fn large_portions_go_to_the_longest_waiting() {
        assert_eq!(portions(10, &[0, 9, 9, 9], 4), [0, 5, 5, 0]);
        assert_eq!(portions(3, &[9, 9], 4), [3, 0]);
        assert_eq!(portions(100, &[9, 9], 4), [9, 9]);
    }

    #[test]
    fn a_pick_of_many_events_becomes_several() {
        let range = |first, count| OffsetRange { first, count };
        let pick = |ranges: Vec<OffsetRange>| Pick {
            topic: "t".to_owned(),
            topic_id: 1,
            ranges: Ranges::from_unsorted(&ranges),
            seen: None,
        };
        let few = vec![pick(vec![range(0, 10), range(20, 4086)])];
        assert_eq!(bounded(few.clone()), few);
        let many = bounded(vec![pick(vec![range(0, 4000), range(5000, 5000)])]);
        let counts: Vec<u64> = many.iter().map(Pick::count).collect();
        assert_eq!(counts, [4096, 4096, 808]);
        assert_eq!(many[0].ranges.as_slice(), [range(0, 4000), range(5000, 96)]);
        assert_eq!(many[2].ranges.as_slice(), [range(9192, 808)]);
    }
}
