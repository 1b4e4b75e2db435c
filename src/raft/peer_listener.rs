//! The listening side of the peer port: how many may connect, and what they may hold.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::Server;
use tonic::transport::server::Connected;

use super::peer_server::PeerHandler;
use super::peers::{KEEPALIVE_EVERY, KEEPALIVE_TIMEOUT};
use crate::model::limits::{
    PEER_CONNECTION_WINDOW_BYTES, PEER_CONNECTIONS_MAX, PEER_STREAM_WINDOW_BYTES,
    PEER_STREAMS_PER_CONNECTION_MAX,
};
use crate::proto::peer::peer_server::PeerServer;
use crate::runtime::net::{TcpListener, TcpStream};
use crate::runtime::shutdown::Shutdown;

/// How long a connection may take to say that it speaks HTTP/2.
const PREFACE_WITHIN: Duration = Duration::from_secs(5);
/// Bytes of the HTTP/2 connection preface.
const PREFACE_BYTES: usize = 24;
/// How long open calls get to end at a shutdown.
const GRACE: Duration = Duration::from_secs(1);
/// Wait after a failed accept, most likely for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

pub(super) async fn serve(
    service: PeerServer<PeerHandler>,
    listener: TcpListener,
    shutdown: Shutdown,
) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(PEER_CONNECTIONS_MAX));
    let cut = CancellationToken::new();
    // At the end no connection lives on, and with it what its calls hold.
    let _cut_all = cut.clone().drop_guard();
    let incoming = stream::unfold((listener, places, cut), |(listener, places, cut)| async move {
        let connection = accept(&listener, &places, &cut).await;
        Some((Ok::<_, io::Error>(connection), (listener, places, cut)))
    });
    let stop = shutdown.clone();
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(Some(PEER_STREAMS_PER_CONNECTION_MAX))
        .initial_stream_window_size(PEER_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(PEER_CONNECTION_WINDOW_BYTES)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, async move { stop.wait().await });
    let overdue = async {
        shutdown.wait().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = server => served.map_err(io::Error::other),
        () = overdue => Ok(()),
    }
}

/// The next connection that there is a place for; others are closed at once.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    cut: &CancellationToken,
) -> Connection {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept a peer connection");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            tracing::warn!("too many peer connections; one is refused");
            continue;
        };
        // Without it the last bytes of a message wait for an acknowledgement.
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let patience = Some(Box::pin(tokio::time::sleep(PREFACE_WITHIN)));
        let cut = Box::pin(cut.clone().cancelled_owned());
        return Connection { stream, cut, patience, read: 0, _place: place };
    }
}

/// A connection with its place among the allowed ones.
struct Connection {
    stream: TcpStream,
    /// Comes when the connection has to end.
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Until the preface has come; half-open connections must not hold their places.
    patience: Option<Pin<Box<Sleep>>>,
    read: usize,
    _place: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Some(patience) = &mut self.patience {
            if patience.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.read += buf.filled().len() - before;
            if self.read >= PREFACE_BYTES {
                self.patience = None;
            }
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
