//! Reading the events of a correlation id, with what became of each.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::fate::Observer;
use super::index;
use crate::machine::Fault;
use crate::machine::key;
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::query::StoredEvent;
use crate::machine::subscription::record::SubscriptionRecord;
use crate::machine::topic::batch;
use crate::model::event_run;
use crate::model::ids::{Offset, Position, TopicId, UnixMs};
use crate::model::limits::{PAGE_BYTES_TARGET, TRACE_FATES_MAX, TRACE_ROWS_MAX};
use crate::model::pattern::TopicPattern;
use crate::model::trace::{Chosen, Fate, Standing};

/// An event with what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traced {
    /// The topic's name.
    pub topic: String,
    /// The event.
    pub event: StoredEvent,
    /// One a chosen subscription that takes the topic, by name, up to `TRACE_FATES_MAX`.
    pub fates: Vec<Fate>,
    /// More chosen subscriptions than those take the topic.
    pub more_fates: bool,
}

impl Traced {
    /// What it takes in an answer, at most.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let fates: usize = self.fates.iter().map(bytes_of).sum();
        OVERHEAD_BYTES + self.topic.len() + self.event.event.len() + fates
    }
}

fn bytes_of(fate: &Fate) -> usize {
    let attempts = fate.attempts.iter().map(|attempt| {
        let texts = attempt.consumer.len() + attempt.reason.len() + attempt.detail.len();
        OVERHEAD_BYTES + texts
    });
    let holder = match &fate.standing {
        Standing::Leased(holder) => holder.consumer.len(),
        _ => 0,
    };
    OVERHEAD_BYTES + fate.name.len() + holder + attempts.sum::<usize>()
}

/// A page of events of a correlation id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// In the order of positions.
    pub events: Vec<Traced>,
    /// Where the next page begins; `None`: this is the last.
    pub next: Option<Position>,
}

/// Bytes that an event, a fate or an attempt takes in an answer beside its texts, at most.
const OVERHEAD_BYTES: usize = 80;

/// Up to `limit` events of a correlation id from a position on, with what became of them in the chosen
/// subscriptions. A page of few may still have a next one: a
/// bounded number of rows is looked at, and what an answer takes is bounded. One event goes out in any case.
///
/// # Errors
/// When the store fails or a row is corrupt.
pub fn trace(
    kv: &impl Kv,
    (correlation_id, chosen): (&str, &Chosen),
    from: Position,
    limit: usize,
    now: UnixMs,
) -> Result<Trace, Fault> {
    let (places, mut next) = places(kv, correlation_id, from, limit)?;
    let (mut reader, mut events, mut bytes) = (Reader::default(), Vec::new(), 0);
    for (position, topic, offset) in places {
        if bytes >= PAGE_BYTES_TARGET {
            next = Some(position);
            break;
        }
        let Some((name, mut event)) = reader.event(kv, topic, offset)? else { continue };
        // Else the page would hold the whole batch of each of its events.
        event.event = Bytes::copy_from_slice(&event.event);
        bytes += event.event.len();
        events.push((name, topic, event));
    }
    let mut observers = observers(kv, chosen, &events)?;
    let (mut found, mut bytes) = (Vec::with_capacity(events.len()), 0);
    for (topic, id, event) in events {
        let mut taking = observers.iter_mut().filter(|(pattern, _)| pattern.matches(&topic));
        let mut fates = Vec::new();
        for (_, observer) in taking.by_ref().take(TRACE_FATES_MAX) {
            fates.push(observer.fate(kv, id, &event, now)?);
        }
        let more_fates = taking.next().is_some();
        let traced = Traced { topic, event, fates, more_fates };
        bytes += traced.bytes();
        if bytes > PAGE_BYTES_TARGET && !found.is_empty() {
            next = Some(traced.event.position);
            break;
        }
        found.push(traced);
    }
    Ok(Trace { events: found, next })
}

/// A row of the index.
type Place = (Position, TopicId, Offset);

fn places(
    kv: &impl Kv,
    correlation_id: &str,
    from: Position,
    limit: usize,
) -> Result<(Vec<Place>, Option<Position>), Fault> {
    let (mut places, mut next) = (Vec::new(), None);
    let start = index::row_key(correlation_id, from);
    let end = index::row_key(correlation_id, Position(u64::MAX));
    kv.scan(Table::Correlations, &start, &end, Order::Ascending, &mut |row, value| {
        let position = index::position_of(row)?;
        if places.len() == limit.min(TRACE_ROWS_MAX) {
            next = Some(position);
            return Ok(ControlFlow::Break(()));
        }
        let (topic, offset) = index::place_of(value)?;
        places.push((position, topic, offset));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok((places, next))
}

/// The chosen subscriptions that take any of the topics, in the order of their names.
fn observers(
    kv: &impl Kv,
    chosen: &Chosen,
    events: &[(String, TopicId, StoredEvent)],
) -> Result<Vec<(TopicPattern, Observer)>, Fault> {
    let mut topics: Vec<&str> = events.iter().map(|(topic, ..)| topic.as_str()).collect();
    topics.sort_unstable();
    topics.dedup();
    let mut found = Vec::new();
    if topics.is_empty() {
        return Ok(found);
    }
    kv.scan(Table::Subscriptions, &[], &key::END, Order::Ascending, &mut |row, value| {
        let name = String::from_utf8_lossy(row).into_owned();
        if !chosen.has(&name) {
            return Ok(ControlFlow::Continue(()));
        }
        let record = SubscriptionRecord::decode(value)?;
        let pattern = TopicPattern::from_checked(&record.config.pattern);
        if topics.iter().any(|topic| pattern.matches(topic)) {
            found.push((pattern, Observer::new(name, record)?));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// Reads events that mostly are neighbours: a batch is read once.
#[derive(Default)]
struct Reader {
    topic: TopicId,
    name: String,
    events: Vec<StoredEvent>,
}

impl Reader {
    /// The event at a place with its topic's name; `None`: the topic was deleted.
    fn event(
        &mut self,
        kv: &impl Kv,
        topic: TopicId,
        offset: Offset,
    ) -> Result<Option<(String, StoredEvent)>, Fault> {
        if topic != self.topic || !self.has(offset) {
            self.load(kv, topic, offset)?;
        }
        let first = self.events.first().map_or(Offset(0), |event| event.offset);
        let at = usize::try_from(offset.since(first)).unwrap_or(usize::MAX);
        let event = self.events.get(at).filter(|event| event.offset == offset);
        Ok(event.map(|event| (self.name.clone(), event.clone())))
    }

    fn has(&self, offset: Offset) -> bool {
        let ends = self.events.first().zip(self.events.last());
        ends.is_some_and(|(first, last)| (first.offset..=last.offset).contains(&offset))
    }

    fn load(&mut self, kv: &impl Kv, topic: TopicId, offset: Offset) -> Result<(), Fault> {
        self.events.clear();
        self.topic = topic;
        let Some((first, batch)) = batch::containing(kv, topic, offset)? else { return Ok(()) };
        let view = batch.view()?;
        view.topic.clone_into(&mut self.name);
        let run = Bytes::copy_from_slice(view.run);
        for (n, encoded) in (0..).zip(event_run::iter(&run)) {
            let offset = first.plus(n);
            self.events.push(StoredEvent {
                offset,
                position: view.first_position.plus(n),
                recorded_at: view.recorded_at,
                key_version: view.version_at(offset),
                event: run.slice_ref(encoded?),
            });
        }
        Ok(())
    }
}
