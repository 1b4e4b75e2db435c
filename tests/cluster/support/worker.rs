//! A consumer that speaks the wire protocol by itself: it goes to whoever leads, and tells what it
//! was told.

use std::time::{Duration, Instant};

use message_hub::client::recorded_events;
use message_hub::model::rejection::{Code, Reason, Rejection};
use message_hub::proto::SERVICE_METADATA;
use message_hub::proto::status::{from_call_error, from_status};
use message_hub::proto::v1::delivery_client::DeliveryClient;
use message_hub::proto::v1::settlement::Action;
use message_hub::proto::v1::{
    Ack, EventBatch, Extend, LeasedEvents, Nack, PullRequest, Release, SettleRequest, SettleResult,
    Settlement,
};
use prost::Message as _;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use super::{Cluster, SERVING_WITHIN};

pub(crate) struct Worker {
    endpoints: Vec<String>,
    at: usize,
    subscription: String,
    consumer: String,
    pub(crate) lease_ms: u64,
    /// The service that it declares.
    pub(crate) service: &'static str,
}

pub(crate) fn ack() -> Action {
    Action::Ack(Ack {})
}

pub(crate) fn nack(retry_after_ms: u64) -> Action {
    let retry_after_ms = Some(retry_after_ms);
    Action::Nack(Nack { retry_after_ms, reason: "BROKEN".to_owned(), ..Nack::default() })
}

pub(crate) fn release() -> Action {
    Action::Release(Release {})
}

pub(crate) fn extend() -> Action {
    Action::Extend(Extend::default())
}

/// All of a delivery.
pub(crate) fn whole(leased: &LeasedEvents, action: Action) -> Settlement {
    Settlement {
        lease_id: leased.lease_id,
        term: leased.term,
        topic_id: leased.topic_id,
        ranges: Vec::new(),
        action: Some(action),
    }
}

/// Offset and attempt of each event.
pub(crate) fn offsets(leased: &[LeasedEvents]) -> Vec<(u64, u32)> {
    let mut found = Vec::new();
    for one in leased {
        let mut attempts = one.attempts.iter().copied();
        for batch in &one.batches {
            let batch = EventBatch::decode(batch.clone()).unwrap();
            for recorded in recorded_events(&batch) {
                found.push((recorded.offset, attempts.next().unwrap_or(1)));
            }
        }
    }
    found
}

/// Why an item was refused.
pub(crate) fn refused(result: &SettleResult) -> Option<Reason> {
    result.refused.clone().map(|error| from_call_error(error).reason)
}

impl Worker {
    pub(crate) fn new(cluster: &Cluster, subscription: &str, consumer: &str) -> Self {
        Self {
            endpoints: cluster.all_endpoints(),
            at: 0,
            subscription: subscription.to_owned(),
            consumer: consumer.to_owned(),
            lease_ms: 0,
            service: "default",
        }
    }

    /// A client of the node that answered last.
    pub(crate) async fn connect(&self) -> Result<DeliveryClient<Channel>, Rejection> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.endpoints[self.at]))
            .unwrap()
            .connect_timeout(Duration::from_millis(500));
        let unreachable =
            |e: tonic::transport::Error| Rejection::new(Reason::Unreachable, e.to_string());
        let channel = endpoint.connect().await.map_err(unreachable)?;
        Ok(DeliveryClient::new(channel).max_decoding_message_size(64 << 20))
    }

    /// One pull, wherever the leader is.
    pub(crate) async fn pull(&mut self, max_events: u32, wait_ms: u64) -> Vec<LeasedEvents> {
        let request = PullRequest {
            subscription: self.subscription.clone(),
            consumer: self.consumer.clone(),
            max_events,
            wait_ms,
            lease_ms: self.lease_ms,
            ..PullRequest::default()
        };
        let started = Instant::now();
        loop {
            let pulled = match self.connect().await {
                Ok(mut client) => {
                    let mut request = Request::new(request.clone());
                    let service = self.service.parse().unwrap();
                    request.metadata_mut().insert(SERVICE_METADATA, service);
                    client.pull(request).await.map_err(|s| from_status(&s))
                }
                Err(rejection) => Err(rejection),
            };
            match pulled {
                Ok(response) => return response.into_inner().leased,
                Err(rejection) => self.after(&rejection, started).await,
            }
        }
    }

    /// Pulls until something comes.
    pub(crate) async fn pull_some(&mut self, max_events: u32) -> Vec<LeasedEvents> {
        let started = Instant::now();
        loop {
            let pulled = self.pull(max_events, 1000).await;
            if !pulled.is_empty() {
                return pulled;
            }
            assert!(started.elapsed() < 3 * SERVING_WITHIN, "nothing comes");
        }
    }

    /// One settlement, repeated until it is answered.
    pub(crate) async fn settle(&mut self, items: Vec<Settlement>) -> Vec<SettleResult> {
        let request = SettleRequest {
            subscription: self.subscription.clone(),
            consumer: self.consumer.clone(),
            items,
        };
        let started = Instant::now();
        loop {
            let settled = match self.connect().await {
                Ok(mut client) => client.settle(request.clone()).await.map_err(|s| from_status(&s)),
                Err(rejection) => Err(rejection),
            };
            match settled {
                Ok(response) => return response.into_inner().results,
                Err(rejection) => self.after(&rejection, started).await,
            }
        }
    }

    /// Settles deliveries as a whole, all of which has to succeed.
    pub(crate) async fn settle_all(&mut self, leased: &[LeasedEvents], action: Action) {
        let items = leased.iter().map(|one| whole(one, action.clone())).collect();
        for result in self.settle(items).await {
            assert_eq!(refused(&result), None);
        }
    }

    /// Goes to the leader when it is named, else to the next node.
    async fn after(&mut self, rejection: &Rejection, started: Instant) {
        assert!(started.elapsed() < 2 * SERVING_WITHIN, "nobody serves: {rejection}");
        let code = rejection.reason.code();
        assert!(
            matches!(code, Code::Unavailable | Code::Unknown | Code::DeadlineExceeded),
            "a valid call was refused: {rejection}"
        );
        let hinted = rejection.fact("leader_endpoint");
        let hinted = hinted.and_then(|leader| self.endpoints.iter().position(|e| e == leader));
        match hinted.filter(|leader| *leader != self.at) {
            Some(leader) => self.at = leader,
            None => {
                self.at = (self.at + 1) % self.endpoints.len();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}
