//! The publish stream: calls in, answers out in the order of completion, one task for all.
//!
//! What waits for answers is bounded in calls and bytes. At the bound, and while the client does
//! not read its answers, nothing more is read from it. Calls that are there already are judged one after the other and
//! then queued together: queued one by one, with the time in between that schemas take, they would go in many small
//! entries.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::stream::{BoxStream, FuturesUnordered, StreamExt as _, unfold};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::convert::{publish, publish_result};
use crate::model::limits::{
    STREAM_ANSWERS_QUEUED, STREAM_BYTES_MAX, STREAM_BYTES_TOGETHER_MAX, STREAM_CALLS_MAX,
    STREAM_CALLS_TOGETHER_MAX,
};
use crate::model::outcome::Published;
use crate::model::rejection::Rejection;
use crate::node::publish::{Publishing, Ready};
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

/// A call that may be queued, or is refused.
struct Judged {
    call: u64,
    bytes: usize,
    result: Result<Ready, Rejection>,
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
                let judged;
                (judged, open) = judge_all(&node, &service, call, &mut calls).await;
                for Judged { call, bytes: size, result } in judged {
                    let begun = match result {
                        Ok(ready) => node.begin_publish(ready).await,
                        Err(rejection) => Err(rejection),
                    };
                    match begun {
                        Ok(publishing) => {
                            bytes += size;
                            waiting.push(wait(&node, call, size, publishing));
                        }
                        Err(rejection) => {
                            if answers.send(answer(call, Err(rejection))).await.is_err() {
                                return;
                            }
                        }
                    }
                }
            }
            else => return,
        }
    }
}

/// Judges a call, and others that are there already; whether there may be more.
async fn judge_all(
    node: &Node,
    service: &str,
    first: PublishCall,
    calls: &mut Streaming<PublishCall>,
) -> (Vec<Judged>, bool) {
    let mut next = first;
    let (mut judged, mut bytes) = (Vec::new(), 0);
    loop {
        let call = judge(node, service, next).await;
        bytes += call.bytes;
        judged.push(call);
        if judged.len() == STREAM_CALLS_TOGETHER_MAX || bytes >= STREAM_BYTES_TOGETHER_MAX {
            return (judged, true);
        }
        next = match calls.message().now_or_never() {
            Some(Ok(Some(call))) => call,
            Some(_) => return (judged, false),
            None => return (judged, true),
        };
    }
}

async fn judge(node: &Node, service: &str, call: PublishCall) -> Judged {
    let (number, bytes) = (call.call, call.events.iter().map(bytes::Bytes::len).sum());
    let result =
        async { node.ready(service, validate::publish(publish(call)?, node.now())?).await };
    Judged { call: number, bytes, result: result.await }
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
