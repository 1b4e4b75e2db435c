//! `mhub dlq`.

use std::io::IsTerminal as _;
use std::time::Duration;

use prost::Message as _;
use serde_json::{Value, json};

use super::output::{self, Lines, Output};
use super::read::{ConsistencyArg, instant};
use super::retries::attempts;
use super::{Done, Failure, Global, confirm};
use crate::client::Client;
use crate::client::cloudevents::to_json;
use crate::model::limits::DEAD_LETTERS_PER_COMMAND;
use crate::model::rejection::{Exit, Rejection};
use crate::proto::v1::{
    DeadLetter, DeadLetterChoice, DeadLetterFilter, DeadReason, Event, GetDeadLetterRequest,
    ListDeadLettersRequest, MoveDeadLettersResponse, PurgeDeadLettersRequest,
    RedriveDeadLettersRequest,
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum DeadLetterCommand {
    /// List dead letters of a subscription, the oldest first.
    #[command(
        after_help = "Examples:\n  mhub dlq ls billing\n  mhub dlq ls billing --reason MAX_ATTEMPTS --type order.created --from 2026-11-23T00:00:00Z -o jsonl"
    )]
    Ls {
        /// The subscription.
        subscription: String,
        #[command(flatten)]
        filter: FilterArgs,
        /// At most this many; 0: all.
        #[arg(long, default_value_t = 0)]
        limit: u64,
        /// How fresh.
        #[arg(long, default_value = "linearizable")]
        consistency: ConsistencyArg,
    },
    /// Show a dead letter with its event and every attempt.
    #[command(after_help = "Example:\n  mhub dlq show billing 7 -o json")]
    Show {
        /// The subscription.
        subscription: String,
        /// The dead letter's number.
        number: u64,
        /// How fresh.
        #[arg(long, default_value = "linearizable")]
        consistency: ConsistencyArg,
    },
    /// Deliver dead letters anew, to the subscription that failed them.
    #[command(
        after_help = "Examples:\n  mhub dlq redrive billing 7 9\n  mhub dlq redrive billing --reason MAX_ATTEMPTS --dry-run\n  mhub dlq redrive billing --all --rate 500"
    )]
    Redrive {
        #[command(flatten)]
        choice: ChoiceArgs,
        /// Dead letters a second.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=DEAD_LETTERS_PER_COMMAND as i64))]
        rate: u32,
    },
    /// Forget dead letters.
    #[command(
        after_help = "Examples:\n  mhub dlq purge billing 7\n  mhub dlq purge billing --until 2026-11-01T00:00:00Z --dry-run\n  mhub dlq purge billing --all --yes"
    )]
    Purge {
        #[command(flatten)]
        choice: ChoiceArgs,
        /// Do not ask.
        #[arg(long, env = "MHUB_YES")]
        yes: bool,
    },
}

/// Which dead letters.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct FilterArgs {
    /// Why they died, like MAX_ATTEMPTS; any of several.
    #[arg(long, value_parser = reason)]
    reason: Vec<DeadReason>,
    /// The event's CloudEvents type.
    #[arg(long = "type", default_value = "", hide_default_value = true, value_name = "TYPE")]
    kind: String,
    /// The event's key.
    #[arg(long, default_value = "", hide_default_value = true)]
    key: String,
    /// The topic that the event came from.
    #[arg(long, default_value = "", hide_default_value = true)]
    topic: String,
    /// Died at or after this instant, RFC 3339 or Unix milliseconds.
    #[arg(long, value_parser = instant, value_name = "TIME")]
    from: Option<u64>,
    /// Died before this instant, RFC 3339 or Unix milliseconds.
    #[arg(long, value_parser = instant, value_name = "TIME")]
    until: Option<u64>,
}

fn reason(text: &str) -> Result<DeadReason, String> {
    DeadReason::from_str_name(&format!("DEAD_REASON_{text}"))
        .filter(|reason| *reason != DeadReason::Unspecified)
        .ok_or_else(|| {
            "use MAX_ATTEMPTS, REJECTED, SCHEMA_INVALID, NON_RETRYABLE, EXPIRED or DEADLINE_UNREACHABLE"
                .to_owned()
        })
}

