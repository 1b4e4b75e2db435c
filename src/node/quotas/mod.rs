//! Quotas of services: kept in the state, enforced here, where calls come in.
//!
//! Every node keeps the limits in memory and reads them again every second, and when leadership
//! moves, so that whoever leads has them. Where there are none, admitting a call costs one atomic
//! read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::query::Consistency;
use super::{Node, unexpected};
use crate::machine::quota;
use crate::machine::subscription::backlog;
use crate::model::command::{Kind, Notice, NoticeKind, Publish, SetQuota};
use crate::model::limits::{
    BACKLOG_KNOWN_MS, BACKLOG_TOPICS_MAX, OVERLOADED_RETRY_MS, QUOTA_NOTICE_MS, QUOTAS_MAX,
};
use crate::model::outcome::Outcome;
use crate::model::quota::{QuotaLimits, check_service};
use crate::model::rejection::{Reason, Rejection};
use crate::runtime::{clock, tasks};

/// How often the limits are read again.
const EVERY: Duration = Duration::from_secs(1);

/// The service of calls that name none.
pub const DEFAULT_SERVICE: &str = "default";

/// One of the limits of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Limit {
    PublishEvents,
    PublishBytes,
    InFlight,
    Retries,
    Backlog,
}

impl Limit {
    /// As the API names it.
    fn name(self) -> &'static str {
        match self {
            Self::PublishEvents => "publish_events_per_s",
            Self::PublishBytes => "publish_bytes_per_s",
            Self::InFlight => "in_flight",
            Self::Retries => "retries_per_s",
            Self::Backlog => "backlog_bytes",
        }
    }

    fn of(self, limits: &QuotaLimits) -> u64 {
        match self {
            Self::PublishEvents => limits.publish_events_per_s,
            Self::PublishBytes => limits.publish_bytes_per_s,
            Self::InFlight => limits.in_flight,
            Self::Retries => limits.retries_per_s,
            Self::Backlog => limits.backlog_bytes,
        }
    }
}

/// The limits of all services, with what is left of them.
#[derive(Debug, Default)]
pub(super) struct Quotas {
    /// Whether there are any.
    any: AtomicBool,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    services: HashMap<String, Service>,
    /// Topics that services with a limit of backlog publish to; for a moment also some that do not
    /// exist.
    topics: HashMap<String, Watched>,
    /// Limits that were hit since the last look.
    hits: BTreeSet<(String, Limit)>,
    /// When a hit was told last.
    told: BTreeMap<(String, Limit), Instant>,
}

#[derive(Debug)]
struct Service {
    limits: QuotaLimits,
    events: Bucket,
    bytes: Bucket,
}

/// A topic whose backlog is looked at.
#[derive(Clone, Copy, Debug)]
struct Watched {
    used: Instant,
    backlog: u64,
}

/// A token bucket that holds a second's worth: as the time at which it will be full again.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    full_at: Instant,
}

const SECOND: Duration = Duration::from_secs(1);

impl Bucket {
    /// How long until this much may be taken; `None`: now. More than a second's worth may be once
    /// the bucket is full.
    fn wait(self, now: Instant, cost: Duration) -> Option<Duration> {
        let owed = self.full_at.saturating_duration_since(now) + cost.min(SECOND);
        owed.checked_sub(SECOND).filter(|wait| !wait.is_zero())
    }

    /// Takes, on credit if need be.
    fn take(&mut self, now: Instant, cost: Duration) {
        self.full_at = self.full_at.max(now) + cost;
    }
}

/// How long it takes to earn an amount; no time without a limit.
fn cost(amount: u64, rate: u64) -> Duration {
    let nanos = u128::from(amount) * SECOND.as_nanos() / u128::from(rate.max(1));
    let time = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(DEBT_MAX);
    if rate == 0 { Duration::ZERO } else { time }
}

/// The longest that one call is paid for.
const DEBT_MAX: Duration = Duration::from_secs(3600);

