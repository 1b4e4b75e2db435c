//! The task behind a publisher: one stream, a window of calls, and their repetition.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::Repeat;
use super::link::{Link, backoff, describe, may_repeat};
use super::publisher::{CallItem, Item, Receipt, receipt};
use super::spawn::now;
use crate::model::limits::CALL_EVENTS_MAX;
use crate::model::rejection::{Reason, Rejection};
use crate::proto::status::from_call_error;
use crate::proto::v1::events_client::EventsClient;
use crate::proto::v1::publish_answer::Answer;
use crate::proto::v1::{ProducerRef, PublishAnswer, PublishCall, PublishResult};

/// Calls of coalesced events on their way at once: few and large costs least.
const COALESCED_IN_FLIGHT_MAX: usize = 4;
/// Bytes of the events that are coalesced into one call.
const COALESCED_BYTES_MAX: usize = 256 << 10;
/// Calls on their way at once; below what the hub holds per stream and remembers per producer.
const CALLS_IN_FLIGHT_MAX: usize = 512;
/// Single events that wait for a call.
const WAITING_MAX: usize = 8192;
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(100);

type Single = (Bytes, oneshot::Sender<Result<Receipt, Rejection>>);

/// Whom the answer to a call is for.
enum Waiter {
    One(oneshot::Sender<Result<PublishResult, Rejection>>),
    Many(Vec<oneshot::Sender<Result<Receipt, Rejection>>>),
}

struct InFlight {
    call: PublishCall,
    waiter: Waiter,
    deadline: Instant,
}

/// Single events for one topic that wait for a call.
struct Queue {
    topic: Arc<str>,
    singles: VecDeque<Single>,
}

struct Connection {
    calls: mpsc::Sender<PublishCall>,
    answers: Streaming<PublishAnswer>,
}

pub(super) struct Task {
    link: Arc<Link>,
    inbox: mpsc::Receiver<Item>,
    producer: String,
    next_sequence: u64,
    in_flight: BTreeMap<u64, InFlight>,
    coalesced_in_flight: usize,
    singles: VecDeque<Queue>,
    singles_waiting: usize,
    calls: VecDeque<Box<CallItem>>,
    asked: String,
}

impl Task {
    pub(super) fn new(link: Arc<Link>, inbox: mpsc::Receiver<Item>) -> Self {
        Self {
            link,
            inbox,
            producer: uuid::Uuid::new_v4().to_string(),
            next_sequence: 1,
            in_flight: BTreeMap::new(),
            coalesced_in_flight: 0,
            singles: VecDeque::new(),
            singles_waiting: 0,
            calls: VecDeque::new(),
            asked: String::new(),
        }
    }

    /// Runs until all publishers are dropped and everything is answered.
    pub(super) async fn run(mut self) {
        let mut waits = backoff();
        loop {
            if self.in_flight.is_empty() && !self.await_work().await {
                return;
            }
            let trouble = match self.connect().await {
                Ok(connection) => {
                    waits = backoff();
                    match self.serve(connection).await {
                        Ok(()) => return,
                        Err(trouble) => trouble,
                    }
                }
                Err(trouble) => trouble,
            };
            self.fail_expired(&trouble);
            if !self.link.turn(&self.asked, &trouble) {
                tokio::time::sleep(waits.next().unwrap_or(TICK)).await;
            }
        }
    }

    /// Waits for the first item; false when there will be none.
    async fn await_work(&mut self) -> bool {
        if self.singles_waiting > 0 || !self.calls.is_empty() {
            return true;
        }
        match self.inbox.recv().await {
            Some(item) => {
                self.enqueue(item);
                true
            }
            None => false,
        }
    }

