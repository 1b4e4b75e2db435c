//! What clients do while the cluster breaks: one file a workload.

mod consume;
pub mod failures;
pub mod keys;
pub mod log;
pub mod queue;
pub mod registry;
pub mod replay;
pub mod transactions;
pub mod urgency;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use fastrand::Rng;
use message_hub::client::{Client, ClientOptions, EventBuilder, ReadPart};
use message_hub::model::rejection::{Reason, Rejection};
use message_hub::proto::v1::{CreateTopicRequest, Event};
use prost::Message as _;
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::history::{Answer, End, Op, Recorder};

/// Clients of the busiest kind.
pub const WORKERS: u64 = 8;
/// How long an operation may take, repetitions included.
pub const OPERATION: Duration = Duration::from_secs(3);
/// How long after the last operation anything that is still on its way may be done.
pub const FENCE: Duration = Duration::from_secs(6);

/// How long those who were refused rest before they ask again.
const BREATH: Duration = Duration::from_millis(50);

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// W1.
    Keys,
    /// W2.
    Log,
    /// W3.
    Queue,
    /// W4.
    Failures,
    /// W5.
    Urgency,
    /// W6.
    Registry,
    /// W7.
    Transactions,
    /// W8.
    Replay,
}

/// All of them: name, kind, what it does.
pub const ALL: &[(&str, Workload, &str)] = &[
    ("W1", Workload::Keys, "append with an expected version; each key is a linearizable register"),
    ("W2", Workload::Log, "publish; nothing acknowledged is lost, all replicas hold the same"),
    (
        "W3",
        Workload::Queue,
        "a subscription as a queue; each event is done once, by whoever has it",
    ),
    ("W4", Workload::Failures, "failures, retries and dead letters; nothing vanishes on the way"),
    ("W5", Workload::Urgency, "priorities and deadlines; the most urgent first, nothing too late"),
    (
        "W6",
        Workload::Registry,
        "services change at an expected revision, instances renew; nobody flaps, who is gone is given up and failed over",
    ),
    (
        "W7",
        Workload::Transactions,
        "transactions read and append to several keys; strictly serializable, all or nothing",
    ),
    ("W8", Workload::Replay, "replay, tails and reads of own writes on every node"),
];

impl Workload {
    /// The kind with this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn parse(name: &str) -> Result<Self, String> {
        let found = ALL.iter().find(|(known, _, _)| known.eq_ignore_ascii_case(name));
        found
            .map(|(_, kind, _)| *kind)
            .ok_or_else(|| format!("there is no workload {name:?}; `jepsen-like list` names them"))
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        ALL.iter().find(|(_, kind, _)| *kind == self).map_or("", |(name, _, _)| name)
    }

    /// Starts the clients.
    ///
    /// # Errors
    /// When what they need cannot be made.
    pub async fn start(self, shared: &Arc<Shared>) -> anyhow::Result<JoinSet<()>> {
        shared.create_topic(TOPIC).await?;
        let mut tasks = JoinSet::new();
        match self {
            Self::Keys => keys::start(shared, &mut tasks)?,
            Self::Log => log::start(shared, &mut tasks)?,
            Self::Queue => queue::start(shared, &mut tasks).await?,
            Self::Failures => failures::start(shared, &mut tasks).await?,
            Self::Urgency => urgency::start(shared, &mut tasks).await?,
            Self::Registry => registry::start(shared, &mut tasks).await?,
            Self::Transactions => transactions::start(shared, &mut tasks).await?,
            Self::Replay => replay::start(shared, &mut tasks)?,
        }
        Ok(tasks)
    }

    /// Its subscriptions.
    fn subscriptions(self) -> &'static [&'static str] {
        match self {
            Self::Keys | Self::Log | Self::Registry | Self::Transactions | Self::Replay => &[],
            Self::Queue => &[queue::NAME],
            Self::Failures => &[failures::NAME],
            Self::Urgency => &[urgency::RANK, urgency::STRICT],
        }
    }

    /// Ends publishing, and lets consumers finish.
    ///
    /// # Errors
    /// When no client can be made.
    pub async fn finish(self, shared: &Shared) -> anyhow::Result<()> {
        shared.published.store(true, Ordering::Release);
        if self == Self::Registry {
            registry::finish(shared).await;
        }
        consume::finish(shared, self.subscriptions()).await
    }

    /// Writes down what the cluster holds after the run.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn read_back(self, shared: &Shared, cluster: &Cluster) -> anyhow::Result<()> {
        match self {
            Self::Keys => keys::read_back(shared).await,
            Self::Registry => registry::read_back(shared).await,
            Self::Transactions => transactions::read_back(shared).await,
            Self::Log | Self::Replay => log::read_back(shared, cluster).await,
            Self::Queue | Self::Failures | Self::Urgency => {
                log::read_back(shared, cluster).await?;
                consume::read_back(shared, self.subscriptions()).await
            }
        }
    }
}

/// Where all workloads publish.
pub const TOPIC: &str = "chaos";

/// What the clients of a run share.
#[derive(Debug)]
pub struct Shared {
    /// Of all slots.
    pub endpoints: Vec<String>,
    /// Nodes at the start; they have the first endpoints.
    pub nodes: u8,
    /// Operations a second, of all clients together.
    pub rate: u32,
    /// Everything that is drawn comes from it.
    pub seed: u64,
    /// The history.
    pub recorder: Arc<Recorder>,
    /// Where the log is known to have come to.
    pub acked: AtomicU64,
    values: AtomicU64,
    processes: AtomicU64,
    published: AtomicBool,
    stop: AtomicBool,
    keys: keys::Board,
    services: registry::Board,
    lists: transactions::Board,
    newest: consume::Newest,
}

