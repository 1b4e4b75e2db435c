//! The service `Delivery`.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::consume_stream;
use super::convert::{invalid, outsider};
use super::quotas::service_of;
use crate::model::command::delivery::{self as command, Action, SettleItem};
use crate::model::delivery::Settled;
use crate::model::ids::UnixMs;
use crate::model::limits::{PULL_BYTES_MAX, PULL_EVENTS_DEFAULT, PULL_WAIT_MS_MAX};
use crate::model::ranges::OffsetRange;
use crate::model::rejection::{Reason, Rejection};
use crate::node::Node;
use crate::node::lead::{self, Delivery};
use crate::proto::status::{to_call_error, to_status};
use crate::proto::v1::delivery_server::Delivery as DeliveryApi;
use crate::proto::v1::settlement;
use crate::proto::v1::{
    self, ConsumeRequest, ConsumeResponse, LeasedEvents, PullRequest, PullResponse, SettleRequest,
    SettleResponse, SettleResult, Settlement,
};

pub(super) struct DeliveryService(pub(super) Arc<Node>);

#[tonic::async_trait]
impl DeliveryApi for DeliveryService {
    type ConsumeStream = BoxStream<'static, Result<ConsumeResponse, Status>>;

    async fn consume(
        &self,
        request: Request<Streaming<ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        let service = service_of(request.metadata()).map_err(|r| to_status(&r))?;
        let served = consume_stream::serve(Arc::clone(&self.0), service, request.into_inner());
        served.map(Response::new).map_err(|r| to_status(&r))
    }

    async fn pull(&self, request: Request<PullRequest>) -> Result<Response<PullResponse>, Status> {
        let pulled = async {
            let service = service_of(request.metadata())?;
            self.0.pull(pull(request.into_inner(), service)?).await
        };
        let leased = pulled.await.map_err(|r| to_status(&r))?;
        let leased = leased.into_iter().map(|d| leased_events(d, self.0.now())).collect();
        Ok(Response::new(PullResponse { leased }))
    }

    async fn settle(
        &self,
        request: Request<SettleRequest>,
    ) -> Result<Response<SettleResponse>, Status> {
        let SettleRequest { subscription, consumer, items } = request.into_inner();
        outsider(&consumer).map_err(|r| to_status(&r))?;
        let items = items.into_iter().map(item).collect();
        let settled = self.0.settle(subscription, consumer, items).await;
        let results = results(settled.map_err(|r| to_status(&r))?, self.0.now());
        Ok(Response::new(SettleResponse { results }))
    }
}

pub(super) fn pull(request: PullRequest, service: String) -> Result<lead::PullRequest, Rejection> {
    let PullRequest { subscription, consumer, max_events, max_bytes, lease_ms, wait_ms } = request;
    outsider(&consumer)?;
    if wait_ms > PULL_WAIT_MS_MAX {
        let text =
            format!("wait_ms {wait_ms} is above {PULL_WAIT_MS_MAX}; wait less and pull again");
        return Err(invalid(text));
    }
    let bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
    Ok(lead::PullRequest {
        subscription,
        consumer,
        service,
        max_events: if max_events == 0 { PULL_EVENTS_DEFAULT } else { u64::from(max_events) },
        max_bytes: if bytes == 0 { PULL_BYTES_MAX } else { bytes },
        lease_ms,
        wait: Duration::from_millis(wait_ms),
    })
}

/// A delivery as it is sent at an instant.
pub(super) fn leased_events(delivery: Delivery, now: UnixMs) -> LeasedEvents {
    LeasedEvents {
        lease_id: delivery.lease_id.get(),
        term: delivery.term.get(),
        topic_id: delivery.topic_id.get(),
        expires_at_ms: delivery.expires_at.get(),
        expires_in_ms: delivery.expires_at.since(now),
        attempts: delivery.attempts,
        batches: delivery.batches.into_iter().map(|batch| batch.encoded).collect(),
    }
}

/// A settlement; one that says not what to do is for the node to refuse.
pub(super) fn item(settlement: Settlement) -> SettleItem {
    let Settlement { lease_id, term, topic_id, ranges, action } = settlement;
    let ranges = ranges.into_iter();
    let action = action.map(|action| match action {
        settlement::Action::Ack(v1::Ack {}) => Action::Ack(command::Ack {}),
        settlement::Action::Nack(v1::Nack { retry_after_ms, reason, detail }) => {
            Action::Nack(command::Nack { retry_after_ms, reason, detail })
        }
        settlement::Action::Reject(v1::Reject { reason, detail }) => {
            Action::Reject(command::Reject { reason, detail })
        }
        settlement::Action::Release(v1::Release {}) => Action::Release(command::Release {}),
        settlement::Action::Extend(v1::Extend { lease_ms }) => {
            Action::Extend(command::Extend { lease_ms })
        }
    });
    SettleItem {
        lease_id,
        term,
        topic_id,
        ranges: ranges.map(|r| OffsetRange { first: r.first, count: r.count }).collect(),
        action,
    }
}

/// What became of a settlement, as it is sent at an instant.
pub(super) fn results(settled: Vec<Settled>, now: UnixMs) -> Vec<SettleResult> {
    let result = |settled: Settled| SettleResult {
        done: settled
            .done
            .into_vec()
            .into_iter()
            .map(|r| v1::OffsetRange { first: r.first, count: r.count })
            .collect(),
        refused: settled.refused.map(|reason| to_call_error(&refusal(reason))),
        expires_at_ms: settled.expires_at.get(),
        expires_in_ms: settled.expires_at.since(now),
    };
    settled.into_iter().map(result).collect()
}

fn refusal(reason: Reason) -> Rejection {
    let text = match reason {
        Reason::LeaseExpired => {
            "the lease has run out, or these events were settled before; whoever has them now settles them"
        }
        _ => {
            "no such lease was granted to this consumer; settle with the id, term and topic id that came with the events"
        }
    };
    Rejection::new(reason, text)
}
