//! Snapshots of keys: (topic id, key) → what the events of the key amount to, up to a version.
//!
//! There is one a key at most: a newer one takes the place of the one before.

use bytes::Bytes;

use super::keys;
use super::record::not_found;
use crate::machine::apply::Machine;
use crate::machine::kv::{Kv, Table};
use crate::machine::record::{Kind, decode_message, encode_message};
use crate::machine::{Fault, requests};
use crate::model::command::{DeleteKeySnapshot, PutKeySnapshot};
use crate::model::ids::{KeyVersion, TopicId, UnixMs};
use crate::model::key_snapshot::KeySnapshot;
use crate::model::outcome::Outcome;
use crate::model::rejection::{Reason, Rejection};

/// A snapshot as stored.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct KeySnapshotRecord {
    #[prost(uint64, tag = "1")]
    version: u64,
    #[prost(string, tag = "2")]
    content_type: String,
    #[prost(bytes = "bytes", tag = "3")]
    data: Bytes,
    /// Unix milliseconds.
    #[prost(uint64, tag = "4")]
    taken_at_ms: u64,
}

pub(crate) fn put<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: PutKeySnapshot,
) -> Result<Outcome, Fault> {
    let PutKeySnapshot { topic: name, key, version, content_type, data, request_id } = command;
    if let Some(first) = requests::first_answer(machine, &request_id)? {
        return Ok(first);
    }
    let Some(topic) = machine.topic(&name)?.map(super::record::TopicRecord::topic_id) else {
        return Ok(Outcome::Rejected(not_found(&name)));
    };
    let newest = machine.key_version(topic, &key)?;
    if version == 0 || version > newest.get() {
        let text = format!(
            "key {key:?} of topic {name} is at version {newest}, a snapshot at {version} is of events that are not there; read the key again"
        );
        let refused = Rejection::new(Reason::VersionNotFound, text);
        let refused = refused.with("topic", name).with("key", key).with("actual", newest);
        return Ok(Outcome::Rejected(refused));
    }
    if let Some(known) = get(machine.overlay(), topic, &key)?
        && known.version.get() > version
    {
        let newer = known.version;
        let text = format!(
            "key {key:?} of topic {name} has a snapshot at version {newer}, which is newer than {version}; leave it"
        );
        let refused = Rejection::new(Reason::SnapshotSuperseded, text);
        let refused = refused.with("topic", name).with("key", key).with("actual", newer);
        return Ok(Outcome::Rejected(refused));
    }
    let taken_at_ms = machine.now().get();
    let record = KeySnapshotRecord { version, content_type, data, taken_at_ms };
    let row = encode_message(Kind::KeySnapshot, &record);
    machine.overlay_mut().put(Table::KeySnapshots, keys::head_key(topic, &key), row);
    requests::remember(machine, request_id, &Outcome::Done);
    Ok(Outcome::Done)
}

/// Deleting what is not there is no error.
pub(crate) fn delete<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: DeleteKeySnapshot,
) -> Result<Outcome, Fault> {
    if let Some(first) = requests::first_answer(machine, &command.request_id)? {
        return Ok(first);
    }
    let Some(topic) = machine.topic(&command.topic)?.map(super::record::TopicRecord::topic_id)
    else {
        return Ok(Outcome::Rejected(not_found(&command.topic)));
    };
    let row = keys::head_key(topic, &command.key);
    machine.overlay_mut().delete(Table::KeySnapshots, row);
    requests::remember(machine, command.request_id, &Outcome::Done);
    Ok(Outcome::Done)
}

/// A key's snapshot.
///
/// # Errors
/// When the store fails or the row is corrupt.
pub fn get(kv: &impl Kv, topic: TopicId, key: &str) -> Result<Option<KeySnapshot>, Fault> {
    let Some(row) = kv.get(Table::KeySnapshots, &keys::head_key(topic, key))? else {
        return Ok(None);
    };
    let record: KeySnapshotRecord = decode_message(Kind::KeySnapshot, &row)?;
    Ok(Some(KeySnapshot {
        version: KeyVersion(record.version),
        content_type: record.content_type,
        data: record.data,
        taken_at: UnixMs(record.taken_at_ms),
    }))
}
