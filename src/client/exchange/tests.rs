use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use futures_util::poll;
use tonic::Status;

use super::*;
use crate::client::ClientOptions;
use crate::client::fake::{client, nobody};
use crate::client::fake_transactions::{FakeTransactions, TransactStream};
use crate::model::rejection::Reason;
use crate::proto::v1::TransactionPart;

type Outcome = Result<TransactResponse, Rejection>;
type Started<'a> = Pin<Box<dyn Future<Output = Outcome> + 'a>>;

fn request(topic: impl ToString) -> TransactRequest {
    let part = TransactionPart { topic: topic.to_string(), ..TransactionPart::default() };
    TransactRequest { parts: vec![part], ..TransactRequest::default() }
}

fn topic(request: &TransactRequest) -> &str {
    &request.parts[0].topic
}

fn refusal(reason: Reason) -> Rejection {
    Rejection::new(reason, "refused by the test")
}

fn offset(outcome: Outcome) -> u64 {
    outcome.unwrap().parts[0].first_offset
}

/// Starts transactions without waiting for them: polled once, each has handed over its call.
async fn start(client: &Client, topics: impl IntoIterator<Item = u64>) -> Vec<Started<'_>> {
    let mut started: Vec<Started<'_>> = Vec::new();
    for topic in topics {
        let mut transaction = Box::pin(client.transact(request(topic)));
        assert!(poll!(&mut transaction).is_pending());
        started.push(transaction);
    }
    started
}

/// A client with one transaction that the node has accepted, and the stream that it came by.
async fn open(fake: &mut FakeTransactions, client: &Client) -> TransactStream {
    let first = client.transact(request("first"));
    let answered = async {
        let mut stream = fake.stream().await;
        let (number, call) = stream.call().await;
        assert_eq!(topic(&call), "first");
        stream.accept(number, 0).await;
        stream
    };
    let (first, stream) = tokio::join!(first, answered);
    assert_eq!(offset(first), 0);
    stream
}

#[tokio::test]
async fn many_share_a_stream_and_get_their_own_answers_in_any_order() {
    let mut fake = FakeTransactions::start().await;
    let client = client(&[&fake.endpoint], 10_000);
    let started = start(&client, 0..50).await;
    let node = async {
        let mut stream = fake.stream().await;
        let mut calls = Vec::new();
        for _ in 0..50 {
            calls.push(stream.call().await);
        }
        for (number, call) in calls.iter().rev() {
            assert!(!call.request_id.is_empty());
            let of: u64 = topic(call).parse().unwrap();
            match of % 10 {
                3 => stream.refuse(*number, &refusal(Reason::VersionConflict)).await,
                _ => stream.accept(*number, 100 + of).await,
            }
        }
        stream
    };
    let (outcomes, _stream) = tokio::join!(join_all(started), node);
    for (n, outcome) in (0..).zip(outcomes) {
        match n % 10 {
            3 => assert_eq!(outcome.unwrap_err().reason, Reason::VersionConflict),
            _ => assert_eq!(offset(outcome), 100 + n),
        }
    }
    assert!(!fake.has_another_stream());
}

