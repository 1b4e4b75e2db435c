//! One call to an instance, by HTTP or gRPC.

use std::collections::HashMap;
use std::error::Error as _;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use prost::Message as _;
use tonic::transport::{Channel, Endpoint};
use tonic::{ConnectError, Status};

use super::answer::{HttpAnswer, Verdict, of_grpc, of_http};
use crate::model::ids::UnixMs;
use crate::model::limits::{ROUTE_ANSWER_BYTES_MAX, ROUTE_CONNECT_MS, ROUTE_IDLE_MS};
use crate::model::registry::Address;
use crate::model::subscription::{Target, TargetFormat};
use crate::node::bounded_call::BoundedCalls;
use crate::node::connect::{Connector, causes};
use crate::node::registry::egress::Egress;
use crate::proto::cloudevents;
use crate::proto::v1::handler_client::HandlerClient;
use crate::proto::v1::{Event, HandleRequest, RecordedEvent};
use crate::runtime::clock;

/// An event on its way, and what its handler is told beside it.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    pub(super) subscription: String,
    pub(super) attempt: u32,
    pub(super) recorded: RecordedEvent,
}

/// Whom a letter goes to.
#[derive(Clone, Debug)]
pub(super) struct Receiver {
    pub(super) service: String,
    pub(super) instance: String,
    pub(super) address: Address,
}

/// No connection: the event was not sent.
#[derive(Debug)]
pub(super) struct NotConnected(pub(super) String);

type Answered = Result<Verdict, NotConnected>;

/// A connection for calls, and when it was used last.
type Used = (Channel, Instant);

/// What calls go through: connections that are kept for as long as they are used.
pub(super) struct Carrier {
    egress: Arc<Egress>,
    http: Client<Connector, Full<Bytes>>,
    /// By address, and by how long connecting to it may take.
    channels: Mutex<HashMap<(String, Duration), Used>>,
}

/// How long connecting may take for a call that has so much time: half of it at most, so that it is known that
/// nothing was sent, and there is time for another instance.
fn connecting(patience: Duration) -> Duration {
    Duration::from_millis(ROUTE_CONNECT_MS).min(patience / 2)
}

impl Carrier {
    pub(super) fn new(egress: &Arc<Egress>) -> Self {
        let patience = Duration::from_millis(ROUTE_CONNECT_MS);
        let connector = Connector { egress: Arc::clone(egress), patience };
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_millis(ROUTE_IDLE_MS))
            .http1_max_buf_size(ROUTE_ANSWER_BYTES_MAX);
        let http = builder.build(connector);
        Self { egress: Arc::clone(egress), http, channels: Mutex::default() }
    }

    /// Hands a letter over, and tells what the answer means. In time, whatever the instance does.
    pub(super) async fn call(
        &self,
        target: &Target,
        letter: &Letter,
        to: &Receiver,
        patience: Duration,
        now: UnixMs,
    ) -> Answered {
        let calling = async {
            match target.format() {
                TargetFormat::Grpc => self.grpc(target, letter, to, patience).await,
                format => self.http(target, format, letter, to, (patience, now)).await,
            }
        };
        tokio::time::timeout(patience, calling).await.unwrap_or_else(|_| {
            let detail = format!("{}: no answer within {} ms", to.instance, patience.as_millis());
            // Who had less time than the target gives is not to blame.
            let failed = patience >= Duration::from_millis(target.timeout_ms);
            Ok(Verdict { failed, ..Verdict::lost("TIMEOUT", &detail) })
        })
    }

    async fn http(
        &self,
        target: &Target,
        format: TargetFormat,
        letter: &Letter,
        to: &Receiver,
        (patience, now): (Duration, UnixMs),
    ) -> Answered {
        let wrong = |what: &str| Ok(Verdict::unsendable(what));
        let Ok(event) = Event::decode(letter.recorded.event.clone()) else {
            return wrong("the event is no messagehub.v1.Event");
        };
        let mut request = match request(target, format, letter, to, event) {
            Ok(request) => request,
            Err(error) => return wrong(&error.to_string()),
        };
        let connection = capture_connection(&mut request);
        let mut requesting = pin!(self.http.request(request));
        let connecting = connecting(patience);
        let answered = match tokio::time::timeout(connecting, &mut requesting).await {
            Ok(answered) => answered,
            Err(_) if connection.connection_metadata().is_some() => requesting.await,
            Err(_) => {
                let ms = connecting.as_millis();
                return Err(NotConnected(format!("{}: no connection within {ms} ms", to.instance)));
            }
        };
        match answered {
            Ok(response) => {
                let answer = read(response).await;
                Ok(of_http(&answer, target.retry_client_errors, now))
            }
            Err(error) if error.is_connect() => Err(NotConnected(causes(&error))),
            Err(error) => {
                let detail = format!("{}: {}", to.instance, causes(&error));
                Ok(Verdict::lost("CONNECTION_LOST", &detail))
            }
        }
    }

    async fn grpc(
        &self,
        target: &Target,
        letter: &Letter,
        to: &Receiver,
        patience: Duration,
    ) -> Answered {
        let connecting = connecting(Duration::from_millis(target.timeout_ms));
        let channel = self.channel(&to.address.address, connecting).await?;
        let calls = BoundedCalls { channel, answer_bytes_max: ROUTE_ANSWER_BYTES_MAX };
        let mut client =
            HandlerClient::new(calls).max_decoding_message_size(ROUTE_ANSWER_BYTES_MAX);
        let mut request = tonic::Request::new(HandleRequest {
            subscription: letter.subscription.clone(),
            service: to.service.clone(),
            instance: to.instance.clone(),
            attempt: letter.attempt,
            event: Some(letter.recorded.clone()),
        });
        request.set_timeout(patience);
        match client.handle(request).await {
            Err(status) if was_not_sent(&status) => Err(NotConnected(status.message().to_owned())),
            answer => {
                let answer = answer.map(tonic::Response::into_inner);
                Ok(of_grpc(answer, target.retry_client_errors))
            }
        }
    }

    /// A connection to an address; it makes itself anew when it breaks.
    async fn channel(&self, address: &str, patience: Duration) -> Result<Channel, NotConnected> {
        let key = (address.to_owned(), patience);
        let (now, idle) = (clock::now(), Duration::from_millis(ROUTE_IDLE_MS));
        {
            let mut known = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((channel, used)) = known.get_mut(&key) {
                *used = now;
                return Ok(channel.clone());
            }
            known.retain(|_, (_, used)| now - *used < idle);
        }
        let not_connected = |error: tonic::transport::Error| NotConnected(causes(&error));
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(not_connected)?;
        let connector = Connector { egress: Arc::clone(&self.egress), patience };
        let channel = endpoint.connect_with_connector(connector).await.map_err(not_connected)?;
        let mut known = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(known.entry(key).or_insert((channel, now)).0.clone())
    }
}

