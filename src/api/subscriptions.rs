//! The service `Subscriptions`.

use std::sync::Arc;

use prost::Message as _;
use tonic::{Request, Response, Status};

use super::convert::{consistency, invalid, page_size};
use super::convert_subscription::{patch, place, sought, stats, subscription};
use crate::model::limits::PAGE_BYTES_TARGET;
use crate::node::Node;
use crate::proto::status::to_status;
use crate::proto::v1::subscriptions_server::Subscriptions;
use crate::proto::v1::{
    CreateSubscriptionRequest, DeleteSubscriptionRequest, DeleteSubscriptionResponse,
    GetSubscriptionRequest, GetSubscriptionStatsRequest, ListSubscriptionsRequest,
    ListSubscriptionsResponse, PauseSubscriptionRequest, ResumeSubscriptionRequest,
    SeekSubscriptionRequest, SeekSubscriptionResponse, Subscription, SubscriptionStats,
    UpdateSubscriptionRequest,
};

pub(super) struct SubscriptionsService(pub(super) Arc<Node>);

#[tonic::async_trait]
impl Subscriptions for SubscriptionsService {
    async fn create_subscription(
        &self,
        request: Request<CreateSubscriptionRequest>,
    ) -> Result<Response<Subscription>, Status> {
        let CreateSubscriptionRequest { name, pattern, config, start, request_id } =
            request.into_inner();
        let patch = patch(config).map_err(|r| to_status(&r))?;
        let created =
            self.0.create_subscription(&name, &pattern, &patch, place(start), request_id).await;
        created.map(|info| Response::new(subscription(info))).map_err(|r| to_status(&r))
    }

    async fn get_subscription(
        &self,
        request: Request<GetSubscriptionRequest>,
    ) -> Result<Response<Subscription>, Status> {
        let GetSubscriptionRequest { name, options } = request.into_inner();
        let found = self.0.subscription(&name, consistency(options)).await;
        found.map(|info| Response::new(subscription(info))).map_err(|r| to_status(&r))
    }

    async fn list_subscriptions(
        &self,
        request: Request<ListSubscriptionsRequest>,
    ) -> Result<Response<ListSubscriptionsResponse>, Status> {
        let ListSubscriptionsRequest { page_size: size, page_token, options } =
            request.into_inner();
        let size = page_size(size);
        // One more than the page tells whether there is another.
        let found = self.0.subscriptions(page_token, size + 1, consistency(options)).await;
        let found = found.map_err(|r| to_status(&r))?;
        let (all, mut bytes, mut page) = (found.len(), 0, ListSubscriptionsResponse::default());
        for next in found.into_iter().take(size).map(subscription) {
            bytes += next.encoded_len();
            if bytes > PAGE_BYTES_TARGET && !page.subscriptions.is_empty() {
                break;
            }
            page.subscriptions.push(next);
        }
        if let Some(last) = page.subscriptions.last().filter(|_| page.subscriptions.len() < all) {
            page.next_page_token.clone_from(&last.name);
        }
        Ok(Response::new(page))
    }

    async fn update_subscription(
        &self,
        request: Request<UpdateSubscriptionRequest>,
    ) -> Result<Response<Subscription>, Status> {
        let UpdateSubscriptionRequest { name, config, if_revision, request_id } =
            request.into_inner();
        let patch = patch(config).map_err(|r| to_status(&r))?;
        let updated = self.0.update_subscription(&name, patch, if_revision, request_id).await;
        updated.map(|info| Response::new(subscription(info))).map_err(|r| to_status(&r))
    }

    async fn delete_subscription(
        &self,
        request: Request<DeleteSubscriptionRequest>,
    ) -> Result<Response<DeleteSubscriptionResponse>, Status> {
        let DeleteSubscriptionRequest { name, confirm_name, request_id } = request.into_inner();
        let deleted = self.0.delete_subscription(&name, &confirm_name, request_id).await;
        deleted.map(|()| Response::new(DeleteSubscriptionResponse {})).map_err(|r| to_status(&r))
    }

    async fn pause_subscription(
        &self,
        request: Request<PauseSubscriptionRequest>,
    ) -> Result<Response<Subscription>, Status> {
        let PauseSubscriptionRequest { name, resume_after_ms, request_id } = request.into_inner();
        let paused = self.0.pause_subscription(&name, resume_after_ms, request_id).await;
        paused.map(|info| Response::new(subscription(info))).map_err(|r| to_status(&r))
    }

    async fn resume_subscription(
        &self,
        request: Request<ResumeSubscriptionRequest>,
    ) -> Result<Response<Subscription>, Status> {
        let ResumeSubscriptionRequest { name, request_id } = request.into_inner();
        let resumed = self.0.resume_subscription(&name, request_id).await;
        resumed.map(|info| Response::new(subscription(info))).map_err(|r| to_status(&r))
    }

    async fn seek_subscription(
        &self,
        request: Request<SeekSubscriptionRequest>,
    ) -> Result<Response<SeekSubscriptionResponse>, Status> {
        let SeekSubscriptionRequest { name, to, dry_run, request_id } = request.into_inner();
        if to.as_ref().is_none_or(|to| to.at.is_none()) {
            return Err(to_status(&invalid(format!(
                "seek of subscription {name} names no place; say where to"
            ))));
        }
        let done = if dry_run {
            self.0.preview_seek(&name, place(to)).await
        } else {
            self.0.seek_subscription(&name, place(to), request_id).await
        };
        done.map(|counts| Response::new(sought(counts))).map_err(|r| to_status(&r))
    }

    async fn get_subscription_stats(
        &self,
        request: Request<GetSubscriptionStatsRequest>,
    ) -> Result<Response<SubscriptionStats>, Status> {
        let GetSubscriptionStatsRequest { name, options } = request.into_inner();
        let found = self.0.subscription_stats(&name, consistency(options)).await;
        found
            .map(|(info, counts)| Response::new(stats(info, counts, self.0.now())))
            .map_err(|r| to_status(&r))
    }
}
