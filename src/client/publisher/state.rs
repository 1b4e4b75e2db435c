//! The calls of a publisher from the queue to the answer. No I/O: the stream pulls calls out, the
//! driver puts answers in.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::queue::{Draft, Item, Queue, Waiters};
use super::receipt;
use super::slots::{Answer, SlotId, Slots};
use crate::client::retry::{Failure, Verdict, outcome_unknown};
use crate::model::limits::{PUBLISHER_CALLS_MAX, PUBLISHER_EVENT_OVERHEAD};
use crate::model::rejection::{Reason, Rejection};
use crate::proto::status::from_call_error;
use crate::proto::v1::publish_answer;
use crate::proto::v1::{ProducerRef, PublishCall, PublishResult};

/// A call that has its sequence and no answer yet.
#[derive(Debug)]
struct Call {
    message: Arc<PublishCall>,
    waiters: Waiters,
    deadline: Instant,
    /// On the current stream.
    sent_at: Option<Instant>,
    /// Attempts of which it is open what they led to.
    open_attempts: u32,
    /// How many joined calls had been taken apart when this one was made.
    taken_apart: u64,
    /// Whether it takes room among the joined calls in flight.
    counted: bool,
}

impl Call {
    fn is_joined(&self) -> bool {
        matches!(&self.waiters, Waiters::Each(slots) if slots.len() > 1)
    }
}

/// What is to be done once the lock is released.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) wakers: Vec<Waker>,
    /// Permits to give back.
    pub(super) freed: usize,
    /// Nothing is left to wait for, and nobody to publish more.
    pub(super) drained: bool,
}

/// What the stream is to do.
#[derive(Debug)]
pub(super) enum Pull {
    Send(Arc<PublishCall>),
    /// Let other tasks enqueue first, then ask again.
    Yield,
    Wait,
    End,
}

#[derive(Debug)]
pub(super) struct State {
    producer_id: String,
    timeout: Duration,
    joined_calls_max: usize,

    queue: Queue,
    pub(super) slots: Slots,

    /// Unanswered calls by sequence from `base`; everything below `base` is answered.
    calls: VecDeque<Option<Call>>,
    base: u64,
    unanswered: usize,
    joined_in_flight: usize,
    taken_apart: u64,

    /// The stream of this generation may pull; older ones end.
    generation: u64,
    /// The next sequence to send on the current stream.
    send_next: u64,
    sender: Option<Waker>,
    yielded: bool,
    alone_last: bool,

    last_answer: Instant,
    last_failure: Option<Rejection>,
    closed: bool,
    /// Set when the driver is gone.
    pub(super) dead: bool,
}

impl State {
    pub(super) fn new(
        producer_id: String,
        timeout: Duration,
        joined_calls_max: usize,
        now: Instant,
    ) -> Self {
        Self {
            producer_id,
            timeout,
            joined_calls_max: joined_calls_max.max(1),
            queue: Queue::default(),
            slots: Slots::default(),
            calls: VecDeque::new(),
            base: 1,
            unanswered: 0,
            joined_in_flight: 0,
            taken_apart: 0,
            generation: 0,
            send_next: 1,
            sender: None,
            yielded: false,
            alone_last: false,
            last_answer: now,
            last_failure: None,
            closed: false,
            dead: false,
        }
    }

