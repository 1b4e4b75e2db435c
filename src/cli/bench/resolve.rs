//! Asking whom to call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::registry::{Fleet, FleetArgs};
use super::{LATENCY_MAX_US, WARM_UP, latencies, quantile_ms, rate, seconds, wait};
use crate::cli::{Failure, Global};
use crate::client::{Client, Resolver, ResolverOptions};
use crate::model::rejection::Exit;
use crate::proto::v1::ResolveRequest;
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
    let pause = match args.rate {
        0 => Duration::ZERO,
        rate => {
            let askers = u32::try_from(args.callers * args.depth).unwrap_or(u32::MAX);
            Duration::from_secs(1).saturating_mul(askers) / rate
        }
    };
    let mut askers = Vec::new();
    for caller in 0..args.callers {
        let client = match &args.node {
            Some(endpoint) => global.client_of(vec![endpoint.clone()], true)?,
            None => global.client()?,
        };
        for asker in 0..args.depth {
            let number = caller * args.depth + asker;
            let asking = ask(client.clone(), fleet.services(), number, pause, Arc::clone(&stop));
            askers.push(tasks::spawn("bench-resolve", asking));
        }
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

/// One question after the other; what came after warming up, and how many failed.
async fn ask(
    client: Client,
    services: Vec<String>,
    number: usize,
    pause: Duration,
    stop: Arc<AtomicBool>,
) -> (hdrhistogram::Histogram<u64>, u64) {
    let (mut seen, mut errors, began) = (latencies(), 0, clock::now());
    let mut due =
        tokio::time::Instant::now() + pause * u32::try_from(number % 64).unwrap_or(0) / 64;
    for service in services.iter().cycle().skip(number) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        if !pause.is_zero() {
            tokio::time::sleep_until(due).await;
            due += pause;
        }
        let asked = clock::now();
        let request = ResolveRequest { service: service.clone(), count: 1, ..Default::default() };
        let answer = client.resolve(request).await;
        if began.elapsed() >= WARM_UP {
            let took = u64::try_from(asked.elapsed().as_micros()).unwrap_or(LATENCY_MAX_US);
            seen.saturating_record(took);
            errors += u64::from(answer.is_err());
        }
    }
    (seen, errors)
}

async fn cached(client: &Client, fleet: &Fleet, measured: Duration) -> Result<Value, Failure> {
    let service = &fleet.services()[0];
    let resolver = Resolver::new(client, service, ResolverOptions::default()).await?;
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
