//! Renewals over one stream to whoever leads: when it breaks, another one is opened there.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::endpoints::{Endpoints, Target};
use super::retry::{Attempts, Failure, Repeat, Verdict};
use super::spawn::now;
use crate::model::rejection::{Reason, Rejection};
use crate::proto::v1::services_client::ServicesClient;
use crate::proto::v1::{RenewRequest, RenewResponse};

/// The stream of one [`super::ServiceHandle`], opened when it is first needed.
#[derive(Debug)]
pub(super) struct Renewing {
    endpoints: Arc<Endpoints>,
    open: Option<Open>,
}

/// A stream on which every request was answered.
#[derive(Debug)]
struct Open {
    target: Target,
    requests: mpsc::Sender<RenewRequest>,
    answers: Streaming<RenewResponse>,
}

impl Renewing {
    pub(super) fn new(endpoints: Arc<Endpoints>) -> Self {
        Self { endpoints, open: None }
    }

    /// Renews at one node after the other, until one answers.
    ///
    /// # Errors
    /// What the hub refuses, and the last trouble when no node answered for as long as a call may take.
    pub(super) async fn renew(
        &mut self,
        request: RenewRequest,
    ) -> Result<RenewResponse, Rejection> {
        let endpoints = Arc::clone(&self.endpoints);
        let deadline = Instant::from_std(now()) + endpoints.options().timeout;
        // Renewing twice does no harm.
        let mut attempts = Attempts::new(&endpoints, Repeat::Recognised);
        loop {
            let target = match &self.open {
                Some(open) => open.target.clone(),
                None => endpoints.toward_leader()?,
            };
            let patience = endpoints.options().attempt_timeout;
            // A stream that is given up half-way is gone: no late answer is taken for another one.
            let asked = tokio::time::timeout(patience, ask(self.open.take(), &target, &request));
            let failure = match asked.await {
                Ok(Ok((answer, open))) => {
                    endpoints.leads(&target.address);
                    self.open = Some(open);
                    return Ok(answer);
                }
                Ok(Err(failure)) => failure,
                Err(_) => Failure::silent(&target, patience),
            };
            if failure.verdict == Verdict::Final {
                return Err(failure.rejection);
            }
            let _ = attempts.next(&target, &failure);
            attempts.pause(failure, deadline).await?;
        }
    }
}

