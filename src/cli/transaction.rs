//! `mhub tx`.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::pipe::{self, PipeArgs};
use super::read::ConsistencyArg;
use super::value::duration;
use super::{Done, Failure, Global, output, transaction_document};
use crate::client::{Client, receipts};
use crate::model::rejection::Exit;
use crate::proto::v1::{
    AbortTransactionRequest, BeginTransactionRequest, CommitTransactionRequest,
    GetTransactionRequest, ListTransactionsRequest, PublishResult, StageTransactionRequest,
    TransactRequest, Transaction, TransactionState,
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum TransactionCommand {
    /// Append to topics and settle deliveries, all of it or nothing.
    #[command(
        after_help = "The document:\n  {\"parts\": [{\"topic\": \"accounts\", \"expect\": {\"alice\": 7, \"bob\": \"exists\", \"carol\": \"none\"}, \"events\": [CLOUDEVENT, …]}, …],\n   \"settles\": [{\"subscription\": \"s\", \"consumer\": \"c\", \"items\": [{\"lease_id\": \"1\", \"term\": \"1\", \"topic_id\": \"1\", \"action\": \"ack\"}]}]}\nActions: ack, nack, reject, release; nack and reject may have a \"reason\" and a \"detail\", nack a \"retry_after\" like \"30s\"; \"ranges\", like [{\"first\": 7, \"count\": 2}], names part of a lease. Leases come from: mhub events pull SUBSCRIPTION -o json\n\nExamples:\n  mhub tx run transfer.json\n  echo '{\"parts\": [{\"topic\": \"a\", \"expect\": {\"k\": \"none\"}}, {\"topic\": \"b\", \"events\": [{\"specversion\": \"1.0\", \"id\": \"1\", \"source\": \"/x\", \"type\": \"t\"}]}]}' | mhub tx run -"
    )]
    Run {
        /// A file, or - for standard input.
        file: PathBuf,
        /// A repeated transaction with the same id gets the first answer; default: a new one.
        #[arg(long, default_value = "", hide_default_value = true)]
        request_id: String,
    },
    /// Consume, transform, and append the results: each event has one result, whatever breaks down.
    #[command(
        after_help = "Results keep key, subject and correlation of their events, which are their cause. An event whose result\nthe topic refuses for what it is (its schema, its size) is a dead letter, and the others go on.\n\nExamples:\n  mhub tx pipe billing --into invoices --run 'jq -c .total'\n  mhub tx pipe billing --into invoices --run ./invoice.sh --type invoice --wait 5"
    )]
    Pipe(PipeArgs),
    /// Begin a transaction whose parts come one after the other.
    #[command(
        after_help = "It expires by itself when nobody commits it in time.\n\nExamples:\n  mhub tx begin\n  mhub tx begin --expires 5m --label import -o json"
    )]
    Begin {
        /// It expires after that: 1s to 1h.
        #[arg(long, value_parser = duration, default_value = "60s", value_name = "DURATION")]
        expires: u64,
        /// What people call it.
        #[arg(long, default_value = "", hide_default_value = true)]
        label: String,
        /// A repeated one with the same id gets the transaction that the first one began.
        #[arg(long, default_value = "", hide_default_value = true)]
        request_id: String,
    },
    /// Add to a transaction; nobody sees it before the commit.
    #[command(
        after_help = "The document is that of: mhub tx run --help\n\nExample:\n  mhub tx stage 7 part.json"
    )]
    Stage {
        /// The transaction's id.
        id: u64,
        /// A file, or - for standard input.
        file: PathBuf,
        /// A repeated one with the same id changes nothing.
        #[arg(long, default_value = "", hide_default_value = true)]
        request_id: String,
    },
    /// Do everything that was staged, or nothing. Committing again gets the first answer.
    #[command(after_help = "Example:\n  mhub tx commit 7")]
    Commit {
        /// The transaction's id.
        id: u64,
    },
    /// Forget what was staged.
    #[command(after_help = "Example:\n  mhub tx abort 7")]
    Abort {
        /// The transaction's id.
        id: u64,
    },
    /// List transactions; those that ended are kept for a day.
    #[command(after_help = "Examples:\n  mhub tx ls\n  mhub tx ls --state open -o jsonl")]
    Ls {
        /// Only those in this state.
        #[arg(long)]
        state: Option<StateArg>,
        /// How fresh.
        #[arg(long, default_value = "linearizable")]
        consistency: ConsistencyArg,
    },
    /// Show how a transaction stands, and what is staged in it.
    #[command(visible_alias = "info", after_help = "Example:\n  mhub tx show 7 -o json")]
    Show {
        /// The transaction's id.
        id: u64,
        /// How fresh.
        #[arg(long, default_value = "linearizable")]
        consistency: ConsistencyArg,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum StateArg {
    Open,
    Committed,
    Aborted,
    Expired,
}

const COLUMNS: [&str; 7] =
    ["id", "state", "label", "operations", "bytes", "created_at", "expires_at"];
/// Transactions that are asked for at once.
const PAGE: u32 = 1000;

pub(super) async fn run(command: TransactionCommand, global: Global) -> Done {
    let client = global.client()?;
    let transaction = match command {
        TransactionCommand::Run { file, request_id } => {
            let document = transaction_document::from_file(&file)?;
            return transact(&client, TransactRequest { request_id, ..document }, &global).await;
        }
        TransactionCommand::Pipe(args) => return pipe::run(&client, global.output, args).await,
        TransactionCommand::Begin { expires, label, request_id } => {
            // 0 would be the default.
            let timeout_ms = expires.max(1);
            let request = BeginTransactionRequest { timeout_ms, label, request_id };
            client.begin_transaction(request).await?
        }
        TransactionCommand::Stage { id, file, request_id } => {
            let TransactRequest { parts, settles, .. } = transaction_document::from_file(&file)?;
            let request = StageTransactionRequest { id, parts, settles, request_id };
            client.stage_transaction(request).await?
        }
        TransactionCommand::Commit { id } => {
            client.commit_transaction(CommitTransactionRequest { id }).await?
        }
        TransactionCommand::Abort { id } => {
            client.abort_transaction(AbortTransactionRequest { id }).await?
        }
        TransactionCommand::Ls { state, consistency } => {
            let found = list(&client, state, consistency).await?;
            output::list(global.output, &COLUMNS, &found)?;
            return Ok(Exit::Ok);
        }
        TransactionCommand::Show { id, consistency } => {
            let options = Some(consistency.options());
            client.transaction(GetTransactionRequest { id, options }).await?
        }
    };
    output::item(global.output, &print(&transaction))?;
    Ok(Exit::Ok)
}

async fn transact(client: &Client, request: TransactRequest, global: &Global) -> Done {
    let topics: Vec<String> = request.parts.iter().map(|part| part.topic.clone()).collect();
    let answer = client.transact(request).await?;
    let rows: Vec<Value> =
        topics.iter().zip(&answer.parts).flat_map(|(topic, part)| appended(topic, part)).collect();
    let columns: Vec<&str> = super::events::RECEIPT.iter().map(|(name, _)| *name).collect();
    output::list(global.output, &columns, &rows)?;
    Ok(Exit::Ok)
}

/// Where the events of a part went.
fn appended(topic: &str, part: &PublishResult) -> Vec<Value> {
    if part.count == 0 {
        return Vec::new();
    }
    receipts(part).into_iter().map(|one| super::events::receipt(topic, one)).collect()
}

async fn list(
    client: &Client,
    state: Option<StateArg>,
    consistency: ConsistencyArg,
) -> Result<Vec<Value>, Failure> {
    let state = match state {
        None => TransactionState::Unspecified,
        Some(StateArg::Open) => TransactionState::Open,
        Some(StateArg::Committed) => TransactionState::Committed,
        Some(StateArg::Aborted) => TransactionState::Aborted,
        Some(StateArg::Expired) => TransactionState::Expired,
    };
    let mut request = ListTransactionsRequest {
        page_size: PAGE,
        page_token: String::new(),
        state: state.into(),
        options: Some(consistency.options()),
    };
    let mut found = Vec::new();
    loop {
        let page = client.transactions(request.clone()).await?;
        found.extend(page.transactions.iter().map(print));
        if page.next_page_token.is_empty() {
            return Ok(found);
        }
        request.page_token = page.next_page_token;
    }
}

/// A transaction as JSON; 64-bit numbers are strings, as in the JSON mapping of protobuf.
fn print(transaction: &Transaction) -> Value {
    let state = match transaction.state() {
        TransactionState::Unspecified => "unknown",
        TransactionState::Open => "open",
        TransactionState::Committed => "committed",
        TransactionState::Aborted => "aborted",
        TransactionState::Expired => "expired",
    };
    let mut printed = json!({
        "id": transaction.id.to_string(),
        "state": state,
        "label": transaction.label,
        "operations": transaction.operations,
        "bytes": transaction.bytes.to_string(),
        "created_at": output::instant(transaction.created_at_ms),
        "expires_at": output::instant(transaction.expires_at_ms),
    });
    let Value::Object(fields) = &mut printed else { return printed };
    let mut add = |name: &str, value: Vec<Value>| {
        if !value.is_empty() {
            fields.insert(name.to_owned(), Value::Array(value));
        }
    };
    let staged = transaction.staged.iter().map(|part| {
        json!({"topic": part.topic, "events": part.events, "expectations": part.expectations})
    });
    add("staged", staged.collect());
    let settles = transaction.settles.iter();
    let settles =
        settles.map(|settle| json!({"subscription": settle.subscription, "items": settle.items}));
    add("settles", settles.collect());
    let committed = transaction.committed.iter();
    let committed = committed.filter_map(|part| Some((&part.topic, part.result.as_ref()?)));
    add("events", committed.flat_map(|(topic, part)| appended(topic, part)).collect());
    if transaction.ended_at_ms > 0 {
        fields.insert("ended_at".to_owned(), output::instant(transaction.ended_at_ms).into());
    }
    printed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::limits::TRANSACTION_TIMEOUT_MS_DEFAULT;

    #[test]
    fn a_timeout_that_is_not_named_is_that_of_the_hub() {
        assert_eq!(duration("60s"), Ok(TRANSACTION_TIMEOUT_MS_DEFAULT));
    }
}
