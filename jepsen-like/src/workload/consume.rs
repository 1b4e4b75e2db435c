//! What the workloads of subscriptions have in common: making them, taking events and ending their
//! deliveries, and letting consumers finish after the run.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use message_hub::client::{Client, recorded_events};
use message_hub::model::rejection::{Reason, Rejection};
use message_hub::proto::v1::place::At;
use message_hub::proto::v1::settlement;
use message_hub::proto::v1::{
    Ack, CreateSubscriptionRequest, DeadReason, EventBatch, GetSubscriptionStatsRequest,
    LeasedEvents, ListDeadLettersRequest, Nack, OffsetRange, Place, PullRequest, RecordedEvent,
    Reject, Release, SettleRequest, Settlement, Start, SubscriptionConfig,
};
use prost::Message as _;
use tokio::task::JoinSet;

use super::{Shared, TOPIC, value_of};
use crate::delivered::{Action, Counts, Death, Event, Lease, Letter};
use crate::history::{Answer, Line, Op};
use crate::tools::{poll, say};

/// How long a pull waits while nothing is ready.
const WAIT_MS: u64 = 300;
/// How long consumers may take to finish once nothing is published any more.
const FINISH_WITHIN: Duration = Duration::from_secs(45);
/// Dead letters that are listed at a time.
const PAGE: u32 = 1000;
/// The reason of a failure that is not retried.
pub(super) const FOR_GOOD: &str = "FOR_GOOD";
/// Looks for dead letters.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The newest lease that each event is known to have been under, by subscription and value.
#[derive(Debug, Default)]
pub(super) struct Newest(Mutex<BTreeMap<(&'static str, u64), u64>>);

impl Newest {
    pub(super) fn saw(&self, subscription: &'static str, lease: &Lease) {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for event in &lease.events {
            let known = newest.entry((subscription, event.value)).or_default();
            *known = lease.id.max(*known);
        }
    }

    /// The events of a lease that somebody else has had since.
    pub(super) fn gone(&self, subscription: &'static str, lease: &Lease) -> Vec<Event> {
        let newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = |event: &&Event| {
            newest.get(&(subscription, event.value)).is_some_and(|known| *known > lease.id)
        };
        lease.events.iter().filter(newer).copied().collect()
    }
}

impl Shared {
    /// Makes a subscription from the start of the topic.
    pub(super) async fn subscribe(
        &self,
        name: &'static str,
        config: SubscriptionConfig,
    ) -> anyhow::Result<()> {
        let request = CreateSubscriptionRequest {
            name: name.to_owned(),
            pattern: TOPIC.to_owned(),
            config: Some(config),
            start: Some(Place { at: Some(At::Start(Start {})) }),
            ..CreateSubscriptionRequest::default()
        };
        let created = self.client()?.create_subscription(request).await;
        created.with_context(|| format!("create subscription {name}"))?;
        Ok(())
    }
}

/// One consumer that pulls.
pub(super) struct Puller {
    client: Client,
    pub(super) subscription: &'static str,
    process: u64,
    consumer: u64,
}

impl Puller {
    pub(super) fn new(shared: &Shared, subscription: &'static str) -> anyhow::Result<Self> {
        let process = shared.next_process();
        Ok(Self { client: shared.client()?, subscription, process, consumer: process })
    }

    fn name(&self) -> String {
        format!("consumer-{}", self.consumer)
    }

    /// Takes some events; none when nothing is ready, or when nobody knows.
    pub(super) async fn take(&mut self, shared: &Shared, max_events: u32) -> Vec<Lease> {
        let request = PullRequest {
            subscription: self.subscription.to_owned(),
            consumer: self.name(),
            max_events,
            wait_ms: WAIT_MS,
            ..PullRequest::default()
        };
        let (subscription, consumer) = (self.subscription.to_owned(), self.consumer);
        let op = Op::Take { subscription, consumer, streamed: false };
        let taken = async {
            let leased = self.client.pull(request).await?.leased;
            let leases = leased.into_iter().map(lease).collect::<Result<_, _>>()?;
            Ok(Answer::Leased { leases })
        };
        let (known, answer) = shared.record(self.process, op, taken).await;
        if !known {
            self.process = shared.next_process();
        }
        let Some(Answer::Leased { leases }) = answer else {
            // Whoever refuses does so at once.
            shared.breathe().await;
            return Vec::new();
        };
        leases.iter().for_each(|lease| shared.newest.saw(self.subscription, lease));
        leases
    }

    /// Ends deliveries of one lease.
    pub(super) async fn settle(
        &mut self,
        shared: &Shared,
        lease: &Lease,
        events: &[Event],
        action: Action,
    ) {
        if events.is_empty() {
            return;
        }
        let item = Settlement {
            lease_id: lease.id,
            term: lease.term,
            topic_id: lease.topic_id,
            ranges: events.iter().map(|e| OffsetRange { first: e.offset, count: 1 }).collect(),
            action: Some(told(action)),
        };
        let request = SettleRequest {
            subscription: self.subscription.to_owned(),
            consumer: self.name(),
            items: vec![item],
        };
        let op = Op::Settle {
            subscription: self.subscription.to_owned(),
            consumer: self.consumer,
            lease: lease.id,
            action,
            values: events.iter().map(|event| event.value).collect(),
        };
        let settled = async {
            let results = self.client.settle(request).await?.results;
            let result = results.first().ok_or_else(|| malformed("no result"))?;
            let done = |event: &&Event| {
                result.done.iter().any(|r| (r.first..r.first + r.count).contains(&event.offset))
            };
            Ok(Answer::Settled {
                done: events.iter().filter(done).map(|event| event.value).collect(),
                refused: result.refused.as_ref().map_or("", |e| e.reason.as_str()).to_owned(),
            })
        };
        let (known, _) = shared.record(self.process, op, settled).await;
        if !known {
            self.process = shared.next_process();
        }
    }
}

fn malformed(what: &str) -> Rejection {
    Rejection::new(Reason::Internal, format!("the hub answered with {what}"))
}

fn told(action: Action) -> settlement::Action {
    match action {
        Action::Ack => settlement::Action::Ack(Ack {}),
        Action::Nack { after_ms } => {
            settlement::Action::Nack(Nack { retry_after_ms: after_ms, ..Nack::default() })
        }
        Action::NackForGood => {
            settlement::Action::Nack(Nack { reason: FOR_GOOD.to_owned(), ..Nack::default() })
        }
        Action::Reject => settlement::Action::Reject(Reject::default()),
        Action::Release => settlement::Action::Release(Release {}),
    }
}

fn lease(leased: LeasedEvents) -> Result<Lease, Rejection> {
    let batches: Result<Vec<EventBatch>, _> =
        leased.batches.into_iter().map(EventBatch::decode).collect();
    let batches = batches.map_err(|_| malformed("a batch that is none"))?;
    let attempts = leased.attempts.iter().copied().chain(std::iter::repeat(1));
    let recorded = batches.iter().flat_map(recorded_events);
    Ok(Lease {
        id: leased.lease_id,
        term: leased.term,
        topic_id: leased.topic_id,
        expires_at_ms: leased.expires_at_ms,
        events: recorded
            .zip(attempts)
            .map(|(recorded, attempt)| event(&recorded, attempt))
            .collect(),
    })
}

pub(super) fn event(recorded: &RecordedEvent, attempt: u32) -> Event {
    /// Of an event that says nothing.
    const PRIORITY: u32 = 4;
    let sent = message_hub::proto::v1::Event::decode(recorded.event.clone()).unwrap_or_default();
    let deadline_ms = sent.deadline.map_or(0, |at| {
        u64::try_from(at.seconds).unwrap_or(0) * 1000
            + u64::try_from(at.nanos).unwrap_or(0) / 1_000_000
    });
    Event {
        value: value_of(&recorded.event),
        offset: recorded.offset,
        attempt,
        priority: sent.priority.unwrap_or(PRIORITY),
        deadline_ms,
        recorded_at_ms: recorded.recorded_at_ms,
    }
}

/// Looks at the dead letters of a subscription now and then.
pub(super) fn look_at_letters(
    shared: &Arc<Shared>,
    tasks: &mut JoinSet<()>,
    name: &'static str,
) -> anyhow::Result<()> {
    let (shared, client) = (Arc::clone(shared), shared.client()?);
    tasks.spawn(async move {
        let process = shared.next_process();
        while shared.goes_on() {
            tokio::time::sleep(LOOK_EVERY).await;
            let op = Op::Letters { subscription: name.to_owned() };
            let listed = async { Ok(Answer::Letters { letters: letters(&client, name).await? }) };
            shared.record(process, op, listed).await;
        }
    });
    Ok(())
}

async fn letters(client: &Client, name: &str) -> Result<Vec<Letter>, Rejection> {
    let mut letters = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListDeadLettersRequest {
            subscription: name.to_owned(),
            page_size: PAGE,
            page_token,
            ..ListDeadLettersRequest::default()
        };
        let page = client.dead_letters(request).await?;
        letters.extend(page.dead_letters.iter().map(|letter| Letter {
            number: letter.number,
            offset: letter.offset,
            death: match letter.reason() {
                DeadReason::MaxAttempts => Death::MaxAttempts,
                DeadReason::Rejected | DeadReason::SchemaInvalid => Death::Rejected,
                DeadReason::NonRetryable => Death::NonRetryable,
                DeadReason::Expired | DeadReason::DeadlineUnreachable => Death::TooLate,
                DeadReason::Unspecified => Death::Other,
            },
            failures: letter.failures,
        }));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(letters);
        }
    }
}

