//! Group commit: while entries are on their way, what arrives is gathered into the next one.
//!
//! There is no linger: an idle node proposes a lone command at once. While entries are on their way, the next one
//! waits until it is as large as they are in the mean: it would be written after them in any case, and commands that
//! trickle in would go in many small entries. Each command of an entry has its own outcome, so that one refusal does
//! not touch its neighbours.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::hub_clock::HubClock;
use crate::model::command::{Command, CommandBatch, Kind};
use crate::model::limits::{
    ENTRY_BYTES_MAX, ENTRY_BYTES_TARGET, ENTRY_COMMANDS_MAX, OVERLOADED_RETRY_MS,
    PROPOSAL_BYTES_MAX, PROPOSAL_QUEUE_MAX, PROPOSALS_IN_FLIGHT_MAX,
};
use crate::model::outcome::Outcome;
use crate::model::rejection::{Reason, Rejection};
use crate::raft::{ProposeError, RaftNode};
use crate::runtime::{clock, tasks};

/// Counters of a proposer.
#[derive(Debug, Default)]
pub struct ProposeStats {
    /// Entries proposed.
    pub entries: AtomicU64,
    /// Commands in them.
    pub commands: AtomicU64,
    /// Bytes of them.
    pub bytes: AtomicU64,
    /// Events appended by them.
    pub events: AtomicU64,
    /// Commands that were refused.
    pub refused: AtomicU64,
}

/// Takes commands, and answers each with its outcome.
pub struct Proposer {
    queue: mpsc::Sender<Pending>,
    room: Arc<Semaphore>,
    stats: Arc<ProposeStats>,
    timeout: Duration,
}

/// A command on its way.
struct Pending {
    command: Command,
    bytes: usize,
    deadline: Instant,
    answer: oneshot::Sender<Result<Outcome, Rejection>>,
    /// Its share of the bytes that may wait.
    _room: OwnedSemaphorePermit,
}

/// The promise of an outcome.
#[derive(Debug)]
pub struct Ticket(oneshot::Receiver<Result<Outcome, Rejection>>);

impl Ticket {
    /// Waits for the outcome; it comes in bounded time.
    ///
    /// # Errors
    /// What the state refused, and everything that kept the proposal from an outcome.
    pub async fn outcome(self) -> Result<Outcome, Rejection> {
        match self.0.await {
            Ok(Ok(Outcome::Rejected(rejection))) => Err(rejection),
            Ok(result) => result,
            Err(_) => Err(unknown("the node stopped meanwhile")),
        }
    }
}

fn unknown(why: &str) -> Rejection {
    Rejection::new(
        Reason::OutcomeUnknown,
        format!(
            "it was proposed but its outcome is unknown ({why}); repeat it with the same producer sequence or request id"
        ),
    )
}

impl Proposer {
    /// Starts the task that gathers and proposes.
    pub(super) fn start(raft: RaftNode, clock: Arc<HubClock>, timeout: Duration) -> Self {
        let (queue, inbox) = mpsc::channel(PROPOSAL_QUEUE_MAX);
        let stats = Arc::new(ProposeStats::default());
        let worker = Worker { raft, clock, timeout, stats: Arc::clone(&stats) };
        tasks::spawn("proposer", worker.run(inbox));
        let room = Arc::new(Semaphore::new(PROPOSAL_BYTES_MAX));
        Self { queue, room, stats, timeout }
    }

    /// Counters.
    pub fn stats(&self) -> &ProposeStats {
        &self.stats
    }

