//! Appending events to a topic.
//!
//! Plain events cost one copy of their run, whatever their number. Only what a call or its topic
//! asks for (keys, ids) looks into each event.

use bytes::{Bytes, BytesMut};

use super::against::Against;
use super::batch;
use super::ids::{IdEntry, expiry_key, expiry_value, forget, id_key};
use super::keys;
use super::open_batch::Keyed;
use super::record::{TopicRecord, not_found};
use crate::machine::Fault;
use crate::machine::apply::Machine;
use crate::machine::kv::{Kv, Table};
use crate::machine::producers::{self, Verdict};
use crate::machine::schedule::specials::SpecialRecord;
use crate::machine::schema::judged;
use crate::machine::{schedule, tracking};
use crate::model::command::Publish;
use crate::model::event;
use crate::model::event_run;
use crate::model::ids::{KeyVersion, Offset, Position, TopicId, UnixMs};
use crate::model::limits::DEDUP_IDS_MAX;
use crate::model::outcome::{Outcome, Published, Receipt};
use crate::model::rejection::{Reason, Rejection};

pub(crate) fn apply<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: &Publish,
) -> Result<Outcome, Fault> {
    let Some(topic) = machine.topic(&command.topic)?.cloned() else {
        return Ok(Outcome::Rejected(not_found(&command.topic)));
    };
    if let Some(producer) = &command.producer {
        match producers::judge(machine, producer)? {
            Verdict::New => {}
            Verdict::Answered(answer) => {
                return producers::repeat(machine, answer).map(Outcome::Published);
            }
            Verdict::Refused(rejection) => return Ok(Outcome::Rejected(rejection)),
        }
    }
    let mut against = Against::default();
    check(machine, &topic, command, &mut against)?;
    if let Some(rejection) = against.refusal() {
        return Ok(Outcome::Rejected(rejection));
    }
    let published = write(machine, topic, command)?;
    if let Some(producer) = &command.producer {
        let topic_id = machine.topic(&command.topic)?.map_or(0, |t| t.id);
        producers::record(machine, producer, topic_id, &published)?;
    }
    Ok(Outcome::Published(published))
}

/// What stands against appending, the producer aside.
pub(crate) fn check<K: Kv>(
    machine: &mut Machine<'_, K>,
    topic: &TopicRecord,
    command: &Publish,
    against: &mut Against,
) -> Result<(), Fault> {
    let unfit = match check_size(topic, command) {
        Err(rejection) => Some(rejection),
        Ok(()) => judged::refusal(machine, topic, command)?,
    };
    unfit.into_iter().for_each(|rejection| against.note(rejection));
    against.expect(machine, topic, command)
}

/// Appends what was checked.
pub(crate) fn write<K: Kv>(
    machine: &mut Machine<'_, K>,
    topic: TopicRecord,
    command: &Publish,
) -> Result<Published, Fault> {
    if topic.config.index_ids || topic.config.dedup_window_ms > 0 {
        append_by_id(machine, topic, command)
    } else {
        append(machine, topic, command, command.count, &command.events)
    }
}

fn check_size(topic: &TopicRecord, command: &Publish) -> Result<(), Rejection> {
    let max = topic.config.max_event_bytes;
    if command.largest_event_bytes <= max {
        return Ok(());
    }
    Err(Rejection::new(
        Reason::EventTooLarge,
        format!(
            "an event of {} bytes is over the {max} of topic {}; send less, or raise max_event_bytes",
            command.largest_event_bytes, command.topic
        ),
    )
    .with("topic", &command.topic)
    .with("max_event_bytes", max)
    .with("event_bytes", command.largest_event_bytes))
}

