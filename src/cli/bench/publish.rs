//! Publishing as fast as the hub takes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::document;
use super::encoded::{common, payload, with_common};
use super::{
    LATENCY_MAX_US, PublishArgs, WARM_UP, latencies, mb_per_s, quantile_ms, rate, seconds, wait,
};
use crate::cli::{Failure, output};
use crate::client::{Client, Publisher};
use crate::model::limits::CALL_EVENTS_MAX;
use crate::model::rejection::{Exit, Reason, Rejection};
use crate::proto::v1::{
    CreateTopicRequest, DeleteTopicRequest, Event, GetTopicRequest, KeyExpectation, key_expectation,
};
use crate::runtime::{clock, tasks};

/// What the workers share.
struct Shared {
    topic: Arc<str>,
    /// See [`common`].
    common: Vec<u8>,
    args: PublishArgs,
    measuring: AtomicBool,
    stop: AtomicBool,
}

/// What a worker saw while it was measured.
struct Seen {
    latencies: Histogram<u64>,
    events: u64,
    errors: u64,
    first_error: Option<Rejection>,
}

/// Publishes for the time that the arguments name.
pub(super) async fn run(client: &Client, args: &PublishArgs) -> Result<Value, Failure> {
    let measured = seconds(args.secs)?;
    if args.workers == 0
        || args.depth == 0
        || args.streams == 0
        || !(1..=CALL_EVENTS_MAX).contains(&args.batch)
    {
        return Err(Failure::usage(format!(
            "--workers, --depth and --streams are at least 1, --batch 1 to {CALL_EVENTS_MAX}"
        )));
    }
    let own = args.topic.is_none();
    let topic = args.topic.clone().unwrap_or_else(|| format!("bench-{}", uuid::Uuid::new_v4()));
    prepare(client, args, &topic).await?;
    let shared = Arc::new(Shared {
        topic: topic.as_str().into(),
        common: common(data(args)),
        args: args.clone(),
        measuring: AtomicBool::new(false),
        stop: AtomicBool::new(false),
    });
    let publishers: Vec<Publisher> = (0..args.streams).map(|_| client.publisher()).collect();
    let workers: Vec<_> = (0..args.workers)
        .map(|n| {
            let publisher = publishers[n % publishers.len()].clone();
            tasks::spawn("bench-worker", worker(Arc::clone(&shared), publisher, n as u64))
        })
        .collect();
    wait("warming up", WARM_UP).await;
    shared.measuring.store(true, Ordering::Relaxed);
    let started = clock::now();
    wait("publishing", measured).await;
    shared.measuring.store(false, Ordering::Relaxed);
    let took = started.elapsed();
    shared.stop.store(true, Ordering::Relaxed);
    let mut all = new_seen();
    for worker in workers {
        let seen = worker.await.map_err(|e| Failure::new(Exit::Error, e.to_string()))?;
        all.latencies.add(&seen.latencies).map_err(|e| Failure::new(Exit::Error, e.to_string()))?;
        all.events += seen.events;
        all.errors += seen.errors;
        all.first_error = all.first_error.or(seen.first_error);
    }
    if own {
        let confirm_name = topic.clone();
        let request =
            DeleteTopicRequest { name: topic.clone(), confirm_name, ..Default::default() };
        // The figures are worth printing even so.
        if let Err(rejection) = client.delete_topic(request).await {
            output::complain(&format!("topic {topic} is left behind: {rejection}"));
        }
        if args.enforce {
            document::forget_schema(client, &topic).await?;
        }
    }
    if let Some(error) = &all.first_error {
        output::complain(&format!("the first error: {error}"));
    }
    Ok(report(&all, args, took))
}

/// Makes the topic where it is not there.
async fn prepare(client: &Client, args: &PublishArgs, topic: &str) -> Result<(), Failure> {
    if args.enforce {
        return document::enforcing_topic(client, topic).await;
    }
    let name = topic.to_owned();
    if client.topic(GetTopicRequest { name: name.clone(), options: None }).await.is_err() {
        client.create_topic(CreateTopicRequest { name, ..Default::default() }).await?;
    }
    Ok(())
}

fn data(args: &PublishArgs) -> Vec<u8> {
    if args.json || args.enforce {
        return document::document(args.size);
    }
    payload(args.size)
}

fn new_seen() -> Seen {
    Seen { latencies: latencies(), events: 0, errors: 0, first_error: None }
}

