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
    let PauseSubscription { name, resume_at_ms, request_id } = command;
    change(machine, &name, request_id, |machine, work| {
        let resume_at = (resume_at_ms > 0).then_some(UnixMs(resume_at_ms));
        pauses::pause(machine, work, PauseReason::Requested, resume_at);
    })
}

pub(crate) fn resume<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: ResumeSubscription,
) -> Result<Outcome, Fault> {
    let ResumeSubscription { name, request_id } = command;
    change(machine, &name, request_id, |machine, work| pauses::resume(machine, work))
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
