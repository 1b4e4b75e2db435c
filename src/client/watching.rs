//! Watching the registry, and asking it again and again.

use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use tokio::time::Instant;
use tonic::Streaming;

use super::Client;
use super::endpoints::{Endpoints, Target};
use super::retry::{Attempts, Failure, Repeat, Route, Verdict};
use super::spawn::now;
use crate::model::rejection::{Reason, Rejection};
use crate::proto::v1::services_client::ServicesClient;
use crate::proto::v1::{
    ResolveAnswer, ResolveRequest, WatchServicesRequest, WatchServicesResponse,
};

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
