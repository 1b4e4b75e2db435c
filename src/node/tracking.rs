//! The story of events that belong together.

use super::Node;
use super::query::Consistency;
use crate::machine::subscription;
use crate::machine::tracking::query::{self, Trace};
use crate::model::ids::Position;
use crate::model::limits::ATTRIBUTE_BYTES_MAX;
use crate::model::rejection::{Reason, Rejection};
use crate::model::trace::Chosen;

impl Node {
    /// Events of a correlation id from a position on, with what became of each in the chosen subscriptions.
    ///
    /// # Errors
    /// `INVALID_REQUEST`, `SUBSCRIPTION_NOT_FOUND` for one that is named, and those of [`Node::fresh`].
    pub async fn trace(
        &self,
        (correlation_id, chosen): (String, Chosen),
        from: Position,
        limit: usize,
        wanted: Consistency,
    ) -> Result<Trace, Rejection> {
        if correlation_id.is_empty() || correlation_id.len() > ATTRIBUTE_BYTES_MAX {
            return Err(Rejection::new(
                Reason::InvalidRequest,
                format!(
                    "a correlation id has 1 to {ATTRIBUTE_BYTES_MAX} bytes; give that of the events"
                ),
            ));
        }
        self.fresh(wanted, self.deadline()).await?;
        let now = self.now();
        self.read(move |db| {
            if let Chosen::Named(name) = &chosen
                && subscription::query::subscription(db, name)?.is_none()
            {
                return Ok(Err(subscription::record::not_found(name)));
            }
            query::trace(db, (&correlation_id, &chosen), from, limit, now).map(Ok)
        })
        .await?
    }
}
