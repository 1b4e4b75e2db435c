//! Appending events: within the service's quota, with what schemas say of them, proposed.

use super::propose::Ticket;
use super::{Node, unexpected};
use crate::model::command::{Kind, Publish};
use crate::model::limits::SCHEMA_JUDGEMENTS_MAX;
use crate::model::outcome::{Outcome, Published};
use crate::model::rejection::{Reason, Rejection};

/// Events on their way.
#[derive(Debug)]
pub struct Publishing {
    /// As they came: they are judged again when their schemas changed meanwhile.
    publish: Publish,
    ticket: Ticket,
}

impl Node {
    /// Appends events of a service that were validated.
    ///
    /// # Errors
    /// `QUOTA_EXCEEDED`, `SCHEMA_VIOLATED`, what the state refuses, and everything that keeps a proposal from
    /// an outcome.
    pub async fn publish(&self, service: &str, publish: Publish) -> Result<Published, Rejection> {
        self.begin_publish(service, publish).await?.outcome(self).await
    }

    /// Queues events of a service that were validated.
    ///
    /// # Errors
    /// `QUOTA_EXCEEDED`, `SCHEMA_VIOLATED`, or when too much is queued already.
    pub async fn begin_publish(
        &self,
        service: &str,
        publish: Publish,
    ) -> Result<Publishing, Rejection> {
        self.admit_publish(service, &publish)?;
        let ticket = self.propose_events(&publish, false).await?;
        Ok(Publishing { publish, ticket })
    }

    async fn propose_events(&self, publish: &Publish, anew: bool) -> Result<Ticket, Rejection> {
        let judged = self.judged(publish, anew).await?.unwrap_or_else(|| publish.clone());
        self.proposer.submit(Kind::Publish(judged)).await
    }
}

impl Publishing {
    /// Waits for the outcome; it comes in bounded time.
    ///
    /// # Errors
    /// What the state refused, `SCHEMA_VIOLATED` by a schema that came meanwhile, and everything that kept the
    /// proposal from an outcome.
    pub async fn outcome(self, node: &Node) -> Result<Published, Rejection> {
        let Self { publish, mut ticket } = self;
        for _ in 1..SCHEMA_JUDGEMENTS_MAX {
            match ticket.outcome().await {
                Err(refused) if refused.reason == Reason::SchemaChanged => {
                    ticket = node.propose_events(&publish, true).await?;
                }
                outcome => return published(outcome),
            }
        }
        published(ticket.outcome().await)
    }
}

fn published(outcome: Result<Outcome, Rejection>) -> Result<Published, Rejection> {
    match outcome? {
        Outcome::Published(published) => Ok(published),
        other => Err(unexpected(&other)),
    }
}
