//! Circuit breakers, as far as they are replicated: their transitions.
//!
//! Calls are counted by the leader (`node/registry`), which proposes to open, to close and to open
//! again. That time is over makes an open breaker half-open by a timer, on all nodes alike.

use xxhash_rust::xxh3::xxh3_64;

use super::changes::{change_instance, ejects, put_service, turn};
use super::query;
use super::records::{
    InstanceRecord, ServiceRecord, instance, instance_not_found, service, service_not_found,
};
use crate::machine::apply::Machine;
use crate::machine::delivery::timers::{self, Due};
use crate::machine::kv::Kv;
use crate::machine::lifecycle::Report;
use crate::machine::{Fault, requests};
use crate::model::command::SetBreaker;
use crate::model::ids::UnixMs;
use crate::model::outcome::Outcome;
use crate::model::registry::{BreakerPolicy, BreakerState, BreakerStatus};
use crate::model::rejection::{Reason, Rejection};

/// Moves a breaker. Where it does not stand as the leader saw it, nothing happens.
pub(crate) fn set<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: &SetBreaker,
) -> Result<Outcome, Fault> {
    if let Some(first) = requests::first_answer(machine, &command.request_id)? {
        return Ok(first);
    }
    let outcome = set_once(machine, command)?;
    if matches!(outcome, Outcome::Done) {
        requests::remember(machine, command.request_id.clone(), &outcome);
    }
    Ok(outcome)
}

fn set_once<K: Kv>(machine: &mut Machine<'_, K>, command: &SetBreaker) -> Result<Outcome, Fault> {
    let SetBreaker { service: name, instance: id, .. } = command;
    let Some(mut record) = service(machine.overlay(), name)? else {
        return Ok(Outcome::Rejected(service_not_found(name)));
    };
    if id.is_empty() {
        let (number, was_available) = (record.number, record.is_available());
        if moved(machine, &mut record.breaker, &record.config.breaker, command, number) {
            machine.report(name, Report::ServiceBreaker(record.breaker.state()));
            turn(machine, name, was_available, &mut record);
            put_service(machine, name, &mut record, false);
        }
        return Ok(Outcome::Done);
    }
    let Some(before) = instance(machine.overlay(), name, id)? else {
        return Ok(Outcome::Rejected(instance_not_found(name, id)));
    };
    if command.incarnation > 0 && command.incarnation != before.number {
        return Ok(Outcome::Done);
    }
    if command.to() == BreakerState::Open && !ejects(&before) && !may_eject(&record) {
        let text = format!(
            "{} of {} instances of {name} are shut off already; more would overload the rest",
            record.ejected, record.instances
        );
        return Ok(Outcome::Rejected(Rejection::new(Reason::LimitReached, text)));
    }
    let mut after = before.clone();
    if moved(machine, &mut after.breaker, &record.config.breaker, command, before.number) {
        change_instance(machine, Some(&before), Some(after))?;
    }
    Ok(Outcome::Done)
}

/// Whether one instance more may be shut off.
fn may_eject(service: &ServiceRecord) -> bool {
    let most = service.instances * u64::from(service.config.breaker.ejected_percent) / 100;
    service.ejected < most.max(1)
}

/// Moves a breaker by a command; whether it moved.
fn moved<K: Kv>(
    machine: &mut Machine<'_, K>,
    breaker: &mut BreakerStatus,
    policy: &BreakerPolicy,
    command: &SetBreaker,
    number: u64,
) -> bool {
    let now = machine.now();
    let stands = command.forced || command.from() == breaker.state();
    if !stands || (command.to() == breaker.state() && !command.forced) {
        return false;
    }
    match command.to() {
        BreakerState::Open => {
            breaker.opened = breaker.opened.saturating_add(1);
            let until = now.plus(open_ms(policy, breaker.opened, number, now));
            breaker.until_ms = until.get();
            timers::set(machine, until, Due::Registry(number));
        }
        BreakerState::Closed => (breaker.opened, breaker.until_ms) = (0, 0),
        BreakerState::HalfOpen | BreakerState::ForcedOpen | BreakerState::ForcedClosed => {
            breaker.until_ms = 0;
        }
    }
    breaker.state = command.to() as i32;
    breaker.since_ms = now.get();
    true
}

