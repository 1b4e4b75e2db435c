//! Choosing instances of a service without asking the hub each time.
//!
//! ```no_run
//! # async fn example(client: message_hub::client::Client) -> Result<(), message_hub::model::rejection::Rejection> {
//! use message_hub::client::{Resolver, ResolverOptions};
//!
//! let resolver = Resolver::new(&client, "billing", ResolverOptions::default()).await?;
//! let chosen = resolver.pick("customer-7")?;
//! let address = chosen.address("http");
//! // Call it, and tell how that went: breakers and the choice of others go by it.
//! chosen.done(true);
//! # Ok(()) }
//! ```

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::spawn::{now, spawn};
use super::watching::Watched;
use super::{Client, probes};
use crate::balance::calls::CallStats;
use crate::balance::runs::Runs;
use crate::balance::turns::Turns;
use crate::balance::{Candidate, Draw, choose};
use crate::model::registry as model;
use crate::model::rejection::{Reason, Rejection};
use crate::proto::v1::{
    BalancePolicy, CallOutcome, Instance, ReportOutcomesRequest, ResolveRequest, ResolveResponse,
    ServiceChange,
};

/// What is known is asked for anew at least this often: times of slow starts and failovers pass
/// without any change that could be heard of.
const REFRESH: Duration = Duration::from_secs(5);
/// Changes gather for so long before what is known is asked for anew.
const GATHER: Duration = Duration::from_millis(20);
/// How often the hub is told of calls.
const REPORT: Duration = Duration::from_millis(200);
/// Instances in one report.
const REPORT_MAX: usize = 1024;

/// What a [`Resolver`] chooses from.
#[derive(Clone, Debug, Default)]
pub struct ResolverOptions {
    /// How one is chosen; `None`: as the service says.
    pub policy: Option<BalancePolicy>,
    /// Of the caller; its instances come first.
    pub zone: String,
    /// Which versions will do, as in Cargo; empty: any.
    pub requirement: String,
    /// Only instances that have an address of this protocol; empty: any.
    pub protocol: String,
}

/// Knows the instances of a service that may be called, fed by a watch, and chooses among them by the
/// policies of the hub. It goes on with what it knows while the hub cannot be reached.
#[derive(Debug)]
pub struct Resolver {
    shared: Arc<Shared>,
    /// Ends the watch when it goes.
    _stop: watch::Sender<()>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    service: String,
    options: ResolverOptions,
    known: RwLock<Known>,
    stats: CallStats,
    turns: Turns,
    /// Which instances were being tried when they were told of last.
    tried: Mutex<HashMap<u64, bool>>,
    /// The node that is watched may not know what the hub knows.
    watch_is_stale: AtomicBool,
    /// Calls that the hub was not told of yet, by service and instance.
    untold: Mutex<HashMap<(String, String), Calls>>,
}

/// Calls to an instance.
#[derive(Clone, Copy, Debug, Default)]
struct Calls {
    /// Which succeeded, and which failed, in their order.
    runs: Runs,
    /// How long one that succeeded took, in the mean.
    latency_us: u64,
}

/// The answer of the hub that is gone by: pools to choose from, each when those before it have no room.
#[derive(Debug)]
struct Known {
    pools: Arc<[ResolveResponse]>,
    /// Why there is nobody.
    nobody: Option<Rejection>,
    /// The hub answered last; it does not now.
    unreachable: bool,
}

/// An instance that was chosen. Whoever drops it without a word says nothing of the call.
#[derive(Debug)]
#[must_use = "say how the call went: done(ok)"]
pub struct Chosen {
    shared: Arc<Shared>,
    pools: Arc<[ResolveResponse]>,
    /// Which of a pool.
    place: (usize, usize),
    began: Instant,
    told: bool,
}

impl Resolver {
    /// Asks for the instances of a service and watches them from then on. A service that nobody registered
    /// is waited for: until then nothing can be chosen. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// `INVALID_CONFIG` for a requirement that is none, and what keeps the hub from answering.
    pub async fn new(
        client: &Client,
        service: &str,
        options: ResolverOptions,
    ) -> Result<Self, Rejection> {
        let known = Known { pools: Arc::default(), nobody: None, unreachable: false };
        let shared = Arc::new(Shared {
            client: client.clone(),
            service: service.to_owned(),
            options,
            known: RwLock::new(known),
            stats: CallStats::default(),
            turns: Turns::default(),
            tried: Mutex::default(),
            watch_is_stale: AtomicBool::new(false),
            untold: Mutex::default(),
        });
        shared.refresh().await?;
        let (stop, stopped) = watch::channel(());
        spawn(keep(Arc::clone(&shared), stopped.clone()));
        spawn(tell(Arc::clone(&shared), stopped));
        Ok(Self { shared, _stop: stop })
    }

