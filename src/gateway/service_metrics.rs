//! Metrics of services, by name, and of what the hub delivers to them.

use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::node::Node;
use crate::node::registry::ServiceSample;

/// Reads the node at every scrape.
pub(super) struct Services(pub(super) Arc<Node>);

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Services")
    }
}

type Count = fn(&ServiceSample) -> u64;

const STATES: [(&str, Count); 3] =
    [("passing", |s| s.passing), ("critical", |s| s.critical), ("out", |s| s.out)];

type Flag = (&'static str, &'static str, fn(&ServiceSample) -> bool);

/// What holds of a service or does not.
const FLAGS: [Flag; 4] = [
    (
        "service_breaker_open",
        "Whether the breaker of the service as a whole lets nothing through",
        |s| s.is_shut,
    ),
    ("service_ready", "Whether a service takes calls, and so does all that it requires", |s| {
        s.ready
    }),
    (
        "service_failed_over",
        "Whether another service is called in the place of one that is down",
        |s| s.failed_over,
    ),
    (
        "service_braked",
        "Whether none of its instances is given up, as too many fell silent at once",
        |s| s.braked,
    ),
];

impl Collector for Services {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let samples = self.0.service_samples();
        let gauge = |n: u64| ConstGauge::new(i64::try_from(n).unwrap_or(i64::MAX));
        if !samples.is_empty() {
            let help = "Instances by how they stand; out: draining or in maintenance";
            let name = "service_instances";
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for sample in &samples {
                for (state, count) in STATES {
                    let labels = [("service", sample.name.as_str()), ("state", state)];
                    gauge(count(sample)).encode(family.encode_family(&labels)?)?;
                }
            }
            let help = "Breakers of instances that let nothing through";
            let name = "service_breakers_open";
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for sample in &samples {
                let labels = [("service", sample.name.as_str())];
                gauge(sample.shut).encode(family.encode_family(&labels)?)?;
            }
            for (name, help, is) in FLAGS {
                let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
                for sample in &samples {
                    let labels = [("service", sample.name.as_str())];
                    gauge(u64::from(is(sample))).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        let help = "What happened to instances, as applied by this node since it started";
        let name = "service_transitions";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (kind, count) in self.0.service_transitions() {
            let labels = [("to", kind)];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        let help = "What happened to services, as applied by this node since it started";
        let mut family =
            encoder.encode_descriptor("service_changes", help, None, MetricType::Counter)?;
        for (kind, count) in self.0.service_changes() {
            let labels = [("what", kind)];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        let help = "How much longer instances that are silent may be kept, since this node has just begun to lead";
        let (name, unit) = ("registry_grace", Some(&Unit::Seconds));
        let grace = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        ConstGauge::new(self.0.registry_grace().as_secs_f64()).encode(grace)?;
        let help = "Choices by this node of instances of another zone than the caller's";
        let name = "resolved_out_of_zone";
        let resolved = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(self.0.resolved_out_of_zone()).encode(resolved)?;
        let help = "Calls of this node to instances that it delivered events to";
        let name = "routed_calls";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (result, count) in self.0.routed_calls() {
            let labels = [("result", result)];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
