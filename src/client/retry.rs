//! What a failure means for the next attempt, and the loop of attempts.

use std::error::Error;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::Channel;

use super::endpoints::{Endpoints, Target};
use super::spawn::now;
use crate::model::rejection::{Reason, Rejection};
use crate::proto::status::from_status;

/// The first pause before a retry; it doubles, with jitter.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// The longest pause before a retry.
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// Fresh pauses, endless: the caller's deadline bounds them.
fn backoff() -> ExponentialBackoff {
    // The seed is drawn, so that clients that failed together do not come back together.
    let (seed, _) = uuid::Uuid::new_v4().as_u64_pair();
    ExponentialBuilder::new()
        .with_min_delay(BACKOFF_MIN)
        .with_max_delay(BACKOFF_MAX)
        .with_jitter()
        .with_jitter_seed(seed)
        .without_max_times()
        .build()
}

/// Where a call goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// To the leader, following hints.
    Leader,
    /// To any node; the first given one that works.
    Any,
}

/// Whether a call whose outcome is unknown may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It changes nothing.
    Read,
    /// The hub recognises the repetition.
    Recognised,
    /// The same of what it names, except that what it did is not there any more then.
    Moving,
    /// It may be repeated after a failure, and takes its time.
    Patient,
    /// The caller has to look first.
    Unsafe,
}

/// What to do after a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Ask the node at this address.
    Follow(String),
    /// Ask the next node, after a pause.
    PassOver,
    /// Ask the same node, after a pause.
    Wait,
    /// Asking again is of no use.
    Final,
}

/// A failed attempt.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) rejection: Rejection,
    pub(crate) verdict: Verdict,
    /// It may have been done nevertheless.
    pub(crate) unknown: bool,
}

impl Failure {
    /// From the status of a call or stream.
    pub(crate) fn of_status(status: &Status, target: &Target) -> Self {
        if never_connected(status) {
            let rejection = unreachable_endpoint(&target.address, status.message());
            return Self { rejection, verdict: Verdict::PassOver, unknown: false };
        }
        let mut failure = Self::of_rejection(from_status(status));
        // A node's own word is to be believed; a broken connection sends the call elsewhere.
        let transport = failure.rejection.metadata.is_empty() && status.details().is_empty();
        if transport
            && matches!(failure.rejection.reason, Reason::DeadlineExceeded | Reason::Internal)
        {
            failure = Self { verdict: Verdict::PassOver, unknown: true, ..failure };
        }
        failure
    }

    /// From a node's refusal.
    pub(crate) fn of_rejection(rejection: Rejection) -> Self {
        let verdict = match rejection.reason {
            Reason::NotLeader => match rejection.fact("leader_endpoint") {
                Some(hint) if !hint.is_empty() => Verdict::Follow(hint.to_owned()),
                _ => Verdict::PassOver,
            },
            Reason::NoLeader
            | Reason::NoQuorum
            | Reason::ShuttingDown
            | Reason::NotInitialized
            | Reason::Unreachable
            | Reason::OutcomeUnknown => Verdict::PassOver,
            Reason::Overloaded | Reason::ChangeInProgress => Verdict::Wait,
            _ => Verdict::Final,
        };
        let unknown = rejection.reason == Reason::OutcomeUnknown;
        Self { rejection, verdict, unknown }
    }
}

impl Failure {
    /// No answer came in time.
    pub(crate) fn silent(target: &Target, allowed: Duration) -> Self {
        let message =
            format!("{} did not answer within {} ms", target.address, allowed.as_millis());
        let rejection =
            Rejection::new(Reason::OutcomeUnknown, message).with("endpoint", &target.address);
        Self { rejection, verdict: Verdict::PassOver, unknown: true }
    }
}

fn unreachable_endpoint(address: &str, why: &str) -> Rejection {
    let message = format!("cannot connect to {address} ({why}); check the endpoint and its node");
    Rejection::new(Reason::Unreachable, message).with("endpoint", address)
}

