//! `mhub topic`.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::output;
use super::read::ConsistencyArg;
use super::{Done, Failure, Global, confirm, key_value};
use crate::model::rejection::Exit;
use crate::proto::v1::{
    CreateTopicRequest, DeleteTopicRequest, GetTopicRequest, ListTopicsRequest, SchemaMode,
    SchemaRule, Topic, TopicConfig, UpdateTopicRequest,
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum TopicCommand {
    /// Create a topic.
    #[command(
        after_help = "Settings: max_event_bytes, retention_age_ms, retention_bytes, retention_count,\ndedup_window_ms, index_ids, description, label.NAME,\nschema.mode (off, warn or enforce), schema.subject (else by event type), schema.message (Protobuf)\n\nExamples:\n  mhub topic create orders\n  mhub topic create orders --config max_event_bytes=65536 --config index_ids=true\n  mhub topic create orders --config schema.mode=enforce --config schema.subject=order"
    )]
    Create {
        /// Dotted tokens, like orders.created.
        name: String,
        /// A setting; may be given many times.
        #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
        config: Vec<(String, String)>,
    },
    /// List topics.
    #[command(after_help = "Example:\n  mhub topic ls -o jsonl")]
    Ls {
        /// How fresh.
        #[arg(long, default_value = "linearizable")]
        consistency: ConsistencyArg,
    },
    /// Show a topic with its settings.
    #[command(after_help = "Example:\n  mhub topic info orders -o json")]
    Info {
        /// The topic.
        name: String,
        /// How fresh.
        #[arg(long, default_value = "linearizable")]
        consistency: ConsistencyArg,
    },
    /// Change settings of a topic.
    #[command(
        after_help = "Examples:\n  mhub topic update orders --config description='all orders' --if-revision 3\n  mhub topic update orders --config schema.mode=off"
    )]
    Update {
        /// The topic.
        name: String,
        /// A setting; may be given many times. Labels, when given, replace the old ones; so does
        /// what is said of schemas.
        #[arg(long, value_name = "KEY=VALUE", value_parser = key_value, required = true)]
        config: Vec<(String, String)>,
        /// Only if the topic has this revision.
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        if_revision: u64,
    },
    /// Delete a topic and its events.
    #[command(after_help = "Example:\n  mhub topic rm orders --yes")]
    Rm {
        /// The topic.
        name: String,
        /// Do not ask.
        #[arg(long, env = "MHUB_YES")]
        yes: bool,
    },
}

const COLUMNS: [&str; 5] = ["name", "next_offset", "first_offset", "bytes", "revision"];
/// Topics that are asked for at once.
const PAGE: u32 = 1000;

pub(super) async fn run(command: TopicCommand, global: Global) -> Done {
    let client = global.client()?;
    match command {
        TopicCommand::Create { name, config } => {
            let config = Some(settings(config)?.0);
            let request = CreateTopicRequest { name, config, request_id: String::new() };
            output::item(global.output, &topic(client.create_topic(request).await?))?;
        }
        TopicCommand::Ls { consistency } => {
            let mut request = ListTopicsRequest {
                page_size: PAGE,
                page_token: String::new(),
                options: Some(consistency.options()),
            };
            let mut topics = Vec::new();
            loop {
                let page = client.topics(request.clone()).await?;
                topics.extend(page.topics.into_iter().map(topic));
                if page.next_page_token.is_empty() {
                    break;
                }
                request.page_token = page.next_page_token;
            }
            output::list(global.output, &COLUMNS, &topics)?;
        }
        TopicCommand::Info { name, consistency } => {
            let options = Some(consistency.options());
            let found = client.topic(GetTopicRequest { name, options }).await?;
            output::item(global.output, &topic(found))?;
        }
        TopicCommand::Update { name, config, if_revision } => {
            let (config, replace_labels) = settings(config)?;
            let request = UpdateTopicRequest {
                name,
                config: Some(config),
                replace_labels,
                if_revision,
                request_id: String::new(),
            };
            output::item(global.output, &topic(client.update_topic(request).await?))?;
        }
        TopicCommand::Rm { name, yes } => {
            confirm(&format!("deleting topic {name} deletes its events"), &name, yes)?;
            let confirm_name = name.clone();
            let request = DeleteTopicRequest { name, confirm_name, request_id: String::new() };
            client.delete_topic(request).await?;
        }
    }
    Ok(Exit::Ok)
}

