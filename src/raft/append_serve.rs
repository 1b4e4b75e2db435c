//! The server side of the append stream.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult};
use tonic::{Status, Streaming};

use super::codec;
use super::handle::Core;
use super::peer_server::stopping;
use super::types::TypeConfig;
use crate::proto::peer;
use crate::proto::peer::append_response::Result as Answer;

/// Why the stream of requests ended early.
type Refusal = Arc<Mutex<Option<Status>>>;

/// Answers each append in order; ends after the first refusal.
pub(super) fn serve(
    core: Arc<Core>,
    inbound: Streaming<peer::AppendRequest>,
) -> BoxStream<'static, Result<peer::AppendResponse, Status>> {
    let refusal = Refusal::default();
    let requests = requests(Arc::clone(&core), inbound, Arc::clone(&refusal));
    let answers = core.raft.stream_append(requests).map(move |answer| match answer {
        Ok(answer) => {
            if answer.is_ok() {
                core.contact.touch();
            }
            Ok(response(answer))
        }
        Err(_fatal) => Err(stopping()),
    });
    let refused = stream::once(async move {
        refusal.lock().unwrap_or_else(PoisonError::into_inner).take().map(Err)
    });
    Box::pin(answers.chain(refused.filter_map(std::future::ready)))
}

fn requests(
    core: Arc<Core>,
    inbound: Streaming<peer::AppendRequest>,
    refusal: Refusal,
) -> impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + 'static {
    let state = Some((core, inbound, refusal, Place::First));
    stream::unfold(state, |state| async move {
        let (core, mut inbound, refusal, place) = state?;
        // A broken connection ends the stream; there is nobody left to tell.
        let message = inbound.message().await.ok()??;
        match accept(&core, message, place) {
            Ok(request) => Some((request, Some((core, inbound, refusal, Place::Later)))),
            Err(status) => {
                *refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
                None
            }
        }
    })
}

/// Where in its stream a message is.
enum Place {
    First,
    Later,
}

fn accept(
    core: &Core,
    message: peer::AppendRequest,
    place: Place,
) -> Result<AppendEntriesRequest<TypeConfig>, Status> {
    match place {
        Place::First => core.check(message.envelope.as_ref())?,
        Place::Later => {}
    }
    decode(message)
}

/// The request in a message.
pub(super) fn decode(
    message: peer::AppendRequest,
) -> Result<AppendEntriesRequest<TypeConfig>, Status> {
    let malformed = |what: &dyn std::fmt::Display| {
        Status::invalid_argument(format!("malformed append: {what}"))
    };
    let request = codec::append_from_proto(message).map_err(|what| malformed(&what))?;
    if !is_consecutive(&request) {
        return Err(malformed(&"the entries do not follow each other"));
    }
    Ok(request)
}

/// Whether each entry follows the one before, by index and by leader. Consensus relies on it.
fn is_consecutive(request: &AppendEntriesRequest<TypeConfig>) -> bool {
    let mut before = request.prev_log_id;
    request.entries.iter().all(|entry| {
        let follows = entry.log_id.index == before.map_or(0, |log_id| log_id.index + 1)
            && Some(entry.log_id) > before;
        before = Some(entry.log_id);
        follows
    })
}

fn response(answer: StreamAppendResult<TypeConfig>) -> peer::AppendResponse {
    let result = match answer {
        Ok(matched) => {
            Answer::Matched(peer::Matched { log_id: matched.as_ref().map(codec::log_id_to_proto) })
        }
        Err(StreamAppendError::Conflict(log_id)) => {
            Answer::Conflict(codec::log_id_to_proto(&log_id))
        }
        Err(StreamAppendError::HigherVote(vote)) => Answer::HigherVote(codec::vote_to_proto(&vote)),
    };
    peer::AppendResponse { result: Some(result) }
}
