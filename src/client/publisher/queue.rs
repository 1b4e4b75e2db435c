//! What waits to be sent, and how it is joined into calls.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::slots::SlotId;
use crate::model::limits::{CALL_EVENTS_MAX, PUBLISHER_CALL_BYTES, PUBLISHER_TOPICS_KEPT};
use crate::proto::v1::KeyExpectation;

/// One event of one caller, which may be joined with others.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) event: Bytes,
    /// Of an append of one event to its own key.
    pub(super) expectation: Option<KeyExpectation>,
    pub(super) slot: SlotId,
    pub(super) deadline: Instant,
}

/// Who waits for a call.
#[derive(Debug)]
pub(super) enum Waiters {
    /// One an event, each with its deadline.
    Each(Vec<(SlotId, Instant)>),
    /// One for the whole call.
    Whole(SlotId),
}

/// A call before it has a sequence.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) topic: Arc<str>,
    pub(super) events: Vec<Bytes>,
    pub(super) expectations: Vec<KeyExpectation>,
    pub(super) waiters: Waiters,
    /// The earliest of those who wait.
    pub(super) deadline: Instant,
}

/// Plain publishes and appends with an expectation are not joined with each other: an expectation
/// is checked against the versions before its call, and a plain publish in the same call could
/// move its key unseen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Append,
}

#[derive(Debug, Default)]
struct TopicQueue {
    plain: VecDeque<Item>,
    appends: VecDeque<Item>,
}

impl TopicQueue {
    fn of(&mut self, kind: Kind) -> &mut VecDeque<Item> {
        match kind {
            Kind::Plain => &mut self.plain,
            Kind::Append => &mut self.appends,
        }
    }
}

/// What waits to be sent. Bounded by the permits that callers take before they enqueue.
#[derive(Debug)]
pub(super) struct Queue {
    topics: HashMap<Arc<str>, TopicQueue>,
    /// Queues that hold something, in the order of their turns.
    turns: VecDeque<(Arc<str>, Kind)>,
    /// Calls that go alone.
    alone: VecDeque<Draft>,
    /// How many appends to join: halved when a joined call is refused, grown when one is accepted.
    appends_joined_max: usize,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            topics: HashMap::new(),
            turns: VecDeque::new(),
            alone: VecDeque::new(),
            appends_joined_max: CALL_EVENTS_MAX,
        }
    }
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty() && self.alone.is_empty()
    }

    pub(super) fn push(&mut self, topic: &str, item: Item) {
        let kind = if item.expectation.is_some() { Kind::Append } else { Kind::Plain };
        if let Some(queue) = self.topics.get_mut(topic) {
            let queue = queue.of(kind);
            queue.push_back(item);
            if queue.len() > 1 {
                return;
            }
        } else {
            if self.topics.len() >= PUBLISHER_TOPICS_KEPT {
                self.topics.retain(|_, q| !q.plain.is_empty() || !q.appends.is_empty());
            }
            let mut queue = TopicQueue::default();
            queue.of(kind).push_back(item);
            self.topics.insert(topic.into(), queue);
        }
        if let Some((name, _)) = self.topics.get_key_value(topic) {
            self.turns.push_back((name.clone(), kind));
        }
    }

    pub(super) fn push_alone(&mut self, draft: Draft) {
        self.alone.push_back(draft);
    }

    pub(super) fn has_alone(&self) -> bool {
        !self.alone.is_empty()
    }

    /// Whether joined calls are waiting that would not be full.
    pub(super) fn is_small(&self) -> bool {
        self.alone.is_empty()
            && self.turns.front().is_some_and(|(topic, kind)| {
                self.topics.get(topic).is_some_and(|queue| match kind {
                    Kind::Plain => queue.plain.len() < CALL_EVENTS_MAX,
                    Kind::Append => queue.appends.len() < self.appends_joined_max,
                })
            })
    }

    /// The next call that goes alone.
    pub(super) fn pop_alone(&mut self) -> Option<Draft> {
        self.alone.pop_front()
    }

    /// The next call of joined events.
    pub(super) fn pop_joined(&mut self) -> Option<Draft> {
        loop {
            let (topic, kind) = self.turns.pop_front()?;
            let count_max = match kind {
                Kind::Plain => CALL_EVENTS_MAX,
                Kind::Append => self.appends_joined_max,
            };
            let Some(queue) = self.topics.get_mut(&topic) else { continue };
            let queue = queue.of(kind);
            let draft = join(&topic, queue, count_max);
            if !queue.is_empty() {
                self.turns.push_back((topic, kind));
            }
            if draft.is_some() {
                return draft;
            }
        }
    }

    /// A joined call with expectations was refused, and has to be taken apart.
    pub(super) fn joined_append_refused(&mut self) {
        self.appends_joined_max = (self.appends_joined_max / 2).max(1);
    }

    /// A joined call with expectations was accepted.
    pub(super) fn joined_append_accepted(&mut self) {
        self.appends_joined_max = (self.appends_joined_max + 8).min(CALL_EVENTS_MAX);
    }

    /// Takes out what has waited too long: the slots and the bytes of the events that each stands
    /// for, with their number.
    pub(super) fn expire(
        &mut self,
        is_late: impl Fn(Instant) -> bool,
        mut drop: impl FnMut(SlotId, usize, usize),
    ) {
        for queue in self.topics.values_mut() {
            for queue in [&mut queue.plain, &mut queue.appends] {
                // All items wait equally long, so the oldest one expires first.
                while let Some(item) = queue.pop_front_if(|item| is_late(item.deadline)) {
                    drop(item.slot, item.event.len(), 1);
                }
            }
        }
        let topics = &mut self.topics;
        self.turns.retain(|(topic, kind)| {
            topics.get_mut(topic).is_some_and(|queue| !queue.of(*kind).is_empty())
        });
        self.alone.retain(|draft| {
            if !is_late(draft.deadline) {
                return true;
            }
            match &draft.waiters {
                Waiters::Whole(slot) => {
                    drop(*slot, draft.events.iter().map(Bytes::len).sum(), draft.events.len());
                }
                Waiters::Each(slots) => {
                    for ((slot, _), event) in slots.iter().zip(&draft.events) {
                        drop(*slot, event.len(), 1);
                    }
                }
            }
            false
        });
    }
}

/// Joins from the front of a queue: as many as a call takes; of appends, each key once.
fn join(topic: &Arc<str>, queue: &mut VecDeque<Item>, count_max: usize) -> Option<Draft> {
    let deadline = queue.front()?.deadline;
    let count = queue.len().min(count_max);
    let mut events = Vec::with_capacity(count);
    let mut slots = Vec::with_capacity(count);
    let mut expectations = Vec::new();
    let fits = {
        let (mut bytes, mut keys) = (0, HashSet::new());
        let fits = queue.iter().take(count).take_while(|item| {
            bytes += item.event.len();
            let new_key = item.expectation.as_ref().is_none_or(|e| keys.insert(e.key.as_str()));
            bytes <= PUBLISHER_CALL_BYTES && new_key
        });
        fits.count()
    };
    for item in queue.drain(..fits.max(1)) {
        events.push(item.event);
        slots.push((item.slot, item.deadline));
        expectations.extend(item.expectation);
    }
    let waiters = Waiters::Each(slots);
    Some(Draft { topic: topic.clone(), events, expectations, waiters, deadline })
}
