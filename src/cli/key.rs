//! `mhub key`.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use super::output::{self, Lines, Output, instant};
use super::read::ConsistencyArg;
use super::{Done, Global, confirm, input};
use crate::client::Client;
use crate::client::cloudevents::EnvelopeJson;
use crate::model::limits::KEY_SNAPSHOT_BYTES_MAX;
use crate::model::rejection::Exit;
use crate::proto::v1::{
    DeleteSnapshotRequest, KeySnapshot, KeyState, PutSnapshotRequest, ReadKeyRequest,
    ReadStateRequest, RecordedEvent,
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum KeyCommand {
    /// Show a key as it stands: its snapshot, and the events after it.
    #[command(
        after_help = "Examples:\n  mhub key read orders order-42\n  mhub key read orders order-42 -o json"
    )]
    Read {
        /// The topic.
        topic: String,
        /// The key.
        key: String,
        /// How fresh.
        #[arg(long, default_value = "linearizable")]
        consistency: ConsistencyArg,
    },
    /// Keep what the events of a key amount to, up to a version, in place of an earlier one.
    #[command(
        disable_version_flag = true,
        after_help = "Examples:\n  mhub key snapshot orders order-42 --version 17 state.json\n  echo '{\"status\": \"paid\"}' | mhub key snapshot orders order-42 --version 17 -"
    )]
    Snapshot {
        /// The topic.
        topic: String,
        /// The key.
        key: String,
        /// The content: a file, or - for standard input; at most 512 KiB.
        file: PathBuf,
        /// The version of the last event that is in it.
        #[arg(long)]
        version: u64,
        /// Media type of the content.
        #[arg(long, default_value = "application/json")]
        content_type: String,
    },
    /// Forget a key's snapshot; its events stay.
    #[command(after_help = "Example:\n  mhub key rm-snapshot orders order-42 --yes")]
    RmSnapshot {
        /// The topic.
        topic: String,
        /// The key.
        key: String,
        /// Do not ask.
        #[arg(long, env = "MHUB_YES")]
        yes: bool,
    },
}

/// A key as it stands, as JSON.
#[derive(Serialize)]
struct StateJson<'a> {
    topic: &'a str,
    key: &'a str,
    version: String,
    snapshot: Option<SnapshotJson>,
    events: Vec<EnvelopeJson<'a>>,
}

#[derive(Serialize)]
struct SnapshotJson {
    version: String,
    content_type: String,
    taken_at: String,
    /// As JSON if it is some, as text if it is, else in base64.
    data: Value,
}

pub(super) async fn run(command: KeyCommand, global: Global) -> Done {
    let client = global.client()?;
    match command {
        KeyCommand::Read { topic, key, consistency } => {
            read(&client, global.output, (topic, key), consistency).await
        }
        KeyCommand::Snapshot { topic, key, file, version, content_type } => {
            let data = input::read(&file, KEY_SNAPSHOT_BYTES_MAX)?.into();
            let snapshot = KeySnapshot { version, content_type, data, taken_at_ms: 0 };
            let snapshot = Some(snapshot);
            let request = PutSnapshotRequest { topic, key, snapshot, ..Default::default() };
            client.put_key_snapshot(request).await?;
            Ok(Exit::Ok)
        }
        KeyCommand::RmSnapshot { topic, key, yes } => {
            let what =
                format!("removing the snapshot of key {key} makes readers read all its events");
            confirm(&what, &key, yes)?;
            let request = DeleteSnapshotRequest { topic, key, ..Default::default() };
            client.delete_key_snapshot(request).await?;
            Ok(Exit::Ok)
        }
    }
}

async fn read(
    client: &Client,
    output: Output,
    (topic, key): (String, String),
    consistency: ConsistencyArg,
) -> Done {
    let request = ReadStateRequest {
        topic: topic.clone(),
        key: key.clone(),
        limit: 1000,
        options: Some(consistency.options()),
    };
    let KeyState { snapshot, mut events, version, mut next_version } =
        client.key_state(request).await?;
    while next_version > 0 {
        let request = ReadKeyRequest {
            topic: topic.clone(),
            key: key.clone(),
            from_version: next_version,
            limit: 1000,
            options: Some(consistency.options()),
            ..ReadKeyRequest::default()
        };
        let page = client.read_key(request).await?;
        events.extend(page.events);
        next_version = page.next_version;
    }
    if version == 0 {
        output::complain(&format!("no event of topic {topic} has the key {key:?}"));
        return Ok(Exit::NotFound);
    }
    if output == Output::Table {
        return table(snapshot.as_ref(), &events);
    }
    let decoded = events.iter().map(|event| super::events::decode(&event.event));
    let decoded: Vec<_> = decoded.collect::<Result<_, _>>()?;
    let pairs = events.iter().zip(&decoded);
    let state = StateJson {
        topic: &topic,
        key: &key,
        version: version.to_string(),
        snapshot: snapshot.as_ref().map(snapshot_json),
        events: pairs.map(|(recorded, event)| EnvelopeJson { recorded, event }).collect(),
    };
    output::document(output, &state)?;
    Ok(Exit::Ok)
}

fn table(snapshot: Option<&KeySnapshot>, events: &[RecordedEvent]) -> Done {
    match snapshot.map(snapshot_json) {
        Some(SnapshotJson { version, taken_at, data, .. }) => {
            let data = data.as_str().map_or_else(|| data.to_string(), str::to_owned);
            output::line(&format!("snapshot at version {version}, taken {taken_at}: {data}"))?;
        }
        None => output::line("no snapshot")?,
    }
    let mut lines = Lines::new(Output::Table, super::events::EVENT);
    for event in events {
        super::events::print(&mut lines, Output::Table, event)?;
    }
    lines.end()?;
    Ok(Exit::Ok)
}

fn snapshot_json(snapshot: &KeySnapshot) -> SnapshotJson {
    use base64::Engine as _;
    let text = std::str::from_utf8(&snapshot.data);
    let data = match (serde_json::from_slice(&snapshot.data), text) {
        (Ok(json), _) => json,
        (_, Ok(text)) => Value::String(text.to_owned()),
        _ => Value::String(base64::engine::general_purpose::STANDARD.encode(&snapshot.data)),
    };
    SnapshotJson {
        version: snapshot.version.to_string(),
        content_type: snapshot.content_type.clone(),
        taken_at: instant(snapshot.taken_at_ms),
        data,
    }
}
