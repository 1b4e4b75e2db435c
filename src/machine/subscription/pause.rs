//! Pausing and resuming a subscription on request.

use super::record::not_found;
use crate::machine::apply::Machine;
use crate::machine::delivery::pauses;
use crate::machine::delivery::work::Work;
use crate::machine::kv::Kv;
use crate::machine::{Fault, requests};
use crate::model::command::{PauseSubscription, ResumeSubscription};
use crate::model::delivery::PauseReason;
use crate::model::ids::UnixMs;
use crate::model::outcome::Outcome;

pub(crate) fn pause<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: PauseSubscription,
) -> Result<Outcome, Fault> {
    let PauseSubscription { name, resume_at_ms, request_id, target_down } = command;
    change(machine, &name, request_id, |machine, work| {
        let resume_at = (resume_at_ms > 0).then_some(UnixMs(resume_at_ms));
        if !target_down {
            pauses::pause(machine, work, PauseReason::Requested, resume_at);
        } else if work.state.pause.is_none() && work.record.config.target.is_some() {
            pauses::pause(machine, work, PauseReason::TargetDown, None);
        }
    })
}

pub(crate) fn resume<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: ResumeSubscription,
) -> Result<Outcome, Fault> {
    let ResumeSubscription { name, request_id, target_up } = command;
    change(machine, &name, request_id, |machine, work| {
        if !target_up || is_down(work) {
            pauses::resume(machine, work);
        }
    })
}

/// Whether a subscription is paused because its target is down.
pub(crate) fn is_down(work: &Work) -> bool {
    work.state.pause.as_ref().is_some_and(|pause| pause.reason() == PauseReason::TargetDown)
}

fn change<K: Kv>(
    machine: &mut Machine<'_, K>,
    name: &str,
    request_id: String,
    act: impl FnOnce(&mut Machine<'_, K>, &mut Work),
) -> Result<Outcome, Fault> {
    if let Some(first) = requests::first_answer(machine, &request_id)? {
        return Ok(first);
    }
    let Some(mut work) = Work::open(machine, name)? else {
        return Ok(Outcome::Rejected(not_found(name)));
    };
    act(machine, &mut work);
    let outcome = Outcome::Subscription(Box::new(work.record.info(&work.state)));
    work.finish(machine)?;
    requests::remember(machine, request_id, &outcome);
    Ok(outcome)
}