async fn counts(client: &Client, name: &str) -> Result<Counts, Rejection> {
    let request = GetSubscriptionStatsRequest { name: name.to_owned(), ..Default::default() };
    let stats = client.subscription_stats(request).await?;
    let ever = stats.counters.unwrap_or_default();
    Ok(Counts {
        pending: stats.pending,
        delayed: stats.delayed,
        in_flight: stats.in_flight,
        retrying: stats.retrying,
        dead_letters: stats.dead_letters,
        acked: ever.acked,
        dead: ever.dead,
        dropped: ever.dropped,
        expired: ever.expired,
    })
}

/// Waits until the consumers of these subscriptions have nothing left.
pub(super) async fn finish(shared: &Shared, names: &[&str]) -> anyhow::Result<()> {
    let client = shared.client()?;
    let finished = poll(FINISH_WITHIN, || async {
        for name in names {
            if counts(&client, name).await.ok()?.open() > 0 {
                return None;
            }
        }
        Some(())
    });
    if finished.await.is_none() {
        // The checkers say what that means.
        say(format!("consumers did not finish within {FINISH_WITHIN:?}"));
    }
    Ok(())
}

/// Writes down what subscriptions have come to.
pub(super) async fn read_back(shared: &Shared, names: &[&'static str]) -> anyhow::Result<()> {
    let client = shared.client()?;
    for name in names {
        let counts = counts(&client, name).await.with_context(|| format!("count {name}"))?;
        let letters = letters(&client, name).await.with_context(|| format!("list {name}"))?;
        let name = (*name).to_owned();
        shared.recorder.tell(|_| Line::Subscription { name, counts, letters });
    }
    Ok(())
}
