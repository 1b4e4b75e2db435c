//! How services stand, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::machine::registry::changes::ChangeRecord;
use crate::machine::registry::records::InstanceRecord;
use crate::model::limits::METRICS_SERVICES_MAX;
use crate::model::registry::{BreakerState, Health, Mode};
use crate::node::Node;

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
}

/// What happened to instances, by its name, as far as this node has applied it since it started.
#[derive(Debug, Default)]
pub(super) struct Transitions([AtomicU64; KINDS.len()]);

/// The kinds of [`Transitions`].
const KINDS: [&str; 7] = [
    "registered",
    "deregistered",
    "passing",
    "critical",
    "breaker_opened",
    "breaker_half_open",
    "breaker_closed",
];

impl Transitions {
    /// Counts what a change of an instance did.
    pub(super) fn count(&self, before: Option<&InstanceRecord>, change: &ChangeRecord) {
        let after = change.instance_after.as_ref();
        let health = |record: &InstanceRecord| record.health();
        let breaker = |record: &InstanceRecord| record.breaker.state();
        let count = |kind: &str| {
            if let Some(at) = KINDS.iter().position(|known| *known == kind) {
                self.0[at].fetch_add(1, Ordering::Relaxed);
            }
        };
        match (before, after) {
            (None, Some(_)) => count("registered"),
            (Some(_), None) => count("deregistered"),
            _ => {}
        }
        let (Some(before), Some(after)) = (before, after) else { return };
        if health(before) != health(after) {
            count(if health(after) == Health::Passing { "passing" } else { "critical" });
        }
        if breaker(before) != breaker(after) {
            count(match breaker(after) {
                BreakerState::Open | BreakerState::ForcedOpen => "breaker_opened",
                BreakerState::HalfOpen => "breaker_half_open",
                BreakerState::Closed | BreakerState::ForcedClosed => "breaker_closed",
            });
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
        let sample = |(name, known): (String, std::sync::Arc<super::Known>)| {
            let mut sample = ServiceSample { name, ..ServiceSample::default() };
            for record in &known.instances {
                match (record.mode(), record.health()) {
                    (Mode::Draining | Mode::Maintenance, _) => sample.out += 1,
                    (Mode::Up, Health::Passing) => sample.passing += 1,
                    (Mode::Up, Health::Critical) => sample.critical += 1,
                }
                let state = record.breaker.state();
                let shut = matches!(state, BreakerState::Open | BreakerState::ForcedOpen);
                sample.shut += u64::from(shut);
            }
            sample
        };
        all.into_iter().map(sample).collect()
    }

    /// How often what happened to instances, since this node started.
    #[must_use]
    pub fn service_transitions(&self) -> Vec<(&'static str, u64)> {
        let counts = self.registry.transitions.0.iter().map(|n| n.load(Ordering::Relaxed));
        KINDS.into_iter().zip(counts).collect()
    }
}
