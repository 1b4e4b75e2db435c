//! `mhub events trace`.

use serde::Serialize;
use serde_json::{Value, json};

use super::output::{self, Output, Printing, instant};
use super::read::ConsistencyArg;
use super::{Done, Failure};
use crate::client::cloudevents::EnvelopeJson;
use crate::client::{Branch, Client, causes};
use crate::model::rejection::Exit;
use crate::proto::v1::{
    DeadReason, Event, Fate, FateStanding, RecordedEvent, TraceRequest, TracedEvent,
};

/// Events that are asked for at once.
const PAGE: u32 = 1000;
/// Levels that a tree is indented by; deeper ones say how deep they are.
const INDENT_MAX: usize = 24;

#[derive(Debug, clap::Args)]
pub(super) struct TraceArgs {
    /// The correlation id.
    correlation_id: String,
    /// How it is shown where no JSON is asked for; default: a tree, and with -o table a table.
    #[arg(long = "as", value_enum)]
    shape: Option<Shape>,
    /// Only what became of them in this subscription, or in those that a pattern like mail.* names; without it the
    /// first 100 are told.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    subscription: String,
    /// At most so many events, the oldest first.
    #[arg(long, default_value_t = 10_000)]
    limit: usize,
    /// How fresh.
    #[arg(long, default_value = "linearizable")]
    consistency: ConsistencyArg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Shape {
    /// What caused what.
    Tree,
    /// A line an event and subscription.
    Table,
}

/// An event with its content.
struct Story {
    recorded: RecordedEvent,
    event: Event,
    fates: Vec<Fate>,
    more_fates: bool,
}

/// A story as JSON.
#[derive(Serialize)]
struct StoryJson<'a> {
    depth: usize,
    /// The id of the event that caused it, if that is in the trace.
    cause: Option<&'a str>,
    /// Its causes run in a circle, which is cut here.
    circular: bool,
    event: EnvelopeJson<'a>,
    fates: Vec<Value>,
    more_fates: bool,
}

pub(super) async fn run(client: &Client, printing: Printing, args: TraceArgs) -> Done {
    let TraceArgs { correlation_id, shape, subscription, limit, consistency } = args;
    let Printing { output, chosen } = printing;
    let asked_for = if chosen { Shape::Table } else { Shape::Tree };
    let shape = shape.unwrap_or(asked_for);
    let filtered = !subscription.is_empty();
    let request = TraceRequest {
        correlation_id: correlation_id.clone(),
        page_size: PAGE,
        page_token: String::new(),
        options: Some(consistency.options()),
        subscription,
    };
    let (stories, more) = gather(client, request, limit).await?;
    if stories.is_empty() {
        output::complain(&format!("no event has the correlation id {correlation_id:?}"));
        return if output == Output::Table { Ok(Exit::NotFound) } else { empty(output) };
    }
    let ids = stories.iter().map(|s| (s.event.id.as_str(), s.event.causation_id.as_str()));
    let tree = causes(&ids.collect::<Vec<_>>());
    match (output, shape) {
        (Output::Table, Shape::Tree) => draw(&stories, &tree)?,
        (Output::Table, Shape::Table) => {
            let nobody = if filtered { "not taken by it" } else { "nobody takes it" };
            let rows: Vec<Value> = stories.iter().flat_map(|story| rows(story, nobody)).collect();
            output::list(output, &COLUMNS, &rows)?;
        }
        (Output::Json, _) => {
            let all: Vec<_> = tree.iter().map(|branch| story(&stories, branch)).collect();
            output::document(output, &all)?;
        }
        (Output::Jsonl, _) => {
            for branch in &tree {
                output::document(output, &story(&stories, branch))?;
            }
        }
    }
    if more {
        output::complain(&format!("these are the first {limit}; see more with --limit"));
        return Ok(Exit::Partial);
    }
    Ok(Exit::Ok)
}

fn empty(output: Output) -> Done {
    output::list(output, &COLUMNS, &[])?;
    Ok(Exit::NotFound)
}

/// All pages, up to a number of events, and whether there are more.
async fn gather(
    client: &Client,
    mut request: TraceRequest,
    limit: usize,
) -> Result<(Vec<Story>, bool), Failure> {
    let mut stories = Vec::new();
    loop {
        let page = client.trace(request.clone()).await?;
        for TracedEvent { event, fates, more_fates } in page.events {
            if stories.len() == limit {
                return Ok((stories, true));
            }
            let recorded = event.unwrap_or_default();
            let event = super::events::decode(&recorded.event)?;
            stories.push(Story { recorded, event, fates, more_fates });
        }
        if page.next_page_token.is_empty() {
            return Ok((stories, false));
        }
        request.page_token = page.next_page_token;
    }
}

fn story<'s>(stories: &'s [Story], branch: &Branch) -> StoryJson<'s> {
    let of = &stories[branch.index];
    StoryJson {
        depth: branch.depth,
        cause: branch.parent.map(|parent| stories[parent].event.id.as_str()),
        circular: branch.circular,
        event: EnvelopeJson { recorded: &of.recorded, event: &of.event },
        fates: of.fates.iter().map(fate).collect(),
        more_fates: of.more_fates,
    }
}