/// Whether a call failed before it was sent: it could not connect.
fn was_not_sent(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The request for an event, in either mode of the CloudEvents HTTP binding.
fn request(
    target: &Target,
    format: TargetFormat,
    letter: &Letter,
    to: &Receiver,
    mut event: Event,
) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
    let recorded = &letter.recorded;
    cloudevents::add_place(&mut event, recorded);
    let mut request = Request::post(format!("http://{}{}", to.address.address, target.path))
        .header(USER_AGENT, "mhub")
        .header("mhub-topic", &recorded.topic)
        .header("mhub-subscription", &letter.subscription)
        .header("mhub-attempt", letter.attempt);
    for (name, value) in &event.headers {
        let name = HeaderName::try_from(format!("mhub-header-{name}"));
        let value = HeaderValue::from_str(value);
        if let (Ok(name), Ok(value)) = (name, value) {
            request = request.header(name, value);
        }
    }
    if format == TargetFormat::HttpStructured {
        let json = serde_json::to_vec(&cloudevents::EventJson(&event)).unwrap_or_default();
        return request.header(CONTENT_TYPE, cloudevents::JSON_TYPE).body(Full::from(json));
    }
    for (name, value) in cloudevents::binary_headers(&event) {
        request = request.header(name, value);
    }
    request.body(Full::from(event.data))
}

/// What there is to an answer, read as far as that is bounded; what is longer closes the connection.
async fn read(response: Response<hyper::body::Incoming>) -> HttpAnswer {
    let header = |name: HeaderName| {
        let value = response.headers().get(name)?;
        value.to_str().ok().map(str::to_owned)
    };
    let (retry_after, location) = (header(RETRY_AFTER), header(LOCATION));
    let status = response.status().as_u16();
    // The status has settled it, whatever becomes of the rest.
    let body = Limited::new(response.into_body(), ROUTE_ANSWER_BYTES_MAX).collect();
    let body = tokio::time::timeout(BODY_PATIENCE, body).await;
    let body = body.ok().and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
    let body = String::from_utf8_lossy(&body).trim().to_owned();
    HttpAnswer { status, retry_after, location, body }
}

/// How long the body of an answer may take once its head is there.
const BODY_PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::model::command::delivery::Action;
    use crate::node::registry::egress::held::Held;

    /// Calls an instance at an address, which may take 500 ms by the target, with so much time.
    async fn call(at: SocketAddr, format: TargetFormat, patience_ms: u64) -> Answered {
        let to = Receiver {
            service: "shop".to_owned(),
            instance: "a".to_owned(),
            address: Address { protocol: "http".to_owned(), address: at.to_string() },
        };
        let (id, source, kind) = ("1".to_owned(), "/s".to_owned(), "t".to_owned());
        let event = Event { id, source, r#type: kind, ..Event::default() }.encode_to_vec();
        let recorded = RecordedEvent { event: event.into(), ..RecordedEvent::default() };
        let letter = Letter { subscription: "s".to_owned(), attempt: 1, recorded };
        let carrier = Carrier::new(&Arc::new(Egress::new(vec!["127.0.0.0/8".parse().unwrap()])));
        let format = format as i32;
        let target = Target { timeout_ms: 500, format, ..Target::defaults("shop") };
        let patience = Duration::from_millis(patience_ms);
        carrier.call(&target, &letter, &to, patience, UnixMs(0)).await
    }

    #[tokio::test]
    async fn an_instance_is_blamed_for_silence_only_if_it_had_its_time() {
        // Connections are taken by the system, and nobody answers.
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = silent.local_addr().unwrap();
        for (patience_ms, blamed) in [(500, true), (400, false)] {
            let verdict = call(at, TargetFormat::HttpBinary, patience_ms).await.unwrap();
            let Action::Nack(nack) = &verdict.action else { panic!("{verdict:?}") };
            assert_eq!((nack.reason.as_str(), verdict.failed), ("TIMEOUT", blamed));
        }
    }

    #[tokio::test]
    async fn who_cannot_be_connected_to_in_time_was_sent_nothing() {
        let held = Held::new().await;
        for format in [TargetFormat::HttpBinary, TargetFormat::Grpc] {
            let NotConnected(why) = call(held.at, format, 500).await.unwrap_err();
            assert!(why.contains("no connection within 250 ms"), "{format:?}: {why}");
        }
    }
}
