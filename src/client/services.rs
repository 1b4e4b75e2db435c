//! Services: instances that are kept registered, and watching the registry.
//!
//! ```no_run
//! # async fn example(client: message_hub::client::Client) -> Result<(), message_hub::model::rejection::Rejection> {
//! use message_hub::client::ServiceHandle;
//! use message_hub::proto::v1::{Address, InstanceSpec};
//!
//! let spec = InstanceSpec {
//!     service: "billing".into(),
//!     id: "billing-1".into(),
//!     addresses: vec![Address { protocol: "http".into(), address: "10.0.0.7:8080".into() }],
//!     ..InstanceSpec::default()
//! };
//! let handle = ServiceHandle::register(&client, vec![spec]).await?;
//! // It is renewed until the handle goes; then it is deregistered.
//! handle.deregister().await?;
//! # Ok(()) }
//! ```

use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::Streaming;

use super::Client;
use super::endpoints::{Endpoints, Target};
use super::retry::{Attempts, Failure, Repeat, Route, Verdict};
use super::spawn::{now, spawn};
use crate::model::rejection::{Reason, Rejection};
use crate::proto::status::from_call_error;
use crate::proto::v1::services_client::ServicesClient;
use crate::proto::v1::{
    DeregisterInstancesRequest, Instance, InstanceName, InstanceSpec, InstancesResponse,
    RegisterInstancesRequest, RenewRequest, Renewal, ResolveAnswer, ResolveRequest,
    WatchServicesRequest, WatchServicesResponse, instance_result,
};

/// Renewals in the time that one lasts.
const RENEWALS_PER_TTL: u32 = 3;
/// The pause before instances that could not be registered again are tried anew.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// What happened, that nobody has asked for yet.
const NEWS_MAX: usize = 1024;

/// What happened to an instance of a [`ServiceHandle`].
#[derive(Clone, Debug, PartialEq)]
pub enum ServiceNews {
    /// The hub had given it up; it is being registered again.
    Lost {
        /// The service.
        service: String,
        /// The instance.
        id: String,
    },
    /// It is registered again, as this.
    Registered(Box<Instance>),
    /// It could not be registered again; it is tried once more, later.
    Refused(Rejection),
}

/// Instances that this process keeps registered: it renews them, registers those that were lost again,
/// and deregisters them when it is dropped.
#[derive(Debug)]
pub struct ServiceHandle {
    client: Client,
    instances: watch::Receiver<Vec<Instance>>,
    news: mpsc::Receiver<ServiceNews>,
    /// Ends the renewals when it goes.
    _stop: mpsc::Sender<()>,
    names: Vec<InstanceName>,
    gone: bool,
}

impl ServiceHandle {
    /// Registers instances and keeps them registered. An owner is drawn for those that name none, so
    /// that nobody else takes their ids. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// The first refusal of an instance; those that were registered before are deregistered then. And
    /// what keeps the hub from answering.
    pub async fn register(
        client: &Client,
        mut specs: Vec<InstanceSpec>,
    ) -> Result<Self, Rejection> {
        for spec in specs.iter_mut().filter(|spec| spec.owner.is_empty()) {
            spec.owner = uuid::Uuid::new_v4().to_string();
        }
        let name = |spec: &InstanceSpec| InstanceName {
            service: spec.service.clone(),
            id: spec.id.clone(),
            owner: spec.owner.clone(),
        };
        let names: Vec<_> = specs.iter().map(name).collect();
        let request = RegisterInstancesRequest { instances: specs.clone() };
        let instances = match instances(client.register_instances(request).await?) {
            Ok(instances) => instances,
            Err(rejection) => {
                let request = DeregisterInstancesRequest { instances: names, force: false };
                // Those that it fails for were not registered.
                drop(client.deregister_instances(request).await);
                return Err(rejection);
            }
        };
        let (tell, news) = mpsc::channel(NEWS_MAX);
        let (known, instances) = watch::channel(instances);
        let (stop, stopped) = mpsc::channel(1);
        let keeper = Keeper { client: client.clone(), specs, known, tell };
        spawn(keeper.run(stopped));
        Ok(Self { client: client.clone(), instances, news, _stop: stop, names, gone: false })
    }

    /// The instances as they were registered last.
    #[must_use]
    pub fn instances(&self) -> Vec<Instance> {
        self.instances.borrow().clone()
    }

    /// What happens to the instances; waits until something does. Who never asks misses nothing but
    /// this.
    pub async fn news(&mut self) -> Option<ServiceNews> {
        self.news.recv().await
    }

