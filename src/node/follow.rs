//! Streams of events: a range, or a range and then everything that follows it.
//!
//! A stream is a cursor. Each bit is read from storage when the reader has room for it, so that a
//! slow reader costs no memory; the cursor alone decides what comes next, so that nothing is
//! skipped or repeated.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::Node;
use super::pace::Pace;
use super::query::{Consistency, From};
use crate::machine::kv::Order;
use crate::machine::query::{self, Bounds, Chunk};
use crate::model::ids::{Offset, Position};
use crate::model::limits::{OVERLOADED_RETRY_MS, READ_CHUNK_BYTES, READ_CHUNKS_QUEUED};
use crate::model::name::TopicName;
use crate::model::rejection::{Reason, Rejection};
use crate::runtime::{clock, tasks};

/// A range of events to read.
#[derive(Clone, Debug)]
pub struct ReadPlan {
    /// `None`: the whole hub.
    pub topic: Option<TopicName>,
    /// Where to begin.
    pub from: From,
    /// Upwards or downwards.
    pub order: Order,
    /// At most so many events; `None`: no bound.
    pub events_max: Option<u64>,
    /// At most about so many bytes; `None`: no bound.
    pub bytes_max: Option<u64>,
    /// How fresh.
    pub consistency: Consistency,
    /// What to do at the end.
    pub at_end: AtEnd,
}

/// What a stream does at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtEnd {
    /// It ends.
    Stop,
    /// It waits for more.
    Follow,
}

/// A bit of a stream.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// Encoded `EventBatch`es.
    pub batches: Vec<Bytes>,
    /// The next position to be given out, as far as this node has applied.
    pub applied: Position,
    /// Where to go on.
    pub next: u64,
    /// Nothing more was there.
    pub at_end: bool,
}

/// The parts of a stream, as they are read.
pub type Parts = mpsc::Receiver<Result<Part, Rejection>>;

impl Node {
    /// Begins a stream.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`, `BEYOND_END`, `OVERLOADED` when too many streams are open, and those of
    /// [`Node::fresh`].
    pub async fn stream(self: &Arc<Self>, plan: ReadPlan) -> Result<Parts, Rejection> {
        let permit = Arc::clone(&self.reads).try_acquire_owned().map_err(|_| {
            Rejection::new(
                Reason::Overloaded,
                "too many streams are open on this node; ask another node, or try again later",
            )
            .retry_after_ms(OVERLOADED_RETRY_MS)
        })?;
        self.fresh(plan.consistency, self.deadline()).await?;
        let start = self.resolve(&plan).await?;
        let (sender, parts) = mpsc::channel(READ_CHUNKS_QUEUED);
        let Some(start) = start else {
            let applied = self.applied_position();
            let nothing = Part { applied, at_end: true, ..Part::default() };
            // The channel is new and has room.
            drop(sender.try_send(Ok(nothing)));
            return Ok(parts);
        };
        let (node, pace) = (Arc::clone(self), Pace::default());
        let cursor = Cursor { node, plan, next: start, events: 0, bytes: 0, pace };
        tasks::spawn("stream", async move {
            cursor.run(&sender).await;
            drop(permit);
        });
        Ok(parts)
    }

    /// The first offset (or position) to read; `None` when there is nothing downwards.
    async fn resolve(&self, plan: &ReadPlan) -> Result<Option<u64>, Rejection> {
        let backward = plan.order == Order::Descending;
        let (what, first, end, start) = match &plan.topic {
            Some(name) => {
                let info = self.known_topic(name.as_str()).await?;
                let (first, end) = (info.first_offset.get(), info.next_offset.get());
                let start = match plan.from {
                    From::Start => first,
                    From::End => end,
                    From::Offset(offset) => offset.get(),
                    From::Position(position) => self
                        .read(move |db| query::offset_of_position(db, &info, position))
                        .await?
                        .get(),
                    From::Time(instant) => {
                        self.read(move |db| query::offset_of_time(db, &info, instant)).await?.get()
                    }
                };
                ("offset", first, end, start)
            }
            None => {
                let end = self.read(|view| query::next_position(view)).await?.get();
                let start = match plan.from {
                    From::Start => 0,
                    From::End => end,
                    From::Position(position) => position.get(),
                    From::Offset(_) => {
                        return Err(Rejection::new(
                            Reason::InvalidRequest,
                            "the whole hub has no offsets; read it from a position, or name a topic",
                        ));
                    }
                    From::Time(instant) => {
                        self.read(move |db| query::position_of_time(db, instant)).await?.get()
                    }
                };
                ("position", 0, end, start)
            }
        };
        if start > end {
            return Err(Rejection::new(
                Reason::BeyondEnd,
                format!("{what} {start} is beyond the end, which is {end}; read from end, or from a smaller {what}"),
            )
            .with("next", end));
        }
        if backward && start == end {
            return Ok(if end > first { Some(end - 1) } else { None });
        }
        Ok(Some(start))
    }
}

