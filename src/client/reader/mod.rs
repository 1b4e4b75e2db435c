//! Reading a stream of events through breaks and changes of leader, without gaps or repetitions.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::endpoints::{Endpoints, Target};
use super::retry::{Attempts, Failure, Repeat, Route, Verdict};
use super::spawn::now;
use crate::model::rejection::{Reason, Rejection};
use crate::proto::v1::events_client::EventsClient;
use crate::proto::v1::read_request::From;
use crate::proto::v1::{EventBatch, ReadRequest, ReadResponse};

const ANSWER_BYTES_MAX: usize = 8 << 20;

/// A bit of what is read.
#[derive(Clone, Debug)]
pub struct ReadPart {
    /// Batches with their events, still encoded; newest first when reading backward.
    pub batches: Vec<EventBatch>,
    /// How far the answering node has applied.
    pub applied_position: u64,
    /// Where to go on: an offset, or a position when the whole hub is read.
    pub next: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Tail,
}

/// A range of events that is being read. After a failure it goes on where it was, at whichever
/// node answers.
#[derive(Debug)]
pub struct Reader {
    endpoints: Arc<Endpoints>,
    kind: Kind,
    /// The request for what is still to come.
    rest: ReadRequest,
    open: Option<(Target, Streaming<ReadResponse>)>,
    /// What has to come next, once that is known: an offset, of the whole hub a position.
    expected: Option<u64>,
    done: bool,
}

/// What an attempt to get an answer led to.
enum Step {
    Answer(ReadResponse),
    Ended,
    Failed {
        target: Target,
        failure: Failure,
        /// The stream had answered before.
        was_open: bool,
    },
}

impl Reader {
    pub(super) fn read(endpoints: Arc<Endpoints>, request: ReadRequest) -> Self {
        Self::new(endpoints, request, Kind::Read)
    }

    pub(super) fn tail(endpoints: Arc<Endpoints>, request: ReadRequest) -> Self {
        Self::new(endpoints, ReadRequest { backward: false, ..request }, Kind::Tail)
    }

    fn new(endpoints: Arc<Endpoints>, rest: ReadRequest, kind: Kind) -> Self {
        Self { endpoints, kind, rest, open: None, expected: None, done: false }
    }

    /// The next part; `None` at the end, which a tail never reaches unless it has a limit. May be
    /// dropped and called again without losing anything.
    ///
    /// # Errors
    /// What the hub refuses, and the last trouble when no node answered for as long as a call may
    /// take.
    pub async fn next(&mut self) -> Result<Option<ReadPart>, Rejection> {
        while !self.done {
            let Some(answer) = self.answer().await? else { break };
            let part = self.accept(answer)?;
            if !part.batches.is_empty() {
                return Ok(Some(part));
            }
        }
        self.done = true;
        Ok(None)
    }

    /// The next answer of whichever node gives one.
    async fn answer(&mut self) -> Result<Option<ReadResponse>, Rejection> {
        let endpoints = Arc::clone(&self.endpoints);
        let timeout = endpoints.options().timeout;
        let mut deadline = Instant::from_std(now()) + timeout;
        let mut attempts = Attempts::new(&endpoints, Repeat::Read);
        let mut hinted = None;
        loop {
            let (target, mut failure) = match self.step(hinted.take(), timeout).await? {
                Step::Answer(answer) => return Ok(Some(answer)),
                Step::Ended => return Ok(None),
                Step::Failed { target, failure, was_open } => {
                    if was_open {
                        deadline = Instant::from_std(now()) + timeout;
                        attempts.refresh();
                    }
                    (target, failure)
                }
            };
            self.open = None;
            if self.expected.is_some() && failure.rejection.reason == Reason::BeyondEnd {
                // Another node was ahead of this one, which has still to apply what was read.
                failure.verdict = Verdict::PassOver;
            }
            if failure.verdict == Verdict::Final {
                self.done = true;
                return Err(failure.rejection);
            }
            hinted = attempts.next(&target, &failure);
            attempts.pause(failure, deadline).await?;
        }
    }

