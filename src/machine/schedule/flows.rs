//! Which fairness keys a search looks at: those that may have events, some at a time, in turn. The
//! more topics there are, the fewer fairness keys, since each has its streams in each topic.
//!
//! Rows of `Scheduled` stay when their events are done, so most fairness keys that have rows may
//! have nothing any more. The searches of one subscription go through all of them once, bit by bit,
//! and from then on know which have something: a search that finds one drained strikes it off, new
//! events put it back.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};

use super::cursor::Cursor;
use super::scheduled::{self, OrderKey};
use super::search::Search;
use crate::machine::delivery::ready::{self, ReadyKey};
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::{Fault, key};
use crate::model::ids::{TopicId, UnixMs};
use crate::model::limits::{CANDIDATE_FLOWS_MAX, CURSOR_FLOWS_MAX};

/// Fairness keys that a search looks at in any case.
const FLOWS_MIN: usize = 4;

/// Sorts as rows do: by length, then by text.
type Flow = (usize, String);

fn flow_of(name: &str) -> Flow {
    (name.len(), name.to_owned())
}

/// What is left of a fairness key's special events in one topic after a search; the least counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rest {
    /// There may be some that are free.
    Some,
    /// The first is ready then.
    Later(UnixMs),
    /// None are free.
    Nothing,
}

/// What the searches of one subscription know of fairness keys, other than the empty one, which
/// always counts as waiting.
#[derive(Clone, Debug, Default)]
pub(super) struct Flows {
    topics: BTreeMap<TopicId, Known>,
    /// Of all topics.
    count: usize,
}

/// Of one topic.
#[derive(Clone, Debug, Default)]
struct Known {
    /// May have free events.
    waiting: BTreeSet<Flow>,
    /// Those of them that became known while the rows were gone through, and nobody has looked at.
    told: BTreeSet<Flow>,
    /// Have events that are ready later.
    later: BTreeSet<(UnixMs, Flow)>,
    /// All rows of fairness keys up to this one were gone through; `None`: none yet.
    sought: Option<Flow>,
    /// All rows were gone through.
    sought_all: bool,
    /// There was no room for all of them: go through the rows again.
    missed: bool,
}

impl Flows {
    /// Goes through all rows again: those of events that were taken for leased may be free.
    pub(super) fn seek_again(&mut self) {
        self.topics
            .keys()
            .copied()
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|t| self.seek_again_in(t));
    }

    /// The same for one topic.
    pub(super) fn seek_again_in(&mut self, topic: TopicId) {
        let known = self.topics.entry(topic).or_default();
        (known.sought, known.sought_all, known.missed) = (None, false, false);
    }

    /// Notes a fairness key that has events.
    pub(super) fn insert(&mut self, topic: TopicId, flow: &str) {
        if flow.is_empty() {
            return;
        }
        let (flow, known) = (flow_of(flow), self.topics.entry(topic).or_default());
        if self.count < CURSOR_FLOWS_MAX {
            if known.waiting.insert(flow.clone()) {
                self.count += 1;
                known.told.extend((!known.sought_all).then_some(flow));
            }
        } else if !known.waiting.contains(&flow) {
            known.missed = true;
        }
    }

    /// Notes what a search left of a fairness key's events.
    pub(super) fn leave(&mut self, topic: TopicId, flow: &str, rest: Rest) {
        if rest == Rest::Some {
            return self.insert(topic, flow);
        }
        let (flow, known) = (flow_of(flow), self.topics.entry(topic).or_default());
        self.count -= usize::from(known.waiting.remove(&flow));
        if let Rest::Later(at) = rest {
            if self.count < CURSOR_FLOWS_MAX {
                self.count += usize::from(known.later.insert((at, flow)));
            } else {
                known.missed = true;
            }
        }
    }

    /// Some of those that were told of while most that are known may be drained.
    fn told(&mut self, topics: &[TopicId], most: usize) -> BTreeSet<Flow> {
        let mut some = BTreeSet::new();
        for topic in topics {
            let Some(known) = self.topics.get_mut(topic) else { continue };
            if known.sought_all {
                known.told.clear();
            }
            while some.len() < most
                && let Some(flow) = known.told.pop_first()
            {
                some.insert(flow);
            }
        }
        some
    }

    /// Whether a topic may have special events of a fairness key that are free.
    pub(super) fn may_have(&self, topic: TopicId, flow: &str) -> bool {
        let Some(known) = self.topics.get(&topic) else { return true };
        let flow = flow_of(flow);
        let sought = known.sought_all || known.sought.as_ref().is_some_and(|to| flow <= *to);
        flow.0 == 0 || !sought || known.missed || known.waiting.contains(&flow)
    }
}

