//! Where the searches of one subscription go on. The leader keeps it in memory and may lose it: a
//! search without it finds the same events, and looks at more rows on the way.

use std::collections::BTreeMap;

use super::flows::{Flows, Rest};
use super::reserved::Reserved;
use super::scheduled::OrderKey;
use super::specials::SpecialRecord;
use crate::machine::key;
use crate::model::ids::{Offset, SubscriptionId, TopicId, UnixMs};
use crate::model::limits::CURSOR_STREAMS_MAX;

/// One of the streams that a search merges: topic, fairness key, which.
pub(super) type StreamId = (TopicId, String, Which);

/// Which stream of a topic and a fairness key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Which {
    /// The log itself, for the events that have no row of their own.
    Log,
    /// Failed events that are due; of all topics.
    Ready,
    /// One priority by when events are ready.
    Scheduled(u8),
    /// One priority by deadlines.
    Deadlines(u8),
}

/// Where a stream goes on.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    /// With the row at this key; `key::END`: there are no more.
    pub(super) key: Vec<u8>,
    /// And in that row with this event.
    pub(super) offset: Offset,
}

/// Whether a search begins before where the one before it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Back {
    /// There is no need to.
    #[default]
    No,
    /// Something may be ready there now.
    Look,
    /// The search before did, in vain: this one goes on, whatever may be ready there.
    Looked,
}

/// What the searches of one round over more topics than one looks at have come to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Round {
    /// They did not see everything.
    pub(super) partial: bool,
    pub(super) wake_at: Option<UnixMs>,
}

/// Where searches go on.
#[derive(Debug, Default)]
pub struct Cursor {
    /// The subscription and the revision that all this is about.
    about: Option<(SubscriptionId, u64)>,
    /// How many events had come back, released and redriven.
    came_back: (u64, u64),
    /// The keys that streams begin at: every event before is done or leased.
    begins: BTreeMap<StreamId, Vec<u8>>,
    /// By topic and fairness key, a bit for each priority: no event with a deadline waits there. New ones are
    /// told of by `see`.
    undated: BTreeMap<(TopicId, String), u16>,
    /// By the number of a window: the failed events before this key are over the budget in it.
    held: BTreeMap<StreamId, (u64, Vec<u8>)>,
    /// Where streams go on after a search that ended before them.
    pub(super) resumes: BTreeMap<StreamId, Place>,
    /// Whether something may be ready before that.
    pub(super) back: Back,
    /// Events below were looked at for deadlines that come before `begins`.
    pub(super) seen: BTreeMap<TopicId, Offset>,
    /// Go on with the topics after this.
    pub(super) topics_after: String,
    /// Of the searches before, when there are such topics.
    pub(super) round: Round,
    /// Go on with the fairness keys after this; `None`: from the first.
    pub(super) flow_after: Option<String>,
    /// Which fairness keys may have events.
    pub(super) flows: Flows,
    /// What fairness keys have left of their shares, thousandths of events.
    pub(super) deficits: BTreeMap<String, u64>,
    /// What is about to be leased.
    pub(super) reserved: Reserved,
}

impl Cursor {
    /// Forgets everything that is about another subscription or revision, and what does not hold
    /// any more since events came back: those that were released were leased and are free again, those
    /// that were redriven are within any budget.
    pub(super) fn turn_to(&mut self, id: SubscriptionId, revision: u64, came_back: (u64, u64)) {
        if self.about != Some((id, revision)) {
            let (about, reserved) = (Some((id, revision)), std::mem::take(&mut self.reserved));
            *self = Self { about, came_back, reserved, ..Self::default() };
        }
        if self.came_back.0 != came_back.0 {
            self.begin_anew();
        }
        if self.came_back != came_back {
            self.came_back = came_back;
            self.held.clear();
        }
    }

    /// What all this is about, and what had come back.
    pub(super) fn as_of(&self) -> (Option<(SubscriptionId, u64)>, (u64, u64)) {
        (self.about, self.came_back)
    }

    /// Looks at everything again: what was taken for leased may be free.
    pub(super) fn begin_anew(&mut self) {
        self.begins.clear();
        self.undated.clear();
        self.flows.seek_again();
    }

    /// The places alone, to go back to.
    #[must_use]
    pub fn places(&self) -> Self {
        Self {
            about: self.about,
            came_back: self.came_back,
            held: self.held.clone(),
            begins: self.begins.clone(),
            undated: self.undated.clone(),
            resumes: self.resumes.clone(),
            back: self.back,
            seen: self.seen.clone(),
            topics_after: self.topics_after.clone(),
            round: self.round,
            flow_after: self.flow_after.clone(),
            flows: Flows::default(),
            deficits: self.deficits.clone(),
            reserved: Reserved::default(),
        }
    }

    /// Goes back to where a search began whose finds are not all taken. What it learned of fairness
    /// keys holds all the same. Where some were taken, whose turn it is goes on: else the first
    /// fairness key, and the first topics, would have their shares anew each time.
    pub fn go_back(&mut self, places: Self, some_taken: bool) {
        let now = std::mem::replace(self, places);
        if let Some((id, revision)) = now.about {
            self.turn_to(id, revision, now.came_back);
        }
        (self.flows, self.reserved) = (now.flows, now.reserved);
        if some_taken {
            (self.flow_after, self.deficits) = (now.flow_after, now.deficits);
            (self.topics_after, self.round) = (now.topics_after, now.round);
            self.look_again();
        }
    }