/// Appends a run of events, and their keys where they have some.
fn append<K: Kv>(
    machine: &mut Machine<'_, K>,
    mut topic: TopicRecord,
    command: &Publish,
    count: u32,
    run: &[u8],
) -> Result<Published, Fault> {
    let id = topic.topic_id();
    let first_offset = Offset(topic.next_offset);
    let first_position = machine.next_position();
    let keyed = if command.keyed {
        append_keys(machine, id, first_offset, (count, run))?
    } else {
        Vec::new()
    };
    let specials = if command.special {
        schedule::index::note(machine, id, first_offset, run)?
    } else {
        Vec::new()
    };
    if command.correlated {
        tracking::index::note(machine, id, (first_offset, first_position), run)?;
        topic.correlated = true;
    }
    topic.specials += specials.len() as u64;
    let is_delayed = |(_, special): &&(_, SpecialRecord)| special.ready_at_ms > machine.now().get();
    topic.delays += specials.iter().filter(is_delayed).count() as u64;
    let batch = machine.open_batch(id, &command.topic, first_offset, run.len());
    batch.push(count, run, &keyed);
    batch.specials.extend(specials);
    machine.meta_mut().next_position += u64::from(count);
    topic.next_offset += u64::from(count);
    topic.bytes += run.len() as u64;
    machine.put_topic(&command.topic, topic);
    machine.appended(id);
    let key_versions = keyed.iter().map(|k| k.version).collect();
    Ok(Published { first_offset, first_position, count, key_versions, ..Published::default() })
}

/// Appends the hub's own events, which are plain.
pub(crate) fn append_plain<K: Kv>(
    machine: &mut Machine<'_, K>,
    name: &str,
    topic: TopicRecord,
    events: &[Bytes],
) -> Result<(), Fault> {
    let count = u32::try_from(events.len()).unwrap_or(u32::MAX);
    let command = Publish { topic: name.to_owned(), count, ..Publish::default() };
    append(machine, topic, &command, count, &event_run::encode(events)).map(drop)
}

/// Counts each event's key up and indexes it; one an event, or nothing when no event has a key.
fn append_keys<K: Kv>(
    machine: &mut Machine<'_, K>,
    topic: TopicId,
    first: Offset,
    (count, run): (u32, &[u8]),
) -> Result<Vec<Keyed>, Fault> {
    let mut all = Vec::new();
    let mut offset = first;
    for encoded in event_run::iter(run) {
        let key = event::key_of(encoded?)?;
        let mut keyed = Keyed::default();
        if !key.is_empty() {
            let (before, now) = machine.advance_key(topic, key, offset)?;
            keyed = Keyed { version: now.version, back: before.back_from(offset) };
            let overlay = machine.overlay_mut();
            overlay.put(Table::KeyHeads, keys::head_key(topic, key), now.encode());
            let row = keys::entry_key(topic, key, now.version);
            overlay.put(Table::Keys, row, keys::encode_entry(offset));
        }
        all.push(keyed);
        offset = offset.next();
    }
    if all.len() != count as usize {
        let what = format!("a publish of {} events that says {count}", all.len());
        return Err(Fault::Undecodable(what));
    }
    if all.iter().all(|keyed| keyed.version.get() == 0) {
        all.clear();
    }
    Ok(all)
}

/// Where an event of the call goes.
enum Place {
    New { id_row: Vec<u8>, index: u64 },
    Known(IdEntry),
}

/// Appends the events that are not there yet, by source and id, and indexes them.
fn append_by_id<K: Kv>(
    machine: &mut Machine<'_, K>,
    topic: TopicRecord,
    command: &Publish,
) -> Result<Published, Fault> {
    let (id, now) = (topic.topic_id(), machine.now());
    let (next_offset, next_position) = (Offset(topic.next_offset), machine.next_position());
    let window = topic.config.dedup_window_ms;
    let mut places = Vec::new();
    let mut in_call = std::collections::BTreeMap::new();
    let mut run = BytesMut::with_capacity(command.events.len());
    let mut fresh = 0_u64;
    for encoded in event_run::iter(&command.events) {
        let encoded = encoded?;
        let (source, event_id) = event::identity_of(encoded)?;
        let id_row = id_key(id, source, event_id);
        let known = match in_call.get(&id_row) {
            Some(entry) => Some(*entry),
            None => known_id(machine, &id_row, window, now)?,
        };
        if let Some(entry) = known.filter(|_| window > 0) {
            places.push(Place::Known(entry));
            continue;
        }
        let entry = IdEntry {
            offset: next_offset.plus(fresh),
            position: next_position.plus(fresh),
            recorded_at: now,
        };
        in_call.insert(id_row.clone(), entry);
        event_run::push(&mut run, encoded);
        places.push(Place::New { id_row, index: fresh });
        fresh += 1;
    }
    let count =
        u32::try_from(fresh).map_err(|_| Fault::Undecodable("too many events".to_owned()))?;
    let appended = if count > 0 {
        append(machine, topic, command, count, &run)?
    } else {
        Published {
            first_offset: next_offset,
            first_position: next_position,
            ..Published::default()
        }
    };
    index_ids(machine, command, &places, &appended)?;
    if places.iter().all(|place| matches!(place, Place::New { .. })) {
        return Ok(appended);
    }
    with_receipts(machine, id, &places, &appended)
}

