//! `mhub tx pipe`: consume, transform, and append the result, exactly once.

use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::events::decode;
use super::output::{Lines, Output, complain};
use super::{Done, Failure};
use crate::client::{Client, recorded_events};
use crate::model::rejection::{Exit, Reason, Rejection};
use crate::proto::v1::settlement::Action;
use crate::proto::v1::{
    Ack, Event, EventBatch, LeasedEvents, Nack, OffsetRange, PullRequest, RecordedEvent,
    SettleRequest, Settlement, TransactRequest, TransactionPart,
};

/// How long a pull waits for events, where nobody says when to end.
const LOOK: Duration = Duration::from_secs(5);
/// Why an event failed whose command did.
const FAILED: &str = "COMMAND_FAILED";

/// Arguments of `mhub tx pipe`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct PipeArgs {
    /// The subscription that events come from.
    subscription: String,
    /// The topic that results go to.
    #[arg(long, value_name = "TOPIC")]
    into: String,
    /// A command of the shell that gets each payload, and tells the new one; nothing: no event. An
    /// event fails when it does. Default: payloads stay as they are.
    #[arg(long, value_name = "COMMAND")]
    run: Option<String>,
    /// The type of results; default: that of the event.
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// End after this many events; 0: never.
    #[arg(long, default_value_t = 0)]
    limit: u64,
    /// End when nothing came for this many seconds, at most 60.
    #[arg(long, value_name = "SECS")]
    wait: Option<f64>,
    /// Events of a transaction, at most; all of their commands have to be done within the lease.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=500))]
    batch: u32,
    /// Who takes them; default: a name of its own.
    #[arg(long, value_name = "NAME")]
    consumer: Option<String>,
}

const HANDED_ON: &[(&str, usize)] =
    &[("topic", 16), ("offset", 8), ("into", 16), ("into_offset", 11), ("data", 0)];

/// Hands events on until the limit is reached or nothing comes any more.
pub(super) async fn run(client: &Client, output: Output, args: PipeArgs) -> Done {
    let wait = match args.wait {
        None => LOOK,
        Some(secs) => Duration::try_from_secs_f64(secs)
            .map_err(|_| Failure::usage(format!("--wait {secs} is no number of seconds")))?,
    };
    let consumer =
        args.consumer.clone().unwrap_or_else(|| format!("pipe-{}", uuid::Uuid::new_v4()));
    let pipe = Pipe { client, consumer, args: &args };
    let mut lines = Lines::new(output, HANDED_ON);
    let piped = tokio::select! {
        piped = pipe.run(wait, &mut lines) => piped,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    piped?;
    lines.end()?;
    Ok(Exit::Ok)
}

struct Pipe<'a> {
    client: &'a Client,
    consumer: String,
    args: &'a PipeArgs,
}

/// Events of a lease with what became of each.
#[derive(Default)]
struct Made {
    /// The event that was consumed, and the one that is appended, if any.
    done: Vec<(RecordedEvent, Option<Event>)>,
    failed: Vec<RecordedEvent>,
}

