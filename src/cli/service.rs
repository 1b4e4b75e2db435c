//! `mhub service`.

use serde_json::Value;

use super::output::{self, Output};
use super::read::ConsistencyArg;
use super::service_config::{SETTINGS, balance};
use super::service_graph as graph;
use super::service_handle::{self, HandleArgs};
use super::service_print::{
    COLUMNS, INSTANCE_COLUMNS, change_line, chosen, instance, put_breaker, show, summary,
};
use super::service_register::{RegisterArgs, register};
use super::{Done, Failure, Global, confirm};
use crate::client::{Client, Watched};
use crate::model::rejection::{Exit, Reason, Rejection};
use crate::proto::status::from_call_error;
use crate::proto::v1::{
    BalancePolicy, BreakerState, DeleteServiceRequest, DeregisterInstancesRequest,
    GetReadinessRequest, GetServiceRequest, Instance, InstanceMode, InstanceName,
    InstancesResponse, ListServicesRequest, ResolveRequest, SetBreakerRequest,
    SetInstanceModeRequest, instance_result,
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum ServiceCommand {
    /// Register a service, change its settings, or register an instance of it.
    #[command(
        disable_version_flag = true,
        after_help = format!("{SETTINGS}\n\nExamples:\n  mhub service register billing --config balance=weighted --depends ledger@^2 --depends mail?\n  mhub service register billing --instance b1 --address http=10.0.0.7:8080 --version 1.4.0\n  mhub service register billing --instance b1 --address http=10.0.0.7:8080 --keep     renews it until ctrl-C\n  mhub service register billing --failover billing-eu --failover zone:west\n  mhub service register billing --no-depends --config label.team=     takes away what it needs, and a label")
    )]
    Register(Box<RegisterArgs>),
    /// Deregister an instance.
    #[command(
        after_help = "Examples:\n  mhub service deregister billing b1 --owner SECRET\n  mhub service deregister billing b1 --force      whoever owns it"
    )]
    Deregister(NameArgs),
    /// Give an instance no new work; it finishes what it has. With --force, also when it registers again.
    #[command(
        after_help = "Examples:\n  mhub service drain billing b1 --force\n  mhub service drain billing b1 --force --maintenance     and keep it registered while it is silent\n  mhub service drain billing b1 --force --undo"
    )]
    Drain {
        #[command(flatten)]
        name: NameArgs,
        /// It is not deregistered when it falls silent.
        #[arg(long)]
        maintenance: bool,
        /// It gets work again.
        #[arg(long, conflicts_with = "maintenance")]
        undo: bool,
    },
    /// List services.
    #[command(after_help = "Example:\n  mhub service ls -o jsonl")]
    Ls {
        /// How fresh.
        #[arg(long, default_value = "linearizable")]
        consistency: ConsistencyArg,
    },
    /// Show a service with its settings and instances, and how it stands: ready or why not, which service is
    /// called in its place, whether silent instances are given up.
    #[command(
        after_help = "The table has the newest changes of health of its instances, JSON has all that are kept.\n\nExamples:\n  mhub service info billing\n  mhub service info billing -o json"
    )]
    Info {
        /// The service.
        name: String,
        /// How fresh.
        #[arg(long, default_value = "linearizable")]
        consistency: ConsistencyArg,
    },
    /// Choose instances of a service to call.
    #[command(
        after_help = "Examples:\n  mhub service resolve billing\n  mhub service resolve billing --count 3 --zone eu --requires '^1.4'\n  mhub service resolve billing --policy consistent_hash --key customer-7 -o json"
    )]
    Resolve {
        /// The service.
        name: String,
        /// How many.
        #[arg(long, default_value_t = 1)]
        count: u32,
        /// How to choose; default: as the service says.
        #[arg(long, value_parser = balance)]
        policy: Option<BalancePolicy>,
        /// What consistent_hash goes by.
        #[arg(long, default_value = "")]
        key: String,
        /// The caller's zone.
        #[arg(long, default_value = "")]
        zone: String,
        /// Which versions will do, like ^1.4.
        #[arg(long, default_value = "", value_name = "VERSIONS")]
        requires: String,
        /// Only instances with an address of this protocol.
        #[arg(long, default_value = "")]
        protocol: String,
    },
    /// Follow the changes of services and instances.
    #[command(
        after_help = "Examples:\n  mhub service watch\n  mhub service watch billing ledger -o jsonl\n  mhub service watch --after 1742"
    )]
    Watch {
        /// Only these.
        names: Vec<String>,
        /// Changes after this revision, instead of what is there first.
        #[arg(long)]
        after: Option<u64>,
        /// End after so many changes.
        #[arg(long)]
        limit: Option<u64>,
    },
    /// Show what depends on what: of a service both ways, or of all.
    #[command(
        after_help = "Examples:\n  mhub service deps billing          a tree of what it needs, and who needs it\n  mhub service deps --dot | dot -Tsvg > services.svg\n  mhub service deps -o json"
    )]
    Deps {
        /// The service.
        name: Option<String>,
        /// As a graph for Graphviz.
        #[arg(long)]
        dot: bool,
    },
    /// Say whether a service and all that it requires is there, and why not.
    #[command(
        after_help = "Example:\n  mhub service ready billing || echo wait       exit code 10: not ready"
    )]
    Ready {
        /// The service.
        name: String,
    },
    /// Force a breaker open or closed, or let it be again; of an instance, or of the whole service.
    #[command(
        after_help = "Examples:\n  mhub service breaker billing b1 open\n  mhub service breaker billing b1 auto\n  mhub service breaker billing closed"
    )]
    Breaker {
        /// The service.
        name: String,
        /// The instance and where its breaker shall be: open, closed or auto; without an instance the
        /// service's.
        #[arg(num_args = 1..=2, required = true, value_name = "[INSTANCE] STATE")]
        what: Vec<String>,
    },
    /// Be an instance that prints what the hub delivers, by HTTP and gRPC; for trying things out.
    #[command(
        disable_version_flag = true,
        after_help = "Examples:\n  mhub service handle billing --id b1 -o jsonl\n  mhub service handle billing --id b2 --answer 503 --delay 200ms\nThe subscription: mhub sub create bills --topic 'orders.>' --config target=billing"
    )]
    Handle(Box<HandleArgs>),
    /// Delete a service that has no instances.
    #[command(after_help = "Example:\n  mhub service rm billing --yes")]
    Rm {
        /// The service.
        name: String,
        /// Do not ask.
        #[arg(long, env = "MHUB_YES")]
        yes: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct NameArgs {
    /// The service.
    service: String,
    /// The instance.
    instance: String,
    /// The secret that it was registered with.
    #[arg(long, env = "MHUB_OWNER", default_value = "", hide_env_values = true)]
    owner: String,
    /// Whoever owns it.
    #[arg(long)]
    force: bool,
}

impl NameArgs {
    fn name(&self) -> InstanceName {
        InstanceName {
            service: self.service.clone(),
            id: self.instance.clone(),
            owner: self.owner.clone(),
        }
    }
}

/// Services that are asked for at once.
const PAGE: u32 = 1000;

pub(super) async fn run(command: ServiceCommand, global: Global) -> Done {
    let client = global.client()?;
    let output = global.output;
    match command {
        ServiceCommand::Register(args) => return register(&client, *args, output).await,
        ServiceCommand::Handle(args) => return service_handle::run(*args, &global).await,
        ServiceCommand::Deregister(args) => {
            let (instances, force) = (vec![args.name()], args.force);
            let request = DeregisterInstancesRequest { instances, force };
            let gone = one(client.deregister_instances(request).await?)?;
            output::item(output, &instance(&gone))?;
        }
        ServiceCommand::Drain { name, maintenance, undo } => {
            drain(&client, &name, (maintenance, undo), output).await?;
        }
        ServiceCommand::Ls { consistency } => {
            output::list(output, &COLUMNS, &list(&client, consistency).await?)?;
        }
        ServiceCommand::Info { name, consistency } => {
            let options = Some(consistency.options());
            let request = GetServiceRequest { name, options, ..Default::default() };
            let found = client.service(request).await?;
            show(&found, output)?;
        }
        ServiceCommand::Resolve { name, count, policy, key, zone, requires, protocol } => {
            let request = ResolveRequest {
                service: name,
                count,
                policy: policy.map_or(0, i32::from),
                key,
                zone,
                requirement: requires,
                protocol,
                all: false,
            };
            resolve(&client, request, output).await?;
        }
        ServiceCommand::Watch { names, after, limit } => {
            return watch(&client, names, after, limit, output).await;
        }
        ServiceCommand::Deps { name, dot } => return graph::deps(&client, name, dot, output).await,
        ServiceCommand::Ready { name } => {
            let request = GetReadinessRequest { name, options: None };
            return graph::ready(&client.readiness(request).await?, output);
        }
        ServiceCommand::Breaker { name, what } => {
            set_breaker(&client, name, &what, output).await?;
        }
        ServiceCommand::Rm { name, yes } => {
            confirm(&format!("deleting service {name} forgets its settings"), &name, yes)?;
            let request_id = String::new();
            client.delete_service(DeleteServiceRequest { name, request_id }).await?;
        }
    }
    Ok(Exit::Ok)
}

async fn drain(
    client: &Client,
    name: &NameArgs,
    (maintenance, undo): (bool, bool),
    output: Output,
) -> Result<(), Failure> {
    let mode = match (maintenance, undo) {
        (true, _) => InstanceMode::Maintenance,
        (_, true) => InstanceMode::Up,
        _ => InstanceMode::Draining,
    };
    let (instances, mode, force) = (vec![name.name()], mode.into(), name.force);
    let request = SetInstanceModeRequest { instances, mode, force, request_id: String::new() };
    let set = one(client.set_instance_mode(request).await?)?;
    output::item(output, &instance(&set))
}

async fn resolve(client: &Client, request: ResolveRequest, output: Output) -> Result<(), Failure> {
    let zone = request.zone.clone();
    let found = client.resolve(request).await?;
    if let Some(other) = &found.other_zone {
        let other = if other.is_empty() { "no zone" } else { other };
        output::complain(&format!("of {other}, not of {zone}"));
    }
    if found.stale {
        output::complain("this node hears of no leader: this may be old");
    }
    if found.panic {
        output::complain("too few instances are healthy: all count as healthy");
    }
    if !found.failed_over_to.is_empty() {
        output::complain(&format!("failed over to {}", found.failed_over_to));
    }
    output::list(output, &INSTANCE_COLUMNS, &chosen(&found))
}

async fn set_breaker(
    client: &Client,
    service: String,
    what: &[String],
    output: Output,
) -> Result<(), Failure> {
    let (instance, state) = match what {
        [instance, state] => (instance.clone(), state),
        [state] => (String::new(), state),
        _ => return Err(Failure::usage("name a state: open, closed or auto")),
    };
    let state = match state.as_str() {
        "open" => BreakerState::ForcedOpen,
        "closed" => BreakerState::ForcedClosed,
        "auto" => BreakerState::Closed,
        _ => return Err(Failure::usage(format!("{state:?} is not open, closed or auto"))),
    };
    let told = put_breaker(&service, &instance, state);
    let (state, request_id) = (state.into(), String::new());
    client.set_breaker(SetBreakerRequest { service, instance, state, request_id }).await?;
    output::item(output, &told)
}

/// The instance of an answer, or why not.
pub(super) fn one(answer: InstancesResponse) -> Result<Instance, Failure> {
    match answer.results.into_iter().next().and_then(|result| result.result) {
        Some(instance_result::Result::Instance(instance)) => Ok(instance),
        Some(instance_result::Result::Refused(error)) => Err(from_call_error(error).into()),
        None => {
            Err(Rejection::new(Reason::Internal, "the hub said nothing of the instance").into())
        }
    }
}

async fn list(client: &Client, consistency: ConsistencyArg) -> Result<Vec<Value>, Failure> {
    let mut request = ListServicesRequest {
        page_size: PAGE,
        page_token: String::new(),
        options: Some(consistency.options()),
    };
    let mut services = Vec::new();
    loop {
        let page = client.services(request.clone()).await?;
        services.extend(page.services.iter().map(summary));
        if page.next_page_token.is_empty() {
            return Ok(services);
        }
        request.page_token = page.next_page_token;
    }
}

async fn watch(
    client: &Client,
    names: Vec<String>,
    after: Option<u64>,
    limit: Option<u64>,
    output: Output,
) -> Done {
    const COLUMNS: [(&str, usize); 5] =
        [("revision", 10), ("service", 20), ("instance", 20), ("change", 12), ("breaker", 12)];
    let mut watch = client.watch_services(names, after);
    let (mut lines, mut left) = (output::Lines::new(output, &COLUMNS), limit.unwrap_or(u64::MAX));
    let mut stale = false;
    while left > 0 {
        match watch.next().await? {
            Watched::Restarted => output::complain("changes were missed: what is there follows"),
            Watched::Changes(part) => {
                if part.stale != stale {
                    stale = part.stale;
                    let old = "hears of no leader, or has not caught up: this may be old";
                    let text = if stale { old } else { "is up to date" };
                    output::complain(&format!("the node {text}"));
                }
                for changed in part.changes.iter().take(usize::try_from(left).unwrap_or(usize::MAX))
                {
                    lines.print(&change_line(changed))?;
                    left -= 1;
                }
                lines.flush()?;
            }
        }
    }
    lines.end()?;
    Ok(Exit::Ok)
}
