//! `mhub bench`: what a running hub does, measured from outside.

mod consume;
mod document;
mod encoded;
mod publish;
mod read;
mod registry;
mod replay;
mod resolve;
mod route;
mod stage;
mod tail;
mod trace;
mod transact;

use std::time::Duration;

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};

use super::output;
use super::read::ConsistencyArg;
use super::{Done, Failure, Global};
use crate::model::rejection::Exit;

#[derive(Debug, clap::Subcommand)]
pub(super) enum BenchCommand {
    /// Publish as fast as the hub takes it.
    #[command(
        after_help = "Examples:\n  mhub bench publish --workers 64                      64 workers, each waits for its ack\n  mhub bench publish --workers 4 --depth 512           2,048 events on their way\n  mhub bench publish --workers 4 --depth 8 --batch 64  calls of 64 events\n  mhub bench publish --workers 64 --keys 10000         append with key and expected version\n  mhub bench publish --workers 4 --depth 8 --batch 64 --size 512 --enforce     judged by a schema; beside it: --json"
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
    /// Consume and acknowledge what was published before.
    #[command(
        after_help = "Examples:\n  mhub bench consume --consumers 8 --preload 500000\n  mhub bench consume --mixed-priorities --deadlines    the most urgent first\n  mhub bench consume --keys 10000                      in order by key"
    )]
    Consume(consume::ConsumeArgs),
    /// Publish, deliver and acknowledge one event after the other.
    #[command(name = "e2e", after_help = "Example:\n  mhub bench e2e --secs 5")]
    EndToEnd {
        /// Bytes of each event's payload.
        #[arg(long, default_value_t = 256)]
        size: usize,
        /// Seconds to measure, after one second of warming up.
        #[arg(long, default_value_t = 5.0)]
        secs: f64,
    },
    /// Publish at full load, and consume and acknowledge it meanwhile.
    #[command(after_help = "Example:\n  mhub bench mixed --workers 4 --depth 512 --consumers 8")]
    Mixed(consume::MixedArgs),
    /// Ask a node which instance to call, of many services.
    #[command(
        after_help = "Examples:\n  mhub bench resolve --node 127.0.0.1:7500                   as fast as it goes\n  mhub bench resolve --node 127.0.0.1:7500 --rate 25000      at half that\n  mhub bench resolve --cached                                a Resolver, which asks nobody"
    )]
    Resolve(resolve::ResolveArgs),
    /// Keep many instances registered, and tell many watchers of changes. First of all: what the leader does
    /// while they only renew.
    #[command(
        after_help = "Examples:\n  mhub bench registry --instances 10000 --watchers 1000 --secs 30\n  mhub bench registry --instances 10000 --watchers 0 --secs 0 --rest 60    what keeping them costs"
    )]
    Registry(registry::RegistryArgs),
    /// Have the hub deliver to two HTTP instances of its own machine.
    #[command(
        after_help = "Example:\n  mhub bench route --preload 100000      the hub needs --set egress.allow=127.0.0.0/8"
    )]
    Route(route::RouteArgs),
    /// Append to several topics in transactions.
    #[command(
        name = "tx",
        after_help = "Examples:\n  mhub bench tx --workers 16           beside it: mhub bench publish --workers 16 --batch 10\n  mhub bench tx --workers 16 --staged"
    )]
    Transact(transact::TransactArgs),
    /// Ask for the trace of a correlation id of many events.
    #[command(after_help = "Example:\n  mhub bench trace --events 1000 --node 127.0.0.1:7500")]
    Trace(trace::TraceArgs),
    /// Publish at full load, alone and beside a replay, and compare.
    #[command(
        after_help = "Example:\n  mhub bench replay --workers 4 --depth 8 --batch 64 --node 127.0.0.1:7500     a node that does not lead"
    )]
    Replay(replay::ReplayArgs),
    /// Follow a topic while it is published to at full load: how far behind the tail is.
    #[command(
        after_help = "Example:\n  mhub bench tail --workers 4 --depth 512 --reader 127.0.0.1:7500"
    )]
    Tail {
        #[command(flatten)]
        publish: PublishArgs,
        /// The node to follow at; default: the first endpoint.
        #[arg(long, value_name = "HOST:PORT")]
        reader: Option<String>,
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
    /// Payloads are JSON documents of ten fields.
    #[arg(long)]
    json: bool,
    /// The same, and the topic enforces a schema of them.
    #[arg(long, conflicts_with = "topic")]
    enforce: bool,
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
            let told = publish::run(&client, &args).await?;
            output::item(global.output, &told)?;
        }
        BenchCommand::Read { topic, secs, consistency } => {
            let told = read::run(&client, topic, seconds(secs)?, consistency).await?;
            output::item(global.output, &told)?;
        }
        BenchCommand::Consume(args) => {
            output::item(global.output, &consume::run(&client, &args).await?)?;
        }
        BenchCommand::EndToEnd { size, secs } => {
            let told = consume::end_to_end(&client, size, seconds(secs)?).await?;
            output::item(global.output, &told)?;
        }
        BenchCommand::Mixed(args) => {
            output::item(global.output, &consume::mixed(&client, &args).await?)?;
        }
        BenchCommand::Resolve(args) => {
            output::item(global.output, &resolve::run(&global, &client, &args).await?)?;
        }
        BenchCommand::Registry(args) => {
            output::item(global.output, &registry::run(&global, &client, &args).await?)?;
        }
        BenchCommand::Route(args) => {
            output::item(global.output, &route::run(&client, &args).await?)?;
        }
        BenchCommand::Transact(args) => {
            output::item(global.output, &transact::run(&client, &args).await?)?;
        }
        BenchCommand::Trace(args) => {
            output::item(global.output, &trace::run(&global, &client, &args).await?)?;
        }
        BenchCommand::Replay(args) => {
            output::item(global.output, &replay::run(&global, &client, &args).await?)?;
        }
        BenchCommand::Tail { publish, reader } => {
            let reader = match reader {
                Some(endpoint) => global.client_of(vec![endpoint], false)?,
                None => client.clone(),
            };
            output::item(global.output, &tail::run(&client, &reader, &publish).await?)?;
        }
    }
    Ok(Exit::Ok)
}

