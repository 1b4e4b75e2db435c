//! The events of one fairness key, merged in the order of rank.

use std::collections::BTreeMap;

use super::cursor::{Cursor, Which};
use super::flows::{self, Rest};
use super::scheduled::{self, OrderKey};
use super::search::{Item, Search};
use super::streams::Stream;
use crate::machine::Fault;
use crate::machine::delivery::ready;
use crate::machine::kv::Kv;
use crate::model::ids::{Offset, TopicId, UnixMs};
use crate::model::limits::PRIORITY_MAX;

pub(super) struct Lane {
    pub(super) flow: String,
    /// Whose special events it has.
    topics: Vec<TopicId>,
    streams: Vec<Stream>,
}

impl Lane {
    pub(super) fn open<K: Kv>(
        search: &mut Search<'_, K>,
        flow: &str,
        cursor: &Cursor,
    ) -> Result<Self, Fault> {
        let (mut streams, mut topics) = (Vec::new(), Vec::new());
        let id = |topic: TopicId, which| (topic, flow.to_owned(), which);
        let special = search.topics.values().any(|t| t.info.specials > 0);
        let failing = search.topics.values().any(|t| t.progress.failures > 0);
        let ranked = special || failing || search.topics.len() > 1;
        for (topic, view) in &search.topics {
            if flow.is_empty() {
                let from = view.first().to_be_bytes().to_vec();
                streams.push(Stream::new(id(*topic, Which::Log), ranked, (from, &[]), cursor));
            }
            if view.info.specials == 0 || !cursor.flows.may_have(*topic, flow) {
                continue;
            }
            topics.push(*topic);
            let priorities = match flow {
                // Those with nothing but a deadline have no rows in `Scheduled`.
                "" => (0..=PRIORITY_MAX).filter_map(|p| u8::try_from(p).ok()).collect(),
                _ => flows::priorities(search, *topic, flow)?,
            };
            for priority in priorities {
                let prefix = scheduled::prefix(*topic, flow, priority);
                let scheduled = id(*topic, Which::Scheduled(priority));
                streams.push(Stream::new(scheduled, true, (prefix.clone(), &prefix), cursor));
                let deadlines = id(*topic, Which::Deadlines(priority));
                let from = deadlines_from(*topic, flow, priority, search.now);
                streams.push(Stream::new(deadlines, true, (from, &prefix), cursor));
            }
        }
        if failing {
            let (ready, prefix) = (id(TopicId(0), Which::Ready), ready_prefix(search, flow));
            let stream = Stream::new(ready, true, (prefix.clone(), &prefix), cursor);
            streams.push(stream.step_over(search, cursor));
        }
        Ok(Self { flow: flow.to_owned(), topics, streams })
    }

    /// Takes the next events, at most so many; `None`: there are none, or the bound is reached.
    pub(super) fn take<K: Kv>(
        &mut self,
        search: &mut Search<'_, K>,
        limit: u64,
    ) -> Result<Option<u64>, Fault> {
        if search.rows == 0 {
            return Ok(None);
        }
        let (mut best, mut second): (Option<(Item, usize)>, Option<Item>) = (None, None);
        for (at, stream) in self.streams.iter_mut().enumerate() {
            let Some(item) = stream.peek(search)? else { continue };
            match best {
                Some((least, _)) if item >= least => {
                    second = Some(second.map_or(item, |known| known.min(item)));
                }
                _ => {
                    second = best.map(|(least, _)| least);
                    best = Some((item, at));
                }
            }
        }
        let Some(stream) = best.and_then(|(_, at)| self.streams.get_mut(at)) else {
            return Ok(None);
        };
        // All that comes before anything of the other streams.
        let mut taken = stream.take(search, limit)?;
        // Where the rows are used up, streams that were not looked at may have what comes before.
        while taken < limit && search.rows > 0 {
            let together = stream.take_on(search, limit - taken, second)?;
            taken += together;
            if together == 0 {
                let Some(item) = stream.peek(search)? else { break };
                if second.is_some_and(|second| item >= second) {
                    break;
                }
                taken += stream.take(search, limit - taken)?;
            }
        }
        Ok(Some(taken))
    }

    /// Notes where streams go on, when the search ran out of rows, and what is left of the events. A
    /// search that did not, and that went on from one that had, has seen only the rest.
    pub(super) fn close<K: Kv>(self, search: &mut Search<'_, K>, cursor: &mut Cursor) {
        let mut rests: BTreeMap<_, _> = self.topics.iter().map(|t| (*t, Rest::Nothing)).collect();
        for stream in self.streams {
            if let Some(rest) = rests.get_mut(&stream.id.0) {
                *rest = stream.rest().min(*rest);
            }
            search.partial |= cursor.resumes.remove(&stream.id).is_some();
            search.partial |= search.rows == 0;
            stream.close(search.rows == 0, cursor);
        }
        for (topic, rest) in rests.into_iter().filter(|_| !self.flow.is_empty()) {
            cursor.leave(topic, &self.flow, rest);
        }
    }
}

/// Where a stream of deadlines begins at least: what has passed is a timer's to bury.
fn deadlines_from(topic: TopicId, flow: &str, priority: u8, now: UnixMs) -> Vec<u8> {
    OrderKey { topic, flow, priority, instant: now.next(), offset: Offset(0) }.encode()
}

/// The rows of `Ready` of a fairness key.
fn ready_prefix<K>(search: &Search<'_, K>, flow: &str) -> Vec<u8> {
    ready::flow_prefix(search.record.subscription_id(), flow)
}
