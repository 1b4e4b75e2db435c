//! Administration of subscriptions.

use std::time::Duration;

use prost::Message as _;

use super::lead::LatencySample;
use super::query::Consistency;
use super::{Node, unexpected, validate};
use crate::machine::subscription::record::not_found;
use crate::machine::subscription::stats::{self, Stats};
use crate::machine::subscription::{query, seek};
use crate::model::command::subscription::{At, Place};
use crate::model::command::{
    CreateSubscription, DeleteSubscription, Kind, PauseSubscription, ResumeSubscription,
    SeekSubscription, UpdateSubscription,
};
use crate::model::delivery::{Counters, Sought, SubscriptionInfo};
use crate::model::limits::{
    METRICS_ROWS_MAX, METRICS_SUBSCRIPTIONS_MAX, PAUSE_MS_MAX, SUBSCRIPTION_CONFIG_BYTES_MAX,
};
use crate::model::name::check_subscription;
use crate::model::outcome::Outcome;
use crate::model::pattern::TopicPattern;
use crate::model::rejection::{Reason, Rejection};
use crate::model::subscription::{SubscriptionConfig, SubscriptionPatch};

/// How a subscription stands, for metrics.
#[derive(Clone, Debug)]
pub struct SubscriptionSample {
    /// Its name.
    pub name: String,
    /// Its events by what they wait for.
    pub stats: Stats,
    /// What it did so far.
    pub counters: Counters,
    /// Whether no events are handed out.
    pub paused: bool,
    /// How long ago the oldest event that is not done was recorded.
    pub oldest_age: Duration,
    /// How long events waited on this node until they were leased.
    pub latency: LatencySample,
}

impl SubscriptionSample {
    /// The share of deliveries that came after a failure, 0 to 1.
    #[must_use]
    pub fn redelivery_ratio(&self) -> f64 {
        let Counters { delivered, redelivered, .. } = self.counters;
        // Exact to a millionth.
        let millionths = u128::from(redelivered) * 1_000_000 / u128::from(delivered.max(1));
        f64::from(u32::try_from(millionths).unwrap_or(u32::MAX)) / 1e6
    }
}

impl Node {
    /// Creates a subscription; what the patch leaves open gets its default.
    ///
    /// # Errors
    /// `SUBSCRIPTION_EXISTS`, `INVALID_NAME`, `INVALID_PATTERN`, `INVALID_FILTER`, `INVALID_CONFIG`,
    /// `BEYOND_END`, and those of any proposal.
    pub async fn create_subscription(
        &self,
        name: &str,
        pattern: &str,
        patch: &SubscriptionPatch,
        start: Place,
        request_id: String,
    ) -> Result<SubscriptionInfo, Rejection> {
        check_subscription(name)?;
        validate::request_id(&request_id)?;
        TopicPattern::parse(pattern)?;
        let config = patch.onto(&SubscriptionConfig::defaults(pattern));
        config.check()?;
        self.within_end(pattern.to_owned(), start.clone()).await?;
        let create = CreateSubscription { name: name.to_owned(), config, start, request_id };
        subscription(self.execute(Kind::CreateSubscription(create)).await?)
    }

    /// Changes a subscription's settings.
    ///
    /// # Errors
    /// `SUBSCRIPTION_NOT_FOUND`, `REVISION_MISMATCH`, `INVALID_CONFIG`, and those of any proposal.
    pub async fn update_subscription(
        &self,
        name: &str,
        patch: SubscriptionPatch,
        if_revision: u64,
        request_id: String,
    ) -> Result<SubscriptionInfo, Rejection> {
        check_subscription(name)?;
        validate::request_id(&request_id)?;
        // Settings bound each other, so only the state can judge the rest.
        let bytes = patch.encoded_len();
        if bytes > SUBSCRIPTION_CONFIG_BYTES_MAX {
            return Err(Rejection::new(
                Reason::InvalidConfig,
                format!(
                    "the settings have {bytes} bytes, {SUBSCRIPTION_CONFIG_BYTES_MAX} is the most; name fewer"
                ),
            ));
        }
        let name = name.to_owned();
        let update = UpdateSubscription { name, patch, if_revision, request_id };
        subscription(self.execute(Kind::UpdateSubscription(update)).await?)
    }

