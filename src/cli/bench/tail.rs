//! Following a topic under load.

use std::time::Duration;

use serde_json::{Value, json};

use super::{LATENCY_MAX_US, PublishArgs, WARM_UP, latencies, publish, quantile_ms, rate, seconds};
use crate::cli::Failure;
use crate::client::Client;
use crate::proto::v1::read_request::From;
use crate::proto::v1::{CreateTopicRequest, DeleteTopicRequest, End, ReadRequest};
use crate::runtime::{clock, tasks};

/// Publishes as the arguments say, and follows at the reader: the lag is from the moment at which
/// the hub took an event to the one at which it is here. Both clocks have to be this machine's.
pub(super) async fn run(
    client: &Client,
    reader: &Client,
    args: &PublishArgs,
) -> Result<Value, Failure> {
    let topic = args.topic.clone().unwrap_or_else(|| format!("bench-{}", uuid::Uuid::new_v4()));
    if args.topic.is_none() {
        let request = CreateTopicRequest { name: topic.clone(), ..Default::default() };
        client.create_topic(request).await?;
    }
    let load = PublishArgs { topic: Some(topic.clone()), ..args.clone() };
    let follow = follow(reader, &topic, WARM_UP, seconds(args.secs)?);
    let (published, followed) = {
        let (client, reader) = (client.clone(), tasks::spawn("bench-tail", follow));
        let published = publish::run(&client, &load).await?;
        (published, reader.await.map_err(|e| Failure::from(anyhow::Error::from(e)))??)
    };
    if args.topic.is_none() {
        let confirm_name = topic.clone();
        let request = DeleteTopicRequest { name: topic, confirm_name, ..Default::default() };
        client.delete_topic(request).await?;
    }
    let mut told = followed;
    if let Some(fields) = told.as_object_mut() {
        fields.insert("published_rate".to_owned(), published["rate"].clone());
        fields.insert("errors".to_owned(), published["errors"].clone());
    }
    Ok(told)
}

fn follow(
    reader: &Client,
    topic: &str,
    warm_up: Duration,
    measured: Duration,
) -> impl Future<Output = Result<Value, Failure>> + Send + 'static {
    let request = ReadRequest {
        topic: topic.to_owned(),
        from: Some(From::End(End {})),
        ..Default::default()
    };
    let mut tail = reader.tail(request);
    async move {
        let started = clock::now();
        let (mut lags, mut events) = (latencies(), 0_u64);
        while started.elapsed() < warm_up + measured {
            let part = tokio::time::timeout(warm_up + measured, tail.next()).await;
            let Ok(Some(part)) = part.unwrap_or(Ok(None)) else { break };
            let now = clock::unix_ms().get();
            for batch in part.batches.iter().filter(|_| started.elapsed() >= warm_up) {
                let count = batch.events.len() as u64;
                let lag_us = now.saturating_sub(batch.recorded_at_ms) * 1000;
                lags.saturating_record_n(lag_us.min(LATENCY_MAX_US), count);
                events += count;
            }
        }
        Ok(json!({
            "rate": rate(events, measured),
            "p50_ms": quantile_ms(&lags, 0.5),
            "p99_ms": quantile_ms(&lags, 0.99),
            "max_ms": quantile_ms(&lags, 1.0),
            "events": events,
        }))
    }
}
