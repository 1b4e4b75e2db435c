//! Asking whom to call.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::registry::{Fleet, FleetArgs};
use super::{LATENCY_MAX_US, WARM_UP, latencies, quantile_ms, rate, seconds, wait};
use crate::cli::{Failure, Global};
use crate::client::{Client, Resolver, ResolverOptions};
use crate::model::rejection::Exit;
use crate::proto::v1::ResolveRequest;
use crate::proto::v1::resolve_answer::Answer;
use crate::runtime::{clock, tasks};

#[derive(Clone, Debug, clap::Args)]
pub(in crate::cli) struct ResolveArgs {
    #[command(flatten)]
    fleet: FleetArgs,
    /// Callers, each with a connection of its own.
    #[arg(long, default_value_t = 4)]
    callers: usize,
    /// Questions that each caller has on their way.
    #[arg(long, default_value_t = 32)]
    depth: usize,
    /// Questions a second, of all callers together; 0: as many as it goes.
    #[arg(long, default_value_t = 0)]
    rate: u32,
    /// Seconds to measure, after one second of warming up.
    #[arg(long, default_value_t = 5.0)]
    secs: f64,
    /// The node to ask; default: the first endpoint.
    #[arg(long, value_name = "HOST:PORT")]
    node: Option<String>,
    /// A call for each question, instead of a stream for those of a caller.
    #[arg(long)]
    unary: bool,
    /// Choose by a `Resolver`, which is told of changes and asks nobody.
    #[arg(long)]
    cached: bool,
}

/// Asks again and again.
pub(super) async fn run(
    global: &Global,
    client: &Client,
    args: &ResolveArgs,
) -> Result<Value, Failure> {
    if args.callers == 0 || args.depth == 0 {
        return Err(Failure::usage("--callers and --depth are at least 1"));
    }
    let measured = seconds(args.secs)?;
    let fleet = Fleet::register(client, &args.fleet).await?;
    let told = if args.cached {
        cached(client, &fleet, measured).await
    } else {
        asked(global, &fleet, args, measured).await
    };
    fleet.deregister().await?;
    told
}

async fn asked(
    global: &Global,
    fleet: &Fleet,
    args: &ResolveArgs,
    measured: Duration,
) -> Result<Value, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let began = clock::now();
    // Each asks as often as its share.
    let each = if args.unary { args.depth } else { 1 };
    let pause = match args.rate {
        0 => Duration::ZERO,
        rate => {
            let askers = u32::try_from(args.callers * each).unwrap_or(u32::MAX);
            Duration::from_secs(1).saturating_mul(askers) / rate
        }
    };
    let mut askers = Vec::new();
    for number in 0..args.callers * each {
        let client = global.client_at(args.node.as_ref())?;
        let asker = Asker {
            client,
            services: fleet.services(),
            number,
            pause,
            depth: args.depth,
            stop: Arc::clone(&stop),
        };
        askers.push(if args.unary {
            tasks::spawn("bench-resolve", asker.ask())
        } else {
            tasks::spawn("bench-resolve", asker.stream())
        });
    }
    wait("resolving", WARM_UP + measured).await;
    stop.store(true, Ordering::Relaxed);
    let (mut all, mut errors) = (latencies(), 0);
    for seen in join_all(askers).await {
        let (seen, failed) = seen.map_err(|e| Failure::from(anyhow::Error::from(e)))?;
        all.add(&seen).map_err(|e| Failure::new(Exit::Error, e.to_string()))?;
        errors += failed;
    }
    let took = began.elapsed().saturating_sub(WARM_UP);
    Ok(json!({
        "rate": rate(all.len(), took),
        "p50_ms": quantile_ms(&all, 0.5),
        "p99_ms": quantile_ms(&all, 0.99),
        "max_ms": quantile_ms(&all, 1.0),
        "errors": errors,
        "callers": args.callers,
        "depth": args.depth,
    }))
}

/// Somebody who asks.
struct Asker {
    client: Client,
    services: Vec<String>,
    number: usize,
    pause: Duration,
    depth: usize,
    stop: Arc<AtomicBool>,
}

/// What came after warming up, and how many failed.
type Answered = (hdrhistogram::Histogram<u64>, u64);

impl Asker {
    fn question(&self, n: usize) -> ResolveRequest {
        let service = self.services[(self.number + n) % self.services.len()].clone();
        ResolveRequest { service, count: 1, ..Default::default() }
    }

    /// One question after the other.
    async fn ask(self) -> Answered {
        let (mut seen, mut errors, began) = (latencies(), 0, clock::now());
        let mut due = tokio::time::Instant::now();
        for n in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            if !self.pause.is_zero() {
                tokio::time::sleep_until(due).await;
                due += self.pause;
            }
            let asked = clock::now();
            let answer = self.client.resolve(self.question(n)).await;
            if began.elapsed() >= WARM_UP {
                seen.saturating_record(micros(asked));
                errors += u64::from(answer.is_err());
            }
        }
        (seen, errors)
    }

    /// Questions over one stream, so many on their way.
    async fn stream(self) -> Answered {
        let (mut seen, mut errors, began) = (latencies(), 0, clock::now());
        let (questions, outbox) = mpsc::channel(self.depth);
        let opened = self.client.resolve_stream(ReceiverStream::new(outbox)).await;
        let Ok(mut answers) = opened else { return (seen, 1) };
        let (mut asked, mut n) = (VecDeque::new(), 0);
        let mut due = tokio::time::Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            while asked.len() < self.depth && due <= tokio::time::Instant::now() {
                if questions.send(self.question(n)).await.is_err() {
                    return (seen, errors + 1);
                }
                asked.push_back(clock::now());
                due += self.pause;
                n += 1;
            }
            let answer = tokio::select! {
                answer = answers.message(), if !asked.is_empty() => answer,
                () = tokio::time::sleep_until(due), if asked.len() < self.depth => continue,
            };
            let (Ok(Some(answer)), Some(at)) = (answer, asked.pop_front()) else {
                return (seen, errors + 1);
            };
            if began.elapsed() >= WARM_UP {
                seen.saturating_record(micros(at));
                errors += u64::from(!matches!(answer.answer, Some(Answer::Found(_))));
            }
        }
        (seen, errors)
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(LATENCY_MAX_US)
}

async fn cached(client: &Client, fleet: &Fleet, measured: Duration) -> Result<Value, Failure> {
    let service = &fleet.services()[0];
    let resolver = Resolver::new(client, service, ResolverOptions::default()).await?;
    // The node that was asked may not have heard of them yet.
    while resolver.pick("").is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (began, mut picks, mut errors) = (clock::now(), 0_u64, 0_u64);
    while began.elapsed() < measured {
        match resolver.pick("") {
            Ok(chosen) => chosen.done(true),
            Err(_) => errors += 1,
        }
        picks += 1;
        if picks.is_multiple_of(1000) {
            tokio::task::yield_now().await;
        }
    }
    Ok(json!({ "rate": rate(picks, began.elapsed()), "picks": picks, "errors": errors }))
}