impl Known {
    /// Takes up those whose events are ready now; when the next are.
    fn wake(&mut self, now: UnixMs) -> (Option<UnixMs>, usize) {
        let before = self.waiting.len() + self.later.len();
        while self.later.first().is_some_and(|(at, _)| *at <= now) {
            self.waiting.extend(self.later.pop_first().map(|(_, flow)| flow));
        }
        let twice = before - self.waiting.len() - self.later.len();
        (self.later.first().map(|(at, _)| *at), twice)
    }

    /// Whether too few are known, or too few that come before those which were served already.
    fn runs_short(&self, last: Option<&str>, limit: usize) -> bool {
        let follows = last.is_some_and(|last| Some(flow_of(last)) <= self.sought);
        self.waiting.len() < limit || (follows && self.after(last).take(limit).count() < limit)
    }

    /// Forgets some, those that were served last, to come to them again later; how many.
    fn make_room(&mut self, wanted: usize, last: &str) -> usize {
        let last = flow_of(last);
        let served = self.waiting.range(..=&last).rev();
        let others = self.waiting.range((Bound::Excluded(&last), Bound::Unbounded)).rev();
        let some: Vec<_> = served.chain(others).take(wanted).cloned().collect();
        for flow in &some {
            self.waiting.remove(flow);
        }
        self.missed |= !some.is_empty();
        some.len()
    }

    /// Those that are waiting, after one.
    fn after<'a>(&'a self, after: Option<&str>) -> impl Iterator<Item = &'a Flow> + use<'a> {
        let low = after.map_or(Bound::Unbounded, |after| Bound::Excluded(flow_of(after)));
        self.waiting.range((low, Bound::Unbounded))
    }
}

/// Which fairness keys a search serves.
pub(super) struct Turn {
    pub(super) flows: Vec<String>,
    /// So many of them, the first, are served before it is their turn: they are new, and those whose
    /// turn it is may all be drained.
    pub(super) early: usize,
    /// These are all that may have events.
    pub(super) all: bool,
}

/// The fairness keys after the one that was served last, at most `limits::CANDIDATE_FLOWS_MAX`, going
/// round.
pub(super) fn next<K: Kv>(search: &mut Search<'_, K>, cursor: &mut Cursor) -> Result<Turn, Fault> {
    let limit = (CANDIDATE_FLOWS_MAX / search.topics.len().max(1)).max(FLOWS_MIN);
    let topics: Vec<_> =
        search.topics.values().filter(|t| t.info.specials > 0).map(|t| t.info.id).collect();
    let mut all = true;
    for topic in &topics {
        all &= seek(search, cursor, *topic, limit)?;
    }
    let early = cursor.flows.told(&topics, limit / 4);
    let (known, after) = (&cursor.flows, cursor.flow_after.as_deref());
    let mut flows = collect(search, known, &topics, after, limit)?;
    if after.is_some() && flows.len() < limit {
        for flow in collect(search, known, &topics, None, limit)? {
            if flows.len() < limit && !flows.contains(&flow) {
                flows.push(flow);
            }
        }
    }
    all &= flows.len() < limit;
    search.partial |= !all;
    flows.retain(|flow| !early.contains(flow));
    let (count, flows) = (early.len(), early.into_iter().chain(flows).map(|(_, flow)| flow));
    Ok(Turn { flows: flows.collect(), early: count, all })
}

