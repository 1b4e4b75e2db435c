//! A node that takes instances and nothing else: tests answer their renewals.

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::stream::BoxStream;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use super::spawn::spawn;
use crate::model::limits::INSTANCES_PER_CALL_MAX;
use crate::model::rejection::{Reason, Rejection};
use crate::proto::status::{to_call_error, to_status};
use crate::proto::v1::services_server::{Services, ServicesServer};
use crate::proto::v1::{
    DeleteServiceRequest, DeleteServiceResponse, DeregisterInstancesRequest,
    GetDependenciesRequest, GetDependenciesResponse, GetReadinessRequest, GetServiceRequest,
    GetServiceResponse, Instance, InstanceName, InstanceResult, InstanceSpec, InstancesResponse,
    ListServicesRequest, ListServicesResponse, PutServiceRequest, Readiness,
    RegisterInstancesRequest, RenewRequest, RenewResponse, ReportOutcomesRequest,
    ReportOutcomesResponse, ResolveAnswer, ResolveRequest, ResolveResponse, Service,
    SetBreakerRequest, SetBreakerResponse, SetInstanceModeRequest, WatchServicesRequest,
    WatchServicesResponse, instance_result,
};

type Answers<T> = BoxStream<'static, Result<T, Status>>;

/// A stream of renewals, as the node sees it.
pub(super) struct RenewalStream {
    requests: Streaming<RenewRequest>,
    answers: mpsc::Sender<Result<RenewResponse, Status>>,
}

impl RenewalStream {
    /// What is renewed next: ids and incarnations.
    pub(super) async fn request(&mut self) -> Vec<(String, u64)> {
        let renewals = self.requests.message().await.unwrap().unwrap().renewals;
        renewals.into_iter().map(|renewal| (renewal.id, renewal.incarnation)).collect()
    }

    pub(super) async fn answer(&self, lost: &[u32], ttls_ms: &[u64]) {
        let answer = RenewResponse { lost: lost.to_vec(), ttls_ms: ttls_ms.to_vec() };
        self.answers.send(Ok(answer)).await.unwrap();
    }

    pub(super) async fn refuse(&self, rejection: &Rejection) {
        self.answers.send(Err(to_status(rejection))).await.unwrap();
    }
}

pub(super) struct FakeServices {
    pub(super) endpoint: String,
    streams: mpsc::Receiver<RenewalStream>,
    registered: mpsc::Receiver<Vec<InstanceSpec>>,
    deregistered: mpsc::Receiver<usize>,
    modes: mpsc::Receiver<SetInstanceModeRequest>,
}

/// The id of an instance that is refused.
pub(super) const REFUSED: &str = "refused";

impl FakeServices {
    /// Takes what is registered, as far as a call may have it, with renewals that last so long.
    pub(super) async fn start(ttl_ms: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let (renew, streams) = mpsc::channel(16);
        let (register, registered) = mpsc::channel(16);
        let (deregister, deregistered) = mpsc::channel(16);
        let incarnations = AtomicU64::new(0);
        let (set_modes, modes) = mpsc::channel(16);
        let node = Node { ttl_ms, renew, register, deregister, modes: set_modes, incarnations };
        let server = tonic::transport::Server::builder()
            .add_service(ServicesServer::new(node))
            .serve_with_incoming(TcpListenerStream::new(listener));
        spawn(async move { drop(server.await) });
        Self { endpoint, streams, registered, deregistered, modes }
    }

    /// The next stream that is opened.
    pub(super) async fn stream(&mut self) -> RenewalStream {
        self.streams.recv().await.unwrap()
    }

    pub(super) fn has_another_stream(&mut self) -> bool {
        self.streams.try_recv().is_ok()
    }

    /// What is registered next.
    pub(super) async fn registered(&mut self) -> Vec<InstanceSpec> {
        self.registered.recv().await.unwrap()
    }

    /// How many are deregistered next.
    pub(super) async fn deregistered(&mut self) -> usize {
        self.deregistered.recv().await.unwrap()
    }

    /// Which are drained, or put to work, next.
    pub(super) async fn modes(&mut self) -> SetInstanceModeRequest {
        self.modes.recv().await.unwrap()
    }
}

struct Node {
    ttl_ms: u64,
    renew: mpsc::Sender<RenewalStream>,
    register: mpsc::Sender<Vec<InstanceSpec>>,
    deregister: mpsc::Sender<usize>,
    modes: mpsc::Sender<SetInstanceModeRequest>,
    incarnations: AtomicU64,
}

/// Refuses calls that have too many.
fn check_count(count: usize) -> Result<(), Status> {
    if count <= INSTANCES_PER_CALL_MAX {
        return Ok(());
    }
    Err(to_status(&Rejection::new(Reason::InvalidRequest, format!("{count} are too many"))))
}

