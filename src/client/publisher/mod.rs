//! Publishing: one stream to the leader, shared by any number of tasks.
//!
//! Concurrent publishes of single events to one topic are joined into calls while earlier calls
//! are in flight; nothing waits while none is. Every call carries the producer's sequence, and
//! whatever has no answer when a stream breaks is sent again to the next leader with the same
//! sequence, so that the hub recognises what it has done already.

mod driver;
mod queue;
mod slots;
mod state;
mod stream;
#[cfg(test)]
mod tests;

use std::ops::Deref;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use uuid::Uuid;

use super::endpoints::Endpoints;
use super::retry::Failure;
use super::spawn::{now, spawn};
use crate::model::event::EventView;
use crate::model::limits::{
    CALL_BYTES_MAX, CALL_EVENTS_MAX, CALL_EXPECTATIONS_MAX, PUBLISHER_BYTES_MAX,
};
use crate::model::rejection::{Reason, Rejection};
use crate::proto::v1::{self, Event, KeyExpectation, PublishResult};
use driver::Interruption;
use queue::{Draft, Item, Waiters};
use slots::{Answer, SlotId};
use state::{Effects, State, weight};

/// Where one event went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Its offset in the topic.
    pub offset: u64,
    /// Its position in the hub.
    pub position: u64,
    /// The version of its key; 0 without one.
    pub key_version: u64,
    /// An event with its source and id was there already, at this place.
    pub duplicate: bool,
}

/// The receipts of all events of a call, in order.
#[must_use]
pub fn receipts(result: &PublishResult) -> Vec<Receipt> {
    (0..result.count as usize).map(|index| receipt(result, index)).collect()
}

/// The receipt of the event at `index` of a call.
fn receipt(result: &PublishResult, index: usize) -> Receipt {
    let place = index as u64;
    let key_version = result.key_versions.get(index).copied().unwrap_or(0);
    let (offset, position, duplicate) = match result.receipts.get(index) {
        Some(r) => (r.offset, r.position, r.duplicate),
        // A whole call that is recognised was repeated by the publisher itself.
        None => (result.first_offset + place, result.first_position + place, false),
    };
    Receipt { offset, position, key_version, duplicate }
}

/// Publishes events. Clones share one stream and one sequence. When the last one is dropped, what
/// was submitted is still sent.
#[derive(Clone)]
pub struct Publisher {
    handle: Arc<Handle>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").finish_non_exhaustive()
    }
}

struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        let effects = self.0.lock().close();
        self.0.carry_out(effects);
        self.0.work.notify_one();
    }
}

struct Shared {
    state: Mutex<State>,
    /// Bytes that may wait: taken before an event is enqueued.
    permits: Semaphore,
    /// For the driver: something waits, or all handles are gone.
    work: Notify,
    /// For the sweeper: something waits.
    pending: Notify,
    /// For the driver: give the stream up.
    interrupt: Notify,
    timeout: Duration,
}

