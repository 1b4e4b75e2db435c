//! What keeps a node's registry going: one task that hears of changes, and on the leader looks who
//! fell silent.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::Registry;
use super::renewals::{Brake, Silent};
use super::view::{Known, News, news};
use crate::machine::registry::changes::ChangeRecord;
use crate::machine::registry::records::ServiceRecord;
use crate::model::ids::{Term, UnixMs};
use crate::model::limits::RENEWALS_LOOK_MS;
use crate::node::Node;
use crate::raft::hints::Interest;
use crate::runtime::{clock, tasks};

/// Starts the task. It ends with the node.
pub(super) fn start(node: &Arc<Node>) {
    let weak = Arc::downgrade(node);
    let mut hints = node.raft.listen();
    hints.attend(Interest::Registry);
    let mut announced = node.lead.announced();
    let shutdown = node.shutdown.clone();
    tasks::spawn("registry", async move {
        let mut looks = tokio::time::interval(Duration::from_millis(RENEWALS_LOOK_MS));
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let Some(node) = Weak::upgrade(&weak) else { return };
            node.catch_up().await;
            let term = *announced.borrow_and_update();
            if node.registry.renewals().term() != term {
                node.begin_term(term);
            }
            if let Some(term) = term {
                node.give_up_silent(term);
            }
            node.tell_calls();
            drop(node);
            tokio::select! {
                () = hints.hear() => {}
                _ = looks.tick() => {}
                changed = announced.changed() => if changed.is_err() { return },
                () = shutdown.wait() => return,
            }
            hints.forget();
        }
    });
}

impl Node {
    /// Takes in what was applied since.
    async fn catch_up(&self) {
        loop {
            let after = self.registry.view.revision();
            // A node that cannot read its state stops.
            let Ok(found) = self.read(move |db| news(db, after)).await else { return };
            match found {
                News::Changes(changes, more) => {
                    for change in changes {
                        self.registry.heed(&change.1, clock::now());
                        self.registry.view.add(change);
                    }
                    if !more {
                        return;
                    }
                }
                News::Whole(revision, services) => {
                    for (name, after) in &services {
                        if let Some(after) = &after.service {
                            self.registry.heed_service(name, Some(after), clock::now());
                        }
                    }
                    self.registry.view.replace(revision, services);
                    // Not in one expression: the lock would still be held.
                    let term = self.registry.renewals().term();
                    self.begin_term(term);
                    return;
                }
            }
        }
    }

    /// Begins to lead, or ceases to.
    fn begin_term(&self, term: Option<Term>) {
        self.registry.begin(term, self.now(), clock::now());
    }

    /// Proposes to give those up who fell silent, and says when it does not.
    fn give_up_silent(self: &Arc<Self>, term: Term) {
        let (found, brakes) = self.registry.look(clock::now());
        for (service, brake) in found.braked {
            tracing::warn!(%service, silent = brake.silent, instances = brake.instances,
                "too many instances fell silent at once: none is given up for now");
        }
        for service in found.released {
            tracing::info!(%service, "instances that fall silent are given up again");
        }
        self.tell_silent(found.changes, term);
        self.tell_brakes(brakes, term);
    }
}

impl Registry {
    /// Begins to lead, or ceases to.
    fn begin(&self, term: Option<Term>, hub_now: UnixMs, now: Instant) {
        let (mut instances, mut braked, mut graces) = (Vec::new(), Vec::new(), Vec::new());
        for (name, known) in self.view.all().into_iter().filter(|_| term.is_some()) {
            let Some(service) = &known.service else { continue };
            // This node may not have led, or not have been there, when they became shorter.
            let grace = Duration::from_millis(UnixMs(service.grace_until_ms).since(hub_now));
            if !grace.is_zero() {
                graces.push((name.clone(), grace));
            }
            if service.braked_at_ms > 0 {
                let since = hub_now.since(UnixMs(service.braked_at_ms));
                braked.push((name, Duration::from_millis(since)));
            }
            for record in &known.instances {
                let ttl = Duration::from_millis(record.ttl_ms(&service.config));
                instances.push(((**record).clone(), ttl));
            }
        }
        let (count, grace) = {
            let mut renewals = self.renewals();
            renewals.begin(term, instances, braked, graces, now);
            (renewals.count(), renewals.grace(now))
        };
        if count > 0 {
            tracing::info!(
                instances = count,
                longest_ms = grace.as_millis(),
                "a new leader gives instances the time of one renewal before it gives up who is silent"
            );
        }
        self.breakers().clear();
        self.verdicts().clear();
    }