impl Pipe<'_> {
    async fn run(&self, wait: Duration, lines: &mut Lines) -> Result<(), Failure> {
        let mut left = if self.args.limit == 0 { u64::MAX } else { self.args.limit };
        while left > 0 {
            let pull = PullRequest {
                subscription: self.args.subscription.clone(),
                consumer: self.consumer.clone(),
                max_events: u32::try_from(left).unwrap_or(u32::MAX).min(self.args.batch),
                wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                ..PullRequest::default()
            };
            let pulled = match self.client.pull(pull).await {
                Ok(pulled) => pulled,
                // What was leased comes again once the lease is over.
                Err(unknown) if unknown.reason == Reason::OutcomeUnknown => continue,
                Err(refused) => return Err(refused.into()),
            };
            if pulled.leased.is_empty() && self.args.wait.is_some() {
                return Ok(());
            }
            for lease in &pulled.leased {
                let made = self.make(lease).await?;
                left = left.saturating_sub(self.hand_on(lease, made, lines).await?);
            }
        }
        Ok(())
    }

    /// What is made of the events of a lease.
    async fn make(&self, lease: &LeasedEvents) -> Result<Made, Failure> {
        let mut made = Made::default();
        for batch in &lease.batches {
            let batch = EventBatch::decode(batch.clone()).map_err(anyhow::Error::from)?;
            for recorded in recorded_events(&batch) {
                let event = decode(&recorded.event)?;
                match self.transform(event.data.clone()).await? {
                    Some(data) => {
                        let new = (!data.is_empty()).then(|| {
                            let place = (lease.topic_id, recorded.offset);
                            self.result(&recorded.topic, place, event, data)
                        });
                        made.done.push((recorded, new));
                    }
                    None => made.failed.push(recorded),
                }
            }
        }
        Ok(made)
    }

    /// What the command makes of a payload; `None`: it failed.
    async fn transform(&self, data: Bytes) -> Result<Option<Bytes>, Failure> {
        let Some(command) = &self.args.run else { return Ok(Some(data)) };
        let mut shell = Command::new("sh");
        let shell = shell.arg("-c").arg(command).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut running = shell.kill_on_drop(true).spawn().map_err(anyhow::Error::from)?;
        let stdin = running.stdin.take();
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A command need not read what it is told.
                drop(stdin.write_all(&data).await);
            }
        };
        let ((), output) = tokio::join!(feed, running.wait_with_output());
        let output = output.map_err(anyhow::Error::from)?;
        Ok(output.status.success().then(|| output.stdout.into()))
    }

    /// The event that is appended: the same story goes on, with the consumed one as the cause. Its id
    /// is that of the consumed one's place: ids of events repeat from source to source.
    fn result(
        &self,
        topic: &str,
        (topic_id, offset): (u64, u64),
        event: Event,
        data: Bytes,
    ) -> Event {
        Event {
            id: format!("{topic}/{topic_id}/{offset}"),
            source: format!("/mhub/pipe/{}", self.args.subscription),
            r#type: self.args.kind.clone().unwrap_or(event.r#type),
            causation_id: event.id.clone(),
            data,
            deadline: None,
            deliver_at: None,
            dataschema: String::new(),
            schema_verdict: None,
            ..event
        }
    }

    /// Appends and acknowledges in one transaction; what failed comes again as the subscription says. How many
    /// events are done with.
    async fn hand_on(
        &self,
        lease: &LeasedEvents,
        made: Made,
        lines: &mut Lines,
    ) -> Result<u64, Failure> {
        let mut count = made.done.len() as u64;
        let events: Vec<Bytes> =
            made.done.iter().filter_map(|(_, new)| new.as_ref()).map(encoded).collect();
        if !made.done.is_empty() {
            let acked = made.done.iter().map(|(recorded, _)| recorded);
            let settles = vec![self.settle(lease, acked, Action::Ack(Ack {}))];
            let part =
                TransactionPart { topic: self.args.into.clone(), events, ..Default::default() };
            let parts = if part.events.is_empty() { Vec::new() } else { vec![part] };
            let request = TransactRequest { parts, settles, ..TransactRequest::default() };
            match self.client.transact(request).await {
                Ok(appended) => {
                    let first = appended.parts.first().map_or(0, |part| part.first_offset);
                    self.print(&made.done, first, lines)?;
                }
                Err(refused) if is_lost(&refused) => {
                    // Of an unknown outcome they may be done.
                    if refused.reason != Reason::OutcomeUnknown {
                        count = 0;
                    }
                    complain(&format!(
                        "the lease ended before the work did, the events come again: {refused}"
                    ));
                }
                Err(refused) => return Err(refused.into()),
            }
        }
        if !made.failed.is_empty() {
            let nack = Nack { reason: FAILED.to_owned(), ..Nack::default() };
            let nacked = self.settle(lease, made.failed.iter(), Action::Nack(nack));
            match self.client.settle(nacked).await {
                // They come again in any case, at the latest once the lease is over.
                Err(lost) if is_lost(&lost) => {
                    complain(&format!("it is not known whether failures were noted: {lost}"));
                }
                settled => drop(settled?),
            }
        }
        Ok(count)
    }

    fn settle<'e>(
        &self,
        lease: &LeasedEvents,
        events: impl Iterator<Item = &'e RecordedEvent>,
        action: Action,
    ) -> SettleRequest {
        let ranges = events.map(|event| OffsetRange { first: event.offset, count: 1 }).collect();
        let item = Settlement {
            lease_id: lease.lease_id,
            term: lease.term,
            topic_id: lease.topic_id,
            ranges,
            action: Some(action),
        };
        SettleRequest {
            subscription: self.args.subscription.clone(),
            consumer: self.consumer.clone(),
            items: vec![item],
        }
    }

    fn print(
        &self,
        done: &[(RecordedEvent, Option<Event>)],
        first: u64,
        lines: &mut Lines,
    ) -> Result<(), Failure> {
        let mut at = first;
        for (recorded, new) in done {
            let (mut into, mut data) = (String::new(), String::new());
            if let Some(new) = new {
                into = at.to_string();
                data = String::from_utf8_lossy(&new.data).trim_end().to_owned();
                at += 1;
            }
            lines.print(&json!({
                "topic": recorded.topic,
                "offset": recorded.offset.to_string(),
                "into": self.args.into,
                "into_offset": into,
                "data": data,
            }))?;
        }
        lines.flush()
    }
}

fn encoded(event: &Event) -> Bytes {
    event.encode_to_vec().into()
}

/// Whether somebody else has the events by now, or will.
fn is_lost(refused: &Rejection) -> bool {
    matches!(refused.reason, Reason::LeaseExpired | Reason::LeaseUnknown | Reason::OutcomeUnknown)
}
