//! The metrics of a node, as Prometheus reads them. No ids as labels.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::service_metrics::Services;
use super::subscription_metrics::Subscriptions;
use crate::node::Node;
use crate::telemetry::metrics::Connections;
use crate::telemetry::resident_bytes;

/// The registry of one node.
pub struct NodeMetrics {
    registry: Registry,
    connections: Arc<Connections>,
    node: Arc<Node>,
    subscriptions: Subscriptions,
}

impl NodeMetrics {
    /// Registers everything that a node tells.
    #[must_use]
    pub fn new(node: Arc<Node>) -> Self {
        let mut registry = Registry::with_prefix("mhub");
        let connections = Arc::new(Connections::default());
        registry.register(
            "connections_open",
            "Client connections that are open",
            connections.open.clone(),
        );
        registry.register(
            "connections_refused",
            "Client connections that were refused because too many were open",
            connections.refused.clone(),
        );
        registry.register_collector(Box::new(NodeCollector(Arc::clone(&node))));
        registry.register_collector(Box::new(Services(Arc::clone(&node))));
        let subscriptions = Subscriptions::default();
        registry.register_collector(Box::new(subscriptions.clone()));
        Self { registry, connections, node, subscriptions }
    }

    /// Gauges that the accept loop keeps.
    #[must_use]
    pub fn connections(&self) -> &Arc<Connections> {
        &self.connections
    }

    /// All of it as OpenMetrics text.
    #[must_use]
    pub async fn encode(&self) -> String {
        match self.node.subscription_metrics().await {
            Ok(found) => self.subscriptions.set(found),
            Err(rejection) => tracing::debug!(%rejection, "subscriptions are left out of metrics"),
        }
        let mut out = String::new();
        if let Err(error) = text::encode(&mut out, &self.registry) {
            tracing::error!(%error, "encode metrics");
        }
        out
    }
}

/// Reads the node at every scrape.
struct NodeCollector(Arc<Node>);

impl std::fmt::Debug for NodeCollector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeCollector")
    }
}

fn put(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    metric: &impl EncodeMetric,
) -> Result<(), std::fmt::Error> {
    metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
}

impl Collector for NodeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let node = &self.0;
        let proposals = node.propose_stats();
        let syncs = node.log_stats();
        let judged = node.judge_stats();
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        for (name, help, value) in [
            (
                "published_events",
                "Events appended by proposals of this node",
                count(&proposals.events),
            ),
            ("proposed_entries", "Raft entries proposed", count(&proposals.entries)),
            ("proposed_commands", "Commands proposed", count(&proposals.commands)),
            ("refused_commands", "Commands that the state refused", count(&proposals.refused)),
            ("log_syncs", "Syncs of the Raft log", count(&syncs.syncs)),
            ("schema_valid_events", "Events that schemas called valid", count(&judged.valid)),
            (
                "schema_invalid_events",
                "Invalid events that were taken, as their topic only warns",
                count(&judged.invalid),
            ),
            (
                "schema_refused_calls",
                "Calls that were refused for an event without a schema or against it",
                count(&judged.refused),
            ),
        ] {
            put(&mut encoder, name, help, None, &ConstCounter::new(value))?;
        }
        let proposed = ConstCounter::new(count(&proposals.bytes));
        put(
            &mut encoder,
            "proposed",
            "Bytes of Raft entries proposed",
            Some(&Unit::Bytes),
            &proposed,
        )?;
        let micros = u32::try_from(count(&syncs.micros) / 1000).unwrap_or(u32::MAX);
        let seconds = ConstCounter::new(f64::from(micros) / 1000.0);
        put(
            &mut encoder,
            "log_sync",
            "Time spent in syncs of the Raft log",
            Some(&Unit::Seconds),
            &seconds,
        )?;
        self.gauges(&mut encoder)
    }
}

impl NodeCollector {
    fn gauges(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let status = self.0.status();
        let storage = self.0.raft().state().metrics();
        let gauge = |n: u64| ConstGauge::new(i64::try_from(n).unwrap_or(i64::MAX));
        for (name, help, value) in [
            ("raft_term", "Current term", status.term),
            ("raft_is_leader", "1 on the leader", u64::from(status.state == "leader")),
            (
                "raft_has_quorum",
                "1 when linearizable operations can be served",
                u64::from(status.has_quorum),
            ),
            ("raft_last_log_index", "Last entry in the log", status.last_log_index.get()),
            (
                "raft_committed_index",
                "Last entry known to be committed",
                status.committed_index.get(),
            ),
            ("raft_applied_index", "Last entry applied", status.applied_index.get()),
            ("raft_snapshot_index", "Last entry in the snapshot", status.snapshot_index.get()),
            ("raft_members", "Members of the cluster", status.members.len() as u64),
            ("applied_position", "Next position to be given out", status.applied_position.get()),
            (
                "storage_write_stopped",
                "1 while the state takes no writes",
                u64::from(storage.write_stopped),
            ),
            (
                "storage_background_errors",
                "Background work of the state that failed",
                storage.background_errors,
            ),
        ] {
            put(encoder, name, help, None, &gauge(value))?;
        }
        for (name, help, value) in [
            ("resident_memory", "Resident memory of the process", resident_bytes()),
            ("storage_live", "Live files of the state", storage.live_bytes),
            ("storage_memtable", "Unflushed rows of the state", storage.memtable_bytes),
        ] {
            put(encoder, name, help, Some(&Unit::Bytes), &gauge(value))?;
        }
        Ok(())
    }
}
