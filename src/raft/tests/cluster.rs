//! Three nodes that agree.

use super::support::{Cluster, PATIENCE, deadline, position, publish};
use crate::model::ids::NodeId;
use crate::model::rejection::Reason;
use crate::raft::{Care, ProposeError, ReadError, Upkeep};

#[tokio::test(flavor = "multi_thread")]
async fn every_node_reads_what_the_leader_was_told() {
    let cluster = Cluster::of_three(Upkeep::default()).await;
    let leader = cluster.leader().await;
    for round in 1..=5_u64 {
        leader.publish("t", 3).await;
        for node in &cluster.nodes {
            node.linearize().await;
            assert_eq!(node.topic_end("t"), Some(round * 3), "node {}", node.id);
            assert_eq!(position(node).get(), round * 3);
        }
    }
    cluster.assert_equal_states().await;
    let status = leader.status();
    assert_eq!(status.members.len(), 3);
    assert!(status.members.iter().all(|m| m.voter && m.last_heard.is_some()), "{status:?}");
    assert!(!status.joint);
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_on_request_and_proposals_are_sent_after_it() {
    let cluster = Cluster::of_three(Upkeep::default()).await;
    let before = cluster.leader().await;
    let heir = cluster.nodes.iter().find(|node| node.id != before.id).unwrap();
    assert_eq!(before.raft().transfer_leader(Some(heir.id)).await, Ok(heir.id));
    heir.until("leads", |status| status.state == "leader" && status.has_quorum).await;
    heir.publish("t", 1).await;
    match before.propose(publish("t", 1)).await {
        Err(ProposeError::NotLeader(Some(hint))) => {
            assert_eq!(hint.node_id, heir.id);
            assert_eq!(hint.client_address, heir.addresses().client_address);
        }
        other => panic!("{other:?}"),
    }
    let refused = before.raft().promote(heir.id).await.unwrap_err();
    assert_eq!(refused.reason, Reason::NotLeader);
    let id = heir.id.to_string();
    assert_eq!(refused.fact("leader_id"), Some(id.as_str()));
    let furthest = heir.raft().transfer_leader(None).await.unwrap();
    assert_ne!(furthest, heir.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_node_catches_up_and_has_lost_nothing() {
    let mut cluster = Cluster::of_three(Upkeep::default()).await;
    cluster.leader().await.publish("t", 10).await;
    let follower = cluster.nodes.iter().position(|node| node.status().state == "follower").unwrap();
    cluster.nodes[follower].stop().await;
    cluster.leader().await.publish("t", 10).await;
    cluster.nodes[follower].start(Some(super::support::CLUSTER)).await;
    cluster.nodes[follower].linearize().await;
    assert_eq!(cluster.nodes[follower].topic_end("t"), Some(20));
    cluster.assert_equal_states().await;

    // All of them at once.
    for node in &mut cluster.nodes {
        node.stop().await;
    }
    for node in &mut cluster.nodes {
        node.start(Some(super::support::CLUSTER)).await;
    }
    cluster.leader().await.publish("t", 1).await;
    for node in &cluster.nodes {
        node.linearize().await;
        assert_eq!(node.topic_end("t"), Some(21), "node {}", node.id);
    }
    cluster.assert_equal_states().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_s_end_is_survived() {
    let mut cluster = Cluster::of_three(Upkeep::default()).await;
    cluster.leader().await.publish("t", 10).await;
    let leader = cluster.nodes.iter().position(|node| node.raft().is_leader()).unwrap();
    cluster.nodes[leader].stop().await;
    cluster.leader().await.publish("t", 1).await;
    let others = cluster.nodes.iter().enumerate().filter(|(at, _)| *at != leader);
    for (_, node) in others {
        node.linearize().await;
        assert_eq!(node.topic_end("t"), Some(11));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_nothing_is_promised_and_nobody_waits_forever() {
    let mut cluster = Cluster::of_three(Upkeep::default()).await;
    let leader = cluster.leader().await.id;
    let others: Vec<usize> = (0..3).filter(|at| cluster.nodes[*at].id != leader).collect();
    let survivor = &cluster.nodes[0..3].iter().find(|node| node.id == leader).unwrap().id;
    let survivor = usize::try_from(survivor.get() - 1).unwrap();
    assert!(cluster.nodes[survivor].raft().safe_to_stop(NodeId(leader.get())).unwrap().safe);
    cluster.nodes[others[0]].stop().await;
    let (alive, gone) = (cluster.nodes[others[1]].id, cluster.nodes[others[0]].id);
    let node = &cluster.nodes[survivor];
    node.until("misses one", |status| {
        let heard = status.members.iter().find(|m| m.node_id == gone).unwrap().last_heard;
        heard.is_some_and(|age| age > super::support::timing().alive_within())
    })
    .await;
    assert!(!node.raft().safe_to_stop(alive).unwrap().safe);
    let refused = node.raft().remove(alive, Care::Safe).await.unwrap_err();
    assert_eq!(refused.reason, Reason::WouldLoseQuorum);
    node.publish("t", 1).await;

    cluster.nodes[others[1]].stop().await;
    let node = &cluster.nodes[survivor];
    node.until("notices", |status| !status.has_quorum).await;
    let proposed = tokio::time::timeout(PATIENCE, node.propose(publish("t", 1))).await;
    assert!(matches!(proposed, Ok(Err(ProposeError::NotLeader(None)))), "{proposed:?}");
    let read = node.raft().linearize(deadline()).await;
    assert!(matches!(read, Err(ReadError::NoQuorum(_) | ReadError::NoLeader)), "{read:?}");
    assert_eq!(node.topic_end("t"), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_change_of_leadership_is_not_woken_without_one() {
    let cluster = Cluster::of_one(Upkeep::default()).await;
    let leader = cluster.leader().await;
    let moment = std::time::Duration::from_millis(50);
    let mut woken = 0;
    for _ in 0..5 {
        let mut leadership = leader.raft().leadership();
        woken += u32::from(tokio::time::timeout(moment, leadership.changed()).await.is_ok());
    }
    assert!(woken < 5, "it was told of a change each time");
}
