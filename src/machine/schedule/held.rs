//! Failed events that the budget holds back: they keep their places, which are the first ones, so
//! every search of the same window would come to them in vain. It steps over them instead.

use super::cursor::{Cursor, StreamId};
use super::search::{Retry, Search};
use super::streams::next_key;
use crate::machine::delivery::budget::Budget;
use crate::machine::kv::Kv;
use crate::machine::subscription::state;

/// Of one stream of failed events, in a search that has no retries left.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// The window, and where those begin that are not known to be over the budget.
    place: Option<(u64, Vec<u8>)>,
    /// All that the stream came to are.
    all: bool,
}

impl Held {
    /// Moves the beginning of a stream over those that earlier searches came to in vain.
    pub(super) fn step_over<K: Kv>(
        search: &mut Search<'_, K>,
        cursor: &Cursor,
        stream: &StreamId,
        at: &mut Vec<u8>,
    ) -> Self {
        if !search.is_out_of_retries() || is_placing(search) {
            return Self::default();
        }
        let window = Budget::window_of(search.now);
        match cursor.held(stream, window) {
            Some(held) if at.as_slice() <= held => {
                *at = held.to_vec();
                search.wake_at(Budget::next_window(search.now));
            }
            None if !cursor.resumes.contains_key(stream) => {}
            // It goes on further behind.
            _ => return Self::default(),
        }
        Self { place: Some((window, at.clone())), all: true }
    }

    /// Notes what became of the event at a key.
    pub(super) fn note(&mut self, retry: Retry, key: &[u8]) {
        self.all &= retry == Retry::OverBudget;
        if let Some((_, place)) = self.place.as_mut().filter(|_| self.all) {
            *place = next_key(key.to_vec());
        }
    }

    /// Notes where later searches begin; `next`: the key of what the stream would have come to.
    pub(super) fn close(self, next: Option<Vec<u8>>, stream: &StreamId, cursor: &mut Cursor) {
        if let Some((window, place)) = self.place {
            let place = next.filter(|_| self.all).unwrap_or(place);
            cursor.hold(stream.clone(), window, place);
        }
    }
}

/// Whether failed events are being placed anew: one that is within any budget may come to stand before
/// others then. Where that cannot be read, whoever reads next meets the fault.
fn is_placing<K: Kv>(search: &Search<'_, K>) -> bool {
    let state = state::get(search.kv, search.record.subscription_id());
    state.is_ok_and(|state| state.is_some_and(|state| state.placing.is_some()))
}
