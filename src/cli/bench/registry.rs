//! Many instances that renew, and many watchers that hear of changes.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::{LATENCY_MAX_US, latencies, quantile_ms, rate, seconds, wait};
use crate::cli::cluster::leader_status;
use crate::cli::{Failure, Global};
use crate::client::{Client, ServiceHandle, Watched};
use crate::model::limits::INSTANCES_PER_CALL_MAX;
use crate::model::rejection::{Exit, Rejection};
use crate::proto::v1::{
    Address, DeleteServiceRequest, InstanceMode, InstanceName, InstanceSpec, SetInstanceModeRequest,
};
use crate::runtime::{clock, tasks};

/// The secret of a run's instances.
const OWNER: &str = "mhub-bench";
/// The rest between two changes.
const REST: Duration = Duration::from_millis(500);
/// How long watchers may take.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Debug, clap::Args)]
pub(in crate::cli) struct FleetArgs {
    /// Instances.
    #[arg(long, default_value_t = 1000)]
    instances: usize,
    /// Services that they are divided among.
    #[arg(long, default_value_t = 100)]
    services: usize,
}

#[derive(Clone, Debug, clap::Args)]
pub(in crate::cli) struct RegistryArgs {
    #[command(flatten)]
    fleet: FleetArgs,
    /// Watchers, over all nodes.
    #[arg(long, default_value_t = 1000)]
    watchers: usize,
    /// Seconds to measure.
    #[arg(long, default_value_t = 10.0)]
    secs: f64,
    /// Seconds before that in which nobody watches and all do nothing but renew.
    #[arg(long, default_value_t = 10.0)]
    rest: f64,
}

/// Instances that are kept registered while a run lasts.
pub(super) struct Fleet {
    client: Client,
    services: Vec<String>,
    handles: Vec<ServiceHandle>,
}

impl Fleet {
    pub(super) async fn register(client: &Client, args: &FleetArgs) -> Result<Self, Failure> {
        if args.instances == 0 || args.services == 0 {
            return Err(Failure::usage("--instances and --services are at least 1"));
        }
        let run = uuid::Uuid::new_v4().simple().to_string();
        let services: Vec<_> =
            (0..args.services).map(|n| format!("bench-{}-{n}", &run[..8])).collect();
        let spec = |n: usize| InstanceSpec {
            service: services[n % services.len()].clone(),
            id: format!("i-{n}"),
            addresses: vec![Address { protocol: "http".into(), address: "192.0.2.1:80".into() }],
            owner: OWNER.to_owned(),
            ..InstanceSpec::default()
        };
        let all: Vec<_> = (0..args.instances).map(spec).collect();
        let mut handles = Vec::new();
        for some in all.chunks(INSTANCES_PER_CALL_MAX) {
            handles.push(ServiceHandle::register(client, some.to_vec()).await?);
        }
        Ok(Self { client: client.clone(), services, handles })
    }

    pub(super) fn services(&self) -> Vec<String> {
        self.services.clone()
    }

    pub(super) async fn deregister(self) -> Result<(), Rejection> {
        for handle in self.handles {
            handle.deregister().await?;
        }
        for name in self.services {
            self.client.delete_service(DeleteServiceRequest { name, ..Default::default() }).await?;
        }
        Ok(())
    }
}

/// What renewals alone cost.
struct AtRest {
    /// Entries of the log.
    log_entries: u64,
    /// Percent of one processor that the leader used; `None`: another one leads by now.
    leader_cpu_percent: Option<f64>,
}

/// Lets a while pass, and looks what the leader did in it.
async fn at_rest(global: &Global, duration: Duration) -> Result<AtRest, Failure> {
    let (before, began) = (leader_status(global).await?, clock::now());
    wait("renewing", duration).await;
    let after = leader_status(global).await?;
    let took_ms = began.elapsed().as_millis();
    let used_ms = u128::from(after.cpu_ms.saturating_sub(before.cpu_ms));
    let same = before.node_id == after.node_id && before.uptime_ms <= after.uptime_ms;
    let per_mille_of_percent = used_ms * 100_000 / took_ms.max(1);
    let percent = f64::from(u32::try_from(per_mille_of_percent).unwrap_or(u32::MAX)) / 1000.0;
    Ok(AtRest {
        log_entries: after.last_log_index.saturating_sub(before.last_log_index),
        leader_cpu_percent: same.then_some(percent),
    })
}