    /// Queues a command. Waits while too much is queued, but not for ever.
    ///
    /// # Errors
    /// `CALL_TOO_LARGE`, `OVERLOADED`, `SHUTTING_DOWN`.
    pub async fn submit(&self, kind: Kind) -> Result<Ticket, Rejection> {
        let command = Command::from(kind);
        let bytes = command.encoded_len();
        if bytes > ENTRY_BYTES_MAX {
            let text = format!(
                "it would take {bytes} bytes of the log, {ENTRY_BYTES_MAX} is the most; split it"
            );
            let refused = Rejection::new(Reason::CallTooLarge, text);
            return Err(refused.with("bytes", bytes).with("bytes_max", ENTRY_BYTES_MAX));
        }
        let deadline = clock::now() + self.timeout;
        let overloaded = || {
            Rejection::new(
                Reason::Overloaded,
                "too much is waiting to be proposed; send less at once, or try again later",
            )
            .retry_after_ms(OVERLOADED_RETRY_MS)
        };
        let stopping =
            || Rejection::new(Reason::ShuttingDown, "the node is stopping; ask another node");
        let share = u32::try_from(bytes).map_err(|_| overloaded())?;
        let room = Arc::clone(&self.room).acquire_many_owned(share);
        let room = tokio::time::timeout_at(deadline.into(), room)
            .await
            .map_err(|_| overloaded())?
            .map_err(|_| stopping())?;
        let (answer, ticket) = oneshot::channel();
        let pending = Pending { command, bytes, deadline, answer, _room: room };
        tokio::time::timeout_at(deadline.into(), self.queue.send(pending))
            .await
            .map_err(|_| overloaded())?
            .map_err(|_| stopping())?;
        Ok(Ticket(ticket))
    }

    /// Takes no more commands, and waits until those that were taken are answered.
    pub async fn drain(&self, patience: Duration) {
        let all = u32::try_from(PROPOSAL_BYTES_MAX).unwrap_or(u32::MAX);
        if tokio::time::timeout(patience, self.room.acquire_many(all)).await.is_err() {
            tracing::warn!("proposals were left without an outcome");
        }
        self.room.close();
    }
}

struct Worker {
    raft: RaftNode,
    clock: Arc<HubClock>,
    timeout: Duration,
    stats: Arc<ProposeStats>,
}

impl Worker {
    async fn run(self, mut inbox: mpsc::Receiver<Pending>) {
        let mut waiting = Waiting::default();
        let mut arrived = Vec::new();
        let mut in_flight = FuturesUnordered::new();
        let mut in_flight_bytes = 0;
        loop {
            while waiting.is_enough(in_flight.len(), in_flight_bytes) {
                let (batch, bytes) = waiting.gather();
                in_flight_bytes += bytes;
                let propose = self.propose(batch);
                in_flight.push(async move {
                    propose.await;
                    bytes
                });
            }
            tokio::select! {
                biased;
                Some(bytes) = in_flight.next(), if !in_flight.is_empty() => in_flight_bytes -= bytes,
                count = inbox.recv_many(&mut arrived, ENTRY_COMMANDS_MAX),
                    if waiting.commands.len() < ENTRY_COMMANDS_MAX =>
                {
                    if count == 0 && in_flight.is_empty() {
                        return;
                    }
                    waiting.take(arrived.drain(..));
                }
                else => return,
            }
        }
    }

    async fn propose(&self, batch: Vec<Pending>) {
        let mut commands = Vec::with_capacity(batch.len());
        let mut answers = Vec::with_capacity(batch.len());
        let now = clock::now();
        for pending in batch {
            if pending.deadline <= now {
                let late =
                    "it waited too long and was not proposed; try again, or send less at once";
                drop(pending.answer.send(Err(Rejection::new(Reason::DeadlineExceeded, late))));
                continue;
            }
            commands.push(pending.command);
            answers.push((pending.answer, pending._room));
        }
        if commands.is_empty() {
            return;
        }
        let result = match self.refuse_at_the_door() {
            Some(rejection) => Err(rejection),
            None => self.replicate(commands).await,
        };
        match result {
            Ok(outcomes) => {
                self.count(&outcomes);
                for ((answer, _room), outcome) in answers.into_iter().zip(outcomes) {
                    // Whoever gave up waiting has no use for the outcome.
                    drop(answer.send(Ok(outcome)));
                }
            }
            Err(rejection) => {
                for (answer, _room) in answers {
                    drop(answer.send(Err(rejection.clone())));
                }
            }
        }
    }

