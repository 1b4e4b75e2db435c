//! Accepting connections on the client port: bounded, with deadlines, gRPC and HTTP on one port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::model::limits::STREAMS_PER_CONNECTION_MAX;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::tasks;
use crate::telemetry::metrics::Connections;

/// Flow-control window of a stream: a full read answer fits.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// Flow-control window of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
const FRAME_BYTES: u32 = 256 << 10;
const KEEPALIVE_EVERY: Duration = Duration::from_secs(20);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);
/// For the head of an HTTP/1 request: a half-open connection does not stay.
const HEADER_READ: Duration = Duration::from_secs(10);
/// How long connections may take to finish at the end.
const DRAIN: Duration = Duration::from_secs(5);

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_READ);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_ANSWER)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .max_header_list_size(64 << 10);
    builder
}

/// Serves a router until the shutdown, then lets connections finish what they are at, for a while.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    connections_max: usize,
    gauges: Arc<Connections>,
    shutdown: Shutdown,
) {
    let room = Arc::new(Semaphore::new(connections_max));
    let builder = Arc::new(builder());
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.wait() => break,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: let some close.
                tracing::warn!(%error, "accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            gauges.refused.inc();
            tracing::debug!(%from, connections_max, "connection refused: too many are open");
            continue;
        };
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let watcher = graceful.watcher();
        let connection = one(Arc::clone(&builder), stream, router.clone(), watcher, from);
        let gauges = Arc::clone(&gauges);
        gauges.open.inc();
        tasks::spawn("connection", async move {
            connection.await;
            gauges.open.dec();
            drop(permit);
        });
    }
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::info!("connections were closed before they were done");
    }
}

async fn one(
    builder: Arc<Builder<TokioExecutor>>,
    stream: TcpStream,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
    from: SocketAddr,
) {
    let service = TowerToHyperService::new(router);
    let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%from, %error, "connection ended");
    }
}
