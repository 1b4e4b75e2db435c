//! Snapshots, and members that come and go.

use std::time::Duration;

use super::support::{CLUSTER, Cluster, PATIENCE};
use crate::model::ids::LogIndex;
use crate::model::rejection::Reason;
use crate::raft::{Care, Upkeep};

/// Snapshots after a few entries, and a log that keeps hardly any.
fn eager() -> Upkeep {
    Upkeep {
        snapshot_entries: 20,
        log_entries_kept: 2,
        check_every: Duration::from_millis(50),
        ..Upkeep::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_is_brought_up_by_a_snapshot_promoted_and_removed() {
    let mut cluster = Cluster::of_one(eager()).await;
    for _ in 0..50 {
        cluster.nodes[0].publish("t", 2).await;
    }
    cluster.nodes[0].until("purges", |status| status.purged_index.get() > 20).await;
    cluster.add().await;
    let (leader, added) = (&cluster.nodes[0], &cluster.nodes[1]);
    leader.raft().add_learner(added.id, added.addresses()).await.unwrap();
    added.until("has a snapshot", |status| status.snapshot_index > LogIndex(20)).await;
    assert!(added.status().purged_index >= LogIndex(20));
    added.linearize().await;
    assert_eq!(added.topic_end("t"), Some(100));
    assert_eq!(added.status().state, "learner");
    cluster.assert_equal_states().await;

    leader.raft().promote(added.id).await.unwrap();
    added.until("votes", |status| status.state == "follower").await;
    leader.publish("t", 1).await;
    let refused = leader.raft().remove(crate::model::ids::NodeId(9), Care::Safe).await.unwrap_err();
    assert_eq!(refused.reason, Reason::NodeNotFound);
    leader.raft().remove(added.id, Care::Safe).await.unwrap();
    leader.until("is alone", |status| status.members.len() == 1 && !status.joint).await;
    leader.publish("t", 1).await;
    let refused = leader.raft().remove(leader.id, Care::Force).await.unwrap_err();
    assert_eq!(refused.reason, Reason::WouldLoseQuorum);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_for_long_gets_a_snapshot_and_keeps_it_over_a_restart() {
    let mut cluster = Cluster::of_three(eager()).await;
    let leader = cluster.leader().await.id;
    let away = cluster.nodes.iter().position(|node| node.id != leader).unwrap();
    cluster.nodes[away].stop().await;
    for _ in 0..60 {
        cluster.leader().await.publish("t", 1).await;
    }
    cluster.leader().await.until("purges", |status| status.purged_index.get() > 40).await;
    cluster.nodes[away].start(Some(CLUSTER)).await;
    cluster.nodes[away].linearize().await;
    assert_eq!(cluster.nodes[away].topic_end("t"), Some(60));
    cluster.assert_equal_states().await;

    cluster.nodes[away].stop().await;
    cluster.nodes[away].start(Some(CLUSTER)).await;
    cluster.nodes[away].linearize().await;
    assert_eq!(cluster.nodes[away].topic_end("t"), Some(60));
    // It leads from what it was given, and gives it on.
    let away_id = cluster.nodes[away].id;
    let leader = cluster.leader().await;
    if leader.id != away_id {
        leader.raft().transfer_leader(Some(away_id)).await.unwrap();
    }
    cluster.grow().await;
    cluster.nodes[3].linearize().await;
    assert_eq!(cluster.nodes[3].topic_end("t"), Some(60));
    cluster.assert_equal_states().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_of_an_earlier_life_are_not_in_the_way() {
    let mut cluster = Cluster::of_one(Upkeep::default()).await;
    // All lives of this node have one process id, as they have in a container.
    for round in 1..=3 {
        cluster.nodes[0].publish("t", 1).await;
        let (index, _) = cluster.nodes[0].raft().snapshot(PATIENCE).await.unwrap();
        assert!(index >= cluster.nodes[0].status().applied_index, "round {round}");
        cluster.nodes[0].stop().await;
        cluster.nodes[0].start(Some(CLUSTER)).await;
        cluster.leader().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_removes_itself_hands_over_first() {
    let cluster = Cluster::of_three(Upkeep::default()).await;
    let leader = cluster.leader().await;
    let refused = leader.raft().remove(leader.id, Care::Safe).await.unwrap_err();
    assert!(matches!(refused.reason, Reason::NotLeader | Reason::NoLeader), "{refused}");
    let others = cluster.nodes.iter().filter(|node| node.id != leader.id);
    let mut heir = None;
    for node in others {
        node.until("sees the change", |status| {
            status.leader.is_some_and(|id| id != leader.id) && status.has_quorum
        })
        .await;
        heir = heir.or(node.raft().is_leader().then_some(node));
    }
    let heir = heir.unwrap();
    heir.raft().remove(leader.id, Care::Safe).await.unwrap();
    heir.until("are two", |status| status.members.len() == 2).await;
    heir.raft()
        .demote(heir.status().members.iter().find(|m| !m.leader).unwrap().node_id, Care::Safe)
        .await
        .unwrap();
    heir.publish("t", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_on_request_tells_its_entry_and_size() {
    let cluster = Cluster::of_one(Upkeep::default()).await;
    let node = &cluster.nodes[0];
    node.publish("t", 5).await;
    let applied = node.status().applied_index;
    let (index, bytes) = node.raft().snapshot(PATIENCE).await.unwrap();
    assert!(index >= applied);
    assert!(bytes > 0);
    // Again, with nothing new: the one that is there will do.
    assert_eq!(node.raft().snapshot(PATIENCE).await.unwrap(), (index, bytes));
}
