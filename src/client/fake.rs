//! A node made of nothing but its port: tests take the calls and give the answers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream::BoxStream;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use super::spawn::spawn;
use super::{Client, ClientOptions};
use crate::model::rejection::Rejection;
use crate::proto::status::{to_call_error, to_status};
use crate::proto::v1::events_server::{Events, EventsServer};
use crate::proto::v1::publish_answer::Answer;
use crate::proto::v1::topics_server::{Topics, TopicsServer};
use crate::proto::v1::{
    CancelEventRequest, CancelEventResponse, CreateTopicRequest, DeleteTopicRequest,
    DeleteTopicResponse, GetEventRequest, GetTopicRequest, ListTopicsRequest, ListTopicsResponse,
    PublishAnswer, PublishCall, PublishResult, ReadKeyRequest, ReadKeyResponse, ReadRequest,
    ReadResponse, RecordedEvent, Topic, UpdateTopicRequest,
};

type Answers<T> = mpsc::Sender<Result<T, Status>>;

/// A publish stream, as the node sees it.
pub(super) struct PublishStream {
    calls: Streaming<PublishCall>,
    answers: Answers<PublishAnswer>,
}

impl PublishStream {
    pub(super) async fn call(&mut self) -> PublishCall {
        self.calls.message().await.unwrap().unwrap()
    }

    /// Whether the client has ended its side.
    pub(super) async fn is_over(&mut self) -> bool {
        !matches!(self.calls.message().await, Ok(Some(_)))
    }

    pub(super) async fn accept(&self, call: &PublishCall, first_offset: u64) {
        let count = u32::try_from(call.events.len()).unwrap();
        let first_position = first_offset + 1000;
        let result = PublishResult { first_offset, first_position, count, ..Default::default() };
        self.answer(call, Answer::Result(result)).await;
    }

    pub(super) async fn refuse(&self, call: &PublishCall, rejection: &Rejection) {
        self.answer(call, Answer::Error(to_call_error(rejection))).await;
    }

    async fn answer(&self, call: &PublishCall, answer: Answer) {
        let answer = PublishAnswer { call: call.call, answer: Some(answer) };
        self.answers.send(Ok(answer)).await.unwrap();
    }
}

/// A read or tail, as the node sees it.
pub(super) struct ReadingStream {
    pub(super) request: ReadRequest,
    pub(super) is_tail: bool,
    answers: Answers<ReadResponse>,
}

impl ReadingStream {
    pub(super) async fn answer(&self, response: ReadResponse) {
        assert!(self.offer(response).await, "nobody reads any more");
    }

    /// Whether somebody still reads.
    pub(super) async fn offer(&self, response: ReadResponse) -> bool {
        self.answers.send(Ok(response)).await.is_ok()
    }

    pub(super) async fn refuse(&self, rejection: &Rejection) {
        self.answers.send(Err(to_status(rejection))).await.unwrap();
    }
}

pub(super) struct Fake {
    pub(super) endpoint: String,
    /// What whoever asks for a topic is told.
    pub(super) topic: Arc<Mutex<Topic>>,
    publishing: mpsc::Receiver<PublishStream>,
    reading: mpsc::Receiver<ReadingStream>,
    events: mpsc::Receiver<GetEventRequest>,
    answer: mpsc::Sender<Result<RecordedEvent, Status>>,
}

impl Fake {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let (publish, publishing) = mpsc::channel(16);
        let (read, reading) = mpsc::channel(16);
        let (event, events) = mpsc::channel(16);
        let (answer, answers) = mpsc::channel(16);
        let service = Service { publish, read, event, answers: tokio::sync::Mutex::new(answers) };
        let topic = Arc::new(Mutex::new(Topic::default()));
        let server = tonic::transport::Server::builder()
            .add_service(EventsServer::new(service))
            .add_service(TopicsServer::new(Named(Arc::clone(&topic))))
            .serve_with_incoming(TcpListenerStream::new(listener));
        spawn(async move { drop(server.await) });
        Self { endpoint, topic, publishing, reading, events, answer }
    }

    pub(super) async fn publish_stream(&mut self) -> PublishStream {
        self.publishing.recv().await.unwrap()
    }

    pub(super) async fn reading(&mut self) -> ReadingStream {
        self.reading.recv().await.unwrap()
    }

    /// Gives these answers to the next point reads.
    pub(super) async fn answer_event(&self, answer: Result<RecordedEvent, Rejection>) {
        self.answer.send(answer.map_err(|r| to_status(&r))).await.unwrap();
    }

    pub(super) fn events_asked(&mut self) -> usize {
        std::iter::from_fn(|| self.events.try_recv().ok()).count()
    }
}

