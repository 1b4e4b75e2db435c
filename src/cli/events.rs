//! `mhub events`.

use std::path::PathBuf;

use bytes::Bytes;
use prost::Message as _;
use serde_json::{Value, json};

use super::consume::{self, ConsumeArgs};
use super::event_args::EventArgs;
use super::output::{self, Lines, Output, Printing};
use super::publish;
use super::pull::{self, PullArgs};
use super::read::{ConsistencyArg, FromArg};
use super::replay::{self, ReplayArgs};
use super::trace::{self, TraceArgs};
use super::{Done, Failure, Global};
use crate::client::cloudevents::EnvelopeJson;
use crate::client::{Client, Reader, Receipt, receipts, recorded_events};
use crate::model::rejection::Exit;
use crate::proto::v1::{
    CancelEventRequest, Event, EventId, GetEventRequest, KeyExpectation, ReadKeyRequest,
    ReadRequest, RecordedEvent, cancel_event_request, get_event_request, key_expectation,
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum EventsCommand {
    /// Publish events: CloudEvents in JSON, one a line, or one event from flags with --data.
    #[command(
        after_help = "Examples:\n  mhub events publish orders events.jsonl\n  cat events.jsonl | mhub events publish orders -\n  mhub events publish orders --data '{\"id\":42}' --type order.created --key order-42\n  mhub events publish orders --data now --priority 9 --ttl 30s\n  mhub events publish orders --data later --delay 2h"
    )]
    Publish {
        /// The topic.
        topic: String,
        /// A file, or - for standard input (the default without --data).
        #[arg(conflicts_with = "data")]
        file: Option<PathBuf>,
        #[command(flatten)]
        event: EventArgs,
    },
    /// Append one event, if its key is as expected.
    #[command(
        after_help = "Examples:\n  mhub events append orders --key order-42 --expect none --data created\n  mhub events append orders --key order-42 --expect 1 --data paid --type order.paid"
    )]
    Append {
        /// The topic.
        topic: String,
        /// What the key's version has to be: any, none, exists, or a number.
        #[arg(long, default_value = "any")]
        expect: ExpectArg,
        #[command(flatten)]
        event: EventArgs,
    },
    /// Read a range of a topic, of a key, or of the whole hub.
    #[command(
        after_help = "Examples:\n  mhub events read orders --from start --limit 10\n  mhub events read orders --from end --back --limit 1\n  mhub events read orders --from @2026-11-23T10:00:00Z -o jsonl\n  mhub events read orders --key order-42\n  mhub events read --all --from pos=1000"
    )]
    Read(ReadArgs),
    /// Play a range of a topic or of the whole hub again, at a pace, from where it was left off.
    #[command(
        after_help = "Examples:\n  mhub events replay orders --from @2026-11-23T10:00:00Z --until @2026-11-23T11:00:00Z -o jsonl\n  mhub events replay orders --key order-42 --original --speed 10\n  mhub events replay orders --into orders.again --rate 500 --cursor replay.cursor      run it again to go on\n  mhub events replay orders --key order-42 --run ./ship.sh --cursor ship.cursor       each payload on standard input\n  mhub events replay orders --filter '{\"exact\": {\"type\": \"order.paid\"}}' --endpoint 127.0.0.1:7500"
    )]
    Replay(Box<ReplayArgs>),
    /// Show the events of a correlation id as a tree of causes, with what became of each in every subscription.
    #[command(
        after_help = "An event is below the one whose id is its causation id.\n\nExamples:\n  mhub events trace order-42\n  mhub events trace order-42 -o table\n  mhub events trace order-42 --subscription 'mail.*'\n  mhub events trace order-42 -o json"
    )]
    Trace(TraceArgs),
    /// Show one event.
    #[command(
        after_help = "Examples:\n  mhub events get orders 17\n  mhub events get orders --id 0199-…"
    )]
    Get {
        /// The topic.
        topic: String,
        /// The event's offset.
        #[arg(required_unless_present = "id", conflicts_with = "id")]
        offset: Option<u64>,
        /// The event's id, on topics with index_ids=true.
        #[arg(long)]
        id: Option<String>,
        /// With --id: its source.
        #[arg(long, requires = "id", default_value = "", hide_default_value = true)]
        source: String,
        /// How fresh.
        #[arg(long, default_value = "linearizable")]
        consistency: ConsistencyArg,
    },
    /// Call a delayed event off, for every subscription, before it is delivered.
    #[command(
        after_help = "Examples:\n  mhub events cancel orders 17\n  mhub events cancel orders --id 0199-…"
    )]
    Cancel {
        /// The topic.
        topic: String,
        /// The event's offset.
        #[arg(required_unless_present = "id", conflicts_with = "id")]
        offset: Option<u64>,
        /// The event's id, on topics with index_ids=true.
        #[arg(long)]
        id: Option<String>,
        /// With --id: its source.
        #[arg(long, requires = "id", default_value = "", hide_default_value = true)]
        source: String,
    },
    /// Follow a topic: print what is appended, without end.
    #[command(
        after_help = "Examples:\n  mhub events tail orders\n  mhub events tail orders --from start -o jsonl"
    )]
    Tail {
        /// The topic; absent with --all.
        #[arg(required_unless_present = "all")]
        topic: Option<String>,
        /// The whole hub.
        #[arg(long, conflicts_with = "topic")]
        all: bool,
        /// Where to begin: start, end, an offset, pos=POSITION, @TIME.
        #[arg(long, default_value = "end")]
        from: FromArg,
        /// End after this many events; 0: never.
        #[arg(long, default_value_t = 0)]
        limit: u64,
    },
    /// Take events of a subscription under leases, print them, and settle them.
    #[command(
        after_help = "Examples:\n  mhub events consume billing\n  mhub events consume billing --limit 10 --wait 5 -o jsonl\n  mhub events consume billing --limit 1 --nack GATEWAY_DOWN --retry-after 30s\n  mhub events consume billing --limit 1 --reject MALFORMED"
    )]
    Consume(ConsumeArgs),
    /// Take events of a subscription under leases, print them, and leave settling them to a transaction.
    #[command(
        after_help = "As JSON it tells `settles`: what acknowledges them, as the document of mhub tx run has it.\n\nExamples:\n  mhub events pull billing --lease 5m -o json > taken.json\n  mhub events pull billing --limit 10 --wait 5 --consumer worker-1"
    )]
    Pull(PullArgs),
}

