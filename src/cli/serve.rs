//! `mhub serve` and `mhub dev`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{Done, Failure, key_value, output};
use crate::api::server::{self, Formation};
use crate::config::{self, Config, Overrides};
use crate::model::rejection::Exit;
use crate::node;
use crate::telemetry::logs;

/// The most worker threads that a node takes by itself.
const WORKERS_MAX: usize = 4;
/// How long tasks, and then databases, may take to end once everything is durable.
const CLOSE: Duration = Duration::from_secs(10);

/// Flags of `mhub serve`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  mhub serve --node-id 1 --data-dir ./n1\n  mhub serve --node-id 2 --data-dir ./n2 --listen 127.0.0.1:7500 --peer-listen 127.0.0.1:7501\n  mhub cluster init          forms the cluster, once\n  mhub cluster join HOST:PORT --endpoint 127.0.0.1:7500"
)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    settings: SettingArgs,
}

/// Where settings come from.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct SettingArgs {
    /// Configuration file; default: ./mhub.toml, if it is there.
    #[arg(long, env = "MHUB_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// This node's id, positive (node.id).
    #[arg(long, value_name = "ID")]
    node_id: Option<u64>,
    /// Where everything is kept (node.data_dir).
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where it runs: whose instances it delivers to first (node.zone).
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// Where clients connect (listen.client).
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Where other nodes connect (listen.peer).
    #[arg(long, value_name = "ADDRESS:PORT")]
    peer_listen: Option<SocketAddr>,
    /// Allow listening beyond loopback although nothing is encrypted (listen.insecure).
    #[arg(long)]
    insecure: bool,
    /// Any setting; `mhub config show` lists them.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
}

impl SettingArgs {
    pub(super) fn load(self) -> Result<(Config, Vec<config::Setting>), Failure> {
        let mut flags: Overrides = self.set.into_iter().collect();
        let given = [
            ("node.id", self.node_id.map(|id| id.to_string())),
            ("node.zone", self.zone),
            ("node.data_dir", self.data_dir.map(|dir| dir.display().to_string())),
            ("listen.client", self.listen.map(|address| address.to_string())),
            ("listen.peer", self.peer_listen.map(|address| address.to_string())),
            ("listen.insecure", self.insecure.then(|| "true".to_owned())),
        ];
        for (key, value) in given {
            flags.extend(value.map(|value| (key.to_owned(), value)));
        }
        config::load(self.config.as_deref(), std::env::vars(), &flags)
            .map_err(|error| Failure::usage(error.to_string()))
    }
}

pub(super) fn serve(args: ServeArgs) -> Done {
    let (config, _) = args.settings.load()?;
    run(config, Formation::Wait)
}

/// Flags of `mhub dev`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  mhub dev\n  mhub dev --data-dir /tmp/hub --listen 127.0.0.1:7500"
)]
pub(super) struct DevArgs {
    /// Where everything is kept.
    #[arg(long, value_name = "DIR", default_value = "./mhub-data")]
    data_dir: PathBuf,
    /// Where clients connect.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7400")]
    listen: SocketAddr,
}

pub(super) fn dev(args: DevArgs) -> Done {
    let mut config = Config::default();
    config.node.data_dir = args.data_dir;
    config.listen.client = args.listen;
    // Nobody joins a node for development: any free port does for peers.
    config.listen.peer.set_port(0);
    // What it checks and delivers to runs beside it.
    config.egress.allow.0 =
        ["127.0.0.0/8", "::1/128"].into_iter().filter_map(|net| net.parse().ok()).collect();
    output::complain(&format!(
        "a single node for development: clients at {}, data in {}; stop it with ctrl-C",
        args.listen,
        config.node.data_dir.display()
    ));
    run(config, Formation::Alone)
}

fn run(config: Config, formation: Formation) -> Done {
    logs::start(&config.log)?;
    // Connections and table files need more descriptors than many systems allow at first.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let workers = match config.runtime.worker_threads {
        // One core is left to what syncs and applies: they would only take turns with a worker.
        0 => std::thread::available_parallelism()
            .map_or(1, |cores| cores.get().saturating_sub(1))
            .clamp(1, WORKERS_MAX),
        given => given,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name("mhub-worker")
        .enable_all()
        .build()?;
    let result = runtime.block_on(server::run(config, formation));
    // What still reads or waits is of no use any more; what it holds has to be closed.
    runtime.shutdown_timeout(CLOSE);
    node::wait_closed(CLOSE);
    result.map(|()| Exit::Ok).map_err(Failure::from)
}
