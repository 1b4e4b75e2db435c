//! One stream of transactions to one node, and who waits for its answers.
//!
//! Whoever waits holds the stream; the task that takes the answers in holds only the list of those who wait. So a stream
//! ends with the last who holds it, and whoever waits when the task ends, however it ends, gets a failure.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use prost::encoding::{message, uint64};
use tokio::sync::{mpsc, oneshot};
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::client::endpoints::{Address, Endpoints, Target};
use crate::client::retry::{Failure, Verdict};
use crate::client::spawn::spawn;
use crate::model::limits::TRANSACTIONS_QUEUED;
use crate::model::rejection::{Reason, Rejection};
use crate::proto::status::from_call_error;
use crate::proto::v1::transact_answer::Answer;
use crate::proto::v1::{TransactAnswer, TransactCall, TransactRequest, TransactResponse};

/// What came of a call.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    Done(TransactResponse),
    Failed(Failure),
    /// The node does not know the stream.
    Unimplemented,
}

impl Reply {
    fn of_answer(answer: Option<Answer>) -> Self {
        let rejection = match answer {
            Some(Answer::Result(done)) => return Self::Done(done),
            Some(Answer::Error(error)) => from_call_error(error),
            None => Rejection::new(
                Reason::Internal,
                "the node sent an answer without content; check the versions of node and client",
            ),
        };
        Self::Failed(Failure::of_rejection(rejection))
    }

    /// The stream could not be opened.
    fn unopened(status: &Status, target: &Target) -> Self {
        match status.code() {
            Code::Unimplemented => Self::Unimplemented,
            _ => Self::Failed(Failure::of_status(status, target)),
        }
    }

    /// The stream broke, or was ended by the node: whatever it says of that is of no single call, and it is open what
    /// became of each.
    fn broken(status: &Status, target: &Target) -> Self {
        let failure = Failure::of_status(status, target);
        Self::Failed(Failure { verdict: Verdict::PassOver, unknown: true, ..failure })
    }

    fn ended(target: &Target) -> Self {
        Self::broken(&Status::unavailable("the stream of transactions ended"), target)
    }
}

/// A stream to one node.
#[derive(Debug)]
pub(super) struct SharedStream {
    pub(super) address: Address,
    waiters: Arc<Waiters>,
    /// Dropped with the last who holds the stream.
    _held: oneshot::Sender<Infallible>,
}

impl SharedStream {
    /// Opens a stream, with a first place on it. It ends when nobody used it for some time.
    pub(super) fn open(
        endpoints: &Endpoints,
        target: &Target,
        idle: Duration,
    ) -> (Arc<Self>, Waiting) {
        let (calls, queue) = mpsc::channel(TRANSACTIONS_QUEUED);
        let (held, released) = oneshot::channel();
        let state = State { calls: Some(calls.clone()), last: 0, waiting: HashMap::new() };
        let waiters = Arc::new(Waiters(Mutex::new(state)));
        let (number, reply) = waiters.lock().enter();
        let mut request = Request::new(CallStream { queue, waiters: Arc::clone(&waiters) });
        endpoints.declare_service(&mut request);
        let lifetime = Lifetime { idle, released };
        spawn(run(target.clone(), request, Arc::clone(&waiters), lifetime));
        let address = target.address.clone();
        let stream = Arc::new(Self { address, waiters, _held: held });
        let waiting = Waiting { stream: Arc::clone(&stream), calls, number, reply };
        (stream, waiting)
    }

    /// A place on the stream, unless that has ended.
    pub(super) fn join(stream: &Arc<Self>) -> Option<Waiting> {
        let mut state = stream.waiters.lock();
        let calls = state.calls.clone()?;
        let (number, reply) = state.enter();
        Some(Waiting { stream: Arc::clone(stream), calls, number, reply })
    }
}

/// A place on a stream. Giving it up leaves all others as they are.
#[derive(Debug)]
pub(super) struct Waiting {
    stream: Arc<SharedStream>,
    calls: mpsc::Sender<Call>,
    number: u64,
    reply: oneshot::Receiver<Reply>,
}

