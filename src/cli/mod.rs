//! The command line: `mhub NOUN VERB`.

mod key;
mod output;

mod bench;
mod cluster;
mod config;
mod consume;
mod dead_letters;
mod event_args;
mod events;
#[cfg(test)]
mod examples;
#[cfg(feature = "failpoints")]
mod failpoints;
mod failure;
mod input;
mod pipe;
mod publish;
mod pull;
mod queue;
mod quota;
mod read;
mod replay;
mod retries;
mod schema;
mod schema_print;
mod schema_source;
mod serve;
mod service;
mod service_config;
mod service_graph;
mod service_handle;
mod service_print;
mod service_register;
mod shell;
mod stop;
mod subscription;
mod subscription_config;
mod topic;
mod trace;
mod transaction;
mod transaction_document;
mod value;

pub(crate) use self::failure::Failure;
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use self::output::Output;
use crate::client::{Client, ClientOptions};
use crate::model::rejection::{Exit, Reason, Rejection};

/// Message Hub: a replicated event log in one binary.
#[derive(Debug, Parser)]
#[command(
    name = "mhub",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Examples:\n  mhub dev                                   a single node to play with\n  mhub topic create orders\n  mhub events publish orders events.jsonl\n  mhub events read orders --from start\n  mhub cluster status"
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    noun: Noun,
}

/// Flags of every client command.
#[derive(Clone, Debug, clap::Args)]
struct Global {
    /// Client endpoints of one or more nodes.
    #[arg(
        long,
        global = true,
        env = "MHUB_ENDPOINT",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        default_value = "127.0.0.1:7400"
    )]
    endpoint: Vec<String>,
    /// How to print results.
    #[arg(short, long, global = true, env = "MHUB_OUTPUT", value_enum, default_value = "table")]
    output: Output,
    /// That was said, and is not the default.
    #[arg(skip)]
    output_is_chosen: bool,
    /// The service whose quotas publishing counts for.
    #[arg(
        long,
        global = true,
        env = "MHUB_SERVICE",
        default_value = "",
        hide_default_value = true,
        value_name = "NAME"
    )]
    service: String,
    /// How long a call may take, repetitions included, seconds.
    #[arg(long, global = true, env = "MHUB_TIMEOUT", default_value_t = 10.0, value_name = "SECS")]
    timeout: f64,
}

