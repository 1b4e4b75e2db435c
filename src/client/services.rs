//! Services: instances that are kept registered.
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

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Client;
use super::renewing::Renewing;
use super::spawn::{now, spawn};
use crate::model::limits::INSTANCES_PER_CALL_MAX;
use crate::model::rejection::{Reason, Rejection};
use crate::proto::status::from_call_error;
use crate::proto::v1::{
    DeregisterInstancesRequest, Instance, InstanceMode, InstanceName, InstanceResult, InstanceSpec,
    InstancesResponse, RegisterInstancesRequest, RenewRequest, Renewal, SetInstanceModeRequest,
    instance_result,
};

/// Renewals in the time that one lasts.
const RENEWALS_PER_TTL: u32 = 3;
/// The pause before an instance that could not be registered again is tried anew: at first; it doubles.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// The longest such pause.
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(30);
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
    /// One could not be registered again; it is tried once more, later and later. Its facts `service` and
    /// `instance` tell which.
    Refused(Rejection),
}

/// Instances that this process keeps registered: it renews them, registers those that were lost again,
/// and deregisters them when it is dropped. Each handle renews over one stream of its own, whatever the number of
/// its instances: a process that has many registers them by one handle.
#[derive(Debug)]
pub struct ServiceHandle {
    client: Client,
    instances: watch::Receiver<Vec<Instance>>,
    news: mpsc::Receiver<ServiceNews>,
    /// Ends the renewals when it goes.
    stop: Option<mpsc::Sender<()>>,
    /// Tells when they have ended.
    ended: watch::Receiver<()>,
    names: Vec<InstanceName>,
    gone: bool,
}