impl FilterArgs {
    /// `None` when nothing was said.
    fn filter(self) -> Option<DeadLetterFilter> {
        let filter = DeadLetterFilter {
            reasons: self.reason.into_iter().map(Into::into).collect(),
            event_type: self.kind,
            key: self.key,
            topic: self.topic,
            died_from_ms: self.from.unwrap_or(0),
            died_until_ms: self.until.unwrap_or(0),
        };
        (filter != DeadLetterFilter::default()).then_some(filter)
    }
}

/// Dead letters to move: by number, by filter, or all.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ChoiceArgs {
    /// The subscription.
    subscription: String,
    /// Numbers of dead letters.
    numbers: Vec<u64>,
    #[command(flatten)]
    filter: FilterArgs,
    /// All that are there now.
    #[arg(long)]
    all: bool,
    /// Only count.
    #[arg(long)]
    dry_run: bool,
}

impl ChoiceArgs {
    /// Exactly one way of choosing.
    fn choice(self) -> Result<DeadLetterChoice, Failure> {
        let (numbers, filter) = (self.numbers, self.filter.filter());
        match (numbers.is_empty(), filter.is_none(), self.all) {
            (false, true, false) | (true, false, false) | (true, true, true) => {
                Ok(DeadLetterChoice { numbers, filter, ..DeadLetterChoice::default() })
            }
            _ => Err(Failure::usage(
                "say which dead letters: numbers, or a filter like --reason, or --all; one of these",
            )),
        }
    }
}

const COLUMNS: &[(&str, usize)] = &[
    ("number", 7),
    ("died_at", 24),
    ("reason", 20),
    ("failures", 8),
    ("topic", 16),
    ("offset", 8),
    ("type", 20),
    ("key", 14),
    ("error", 0),
];
/// Dead letters that are asked for at once.
const PAGE: u32 = 1000;

pub(super) async fn run(command: DeadLetterCommand, global: Global) -> Done {
    let client = global.client()?;
    let out = global.output;
    match command {
        DeadLetterCommand::Ls { subscription, filter, limit, consistency } => {
            let request = ListDeadLettersRequest {
                subscription,
                filter: filter.filter(),
                page_size: u32::try_from(limit)
                    .ok()
                    .filter(|n| (1..PAGE).contains(n))
                    .unwrap_or(PAGE),
                page_token: String::new(),
                options: Some(consistency.options()),
            };
            list(&client, out, request, limit).await
        }
        DeadLetterCommand::Show { subscription, number, consistency } => {
            let options = Some(consistency.options());
            let request = GetDeadLetterRequest { subscription, number, options };
            let letter = client.dead_letter(request).await?;
            show(out, &letter)?;
            Ok(Exit::Ok)
        }
        DeadLetterCommand::Redrive { choice: args, rate } => {
            let (subscription, dry_run) = (args.subscription.clone(), args.dry_run);
            let mut choice = args.choice()?;
            choice.limit = if dry_run { 0 } else { rate };
            let pace = if dry_run { Duration::ZERO } else { Duration::from_secs(1) };
            let step = async |choice| {
                let subscription = subscription.clone();
                let request =
                    RedriveDeadLettersRequest { subscription, choice: Some(choice), dry_run };
                client.redrive_dead_letters(request).await
            };
            let total = all_steps(choice, pace, step).await?;
            told(out, "redriven", total, dry_run)
        }
        DeadLetterCommand::Purge { choice: args, yes } => {
            let (subscription, dry_run) = (args.subscription.clone(), args.dry_run);
            let choice = args.choice()?;
            if !dry_run {
                let what = format!(
                    "purging dead letters of subscription {subscription} forgets their events"
                );
                confirm(&what, &subscription, yes)?;
            }
            let step = async |choice| {
                let request = PurgeDeadLettersRequest {
                    subscription: subscription.clone(),
                    choice: Some(choice),
                    confirm_name: subscription.clone(),
                    dry_run,
                };
                client.purge_dead_letters(request).await
            };
            let total = all_steps(choice, Duration::ZERO, step).await?;
            told(out, "purged", total, dry_run)
        }
    }
}

