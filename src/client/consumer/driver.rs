//! Keeps a consumer's stream open to whoever leads.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::state::{Phase, State};
use super::{Arrived, Shared};
use crate::client::endpoints::{Endpoints, Target};
use crate::client::retry::{Attempts, Failure, Repeat, Verdict};
use crate::client::spawn::now;
use crate::model::rejection::{Reason, Rejection};
use crate::proto::v1::consume_request::Request;
use crate::proto::v1::consume_response::Response;
use crate::proto::v1::delivery_client::DeliveryClient;
use crate::proto::v1::{ConsumeRequest, ConsumeResponse, OpenConsume};

/// A delivery may hold a whole batch.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// Requests that wait for the transport.
const REQUESTS_QUEUED: usize = 4;

/// Runs until the consumer has ended.
pub(super) async fn drive(shared: Arc<Shared>, endpoints: Arc<Endpoints>, open: OpenConsume) {
    let failure = consume(&shared, &endpoints, &open).await.err();
    {
        let mut state = shared.lock();
        match failure {
            Some(rejection) if state.phase == Phase::Consuming => state.fail(rejection),
            Some(_) | None => state.end(),
        }
    }
    shared.news.notify_one();
}

/// Converses with one node after the other.
///
/// # Errors
/// What the hub refuses for good, and the last trouble when none served for too long.
async fn consume(
    shared: &Shared,
    endpoints: &Endpoints,
    open: &OpenConsume,
) -> Result<(), Rejection> {
    let timeout = endpoints.options().timeout;
    let mut attempts = Attempts::new(endpoints, Repeat::Read);
    let mut deadline = Instant::from_std(now()) + timeout;
    loop {
        let target = endpoints.toward_leader()?;
        let Broken { failure, served } = match converse(shared, endpoints, &target, open).await {
            Ok(()) => return Ok(()),
            Err(broken) => broken,
        };
        if served {
            deadline = Instant::from_std(now()) + timeout;
            attempts.refresh();
        }
        tracing::debug!(endpoint = %target.address, reason = failure.rejection.reason.as_str(),
            "consume stream broke: {}", failure.rejection.message);
        if failure.verdict == Verdict::Final {
            return Err(failure.rejection);
        }
        let _ = attempts.next(&target, &failure);
        tokio::select! {
            paused = attempts.pause(failure, deadline) => paused?,
            () = over(shared) => return Ok(()),
        }
    }
}

/// Waits until a consumer that ends has waited enough: without a stream there is nothing else to do.
async fn over(shared: &Shared) {
    loop {
        let phase = shared.lock().phase;
        match phase {
            Phase::Draining(until) | Phase::Releasing(until) => {
                return tokio::time::sleep_until(until).await;
            }
            Phase::Ended => return,
            Phase::Consuming => shared.work.notified().await,
        }
    }
}

/// How a stream broke, and whether it had been opened before.
struct Broken {
    failure: Failure,
    served: bool,
}

/// One stream, until nothing is left to do or it breaks.
async fn converse(
    shared: &Shared,
    endpoints: &Endpoints,
    target: &Target,
    open: &OpenConsume,
) -> Result<(), Broken> {
    let patience = endpoints.options().attempt_timeout;
    let broken = |failure| Broken { failure, served: false };
    let (requests, queue) = mpsc::channel(REQUESTS_QUEUED);
    // The channel is new and has room.
    drop(requests.try_send(request(Request::Open(open.clone()))));
    let mut client =
        DeliveryClient::new(target.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
    let opening = async {
        let mut answers = client.consume(ReceiverStream::new(queue)).await?.into_inner();
        let opened = answers.message().await?;
        Ok::<_, tonic::Status>(opened.map(|_| answers))
    };
    let opened = tokio::select! {
        opened = tokio::time::timeout(patience, opening) => opened,
        () = over(shared) => return Ok(()),
    };
    let answers = match opened {
        Ok(Ok(Some(answers))) => answers,
        Ok(Ok(None)) => return Err(broken(Failure::of_rejection(ended(target)))),
        Ok(Err(status)) => return Err(broken(Failure::of_status(&status, target))),
        Err(_) => return Err(broken(Failure::silent(target, patience))),
    };
    endpoints.leads(&target.address);
    shared.lock().begin_stream();
    let talked = talk(shared, target, requests, answers).await;
    talked.map_err(|failure| Broken { failure, served: true })
}

async fn talk(
    shared: &Shared,
    target: &Target,
    requests: mpsc::Sender<ConsumeRequest>,
    mut answers: Streaming<ConsumeResponse>,
) -> Result<(), Failure> {
    loop {
        let (done, speaks, look_at) = {
            let state = shared.lock();
            (state.is_done(), state.due_credit().is_some() || state.has_batch(), state.next_look())
        };
        if done {
            break;
        }
        let look = async {
            match look_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            answer = answers.message() => match answer {
                Ok(Some(answer)) => hear(shared, answer)?,
                Ok(None) => return Err(Failure::of_rejection(ended(target))),
                Err(status) => return Err(Failure::of_status(&status, target)),
            },
            slot = requests.reserve(), if speaks => match slot {
                Ok(slot) => if let Some(request) = speak(&mut shared.lock()) { slot.send(request) },
                // The stream is about to break: its answer says why.
                Err(_) => tokio::task::yield_now().await,
            },
            () = shared.work.notified() => {}
            () = look => shared.lock().look(Instant::from_std(now())),
        }
    }
    // Everything was answered: the end of this side is the last word.
    drop(requests);
    while let Ok(Some(_)) = answers.message().await {}
    Ok(())
}

fn request(request: Request) -> ConsumeRequest {
    ConsumeRequest { request: Some(request) }
}

/// The next thing to say: settlements first, they make room.
fn speak(state: &mut State) -> Option<ConsumeRequest> {
    if let Some(batch) = state.next_batch() {
        return Some(request(Request::Settle(batch)));
    }
    let credit = state.due_credit()?;
    state.granted();
    Some(request(Request::Credit(credit)))
}

fn hear(shared: &Shared, answer: ConsumeResponse) -> Result<(), Failure> {
    let at = Instant::from_std(now());
    match answer.response {
        Some(Response::Deliveries(deliveries)) => {
            for leased in deliveries.leased {
                let arrived = Arrived::decode(leased).map_err(Failure::of_rejection)?;
                shared.lock().accept(arrived, at);
            }
            shared.news.notify_one();
        }
        Some(Response::Settled(result)) => shared.lock().settled(result, at),
        Some(Response::Opened(_)) | None => {}
    }
    Ok(())
}

fn ended(target: &Target) -> Rejection {
    let text = format!("{} ended the stream; consume on at another node", target.address);
    Rejection::new(Reason::ShuttingDown, text)
}