impl Publisher {
    pub(super) fn start(endpoints: Arc<Endpoints>) -> Self {
        let options = endpoints.options();
        let started = Instant::from_std(now());
        let id = Uuid::new_v4().to_string();
        let state = State::new(id, options.timeout, options.joined_calls_max, started);
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            permits: Semaphore::new(PUBLISHER_BYTES_MAX),
            work: Notify::new(),
            pending: Notify::new(),
            interrupt: Notify::new(),
            timeout: options.timeout,
        });
        spawn(driver::drive(shared.clone(), endpoints));
        Self { handle: Arc::new(Handle(shared)) }
    }

    /// Publishes one event and waits for its receipt. Concurrent publishes are joined into calls.
    ///
    /// # Errors
    /// What the hub refuses; `NO_LEADER`, `UNREACHABLE` and the like when the timeout passed
    /// without the event being accepted; `OUTCOME_UNKNOWN` when it is open whether it was.
    pub async fn publish(
        &self,
        topic: impl AsRef<str>,
        event: Event,
    ) -> Result<Receipt, Rejection> {
        self.publish_encoded(topic, event.encode_to_vec().into()).await
    }

    /// The same, with an event that is encoded already.
    ///
    /// # Errors
    /// See [`Publisher::publish`].
    pub async fn publish_encoded(
        &self,
        topic: impl AsRef<str>,
        event: Bytes,
    ) -> Result<Receipt, Rejection> {
        let deadline = self.deadline();
        check_size(event.len(), 1)?;
        self.admit(weight(event.len(), 1), deadline).await?;
        let shared: &Shared = &self.handle.0;
        let wait = Wait::new(shared, |waker| {
            shared.enqueue(waker, |state, slot| {
                state.push(topic.as_ref(), Item { event, expectation: None, slot, deadline });
            })
        });
        one(wait.await)
    }

    /// Takes one event, in the order of the calls to this function; its receipt comes later. Waits
    /// only while the publisher is full.
    ///
    /// # Errors
    /// See [`Publisher::publish`].
    pub async fn submit(&self, topic: impl AsRef<str>, event: Bytes) -> Result<Pending, Rejection> {
        let deadline = self.deadline();
        check_size(event.len(), 1)?;
        self.admit(weight(event.len(), 1), deadline).await?;
        let shared = &self.handle.0;
        let slot = shared.enqueue(None, |state, slot| {
            state.push(topic.as_ref(), Item { event, expectation: None, slot, deadline });
        });
        Ok(Pending { wait: Wait::enqueued(Arc::clone(shared), slot) })
    }

    /// Publishes 1 to 512 events of at most 1 MiB in all as one call: all or none, if the
    /// expectations hold. One event that expects something of its own key may share a call with
    /// others of its kind.
    ///
    /// # Errors
    /// `VERSION_CONFLICT` and whatever else the hub refuses; see [`Publisher::publish`].
    pub async fn publish_all(
        &self,
        topic: impl AsRef<str>,
        mut events: Vec<Bytes>,
        mut expectations: Vec<KeyExpectation>,
    ) -> Result<PublishResult, Rejection> {
        let deadline = self.deadline();
        let bytes = events.iter().map(Bytes::len).sum();
        check_size(bytes, events.len())?;
        if expectations.len() > CALL_EXPECTATIONS_MAX {
            return Err(too_large(&format!("{} expectations", expectations.len())));
        }
        self.admit(weight(bytes, events.len()), deadline).await?;
        let shared: &Shared = &self.handle.0;
        let joinable = match (&events[..], &expectations[..]) {
            ([event], [expected]) => EventView::parse(event).is_ok_and(|e| e.key == expected.key),
            _ => false,
        };
        let wait = Wait::new(shared, |waker| {
            shared.enqueue(waker, |state, slot| match events.pop() {
                Some(event) if joinable => {
                    let expectation = expectations.pop();
                    state.push(topic.as_ref(), Item { event, expectation, slot, deadline });
                }
                last => {
                    events.extend(last);
                    let waiters = Waiters::Whole(slot);
                    let topic = topic.as_ref().into();
                    state.push_alone(Draft { topic, events, expectations, waiters, deadline });
                }
            })
        });
        match wait.await {
            Answer::One(receipt) => Ok(result_of(receipt)),
            Answer::Many(result) => Ok(*result),
            Answer::Refused(rejection) => Err(*rejection),
        }
    }

    fn deadline(&self) -> Instant {
        Instant::from_std(now()) + self.handle.0.timeout
    }

    /// Takes the permits for events before they are enqueued; they are given back with the answer.
    async fn admit(&self, weight: usize, deadline: Instant) -> Result<(), Rejection> {
        let shared = &self.handle.0;
        let permits = u32::try_from(weight.min(PUBLISHER_BYTES_MAX)).unwrap_or(u32::MAX);
        if let Ok(permit) = shared.permits.try_acquire_many(permits) {
            permit.forget();
            return Ok(());
        }
        match tokio::time::timeout_at(deadline, shared.permits.acquire_many(permits)).await {
            Ok(Ok(permit)) => permit.forget(),
            _ => {
                let last = shared.lock().last_failure();
                return Err(last.unwrap_or_else(|| state::not_sent(shared.timeout)));
            }
        }
        Ok(())
    }
}

/// A submitted event: resolves to its receipt. Dropping it does not take the event back.
pub struct Pending {
    wait: Wait<Arc<Shared>, NeverEnqueue>,
}

type NeverEnqueue = fn(Option<std::task::Waker>) -> SlotId;

impl Future for Pending {
    type Output = Result<Receipt, Rejection>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.wait).poll(cx).map(one)
    }
}

fn one(answer: Answer) -> Result<Receipt, Rejection> {
    match answer {
        Answer::One(receipt) => Ok(receipt),
        Answer::Many(result) => Ok(receipt(&result, 0)),
        Answer::Refused(rejection) => Err(*rejection),
    }
}

/// Enqueues when it is first polled, with the waker, then waits for the answer: two short locks an
/// event.
struct Wait<S: Deref<Target = Shared>, F> {
    shared: S,
    enqueue: Option<F>,
    slot: Option<SlotId>,
}

