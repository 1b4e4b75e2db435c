//! Nodes in one process, each with a directory and a peer port of its own.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use prost::Message as _;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::machine::query;
use crate::model::command::{Command, CommandBatch, CreateTopic, Kind, Publish, Verify};
use crate::model::event_run;
use crate::model::ids::{NodeId, Position};
use crate::model::outcome::Outcome;
use crate::model::topic::TopicConfig;
use crate::proto::v1;
use crate::raft::log_store::LogStore;
use crate::raft::{PeerNode, ProposeError, RaftNode, RaftOptions, RaftStatus, Timing, Upkeep};
use crate::runtime::fatal;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::{clock, tasks};
use crate::store::log_db::LogDb;
use crate::store::options::StoreOptions;
use crate::store::shard::ShardState;

pub(super) const CLUSTER: &str = "test-cluster";
/// Far more than anything here takes, on a machine that is busy with other things.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn deadline() -> Instant {
    clock::now() + PATIENCE
}

pub(super) fn timing() -> Timing {
    Timing {
        heartbeat: Duration::from_millis(100),
        election_min: Duration::from_millis(500),
        election_max: Duration::from_millis(1000),
        ..Timing::default()
    }
}

/// One node, running or not.
pub(super) struct TestNode {
    pub(super) id: NodeId,
    pub(super) address: String,
    dir: PathBuf,
    upkeep: Upkeep,
    running: Option<Running>,
}

struct Running {
    raft: RaftNode,
    shutdown: Shutdown,
    server: JoinHandle<std::io::Result<()>>,
}

impl TestNode {
    pub(super) fn raft(&self) -> &RaftNode {
        &self.running.as_ref().unwrap().raft
    }

    pub(super) fn status(&self) -> RaftStatus {
        self.raft().status()
    }

    pub(super) fn addresses(&self) -> PeerNode {
        PeerNode { peer_address: self.address.clone(), client_address: format!("c{}", self.id) }
    }

    pub(super) async fn start(&mut self, cluster_id: Option<&str>) {
        let listener = TcpListener::bind(&self.address).await.unwrap();
        // What the node held before is let go of by the last task that ends.
        let log = opened(|| LogDb::open(&self.dir.join("log"))).await;
        let state = self.dir.join("state");
        let state = opened(|| ShardState::open(&state, StoreOptions::default())).await;
        let (fatal, mut faults) = fatal::channel();
        let raft = RaftNode::start(RaftOptions {
            node_id: self.id,
            shard: 0,
            cluster_id: cluster_id.map(str::to_owned),
            log: LogStore::open(log, 0).unwrap(),
            state,
            snapshots: self.dir.join("snapshots"),
            timing: timing(),
            upkeep: self.upkeep.clone(),
            bind: None,
            fatal,
        });
        let raft = raft.await.unwrap();
        let id = self.id;
        let _detached = tasks::spawn("test-faults", async move {
            let fault = faults.wait().await;
            println!("node {id} has a fault: {fault}");
        });
        let shutdown = Shutdown::default();
        let (node, stop) = (raft.clone(), shutdown.clone());
        let server =
            tasks::spawn("test-peers", async move { node.serve_peers(listener, stop).await });
        self.running = Some(Running { raft, shutdown, server });
    }

    pub(super) async fn stop(&mut self) {
        let running = self.running.take().unwrap();
        running.raft.flush_and_shutdown().await;
        running.shutdown.trigger();
        running.server.await.unwrap().unwrap();
    }

    /// Waits until a condition holds for what the node knows.
    pub(super) async fn until(&self, what: &str, holds: impl Fn(&RaftStatus) -> bool) {
        let mut metrics = self.raft().core().raft.metrics();
        let wait = async {
            // What was heard of grows old without the metrics changing.
            while !holds(&self.status()) {
                let _ = tokio::time::timeout(timing().heartbeat, metrics.changed()).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "node {}: {what}: {:?}", self.id, self.status());
    }

    /// The topic's next offset, as far as this node has applied.
    pub(super) fn topic_end(&self, name: &str) -> Option<u64> {
        let topic = query::topic(&self.raft().state().tables(), name).unwrap()?;
        Some(topic.next_offset.get())
    }

    pub(super) async fn propose(&self, kind: Kind) -> Result<Outcome, ProposeError> {
        let mut outcomes = self.raft().propose(encode(kind)).await?;
        assert_eq!(outcomes.len(), 1);
        Ok(outcomes.remove(0))
    }

    pub(super) async fn publish(&self, topic: &str, events: usize) {
        let outcome = self.propose(publish(topic, events)).await.unwrap();
        assert!(matches!(outcome, Outcome::Published(_)), "{outcome:?}");
    }

    pub(super) async fn linearize(&self) {
        self.raft().linearize(deadline()).await.unwrap();
    }
}

/// Some nodes, of which the first has formed a cluster.
pub(super) struct Cluster {
    pub(super) nodes: Vec<TestNode>,
    upkeep: Upkeep,
    root: TempDir,
}

impl Cluster {
    pub(super) async fn of_one(upkeep: Upkeep) -> Self {
        let mut cluster = Self { nodes: Vec::new(), upkeep, root: tempfile::tempdir().unwrap() };
        cluster.add().await;
        let first = &cluster.nodes[0];
        first.raft().initialize(first.addresses()).await.unwrap();
        first.until("leads", |status| status.state == "leader" && status.has_quorum).await;
        let topic = CreateTopic {
            name: "t".to_owned(),
            config: TopicConfig::defaults(),
            request_id: String::new(),
        };
        let outcome = first.propose(Kind::CreateTopic(topic)).await.unwrap();
        assert!(matches!(outcome, Outcome::Topic(_)), "{outcome:?}");
        cluster
    }

