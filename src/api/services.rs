//! The service `Services`.

use std::sync::Arc;

use futures_util::stream::{BoxStream, StreamExt as _, unfold};
use prost::Message as _;
use tonic::{Request, Response, Status, Streaming};

use super::convert::{consistency, page_size};
use super::convert_readiness::readiness;
use super::convert_service as convert;
use crate::model::limits::PAGE_BYTES_TARGET;
use crate::model::outcome::InstanceOutcome;
use crate::model::rejection::Rejection;
use crate::node::Node;
use crate::proto::status::{to_call_error, to_status};
use crate::proto::v1::services_server::Services;
use crate::proto::v1::{
    DeleteServiceRequest, DeleteServiceResponse, DeregisterInstancesRequest,
    GetDependenciesRequest, GetDependenciesResponse, GetReadinessRequest, GetServiceRequest,
    GetServiceResponse, InstancesResponse, ListServicesRequest, ListServicesResponse,
    PutServiceRequest, Readiness, RegisterInstancesRequest, RenewRequest, RenewResponse,
    ReportOutcomesRequest, ReportOutcomesResponse, ResolveAnswer, ResolveRequest, ResolveResponse,
    Service, SetBreakerRequest, SetBreakerResponse, SetInstanceModeRequest, WatchServicesRequest,
    WatchServicesResponse,
};

pub(super) struct ServicesService(pub(super) Arc<Node>);

