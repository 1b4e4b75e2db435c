//! The service registry on a node: it takes commands, knows in memory what is applied, chooses among
//! instances, and on the leader notices who falls silent.

mod breakers;
mod checks;
pub mod egress;
mod freshness;
mod probe;
mod renewals;
mod reports;
mod resolve;
mod samples;
mod standings;
mod tells;
mod upkeep;
mod view;
mod watch;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use self::breakers::Breakers;
pub use self::breakers::CallOutcome;
use self::checks::Verdicts;
use self::egress::Egress;
use self::freshness::Freshness;
use self::renewals::Renewals;
use self::reports::Untold;
pub use self::resolve::{Resolved, Wanted};
pub use self::samples::ServiceSample;
use self::samples::Transitions;
use self::tells::Telling;
use self::view::View;
pub use self::view::{Change, Known};
pub use self::watch::{Watch, WatchPart};
use super::propose::not_leader;
use super::query::Consistency;
use super::{Node, unexpected, validate};
use crate::balance::calls::CallStats;
pub use crate::balance::runs::{InARow, Runs};
use crate::balance::turns::Turns;
use crate::machine::registry::records::service_not_found;
use crate::machine::registry::{graph, query, records, watch as changes};
use crate::model::command::{
    DeleteService, DeregisterInstances, InstanceName, Kind, PutService, RegisterInstances,
    SetBreaker, SetMode,
};
use crate::model::limits::{INSTANCES_PER_CALL_MAX, REGISTRY_WATCHERS_MAX};
use crate::model::outcome::{InstanceOutcome, Outcome};
use crate::model::quota::check_service;
use crate::model::registry::{
    BreakerState, CheckKind, InstanceSpec, Mode, ServiceConfig, ServiceInfo, check_instance_id,
};
use crate::model::rejection::{Reason, Rejection};
use crate::runtime::clock;

/// What a node keeps of the registry beside the state.
pub(super) struct Registry {
    view: View,
    renewals: Mutex<Renewals>,
    calls: CallStats,
    /// Choices of instances of another zone than the caller's.
    out_of_zone: AtomicU64,
    turns: Turns,
    breakers: Mutex<Breakers>,
    /// Calls that the leader was not told of yet.
    untold: Mutex<Untold>,
    verdicts: Mutex<Verdicts>,
    egress: Arc<Egress>,
    watchers: Arc<Semaphore>,
    transitions: Transitions,
    telling: Telling,
    freshness: Freshness,
}

impl Registry {
    pub(super) fn new(egress: Egress) -> Self {
        Self {
            view: View::default(),
            renewals: Mutex::default(),
            calls: CallStats::default(),
            out_of_zone: AtomicU64::new(0),
            turns: Turns::default(),
            breakers: Mutex::default(),
            untold: Mutex::default(),
            verdicts: Mutex::default(),
            egress: Arc::new(egress),
            watchers: Arc::new(Semaphore::new(REGISTRY_WATCHERS_MAX)),
            transitions: Transitions::default(),
            telling: Telling::default(),
            freshness: Freshness::default(),
        }
    }

    /// Where this hub may connect to.
    pub(super) fn egress(&self) -> Arc<Egress> {
        Arc::clone(&self.egress)
    }

    /// Tells of each change of what is known.
    pub(super) fn revisions(&self) -> tokio::sync::watch::Receiver<u64> {
        self.view.revisions()
    }

    fn verdicts(&self) -> MutexGuard<'_, Verdicts> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn renewals(&self) -> MutexGuard<'_, Renewals> {
        self.renewals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn breakers(&self) -> MutexGuard<'_, Breakers> {
        self.breakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts what runs for as long as the node does.
pub(super) fn start(node: &Arc<Node>) {
    upkeep::start(node);
    freshness::start(node);
    standings::start(node);
    reports::start(node);
    checks::start(node);
}

/// A renewal of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// The service.
    pub service: String,
    /// The instance.
    pub id: String,
    /// Which registration of it.
    pub incarnation: u64,
}

/// A service as it is at one moment, and a page of its instances.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The service with some of its instances.
    pub page: query::Page,
    /// What it needs, transitively.
    pub tree: graph::Node,
    /// The registry's revision.
    pub revision: u64,
}

fn check_count(count: usize, what: &str) -> Result<(), Rejection> {
    if (1..=INSTANCES_PER_CALL_MAX).contains(&count) {
        return Ok(());
    }
    let text = format!("{count} {what} are not 1 to {INSTANCES_PER_CALL_MAX}; split the call");
    Err(Rejection::new(Reason::InvalidRequest, text))
}

fn instances(outcome: Outcome) -> Result<Vec<InstanceOutcome>, Rejection> {
    match outcome {
        Outcome::Instances(each) => Ok(each),
        other => Err(unexpected(&other)),
    }
}

