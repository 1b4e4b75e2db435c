//! gRPC calls to instances, whose answers are read only so far, whoever sends them.

use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tonic::transport::{Channel, Error};
use tower_service::Service;

/// A connection for calls whose answers, all messages together, have at most so many bytes.
///
/// A bound of each message is not enough: who waits for the end of a call reads on through messages
/// without end, and while there are any, no timeout gets its turn.
#[derive(Clone, Debug)]
pub(super) struct BoundedCalls {
    pub(super) channel: Channel,
    pub(super) answer_bytes_max: usize,
}

impl Service<Request<Body>> for BoundedCalls {
    type Response = Response<Body>;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Response<Body>, Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let bytes_max = self.answer_bytes_max;
        let bounded = move |answer: Response<Body>| answer.map(|body| bounded(body, bytes_max));
        self.channel.call(request).map(move |answer| answer.map(bounded)).boxed()
    }
}

fn bounded(body: Body, bytes_max: usize) -> Body {
    Body::new(Limited::new(body, bytes_max).map_err(move |error| {
        if error.is::<LengthLimitError>() {
            let text = format!("the answer is longer than {bytes_max} bytes");
            return Status::out_of_range(text).into();
        }
        error
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body_util::Full;

    #[tokio::test]
    async fn an_answer_ends_where_it_is_too_long() {
        let read = async |bytes: usize| {
            let body = Body::new(Full::new(Bytes::from(vec![0; bytes])));
            let read = bounded(body, 100).collect().await;
            read.map(|body| body.to_bytes().len()).map_err(|status| status.code())
        };
        assert_eq!(read(100).await, Ok(100));
        assert_eq!(read(101).await, Err(tonic::Code::OutOfRange));
    }
}
