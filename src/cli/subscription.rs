//! `mhub sub`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::output;
use super::read::{ConsistencyArg, FromArg};
use super::subscription_config::{SETTINGS, keep_others, names_some, print, settings};
use super::value::{duration, format_age};
use super::{Done, Failure, Global, confirm, key_value};
use crate::client::{Client, filter_json};
use crate::model::filter::Filter;
use crate::model::rejection::Exit;
use crate::proto::v1::{
    CreateSubscriptionRequest, DeleteSubscriptionRequest, GetSubscriptionRequest,
    GetSubscriptionStatsRequest, ListSubscriptionsRequest, Pause, PauseSubscriptionRequest, Place,
    ResumeSubscriptionRequest, SeekSubscriptionRequest, SeekSubscriptionResponse, Subscription,
    SubscriptionConfig, SubscriptionCounters, SubscriptionStats, UpdateSubscriptionRequest, place,
    read_request,
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum SubscriptionCommand {
    /// Create a subscription.
    #[command(
        after_help = format!("{SETTINGS}\n\nExamples:\n  mhub sub create billing --topic orders.created --from start\n  mhub sub create audit --topic 'orders.>' --config lease=5m --config max_attempts=3\n  mhub sub create big --topic orders --filter '{{\"prefix\": {{\"type\": \"order.big\"}}}}'")
    )]
    Create {
        /// The subscription's name.
        name: String,
        /// A topic, or a pattern: * stands for any one token, > at the end for one or more.
        #[arg(long, value_name = "PATTERN")]
        topic: String,
        /// Where to begin: start, end, an offset, pos=POSITION, @TIME.
        #[arg(long, default_value = "end")]
        from: FromArg,
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// List subscriptions.
    #[command(after_help = "Example:\n  mhub sub ls -o jsonl")]
    Ls {
        /// How fresh.
        #[arg(long, default_value = "linearizable")]
        consistency: ConsistencyArg,
    },
    /// Show a subscription with its settings and counters.
    #[command(after_help = "Example:\n  mhub sub info billing -o json")]
    Info {
        /// The subscription.
        name: String,
        /// How fresh.
        #[arg(long, default_value = "linearizable")]
        consistency: ConsistencyArg,
    },
    /// Change settings of a subscription; they hold for what is in flight, too.
    #[command(
        after_help = format!("{SETTINGS}\n\nExamples:\n  mhub sub update billing --config max_attempts=5 --if-revision 3\n  mhub sub update billing --no-filter")
    )]
    Update {
        /// The subscription.
        name: String,
        #[command(flatten)]
        settings: SettingsArgs,
        /// Take every event again.
        #[arg(long, conflicts_with = "filter")]
        no_filter: bool,
        /// Only if the subscription has this revision.
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        if_revision: u64,
    },
    /// Delete a subscription with its progress, retries and dead letters.
    #[command(after_help = "Example:\n  mhub sub rm billing --yes")]
    Rm {
        /// The subscription.
        name: String,
        /// Do not ask.
        #[arg(long, env = "MHUB_YES")]
        yes: bool,
    },
    /// Stop handing out events.
    #[command(
        after_help = "Examples:\n  mhub sub pause billing\n  mhub sub pause billing --resume-after 5m"
    )]
    Pause {
        /// The subscription.
        name: String,
        /// Resume by itself after this.
        #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "0s", hide_default_value = true)]
        resume_after: u64,
    },
    /// Hand out events again.
    #[command(after_help = "Example:\n  mhub sub resume billing")]
    Resume {
        /// The subscription.
        name: String,
    },
    /// Move a subscription: deliver again, or skip.
    #[command(
        after_help = "Examples:\n  mhub sub seek billing --to @2026-11-23T10:00:00Z --dry-run\n  mhub sub seek billing --to start"
    )]
    Seek {
        /// The subscription.
        name: String,
        /// Where to: start, end, an offset, pos=POSITION, @TIME.
        #[arg(long)]
        to: FromArg,
        /// Only count what it would do.
        #[arg(long)]
        dry_run: bool,
    },
    /// Count a subscription's events by what they wait for.
    #[command(after_help = "Example:\n  mhub sub stats billing -o json")]
    Stats {
        /// The subscription.
        name: String,
        /// How fresh.
        #[arg(long, default_value = "linearizable")]
        consistency: ConsistencyArg,
    },
}

/// Settings of a subscription.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct SettingsArgs {
    /// A setting; may be given many times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    config: Vec<(String, String)>,
    /// A filter in JSON, or a file with one; all of several have to hold.
    #[arg(long, value_name = "FILE|JSON")]
    filter: Vec<String>,
}

impl SettingsArgs {
    fn filter(&self) -> Result<Option<Filter>, Failure> {
        filter_of(&self.filter)
    }
}

