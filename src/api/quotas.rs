//! The service `Quotas`, and who is charged for a call.

use std::sync::Arc;

use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::convert::{consistency, invalid, page_size};
use crate::model::quota::{QuotaLimits, check_service};
use crate::model::rejection::Rejection;
use crate::node::Node;
use crate::node::quotas::DEFAULT_SERVICE;
use crate::proto::SERVICE_METADATA;
use crate::proto::status::to_status;
use crate::proto::v1::quotas_server::Quotas;
use crate::proto::v1::{
    DeleteQuotaRequest, DeleteQuotaResponse, GetQuotaRequest, ListQuotasRequest,
    ListQuotasResponse, Quota, SetQuotaRequest,
};

/// The service that a call belongs to, as its metadata declares.
///
/// # Errors
/// `INVALID_NAME`, `INVALID_REQUEST`.
pub(super) fn service_of(metadata: &MetadataMap) -> Result<String, Rejection> {
    let Some(declared) = metadata.get(SERVICE_METADATA) else {
        return Ok(DEFAULT_SERVICE.to_owned());
    };
    let name = declared
        .to_str()
        .map_err(|_| invalid(format!("metadata {SERVICE_METADATA} is no text; name a service")))?;
    check_service(name)?;
    Ok(name.to_owned())
}

pub(super) struct QuotasService(pub(super) Arc<Node>);

#[tonic::async_trait]
impl Quotas for QuotasService {
    async fn set_quota(
        &self,
        request: Request<SetQuotaRequest>,
    ) -> Result<Response<Quota>, Status> {
        let set = request.into_inner().quota.unwrap_or_default();
        let limits = QuotaLimits {
            publish_events_per_s: set.publish_events_per_s,
            publish_bytes_per_s: set.publish_bytes_per_s,
            in_flight: set.in_flight,
            retries_per_s: set.retries_per_s,
            backlog_bytes: set.backlog_bytes,
            instances: set.instances,
        };
        let done = self.0.set_quota(&set.service, limits).await;
        done.map(|()| Response::new(set)).map_err(|r| to_status(&r))
    }

    async fn get_quota(
        &self,
        request: Request<GetQuotaRequest>,
    ) -> Result<Response<Quota>, Status> {
        let GetQuotaRequest { service, options } = request.into_inner();
        let found = self.0.quota(&service, consistency(options)).await;
        found.map(|limits| Response::new(quota(service, limits))).map_err(|r| to_status(&r))
    }

    async fn list_quotas(
        &self,
        request: Request<ListQuotasRequest>,
    ) -> Result<Response<ListQuotasResponse>, Status> {
        let ListQuotasRequest { page_size: size, page_token, options } = request.into_inner();
        let size = page_size(size);
        // One more than the page tells whether there is another.
        let found = self.0.quotas(page_token, size + 1, consistency(options)).await;
        let mut page = found.map_err(|r| to_status(&r))?;
        let more = page.len() > size;
        page.truncate(size);
        let last = page.last().filter(|_| more);
        let next_page_token = last.map(|(name, _)| name.clone()).unwrap_or_default();
        let quotas = page.into_iter().map(|(name, limits)| quota(name, limits)).collect();
        Ok(Response::new(ListQuotasResponse { quotas, next_page_token }))
    }

    async fn delete_quota(
        &self,
        request: Request<DeleteQuotaRequest>,
    ) -> Result<Response<DeleteQuotaResponse>, Status> {
        let DeleteQuotaRequest { service } = request.into_inner();
        let done = self.0.set_quota(&service, QuotaLimits::default()).await;
        done.map(|()| Response::new(DeleteQuotaResponse {})).map_err(|r| to_status(&r))
    }
}

fn quota(service: String, limits: QuotaLimits) -> Quota {
    Quota {
        service,
        publish_events_per_s: limits.publish_events_per_s,
        publish_bytes_per_s: limits.publish_bytes_per_s,
        in_flight: limits.in_flight,
        retries_per_s: limits.retries_per_s,
        backlog_bytes: limits.backlog_bytes,
        instances: limits.instances,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::rejection::Reason;

    #[test]
    fn a_call_belongs_to_whom_it_names() {
        let mut metadata = MetadataMap::new();
        assert_eq!(service_of(&metadata).unwrap(), "default");
        metadata.insert(SERVICE_METADATA, "shop.orders".parse().unwrap());
        assert_eq!(service_of(&metadata).unwrap(), "shop.orders");
        metadata.insert(SERVICE_METADATA, "a b".parse().unwrap());
        assert_eq!(service_of(&metadata).unwrap_err().reason, Reason::InvalidName);
    }
}
