//! The route of one subscription: one task that pulls, calls and settles.

use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::watch;

use super::Routed;
use super::answer::Verdict;
use super::call::{Carrier, NotConnected, Receiver};
use super::parcel::{Ended, Parcel, items, unpack};
use crate::balance::runs::Runs;
use crate::model::command::delivery::Action;
use crate::model::command::{Kind, PauseSubscription, ResumeSubscription};
use crate::model::limits::{
    HUB_CONSUMER, LEASE_MS, PULL_BYTES_MAX, PULL_WAIT_MS_MAX, RANGES_MAX, ROUTE_DOWN_MS,
    ROUTE_LEASE_SLACK_MS, ROUTE_LOOK_MS, ROUTE_REST_MS, ROUTE_TRIES,
};
use crate::model::registry::InstanceInfo;
use crate::model::rejection::Rejection;
use crate::model::subscription::Target;
use crate::node::Node;
use crate::node::lead::{Delivery, PullRequest};
use crate::node::registry::{CallOutcome, Wanted};
use crate::runtime::clock;

/// The rest after a pull that was refused: the subscription is paused, or the leader is leaving.
const REFUSED_REST: Duration = Duration::from_millis(200);

/// What of a subscription's settings a route goes by.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) target: Target,
    /// Events that one instance has at once.
    pub(super) per_instance: u32,
    /// Events that all of them have at once.
    pub(super) max_in_flight: u32,
}

/// A call that ended.
struct Called {
    parcel: Parcel,
    instance: InstanceInfo,
    result: Result<Verdict, NotConnected>,
    took: Duration,
}

type Pulled = Result<Vec<Delivery>, Rejection>;

/// See the module.
pub(super) struct Route {
    node: Arc<Node>,
    name: String,
    settings: watch::Receiver<Settings>,
    carrier: Arc<Carrier>,
    calls: FuturesUnordered<BoxFuture<'static, Called>>,
    /// Calls under way, by incarnation.
    in_flight: HashMap<u64, u32>,
    /// Events that wait until an instance has room.
    parked: VecDeque<Parcel>,
    ended: Vec<Ended>,
    reports: Vec<CallOutcome>,
    pulling: Option<BoxFuture<'static, Pulled>>,
    settling: Option<BoxFuture<'static, ()>>,
    /// Telling the state whether the target is down, and whether that was told.
    telling: Option<BoxFuture<'static, Option<bool>>>,
    told_down: Option<bool>,
    down_since: Option<Instant>,
    /// The incarnations that take calls.
    takers: Vec<u64>,
    rest_until: Instant,
    /// Rests in a row.
    rests: u32,
}

/// Waits for what is under way, if anything is.
async fn ready<T>(waiting: &mut Option<BoxFuture<'static, T>>) -> T {
    let Some(future) = waiting else { return pending().await };
    let value = future.await;
    *waiting = None;
    value
}

/// How long a call took, as it is told: only what was done well. Who refuses at once would seem to be the
/// fastest.
fn told_us(result: &Result<Verdict, NotConnected>, took: Duration) -> u64 {
    let well = result.as_ref().is_ok_and(|verdict| matches!(verdict.action, Action::Ack(_)));
    if well { u64::try_from(took.as_micros()).unwrap_or(u64::MAX) } else { 0 }
}

impl Route {
    pub(super) fn new(
        node: &Arc<Node>,
        name: &str,
        settings: watch::Receiver<Settings>,
        carrier: &Arc<Carrier>,
    ) -> Self {
        Self {
            node: Arc::clone(node),
            name: name.to_owned(),
            settings,
            carrier: Arc::clone(carrier),
            calls: FuturesUnordered::new(),
            in_flight: HashMap::new(),
            parked: VecDeque::new(),
            ended: Vec::new(),
            reports: Vec::new(),
            pulling: None,
            settling: None,
            telling: None,
            told_down: None,
            down_since: None,
            takers: Vec::new(),
            rest_until: clock::now(),
            rests: 0,
        }
    }