fn draw(stories: &[Story], tree: &[Branch]) -> Result<(), Failure> {
    for branch in tree {
        let of = &stories[branch.index];
        let Story { recorded, event, .. } = of;
        let indent = "  ".repeat(branch.depth.min(INDENT_MAX));
        let mut line = format!(
            "{indent}{} {}/{}  {}  id {}",
            event.r#type,
            recorded.topic,
            recorded.offset,
            instant(recorded.recorded_at_ms),
            event.id
        );
        if branch.depth > INDENT_MAX {
            line.push_str(&format!("  ({} causes above)", branch.depth));
        }
        if branch.circular {
            line.push_str(&format!("  (caused by {}, which it caused itself)", event.causation_id));
        } else if branch.parent.is_none() && !event.causation_id.is_empty() {
            line.push_str(&format!("  (caused by {}, which is not here)", event.causation_id));
        }
        output::line(&line)?;
        for fate in &of.fates {
            output::line(&format!("{indent}  · {}: {}", fate.subscription, told(fate)))?;
            for attempt in &fate.attempts {
                let at = instant(attempt.failed_at_ms);
                let [consumer, reason] = [&attempt.consumer, &attempt.reason];
                let detail = if attempt.detail.is_empty() {
                    String::new()
                } else {
                    format!(": {}", attempt.detail)
                };
                let number = attempt.number;
                output::line(&format!("{indent}      {number}. {at} {consumer} {reason}{detail}"))?;
            }
        }
        if of.more_fates {
            output::line(&format!(
                "{indent}  · and more subscriptions; name them with --subscription"
            ))?;
        }
    }
    Ok(())
}

fn standing(fate: &Fate) -> &'static str {
    match fate.standing() {
        FateStanding::Unspecified => "unknown",
        FateStanding::Pending => "pending",
        FateStanding::Delayed => "delayed",
        FateStanding::Cancelled => "cancelled",
        FateStanding::Leased => "leased",
        FateStanding::Retrying => "retrying",
        FateStanding::Acked => "acked",
        FateStanding::Filtered => "filtered",
        FateStanding::Before => "before its start",
        FateStanding::Dead => "dead",
    }
}

fn dead_reason(fate: &Fate) -> &'static str {
    let reason = DeadReason::try_from(fate.reason).unwrap_or_default();
    reason.as_str_name().trim_start_matches("DEAD_REASON_")
}

/// A fate in a few words.
fn told(fate: &Fate) -> String {
    let mut words = standing(fate).to_owned();
    let at = || instant(fate.at_ms);
    match fate.standing() {
        FateStanding::Delayed => words.push_str(&format!(" until {}", at())),
        FateStanding::Leased => words.push_str(&format!(" by {} until {}", fate.consumer, at())),
        FateStanding::Retrying => words.push_str(&format!(", due {}", at())),
        FateStanding::Dead => {
            let (reason, number) = (dead_reason(fate), fate.dead_number);
            words.push_str(&format!(" at {}: {reason}, ", at()));
            words.push_str(&match number {
                0 => "no dead letter is kept".to_owned(),
                number => format!("dead letter {number}"),
            });
        }
        _ => {}
    }
    if fate.failures > 0 {
        words.push_str(&format!(", failed {} times", fate.failures));
    }
    if fate.redrives > 0 {
        words.push_str(&format!(", redriven {} times", fate.redrives));
    }
    words
}

fn fate(fate: &Fate) -> Value {
    let attempts = fate.attempts.iter().map(|attempt| {
        json!({
            "number": attempt.number,
            "failed_at": instant(attempt.failed_at_ms),
            "consumer": attempt.consumer,
            "reason": attempt.reason,
            "detail": attempt.detail,
        })
    });
    let dead = fate.standing() == FateStanding::Dead;
    json!({
        "subscription": fate.subscription,
        "standing": standing(fate),
        "at": (fate.at_ms > 0).then(|| instant(fate.at_ms)),
        "consumer": fate.consumer,
        "reason": dead.then(|| dead_reason(fate)),
        "dead_letter": (dead && fate.dead_number > 0).then(|| fate.dead_number.to_string()),
        "failures": fate.failures,
        "redrives": fate.redrives,
        "attempts": attempts.collect::<Vec<_>>(),
    })
}

const COLUMNS: [&str; 6] = ["recorded_at", "topic", "offset", "type", "subscription", "fate"];

/// A row a subscription; one without any when nobody takes the event.
fn rows(story: &Story, nobody: &str) -> Vec<Value> {
    let row = |subscription: &str, fate: String| {
        json!({
            "recorded_at": instant(story.recorded.recorded_at_ms),
            "topic": story.recorded.topic,
            "offset": story.recorded.offset.to_string(),
            "type": story.event.r#type,
            "subscription": subscription,
            "fate": fate,
        })
    };
    if story.fates.is_empty() {
        return vec![row("", nobody.to_owned())];
    }
    story.fates.iter().map(|fate| row(&fate.subscription, told(fate))).collect()
}

#[cfg(test)]
mod tests {
    use crate::cli::parse;

    #[test]
    fn a_table_that_is_asked_for_is_told_from_the_default() {
        for (line, chosen) in [
            ("mhub events trace x", false),
            ("mhub events trace x -o table", true),
            ("mhub -o table events trace x", true),
            ("mhub events trace x --as tree -o json", true),
        ] {
            let cli = parse(line.split(' ').map(Into::into)).unwrap();
            assert_eq!(cli.global.output_is_chosen, chosen, "{line}");
        }
    }
}