    /// What would be refused anyway is not proposed.
    fn refuse_at_the_door(&self) -> Option<Rejection> {
        if !self.raft.is_leader() {
            return Some(not_leader(&self.raft));
        }
        (!self.raft.has_quorum()).then(|| {
            Rejection::new(
                Reason::NoQuorum,
                "the leader cannot reach a quorum; nothing was proposed, try again",
            )
        })
    }

    async fn replicate(&self, commands: Vec<Command>) -> Result<Vec<Outcome>, Rejection> {
        let batch = CommandBatch { stamp_ms: self.clock.now(&self.raft).get(), commands };
        let mut entry = BytesMut::with_capacity(batch.encoded_len());
        batch.encode_raw(&mut entry);
        let entry = entry.freeze();
        self.stats.entries.fetch_add(1, Ordering::Relaxed);
        self.stats.commands.fetch_add(batch.commands.len() as u64, Ordering::Relaxed);
        self.stats.bytes.fetch_add(entry.len() as u64, Ordering::Relaxed);
        drop(batch);
        match tokio::time::timeout(self.timeout, self.raft.propose(entry)).await {
            Ok(Ok(outcomes)) => Ok(outcomes),
            Ok(Err(ProposeError::NotLeader(_))) => Err(not_leader(&self.raft)),
            Ok(Err(ProposeError::Unknown(why))) => Err(unknown(&why)),
            Ok(Err(ProposeError::Stopped)) => {
                Err(Rejection::new(Reason::ShuttingDown, "the node is stopping; ask another node"))
            }
            Err(_) => Err(unknown("no quorum answered in time")),
        }
    }

    fn count(&self, outcomes: &[Outcome]) {
        for outcome in outcomes {
            match outcome {
                Outcome::Published(published) if !published.duplicate => {
                    self.stats.events.fetch_add(u64::from(published.count), Ordering::Relaxed);
                }
                Outcome::Transacted(parts) => {
                    let fresh = parts.iter().filter(|part| !part.duplicate);
                    let events = fresh.map(|part| u64::from(part.count)).sum();
                    self.stats.events.fetch_add(events, Ordering::Relaxed);
                }
                Outcome::Transaction(transaction) => {
                    let parts = transaction.parts.iter();
                    let fresh = parts.filter(|(_, part)| !part.duplicate);
                    let events = fresh.map(|(_, part)| u64::from(part.count)).sum();
                    self.stats.events.fetch_add(events, Ordering::Relaxed);
                }
                Outcome::Rejected(_) => {
                    self.stats.refused.fetch_add(1, Ordering::Relaxed);
                }
                Outcome::Published(_)
                | Outcome::Schema(_)
                | Outcome::Subject(_)
                | Outcome::Topic(_)
                | Outcome::Subscription(_)
                | Outcome::Leased(_)
                | Outcome::Settled(_)
                | Outcome::Sought(_)
                | Outcome::Moved(_)
                | Outcome::Ticked(_)
                | Outcome::Verifying(_)
                | Outcome::Service(_)
                | Outcome::Instances(_)
                | Outcome::Done => {}
            }
        }
    }
}

/// Commands that are not on their way yet.
#[derive(Default)]
struct Waiting {
    commands: VecDeque<Pending>,
    bytes: usize,
}

impl Waiting {
    fn take(&mut self, arrived: impl Iterator<Item = Pending>) {
        for pending in arrived {
            self.bytes += pending.bytes;
            self.commands.push_back(pending);
        }
    }

    /// Whether the next entry is to go, while so many of so many bytes together are on their way.
    fn is_enough(&self, in_flight: usize, in_flight_bytes: usize) -> bool {
        let mean = in_flight_bytes.checked_div(in_flight).unwrap_or(0);
        !self.commands.is_empty()
            && in_flight < PROPOSALS_IN_FLIGHT_MAX
            && self.bytes >= mean.min(ENTRY_BYTES_TARGET)
    }