    /// Delivers until there is no target any more, or this node does not lead; then ends what is under
    /// way.
    pub(super) async fn run(mut self) {
        let shutdown = self.node.shutdown.clone();
        let mut looks = tokio::time::interval(Duration::from_millis(ROUTE_LOOK_MS));
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut revision = self.node.registry.revisions();
        loop {
            let ends = self.settings.has_changed().is_err();
            if ends {
                self.pulling = None;
                self.give_back();
            } else {
                self.pull();
            }
            self.settle();
            if ends && self.calls.is_empty() && self.settling.is_none() {
                return;
            }
            tokio::select! {
                Some(called) = self.calls.next(), if !self.calls.is_empty() => self.called(called),
                pulled = ready(&mut self.pulling) => self.pulled(pulled),
                () = ready(&mut self.settling) => {}
                told = ready(&mut self.telling) => self.told_down = told,
                _ = looks.tick() => self.look().await,
                _ = revision.changed() => self.look().await,
                _ = self.settings.changed(), if !ends => self.look().await,
                () = shutdown.wait() => return,
            }
            while let Some(Some(called)) = self.calls.next().now_or_never() {
                self.called(called);
            }
        }
    }

    fn target(&self) -> Target {
        self.settings.borrow().target.clone()
    }

    /// What instances are chosen by: those of this node's zone first, and those of others when the former are
    /// full or refuse to connect.
    fn wanted(&self, target: &Target) -> Wanted {
        Wanted {
            service: target.service.clone(),
            count: 1,
            protocol: target.format().protocol().to_owned(),
            zone: self.node.zone.clone(),
            healthy_only: true,
            ..Wanted::default()
        }
    }

    /// Looks who takes calls, and tells when nobody does, or somebody does again.
    async fn look(&mut self) {
        self.settings.mark_unchanged();
        let target = self.target();
        self.takers = self.node.takers(&self.wanted(&target)).await;
        if !self.takers.is_empty() {
            self.down_since = None;
            self.tell_down(false);
            return;
        }
        // What it has got meanwhile is released.
        self.pulling = None;
        let since = *self.down_since.get_or_insert_with(clock::now);
        if clock::now() - since >= Duration::from_millis(ROUTE_DOWN_MS) {
            self.tell_down(true);
        }
    }

    fn tell_down(&mut self, down: bool) {
        if self.told_down == Some(down)
            || self.telling.is_some()
            || self.settings.has_changed().is_err()
        {
            return;
        }
        let name = self.name.clone();
        let command = if down {
            let pause = PauseSubscription { name, target_down: true, ..Default::default() };
            Kind::PauseSubscription(pause)
        } else {
            let resume = ResumeSubscription { name, target_up: true, ..Default::default() };
            Kind::ResumeSubscription(resume)
        };
        let node = Arc::clone(&self.node);
        // What fails is told again at the next look.
        self.telling =
            Some(Box::pin(async move { node.execute(command).await.ok().map(|_| down) }));
    }

    /// Asks for as many events as instances have room for.
    fn pull(&mut self) {
        let Settings { target, per_instance, max_in_flight } = self.settings.borrow().clone();
        let room_at = |taker| {
            per_instance.saturating_sub(self.in_flight.get(taker).copied().unwrap_or(0)) as usize
        };
        let room = self.takers.iter().map(room_at).sum::<usize>().saturating_sub(self.ended.len());
        let of_all = (max_in_flight as usize).saturating_sub(self.calls.len() + self.ended.len());
        let room = room.min(of_all);
        let rests = clock::now() < self.rest_until;
        if self.pulling.is_some() || rests || room == 0 || !self.parked.is_empty() {
            return;
        }
        let lease_ms = target.timeout_ms.saturating_add(ROUTE_LEASE_SLACK_MS);
        let request = PullRequest {
            subscription: self.name.clone(),
            consumer: HUB_CONSUMER.to_owned(),
            service: target.service,
            max_events: room as u64,
            max_bytes: PULL_BYTES_MAX,
            lease_ms: lease_ms.clamp(*LEASE_MS.start(), *LEASE_MS.end()),
            wait: Duration::from_millis(PULL_WAIT_MS_MAX),
        };
        let node = Arc::clone(&self.node);
        self.pulling = Some(Box::pin(async move { node.pull(request).await }));
    }