    pub(super) fn begin(&self, stream: &StreamId) -> Option<&[u8]> {
        self.begins.get(stream).map(Vec::as_slice)
    }

    /// Where the failed events begin that are not known to be over the budget of a window.
    pub(super) fn held(&self, stream: &StreamId, window: u64) -> Option<&[u8]> {
        let (of, key) = self.held.get(stream)?;
        (*of == window).then_some(key)
    }

    pub(super) fn hold(&mut self, stream: StreamId, window: u64, key: Vec<u8>) {
        self.held.insert(stream, (window, key));
        while self.held.len() > CURSOR_STREAMS_MAX {
            self.held.pop_first();
        }
    }

    pub(super) fn has_ended(&self, stream: &StreamId) -> bool {
        self.resumes.get(stream).is_some_and(|place| place.key == key::END)
    }

    /// Notes that no search has to look at a stream's events before a key: they are done or leased,
    /// or another stream has them too.
    pub(super) fn begin_at(&mut self, stream: StreamId, key: Vec<u8>) {
        self.begins.insert(stream, key);
        while self.begins.len() > CURSOR_STREAMS_MAX {
            self.begins.pop_first();
        }
    }

    /// Whether it is a stream of deadlines that nothing waits in.
    pub(super) fn is_undated(&self, (topic, flow, which): &StreamId) -> bool {
        let Which::Deadlines(priority) = which else { return false };
        let known = self.undated.get(&(*topic, flow.clone()));
        known.is_some_and(|undated| undated & bit(*priority) != 0)
    }

    /// Notes that nothing waits in a stream of deadlines, and that it need not be looked at.
    pub(super) fn note_undated(&mut self, (topic, flow, which): &StreamId) {
        if let Which::Deadlines(priority) = which {
            *self.undated.entry((*topic, flow.clone())).or_default() |= bit(*priority);
            while self.undated.len() > CURSOR_STREAMS_MAX {
                self.undated.pop_first();
            }
        }
    }

    /// Notes a new event: it may come before where its stream of deadlines begins.
    pub(super) fn see(&mut self, topic: TopicId, offset: Offset, special: &SpecialRecord) {
        self.flows.insert(topic, &special.flow);
        let Some(deadline) = special.deadline() else { return };
        let priority = u8::try_from(special.priority).unwrap_or(u8::MAX);
        if let Some(undated) = self.undated.get_mut(&(topic, special.flow.clone())) {
            *undated &= !bit(priority);
        }
        let stream = (topic, special.flow.clone(), Which::Deadlines(priority));
        let Some(begin) = self.begins.get_mut(&stream) else { return };
        let instant = UnixMs(deadline.get());
        let key = OrderKey { topic, flow: &special.flow, priority, instant, offset }.encode();
        if key < *begin {
            *begin = key;
        }
    }

    /// Forgets what new events of a topic may have changed.
    pub(super) fn unsee(&mut self, topic: TopicId) {
        self.flows.seek_again_in(topic);
        self.undated.retain(|(t, _), _| *t != topic);
        self.begins.retain(|(t, _, which), _| *t != topic || !matches!(which, Which::Deadlines(_)));
    }

    /// Notes what a search left of a fairness key's special events.
    pub(super) fn leave(&mut self, topic: TopicId, flow: &str, rest: Rest) {
        self.flows.leave(topic, flow, rest);
        if rest == Rest::Nothing && self.begins.len() > CURSOR_STREAMS_MAX / 2 {
            // Most fairness keys are used once.
            let stream = |which| (topic, flow.to_owned(), which);
            let (first, last) = (stream(Which::Log), stream(Which::Deadlines(u8::MAX)));
            let streams: Vec<_> =
                self.begins.range(first..=last).map(|(id, _)| id.clone()).collect();
            streams.iter().for_each(|id| drop(self.begins.remove(id)));
        }
    }

    pub(super) fn keep_bounds(&mut self) {
        while self.resumes.len() > CURSOR_STREAMS_MAX {
            self.resumes.pop_first();
        }
        while self.seen.len() > CURSOR_STREAMS_MAX {
            self.seen.pop_first();
        }
        while self.deficits.len() > CURSOR_STREAMS_MAX {
            let Some((flow, left)) = self.deficits.pop_first() else { break };
            if left >= 1000 {
                // Its turn is over, or it would get its share anew without end.
                self.flow_after = Some(flow);
            }
        }
    }
}

impl Cursor {
    /// Something was settled or appended. In order by key it may let events go that lie before where the
    /// searches are: what they came to was not in turn then.
    pub fn look_back(&mut self) {
        if self.back == Back::No {
            self.back = Back::Look;
        }
    }

    /// Where the streams would go on, if a search is to begin before that.
    pub(super) fn begin_back(&mut self) -> Option<BTreeMap<StreamId, Place>> {
        let looks = std::mem::take(&mut self.back) == Back::Look && !self.resumes.is_empty();
        looks.then(|| std::mem::take(&mut self.resumes))
    }

    /// A search that began before those places found nothing, and did not come to them.
    pub(super) fn go_on_at(&mut self, places: BTreeMap<StreamId, Place>) {
        self.resumes = places;
        self.back = Back::Looked;
    }
}

/// The bit of a priority.
fn bit(priority: u8) -> u16 {
    1_u16.checked_shl(u32::from(priority)).unwrap_or(0)
}