fn known_id<K: Kv>(
    machine: &Machine<'_, K>,
    id_row: &[u8],
    window: u64,
    now: UnixMs,
) -> Result<Option<IdEntry>, Fault> {
    let row = machine.overlay().get(Table::Ids, id_row)?;
    let entry = row.map(|row| IdEntry::decode(&row)).transpose()?;
    Ok(entry.filter(|entry| now.since(entry.recorded_at) < window))
}

fn index_ids<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: &Publish,
    places: &[Place],
    appended: &Published,
) -> Result<(), Fault> {
    let now = machine.now();
    let Some(mut topic) = machine.topic(&command.topic)?.cloned() else { return Ok(()) };
    // An index that is kept for look-ups never forgets; one for repetitions does.
    let expires = !topic.config.index_ids;
    for place in places {
        let Place::New { id_row, index } = place else { continue };
        let entry = IdEntry {
            offset: appended.first_offset.plus(*index),
            position: appended.first_position.plus(*index),
            recorded_at: now,
        };
        let overlay = machine.overlay_mut();
        overlay.put(Table::Ids, id_row.clone(), entry.encode());
        if expires {
            overlay.put(
                Table::IdExpiries,
                expiry_key(topic.topic_id(), now, id_row),
                expiry_value(),
            );
            topic.expiring_ids += 1;
        }
    }
    let surplus = topic.expiring_ids.saturating_sub(DEDUP_IDS_MAX);
    if surplus > 0 {
        let limit = usize::try_from(surplus).unwrap_or(usize::MAX);
        topic.expiring_ids -= forget(machine.overlay_mut(), topic.topic_id(), now, limit)?;
    }
    machine.put_topic(&command.topic, topic);
    Ok(())
}

fn with_receipts<K: Kv>(
    machine: &mut Machine<'_, K>,
    topic: TopicId,
    places: &[Place],
    appended: &Published,
) -> Result<Published, Fault> {
    machine.close_batch();
    let mut receipts = Vec::with_capacity(places.len());
    let mut key_versions = Vec::with_capacity(places.len());
    for place in places {
        let receipt = match place {
            Place::New { index, .. } => Receipt {
                offset: appended.first_offset.plus(*index),
                position: appended.first_position.plus(*index),
                duplicate: false,
            },
            Place::Known(entry) => {
                Receipt { offset: entry.offset, position: entry.position, duplicate: true }
            }
        };
        let stored = batch::stored_at(machine.overlay(), topic, receipt.offset)?;
        key_versions.push(match stored {
            Some(stored) => stored.head()?.version_at(receipt.offset),
            None => KeyVersion(0),
        });
        receipts.push(receipt);
    }
    if key_versions.iter().all(|v| v.get() == 0) {
        key_versions.clear();
    }
    let count = u32::try_from(receipts.len()).unwrap_or(u32::MAX);
    let (first_offset, first_position) =
        receipts.first().map_or((Offset(0), Position(0)), |r| (r.offset, r.position));
    Ok(Published { first_offset, first_position, count, duplicate: false, key_versions, receipts })
}
