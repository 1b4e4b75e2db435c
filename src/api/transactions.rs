//! The service `Transactions`.

use std::sync::Arc;

use futures_util::stream::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::convert::{consistency, invalid, outsider, page_size, publish, publish_result};
use super::delivery::item;
use super::quotas::service_of;
use super::transact_stream;
use crate::model::ids::TransactionId;
use crate::model::rejection::Rejection;
use crate::model::transaction::{
    self as model, TransactionInfo, TransactionState, TransactionView,
};
use crate::node::Node;
use crate::node::transactions::SettleRequest;
use crate::node::validate::PublishRequest;
use crate::proto::status::to_status;
use crate::proto::v1::transactions_server::Transactions;
use crate::proto::v1::{
    self, AbortTransactionRequest, BeginTransactionRequest, CommitTransactionRequest,
    CommittedPart, GetTransactionRequest, ListTransactionsRequest, ListTransactionsResponse,
    PublishCall, StageTransactionRequest, StagedSettles, TransactAnswer, TransactCall,
    TransactRequest, TransactResponse, Transaction, TransactionPart,
};

pub(super) struct TransactionsService(pub(super) Arc<Node>);

#[tonic::async_trait]
impl Transactions for TransactionsService {
    type TransactStreamStream = BoxStream<'static, Result<TransactAnswer, Status>>;

    async fn transact(
        &self,
        request: Request<TransactRequest>,
    ) -> Result<Response<TransactResponse>, Status> {
        let done = async {
            let service = service_of(request.metadata())?;
            transact(&self.0, &service, request.into_inner()).await
        };
        done.await.map(Response::new).map_err(|r| to_status(&r))
    }

    async fn transact_stream(
        &self,
        request: Request<Streaming<TransactCall>>,
    ) -> Result<Response<Self::TransactStreamStream>, Status> {
        let service = service_of(request.metadata()).map_err(|r| to_status(&r))?;
        let answers = transact_stream::serve(Arc::clone(&self.0), service, request.into_inner());
        Ok(Response::new(answers))
    }

    async fn begin_transaction(
        &self,
        request: Request<BeginTransactionRequest>,
    ) -> Result<Response<Transaction>, Status> {
        let BeginTransactionRequest { timeout_ms, label, request_id } = request.into_inner();
        answer(self.0.begin_transaction(timeout_ms, label, request_id).await)
    }

    async fn stage_transaction(
        &self,
        request: Request<StageTransactionRequest>,
    ) -> Result<Response<Transaction>, Status> {
        let done = async {
            let service = service_of(request.metadata())?;
            let StageTransactionRequest { id, parts, settles, request_id } = request.into_inner();
            let what = operations(parts, settles)?;
            self.0.stage_transaction(&service, TransactionId(id), what, request_id).await
        };
        answer(done.await)
    }

    async fn commit_transaction(
        &self,
        request: Request<CommitTransactionRequest>,
    ) -> Result<Response<Transaction>, Status> {
        let done = async {
            let service = service_of(request.metadata())?;
            let id = TransactionId(request.into_inner().id);
            self.0.commit_transaction(&service, id).await
        };
        answer(done.await)
    }

    async fn abort_transaction(
        &self,
        request: Request<AbortTransactionRequest>,
    ) -> Result<Response<Transaction>, Status> {
        answer(self.0.abort_transaction(TransactionId(request.into_inner().id)).await)
    }

    async fn get_transaction(
        &self,
        request: Request<GetTransactionRequest>,
    ) -> Result<Response<Transaction>, Status> {
        let GetTransactionRequest { id, options } = request.into_inner();
        let found = self.0.staged_transaction(TransactionId(id), consistency(options)).await;
        found.map(|view| Response::new(transaction_view(view))).map_err(|r| to_status(&r))
    }