/// Keeps instances registered, and changes one again and again: how long until every watcher knows.
/// Before that, what it costs to keep them.
pub(super) async fn run(
    global: &Global,
    client: &Client,
    args: &RegistryArgs,
) -> Result<Value, Failure> {
    let (measured, rest) = (seconds(args.secs)?, seconds(args.rest)?);
    let began = clock::now();
    let fleet = Fleet::register(client, &args.fleet).await?;
    let registering = began.elapsed();
    let resting = at_rest(global, rest).await?;
    let told = told_to_watchers(client, args, &fleet.services[0], measured).await?;
    fleet.deregister().await?;
    let Heard { changes, first, all } = told;
    Ok(json!({
        "registered_per_s": rate(args.fleet.instances as u64, registering),
        "rest_s": rest.as_secs_f64(),
        "log_entries_at_rest": resting.log_entries,
        "leader_cpu_percent_at_rest": resting.leader_cpu_percent,
        "changes": changes,
        "first_p50_ms": quantile_ms(&first, 0.5),
        "all_p50_ms": quantile_ms(&all, 0.5),
        "all_max_ms": quantile_ms(&all, 1.0),
        "watchers": args.watchers,
        "instances": args.fleet.instances,
        "errors": 0,
    }))
}

/// Changes that were made, and how long until the first watcher heard of one, and until all had.
struct Heard {
    changes: u64,
    first: Histogram<u64>,
    all: Histogram<u64>,
}

async fn told_to_watchers(
    client: &Client,
    args: &RegistryArgs,
    service: &str,
    measured: Duration,
) -> Result<Heard, Failure> {
    let (stop, stopped) = watch::channel(());
    let (tell, mut told) = mpsc::channel(args.watchers.max(1));
    let watching: Vec<_> = (0..args.watchers)
        .map(|_| {
            let watched = vec![service.to_owned()];
            let watching = watcher(client.clone(), watched, tell.clone(), stopped.clone());
            tasks::spawn("bench-watcher", watching)
        })
        .collect();
    // Each tells of what it began with.
    let mut heard = 0;
    while heard < args.watchers {
        next(&mut told).await?;
        heard += 1;
    }
    let (mut first, mut all, began) = (latencies(), latencies(), clock::now());
    let mut changes = 0_u64;
    while began.elapsed() < measured {
        let mode =
            if changes.is_multiple_of(2) { InstanceMode::Draining } else { InstanceMode::Up };
        let changed = clock::now();
        set_mode(client, service, mode).await?;
        for n in 0..args.watchers {
            let at = next(&mut told).await?;
            let took = u64::try_from((at - changed).as_micros()).unwrap_or(LATENCY_MAX_US);
            if n == 0 {
                first.saturating_record(took);
            }
            if n + 1 == args.watchers {
                all.saturating_record(took);
            }
        }
        changes += 1;
        tokio::time::sleep(REST).await;
    }
    drop(stop);
    drop(watching);
    Ok(Heard { changes, first, all })
}

async fn next(told: &mut mpsc::Receiver<Instant>) -> Result<Instant, Failure> {
    let heard = tokio::time::timeout(PATIENCE, told.recv()).await.ok().flatten();
    heard.ok_or_else(|| Failure::new(Exit::Error, "a watcher heard nothing for 20 s"))
}

async fn set_mode(client: &Client, service: &str, mode: InstanceMode) -> Result<(), Rejection> {
    let (service, owner) = (service.to_owned(), OWNER.to_owned());
    let instance = InstanceName { service, id: "i-0".to_owned(), owner };
    let request = SetInstanceModeRequest {
        instances: vec![instance],
        mode: mode.into(),
        ..SetInstanceModeRequest::default()
    };
    client.set_instance_mode(request).await.map(drop)
}

/// Says when it heard of something; the beginning counts once.
async fn watcher(
    client: Client,
    services: Vec<String>,
    tell: mpsc::Sender<Instant>,
    mut stopped: watch::Receiver<()>,
) {
    let mut watch = client.watch_services(services, None);
    let mut begun = false;
    loop {
        let heard = tokio::select! {
            heard = watch.next() => heard,
            _ = stopped.changed() => return,
        };
        let Ok(Watched::Changes(part)) = heard else { continue };
        let is_news = if begun { !part.changes.is_empty() } else { !part.snapshot_continues };
        begun |= !part.snapshot_continues;
        if is_news && tell.send(clock::now()).await.is_err() {
            return;
        }
    }
}
