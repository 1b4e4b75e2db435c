//! Publishing over one stream that many callers share.
//!
//! Single events that are published while others are on their way are coalesced into one call;
//! an idle publisher sends at once. Every call carries a sequence, so that repeating it after a
//! broken connection or a change of leader is safe, and happens by itself.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};

use super::link::Link;
use super::publisher_task::Task;
use super::spawn::spawn;
use crate::model::rejection::{Reason, Rejection};
use crate::proto::v1::{Event, KeyExpectation, PublishResult};

/// Publishes that wait to be taken up by the stream's task.
const QUEUE: usize = 4096;

/// Where one event went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Its offset in the topic.
    pub offset: u64,
    /// Its position in the hub.
    pub position: u64,
    /// The version of its key; 0 without one.
    pub key_version: u64,
    /// It was there already.
    pub duplicate: bool,
}

/// Publishes events. Clones share one stream and one sequence.
#[derive(Clone, Debug)]
pub struct Publisher {
    queue: mpsc::Sender<Item>,
}

/// What callers hand to the task.
#[derive(Debug)]
pub(super) enum Item {
    /// One event, which may share a call with others.
    Single { topic: Arc<str>, event: Bytes, answer: oneshot::Sender<Result<Receipt, Rejection>> },
    /// A call of its own.
    Call(Box<CallItem>),
}

#[derive(Debug)]
pub(super) struct CallItem {
    pub(super) topic: Arc<str>,
    pub(super) events: Vec<Bytes>,
    pub(super) expectations: Vec<KeyExpectation>,
    pub(super) answer: oneshot::Sender<Result<PublishResult, Rejection>>,
}

fn stopped() -> Rejection {
    Rejection::new(Reason::OutcomeUnknown, "the publisher stopped before there was an answer")
}

impl Publisher {
    pub(super) fn start(link: Arc<Link>) -> Self {
        let (queue, inbox) = mpsc::channel(QUEUE);
        spawn(Task::new(link, inbox).run());
        Self { queue }
    }

    /// Publishes one event. Waits for its place on the stream, then for its receipt.
    ///
    /// # Errors
    /// What the hub refuses, and `OUTCOME_UNKNOWN` when there was no answer in time.
    pub async fn publish(
        &self,
        topic: impl Into<Arc<str>>,
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
        topic: impl Into<Arc<str>>,
        event: Bytes,
    ) -> Result<Receipt, Rejection> {
        let (answer, wait) = oneshot::channel();
        let item = Item::Single { topic: topic.into(), event, answer };
        self.queue.send(item).await.map_err(|_| stopped())?;
        wait.await.map_err(|_| stopped())?
    }

    /// Publishes up to 512 events as one call: all or none, if the expectations hold.
    ///
    /// # Errors
    /// `VERSION_CONFLICT` and whatever else the hub refuses, and `OUTCOME_UNKNOWN` when there was
    /// no answer in time.
    pub async fn publish_all(
        &self,
        topic: impl Into<Arc<str>>,
        events: Vec<Bytes>,
        expectations: Vec<KeyExpectation>,
    ) -> Result<PublishResult, Rejection> {
        let (answer, wait) = oneshot::channel();
        let call = CallItem { topic: topic.into(), events, expectations, answer };
        self.queue.send(Item::Call(Box::new(call))).await.map_err(|_| stopped())?;
        wait.await.map_err(|_| stopped())?
    }
}

/// The receipt of the event at `index` of a call.
#[must_use]
pub(super) fn receipt(result: &PublishResult, index: usize) -> Receipt {
    let key_version = result.key_versions.get(index).copied().unwrap_or(0);
    match result.receipts.get(index) {
        Some(r) => {
            Receipt { offset: r.offset, position: r.position, key_version, duplicate: r.duplicate }
        }
        None => Receipt {
            offset: result.first_offset + index as u64,
            position: result.first_position + index as u64,
            key_version,
            duplicate: result.duplicate,
        },
    }
}

/// The receipts of all events of a call, in order.
#[must_use]
pub fn receipts(result: &PublishResult) -> Vec<Receipt> {
    (0..result.count as usize).map(|index| receipt(result, index)).collect()
}
