//! The publish stream: calls in, answers out in the order of completion, one task for all.
//!
//! What waits for answers is bounded in calls and bytes. At the bound, and while the client does
//! not read its answers, nothing more is read from it.

use std::sync::Arc;

use futures_util::stream::{BoxStream, FuturesUnordered, StreamExt as _, unfold};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::convert::{publish, publish_result};
use crate::model::limits::{STREAM_ANSWERS_QUEUED, STREAM_BYTES_MAX, STREAM_CALLS_MAX};
use crate::model::outcome::Published;
use crate::model::rejection::Rejection;
use crate::node::publish::Publishing;
use crate::node::{Node, validate};
use crate::proto::status::to_call_error;
use crate::proto::v1::publish_answer::Answer;
use crate::proto::v1::{PublishAnswer, PublishCall};
use crate::runtime::tasks;

type Sender = mpsc::Sender<PublishAnswer>;

/// Serves one stream until the client ends it and every call is answered.
pub(super) fn serve(
    node: Arc<Node>,
    service: String,
    calls: Streaming<PublishCall>,
) -> BoxStream<'static, Result<PublishAnswer, Status>> {
    let (sender, answers) = mpsc::channel(STREAM_ANSWERS_QUEUED);
    tasks::spawn("publish-stream", run(node, service, calls, sender));
    unfold(answers, async |mut answers| Some((Ok(answers.recv().await?), answers))).boxed()
}

/// What a call led to.
struct Done {
    call: u64,
    bytes: usize,
    result: Result<Published, Rejection>,
}

async fn run(node: Arc<Node>, service: String, mut calls: Streaming<PublishCall>, answers: Sender) {
    let mut waiting = FuturesUnordered::new();
    let mut bytes = 0;
    let mut open = true;
    loop {
        let room = waiting.len() < STREAM_CALLS_MAX && bytes < STREAM_BYTES_MAX;
        tokio::select! {
            biased;
            Some(done) = waiting.next(), if !waiting.is_empty() => {
                let Done { call, bytes: freed, result } = done;
                bytes -= freed;
                if answers.send(answer(call, result)).await.is_err() {
                    return;
                }
            }
            call = calls.message(), if open && room => {
                let Ok(Some(call)) = call else {
                    // The client has ended its side, or is gone; what was begun is finished.
                    open = false;
                    continue;
                };
                let (number, size) = (call.call, call.events.iter().map(bytes::Bytes::len).sum());
                match begin(&node, &service, call).await {
                    Ok(publishing) => {
                        bytes += size;
                        waiting.push(wait(&node, number, size, publishing));
                    }
                    Err(rejection) => {
                        if answers.send(answer(number, Err(rejection))).await.is_err() {
                            return;
                        }
                    }
                }
            }
            else => return,
        }
    }
}

async fn begin(node: &Node, service: &str, call: PublishCall) -> Result<Publishing, Rejection> {
    node.begin_publish(service, validate::publish(publish(call)?, node.now())?).await
}

async fn wait(node: &Node, call: u64, bytes: usize, publishing: Publishing) -> Done {
    Done { call, bytes, result: publishing.outcome(node).await }
}

fn answer(call: u64, result: Result<Published, Rejection>) -> PublishAnswer {
    let answer = match result {
        Ok(published) => Answer::Result(publish_result(published)),
        Err(rejection) => Answer::Error(to_call_error(&rejection)),
    };
    PublishAnswer { call, answer: Some(answer) }
}
