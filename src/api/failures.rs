//! The services `Retries` and `DeadLetters`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert::{consistency, invalid, page_size};
use super::convert_failures::{
    InList, choice, dead_letter, filter, moved, next_place, number, place, retry,
};
use crate::model::ids::DeadNumber;
use crate::model::limits::RETRIES_PER_COMMAND;
use crate::model::rejection::{Reason, Rejection};
use crate::node::Node;
use crate::node::failures::{Fate, RetryFate};
use crate::proto::status::to_status;
use crate::proto::v1::dead_letters_server::DeadLetters;
use crate::proto::v1::retries_server::Retries;
use crate::proto::v1::{
    DeadLetter, GetDeadLetterRequest, ListDeadLettersRequest, ListDeadLettersResponse,
    ListRetriesRequest, ListRetriesResponse, MoveDeadLettersResponse, MoveRetriesRequest,
    MoveRetriesResponse, PurgeDeadLettersRequest, RedriveDeadLettersRequest,
};

pub(super) struct FailuresService(pub(super) Arc<Node>);

#[tonic::async_trait]
impl Retries for FailuresService {
    async fn list_retries(
        &self,
        request: Request<ListRetriesRequest>,
    ) -> Result<Response<ListRetriesResponse>, Status> {
        let ListRetriesRequest { subscription, page_size: size, page_token, options } =
            request.into_inner();
        let from = place(&page_token).map_err(|r| to_status(&r))?;
        let wanted = consistency(options);
        let found = self.0.retries(&subscription, from, page_size(size), wanted).await;
        let (page, next) = found.map_err(|r| to_status(&r))?;
        let retries = page.into_iter().map(retry).collect();
        Ok(Response::new(ListRetriesResponse { retries, next_page_token: next_place(next) }))
    }

    async fn retry_now(
        &self,
        request: Request<MoveRetriesRequest>,
    ) -> Result<Response<MoveRetriesResponse>, Status> {
        self.move_retries(request.into_inner(), RetryFate::Now).await
    }

    async fn cancel_retries(
        &self,
        request: Request<MoveRetriesRequest>,
    ) -> Result<Response<MoveRetriesResponse>, Status> {
        self.move_retries(request.into_inner(), RetryFate::Cancel).await
    }
}

#[tonic::async_trait]
impl DeadLetters for FailuresService {
    async fn list_dead_letters(
        &self,
        request: Request<ListDeadLettersRequest>,
    ) -> Result<Response<ListDeadLettersResponse>, Status> {
        let request = request.into_inner();
        let list = async {
            let filter = filter(request.filter)?;
            let after = number(&request.page_token)?;
            let (size, wanted) = (page_size(request.page_size), consistency(request.options));
            self.0.dead_letters(&request.subscription, filter, after, size, wanted).await
        };
        let (page, next) = list.await.map_err(|r| to_status(&r))?;
        let next_page_token = next.map(|number| number.to_string()).unwrap_or_default();
        let one = |(number, letter)| dead_letter(number, letter, InList::Yes);
        let dead_letters = page.into_iter().map(one).collect();
        Ok(Response::new(ListDeadLettersResponse { dead_letters, next_page_token }))
    }

    async fn get_dead_letter(
        &self,
        request: Request<GetDeadLetterRequest>,
    ) -> Result<Response<DeadLetter>, Status> {
        let GetDeadLetterRequest { subscription, number, options } = request.into_inner();
        let number = DeadNumber(number);
        let found = self.0.dead_letter(&subscription, number, consistency(options)).await;
        found
            .map(|letter| Response::new(dead_letter(number, letter, InList::No)))
            .map_err(|r| to_status(&r))
    }

    async fn redrive_dead_letters(
        &self,
        request: Request<RedriveDeadLettersRequest>,
    ) -> Result<Response<MoveDeadLettersResponse>, Status> {
        let RedriveDeadLettersRequest { subscription, choice: wanted, dry_run } =
            request.into_inner();
        let wanted = choice(wanted).map_err(|r| to_status(&r))?;
        let fate = if dry_run { Fate::Count } else { Fate::Redrive };
        let done = self.0.move_dead_letters(&subscription, wanted, fate).await;
        done.map(|counts| Response::new(moved(counts))).map_err(|r| to_status(&r))
    }

    async fn purge_dead_letters(
        &self,
        request: Request<PurgeDeadLettersRequest>,
    ) -> Result<Response<MoveDeadLettersResponse>, Status> {
        let PurgeDeadLettersRequest { subscription, choice: wanted, confirm_name, dry_run } =
            request.into_inner();
        if !dry_run && confirm_name != subscription {
            return Err(to_status(&Rejection::new(
                Reason::ConfirmationRequired,
                format!(
                    "purging dead letters of subscription {subscription} forgets their events; confirm it by repeating the name"
                ),
            )));
        }
        let wanted = choice(wanted).map_err(|r| to_status(&r))?;
        let fate = if dry_run { Fate::Count } else { Fate::Purge };
        let done = self.0.move_dead_letters(&subscription, wanted, fate).await;
        done.map(|counts| Response::new(moved(counts))).map_err(|r| to_status(&r))
    }
}

impl FailuresService {
    async fn move_retries(
        &self,
        request: MoveRetriesRequest,
        fate: RetryFate,
    ) -> Result<Response<MoveRetriesResponse>, Status> {
        let MoveRetriesRequest { subscription, topic, offsets, page_token } = request;
        let work = async {
            if offsets.len() > RETRIES_PER_COMMAND {
                return Err(invalid(format!(
                    "{} offsets are named, {RETRIES_PER_COMMAND} is the most; name fewer at once",
                    offsets.len()
                )));
            }
            if topic.is_empty() && !offsets.is_empty() {
                return Err(invalid("offsets have a meaning in one topic; name it"));
            }
            let (topic, from) = (Some(topic.as_str()), place(&page_token)?);
            let topic = topic.filter(|name| !name.is_empty());
            self.0.move_retries(&subscription, topic, &offsets, from, fate).await
        };
        let (counts, next) = work.await.map_err(|r| to_status(&r))?;
        Ok(Response::new(MoveRetriesResponse {
            moved: counts.count,
            left: counts.left,
            next_page_token: next_place(next),
        }))
    }
}
