//! Reading a topic as fast as a node gives it.

use std::time::Duration;

use serde_json::{Value, json};

use super::{ConsistencyArg, LATENCY_MAX_US, latencies, mb_per_s, quantile_ms, rate};
use crate::cli::Failure;
use crate::client::Client;
use crate::proto::v1::ReadRequest;
use crate::runtime::clock;

/// Reads a topic again and again until the time is over.
pub(super) async fn run(
    client: &Client,
    topic: String,
    measured: Duration,
    consistency: ConsistencyArg,
) -> Result<Value, Failure> {
    let started = clock::now();
    let (mut events, mut bytes, mut rounds) = (0_u64, 0_u64, 0_u64);
    let request = ReadRequest { topic, options: Some(consistency.options()), ..Default::default() };
    let mut latencies = latencies();
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
    let took = started.elapsed();
    Ok(json!({
        "rate": rate(events, took),
        "mb_per_s": mb_per_s(bytes, took),
        "p50_ms": quantile_ms(&latencies, 0.5),
        "p99_ms": quantile_ms(&latencies, 0.99),
        "errors": 0,
        "events": events,
        "rounds": rounds,
        "secs": took.as_secs_f64(),
    }))
}