/// The filter out of several, each JSON or a file with it; all of them have to hold.
pub(super) fn filter_of(given: &[String]) -> Result<Option<Filter>, Failure> {
    let mut texts = Vec::new();
    for given in given {
        if given.trim_start().starts_with(['{', '[']) {
            texts.push(given.clone());
        } else {
            let read = std::fs::read_to_string(Path::new(given));
            texts.push(read.map_err(|e| Failure::usage(format!("--filter {given}: {e}")))?);
        }
    }
    match &texts[..] {
        [] => Ok(None),
        [one] => Ok(Some(filter_json::from_json(one)?)),
        several => Ok(Some(filter_json::from_json(&format!("[{}]", several.join(",")))?)),
    }
}

const COLUMNS: [&str; 7] =
    ["name", "pattern", "paused", "in_flight", "delivered", "acked", "dead_letters_kept"];
/// Subscriptions that are asked for at once.
const PAGE: u32 = 1000;

pub(super) async fn run(command: SubscriptionCommand, global: Global) -> Done {
    let client = global.client()?;
    let out = global.output;
    match command {
        SubscriptionCommand::Create { name, topic, from, settings: given } => {
            let filter = given.filter()?;
            let request = CreateSubscriptionRequest {
                name,
                pattern: topic,
                config: Some(settings(given.config, filter)?),
                start: Some(place(from)),
                request_id: String::new(),
            };
            output::item(out, &subscription(client.create_subscription(request).await?))?;
        }
        SubscriptionCommand::Ls { consistency } => {
            let found = list(&client, consistency).await?;
            let found: Vec<_> = found.into_iter().map(subscription).collect();
            output::list(out, &COLUMNS, &found)?;
        }
        SubscriptionCommand::Info { name, consistency } => {
            let options = Some(consistency.options());
            let found = client.subscription(GetSubscriptionRequest { name, options }).await?;
            output::item(out, &subscription(found))?;
        }
        SubscriptionCommand::Update { name, settings: given, no_filter, if_revision } => {
            let filter = given.filter()?;
            if given.config.is_empty() && filter.is_none() && !no_filter {
                return Err(Failure::usage("nothing is to be changed; give --config or --filter"));
            }
            let mut config = settings(given.config, filter)?;
            if no_filter {
                config.filter = Some(bytes::Bytes::new());
            }
            let request = update(&client, name, config, if_revision).await?;
            output::item(out, &subscription(client.update_subscription(request).await?))?;
        }
        SubscriptionCommand::Rm { name, yes } => {
            let what = format!(
                "deleting subscription {name} deletes its progress, retries and dead letters"
            );
            confirm(&what, &name, yes)?;
            let (confirm_name, request_id) = (name.clone(), String::new());
            let request = DeleteSubscriptionRequest { name, confirm_name, request_id };
            client.delete_subscription(request).await?;
        }
        SubscriptionCommand::Pause { name, resume_after: resume_after_ms } => {
            let request_id = String::new();
            let request = PauseSubscriptionRequest { name, resume_after_ms, request_id };
            output::item(out, &brief(&client.pause_subscription(request).await?))?;
        }
        SubscriptionCommand::Resume { name } => {
            let request = ResumeSubscriptionRequest { name, request_id: String::new() };
            output::item(out, &brief(&client.resume_subscription(request).await?))?;
        }
        SubscriptionCommand::Seek { name, to, dry_run } => {
            let (to, request_id) = (Some(place(to)), String::new());
            let request = SeekSubscriptionRequest { name, to, dry_run, request_id };
            output::item(out, &sought(&client.seek_subscription(request).await?, dry_run))?;
        }
        SubscriptionCommand::Stats { name, consistency } => {
            let options = Some(consistency.options());
            let request = GetSubscriptionStatsRequest { name: name.clone(), options };
            output::item(out, &stats(&name, &client.subscription_stats(request).await?))?;
        }
    }
    Ok(Exit::Ok)
}

/// The request that changes what is given and nothing else.
async fn update(
    client: &Client,
    name: String,
    mut config: SubscriptionConfig,
    mut if_revision: u64,
) -> Result<UpdateSubscriptionRequest, Failure> {
    if names_some(&config) {
        let request = GetSubscriptionRequest { name: name.clone(), options: None };
        let old = client.subscription(request).await?;
        keep_others(&mut config, old.config.unwrap_or_default());
        if_revision = if if_revision == 0 { old.revision } else { if_revision };
    }
    let request_id = String::new();
    Ok(UpdateSubscriptionRequest { name, config: Some(config), if_revision, request_id })
}

