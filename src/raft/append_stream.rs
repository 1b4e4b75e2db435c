//! The client side of the append stream: many appends on their way at once, few enough to bound
//! the memory of a slow follower, and a deadline for each answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::base::BoxStream;
use openraft::errors::{RPCError, Timeout};
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult};
use tokio::sync::Semaphore;
use tonic::Streaming;

use super::codec;
use super::network::{malformed, rpc_error};
use super::types::TypeConfig;
use crate::model::limits::PEER_APPENDS_IN_FLIGHT_MAX;
use crate::proto::peer;
use crate::proto::peer::append_response::Result as Answer;

/// How long the news that an entry is decided waits for further entries to travel with.
const COMMIT_HOLD: Duration = Duration::from_millis(1);

/// What is on its way.
pub(super) struct Window {
    free: Semaphore,
    sent: AtomicU64,
}

/// The appends as they go over the wire. The first carries the envelope.
pub(super) fn requests<S>(
    input: S,
    envelope: Option<peer::Envelope>,
) -> (impl Stream<Item = peer::AppendRequest> + Send + 'static, Arc<Window>)
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
{
    let free = Semaphore::new(PEER_APPENDS_IN_FLIGHT_MAX);
    let window = Arc::new(Window { free, sent: AtomicU64::new(0) });
    let state = (input.fuse(), envelope, Arc::clone(&window));
    let stream = futures_util::stream::unfold(state, async |(mut input, mut envelope, window)| {
        // A place first, then the request: what is asked for late carries more entries.
        window.free.acquire().await.ok()?.forget();
        let mut request = input.next().await?;
        if envelope.is_none() && request.entries.is_empty() {
            request = entries_instead(request, &mut input).await;
        }
        window.sent.fetch_add(1, Ordering::Relaxed);
        let message = codec::append_to_proto(request, envelope.take());
        Some((message, (input, envelope, window)))
    });
    (stream, window)
}

/// Holds back a request without entries, which only says how far the log is decided: the next one
/// says that too. With callers that wait for each answer, this halves what peers exchange.
async fn entries_instead<S>(
    commit: AppendEntriesRequest<TypeConfig>,
    input: &mut S,
) -> AppendEntriesRequest<TypeConfig>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
{
    match tokio::time::timeout(COMMIT_HOLD, input.next()).await {
        Ok(Some(next)) => next,
        // An input that has ended says so again at the next request.
        Ok(None) | Err(_) => commit,
    }
}

/// The answers, in the order of the requests. A refusal ends the stream, and so does a request
/// that waited for its answer for too long.
pub(super) fn answers<'s>(
    inbound: Streaming<peer::AppendResponse>,
    window: Arc<Window>,
    on_stall: Timeout<TypeConfig>,
) -> BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>> {
    let state = Some(Answers { inbound, window, on_stall, answered: 0 });
    Box::pin(futures_util::stream::unfold(state, async |state| {
        let mut state = state?;
        match state.next().await {
            Ok(Some(answer)) => {
                let go_on = answer.is_ok().then_some(state);
                Some((Ok(answer), go_on))
            }
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    }))
}

struct Answers {
    inbound: Streaming<peer::AppendResponse>,
    window: Arc<Window>,
    on_stall: Timeout<TypeConfig>,
    answered: u64,
}

impl Answers {
    async fn next(
        &mut self,
    ) -> Result<Option<StreamAppendResult<TypeConfig>>, RPCError<TypeConfig>> {
        let mut sent_before = None;
        let message = loop {
            match tokio::time::timeout(self.on_stall.timeout, self.inbound.message()).await {
                Ok(message) => break message.map_err(|status| rpc_error(&status))?,
                // What was sent before the previous look has had a whole period by now.
                Err(_) if sent_before.is_some_and(|sent| sent > self.answered) => {
                    return Err(self.on_stall.clone().into());
                }
                Err(_) => sent_before = Some(self.window.sent.load(Ordering::Relaxed)),
            }
        };
        let Some(message) = message else { return Ok(None) };
        self.answered += 1;
        self.window.free.add_permits(1);
        Ok(Some(decode(message)?))
    }
}

pub(super) fn decode(
    message: peer::AppendResponse,
) -> Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>> {
    match message.result {
        Some(Answer::Matched(matched)) => {
            Ok(Ok(matched.log_id.as_ref().map(codec::log_id_from_proto)))
        }
        Some(Answer::Conflict(log_id)) => {
            Ok(Err(StreamAppendError::Conflict(codec::log_id_from_proto(&log_id))))
        }
        Some(Answer::HigherVote(vote)) => {
            Ok(Err(StreamAppendError::HigherVote(codec::vote_from_proto(&vote))))
        }
        None => Err(malformed("append response without a result")),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;
    use crate::raft::types::{Entry, Vote};

    /// Far more than a commit is held back.
    const PATIENCE: Duration = Duration::from_secs(5);

    fn request(committed: u64, entries: u64) -> AppendEntriesRequest<TypeConfig> {
        let log_id = |index| codec::log_id_from_proto(&peer::LogId { term: 1, node_id: 1, index });
        let entry =
            |n| Entry { log_id: log_id(committed + n), payload: openraft::EntryPayload::Blank };
        AppendEntriesRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: Some(log_id(committed)),
            leader_commit: Some(log_id(committed)),
            entries: (1..=entries).map(entry).collect(),
        }
    }

    /// What goes over the wire: committed index and number of entries.
    async fn sent(
        requests: Vec<AppendEntriesRequest<TypeConfig>>,
        count: usize,
    ) -> Vec<(u64, usize)> {
        // An input that stays open, as that of a leader with nothing to say.
        let input = stream::iter(requests).chain(stream::pending());
        let (messages, _window) = super::requests(Box::pin(input), Some(peer::Envelope::default()));
        let told = messages.map(|m| (m.committed.map_or(0, |id| id.index), m.entries.len()));
        tokio::time::timeout(PATIENCE, told.take(count).collect()).await.unwrap()
    }

    #[tokio::test]
    async fn a_commit_without_entries_after_it_is_told_soon() {
        assert_eq!(sent(vec![request(1, 1), request(2, 0)], 2).await, [(1, 1), (2, 0)]);
    }

    #[tokio::test]
    async fn a_commit_travels_with_the_entries_after_it() {
        let requests = vec![request(1, 1), request(2, 0), request(2, 3), request(5, 0)];
        assert_eq!(sent(requests, 3).await, [(1, 1), (2, 3), (5, 0)]);
    }

    #[tokio::test]
    async fn the_first_request_is_not_held_back_and_the_last_is_not_lost() {
        let input = Box::pin(stream::iter(vec![request(1, 0), request(2, 0)]));
        let (messages, _window) = super::requests(input, Some(peer::Envelope::default()));
        let told: Vec<_> = messages.map(|m| m.committed.map_or(0, |id| id.index)).collect().await;
        assert_eq!(told, [1, 2]);
    }
}
