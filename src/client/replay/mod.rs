//! Playing a range of the log again: any part of it, at a pace, from where it was left off.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::spawn::now;
use super::{Client, ReadPart, Reader, recorded_events};
use crate::model::event::EventView;
use crate::model::filter::Compiled;
use crate::model::rejection::{Reason, Rejection};
use crate::proto::v1::read_options::Consistency::{AtLeastPosition, Stale};
use crate::proto::v1::read_request::From;
use crate::proto::v1::{
    End, GetTopicRequest, ReadOptions, ReadRequest, RecordedEvent, StatusRequest,
};

/// The rest before a node that lags is asked again, or another one in its place.
const LAG: Duration = Duration::from_millis(50);
/// Events that are let out at once at the most, so that a pace is kept evenly.
const BURSTS_PER_S: u64 = 20;

/// Where a replay ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Until {
    /// Where the topic ended when the replay began.
    #[default]
    End,
    /// Before this offset; of the whole hub, this position.
    Place(u64),
    /// Before the first event at or after this position of the hub.
    Position(u64),
    /// Before the first event that was recorded at or after this instant, Unix milliseconds.
    Time(u64),
}

/// Which events of a range.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only those of this key.
    pub key: Option<String>,
    /// Only those with this correlation id.
    pub correlation_id: Option<String>,
    /// Only those that the filter takes.
    pub filter: Option<Compiled>,
}

/// How fast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// As fast as they come.
    #[default]
    Fast,
    /// So many events a second, at least 1.
    Rate(u64),
    /// As far apart as they were recorded, times 1000 / this; at least 1.
    Original {
        /// Thousandths: 2000 is twice as fast.
        speed_milli: u64,
    },
}

/// What to replay.
#[derive(Clone, Debug, Default)]
pub struct ReplayOptions {
    /// The topic; empty: the whole hub, in the order of positions.
    pub topic: String,
    /// Where to begin; `None`: at the first event.
    pub from: Option<From>,
    /// Where to end.
    pub until: Until,
    /// Which of them.
    pub selection: Selection,
    /// How fast.
    pub pace: Pace,
    /// How fresh, also of where the range begins and ends; default linearizable.
    pub options: Option<ReadOptions>,
}

/// Where a replay goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The topic; empty: the whole hub.
    pub topic: String,
    /// Tells it from an earlier topic of this name.
    pub created_at_ms: u64,
    /// The next offset; of the whole hub, position.
    pub next: u64,
}

/// A replay under way. It reads at any node, and goes on at another one when that fails.
#[derive(Debug)]
pub struct Replay {
    client: Client,
    reader: Reader,
    options: Option<ReadOptions>,
    whole_hub: bool,
    until: Until,
    selection: Selection,
    clock: PaceClock,
    /// Chosen, and not let out yet.
    queue: VecDeque<RecordedEvent>,
    cursor: Cursor,
    /// Where the range ends.
    end: u64,
    ended: bool,
    /// Nodes have nothing more of the range yet.
    lag: Option<Lag>,
}

/// That nodes lag: since when, and since when the one that reads are sent to now is asked.
#[derive(Clone, Copy, Debug)]
struct Lag {
    since: Instant,
    asked_since: Instant,
}

impl Replay {
    /// Begins a replay, where the cursor says if there is one.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`; `INVALID_REQUEST` for a cursor of another topic, a pace of zero, and a range whose
    /// end lies before its beginning; `BEYOND_END` for one that begins beyond the end, unless a node may lag that is
    /// asked for what it has: by a cursor, there is nothing to play yet.
    pub async fn begin(
        client: &Client,
        options: ReplayOptions,
        cursor: Option<Cursor>,
    ) -> Result<Self, Rejection> {
        let ReplayOptions { topic, from, until, selection, pace, options } = options;
        let whole_hub = topic.is_empty();
        let (first, end_now, created_at_ms) = if whole_hub {
            (0, hub_end(client, options).await?, 0)
        } else {
            let name = topic.clone();
            let found = client.topic(GetTopicRequest { name, options }).await?;
            (found.first_offset, found.next_offset, found.created_at_ms)
        };
        let range = Range { client, topic: &topic, first, end_now, options };
        if let Some(cursor) = &cursor
            && (cursor.topic != topic || cursor.created_at_ms != created_at_ms)
        {
            let text = format!(
                "the cursor is one of topic {:?}, not of this {topic:?}; begin without it",
                cursor.topic
            );
            return Err(invalid(text));
        }
        let times = (&from, until);
        if let (None, (Some(From::TimeMs(begins)), Until::Time(ends))) = (&cursor, times)
            && ends < *begins
        {
            return Err(invalid(format!("the range ends before {begins}, where it begins")));
        }
        let next = match &cursor {
            Some(cursor) => cursor.next,
            None => range.place(from).await?,
        };
        if next > end_now && !(cursor.is_some() && is_stale(options)) {
            let text = format!("{next} lies beyond {end_now}, the end; begin earlier");
            return Err(Rejection::new(Reason::BeyondEnd, text).with("end", end_now));
        }
        let end = range.end(until).await?;
        if cursor.is_none() && end < next {
            return Err(invalid(format!("the range ends before {next}, where it begins")));
        }
        let options = range.reading();
        let from = Some(if whole_hub { From::Position(next) } else { From::Offset(next) });
        let request = ReadRequest { topic: topic.clone(), from, options, ..Default::default() };
        Ok(Self {
            client: client.clone(),
            reader: client.read(request),
            options,
            whole_hub,
            until,
            selection,
            clock: PaceClock::new(pace)?,
            queue: VecDeque::new(),
            cursor: Cursor { topic, created_at_ms, next },
            end,
            ended: next >= end,
            lag: None,
        })
    }

