//! Asking for the story of a correlation id.

use std::time::Duration;

use prost::Message as _;
use serde_json::{Value, json};

use super::stage::{Shape, Stage};
use super::{LATENCY_MAX_US, latencies, quantile_ms, rate, seconds};
use crate::cli::read::ConsistencyArg;
use crate::cli::{Failure, Global};
use crate::client::{Client, EventBuilder};
use crate::model::limits::TRACE_ROWS_MAX;
use crate::model::rejection::{Exit, Rejection};
use crate::proto::v1::TraceRequest;
use crate::runtime::clock;

/// Events of a call.
const CALL: u64 = 64;

#[derive(Clone, Debug, clap::Args)]
pub(in crate::cli) struct TraceArgs {
    /// Events of the correlation id, each caused by the one before.
    #[arg(long, default_value_t = 1000)]
    events: u64,
    /// Bytes of each event's payload.
    #[arg(long, default_value_t = 256)]
    size: usize,
    /// Seconds to measure.
    #[arg(long, default_value_t = 5.0)]
    secs: f64,
    /// The node to ask; default: the first endpoint.
    #[arg(long, value_name = "HOST:PORT")]
    node: Option<String>,
    /// How fresh.
    #[arg(long, default_value = "linearizable")]
    consistency: ConsistencyArg,
}

/// Traces again and again, one trace after the other: all pages of it.
pub(super) async fn run(
    global: &Global,
    client: &Client,
    args: &TraceArgs,
) -> Result<Value, Failure> {
    let measured = seconds(args.secs)?;
    if args.events == 0 {
        return Err(Failure::usage("--events is at least 1"));
    }
    let asked = global.client_at(args.node.as_ref())?;
    // With a subscription, so that there is a fate to tell of each.
    let stage = Stage::set(client, Shape::default().config()).await?;
    let told = measure(&stage, &asked, args, measured).await;
    stage.strike().await;
    told
}

async fn measure(
    stage: &Stage,
    asked: &Client,
    args: &TraceArgs,
    measured: Duration,
) -> Result<Value, Failure> {
    publish(stage, args).await?;
    let (mut seen, mut traces, began) = (latencies(), 0_u64, clock::now());
    while began.elapsed() < measured {
        let started = clock::now();
        let events = trace(asked, &stage.name, args.consistency).await?;
        // A node that lags may not have them all yet.
        if events != args.events && args.consistency == ConsistencyArg::Linearizable {
            let told = format!("{events} of {} events were told", args.events);
            return Err(Failure::new(Exit::Error, told));
        }
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(LATENCY_MAX_US);
        seen.saturating_record(micros);
        traces += 1;
    }
    let took = began.elapsed();
    Ok(json!({
        "rate": rate(traces, took),
        "p50_ms": quantile_ms(&seen, 0.5),
        "p99_ms": quantile_ms(&seen, 0.99),
        "max_ms": quantile_ms(&seen, 1.0),
        "errors": 0,
        "traces": traces,
        "events": args.events,
        "secs": took.as_secs_f64(),
    }))
}

/// Publishes the events; the topic's name is their correlation id.
async fn publish(stage: &Stage, args: &TraceArgs) -> Result<(), Failure> {
    let publisher = stage.client.publisher();
    let event = |n: u64| {
        let event = EventBuilder::new("/bench", "bench").id(n.to_string());
        let event = event.correlation_id(stage.name.as_str()).data(vec![b'x'; args.size]);
        let event = if n > 0 { event.causation_id((n - 1).to_string()) } else { event };
        event.build().encode_to_vec().into()
    };
    for first in (0..args.events).step_by(usize::try_from(CALL).unwrap_or(1)) {
        let events = (first..args.events.min(first + CALL)).map(event).collect();
        publisher.publish_all(&stage.name, events, Vec::new()).await?;
    }
    Ok(())
}

/// How many events a trace tells of.
async fn trace(
    asked: &Client,
    correlation_id: &str,
    consistency: ConsistencyArg,
) -> Result<u64, Rejection> {
    let mut request = TraceRequest {
        correlation_id: correlation_id.to_owned(),
        page_size: u32::try_from(TRACE_ROWS_MAX).unwrap_or(u32::MAX),
        page_token: String::new(),
        options: Some(consistency.options()),
        subscription: String::new(),
    };
    let mut events = 0;
    loop {
        let page = asked.trace(request.clone()).await?;
        events += page.events.len() as u64;
        if page.next_page_token.is_empty() {
            return Ok(events);
        }
        request.page_token = page.next_page_token;
    }
}
