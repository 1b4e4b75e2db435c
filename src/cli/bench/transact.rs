//! Transactions as fast as the hub takes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::encoded::{common, payload, with_common};
use super::{LATENCY_MAX_US, WARM_UP, latencies, quantile_ms, rate, seconds, wait};
use crate::cli::{Failure, output};
use crate::client::Client;
use crate::model::limits::TRANSACTION_OPERATIONS_MAX;
use crate::model::rejection::{Exit, Rejection};
use crate::proto::v1::{
    BeginTransactionRequest, CommitTransactionRequest, CreateTopicRequest, DeleteTopicRequest,
    Event, StageTransactionRequest, TransactRequest, TransactionPart,
};
use crate::runtime::{clock, tasks};

#[derive(Clone, Debug, clap::Args)]
pub(in crate::cli) struct TransactArgs {
    /// Workers; each waits for its transaction.
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Events of a transaction.
    #[arg(long, default_value_t = 10)]
    operations: usize,
    /// Topics that they go to.
    #[arg(long, default_value_t = 2)]
    topics: usize,
    /// Bytes of each event's payload.
    #[arg(long, default_value_t = 256)]
    size: usize,
    /// Begin, stage each topic's events by themselves, and commit.
    #[arg(long)]
    staged: bool,
    /// Seconds to measure, after one second of warming up.
    #[arg(long, default_value_t = 5.0)]
    secs: f64,
}

/// What the workers share.
struct Shared {
    client: Client,
    topics: Vec<String>,
    args: TransactArgs,
    measuring: AtomicBool,
    stop: AtomicBool,
}

/// What a worker saw while it was measured.
struct Seen {
    latencies: Histogram<u64>,
    done: u64,
    errors: u64,
    first_error: Option<Rejection>,
}

/// Transacts for the time that the arguments name.
pub(super) async fn run(client: &Client, args: &TransactArgs) -> Result<Value, Failure> {
    let measured = seconds(args.secs)?;
    let possible = 1..=TRANSACTION_OPERATIONS_MAX;
    if args.workers == 0 || args.topics == 0 || !possible.contains(&args.operations) {
        return Err(Failure::usage(format!(
            "--workers and --topics are at least 1, --operations 1 to {TRANSACTION_OPERATIONS_MAX}"
        )));
    }
    let run = uuid::Uuid::new_v4();
    let topics: Vec<_> = (0..args.topics).map(|n| format!("bench-{run}-{n}")).collect();
    for name in topics.clone() {
        client.create_topic(CreateTopicRequest { name, ..Default::default() }).await?;
    }
    let shared = Arc::new(Shared {
        client: client.clone(),
        topics,
        args: args.clone(),
        measuring: AtomicBool::new(false),
        stop: AtomicBool::new(false),
    });
    let workers: Vec<_> = (0..args.workers)
        .map(|n| tasks::spawn("bench-worker", worker(Arc::clone(&shared), n)))
        .collect();
    wait("warming up", WARM_UP).await;
    shared.measuring.store(true, Ordering::Relaxed);
    let started = clock::now();
    wait("transacting", measured).await;
    shared.measuring.store(false, Ordering::Relaxed);
    let took = started.elapsed();
    shared.stop.store(true, Ordering::Relaxed);
    let mut all = new_seen();
    for worker in workers {
        let seen = worker.await.map_err(|e| Failure::new(Exit::Error, e.to_string()))?;
        all.latencies.add(&seen.latencies).map_err(|e| Failure::new(Exit::Error, e.to_string()))?;
        all.done += seen.done;
        all.errors += seen.errors;
        all.first_error = all.first_error.or(seen.first_error);
    }
    strike(&shared).await;
    if let Some(error) = &all.first_error {
        output::complain(&format!("the first error: {error}"));
    }
    Ok(report(&all, args, took))
}

/// Cleans up. The figures are worth printing even when that fails.
async fn strike(shared: &Shared) {
    for topic in &shared.topics {
        let (name, confirm_name) = (topic.clone(), topic.clone());
        let request = DeleteTopicRequest { name, confirm_name, ..Default::default() };
        if let Err(rejection) = shared.client.delete_topic(request).await {
            output::complain(&format!("topic {topic} is left behind: {rejection}"));
        }
    }
}

fn new_seen() -> Seen {
    Seen { latencies: latencies(), done: 0, errors: 0, first_error: None }
}

fn report(seen: &Seen, args: &TransactArgs, took: Duration) -> Value {
    json!({
        "transactions_per_s": rate(seen.done, took),
        "events_per_s": rate(seen.done * args.operations as u64, took),
        "p50_ms": quantile_ms(&seen.latencies, 0.5),
        "p99_ms": quantile_ms(&seen.latencies, 0.99),
        "max_ms": quantile_ms(&seen.latencies, 1.0),
        "errors": seen.errors,
        "secs": took.as_secs_f64(),
        "workers": args.workers,
        "operations": args.operations,
        "topics": args.topics,
        "size": args.size,
        "staged": args.staged,
    })
}

async fn worker(shared: Arc<Shared>, number: usize) -> Seen {
    let mut seen = new_seen();
    let common = common(payload(shared.args.size));
    let mut count = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        count += 1;
        let parts = parts(&shared, &format!("{number}-{count}"), &common);
        let started = clock::now();
        let result = transact(&shared, parts).await;
        if !shared.measuring.load(Ordering::Relaxed) {
            continue;
        }
        match result {
            Ok(()) => {
                seen.done += 1;
                let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(LATENCY_MAX_US);
                seen.latencies.saturating_record(micros);
            }
            Err(error) => {
                seen.errors += 1;
                seen.first_error.get_or_insert(error);
            }
        }
    }
    seen
}

fn parts(shared: &Shared, id: &str, common: &[u8]) -> Vec<TransactionPart> {
    let topics = shared.topics.len().min(shared.args.operations);
    let part = |(n, topic): (usize, &String)| TransactionPart {
        topic: topic.clone(),
        expectations: Vec::new(),
        events: (n..shared.args.operations)
            .step_by(topics)
            .map(|index| {
                let own = Event { id: format!("{id}-{index}"), ..Event::default() };
                with_common(&own, common)
            })
            .collect(),
    };
    shared.topics.iter().take(topics).enumerate().map(part).collect()
}

async fn transact(shared: &Shared, parts: Vec<TransactionPart>) -> Result<(), Rejection> {
    let client = &shared.client;
    if !shared.args.staged {
        let request = TransactRequest { parts, ..TransactRequest::default() };
        return client.transact(request).await.map(drop);
    }
    let id = client.begin_transaction(BeginTransactionRequest::default()).await?.id;
    for part in parts {
        let request = StageTransactionRequest { id, parts: vec![part], ..Default::default() };
        client.stage_transaction(request).await?;
    }
    client.commit_transaction(CommitTransactionRequest { id }).await.map(drop)
}