type Answers<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl Services for ServicesService {
    type RenewStreamStream = Answers<RenewResponse>;
    type ResolveStreamStream = Answers<ResolveAnswer>;
    type WatchServicesStream = Answers<WatchServicesResponse>;

    async fn put_service(
        &self,
        request: Request<PutServiceRequest>,
    ) -> Result<Response<Service>, Status> {
        let PutServiceRequest { name, config, if_revision, request_id } = request.into_inner();
        let config = convert::config(config).map_err(|r| to_status(&r))?;
        let put = self.0.put_service(&name, config, if_revision, request_id).await;
        put.map(|info| Response::new(convert::service(info))).map_err(|r| to_status(&r))
    }

    async fn get_service(
        &self,
        request: Request<GetServiceRequest>,
    ) -> Result<Response<GetServiceResponse>, Status> {
        let GetServiceRequest { name, options, page_size, page_token } = request.into_inner();
        let size = usize::try_from(page_size).ok().filter(|size| *size > 0).unwrap_or(usize::MAX);
        let found = self.0.service(&name, page_token, size, consistency(options)).await;
        found.map(|shown| Response::new(convert::shown(shown))).map_err(|r| to_status(&r))
    }

    async fn list_services(
        &self,
        request: Request<ListServicesRequest>,
    ) -> Result<Response<ListServicesResponse>, Status> {
        let ListServicesRequest { page_size: size, page_token, options } = request.into_inner();
        let size = page_size(size);
        // One more than the page tells whether there is another.
        let found = self.0.services(page_token, size + 1, consistency(options)).await;
        let (found, revision) = found.map_err(|r| to_status(&r))?;
        let all = found.len();
        let (mut bytes, mut page) = (0, ListServicesResponse { revision, ..Default::default() });
        for next in found.into_iter().take(size).map(convert::service) {
            bytes += next.encoded_len();
            if bytes > PAGE_BYTES_TARGET && !page.services.is_empty() {
                break;
            }
            page.services.push(next);
        }
        if page.services.len() < all {
            let last = page.services.last();
            page.next_page_token = last.map(|service| service.name.clone()).unwrap_or_default();
        }
        Ok(Response::new(page))
    }

    async fn delete_service(
        &self,
        request: Request<DeleteServiceRequest>,
    ) -> Result<Response<DeleteServiceResponse>, Status> {
        let DeleteServiceRequest { name, request_id } = request.into_inner();
        let done = self.0.delete_service(&name, request_id).await;
        done.map(|()| Response::new(DeleteServiceResponse {})).map_err(|r| to_status(&r))
    }

    async fn register_instances(
        &self,
        request: Request<RegisterInstancesRequest>,
    ) -> Result<Response<InstancesResponse>, Status> {
        let specs = request.into_inner().instances.into_iter().map(convert::spec).collect();
        let done = self.0.register_instances(specs).await;
        answer(done)
    }

    async fn deregister_instances(
        &self,
        request: Request<DeregisterInstancesRequest>,
    ) -> Result<Response<InstancesResponse>, Status> {
        let DeregisterInstancesRequest { instances, force } = request.into_inner();
        let names = instances.into_iter().map(convert::name).collect();
        answer(self.0.deregister_instances(names, force).await)
    }

    async fn set_instance_mode(
        &self,
        request: Request<SetInstanceModeRequest>,
    ) -> Result<Response<InstancesResponse>, Status> {
        let SetInstanceModeRequest { instances, mode, force, request_id } = request.into_inner();
        let names = instances.into_iter().map(convert::name).collect();
        let mode = convert::mode(mode).map_err(|r| to_status(&r))?;
        answer(self.0.set_mode(names, mode, force, request_id).await)
    }

    async fn renew(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<RenewResponse>, Status> {
        renew(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn renew_stream(
        &self,
        request: Request<Streaming<RenewRequest>>,
    ) -> Result<Response<Self::RenewStreamStream>, Status> {
        let node = Arc::clone(&self.0);
        let answers = unfold((node, request.into_inner()), async |(node, mut calls)| {
            let answer = match next_call(&node, &mut calls).await? {
                Ok(call) => renew(&node, call).await,
                Err(status) => Err(status),
            };
            Some((answer, (node, calls)))
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn resolve(
        &self,
        request: Request<ResolveRequest>,
    ) -> Result<Response<ResolveResponse>, Status> {
        let found = resolve(&self.0, request.into_inner()).await;
        found.map(Response::new).map_err(|r| to_status(&r))
    }

    async fn resolve_stream(
        &self,
        request: Request<Streaming<ResolveRequest>>,
    ) -> Result<Response<Self::ResolveStreamStream>, Status> {
        let node = Arc::clone(&self.0);
        let answers = unfold((node, request.into_inner()), async |(node, mut calls)| {
            let answer = match next_call(&node, &mut calls).await? {
                Ok(call) => Ok(resolve_answer(resolve(&node, call).await)),
                Err(status) => Err(status),
            };
            Some((answer, (node, calls)))
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn report_outcomes(
        &self,
        request: Request<ReportOutcomesRequest>,
    ) -> Result<Response<ReportOutcomesResponse>, Status> {
        let outcomes = convert::outcomes(request.into_inner().outcomes);
        let done = self.0.report_calls(&outcomes);
        done.map(|()| Response::new(ReportOutcomesResponse {})).map_err(|r| to_status(&r))
    }

    async fn watch_services(
        &self,
        request: Request<WatchServicesRequest>,
    ) -> Result<Response<Self::WatchServicesStream>, Status> {
        let WatchServicesRequest { services, after_revision } = request.into_inner();
        let services = services.into_iter().collect();
        let watch = self.0.watch_services(services, after_revision).await;
        let watch = watch.map_err(|r| to_status(&r))?;
        let answers = unfold(Some(watch), async |watch| {
            let mut watch = watch?;
            match watch.next().await {
                Ok(part) => Some((Ok(convert::watched(part)), Some(watch))),
                Err(rejection) => Some((Err(to_status(&rejection)), None)),
            }
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn get_readiness(
        &self,
        request: Request<GetReadinessRequest>,
    ) -> Result<Response<Readiness>, Status> {
        let GetReadinessRequest { name, options } = request.into_inner();
        let found = self.0.readiness_of(&name, consistency(options)).await;
        found.map(|tree| Response::new(readiness(&tree))).map_err(|r| to_status(&r))
    }

    async fn get_dependencies(
        &self,
        request: Request<GetDependenciesRequest>,
    ) -> Result<Response<GetDependenciesResponse>, Status> {
        let GetDependenciesRequest { name, options, page_token } = request.into_inner();
        let found = self.0.dependencies(&name, page_token, consistency(options)).await;
        found.map(|edges| Response::new(convert::edges(edges))).map_err(|r| to_status(&r))
    }

    async fn set_breaker(
        &self,
        request: Request<SetBreakerRequest>,
    ) -> Result<Response<SetBreakerResponse>, Status> {
        let SetBreakerRequest { service, instance, state, request_id } = request.into_inner();
        let state = convert::breaker_state(state).map_err(|r| to_status(&r))?;
        let done = self.0.set_breaker(&service, &instance, state, request_id).await;
        done.map(|()| Response::new(SetBreakerResponse {})).map_err(|r| to_status(&r))
    }
}

fn answer(
    outcomes: Result<Vec<InstanceOutcome>, Rejection>,
) -> Result<Response<InstancesResponse>, Status> {
    let results = outcomes.map(convert::results).map_err(|r| to_status(&r))?;
    Ok(Response::new(InstancesResponse { results }))
}

/// The next call of a stream; `None`: its caller has ended it, or the node stops and waits for nobody who
/// has nothing to ask.
async fn next_call<T>(node: &Node, calls: &mut Streaming<T>) -> Option<Result<T, Status>> {
    tokio::select! {
        call = calls.next() => call,
        () = node.shutdown().wait() => None,
    }
}

async fn resolve(node: &Node, request: ResolveRequest) -> Result<ResolveResponse, Rejection> {
    let found = node.resolve_service(&convert::wanted(request)?).await?;
    Ok(convert::resolved(found, node.is_cut_off()))
}

fn resolve_answer(found: Result<ResolveResponse, Rejection>) -> ResolveAnswer {
    use crate::proto::v1::resolve_answer::Answer;
    let answer = found.map_or_else(|r| Answer::Refused(to_call_error(&r)), Answer::Found);
    ResolveAnswer { answer: Some(answer) }
}

async fn renew(node: &Node, request: RenewRequest) -> Result<RenewResponse, Status> {
    let lasting = node.renew(&convert::renewals(request.renewals)).await;
    lasting.map(convert::renewed).map_err(|r| to_status(&r))
}