    /// Who fell silent, and which brakes the state does not know of or knows of in vain: both as of one instant.
    fn look(&self, now: Instant) -> (Silent, Vec<(String, Option<Brake>)>) {
        let mut renewals = self.renewals();
        let found = renewals.look(now);
        let brakes = renewals.brake_news(now);
        (found, brakes)
    }

    /// What a change that is not taken in yet means for who renews and who is called.
    fn heed(&self, change: &ChangeRecord, now: Instant) {
        let known = self.view.service(&change.service);
        if change.instance.is_empty() {
            let before = known.as_ref().and_then(|known| known.service.as_ref());
            let after = change.service_after.as_ref();
            self.transitions.count_service(before, after);
            let tells = |record: &ServiceRecord| (record.config.clone(), record.breaker.clone());
            // What else changes says nothing of calls.
            if before.map(tells) != after.map(tells) {
                self.breakers().forget(&change.service, 0);
            }
            return self.heed_service(&change.service, after, now);
        }
        let before = known.as_ref().and_then(|known| known.instance(&change.instance));
        self.transitions.count(before.map(|record| &**record), change);
        let after = change.instance_after.as_ref();
        if let Some(before) = before {
            let moved = after.is_none_or(|after| after.breaker.state != before.breaker.state);
            if moved {
                self.breakers().forget(&change.service, before.number);
                self.calls.settle(before.number);
            }
            if after.is_none_or(|after| after.number != before.number) {
                self.renewals().forget(before.number);
                self.calls.forget(before.number);
                self.verdicts().forget(before.number);
            }
        }
        if let Some(after) = after {
            // A service that is not known yet has the instance's own time, or its default.
            let service = known.as_ref().and_then(|known| known.service.as_ref());
            let config = service.map(|service| service.config.clone());
            let config = config.unwrap_or_else(crate::model::registry::ServiceConfig::defaults);
            let ttl = Duration::from_millis(after.ttl_ms(&config));
            let mut renewals = self.renewals();
            if renewals.term().is_some() {
                renewals.track(after, ttl, now);
            }
        }
    }

    /// The same of a service itself.
    fn heed_service(&self, name: &str, after: Option<&ServiceRecord>, now: Instant) {
        if after.is_some_and(|after| after.braked_at_ms > 0) {
            self.renewals().braked(name, now);
        } else {
            self.renewals().unbraked(name);
        }
        let Some(known) = self.view.service(name) else { return };
        let (Some(before), Some(after)) = (&known.service, after) else { return };
        if after.breaker.state != before.breaker.state {
            // Calls from before say nothing of it, whichever instance they went to.
            known.instances.iter().for_each(|record| self.calls.settle(record.number));
        }
        self.retime(name, &known, (before.config.health.ttl_ms, after.config.health.ttl_ms), now);
    }