impl Node {
    /// Registers a service, or replaces its settings.
    ///
    /// # Errors
    /// `INVALID_NAME`, `INVALID_CONFIG`, `DEPENDENCY_CYCLE`, `REVISION_MISMATCH`, `LIMIT_REACHED`,
    /// and those of any proposal.
    pub async fn put_service(
        &self,
        name: &str,
        config: ServiceConfig,
        if_revision: u64,
        request_id: String,
    ) -> Result<ServiceInfo, Rejection> {
        check_service(name)?;
        validate::request_id(&request_id)?;
        config.check(name)?;
        let put = PutService { name: name.to_owned(), config, if_revision, request_id };
        match self.execute(Kind::PutService(put)).await? {
            Outcome::Service(info) => Ok(*info),
            other => Err(unexpected(&other)),
        }
    }

    /// Deletes a service that has no instances.
    ///
    /// # Errors
    /// `SERVICE_NOT_FOUND`, `SERVICE_IN_USE`, and those of any proposal.
    pub async fn delete_service(&self, name: &str, request_id: String) -> Result<(), Rejection> {
        check_service(name)?;
        validate::request_id(&request_id)?;
        let delete = DeleteService { name: name.to_owned(), request_id };
        match self.execute(Kind::DeleteService(delete)).await? {
            Outcome::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// A service with its instances after an id, at most so many and as many as a page takes, and what it needs.
    ///
    /// # Errors
    /// `SERVICE_NOT_FOUND`, and those of [`Node::fresh`].
    pub async fn service(
        &self,
        name: &str,
        after: String,
        limit: usize,
        wanted: Consistency,
    ) -> Result<Shown, Rejection> {
        check_service(name)?;
        self.fresh(wanted, self.deadline()).await?;
        let known = name.to_owned();
        let found = self
            .read(move |db| {
                let page = query::page(db, &known, &after, limit)?;
                let (found, revision) =
                    (page.zip(graph::tree(db, &known)?), changes::revision(db)?);
                Ok(found.map(|(page, tree)| Shown { page, tree, revision }))
            })
            .await?;
        found.ok_or_else(|| service_not_found(name))
    }

    /// Services after a name, and the registry's revision that this shows.
    ///
    /// # Errors
    /// Those of [`Node::fresh`].
    pub async fn services(
        &self,
        after: String,
        limit: usize,
        wanted: Consistency,
    ) -> Result<(Vec<ServiceInfo>, u64), Rejection> {
        self.fresh(wanted, self.deadline()).await?;
        self.read(move |db| Ok((query::services(db, &after, limit)?, changes::revision(db)?))).await
    }

    /// Registers instances, each by itself: an address that is forbidden refuses one, and the others go on.
    ///
    /// # Errors
    /// `INVALID_REQUEST` for none or too many, and those of any proposal.
    pub async fn register_instances(
        &self,
        specs: Vec<InstanceSpec>,
    ) -> Result<Vec<InstanceOutcome>, Rejection> {
        check_count(specs.len(), "instances")?;
        let refused: Vec<_> = specs.iter().map(|spec| self.check_egress(spec).err()).collect();
        let judged = specs.into_iter().zip(&refused);
        let allowed: Vec<_> =
            judged.filter(|(_, refused)| refused.is_none()).map(|(spec, _)| spec).collect();
        let mut outcomes = Vec::new().into_iter();
        if !allowed.is_empty() {
            let register = Kind::RegisterInstances(RegisterInstances { instances: allowed });
            outcomes = instances(self.execute(register).await?)?.into_iter();
        }
        let each = refused.into_iter().map(|refused| refused.map(Err).or_else(|| outcomes.next()));
        Ok(each.flatten().collect())
    }

    /// Refuses addresses that the hub would have to connect to and may not.
    fn check_egress(&self, spec: &InstanceSpec) -> Result<(), Rejection> {
        let known = self.registry.view.service(&spec.service);
        let service = known.as_ref().and_then(|known| known.service.as_ref());
        if service.is_some_and(|s| s.config.health.check.kind() != CheckKind::None) {
            spec.addresses.iter().try_for_each(|address| self.registry.egress.check(address))?;
        }
        Ok(())
    }

    /// Deregisters instances, each by itself.
    ///
    /// # Errors
    /// `INVALID_REQUEST` for none or too many, and those of any proposal.
    pub async fn deregister_instances(
        &self,
        names: Vec<InstanceName>,
        force: bool,
    ) -> Result<Vec<InstanceOutcome>, Rejection> {
        check_count(names.len(), "instances")?;
        let gone = DeregisterInstances { instances: names, force };
        instances(self.execute(Kind::DeregisterInstances(gone)).await?)
    }

    /// Drains instances, takes them into maintenance, or back; each by itself.
    ///
    /// # Errors
    /// `INVALID_REQUEST` for none or too many, and those of any proposal.
    pub async fn set_mode(
        &self,
        names: Vec<InstanceName>,
        mode: Mode,
        force: bool,
        request_id: String,
    ) -> Result<Vec<InstanceOutcome>, Rejection> {
        check_count(names.len(), "instances")?;
        validate::request_id(&request_id)?;
        let set = SetMode { instances: names, mode: mode as i32, force, request_id };
        instances(self.execute(Kind::SetMode(set)).await?)
    }

    /// Renews instances: how long each renewal lasts, in order; `None`: that one is lost.
    ///
    /// # Errors
    /// `NOT_LEADER`, `NO_QUORUM`: another node may lead by now; `INVALID_REQUEST` for too many.
    pub async fn renew(&self, renewals: &[Renewal]) -> Result<Vec<Option<Duration>>, Rejection> {
        if !renewals.is_empty() {
            check_count(renewals.len(), "renewals")?;
        }
        if !self.raft.is_leader() || self.registry.renewals().term().is_none() {
            return Err(not_leader(&self.raft));
        }
        if !self.raft.has_quorum() {
            return Err(self.not_leader_or_quorum());
        }
        let (mut lasting, mut unknown) = (Vec::with_capacity(renewals.len()), Vec::new());
        {
            let (mut known, now) = (self.registry.renewals(), clock::now());
            for (place, renewal) in renewals.iter().enumerate() {
                let lasts = known.renew(renewal.incarnation, &renewal.service, &renewal.id, now);
                if lasts.is_none() {
                    unknown.push((place, renewal.clone()));
                }
                lasting.push(lasts);
            }
        }
        if !unknown.is_empty() {
            for (place, lasts) in self.renew_unknown(unknown).await? {
                lasting[place] = lasts;
            }
        }
        Ok(lasting)
    }

    /// Those that were registered a moment ago may be unknown in memory; the others are lost.
    async fn renew_unknown(
        &self,
        unknown: Vec<(usize, Renewal)>,
    ) -> Result<Vec<(usize, Option<Duration>)>, Rejection> {
        let found = self
            .read(move |db| {
                let mut found = Vec::new();
                for (place, renewal) in &unknown {
                    let record = records::instance(db, &renewal.service, &renewal.id)?;
                    let is_same = |r: &records::InstanceRecord| {
                        r.number == renewal.incarnation && r.lost_at_ms == 0
                    };
                    let service = records::service(db, &renewal.service)?;
                    found.push((*place, record.filter(is_same).zip(service)));
                }
                Ok(found)
            })
            .await?;
        let renewed = |(record, service): (records::InstanceRecord, records::ServiceRecord)| {
            let (mut renewals, now) = (self.registry.renewals(), clock::now());
            let (number, spec) = (record.number, &record.spec);
            if number > renewals.newest() {
                // The view hears of it and tracks it, with all of its time left.
                return Some(Duration::from_millis(record.ttl_ms(&service.config)));
            }
            // It may have done so meanwhile.
            renewals.renew(number, &spec.service, &spec.id, now)
        };
        Ok(found.into_iter().map(|(place, known)| (place, known.and_then(renewed))).collect())
    }

    /// What a service needs, transitively.
    ///
    /// # Errors
    /// `SERVICE_NOT_FOUND`, and those of [`Node::fresh`].
    pub async fn readiness_of(
        &self,
        name: &str,
        wanted: Consistency,
    ) -> Result<graph::Node, Rejection> {
        check_service(name)?;
        self.fresh(wanted, self.deadline()).await?;
        let known = name.to_owned();
        let found = self.read(move |db| graph::tree(db, &known)).await?;
        found.ok_or_else(|| service_not_found(name))
    }

    /// Who, after a name, declares a dependency on whom, as much as a page takes: of one service both ways, or
    /// (empty) of all.
    ///
    /// # Errors
    /// `SERVICE_NOT_FOUND`, and those of [`Node::fresh`].
    pub async fn dependencies(
        &self,
        name: &str,
        after: String,
        wanted: Consistency,
    ) -> Result<graph::Edges, Rejection> {
        self.fresh(wanted, self.deadline()).await?;
        let known = name.to_owned();
        let found = self.read(move |db| graph::edges_page(db, &known, &after)).await?;
        found.ok_or_else(|| service_not_found(name))
    }

    /// Forces a breaker open or closed, or lets it be again; of the service when `instance` is empty.
    ///
    /// # Errors
    /// `INVALID_REQUEST`, `SERVICE_NOT_FOUND`, `INSTANCE_NOT_FOUND`, and those of any proposal.
    pub async fn set_breaker(
        &self,
        service: &str,
        instance: &str,
        to: BreakerState,
        request_id: String,
    ) -> Result<(), Rejection> {
        check_service(service)?;
        validate::request_id(&request_id)?;
        if !instance.is_empty() {
            check_instance_id(instance)?;
        }
        if matches!(to, BreakerState::Open | BreakerState::HalfOpen) {
            let text = "a breaker opens by itself; force it open or closed, or close it";
            return Err(Rejection::new(Reason::InvalidRequest, text));
        }
        let set = SetBreaker {
            service: service.to_owned(),
            instance: instance.to_owned(),
            to: to as i32,
            forced: true,
            request_id,
            ..SetBreaker::default()
        };
        match self.execute(Kind::SetBreaker(set)).await? {
            Outcome::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }
}