    /// Chooses an instance, at once. The key is what consistent hashing goes by.
    ///
    /// # Errors
    /// `NO_INSTANCE`, `SERVICE_NOT_FOUND`: as the hub answered last. `NO_INSTANCE` with a time to come again
    /// while breakers are being tried by as many calls of this resolver as they let through, and nobody is
    /// left in other zones and in the services of the failover list.
    pub fn pick(&self, key: &str) -> Result<Chosen, Rejection> {
        let (pools, nobody) = {
            let known = self.shared.known.read().unwrap_or_else(PoisonError::into_inner);
            (Arc::clone(&known.pools), known.nobody.clone())
        };
        if let Some(rejection) = nobody {
            return Err(rejection);
        }
        let mut places = pools.iter().enumerate();
        let place = places.find_map(|(n, pool)| Some((n, self.shared.choose((n, pool), key)?)));
        let place = place.ok_or_else(|| {
            let service = &self.shared.service;
            if pools.iter().any(|pool| !pool.instances.is_empty()) {
                return probes::refused(service);
            }
            let text = format!("no instance of {service} is known; register one, or wait for it");
            Rejection::new(Reason::NoInstance, text).with("service", service)
        })?;
        let (shared, began) = (Arc::clone(&self.shared), now());
        let chosen = Chosen { shared, pools, place, began, told: false };
        self.shared.stats.resolved(chosen.instance().incarnation, began);
        Ok(chosen)
    }

    /// The instances that are chosen from.
    #[must_use]
    pub fn instances(&self) -> Vec<Instance> {
        let known = self.shared.known.read().unwrap_or_else(PoisonError::into_inner);
        known.pools.first().map(|pool| pool.instances.clone()).unwrap_or_default()
    }

    /// Whether what is known may be old: the hub could not be reached, or the node that answered had no
    /// leader.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        let known = self.shared.known.read().unwrap_or_else(PoisonError::into_inner);
        known.unreachable || known.pools.first().is_some_and(|pool| pool.stale)
    }
}

impl Chosen {
    /// The instance.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        let (pool, at) = self.place;
        &self.pools[pool].instances[at]
    }

    /// Its address of a protocol, as HOST:PORT.
    #[must_use]
    pub fn address(&self, protocol: &str) -> Option<&str> {
        let spec = self.instance().spec.as_ref()?;
        let found = spec.addresses.iter().find(|address| address.protocol == protocol);
        found.map(|address| address.address.as_str())
    }

    /// Tells that the call is over, and how it went. It took as long as it was since it was chosen.
    pub fn done(mut self, ok: bool) {
        self.tell(Some(ok));
    }

    fn tell(&mut self, ok: Option<bool>) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        let (instance, ended) = (self.instance(), now());
        let took = u64::try_from((ended - self.began).as_micros()).unwrap_or(u64::MAX).max(1);
        let latency_us = if ok == Some(true) { took } else { 0 };
        self.shared.stats.reported(instance.incarnation, 1, latency_us, ended);
        if let Some(ok) = ok {
            self.shared.note(instance, ok, took);
        }
    }
}

impl Drop for Chosen {
    fn drop(&mut self) {
        self.tell(None);
    }
}

impl Shared {
    fn choose(&self, (n, answer): (usize, &ResolveResponse), key: &str) -> Option<usize> {
        let policy = match self.options.policy.unwrap_or(answer.policy()) {
            BalancePolicy::Unspecified | BalancePolicy::P2cEwma => model::BalancePolicy::P2cEwma,
            BalancePolicy::RoundRobin => model::BalancePolicy::RoundRobin,
            BalancePolicy::Weighted => model::BalancePolicy::Weighted,
            BalancePolicy::Random => model::BalancePolicy::Random,
            BalancePolicy::LeastOutstanding => model::BalancePolicy::LeastOutstanding,
            BalancePolicy::ConsistentHash => model::BalancePolicy::ConsistentHash,
        };
        let numbers = answer.instances.iter().map(|instance| instance.incarnation);
        let stats = self.stats.of(numbers, now());
        let under_way: Vec<u32> = stats.iter().map(|(_, outstanding)| *outstanding).collect();
        let room = probes::with_room(answer, &under_way);
        let warmth = answer.warmth_milli.iter().copied().chain(std::iter::repeat(1000));
        let (places, candidates): (Vec<_>, Vec<_>) = answer
            .instances
            .iter()
            .zip(stats)
            .zip(warmth)
            .enumerate()
            .filter(|(place, _)| room[*place])
            .map(|(place, ((instance, (latency_us, outstanding)), warmth))| {
                let spec = instance.spec.as_ref();
                let weight = spec.map_or(1000, |spec| spec.weight_milli().max(1));
                let candidate = Candidate {
                    id: spec.map_or("", |spec| spec.id.as_str()),
                    weight: f64::from(u32::try_from(weight).unwrap_or(u32::MAX)) / 1000.0,
                    warmth: f64::from(warmth.max(1)) / 1000.0,
                    outstanding,
                    latency_us,
                };
                (place, candidate)
            })
            .unzip();
        if candidates.is_empty() {
            // A turn is for who may be chosen.
            return None;
        }
        let (dice, _) = uuid::Uuid::new_v4().as_u64_pair();
        let turn = self.turns.take(n as u64, dice);
        choose(policy, &candidates, &Draw { dice, turn, key }).map(|at| places[at])
    }