/// How long a breaker stays open the n-th time in a row: n times the first, up to a bound, and up to a
/// fifth more, so that breakers which opened together are not tried together.
fn open_ms(policy: &BreakerPolicy, opened: u32, number: u64, now: UnixMs) -> u64 {
    let plain = policy.open_ms.saturating_mul(u64::from(opened)).min(policy.open_max_ms);
    let dice = [number, now.get()].map(u64::to_be_bytes).concat();
    plain + xxh3_64(&dice) % (plain / 5 + 1)
}

/// Makes an open breaker half-open when its time is over; closes it where calls are not counted any more.
pub(super) fn due(breaker: &mut BreakerStatus, policy: &BreakerPolicy, now: UnixMs) {
    if breaker.state() != BreakerState::Open || breaker.until_ms > now.get() {
        return;
    }
    if policy.disabled {
        close(breaker, now);
        return;
    }
    breaker.state = BreakerState::HalfOpen as i32;
    breaker.since_ms = now.get();
    breaker.until_ms = 0;
}

/// Closes a breaker that nobody forced; whether it was not closed.
pub(super) fn close(breaker: &mut BreakerStatus, now: UnixMs) -> bool {
    if !matches!(breaker.state(), BreakerState::Open | BreakerState::HalfOpen) {
        return false;
    }
    *breaker = BreakerStatus { since_ms: now.get(), ..BreakerStatus::default() };
    true
}

/// Closes the breakers of a service's instances that nobody forced.
pub(super) fn close_all<K: Kv>(machine: &mut Machine<'_, K>, service: &str) -> Result<(), Fault> {
    let now = machine.now();
    for before in query::instances(machine.overlay(), service)? {
        let mut after = before.clone();
        if close(&mut after.breaker, now) {
            change_instance(machine, Some(&before), Some(after))?;
        }
    }
    Ok(())
}

pub(super) fn due_of_service<K: Kv>(machine: &mut Machine<'_, K>, name: &str) -> Result<(), Fault> {
    let Some(mut record) = service(machine.overlay(), name)? else { return Ok(()) };
    let (before, was_available) = (record.breaker.clone(), record.is_available());
    due(&mut record.breaker, &record.config.breaker, machine.now());
    if record.breaker != before {
        machine.report(name, Report::ServiceBreaker(record.breaker.state()));
        turn(machine, name, was_available, &mut record);
        put_service(machine, name, &mut record, false);
    }
    Ok(())
}

/// Whether the breaker of a service as a whole lets calls through.
#[must_use]
pub fn lets_any_through(record: &ServiceRecord) -> bool {
    !matches!(record.breaker.state(), BreakerState::Open | BreakerState::ForcedOpen)
}

/// Whether calls may go to an instance, as far as its breaker goes.
#[must_use]
pub fn lets_through(record: &InstanceRecord) -> bool {
    !ejects(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::registry::ServiceConfig;

    #[test]
    fn each_time_in_a_row_is_longer_by_the_first_up_to_the_longest_and_a_fifth() {
        let policy = ServiceConfig::defaults().breaker;
        for (opened, plain) in [(1, 30_000), (2, 60_000), (10, 300_000), (11, 300_000)] {
            let of = |number| open_ms(&policy, opened, number, UnixMs(7));
            let all: Vec<u64> = (0..1000).map(of).collect();
            assert!(all.iter().all(|ms| (plain..=plain + plain / 5).contains(ms)), "{opened}");
            // They are not tried together.
            assert!(all.iter().any(|ms| *ms < plain + plain / 20), "{opened}");
            assert!(all.iter().any(|ms| *ms > plain + plain * 3 / 20), "{opened}");
        }
        let shortest = BreakerPolicy { open_ms: 100, open_max_ms: 100, ..policy.clone() };
        assert!((100..=120).contains(&open_ms(&shortest, u32::MAX, 1, UnixMs(7))));
        let longest = BreakerPolicy { open_ms: 3_600_000, open_max_ms: 3_600_000, ..policy };
        let most = open_ms(&longest, u32::MAX, 1, UnixMs(u64::MAX));
        assert!((3_600_000..=4_320_000).contains(&most), "{most}");
    }
}