    async fn list_transactions(
        &self,
        request: Request<ListTransactionsRequest>,
    ) -> Result<Response<ListTransactionsResponse>, Status> {
        let ListTransactionsRequest { page_size: size, page_token, state, options } =
            request.into_inner();
        let list = async {
            let after = if page_token.is_empty() { Ok(0) } else { page_token.parse() };
            let after = after.map_err(|_| {
                invalid(format!(
                    "page token {page_token:?} is none of this list; leave it out to begin anew"
                ))
            })?;
            let (state, size) = (state_of(state)?, page_size(size));
            let after = TransactionId(after);
            self.0.staged_transactions(after, state, size, consistency(options)).await
        };
        let (page, next) = list.await.map_err(|r| to_status(&r))?;
        let next_page_token = next.map(|id| id.to_string()).unwrap_or_default();
        let transactions = page.into_iter().map(transaction).collect();
        Ok(Response::new(ListTransactionsResponse { transactions, next_page_token }))
    }
}

/// Does what a request asks for, by whichever call it came.
pub(super) async fn transact(
    node: &Node,
    service: &str,
    request: TransactRequest,
) -> Result<TransactResponse, Rejection> {
    let TransactRequest { parts, settles, request_id } = request;
    let (parts, settles) = operations(parts, settles)?;
    let parts = node.transact(service, parts, settles, request_id).await?;
    Ok(TransactResponse { parts: parts.into_iter().map(publish_result).collect() })
}

fn answer(done: Result<TransactionInfo, Rejection>) -> Result<Response<Transaction>, Status> {
    done.map(|info| Response::new(transaction(info))).map_err(|r| to_status(&r))
}

fn operations(
    parts: Vec<TransactionPart>,
    settles: Vec<v1::SettleRequest>,
) -> Result<(Vec<PublishRequest>, Vec<SettleRequest>), Rejection> {
    let parts = parts.into_iter().map(part).collect::<Result<_, _>>()?;
    settles.iter().try_for_each(|settle| outsider(&settle.consumer))?;
    Ok((parts, settles.into_iter().map(settle).collect()))
}

fn transaction(info: TransactionInfo) -> Transaction {
    let part =
        |(topic, published)| CommittedPart { topic, result: Some(publish_result(published)) };
    let state = match info.state {
        TransactionState::Open => v1::TransactionState::Open,
        TransactionState::Committed => v1::TransactionState::Committed,
        TransactionState::Aborted => v1::TransactionState::Aborted,
        TransactionState::Expired => v1::TransactionState::Expired,
    };
    Transaction {
        id: info.id.get(),
        label: info.label,
        state: state.into(),
        created_at_ms: info.created_at.get(),
        expires_at_ms: info.expires_at.get(),
        ended_at_ms: info.ended_at.get(),
        operations: info.operations,
        bytes: info.bytes,
        committed: info.parts.into_iter().map(part).collect(),
        staged: Vec::new(),
        settles: Vec::new(),
    }
}

fn transaction_view(view: TransactionView) -> Transaction {
    let TransactionView { info, parts, settles } = view;
    let staged = parts.into_iter().map(|part| {
        let model::StagedPart { topic, events, expectations } = part;
        v1::StagedPart { topic, events, expectations }
    });
    let settles =
        settles.into_iter().map(|(subscription, items)| StagedSettles { subscription, items });
    Transaction { staged: staged.collect(), settles: settles.collect(), ..transaction(info) }
}

fn state_of(given: i32) -> Result<Option<TransactionState>, Rejection> {
    Ok(match v1::TransactionState::try_from(given) {
        Ok(v1::TransactionState::Unspecified) => None,
        Ok(v1::TransactionState::Open) => Some(TransactionState::Open),
        Ok(v1::TransactionState::Committed) => Some(TransactionState::Committed),
        Ok(v1::TransactionState::Aborted) => Some(TransactionState::Aborted),
        Ok(v1::TransactionState::Expired) => Some(TransactionState::Expired),
        Err(_) => {
            return Err(invalid(format!("state {given} is none; send one of the named ones")));
        }
    })
}

fn part(part: TransactionPart) -> Result<PublishRequest, Rejection> {
    let TransactionPart { topic, expectations, events } = part;
    publish(PublishCall { topic, expectations, events, ..PublishCall::default() })
}

fn settle(request: v1::SettleRequest) -> SettleRequest {
    let v1::SettleRequest { subscription, consumer, items } = request;
    SettleRequest { subscription, consumer, items: items.into_iter().map(item).collect() }
}