    /// Deletes a subscription with everything it has; the name has to be repeated.
    ///
    /// # Errors
    /// `CONFIRMATION_REQUIRED`, `SUBSCRIPTION_NOT_FOUND`, and those of any proposal.
    pub async fn delete_subscription(
        &self,
        name: &str,
        confirm_name: &str,
        request_id: String,
    ) -> Result<(), Rejection> {
        check_subscription(name)?;
        validate::request_id(&request_id)?;
        if confirm_name != name {
            return Err(Rejection::new(
                Reason::ConfirmationRequired,
                format!(
                    "deleting subscription {name} deletes its progress, retries and dead letters; confirm it by repeating the name"
                ),
            ));
        }
        let delete = DeleteSubscription { name: name.to_owned(), request_id };
        match self.execute(Kind::DeleteSubscription(delete)).await? {
            Outcome::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Stops handing out events; for ever when `resume_after_ms` is 0.
    ///
    /// # Errors
    /// `SUBSCRIPTION_NOT_FOUND`, `INVALID_REQUEST` for a pause that is too long, and those of any
    /// proposal.
    pub async fn pause_subscription(
        &self,
        name: &str,
        resume_after_ms: u64,
        request_id: String,
    ) -> Result<SubscriptionInfo, Rejection> {
        check_subscription(name)?;
        validate::request_id(&request_id)?;
        if resume_after_ms > PAUSE_MS_MAX {
            return Err(Rejection::new(
                Reason::InvalidRequest,
                format!(
                    "resume_after_ms {resume_after_ms} is more than {PAUSE_MS_MAX}; leave it out to pause until somebody resumes"
                ),
            ));
        }
        let resume_at_ms = match resume_after_ms {
            0 => 0,
            after => self.now().plus(after).get(),
        };
        let name = name.to_owned();
        let pause = PauseSubscription { name, resume_at_ms, request_id, target_down: false };
        subscription(self.execute(Kind::PauseSubscription(pause)).await?)
    }

    /// Hands out events again.
    ///
    /// # Errors
    /// `SUBSCRIPTION_NOT_FOUND`, and those of any proposal.
    pub async fn resume_subscription(
        &self,
        name: &str,
        request_id: String,
    ) -> Result<SubscriptionInfo, Rejection> {
        check_subscription(name)?;
        validate::request_id(&request_id)?;
        let resume = ResumeSubscription { name: name.to_owned(), request_id, target_up: false };
        subscription(self.execute(Kind::ResumeSubscription(resume)).await?)
    }

    /// Moves a subscription to another place.
    ///
    /// # Errors
    /// `SUBSCRIPTION_NOT_FOUND`, `TOPIC_NOT_FOUND`, `BEYOND_END`, `INVALID_REQUEST`, and those of
    /// any proposal.
    pub async fn seek_subscription(
        &self,
        name: &str,
        to: Place,
        request_id: String,
    ) -> Result<Sought, Rejection> {
        validate::request_id(&request_id)?;
        let info = self.subscription(name, Consistency::Linearizable).await?;
        self.within_end(info.config.pattern, to.clone()).await?;
        let seek = SeekSubscription { name: name.to_owned(), to, request_id };
        match self.execute(Kind::SeekSubscription(seek)).await? {
            Outcome::Sought(sought) => Ok(sought),
            other => Err(unexpected(&other)),
        }
    }

    /// What a seek would do.
    ///
    /// # Errors
    /// As those of [`Node::seek_subscription`].
    pub async fn preview_seek(&self, name: &str, to: Place) -> Result<Sought, Rejection> {
        let info = self.subscription(name, Consistency::Linearizable).await?;
        self.within_end(info.config.pattern, to.clone()).await?;
        let wanted = name.to_owned();
        let found = self.read(move |db| seek::preview(db, &wanted, &to)).await?;
        found.ok_or_else(|| not_found(name))?
    }

    /// A subscription.
    ///
    /// # Errors
    /// `SUBSCRIPTION_NOT_FOUND`, and those of [`Node::fresh`].
    pub async fn subscription(
        &self,
        name: &str,
        wanted: Consistency,
    ) -> Result<SubscriptionInfo, Rejection> {
        check_subscription(name)?;
        self.fresh(wanted, self.deadline()).await?;
        let known = name.to_owned();
        let found = self.read(move |db| query::subscription(db, &known)).await?;
        found.ok_or_else(|| not_found(name))
    }

    /// Subscriptions after a name.
    ///
    /// # Errors
    /// Those of [`Node::fresh`].
    pub async fn subscriptions(
        &self,
        after: String,
        limit: usize,
        wanted: Consistency,
    ) -> Result<Vec<SubscriptionInfo>, Rejection> {
        self.fresh(wanted, self.deadline()).await?;
        self.read(move |db| query::subscriptions(db, &after, limit)).await
    }

    /// A subscription, and its events by what they wait for.
    ///
    /// # Errors
    /// `SUBSCRIPTION_NOT_FOUND`, and those of [`Node::fresh`].
    pub async fn subscription_stats(
        &self,
        name: &str,
        wanted: Consistency,
    ) -> Result<(SubscriptionInfo, Stats), Rejection> {
        check_subscription(name)?;
        self.fresh(wanted, self.deadline()).await?;
        let known = name.to_owned();
        let now = self.now();
        let found = self
            .read(move |db| {
                let info = query::subscription(db, &known)?;
                Ok(info.zip(stats::stats(db, &known, now)?))
            })
            .await?;
        found.ok_or_else(|| not_found(name))
    }

    /// How subscriptions stand, for metrics: on the leader, the first of them by name, counted up to a
    /// bound. Elsewhere none: the leader tells.
    ///
    /// # Errors
    /// `SHUTTING_DOWN`.
    pub async fn subscription_metrics(&self) -> Result<Vec<SubscriptionSample>, Rejection> {
        if !self.raft.is_leader() {
            return Ok(Vec::new());
        }
        let now = self.now();
        let samples = self.read(move |db| {
            let mut found = Vec::new();
            for info in query::subscriptions(db, "", METRICS_SUBSCRIPTIONS_MAX)? {
                let counts = stats::stats_within(db, &info.name, now, METRICS_ROWS_MAX)?;
                found.extend(counts.map(|stats| SubscriptionSample {
                    oldest_age: Duration::from_millis(stats.oldest.map_or(0, |at| now.since(at))),
                    paused: info.pause.is_some(),
                    counters: info.counters,
                    name: info.name,
                    latency: LatencySample::default(),
                    stats,
                }));
            }
            Ok(found)
        });
        let mut samples = samples.await?;
        for sample in &mut samples {
            sample.latency = self.dispatch_latency(&sample.name);
        }
        Ok(samples)
    }

    /// Refuses a place beyond the end; the state would take it for the end.
    async fn within_end(&self, pattern: String, place: Place) -> Result<(), Rejection> {
        let beyond = |what: &str, at: u64, end: u64| {
            Err(Rejection::new(
                Reason::BeyondEnd,
                format!("{what} {at} lies beyond {end}, the end; name an earlier one, or the end"),
            )
            .with("end", end))
        };
        match place.at {
            None | Some(At::Start(_) | At::End(_)) => Ok(()),
            Some(At::TimeMs(instant)) => {
                let now = self.now().get();
                if instant > now { beyond("time", instant, now) } else { Ok(()) }
            }
            Some(At::Offset(at) | At::Position(at)) => {
                self.fresh(Consistency::Linearizable, self.deadline()).await?;
                match self.read(move |db| seek::beyond(db, &pattern, &place)).await? {
                    None => Ok(()),
                    Some(end) => beyond("place", at, end),
                }
            }
        }
    }
}

fn subscription(outcome: Outcome) -> Result<SubscriptionInfo, Rejection> {
    match outcome {
        Outcome::Subscription(info) => Ok(*info),
        other => Err(unexpected(&other)),
    }
}
