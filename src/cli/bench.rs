//! `mhub bench`: what a running hub does, measured from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use hdrhistogram::Histogram;
use prost::Message as _;
use serde_json::{Value, json};

use super::output;
use super::read::ConsistencyArg;
use super::{Done, Failure, Global};
use crate::client::{Client, Publisher};
use crate::model::limits::CALL_EVENTS_MAX;
use crate::model::rejection::{Exit, Reason, Rejection};
use crate::proto::v1::{
    CreateTopicRequest, DeleteTopicRequest, Event, GetTopicRequest, KeyExpectation, ReadRequest,
    key_expectation,
};
use crate::runtime::{clock, tasks};

#[derive(Debug, clap::Subcommand)]
pub(super) enum BenchCommand {
    /// Publish as fast as the hub takes it.
    #[command(
        after_help = "Examples:\n  mhub bench publish --workers 64                      64 workers, each waits for its ack\n  mhub bench publish --workers 4 --depth 512           2,048 events on their way\n  mhub bench publish --workers 4 --depth 8 --batch 64  calls of 64 events\n  mhub bench publish --workers 64 --keys 10000         append with key and expected version"
    )]
    Publish(PublishArgs),
    /// Read a topic from its start as fast as a node gives it.
    #[command(
        after_help = "Example:\n  mhub bench read --topic bench --secs 5 --consistency stale"
    )]
    Read {
        /// The topic.
        #[arg(long, default_value = "bench")]
        topic: String,
        /// Read again from the start until this time is over, seconds.
        #[arg(long, default_value_t = 5.0)]
        secs: f64,
        /// How fresh.
        #[arg(long, default_value = "stale")]
        consistency: ConsistencyArg,
    },
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct PublishArgs {
    /// Workers.
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Calls that each worker has on their way.
    #[arg(long, default_value_t = 1)]
    depth: usize,
    /// Events a call.
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Bytes of each event's payload.
    #[arg(long, default_value_t = 256)]
    size: usize,
    /// Seconds to measure, after one second of warming up.
    #[arg(long, default_value_t = 5.0)]
    secs: f64,
    /// Give every event a key out of so many, and expect its version; 0: no keys.
    #[arg(long, default_value_t = 0)]
    keys: u64,
    /// Streams to the hub.
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// The topic; default: one that is made for the run and deleted after it.
    #[arg(long)]
    topic: Option<String>,
}

const WARM_UP: Duration = Duration::from_secs(1);
/// Bound of measured latencies, microseconds.
const LATENCY_MAX_US: u64 = 60_000_000;

pub(super) async fn run(command: BenchCommand, global: Global) -> Done {
    let client = global.client()?;
    match command {
        BenchCommand::Publish(args) => {
            let told = publish(&client, &args).await?;
            output::item(global.output, &told)?;
        }
        BenchCommand::Read { topic, secs, consistency } => {
            let told = read(&client, topic, seconds(secs)?, consistency).await?;
            output::item(global.output, &told)?;
        }
    }
    Ok(Exit::Ok)
}

fn seconds(secs: f64) -> Result<Duration, Failure> {
    Duration::try_from_secs_f64(secs)
        .map_err(|_| Failure::usage(format!("--secs {secs} is no number of seconds")))
}

/// What the workers share.
struct Shared {
    topic: Arc<str>,
    /// What all events have in common, encoded: the measured work is the hub's, not this.
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

async fn publish(client: &Client, args: &PublishArgs) -> Result<Value, Failure> {
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
    if client.topic(GetTopicRequest { name: topic.clone(), options: None }).await.is_err() {
        client
            .create_topic(CreateTopicRequest { name: topic.clone(), ..Default::default() })
            .await?;
    }
    let shared = Arc::new(Shared {
        topic: topic.as_str().into(),
        common: Event {
            source: "/bench".to_owned(),
            r#type: "bench".to_owned(),
            data: (0..args.size).map(|i| (i * 31 + i / 7).to_le_bytes()[0]).collect(),
            ..Event::default()
        }
        .encode_to_vec(),
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
    tokio::time::sleep(WARM_UP).await;
    shared.measuring.store(true, Ordering::Relaxed);
    let started = clock::now();
    tokio::time::sleep(measured).await;
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
    }
    if let Some(error) = &all.first_error {
        output::complain(&format!("the first error: {error}"));
    }
    Ok(report(&all, args, took))
}

fn new_seen() -> Seen {
    let latencies = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3);
    Seen {
        // The bounds are constants that the histogram takes.
        latencies: latencies
            .unwrap_or_else(|_| Histogram::new(3).unwrap_or_else(|_| unreachable!())),
        events: 0,
        errors: 0,
        first_error: None,
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn report(seen: &Seen, args: &PublishArgs, took: Duration) -> Value {
    let rate = seen.events as f64 / took.as_secs_f64();
    let ms = |quantile: f64| seen.latencies.value_at_quantile(quantile) as f64 / 1000.0;
    json!({
        "rate": rate.round(),
        "mb_per_s": (rate * args.size as f64 / 1e4).round() / 100.0,
        "p50_ms": ms(0.5),
        "p99_ms": ms(0.99),
        "max_ms": ms(1.0),
        "errors": seen.errors,
        "events": seen.events,
        "secs": took.as_secs_f64(),
        "workers": args.workers,
        "depth": args.depth,
        "batch": args.batch,
        "size": args.size,
        "keys": args.keys,
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
        // Encoded messages one after the other are one message with the fields of both.
        let mut encoded = Vec::with_capacity(own.encoded_len() + shared.common.len());
        encoded.extend(own.encode_to_vec());
        encoded.extend_from_slice(&shared.common);
        encoded.into()
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

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
async fn read(
    client: &Client,
    topic: String,
    measured: Duration,
    consistency: ConsistencyArg,
) -> Result<Value, Failure> {
    let started = clock::now();
    let (mut events, mut bytes, mut rounds) = (0_u64, 0_u64, 0_u64);
    let request = ReadRequest { topic, options: Some(consistency.options()), ..Default::default() };
    let mut latencies = new_seen().latencies;
    while started.elapsed() < measured {
        let mut reader = client.read(request.clone());
        let before = events;
        let mut asked = clock::now();
        while let Some(part) = reader.next().await? {
            for batch in &part.batches {
                events += batch.events.len() as u64;
                bytes += batch.events.iter().map(|event| event.len() as u64).sum::<u64>();
            }
            latencies.saturating_record(
                u64::try_from(asked.elapsed().as_micros()).unwrap_or(LATENCY_MAX_US),
            );
            if started.elapsed() >= measured {
                break;
            }
            asked = clock::now();
        }
        rounds += 1;
        if events == before {
            return Err(Failure::usage(
                "the topic has no events; publish some first: mhub bench publish --topic bench",
            ));
        }
    }
    let secs = started.elapsed().as_secs_f64();
    let ms = |quantile: f64| latencies.value_at_quantile(quantile) as f64 / 1000.0;
    Ok(json!({
        "rate": (events as f64 / secs).round(),
        "mb_per_s": (bytes as f64 / secs / 1e4).round() / 100.0,
        "p50_ms": ms(0.5),
        "p99_ms": ms(0.99),
        "errors": 0,
        "events": events,
        "rounds": rounds,
        "secs": secs,
    }))
}
