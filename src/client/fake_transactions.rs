//! The transactions of a node that is made of nothing but its port: tests take the calls and give the answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::stream::BoxStream;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use super::spawn::spawn;
use crate::model::rejection::Rejection;
use crate::proto::status::to_call_error;
use crate::proto::v1::transact_answer::Answer;
use crate::proto::v1::transactions_server::{Transactions, TransactionsServer};
use crate::proto::v1::{
    AbortTransactionRequest, BeginTransactionRequest, CommitTransactionRequest,
    GetTransactionRequest, ListTransactionsRequest, ListTransactionsResponse, PublishResult,
    StageTransactionRequest, TransactAnswer, TransactCall, TransactRequest, TransactResponse,
    Transaction,
};

/// A stream of transactions, as the node sees it. Dropping it ends the node's side.
pub(super) struct TransactStream {
    calls: Streaming<TransactCall>,
    answers: mpsc::Sender<Result<TransactAnswer, Status>>,
    /// The service that it declares.
    pub(super) service: Option<String>,
}

impl TransactStream {
    /// The next call: its number, and its request.
    pub(super) async fn call(&mut self) -> (u64, TransactRequest) {
        let call = self.calls.message().await.unwrap().unwrap();
        (call.call, call.request.unwrap())
    }

    /// Whether the client has ended its side.
    pub(super) async fn is_over(&mut self) -> bool {
        !matches!(self.calls.message().await, Ok(Some(_)))
    }

    pub(super) async fn accept(&self, call: u64, first_offset: u64) {
        self.answer(call, Answer::Result(done(first_offset))).await;
    }

    pub(super) async fn refuse(&self, call: u64, rejection: &Rejection) {
        self.answer(call, Answer::Error(to_call_error(rejection))).await;
    }

    pub(super) async fn fail(&self, status: Status) {
        self.answers.send(Err(status)).await.unwrap();
    }

    async fn answer(&self, call: u64, answer: Answer) {
        let answer = TransactAnswer { call, answer: Some(answer) };
        self.answers.send(Ok(answer)).await.unwrap();
    }
}

fn done(first_offset: u64) -> TransactResponse {
    let result = PublishResult { first_offset, count: 1, ..PublishResult::default() };
    TransactResponse { parts: vec![result] }
}

pub(super) struct FakeTransactions {
    pub(super) endpoint: String,
    /// Whether it is so old that it does not know the stream.
    pub(super) is_old: Arc<AtomicBool>,
    streams: mpsc::Receiver<TransactStream>,
    unary: mpsc::Receiver<TransactRequest>,
}

impl FakeTransactions {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let (stream, streams) = mpsc::channel(16);
        let (single, unary) = mpsc::channel(16);
        let is_old = Arc::new(AtomicBool::new(false));
        let node = Node { stream, single, is_old: Arc::clone(&is_old) };
        let server = tonic::transport::Server::builder()
            .add_service(TransactionsServer::new(node).max_decoding_message_size(8 << 20))
            .serve_with_incoming(TcpListenerStream::new(listener));
        spawn(async move { drop(server.await) });
        Self { endpoint, is_old, streams, unary }
    }

    /// The next stream that is opened.
    pub(super) async fn stream(&mut self) -> TransactStream {
        self.streams.recv().await.unwrap()
    }

    pub(super) fn has_another_stream(&mut self) -> bool {
        self.streams.try_recv().is_ok()
    }

    /// What was asked by the next unary call, which is accepted.
    pub(super) async fn unary(&mut self) -> TransactRequest {
        self.unary.recv().await.unwrap()
    }
}

struct Node {
    stream: mpsc::Sender<TransactStream>,
    single: mpsc::Sender<TransactRequest>,
    is_old: Arc<AtomicBool>,
}

fn unasked<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not asked for in these tests"))
}

#[tonic::async_trait]
impl Transactions for Node {
    type TransactStreamStream = BoxStream<'static, Result<TransactAnswer, Status>>;

    async fn transact_stream(
        &self,
        request: Request<Streaming<TransactCall>>,
    ) -> Result<Response<Self::TransactStreamStream>, Status> {
        if self.is_old.load(Ordering::Relaxed) {
            return unasked();
        }
        let (answers, stream) = mpsc::channel(256);
        let service = request.metadata().get(crate::proto::SERVICE_METADATA);
        let service = service.map(|name| name.to_str().unwrap().to_owned());
        let calls = request.into_inner();
        drop(self.stream.send(TransactStream { calls, answers, service }).await);
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn transact(
        &self,
        request: Request<TransactRequest>,
    ) -> Result<Response<TransactResponse>, Status> {
        drop(self.single.send(request.into_inner()).await);
        Ok(Response::new(done(7)))
    }

    async fn begin_transaction(
        &self,
        _: Request<BeginTransactionRequest>,
    ) -> Result<Response<Transaction>, Status> {
        unasked()
    }

    async fn stage_transaction(
        &self,
        _: Request<StageTransactionRequest>,
    ) -> Result<Response<Transaction>, Status> {
        unasked()
    }

    async fn commit_transaction(
        &self,
        _: Request<CommitTransactionRequest>,
    ) -> Result<Response<Transaction>, Status> {
        unasked()
    }

    async fn abort_transaction(
        &self,
        _: Request<AbortTransactionRequest>,
    ) -> Result<Response<Transaction>, Status> {
        unasked()
    }

    async fn get_transaction(
        &self,
        _: Request<GetTransactionRequest>,
    ) -> Result<Response<Transaction>, Status> {
        unasked()
    }

    async fn list_transactions(
        &self,
        _: Request<ListTransactionsRequest>,
    ) -> Result<Response<ListTransactionsResponse>, Status> {
        unasked()
    }
}
