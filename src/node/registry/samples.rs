//! How services stand, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::machine::registry::changes::ChangeRecord;
use crate::machine::registry::records::{InstanceRecord, ServiceRecord};
use crate::model::limits::METRICS_SERVICES_MAX;
use crate::model::registry::{BreakerState, Health, Mode};
use crate::node::Node;
use crate::runtime::clock;

/// A service and how many of its instances stand how.
#[derive(Clone, Debug, Default)]
pub struct ServiceSample {
    /// Its name.
    pub name: String,
    /// Those that answer and want work.
    pub passing: u64,
    /// Those that do not answer.
    pub critical: u64,
    /// Those that get no new work, or that somebody works on.
    pub out: u64,
    /// Breakers of instances that let nothing through.
    pub shut: u64,
    /// Its own breaker lets nothing through.
    pub is_shut: bool,
    /// It is ready, with all that it requires, as the leader told.
    pub ready: bool,
    /// Another service is called in its place.
    pub failed_over: bool,
    /// Too many instances fell silent at once: none is given up for now.
    pub braked: bool,
}

/// What happened to instances and to services, by its name, as far as this node has applied it since it
/// started.
#[derive(Debug, Default)]
pub(super) struct Transitions {
    of_instances: [AtomicU64; KINDS.len()],
    of_services: [AtomicU64; SERVICE_KINDS.len()],
}

/// What happens to services.
const SERVICE_KINDS: [&str; 14] = [
    "registered",
    "changed",
    "deleted",
    "down",
    "recovered",
    "breaker_opened",
    "breaker_half_open",
    "breaker_closed",
    "ready",
    "not_ready",
    "failed_over",
    "failed_back",
    "brake_engaged",
    "brake_released",
];

/// What happens to instances.
const KINDS: [&str; 12] = [
    "registered",
    "deregistered",
    "passing",
    "critical",
    "hold_begun",
    "hold_ended",
    "up",
    "draining",
    "maintenance",
    "breaker_opened",
    "breaker_half_open",
    "breaker_closed",
];

fn of_breaker(state: BreakerState) -> &'static str {
    match state {
        BreakerState::Open | BreakerState::ForcedOpen => "breaker_opened",
        BreakerState::HalfOpen => "breaker_half_open",
        BreakerState::Closed | BreakerState::ForcedClosed => "breaker_closed",
    }
}

fn count(counts: &[AtomicU64], kinds: &[&str], kind: &str) {
    if let Some(at) = kinds.iter().position(|known| *known == kind) {
        counts[at].fetch_add(1, Ordering::Relaxed);
    }
}

impl Transitions {
    /// Counts what a change of an instance did.
    pub(super) fn count(&self, before: Option<&InstanceRecord>, change: &ChangeRecord) {
        let after = change.instance_after.as_ref();
        let health = |record: &InstanceRecord| record.health();
        let breaker = |record: &InstanceRecord| record.breaker.state();
        let count = |kind: &str| count(&self.of_instances, &KINDS, kind);
        match (before, after) {
            (None, Some(_)) => count("registered"),
            (Some(_), None) => count("deregistered"),
            _ => {}
        }
        let (Some(before), Some(after)) = (before, after) else { return };
        if health(before) != health(after) {
            count(if health(after) == Health::Passing { "passing" } else { "critical" });
        }
        if before.mode() != after.mode() {
            count(match after.mode() {
                Mode::Up => "up",
                Mode::Draining => "draining",
                Mode::Maintenance => "maintenance",
            });
        }
        if breaker(before) != breaker(after) {
            count(of_breaker(breaker(after)));
        }
        match after.held_until_ms {
            0 if before.held_until_ms > 0 => count("hold_ended"),
            until if until > 0 && until != before.held_until_ms => count("hold_begun"),
            _ => {}
        }
    }

    /// Counts what a change of a service did.
    pub(super) fn count_service(
        &self,
        before: Option<&ServiceRecord>,
        after: Option<&ServiceRecord>,
    ) {
        let count = |kind: &str| count(&self.of_services, &SERVICE_KINDS, kind);
        let (before, after) = match (before, after) {
            (Some(before), Some(after)) => (before, after),
            (None, Some(_)) => return count("registered"),
            (Some(_), None) => return count("deleted"),
            (None, None) => return,
        };
        if before.config != after.config {
            count("changed");
        }
        if before.breaker.state() != after.breaker.state() {
            count(of_breaker(after.breaker.state()));
        }
        let is_over = !after.failed_over_to.is_empty();
        for (was, is, begins, ends) in [
            (before.down_since_ms > 0, after.down_since_ms > 0, "down", "recovered"),
            (before.ready, after.ready, "ready", "not_ready"),
            (before.braked_at_ms > 0, after.braked_at_ms > 0, "brake_engaged", "brake_released"),
            (is_over && before.failed_over_to == after.failed_over_to, is_over, "failed_over", ""),
            (!before.failed_over_to.is_empty(), is_over, "", "failed_back"),
        ] {
            match (was, is) {
                (false, true) => count(begins),
                (true, false) => count(ends),
                _ => {}
            }
        }
    }
}

impl Node {
    /// How services stand: the first of them by name.
    #[must_use]
    pub fn service_samples(&self) -> Vec<ServiceSample> {
        let mut all = self.registry.view.all();
        all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        all.truncate(METRICS_SERVICES_MAX);
        all.into_iter().map(|(name, known)| sample(name, &known)).collect()
    }

    /// How much longer not every instance that is silent is given up, since this node has just begun to lead.
    #[must_use]
    pub fn registry_grace(&self) -> Duration {
        self.registry.renewals().grace(clock::now())
    }

