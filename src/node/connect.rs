//! Connections to instances: only where the hub may connect, in bounded time.

use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tower_service::Service;

use super::registry::egress::Egress;
use crate::model::registry::Address;
use crate::runtime::net::TcpStream;

/// Connects to the host and port of a URI. What a name stands for is judged and connected to in one go.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub(super) egress: Arc<Egress>,
    /// How long that may take.
    pub(super) patience: Duration,
}

impl Service<Uri> for Connector {
    type Response = Wire;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Wire>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (egress, patience) = (Arc::clone(&self.egress), self.patience);
        Box::pin(async move {
            let address = uri.authority().map(ToString::to_string).unwrap_or_default();
            let address = Address { protocol: String::new(), address };
            let connecting = async {
                let (_, stream) = egress.connect(&address).await.map_err(io::Error::other)?;
                // Requests are small, and each is waited for.
                stream.set_nodelay(true)?;
                Ok(Wire(TokioIo::new(stream)))
            };
            let late = |_| {
                let text = format!("no connection within {} ms", patience.as_millis());
                Err(io::Error::new(io::ErrorKind::TimedOut, text))
            };
            tokio::time::timeout(patience, connecting).await.unwrap_or_else(late)
        })
    }
}

/// An error with what led to it.
pub(super) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// A connection.
pub(super) struct Wire(TokioIo<TcpStream>);

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(context, into)
    }
}

impl Write for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write_vectored(context, parts)
    }
}
