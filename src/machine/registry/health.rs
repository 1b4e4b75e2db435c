//! Judging instances: what their renewals and the hub's checks say, and flapping.

use super::changes::change_instance;
use super::instances::remove;
use super::records::{InstanceRecord, instance, number, service};
use super::{breaker, query};
use crate::machine::Fault;
use crate::machine::apply::Machine;
use crate::machine::delivery::timers::{self, Due};
use crate::machine::kv::Kv;
use crate::model::command::{HealthChange, SetHealth};
use crate::model::ids::UnixMs;
use crate::model::limits::{
    FLAP_HOLD_MS, FLAP_HOLD_MS_MAX, FLAP_TRANSITIONS, FLAP_WINDOW_MS, HEALTH_REASON_BYTES_MAX,
    TRANSITIONS_KEPT,
};
use crate::model::outcome::Outcome;
use crate::model::registry::{Health, Mode, Signal, Transition};

/// Takes note of what the leader saw. What is about an incarnation that is gone is left out.
pub(crate) fn set<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: &SetHealth,
) -> Result<Outcome, Fault> {
    for change in &command.changes {
        let found = instance(machine.overlay(), &change.service, &change.id)?;
        if let Some(before) = found.filter(|record| record.number == change.incarnation) {
            take(machine, &before, change)?;
        }
    }
    Ok(Outcome::Done)
}

fn take<K: Kv>(
    machine: &mut Machine<'_, K>,
    before: &InstanceRecord,
    change: &HealthChange,
) -> Result<(), Fault> {
    let mut after = before.clone();
    match change.signal() {
        Signal::Ttl if change.ok => after.lost_at_ms = 0,
        Signal::Ttl if after.lost_at_ms == 0 => {
            after.lost_at_ms = machine.now().get();
            if let Some(known) = service(machine.overlay(), &change.service)? {
                let after_ms = known.config.health.deregister_after_ms;
                if after_ms > 0 {
                    let at = machine.now().plus(after_ms);
                    timers::set(machine, at, Due::Registry(before.number));
                }
            }
        }
        Signal::Check => {
            // What was checked before the checks were taken away says nothing any more.
            let known = service(machine.overlay(), &change.service)?;
            let checked = known.is_some_and(|known| known.config.health.is_checked());
            after.failing = checked && !change.ok;
        }
        Signal::Ttl | Signal::Hold => {}
    }
    let after = judge(machine, Some(before), after, &change.reason);
    if after != *before {
        change_instance(machine, Some(before), Some(after))?;
    }
    Ok(())
}

/// Times when the silent instances of a service are deregistered, by a patience that is new.
pub(super) fn expect_gone<K: Kv>(
    machine: &mut Machine<'_, K>,
    service: &str,
    patience_ms: u64,
) -> Result<(), Fault> {
    if patience_ms == 0 {
        return Ok(());
    }
    for record in query::instances(machine.overlay(), service)? {
        if record.lost_at_ms > 0 {
            let at = UnixMs(record.lost_at_ms).plus(patience_ms).max(machine.now());
            timers::set(machine, at, Due::Registry(record.number));
        }
    }
    Ok(())
}

/// The checks of a service's instances are over, and what they said with them.
pub(super) fn unchecked<K: Kv>(machine: &mut Machine<'_, K>, service: &str) -> Result<(), Fault> {
    for before in query::instances(machine.overlay(), service)? {
        if before.failing {
            let after = InstanceRecord { failing: false, ..before.clone() };
            let after = judge(machine, Some(&before), after, "it is not checked any more");
            change_instance(machine, Some(&before), Some(after))?;
        }
    }
    Ok(())
}

/// An instance's health as it follows from the rest: with a transition where it changes, and held
/// critical where that comes too often.
pub(super) fn judge<K: Kv>(
    machine: &mut Machine<'_, K>,
    before: Option<&InstanceRecord>,
    mut record: InstanceRecord,
    reason: &str,
) -> InstanceRecord {
    let now = machine.now();
    let is_over = record.held_until_ms > 0 && record.held_until_ms <= now.get();
    if is_over {
        record.held_until_ms = 0;
    }
    // Who is let go passes again by that alone: it did not change, and does not flap.
    let is_let_go = is_over && before.is_some_and(InstanceRecord::answers);
    let answers = record.answers();
    let health = |record: &InstanceRecord| {
        if answers && record.held_until_ms == 0 { Health::Passing } else { Health::Critical }
    };
    let known = before.map(InstanceRecord::health);
    if known == Some(health(&record)) {
        return record;
    }
    if known.is_some() && !is_let_go && flaps(&mut record, now) {
        timers::set(machine, UnixMs(record.held_until_ms), Due::Registry(record.number));
    }
    let to = health(&record);
    record.health = to as i32;
    record.health_since_ms = now.get();
    if known != Some(to) {
        let mut reason: String = reason.chars().take(HEALTH_REASON_BYTES_MAX / 4).collect();
        if record.held_until_ms > 0 {
            reason.push_str(", and it changes too often");
        }
        record.transitions.push(Transition { at_ms: now.get(), to: to as i32, reason });
        let surplus = record.transitions.len().saturating_sub(TRANSITIONS_KEPT);
        record.transitions.drain(..surplus);
    }
    record
}

/// Whether this change is one too many: then the instance is held, twice as long each time.
fn flaps(record: &mut InstanceRecord, now: UnixMs) -> bool {
    let recent = |t: &&Transition| now.since(UnixMs(t.at_ms)) < FLAP_WINDOW_MS;
    let count = record.transitions.iter().filter(recent).count();
    if count == 0 {
        record.holds = 0;
    }
    if count + 1 < FLAP_TRANSITIONS {
        return false;
    }
    let hold_ms = FLAP_HOLD_MS.checked_shl(record.holds).unwrap_or(FLAP_HOLD_MS_MAX);
    record.held_until_ms = now.plus(hold_ms.min(FLAP_HOLD_MS_MAX)).get();
    record.holds += 1;
    true
}

/// Something may be due about a service or an instance: a hold ends, it was gone for long enough, its
/// breaker may be tried.
pub(crate) fn due<K: Kv>(machine: &mut Machine<'_, K>, of: u64) -> Result<(), Fault> {
    let Some(named) = number(machine.overlay(), of)? else { return Ok(()) };
    if named.instance.is_empty() {
        return breaker::due_of_service(machine, &named.service);
    }
    let Some(before) = instance(machine.overlay(), &named.service, &named.instance)? else {
        return Ok(());
    };
    let Some(known) = service(machine.overlay(), &named.service)? else { return Ok(()) };
    let now = machine.now();
    let patience = known.config.health.deregister_after_ms;
    let gone = before.lost_at_ms > 0 && patience > 0;
    if gone && before.mode() != Mode::Maintenance {
        if now.since(UnixMs(before.lost_at_ms)) >= patience {
            return remove(machine, &before);
        }
        // The patience was raised since.
        let at = UnixMs(before.lost_at_ms).plus(patience);
        timers::set(machine, at, Due::Registry(of));
    }
    let mut after = judge(machine, Some(&before), before.clone(), "it was steady long enough");
    breaker::due(&mut after.breaker, &known.config.breaker, now);
    if after != before {
        change_instance(machine, Some(&before), Some(after))?;
    }
    Ok(())
}
