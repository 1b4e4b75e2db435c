//! `mhub service handle`: an instance that prints the events that the hub hands to it.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use super::output::{self, Lines, Output};
use super::service_print::weight;
use super::value::duration;
use super::{Done, Failure, Global, stop};
use crate::client::cloudevents::EnvelopeJson;
use crate::client::{ServiceHandle, ServiceNews};
use crate::model::rejection::Exit;
use crate::proto::v1::handler_server::{Handler, HandlerServer};
use crate::proto::v1::{
    Address, Event, HandleRequest, HandleResponse, InstanceSpec, Nack, handle_response,
};
use crate::runtime::tasks;
use prost::Message as _;

#[derive(Debug, clap::Args)]
pub(super) struct HandleArgs {
    /// The service.
    service: String,
    /// The instance's id.
    #[arg(long)]
    id: String,
    /// Where it listens, for HTTP and gRPC; port 0: any that is free.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The HOST:PORT that the hub shall call; default: where it listens.
    #[arg(long)]
    advertise: Option<String>,
    /// Where it runs.
    #[arg(long, default_value = "")]
    zone: String,
    /// Its version.
    #[arg(long, default_value = "")]
    version: String,
    /// Its share among the others, 0.001 to 1000.
    #[arg(long, value_parser = weight)]
    weight: Option<u64>,
    /// How long its renewals last.
    #[arg(long, value_parser = duration)]
    ttl: Option<u64>,
    /// The HTTP status that it answers with; a gRPC call is acked at 200 to 299, else nacked.
    #[arg(long, default_value_t = 204)]
    answer: u16,
    /// How long it thinks before it answers.
    #[arg(long, value_parser = duration, default_value = "0s")]
    delay: u64,
    /// End after so many events.
    #[arg(long)]
    limit: Option<u64>,
}

/// How an instance answers, and who is told of what it got.
#[derive(Clone)]
pub(super) struct Answering {
    pub(super) status: StatusCode,
    pub(super) delay: Duration,
    pub(super) got: Arc<AtomicU64>,
    /// `None`: nobody wants to know more than how many.
    pub(super) tell: Option<mpsc::Sender<Value>>,
}

impl Answering {
    async fn take(&self, event: impl FnOnce() -> Value) {
        tokio::time::sleep(self.delay).await;
        if let Some(tell) = &self.tell {
            // Who prints may have ended.
            drop(tell.send(event()).await);
        }
        self.got.fetch_add(1, Ordering::Relaxed);
    }
}

#[tonic::async_trait]
impl Handler for Answering {
    async fn handle(
        &self,
        request: Request<HandleRequest>,
    ) -> Result<Response<HandleResponse>, Status> {
        self.take(|| of_call(request.into_inner())).await;
        let nack = Nack { reason: "ANSWERED_SO".to_owned(), ..Nack::default() };
        let outcome = (!self.status.is_success()).then_some(handle_response::Outcome::Nack(nack));
        Ok(Response::new(HandleResponse { outcome }))
    }
}

/// Serves `Handler` and CloudEvents over HTTP, until it is dropped.
pub(super) async fn serve(listener: TcpListener, answering: Answering) -> std::io::Result<()> {
    let http = |State(answering): State<Answering>, headers: HeaderMap, body: Bytes| async move {
        answering.take(|| of_request(&headers, &body)).await;
        answering.status
    };
    let app = Router::new()
        .route_service("/messagehub.v1.Handler/{call}", HandlerServer::new(answering.clone()))
        .fallback(http)
        .with_state(answering);
    axum::serve(listener, app).await
}

/// An event as it was called with.
fn of_call(request: HandleRequest) -> Value {
    let recorded = request.event.unwrap_or_default();
    let event = Event::decode(recorded.event.clone()).unwrap_or_default();
    let envelope = EnvelopeJson { recorded: &recorded, event: &event };
    let mut told = json!({"subscription": request.subscription, "attempt": request.attempt});
    let envelope = serde_json::to_value(envelope).unwrap_or_default();
    if let (Value::Object(told), Value::Object(envelope)) = (&mut told, envelope) {
        told.extend(envelope);
    }
    told
}

