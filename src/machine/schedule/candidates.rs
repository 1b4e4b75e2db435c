//! What a subscription delivers next: a bounded search over the state, in the order of rank, fair
//! over fairness keys.
//!
//! Fairness is deficit round robin: each fairness key in turn is given events for its quantum times
//! its weight, lowest rank first, and what it does not use is lost when it has no more. Events
//! without a fairness key are one key. Across topics the order holds among the topics of one
//! search; a subscription over more of them goes round, and knows at the end of a round whether its
//! searches have seen everything.

use std::collections::{BTreeSet, VecDeque};

use super::cursor::{Cursor, Round};
use super::flows::{self, Turn};
use super::lane::Lane;
use super::search::Search;
use super::specials;
use super::topics::TopicView;
use crate::machine::Fault;
use crate::machine::kv::Kv;
use crate::machine::subscription::{query as subscriptions, record, state};
use crate::model::delivery::{Counters, Pick};
use crate::model::ids::{Offset, Position, SubscriptionId, TopicId, UnixMs};
use crate::model::limits::{
    CANDIDATE_ROWS_MAX, CANDIDATE_TOPIC_NAMES_MAX, CANDIDATE_TOPICS_MAX, DISPATCH_ROUND_EVENTS,
    FAIRNESS_QUANTUM,
};
use crate::model::outcome::TopicInfo;
use crate::model::pattern::TopicPattern;
use crate::model::ranges::OffsetRange;

/// What to ask for in one lease command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidates {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// The revision that this was planned with.
    pub revision: u64,
    /// In the order of wishing.
    pub picks: Vec<Pick>,
    /// Of these, the ones that failed before.
    pub retries: BTreeSet<(TopicId, Offset)>,
    /// What the filter does not let through, or was cancelled.
    pub skips: Vec<Pick>,
    /// The search did not see everything: search again, whatever was found.
    pub more: bool,
    /// It is one of several that go round the topics, and others follow in any case.
    pub goes_round: bool,
    /// When to search again, if nothing happens before.
    pub wake_at: Option<UnixMs>,
}

/// Bounds of what a search finds.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    /// Events.
    pub events: u64,
    /// Of these, failed ones; the subscription's own budget holds too.
    pub retries: u64,
}

impl From<u64> for Most {
    fn from(events: u64) -> Self {
        Self { events, retries: u64::MAX }
    }
}

/// Searches for events; `None`: there is no such subscription. A paused one has
/// no candidates.
///
/// # Errors
/// When the store fails or is corrupt.
pub fn candidates(
    kv: &impl Kv,
    subscription: &str,
    now: UnixMs,
    cursor: &mut Cursor,
    most: impl Into<Most>,
) -> Result<Option<Candidates>, Fault> {
    candidates_within(kv, subscription, now, cursor, most.into(), CANDIDATE_ROWS_MAX)
}

/// The same with a bound of one's own, for tests.
pub(crate) fn candidates_within(
    kv: &impl Kv,
    subscription: &str,
    now: UnixMs,
    cursor: &mut Cursor,
    most: Most,
    rows: u64,
) -> Result<Option<Candidates>, Fault> {
    let Some(record) = record::get(kv, subscription)? else { return Ok(None) };
    let (id, revision) = (record.subscription_id(), record.revision);
    let state = state::get(kv, id)?.unwrap_or_default();
    let empty = Candidates { subscription: id, revision, ..Candidates::default() };
    if state.pause.is_some() {
        return Ok(Some(empty));
    }
    let Counters { released, redriven, .. } = state.counters;
    cursor.turn_to(id, revision, (released, redriven));
    let mut search = Search::new(kv, record, &state, now, rows)?;
    search.allow_retries(most.retries);
    let ahead = if search.by_key { cursor.begin_back() } else { None };
    enter_topics(&mut search, cursor)?;
    serve(&mut search, cursor, most.events.min(DISPATCH_ROUND_EVENTS))?;
    if let Some(places) = ahead
        && search.found_nothing()
        && search.partial
    {
        cursor.go_on_at(places);
    }
    cursor.keep_bounds();
    let Search { picks, retried: retries, skips, partial, wake_at, .. } = search;
    let before = std::mem::take(&mut cursor.round);
    let round = Round {
        partial: before.partial || partial,
        wake_at: before.wake_at.into_iter().chain(wake_at).min(),
    };
    let goes_round = cursor.is_in_round();
    if goes_round {
        cursor.round = round;
    }
    let (more, wake_at) = (round.partial || goes_round, round.wake_at);
    Ok(Some(Candidates { picks, retries, skips, more, goes_round, wake_at, ..empty }))
}

impl Cursor {
    /// Whether the next search goes on with topics in the middle of a round.
    #[must_use]
    pub fn is_in_round(&self) -> bool {
        !self.topics_after.is_empty()
    }