    /// How often what happened to instances, since this node started.
    #[must_use]
    pub fn service_transitions(&self) -> Vec<(&'static str, u64)> {
        told(&KINDS, &self.registry.transitions.of_instances)
    }

    /// How often what happened to services, since this node started.
    #[must_use]
    pub fn service_changes(&self) -> Vec<(&'static str, u64)> {
        told(&SERVICE_KINDS, &self.registry.transitions.of_services)
    }
}

fn sample(name: String, known: &super::Known) -> ServiceSample {
    let shut = |state| matches!(state, BreakerState::Open | BreakerState::ForcedOpen);
    let mut sample = ServiceSample { name, ..ServiceSample::default() };
    if let Some(service) = &known.service {
        sample.is_shut = shut(service.breaker.state());
        sample.ready = service.ready;
        sample.failed_over = !service.failed_over_to.is_empty();
        sample.braked = service.braked_at_ms > 0;
    }
    for record in &known.instances {
        match (record.mode(), record.health()) {
            (Mode::Draining | Mode::Maintenance, _) => sample.out += 1,
            (Mode::Up, Health::Passing) => sample.passing += 1,
            (Mode::Up, Health::Critical) => sample.critical += 1,
        }
        sample.shut += u64::from(shut(record.breaker.state()));
    }
    sample
}

fn told(kinds: &[&'static str], counts: &[AtomicU64]) -> Vec<(&'static str, u64)> {
    let counts = counts.iter().map(|n| n.load(Ordering::Relaxed));
    kinds.iter().copied().zip(counts).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::registry::BreakerStatus;
    use crate::node::registry::Known;

    #[test]
    fn what_happens_to_a_service_is_counted_by_its_name() {
        let transitions = Transitions::default();
        let new = ServiceRecord::default();
        let steps = [
            ServiceRecord { ready: true, ..new.clone() },
            ServiceRecord { down_since_ms: 5, braked_at_ms: 5, ..new.clone() },
            ServiceRecord { down_since_ms: 5, failed_over_to: "t".into(), ..new.clone() },
            ServiceRecord { down_since_ms: 5, failed_over_to: "u".into(), ..new.clone() },
            new.clone(),
        ];
        transitions.count_service(None, Some(&new));
        let mut before = new;
        for after in steps {
            transitions.count_service(Some(&before), Some(&after));
            before = after;
        }
        transitions.count_service(Some(&before), None);
        let mut counted = told(&SERVICE_KINDS, &transitions.of_services);
        counted.retain(|(_, count)| *count > 0);
        let wanted = [
            ("registered", 1),
            ("deleted", 1),
            ("down", 1),
            ("recovered", 1),
            ("ready", 1),
            ("not_ready", 1),
            ("failed_over", 2),
            ("failed_back", 1),
            ("brake_engaged", 1),
            ("brake_released", 1),
        ];
        assert_eq!(counted, wanted);
    }

    #[test]
    fn breakers_of_a_service_and_of_its_instances_are_told_apart() {
        use BreakerState::{Closed, ForcedClosed, ForcedOpen, HalfOpen, Open};
        let breaker =
            |state: BreakerState| BreakerStatus { state: state as i32, ..Default::default() };
        let of = |own, of_instances: &[BreakerState]| {
            let record = |state: &BreakerState| InstanceRecord {
                breaker: breaker(*state),
                ..Default::default()
            };
            let instances = of_instances.iter().map(record).map(Arc::new).collect();
            let service = Some(ServiceRecord { breaker: breaker(own), ..Default::default() });
            let sample = sample("s".to_owned(), &Known { service, instances });
            (sample.is_shut, sample.shut)
        };
        assert_eq!(of(Closed, &[Open, ForcedOpen, HalfOpen, Closed]), (false, 2));
        assert_eq!([Open, ForcedOpen].map(|own| of(own, &[Closed])), [(true, 0); 2]);
        assert_eq!([HalfOpen, ForcedClosed].map(|own| of(own, &[])), [(false, 0); 2]);
    }

    #[test]
    fn holds_are_counted_where_they_begin_and_end() {
        let transitions = Transitions::default();
        let held = |held_until_ms| InstanceRecord { held_until_ms, ..InstanceRecord::default() };
        let mut before = held(0);
        for until_ms in [5, 5, 9, 0] {
            let after = held(until_ms);
            let instance_after = Some(after.clone());
            let change = ChangeRecord { instance_after, ..ChangeRecord::default() };
            transitions.count(Some(&before), &change);
            before = after;
        }
        let counted = told(&KINDS, &transitions.of_instances);
        assert!(counted.contains(&("hold_begun", 2)), "{counted:?}");
        assert!(counted.contains(&("hold_ended", 1)), "{counted:?}");
    }

    #[test]
    fn what_happens_to_instances_is_counted() {
        let transitions = Transitions::default();
        let modes = [Mode::Up, Mode::Draining, Mode::Draining, Mode::Maintenance, Mode::Up];
        let record = |mode: Mode| InstanceRecord { mode: mode as i32, ..Default::default() };
        let mut before = None;
        for after in modes.map(|mode| Some(record(mode))).into_iter().chain([None]) {
            let change = ChangeRecord { instance_after: after.clone(), ..ChangeRecord::default() };
            transitions.count(before.as_ref(), &change);
            before = after;
        }
        let mut counted = told(&KINDS, &transitions.of_instances);
        counted.retain(|(_, count)| *count > 0);
        let each = ["registered", "deregistered", "up", "draining", "maintenance"];
        assert_eq!(counted, each.map(|kind| (kind, 1)));
    }
}
