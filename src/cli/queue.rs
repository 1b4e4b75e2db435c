//! `mhub queue`: how subscriptions stand, side by side.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::output::{self, Output};
use super::read::ConsistencyArg;
use super::subscription::{list, stats};
use super::value::duration;
use super::{Done, Failure, Global};
use crate::client::Client;
use crate::model::rejection::{Exit, Reason};
use crate::proto::v1::{GetSubscriptionStatsRequest, SubscriptionCounters, SubscriptionStats};
use crate::runtime::clock;

#[derive(Debug, clap::Subcommand)]
pub(super) enum QueueCommand {
    /// Depth by priority, in flight, due and oldest, of one or all subscriptions.
    #[command(after_help = "Examples:\n  mhub queue stats\n  mhub queue stats billing -o json")]
    Stats {
        /// Only this subscription.
        subscription: Option<String>,
        /// At most this many, in the order of names.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// How fresh.
        #[arg(long, default_value = "linearizable")]
        consistency: ConsistencyArg,
    },
    /// The same with rates, the deepest first, again and again on a terminal.
    #[command(after_help = "Examples:\n  mhub queue top\n  mhub queue top --every 1s -o json")]
    Top {
        /// How long rates are measured, and how often the picture is drawn anew.
        #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "2s")]
        every: u64,
        /// At most this many subscriptions, in the order of names.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
}

const STATS: [&str; 10] = [
    "subscription",
    "pending",
    "pending_by_priority",
    "in_flight",
    "retrying",
    "due",
    "delayed",
    "dead_letters",
    "oldest_age",
    "paused",
];
const TOP: [&str; 10] = [
    "subscription",
    "pending",
    "in_flight",
    "due",
    "dead_letters",
    "oldest_age",
    "delivered_per_s",
    "acked_per_s",
    "failed_per_s",
    "paused",
];
/// The shortest time that rates are measured over, milliseconds.
const EVERY_MS_MIN: u64 = 100;

type Queues = BTreeMap<String, SubscriptionStats>;

pub(super) async fn run(command: QueueCommand, global: Global) -> Done {
    let client = global.client()?;
    match command {
        QueueCommand::Stats { subscription, limit, consistency } => {
            let queues = match subscription {
                Some(name) => {
                    let found = one(&client, &name, consistency).await?;
                    Queues::from([(name, found)])
                }
                None => all(&client, limit, consistency).await?,
            };
            let rows: Vec<_> = queues.iter().map(|(name, counts)| stats(name, counts)).collect();
            output::list(global.output, &STATS, &rows)?;
        }
        QueueCommand::Top { every, limit } => {
            if every < EVERY_MS_MIN {
                return Err(Failure::usage(format!(
                    "--every {every}ms is less than {EVERY_MS_MIN}ms; give rates more time"
                )));
            }
            top(&client, global.output, Duration::from_millis(every), limit).await?;
        }
    }
    Ok(Exit::Ok)
}

async fn one(
    client: &Client,
    name: &str,
    consistency: ConsistencyArg,
) -> Result<SubscriptionStats, Failure> {
    let (name, options) = (name.to_owned(), Some(consistency.options()));
    Ok(client.subscription_stats(GetSubscriptionStatsRequest { name, options }).await?)
}

async fn all(
    client: &Client,
    limit: usize,
    consistency: ConsistencyArg,
) -> Result<Queues, Failure> {
    let mut queues = Queues::new();
    for subscription in list(client, consistency).await?.into_iter().take(limit) {
        let options = Some(consistency.options());
        let name = subscription.name;
        let request = GetSubscriptionStatsRequest { name: name.clone(), options };
        match client.subscription_stats(request).await {
            Ok(counts) => drop(queues.insert(name, counts)),
            // It was deleted meanwhile.
            Err(gone) if gone.reason == Reason::SubscriptionNotFound => {}
            Err(rejection) => return Err(rejection.into()),
        }
    }
    Ok(queues)
}

async fn top(client: &Client, out: Output, every: Duration, limit: usize) -> Result<(), Failure> {
    let again = out == Output::Table && std::io::stdout().is_terminal();
    let mut before = (clock::now(), all(client, limit, ConsistencyArg::Linearizable).await?);
    loop {
        tokio::time::sleep(every).await;
        let now = (clock::now(), all(client, limit, ConsistencyArg::Linearizable).await?);
        let mut rows: Vec<_> = now.1.iter().collect();
        rows.sort_by_key(|(_, counts)| std::cmp::Reverse(counts.pending));
        let rows: Vec<_> = rows
            .into_iter()
            .map(|(name, counts)| {
                let old = before.1.get(name).and_then(|s| s.counters).unwrap_or_default();
                rated(stats(name, counts), rates(&old, counts, now.0 - before.0))
            })
            .collect();
        if again {
            // Home, and clear what is below.
            output::line("\u{1b}[H\u{1b}[J")?;
        }
        output::list(out, &TOP, &rows)?;
        if !again {
            return Ok(());
        }
        before = now;
    }
}

fn rated(row: Value, rates: Map<String, Value>) -> Value {
    match row {
        Value::Object(mut fields) => {
            fields.extend(rates);
            Value::Object(fields)
        }
        other => other,
    }
}

/// Events a second, rounded.
fn rates(
    old: &SubscriptionCounters,
    now: &SubscriptionStats,
    over: Duration,
) -> Map<String, Value> {
    let new = now.counters.unwrap_or_default();
    let failed = |c: &SubscriptionCounters| c.nacked + c.rejected + c.expired;
    let per_s = |old: u64, new: u64| {
        let millis = over.as_millis().max(1);
        (u128::from(new.saturating_sub(old)) * 1000 + millis / 2) / millis
    };
    [
        ("delivered_per_s", per_s(old.delivered, new.delivered)),
        ("acked_per_s", per_s(old.acked, new.acked)),
        ("failed_per_s", per_s(failed(old), failed(&new))),
    ]
    .into_iter()
    .map(|(name, rate)| (name.to_owned(), json!(rate.to_string())))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_per_second() {
        let old = SubscriptionCounters { delivered: 100, acked: 7, ..Default::default() };
        let new = SubscriptionCounters { delivered: 350, acked: 7, nacked: 1, expired: 2, ..old };
        let now = SubscriptionStats { counters: Some(new), ..Default::default() };
        let rates = rates(&old, &now, Duration::from_millis(500));
        assert_eq!(rates["delivered_per_s"], "500");
        assert_eq!(rates["acked_per_s"], "0");
        assert_eq!(rates["failed_per_s"], "6");
    }
}
