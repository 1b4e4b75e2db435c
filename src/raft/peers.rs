//! The connections to the other nodes.
//!
//! Each peer has three: entries, control (heartbeats, votes, read indices) and snapshots, so that
//! no heartbeat ever queues behind a batch of entries or a file.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use super::options::Timing;
use super::types::PeerNode;
use crate::model::ids::NodeId;
use crate::model::limits::{
    NODES_MAX, PEER_CONNECTION_WINDOW_BYTES, PEER_MESSAGE_BYTES_MAX, PEER_STREAM_WINDOW_BYTES,
};
use crate::proto::peer::Envelope;
use crate::proto::peer::peer_client::PeerClient;
use crate::runtime::net;

/// How often an HTTP/2 ping goes to a peer. A cut connection shows within this and the next.
pub(super) const KEEPALIVE_EVERY: Duration = Duration::from_secs(2);
/// How long the answer to a ping may take.
pub(super) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Who this node is to its peers.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) node_id: NodeId,
    pub(super) shard: u32,
    /// Set once: when the node starts as a member, or when it forms or joins a cluster.
    cluster_id: OnceLock<String>,
}

/// The node belongs to another cluster already.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node belongs to cluster {0} already")]
pub struct OtherCluster(pub String);

impl Identity {
    pub(super) fn new(node_id: NodeId, shard: u32, cluster_id: Option<String>) -> Self {
        let cell = OnceLock::new();
        if let Some(id) = cluster_id {
            let _ = cell.set(id);
        }
        Self { node_id, shard, cluster_id: cell }
    }

    pub(super) fn cluster_id(&self) -> Option<&str> {
        self.cluster_id.get().map(String::as_str)
    }

    pub(super) fn set_cluster_id(&self, id: &str) -> Result<(), OtherCluster> {
        let known = self.cluster_id.get_or_init(|| id.to_owned());
        if known == id { Ok(()) } else { Err(OtherCluster(known.clone())) }
    }

    /// What a message to `to` carries.
    pub(super) fn envelope(&self, to: NodeId) -> Envelope {
        Envelope {
            cluster_id: self.cluster_id().unwrap_or_default().to_owned(),
            shard_id: self.shard,
            from_node: self.node_id.get(),
            to_node: to.get(),
        }
    }
}

/// Which of a peer's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Entries,
    Control,
    Snapshots,
}

/// The connections of one peer. Each is made when it is first needed, and made anew when it breaks.
#[derive(Clone)]
struct Lanes {
    address: String,
    entries: Channel,
    control: Channel,
    snapshots: Channel,
}

/// The connections to all peers.
#[derive(Clone)]
pub(super) struct Peers {
    pub(super) identity: Arc<Identity>,
    pub(super) timing: Timing,
    bind: Option<IpAddr>,
    lanes: Arc<Mutex<BTreeMap<NodeId, Lanes>>>,
}

impl Peers {
    pub(super) fn new(identity: Arc<Identity>, timing: Timing, bind: Option<IpAddr>) -> Self {
        Self { identity, timing, bind, lanes: Arc::default() }
    }

    /// A client for one lane of a peer; an error when its address is not one.
    pub(super) fn client(
        &self,
        id: NodeId,
        node: &PeerNode,
        lane: Lane,
    ) -> Result<PeerClient<Channel>, String> {
        let lanes = self.lanes_of(id, &node.peer_address)?;
        let channel = match lane {
            Lane::Entries => lanes.entries,
            Lane::Control => lanes.control,
            Lane::Snapshots => lanes.snapshots,
        };
        Ok(PeerClient::new(channel)
            .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX))
    }

    fn lanes_of(&self, id: NodeId, address: &str) -> Result<Lanes, String> {
        let mut all = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lanes) = all.get(&id).filter(|lanes| lanes.address == address) {
            return Ok(lanes.clone());
        }
        if all.len() >= 2 * NODES_MAX {
            // Those of removed nodes; what is in use keeps its own handle.
            all.clear();
        }
        let endpoint = self.endpoint(address)?;
        let lanes = Lanes {
            address: address.to_owned(),
            entries: net::channel(&endpoint),
            control: net::channel(&endpoint),
            snapshots: net::channel(&endpoint),
        };
        all.insert(id, lanes.clone());
        Ok(lanes)
    }

    fn endpoint(&self, address: &str) -> Result<Endpoint, String> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| format!("peer address {address:?}: {error}"))?;
        Ok(endpoint
            .connect_timeout(self.timing.connect)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_EVERY)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(PEER_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(PEER_CONNECTION_WINDOW_BYTES)
            .local_address(self.bind))
    }
}