fn never_connected(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// That the time ran out while it was open whether the call was done.
pub(crate) fn outcome_unknown(timeout: Duration, last: Option<&Rejection>) -> Rejection {
    let last = last.map_or_else(String::new, |r| format!(" (last: {})", r.message));
    let message = format!(
        "no answer within {} ms{last}; it may or may not have been done: look before you repeat it",
        timeout.as_millis()
    );
    Rejection::new(Reason::OutcomeUnknown, message)
}

fn no_answer(timeout: Duration, last: &Rejection) -> Rejection {
    let message = format!(
        "no answer within {} ms (last: {}); check the nodes, or allow more time",
        timeout.as_millis(),
        last.message
    );
    Rejection { reason: Reason::DeadlineExceeded, message, ..last.clone() }
}

impl Endpoints {
    pub(crate) fn route(&self, route: Route) -> Result<Target, Rejection> {
        match route {
            Route::Leader => self.toward_leader(),
            Route::Any => self.reader(),
        }
    }

    /// Calls until it is answered, refused for good, or the time is up; `call` learns how much
    /// time it has. Reads go to any node, everything else to the leader.
    pub(super) async fn call<T, F>(
        &self,
        repeat: Repeat,
        call: impl Fn(Channel, Duration) -> F,
    ) -> Result<T, Rejection>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let attempt = async |target: Target, within| {
            let answer = call(target.channel.clone(), within).await;
            answer.map_err(|status| Failure::of_status(&status, &target))
        };
        self.call_at(repeat, attempt).await
    }

    /// The same for a call that tells by itself what a failure means.
    pub(super) async fn call_at<T, F>(
        &self,
        repeat: Repeat,
        call: impl Fn(Target, Duration) -> F,
    ) -> Result<T, Rejection>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let route = if repeat == Repeat::Read { Route::Any } else { Route::Leader };
        let deadline = Instant::from_std(now()) + self.options().timeout;
        let mut attempts = Attempts::new(self, repeat);
        // What a hint says holds for the next attempt, also of a read.
        let mut hinted = None;
        loop {
            let target = self.route(hinted.unwrap_or(route))?;
            let left = deadline.duration_since(Instant::from_std(now()));
            let allowed = match repeat {
                Repeat::Read | Repeat::Recognised | Repeat::Moving => {
                    left.min(self.options().attempt_timeout)
                }
                Repeat::Patient | Repeat::Unsafe => left,
            };
            let failure = match tokio::time::timeout(allowed, call(target.clone(), allowed)).await {
                Ok(Ok(answer)) => {
                    if route == Route::Leader {
                        self.leads(&target.address);
                    }
                    return Ok(answer);
                }
                Ok(Err(failure)) => failure,
                Err(_) => Failure::silent(&target, allowed),
            };
            if failure.verdict == Verdict::Final {
                return Err(attempts.last_word(failure.rejection));
            }
            hinted = attempts.next(&target, &failure);
            attempts.pause(failure, deadline).await?;
        }
    }
}

/// The attempts of one call: pauses, hints followed, what is open.
pub(crate) struct Attempts<'a> {
    endpoints: &'a Endpoints,
    repeat: Repeat,
    backoff: ExponentialBackoff,
    unknown: bool,
    hints_followed: u32,
    /// Failures in a row that waiting does not cure.
    hopeless: usize,
    skip_pause: bool,
}

impl<'a> Attempts<'a> {
    pub(crate) fn new(endpoints: &'a Endpoints, repeat: Repeat) -> Self {
        let backoff = backoff();
        Self {
            endpoints,
            repeat,
            backoff,
            unknown: false,
            hints_followed: 0,
            hopeless: 0,
            skip_pause: false,
        }
    }

    /// Starts the pauses anew, after a success in between.
    pub(crate) fn refresh(&mut self) {
        *self = Self::new(self.endpoints, self.repeat);
    }