impl Quotas {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit<'t>(
        &self,
        service: &str,
        topics: impl IntoIterator<Item = &'t str>,
        amount: (u64, u64),
        now: Instant,
    ) -> Result<(), Rejection> {
        if !self.any.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut known = self.known();
        match known.admit(service, topics, amount, now) {
            Ok(()) => Ok(()),
            Err((limit, rejection)) => {
                known.hits.insert((service.to_owned(), limit));
                Err(rejection)
            }
        }
    }

    /// Takes note that a service came to a limit.
    pub(super) fn hit(&self, service: &str, limit: Limit) {
        self.known().hits.insert((service.to_owned(), limit));
    }

    /// Takes the limits over; what is left of those that stay as they were stays too.
    fn refresh(&self, quotas: Vec<(String, QuotaLimits)>, now: Instant) {
        let mut known = self.known();
        let mut old = std::mem::take(&mut known.services);
        for (name, limits) in quotas {
            let full = Bucket { full_at: now };
            let service = old
                .remove(&name)
                .filter(|service| service.limits == limits)
                .unwrap_or(Service { limits, events: full, bytes: full });
            known.services.insert(name, service);
        }
        let long = Duration::from_millis(BACKLOG_KNOWN_MS);
        known.topics.retain(|_, topic| now.saturating_duration_since(topic.used) < long);
        self.any.store(!known.services.is_empty(), Ordering::Relaxed);
    }

    /// Takes over how much waits in the topics that were looked at; those that do not exist are
    /// forgotten.
    fn backlogs(&self, looked_at: &[String], found: &BTreeMap<String, u64>) {
        let mut known = self.known();
        for topic in looked_at {
            match (known.topics.get_mut(topic), found.get(topic)) {
                (Some(watched), Some(backlog)) => watched.backlog = *backlog,
                _ => drop(known.topics.remove(topic)),
            }
        }
    }

    /// What is to be told: each limit that was hit, not again and again.
    fn notices(&self, now: Instant) -> Vec<Notice> {
        let mut known = self.known();
        let Known { services, hits, told, .. } = &mut *known;
        let long = Duration::from_millis(QUOTA_NOTICE_MS);
        told.retain(|_, at| now.saturating_duration_since(*at) < long);
        let mut notices = Vec::new();
        for (about, limit) in std::mem::take(hits) {
            let Some(service) = services.get(&about) else { continue };
            if told.contains_key(&(about.clone(), limit)) {
                continue;
            }
            told.insert((about.clone(), limit), now);
            let (kind, value) = (NoticeKind::QuotaHit as i32, limit.of(&service.limits));
            notices.push(Notice { about, kind, limit: limit.name().to_owned(), value });
        }
        notices
    }
}

impl Known {
    /// Which limit does not let a call through, and the refusal.
    fn admit<'t>(
        &mut self,
        service: &str,
        topics: impl IntoIterator<Item = &'t str>,
        (events, bytes): (u64, u64),
        now: Instant,
    ) -> Result<(), (Limit, Rejection)> {
        let Some(known) = self.services.get_mut(service) else { return Ok(()) };
        let limits = known.limits;
        for topic in topics.into_iter().filter(|_| limits.backlog_bytes > 0) {
            let backlog = watch(&mut self.topics, topic, now);
            if backlog > limits.backlog_bytes {
                let refused = backlogged(service, topic, limits.backlog_bytes, backlog);
                return Err((Limit::Backlog, refused));
            }
        }
        let events = cost(events, limits.publish_events_per_s);
        let bytes = cost(bytes, limits.publish_bytes_per_s);
        if let Some(wait) = known.events.wait(now, events) {
            let refused = exceeded(service, "events", limits.publish_events_per_s, wait);
            return Err((Limit::PublishEvents, refused));
        }
        if let Some(wait) = known.bytes.wait(now, bytes) {
            let refused = exceeded(service, "bytes", limits.publish_bytes_per_s, wait);
            return Err((Limit::PublishBytes, refused));
        }
        known.events.take(now, events);
        known.bytes.take(now, bytes);
        Ok(())
    }
}

/// The backlog of a topic as far as it is known. It is looked at from now on, unless too many are.
fn watch(topics: &mut HashMap<String, Watched>, topic: &str, now: Instant) -> u64 {
    if let Some(watched) = topics.get_mut(topic) {
        watched.used = now;
        return watched.backlog;
    }
    if topics.len() < BACKLOG_TOPICS_MAX {
        topics.insert(topic.to_owned(), Watched { used: now, backlog: 0 });
    }
    0
}

fn exceeded(service: &str, what: &str, rate: u64, wait: Duration) -> Rejection {
    let wait_ms = u64::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
    Rejection::new(
        Reason::QuotaExceeded,
        format!(
            "service {service} publishes more than {rate} {what} a second, its quota; go on in {wait_ms} ms, or raise it with: mhub quota set {service}"
        ),
    )
    .with("service", service)
    .with("limit", rate)
    .retry_after_ms(wait_ms)
}

/// The refusal of events to a service that has as many as it may.
pub(super) fn in_flight_exceeded(service: &str) -> Rejection {
    let text = format!(
        "as many events are in flight to service {service} as its quota allows; settle some, or raise it with: mhub quota set {service} --in-flight"
    );
    let exceeded = Rejection::new(Reason::QuotaExceeded, text).with("service", service);
    exceeded.with("limit", "in_flight").retry_after_ms(OVERLOADED_RETRY_MS)
}

