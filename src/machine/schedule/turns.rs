//! Order by key in a search: an event may go when the one of its key before it is done, or will
//! never be delivered and would be in turn itself. The latter died before their turn, are cancelled,
//! or the filter does not let them through; they may be delayed, so that no stream comes to them for
//! long.
//!
//! In that order nothing is skipped before it is in turn: what is done lets the next one go.

use std::collections::{BTreeMap, BTreeSet};

use super::search::Search;
use super::specials;
use super::topics::Mark;
use crate::machine::Fault;
use crate::machine::kv::Kv;
use crate::model::ids::{Offset, TopicId};

/// Events before one that are looked at even when the search has no rows left.
const STEPS_MIN: usize = 64;

/// What one search found out.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// What the filter says.
    verdicts: BTreeMap<(TopicId, Offset), bool>,
    /// Of those that come after events that will not be delivered, and of these: who is in turn.
    known: BTreeMap<(TopicId, Offset), bool>,
    /// Skipped.
    dropped: BTreeSet<(TopicId, Offset)>,
}

impl Turns {
    pub(super) fn verdict(&self, topic: TopicId, offset: Offset) -> Option<bool> {
        self.verdicts.get(&(topic, offset)).copied()
    }

    pub(super) fn judge(&mut self, topic: TopicId, offset: Offset, passes: bool) {
        self.verdicts.insert((topic, offset), passes);
    }

    /// Whether it is dropped for the first time.
    pub(super) fn drop_once(&mut self, topic: TopicId, offset: Offset) -> bool {
        self.dropped.insert((topic, offset))
    }
}

impl<K: Kv> Search<'_, K> {
    /// Whether an event is in turn. Those before it that will never be delivered are skipped then.
    pub(super) fn is_in_turn(&mut self, topic: TopicId, offset: Offset) -> Result<bool, Fault> {
        let (kv, mut at, mut between) = (self.kv, offset, Vec::new());
        let in_turn = loop {
            if let Some(known) = self.turns.known.get(&(topic, at)) {
                break *known;
            }
            let view = self.topic(topic)?;
            let Some(before) = view.before(kv, at)? else { break true };
            if view.is_done(kv, before)? {
                if !view.progress.is_early(before) {
                    break true;
                }
                self.spend(1);
                at = before;
                continue;
            }
            // The streams that come to those further ahead go on.
            let tired = self.rows == 0 && between.len() >= STEPS_MIN;
            if tired || !self.is_void(topic, before)? {
                break false;
            }
            between.push(before);
            at = before;
        };
        if !between.is_empty() {
            let all = between.iter().chain([&offset]).map(|offset| ((topic, *offset), in_turn));
            self.turns.known.extend(all);
        }
        if in_turn {
            for before in between.into_iter().rev() {
                self.skip(topic, before)?;
            }
        }
        Ok(in_turn)
    }

    /// Whether an event waits that will never be delivered.
    fn is_void(&mut self, topic: TopicId, offset: Offset) -> Result<bool, Fault> {
        let (kv, cancels) = (self.kv, self.topic(topic)?.info.cancels);
        if cancels == 0 && !self.filters() {
            return Ok(false);
        }
        self.spend(1);
        if self.mark(topic, offset)? != Mark::Free {
            return Ok(false);
        }
        let special = if cancels > 0 { specials::get(kv, topic, offset)? } else { None };
        Ok(special.is_some_and(|special| special.cancelled) || !self.passes(topic, offset)?)
    }
}
