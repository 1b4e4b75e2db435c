//! Who leads, from the view of the rooms above: whether it is this node, and since which term.

use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::RaftServerMetrics;
use openraft::type_config::alias::WatchReceiverOf;

use super::types::TypeConfig;
use crate::model::ids::Term;

/// Consensus has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

/// Hears when this node begins and ends to lead.
#[derive(Clone)]
pub struct Leadership(WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>>);

impl Leadership {
    pub(super) fn new(
        mut metrics: WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>>,
    ) -> Self {
        // The library hands out copies of a receiver that has seen nothing: who waits with a new one
        // would be told of a change at once, whenever it asks.
        drop(metrics.borrow_and_update());
        Self(metrics)
    }

    /// The term that this node leads in; `None`: it does not lead.
    #[must_use]
    pub fn term(&self) -> Option<Term> {
        let metrics = self.0.borrow_watched();
        metrics.state.is_leader().then_some(Term(metrics.vote.leader_id.term))
    }

    /// Waits until something may have changed.
    ///
    /// # Errors
    /// When consensus has stopped: nothing changes any more.
    pub async fn changed(&mut self) -> Result<(), Stopped> {
        self.0.changed().await.map_err(|_| Stopped)
    }
}