/// An event as it was posted, in either mode.
fn of_request(headers: &HeaderMap, body: &[u8]) -> Value {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let is_json = text("content-type").starts_with("application/cloudevents+json");
    let structured = is_json.then(|| serde_json::from_slice(body).ok()).flatten();
    let event = structured.unwrap_or_else(|| {
        let attribute = |name: &str| name.strip_prefix("ce-").map(str::to_owned);
        let attributes = headers.iter().filter_map(|(name, value)| {
            let decoded = percent_decode(value.as_bytes());
            attribute(name.as_str()).map(|name| (name, Value::String(decoded)))
        });
        let mut event: Map<String, Value> = attributes.collect();
        let data = String::from_utf8_lossy(body).into_owned();
        let data = serde_json::from_str(&data).unwrap_or(Value::String(data));
        event.insert("data".to_owned(), data);
        Value::Object(event)
    });
    json!({
        "subscription": text("mhub-subscription"),
        "attempt": text("mhub-attempt").parse::<u32>().unwrap_or(1),
        "topic": text("mhub-topic"),
        "offset": event["sequence"],
        "event": event,
    })
}

fn percent_decode(value: &[u8]) -> String {
    let (mut bytes, mut rest) = (Vec::with_capacity(value.len()), value);
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let escaped = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (first, escaped) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Events that wait to be printed.
const PRINTED_MAX: usize = 1024;

const HANDLED: &[(&str, usize)] =
    &[("topic", 16), ("offset", 8), ("attempt", 7), ("type", 20), ("data", 0)];

fn print(lines: &mut Lines, output: Output, told: &Value) -> Result<(), Failure> {
    if output != Output::Table {
        return lines.document(told);
    }
    let event = &told["event"];
    lines.print(&json!({
        "topic": told["topic"],
        "offset": told["offset"],
        "attempt": told["attempt"].to_string(),
        "type": event["type"],
        "data": event["data"].as_str().map_or_else(|| event["data"].to_string(), str::to_owned),
    }))
}

pub(super) async fn run(args: HandleArgs, global: &Global) -> Done {
    let status = StatusCode::from_u16(args.answer)
        .map_err(|_| Failure::usage(format!("--answer {} is no HTTP status", args.answer)))?;
    let listener = TcpListener::bind(args.listen).await?;
    let at = args.advertise.unwrap_or(listener.local_addr()?.to_string());
    let (tell, mut told) = mpsc::channel(PRINTED_MAX);
    let delay = Duration::from_millis(args.delay);
    let answering = Answering { status, delay, got: Arc::default(), tell: Some(tell) };
    let mut serving = tasks::spawn("handle", serve(listener, answering));
    let address = |protocol: &str| Address { protocol: protocol.to_owned(), address: at.clone() };
    let spec = InstanceSpec {
        service: args.service,
        id: args.id,
        addresses: vec![address("http"), address("grpc")],
        zone: args.zone,
        version: args.version,
        weight_milli: args.weight,
        ttl_ms: args.ttl.unwrap_or_default(),
        ..InstanceSpec::default()
    };
    let mut handle = ServiceHandle::register(&global.client()?, vec![spec]).await?;
    output::complain(&format!("handling events at {at}; ctrl-C ends it"));
    let mut lines = Lines::new(global.output, HANDLED);
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut stop = pin!(stop::asked());
    while left > 0 {
        tokio::select! {
            event = told.recv() => {
                let Some(event) = event else { break };
                print(&mut lines, global.output, &event)?;
                lines.flush()?;
                left -= 1;
            }
            news = handle.news() => match news {
                Some(ServiceNews::Lost { .. }) => {
                    output::complain("the hub had given it up; registering it again");
                }
                Some(ServiceNews::Registered(_)) => output::complain("registered again"),
                Some(ServiceNews::Refused(rejection)) => {
                    output::complain(&format!("not registered again: {rejection}"));
                }
                None => break,
            },
            ended = &mut serving => {
                ended.map_err(std::io::Error::other)??;
                break;
            }
            stopped = &mut stop => {
                stopped?;
                break;
            }
        }
    }
    handle.deregister().await?;
    lines.end()?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_modes_are_printed_alike() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("ce-id", "1"),
            ("ce-type", "order%20created"),
            ("ce-sequence", "7"),
            ("mhub-topic", "orders"),
            ("mhub-attempt", "2"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        let binary = of_request(&headers, br#"{"n":1}"#);
        headers.insert("content-type", "application/cloudevents+json".parse().unwrap());
        let json = br#"{"id":"1","type":"order created","sequence":"7","data":{"n":1}}"#;
        let structured = of_request(&headers, json);
        assert_eq!(binary, structured);
        assert_eq!((&binary["offset"], &binary["attempt"]), (&json!("7"), &json!(2)));
    }

    #[test]
    fn escapes_are_read() {
        assert_eq!(percent_decode(b"Euro%20%E2%82%AC 100%"), "Euro \u{20ac} 100%");
    }
}