    fn note(&self, instance: &Instance, ok: bool, took_us: u64) {
        let Some(spec) = &instance.spec else { return };
        let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (spec.service.clone(), spec.id.clone());
        let sum = untold.entry(key).or_default();
        sum.runs = sum.runs.then(Runs::of(ok));
        if ok {
            let count = sum.runs.ok;
            sum.latency_us = (sum.latency_us * (count - 1) + took_us) / count;
        }
    }

    /// What the hub is to be told of calls.
    fn take_untold(&self) -> Vec<CallOutcome> {
        let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        let outcomes = untold.drain().map(|((service, instance), calls)| {
            let count = |count| u32::try_from(count).unwrap_or(u32::MAX);
            let Calls { runs, latency_us } = calls;
            CallOutcome {
                service,
                instance,
                ok: count(runs.ok),
                failed: count(runs.failed),
                latency_us,
                failed_at_end: Some(count(runs.at_end)),
                failed_at_start: Some(count(runs.at_start)),
                failed_in_a_row: Some(count(runs.longest)),
            }
        });
        outcomes.collect()
    }

    /// The services to watch, where changes say so: this one, and those that it falls back to.
    fn watched(&self, changes: &[ServiceChange]) -> Option<Vec<String>> {
        let of_this = changes.iter().rev().filter(|change| change.service == self.service);
        let config = of_this.filter_map(|change| change.service_after.as_ref()).next()?;
        let steps = config.config.iter().flat_map(|config| &config.failover);
        let steps = steps.map(|step| step.service.clone());
        let others = steps.filter(|service| !service.is_empty());
        Some(std::iter::once(self.service.clone()).chain(others).collect())
    }

    /// Asks who may be called now.
    async fn refresh(&self) -> Result<(), Rejection> {
        let request = ResolveRequest {
            service: self.service.clone(),
            count: 1,
            zone: self.options.zone.clone(),
            requirement: self.options.requirement.clone(),
            protocol: self.options.protocol.clone(),
            all: true,
            ..ResolveRequest::default()
        };
        match self.client.resolve(request).await {
            Ok(answer) => {
                self.take(answer);
                Ok(())
            }
            Err(rejection) => self.go_on_without(rejection),
        }
    }

    /// Goes by what a refusal says, or by what is known, where it says nothing of who may be called.
    fn go_on_without(&self, rejection: Rejection) -> Result<(), Rejection> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let says = match rejection.reason {
            Reason::NoInstance => true,
            // A node that knows less than this client denies what it has not heard of.
            Reason::ServiceNotFound => {
                known.pools.is_empty() || !self.watch_is_stale.load(Ordering::Relaxed)
            }
            _ => false,
        };
        if says {
            *known = Known { pools: Arc::default(), nobody: Some(rejection), unreachable: false };
            return Ok(());
        }
        known.unreachable = true;
        Err(rejection)
    }

    /// Goes by an answer from now on.
    fn take(&self, answer: ResolveResponse) {
        let (pools, at) = (probes::pools(answer), now());
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        let is_called = |number| self.stats.of(std::iter::once(number), at)[0].1 > 0;
        for number in probes::newly_tried(&mut tried, &pools, is_called) {
            self.stats.settle(number);
        }
        *known = Known { pools, nobody: None, unreachable: false };
    }

    /// Tells the hub how calls went.
    async fn report(&self) {
        for some in self.take_untold().chunks(REPORT_MAX) {
            let request = ReportOutcomesRequest { outcomes: some.to_vec() };
            // Statistics: what is lost is lost.
            drop(self.client.report_outcomes(request).await);
        }
    }
}

/// Tells how calls went, until the resolver goes.
async fn tell(shared: Arc<Shared>, mut stopped: watch::Receiver<()>) {
    let mut reports = tokio::time::interval(REPORT);
    reports.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = reports.tick() => shared.report().await,
            _ = stopped.changed() => return shared.report().await,
        }
    }
}

/// Keeps what is known up to date, until the resolver goes.
async fn keep(shared: Arc<Shared>, mut stopped: watch::Receiver<()>) {
    let mut watched = vec![shared.service.clone()];
    let mut watch = shared.client.watch_services(watched.clone(), None);
    let mut refreshes = tokio::time::interval(REFRESH);
    refreshes.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stopped.changed() => return,
            _ = refreshes.tick() => {}
            heard = watch.next() => match heard {
                Ok(Watched::Restarted) => {}
                Ok(Watched::Changes(answer)) => {
                    shared.watch_is_stale.store(answer.stale, Ordering::Relaxed);
                    let wanted = shared.watched(&answer.changes);
                    if let Some(wanted) = wanted.filter(|wanted| *wanted != watched) {
                        watched = wanted;
                        watch = shared.client.watch_services(watched.clone(), None);
                    }
                }
                Err(_) => {
                    let mut known = shared.known.write().unwrap_or_else(PoisonError::into_inner);
                    known.unreachable = true;
                    continue;
                }
            },
        }
        tokio::time::sleep(GATHER).await;
        // What fails is tried again soon, and said by `is_stale`.
        drop(shared.refresh().await);
    }
}

#[cfg(test)]
mod tests;