/// An endpoint where nothing listens.
pub(super) fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

pub(super) fn client(endpoints: &[&str], timeout_ms: u64) -> Client {
    let options = ClientOptions {
        timeout: Duration::from_millis(timeout_ms),
        joined_calls_max: 1,
        ..ClientOptions::default()
    };
    Client::with_options(endpoints.iter().copied(), options).unwrap()
}

struct Service {
    publish: mpsc::Sender<PublishStream>,
    read: mpsc::Sender<ReadingStream>,
    event: mpsc::Sender<GetEventRequest>,
    answers: tokio::sync::Mutex<mpsc::Receiver<Result<RecordedEvent, Status>>>,
}

impl Service {
    async fn stream(
        &self,
        request: ReadRequest,
        is_tail: bool,
    ) -> BoxStream<'static, Result<ReadResponse, Status>> {
        let (answers, stream) = mpsc::channel(16);
        drop(self.read.send(ReadingStream { request, is_tail, answers }).await);
        Box::pin(ReceiverStream::new(stream))
    }
}

#[tonic::async_trait]
impl Events for Service {
    type PublishStreamStream = BoxStream<'static, Result<PublishAnswer, Status>>;
    type ReadStream = BoxStream<'static, Result<ReadResponse, Status>>;
    type TailStream = BoxStream<'static, Result<ReadResponse, Status>>;

    async fn publish_stream(
        &self,
        request: Request<Streaming<PublishCall>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let (answers, stream) = mpsc::channel(2048);
        let calls = request.into_inner();
        drop(self.publish.send(PublishStream { calls, answers }).await);
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn publish(&self, _: Request<PublishCall>) -> Result<Response<PublishResult>, Status> {
        Err(Status::unimplemented("the client publishes by stream"))
    }

    async fn read(
        &self,
        request: Request<ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        Ok(Response::new(self.stream(request.into_inner(), false).await))
    }

    async fn tail(
        &self,
        request: Request<ReadRequest>,
    ) -> Result<Response<Self::TailStream>, Status> {
        Ok(Response::new(self.stream(request.into_inner(), true).await))
    }

    async fn read_key(
        &self,
        _: Request<ReadKeyRequest>,
    ) -> Result<Response<ReadKeyResponse>, Status> {
        Err(Status::unimplemented("not asked for in these tests"))
    }

    async fn cancel_event(
        &self,
        _: Request<CancelEventRequest>,
    ) -> Result<Response<CancelEventResponse>, Status> {
        Err(Status::unimplemented("not asked for in these tests"))
    }

    async fn get_event(
        &self,
        request: Request<GetEventRequest>,
    ) -> Result<Response<RecordedEvent>, Status> {
        drop(self.event.send(request.into_inner()).await);
        let answer = self.answers.lock().await.recv().await;
        answer.unwrap_or_else(|| Err(Status::unavailable("the test is over"))).map(Response::new)
    }
}

struct Named(Arc<Mutex<Topic>>);

#[tonic::async_trait]
impl Topics for Named {
    async fn create_topic(
        &self,
        _: Request<CreateTopicRequest>,
    ) -> Result<Response<Topic>, Status> {
        Err(Status::unimplemented("not asked for in these tests"))
    }

    async fn get_topic(&self, _: Request<GetTopicRequest>) -> Result<Response<Topic>, Status> {
        Ok(Response::new(self.0.lock().unwrap().clone()))
    }

    async fn list_topics(
        &self,
        _: Request<ListTopicsRequest>,
    ) -> Result<Response<ListTopicsResponse>, Status> {
        Err(Status::unimplemented("not asked for in these tests"))
    }

    async fn update_topic(
        &self,
        _: Request<UpdateTopicRequest>,
    ) -> Result<Response<Topic>, Status> {
        Err(Status::unimplemented("not asked for in these tests"))
    }

    async fn delete_topic(
        &self,
        _: Request<DeleteTopicRequest>,
    ) -> Result<Response<DeleteTopicResponse>, Status> {
        Err(Status::unimplemented("not asked for in these tests"))
    }
}
