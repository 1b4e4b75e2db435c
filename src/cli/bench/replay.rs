//! Replaying from a node while others publish.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::stage::{Shape, Stage};
use super::{PublishArgs, mb_per_s, publish, rate};
use crate::cli::read::ConsistencyArg;
use crate::cli::{Failure, Global};
use crate::client::{Client, Replay, ReplayOptions};
use crate::runtime::{clock, tasks};

#[derive(Clone, Debug, clap::Args)]
pub(in crate::cli) struct ReplayArgs {
    #[command(flatten)]
    publish: PublishArgs,
    /// Events that are published before, to be replayed.
    #[arg(long, default_value_t = 500_000)]
    preload: u64,
    /// The node to replay from; default: the first endpoint.
    #[arg(long, value_name = "HOST:PORT")]
    node: Option<String>,
    /// How fresh.
    #[arg(long, default_value = "linearizable")]
    consistency: ConsistencyArg,
}

/// Publishes for the time that the arguments name, alone; then once more, with a replay beside it.
pub(super) async fn run(
    global: &Global,
    client: &Client,
    args: &ReplayArgs,
) -> Result<Value, Failure> {
    if args.preload == 0 {
        return Err(Failure::usage("--preload is at least 1"));
    }
    let reader = global.client_at(args.node.as_ref())?;
    let shape = Shape { size: args.publish.size, ..Shape::default() };
    let stage = Stage::set(client, shape.config()).await?;
    let told = match stage.fill(&shape, args.preload).await {
        Ok(()) => measure(&stage, reader, args).await,
        Err(failure) => Err(failure),
    };
    stage.strike().await;
    told
}

async fn measure(stage: &Stage, reader: Client, args: &ReplayArgs) -> Result<Value, Failure> {
    let alone = publish::run(&stage.client, &args.publish).await?;
    let options = ReplayOptions {
        topic: stage.name.clone(),
        options: Some(args.consistency.options()),
        ..ReplayOptions::default()
    };
    let stop = Arc::new(AtomicBool::new(false));
    let replaying = tasks::spawn("bench-replay", replay(reader, options, Arc::clone(&stop)));
    let beside = publish::run(&stage.client, &args.publish).await;
    stop.store(true, Ordering::Relaxed);
    let replayed = replaying.await.map_err(|e| Failure::from(anyhow::Error::from(e)))??;
    let beside = beside?;
    let number = |of: &Value, name: &str| of[name].as_f64().unwrap_or(0.0);
    let (replay_rate, publish_rate) = (number(&replayed, "rate"), number(&beside, "rate"));
    Ok(json!({
        "rate": replay_rate,
        "mb_per_s": replayed["mb_per_s"],
        "rounds": replayed["rounds"],
        "published_rate": publish_rate,
        "published_p50_ms": beside["p50_ms"],
        "published_p99_ms": beside["p99_ms"],
        "published_alone_rate": alone["rate"],
        "published_of_alone": ratio(publish_rate, number(&alone, "rate")),
        "replayed_of_published": ratio(replay_rate, publish_rate),
        "errors": number(&alone, "errors") + number(&beside, "errors"),
    }))
}

/// With two digits; 0 where there is nothing to compare with.
fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { (part / whole * 100.0).round() / 100.0 } else { 0.0 }
}

/// Replays the topic, again and again until it is told to stop.
async fn replay(
    reader: Client,
    options: ReplayOptions,
    stop: Arc<AtomicBool>,
) -> Result<Value, Failure> {
    let (mut events, mut bytes, mut rounds, began) = (0_u64, 0_u64, 0_u64, clock::now());
    while !stop.load(Ordering::Relaxed) {
        let mut replay = Replay::begin(&reader, options.clone(), None).await?;
        while let Some(some) = replay.next().await? {
            events += some.len() as u64;
            bytes += some.iter().map(|event| event.event.len() as u64).sum::<u64>();
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        rounds += 1;
    }
    let took = began.elapsed();
    Ok(json!({ "rate": rate(events, took), "mb_per_s": mb_per_s(bytes, took), "rounds": rounds }))
}

#[cfg(test)]
mod tests {
    use super::ratio;

    #[test]
    fn a_ratio_has_two_digits() {
        assert_eq!((ratio(2.0, 3.0), ratio(3.0, 2.0), ratio(1.0, 0.0)), (0.67, 1.5, 0.0));
    }
}