impl ServiceHandle {
    /// Registers instances and keeps them registered. An owner is drawn for those that name none, so
    /// that nobody else takes their ids, and what tells this process from one that takes over later.
    /// To be called inside a tokio runtime.
    ///
    /// # Errors
    /// The first refusal of an instance; those that were registered before are deregistered then. And
    /// what keeps the hub from answering.
    pub async fn register(
        client: &Client,
        mut specs: Vec<InstanceSpec>,
    ) -> Result<Self, Rejection> {
        if specs.is_empty() {
            return Err(Rejection::new(Reason::InvalidRequest, "name at least one instance"));
        }
        for spec in specs.iter_mut().filter(|spec| spec.owner.is_empty()) {
            spec.owner = uuid::Uuid::new_v4().to_string();
        }
        let process = uuid::Uuid::new_v4().to_string();
        for spec in specs.iter_mut().filter(|spec| spec.process.is_empty()) {
            spec.process.clone_from(&process);
        }
        let name = |spec: &InstanceSpec| InstanceName {
            service: spec.service.clone(),
            id: spec.id.clone(),
            owner: spec.owner.clone(),
        };
        let names: Vec<_> = specs.iter().map(name).collect();
        let mut registered = Vec::with_capacity(specs.len());
        for some in specs.chunks(INSTANCES_PER_CALL_MAX) {
            let request = RegisterInstancesRequest { instances: some.to_vec() };
            let answer = client.register_instances(request).await;
            let done = registered.len() + if answer.is_ok() { some.len() } else { 0 };
            match answer.and_then(instances) {
                Ok(instances) => registered.extend(instances),
                Err(rejection) => {
                    // Those that it fails for were not registered.
                    drop(deregister(client, &names[..done]).await);
                    return Err(rejection);
                }
            }
        }
        let (tell, news) = mpsc::channel(NEWS_MAX);
        let (known, instances) = watch::channel(registered);
        let (stop, stopped) = mpsc::channel(1);
        let (ends, ended) = watch::channel(());
        let lost = vec![None; specs.len()];
        let renewing = Renewing::new(Arc::clone(&client.endpoints));
        let client_of_keeper = client.clone();
        let keeper =
            Keeper { client: client_of_keeper, renewing, specs, known, tell, lost, _ends: ends };
        spawn(keeper.run(stopped));
        let (client, stop) = (client.clone(), Some(stop));
        Ok(Self { client, instances, news, stop, ended, names, gone: false })
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

    /// Drains the instances, takes them into maintenance, or puts them to work again. Drained, they get no new work
    /// and may end what they have: that is for before [`Self::deregister`]. They are renewed all the while; one
    /// that the hub had given up meanwhile is at work again once it is registered anew.
    ///
    /// # Errors
    /// The first refusal of an instance, and what keeps the hub from answering; some may have changed then.
    pub async fn set_mode(&self, mode: InstanceMode) -> Result<(), Rejection> {
        for some in self.names.chunks(INSTANCES_PER_CALL_MAX) {
            let request = SetInstanceModeRequest {
                instances: some.to_vec(),
                mode: mode.into(),
                ..SetInstanceModeRequest::default()
            };
            instances(self.client.set_instance_mode(request).await?)?;
        }
        Ok(())
    }

    /// Deregisters the instances.
    ///
    /// # Errors
    /// What keeps the hub from answering; the instances run out by themselves then.
    pub async fn deregister(mut self) -> Result<(), Rejection> {
        self.gone = true;
        // Nobody registers them again meanwhile.
        self.stop = None;
        drop(self.ended.changed().await);
        deregister(&self.client, &self.names).await
    }
}

impl Drop for ServiceHandle {
    fn drop(&mut self) {
        if self.gone || tokio::runtime::Handle::try_current().is_err() {
            // Without a runtime they run out by themselves.
            return;
        }
        self.stop = None;
        let (client, names) = (self.client.clone(), std::mem::take(&mut self.names));
        let mut ended = self.ended.clone();
        spawn(async move {
            drop(ended.changed().await);
            // Nobody is there any more to be told.
            drop(deregister(&client, &names).await);
        });
    }
}

/// Deregisters instances, as many at once as a call may have.
async fn deregister(client: &Client, names: &[InstanceName]) -> Result<(), Rejection> {
    for some in names.chunks(INSTANCES_PER_CALL_MAX) {
        let request = DeregisterInstancesRequest { instances: some.to_vec(), force: false };
        client.deregister_instances(request).await?;
    }
    Ok(())
}

/// The instances of an answer, or the first refusal in it.
fn instances(answer: InstancesResponse) -> Result<Vec<Instance>, Rejection> {
    answer.results.into_iter().map(one).collect()
}

fn one(result: InstanceResult) -> Result<Instance, Rejection> {
    match result.result {
        Some(instance_result::Result::Instance(instance)) => Ok(instance),
        Some(instance_result::Result::Refused(error)) => Err(from_call_error(error)),
        None => {
            let text = "the hub said nothing of an instance; run the same version as it";
            Err(Rejection::new(Reason::Internal, text))
        }
    }
}

/// Keeps instances registered.
struct Keeper {
    client: Client,
    renewing: Renewing,
    specs: Vec<InstanceSpec>,
    known: watch::Sender<Vec<Instance>>,
    tell: mpsc::Sender<ServiceNews>,
    /// Those that are lost, in the places of `specs`.
    lost: Vec<Option<Lost>>,
    /// Tells by going that nothing is renewed or registered any more.
    _ends: watch::Sender<()>,
}

/// An instance to be registered again: when, and the pause after one refusal more.
#[derive(Clone, Copy, Debug)]
struct Lost {
    at: Instant,
    pause: Duration,
}

impl Keeper {
    async fn run(mut self, mut stopped: mpsc::Receiver<()>) {
        let mut renewal = Instant::from_std(now()) + self.pause();
        loop {
            let again = self.lost.iter().flatten().map(|lost| lost.at).min();
            tokio::select! {
                () = tokio::time::sleep_until(again.unwrap_or(renewal).min(renewal)) => {}
                _ = stopped.recv() => return,
            }
            let due = Instant::from_std(now()) >= renewal;
            tokio::select! {
                () = self.step(due) => {}
                _ = stopped.recv() => return,
            }
            if due {
                renewal = Instant::from_std(now()) + self.pause();
            }
        }
    }

    async fn step(&mut self, renewal_due: bool) {
        if renewal_due {
            self.renew().await;
        }
        self.register().await;
    }