fn backlogged(service: &str, topic: &str, limit: u64, backlog: u64) -> Rejection {
    let wait_ms = u64::try_from(EVERY.as_millis()).unwrap_or(u64::MAX);
    Rejection::new(
        Reason::QuotaExceeded,
        format!(
            "{backlog} bytes of topic {topic} wait for its slowest subscription, and service {service} may publish there up to {limit}; see which with: mhub queue top, or raise it with: mhub quota set {service} --backlog-bytes"
        ),
    )
    .with("service", service)
    .with("topic", topic)
    .with("limit", limit)
    .with("backlog_bytes", backlog)
    .retry_after_ms(wait_ms)
}

/// Starts the task that keeps the limits up to date.
pub(super) fn start(node: &Arc<Node>) {
    let weak = Arc::downgrade(node);
    let mut leadership = node.raft.leadership();
    let shutdown = node.shutdown.clone();
    tasks::spawn("quotas", async move {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                changed = leadership.changed() => if changed.is_err() { return },
                () = shutdown.wait() => return,
            }
            let Some(node) = Weak::upgrade(&weak) else { return };
            if node.refresh_quotas().await.is_err() {
                return;
            }
            if node.raft.is_leader() {
                node.look_after_quotas().await;
            }
        }
    });
}

impl Node {
    /// Whether what a service publishes at once comes in time and is within its quota; then all of it
    /// counts as done. A refusal takes nothing.
    ///
    /// # Errors
    /// What makes it untimely; `QUOTA_EXCEEDED`, with when to try again.
    pub(super) fn admit_publish(
        &self,
        service: &str,
        untimely: Option<Rejection>,
        parts: &[Publish],
    ) -> Result<(), Rejection> {
        // Elsewhere it is refused anyway.
        if !self.raft.is_leader() {
            return Ok(());
        }
        untimely.map_or(Ok(()), Err)?;
        let parts = parts.iter().filter(|part| part.count > 0);
        let amount = parts.clone().fold((0, 0), |(events, bytes), part| {
            (events + u64::from(part.count), bytes + part.events.len() as u64)
        });
        if amount.0 == 0 {
            return Ok(());
        }
        let topics = parts.map(|part| part.topic.as_str());
        self.quotas.admit(service, topics, amount, clock::now())
    }

    /// Looks how much waits in topics, and tells which limits were hit.
    async fn look_after_quotas(&self) {
        let topics: Vec<String> = self.quotas.known().topics.keys().cloned().collect();
        if !topics.is_empty() {
            let looked_at = topics.clone();
            let found = self.read(move |db| backlog::bytes_of_topics(db, &looked_at)).await;
            found.into_iter().for_each(|found| self.quotas.backlogs(&topics, &found));
        }
        for notice in self.quotas.notices(clock::now()) {
            if let Err(rejection) = self.execute(Kind::Notice(notice)).await {
                tracing::debug!(%rejection, "a quota that was hit is not told");
            }
        }
    }

    async fn refresh_quotas(&self) -> Result<(), Rejection> {
        let most = usize::try_from(QUOTAS_MAX).unwrap_or(usize::MAX);
        let quotas = self.read(move |db| quota::list(db, "", most)).await?;
        self.quotas.refresh(quotas, clock::now());
        Ok(())
    }

    /// Replaces the limits of a service; none at all forgets it.
    ///
    /// # Errors
    /// `INVALID_NAME`, `LIMIT_REACHED`, and those of any proposal.
    pub async fn set_quota(&self, service: &str, limits: QuotaLimits) -> Result<(), Rejection> {
        check_service(service)?;
        let set = SetQuota { service: service.to_owned(), limits };
        match self.execute(Kind::SetQuota(set)).await? {
            Outcome::Done => self.refresh_quotas().await,
            other => Err(unexpected(&other)),
        }
    }

    /// The limits of a service.
    ///
    /// # Errors
    /// `INVALID_NAME`, and those of [`Node::fresh`].
    pub async fn quota(
        &self,
        service: &str,
        wanted: Consistency,
    ) -> Result<QuotaLimits, Rejection> {
        check_service(service)?;
        self.fresh(wanted, self.deadline()).await?;
        let service = service.to_owned();
        Ok(self.read(move |db| quota::get(db, &service)).await?.unwrap_or_default())
    }

    /// Services with limits, after a name.
    ///
    /// # Errors
    /// Those of [`Node::fresh`].
    pub async fn quotas(
        &self,
        after: String,
        limit: usize,
        wanted: Consistency,
    ) -> Result<Vec<(String, QuotaLimits)>, Rejection> {
        self.fresh(wanted, self.deadline()).await?;
        self.read(move |db| quota::list(db, &after, limit)).await
    }
}

#[cfg(test)]
mod tests;
