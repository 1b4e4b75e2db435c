//! Delivery by the hub itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::stage::{Shape, Stage};
use super::{rate, seconds};
use crate::cli::service_handle::{Answering, serve};
use crate::cli::{Failure, output};
use crate::client::{Client, ServiceHandle};
use crate::proto::v1::{
    Address, GetSubscriptionRequest, InstanceSpec, SubscriptionConfig, Target, TargetFormat,
    UpdateSubscriptionRequest,
};
use crate::runtime::{clock, tasks};

/// Instances that are delivered to.
const INSTANCES: usize = 2;
/// How often it is looked whether all is done.
const LOOK: Duration = Duration::from_millis(5);

#[derive(Clone, Debug, clap::Args)]
pub(in crate::cli) struct RouteArgs {
    /// Bytes of each event's payload.
    #[arg(long, default_value_t = 256)]
    size: usize,
    /// Events that are published before.
    #[arg(long, default_value_t = 100_000)]
    preload: u64,
    /// By gRPC instead of HTTP.
    #[arg(long)]
    grpc: bool,
    /// Events that one instance has at once.
    #[arg(long, default_value_t = 200)]
    per_instance: u32,
    /// Give up when they are not delivered by then, seconds.
    #[arg(long, default_value_t = 120.0)]
    give_up: f64,
}

/// Delivers what was published before.
pub(super) async fn run(client: &Client, args: &RouteArgs) -> Result<Value, Failure> {
    let give_up = seconds(args.give_up)?;
    let shape = Shape { size: args.size, ..Shape::default() };
    let stage = Stage::set(client, shape.config()).await?;
    stage.fill(&shape, args.preload).await?;
    let got = Arc::new(AtomicU64::new(0));
    let mut specs = Vec::new();
    for number in 0..INSTANCES {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let protocol = if args.grpc { "grpc" } else { "http" };
        let answering = Answering {
            status: StatusCode::NO_CONTENT,
            delay: Duration::ZERO,
            got: Arc::clone(&got),
            tell: None,
        };
        tasks::spawn("bench-instance", serve(listener, answering));
        specs.push(InstanceSpec {
            service: stage.name.clone(),
            id: format!("i-{number}"),
            addresses: vec![Address { protocol: protocol.to_owned(), address }],
            ..InstanceSpec::default()
        });
    }
    let handle = ServiceHandle::register(client, specs).await?;
    let format = if args.grpc { TargetFormat::Grpc } else { TargetFormat::HttpBinary };
    let service = Some(stage.name.clone());
    let target = Target { service, format: format.into(), ..Target::default() };
    let config = SubscriptionConfig {
        target: Some(target),
        max_in_flight_per_consumer: Some(args.per_instance),
        ..SubscriptionConfig::default()
    };
    let name = stage.name.clone();
    let update = UpdateSubscriptionRequest { name, config: Some(config), ..Default::default() };
    let started = clock::now();
    client.update_subscription(update).await?;
    while got.load(Ordering::Relaxed) < args.preload && started.elapsed() < give_up {
        tokio::time::sleep(LOOK).await;
    }
    let (took, delivered) = (started.elapsed(), got.load(Ordering::Relaxed));
    if delivered < args.preload {
        output::complain(&format!("only {delivered} of {} were delivered in time", args.preload));
    }
    let name = stage.name.clone();
    let info = client.subscription(GetSubscriptionRequest { name, ..Default::default() }).await?;
    let counters = info.counters.unwrap_or_default();
    handle.deregister().await?;
    stage.strike().await;
    Ok(json!({
        "rate": rate(delivered, took),
        "events": delivered,
        "secs": took.as_secs_f64(),
        "errors": counters.nacked + counters.rejected + counters.expired,
        "instances": INSTANCES,
        "size": args.size,
    }))
}