fn unasked<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not asked for in these tests"))
}

#[tonic::async_trait]
impl Services for Node {
    type RenewStreamStream = Answers<RenewResponse>;
    type ResolveStreamStream = Answers<ResolveAnswer>;
    type WatchServicesStream = Answers<WatchServicesResponse>;

    async fn register_instances(
        &self,
        request: Request<RegisterInstancesRequest>,
    ) -> Result<Response<InstancesResponse>, Status> {
        let specs = request.into_inner().instances;
        check_count(specs.len())?;
        let one = |spec: &InstanceSpec| {
            if spec.id == REFUSED {
                let rejection = Rejection::new(Reason::InstanceOwned, "somebody has it");
                let refused = instance_result::Result::Refused(to_call_error(&rejection));
                return InstanceResult { result: Some(refused) };
            }
            let incarnation = self.incarnations.fetch_add(1, Ordering::Relaxed) + 1;
            let (spec, ttl_ms) = (Some(spec.clone()), self.ttl_ms);
            let instance = Instance { spec, incarnation, ttl_ms, ..Instance::default() };
            InstanceResult { result: Some(instance_result::Result::Instance(instance)) }
        };
        let results = specs.iter().map(one).collect();
        drop(self.register.send(specs).await);
        Ok(Response::new(InstancesResponse { results }))
    }

    async fn deregister_instances(
        &self,
        request: Request<DeregisterInstancesRequest>,
    ) -> Result<Response<InstancesResponse>, Status> {
        let count = request.into_inner().instances.len();
        check_count(count)?;
        let _ = self.deregister.send(count).await;
        Ok(Response::new(InstancesResponse::default()))
    }

    async fn renew_stream(
        &self,
        request: Request<Streaming<RenewRequest>>,
    ) -> Result<Response<Self::RenewStreamStream>, Status> {
        let (answers, stream) = mpsc::channel(16);
        drop(self.renew.send(RenewalStream { requests: request.into_inner(), answers }).await);
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn put_service(
        &self,
        _: Request<PutServiceRequest>,
    ) -> Result<Response<Service>, Status> {
        unasked()
    }

    async fn get_service(
        &self,
        _: Request<GetServiceRequest>,
    ) -> Result<Response<GetServiceResponse>, Status> {
        unasked()
    }

    async fn list_services(
        &self,
        _: Request<ListServicesRequest>,
    ) -> Result<Response<ListServicesResponse>, Status> {
        unasked()
    }

    async fn delete_service(
        &self,
        _: Request<DeleteServiceRequest>,
    ) -> Result<Response<DeleteServiceResponse>, Status> {
        unasked()
    }

    async fn set_instance_mode(
        &self,
        request: Request<SetInstanceModeRequest>,
    ) -> Result<Response<InstancesResponse>, Status> {
        let request = request.into_inner();
        check_count(request.instances.len())?;
        let one = |name: &InstanceName| {
            let spec = InstanceSpec { id: name.id.clone(), ..InstanceSpec::default() };
            let instance = Instance { spec: Some(spec), mode: request.mode, ..Instance::default() };
            InstanceResult { result: Some(instance_result::Result::Instance(instance)) }
        };
        let results = request.instances.iter().map(one).collect();
        drop(self.modes.send(request).await);
        Ok(Response::new(InstancesResponse { results }))
    }

    async fn renew(&self, _: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        Err(Status::unimplemented("the client renews by stream"))
    }

    async fn resolve(
        &self,
        _: Request<ResolveRequest>,
    ) -> Result<Response<ResolveResponse>, Status> {
        unasked()
    }

    async fn resolve_stream(
        &self,
        _: Request<Streaming<ResolveRequest>>,
    ) -> Result<Response<Self::ResolveStreamStream>, Status> {
        unasked()
    }

    async fn report_outcomes(
        &self,
        _: Request<ReportOutcomesRequest>,
    ) -> Result<Response<ReportOutcomesResponse>, Status> {
        unasked()
    }

    async fn watch_services(
        &self,
        _: Request<WatchServicesRequest>,
    ) -> Result<Response<Self::WatchServicesStream>, Status> {
        unasked()
    }

    async fn get_readiness(
        &self,
        _: Request<GetReadinessRequest>,
    ) -> Result<Response<Readiness>, Status> {
        unasked()
    }

    async fn get_dependencies(
        &self,
        _: Request<GetDependenciesRequest>,
    ) -> Result<Response<GetDependenciesResponse>, Status> {
        unasked()
    }

    async fn set_breaker(
        &self,
        _: Request<SetBreakerRequest>,
    ) -> Result<Response<SetBreakerResponse>, Status> {
        unasked()
    }
}
