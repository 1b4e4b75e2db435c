//! Reading a stream of events through breaks and changes of leader, without gaps or repetitions.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tonic::Streaming;

use super::Repeat;
use super::link::{Link, backoff, describe, may_repeat};
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

/// A range of events that is being read.
#[derive(Debug)]
pub struct Reader {
    link: Arc<Link>,
    kind: Kind,
    /// The request for what is still to come.
    rest: ReadRequest,
    stream: Option<Streaming<ReadResponse>>,
    asked: String,
    done: bool,
}

impl Reader {
    pub(super) fn read(link: Arc<Link>, request: ReadRequest) -> Self {
        Self::new(link, request, Kind::Read)
    }

    pub(super) fn tail(link: Arc<Link>, request: ReadRequest) -> Self {
        Self::new(link, request, Kind::Tail)
    }

    fn new(link: Arc<Link>, request: ReadRequest, kind: Kind) -> Self {
        Self { link, kind, rest: request, stream: None, asked: String::new(), done: false }
    }

    /// The next part; `None` at the end, which a tail never reaches unless it has a limit.
    ///
    /// # Errors
    /// What the hub refuses, and the last trouble when no node answered for as long as a call may
    /// take.
    pub async fn next(&mut self) -> Result<Option<ReadPart>, Rejection> {
        let mut waits = backoff();
        let mut deadline = self.link.deadline();
        loop {
            if self.done {
                return Ok(None);
            }
            let rejection = match self.step().await {
                Ok(Some(part)) => return Ok(Some(part)),
                // A part without events: the hub lives, and so does this read.
                Ok(None) => {
                    deadline = self.link.deadline();
                    continue;
                }
                Err(rejection) => rejection,
            };
            self.stream = None;
            if !may_repeat(rejection.reason, Repeat::Safe) {
                self.done = true;
                return Err(rejection);
            }
            let turned = self.link.turn(&self.asked, &rejection);
            let wait = if turned { Duration::ZERO } else { waits.next().unwrap_or_default() };
            if now() + wait >= deadline {
                return Err(rejection);
            }
            tokio::time::sleep(wait).await;
        }
    }

    async fn step(&mut self) -> Result<Option<ReadPart>, Rejection> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.open().await?,
        };
        match stream.message().await {
            Ok(Some(answer)) => {
                self.stream = Some(stream);
                self.take(answer)
            }
            Ok(None) if self.kind == Kind::Read => Err(broken(&self.asked)),
            Ok(None) => Err(broken(&self.asked)),
            Err(status) => Err(describe(&status, &self.asked)),
        }
    }

    async fn open(&mut self) -> Result<Streaming<ReadResponse>, Rejection> {
        self.asked = self.link.current();
        let channel = self.link.channel(&self.asked)?;
        let mut client = EventsClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
        let request = self.rest.clone();
        let opening = async {
            match self.kind {
                Kind::Read => client.read(request).await,
                Kind::Tail => client.tail(request).await,
            }
        };
        match tokio::time::timeout_at(self.link.deadline().into(), opening).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(describe(&status, &self.asked)),
            Err(_) => Err(broken(&self.asked)),
        }
    }

    /// Moves the cursor past an answer.
    fn take(&mut self, answer: ReadResponse) -> Result<Option<ReadPart>, Rejection> {
        let decoded: Result<Vec<EventBatch>, _> =
            answer.batches.into_iter().map(EventBatch::decode).collect();
        let batches = decoded.map_err(|error| {
            Rejection::new(
                Reason::Internal,
                format!("{} sent a malformed batch: {error}", self.asked),
            )
        })?;
        let events: u64 = batches.iter().map(|batch| batch.events.len() as u64).sum();
        let bytes: usize = batches.iter().map(EventBatch::encoded_len).sum();
        self.rest.from = Some(if self.rest.topic.is_empty() {
            From::Position(answer.next)
        } else {
            From::Offset(answer.next)
        });
        self.done = answer.at_end;
        for (bound, used) in
            [(&mut self.rest.limit, events), (&mut self.rest.max_bytes, bytes as u64)]
        {
            if *bound > 0 {
                *bound = bound.saturating_sub(used);
                self.done |= *bound == 0;
            }
        }
        if batches.is_empty() {
            return Ok(None);
        }
        let applied_position = answer.applied_position;
        Ok(Some(ReadPart { batches, applied_position, next: answer.next }))
    }
}

fn broken(endpoint: &str) -> Rejection {
    Rejection::new(
        Reason::NoLeader,
        format!("the stream from {endpoint} broke off; check that the node runs"),
    )
}
