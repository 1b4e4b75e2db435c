//! Transactions over one stream, on real clusters: each is answered by itself, and those that were begun survive their leader.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use message_hub::client::{Client, ClientOptions};
use message_hub::model::rejection::Reason;
use message_hub::proto::status::from_call_error;
use message_hub::proto::v1::transact_answer::Answer;
use message_hub::proto::v1::transactions_client::TransactionsClient;
use message_hub::proto::v1::{TransactAnswer, TransactCall, TransactRequest, TransactionPart};
use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic::transport::Channel;

use crate::delivery::client;
use crate::support::{Cluster, SERVING_WITHIN, poll};
use crate::transactions::{event, part, payloads};

async fn connect(cluster: &Cluster, node: usize) -> TransactionsClient<Channel> {
    let endpoint = format!("http://{}", cluster.nodes[node].endpoint());
    TransactionsClient::connect(endpoint).await.unwrap()
}

fn call(call: u64, parts: Vec<TransactionPart>) -> TransactCall {
    TransactCall { call, request: Some(TransactRequest { parts, ..TransactRequest::default() }) }
}

fn both(data: impl ToString) -> Vec<TransactionPart> {
    let data = data.to_string();
    vec![part("a", vec![event(&data)]), part("b", vec![event(&data)])]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_transaction_of_a_stream_is_answered_by_itself() {
    let cluster = Cluster::start(1, &[]);
    for topic in ["a", "b"] {
        cluster.admin(&["topic", "create", topic]).succeeds();
    }
    let mut to = connect(&cluster, 0).await;
    let large = "x".repeat(1100 << 10);
    let calls: Vec<_> = (0..100)
        .map(|n| match n % 10 {
            3 => call(n, vec![part("a", vec![event(n)]), part("gone", vec![event(n)])]),
            5 => TransactCall { call: n, request: None },
            7 if n == 7 => call(n, both(large.as_str())),
            _ => call(n, both(n)),
        })
        .collect();
    let mut answers = to.transact_stream(tokio_stream::iter(calls)).await.unwrap().into_inner();
    let (mut done, mut refused) = (BTreeMap::new(), BTreeMap::new());
    while let Some(TransactAnswer { call, answer }) = answers.message().await.unwrap() {
        match answer.unwrap() {
            Answer::Result(result) => {
                done.insert(call, result.parts);
            }
            Answer::Error(error) => {
                refused.insert(call, from_call_error(error).reason);
            }
        }
    }
    let wanted = (0..100).filter_map(|n| match n % 10 {
        3 => Some((n, Reason::TopicNotFound)),
        5 => Some((n, Reason::InvalidRequest)),
        7 if n == 7 => Some((n, Reason::CallTooLarge)),
        _ => None,
    });
    assert_eq!(refused, wanted.collect());
    assert_eq!(done.len(), 79);
    let client = client(&cluster);
    let (a, b) = (payloads(&client, "a").await, payloads(&client, "b").await);
    assert_eq!((a.len(), &a), (79, &b));
    for (n, parts) in done {
        let at = usize::try_from(parts[0].first_offset).unwrap();
        assert_eq!(a[at], n.to_string());
        assert_eq!(parts[1].first_position, parts[0].first_position + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_bound_ends_the_stream_as_it_fails_a_call() {
    let cluster = Cluster::start(1, &[]);
    for topic in ["a", "b"] {
        cluster.admin(&["topic", "create", topic]).succeeds();
    }
    let mut to = connect(&cluster, 0).await;
    let huge = "x".repeat(5 << 20);
    let calls = vec![call(1, both("good")), call(2, both(&huge)), call(3, both("never read"))];
    let mut answers = to.transact_stream(tokio_stream::iter(calls)).await.unwrap().into_inner();
    let first = answers.message().await.unwrap().unwrap();
    assert!(first.call == 1 && matches!(first.answer, Some(Answer::Result(_))), "{first:?}");
    let ended = answers.message().await.unwrap_err();
    let single = to.transact(call(0, both(&huge)).request.unwrap()).await.unwrap_err();
    assert_eq!((ended.code(), single.code()), (Code::OutOfRange, Code::OutOfRange), "{ended}");
    assert_eq!(payloads(&client(&cluster), "a").await, ["good"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_never_reads_its_answers_costs_bounded_memory() {
    const CALLS: u64 = 500_000;
    let cluster = Cluster::start(1, &[]);
    for topic in ["a", "b"] {
        cluster.admin(&["topic", "create", topic]).succeeds();
    }
    let before = cluster.number(0, "resident_bytes");
    let mut to = connect(&cluster, 0).await;
    let (sender, calls) = tokio::sync::mpsc::channel(16);
    let answers = to.transact_stream(tokio_stream::wrappers::ReceiverStream::new(calls));
    let mut answers = answers.await.unwrap().into_inner();
    let parts = both("x".repeat(8 << 10));
    let mut sent = 0_u64;
    let flood = async {
        for number in 0..CALLS {
            if sender.send(call(number, parts.clone())).await.is_err() {
                return;
            }
            sent += 1;
        }
    };
    let stalled = tokio::time::timeout(Duration::from_secs(15), flood).await.is_err();
    let grown = cluster.number(0, "resident_bytes").saturating_sub(before);
    println!("{sent} calls were taken, the node grew by {} MiB", grown >> 20);
    assert!(grown < 300 << 20, "the node grew by {} MiB", grown >> 20);
    drop(sender);
    // Reading again gives every answer that is due.
    let mut read = 0;
    while let Some(answer) = answers.next().await {
        answer.unwrap();
        read += 1;
    }
    assert!(read == sent || (stalled && read > 0), "{read} answers of {sent}");
    cluster.await_serving();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_waits_for_nobody_who_has_nothing_to_ask() {
    let mut cluster = Cluster::start(1, &[]);
    for topic in ["a", "b"] {
        cluster.admin(&["topic", "create", topic]).succeeds();
    }
    let client = client(&cluster);
    let request = call(0, both("one")).request.unwrap();
    client.transact(request.clone()).await.unwrap();
    assert_eq!(cluster.nodes[0].stop(), Some(0));
    let log = cluster.nodes[0].log();
    assert!(!log.contains("connections were closed before they were done"), "{log}");
    cluster.nodes[0].start();
    client.transact(request).await.unwrap();
    assert_eq!(payloads(&client, "b").await, ["one", "one"]);
}

/// What callers know of their transactions.
#[derive(Default)]
struct Told {
    stop: AtomicBool,
    done: AtomicU64,
    /// By payload: whether the hub said that it is done.
    transactions: Mutex<BTreeMap<String, bool>>,
}

async fn transact_on_and_on(client: Client, told: Arc<Told>, caller: usize) {
    for n in 0.. {
        if told.stop.load(Ordering::Relaxed) {
            return;
        }
        let data = format!("{caller}-{n}");
        let request = call(0, both(&data)).request.unwrap();
        let done = client.transact(request).await.is_ok();
        told.transactions.lock().unwrap().insert(data, done);
        told.done.fetch_add(u64::from(done), Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_go_on_through_leaders_that_are_killed_each_once_and_none_half() {
    const KILLS: usize = 8;
    const CALLERS: usize = 16;
    let mut cluster = Cluster::start(3, &[]);
    for topic in ["a", "b"] {
        cluster.admin(&["topic", "create", topic]).succeeds();
    }
    let options = ClientOptions { timeout: Duration::from_secs(20), ..ClientOptions::default() };
    let client = Client::with_options(cluster.all_endpoints(), options).unwrap();
    let told = Arc::new(Told::default());
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        callers.spawn(transact_on_and_on(client.clone(), Arc::clone(&told), caller));
    }
    let progress = |wanted: u64| {
        let from = told.done.load(Ordering::Relaxed);
        let more = || told.done.load(Ordering::Relaxed) >= from + wanted;
        assert!(poll(SERVING_WITHIN, more), "transactions do not go on after {from}");
    };
    progress(100);
    for kill in 0..KILLS {
        let leader = cluster.leader();
        println!("kill leader {leader} ({kill})");
        cluster.nodes[leader].kill();
        progress(50);
        cluster.nodes[leader].start();
        cluster.await_answering(leader);
        progress(50);
    }
    told.stop.store(true, Ordering::Relaxed);
    callers.join_all().await;
    let counted = |payloads: Vec<String>| {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        payloads.into_iter().for_each(|data| *counts.entry(data).or_default() += 1);
        counts
    };
    let (a, b) = (payloads(&client, "a").await, payloads(&client, "b").await);
    assert_eq!(a, b, "all of each, or nothing");
    let counts = counted(a);
    let transactions = told.transactions.lock().unwrap().clone();
    for (data, count) in &counts {
        assert!(*count == 1 && transactions.contains_key(data), "{data} is there {count} times");
    }
    let done = transactions.iter().filter(|(_, done)| **done);
    for (data, _) in done {
        assert!(counts.contains_key(data), "{data} was acknowledged and is lost");
    }
    println!(
        "{} transactions, {} acknowledged",
        transactions.len(),
        told.done.load(Ordering::Relaxed)
    );
    cluster.verify();
}
