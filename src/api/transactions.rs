//! The service `Transactions`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert::{outsider, publish, publish_result};
use super::delivery::item;
use super::quotas::service_of;
use crate::model::rejection::Rejection;
use crate::node::Node;
use crate::node::transactions::SettleRequest;
use crate::node::validate::PublishRequest;
use crate::proto::status::to_status;
use crate::proto::v1::transactions_server::Transactions;
use crate::proto::v1::{self, PublishCall, TransactRequest, TransactResponse, TransactionPart};

pub(super) struct TransactionsService(pub(super) Arc<Node>);

#[tonic::async_trait]
impl Transactions for TransactionsService {
    async fn transact(
        &self,
        request: Request<TransactRequest>,
    ) -> Result<Response<TransactResponse>, Status> {
        let done = async {
            let service = service_of(request.metadata())?;
            let TransactRequest { parts, settles, request_id } = request.into_inner();
            let parts = parts.into_iter().map(part).collect::<Result<_, _>>()?;
            settles.iter().try_for_each(|settle| outsider(&settle.consumer))?;
            let settles = settles.into_iter().map(settle).collect();
            self.0.transact(&service, parts, settles, request_id).await
        };
        let parts = done.await.map_err(|r| to_status(&r))?;
        let parts = parts.into_iter().map(publish_result).collect();
        Ok(Response::new(TransactResponse { parts }))
    }
}

fn part(part: TransactionPart) -> Result<PublishRequest, Rejection> {
    let TransactionPart { topic, expectations, events } = part;
    publish(PublishCall { topic, expectations, events, ..PublishCall::default() })
}

fn settle(request: v1::SettleRequest) -> SettleRequest {
    let v1::SettleRequest { subscription, consumer, items } = request;
    SettleRequest { subscription, consumer, items: items.into_iter().map(item).collect() }
}