    /// Where the range ends.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Where to go on after what was let out. Everything before it was let out, or not chosen.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        let waits = self.queue.front().map(|event| self.place(event));
        Cursor { next: waits.unwrap_or(self.cursor.next), ..self.cursor.clone() }
    }

    /// The next events, in order, when it is time for them; `None` at the end.
    ///
    /// # Errors
    /// What the hub refuses, and the last trouble when no node answered, or had more of the range, for as long as
    /// a call may take.
    pub async fn next(&mut self) -> Result<Option<Vec<RecordedEvent>>, Rejection> {
        loop {
            while self.queue.is_empty() {
                if self.ended {
                    return Ok(None);
                }
                match self.reader.next().await? {
                    Some(part) => {
                        self.lag = None;
                        self.take(&part)?;
                    }
                    // A node that lags has not got all of the range yet.
                    None if !self.whole_hub && self.cursor.next < self.end => {
                        self.ask_again().await?
                    }
                    None => self.ended = true,
                }
            }
            match self.clock.due(&self.queue, now()) {
                Ok(count) => return Ok(Some(self.queue.drain(..count).collect())),
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
    }

    /// Reads on after a rest: at the node that lags, and at the next one when that had nothing for too long.
    async fn ask_again(&mut self) -> Result<(), Rejection> {
        let (endpoints, now) = (&self.client.endpoints, now());
        let (timeout, patience) =
            (endpoints.options().timeout, endpoints.options().attempt_timeout);
        let lag = self.lag.get_or_insert(Lag { since: now, asked_since: now });
        if now - lag.since >= timeout {
            let (next, end) = (self.cursor.next, self.end);
            let text = format!(
                "nothing of topic {} came from {next} on within {} ms, though it goes on to {end}; go on from there later, or ask another node",
                self.cursor.topic,
                timeout.as_millis()
            );
            return Err(Rejection::new(Reason::DeadlineExceeded, text).with("next", next));
        }
        if now - lag.asked_since >= patience {
            lag.asked_since = now;
            endpoints.pass_over(&endpoints.reader()?.address);
        }
        tokio::time::sleep(LAG).await;
        let from = Some(From::Offset(self.cursor.next));
        let (topic, options) = (self.cursor.topic.clone(), self.options);
        let request = ReadRequest { topic, from, options, ..Default::default() };
        self.reader = self.client.read(request);
        // One that has even less is passed over as well.
        self.reader.go_on_from(self.cursor.next);
        Ok(())
    }

    fn place(&self, event: &RecordedEvent) -> u64 {
        if self.whole_hub { event.position } else { event.offset }
    }

    fn take(&mut self, part: &ReadPart) -> Result<(), Rejection> {
        for event in part.batches.iter().flat_map(recorded_events) {
            let place = self.place(&event);
            let late = matches!(self.until, Until::Time(until) if event.recorded_at_ms >= until);
            if place >= self.end || late {
                self.ended = true;
                return Ok(());
            }
            self.cursor.next = place + 1;
            if self.selection.takes(&event.event)? {
                self.queue.push_back(event);
            }
        }
        self.ended |= self.cursor.next >= self.end;
        Ok(())
    }
}

/// What a range is part of, as it is when the replay begins.
struct Range<'a> {
    client: &'a Client,
    topic: &'a str,
    first: u64,
    end_now: u64,
    options: Option<ReadOptions>,
}