/// Settings as given; and whether there were labels.
fn settings(given: Vec<(String, String)>) -> Result<(TopicConfig, bool), Failure> {
    let mut config = TopicConfig::default();
    let (mut labels, mut rule) = (HashMap::new(), Vec::new());
    for (key, value) in given {
        let number = || {
            value.parse::<u64>().map_err(|_| {
                Failure::usage(format!("--config {key}={value}: {value:?} is no whole number"))
            })
        };
        match key.as_str() {
            "max_event_bytes" => config.max_event_bytes = Some(number()?),
            "retention_age_ms" => config.retention_age_ms = Some(number()?),
            "retention_bytes" => config.retention_bytes = Some(number()?),
            "retention_count" => config.retention_count = Some(number()?),
            "dedup_window_ms" => config.dedup_window_ms = Some(number()?),
            "index_ids" => {
                config.index_ids = Some(value.parse().map_err(|_| {
                    Failure::usage(format!("--config {key}={value}: use true or false"))
                })?);
            }
            "description" => config.description = Some(value),
            _ => match (key.strip_prefix("label."), key.strip_prefix("schema.")) {
                (Some(name), _) => drop(labels.insert(name.to_owned(), value)),
                (_, Some(part)) => rule.push((part.to_owned(), value)),
                (None, None) => {
                    return Err(Failure::usage(format!(
                        "--config {key}: there is no such setting; see mhub topic create --help"
                    )));
                }
            },
        }
    }
    let any_labels = !labels.is_empty();
    config.labels = labels;
    config.schema = if rule.is_empty() { None } else { Some(schema_rule(rule)?) };
    Ok((config, any_labels))
}

/// What schemas say of events, as given by its parts.
fn schema_rule(given: Vec<(String, String)>) -> Result<SchemaRule, Failure> {
    let (mut rule, mut mode) = (SchemaRule::default(), None);
    for (part, value) in given {
        match (part.as_str(), value.as_str()) {
            ("subject", _) => rule.subject = value,
            ("message", _) => rule.message = value,
            ("mode", "off") => mode = Some(SchemaMode::Off),
            ("mode", "warn") => mode = Some(SchemaMode::Warn),
            ("mode", "enforce") => mode = Some(SchemaMode::Enforce),
            ("mode", _) => {
                let text = format!("--config schema.mode={value}: use off, warn or enforce");
                return Err(Failure::usage(text));
            }
            _ => {
                let text = format!("--config schema.{part}: use mode, subject or message");
                return Err(Failure::usage(text));
            }
        }
    }
    let Some(mode) = mode else {
        let text = "--config schema.…: say schema.mode=enforce or schema.mode=warn, too";
        return Err(Failure::usage(text));
    };
    rule.set_mode(mode);
    Ok(rule)
}

fn schema_mode(config: &TopicConfig) -> &'static str {
    match config.schema.as_ref().map(SchemaRule::mode) {
        None | Some(SchemaMode::Off) => "off",
        Some(SchemaMode::Warn) => "warn",
        Some(SchemaMode::Enforce) => "enforce",
    }
}

/// A topic as JSON; 64-bit numbers are strings, as in the JSON mapping of protobuf.
fn topic(topic: Topic) -> Value {
    let config = topic.config.unwrap_or_default();
    let mut labels: Vec<_> = config.labels.iter().collect();
    labels.sort();
    let rule = config.schema.clone().unwrap_or_default();
    json!({
        "name": topic.name,
        "next_offset": topic.next_offset.to_string(),
        "first_offset": topic.first_offset.to_string(),
        "bytes": topic.bytes.to_string(),
        "revision": topic.revision.to_string(),
        "created_at": output::instant(topic.created_at_ms),
        "updated_at": output::instant(topic.updated_at_ms),
        "max_event_bytes": config.max_event_bytes().to_string(),
        "retention_age_ms": config.retention_age_ms().to_string(),
        "retention_bytes": config.retention_bytes().to_string(),
        "retention_count": config.retention_count().to_string(),
        "dedup_window_ms": config.dedup_window_ms().to_string(),
        "index_ids": config.index_ids(),
        "description": config.description(),
        "schema": {"mode": schema_mode(&config), "subject": rule.subject, "message": rule.message},
        "labels": labels.into_iter().map(|(n, v)| (n.clone(), json!(v))).collect::<serde_json::Map<_, _>>(),
    })
}
