//! A node as a process: everything started in order, served, and stopped in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use axum::Router;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tonic::service::Routes;
use tonic_health::server::HealthReporter;

use super::cluster::ClusterService;
use super::connections;
use super::delivery::DeliveryService;
use super::events::EventsService;
use super::failures::FailuresService;
use super::keys::KeysService;
use super::quotas::QuotasService;
use super::schemas::SchemasService;
use super::services::ServicesService;
use super::subscriptions::SubscriptionsService;
use super::topics::TopicsService;
use super::tracking::TrackingService;
use super::transactions::TransactionsService;
use crate::config::Config;
use crate::gateway;
use crate::gateway::metrics::NodeMetrics;
use crate::model::ids::NodeId;
use crate::model::limits::MESSAGE_BYTES_MAX;
use crate::node::Node;
use crate::proto::DESCRIPTORS;
use crate::proto::v1::cluster_server::ClusterServer;
use crate::proto::v1::dead_letters_server::DeadLettersServer;
use crate::proto::v1::delivery_server::DeliveryServer;
use crate::proto::v1::events_server::EventsServer;
use crate::proto::v1::keys_server::KeysServer;
use crate::proto::v1::quotas_server::QuotasServer;
use crate::proto::v1::retries_server::RetriesServer;
use crate::proto::v1::schemas_server::SchemasServer;
use crate::proto::v1::services_server::ServicesServer;
use crate::proto::v1::subscriptions_server::SubscriptionsServer;
use crate::proto::v1::topics_server::TopicsServer;
use crate::proto::v1::tracking_server::TrackingServer;
use crate::proto::v1::transactions_server::TransactionsServer;
use crate::runtime::{fatal, shutdown::Shutdown, tasks};
use crate::store::data_dir::DataDir;

const HEALTH_EVERY: Duration = Duration::from_millis(250);

/// What a node does with an empty data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Formation {
    /// It waits to be told: `mhub cluster init` or `join`.
    Wait,
    /// It forms a cluster of its own.
    Alone,
}

/// Runs a node until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start, or meets a fault that it must not survive.
pub async fn run(config: Config, formation: Formation) -> anyhow::Result<()> {
    let data_dir = DataDir::open(&config.node.data_dir, config.node.id.map(NodeId))?;
    let clients = bind(config.listen.client, "listen.client").await?;
    let peers = bind(config.listen.peer, "listen.peer").await?;
    // Port 0 is for the system to choose; others are told what it chose.
    let mut config = config;
    config.listen.client = clients.local_addr()?;
    config.listen.peer = peers.local_addr()?;
    let shutdown = Shutdown::default();
    let (fatal, mut faults) = fatal::channel();
    let id = data_dir.node_id();
    let node = Node::start(&config, data_dir, shutdown.clone(), fatal).await?;
    tracing::info!(node = %id, client = %config.listen.client, peer = %config.listen.peer,
        data = %config.node.data_dir.display(), "node started");
    if formation == Formation::Alone && node.status().cluster_id.is_none() {
        node.init().await.map_err(|rejection| anyhow!(rejection))?;
    }
    let serve_peers = {
        let (node, stop) = (Arc::clone(&node), Shutdown::default());
        let stopper = stop.clone();
        let task = tasks::spawn("peers", async move { node.raft().serve_peers(peers, stop).await });
        (task, stopper)
    };
    let metrics = Arc::new(NodeMetrics::new(Arc::clone(&node)));
    let router = router(&node, &metrics).await?;
    let gauges = Arc::clone(metrics.connections());
    let serving = tasks::spawn(
        "clients",
        connections::serve(clients, router, config.limits.connections, gauges, shutdown.clone()),
    );
    let fault = tokio::select! {
        fault = faults.wait() => Some(fault),
        signal = stop_signal() => {
            tracing::info!(signal = signal?, "stopping");
            None
        }
    };
    if let Some(fault) = fault {
        bail!("the node met a fault and stops: {fault}");
    }
    // Peers are served until the very end: the leader needs them to hand over.
    node.stop_leading().await;
    shutdown.trigger();
    let _ = serving.await;
    node.stop().await;
    serve_peers.1.trigger();
    let _ = serve_peers.0.await;
    tracing::info!("stopped");
    Ok(())
}

async fn bind(address: SocketAddr, setting: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("{setting}: cannot listen on {address}; is the port in use? stop the other process, or choose another port")
    })
}

async fn stop_signal() -> std::io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

/// A service whose messages are bounded in both directions.
macro_rules! bounded {
    ($server:ident, $service:expr) => {
        $server::new($service)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    };
}

async fn router(node: &Arc<Node>, metrics: &Arc<NodeMetrics>) -> anyhow::Result<Router> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let watched = Arc::clone(node);
    health.set_service_status("liveness", tonic_health::ServingStatus::Serving).await;
    report(&health, node).await;
    tasks::spawn("health", watch_health(health, watched));
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let grpc = Routes::new(health_service)
        .add_service(bounded!(TopicsServer, TopicsService(Arc::clone(node))))
        .add_service(bounded!(EventsServer, EventsService(Arc::clone(node))))
        .add_service(bounded!(DeliveryServer, DeliveryService(Arc::clone(node))))
        .add_service(bounded!(ClusterServer, ClusterService(Arc::clone(node))))
        .add_service(bounded!(SubscriptionsServer, SubscriptionsService(Arc::clone(node))))
        .add_service(bounded!(ServicesServer, ServicesService(Arc::clone(node))))
        .add_service(bounded!(TransactionsServer, TransactionsService(Arc::clone(node))))
        .add_service(bounded!(SchemasServer, SchemasService(Arc::clone(node))))
        .add_service(bounded!(KeysServer, KeysService(Arc::clone(node))))
        .add_service(bounded!(TrackingServer, TrackingService(Arc::clone(node))))
        .add_service(bounded!(QuotasServer, QuotasService(Arc::clone(node))))
        .add_service(bounded!(RetriesServer, FailuresService(Arc::clone(node))))
        .add_service(bounded!(DeadLettersServer, FailuresService(Arc::clone(node))))
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .prepare()
        .into_axum_router();
    let ready = {
        let node = Arc::clone(node);
        move || node.readiness()
    };
    let text = {
        let metrics = Arc::clone(metrics);
        move || {
            let metrics = Arc::clone(&metrics);
            async move { metrics.encode().await }
        }
    };
    Ok(gateway::router(text, ready).fallback_service(grpc.fallback(gateway::not_found)))
}

async fn report(health: &HealthReporter, node: &Node) {
    let status = match node.readiness() {
        Ok(()) => tonic_health::ServingStatus::Serving,
        Err(_) => tonic_health::ServingStatus::NotServing,
    };
    health.set_service_status("", status).await;
}

/// Keeps the health service true.
async fn watch_health(health: HealthReporter, node: Arc<Node>) {
    let mut ticks = tokio::time::interval(HEALTH_EVERY);
    loop {
        tokio::select! {
            _ = ticks.tick() => report(&health, &node).await,
            () = node.shutdown().wait() => {
                health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
                return;
            }
        }
    }
}