    /// The renewals of a service last longer or shorter from now on. Who does not lead yet takes it from what is
    /// kept of the service: a node that starts hears of changes from long ago.
    fn retime(&self, name: &str, known: &Known, (before_ms, after_ms): (u64, u64), now: Instant) {
        let mut renewals = self.renewals();
        if before_ms == after_ms || renewals.term().is_none() {
            return;
        }
        if after_ms < before_ms {
            renewals.shorten(name, Duration::from_millis(before_ms), now);
        }
        for record in known.instances.iter().filter(|record| record.spec.ttl_ms == 0) {
            renewals.track(record, Duration::from_millis(after_ms), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::registry::records::InstanceRecord;
    use crate::model::registry::{BreakerState, Health, InstanceSpec, ServiceConfig};
    use crate::model::rejection::Reason;
    use crate::node::registry::Wanted;
    use crate::node::registry::egress::Egress;

    /// A registry on a leader that hears of changes as the task does.
    struct Heard {
        registry: Registry,
        revision: u64,
        now: Instant,
    }

    impl Heard {
        /// Leads, and knows a service with two instances, 1 and 2; the second has its own time.
        fn new() -> Self {
            Self::of(Some(Term(1)))
        }

        fn of(term: Option<Term>) -> Self {
            let registry = Registry::new(Egress::default());
            let now = clock::now();
            registry.renewals().begin(term, [], [], [], now);
            let mut heard = Self { registry, revision: 0, now };
            heard.service(|_| ());
            for (number, ttl_ms) in [(1, 0), (2, 60_000)] {
                heard.register(number, ttl_ms);
            }
            heard
        }

        fn register(&mut self, number: u64, ttl_ms: u64) {
            let (service, id) = ("s".to_owned(), format!("i{number}"));
            let weight_milli = 1000;
            let spec =
                InstanceSpec { service, id, ttl_ms, weight_milli, ..InstanceSpec::default() };
            let health = Health::Passing as i32;
            let after = InstanceRecord { number, spec, health, ..InstanceRecord::default() };
            self.hear(ChangeRecord {
                service: "s".to_owned(),
                instance: after.spec.id.clone(),
                instance_after: Some(after),
                service_after: None,
            });
        }

        fn hear(&mut self, change: ChangeRecord) {
            self.revision += 1;
            self.registry.heed(&change, self.now);
            self.registry.view.add((self.revision, change));
        }

        fn service(&mut self, change: impl FnOnce(&mut ServiceRecord)) {
            let known = self.registry.view.service("s");
            let new = || ServiceRecord {
                config: ServiceConfig { slow_start_ms: 0, ..ServiceConfig::defaults() },
                ..ServiceRecord::default()
            };
            let known = known.and_then(|known| known.service.clone());
            let mut after = known.unwrap_or_else(new);
            change(&mut after);
            let (service, service_after) = ("s".to_owned(), Some(after));
            self.hear(ChangeRecord { service, service_after, ..ChangeRecord::default() });
        }

        fn renew(&self, number: u64) -> Option<u64> {
            let lasts =
                self.registry.renewals().renew(number, "s", &format!("i{number}"), self.now);
            lasts.map(|lasts| u64::try_from(lasts.as_millis()).unwrap())
        }

        fn call(&self) -> Result<u64, Reason> {
            let wanted = Wanted { service: "s".into(), count: 1, ..Wanted::default() };
            let found = self.registry.choose(&wanted, 7, UnixMs(100_000), self.now);
            found.map(|found| found.instances[0].incarnation).map_err(|refused| refused.reason)
        }

        fn breaker(&mut self, state: BreakerState) {
            self.service(|service| service.breaker.state = state as i32);
        }
    }

    #[test]
    fn a_services_new_time_counts_for_who_renews_already() {
        let mut heard = Heard::new();
        assert_eq!((heard.renew(1), heard.renew(2)), (Some(15_000), Some(60_000)));
        heard.service(|service| service.config.health.ttl_ms = 3000);
        assert_eq!((heard.renew(1), heard.renew(2)), (Some(3000), Some(60_000)));
        // Those who have not heard of it yet are not given up for the time before.
        let given_up = |heard: &Heard, ms| {
            let at = heard.now + Duration::from_millis(ms);
            heard.registry.renewals().look(at).changes.len()
        };
        assert_eq!(given_up(&heard, 14_999), 0);
        assert_eq!(given_up(&heard, 15_000), 1);
    }

    #[test]
    fn a_leader_that_did_not_see_a_time_become_shorter_grants_the_time_before() {
        let mut heard = Heard::new();
        heard.service(|service| {
            (service.config.health.ttl_ms, service.grace_until_ms) = (3000, 110_000);
        });
        let silent = |hub_now, ms| {
            // It was started anew, and reads what is there.
            let registry = Registry::new(Egress::default());
            let known = heard.registry.view.all().into_iter().collect();
            registry.view.replace(heard.revision, known);
            registry.begin(Some(Term(2)), UnixMs(hub_now), heard.now);
            let found = registry.renewals().look(heard.now + Duration::from_millis(ms)).changes;
            found.iter().map(|change| change.incarnation).collect::<Vec<_>>()
        };
        assert_eq!((silent(100_000, 9999), silent(100_000, 10_000)), (vec![], vec![1]));
        // Longer ago, nobody renews by it any more.
        assert_eq!((silent(110_000, 2999), silent(110_000, 3000)), (vec![], vec![1]));
    }

    #[test]
    fn a_node_that_starts_grants_no_time_that_was_long_ago() {
        let silent = |hub_now, ms| {
            // It hears of all changes that are kept, before it leads.
            let mut heard = Heard::of(None);
            heard.service(|service| {
                (service.config.health.ttl_ms, service.grace_until_ms) = (3000, 110_000);
            });
            heard.registry.begin(Some(Term(2)), UnixMs(hub_now), heard.now);
            let at = heard.now + Duration::from_millis(ms);
            let found = heard.registry.renewals().look(at).changes;
            found.iter().map(|change| change.incarnation).collect::<Vec<_>>()
        };
        assert_eq!((silent(110_000, 2999), silent(110_000, 3000)), (vec![], vec![1]));
        assert_eq!((silent(100_000, 9999), silent(100_000, 10_000)), (vec![], vec![1]));
        // Neither does who led before it.
        let mut heard = Heard::new();
        heard.service(|service| {
            (service.config.health.ttl_ms, service.grace_until_ms) = (3000, 110_000);
        });
        heard.registry.begin(Some(Term(2)), UnixMs(110_000), heard.now);
        let found = heard.registry.renewals().look(heard.now + Duration::from_millis(3000));
        assert_eq!(found.changes.len(), 1);
    }

    #[test]
    fn a_brake_that_the_state_has_is_taken_back_whoever_told_it() {
        let mut heard = Heard::new();
        let news = |heard: &Heard, ms| heard.registry.look(heard.now + Duration::from_millis(ms)).1;
        // Nobody is known to have told it, as where that took too long, or another leader did.
        heard.service(|service| service.braked_at_ms = 1);
        assert_eq!(news(&heard, 59_999), []);
        assert_eq!(news(&heard, 60_000), [("s".to_owned(), None)]);
        // Somebody took it back.
        heard.service(|service| service.braked_at_ms = 0);
        assert_eq!(news(&heard, 60_000), []);
        // Who does not lead takes nothing back.
        heard.registry.renewals().begin(None, [], [], [], heard.now);
        heard.service(|service| service.braked_at_ms = 2);
        assert_eq!(news(&heard, 120_000), []);
    }

    #[test]
    fn a_new_leader_knows_for_how_long_a_brake_has_held() {
        let given_up = |braked_at_ms| {
            let mut heard = Heard::of(None);
            heard.service(|service| service.braked_at_ms = braked_at_ms);
            (3..10).for_each(|number| heard.register(number, 0));
            heard.registry.begin(Some(Term(2)), UnixMs(400_000), heard.now);
            let found = heard.registry.look(heard.now + Duration::from_secs(15)).0;
            found.changes.len()
        };
        assert_eq!([200_000, 100_000].map(given_up), [0, 8]);
    }

    #[test]
    fn calls_from_before_a_services_breaker_moved_take_no_place_of_those_that_try_it() {
        let mut heard = Heard::new();
        for _ in 0..10 {
            heard.call().unwrap();
        }
        heard.breaker(BreakerState::Open);
        assert_eq!(heard.call(), Err(Reason::NoInstance));
        heard.breaker(BreakerState::HalfOpen);
        for _ in 0..3 {
            heard.call().unwrap();
        }
        assert_eq!(heard.call(), Err(Reason::NoInstance));
        // What else changes of a service frees none of them.
        heard.service(|service| service.recovered_at_ms = 1);
        assert_eq!(heard.call(), Err(Reason::NoInstance));
    }
}