    /// Something may be ready in topics that the round has passed: it is not enough.
    pub fn look_again(&mut self) {
        self.round.partial |= self.is_in_round();
    }
}

/// Chooses the topics of this search, in turn.
fn enter_topics<K: Kv>(search: &mut Search<'_, K>, cursor: &mut Cursor) -> Result<(), Fault> {
    let pattern = TopicPattern::from_checked(&search.record.config.pattern);
    let bounds = (CANDIDATE_TOPICS_MAX, CANDIDATE_TOPIC_NAMES_MAX);
    let (topics, next) =
        subscriptions::some_topics_of(search.kv, &pattern, &cursor.topics_after, bounds)?;
    cursor.topics_after = next.unwrap_or_default();
    let (id, start) = (search.record.subscription_id(), Position(search.record.start_position));
    for info in topics {
        if info.specials > 0 {
            see_new(search, cursor, &info)?;
        }
        let topic = info.id;
        search.topics.insert(topic, TopicView::load(search.kv, id, start, info, &cursor.reserved)?);
    }
    Ok(())
}

/// Looks at special events that were published since the last search: their deadlines may come
/// before where the cursor begins.
fn see_new<K: Kv>(
    search: &mut Search<'_, K>,
    cursor: &mut Cursor,
    info: &TopicInfo,
) -> Result<(), Fault> {
    let topic: TopicId = info.id;
    if let Some(seen) = cursor.seen.get(&topic) {
        let new = OffsetRange::between(seen.get(), info.next_offset.get());
        let limit = usize::try_from(search.rows).unwrap_or(usize::MAX).max(1);
        let found = specials::within(search.kv, topic, new, limit)?;
        search.spend(found.len() as u64);
        if found.len() == limit {
            cursor.unsee(topic);
        }
        found.iter().for_each(|(offset, special)| cursor.see(topic, *offset, special));
    } else {
        cursor.unsee(topic);
    }
    cursor.seen.insert(topic, info.next_offset);
    Ok(())
}

/// Serves fairness keys in turn until enough is found or nothing is left.
fn serve<K: Kv>(search: &mut Search<'_, K>, cursor: &mut Cursor, events: u64) -> Result<(), Fault> {
    let Turn { flows, mut early, all } = flows::next(search, cursor)?;
    let (alone, mut wanted) = (all && flows.len() == 1, events);
    let (mut hungry, mut done) = (VecDeque::new(), Vec::new());
    let mut flows = flows.into_iter();
    while wanted > 0 && search.rows > 0 {
        // Each of them once, then round and round those that have more, unless others wait.
        let mut lane = match flows.next() {
            Some(flow) => Lane::open(search, &flow, cursor)?,
            None if !all => break,
            None => match hungry.pop_front() {
                Some(lane) => lane,
                None => break,
            },
        };
        let share = if alone { u64::MAX } else { share(search, cursor, &lane.flow) };
        let left = serve_lane(search, &mut lane, &mut wanted, share)?;
        // Who has some of its share left stays in turn: the next search goes on with it.
        let in_turn = !alone && left.is_some_and(|left| left >= 1000);
        match early.checked_sub(1) {
            Some(left) => early = left,
            None if in_turn => {}
            None => cursor.flow_after = Some(lane.flow.clone()),
        }
        match left.filter(|left| !alone && *left > 0) {
            Some(left) => drop(cursor.deficits.insert(lane.flow.clone(), left)),
            None => drop(cursor.deficits.remove(&lane.flow)),
        }
        match left {
            Some(_) => hungry.push_back(lane),
            None => done.push(lane),
        }
    }
    search.partial |= wanted == 0 || search.rows == 0;
    for lane in done.into_iter().chain(hungry) {
        lane.close(search, cursor);
    }
    Ok(())
}

/// What a fairness key may take in this round, thousandths of events.
fn share<K: Kv>(search: &Search<'_, K>, cursor: &Cursor, flow: &str) -> u64 {
    let weight = search.record.config.fairness_weights.get(flow).copied().unwrap_or(1000);
    let left = cursor.deficits.get(flow).copied().unwrap_or(0);
    if left >= 1000 { left } else { left + FAIRNESS_QUANTUM * weight }
}

/// Takes events of one fairness key for its share; what is left of that, `None` when there are no
/// more events.
fn serve_lane<K: Kv>(
    search: &mut Search<'_, K>,
    lane: &mut Lane,
    wanted: &mut u64,
    mut share: u64,
) -> Result<Option<u64>, Fault> {
    while *wanted > 0 && share >= 1000 {
        let Some(taken) = lane.take(search, (*wanted).min(share / 1000))? else {
            return Ok(None);
        };
        *wanted = wanted.saturating_sub(taken);
        share = share.saturating_sub(taken * 1000);
    }
    Ok(Some(share))
}
