//! Indexing special events as they are published.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::scheduled::{OrderKey, Waiting, deadline_value, decode_waiting, encode_waiting};
use super::specials::{self, SpecialRecord};
use crate::machine::Fault;
use crate::machine::apply::Machine;
use crate::machine::delivery::timers::{self, Due};
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::overlay::Overlay;
use crate::model::event::EventView;
use crate::model::event_run;
use crate::model::ids::{Offset, TopicId, UnixMs};
use crate::model::limits::{PRIORITY_DEFAULT, SPECIALS_PER_ROW};

/// The special events of a run, to be written with its batch. Their deadlines are timed.
pub(crate) fn note<K: Kv>(
    machine: &mut Machine<'_, K>,
    topic: TopicId,
    first: Offset,
    run: &[u8],
) -> Result<Vec<(Offset, SpecialRecord)>, Fault> {
    let (now, mut offset, mut found) = (machine.now(), first, Vec::new());
    for encoded in event_run::iter(run) {
        let view = EventView::read(encoded?)?;
        if view.is_special() {
            let special = record_of(&view, now);
            if let Some(deadline) = special.deadline() {
                timers::set(machine, deadline, Due::Deadline(topic, offset));
            }
            found.push((offset, special));
        }
        offset = offset.next();
    }
    Ok(found)
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

/// The special events of a batch together with its others, as if all of them had a time: so they are
/// found in the order of their priorities, the plain ones from when they were recorded.
pub(crate) fn with_plain(
    specials: Vec<(Offset, SpecialRecord)>,
    (first, count): (Offset, u32),
    recorded_at: UnixMs,
) -> Vec<(Offset, SpecialRecord)> {
    let mut specials = specials.into_iter().peekable();
    let plain = SpecialRecord {
        priority: PRIORITY_DEFAULT,
        ready_at_ms: recorded_at.get(),
        ..SpecialRecord::default()
    };
    let offsets = (first.get()..first.get() + u64::from(count)).map(Offset);
    let each = offsets.map(|offset| {
        let known = specials.next_if(|(at, _)| *at == offset);
        let special = known.map_or_else(|| plain.clone(), |(_, special)| special);
        (offset, SpecialRecord { scheduled: true, ..special })
    });
    each.collect()
}

/// An event's key in the order of some instants.
fn order_key(topic: TopicId, special: &SpecialRecord, instant: u64, offset: Offset) -> Vec<u8> {
    let priority = u8::try_from(special.priority).unwrap_or(u8::MAX);
    OrderKey { topic, flow: &special.flow, priority, instant: UnixMs(instant), offset }.encode()
}

/// Writes the rows of the special events of one batch, which are in the order of offsets.
pub(crate) fn write<K: Kv>(
    overlay: &mut Overlay<'_, K>,
    topic: TopicId,
    events: &[(Offset, SpecialRecord)],
) {
    for group in events.chunks(SPECIALS_PER_ROW) {
        let (first, row) = specials::encode(group);
        overlay.put(Table::Specials, specials::row_key(topic, first), row);
    }
    let mut orders: BTreeMap<(&str, u32, u64), Vec<Waiting>> = BTreeMap::new();
    for (offset, special) in events {
        let (deadline_ms, ready_at_ms) = (special.deadline_ms, special.ready_at_ms);
        if special.scheduled {
            let waiting = Waiting { offset: *offset, deadline_ms, cancelled: special.cancelled };
            let order = (special.flow.as_str(), special.priority, ready_at_ms);
            orders.entry(order).or_default().push(waiting);
        }
        if deadline_ms > 0 {
            let row = order_key(topic, special, deadline_ms, *offset);
            overlay.put(Table::Deadlines, row, deadline_value(UnixMs(ready_at_ms)));
        }
    }
    for ((flow, priority, instant), waiting) in orders {
        let (priority, instant) = (u8::try_from(priority).unwrap_or(u8::MAX), UnixMs(instant));
        for group in waiting.chunks(SPECIALS_PER_ROW) {
            let key = OrderKey { topic, flow, priority, instant, offset: group[0].offset };
            overlay.put(Table::Scheduled, key.encode(), encode_waiting(group));
        }
    }
}

/// Calls a delayed event off. It stays special, and in the order of readiness: subscriptions have
/// to skip it when they come to it.
pub(crate) fn call_off<K: Kv>(
    machine: &mut Machine<'_, K>,
    topic: TopicId,
    offset: Offset,
    special: &SpecialRecord,
) -> Result<(), Fault> {
    let mut group = specials::group_of(machine.overlay(), topic, offset)?;
    group.iter_mut().filter(|(at, _)| *at == offset).for_each(|(_, s)| s.cancelled = true);
    let (first, row) = specials::encode(&group);
    machine.overlay_mut().put(Table::Specials, specials::row_key(topic, first), row);
    if special.scheduled {
        call_off_order(machine, topic, offset, special)?;
    }
    if let Some(deadline) = special.deadline() {
        let row = order_key(topic, special, deadline.get(), offset);
        machine.overlay_mut().delete(Table::Deadlines, row);
        timers::clear(machine, deadline, Due::Deadline(topic, offset));
    }
    Ok(())
}

fn call_off_order<K: Kv>(
    machine: &mut Machine<'_, K>,
    topic: TopicId,
    offset: Offset,
    special: &SpecialRecord,
) -> Result<(), Fault> {
    let low = order_key(topic, special, special.ready_at_ms, Offset(0));
    let high = order_key(topic, special, special.ready_at_ms, offset.next());
    let mut changed = None;
    machine.overlay().scan(
        Table::Scheduled,
        &low,
        &high,
        Order::Descending,
        &mut |row, value| {
            let mut group = decode_waiting(OrderKey::decode(row)?.offset, value)?;
            group.iter_mut().filter(|w| w.offset == offset).for_each(|w| w.cancelled = true);
            changed = Some((row.to_vec(), encode_waiting(&group)));
            Ok(ControlFlow::Break(()))
        },
    )?;
    if let Some((row, value)) = changed {
        machine.overlay_mut().put(Table::Scheduled, row, value);
    }
    Ok(())
}