    /// Deregisters the instances.
    ///
    /// # Errors
    /// What keeps the hub from answering; the instances run out by themselves then.
    pub async fn deregister(mut self) -> Result<(), Rejection> {
        self.gone = true;
        let instances = std::mem::take(&mut self.names);
        let request = DeregisterInstancesRequest { instances, force: false };
        self.client.deregister_instances(request).await.map(drop)
    }
}

impl Drop for ServiceHandle {
    fn drop(&mut self) {
        if self.gone || tokio::runtime::Handle::try_current().is_err() {
            // Without a runtime they run out by themselves.
            return;
        }
        let (client, instances) = (self.client.clone(), std::mem::take(&mut self.names));
        spawn(async move {
            let request = DeregisterInstancesRequest { instances, force: false };
            // Nobody is there any more to be told.
            drop(client.deregister_instances(request).await);
        });
    }
}

/// The instances of an answer, or the first refusal in it.
fn instances(answer: InstancesResponse) -> Result<Vec<Instance>, Rejection> {
    let mut found = Vec::with_capacity(answer.results.len());
    for result in answer.results {
        match result.result {
            Some(instance_result::Result::Instance(instance)) => found.push(instance),
            Some(instance_result::Result::Refused(error)) => return Err(from_call_error(error)),
            None => {
                let text = "the hub said nothing of an instance; run the same version as it";
                return Err(Rejection::new(Reason::Internal, text));
            }
        }
    }
    Ok(found)
}

/// Keeps instances registered.
struct Keeper {
    client: Client,
    specs: Vec<InstanceSpec>,
    known: watch::Sender<Vec<Instance>>,
    tell: mpsc::Sender<ServiceNews>,
}

