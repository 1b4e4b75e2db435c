//! Indexing special events as they are published.

use bytes::Bytes;

use super::scheduled::{OrderKey, Waiting, deadline_value};
use super::specials::{self, SpecialRecord};
use crate::machine::Fault;
use crate::machine::apply::Machine;
use crate::machine::delivery::timers::{self, Due};
use crate::machine::kv::{Kv, Table};
use crate::model::event::EventView;
use crate::model::event_run;
use crate::model::ids::{Offset, TopicId, UnixMs};
use crate::model::limits::PRIORITY_DEFAULT;

/// Indexes the special events of a run; how many there are.
pub(crate) fn note<K: Kv>(
    machine: &mut Machine<'_, K>,
    topic: TopicId,
    first: Offset,
    run: &[u8],
) -> Result<u64, Fault> {
    let (now, mut offset, mut count) = (machine.now(), first, 0);
    for encoded in event_run::iter(run) {
        let view = EventView::read(encoded?)?;
        if view.is_special() {
            put(machine, topic, offset, &record_of(&view, now));
            count += 1;
        }
        offset = offset.next();
    }
    Ok(count)
}

fn record_of(view: &EventView<'_>, now: UnixMs) -> SpecialRecord {
    let priority = view.priority.unwrap_or(PRIORITY_DEFAULT);
    let ready_at_ms = view.deliver_at_ms.unwrap_or(0).max(now.get());
    SpecialRecord {
        priority,
        ready_at_ms,
        deadline_ms: view.deadline_ms.unwrap_or(0),
        flow: view.fairness_key.to_owned(),
        cancelled: false,
        scheduled: priority != PRIORITY_DEFAULT
            || ready_at_ms > now.get()
            || !view.fairness_key.is_empty(),
    }
}

fn keys(
    topic: TopicId,
    offset: Offset,
    special: &SpecialRecord,
) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let key = |instant: u64| {
        let priority = u8::try_from(special.priority).unwrap_or(u8::MAX);
        let instant = UnixMs(instant);
        OrderKey { topic, flow: &special.flow, priority, instant, offset }.encode()
    };
    (
        special.scheduled.then(|| key(special.ready_at_ms)),
        special.deadline().map(|deadline| key(deadline.get())),
    )
}

fn put<K: Kv>(
    machine: &mut Machine<'_, K>,
    topic: TopicId,
    offset: Offset,
    special: &SpecialRecord,
) {
    let (scheduled, deadline) = keys(topic, offset, special);
    let overlay = machine.overlay_mut();
    overlay.put(Table::Specials, specials::row_key(topic, offset), special.encode());
    if let Some(row) = scheduled {
        overlay.put(Table::Scheduled, row, waiting(special));
    }
    if let Some(row) = deadline {
        overlay.put(Table::Deadlines, row, deadline_value(UnixMs(special.ready_at_ms)));
        timers::set(machine, UnixMs(special.deadline_ms), Due::Deadline(topic, offset));
    }
}

fn waiting(special: &SpecialRecord) -> Bytes {
    Waiting { deadline_ms: special.deadline_ms, cancelled: special.cancelled }.encode()
}

/// Calls a delayed event off. It stays special, and in the order of readiness: subscriptions have
/// to skip it when they come to it.
pub(crate) fn call_off<K: Kv>(
    machine: &mut Machine<'_, K>,
    topic: TopicId,
    offset: Offset,
    mut special: SpecialRecord,
) {
    let (scheduled, deadline) = keys(topic, offset, &special);
    special.cancelled = true;
    let overlay = machine.overlay_mut();
    if let Some(row) = scheduled {
        overlay.put(Table::Scheduled, row, waiting(&special));
    }
    if let Some(row) = deadline {
        overlay.delete(Table::Deadlines, row);
    }
    overlay.put(Table::Specials, specials::row_key(topic, offset), special.encode());
    if let Some(deadline) = special.deadline() {
        timers::clear(machine, deadline, Due::Deadline(topic, offset));
    }
}
