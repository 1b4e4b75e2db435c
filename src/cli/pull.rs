//! `mhub events pull`.

use std::time::Duration;

use prost::Message as _;
use serde::Serialize;
use serde_json::{Value, json};

use super::consume::DeliveredJson;
use super::events::decode;
use super::output::{self, Output};
use super::value::duration;
use super::{Done, Failure};
use crate::client::cloudevents::EnvelopeJson;
use crate::client::{Client, recorded_events};
use crate::model::rejection::Exit;
use crate::proto::v1::{Event, EventBatch, LeasedEvents, PullRequest, RecordedEvent};

/// Arguments of `mhub events pull`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct PullArgs {
    /// The subscription.
    subscription: String,
    /// At most this many events.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// How long they are leased, 1s to 12h; default: as the subscription says.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    lease: Option<u64>,
    /// How many seconds to wait while nothing is ready, at most 60.
    #[arg(long, value_name = "SECS", default_value_t = 0.0)]
    wait: f64,
    /// Who takes them, and is to settle them; default: a name of its own.
    #[arg(long, value_name = "NAME")]
    consumer: Option<String>,
}

/// An event with the lease that it came under.
struct Taken<'a> {
    lease: &'a LeasedEvents,
    attempt: u32,
    recorded: RecordedEvent,
    event: Event,
}

/// Events, and what acknowledges them as the document of a transaction has it.
#[derive(Serialize)]
struct PulledJson<'a> {
    events: Vec<DeliveredJson<'a>>,
    settles: Vec<Value>,
}

const COLUMNS: [&str; 7] = ["topic", "offset", "attempt", "lease_id", "term", "topic_id", "data"];

pub(super) async fn run(client: &Client, output: Output, args: PullArgs) -> Done {
    let PullArgs { subscription, limit, lease, wait, consumer } = args;
    let wait = Duration::try_from_secs_f64(wait)
        .map_err(|_| Failure::usage(format!("--wait {wait} is no number of seconds")))?;
    let consumer = consumer.unwrap_or_else(|| format!("pull-{}", uuid::Uuid::new_v4()));
    let request = PullRequest {
        subscription: subscription.clone(),
        consumer: consumer.clone(),
        max_events: limit,
        lease_ms: lease.unwrap_or(0),
        wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        ..PullRequest::default()
    };
    let leased = client.pull(request).await?.leased;
    let taken = taken(&leased)?;
    if output == Output::Table {
        let rows: Vec<Value> = taken.iter().map(row).collect();
        output::list(output, &COLUMNS, &rows)?;
    } else {
        let events = taken.iter().map(told).collect();
        let settles = settles(&subscription, &consumer, &leased);
        output::document(output, &PulledJson { events, settles })?;
    }
    if taken.is_empty() {
        output::complain("nothing is ready");
        return Ok(Exit::NotFound);
    }
    output::complain(&format!(
        "leased to {consumer}; they come again unless they are settled in time: mhub tx run --help"
    ));
    Ok(Exit::Ok)
}

fn taken(leased: &[LeasedEvents]) -> Result<Vec<Taken<'_>>, Failure> {
    let mut taken = Vec::new();
    for lease in leased {
        let mut attempts = lease.attempts.iter().copied();
        for batch in &lease.batches {
            let batch = EventBatch::decode(batch.clone()).map_err(anyhow::Error::from)?;
            for recorded in recorded_events(&batch) {
                let (attempt, event) = (attempts.next().unwrap_or(1), decode(&recorded.event)?);
                taken.push(Taken { lease, attempt, recorded, event });
            }
        }
    }
    Ok(taken)
}

fn told<'a>(taken: &'a Taken<'_>) -> DeliveredJson<'a> {
    let envelope = EnvelopeJson { recorded: &taken.recorded, event: &taken.event };
    DeliveredJson { attempt: taken.attempt, envelope }
}

fn row(taken: &Taken<'_>) -> Value {
    json!({
        "topic": taken.recorded.topic,
        "offset": taken.recorded.offset.to_string(),
        "attempt": taken.attempt.to_string(),
        "lease_id": taken.lease.lease_id.to_string(),
        "term": taken.lease.term.to_string(),
        "topic_id": taken.lease.topic_id.to_string(),
        "data": String::from_utf8_lossy(&taken.event.data),
    })
}

/// The acknowledgement of all of it.
fn settles(subscription: &str, consumer: &str, leased: &[LeasedEvents]) -> Vec<Value> {
    let item = |lease: &LeasedEvents| {
        json!({
            "lease_id": lease.lease_id.to_string(),
            "term": lease.term.to_string(),
            "topic_id": lease.topic_id.to_string(),
            "action": "ack",
        })
    };
    if leased.is_empty() {
        return Vec::new();
    }
    let items: Vec<Value> = leased.iter().map(item).collect();
    vec![json!({"subscription": subscription, "consumer": consumer, "items": items})]
}
