//! `mhub quota`.

use serde_json::{Value, json};

use super::output;
use super::read::ConsistencyArg;
use super::{Done, Failure, Global, confirm};
use crate::model::rejection::Exit;
use crate::proto::v1::{
    DeleteQuotaRequest, GetQuotaRequest, ListQuotasRequest, Quota, SetQuotaRequest,
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum QuotaCommand {
    /// Show the limits of a service.
    #[command(after_help = "Example:\n  mhub quota get shop -o json")]
    Get {
        /// The service.
        name: String,
        /// How fresh.
        #[arg(long, default_value = "linearizable")]
        consistency: ConsistencyArg,
    },
    /// Set limits of a service; the others stay. A service is what clients declare with --service.
    #[command(
        group = clap::ArgGroup::new("limits").required(true).multiple(true).args(
            ["publish_events", "publish_bytes", "in_flight", "retries", "backlog_bytes", "instances"]),
        after_help = "Examples:\n  mhub quota set shop --publish-events 1000\n  mhub quota set shop --in-flight 500 --retries 20\n  mhub quota set shop --publish-bytes 10000000\n  mhub quota set default --publish-events 50     whoever declares no service"
    )]
    Set {
        /// The service.
        name: String,
        /// Events that it may publish a second; 0: no limit.
        #[arg(long, value_name = "PER_SECOND")]
        publish_events: Option<u64>,
        /// Bytes of events that it may publish a second; 0: no limit.
        #[arg(long, value_name = "PER_SECOND")]
        publish_bytes: Option<u64>,
        /// Events in flight to its consumers, over all subscriptions; 0: no limit.
        #[arg(long, value_name = "EVENTS")]
        in_flight: Option<u64>,
        /// Retries that its consumers are handed a second; 0: no limit.
        #[arg(long, value_name = "PER_SECOND")]
        retries: Option<u64>,
        /// It may not publish to a topic while more bytes wait there for the slowest subscription;
        /// 0: no limit.
        #[arg(long, value_name = "BYTES")]
        backlog_bytes: Option<u64>,
        /// Instances that it may have registered; 0: no limit.
        #[arg(long, value_name = "COUNT")]
        instances: Option<u64>,
    },
    /// List services with limits.
    #[command(after_help = "Example:\n  mhub quota ls")]
    Ls {
        /// How fresh.
        #[arg(long, default_value = "linearizable")]
        consistency: ConsistencyArg,
    },
    /// Take all limits of a service away.
    #[command(after_help = "Example:\n  mhub quota rm shop --yes")]
    Rm {
        /// The service.
        name: String,
        /// Do not ask.
        #[arg(long, env = "MHUB_YES")]
        yes: bool,
    },
}

const COLUMNS: [&str; 7] = [
    "service",
    "publish_events_per_s",
    "publish_bytes_per_s",
    "in_flight",
    "retries_per_s",
    "backlog_bytes",
    "instances",
];
/// Quotas that are asked for at once.
const PAGE: u32 = 1000;

pub(super) async fn run(command: QuotaCommand, global: Global) -> Done {
    let client = global.client()?;
    match command {
        QuotaCommand::Get { name: service, consistency } => {
            let options = Some(consistency.options());
            let found = client.quota(GetQuotaRequest { service, options }).await?;
            output::item(global.output, &quota(&found))?;
        }
        QuotaCommand::Set {
            name: service,
            publish_events,
            publish_bytes,
            in_flight,
            retries,
            backlog_bytes,
            instances,
        } => {
            let request = GetQuotaRequest { service, options: None };
            let mut wanted = client.quota(request).await?;
            wanted.publish_events_per_s = publish_events.unwrap_or(wanted.publish_events_per_s);
            wanted.publish_bytes_per_s = publish_bytes.unwrap_or(wanted.publish_bytes_per_s);
            wanted.in_flight = in_flight.unwrap_or(wanted.in_flight);
            wanted.retries_per_s = retries.unwrap_or(wanted.retries_per_s);
            wanted.backlog_bytes = backlog_bytes.unwrap_or(wanted.backlog_bytes);
            wanted.instances = instances.unwrap_or(wanted.instances);
            let set = client.set_quota(SetQuotaRequest { quota: Some(wanted) }).await?;
            output::item(global.output, &quota(&set))?;
        }
        QuotaCommand::Ls { consistency } => {
            let quotas = list(&client, consistency).await?;
            output::list(global.output, &COLUMNS, &quotas)?;
        }
        QuotaCommand::Rm { name: service, yes } => {
            confirm(&format!("removing the quota of {service} lifts all limits"), &service, yes)?;
            client.delete_quota(DeleteQuotaRequest { service }).await?;
        }
    }
    Ok(Exit::Ok)
}

async fn list(
    client: &crate::client::Client,
    consistency: ConsistencyArg,
) -> Result<Vec<Value>, Failure> {
    let mut request = ListQuotasRequest {
        page_size: PAGE,
        page_token: String::new(),
        options: Some(consistency.options()),
    };
    let mut quotas = Vec::new();
    loop {
        let page = client.quotas(request.clone()).await?;
        quotas.extend(page.quotas.iter().map(quota));
        if page.next_page_token.is_empty() {
            return Ok(quotas);
        }
        request.page_token = page.next_page_token;
    }
}

/// A quota as JSON; 64-bit numbers are strings, as in the JSON mapping of protobuf.
fn quota(quota: &Quota) -> Value {
    json!({
        "service": quota.service,
        "publish_events_per_s": quota.publish_events_per_s.to_string(),
        "publish_bytes_per_s": quota.publish_bytes_per_s.to_string(),
        "in_flight": quota.in_flight.to_string(),
        "retries_per_s": quota.retries_per_s.to_string(),
        "backlog_bytes": quota.backlog_bytes.to_string(),
        "instances": quota.instances.to_string(),
    })
}
