//! Consuming: what was published before, or is meanwhile, is delivered and acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::stage::{Shape, Stage};
use super::{
    LATENCY_MAX_US, PublishArgs, WARM_UP, latencies, mb_per_s, publish, quantile_ms, rate, seconds,
};
use crate::cli::{Failure, output};
use crate::client::{Client, Consumer, ConsumerOptions};
use crate::model::limits::{CREDIT_BYTES_MAX, CREDIT_EVENTS_MAX};
use crate::model::rejection::{Exit, Rejection};
use crate::runtime::{clock, tasks};

#[derive(Clone, Debug, clap::Args)]
pub(in crate::cli) struct ConsumeArgs {
    /// Consumers; all share one subscription.
    #[arg(long, default_value_t = 8)]
    consumers: usize,
    #[command(flatten)]
    shape: Shape,
    /// Events that are published before.
    #[arg(long, default_value_t = 500_000)]
    preload: u64,
    /// Give up when they are not consumed by then, seconds.
    #[arg(long, default_value_t = 120.0)]
    give_up: f64,
}

#[derive(Clone, Debug, clap::Args)]
pub(in crate::cli) struct MixedArgs {
    #[command(flatten)]
    publish: PublishArgs,
    /// Consumers; all share one subscription.
    #[arg(long, default_value_t = 8)]
    consumers: usize,
}

impl Stage {
    fn consumer(&self, number: usize, consumers: usize) -> Consumer {
        let share = |all: i64| all / i64::try_from(consumers).unwrap_or(1).max(1);
        let options = ConsumerOptions {
            name: format!("bench-{number}"),
            events: share(CREDIT_EVENTS_MAX).max(1),
            bytes: share(CREDIT_BYTES_MAX).max(1 << 20),
            ..ConsumerOptions::default()
        };
        self.client.consume(self.name.clone(), options)
    }

    /// Starts consumers that acknowledge all they get.
    fn consume(&self, consumers: usize, shared: &Arc<Shared>) -> Vec<JoinHandle<Seen>> {
        let each = (0..consumers).map(|number| {
            let consumer = self.consumer(number, consumers);
            tasks::spawn("bench-consumer", acknowledge(consumer, Arc::clone(shared)))
        });
        each.collect()
    }
}

/// What the consumers of a run share.
struct Shared {
    /// Events acknowledged.
    acked: AtomicU64,
    /// So many there are.
    expected: u64,
    /// Only what is acknowledged after this counts.
    from: Instant,
    stop: watch::Sender<bool>,
}

impl Shared {
    fn new(expected: u64, from: Instant) -> Arc<Self> {
        Arc::new(Self { acked: AtomicU64::new(0), expected, from, stop: watch::Sender::new(false) })
    }

    /// Waits for the end, for ever if need be.
    async fn stopped(&self) {
        // The sender lives as long as this.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }
}

/// What a consumer saw.
struct Seen {
    /// From the delivery to the answer to its acknowledgement.
    latencies: Histogram<u64>,
    errors: u64,
    first_error: Option<Rejection>,
}

impl Seen {
    fn new() -> Self {
        Self { latencies: latencies(), errors: 0, first_error: None }
    }

    fn note(&mut self, error: Rejection) {
        self.errors += 1;
        self.first_error.get_or_insert(error);
    }

