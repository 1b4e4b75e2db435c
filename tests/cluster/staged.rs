//! Staged transactions on real clusters: what is staged survives its leader, and nobody sees it before the
//! commit.

use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt as _};
use message_hub::client::Client;
use message_hub::model::rejection::Reason;
use message_hub::proto::v1::key_expectation::Expect;
use message_hub::proto::v1::{
    AbortTransactionRequest, BeginTransactionRequest, CommitTransactionRequest,
    GetTransactionRequest, KeyExpectation, StageTransactionRequest, Transaction, TransactionPart,
    TransactionState,
};

use crate::delivery::client;
use crate::support::{Cluster, mhub_with_input, poll};
use crate::transactions::{event, part, payloads};

async fn begin(client: &Client, timeout_ms: u64) -> u64 {
    let request = BeginTransactionRequest { timeout_ms, ..BeginTransactionRequest::default() };
    client.begin_transaction(request).await.unwrap().id
}

fn stage(id: u64, parts: Vec<TransactionPart>) -> StageTransactionRequest {
    StageTransactionRequest { id, parts, ..StageTransactionRequest::default() }
}

async fn show(client: &Client, id: u64) -> Transaction {
    client.transaction(GetTransactionRequest { id, options: None }).await.unwrap()
}

fn expecting(topic: &str, key: &str, expect: Expect) -> TransactionPart {
    let expectations = vec![KeyExpectation { key: key.to_owned(), expect: Some(expect) }];
    TransactionPart { topic: topic.to_owned(), expectations, events: Vec::new() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_staged_survives_its_leader_and_is_seen_by_the_commit_only() {
    let mut cluster = Cluster::start(3, &[]);
    for topic in ["a", "b"] {
        cluster.admin(&["topic", "create", topic]).succeeds();
    }
    let client = client(&cluster);
    let id = begin(&client, 600_000).await;
    let first = stage(id, vec![part("a", vec![event(1).key("k")])]);
    client.stage_transaction(first.clone()).await.unwrap();
    let repeated = StageTransactionRequest { request_id: "again".into(), ..stage(id, vec![]) };
    let refused = client.stage_transaction(repeated).await.unwrap_err();
    assert_eq!(refused.reason, Reason::InvalidRequest, "nothing is staged");
    let more = stage(id, vec![part("b", vec![event(2)]), expecting("a", "k", Expect::NoKey(true))]);
    let more = StageTransactionRequest { request_id: "more".into(), ..more };
    let staged = client.stage_transaction(more.clone()).await.unwrap();
    assert_eq!(client.stage_transaction(more.clone()).await.unwrap(), staged);
    assert_eq!(staged.operations, 3);
    assert!(payloads(&client, "a").await.is_empty() && payloads(&client, "b").await.is_empty());

    let leader = cluster.leader();
    cluster.nodes[leader].kill();
    cluster.nodes[leader].start();
    cluster.await_serving();

    let seen = show(&client, id).await;
    assert_eq!(seen.state(), TransactionState::Open);
    let parts: Vec<_> = seen.staged.iter().map(|p| (p.topic.as_str(), p.events)).collect();
    assert_eq!(parts, [("a", 1), ("b", 1)]);
    client.stage_transaction(stage(id, vec![part("a", vec![event(3)])])).await.unwrap();
    assert!(payloads(&client, "a").await.is_empty());
    let done = client.commit_transaction(CommitTransactionRequest { id }).await.unwrap();
    assert_eq!(done.state(), TransactionState::Committed);
    assert_eq!(payloads(&client, "a").await, ["1", "3"]);
    assert_eq!(payloads(&client, "b").await, ["2"]);

    // Once more at the next leader: the first answer, nothing else.
    let leader = cluster.leader();
    cluster.nodes[leader].kill();
    cluster.nodes[leader].start();
    cluster.await_serving();
    let again = client.commit_transaction(CommitTransactionRequest { id }).await.unwrap();
    let offset = |of: &Transaction| of.committed[0].result.as_ref().unwrap().first_offset;
    assert_eq!(offset(&again), offset(&done));
    assert_eq!(payloads(&client, "a").await, ["1", "3"]);
    let late = client.stage_transaction(first).await.unwrap_err();
    assert_eq!((late.reason, late.fact("state")), (Reason::TransactionEnded, Some("committed")));
    cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_commit_leaves_it_open_and_one_that_is_late_is_refused_for_good() {
    let cluster = Cluster::start(3, &[]);
    cluster.admin(&["topic", "create", "a"]).succeeds();
    let client = client(&cluster);
    let commit = async |id| client.commit_transaction(CommitTransactionRequest { id }).await;

    let id = begin(&client, 0).await;
    let staged = vec![part("a", vec![event(1)]), expecting("b", "x", Expect::Exact(1))];
    let gone = client.stage_transaction(stage(id, staged)).await.unwrap_err();
    assert_eq!(gone.reason, Reason::TopicNotFound);
    for expect in [Expect::Exact(1), Expect::Exact(2)] {
        let parts = vec![expecting("a", "k", expect)];
        let done = client.stage_transaction(stage(id, parts)).await;
        let contradicts = done.err().map(|refused| refused.reason);
        let expected = matches!(expect, Expect::Exact(2)).then_some(Reason::InvalidRequest);
        assert_eq!(contradicts, expected);
    }
    client
        .stage_transaction(stage(id, vec![expecting("a", "l", Expect::Exists(true))]))
        .await
        .unwrap();
    let refused = commit(id).await.unwrap_err();
    assert_eq!(refused.reason, Reason::VersionConflict);
    assert!(refused.message.contains("\"k\"") && refused.message.contains("\"l\""), "{refused}");
    let publish =
        ["events", "publish", "a", "--data", "x", "--type", "t", "--source", "/t", "--key"];
    for key in ["k", "l"] {
        cluster.admin(&[&publish[..], &[key]].concat()).succeeds();
    }
    commit(id).await.unwrap();

    let aborted = begin(&client, 0).await;
    client.stage_transaction(stage(aborted, vec![part("a", vec![event(9)])])).await.unwrap();
    for _ in 0..2 {
        let request = AbortTransactionRequest { id: aborted };
        let done = client.abort_transaction(request).await.unwrap();
        assert_eq!(done.state(), TransactionState::Aborted);
    }
    assert_eq!(commit(aborted).await.unwrap_err().reason, Reason::TransactionEnded);

    let late = begin(&client, 1000).await;
    client.stage_transaction(stage(late, vec![part("a", vec![event(9)])])).await.unwrap();
    let newer = begin(&client, 0).await;
    client.stage_transaction(stage(newer, vec![part("a", vec![event(8)])])).await.unwrap();
    let expired = || {
        let shown = cluster.admin(&["tx", "show", &late.to_string(), "-o", "json"]).json();
        shown["state"] == "expired"
    };
    assert!(poll(Duration::from_secs(10), expired), "it expires by itself");
    assert_eq!(commit(late).await.unwrap_err().reason, Reason::TransactionExpired);
    assert_eq!(show(&client, newer).await.state(), TransactionState::Open);
    let aborted = client.abort_transaction(AbortTransactionRequest { id: late }).await.unwrap();
    assert_eq!(aborted.state(), TransactionState::Expired);
    commit(newer).await.unwrap();
    assert_eq!(payloads(&client, "a").await, ["x", "x", "8"]);
    assert_eq!(commit(9999).await.unwrap_err().reason, Reason::TransactionNotFound);
    cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_are_not_opened() {
    const OPEN: usize = 10_000;
    let cluster = Cluster::start(1, &[]);
    let client = client(&cluster);
    let began = Instant::now();
    let opened = stream::iter(0..100_000)
        .map(|_| {
            let request = BeginTransactionRequest { timeout_ms: 3_600_000, ..Default::default() };
            client.begin_transaction(request)
        })
        .buffer_unordered(256)
        .fold(0, async |opened, answer| match answer {
            Ok(_) => opened + 1,
            Err(refused) => {
                assert_eq!(refused.reason, Reason::LimitReached, "{refused}");
                opened
            }
        })
        .await;
    println!("{opened} opened in {:?}", began.elapsed());
    assert_eq!(opened, OPEN);
    // They all are listed, and one that ends makes room.
    let listed = cluster.admin(&["tx", "ls", "--state", "open", "-o", "jsonl"]).stdout();
    assert_eq!(listed.lines().count(), OPEN);
    cluster.admin(&["tx", "begin"]).fails(6, "LIMIT_REACHED");
    cluster.admin(&["tx", "abort", "17"]).succeeds();
    cluster.admin(&["tx", "begin"]).succeeds();
}

#[test]
fn the_command_line_stages_too() {
    let cluster = Cluster::start(1, &[]);
    cluster.admin(&["topic", "create", "a"]).succeeds();
    let endpoint = cluster.nodes[0].endpoint();
    let begun = cluster.admin(&["tx", "begin", "--expires", "5m", "--label", "x", "-o", "json"]);
    let id = begun.json()["id"].as_str().unwrap().to_owned();
    let event = r#"{"specversion":"1.0","id":"1","source":"/t","type":"t","data":"x"}"#;
    let document = format!(r#"{{"parts": [{{"topic": "a", "events": [{event}, {event}]}}]}}"#);
    let staged = mhub_with_input(&endpoint, &["tx", "stage", &id, "-"], Some(&document));
    staged.succeeds();
    let shown = cluster.admin(&["tx", "show", &id, "-o", "json"]).json();
    assert_eq!((&shown["label"], &shown["staged"][0]["events"]), (&"x".into(), &2.into()));
    let done = cluster.admin(&["tx", "commit", &id, "-o", "json"]).json();
    assert_eq!(
        (&done["state"], done["events"].as_array().unwrap().len()),
        (&"committed".into(), 2)
    );
    cluster.admin(&["tx", "abort", &id]).fails(4, "TRANSACTION_ENDED");
    cluster.admin(&["tx", "show", "99"]).fails(3, "TRANSACTION_NOT_FOUND");
    cluster.admin(&["tx", "begin", "--expires", "2h"]).fails(2, "INVALID_REQUEST");
    assert!(cluster.admin(&["tx", "ls"]).succeeds().stdout().contains("committed"));
}