/// Goes on through the rows of a topic for fairness keys, slowly while there are others to look at.
/// Whether it has come to all of them.
fn seek<K: Kv>(
    search: &mut Search<'_, K>,
    cursor: &mut Cursor,
    topic: TopicId,
    limit: usize,
) -> Result<bool, Fault> {
    let (flows, last) = (&mut cursor.flows, cursor.flow_after.as_deref());
    let known = flows.topics.entry(topic).or_default();
    let (next, twice) = known.wake(search.now);
    flows.count -= twice;
    next.into_iter().for_each(|at| search.wake_at(at));
    if known.sought_all && !known.missed {
        return Ok(true);
    }
    if known.sought_all {
        (known.sought, known.sought_all, known.missed) = (None, false, false);
    }
    let pace = if known.runs_short(last, limit) { limit } else { limit.div_ceil(4) };
    let room = CURSOR_FLOWS_MAX.saturating_sub(flows.count);
    flows.count -= known.make_room(pace.saturating_sub(room), last.unwrap_or(""));
    let mut found = BTreeSet::new();
    let after = known.sought.as_ref().map(|(_, flow)| flow.as_str());
    leap_scheduled(search, topic, after, pace, &mut found)?;
    known.sought_all = found.len() < pace;
    known.sought = found.last().cloned().or(known.sought.take());
    found.retain(|(length, _)| *length > 0);
    let before = known.waiting.len();
    known.waiting.append(&mut found);
    flows.count += known.waiting.len() - before;
    Ok(known.sought_all && !known.missed)
}

fn collect<K: Kv>(
    search: &Search<'_, K>,
    known: &Flows,
    topics: &[TopicId],
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Flow>, Fault> {
    let mut found = BTreeSet::new();
    if after.is_none() {
        found.insert((0, String::new()));
    }
    for known in topics.iter().filter_map(|topic| known.topics.get(topic)) {
        found.extend(known.after(after).take(limit).cloned());
    }
    if search.topics.values().any(|t| t.progress.failures > 0) {
        let id = search.record.subscription_id();
        let prefix = id.to_key().to_vec();
        let flow_prefix = |flow: &str| ready::flow_prefix(id, flow);
        let decode = |row: &[u8]| Ok(ReadyKey::decode(row)?.flow.to_owned());
        leap((search, limit), Table::Ready, &prefix, after, flow_prefix, decode, &mut found)?;
    }
    Ok(found.into_iter().take(limit).collect())
}

fn leap_scheduled<K: Kv>(
    search: &Search<'_, K>,
    topic: TopicId,
    after: Option<&str>,
    limit: usize,
    found: &mut BTreeSet<Flow>,
) -> Result<(), Fault> {
    let prefix = topic.to_key().to_vec();
    let flow_prefix = |flow: &str| scheduled::flow_prefix(topic, flow);
    let decode = |row: &[u8]| Ok(OrderKey::decode(row)?.flow.to_owned());
    leap((search, limit), Table::Scheduled, &prefix, after, flow_prefix, decode, found)
}

/// Reads one row a fairness key, and leaps over the rest.
fn leap<K: Kv>(
    (search, limit): (&Search<'_, K>, usize),
    table: Table,
    prefix: &[u8],
    after: Option<&str>,
    flow_prefix: impl Fn(&str) -> Vec<u8>,
    decode: impl Fn(&[u8]) -> Result<String, Fault>,
    found: &mut BTreeSet<Flow>,
) -> Result<(), Fault> {
    let high = key::after_prefix(prefix);
    let mut low = after.map_or(prefix.to_vec(), |flow| key::after_prefix(&flow_prefix(flow)));
    for _ in 0..limit {
        let mut next = None;
        search.kv.scan(table, &low, &high, Order::Ascending, &mut |row, _| {
            next = Some(decode(row)?);
            Ok(ControlFlow::Break(()))
        })?;
        let Some(flow) = next else { break };
        low = key::after_prefix(&flow_prefix(&flow));
        found.insert((flow.len(), flow));
    }
    Ok(())
}

/// The priorities of a fairness key, other than the empty one, that have rows in a topic.
pub(super) fn priorities<K: Kv>(
    search: &Search<'_, K>,
    topic: TopicId,
    flow: &str,
) -> Result<Vec<u8>, Fault> {
    let (mut found, mut low) = (Vec::new(), scheduled::flow_prefix(topic, flow));
    let high = key::after_prefix(&low);
    loop {
        let mut next = None;
        search.kv.scan(Table::Scheduled, &low, &high, Order::Ascending, &mut |row, _| {
            next = Some(OrderKey::decode(row)?.priority);
            Ok(ControlFlow::Break(()))
        })?;
        let Some(priority) = next else { return Ok(found) };
        found.push(priority);
        low = key::after_prefix(&scheduled::prefix(topic, flow, priority));
    }
}
