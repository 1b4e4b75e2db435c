//! Where answers wait for the tasks that asked: one slot a caller, reused.

use std::task::{Poll, Waker};

use super::Receipt;
use crate::model::rejection::Rejection;
use crate::proto::v1::PublishResult;

/// Index of a slot. Whoever asked holds it until it has the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlotId(u32);

/// What a caller waits for.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// Of one event.
    One(Receipt),
    /// Of a whole call.
    Many(Box<PublishResult>),
    /// Boxed: refusals are rare and large.
    Refused(Box<Rejection>),
}

#[derive(Debug)]
enum Slot {
    Free,
    Waiting(Option<Waker>),
    Answered(Answer),
    /// The caller went away; the answer is dropped when it comes.
    Abandoned,
}

/// All slots of a publisher. Their number is bounded by what may wait in it.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Slots {
    pub(super) fn take(&mut self, waker: Option<Waker>) -> SlotId {
        let slot = Slot::Waiting(waker);
        if let Some(index) = self.free.pop() {
            self.slots[index as usize] = slot;
            return SlotId(index);
        }
        let index = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        self.slots.push(slot);
        SlotId(index)
    }

    /// Gives the answer; the waker of whoever waits for it.
    pub(super) fn answer(&mut self, id: SlotId, answer: Answer) -> Option<Waker> {
        let slot = &mut self.slots[id.0 as usize];
        match std::mem::replace(slot, Slot::Answered(answer)) {
            Slot::Waiting(waker) => waker,
            Slot::Abandoned | Slot::Free | Slot::Answered(_) => {
                *slot = Slot::Free;
                self.free.push(id.0);
                None
            }
        }
    }

    /// Takes the answer and frees the slot, or leaves the waker.
    pub(super) fn poll(&mut self, id: SlotId, waker: &Waker) -> Poll<Answer> {
        let slot = &mut self.slots[id.0 as usize];
        match std::mem::replace(slot, Slot::Free) {
            Slot::Answered(answer) => {
                self.free.push(id.0);
                Poll::Ready(answer)
            }
            Slot::Waiting(Some(old)) if old.will_wake(waker) => {
                *slot = Slot::Waiting(Some(old));
                Poll::Pending
            }
            _ => {
                *slot = Slot::Waiting(Some(waker.clone()));
                Poll::Pending
            }
        }
    }

    /// The caller is no longer interested.
    pub(super) fn abandon(&mut self, id: SlotId) {
        let slot = &mut self.slots[id.0 as usize];
        if let Slot::Waiting(_) = slot {
            *slot = Slot::Abandoned;
        } else {
            *slot = Slot::Free;
            self.free.push(id.0);
        }
    }
}