impl Range<'_> {
    /// The offset (of the whole hub, position) that is meant.
    async fn place(&self, from: Option<From>) -> Result<u64, Rejection> {
        match from {
            None | Some(From::Start(_)) => Ok(self.first),
            Some(From::End(_)) => Ok(self.end_now),
            Some(From::Offset(place)) if !self.topic.is_empty() => Ok(place),
            Some(From::Position(place)) if self.topic.is_empty() => Ok(place),
            Some(from) => self.looked_up(from).await,
        }
    }

    /// Where the first event of the range is; the end if there is none.
    async fn looked_up(&self, from: From) -> Result<u64, Rejection> {
        let (topic, from, options) = (self.topic.to_owned(), Some(from), self.options);
        let request = ReadRequest { topic, from, limit: 1, options, ..Default::default() };
        let part = self.client.read(request).next().await?;
        let first = part.as_ref().and_then(|part| part.batches.first());
        let first = first.map(|batch| match self.topic {
            "" => batch.first_position,
            _ => batch.first_offset,
        });
        Ok(first.map_or(self.end_now, |first| first.min(self.end_now)))
    }

    async fn end(&self, until: Until) -> Result<u64, Rejection> {
        let end = match until {
            Until::Place(place) => place,
            Until::Position(place) => self.place(Some(From::Position(place))).await?,
            Until::End | Until::Time(_) => self.end_now,
        };
        Ok(end.min(self.end_now))
    }

    /// A topic has no gaps, so it shows when a node lags. The whole hub has: whoever is asked for what
    /// it has must have got to the end.
    fn reading(&self) -> Option<ReadOptions> {
        match self.end_now.checked_sub(1) {
            Some(last) if self.topic.is_empty() && is_stale(self.options) => {
                Some(ReadOptions { consistency: Some(AtLeastPosition(last)) })
            }
            _ => self.options,
        }
    }
}

/// Whether a node is asked for what it has.
fn is_stale(options: Option<ReadOptions>) -> bool {
    matches!(options, Some(ReadOptions { consistency: Some(Stale(_)) }))
}

/// Where the whole hub ends, to a node that is as fresh as it is asked to be.
async fn hub_end(client: &Client, options: Option<ReadOptions>) -> Result<u64, Rejection> {
    let from = Some(From::End(End {}));
    let last = ReadRequest { from, backward: true, limit: 1, options, ..Default::default() };
    match client.read(last).next().await? {
        Some(part) => Ok(part.applied_position),
        // There is no event at all.
        None => Ok(client.status(StatusRequest {}).await?.applied_position),
    }
}

fn invalid(text: impl Into<String>) -> Rejection {
    Rejection::new(Reason::InvalidRequest, text)
}

impl Selection {
    fn takes(&self, event: &Bytes) -> Result<bool, Rejection> {
        let malformed = |_| Rejection::new(Reason::Internal, "an event cannot be read");
        if self.key.is_some() || self.correlation_id.is_some() {
            let view = EventView::read(event).map_err(malformed)?;
            let is = |wanted: &Option<String>, known: &str| {
                wanted.as_ref().is_none_or(|wanted| wanted == known)
            };
            if !is(&self.key, view.key) || !is(&self.correlation_id, view.correlation_id) {
                return Ok(false);
            }
        }
        self.filter.as_ref().map_or(Ok(true), |filter| filter.matches(event).map_err(malformed))
    }
}

/// When events are due.
#[derive(Debug)]
struct PaceClock {
    pace: Pace,
    /// When the first was let out, and when that was recorded.
    began: Option<(Instant, u64)>,
    let_out: u64,
}

impl PaceClock {
    fn new(pace: Pace) -> Result<Self, Rejection> {
        if matches!(pace, Pace::Rate(0) | Pace::Original { speed_milli: 0 }) {
            return Err(invalid("a pace of zero replays nothing; give at least 1 a second"));
        }
        Ok(Self { pace, began: None, let_out: 0 })
    }

    /// How many of the events may go now; else how long to wait.
    fn due(&mut self, queue: &VecDeque<RecordedEvent>, now: Instant) -> Result<usize, Duration> {
        let first = queue.front().map_or(0, |event| event.recorded_at_ms);
        let (began, first_ms) = *self.began.get_or_insert((now, first));
        let count = match self.pace {
            Pace::Fast => queue.len(),
            Pace::Rate(per_s) => {
                // What is due by now, one at once at the beginning.
                let due = 1 + (now - began).as_micros() * u128::from(per_s) / 1_000_000;
                let due = u64::try_from(due).unwrap_or(u64::MAX);
                let burst = (per_s / BURSTS_PER_S).max(1);
                let count = due.saturating_sub(self.let_out).min(burst);
                if count == 0 {
                    return Err(Duration::from_micros((1_000_000 / per_s).max(1)));
                }
                usize::try_from(count).unwrap_or(usize::MAX).min(queue.len())
            }
            Pace::Original { speed_milli } => {
                let after = |event: &RecordedEvent| {
                    let apart_ms = event.recorded_at_ms.saturating_sub(first_ms);
                    Duration::from_micros(apart_ms.saturating_mul(1_000_000) / speed_milli)
                };
                let passed = now - began;
                let count = queue.iter().take_while(|event| after(event) <= passed).count();
                if count == 0 {
                    let wait = queue.front().map_or(Duration::ZERO, after);
                    return Err(wait.saturating_sub(passed));
                }
                count
            }
        };
        self.let_out += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests;