    async fn of(consumers: Vec<JoinHandle<Self>>) -> Result<Self, Failure> {
        let mut all = Self::new();
        for consumer in consumers {
            let seen = consumer.await.map_err(|e| Failure::new(Exit::Error, e.to_string()))?;
            let added = all.latencies.add(&seen.latencies);
            added.map_err(|e| Failure::new(Exit::Error, e.to_string()))?;
            all.errors += seen.errors;
            all.first_error = all.first_error.or(seen.first_error);
        }
        if let Some(error) = &all.first_error {
            output::complain(&format!("the first error: {error}"));
        }
        Ok(all)
    }
}

async fn acknowledge(mut consumer: Consumer, shared: Arc<Shared>) -> Seen {
    let mut seen = Seen::new();
    let mut on_their_way = FuturesUnordered::new();
    let mut stopped = std::pin::pin!(shared.stopped());
    loop {
        tokio::select! {
            biased;
            () = &mut stopped => break,
            Some((events, started, result)) = on_their_way.next() => match result {
                Ok(()) if started >= shared.from => {
                    seen.latencies.saturating_record_n(micros(started), events);
                    let acked = shared.acked.fetch_add(events, Ordering::Relaxed) + events;
                    if acked >= shared.expected {
                        shared.stop.send_replace(true);
                    }
                }
                Ok(()) => {}
                Err(error) => seen.note(error),
            },
            delivery = consumer.next() => match delivery {
                Ok(Some(delivery)) => on_their_way.push(async move {
                    let started = clock::now();
                    let result = delivery.ack().await;
                    (delivery.len() as u64, started, result)
                }),
                Ok(None) => break,
                Err(error) => {
                    seen.note(error);
                    break;
                }
            },
        }
    }
    consumer.shutdown(Duration::ZERO).await;
    seen
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(LATENCY_MAX_US)
}

/// Consumes what was published before.
pub(super) async fn run(client: &Client, args: &ConsumeArgs) -> Result<Value, Failure> {
    let give_up = seconds(args.give_up)?;
    if args.consumers == 0 || args.preload == 0 {
        return Err(Failure::usage("--consumers and --preload are at least 1"));
    }
    let stage = Stage::set(client, args.shape.config()).await?;
    stage.fill(&args.shape, args.preload).await?;
    let started = clock::now();
    let shared = Shared::new(args.preload, started);
    let consumers = stage.consume(args.consumers, &shared);
    if tokio::time::timeout(give_up, shared.stopped()).await.is_err() {
        shared.stop.send_replace(true);
    }
    let took = started.elapsed();
    let seen = Seen::of(consumers).await?;
    stage.strike().await;
    let acked = shared.acked.load(Ordering::Relaxed);
    if acked < args.preload {
        output::complain(&format!("only {acked} of {} were consumed in time", args.preload));
    }
    Ok(json!({
        "rate": rate(acked, took),
        "mb_per_s": mb_per_s(acked * args.shape.size as u64, took),
        "p50_ms": quantile_ms(&seen.latencies, 0.5),
        "p99_ms": quantile_ms(&seen.latencies, 0.99),
        "max_ms": quantile_ms(&seen.latencies, 1.0),
        "errors": seen.errors,
        "events": acked,
        "secs": took.as_secs_f64(),
        "consumers": args.consumers,
        "size": args.shape.size,
    }))
}

/// Consumes what is published meanwhile.
pub(super) async fn mixed(client: &Client, args: &MixedArgs) -> Result<Value, Failure> {
    let measured = seconds(args.publish.secs)?;
    let shape = Shape { size: args.publish.size, ..Shape::default() };
    let stage = Stage::set(client, shape.config()).await?;
    let shared = Shared::new(u64::MAX, clock::now() + WARM_UP);
    let consumers = stage.consume(args.consumers, &shared);
    let load = PublishArgs { topic: Some(stage.name.clone()), ..args.publish.clone() };
    let published = publish::run(client, &load).await?;
    shared.stop.send_replace(true);
    let acked = shared.acked.load(Ordering::Relaxed);
    let seen = Seen::of(consumers).await?;
    stage.strike().await;
    let consumed = rate(acked, measured);
    Ok(json!({
        "rate": published["rate"].as_f64().unwrap_or(0.0) + consumed,
        "published_rate": published["rate"],
        "consumed_rate": consumed,
        "published_p50_ms": published["p50_ms"],
        "published_p99_ms": published["p99_ms"],
        "p50_ms": quantile_ms(&seen.latencies, 0.5),
        "p99_ms": quantile_ms(&seen.latencies, 0.99),
        "mb_per_s": mb_per_s(acked * args.publish.size as u64, measured),
        "errors": seen.errors + published["errors"].as_u64().unwrap_or(0),
    }))
}

/// One event after the other: published, delivered, acknowledged.
pub(super) async fn end_to_end(
    client: &Client,
    size: usize,
    measured: Duration,
) -> Result<Value, Failure> {
    let shape = Shape { size, ..Shape::default() };
    let stage = Stage::set(client, shape.config()).await?;
    let (publisher, mut consumer) = (client.publisher(), stage.consumer(0, 1));
    let (mut all, mut published, mut delivered) = (latencies(), latencies(), latencies());
    let (begun, mut n) = (clock::now(), 0);
    while begun.elapsed() < WARM_UP + measured {
        let started = clock::now();
        publisher.publish(&stage.name, shape.event(n, 0)).await?;
        let publish_us = micros(started);
        let delivery = consumer.next().await?;
        let deliver_us = micros(started);
        let Some(delivery) = delivery else { break };
        delivery.ack().await?;
        if begun.elapsed() >= WARM_UP {
            all.saturating_record(micros(started));
            published.saturating_record(publish_us);
            delivered.saturating_record(deliver_us);
        }
        n += 1;
    }
    consumer.shutdown(Duration::ZERO).await;
    stage.strike().await;
    Ok(json!({
        "rate": rate(all.len(), measured),
        "p50_ms": quantile_ms(&all, 0.5),
        "p99_ms": quantile_ms(&all, 0.99),
        "max_ms": quantile_ms(&all, 1.0),
        "published_p50_ms": quantile_ms(&published, 0.5),
        "delivered_p50_ms": quantile_ms(&delivered, 0.5),
        "events": all.len(),
        "errors": 0,
    }))
}
