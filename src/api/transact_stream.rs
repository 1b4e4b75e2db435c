//! The stream of transactions: calls in, answers out in the order of completion, one task for all.
//!
//! What waits for answers is bounded in calls and bytes. At the bound, and while the client does not read its answers,
//! nothing more is read from it. When the node stops, what was begun is answered before the stream ends.

use std::sync::Arc;

use futures_util::stream::{BoxStream, FuturesUnordered, StreamExt as _, unfold};
use prost::Message as _;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::transactions::transact;
use crate::model::limits::{STREAM_ANSWERS_QUEUED, STREAM_BYTES_MAX, STREAM_CALLS_MAX};
use crate::model::rejection::Rejection;
use crate::node::Node;
use crate::proto::status::to_call_error;
use crate::proto::v1::transact_answer::Answer;
use crate::proto::v1::{TransactAnswer, TransactCall, TransactResponse};
use crate::runtime::tasks;

type Sender = mpsc::Sender<Result<TransactAnswer, Status>>;

/// Serves one stream until the client ends it, or the node stops, and every call is answered.
pub(super) fn serve(
    node: Arc<Node>,
    service: String,
    calls: Streaming<TransactCall>,
) -> BoxStream<'static, Result<TransactAnswer, Status>> {
    let (sender, answers) = mpsc::channel(STREAM_ANSWERS_QUEUED);
    tasks::spawn("transact-stream", run(node, service, calls, sender));
    unfold(answers, async |mut answers| Some((answers.recv().await?, answers))).boxed()
}

/// What a call led to.
struct Done {
    call: u64,
    bytes: usize,
    result: Result<TransactResponse, Rejection>,
}

async fn run(
    node: Arc<Node>,
    service: String,
    mut calls: Streaming<TransactCall>,
    answers: Sender,
) {
    let mut waiting = FuturesUnordered::new();
    let (mut bytes, mut open, mut malformed) = (0, true, None);
    let stops = node.shutdown().wait();
    tokio::pin!(stops);
    loop {
        let room = waiting.len() < STREAM_CALLS_MAX && bytes < STREAM_BYTES_MAX;
        tokio::select! {
            biased;
            Some(done) = waiting.next(), if !waiting.is_empty() => {
                let Done { call, bytes: freed, result } = done;
                bytes -= freed;
                if answers.send(Ok(answer(call, result))).await.is_err() {
                    return;
                }
            }
            () = &mut stops, if open => open = false,
            call = calls.message(), if open && room => match call {
                Ok(Some(call)) => {
                    let size = call.encoded_len();
                    bytes += size;
                    waiting.push(decide(&node, &service, call, size));
                }
                // The client has ended its side, or is gone; what was begun is finished.
                Ok(None) => open = false,
                Err(status) => (open, malformed) = (false, Some(status)),
            },
            else => break,
        }
    }
    if let Some(status) = malformed {
        drop(answers.send(Err(status)).await);
    }
}

async fn decide(node: &Node, service: &str, call: TransactCall, bytes: usize) -> Done {
    let TransactCall { call, request } = call;
    let result = transact(node, service, request.unwrap_or_default()).await;
    Done { call, bytes, result }
}

fn answer(call: u64, result: Result<TransactResponse, Rejection>) -> TransactAnswer {
    let answer = match result {
        Ok(done) => Answer::Result(done),
        Err(rejection) => Answer::Error(to_call_error(&rejection)),
    };
    TransactAnswer { call, answer: Some(answer) }
}