    /// One answer, opening the stream first where needed.
    async fn step(&mut self, hinted: Option<Route>, timeout: Duration) -> Result<Step, Rejection> {
        let was_open = self.open.is_some();
        if !was_open {
            let target = self.endpoints.route(hinted.unwrap_or(Route::Any))?;
            match self.start(&target, timeout).await {
                Ok(stream) => self.open = Some((target, stream)),
                Err(failure) => return Ok(Step::Failed { target, failure, was_open }),
            }
        }
        let Some((target, stream)) = &mut self.open else { return Ok(Step::Ended) };
        let answer = match self.kind {
            // A tail may wait for long; keepalive finds out when the node is gone.
            Kind::Tail => Ok(stream.message().await),
            Kind::Read => tokio::time::timeout(timeout, stream.message()).await,
        };
        let failure = match answer {
            Ok(Ok(Some(answer))) => return Ok(Step::Answer(answer)),
            // Only a whole read says that it is at its end; anything less is a break.
            Ok(Ok(None)) => Failure::of_rejection(Rejection::new(
                Reason::ShuttingDown,
                format!("{} ended the stream; read on at another node", target.address),
            )),
            Ok(Err(status)) => Failure::of_status(&status, target),
            Err(_) => Failure::silent(target, timeout),
        };
        Ok(Step::Failed { target: target.clone(), failure, was_open })
    }

    async fn start(
        &mut self,
        target: &Target,
        timeout: Duration,
    ) -> Result<Streaming<ReadResponse>, Failure> {
        let mut client =
            EventsClient::new(target.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
        let opening = async {
            if self.kind == Kind::Read {
                return client.read(self.rest.clone()).await;
            }
            if matches!(self.rest.from, Some(From::End(_))) {
                self.pin_end(&mut client).await?;
            }
            client.tail(self.rest.clone()).await
        };
        match tokio::time::timeout(timeout, opening).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Failure::of_status(&status, target)),
            Err(_) => Err(Failure::silent(target, timeout)),
        }
    }

    /// Turns "the end" into the place where it is now, so that a break before the first event
    /// skips nothing.
    async fn pin_end(
        &mut self,
        client: &mut EventsClient<tonic::transport::Channel>,
    ) -> Result<(), Status> {
        let mut end = client.read(self.rest.clone()).await?.into_inner();
        if let Some(last) = end.message().await? {
            self.go_on_from(last.next);
        }
        Ok(())
    }

    /// Reads on from a place, which nodes have got to already: one that has not is passed over.
    pub(super) fn go_on_from(&mut self, place: u64) {
        let hub = self.rest.topic.is_empty();
        self.rest.from = Some(if hub { From::Position(place) } else { From::Offset(place) });
        self.expected = Some(place);
    }

    /// Checks that an answer follows the one before it, and moves the cursor past it.
    fn accept(&mut self, answer: ReadResponse) -> Result<ReadPart, Rejection> {
        let mut bytes = 0;
        let mut batches = Vec::with_capacity(answer.batches.len());
        for encoded in answer.batches {
            bytes += encoded.len() as u64;
            let batch = EventBatch::decode(encoded).map_err(|error| {
                let why = format!("the hub sent a malformed batch ({error}); check its version");
                Rejection::new(Reason::Internal, why)
            })?;
            self.follow(&batch)?;
            batches.push(batch);
        }
        let events = batches.iter().map(|batch| batch.events.len() as u64).sum();
        if !self.rest.backward {
            self.go_on_from(answer.next);
        }
        self.done |= answer.at_end;
        for (bound, used) in [(&mut self.rest.limit, events), (&mut self.rest.max_bytes, bytes)] {
            if *bound > 0 {
                *bound = bound.saturating_sub(used);
                self.done |= *bound == 0;
            }
        }
        let applied_position = answer.applied_position;
        Ok(ReadPart { batches, applied_position, next: answer.next })
    }

    fn follow(&mut self, batch: &EventBatch) -> Result<(), Rejection> {
        let hub = self.rest.topic.is_empty();
        let first = if hub { batch.first_position } else { batch.first_offset };
        let count = batch.events.len() as u64;
        if self.rest.backward {
            match first.checked_sub(1) {
                Some(next) => self.go_on_from(next),
                None => self.done = true,
            }
            return Ok(());
        }
        // The positions of a deleted topic are gone: in the hub's order a gap is no fault.
        let follows = self.expected.is_none_or(|next| first == next || (hub && first > next));
        if !follows {
            let next = self.expected.unwrap_or_default();
            let why = format!("reading was to go on at {next} and went on at {first}; read again");
            return Err(Rejection::new(Reason::Internal, why)
                .with("expected", next)
                .with("actual", first));
        }
        self.expected = Some(first + count);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
