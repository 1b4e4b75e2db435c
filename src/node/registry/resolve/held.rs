//! Services that nobody gets until all that they require is ready.

use super::{Resolved, Wanted};
use crate::machine::registry::graph;
use crate::model::rejection::{Reason, Rejection};
use crate::node::Node;
use crate::node::registry::{Registry, freshness};
use crate::runtime::clock;

impl Registry {
    /// Whether nobody gets a service until all that it requires is ready.
    fn waits(&self, service: &str) -> bool {
        let known = self.view.service(service);
        known.is_some_and(|k| k.service.as_ref().is_some_and(|s| s.config.hold_until_ready))
    }

    /// The services of a failover list that may be waiting for what they require.
    fn waiting_steps(&self, service: &str) -> Vec<String> {
        let known = self.view.service(service);
        let Some(service) = known.as_ref().and_then(|known| known.service.as_ref()) else {
            return Vec::new();
        };
        let steps = service.config.failover.iter().map(|step| &step.service);
        steps.filter(|step| self.waits(step)).cloned().collect()
    }
}

impl Node {
    /// The incarnations that would be chosen from; none while the service whose they are waits for what it
    /// requires.
    pub(in crate::node) async fn takers(&self, wanted: &Wanted) -> Vec<u64> {
        let (wanted, _) = self.without_held(wanted).await;
        match self.registry.takers(&wanted, self.now()) {
            Some((name, _)) if self.registry.waits(&name) && self.held(&name).await.is_err() => {
                Vec::new()
            }
            found => found.map_or_else(Vec::new, |(_, takers)| takers),
        }
    }

    /// Chooses instances of a service, from what this node knows.
    ///
    /// # Errors
    /// `INVALID_CONFIG` for a requirement that is none, `INVALID_REQUEST`, `SERVICE_NOT_FOUND`,
    /// `NO_INSTANCE`; `NO_LEADER`, `NO_QUORUM`: this node has not caught up since it started.
    pub async fn resolve_service(&self, wanted: &Wanted) -> Result<Resolved, Rejection> {
        let (dice, _) = uuid::Uuid::new_v4().as_u64_pair();
        let has_caught_up = self.registry.freshness.has_caught_up();
        let (wanted, passed_over) = self.without_held(wanted).await;
        let found = self.registry.choose(&wanted, dice, self.now(), clock::now());
        // Nobody takes calls, and one might but for what it waits for: that is what to see to.
        let found = found.map_err(|rejection| match passed_over {
            Some(held) if rejection.reason == Reason::NoInstance => held,
            _ => rejection,
        });
        let mut found =
            if has_caught_up { found? } else { freshness::vouched(found, self.is_cut_off())? };
        let next = std::mem::take(&mut found.next);
        self.held_unless_ready(&found, &wanted).await?;
        for pool in next {
            if self.held_unless_ready(&pool, &wanted).await.is_ok() {
                found.next.push(pool);
            }
        }
        Ok(found)
    }

    /// What is wanted, without the services of the failover list that wait for what they require, and how the
    /// first of those refuses.
    async fn without_held(&self, wanted: &Wanted) -> (Wanted, Option<Rejection>) {
        let (mut wanted, mut first) = (wanted.clone(), None);
        for step in self.registry.waiting_steps(&wanted.service) {
            if let Err(rejection) = self.held(&step).await {
                wanted.passed_over.push(step);
                first = first.or(Some(rejection));
            }
        }
        (wanted, first)
    }

    async fn held_unless_ready(&self, found: &Resolved, wanted: &Wanted) -> Result<(), Rejection> {
        let name = found.failed_over_to.as_ref().unwrap_or(&wanted.service);
        if self.registry.waits(name) { self.held(name).await } else { Ok(()) }
    }

    /// Refuses a service that waits for what it requires.
    async fn held(&self, name: &str) -> Result<(), Rejection> {
        let (of, wanted) = (name.to_owned(), name.to_owned());
        let tree = self.read(move |db| graph::tree(db, &wanted)).await?;
        let waits_for = tree.as_ref().map(graph::Node::waits_for).unwrap_or_default();
        if waits_for.is_empty() {
            return Ok(());
        }
        let chains = waits_for.iter().map(|chain| {
            chain.iter().map(|node| node.service.as_str()).collect::<Vec<_>>().join(" -> ")
        });
        let why = chains.collect::<Vec<_>>().join(", ");
        let text = format!("{of} waits for what it requires: {why}; see: mhub service ready {of}");
        Err(Rejection::new(Reason::NoInstance, text).with("service", of))
    }
}