struct Cursor {
    node: Arc<Node>,
    plan: ReadPlan,
    next: u64,
    events: u64,
    bytes: u64,
    pace: Pace,
}

impl Cursor {
    async fn run(mut self, parts: &mpsc::Sender<Result<Part, Rejection>>) {
        loop {
            // A reader that went away is noticed before anything is read for it.
            let Ok(slot) = parts.reserve().await else { return };
            let applied = self.node.raft.applied();
            let (seen, began) = (*applied.borrow(), clock::now());
            let mut part = match self.read().await {
                Ok(chunk) => self.advance(chunk),
                Err(rejection) => {
                    slot.send(Err(rejection));
                    return;
                }
            };
            let caught_up = part.at_end;
            // To its reader, a stream that waits for more has no end.
            part.at_end = caught_up && self.plan.at_end == AtEnd::Stop;
            if part.at_end {
                slot.send(Ok(part));
                return;
            }
            let bytes = part.batches.iter().map(Bytes::len).sum();
            if !part.batches.is_empty() {
                slot.send(Ok(part));
            }
            if !caught_up {
                self.rest(bytes, began).await;
            }
            if caught_up && !self.wait_beyond(seen.index, parts).await {
                return;
            }
        }
    }

    /// Leaves the node to its writes, after so many bytes that were read from `began` on.
    async fn rest(&mut self, bytes: usize, began: Instant) {
        let pace = self.node.writes.pace(self.node.raft.applied_bytes(), clock::now());
        if let Some(next) = self.pace.next(bytes, began, pace) {
            tokio::time::sleep_until(next.into()).await;
        }
    }

    fn bounds(&self) -> Bounds {
        let rest =
            |max: Option<u64>, used: u64| max.map_or(u64::MAX, |max| max.saturating_sub(used));
        let bytes = usize::try_from(rest(self.plan.bytes_max, self.bytes)).unwrap_or(usize::MAX);
        Bounds {
            events: rest(self.plan.events_max, self.events).max(1),
            bytes: bytes.clamp(1, READ_CHUNK_BYTES),
        }
    }

    async fn read(&self) -> Result<Chunk, Rejection> {
        let (bounds, next, order) = (self.bounds(), self.next, self.plan.order);
        match &self.plan.topic {
            Some(name) => {
                let wanted = name.to_string();
                let chunk = self.node.read(move |db| {
                    let Some(info) = query::topic(db, &wanted)? else { return Ok(None) };
                    query::read_topic(db, &info, Offset(next), order, bounds).map(Some)
                });
                chunk.await?.ok_or_else(|| crate::machine::topic::record::not_found(name.as_str()))
            }
            None => {
                self.node.read(move |db| query::read_hub(db, Position(next), order, bounds)).await
            }
        }
    }

    fn advance(&mut self, chunk: Chunk) -> Part {
        self.next = chunk.next;
        self.events += chunk.events;
        self.bytes += chunk.bytes as u64;
        let full = self.plan.events_max.is_some_and(|max| self.events >= max)
            || self.plan.bytes_max.is_some_and(|max| self.bytes >= max);
        if full {
            self.plan.at_end = AtEnd::Stop;
        }
        Part {
            batches: chunk.batches,
            applied: self.node.applied_position(),
            next: chunk.next,
            at_end: chunk.at_end || full,
        }
    }

    /// Waits until something was applied after `seen`; false when the reader or the node goes.
    async fn wait_beyond(
        &self,
        seen: crate::model::ids::LogIndex,
        parts: &mpsc::Sender<Result<Part, Rejection>>,
    ) -> bool {
        let mut applied = self.node.raft.applied();
        tokio::select! {
            changed = applied.wait_for(|mark| mark.index > seen) => changed.is_ok(),
            () = parts.closed() => false,
            () = self.node.shutdown.wait() => {
                let stopping = "the node is stopping; go on from the last event on another node";
                // Best effort: the reader also sees the stream end.
                drop(parts.try_send(Err(Rejection::new(Reason::ShuttingDown, stopping))));
                false
            }
        }
    }
}