fn seconds(secs: f64) -> Result<Duration, Failure> {
    Duration::try_from_secs_f64(secs)
        .map_err(|_| Failure::usage(format!("--secs {secs} is no number of seconds")))
}

/// An empty histogram of latencies in microseconds.
fn latencies() -> Histogram<u64> {
    // The bounds are constants that the histogram takes.
    Histogram::new_with_bounds(1, LATENCY_MAX_US, 3)
        .unwrap_or_else(|_| Histogram::new(3).unwrap_or_else(|_| unreachable!()))
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn quantile_ms(latencies: &Histogram<u64>, quantile: f64) -> f64 {
    latencies.value_at_quantile(quantile) as f64 / 1000.0
}

/// Events a second, rounded.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn rate(events: u64, took: Duration) -> f64 {
    (events as f64 / took.as_secs_f64()).round()
}

/// Megabytes a second, with two digits.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn mb_per_s(bytes: u64, took: Duration) -> f64 {
    (bytes as f64 / took.as_secs_f64() / 1e4).round() / 100.0
}

/// Waits for as long as is measured; a terminal sees how long that still is.
async fn wait(what: &'static str, duration: Duration) {
    const STEP: Duration = Duration::from_millis(100);
    let steps = u64::try_from(duration.as_millis() / STEP.as_millis()).unwrap_or(u64::MAX);
    let style = ProgressStyle::with_template("{msg} {bar:30} {eta}");
    let bar = ProgressBar::new(steps).with_message(what);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let end = tokio::time::Instant::now() + duration;
    for _ in 0..steps {
        tokio::time::sleep(STEP).await;
        bar.inc(1);
    }
    tokio::time::sleep_until(end).await;
    bar.finish_and_clear();
}