    /// Takes a failure into account; the route of the next attempt when a hint gave one.
    pub(crate) fn next(&mut self, target: &Target, failure: &Failure) -> Option<Route> {
        self.unknown |= failure.unknown;
        // A question about certain nodes is not worth waiting for them.
        let pinned = self.endpoints.options().pinned && failure.verdict != Verdict::Wait;
        let hopeless = pinned || failure.rejection.reason == Reason::NotInitialized;
        self.hopeless = if hopeless { self.hopeless + 1 } else { 0 };
        self.skip_pause = false;
        match &failure.verdict {
            Verdict::Follow(hint) => {
                self.endpoints.not_leader(&target.address);
                self.endpoints.redirect(hint);
                // The first hint is followed at once; nodes that point at each other get pauses.
                self.hints_followed += 1;
                self.skip_pause = self.hints_followed == 1;
                Some(Route::Leader)
            }
            Verdict::PassOver => {
                self.endpoints.pass_over(&target.address);
                None
            }
            Verdict::Wait | Verdict::Final => None,
        }
    }

    /// The refusal that ends the call: what an attempt without an answer may have moved is not told to
    /// be missing.
    fn last_word(&self, refused: Rejection) -> Rejection {
        let missing = refused.reason == Reason::DeadLetterNotFound;
        if self.repeat != Repeat::Moving || !self.unknown || !missing {
            return refused;
        }
        let message =
            format!("an attempt got no answer, and may have done it: {}", refused.message);
        Rejection { reason: Reason::OutcomeUnknown, message, ..refused }
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// When the deadline comes first, or another attempt could do harm: unknown if any attempt
    /// was, else the last refusal.
    pub(crate) async fn pause(
        &mut self,
        failure: Failure,
        deadline: Instant,
    ) -> Result<(), Rejection> {
        if self.hopeless >= self.endpoints.given() {
            return Err(failure.rejection);
        }
        let delay = self.delay();
        let late = Instant::from_std(now()) + delay >= deadline;
        if !late && (self.repeat != Repeat::Unsafe || !self.unknown) {
            tokio::time::sleep(delay).await;
            return Ok(());
        }
        let timeout = self.endpoints.options().timeout;
        Err(match self.repeat {
            Repeat::Read if self.unknown => no_answer(timeout, &failure.rejection),
            Repeat::Recognised | Repeat::Moving | Repeat::Patient | Repeat::Unsafe
                if self.unknown =>
            {
                outcome_unknown(timeout, Some(&failure.rejection))
            }
            _ => failure.rejection,
        })
    }

    /// How long to wait before the next attempt.
    pub(crate) fn delay(&mut self) -> Duration {
        if self.skip_pause {
            return Duration::ZERO;
        }
        self.backoff.next().unwrap_or(BACKOFF_MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::client::ClientOptions;
    use crate::proto::status::to_status;

    #[tokio::test]
    async fn what_an_attempt_without_an_answer_may_have_moved_is_not_missing() {
        let given = ["127.0.0.1:1".to_owned()];
        let endpoints = Endpoints::new(&given, ClientOptions::default()).unwrap();
        let ask = async |repeat, answers: &[Reason]| {
            let answers = Mutex::new(answers.iter());
            let refused = endpoints.call(repeat, |_, _| {
                let reason = *answers.lock().unwrap().next().unwrap();
                async move { Err::<(), _>(to_status(&Rejection::new(reason, "no"))) }
            });
            refused.await.unwrap_err().reason
        };
        let (lost, gone) = (Reason::OutcomeUnknown, Reason::DeadLetterNotFound);
        assert_eq!(ask(Repeat::Moving, &[lost, gone]).await, lost);
        assert_eq!(ask(Repeat::Moving, &[gone]).await, gone);
        assert_eq!(ask(Repeat::Moving, &[Reason::NoQuorum, gone]).await, gone);
        let other = Reason::SubscriptionNotFound;
        assert_eq!(ask(Repeat::Moving, &[lost, other]).await, other);
        assert_eq!(ask(Repeat::Recognised, &[lost, gone]).await, gone);
    }
}
