//! Spans of events that carry a sampled W3C trace context, for an OpenTelemetry collector.
//!
//! After the semantic conventions for messaging: a call that publishes to a topic is one span, and so is a delivery,
//! which is of one topic. Each begins a trace of its own, with a link to the context of each of its events. What the
//! collector does not take in time is dropped: it holds up nothing.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{
    Link, Span as _, SpanContext, SpanKind, Status, TraceContextExt as _, Tracer as _,
    TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span};

use crate::model::event::EventView;
use crate::model::event_run;
use crate::model::limits::TRACED_CONTEXTS_MAX;
use crate::model::rejection::Rejection;

/// How long the collector may take for a batch of spans.
const EXPORT_PATIENCE: Duration = Duration::from_secs(5);

/// Where spans go.
#[derive(Clone, Debug)]
pub struct Spans {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    reader: TraceContextPropagator,
}

/// The trace contexts of events, and since when something is done with them.
#[derive(Clone, Debug)]
pub struct Traced {
    contexts: Vec<SpanContext>,
    began: SystemTime,
}

/// What is done with events.
struct Operation {
    name: &'static str,
    /// As the conventions know it.
    of_type: &'static str,
    kind: SpanKind,
}

const PUBLISH: Operation = Operation { name: "publish", of_type: "send", kind: SpanKind::Producer };
const DELIVER: Operation =
    Operation { name: "deliver", of_type: "receive", kind: SpanKind::Consumer };

/// Of which topic, with whom, and how many events.
struct Of<'a> {
    topic: &'a str,
    client: &'a str,
    events: u64,
}

impl Spans {
    /// Sends spans to an OTLP collector, over gRPC; to be called in a runtime. It may be away.
    ///
    /// # Errors
    /// When the address is none.
    pub fn start(endpoint: &str, node: u64) -> anyhow::Result<Self> {
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint);
        let exporter = exporter
            .with_timeout(EXPORT_PATIENCE)
            .build()
            .with_context(|| format!("setting trace.otlp_endpoint: {endpoint:?}"))?;
        let resource = Resource::builder_empty().with_service_name("mhub");
        let resource =
            resource.with_attribute(KeyValue::new("service.instance.id", node.to_string()));
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build())
            .build();
        let tracer = provider.tracer("message-hub");
        Ok(Self { provider, tracer, reader: TraceContextPropagator::new() })
    }

    /// What of these runs of events is traced; `None`: nothing. Up to `TRACED_CONTEXTS_MAX` contexts count.
    #[must_use]
    pub fn traced<'r>(
        &self,
        runs: impl IntoIterator<Item = &'r [u8]>,
        began: SystemTime,
    ) -> Option<Traced> {
        let mut contexts = BTreeMap::new();
        for encoded in runs.into_iter().flat_map(event_run::iter).flatten() {
            let Ok(view) = EventView::read(encoded) else { continue };
            if view.traceparent.is_empty() || contexts.contains_key(view.traceparent) {
                continue;
            }
            if contexts.len() == TRACED_CONTEXTS_MAX {
                break;
            }
            if let Some(context) = self.context(view.traceparent) {
                contexts.insert(view.traceparent, context);
            }
        }
        let contexts: Vec<_> = contexts.into_values().collect();
        (!contexts.is_empty()).then_some(Traced { contexts, began })
    }

    /// The context that a `traceparent` tells, if it is one and sampled.
    fn context(&self, traceparent: &str) -> Option<SpanContext> {
        let carrier = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
        let context = self.reader.extract_with_context(&Context::new(), &carrier);
        let found = context.span().span_context().clone();
        (found.is_valid() && found.is_sampled()).then_some(found)
    }

    /// A publish is over: its topic and service, how many events it has, and the offset of the first or why it
    /// was refused.
    pub fn published(
        &self,
        traced: &Traced,
        (topic, service): (&str, &str),
        events: u32,
        outcome: Result<u64, &Rejection>,
        ended: SystemTime,
    ) {
        let mut attributes = Vec::new();
        let status = match outcome {
            Ok(offset) => {
                let offset = i64::try_from(offset).unwrap_or(i64::MAX);
                attributes.push(KeyValue::new("mhub.first_offset", offset));
                Status::Unset
            }
            Err(why) => {
                attributes.push(KeyValue::new("error.type", why.reason.as_str()));
                Status::error(why.message.clone())
            }
        };
        let of = Of { topic, client: service, events: u64::from(events) };
        let mut span = self.begin(&PUBLISH, &of, traced, attributes);
        span.set_status(status);
        span.end_with_timestamp(ended);
    }

    /// Events of a topic were handed to a consumer of a subscription.
    pub fn delivered(
        &self,
        traced: &Traced,
        topic: &str,
        (subscription, consumer): (&str, &str),
        events: u64,
        ended: SystemTime,
    ) {
        let subscription =
            KeyValue::new("messaging.destination.subscription.name", subscription.to_owned());
        let of = Of { topic, client: consumer, events };
        self.begin(&DELIVER, &of, traced, vec![subscription]).end_with_timestamp(ended);
    }

    /// With a link to each context, and a child of none.
    fn begin(
        &self,
        operation: &Operation,
        of: &Of<'_>,
        traced: &Traced,
        mut attributes: Vec<KeyValue>,
    ) -> Span {
        attributes.extend([
            KeyValue::new("messaging.system", "mhub"),
            KeyValue::new("messaging.operation.name", operation.name),
            KeyValue::new("messaging.operation.type", operation.of_type),
            KeyValue::new("messaging.destination.name", of.topic.to_owned()),
            KeyValue::new("messaging.client.id", of.client.to_owned()),
        ]);
        if of.events > 1 {
            let events = i64::try_from(of.events).unwrap_or(i64::MAX);
            attributes.push(KeyValue::new("messaging.batch.message_count", events));
        }
        let links = traced.contexts.iter().cloned().map(Link::with_context).collect();
        let name = format!("{} {}", operation.name, of.topic);
        let span = self.tracer.span_builder(name).with_kind(operation.kind.clone());
        let span = span.with_start_time(traced.began).with_attributes(attributes).with_links(links);
        span.start_with_context(&self.tracer, &Context::new())
    }

    /// Sends what waits; blocks for up to `EXPORT_PATIENCE`.
    pub fn stop(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(EXPORT_PATIENCE) {
            tracing::debug!(%error, "the last spans are not sent");
        }
    }
}
