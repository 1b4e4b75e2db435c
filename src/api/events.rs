//! The service `Events`.

use std::sync::Arc;

use futures_util::stream::{BoxStream, StreamExt as _, unfold};
use tonic::{Request, Response, Status, Streaming};

use super::convert::{
    caller_deadline, consistency, invalid, page_size, publish, publish_result, read_plan,
    recorded_event,
};
use super::publish_stream;
use super::quotas::service_of;
use crate::machine::kv::Order;
use crate::model::ids::{KeyVersion, Offset};
use crate::model::name::TopicName;
use crate::model::rejection::{Reason, Rejection};
use crate::node::Node;
use crate::node::follow::{AtEnd, Parts};
use crate::node::query::Which;
use crate::node::validate;
use crate::proto::status::to_status;
use crate::proto::v1::events_server::Events;
use crate::proto::v1::{
    CancelEventRequest, CancelEventResponse, GetEventRequest, PublishAnswer, PublishCall,
    PublishResult, ReadKeyRequest, ReadKeyResponse, ReadRequest, ReadResponse, RecordedEvent,
    cancel_event_request, get_event_request,
};
use crate::runtime::clock;

pub(super) struct EventsService(pub(super) Arc<Node>);

type Answers<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl Events for EventsService {
    type PublishStreamStream = Answers<PublishAnswer>;
    type ReadStream = Answers<ReadResponse>;
    type TailStream = Answers<ReadResponse>;

    async fn publish_stream(
        &self,
        request: Request<Streaming<PublishCall>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let service = service_of(request.metadata()).map_err(|r| to_status(&r))?;
        let answers = publish_stream::serve(Arc::clone(&self.0), service, request.into_inner());
        Ok(Response::new(answers))
    }

    async fn publish(
        &self,
        request: Request<PublishCall>,
    ) -> Result<Response<PublishResult>, Status> {
        let deadline = caller_deadline(request.metadata(), clock::now());
        let outcome = async {
            let service = service_of(request.metadata())?;
            let call = validate::publish(publish(request.into_inner())?, self.0.now())?;
            let work = self.0.publish(&service, call);
            match deadline {
                None => work.await,
                Some(deadline) => tokio::time::timeout_at(deadline.into(), work)
                    .await
                    .unwrap_or_else(|_| Err(out_of_time())),
            }
        };
        outcome
            .await
            .map(|published| Response::new(publish_result(published)))
            .map_err(|r| to_status(&r))
    }

    async fn read(
        &self,
        request: Request<ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        self.begin(request, AtEnd::Stop).await
    }

    async fn tail(
        &self,
        request: Request<ReadRequest>,
    ) -> Result<Response<Self::TailStream>, Status> {
        self.begin(request, AtEnd::Follow).await
    }

    async fn read_key(
        &self,
        request: Request<ReadKeyRequest>,
    ) -> Result<Response<ReadKeyResponse>, Status> {
        self.key(request.into_inner()).await.map(Response::new).map_err(|r| to_status(&r))
    }

    async fn get_event(
        &self,
        request: Request<GetEventRequest>,
    ) -> Result<Response<RecordedEvent>, Status> {
        self.event(request.into_inner()).await.map(Response::new).map_err(|r| to_status(&r))
    }

    async fn cancel_event(
        &self,
        request: Request<CancelEventRequest>,
    ) -> Result<Response<CancelEventResponse>, Status> {
        let CancelEventRequest { topic, which } = request.into_inner();
        let which = match which {
            Some(cancel_event_request::Which::Offset(offset)) => Which::Offset(Offset(offset)),
            Some(cancel_event_request::Which::Id(id)) => Which::Id(id.source, id.id),
            None => return Err(to_status(&invalid("name the event by offset or by id"))),
        };
        let cancelled = self.0.cancel_event(&topic, which).await;
        cancelled.map(|()| Response::new(CancelEventResponse {})).map_err(|r| to_status(&r))
    }
}

fn out_of_time() -> Rejection {
    Rejection::new(
        Reason::OutcomeUnknown,
        "the caller's deadline passed and the outcome is unknown; repeat the call with the same producer sequence",
    )
}

impl EventsService {
    async fn begin(
        &self,
        request: Request<ReadRequest>,
        at_end: AtEnd,
    ) -> Result<Response<Answers<ReadResponse>>, Status> {
        let plan = read_plan(request.into_inner(), at_end).map_err(|r| to_status(&r))?;
        let parts = self.0.stream(plan).await.map_err(|r| to_status(&r))?;
        Ok(Response::new(answers(parts)))
    }

    async fn key(&self, request: ReadKeyRequest) -> Result<ReadKeyResponse, Rejection> {
        let topic = TopicName::parse_readable(&request.topic)?;
        if request.key.is_empty() {
            return Err(invalid("the key is empty; name one"));
        }
        let limit = page_size(request.limit);
        let (order, from) = match (request.backward, request.from_version) {
            (false, from) => (Order::Ascending, from.max(1)),
            (true, 0) => (Order::Descending, u64::MAX - 1),
            (true, from) => (Order::Descending, from.min(u64::MAX - 1)),
        };
        let (events, version) = self
            .0
            .key_events(
                topic.as_str(),
                request.key,
                KeyVersion(from),
                order,
                limit,
                consistency(request.options),
            )
            .await?;
        let last = events.last().map_or(0, |e| e.key_version.get());
        let next_version = match order {
            Order::Ascending if last > 0 && last < version.get() => last + 1,
            Order::Descending if last > 1 => last - 1,
            Order::Ascending | Order::Descending => 0,
        };
        let events = events.into_iter().map(|e| recorded_event(topic.as_str(), e)).collect();
        let applied_position = self.0.applied_position().get();
        Ok(ReadKeyResponse { events, version: version.get(), applied_position, next_version })
    }

    async fn event(&self, request: GetEventRequest) -> Result<RecordedEvent, Rejection> {
        let topic = TopicName::parse_readable(&request.topic)?;
        let which = match request.which {
            Some(get_event_request::Which::Offset(offset)) => Which::Offset(Offset(offset)),
            Some(get_event_request::Which::Id(id)) if id.id.is_empty() => {
                return Err(invalid("the id is empty; name one"));
            }
            Some(get_event_request::Which::Id(id)) => Which::Id(id.source, id.id),
            None => return Err(invalid("neither offset nor id is given; name one")),
        };
        let found = self.0.event(topic.as_str(), which, consistency(request.options)).await?;
        Ok(recorded_event(topic.as_str(), found))
    }
}

fn answers(parts: Parts) -> Answers<ReadResponse> {
    unfold(parts, async |mut parts| {
        let part = parts.recv().await?;
        let answer = part.map_err(|r| to_status(&r)).map(|part| ReadResponse {
            batches: part.batches,
            applied_position: part.applied.get(),
            next: part.next,
            at_end: part.at_end,
        });
        Some((answer, parts))
    })
    .boxed()
}
