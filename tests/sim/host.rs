//! The process of one node: it opens what its disk holds, joins the cluster, serves its peers, and
//! gives its callers a place.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use message_hub::config::Config;
use message_hub::model::ids::NodeId;
use message_hub::node::Node;
use message_hub::raft::PeerNode;
use message_hub::runtime::shutdown::Shutdown;
use message_hub::runtime::{fatal, net, sim, tasks};
use message_hub::store::data_dir::DataDir;

use crate::clients;
use crate::shared::{Phase, Shared};

const PEER_PORT: u16 = 7401;
const LOOK_AGAIN: Duration = Duration::from_millis(20);

pub(crate) fn name(id: u64) -> String {
    format!("node-{id}")
}

pub(crate) fn dir(id: u64) -> PathBuf {
    PathBuf::from("/").join(name(id))
}

/// Which node a path belongs to.
pub(crate) fn of_path(path: &std::path::Path) -> u64 {
    let name = path.iter().nth(1).and_then(|name| name.to_str()).unwrap_or_default();
    name.trim_start_matches("node-").parse().unwrap_or(0)
}

fn config() -> Config {
    let mut config = Config::default();
    config.raft.heartbeat_ms = 100;
    config.raft.election_min_ms = 400;
    config.raft.election_max_ms = 800;
    config.raft.snapshot_entries = 40;
    config.raft.keep_entries = 12;
    config.raft.flush_secs = 1;
    config.limits.request_timeout_ms = 2000;
    config
}

fn addresses(id: u64) -> PeerNode {
    PeerNode {
        peer_address: format!("{}:{PEER_PORT}", name(id)),
        client_address: format!("{}:7400", name(id)),
    }
}

/// Runs until the node stops by itself, which it must not.
pub(crate) async fn run(id: u64, shared: Shared) -> turmoil::Result {
    sim::as_node(id, async {
        if let Err(error) = serve(id, &shared).await {
            shared.wrong(format!("node {id} does not start: {error:#}"));
        }
    })
    .await;
    Ok(())
}

async fn serve(id: u64, shared: &Shared) -> anyhow::Result<()> {
    let data_dir = DataDir::open(&dir(id), Some(NodeId(id)))?;
    // A node that joins learns the cluster's id when it runs already, and makes it durable then. Here
    // it knows it before it opens its databases.
    if id != 1 {
        let cluster_id = loop {
            let known = shared.get().cluster_id.clone();
            match known {
                Some(known) => break known,
                None => tokio::time::sleep(LOOK_AGAIN).await,
            }
        };
        data_dir.set_cluster_id(&cluster_id)?;
    }
    let incarnation = data_dir.incarnation().to_owned();
    let mut config = config();
    config.listen.advertise_peer = Some(addresses(id).peer_address);
    config.listen.advertise_client = Some(addresses(id).client_address);
    let listener = net::TcpListener::bind(("0.0.0.0", PEER_PORT)).await?;
    let (shutdown, (fatal, mut faults)) = (Shutdown::default(), fatal::channel());
    let node = Node::start(&config, data_dir, shutdown.clone(), fatal).await?;
    shared.change().nodes.insert(id, Arc::downgrade(&node));
    shared.say(name(id), "runs");
    let peers = Arc::clone(&node);
    let _detached =
        tasks::spawn("peers", async move { peers.raft().serve_peers(listener, shutdown).await });
    if id == 1 && shared.get().cluster_id.is_none() {
        form(&node, shared).await?;
    }
    let _stops = tokio::join!(
        async {
            let fault = faults.wait().await;
            shared.wrong(format!("node {id} stops for a fault: {fault}"));
        },
        grow(id, incarnation, shared),
        clients::run(id, &node, shared),
    );
    Ok(())
}

async fn form(node: &Arc<Node>, shared: &Shared) -> anyhow::Result<()> {
    let cluster_id = node.init().await.map_err(|rejection| anyhow::anyhow!("{rejection}"))?;
    let seed = shared.get().seed;
    clients::prepare(node, seed).await?;
    shared.say(name(1), "has formed a cluster");
    shared.change().cluster_id = Some(cluster_id);
    Ok(())
}

/// Asks the first node to take this one in, until this one votes.
async fn grow(id: u64, incarnation: String, shared: &Shared) {
    while id != 1 && shared.get().phase == Phase::Forming {
        tokio::time::sleep(LOOK_AGAIN).await;
        // The call itself would come over the client port, which is not part of the simulation.
        let Some(first) = shared.node(1) else { continue };
        let mine = shared.node(id).map(|node| node.status());
        let votes = mine.is_some_and(|status| {
            status.members.iter().any(|member| member.node_id.get() == id && member.voter)
        });
        if votes {
            shared.say(name(id), "votes");
            return;
        }
        let added = first.add_learner(NodeId(id), addresses(id), incarnation.clone()).await;
        if added.is_ok() {
            drop(first.promote(NodeId(id)).await);
        }
    }
}