/// Arguments of `mhub events read`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ReadArgs {
    /// The topic; absent with --all.
    #[arg(required_unless_present = "all")]
    topic: Option<String>,
    /// The whole hub, in the order of positions.
    #[arg(long, conflicts_with_all = ["topic", "key"])]
    all: bool,
    /// Where to begin: start, end, an offset (with --key: a version), pos=POSITION, @TIME.
    #[arg(long, default_value = "start")]
    from: FromArg,
    /// Downwards.
    #[arg(long)]
    back: bool,
    /// At most this many events; 0: all.
    #[arg(long, default_value_t = 0)]
    limit: u64,
    /// At most about this many bytes; 0: no bound.
    #[arg(long, default_value_t = 0)]
    max_bytes: u64,
    /// Only the events of this key, with their versions.
    #[arg(long)]
    key: Option<String>,
    /// How fresh: linearizable, stale, at-least=POSITION.
    #[arg(long, default_value = "linearizable")]
    consistency: ConsistencyArg,
}

/// `any`, `none`, `exists` or a version.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExpectArg(Option<key_expectation::Expect>);

impl std::str::FromStr for ExpectArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        use key_expectation::Expect;
        match text {
            "any" => Ok(Self(None)),
            "none" => Ok(Self(Some(Expect::NoKey(true)))),
            "exists" => Ok(Self(Some(Expect::Exists(true)))),
            _ => match text.parse() {
                Ok(version) => Ok(Self(Some(Expect::Exact(version)))),
                Err(_) => Err(format!("{text:?} is none of any, none, exists, or a version")),
            },
        }
    }
}