    fn pulled(&mut self, pulled: Pulled) {
        let deliveries = match pulled {
            Ok(deliveries) => deliveries,
            Err(rejection) => {
                tracing::debug!(%rejection, subscription = %self.name, "nothing to deliver");
                self.rest_until = self.rest_until.max(clock::now() + REFUSED_REST);
                return;
            }
        };
        for delivery in deliveries {
            match unpack(&self.name, &delivery, self.node.now()) {
                Ok(parcels) => parcels.into_iter().for_each(|parcel| self.send(parcel)),
                Err(fault) => {
                    // A corrupt state stops the node; its leases run out.
                    let _ = self.node.unreadable(&fault);
                    return;
                }
            }
        }
    }

    /// Hands an event to an instance; it waits where all have as many as they may.
    fn send(&mut self, mut parcel: Parcel) {
        let Settings { target, per_instance, .. } = self.settings.borrow().clone();
        let now = self.node.now();
        // What has waited too long is looked at anew.
        let left = parcel.patience_ms(now);
        if left == 0 {
            self.ended.push(Ended::new(&parcel, Verdict::release()));
            return;
        }
        let full = |(number, calls): (&u64, &u32)| (*calls >= per_instance).then_some(*number);
        let full: Vec<u64> = self.in_flight.iter().filter_map(full).collect();
        let mut wanted = self.wanted(&target);
        wanted.key = std::mem::take(&mut parcel.key);
        wanted.except = parcel.tried.iter().chain(&full).copied().collect();
        let found = self.node.pick(&wanted);
        parcel.key = std::mem::take(&mut wanted.key);
        let protocol = target.format().protocol();
        // As many calls as a breaker that is being tried lets through are under way.
        let tried = found.as_ref().is_err_and(|why| why.retry_delay_ms().is_some());
        let chosen = found.ok().and_then(|instance| {
            let address = instance.spec.addresses.iter().find(|a| a.protocol == protocol).cloned();
            address.map(|address| (instance, address))
        });
        let Some((instance, address)) = chosen else {
            let waits = tried && !self.in_flight.is_empty();
            if waits || full.iter().any(|number| !parcel.tried.contains(number)) {
                self.parked.push_back(parcel);
            } else {
                self.nobody(&parcel);
            }
            return;
        };
        *self.in_flight.entry(instance.incarnation).or_default() += 1;
        let patience = Duration::from_millis(target.timeout_ms.min(left));
        let carrier = Arc::clone(&self.carrier);
        self.calls.push(Box::pin(async move {
            let began = clock::now();
            let to = Receiver {
                service: instance.spec.service.clone(),
                instance: instance.spec.id.clone(),
                address,
            };
            let result = carrier.call(&target, &parcel.letter, &to, patience, now).await;
            Called { parcel, instance, result, took: clock::now() - began }
        }));
    }

