//! One check: does an instance answer?

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::egress::Egress;
use crate::model::registry::{Address, Check, CheckKind};
use crate::node::bounded_call::BoundedCalls;
use crate::node::connect::{Connector, causes};
use crate::runtime::net::TcpStream;
use crate::runtime::tasks;

/// Asks an instance; the caller bounds the time. Redirects are not followed, no body is read.
///
/// # Errors
/// Why it does not pass, for people.
pub(super) async fn probe(
    egress: &Arc<Egress>,
    address: &Address,
    check: &Check,
) -> Result<(), String> {
    match check.kind() {
        CheckKind::None => Ok(()),
        CheckKind::Tcp => egress.connect(address).await.map(drop),
        CheckKind::Http => http(egress.connect(address).await?, address, check).await,
        CheckKind::Grpc => grpc(egress, address, check).await,
    }
}

async fn http(
    (at, stream): (SocketAddr, TcpStream),
    address: &Address,
    check: &Check,
) -> Result<(), String> {
    let path = if check.path.is_empty() { "/" } else { &check.path };
    let wrong = |error: hyper::Error| format!("GET {path} of {at}: {error}");
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(ANSWER_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(wrong)?;
    let connection = tasks::spawn("check-http", connection);
    let request = Request::get(path)
        .header(HOST, &address.address)
        .header(USER_AGENT, "mhub-check")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("GET {path} of {at}: {error}"));
    let answer = match request {
        Ok(request) => sender.send_request(request).await.map_err(wrong),
        Err(error) => Err(error),
    };
    connection.abort();
    let status = answer?.status();
    if status.is_success() { Ok(()) } else { Err(format!("GET {path} of {at}: status {status}")) }
}

/// Bytes of the head of an answer over HTTP, and of all of it over gRPC.
const ANSWER_BYTES_MAX: usize = 16 << 10;

async fn grpc(egress: &Arc<Egress>, address: &Address, check: &Check) -> Result<(), String> {
    let at = &address.address;
    let endpoint = Endpoint::from_shared(format!("http://{at}")).map_err(|e| e.to_string())?;
    let patience = Duration::from_millis(check.timeout_ms);
    let connector = Connector { egress: Arc::clone(egress), patience };
    let channel = endpoint.connect_with_connector(connector).await.map_err(|e| causes(&e))?;
    let request = HealthCheckRequest { service: check.path.clone() };
    let calls = BoundedCalls { channel, answer_bytes_max: ANSWER_BYTES_MAX };
    let answer = HealthClient::new(calls).check(request).await;
    let answer = answer.map_err(|status| format!("health check of {at}: {}", status.message()))?;
    let status = answer.into_inner().status();
    let serving = status == tonic_health::pb::health_check_response::ServingStatus::Serving;
    if serving { Ok(()) } else { Err(format!("health check of {at}: {}", status.as_str_name())) }
}
