//! `mhub retries`.

use serde_json::{Value, json};

use super::output::{self, Lines};
use super::read::ConsistencyArg;
use super::{Done, Failure, Global};
use crate::model::rejection::{Exit, Rejection};
use crate::proto::v1::{
    Attempt, ListRetriesRequest, MoveRetriesRequest, MoveRetriesResponse, Retry,
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum RetriesCommand {
    /// List events that failed and will be delivered again.
    #[command(after_help = "Example:\n  mhub retries ls billing -o jsonl")]
    Ls {
        /// The subscription.
        subscription: String,
        /// How fresh.
        #[arg(long, default_value = "linearizable")]
        consistency: ConsistencyArg,
    },
    /// Deliver them now instead of waiting for their time.
    #[command(
        after_help = "Examples:\n  mhub retries now billing --topic orders --offset 7 --offset 9\n  mhub retries now billing --all"
    )]
    Now(MoveArgs),
    /// Give them up: they become dead letters.
    #[command(
        after_help = "Examples:\n  mhub retries cancel billing --topic orders --offset 7\n  mhub retries cancel billing --topic orders --all"
    )]
    Cancel(MoveArgs),
}

/// Which retries.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct MoveArgs {
    /// The subscription.
    subscription: String,
    /// Only those of this topic.
    #[arg(long, required_unless_present = "all")]
    topic: Option<String>,
    /// An offset of the topic; may be given many times.
    #[arg(long, requires = "topic", required_unless_present = "all", conflicts_with = "all")]
    offset: Vec<u64>,
    /// All of them.
    #[arg(long)]
    all: bool,
}

const COLUMNS: &[(&str, usize)] =
    &[("topic", 16), ("offset", 8), ("standing", 9), ("failures", 8), ("due_at", 24), ("error", 0)];
/// Retries that are asked for at once.
const PAGE: u32 = 1000;

pub(super) async fn run(command: RetriesCommand, global: Global) -> Done {
    let client = global.client()?;
    let (args, total, verb) = match command {
        RetriesCommand::Ls { subscription, consistency } => {
            let mut request = ListRetriesRequest {
                subscription,
                page_size: PAGE,
                page_token: String::new(),
                options: Some(consistency.options()),
            };
            let mut lines = Lines::new(global.output, COLUMNS);
            loop {
                let page = client.retries(request.clone()).await?;
                page.retries.iter().try_for_each(|retry| lines.print(&row(retry)))?;
                if page.next_page_token.is_empty() {
                    lines.end()?;
                    return Ok(Exit::Ok);
                }
                request.page_token = page.next_page_token;
            }
        }
        RetriesCommand::Now(args) => {
            let step = async |request| client.retry_now(request).await;
            let total = all_steps(&args, step).await?;
            (args, total, "ready")
        }
        RetriesCommand::Cancel(args) => {
            let step = async |request| client.cancel_retries(request).await;
            let total = all_steps(&args, step).await?;
            (args, total, "cancelled")
        }
    };
    let (moved, left) = (total.moved.to_string(), total.left.to_string());
    output::item(global.output, &json!({ verb: moved, "left": left }))?;
    if total.moved == 0 && !args.all {
        let message = format!(
            "subscription {} has no such retries that wait; list them with: mhub retries ls {0}",
            args.subscription
        );
        return Err(Failure::new(Exit::NotFound, message));
    }
    Ok(Exit::Ok)
}

/// Moves until nothing is left, a bounded number at once.
async fn all_steps(
    args: &MoveArgs,
    step: impl AsyncFn(MoveRetriesRequest) -> Result<MoveRetriesResponse, Rejection>,
) -> Result<MoveRetriesResponse, Failure> {
    let mut request = MoveRetriesRequest {
        subscription: args.subscription.clone(),
        topic: args.topic.clone().unwrap_or_default(),
        offsets: args.offset.clone(),
        page_token: String::new(),
    };
    let mut total = MoveRetriesResponse::default();
    loop {
        let done = step(request.clone()).await?;
        total.moved += done.moved;
        total.left += done.left;
        if done.next_page_token.is_empty() {
            return Ok(total);
        }
        request.page_token = done.next_page_token;
    }
}

fn row(retry: &Retry) -> Value {
    let standing = retry.standing().as_str_name().trim_start_matches("RETRY_STANDING_");
    let error = retry.attempts.last().map(|a| format!("{} {}", a.reason, a.detail));
    json!({
        "topic": retry.topic,
        "offset": retry.offset.to_string(),
        "standing": standing.to_ascii_lowercase(),
        "failures": retry.failures,
        "redrives": retry.redrives,
        "due_at": output::instant(retry.due_at_ms),
        "error": error.unwrap_or_default().trim(),
        "attempts": attempts(&retry.attempts),
    })
}

/// Failed deliveries as JSON.
pub(super) fn attempts(attempts: &[Attempt]) -> Vec<Value> {
    let one = |attempt: &Attempt| {
        json!({
            "number": attempt.number,
            "failed_at": output::instant(attempt.failed_at_ms),
            "consumer": attempt.consumer,
            "reason": attempt.reason,
            "detail": attempt.detail,
        })
    };
    attempts.iter().map(one).collect()
}