#[derive(Debug, Subcommand)]
enum Noun {
    /// Run a node.
    Serve(serve::ServeArgs),
    /// Run a single node, ready to use, with nothing to configure.
    Dev(serve::DevArgs),
    /// Topics: create, ls, info, update, rm.
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    /// Events: publish, append, read, replay, trace, get, cancel, consume, tail.
    #[command(subcommand)]
    Events(events::EventsCommand),
    /// Subscriptions: create, ls, info, update, rm, pause, resume, seek, stats.
    #[command(subcommand)]
    Sub(subscription::SubscriptionCommand),
    /// How subscriptions stand: stats, top.
    #[command(subcommand)]
    Queue(queue::QueueCommand),
    /// Events that failed and will be delivered again: ls, now, cancel.
    #[command(subcommand)]
    Retries(retries::RetriesCommand),
    /// Dead letters: ls, show, redrive, purge.
    #[command(subcommand)]
    Dlq(dead_letters::DeadLetterCommand),
    /// Services and their instances: register, deregister, drain, ls, info, resolve, watch, deps,
    /// ready, breaker, handle, rm.
    #[command(subcommand)]
    Service(service::ServiceCommand),
    /// Schemas of events: register, check, ls, get, diff, validate, config, deprecate, rm.
    #[command(subcommand)]
    Schema(schema::SchemaCommand),
    /// Keys as entities: read, snapshot, rm-snapshot.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Transactions: run, begin, stage, commit, abort, ls, show.
    #[command(subcommand)]
    Tx(transaction::TransactionCommand),
    /// Quotas of services: get, set, ls, rm.
    #[command(subcommand)]
    Quota(quota::QuotaCommand),
    /// The cluster: its nodes, its health, its leader.
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Measure a running hub.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// A node's settings.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Print a completion script for a shell.
    #[command(after_help = "Example:\n  source <(mhub completions bash)")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// The command that helps on, where there is one.
fn next_step(reason: Reason) -> Option<&'static str> {
    Some(match reason {
        Reason::TopicNotFound => "mhub topic ls lists the topics, mhub topic create makes one",
        Reason::TopicExists => "mhub topic info NAME shows it as it is",
        Reason::RevisionMismatch => {
            "mhub topic info, mhub sub info or mhub service info NAME shows it as it is"
        }
        Reason::SubscriptionNotFound => {
            "mhub sub ls lists the subscriptions, mhub sub create makes one"
        }
        Reason::SubscriptionExists => "mhub sub info NAME shows it as it is",
        Reason::SubscriptionRouted => "mhub sub info NAME shows whom the hub delivers it to",
        Reason::SubscriptionPaused => "mhub sub resume NAME lets it hand out events again",
        Reason::DeadLetterNotFound => "mhub dlq ls SUBSCRIPTION lists the dead letters",
        Reason::QuotaExceeded => {
            "mhub quota get SERVICE shows the limits, mhub quota set raises them"
        }
        Reason::ServiceNotFound => {
            "mhub service ls lists the services, mhub service register makes one"
        }
        Reason::InstanceNotFound | Reason::NoInstance => {
            "mhub service info NAME shows its instances"
        }
        Reason::InstanceOwned => "another id, --owner SECRET, or --force where it is offered",
        Reason::ServiceInUse => "mhub service deregister NAME INSTANCE --force for each of them",
        Reason::DependencyCycle => "mhub service deps shows what depends on what",
        Reason::VersionConflict => "mhub events read TOPIC --key KEY shows the key as it is",
        Reason::EventNotFound | Reason::BeyondEnd => {
            "mhub topic info NAME shows the first and next offset"
        }
        Reason::NodeNotFound => "mhub cluster members lists the nodes",
        Reason::NotInitialized => {
            "mhub cluster init on the first node, mhub cluster join MEMBER on others"
        }
        Reason::AlreadyInitialized => {
            "mhub cluster members shows the cluster that the node belongs to"
        }
        Reason::NotCaughtUp => "mhub cluster members shows how far it is; try again then",
        Reason::Unreachable => "check --endpoint or MHUB_ENDPOINT, and that the node runs",
        Reason::NoLeader | Reason::NoQuorum | Reason::NotLeader | Reason::WouldLoseQuorum => {
            "mhub cluster health tells what is wrong"
        }
        Reason::OutcomeUnknown => "look whether it was done before you repeat it",
        Reason::DeadlineExceeded => "mhub cluster health; or give it more time with --timeout",
        _ => return None,
    })
}

type Done = Result<Exit, Failure>;

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _armed = failpoints::arm();
    let cli = match parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            // Nothing is left to be done when even this cannot be printed.
            drop(error.print());
            return ExitCode::from(code as u8);
        }
    };
    match run(cli) {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(failure) => {
            if !failure.message.is_empty() && failure.exit != Exit::Ok {
                output::complain(&format!("error: {}", failure.message));
                if let Some(next) = failure.next {
                    output::complain(&format!("next: {next}"));
                }
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let matches = Cli::command().try_get_matches_from(args)?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    let output_by = matches.value_source("output");
    cli.global.output_is_chosen = output_by.is_some_and(|by| by != ValueSource::DefaultValue);
    Ok(cli)
}

fn run(cli: Cli) -> Done {
    let Cli { global, noun } = cli;
    match noun {
        Noun::Serve(args) => serve::serve(args),
        Noun::Dev(args) => serve::dev(args),
        Noun::Config(command) => config::run(&command, global.output),
        Noun::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "mhub", &mut std::io::stdout());
            Ok(Exit::Ok)
        }
        Noun::Topic(command) => block_on(topic::run(command, global)),
        Noun::Events(command) => block_on(events::run(command, global)),
        Noun::Sub(command) => block_on(subscription::run(command, global)),
        Noun::Queue(command) => block_on(queue::run(command, global)),
        Noun::Retries(command) => block_on(retries::run(command, global)),
        Noun::Dlq(command) => block_on(dead_letters::run(command, global)),
        Noun::Service(command) => block_on(service::run(command, global)),
        Noun::Schema(command) => block_on(schema::run(command, global)),
        Noun::Key(command) => block_on(key::run(command, global)),
        Noun::Tx(command) => block_on(transaction::run(command, global)),
        Noun::Quota(command) => block_on(quota::run(command, global)),
        Noun::Cluster(command) => block_on(cluster::run(command, global)),
        Noun::Bench(command) => block_on(bench::run(command, global)),
    }
}

