//! `mhub events consume`.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::events::decode;
use super::output::{Lines, Output};
use super::value::duration;
use super::{Done, Failure, stop};
use crate::client::cloudevents::EnvelopeJson;
use crate::client::{Client, Consumer, ConsumerOptions, DeliveredEvent, Delivery, Settling};
use crate::model::rejection::Exit;
use crate::proto::v1::{Nack, Reject};

/// Events that are taken ahead.
const WINDOW: u64 = 100;
/// How long the end may take.
const DRAIN: Duration = Duration::from_secs(2);

/// Arguments of `mhub events consume`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ConsumeArgs {
    /// The subscription.
    subscription: String,
    /// End after this many events; 0: never.
    #[arg(long, default_value_t = 0)]
    limit: u64,
    /// End when nothing came for this many seconds.
    #[arg(long, value_name = "SECS")]
    wait: Option<f64>,
    /// Who takes them; default: a name of its own.
    #[arg(long, value_name = "NAME")]
    consumer: Option<String>,
    #[command(flatten)]
    how: How,
    /// With --nack: when they come again, like 500ms, 30s or 5m; default: as the subscription says.
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "nack")]
    retry_after: Option<u64>,
}

#[derive(Clone, Debug, clap::Args)]
#[group(multiple = false)]
struct How {
    /// They are done well (the default).
    #[arg(long)]
    ack: bool,
    /// They failed for this reason, UPPER_SNAKE, and come again.
    #[arg(long, value_name = "REASON")]
    nack: Option<String>,
    /// They are impossible for this reason, UPPER_SNAKE, and go to the dead letters.
    #[arg(long, value_name = "REASON")]
    reject: Option<String>,
}

impl ConsumeArgs {
    fn wait(&self) -> Result<Option<Duration>, Failure> {
        let Some(secs) = self.wait else { return Ok(None) };
        let wait = Duration::try_from_secs_f64(secs);
        wait.map(Some).map_err(|_| Failure::usage(format!("--wait {secs} is no number of seconds")))
    }

    fn settle(&self, delivery: &Delivery, offsets: &[u64]) -> Settling {
        match (&self.how.nack, &self.how.reject) {
            (Some(reason), _) => {
                let (reason, detail) = (reason.clone(), String::new());
                let nack = Nack { retry_after_ms: self.retry_after, reason, detail };
                delivery.nack_events(offsets, nack)
            }
            (None, Some(reason)) => {
                let reject = Reject { reason: reason.clone(), detail: String::new() };
                delivery.reject_events(offsets, reject)
            }
            (None, None) => delivery.ack_events(offsets),
        }
    }
}

const DELIVERED: &[(&str, usize)] =
    &[("topic", 16), ("offset", 8), ("attempt", 7), ("type", 20), ("key", 14), ("data", 0)];

pub(super) async fn run(client: &Client, output: Output, args: ConsumeArgs) -> Done {
    let wait = args.wait()?;
    let mut options = ConsumerOptions::default();
    let window = if args.limit == 0 { WINDOW } else { args.limit.min(WINDOW) };
    options.events = i64::try_from(window).unwrap_or(i64::MAX);
    if let Some(name) = &args.consumer {
        options.name.clone_from(name);
    }
    let mut consumer = client.consume(&args.subscription, options);
    let mut lines = Lines::new(output, DELIVERED);
    let consumed = tokio::select! {
        consumed = consume(&mut consumer, &args, wait, (&mut lines, output)) => consumed,
        stopped = stop::asked() => stopped.map_err(Failure::from),
    };
    // What was taken and not settled goes back at once.
    consumer.shutdown(DRAIN).await;
    consumed?;
    lines.end()?;
    Ok(Exit::Ok)
}

/// Takes, prints and settles, until the limit is reached or nothing comes any more.
async fn consume(
    consumer: &mut Consumer,
    args: &ConsumeArgs,
    wait: Option<Duration>,
    (lines, output): (&mut Lines, Output),
) -> Result<(), Failure> {
    let mut left = if args.limit == 0 { u64::MAX } else { args.limit };
    while left > 0 {
        let next = match wait {
            None => consumer.next().await,
            Some(wait) => match tokio::time::timeout(wait, consumer.next()).await {
                Ok(next) => next,
                Err(_) => return Ok(()),
            },
        };
        let Some(delivery) = next? else { return Ok(()) };
        let (mut taken, mut rest) = (Vec::new(), Vec::new());
        for event in delivery.events() {
            if left == 0 {
                rest.push(event.recorded.offset);
                continue;
            }
            left -= 1;
            taken.push(event.recorded.offset);
            print(lines, output, &event)?;
        }
        // Printed is done: what is settled was seen.
        lines.flush()?;
        let (settled, released) = (args.settle(&delivery, &taken), delivery.release_events(&rest));
        settled.await?;
        released.await?;
    }
    Ok(())
}

/// A delivered event as JSON: `{attempt, topic, offset, …, event}`.
#[derive(Serialize)]
pub(super) struct DeliveredJson<'a> {
    pub(super) attempt: u32,
    #[serde(flatten)]
    pub(super) envelope: EnvelopeJson<'a>,
}

fn print(lines: &mut Lines, output: Output, event: &DeliveredEvent) -> Result<(), Failure> {
    let (recorded, attempt) = (&event.recorded, event.attempt);
    let content = decode(&recorded.event)?;
    if output != Output::Table {
        let envelope = EnvelopeJson { recorded, event: &content };
        return lines.document(&DeliveredJson { attempt, envelope });
    }
    lines.print(&json!({
        "topic": recorded.topic,
        "offset": recorded.offset.to_string(),
        "attempt": attempt.to_string(),
        "type": content.r#type,
        "key": content.key,
        "data": String::from_utf8_lossy(&content.data),
    }))
}