pub(super) async fn run(command: EventsCommand, global: Global) -> Done {
    let client = global.client()?;
    let output = global.output;
    match command {
        EventsCommand::Publish { topic, file: None, event: EventArgs { data: Some(data), .. } }
            if data.is_empty() =>
        {
            Err(Failure::usage(format!(
                "--data is empty; give the payload of the event for topic {topic}"
            )))
        }
        EventsCommand::Publish { topic, file: None, event } if event.data.is_some() => {
            let data = event.data.clone().unwrap_or_default();
            append(&client, output, topic, event.event(data), None).await
        }
        EventsCommand::Publish { topic, file, .. } => {
            publish::run(&client, output, &topic, file).await
        }
        EventsCommand::Append { topic, expect, event } => {
            let Some(data) = event.data.clone() else {
                return Err(Failure::usage("--data is missing; give the payload of the event"));
            };
            let key = event.key.clone().unwrap_or_default();
            if key.is_empty() {
                return Err(Failure::usage("--key is missing; expectations are about a key"));
            }
            let expectation = expect.0.map(|e| KeyExpectation { key, expect: Some(e) });
            append(&client, output, topic, event.event(data), expectation).await
        }
        EventsCommand::Read(args) if args.key.is_some() => read_key(&client, output, args).await,
        EventsCommand::Read(args) => {
            let request = ReadRequest {
                from: Some(args.from.request(args.all)),
                topic: args.topic.unwrap_or_default(),
                backward: args.back,
                limit: args.limit,
                max_bytes: args.max_bytes,
                options: Some(args.consistency.options()),
            };
            print_all(client.read(request), output, args.back).await
        }
        EventsCommand::Replay(args) => replay::run(&client, output, *args).await,
        EventsCommand::Trace(args) => trace::run(&client, Printing::of(&global), args).await,
        EventsCommand::Get { topic, offset, id, source, consistency } => {
            let which = match (offset, id) {
                (Some(offset), _) => get_event_request::Which::Offset(offset),
                (None, id) => {
                    get_event_request::Which::Id(EventId { source, id: id.unwrap_or_default() })
                }
            };
            let (which, options) = (Some(which), Some(consistency.options()));
            show(&client, output, GetEventRequest { topic, which, options }).await
        }
        EventsCommand::Cancel { topic, offset, id, source } => {
            cancel(&client, topic, offset, EventId { source, id: id.unwrap_or_default() }).await
        }
        EventsCommand::Consume(args) => consume::run(&client, output, args).await,
        EventsCommand::Pull(args) => pull::run(&client, output, args).await,
        EventsCommand::Tail { topic, all, from, limit } => {
            let request = ReadRequest {
                topic: topic.unwrap_or_default(),
                from: Some(from.request(all)),
                limit,
                ..ReadRequest::default()
            };
            print_all(client.tail(request), output, false).await
        }
    }
}

async fn show(client: &Client, output: Output, request: GetEventRequest) -> Done {
    let found = client.event(request).await?;
    let event = decode(&found.event)?;
    output::document(output, &EnvelopeJson { recorded: &found, event: &event })?;
    Ok(Exit::Ok)
}

async fn cancel(client: &Client, topic: String, offset: Option<u64>, id: EventId) -> Done {
    let which = match offset {
        Some(offset) => cancel_event_request::Which::Offset(offset),
        None => cancel_event_request::Which::Id(id),
    };
    client.cancel_event(CancelEventRequest { topic, which: Some(which) }).await?;
    Ok(Exit::Ok)
}

