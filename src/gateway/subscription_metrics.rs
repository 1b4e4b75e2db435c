//! Metrics of subscriptions, by name: what the leader knows of the first of them.

use std::fmt::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::model::limits::DISPATCH_LATENCY_MS;
use crate::node::lead::LatencySample;
use crate::node::subscriptions::SubscriptionSample;

/// What was last found.
#[derive(Clone, Debug, Default)]
pub(super) struct Subscriptions(Arc<Mutex<Vec<SubscriptionSample>>>);

impl Subscriptions {
    pub(super) fn set(&self, found: Vec<SubscriptionSample>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }
}

/// One value a subscription.
fn family<M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, unit): (&str, &str, Option<&Unit>),
    samples: &[SubscriptionSample],
    value: impl Fn(&SubscriptionSample) -> M,
) -> Result<(), Error> {
    let Some(first) = samples.first() else { return Ok(()) };
    let kind = value(first).metric_type();
    let mut family = encoder.encode_descriptor(name, help, unit, kind)?;
    for sample in samples {
        let labels = [("subscription", sample.name.as_str())];
        value(sample).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// A histogram that was kept elsewhere.
#[derive(Debug)]
struct Histogram(LatencySample);

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), Error> {
        // Whole milliseconds, exact as long as they are fewer than 2^53.
        let bounds = DISPATCH_LATENCY_MS.map(|ms| Duration::from_millis(ms).as_secs_f64());
        let bounds = bounds.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(self.0.events).collect();
        let (sum, count) = (Duration::from_millis(self.0.sum_ms), self.0.events.iter().sum());
        encoder.encode_histogram::<NoLabelSet>(sum.as_secs_f64(), count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

type Count = fn(&SubscriptionSample) -> u64;

const GAUGES: [(&str, &str, Count); 8] = [
    ("subscription_pending", "Events that are ready and were never delivered", |s| s.stats.pending),
    ("subscription_delayed", "Events that wait for an instant of their own", |s| s.stats.delayed),
    ("subscription_in_flight", "Events with consumers", |s| s.stats.leased),
    ("subscription_retrying", "Events that failed and will come again", |s| s.stats.retrying),
    ("subscription_due", "Of these, those that may be delivered now", |s| s.stats.due),
    ("subscription_dead_letters", "Dead letters that are kept", |s| s.stats.dead),
    ("subscription_paused", "1 while no events are handed out", |s| u64::from(s.paused)),
    ("subscription_truncated", "1 where counting ended at a bound", |s| {
        u64::from(s.stats.truncated)
    }),
];

const COUNTERS: [(&str, &str, Count); 8] = [
    ("subscription_delivered", "Events handed to consumers", |s| s.counters.delivered),
    ("subscription_redelivered", "Of these, after a failure", |s| s.counters.redelivered),
    ("subscription_acked", "Events acknowledged", |s| s.counters.acked),
    ("subscription_nacked", "Events given back as failed", |s| s.counters.nacked),
    ("subscription_rejected", "Events given back as impossible", |s| s.counters.rejected),
    ("subscription_released", "Events given back untouched", |s| s.counters.released),
    ("subscription_expired", "Events lost by their consumers", |s| s.counters.expired),
    ("subscription_dead", "Events that became dead letters", |s| s.counters.dead),
];

impl Collector for Subscriptions {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, help, count) in GAUGES {
            let gauge = |s: &SubscriptionSample| {
                ConstGauge::new(i64::try_from(count(s)).unwrap_or(i64::MAX))
            };
            family(&mut encoder, (name, help, None), &samples, gauge)?;
        }
        for (name, help, count) in COUNTERS {
            family(&mut encoder, (name, help, None), &samples, |s| ConstCounter::new(count(s)))?;
        }
        let age = (
            "subscription_oldest_age",
            "Age of the oldest event that is not done",
            Some(&Unit::Seconds),
        );
        family(&mut encoder, age, &samples, |s| ConstGauge::new(s.oldest_age.as_secs_f64()))?;
        let latency = (
            "subscription_dispatch_latency",
            "How long events that were ready waited until they were leased, on this node",
            Some(&Unit::Seconds),
        );
        family(&mut encoder, latency, &samples, |s| Histogram(s.latency))?;
        let ratio = ("subscription_redelivery_ratio", "Share of deliveries after a failure", None);
        family(&mut encoder, ratio, &samples, |s| ConstGauge::new(s.redelivery_ratio()))
    }
}
