//! What does not belong here is refused.

use openraft::async_runtime::watch::WatchReceiver;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

use super::support::{CLUSTER, Cluster, PATIENCE};
use crate::model::rejection::Reason;
use crate::proto::peer::peer_client::PeerClient;
use crate::proto::peer::{self, Envelope};
use crate::proto::status::from_status;
use crate::raft::Upkeep;

fn envelope() -> Envelope {
    Envelope { cluster_id: CLUSTER.to_owned(), shard_id: 0, from_node: 2, to_node: 1 }
}

fn vote(envelope: Option<Envelope>, term: u64) -> peer::VoteRequest {
    let vote = Some(peer::Vote { term, node_id: 2, committed: false });
    peer::VoteRequest { envelope, vote, last_log_id: None, leader_transfer: false }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_shard_or_node_is_refused_and_changes_nothing() {
    let cluster = Cluster::of_one(Upkeep::default()).await;
    let node = &cluster.nodes[0];
    let term = node.status().term;
    let address = format!("http://{}", node.address);
    let mut client = PeerClient::connect(address).await.unwrap();
    let wrong = [
        None,
        Some(Envelope { cluster_id: "other".to_owned(), ..envelope() }),
        Some(Envelope { shard_id: 1, ..envelope() }),
        Some(Envelope { to_node: 3, ..envelope() }),
        Some(Envelope { from_node: 1, ..envelope() }),
    ];
    for envelope in wrong {
        let refused = |status: tonic::Status| {
            assert_eq!(status.code(), Code::PermissionDenied, "{envelope:?}");
            assert_eq!(from_status(&status).reason, Reason::WrongCluster, "{envelope:?}");
        };
        refused(client.vote(vote(envelope.clone(), term + 5)).await.unwrap_err());
        refused(client.pre_vote(vote(envelope.clone(), term + 5)).await.unwrap_err());
        let read = peer::ReadIndexRequest { envelope: envelope.clone() };
        refused(client.read_index(read).await.unwrap_err());
        let append = peer::AppendRequest { envelope: envelope.clone(), ..Default::default() };
        let answers = client.append(tokio_stream::iter([append])).await.unwrap();
        refused(answers.into_inner().message().await.unwrap_err());
        let offer = peer::OfferSnapshotRequest { envelope: envelope.clone(), ..Default::default() };
        refused(client.offer_snapshot(offer).await.unwrap_err());
        let begin = peer::SnapshotBegin { envelope: envelope.clone(), ..Default::default() };
        let part = Some(peer::snapshot_chunk::Part::Begin(begin));
        let chunks = tokio_stream::iter([peer::SnapshotChunk { part }]);
        refused(client.send_snapshot(chunks).await.unwrap_err());
    }
    let metrics = node.raft().core().raft.metrics();
    assert_eq!(metrics.borrow_watched().current_term, term);
    node.publish("t", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_messages_are_refused_and_the_node_goes_on() {
    let cluster = Cluster::of_one(Upkeep::default()).await;
    let node = &cluster.nodes[0];
    let mut client = PeerClient::connect(format!("http://{}", node.address)).await.unwrap();
    let empty = peer::VoteRequest { envelope: Some(envelope()), ..Default::default() };
    assert_eq!(client.vote(empty).await.unwrap_err().code(), Code::InvalidArgument);

    let entry = |index| peer::Entry {
        log_id: Some(peer::LogId { term: 99, node_id: 2, index }),
        payload: Some(peer::entry::Payload::Blank(true)),
    };
    let gap = peer::AppendRequest {
        envelope: Some(envelope()),
        vote: Some(peer::Vote { term: 99, node_id: 2, committed: true }),
        entries: vec![entry(0), entry(2)],
        ..Default::default()
    };
    let answers = client.append(tokio_stream::iter([gap])).await.unwrap();
    let refused = answers.into_inner().message().await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    node.publish("t", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_and_silence_end_their_own_connection_only() {
    let cluster = Cluster::of_one(Upkeep::default()).await;
    let node = &cluster.nodes[0];
    let mut garbage = TcpStream::connect(&node.address).await.unwrap();
    let silent = TcpStream::connect(&node.address).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n\0\xff\xfe nonsense of any kind").await.unwrap();
    node.publish("t", 1).await;
    for mut connection in [garbage, silent] {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, connection.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "the connection stays open");
    }
    node.publish("t", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_cluster_refuses_everybody_until_it_joins_one() {
    let mut cluster = Cluster::of_one(Upkeep::default()).await;
    cluster.add().await;
    cluster.nodes[1].stop().await;
    cluster.nodes[1].start(None).await;
    let node = &cluster.nodes[1];
    let mut client = PeerClient::connect(format!("http://{}", node.address)).await.unwrap();
    let to_two = Envelope { from_node: 1, to_node: 2, ..envelope() };
    let refused = client.vote(vote(Some(to_two.clone()), 7)).await.unwrap_err();
    assert_eq!(from_status(&refused).reason, Reason::WrongCluster);
    assert_eq!(node.status().state, "uninitialized");

    node.raft().set_cluster_id(CLUSTER).unwrap();
    assert!(node.raft().set_cluster_id("other").is_err());
    let answer = client.vote(vote(Some(to_two), 7)).await.unwrap().into_inner();
    assert!(answer.vote.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_formed_once() {
    let cluster = Cluster::of_one(Upkeep::default()).await;
    let node = &cluster.nodes[0];
    let refused = node.raft().initialize(node.addresses()).await.unwrap_err();
    assert_eq!(refused.reason, Reason::AlreadyInitialized);
}