    async fn connect(&mut self) -> Result<Connection, Rejection> {
        self.asked = self.link.current();
        let channel = self.link.channel(&self.asked)?;
        let (calls, outbound) = mpsc::channel(CALLS_IN_FLIGHT_MAX * 2);
        let mut client = EventsClient::new(channel);
        let opening = client.publish_stream(ReceiverStream::new(outbound));
        let patience = self.link.options.connect_timeout;
        let answers = match tokio::time::timeout(patience, opening).await {
            Ok(Ok(answers)) => answers.into_inner(),
            Ok(Err(status)) => return Err(describe(&status, &self.asked)),
            Err(_) => return Err(broken(&self.asked)),
        };
        // What is not answered goes first, in order, with the sequences that it had.
        for waiting in self.in_flight.values() {
            calls.try_send(waiting.call.clone()).map_err(|_| broken(&self.asked))?;
        }
        Ok(Connection { calls, answers })
    }

    /// Works on one connection. `Ok` when there is nothing left to do, ever.
    async fn serve(&mut self, mut connection: Connection) -> Result<(), Rejection> {
        let mut ticks = tokio::time::interval(TICK);
        let mut items = Vec::new();
        let mut open = true;
        loop {
            self.send(&connection.calls)?;
            let idle =
                self.in_flight.is_empty() && self.singles_waiting == 0 && self.calls.is_empty();
            if !open && idle {
                return Ok(());
            }
            let room = self.singles_waiting < WAITING_MAX && self.calls.len() < CALLS_IN_FLIGHT_MAX;
            tokio::select! {
                answer = connection.answers.message() => match answer {
                    Ok(Some(answer)) => self.settle(answer)?,
                    Ok(None) => return Err(broken(&self.asked)),
                    Err(status) => return Err(describe(&status, &self.asked)),
                },
                count = self.inbox.recv_many(&mut items, CALL_EVENTS_MAX), if open && room => {
                    open = count > 0;
                    items.drain(..).for_each(|item| self.enqueue(item));
                }
                _ = ticks.tick() => self.fail_expired(&broken(&self.asked)),
            }
        }
    }

    fn enqueue(&mut self, item: Item) {
        match item {
            Item::Call(call) => self.calls.push_back(call),
            Item::Single { topic, event, answer } => {
                self.singles_waiting += 1;
                match self.singles.iter_mut().find(|queue| queue.topic == topic) {
                    Some(queue) => queue.singles.push_back((event, answer)),
                    None => {
                        self.singles.push_back(Queue { topic, singles: [(event, answer)].into() })
                    }
                }
            }
        }
    }

    /// Puts as much on its way as there is room for.
    fn send(&mut self, calls: &mpsc::Sender<PublishCall>) -> Result<(), Rejection> {
        while self.in_flight.len() < CALLS_IN_FLIGHT_MAX {
            let started =
                if self.coalesced_in_flight < COALESCED_IN_FLIGHT_MAX && self.singles_waiting > 0 {
                    self.coalesce()
                } else if let Some(call) = self.calls.pop_front() {
                    let CallItem { topic, events, expectations, answer } = *call;
                    let call = PublishCall {
                        topic: topic.to_string(),
                        events,
                        expectations,
                        ..PublishCall::default()
                    };
                    self.begin(call, Waiter::One(answer))
                } else {
                    return Ok(());
                };
            calls.try_send(started).map_err(|_| broken(&self.asked))?;
        }
        Ok(())
    }