/// Moves until nothing is left of what was there at first, a bounded number at once.
async fn all_steps(
    mut choice: DeadLetterChoice,
    pace: Duration,
    step: impl AsyncFn(DeadLetterChoice) -> Result<MoveDeadLettersResponse, Rejection>,
) -> Result<MoveDeadLettersResponse, Failure> {
    let mut total = MoveDeadLettersResponse::default();
    loop {
        let done = step(choice.clone()).await?;
        total.moved += done.moved;
        total.left += done.left;
        if done.next == 0 {
            return Ok(total);
        }
        if std::io::stderr().is_terminal() {
            output::complain(&format!("{} so far", total.moved));
        }
        choice.after = done.next;
        if choice.up_to == 0 {
            choice.up_to = done.last;
        }
        tokio::time::sleep(pace).await;
    }
}

fn told(out: Output, verb: &str, total: MoveDeadLettersResponse, dry_run: bool) -> Done {
    output::item(
        out,
        &json!({
            "dry_run": dry_run,
            verb: total.moved.to_string(),
            "left": total.left.to_string(),
        }),
    )?;
    if total.left == 0 {
        return Ok(Exit::Ok);
    }
    let message = format!(
        "{} dead letters were left: their topic is gone, or a seek brought their events back",
        total.left
    );
    Err(Failure::new(Exit::Partial, message))
}

async fn list(
    client: &Client,
    out: Output,
    mut request: ListDeadLettersRequest,
    limit: u64,
) -> Done {
    let mut lines = Lines::new(out, COLUMNS);
    let mut left = if limit == 0 { u64::MAX } else { limit };
    loop {
        let page = client.dead_letters(request.clone()).await?;
        for letter in page.dead_letters.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            lines.print(&row(letter))?;
        }
        left = left.saturating_sub(page.dead_letters.len() as u64);
        if left == 0 || page.next_page_token.is_empty() {
            lines.end()?;
            return Ok(Exit::Ok);
        }
        request.page_token = page.next_page_token;
    }
}

/// A dead letter as JSON; 64-bit numbers are strings, as in the JSON mapping of protobuf.
fn row(letter: &DeadLetter) -> Value {
    let error = letter.attempts.last().map(|a| format!("{} {}", a.reason, a.detail));
    json!({
        "number": letter.number.to_string(),
        "died_at": output::instant(letter.died_at_ms),
        "reason": letter.reason().as_str_name().trim_start_matches("DEAD_REASON_"),
        "failures": letter.failures,
        "redrives": letter.redrives,
        "topic": letter.topic,
        "offset": letter.offset.to_string(),
        "position": letter.position.to_string(),
        "recorded_at": output::instant(letter.recorded_at_ms),
        "id": letter.event_id,
        "source": letter.event_source,
        "type": letter.event_type,
        "key": letter.key,
        "version": letter.key_version.to_string(),
        "error": error.unwrap_or_default().trim(),
    })
}

fn show(out: Output, letter: &DeadLetter) -> Result<(), Failure> {
    let event = Event::decode(letter.event.clone()).map_err(|error| {
        Failure::new(Exit::Error, format!("the hub sent a malformed event: {error}"))
    })?;
    let mut document = row(letter);
    let told = attempts(&letter.attempts);
    if out == Output::Table {
        output::item(out, &document)?;
        output::line(&format!("event  {}", to_json(&event)))?;
        output::line("")?;
        let columns = ["number", "failed_at", "consumer", "reason", "detail"];
        return output::list(out, &columns, &told);
    }
    document["attempts"] = Value::Array(told);
    document["event"] = to_json(&event);
    output::item(out, &document)
}