fn report(seen: &Seen, args: &PublishArgs, took: Duration) -> Value {
    json!({
        "rate": rate(seen.events, took),
        "mb_per_s": mb_per_s(seen.events * args.size as u64, took),
        "p50_ms": quantile_ms(&seen.latencies, 0.5),
        "p99_ms": quantile_ms(&seen.latencies, 0.99),
        "max_ms": quantile_ms(&seen.latencies, 1.0),
        "errors": seen.errors,
        "events": seen.events,
        "secs": took.as_secs_f64(),
        "workers": args.workers,
        "depth": args.depth,
        "batch": args.batch,
        "size": args.size,
        "keys": args.keys,
        "enforced": args.enforce,
    })
}

async fn worker(shared: Arc<Shared>, publisher: Publisher, number: u64) -> Seen {
    let mut seen = new_seen();
    let mut on_their_way = FuturesUnordered::new();
    let calls = AtomicU64::new(0);
    let mut versions = Versions::new(&shared.args, number);
    loop {
        while on_their_way.len() < shared.args.depth && !shared.stop.load(Ordering::Relaxed) {
            let call = calls.fetch_add(1, Ordering::Relaxed);
            on_their_way.push(attempt(&shared, &publisher, number, call, versions.next(call)));
        }
        let Some((started, key, result)) = on_their_way.next().await else { return seen };
        versions.settle(key, &result);
        if !shared.measuring.load(Ordering::Relaxed) {
            continue;
        }
        match result {
            Ok(()) => {
                seen.events += shared.args.batch as u64;
                let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(LATENCY_MAX_US);
                seen.latencies.saturating_record(micros);
            }
            Err(error) => {
                seen.errors += 1;
                seen.first_error.get_or_insert(error);
            }
        }
    }
}

async fn attempt(
    shared: &Shared,
    publisher: &Publisher,
    worker: u64,
    call: u64,
    key: Option<(u64, u64)>,
) -> (Instant, Option<u64>, Result<(), Rejection>) {
    let event = |index: usize| -> Bytes {
        let id = format!("{worker}-{call}-{index}");
        let key = key.map_or_else(String::new, |(key, _)| format!("key-{key}"));
        let own = Event { id, key, ..Event::default() };
        with_common(&own, &shared.common)
    };
    let started = clock::now();
    let topic = &shared.topic;
    let result = match (key, shared.args.batch) {
        (None, 1) => publisher.publish_encoded(topic, event(0)).await.map(drop),
        (None, batch) => publisher
            .publish_all(topic, (0..batch).map(event).collect(), Vec::new())
            .await
            .map(drop),
        (Some((key, version)), batch) => {
            let expect = match version {
                0 => key_expectation::Expect::NoKey(true),
                version => key_expectation::Expect::Exact(version),
            };
            let expectation = KeyExpectation { key: format!("key-{key}"), expect: Some(expect) };
            let events = (0..batch).map(event).collect();
            publisher.publish_all(topic, events, vec![expectation]).await.map(drop)
        }
    };
    (started, key.map(|(key, _)| key), result)
}

/// The versions of the keys that belong to one worker alone; a key has one call on its way at most.
struct Versions {
    batch: u64,
    first: u64,
    known: Vec<u64>,
    free: std::collections::VecDeque<usize>,
}

impl Versions {
    fn new(args: &PublishArgs, worker: u64) -> Self {
        let share = match args.keys {
            0 => 0,
            keys => usize::try_from(keys / args.workers as u64).unwrap_or(1).max(args.depth),
        };
        Self {
            batch: args.batch as u64,
            first: worker * share as u64,
            known: vec![0; share],
            free: (0..share).collect(),
        }
    }

    fn next(&mut self, _call: u64) -> Option<(u64, u64)> {
        let slot = self.free.pop_front()?;
        Some((self.first + slot as u64, self.known[slot]))
    }

    fn settle(&mut self, key: Option<u64>, result: &Result<(), Rejection>) {
        let Some(slot) = key.and_then(|key| usize::try_from(key - self.first).ok()) else { return };
        match result {
            Ok(()) => self.known[slot] += self.batch,
            // An append of unknown outcome may have been done: the next one learns of it.
            Err(rejection) if rejection.reason == Reason::VersionConflict => {
                let actual = rejection.fact("actual").and_then(|version| version.parse().ok());
                self.known[slot] = actual.unwrap_or(self.known[slot]);
            }
            Err(_) => {}
        }
        self.free.push_back(slot);
    }
}