impl Waiting {
    /// Sends the call, and waits for what comes of it.
    pub(super) async fn reply(mut self, request: &Arc<TransactRequest>) -> Reply {
        let call = Call { number: self.number, request: Arc::clone(request) };
        // Where the stream takes no call any more, the reply says why.
        drop(self.calls.send(call).await);
        (&mut self.reply).await.unwrap_or_else(|_| {
            Reply::Failed(Failure::of_rejection(Rejection::new(
                Reason::OutcomeUnknown,
                "the stream of transactions ended; repeat it with the same request id",
            )))
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.stream.waiters.lock().waiting.remove(&self.number);
    }
}

/// Who waits for answers of a stream, by the number of the call.
#[derive(Debug)]
struct Waiters(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Where calls are sent; `None`: the stream has ended, and nobody may join any more. The node sees its end once
    /// nobody has this.
    calls: Option<mpsc::Sender<Call>>,
    /// The number of the last call.
    last: u64,
    waiting: HashMap<u64, oneshot::Sender<Reply>>,
}

impl State {
    fn enter(&mut self) -> (u64, oneshot::Receiver<Reply>) {
        let (sender, reply) = oneshot::channel();
        self.last += 1;
        self.waiting.insert(self.last, sender);
        (self.last, reply)
    }
}

impl Waiters {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, TransactAnswer { call, answer }: TransactAnswer) {
        // Whoever gave up has left.
        let waiting = self.lock().waiting.remove(&call);
        if let Some(waiting) = waiting {
            drop(waiting.send(Reply::of_answer(answer)));
        }
    }

    /// Nobody joins any more, and who waits gets this.
    fn close(&self, reply: &Reply) {
        let waiting = {
            let mut state = self.lock();
            state.calls = None;
            std::mem::take(&mut state.waiting)
        };
        for waiting in waiting.into_values() {
            drop(waiting.send(reply.clone()));
        }
    }

    /// Waits until the stream was of no use for so long, and closes it.
    async fn closed_unused(&self, idle: Duration) {
        let mut last = 0;
        loop {
            tokio::time::sleep(idle).await;
            let mut state = self.lock();
            if state.waiting.is_empty() && state.last == last {
                state.calls = None;
                return;
            }
            last = state.last;
        }
    }
}

/// When a stream ends by itself.
struct Lifetime {
    idle: Duration,
    /// Ends when nobody holds the stream any more.
    released: oneshot::Receiver<Infallible>,
}

/// Nobody waits for ever, also when the runtime stops under the task.
struct LastWords<'a>(&'a Waiters, &'a Target);

impl Drop for LastWords<'_> {
    fn drop(&mut self) {
        self.0.close(&Reply::ended(self.1));
    }
}

async fn run(
    target: Target,
    request: Request<CallStream>,
    waiters: Arc<Waiters>,
    lifetime: Lifetime,
) {
    let _last_words = LastWords(&waiters, &target);
    let end = tokio::select! {
        biased;
        end = converse(&target, request, &waiters) => end,
        () = waiters.closed_unused(lifetime.idle) => return,
        _ = lifetime.released => return,
    };
    tracing::debug!(endpoint = %target.address, ?end, "stream of transactions ended");
    waiters.close(&end);
}

/// Opens the stream, and hands out its answers until it ends: what that means for who still waits.
async fn converse(target: &Target, request: Request<CallStream>, waiters: &Waiters) -> Reply {
    let mut client = tonic::client::Grpc::new(target.channel.clone());
    if let Err(error) = client.ready().await {
        return Reply::unopened(&Status::from_error(error.into()), target);
    }
    let path = PathAndQuery::from_static("/messagehub.v1.Transactions/TransactStream");
    let mut answers = match client.streaming(request, path, CallCodec).await {
        Ok(response) => response.into_inner(),
        Err(status) => return Reply::unopened(&status, target),
    };
    loop {
        match answers.message().await {
            Ok(Some(answer)) => waiters.answer(answer),
            Ok(None) => return Reply::ended(target),
            Err(status) => return Reply::broken(&status, target),
        }
    }
}

/// A call as it is sent. Its request stays with the caller, who may have to repeat it.
#[derive(Debug)]
struct Call {
    number: u64,
    request: Arc<TransactRequest>,
}

/// The calls of one stream, except those whose callers gave up before there was room.
struct CallStream {
    queue: mpsc::Receiver<Call>,
    waiters: Arc<Waiters>,
}

impl Stream for CallStream {
    type Item = Call;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Call>> {
        loop {
            match ready!(self.queue.poll_recv(cx)) {
                Some(call) if !self.waiters.lock().waiting.contains_key(&call.number) => {}
                next => return Poll::Ready(next),
            }
        }
    }
}

/// Encodes calls whose requests are shared.
struct CallCodec;

impl Codec for CallCodec {
    type Encode = Call;
    type Decode = TransactAnswer;
    type Encoder = CallEncoder;
    type Decoder = <ProstCodec<TransactCall, TransactAnswer> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        CallEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<TransactCall, TransactAnswer>::raw_decoder(BufferSettings::default())
    }
}

struct CallEncoder;

impl Encoder for CallEncoder {
    type Item = Call;
    type Error = Status;

    /// As [`TransactCall`] is encoded.
    fn encode(&mut self, call: Call, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        uint64::encode(1, &call.number, dst);
        message::encode(2, &*call.request, dst);
        Ok(())
    }
}