    /// A third of the shortest time that a renewal lasts, give or take a fifth: so that those who
    /// started together do not renew together.
    fn pause(&self) -> Duration {
        let shortest = self.known.borrow().iter().map(|instance| instance.ttl_ms).min();
        let pause = Duration::from_millis(shortest.unwrap_or(1000)) / RENEWALS_PER_TTL;
        let (drawn, _) = uuid::Uuid::new_v4().as_u64_pair();
        pause * u32::try_from(80 + drawn % 41).unwrap_or(100) / 100
    }

    /// Renews those that are not lost.
    async fn renew(&mut self) {
        let renewal = |instance: &Instance| {
            let spec = instance.spec.clone().unwrap_or_default();
            Renewal { service: spec.service, id: spec.id, incarnation: instance.incarnation }
        };
        let kept: Vec<(usize, Renewal)> = {
            let known = self.known.borrow();
            let all = known.iter().map(renewal).enumerate();
            all.filter(|(place, _)| self.lost.get(*place).is_some_and(Option::is_none)).collect()
        };
        for some in kept.chunks(INSTANCES_PER_CALL_MAX) {
            let renewals = some.iter().map(|(_, renewal)| renewal.clone()).collect();
            // Where nobody answers, the next renewal comes soon enough.
            let Ok(answer) = self.renewing.renew(RenewRequest { renewals }).await else { return };
            self.retime(some.iter().map(|(place, _)| *place).zip(answer.ttls_ms));
            let lost = answer.lost.into_iter().filter_map(|place| usize::try_from(place).ok());
            for (place, renewal) in lost.filter_map(|place| some.get(place)) {
                let (service, id) = (renewal.service.clone(), renewal.id.clone());
                self.say(ServiceNews::Lost { service, id });
                let at = Instant::from_std(now());
                self.lost[*place] = Some(Lost { at, pause: AGAIN_AFTER });
            }
        }
    }

    /// Takes note of how long renewals last now: a service's setting may have changed.
    fn retime(&self, ttls_ms: impl Iterator<Item = (usize, u64)>) {
        self.known.send_if_modified(|known| {
            let mut changed = false;
            for (place, ttl_ms) in ttls_ms.filter(|(_, ttl_ms)| *ttl_ms > 0) {
                let instance = known.get_mut(place).filter(|instance| instance.ttl_ms != ttl_ms);
                if let Some(instance) = instance {
                    (instance.ttl_ms, changed) = (ttl_ms, true);
                }
            }
            changed
        });
    }

    /// Registers again what is lost and due, each by itself.
    async fn register(&mut self) {
        let at = Instant::from_std(now());
        let due = |lost: &Option<Lost>| lost.as_ref().is_some_and(|lost| lost.at <= at);
        let due: Vec<usize> = (0..self.lost.len()).filter(|n| due(&self.lost[*n])).collect();
        for places in due.chunks(INSTANCES_PER_CALL_MAX) {
            let instances = places.iter().map(|place| self.specs[*place].clone()).collect();
            let request = RegisterInstancesRequest { instances };
            match self.client.register_instances(request).await {
                Ok(answer) => {
                    for (place, result) in places.iter().zip(answer.results) {
                        self.registered(*place, one(result));
                    }
                }
                Err(rejection) => {
                    for place in places {
                        self.registered(*place, Err(rejection.clone()));
                    }
                }
            }
        }
    }

    fn registered(&mut self, place: usize, result: Result<Instance, Rejection>) {
        match result {
            Ok(instance) => {
                self.lost[place] = None;
                self.take(&instance);
                self.say(ServiceNews::Registered(Box::new(instance)));
            }
            Err(mut rejection) => {
                let pause = self.lost[place].map_or(AGAIN_AFTER, |lost| lost.pause);
                let at = Instant::from_std(now()) + pause;
                self.lost[place] = Some(Lost { at, pause: (pause * 2).min(AGAIN_AFTER_MAX) });
                let spec = &self.specs[place];
                for (name, value) in [("service", &spec.service), ("instance", &spec.id)] {
                    if rejection.fact(name).is_none() {
                        rejection = rejection.with(name, value);
                    }
                }
                self.say(ServiceNews::Refused(rejection));
            }
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
