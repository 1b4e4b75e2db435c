//! Many instances that renew, and many watchers that hear of changes.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::{LATENCY_MAX_US, latencies, quantile_ms, rate, seconds};
use crate::cli::Failure;
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

/// Keeps instances registered, and changes one again and again: how long until every watcher knows.
pub(super) async fn run(client: &Client, args: &RegistryArgs) -> Result<Value, Failure> {
    let measured = seconds(args.secs)?;
    let began = clock::now();
    let fleet = Fleet::register(client, &args.fleet).await?;
    let registering = began.elapsed();
    let (stop, stopped) = watch::channel(());
    let (tell, mut told) = mpsc::channel(args.watchers.max(1));
    let service = fleet.services[0].clone();
    let watching: Vec<_> = (0..args.watchers)
        .map(|_| {
            let watched = vec![service.clone()];
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
        set_mode(client, &service, mode).await?;
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
    fleet.deregister().await?;
    Ok(json!({
        "registered_per_s": rate(args.fleet.instances as u64, registering),
        "changes": changes,
        "first_p50_ms": quantile_ms(&first, 0.5),
        "all_p50_ms": quantile_ms(&all, 0.5),
        "all_max_ms": quantile_ms(&all, 1.0),
        "watchers": args.watchers,
        "instances": args.fleet.instances,
        "errors": 0,
    }))
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