    pub(super) async fn of_three(upkeep: Upkeep) -> Self {
        let mut cluster = Self::of_one(upkeep).await;
        cluster.grow().await;
        cluster.grow().await;
        cluster
    }

    /// Starts another node, which belongs to nothing but knows the cluster's id.
    pub(super) async fn add(&mut self) {
        let id = NodeId(self.nodes.len() as u64 + 1);
        let dir = self.root.path().join(format!("node-{id}"));
        std::fs::create_dir_all(&dir).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let upkeep = self.upkeep.clone();
        let mut node = TestNode { id, address, dir, upkeep, running: None };
        node.start(Some(CLUSTER)).await;
        self.nodes.push(node);
    }

    /// Adds a voter.
    pub(super) async fn grow(&mut self) {
        self.add().await;
        let added = self.nodes.last().unwrap();
        let leader = self.leader().await;
        leader.raft().add_learner(added.id, added.addresses()).await.unwrap();
        leader.raft().promote(added.id).await.unwrap();
        added.until("follows", |status| status.state == "follower" && status.has_quorum).await;
    }

    /// The node that leads, once one does and says so.
    pub(super) async fn leader(&self) -> &TestNode {
        let up: Vec<&TestNode> = self.nodes.iter().filter(|node| node.running.is_some()).collect();
        let found = || {
            let leads = |node: &&&TestNode| {
                let status = node.status();
                status.state == "leader" && status.has_quorum
            };
            up.iter().find(leads).copied()
        };
        eventually("a leader", found).await
    }

    /// Compares the states of all running nodes after one entry.
    pub(super) async fn assert_equal_states(&self) {
        let leader = self.leader().await;
        let outcome = leader.propose(Kind::Verify(Verify {})).await.unwrap();
        let verify_id = match outcome {
            Outcome::Verifying(index) => index,
            other => panic!("{other:?}"),
        };
        let mut hashes = Vec::new();
        for node in self.nodes.iter().filter(|node| node.running.is_some()) {
            let what = format!("a hash on node {}: {:?}", node.id, node.status());
            let result = eventually(&what, || node.raft().verify_result(verify_id)).await;
            assert!(result.rows > 0);
            hashes.push(result);
        }
        assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "{hashes:?}");
    }
}

/// Opens what may be held by somebody for a moment still.
async fn opened<T, E: std::fmt::Display>(open: impl Fn() -> Result<T, E>) -> T {
    let last = std::cell::RefCell::new(String::new());
    let look = || open().map_err(|error| *last.borrow_mut() = error.to_string()).ok();
    match look_until(look).await {
        Some(opened) => opened,
        None => panic!("it was never let go of: {}", last.borrow()),
    }
}

/// Looks again and again, until there is something to see.
pub(super) async fn eventually<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    match look_until(look).await {
        Some(seen) => seen,
        None => panic!("it never came to be: {what}"),
    }
}

async fn look_until<T>(look: impl Fn() -> Option<T>) -> Option<T> {
    let until = deadline();
    loop {
        match look() {
            Some(seen) => return Some(seen),
            None if clock::now() > until => return None,
            None => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

pub(super) fn encode(kind: Kind) -> Bytes {
    let commands = vec![Command::from(kind)];
    CommandBatch { stamp_ms: clock::unix_ms().get(), commands }.encode_to_vec().into()
}

pub(super) fn publish(topic: &str, events: usize) -> Kind {
    let event = |number: usize| {
        let event = v1::Event {
            id: format!("e{number}"),
            source: "/test".to_owned(),
            r#type: "test".to_owned(),
            ..v1::Event::default()
        };
        Bytes::from(event.encode_to_vec())
    };
    let events: Vec<Bytes> = (0..events).map(event).collect();
    Kind::Publish(Publish {
        topic: topic.to_owned(),
        count: u32::try_from(events.len()).unwrap(),
        largest_event_bytes: events.iter().map(|event| event.len() as u64).max().unwrap_or(0),
        events: event_run::encode(&events),
        ..Publish::default()
    })
}

pub(super) fn position(node: &TestNode) -> Position {
    node.raft().applied().borrow().position
}