#[tokio::test]
async fn more_calls_than_are_queued_wait_for_room() {
    use crate::model::limits::TRANSACTIONS_QUEUED;
    let count = 3 * TRANSACTIONS_QUEUED as u64;
    let mut fake = FakeTransactions::start().await;
    let client = client(&[&fake.endpoint], 10_000);
    let started = start(&client, 0..count).await;
    let node = async {
        let mut stream = fake.stream().await;
        for _ in 0..count {
            let (number, call) = stream.call().await;
            stream.accept(number, topic(&call).parse().unwrap()).await;
        }
        stream
    };
    let (outcomes, _stream) = tokio::join!(join_all(started), node);
    let offsets: Vec<_> = outcomes.into_iter().map(offset).collect();
    assert_eq!(offsets, (0..count).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_has_no_answer_when_a_stream_breaks_is_repeated_elsewhere_with_its_id() {
    let (mut first, mut second) =
        (FakeTransactions::start().await, FakeTransactions::start().await);
    let client = client(&[&first.endpoint, &second.endpoint], 10_000);
    let started = start(&client, 0..3).await;
    let nodes = async {
        let mut stream = first.stream().await;
        let mut ids = HashMap::new();
        for _ in 0..3 {
            let (number, call) = stream.call().await;
            match topic(&call) {
                "1" => stream.accept(number, 1).await,
                of => drop(ids.insert(of.to_owned(), call.request_id)),
            }
        }
        stream.fail(Status::invalid_argument("of no single call")).await;
        let mut stream = second.stream().await;
        for _ in 0..2 {
            let (number, call) = stream.call().await;
            assert_eq!(ids.remove(topic(&call)), Some(call.request_id.clone()));
            stream.accept(number, topic(&call).parse().unwrap()).await;
        }
        stream
    };
    let (outcomes, _stream) = tokio::join!(join_all(started), nodes);
    assert_eq!(outcomes.into_iter().map(offset).collect::<Vec<_>>(), [0, 1, 2]);
}

#[tokio::test]
async fn a_stream_that_the_node_ended_is_opened_anew() {
    let mut fake = FakeTransactions::start().await;
    let client = client(&[&fake.endpoint], 10_000);
    // Nobody waits when it ends, or somebody does.
    drop(open(&mut fake, &client).await);
    let stream = open(&mut fake, &client).await;
    let started = start(&client, [5]).await;
    let node = async {
        let mut stream = stream;
        let (_, call) = stream.call().await;
        drop(stream);
        let mut stream = fake.stream().await;
        let (number, again) = stream.call().await;
        assert_eq!(again, call);
        stream.accept(number, 5).await;
        stream
    };
    let (outcomes, _stream) = tokio::join!(join_all(started), node);
    assert_eq!(outcomes.into_iter().map(offset).collect::<Vec<_>>(), [5]);
}

#[tokio::test]
async fn a_hint_leads_to_the_leader_with_the_same_id() {
    let (mut follower, mut leader) =
        (FakeTransactions::start().await, FakeTransactions::start().await);
    let client = client(&[&follower.endpoint], 10_000);
    let started = start(&client, 0..2).await;
    let nodes = async {
        let hint = refusal(Reason::NotLeader).with("leader_endpoint", &leader.endpoint);
        let mut stream = follower.stream().await;
        let mut ids = HashMap::new();
        for _ in 0..2 {
            let (number, call) = stream.call().await;
            stream.refuse(number, &hint).await;
            ids.insert(topic(&call).to_owned(), call.request_id);
        }
        // Nobody needs that one any more.
        let gone = stream.is_over();
        let led = async {
            let mut stream = leader.stream().await;
            for _ in 0..2 {
                let (number, call) = stream.call().await;
                assert_eq!(ids[topic(&call)], call.request_id);
                stream.accept(number, topic(&call).parse().unwrap()).await;
            }
            stream
        };
        let (gone, stream) = tokio::join!(gone, led);
        assert!(gone);
        stream
    };
    let (outcomes, stream) = tokio::join!(join_all(started), nodes);
    assert_eq!(outcomes.into_iter().map(offset).collect::<Vec<_>>(), [0, 1]);
    // What follows begins with the leader, on the same stream.
    let node = async {
        let mut stream = stream;
        let (number, _) = stream.call().await;
        stream.accept(number, 9).await;
    };
    let (third, ()) = tokio::join!(client.transact(request("third")), node);
    assert_eq!(offset(third), 9);
    assert!(!leader.has_another_stream() && !follower.has_another_stream());
}

#[tokio::test]
async fn who_gives_up_leaves_the_others_as_they_are() {
    let mut fake = FakeTransactions::start().await;
    let client = client(&[&fake.endpoint], 10_000);
    let mut started = start(&client, 0..3).await;
    let node = async {
        let mut stream = fake.stream().await;
        let mut numbers = HashMap::new();
        for _ in 0..3 {
            let (number, call) = stream.call().await;
            numbers.insert(topic(&call).to_owned(), number);
        }
        (stream, numbers)
    };
    // All of them are on their way once the node has them.
    let (stream, numbers) = {
        let mut all = join_all(started.iter_mut());
        tokio::select! { _ = &mut all => panic!("nothing is answered"), node = node => node }
    };
    drop(started.remove(1));
    for (of, number) in &numbers {
        stream.accept(*number, of.parse().unwrap()).await;
    }
    let outcomes = join_all(started).await;
    assert_eq!(outcomes.into_iter().map(offset).collect::<Vec<_>>(), [0, 2]);
    assert!(!fake.has_another_stream());
}

#[tokio::test]
async fn a_silent_node_is_left_for_the_next_one() {
    let (mut silent, mut lively) =
        (FakeTransactions::start().await, FakeTransactions::start().await);
    let attempt_timeout = Duration::from_millis(50);
    let options = ClientOptions { attempt_timeout, ..ClientOptions::default() };
    let endpoints = [silent.endpoint.clone(), lively.endpoint.clone()];
    let client = Client::with_options(endpoints, options).unwrap();
    let nodes = async {
        let mut unanswered = silent.stream().await;
        let (_, call) = unanswered.call().await;
        let mut stream = lively.stream().await;
        let (number, again) = stream.call().await;
        assert_eq!(again, call);
        stream.accept(number, 3).await;
        (unanswered, stream)
    };
    let (outcome, (mut unanswered, _stream)) = tokio::join!(client.transact(request("t")), nodes);
    assert_eq!(offset(outcome), 3);
    assert!(unanswered.is_over().await);
}

#[tokio::test]
async fn without_an_answer_the_outcome_is_unknown_only_if_a_node_was_reached() {
    let mut fake = FakeTransactions::start().await;
    let reached = client(&[&fake.endpoint], 300);
    let node = async {
        let mut stream = fake.stream().await;
        stream.call().await;
        stream
    };
    let (outcome, _stream) = tokio::join!(reached.transact(request("t")), node);
    assert_eq!(outcome.unwrap_err().reason, Reason::OutcomeUnknown);
    let nobody = nobody();
    let outcome = client(&[&nobody], 300).transact(request("t")).await;
    assert_eq!(outcome.unwrap_err().reason, Reason::Unreachable);
}

#[tokio::test]
async fn a_node_that_does_not_know_the_stream_gets_unary_calls() {
    let mut fake = FakeTransactions::start().await;
    fake.is_old.store(true, Ordering::Relaxed);
    let client = client(&[&fake.endpoint], 10_000);
    let outcomes = join_all((0..5).map(|n| client.transact(request(n)))).await;
    assert!(outcomes.into_iter().all(|outcome| offset(outcome) == 7));
    let mut asked = Vec::new();
    for _ in 0..5 {
        let request = fake.unary().await;
        assert!(!request.request_id.is_empty());
        asked.push(topic(&request).to_owned());
    }
    asked.sort();
    assert_eq!(asked, ["0", "1", "2", "3", "4"]);
    assert!(matches!(&*client.exchange.lock(), Way::Unary(at) if **at == *fake.endpoint));
    // That is remembered of this node, until a call fails.
    fake.is_old.store(false, Ordering::Relaxed);
    assert_eq!(offset(client.transact(request("again")).await), 7);
    assert!(!fake.has_another_stream());
    client.exchange.forget_unary(&fake.endpoint.as_str().into());
    open(&mut fake, &client).await;
}

#[tokio::test]
async fn a_request_that_would_break_the_stream_goes_alone() {
    let mut fake = FakeTransactions::start().await;
    let client = client(&[&fake.endpoint], 10_000);
    let _stream = open(&mut fake, &client).await;
    let large = request("t".repeat(MESSAGE_BYTES_MAX - CALL_BYTES));
    assert_eq!(offset(client.transact(large).await), 7);
    assert_eq!(topic(&fake.unary().await).len(), MESSAGE_BYTES_MAX - CALL_BYTES);
}

#[tokio::test]
async fn the_stream_declares_the_service_and_ends_with_the_client() {
    let mut fake = FakeTransactions::start().await;
    let options = ClientOptions { service: "shop".to_owned(), ..ClientOptions::default() };
    let client = Client::with_options([fake.endpoint.as_str()], options).unwrap();
    let clone = client.clone();
    let mut stream = open(&mut fake, &client).await;
    assert_eq!(stream.service.as_deref(), Some("shop"));
    drop(client);
    let node = async {
        let (number, _) = stream.call().await;
        stream.accept(number, 1).await;
    };
    let (outcome, ()) = tokio::join!(clone.transact(request("t")), node);
    assert_eq!(offset(outcome), 1);
    drop(clone);
    assert!(stream.is_over().await);
}

#[tokio::test]
async fn a_stream_that_nobody_uses_ends_and_comes_back() {
    let mut fake = FakeTransactions::start().await;
    let options = ClientOptions::default();
    let endpoints = Arc::new(Endpoints::new(&[fake.endpoint.clone()], options).unwrap());
    let exchange = Arc::new(Exchange::new(Duration::from_millis(20)));
    let client = Client { endpoints, exchange };
    let mut stream = open(&mut fake, &client).await;
    assert!(stream.is_over().await);
    // As long as somebody waits, it is used.
    let started = start(&client, [4]).await;
    let node = async {
        let mut stream = fake.stream().await;
        let (number, _) = stream.call().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        stream.accept(number, 4).await;
        assert!(stream.is_over().await);
    };
    let (outcomes, ()) = tokio::join!(join_all(started), node);
    assert_eq!(outcomes.into_iter().map(offset).collect::<Vec<_>>(), [4]);
}

#[test]
fn a_runtime_that_stops_leaves_nobody_waiting() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (node, first, second) = (runtime(), runtime(), runtime());
    let mut fake = node.block_on(FakeTransactions::start());
    let client = first.block_on(async { client(&[&fake.endpoint], 400) });
    let mut stream = first.block_on(open(&mut fake, &client));
    let mut waiting = Box::pin(client.transact(request("t")));
    second.block_on(async {
        assert!(poll!(&mut waiting).is_pending());
        stream.call().await;
    });
    drop(first);
    // The channel stopped with its runtime, so that is all that can be said.
    let outcome = second.block_on(waiting);
    assert_eq!(outcome.unwrap_err().reason, Reason::OutcomeUnknown);
}