/// Asks on a stream, or on one that is opened for it.
async fn ask(
    open: Option<Open>,
    target: &Target,
    request: &RenewRequest,
) -> Result<(RenewResponse, Open), Failure> {
    let of_status = |status: Status| Failure::of_status(&status, target);
    let mut open = match open {
        Some(open) => {
            // Where it is broken, the answer says why.
            drop(open.requests.send(request.clone()).await);
            open
        }
        None => {
            let (requests, queue) = mpsc::channel(1);
            // The channel is new and has room.
            drop(requests.try_send(request.clone()));
            let mut client = ServicesClient::new(target.channel.clone());
            let opened = client.renew_stream(ReceiverStream::new(queue)).await;
            let answers = opened.map_err(of_status)?.into_inner();
            Open { target: target.clone(), requests, answers }
        }
    };
    match open.answers.message().await.map_err(of_status)? {
        Some(answer) => Ok((answer, open)),
        None => {
            let text = format!("{} ended the stream; renew on at another node", target.address);
            Err(Failure::of_rejection(Rejection::new(Reason::ShuttingDown, text)))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::client::ServiceHandle;
    use crate::client::fake::client;
    use crate::client::fake_services::{FakeServices, REFUSED};
    use crate::model::limits::INSTANCES_PER_CALL_MAX;
    use crate::proto::v1::{InstanceMode, InstanceSpec};

    fn spec(id: &str) -> InstanceSpec {
        InstanceSpec { service: "s".into(), id: id.into(), ..InstanceSpec::default() }
    }

    fn named(renewed: &[(String, u64)]) -> Vec<(&str, u64)> {
        renewed.iter().map(|(id, incarnation)| (id.as_str(), *incarnation)).collect()
    }

    #[tokio::test]
    async fn it_renews_over_one_stream_at_a_third_of_the_time_that_answers_tell() {
        let mut fake = FakeServices::start(1500).await;
        let specs = vec![spec("a"), spec("b")];
        let handle =
            ServiceHandle::register(&client(&[&fake.endpoint], 5000), specs).await.unwrap();
        assert_eq!(fake.registered().await.len(), 2);
        let mut stream = fake.stream().await;
        assert_eq!(named(&stream.request().await), [("a", 1), ("b", 2)]);
        stream.answer(&[], &[30, 60_000]).await;
        let began = now();
        for _ in 0..20 {
            assert_eq!(stream.request().await.len(), 2);
            let ttls_ms = handle.instances().iter().map(|i| i.ttl_ms).collect::<Vec<_>>();
            assert_eq!(ttls_ms, [30, 60_000]);
            stream.answer(&[], &[30, 60_000]).await;
        }
        // By the time of the registration it would have been eight at the least.
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        // What is lost is registered again, and renewed under its new incarnation.
        stream.request().await;
        stream.answer(&[1], &[30, 0]).await;
        let again = fake.registered().await;
        assert_eq!(again.iter().map(|spec| spec.id.as_str()).collect::<Vec<_>>(), ["b"]);
        assert_eq!(named(&stream.request().await), [("a", 1), ("b", 3)]);
        assert!(!fake.has_another_stream());
    }

    #[tokio::test]
    async fn a_stream_that_breaks_is_opened_again_where_the_leader_is() {
        let (mut one, mut other) = (FakeServices::start(300).await, FakeServices::start(300).await);
        let ids = 0..=INSTANCES_PER_CALL_MAX;
        let specs = ids.map(|n| spec(&n.to_string())).collect();
        let _handle =
            ServiceHandle::register(&client(&[&one.endpoint], 5000), specs).await.unwrap();
        // Each request has as many as a call may have.
        let mut stream = one.stream().await;
        assert_eq!(stream.request().await.len(), INSTANCES_PER_CALL_MAX);
        stream.answer(&[], &[]).await;
        assert_eq!(stream.request().await.len(), 1);
        // What was not answered is asked again, at once.
        let elsewhere = Rejection::new(Reason::NotLeader, "it moved");
        stream.refuse(&elsewhere.with("leader_endpoint", &other.endpoint)).await;
        let mut stream = other.stream().await;
        assert_eq!(stream.request().await.len(), 1);
        stream.answer(&[], &[]).await;
        assert_eq!(stream.request().await.len(), INSTANCES_PER_CALL_MAX);
        drop(stream);
        let mut stream = one.stream().await;
        assert_eq!(stream.request().await.len(), INSTANCES_PER_CALL_MAX);
        stream.refuse(&Rejection::new(Reason::NoQuorum, "too few")).await;
        assert_eq!(one.stream().await.request().await.len(), INSTANCES_PER_CALL_MAX);
    }

    #[tokio::test]
    async fn a_handle_drains_its_instances_in_the_name_of_their_owner() {
        let mut fake = FakeServices::start(60_000).await;
        let specs = vec![spec("a"), spec("b")];
        let client = client(&[&fake.endpoint], 5000);
        let handle = ServiceHandle::register(&client, specs).await.unwrap();
        let owners: Vec<_> = fake.registered().await.into_iter().map(|spec| spec.owner).collect();
        for mode in [InstanceMode::Draining, InstanceMode::Up] {
            handle.set_mode(mode).await.unwrap();
            let set = fake.modes().await;
            assert_eq!((set.mode(), set.force), (mode, false));
            let named = set.instances.iter().map(|name| (name.id.as_str(), name.owner.as_str()));
            let wanted = [("a", owners[0].as_str()), ("b", owners[1].as_str())];
            assert_eq!(named.collect::<Vec<_>>(), wanted);
        }
    }

    #[tokio::test]
    async fn no_call_of_a_handle_has_more_instances_than_it_may() {
        let mut fake = FakeServices::start(60_000).await;
        let client = client(&[&fake.endpoint], 5000);
        let specs = |last: &str| {
            let ids = (0..INSTANCES_PER_CALL_MAX).map(|n| n.to_string()).chain([last.to_owned()]);
            ids.map(|id| spec(&id)).collect::<Vec<_>>()
        };
        let handle = ServiceHandle::register(&client, specs("last")).await.unwrap();
        assert_eq!(fake.registered().await.len(), INSTANCES_PER_CALL_MAX);
        assert_eq!(fake.registered().await.len(), 1);
        let instances = handle.instances();
        assert_eq!(instances.len(), INSTANCES_PER_CALL_MAX + 1);
        assert_eq!(instances.last().unwrap().spec.as_ref().unwrap().id, "last");
        handle.deregister().await.unwrap();
        for count in [INSTANCES_PER_CALL_MAX, 1] {
            assert_eq!(fake.deregistered().await, count);
        }
        drop(ServiceHandle::register(&client, specs("last")).await.unwrap());
        for count in [INSTANCES_PER_CALL_MAX, 1] {
            assert_eq!(fake.deregistered().await, count);
        }
        // One that is refused in the second call takes those of the first with it.
        let refused = ServiceHandle::register(&client, specs(REFUSED)).await.unwrap_err();
        assert_eq!(refused.reason, Reason::InstanceOwned);
        for count in [INSTANCES_PER_CALL_MAX, 1] {
            assert_eq!(fake.deregistered().await, count);
        }
        let none = ServiceHandle::register(&client, Vec::new()).await.unwrap_err();
        assert_eq!(none.reason, Reason::InvalidRequest);
    }
}