    /// The next entry: commands up to the bounds, at least one; and its bytes.
    fn gather(&mut self) -> (Vec<Pending>, usize) {
        let mut bytes = 0;
        let mut batch = Vec::new();
        while let Some(next) = self.commands.front() {
            let full = batch.len() >= ENTRY_COMMANDS_MAX || bytes + next.bytes > ENTRY_BYTES_TARGET;
            if full && !batch.is_empty() {
                break;
            }
            bytes += next.bytes;
            batch.extend(self.commands.pop_front());
        }
        self.bytes -= bytes;
        (batch, bytes)
    }
}

/// The refusal of a node that does not lead, with a hint where it has one.
pub(crate) fn not_leader(raft: &RaftNode) -> Rejection {
    let status = raft.status();
    if status.cluster_id.is_none() {
        return Rejection::new(
            Reason::NotInitialized,
            "the node belongs to no cluster yet; form one with: mhub cluster init, or join one with: mhub cluster join",
        );
    }
    match raft.leader().filter(|leader| leader.node_id != status.node_id) {
        Some(leader) => Rejection::new(
            Reason::NotLeader,
            format!(
                "node {} does not lead; ask node {} at {}",
                status.node_id, leader.node_id, leader.client_address
            ),
        )
        .with("leader_id", leader.node_id)
        .with("leader_endpoint", leader.client_address),
        None => Rejection::new(Reason::NoLeader, "no leader is known; try again in a moment"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::command::{
        CommitTransaction, Expectation, JudgedAgain, Producer, Publish, SetQuota, Transact,
    };
    use crate::model::event_run;
    use crate::model::expectation::Expect;
    use crate::model::ids::KeyVersion;
    use crate::model::limits::{
        ATTRIBUTE_BYTES_MAX, CALL_BYTES_MAX, CALL_EVENTS_MAX, CALL_EXPECTATIONS_MAX,
        PRODUCER_ID_BYTES_MAX, SUBJECT_BYTES_MAX, TOPIC_NAME_BYTES_MAX,
    };
    use crate::model::quota::QuotaLimits;
    use crate::model::schema_rule::{
        Judged, SchemaMode, SchemaRule, SchemaVerdict, SubjectVersion,
    };

    /// A proposer whose commands go nowhere.
    fn proposer() -> (Proposer, mpsc::Receiver<Pending>) {
        let (queue, inbox) = mpsc::channel(8);
        let room = Arc::new(Semaphore::new(PROPOSAL_BYTES_MAX));
        let stats = Arc::new(ProposeStats::default());
        (Proposer { queue, room, stats, timeout: Duration::from_secs(60) }, inbox)
    }

    #[tokio::test]
    async fn entries_do_not_shrink_while_others_are_on_their_way() {
        let (proposer, mut inbox) = proposer();
        let mut waiting = Waiting::default();
        assert!(!waiting.is_enough(0, 0), "nothing waits");
        let mut sizes = Vec::new();
        for name in ["a", "a-name", "another-name"] {
            let limits = QuotaLimits::default();
            let service = name.to_owned();
            drop(proposer.submit(Kind::SetQuota(SetQuota { service, limits })).await.unwrap());
            let pending = inbox.recv().await.unwrap();
            sizes.push(pending.bytes);
            waiting.take(std::iter::once(pending));
        }
        let all: usize = sizes.iter().sum();
        assert!(waiting.is_enough(0, 0), "whatever it is, when nothing is on its way");
        assert!(waiting.is_enough(1, all) && waiting.is_enough(3, 3 * all));
        assert!(!waiting.is_enough(1, all + 1) && !waiting.is_enough(3, 3 * all + 3));
        assert!(!waiting.is_enough(PROPOSALS_IN_FLIGHT_MAX, 1), "too many are on their way");
        let (batch, bytes) = waiting.gather();
        assert_eq!((batch.len(), bytes, waiting.bytes), (3, all, 0));
        // A giant is not waited for by more than fill an entry.
        waiting.bytes = ENTRY_BYTES_TARGET;
        waiting.commands.extend(batch);
        assert!(waiting.is_enough(1, ENTRY_BYTES_MAX));
        waiting.bytes -= 1;
        assert!(!waiting.is_enough(1, ENTRY_BYTES_MAX));
    }

    /// A call that is at every bound, with what the hub adds to it.
    fn largest_publish() -> Publish {
        let subject = "s".repeat(SUBJECT_BYTES_MAX);
        let verdict =
            SchemaVerdict { subject: subject.clone(), version: u32::MAX, violations: u32::MAX };
        let (mut events, field) = (BytesMut::new(), verdict.as_field());
        for _ in 0..CALL_EVENTS_MAX {
            event_run::push_joined(&mut events, &[0; CALL_BYTES_MAX / CALL_EVENTS_MAX], &field);
        }
        let key = || "k".repeat(ATTRIBUTE_BYTES_MAX);
        let expectation = || Expectation::new(key(), Expect::Exact(KeyVersion(u64::MAX)));
        let version = || SubjectVersion { subject: subject.clone(), version: u32::MAX };
        let message = "m".repeat(ATTRIBUTE_BYTES_MAX);
        let mode = SchemaMode::Enforce.into();
        Publish {
            topic: "t".repeat(TOPIC_NAME_BYTES_MAX),
            producer: Some(Producer {
                id: "p".repeat(PRODUCER_ID_BYTES_MAX),
                epoch: u64::MAX,
                sequence: u64::MAX,
                acknowledged_below: u64::MAX,
            }),
            expectations: (0..CALL_EXPECTATIONS_MAX).map(|_| expectation()).collect(),
            count: u32::try_from(CALL_EVENTS_MAX).unwrap(),
            keyed: true,
            largest_event_bytes: u64::MAX,
            events: events.freeze(),
            special: true,
            correlated: true,
            judged: Some(Judged {
                rule: SchemaRule { mode, subject: String::new(), message },
                versions: (0..CALL_EVENTS_MAX).map(|_| version()).collect(),
            }),
        }
    }

    #[tokio::test]
    async fn what_is_too_large_for_an_entry_is_refused_and_no_call_that_is_allowed_is() {
        let (proposer, mut inbox) = proposer();
        let publish = largest_publish();
        assert!(publish.encoded_len() > CALL_BYTES_MAX);
        // As large as a transaction may be; judged again it has what the hub adds on top.
        let parts = vec![publish.clone()];
        let transact = Transact { parts: parts.clone(), ..Transact::default() };
        let judged_again = Some(JudgedAgain { stages: u32::MAX, parts });
        let commit = CommitTransaction { id: u64::MAX, judged_again };
        for legal in
            [Kind::Publish(publish), Kind::Transact(transact), Kind::CommitTransaction(commit)]
        {
            proposer.submit(legal).await.unwrap();
            assert!(inbox.try_recv().unwrap().bytes > CALL_BYTES_MAX);
        }
        let of = |bytes: usize| {
            let (service, limits) = ("s".repeat(bytes), QuotaLimits::default());
            Kind::SetQuota(SetQuota { service, limits })
        };
        let refused = proposer.submit(of(ENTRY_BYTES_MAX)).await.unwrap_err();
        assert_eq!(refused.reason, Reason::CallTooLarge);
        let bytes = Command::from(of(ENTRY_BYTES_MAX)).encoded_len();
        assert_eq!(refused.fact("bytes"), Some(bytes.to_string().as_str()));
        let (actual, most) = (bytes.to_string(), ENTRY_BYTES_MAX.to_string());
        assert!(refused.message.contains(&actual) && refused.message.contains(&most), "{refused}");
        assert!(inbox.try_recv().is_err(), "it is not queued");
        let just = ENTRY_BYTES_MAX - (bytes - ENTRY_BYTES_MAX);
        proposer.submit(of(just)).await.unwrap();
        assert_eq!(inbox.try_recv().unwrap().bytes, ENTRY_BYTES_MAX);
    }
}