impl<S: Deref<Target = Shared>, F: FnOnce(Option<std::task::Waker>) -> SlotId> Wait<S, F> {
    fn new(shared: S, enqueue: F) -> Self {
        Self { shared, enqueue: Some(enqueue), slot: None }
    }
}

impl Wait<Arc<Shared>, NeverEnqueue> {
    fn enqueued(shared: Arc<Shared>, slot: SlotId) -> Self {
        Self { shared, enqueue: None, slot: Some(slot) }
    }
}

impl<S: Deref<Target = Shared> + Unpin, F: FnOnce(Option<std::task::Waker>) -> SlotId + Unpin>
    Future for Wait<S, F>
{
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        if let Some(enqueue) = self.enqueue.take() {
            self.slot = Some(enqueue(Some(cx.waker().clone())));
            return Poll::Pending;
        }
        let Some(slot) = self.slot else { return Poll::Pending };
        let answer = std::task::ready!(self.shared.lock().slots.poll(slot, cx.waker()));
        self.slot = None;
        Poll::Ready(answer)
    }
}

impl<S: Deref<Target = Shared>, F> Drop for Wait<S, F> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.shared.lock().slots.abandon(slot);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts something into the queue for a new slot, and wakes whom it concerns.
    fn enqueue(
        &self,
        waker: Option<std::task::Waker>,
        put: impl FnOnce(&mut State, SlotId),
    ) -> SlotId {
        let (slot, sender, was_idle, dead) = {
            let mut state = self.lock();
            let was_idle = !state.is_pending();
            let slot = state.slots.take(waker);
            put(&mut state, slot);
            (slot, state.wake_sender(), was_idle, state.dead)
        };
        if let Some(sender) = sender {
            sender.wake();
        }
        if was_idle {
            self.work.notify_one();
            self.pending.notify_one();
        }
        if dead {
            self.die();
        }
        slot
    }

    fn answer(&self, answer: v1::PublishAnswer) -> Option<Failure> {
        let mut effects = Effects::default();
        let at = Instant::from_std(now());
        let failure = self.lock().answer(answer.call, answer.answer, at, &mut effects);
        self.carry_out(effects);
        failure
    }

    fn carry_out(&self, effects: Effects) {
        if effects.freed > 0 {
            self.permits.add_permits(effects.freed);
        }
        for waker in effects.wakers {
            waker.wake();
        }
        if effects.drained {
            self.interrupt.notify_one();
        }
    }

    /// Waits for something to send; false when there will never be anything.
    async fn work(&self) -> bool {
        loop {
            {
                let state = self.lock();
                if state.is_pending() {
                    return true;
                }
                if state.is_closed() {
                    return false;
                }
            }
            self.work.notified().await;
        }
    }

    /// Waits until anything is pending.
    async fn anything(&self) {
        while !self.lock().is_pending() {
            self.pending.notified().await;
        }
    }

    async fn interrupted(&self) -> Interruption {
        self.interrupt.notified().await;
        if self.lock().is_pending() { Interruption::Stalled } else { Interruption::Drained }
    }

    fn interrupt(&self) {
        self.interrupt.notify_one();
    }

    /// The driver is gone: nobody is left waiting.
    fn die(&self) {
        let effects = {
            let mut state = self.lock();
            state.dead = true;
            state.give_up(&driver::stopped())
        };
        self.carry_out(effects);
    }
}

/// The receipt of one event as the result of a call with just that event.
fn result_of(receipt: Receipt) -> PublishResult {
    let Receipt { offset, position, key_version, duplicate } = receipt;
    PublishResult {
        first_offset: offset,
        first_position: position,
        count: 1,
        duplicate,
        key_versions: if key_version > 0 { vec![key_version] } else { Vec::new() },
        receipts: if duplicate {
            vec![v1::Receipt { offset, position, duplicate }]
        } else {
            Vec::new()
        },
    }
}

fn check_size(bytes: usize, count: usize) -> Result<(), Rejection> {
    if count == 0 {
        return Err(Rejection::new(
            Reason::InvalidRequest,
            "a call without events; give at least one",
        ));
    }
    if count > CALL_EVENTS_MAX {
        return Err(too_large(&format!("{count} events")));
    }
    if bytes > CALL_BYTES_MAX {
        return Err(too_large(&format!("{bytes} bytes")));
    }
    Ok(())
}

fn too_large(what: &str) -> Rejection {
    let message = format!(
        "a call with {what} is over the bound of {CALL_EVENTS_MAX} events or expectations and \
         {CALL_BYTES_MAX} bytes; split it"
    );
    Rejection::new(Reason::CallTooLarge, message)
}