/// All subscriptions.
pub(super) async fn list(
    client: &Client,
    consistency: ConsistencyArg,
) -> Result<Vec<Subscription>, Failure> {
    let mut request = ListSubscriptionsRequest {
        page_size: PAGE,
        page_token: String::new(),
        options: Some(consistency.options()),
    };
    let mut found = Vec::new();
    loop {
        let page = client.subscriptions(request.clone()).await?;
        found.extend(page.subscriptions);
        if page.next_page_token.is_empty() {
            return Ok(found);
        }
        request.page_token = page.next_page_token;
    }
}

fn place(from: FromArg) -> Place {
    let at = match from.request(false) {
        read_request::From::Start(start) => place::At::Start(start),
        read_request::From::End(end) => place::At::End(end),
        read_request::From::Offset(offset) => place::At::Offset(offset),
        read_request::From::Position(position) => place::At::Position(position),
        read_request::From::TimeMs(instant) => place::At::TimeMs(instant),
    };
    Place { at: Some(at) }
}

/// `no`, or why and for how long.
fn paused(pause: Option<&Pause>) -> String {
    let Some(pause) = pause else { return "no".to_owned() };
    let why = match (pause.tripped, pause.target_down) {
        (true, _) => "tripped",
        (_, true) => "target down",
        _ => "yes",
    };
    match pause.resume_at_ms {
        0 => why.to_owned(),
        at => format!("{why}, until {}", output::instant(at)),
    }
}

/// Whether a subscription hands out events.
fn brief(subscription: &Subscription) -> Value {
    json!({ "name": subscription.name, "paused": paused(subscription.pause.as_ref()) })
}

/// A subscription as JSON; 64-bit numbers are strings, as in the JSON mapping of protobuf.
fn subscription(subscription: Subscription) -> Value {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
    put("name", json!(subscription.name));
    put("pattern", json!(subscription.pattern));
    put("revision", json!(subscription.revision.to_string()));
    put("created_at", json!(output::instant(subscription.created_at_ms)));
    put("updated_at", json!(output::instant(subscription.updated_at_ms)));
    put("start_position", json!(subscription.start_position.to_string()));
    put("paused", json!(paused(subscription.pause.as_ref())));
    put("in_flight", json!(subscription.in_flight.to_string()));
    put("dead_letters_kept", json!(subscription.dead_letters.to_string()));
    put("reordering", json!(subscription.reordering));
    fields.extend(counters(&subscription.counters.unwrap_or_default()));
    fields.extend(print(&subscription.config.unwrap_or_default()));
    Value::Object(fields)
}

fn counters(counters: &SubscriptionCounters) -> Map<String, Value> {
    [
        ("delivered", counters.delivered),
        ("redelivered", counters.redelivered),
        ("acked", counters.acked),
        ("nacked", counters.nacked),
        ("rejected", counters.rejected),
        ("released", counters.released),
        ("expired", counters.expired),
        ("dead", counters.dead),
        ("dropped", counters.dropped),
        ("filtered", counters.filtered),
        ("redriven", counters.redriven),
    ]
    .into_iter()
    .map(|(name, count)| (name.to_owned(), json!(count.to_string())))
    .collect()
}

fn sought(counts: &SeekSubscriptionResponse, dry_run: bool) -> Value {
    json!({
        "dry_run": dry_run,
        "start_position": counts.start_position.to_string(),
        "redelivered": counts.redelivered.to_string(),
        "skipped": counts.skipped.to_string(),
        "truncated": counts.truncated,
    })
}

/// How a subscription stands, as JSON.
pub(super) fn stats(name: &str, stats: &SubscriptionStats) -> Value {
    let by_priority = stats.pending_by_priority.iter().enumerate().filter(|(_, n)| **n > 0);
    let by_priority: Vec<_> = by_priority.map(|(p, n)| format!("{p}:{n}")).collect();
    let mut fields = Map::new();
    fields.insert("subscription".to_owned(), json!(name));
    fields.insert("paused".to_owned(), json!(paused(stats.pause.as_ref())));
    for (field, count) in [
        ("pending", stats.pending),
        ("delayed", stats.delayed),
        ("cancelled", stats.cancelled),
        ("in_flight", stats.in_flight),
        ("retrying", stats.retrying),
        ("due", stats.due),
        ("dead_letters", stats.dead_letters),
    ] {
        fields.insert(field.to_owned(), json!(count.to_string()));
    }
    fields.insert("pending_by_priority".to_owned(), json!(by_priority.join(" ")));
    fields.insert("oldest_age".to_owned(), json!(format_age(stats.oldest_age_ms)));
    fields.insert("truncated".to_owned(), json!(stats.truncated));
    fields.extend(counters(&stats.counters.unwrap_or_default()));
    Value::Object(fields)
}
