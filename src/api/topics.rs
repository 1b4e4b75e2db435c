//! The service `Topics`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert::{Labels, consistency, page_size, patch, topic};
use crate::model::name::TopicName;
use crate::node::Node;
use crate::proto::status::to_status;
use crate::proto::v1::topics_server::Topics;
use crate::proto::v1::{
    CreateTopicRequest, DeleteTopicRequest, DeleteTopicResponse, GetTopicRequest,
    ListTopicsRequest, ListTopicsResponse, Topic, UpdateTopicRequest,
};

pub(super) struct TopicsService(pub(super) Arc<Node>);

#[tonic::async_trait]
impl Topics for TopicsService {
    async fn create_topic(
        &self,
        request: Request<CreateTopicRequest>,
    ) -> Result<Response<Topic>, Status> {
        let CreateTopicRequest { name, config, request_id } = request.into_inner();
        let patch = patch(config, Labels::Replace);
        let created = self.0.create_topic(&name, &patch, request_id).await;
        created.map(|info| Response::new(topic(info))).map_err(|r| to_status(&r))
    }

    async fn get_topic(
        &self,
        request: Request<GetTopicRequest>,
    ) -> Result<Response<Topic>, Status> {
        let GetTopicRequest { name, options } = request.into_inner();
        let name = TopicName::parse_readable(&name).map_err(|r| to_status(&r))?;
        let found = self.0.topic(name.as_str(), consistency(options)).await;
        found.map(|info| Response::new(topic(info))).map_err(|r| to_status(&r))
    }

    async fn list_topics(
        &self,
        request: Request<ListTopicsRequest>,
    ) -> Result<Response<ListTopicsResponse>, Status> {
        let ListTopicsRequest { page_size: size, page_token, options } = request.into_inner();
        let size = page_size(size);
        // One more than the page tells whether there is another.
        let found = self.0.topics(page_token, size + 1, consistency(options)).await;
        let mut topics = found.map_err(|r| to_status(&r))?;
        let more = topics.len() > size;
        topics.truncate(size);
        let next_page_token =
            topics.last().filter(|_| more).map(|t| t.name.clone()).unwrap_or_default();
        let topics = topics.into_iter().map(topic).collect();
        Ok(Response::new(ListTopicsResponse { topics, next_page_token }))
    }

    async fn update_topic(
        &self,
        request: Request<UpdateTopicRequest>,
    ) -> Result<Response<Topic>, Status> {
        let UpdateTopicRequest { name, config, replace_labels, if_revision, request_id } =
            request.into_inner();
        let labels = if replace_labels { Labels::Replace } else { Labels::Keep };
        let updated =
            self.0.update_topic(&name, patch(config, labels), if_revision, request_id).await;
        updated.map(|info| Response::new(topic(info))).map_err(|r| to_status(&r))
    }

    async fn delete_topic(
        &self,
        request: Request<DeleteTopicRequest>,
    ) -> Result<Response<DeleteTopicResponse>, Status> {
        let DeleteTopicRequest { name, confirm_name, request_id } = request.into_inner();
        let deleted = self.0.delete_topic(&name, &confirm_name, request_id).await;
        deleted.map(|()| Response::new(DeleteTopicResponse {})).map_err(|r| to_status(&r))
    }
}