    /// Takes note of a call that ended.
    fn called(&mut self, called: Called) {
        let Called { mut parcel, instance, result, took } = called;
        let number = instance.incarnation;
        if let Some(calls) = self.in_flight.get_mut(&number) {
            *calls -= 1;
            if *calls == 0 {
                self.in_flight.remove(&number);
            }
        }
        let failed = result.as_ref().map_or(true, |verdict| verdict.failed);
        let Routed { ok, failed: lost, not_connected } = &self.node.routed;
        let counter = match (&result, failed) {
            (Err(_), _) => not_connected,
            (Ok(_), true) => lost,
            (Ok(_), false) => ok,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.reports.push(CallOutcome {
            service: instance.spec.service,
            instance: instance.spec.id,
            calls: Runs::of(!failed),
            not_connected: u32::from(result.is_err()),
            latency_us: told_us(&result, took),
        });
        match result {
            Ok(verdict) => {
                self.rests = 0;
                self.ended.push(Ended::new(&parcel, verdict));
            }
            Err(NotConnected(why)) => {
                parcel.tried.push(number);
                parcel.why = why;
                if parcel.tried.len() < ROUTE_TRIES {
                    self.send(parcel);
                } else {
                    self.nobody(&parcel);
                }
            }
        }
        self.unpark();
    }

    /// Sends events that waited, until one of them has to wait again: as long as any waits, a call is
    /// under way whose end leads here.
    fn unpark(&mut self) {
        for _ in 0..self.parked.len() {
            let Some(parcel) = self.parked.pop_front() else { return };
            let waiting = self.parked.len();
            self.send(parcel);
            if self.parked.len() > waiting {
                return;
            }
        }
    }

    /// Gives an event back that nobody takes: it costs no attempt, but the route rests for a while.
    fn nobody(&mut self, parcel: &Parcel) {
        self.ended.push(Ended::new(parcel, Verdict::release()));
        let now = clock::now();
        if now >= self.rest_until {
            let why = &parcel.why;
            tracing::warn!(subscription = %self.name, %why, "no instance takes events");
            let rest = ROUTE_REST_MS.start().saturating_mul(1 << self.rests.min(10));
            self.rest_until = now + Duration::from_millis(rest.min(*ROUTE_REST_MS.end()));
            self.rests = self.rests.saturating_add(1);
        }
    }

    /// Gives back what was not sent yet.
    fn give_back(&mut self) {
        for parcel in std::mem::take(&mut self.parked) {
            self.ended.push(Ended::new(&parcel, Verdict::release()));
        }
    }

    /// Begins to settle what has ended, one batch at a time; who waits is in the next one.
    fn settle(&mut self) {
        if self.settling.is_some() || self.ended.is_empty() {
            return;
        }
        let reports = std::mem::take(&mut self.reports);
        for some in reports.chunks(RANGES_MAX) {
            if let Err(rejection) = self.node.report_calls(some) {
                tracing::debug!(%rejection, "how calls went is not told");
            }
        }
        let batch = self.ended.len().min(RANGES_MAX);
        let items = items(self.ended.drain(..batch));
        let (node, name) = (Arc::clone(&self.node), self.name.clone());
        self.settling = Some(Box::pin(async move {
            let settled = node.settle(name.clone(), HUB_CONSUMER.to_owned(), items).await;
            if let Err(rejection) = settled {
                tracing::debug!(%rejection, subscription = %name, "not settled: leases run out");
            }
        }));
    }
}

impl Node {
    /// An instance for a call, from what this node knows.
    fn pick(&self, wanted: &Wanted) -> Result<InstanceInfo, Rejection> {
        let (dice, _) = uuid::Uuid::new_v4().as_u64_pair();
        let mut found = self.registry.choose(wanted, dice, self.now(), clock::now())?;
        Ok(found.instances.remove(0))
    }
}

#[cfg(test)]
mod tests {
    use super::super::answer::{HttpAnswer, of_http};
    use super::*;
    use crate::model::ids::UnixMs;

    #[test]
    fn only_what_was_done_well_tells_how_fast_an_instance_is() {
        let took = Duration::from_micros(7);
        let of = |status| {
            let answer = HttpAnswer { status, ..HttpAnswer::default() };
            told_us(&Ok(of_http(&answer, false, UnixMs(0))), took)
        };
        assert_eq!([200, 422, 429, 500, 503].map(of), [7, 0, 0, 0, 0]);
        assert_eq!(told_us(&Err(NotConnected("no".into())), took), 0);
    }
}