pub(super) const RECEIPT: &[(&str, usize)] =
    &[("topic", 16), ("offset", 10), ("position", 10), ("version", 8), ("duplicate", 9)];

pub(super) fn receipt(topic: &str, receipt: Receipt) -> Value {
    json!({
        "topic": topic,
        "offset": receipt.offset.to_string(),
        "position": receipt.position.to_string(),
        "version": receipt.key_version.to_string(),
        "duplicate": receipt.duplicate,
    })
}

async fn append(
    client: &Client,
    output: Output,
    topic: String,
    event: Event,
    expectation: Option<KeyExpectation>,
) -> Done {
    let events = vec![event.encode_to_vec().into()];
    let result = client
        .publisher()
        .publish_all(topic.as_str(), events, expectation.into_iter().collect())
        .await?;
    let mut lines =
        Lines::new(if output == Output::Json { Output::Jsonl } else { output }, RECEIPT);
    for one in receipts(&result) {
        lines.print(&receipt(&topic, one))?;
    }
    lines.end()?;
    Ok(Exit::Ok)
}

pub(super) const EVENT: &[(&str, usize)] = &[
    ("offset", 8),
    ("position", 8),
    ("recorded_at", 24),
    ("type", 20),
    ("key", 14),
    ("version", 7),
    ("data", 0),
];

async fn print_all(mut reader: Reader, output: Output, backward: bool) -> Done {
    let mut lines = Lines::new(output, EVENT);
    while let Some(part) = reader.next().await? {
        for batch in part.batches {
            let mut events: Vec<RecordedEvent> = recorded_events(&batch).collect();
            if backward {
                events.reverse();
            }
            for event in events {
                print(&mut lines, output, &event)?;
            }
        }
        lines.flush()?;
    }
    lines.end()?;
    Ok(Exit::Ok)
}

pub(super) fn decode(event: &Bytes) -> Result<Event, Failure> {
    Event::decode(event.clone()).map_err(|error| {
        Failure::new(Exit::Error, format!("the hub sent a malformed event: {error}"))
    })
}

pub(super) fn print(
    lines: &mut Lines,
    output: Output,
    event: &RecordedEvent,
) -> Result<(), Failure> {
    let content = decode(&event.event)?;
    if output != Output::Table {
        return lines.document(&EnvelopeJson { recorded: event, event: &content });
    }
    let row = json!({
        "offset": event.offset.to_string(),
        "position": event.position.to_string(),
        "recorded_at": output::instant(event.recorded_at_ms),
        "type": content.r#type,
        "key": content.key,
        "version": event.key_version.to_string(),
        "data": String::from_utf8_lossy(&content.data),
    });
    lines.print(&row)
}

async fn read_key(client: &Client, output: Output, args: ReadArgs) -> Done {
    let from_version = match args.from {
        FromArg::Start => 1,
        FromArg::End => 0,
        FromArg::Offset(version) => version,
        FromArg::Position(_) | FromArg::Time(_) => {
            return Err(Failure::usage("with --key, --from is start, end or a version"));
        }
    };
    let (mut left, mut from_version) = (args.limit, from_version);
    let mut lines = Lines::new(output, EVENT);
    loop {
        let request = ReadKeyRequest {
            topic: args.topic.clone().unwrap_or_default(),
            key: args.key.clone().unwrap_or_default(),
            from_version: if args.back && args.from == FromArg::Start { 0 } else { from_version },
            backward: args.back,
            limit: u32::try_from(left).unwrap_or(u32::MAX),
            options: Some(args.consistency.options()),
        };
        let page = client.read_key(request).await?;
        for event in &page.events {
            print(&mut lines, output, event)?;
        }
        left = left.saturating_sub(page.events.len() as u64);
        if page.next_version == 0 || (args.limit > 0 && left == 0) {
            break;
        }
        from_version = page.next_version;
    }
    lines.end()?;
    Ok(Exit::Ok)
}