impl Keeper {
    async fn run(self, mut stopped: mpsc::Receiver<()>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.pause()) => {}
                _ = stopped.recv() => return,
            }
            tokio::select! {
                () = self.renew() => {}
                _ = stopped.recv() => return,
            }
        }
    }

    /// A third of the shortest time that a renewal lasts, give or take a fifth: so that those who
    /// started together do not renew together.
    fn pause(&self) -> Duration {
        let shortest = self.known.borrow().iter().map(|instance| instance.ttl_ms).min();
        let pause = Duration::from_millis(shortest.unwrap_or(1000)) / RENEWALS_PER_TTL;
        let (drawn, _) = uuid::Uuid::new_v4().as_u64_pair();
        pause * u32::try_from(80 + drawn % 41).unwrap_or(100) / 100
    }

    async fn renew(&self) {
        let renewal = |instance: &Instance| {
            let spec = instance.spec.clone().unwrap_or_default();
            Renewal { service: spec.service, id: spec.id, incarnation: instance.incarnation }
        };
        let renewals = self.known.borrow().iter().map(renewal).collect();
        // Where nobody answers, the next renewal comes soon enough.
        let Ok(answer) = self.client.renew(RenewRequest { renewals }).await else { return };
        let lost: Vec<usize> =
            answer.lost.into_iter().filter_map(|place| usize::try_from(place).ok()).collect();
        let lost: Vec<InstanceSpec> =
            lost.into_iter().filter_map(|place| self.specs.get(place).cloned()).collect();
        if lost.is_empty() {
            return;
        }
        for InstanceSpec { service, id, .. } in lost.clone() {
            self.say(ServiceNews::Lost { service, id });
        }
        self.register(lost).await;
    }

    async fn register(&self, lost: Vec<InstanceSpec>) {
        loop {
            let request = RegisterInstancesRequest { instances: lost.clone() };
            let answer = self.client.register_instances(request).await;
            match answer.and_then(instances) {
                Ok(found) => {
                    for instance in found {
                        self.take(&instance);
                        self.say(ServiceNews::Registered(Box::new(instance)));
                    }
                    return;
                }
                Err(rejection) => self.say(ServiceNews::Refused(rejection)),
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    fn take(&self, instance: &Instance) {
        let name = |i: &Instance| i.spec.clone().map(|spec| (spec.service, spec.id));
        self.known.send_modify(|known| {
            known
                .iter_mut()
                .filter(|one| name(one) == name(instance))
                .for_each(|one| one.clone_from(instance));
        });
    }

    fn say(&self, news: ServiceNews) {
        // Whoever does not ask does not want to know.
        drop(self.tell.try_send(news));
    }
}

/// Changes of the registry, through breaks and changes of leader, without gaps.
#[derive(Debug)]
pub struct ServiceWatch {
    endpoints: Arc<Endpoints>,
    services: Vec<String>,
    /// `None`: begin with what is there.
    after: Option<u64>,
    /// What is there was not told whole yet.
    beginning: bool,
    open: Option<(Target, Streaming<WatchServicesResponse>)>,
}

/// Something that a [`ServiceWatch`] tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Watched {
    /// What was known is void: what is there follows from the beginning.
    Restarted,
    /// Changes, and whether the node hears of a leader.
    Changes(WatchServicesResponse),
}

impl Client {
    /// Asks one node whom to call, again and again: an answer a request, in their order. When the node goes
    /// the stream ends; open another one.
    ///
    /// # Errors
    /// What keeps a node from answering.
    pub async fn resolve_stream(
        &self,
        requests: impl Stream<Item = ResolveRequest> + Send + 'static,
    ) -> Result<Streaming<ResolveAnswer>, Rejection> {
        let target = self.endpoints.route(Route::Any)?;
        let mut client = ServicesClient::new(target.channel.clone());
        let opened = client.resolve_stream(requests).await;
        let opened = opened.map_err(|status| Failure::of_status(&status, &target).rejection)?;
        Ok(opened.into_inner())
    }

    /// Watches services (none: all of them), after a revision, or from what is there on.
    #[must_use]
    pub fn watch_services(&self, services: Vec<String>, after: Option<u64>) -> ServiceWatch {
        let endpoints = Arc::clone(&self.endpoints);
        ServiceWatch { endpoints, services, after, beginning: after.is_none(), open: None }
    }
}

impl ServiceWatch {
    /// What comes next; waits until there is something.
    ///
    /// # Errors
    /// What the hub refuses, and the last trouble when no node answered for as long as a call may
    /// take.
    pub async fn next(&mut self) -> Result<Watched, Rejection> {
        let endpoints = Arc::clone(&self.endpoints);
        let timeout = endpoints.options().timeout;
        let mut attempts = Attempts::new(&endpoints, Repeat::Read);
        let mut deadline = Instant::from_std(now()) + timeout;
        let mut hinted = None;
        loop {
            let was_open = self.open.is_some();
            let (target, mut failure) = match self.step(hinted.take(), timeout).await? {
                Ok(answer) => return Ok(self.accept(answer)),
                Err(failed) => failed,
            };
            if was_open {
                deadline = Instant::from_std(now()) + timeout;
                attempts.refresh();
            }
            self.open = None;
            match failure.rejection.reason {
                Reason::WatchCompacted => {
                    (self.after, self.beginning) = (None, true);
                    return Ok(Watched::Restarted);
                }
                // Another node was ahead of this one.
                Reason::BeyondEnd => failure.verdict = Verdict::PassOver,
                _ => {}
            }
            if self.beginning && self.after.is_some() {
                (self.after, self.beginning) = (None, true);
                return Ok(Watched::Restarted);
            }
            if failure.verdict == Verdict::Final {
                return Err(failure.rejection);
            }
            hinted = attempts.next(&target, &failure);
            attempts.pause(failure, deadline).await?;
        }
    }

    fn accept(&mut self, answer: WatchServicesResponse) -> Watched {
        self.after = Some(answer.revision);
        self.beginning = answer.snapshot_continues;
        Watched::Changes(answer)
    }

    async fn step(
        &mut self,
        hinted: Option<Route>,
        timeout: Duration,
    ) -> Result<Result<WatchServicesResponse, (Target, Failure)>, Rejection> {
        if self.open.is_none() {
            let target = self.endpoints.route(hinted.unwrap_or(Route::Any))?;
            let after_revision = self.after.filter(|_| !self.beginning);
            let request = WatchServicesRequest { services: self.services.clone(), after_revision };
            let mut client = ServicesClient::new(target.channel.clone());
            let opened = tokio::time::timeout(timeout, client.watch_services(request)).await;
            match opened {
                Ok(Ok(stream)) => self.open = Some((target, stream.into_inner())),
                Ok(Err(status)) => {
                    let failure = Failure::of_status(&status, &target);
                    return Ok(Err((target, failure)));
                }
                Err(_) => {
                    let failure = Failure::silent(&target, timeout);
                    return Ok(Err((target, failure)));
                }
            }
        }
        let Some((target, stream)) = &mut self.open else {
            let text = "a stream that was just opened is gone";
            return Err(Rejection::new(Reason::Internal, text));
        };
        let failure = match stream.message().await {
            Ok(Some(answer)) => return Ok(Ok(answer)),
            Ok(None) => Failure::of_rejection(Rejection::new(
                Reason::ShuttingDown,
                format!("{} ended the stream; watch on at another node", target.address),
            )),
            Err(status) => Failure::of_status(&status, target),
        };
        Ok(Err((target.clone(), failure)))
    }
}
