//! Reads: fresh enough, from storage, in bounded bits.

use std::sync::Arc;
use std::time::Instant;

use super::Node;
use super::propose::not_leader;
use crate::machine::Fault;
use crate::machine::kv::Order;
use crate::machine::query::{self, Bounds, StoredEvent};
use crate::machine::topic::record::not_found;
use crate::model::ids::{KeyVersion, Offset, Position, UnixMs};
use crate::model::limits::PAGE_BYTES_TARGET;
use crate::model::outcome::TopicInfo;
use crate::model::planted::{self, Bug};
use crate::model::rejection::{Reason, Rejection};
use crate::raft::ReadError;
use crate::runtime::tasks;
use crate::store::state::View;

/// How fresh a read has to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Sees everything that was acknowledged before it began.
    #[default]
    Linearizable,
    /// Sees what this node has applied.
    Stale,
    /// Sees at least everything below this position.
    AtLeast(Position),
}

/// Where a read begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// At the first event.
    Start,
    /// After the last event; at the last event when reading backward.
    End,
    /// At an offset of the topic.
    Offset(Offset),
    /// At a position of the hub.
    Position(Position),
    /// At the first event recorded at or after an instant.
    Time(UnixMs),
}

/// What one event is looked up by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// Its offset.
    Offset(Offset),
    /// Its source (empty: any) and id.
    Id(String, String),
}

impl Node {
    /// Waits until this node is fresh enough.
    ///
    /// # Errors
    /// `NO_LEADER`, `NO_QUORUM`, `DEADLINE_EXCEEDED`, in bounded time.
    pub async fn fresh(&self, wanted: Consistency, deadline: Instant) -> Result<(), Rejection> {
        match wanted {
            Consistency::Stale => Ok(()),
            Consistency::Linearizable if planted::is(Bug::StaleRead) => Ok(()),
            Consistency::Linearizable => {
                self.raft.linearize(deadline).await.map_err(|error| self.refuse_read(&error))
            }
            Consistency::AtLeast(position) => {
                let mut applied = self.raft.applied();
                // "At least the event at this position": the next one to be given out is beyond.
                let reached = applied.wait_for(|mark| mark.position > position);
                match tokio::time::timeout_at(deadline.into(), reached).await {
                    Ok(_) => Ok(()),
                    Err(_) => Err(Rejection::new(
                        Reason::DeadlineExceeded,
                        format!(
                            "this node has not applied position {position} in time; try again, or ask the leader"
                        ),
                    )),
                }
            }
        }
    }

    fn refuse_read(&self, error: &ReadError) -> Rejection {
        let reason = match error {
            ReadError::NoLeader => return not_leader_or_unknown(self),
            ReadError::NoQuorum(_) => Reason::NoQuorum,
            ReadError::Late => Reason::DeadlineExceeded,
            ReadError::Stopped => Reason::ShuttingDown,
        };
        Rejection::new(reason, error.to_string())
    }

    /// Runs a reader of the state at one moment on the pool of blocking threads. A snapshot that is being installed may take
    /// the files away under it: then it reads the new state. Any other fault stops the node.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        reader: impl Fn(&View<'_>) -> Result<T, Fault> + Send + Sync + 'static,
    ) -> Result<T, Rejection> {
        let stopping =
            || Rejection::new(Reason::ShuttingDown, "the node is stopping; ask another node");
        let permit =
            Arc::clone(&self.blocking_reads).acquire_owned().await.map_err(|_| stopping())?;
        let raft = self.raft.clone();
        let work = tasks::spawn_blocking("read", move || {
            let _permit = permit;
            let once = || raft.state().view(&reader);
            once().or_else(|_| once())
        });
        work.await.map_err(|_| stopping())?.map_err(|fault| self.unreadable(&fault))
    }

    /// Stops the node for a fault in its state.
    pub(super) fn unreadable(&self, fault: &Fault) -> Rejection {
        self.fatal.fail(format!("read state: {fault}"));
        Rejection::new(
            Reason::Internal,
            "this node cannot read its state and stops; ask another node",
        )
    }

    /// A topic.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`, and those of [`Node::fresh`]; so for all reads.
    pub async fn topic(&self, name: &str, wanted: Consistency) -> Result<TopicInfo, Rejection> {
        self.fresh(wanted, self.deadline()).await?;
        self.known_topic(name).await
    }

    /// A topic as this node has it.
    pub(super) async fn known_topic(&self, name: &str) -> Result<TopicInfo, Rejection> {
        let wanted = name.to_owned();
        let found = self.read(move |db| query::topic(db, &wanted)).await?;
        found.ok_or_else(|| not_found(name))
    }

    /// Topics after a name.
    ///
    /// # Errors
    /// See [`Node::topic`].
    pub async fn topics(
        &self,
        after: String,
        limit: usize,
        wanted: Consistency,
    ) -> Result<Vec<TopicInfo>, Rejection> {
        self.fresh(wanted, self.deadline()).await?;
        self.read(move |db| query::topics(db, &after, limit)).await
    }

    /// One event.
    ///
    /// # Errors
    /// `EVENT_NOT_FOUND`, `INVALID_REQUEST` for an id on a topic that does not index ids.
    pub async fn event(
        &self,
        topic: &str,
        which: Which,
        wanted: Consistency,
    ) -> Result<StoredEvent, Rejection> {
        let info = self.topic(topic, wanted).await?;
        let (described, found) = match which {
            Which::Offset(offset) => {
                let found = self.read(move |db| query::event_at(db, &info, offset)).await?;
                (format!("offset {offset}"), found)
            }
            Which::Id(..) if !info.config.index_ids => {
                return Err(Rejection::new(
                    Reason::InvalidRequest,
                    format!(
                        "topic {topic} has no index by id; create it with index_ids=true, or read by offset"
                    ),
                ));
            }
            Which::Id(source, id) => {
                let described = format!("id {id:?}");
                let found =
                    self.read(move |db| query::event_by_id(db, &info, &source, &id)).await?;
                (described, found)
            }
        };
        found.ok_or_else(|| {
            Rejection::new(
                Reason::EventNotFound,
                format!("topic {topic} has no event with {described}; see its range with: mhub topic info {topic}"),
            )
            .with("topic", topic)
        })
    }

    /// Events of one key, as many as a page takes, and the key's version.
    ///
    /// # Errors
    /// See [`Node::topic`].
    pub async fn key_events(
        &self,
        topic: &str,
        key: String,
        from: KeyVersion,
        order: Order,
        limit: usize,
        wanted: Consistency,
    ) -> Result<(Vec<StoredEvent>, KeyVersion), Rejection> {
        let info = self.topic(topic, wanted).await?;
        let bounds = Bounds { events: limit as u64, bytes: PAGE_BYTES_TARGET };
        self.read(move |db| query::read_key(db, &info, &key, from, order, bounds)).await
    }

    /// The next position to be given out, as far as this node has applied.
    #[must_use]
    pub fn applied_position(&self) -> Position {
        self.raft.applied().borrow().position
    }
}

fn not_leader_or_unknown(node: &Node) -> Rejection {
    let mut rejection = not_leader(&node.raft);
    if rejection.reason == Reason::NotLeader {
        rejection.reason = Reason::NoLeader;
    }
    rejection
}
