//! Pausing and resuming, by whoever does it.

use super::timers::{self, Due};
use super::work::Work;
use crate::machine::Fault;
use crate::machine::apply::Machine;
use crate::machine::kv::Kv;
use crate::machine::lifecycle::Report;
use crate::model::delivery::{Pause, PauseReason};
use crate::model::ids::UnixMs;

/// Stops handing out events; a pause that is there already is replaced.
pub(crate) fn pause<K: Kv>(
    machine: &mut Machine<'_, K>,
    work: &mut Work,
    reason: PauseReason,
    resume_at: Option<UnixMs>,
) {
    if let Some(old) = &work.state.pause {
        timers::clear(machine, UnixMs(old.resume_at_ms), Due::Resume(work.id));
    }
    let resume_at_ms = resume_at.map_or(0, UnixMs::get);
    if let Some(at) = resume_at {
        timers::set(machine, at, Due::Resume(work.id));
    }
    let since_ms = machine.now().get();
    work.state.pause = Some(Pause { since_ms, reason: reason as i32, resume_at_ms });
    let report = match reason {
        PauseReason::Requested => Report::Paused { resume_at_ms },
        PauseReason::Tripped => Report::Tripped { resume_at_ms },
        PauseReason::TargetDown => Report::TargetDown,
    };
    work.report(machine, report);
}

/// Hands out events again. What ended before the pause does not trip it again.
pub(crate) fn resume<K: Kv>(machine: &mut Machine<'_, K>, work: &mut Work) {
    let Some(old) = work.state.pause.take() else { return };
    timers::clear(machine, UnixMs(old.resume_at_ms), Due::Resume(work.id));
    work.state.trip = super::trip::TripWindow::default();
    work.wakes = true;
    work.report(machine, Report::Resumed);
}

/// Takes note of what a command ended, and trips the breaker when most of it died.
pub(crate) fn trip<K: Kv>(machine: &mut Machine<'_, K>, work: &mut Work) -> Result<(), Fault> {
    let count = std::mem::take(&mut work.letters);
    if count > 0 {
        work.report(machine, Report::DeadLettered { count });
    }
    let (acked, dead) = std::mem::take(&mut work.ended);
    if acked + dead == 0 {
        return Ok(());
    }
    let now = machine.now();
    let tripped = work.state.trip.note(now, acked, dead);
    let policy = &work.record.config.dead_letters;
    if tripped && dead > 0 && !policy.trip_disabled && work.state.pause.is_none() {
        let wait_ms = policy.trip_resume_ms;
        let resume_at = (wait_ms > 0).then(|| UnixMs(now.get().saturating_add(wait_ms)));
        pause(machine, work, PauseReason::Tripped, resume_at);
    }
    Ok(())
}
