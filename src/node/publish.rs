//! Appending events: within the service's quota, with what schemas say of them, proposed.

use super::propose::Ticket;
use super::validate::Sound;
use super::{Node, unexpected};
use crate::machine::producers;
use crate::model::command::{Kind, Publish};
use crate::model::limits::SCHEMA_JUDGEMENTS_MAX;
use crate::model::outcome::{Outcome, Published};
use crate::model::rejection::{Reason, Rejection};
use crate::runtime::clock;
use crate::telemetry::spans::Traced;

/// Events that were judged, and may be proposed.
#[derive(Debug)]
pub struct Ready {
    /// As they came: they are judged again when their schemas changed meanwhile.
    publish: Publish,
    /// As they are proposed.
    judged: Publish,
    /// See [`Node::traced`].
    traced: Option<(String, Traced)>,
}

/// Events on their way.
#[derive(Debug)]
pub struct Publishing {
    /// See [`Ready`].
    publish: Publish,
    ticket: Ticket,
    /// See [`Node::traced`].
    traced: Option<(String, Traced)>,
}

impl Node {
    /// Appends events of a service that were validated.
    ///
    /// # Errors
    /// `DEADLINE_PAST`, `QUOTA_EXCEEDED`, `SCHEMA_VIOLATED`, what the state refuses, and everything that keeps a
    /// proposal from an outcome.
    pub async fn publish(&self, service: &str, sound: Sound) -> Result<Published, Rejection> {
        let ready = self.ready(service, sound).await?;
        self.begin_publish(ready).await?.outcome(self).await
    }

    /// Judges events of a service that were validated.
    ///
    /// # Errors
    /// `DEADLINE_PAST`, `QUOTA_EXCEEDED`, `SCHEMA_VIOLATED`.
    pub async fn ready(&self, service: &str, sound: Sound) -> Result<Ready, Rejection> {
        let Sound { publish, untimely } = sound;
        let traced = self.traced(service, &publish);
        let judged = async {
            match self.admit_publish(service, untimely, std::slice::from_ref(&publish)) {
                // A repeated call gets its first answer, as late as it is.
                Err(_) if self.is_repeated(&publish).await? => {}
                admitted => admitted?,
            }
            self.as_proposed(&publish, false).await
        };
        match judged.await {
            Ok(judged) => Ok(Ready { publish, judged, traced }),
            Err(refused) => {
                self.tell_span(&publish, traced, Err(&refused));
                Err(refused)
            }
        }
    }

    /// Queues events that were judged.
    ///
    /// # Errors
    /// When too much is queued already.
    pub async fn begin_publish(&self, ready: Ready) -> Result<Publishing, Rejection> {
        let Ready { publish, judged, traced } = ready;
        match self.proposer.submit(Kind::Publish(judged)).await {
            Ok(ticket) => Ok(Publishing { publish, ticket, traced }),
            Err(refused) => {
                self.tell_span(&publish, traced, Err(&refused));
                Err(refused)
            }
        }
    }

    /// For spans: of which service events are, and what of them is traced.
    pub(super) fn traced(&self, service: &str, publish: &Publish) -> Option<(String, Traced)> {
        let traced = self.spans.as_ref()?.traced([&publish.events[..]], clock::wall())?;
        Some((service.to_owned(), traced))
    }

    /// Tells what became of traced events: the offset of the first, or why they were refused.
    pub(super) fn tell_span(
        &self,
        publish: &Publish,
        of: Option<(String, Traced)>,
        outcome: Result<u64, &Rejection>,
    ) {
        if let (Some(spans), Some((service, traced))) = (&self.spans, of) {
            let to = (publish.topic.as_str(), service.as_str());
            spans.published(&traced, to, publish.count, outcome, clock::wall());
        }
    }

    /// Events with what their schemas say of them; see [`Node::judged`].
    async fn as_proposed(&self, publish: &Publish, anew: bool) -> Result<Publish, Rejection> {
        let judged = match self.judged(publish, anew).await {
            Ok(judged) => judged,
            // A repeated call gets its first answer, whatever schemas say of it by now.
            Err(_) if self.is_repeated(publish).await? => None,
            Err(refused) => return Err(refused),
        };
        Ok(judged.unwrap_or_else(|| publish.clone()))
    }

    async fn is_repeated(&self, publish: &Publish) -> Result<bool, Rejection> {
        let Some(producer) = publish.producer.clone() else { return Ok(false) };
        self.read(move |db| producers::is_answered(db, &producer)).await
    }
}

impl Publishing {
    /// Waits for the outcome; it comes in bounded time.
    ///
    /// # Errors
    /// What the state refused, `SCHEMA_VIOLATED` by a schema that came meanwhile, and everything that kept the
    /// proposal from an outcome.
    pub async fn outcome(self, node: &Node) -> Result<Published, Rejection> {
        let Self { publish, ticket, traced } = self;
        let outcome = settled(node, &publish, ticket).await;
        let told = outcome.as_ref().map(|published| published.first_offset.get());
        node.tell_span(&publish, traced, told);
        outcome
    }
}

/// The outcome of events, which are judged again where their schemas changed.
async fn settled(
    node: &Node,
    publish: &Publish,
    mut ticket: Ticket,
) -> Result<Published, Rejection> {
    for _ in 1..SCHEMA_JUDGEMENTS_MAX {
        match ticket.outcome().await {
            Err(refused) if refused.reason == Reason::SchemaChanged => {
                let judged = node.as_proposed(publish, true).await?;
                ticket = node.proposer.submit(Kind::Publish(judged)).await?;
            }
            outcome => return published(outcome),
        }
    }
    published(ticket.outcome().await)
}

fn published(outcome: Result<Outcome, Rejection>) -> Result<Published, Rejection> {
    match outcome? {
        Outcome::Published(published) => Ok(published),
        other => Err(unexpected(&other)),
    }
}
