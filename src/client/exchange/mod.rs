//! Transactions: one stream to the leader, shared by all callers of a client.
//!
//! Each attempt of a call hands its request to the stream and waits for the answer with its number. The stream is opened
//! when it is first needed, and anew when it broke or another node leads. It ends when nobody used it for a while, and
//! with the last clone of the client. What has no answer by then failed like a call whose connection broke: the
//! loop of attempts repeats it with the same request id. A node that does not know the stream gets unary calls.

mod stream;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::Message as _;

use self::stream::{Reply, SharedStream, Waiting};
use super::Client;
use super::admin::timed;
use super::endpoints::{Address, Endpoints, Target};
use super::retry::{Failure, Repeat, Verdict};
use crate::model::limits::MESSAGE_BYTES_MAX;
use crate::model::rejection::Rejection;
use crate::proto::v1::transactions_client::TransactionsClient;
use crate::proto::v1::{TransactRequest, TransactResponse};

/// A stream that nobody used for so long ends, at the latest after twice that.
const IDLE: Duration = Duration::from_secs(30);
/// What a call on the stream has beside its request, at most.
const CALL_BYTES: usize = 32;

impl Client {
    /// Appends and settles, all of it or nothing. Concurrent transactions share a stream; each is decided by itself.
    /// A request id is added when there is none, so that it is safe to repeat. Its events count for the quotas of the
    /// client's service.
    ///
    /// # Errors
    /// What the hub refuses, and `OUTCOME_UNKNOWN` when nobody answered in time.
    pub async fn transact(
        &self,
        mut request: TransactRequest,
    ) -> Result<TransactResponse, Rejection> {
        if request.request_id.is_empty() {
            request.request_id = uuid::Uuid::new_v4().to_string();
        }
        let request = Arc::new(request);
        self.endpoints
            .call_at(Repeat::Recognised, async |target, within| {
                self.exchange.transact(&self.endpoints, &target, &request, within).await
            })
            .await
    }
}

/// How the transactions of a client reach the leader.
#[derive(Debug)]
pub(super) struct Exchange {
    way: Mutex<Way>,
    idle: Duration,
}

#[derive(Debug)]
enum Way {
    /// None was needed yet.
    Closed,
    Stream(Arc<SharedStream>),
    /// The node at this address does not know the stream.
    Unary(Address),
}

impl Default for Exchange {
    fn default() -> Self {
        Self::new(IDLE)
    }
}

impl Exchange {
    fn new(idle: Duration) -> Self {
        Self { way: Mutex::new(Way::Closed), idle }
    }

    /// One attempt.
    async fn transact(
        &self,
        endpoints: &Endpoints,
        target: &Target,
        request: &Arc<TransactRequest>,
        within: Duration,
    ) -> Result<TransactResponse, Failure> {
        // A message over the bound breaks the stream that it comes by, and its neighbours with it.
        let fits = request.encoded_len() <= MESSAGE_BYTES_MAX - CALL_BYTES;
        if fits && let Some(waiting) = self.streamed(endpoints, target) {
            match waiting.reply(request).await {
                Reply::Done(done) => return Ok(done),
                Reply::Failed(failure) => return Err(failure),
                Reply::Unimplemented => *self.lock() = Way::Unary(target.address.clone()),
            }
        }
        let done = unary(endpoints, target, request, within).await;
        if done.as_ref().is_err_and(|failure| failure.verdict != Verdict::Final) {
            // The node may be another one when it is back.
            self.forget_unary(&target.address);
        }
        done
    }

    /// A place on the stream to this node; `None` where it knows no such stream.
    fn streamed(&self, endpoints: &Endpoints, target: &Target) -> Option<Waiting> {
        let mut way = self.lock();
        match &*way {
            Way::Stream(stream) if stream.address == target.address => {
                if let Some(waiting) = SharedStream::join(stream) {
                    return Some(waiting);
                }
            }
            Way::Unary(address) if *address == target.address => return None,
            Way::Stream(_) | Way::Unary(_) | Way::Closed => {}
        }
        let (stream, waiting) = SharedStream::open(endpoints, target, self.idle);
        *way = Way::Stream(stream);
        Some(waiting)
    }

    fn forget_unary(&self, address: &Address) {
        let mut way = self.lock();
        if matches!(&*way, Way::Unary(known) if known == address) {
            *way = Way::Closed;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Way> {
        self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn unary(
    endpoints: &Endpoints,
    target: &Target,
    request: &TransactRequest,
    within: Duration,
) -> Result<TransactResponse, Failure> {
    let mut request = timed(request.clone(), within);
    endpoints.declare_service(&mut request);
    let answer = TransactionsClient::new(target.channel.clone()).transact(request).await;
    answer.map(tonic::Response::into_inner).map_err(|status| Failure::of_status(&status, target))
}
