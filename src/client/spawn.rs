//! Where the client starts its tasks: on the caller's runtime.

use std::future::Future;
use std::time::Instant;

#[expect(
    clippy::disallowed_methods,
    reason = "the client stands apart from the server's runtime room"
)]
pub(super) fn spawn(future: impl Future<Output = ()> + Send + 'static) {
    drop(tokio::spawn(future));
}

#[expect(
    clippy::disallowed_methods,
    reason = "the client stands apart from the server's runtime room"
)]
pub(super) fn now() -> Instant {
    Instant::now()
}