fn block_on(work: impl Future<Output = Done>) -> Done {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work)
}

impl Global {
    /// A client that finds the leader.
    fn client(&self) -> Result<Client, Failure> {
        self.client_of(self.endpoint.clone(), false)
    }

    /// A client of just these nodes.
    fn pinned(&self, endpoints: Vec<String>) -> Result<Client, Failure> {
        self.client_of(endpoints, true)
    }

    /// Asks one node and no other; without one, as all commands do.
    pub(super) fn client_at(&self, node: Option<&String>) -> Result<Client, Failure> {
        node.map_or_else(|| self.client(), |node| self.pinned(vec![node.clone()]))
    }

    pub(super) fn client_of(
        &self,
        endpoints: Vec<String>,
        pinned: bool,
    ) -> Result<Client, Failure> {
        let timeout = Duration::try_from_secs_f64(self.timeout).map_err(|_| {
            Failure::usage(format!("--timeout {} is no number of seconds", self.timeout))
        })?;
        let service = self.service.clone();
        let options = ClientOptions { timeout, pinned, service, ..ClientOptions::default() };
        Ok(Client::with_options(endpoints, options)?)
    }
}

/// A setting given as `key=value`.
fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not key=value")),
    }
}

/// Asks for a name to be repeated, unless `--yes` was given.
fn confirm(what: &str, name: &str, yes: bool) -> Result<(), Failure> {
    use std::io::{BufRead as _, IsTerminal as _};
    if yes {
        return Ok(());
    }
    let refuse = || {
        Rejection::new(
            Reason::ConfirmationRequired,
            format!("{what} was not confirmed; type {name} when asked, or pass --yes"),
        )
    };
    if !std::io::stdin().is_terminal() {
        return Err(refuse().into());
    }
    output::complain(&format!("{what}. Type {name} to go on:"));
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    if line.trim() == name { Ok(()) } else { Err(refuse().into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Command lines of the documentation.
    const FORMS: &[&str] = &[
        "topic create orders --config max_event_bytes=1000 --config index_ids=true",
        "topic ls -o json",
        "topic rm orders --yes",
        "schema register order p/order.proto p/money.proto --proto-path p --format protobuf",
        "events publish orders",
        "events publish orders -",
        "events publish orders file.jsonl --endpoint a:1,b:2",
        "events publish orders --data x --type t --key k",
        "events publish orders --data x --type t --key k -o json",
        "events append orders --key k --expect none --data x",
        "events append orders --key k --expect 7 --data x --type t",
        "events read orders --from start --limit 3 --back",
        "events read orders --from @2026-01-01T00:00:00Z --consistency at-least=7",
        "events get orders 5",
        "events get orders --id x",
        "events replay orders --run ./ship.sh --from 7 --until 9 --rate 5 --cursor c",
        "events tail orders",
        "events consume billing",
        "events consume billing --limit 3 --wait 2.5 --consumer c1 --ack",
        "events consume billing --nack DOWN --retry-after 30s -o jsonl",
        "events consume billing --reject BAD",
        "events pull billing",
        "events pull billing --limit 2 --lease 5m --wait 1.5 --consumer c1 -o json",
        "events publish orders --data x --priority 9 --ttl 30s --delay 5s --fairness-key acme",
        "events publish orders --data x --deadline 2026-01-01T00:00:00Z --deliver-at 1000",
        "events cancel orders 7",
        "events cancel orders --id x --source /s",
        "sub create billing --topic orders.> --from start --config lease=5m --filter f.json",
        "sub update billing --no-filter --if-revision 2",
        "sub rm billing --yes",
        "sub pause billing --resume-after 5m",
        "sub seek billing --to pos=7 --dry-run",
        "sub stats billing -o json",
        "retries ls billing",
        "retries now billing --all",
        "retries cancel billing --topic orders --offset 7 --offset 9",
        "dlq ls billing --reason MAX_ATTEMPTS --reason SCHEMA_INVALID --type t --from 1000 --limit 5",
        "dlq show billing 7",
        "dlq redrive billing 7 9 --dry-run",
        "dlq redrive billing --all --rate 500",
        "dlq purge billing --until 2026-01-01T00:00:00Z --yes",
        "quota set shop --publish-events 1000 --service admin",
        "quota get shop",
        "queue stats billing -o json",
        "queue top --every 500ms",
        "quota rm shop --yes",
        "quota set shop --instances 5",
        "service register billing --config balance=weighted --depends ledger@^2 --depends mail?",
        "service register billing --instance b1 --address http=10.0.0.7:80 --weight 0.5 --keep",
        "service register billing --no-depends --no-failover",
        "service deregister billing b1 --force",
        "service drain billing b1 --owner x --maintenance",
        "service ls -o json",
        "service info billing",
        "service resolve billing --count 3 --policy consistent_hash --key k --zone eu",
        "service watch billing ledger --after 7 --limit 1",
        "service deps --dot",
        "service ready billing",
        "service breaker billing b1 open",
        "service breaker billing auto",
        "service handle ledger --id l2 -o jsonl",
        "service rm billing --yes",
        "cluster init",
        "cluster join 127.0.0.1:7400",
        "cluster status -o jsonl",
        "cluster promote 2",
        "cluster demote 2 --force",
        "cluster remove 2 --yes",
        "cluster transfer-leader",
        "cluster safe-to-stop 3",
        "cluster verify",
        "bench publish --workers 4 --depth 8 --batch 2 --size 256 --secs 1 -o json",
        "bench read --secs 3",
        "serve --node-id 3 --data-dir d --listen 127.0.0.1:0 --set raft.keep_entries=5",
        "dev",
        "config show",
    ];

    #[test]
    fn the_documented_forms_are_understood() {
        Cli::command().debug_assert();
        for line in FORMS {
            let words = std::iter::once("mhub").chain(line.split(' '));
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for line in [
            "",
            "events publish",
            "events publish orders file.jsonl --data x",
            "events append orders --expect maybe --key k --data x",
            "events read",
            "events read orders --all",
            "events read orders --from noon",
            "events read orders --consistency eventual",
            "events get orders",
            "events get orders 5 --id x",
            "events replay orders --into again --run cat",
            "events tail",
            "events consume",
            "events consume billing --ack --nack DOWN",
            "events consume billing --nack",
            "events consume billing --retry-after 30s",
            "events publish orders --data x --priority 10",
            "events publish orders --data x --ttl 30s --deadline 1000",
            "events publish orders --data x --delay 30s --deliver-at 1000",
            "events publish orders --data x --ttl soon",
            "events cancel orders",
            "topic update orders",
            "sub create billing",
            "sub seek billing",
            "sub pause billing --resume-after soon",
            "retries now billing",
            "retries now billing --offset 7",
            "retries now billing --topic orders --offset 7 --all",
            "dlq show billing",
            "dlq ls billing --reason because",
            "dlq redrive billing --all --rate 0",
            "quota set shop",
            "quota set shop --publish-bytes -1",
            "service register billing --instance b1",
            "service register billing --address http=a:1",
            "service register billing --instance b1 --address http=a:1 --weight 0",
            "service register billing --instance b1 --address http=a:1 --weight NaN",
            "service resolve billing --policy best",
            "service breaker billing",
            "service drain billing b1 --maintenance --undo",
            "cluster promote",
            "topic ls -o yaml",
        ] {
            let words = std::iter::once("mhub").chain(line.split(' ').filter(|w| !w.is_empty()));
            assert!(Cli::try_parse_from(words).is_err(), "{line}");
        }
    }

    #[test]
    fn refusals_keep_their_reason_exit_code_and_next_step() {
        let failure = Failure::from(Rejection::new(Reason::TopicNotFound, "there is no topic x"));
        assert_eq!(failure.exit, Exit::NotFound);
        assert_eq!(failure.message, "there is no topic x (TOPIC_NOT_FOUND)");
        assert!(failure.next.unwrap().contains("mhub topic"));
        assert_eq!(
            Failure::from(Rejection::new(Reason::OutcomeUnknown, "")).exit,
            Exit::Unavailable
        );
    }
}
