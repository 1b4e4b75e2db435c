//! How services stand as the leader sees it and tells it: whether too many instances fell silent at once,
//! whether a service is ready with all that it requires, and who is called in its place.
//!
//! Each of it follows from many rows, or from the leader's memory. So the leader looks, and what is new is
//! a notice; a row keeps what was told last, so that nothing is told twice, whoever leads.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::changes::put_service;
use super::graph::{self, Unfolding};
use super::records::{ServiceRecord, service};
use crate::machine::apply::Machine;
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::lifecycle::Report;
use crate::machine::{Fault, key};
use crate::model::command::{Notice, NoticeKind};
use crate::model::ids::UnixMs;
use crate::model::outcome::Outcome;

/// What is new of readiness and failover at an instant, and when time alone changes more of it.
///
/// # Errors
/// When the store fails or a row is corrupt.
pub fn news(kv: &impl Kv, now: UnixMs) -> Result<(Vec<Notice>, Option<UnixMs>), Fault> {
    let mut records = BTreeMap::new();
    kv.scan(Table::Services, &[], &key::END, Order::Ascending, &mut |row, value| {
        let name = String::from_utf8_lossy(row).into_owned();
        records.insert(name, ServiceRecord::decode(value)?);
        Ok(ControlFlow::Continue(()))
    })?;
    let (mut found, mut next, mut unfolding) = (Vec::new(), None, Unfolding::new(kv));
    for (name, record) in &records {
        let node = unfolding.node(name, None)?;
        match (record.ready, node.is_ready()) {
            (false, true) => found.push(notice(name, NoticeKind::Ready, "")),
            (true, false) => found.push(notice(name, NoticeKind::NotReady, &node.reason())),
            _ => {}
        }
        let (to, until) = stand_in(kv, &records, record, now)?;
        if to != record.failed_over_to {
            let kind = if to.is_empty() { NoticeKind::FailedBack } else { NoticeKind::FailedOver };
            found.push(notice(name, kind, to));
        }
        next = [next, until].into_iter().flatten().min();
    }
    Ok((found, next))
}

fn notice(about: &str, kind: NoticeKind, what: &str) -> Notice {
    Notice { about: about.to_owned(), kind: kind as i32, limit: what.to_owned(), value: 0 }
}

/// Who is called in place of a service that is down, or has not been back for long enough; empty: nobody.
/// And until when, as far as only time is missing.
fn stand_in<'r>(
    kv: &impl Kv,
    records: &'r BTreeMap<String, ServiceRecord>,
    record: &'r ServiceRecord,
    now: UnixMs,
) -> Result<(&'r str, Option<UnixMs>), Fault> {
    let back = UnixMs(record.recovered_at_ms).plus(record.config.failover_hold_ms);
    let holds = record.is_available() && record.recovered_at_ms > 0 && now < back;
    if record.down_since_ms == 0 && !holds {
        return Ok(("", None));
    }
    let mut to = "";
    for step in record.config.failover.iter().map(|step| step.service.as_str()) {
        let known = records.get(step).filter(|known| known.is_available());
        if let Some(known) = known
            && !is_held(kv, step, known)?
        {
            to = step;
            break;
        }
    }
    Ok((to, holds.then_some(back)))
}

/// Whether nobody gets a service, since something that it requires is not ready.
fn is_held(kv: &impl Kv, name: &str, record: &ServiceRecord) -> Result<bool, Fault> {
    if !record.config.hold_until_ready {
        return Ok(false);
    }
    Ok(graph::tree(kv, name)?.is_some_and(|tree| !tree.waits_for().is_empty()))
}

/// Takes note of what the leader saw of a service, and tells of it, unless that is known; nothing of
/// services that are gone.
pub(crate) fn note<K: Kv>(machine: &mut Machine<'_, K>, notice: &Notice) -> Result<Outcome, Fault> {
    let Some(before) = service(machine.overlay(), &notice.about)? else { return Ok(Outcome::Done) };
    let mut after = before.clone();
    let report = match notice.kind() {
        NoticeKind::BrakeEngaged => {
            if after.braked_at_ms == 0 {
                after.braked_at_ms = machine.now().get();
            }
            Report::BrakeEngaged { silent: notice.value }
        }
        NoticeKind::BrakeReleased => {
            after.braked_at_ms = 0;
            Report::BrakeReleased
        }
        NoticeKind::Ready => {
            after.ready = true;
            Report::Ready
        }
        NoticeKind::NotReady => {
            after.ready = false;
            Report::NotReady { reason: notice.limit.clone() }
        }
        NoticeKind::FailedOver => {
            if after.failed_over_to != notice.limit {
                after.failed_over_to.clone_from(&notice.limit);
                after.failed_over_at_ms = machine.now().get();
            }
            Report::FailedOver { to: notice.limit.clone() }
        }
        NoticeKind::FailedBack => {
            after.failed_over_to.clear();
            after.failed_over_at_ms = 0;
            Report::FailedBack
        }
        NoticeKind::Unspecified
        | NoticeKind::QuotaHit
        | NoticeKind::Lagging
        | NoticeKind::CaughtUp => return Ok(Outcome::Done),
    };
    if after != before {
        machine.report(&notice.about, report);
        put_service(machine, &notice.about, &mut after, false);
    }
    Ok(Outcome::Done)
}