    /// A call of the single events that wait for one topic.
    fn coalesce(&mut self) -> PublishCall {
        let Some(mut queue) = self.singles.pop_front() else { return PublishCall::default() };
        let (mut events, mut waiters, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some((event, _)) = queue.singles.front() {
            let full = events.len() >= CALL_EVENTS_MAX || bytes + event.len() > COALESCED_BYTES_MAX;
            if full && !events.is_empty() {
                break;
            }
            bytes += event.len();
            if let Some((event, waiter)) = queue.singles.pop_front() {
                events.push(event);
                waiters.push(waiter);
            }
        }
        self.singles_waiting -= events.len();
        let topic = queue.topic.to_string();
        if !queue.singles.is_empty() {
            // Behind the others, so that no topic starves.
            self.singles.push_back(queue);
        }
        self.coalesced_in_flight += 1;
        self.begin(PublishCall { topic, events, ..PublishCall::default() }, Waiter::Many(waiters))
    }

    fn begin(&mut self, mut call: PublishCall, waiter: Waiter) -> PublishCall {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        call.call = sequence;
        call.producer = Some(ProducerRef {
            id: self.producer.clone(),
            epoch: 1,
            sequence,
            acknowledged_below: self.in_flight.keys().next().copied().unwrap_or(sequence),
        });
        let in_flight = InFlight { call: call.clone(), waiter, deadline: self.link.deadline() };
        self.in_flight.insert(sequence, in_flight);
        call
    }

    /// Takes an answer. `Err` when the connection is of no use any more.
    fn settle(&mut self, answer: PublishAnswer) -> Result<(), Rejection> {
        let rejection = match answer.answer {
            Some(Answer::Result(result)) => {
                if let Some(done) = self.remove(answer.call) {
                    succeed(done.waiter, result);
                }
                return Ok(());
            }
            Some(Answer::Error(error)) => from_call_error(error),
            None => Rejection::new(Reason::Internal, "an answer without content"),
        };
        if may_repeat(rejection.reason, Repeat::Safe) {
            // The call stays in flight and goes out again on the next connection.
            return Err(rejection);
        }
        let Some(refused) = self.remove(answer.call) else { return Ok(()) };
        match refused.waiter {
            Waiter::One(answer) => drop(answer.send(Err(rejection))),
            Waiter::Many(waiters) if waiters.len() == 1 => fail_all(waiters, &rejection),
            // One of them is to blame: each goes alone, and only that one fails.
            Waiter::Many(waiters) => {
                let topic: Arc<str> = refused.call.topic.into();
                for (event, waiter) in refused.call.events.into_iter().zip(waiters) {
                    self.calls.push_back(Box::new(CallItem {
                        topic: Arc::clone(&topic),
                        events: vec![event],
                        expectations: Vec::new(),
                        answer: forward(waiter),
                    }));
                }
            }
        }
        Ok(())
    }

    fn remove(&mut self, sequence: u64) -> Option<InFlight> {
        let removed = self.in_flight.remove(&sequence)?;
        self.coalesced_in_flight -= usize::from(matches!(removed.waiter, Waiter::Many(_)));
        Some(removed)
    }

    fn fail_expired(&mut self, trouble: &Rejection) {
        let now = now();
        let expired: Vec<u64> =
            self.in_flight.iter().filter(|(_, f)| f.deadline <= now).map(|(s, _)| *s).collect();
        for sequence in expired {
            let Some(failed) = self.remove(sequence) else { continue };
            let rejection = Rejection::new(
                Reason::OutcomeUnknown,
                format!(
                    "no answer in {:?}, so the outcome is unknown; the last trouble was: {}",
                    self.link.options.timeout, trouble.message
                ),
            );
            match failed.waiter {
                Waiter::One(answer) => drop(answer.send(Err(rejection))),
                Waiter::Many(waiters) => fail_all(waiters, &rejection),
            }
        }
    }
}

fn succeed(waiter: Waiter, result: PublishResult) {
    match waiter {
        // Whoever went away has no use for the answer.
        Waiter::One(answer) => drop(answer.send(Ok(result))),
        Waiter::Many(waiters) => {
            for (index, waiter) in waiters.into_iter().enumerate() {
                drop(waiter.send(Ok(receipt(&result, index))));
            }
        }
    }
}

fn fail_all(waiters: Vec<oneshot::Sender<Result<Receipt, Rejection>>>, rejection: &Rejection) {
    for waiter in waiters {
        drop(waiter.send(Err(rejection.clone())));
    }
}

/// Lets the answer to a call of one event reach whoever waits for that event's receipt.
fn forward(
    waiter: oneshot::Sender<Result<Receipt, Rejection>>,
) -> oneshot::Sender<Result<PublishResult, Rejection>> {
    let (answer, wait) = oneshot::channel::<Result<PublishResult, Rejection>>();
    super::spawn::spawn(async move {
        if let Ok(result) = wait.await {
            drop(waiter.send(result.map(|result| receipt(&result, 0))));
        }
    });
    answer
}

fn broken(endpoint: &str) -> Rejection {
    Rejection::new(Reason::NoLeader, format!("the stream to {endpoint} broke off"))
}
