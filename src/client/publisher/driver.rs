//! Keeps a publisher's stream open to whoever leads, and takes the answers in.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request};

use super::Shared;
use super::stream::{CallCodec, CallStream};
use crate::client::endpoints::{Endpoints, Target};
use crate::client::retry::{Attempts, Failure, Repeat, Verdict};
use crate::client::spawn::now;
use crate::model::rejection::{Reason, Rejection};

/// How often deadlines are looked at while anything waits.
const SWEEP: Duration = Duration::from_millis(100);

/// Runs until nobody publishes and nothing waits any more.
pub(super) async fn drive(shared: Arc<Shared>, endpoints: Arc<Endpoints>) {
    // When the runtime stops under the publisher, nobody may wait for ever.
    let _last_words = LastWords(shared.clone());
    tokio::select! {
        () = send(&shared, &endpoints) => {}
        () = sweep(&shared, &endpoints) => {}
    }
}

struct LastWords(Arc<Shared>);

impl Drop for LastWords {
    fn drop(&mut self) {
        self.0.die();
    }
}

async fn send(shared: &Arc<Shared>, endpoints: &Endpoints) {
    let mut attempts = Attempts::new(endpoints, Repeat::Recognised);
    while shared.work().await {
        let Ok(target) = endpoints.toward_leader() else { return };
        let (failure, answered) = converse(shared, endpoints, &target).await;
        if answered {
            attempts.refresh();
        }
        let Some(failure) = failure else { continue };
        tracing::debug!(endpoint = %target.address, reason = failure.rejection.reason.as_str(),
            "publish stream broke: {}", failure.rejection.message);
        shared.lock().failed(failure.rejection.clone());
        // A refusal of the stream itself is of no single call: all go on at another node.
        let failure = match failure.verdict {
            Verdict::Final => Failure { verdict: Verdict::PassOver, ..failure },
            _ => failure,
        };
        let _ = attempts.next(&target, &failure);
        tokio::time::sleep(attempts.delay()).await;
    }
}

/// One stream, until it breaks: why, and whether anything was answered on it.
async fn converse(
    shared: &Arc<Shared>,
    endpoints: &Endpoints,
    target: &Target,
) -> (Option<Failure>, bool) {
    let mut client = tonic::client::Grpc::new(target.channel.clone());
    if let Err(error) = client.ready().await {
        let status = tonic::Status::from_error(error.into());
        return (Some(Failure::of_status(&status, target)), false);
    }
    let path = PathAndQuery::from_static("/messagehub.v1.Events/PublishStream");
    let mut request = Request::new(CallStream::open(shared.clone()));
    endpoints.declare_service(&mut request);
    let opened = tokio::select! {
        opened = client.streaming(request, path, CallCodec) => opened,
        why = shared.interrupted() => return (interrupted(why, endpoints, target), false),
    };
    let mut answers = match opened {
        Ok(response) => response.into_inner(),
        Err(status) => return (Some(Failure::of_status(&status, target)), false),
    };
    let mut answered = false;
    loop {
        let answer = tokio::select! {
            biased;
            answer = answers.message() => answer,
            why = shared.interrupted() => return (interrupted(why, endpoints, target), answered),
        };
        match answer {
            Ok(Some(answer)) => {
                if let Some(failure) = shared.answer(answer) {
                    return (Some(failure), answered);
                }
                if !answered {
                    endpoints.leads(&target.address);
                    answered = true;
                }
            }
            // The node ended the stream: it stops, or was idle.
            Ok(None) if !shared.lock().is_pending() => return (None, answered),
            Ok(None) => {
                let status = tonic::Status::new(Code::Unavailable, "the node ended the stream");
                return (Some(Failure::of_status(&status, target)), answered);
            }
            Err(status) => return (Some(Failure::of_status(&status, target)), answered),
        }
    }
}

/// Why a stream is given up from this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interruption {
    /// Everything is done.
    Drained,
    /// Nothing came back for too long.
    Stalled,
}

fn interrupted(why: Interruption, endpoints: &Endpoints, target: &Target) -> Option<Failure> {
    match why {
        Interruption::Drained => None,
        Interruption::Stalled => Some(Failure::silent(target, endpoints.options().attempt_timeout)),
    }
}

/// Looks after deadlines and silence.
async fn sweep(shared: &Shared, endpoints: &Endpoints) {
    let patience = endpoints.options().attempt_timeout;
    loop {
        shared.anything().await;
        tokio::time::sleep(SWEEP).await;
        let at = Instant::from_std(now());
        let (effects, stalled) = {
            let mut state = shared.lock();
            (state.expire(at), state.is_stalled(at, patience))
        };
        shared.carry_out(effects);
        if stalled {
            shared.interrupt();
        }
    }
}

/// What is answered when the runtime stops.
pub(super) fn stopped() -> Rejection {
    Rejection::new(
        Reason::OutcomeUnknown,
        "the publisher was stopped; what was sent may or may not have been done",
    )
}