    /// Whether anyone waits for anything.
    pub(super) fn is_pending(&self) -> bool {
        self.unanswered > 0 || !self.queue.is_empty()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn push(&mut self, topic: &str, item: Item) {
        self.queue.push(topic, item);
    }

    pub(super) fn push_alone(&mut self, draft: Draft) {
        self.queue.push_alone(draft);
    }

    /// The stream's waker, when there is something that it may send.
    pub(super) fn wake_sender(&mut self) -> Option<Waker> {
        let resend = self.send_next < self.next_sequence();
        let window = self.next_sequence() - self.base < PUBLISHER_CALLS_MAX;
        let room = self.joined_in_flight < self.joined_calls_max || self.queue.has_alone();
        if resend || (window && room && !self.queue.is_empty()) || self.closed {
            return self.sender.take();
        }
        None
    }

    /// Nobody is going to publish any more.
    pub(super) fn close(&mut self) -> Effects {
        self.closed = true;
        let mut effects = Effects::default();
        self.finish(&mut effects);
        effects
    }

    /// A new stream: everything unanswered is to be sent on it again, in order.
    pub(super) fn open_stream(&mut self, now: Instant) -> (u64, Option<Waker>) {
        self.generation += 1;
        self.send_next = self.base;
        self.last_answer = now;
        for call in self.calls.iter_mut().flatten() {
            call.sent_at = None;
        }
        // The old stream sees that its time is over.
        (self.generation, self.sender.take())
    }

    /// The next call for the stream of this generation.
    pub(super) fn pull(&mut self, generation: u64, now: Instant, waker: &Waker) -> Pull {
        if generation != self.generation {
            return Pull::End;
        }
        loop {
            while self.send_next < self.next_sequence() {
                let index = self.index(self.send_next.max(self.base));
                self.send_next = self.send_next.max(self.base) + 1;
                if let Some(Some(call)) = self.calls.get_mut(index) {
                    call.sent_at = Some(now);
                    call.open_attempts += 1;
                    return Pull::Send(call.message.clone());
                }
            }
            if self.next_sequence() - self.base >= PUBLISHER_CALLS_MAX {
                break;
            }
            let room = self.joined_in_flight < self.joined_calls_max;
            if room && self.joined_in_flight > 0 && self.queue.is_small() && !self.yielded {
                self.yielded = true;
                return Pull::Yield;
            }
            let Some((draft, counted)) = self.next_draft(room) else { break };
            self.yielded = false;
            self.admit(draft, counted);
        }
        if self.closed && !self.is_pending() {
            return Pull::End;
        }
        self.sender = Some(waker.clone());
        Pull::Wait
    }

    /// Takes turns between calls that go alone and joined ones; whether it is a joined one.
    fn next_draft(&mut self, room: bool) -> Option<(Draft, bool)> {
        let joined_first = self.alone_last && room;
        if !joined_first && let Some(draft) = self.queue.pop_alone() {
            self.alone_last = true;
            return Some((draft, false));
        }
        self.alone_last = false;
        if room && let Some(draft) = self.queue.pop_joined() {
            return Some((draft, true));
        }
        self.queue.pop_alone().map(|draft| (draft, false))
    }

    /// Gives a call its sequence.
    fn admit(&mut self, draft: Draft, counted: bool) {
        let sequence = self.next_sequence();
        let message = Arc::new(PublishCall {
            call: sequence,
            topic: draft.topic.to_string(),
            producer: Some(ProducerRef {
                id: self.producer_id.clone(),
                epoch: 1,
                sequence,
                acknowledged_below: self.base,
            }),
            expectations: draft.expectations,
            events: draft.events,
        });
        let call = Call {
            message,
            waiters: draft.waiters,
            deadline: draft.deadline,
            sent_at: None,
            open_attempts: 0,
            taken_apart: self.taken_apart,
            counted,
        };
        self.joined_in_flight += usize::from(counted);
        self.unanswered += 1;
        self.calls.push_back(Some(call));
    }

    /// Takes an answer in. A failure means that the stream is of no more use.
    pub(super) fn answer(
        &mut self,
        sequence: u64,
        answer: Option<publish_answer::Answer>,
        now: Instant,
        effects: &mut Effects,
    ) -> Option<Failure> {
        let index = self.index(sequence);
        let known = sequence >= self.base && self.calls.get(index).is_some_and(Option::is_some);
        if !known {
            return None;
        }
        self.last_answer = now;
        let broken = match answer {
            Some(publish_answer::Answer::Result(result)) => {
                self.accepted(index, result, effects);
                None
            }
            Some(publish_answer::Answer::Error(error)) => {
                self.refused(index, Failure::of_rejection(from_call_error(error)), effects)
            }
            None => self.refused(index, Failure::of_rejection(no_content()), effects),
        };
        self.finish(effects);
        broken
    }

    fn accepted(&mut self, index: usize, result: PublishResult, effects: &mut Effects) {
        let Some(call) = self.remove(index, effects) else { return };
        self.last_failure = None;
        if call.is_joined() && !call.message.expectations.is_empty() {
            self.queue.joined_append_accepted();
        }
        match call.waiters {
            Waiters::Each(slots) => {
                effects.wakers.reserve(slots.len() + 1);
                for (i, (slot, _)) in slots.into_iter().enumerate() {
                    let answer = Answer::One(receipt(&result, i));
                    effects.wakers.extend(self.slots.answer(slot, answer));
                }
            }
            Waiters::Whole(slot) => {
                let answer = Answer::Many(Box::new(result));
                effects.wakers.extend(self.slots.answer(slot, answer));
            }
        }
    }

    fn refused(
        &mut self,
        index: usize,
        failure: Failure,
        effects: &mut Effects,
    ) -> Option<Failure> {
        if failure.verdict != Verdict::Final {
            self.last_failure = Some(failure.rejection.clone());
            if let Some(Some(call)) = self.calls.get_mut(index)
                && !failure.unknown
            {
                call.open_attempts = call.open_attempts.saturating_sub(1);
            }
            return Some(failure);
        }
        let call = self.remove(index, effects)?;
        let mut rejection = failure.rejection;
        // A repetition is recognised by what the leader has applied: an earlier attempt may be on its
        // way there.
        if rejection.reason == Reason::DeadlinePast && call.open_attempts > 1 {
            rejection = outcome_unknown(self.timeout, Some(&rejection));
        }
        let expectations = !call.message.expectations.is_empty();
        let overtaken = expectations
            && rejection.reason == Reason::VersionConflict
            && call.taken_apart != self.taken_apart;
        let joined = call.is_joined();
        match call.waiters {
            Waiters::Each(slots) if (joined && concerns_one(rejection.reason)) || overtaken => {
                if joined && expectations {
                    self.queue.joined_append_refused();
                    self.taken_apart += 1;
                }
                self.take_apart(&call.message, slots, effects);
            }
            Waiters::Each(slots) => {
                for (slot, _) in slots {
                    let answer = Answer::Refused(Box::new(rejection.clone()));
                    effects.wakers.extend(self.slots.answer(slot, answer));
                }
            }
            Waiters::Whole(slot) => {
                let answer = Answer::Refused(Box::new(rejection));
                effects.wakers.extend(self.slots.answer(slot, answer));
            }
        }
        None
    }

    /// Sends each event of a joined call alone, so that only the offender is refused.
    fn take_apart(
        &mut self,
        message: &PublishCall,
        slots: Vec<(SlotId, Instant)>,
        effects: &mut Effects,
    ) {
        let topic: Arc<str> = message.topic.as_str().into();
        let mut expectations = message.expectations.iter();
        for ((slot, deadline), event) in slots.into_iter().zip(&message.events) {
            // The events stay in the publisher: their permits are not given back.
            effects.freed -= weight(event.len(), 1);
            self.queue.push_alone(Draft {
                topic: topic.clone(),
                events: vec![event.clone()],
                expectations: expectations.next().cloned().into_iter().collect(),
                waiters: Waiters::Each(vec![(slot, deadline)]),
                deadline,
            });
        }
    }

    /// Takes a call out, and its permits back.
    fn remove(&mut self, index: usize, effects: &mut Effects) -> Option<Call> {
        let call = self.calls.get_mut(index)?.take()?;
        self.unanswered -= 1;
        self.joined_in_flight -= usize::from(call.counted);
        let bytes = call.message.events.iter().map(Bytes::len).sum();
        effects.freed += weight(bytes, call.message.events.len());
        while let Some(None) = self.calls.front() {
            self.calls.pop_front();
            self.base += 1;
        }
        Some(call)
    }

    /// Gives up on what has waited too long.
    pub(super) fn expire(&mut self, now: Instant) -> Effects {
        self.expire_before(Some(now))
    }

    /// Everything that was to be done before this; `None`: everything.
    fn expire_before(&mut self, now: Option<Instant>) -> Effects {
        let is_late = |deadline: Instant| now.is_none_or(|now| deadline <= now);
        let mut effects = Effects::default();
        let refusal = self.last_failure.clone().unwrap_or_else(|| not_sent(self.timeout));
        let slots = &mut self.slots;
        self.queue.expire(is_late, |slot, bytes, count| {
            effects.freed += weight(bytes, count);
            effects.wakers.extend(slots.answer(slot, Answer::Refused(Box::new(refusal.clone()))));
        });
        let first = self.base;
        for sequence in first..self.next_sequence() {
            let index = self.index(sequence.max(self.base));
            let late = matches!(self.calls.get(index), Some(Some(call)) if is_late(call.deadline));
            if sequence < self.base || !late {
                continue;
            }
            let Some(call) = self.remove(index, &mut effects) else { continue };
            let answer = Answer::Refused(Box::new(if call.open_attempts == 0 {
                refusal.clone()
            } else {
                outcome_unknown(self.timeout, self.last_failure.as_ref())
            }));
            let slots: Vec<SlotId> = match call.waiters {
                Waiters::Each(slots) => slots.into_iter().map(|(slot, _)| slot).collect(),
                Waiters::Whole(slot) => vec![slot],
            };
            for slot in slots {
                effects.wakers.extend(self.slots.answer(slot, answer.clone()));
            }
        }
        self.finish(&mut effects);
        effects
    }

    /// Answers everyone who waits with this: the driver is gone.
    pub(super) fn give_up(&mut self, rejection: &Rejection) -> Effects {
        self.last_failure = Some(rejection.clone());
        let mut effects = self.expire_before(None);
        effects.drained = true;
        effects
    }

    /// Whether calls were sent and nothing came back for this long.
    pub(super) fn is_stalled(&self, now: Instant, patience: Duration) -> bool {
        let oldest = self.calls.iter().flatten().find_map(|call| call.sent_at);
        oldest.is_some_and(|sent| sent + patience <= now) && self.last_answer + patience <= now
    }

    pub(super) fn failed(&mut self, rejection: Rejection) {
        self.last_failure = Some(rejection);
    }

    pub(super) fn last_failure(&self) -> Option<Rejection> {
        self.last_failure.clone()
    }

    fn finish(&mut self, effects: &mut Effects) {
        effects.wakers.extend(self.wake_sender());
        effects.drained = self.closed && !self.is_pending();
    }

    fn next_sequence(&self) -> u64 {
        self.base + self.calls.len() as u64
    }

    fn index(&self, sequence: u64) -> usize {
        usize::try_from(sequence.saturating_sub(self.base)).unwrap_or(usize::MAX)
    }
}

/// The permits that events take.
pub(super) fn weight(bytes: usize, count: usize) -> usize {
    bytes + count * PUBLISHER_EVENT_OVERHEAD
}

/// Whether a refusal of a call may concern only one of its events.
fn concerns_one(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::EventInvalid
            | Reason::EventTooLarge
            | Reason::CallTooLarge
            | Reason::DeadlinePast
            | Reason::VersionConflict
            | Reason::InvalidRequest
            | Reason::SchemaViolated
            | Reason::SchemaNotFound
    )
}

fn no_content() -> Rejection {
    Rejection::new(
        Reason::Internal,
        "the node sent an answer without content; check the versions of node and client",
    )
}

/// That the time ran out before the event was sent at all.
pub(super) fn not_sent(timeout: Duration) -> Rejection {
    let message = format!(
        "not sent within {} ms because earlier calls wait for their answers; publish it again",
        timeout.as_millis()
    );
    Rejection::new(Reason::DeadlineExceeded, message)
}
