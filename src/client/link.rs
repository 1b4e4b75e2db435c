//! Connections to the nodes of a hub, and calls that find their way to the one that can answer.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use backon::BackoffBuilder as _;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::ClientOptions;
use super::spawn::now;
use crate::model::rejection::{Reason, Rejection};
use crate::proto::status::from_status;

/// Flow-control window of a stream, bytes.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Flow-control window of a connection, bytes.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
const KEEPALIVE_EVERY: Duration = Duration::from_secs(20);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// Whether a call may be sent again when nobody knows what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// It changes nothing, or carries an id by which a repetition is recognised.
    Safe,
    /// It might be done twice.
    Unsafe,
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) options: ClientOptions,
    endpoints: Vec<String>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The endpoint to ask next.
    current: String,
    channels: BTreeMap<String, Channel>,
}

/// The growing waits between attempts.
pub(super) fn backoff() -> backon::ExponentialBackoff {
    backon::ExponentialBuilder::default()
        .with_min_delay(BACKOFF_MIN)
        .with_max_delay(BACKOFF_MAX)
        .with_jitter()
        .without_max_times()
        .build()
}

impl Link {
    pub(super) fn new(endpoints: Vec<String>, options: ClientOptions) -> Result<Self, Rejection> {
        let refuse = |why: String| Err(Rejection::new(Reason::InvalidRequest, why));
        let Some(first) = endpoints.first().cloned() else {
            return refuse("no endpoint is given; pass --endpoint HOST:PORT".to_owned());
        };
        for endpoint in &endpoints {
            let port = endpoint.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none() {
                return refuse(format!("endpoint {endpoint:?} is not HOST:PORT"));
            }
        }
        let state = State { current: first, channels: BTreeMap::new() };
        Ok(Self { options, endpoints, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The endpoint to ask next.
    pub(super) fn current(&self) -> String {
        self.state().current.clone()
    }

    /// A connection to an endpoint, made when first used.
    pub(super) fn channel(&self, endpoint: &str) -> Result<Channel, Rejection> {
        if let Some(channel) = self.state().channels.get(endpoint) {
            return Ok(channel.clone());
        }
        let channel = Endpoint::from_shared(format!("http://{endpoint}"))
            .map_err(|_| {
                Rejection::new(
                    Reason::InvalidRequest,
                    format!("endpoint {endpoint:?} is not HOST:PORT"),
                )
            })?
            .connect_timeout(self.options.connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(KEEPALIVE_EVERY)
            .keep_alive_timeout(KEEPALIVE_ANSWER)
            .connect_lazy();
        self.state().channels.insert(endpoint.to_owned(), channel.clone());
        Ok(channel)
    }

    /// After a refusal by `asked`: to the leader that it names, else to the next endpoint. Says
    /// whether a leader was named.
    pub(super) fn turn(&self, asked: &str, rejection: &Rejection) -> bool {
        let hint = rejection.fact("leader_endpoint").filter(|_| !self.options.pinned);
        let mut state = self.state();
        if state.current != asked {
            // Somebody else turned already.
            return true;
        }
        if let (Reason::NotLeader, Some(leader)) = (rejection.reason, hint)
            && leader != asked
        {
            leader.clone_into(&mut state.current);
            return true;
        }
        let at = self.endpoints.iter().position(|e| e == asked).map_or(0, |at| at + 1);
        state.current.clone_from(&self.endpoints[at % self.endpoints.len()]);
        false
    }

    /// When a call that begins now has to be done.
    pub(super) fn deadline(&self) -> Instant {
        now() + self.options.timeout
    }

    /// Calls until there is an answer that another attempt would not change, or the time is over.
    pub(super) async fn call<T, F>(
        &self,
        repeat: Repeat,
        call: impl Fn(Channel) -> F,
    ) -> Result<T, Rejection>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let deadline = self.deadline();
        let mut waits = backoff();
        let mut unknown = None;
        loop {
            let asked = self.current();
            let channel = self.channel(&asked)?;
            let rejection = match tokio::time::timeout_at(deadline.into(), call(channel)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => describe(&status, &asked),
                Err(_) => Rejection::new(
                    Reason::OutcomeUnknown,
                    format!(
                        "{asked} did not answer in {:?}; check the endpoint, or give it more time with --timeout",
                        self.options.timeout
                    ),
                ),
            };
            if rejection.reason == Reason::OutcomeUnknown {
                unknown = Some(rejection.clone());
            }
            if !may_repeat(rejection.reason, repeat) {
                return Err(rejection);
            }
            let wait = if self.turn(&asked, &rejection) {
                Duration::ZERO
            } else {
                waits.next().unwrap_or(BACKOFF_MAX)
            };
            if now() + wait >= deadline {
                return Err(unknown.filter(|_| repeat == Repeat::Unsafe).unwrap_or(rejection));
            }
            tokio::time::sleep(wait).await;
        }
    }
}

/// A status as a refusal; what the transport says gets the endpoint's name.
pub(super) fn describe(status: &Status, endpoint: &str) -> Rejection {
    let mut rejection = from_status(status);
    let from_transport = status.details().is_empty();
    if from_transport && status.code() == Code::Unavailable {
        rejection.message = format!(
            "cannot reach {endpoint} ({}); check the endpoint and that the node runs",
            rejection.message
        );
    }
    rejection
}

/// Whether another attempt may end differently.
pub(super) fn may_repeat(reason: Reason, repeat: Repeat) -> bool {
    match reason {
        // Nothing was done.
        Reason::NotLeader
        | Reason::NoLeader
        | Reason::NoQuorum
        | Reason::ShuttingDown
        | Reason::Overloaded
        | Reason::DeadlineExceeded => true,
        Reason::OutcomeUnknown => repeat == Repeat::Safe,
        _ => false,
    }
}