impl Shared {
    /// For a run.
    #[must_use]
    pub fn new(
        endpoints: Vec<String>,
        nodes: u8,
        rate: u32,
        seed: u64,
        recorder: Arc<Recorder>,
    ) -> Self {
        Self {
            endpoints,
            nodes,
            rate,
            seed,
            recorder,
            acked: AtomicU64::new(0),
            values: AtomicU64::new(1),
            processes: AtomicU64::new(1),
            published: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            keys: keys::Board::default(),
            services: registry::Board::default(),
            lists: transactions::Board::default(),
            newest: consume::Newest::default(),
        }
    }

    /// Asks the clients to end after their current operation.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Acquire)
    }

    /// Whether new events are wanted; else only what is there is finished.
    fn publishes(&self) -> bool {
        self.goes_on() && !self.published.load(Ordering::Acquire)
    }

    /// A rest for who was refused.
    async fn breathe(&self) {
        tokio::time::sleep(BREATH).await;
    }

    fn next_value(&self) -> u64 {
        self.values.fetch_add(1, Ordering::Relaxed)
    }

    fn next_process(&self) -> u64 {
        self.processes.fetch_add(1, Ordering::Relaxed)
    }

    /// A source of draws for a client.
    fn rng(&self, label: u64) -> Rng {
        Rng::with_seed(self.seed ^ label.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// A client that knows all nodes.
    fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::with_options(self.endpoints.clone(), options())?)
    }

    /// A client that talks to the node in one slot, from 1.
    fn pinned(&self, slot: u8) -> anyhow::Result<Client> {
        let endpoint = self.endpoints.get(usize::from(slot) - 1).context("no such slot")?.clone();
        Ok(Client::with_options([endpoint], ClientOptions { pinned: true, ..options() })?)
    }

    async fn create_topic(&self, name: &str) -> anyhow::Result<()> {
        let request = CreateTopicRequest { name: name.to_owned(), ..CreateTopicRequest::default() };
        self.client()?
            .create_topic(request)
            .await
            .with_context(|| format!("create topic {name}"))?;
        Ok(())
    }

    /// Does an operation between its two lines of the history. True when its outcome is known.
    async fn record(
        &self,
        process: u64,
        op: Op,
        done: impl Future<Output = Result<Answer, Rejection>>,
    ) -> (bool, Option<Answer>) {
        let id = self.recorder.invoke(process, op);
        match done.await {
            Ok(answer) => {
                self.recorder.done(id, End::Ok(answer.clone()));
                (true, Some(answer))
            }
            Err(rejection) => {
                let end = end_of(&rejection);
                let known = matches!(end, End::Fail { .. });
                self.recorder.done(id, end);
                (known, None)
            }
        }
    }
}

fn options() -> ClientOptions {
    ClientOptions {
        timeout: OPERATION,
        connect_timeout: Duration::from_millis(500),
        attempt_timeout: Duration::from_secs(1),
        ..ClientOptions::default()
    }
}

/// What the hub says is taken at its word: only some reasons leave the outcome open.
fn end_of(rejection: &Rejection) -> End {
    let reason = rejection.reason.as_str().to_owned();
    match rejection.reason {
        Reason::OutcomeUnknown | Reason::Internal | Reason::DeadlineExceeded => {
            End::Info { reason }
        }
        _ => End::Fail { reason },
    }
}

/// An event that carries a value.
fn event(value: u64) -> EventBuilder {
    EventBuilder::new("/chaos", "value").data(value.to_string())
}

/// The value that an encoded event carries; 0, which is none, for an event that is not ours.
fn value_of(event: &Bytes) -> u64 {
    let event = Event::decode(event.clone()).unwrap_or_default();
    std::str::from_utf8(&event.data).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The values of some parts that follow each other. A gap between batches ends them early, so that
/// what follows is not taken for what is missing.
fn joined(parts: &[ReadPart], at_end: bool) -> Result<Answer, Rejection> {
    let mut batches = parts.iter().flat_map(|part| &part.batches).peekable();
    let first = batches.peek().map_or(0, |batch| batch.first_offset);
    let mut values = Vec::new();
    for batch in batches {
        if batch.first_offset != first + values.len() as u64 {
            let what = format!(
                "a read goes on at {} instead of {}",
                batch.first_offset,
                first + values.len() as u64
            );
            return Err(Rejection::new(Reason::Internal, what));
        }
        values.extend(batch.events.iter().map(value_of));
    }
    Ok(Answer::Events { first, values, at_end })
}

/// Waits so that `workers` clients together keep the rate.
async fn pace(shared: &Shared, workers: u64, rng: &mut Rng) {
    let mean_us = workers * 1_000_000 / u64::from(shared.rate.max(1));
    tokio::time::sleep(Duration::from_micros(rng.u64(mean_us / 2..=mean_us * 3 / 2))).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_open_outcome_is_info() {
        let end = |reason| end_of(&Rejection::new(reason, ""));
        assert!(matches!(end(Reason::OutcomeUnknown), End::Info { .. }));
        assert!(matches!(end(Reason::DeadlineExceeded), End::Info { .. }));
        assert!(matches!(end(Reason::NoLeader), End::Fail { .. }));
    }
}
