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
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::services::Watched;
use super::spawn::{now, spawn};
use super::{Client, probes};
use crate::balance::calls::CallStats;
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
    /// Calls that the hub was not told of yet, by service and instance.
    untold: Mutex<HashMap<(String, String), CallOutcome>>,
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
        let place = places.find_map(|(n, pool)| Some((n, self.shared.choose(pool, key)?)));
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
    fn choose(&self, answer: &ResolveResponse, key: &str) -> Option<usize> {
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
        let (dice, _) = uuid::Uuid::new_v4().as_u64_pair();
        let chosen = choose(policy, &candidates, &Draw { dice, turn: self.stats.turn(), key });
        chosen.map(|at| places[at])
    }

    fn note(&self, instance: &Instance, ok: bool, took_us: u64) {
        let Some(spec) = &instance.spec else { return };
        let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (spec.service.clone(), spec.id.clone());
        let sum = untold.entry(key).or_insert_with(|| CallOutcome {
            service: spec.service.clone(),
            instance: spec.id.clone(),
            ..CallOutcome::default()
        });
        if ok {
            let count = u64::from(sum.ok) + 1;
            sum.latency_us = (sum.latency_us * (count - 1) + took_us) / count;
            sum.ok = sum.ok.saturating_add(1);
        } else {
            sum.failed = sum.failed.saturating_add(1);
        }
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
        let answer = self.client.resolve(request).await;
        let rejection = match answer {
            Ok(answer) => {
                self.take(answer);
                return Ok(());
            }
            Err(rejection) => rejection,
        };
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if matches!(rejection.reason, Reason::NoInstance | Reason::ServiceNotFound) {
            *known = Known { pools: Arc::default(), nobody: Some(rejection), unreachable: false };
            return Ok(());
        }
        known.unreachable = true;
        Err(rejection)
    }

    /// Goes by an answer from now on.
    fn take(&self, answer: ResolveResponse) {
        let pools = probes::pools(answer);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for number in probes::newly_tried(&known.pools, &pools) {
            self.stats.settle(number);
        }
        *known = Known { pools, nobody: None, unreachable: false };
    }

    /// Tells the hub how calls went.
    async fn report(&self) {
        let untold = {
            let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *untold)
        };
        let outcomes: Vec<_> = untold.into_values().collect();
        for some in outcomes.chunks(REPORT_MAX) {
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
mod tests {
    use super::*;
    use crate::client::fake;
    use crate::model::limits::PROBES_RETRY_MS;
    use crate::proto::v1::{Breaker, BreakerState, InstanceSpec};

    /// Two instances, whose breakers stand as told; three calls may try one.
    fn answer(service_half_open: bool, states: [BreakerState; 2]) -> ResolveResponse {
        let instance = |(incarnation, state): (u64, BreakerState)| {
            let id = format!("i{incarnation}");
            let breaker = Breaker { state: state.into(), ..Breaker::default() };
            Instance {
                spec: Some(InstanceSpec { service: "s".into(), id, ..InstanceSpec::default() }),
                incarnation,
                breaker: Some(breaker),
                ..Instance::default()
            }
        };
        let instances = (1..).zip(states).map(instance).collect();
        ResolveResponse { instances, probes: 3, service_half_open, ..ResolveResponse::default() }
    }

    fn resolver(answer: ResolveResponse) -> Resolver {
        let known = Known { pools: probes::pools(answer), nobody: None, unreachable: false };
        let shared = Arc::new(Shared {
            client: fake::client(&[&fake::nobody()], 100),
            service: "s".to_owned(),
            options: ResolverOptions::default(),
            known: RwLock::new(known),
            stats: CallStats::default(),
            untold: Mutex::default(),
        });
        Resolver { shared, _stop: watch::channel(()).0 }
    }

    const CLOSED: BreakerState = BreakerState::Closed;
    const HALF_OPEN: BreakerState = BreakerState::HalfOpen;

    #[tokio::test]
    async fn breakers_that_are_tried_get_few_calls_of_a_client() {
        for (of_service, of_instances, probes) in [
            (false, [HALF_OPEN, HALF_OPEN], 6),
            (true, [CLOSED, CLOSED], 3),
            (true, [HALF_OPEN, HALF_OPEN], 3),
        ] {
            let resolver = resolver(answer(of_service, of_instances));
            let mut calls: Vec<_> = (0..probes).map(|_| resolver.pick("").unwrap()).collect();
            let refused = resolver.pick("").unwrap_err();
            assert_eq!(refused.reason, Reason::NoInstance);
            assert_eq!(refused.retry_delay_ms(), Some(PROBES_RETRY_MS), "{refused}");
            // One is over: another one may go.
            calls.pop().unwrap().done(true);
            calls.push(resolver.pick("").unwrap());
            assert!(resolver.pick("").is_err());
        }
        // The others get what one that is tried may not have.
        let resolver = resolver(answer(false, [HALF_OPEN, CLOSED]));
        let calls: Vec<_> = (0..30).map(|_| resolver.pick("").unwrap()).collect();
        let of_one = calls.iter().filter(|call| call.instance().incarnation == 1).count();
        assert!(of_one <= 3, "{of_one}");
        let unbounded = ResolveResponse { probes: 0, ..answer(true, [HALF_OPEN, HALF_OPEN]) };
        let resolver = self::resolver(unbounded);
        let calls: Vec<_> = (0..30).map(|_| resolver.pick("").unwrap()).collect();
        assert_eq!(calls.len(), 30);
    }

    #[tokio::test]
    async fn what_is_too_much_for_those_that_are_tried_goes_to_the_next_as_the_hub_tells() {
        let other = |from: u64, state| {
            let mut next = answer(false, [state, state]);
            next.failed_over_to = "t".into();
            (from..).zip(&mut next.instances).for_each(|(n, instance)| instance.incarnation = n);
            next
        };
        for (of_service, of_instances, probes) in [
            (false, [HALF_OPEN, HALF_OPEN], 6),
            (true, [CLOSED, CLOSED], 3),
            (true, [HALF_OPEN, HALF_OPEN], 3),
        ] {
            let next = vec![other(11, HALF_OPEN), other(21, CLOSED)];
            let first = ResolveResponse { next, ..answer(of_service, of_instances) };
            let resolver = resolver(first.clone());
            let mut calls: Vec<_> =
                (0..probes + 6 + 20).map(|_| resolver.pick("").unwrap()).collect();
            let tens =
                calls.iter().map(|call| call.instance().incarnation / 10).collect::<Vec<_>>();
            let wanted = [vec![0; probes], vec![1; 6], vec![2; 20]].concat();
            assert_eq!(tens, wanted);
            // One is over: it is for the first again.
            calls.remove(0).done(true);
            let again = resolver.pick("").unwrap();
            assert_eq!(again.instance().incarnation / 10, 0);
            assert_eq!(resolver.pick("").unwrap().instance().incarnation / 10, 2);
            assert_eq!(resolver.instances(), first.instances);
            // Where all are tried, one more is refused.
            let next = vec![other(11, HALF_OPEN)];
            let all_tried = ResolveResponse { next, ..first };
            resolver.shared.take(all_tried);
            let refused = resolver.pick("").unwrap_err();
            assert_eq!(refused.retry_delay_ms(), Some(PROBES_RETRY_MS), "{refused}");
        }
    }

    #[tokio::test]
    async fn calls_from_before_a_breaker_is_tried_take_no_place() {
        for (of_service, of_instances, probes) in
            [(false, [HALF_OPEN, HALF_OPEN], 6), (true, [CLOSED, CLOSED], 3)]
        {
            let resolver = resolver(answer(false, [CLOSED, CLOSED]));
            let mut calls: Vec<_> = (0..20).map(|_| resolver.pick("").unwrap()).collect();
            resolver.shared.take(answer(of_service, of_instances));
            calls.extend((0..probes).map(|_| resolver.pick("").unwrap()));
            assert!(resolver.pick("").is_err());
            // An answer that tells nothing new frees none.
            resolver.shared.take(answer(of_service, of_instances));
            assert!(resolver.pick("").is_err());
        }
    }
}
