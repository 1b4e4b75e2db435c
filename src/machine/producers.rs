//! Producers: calls that are repeated get their first answer.
//!
//! Each producer has one row with its epoch and its recent answers, so that recognising a
//! repetition costs nothing per event. The answers cover `limits::PRODUCER_WINDOW` sequences; the
//! client says below which sequence it has every answer, which keeps the row short. Refused calls
//! leave no trace: repeating one judges it again.

use bytes::Bytes;

use super::Fault;
use super::apply::Machine;
use super::kv::{Kv, Table};
use super::record::{Kind, decode_message, encode_message};
use super::topic::batch;
use crate::model::command::Producer;
use crate::model::ids::{KeyVersion, Offset, Position, TopicId};
use crate::model::limits::PRODUCER_WINDOW;
use crate::model::outcome::{Published, Receipt};
use crate::model::rejection::{Reason, Rejection};

/// A producer as stored.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ProducerRecord {
    #[prost(uint64, tag = "1")]
    epoch: u64,
    /// Sequences below this are not answered any more.
    #[prost(uint64, tag = "2")]
    floor: u64,
    /// In the order of sequences.
    #[prost(message, repeated, tag = "3")]
    answers: Vec<Answer>,
    /// Unix milliseconds.
    #[prost(uint64, tag = "4")]
    used_at_ms: u64,
}

/// The answer to one call.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Answer {
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(uint64, tag = "2")]
    topic_id: u64,
    #[prost(uint64, tag = "3")]
    first_offset: u64,
    #[prost(uint64, tag = "4")]
    first_position: u64,
    #[prost(uint32, tag = "5")]
    count: u32,
    /// Whether versions have to be looked up in the stored events.
    #[prost(bool, tag = "6")]
    keyed: bool,
    /// Offset, position and duplicate (0 or 1) of each event, when the call had duplicates.
    #[prost(uint64, repeated, tag = "7")]
    receipts: Vec<u64>,
}

impl ProducerRecord {
    /// Reads a stored row.
    ///
    /// # Errors
    /// When it is corrupt.
    pub fn decode(row: &[u8]) -> Result<Self, Fault> {
        decode_message(Kind::Producer, row)
    }

    /// The row to store.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        encode_message(Kind::Producer, self)
    }

    /// When it last published, Unix milliseconds.
    #[must_use]
    pub fn used_at_ms(&self) -> u64 {
        self.used_at_ms
    }
}

/// What becomes of a call.
pub(crate) enum Verdict {
    New,
    Answered(Answer),
    Refused(Rejection),
}

/// Whether the state answers a call whatever its events are: it is a repetition, or too late.
///
/// # Errors
/// When the store fails or the row is corrupt.
pub fn is_answered(kv: &impl Kv, call: &Producer) -> Result<bool, Fault> {
    let Some(row) = kv.get(Table::Producers, call.id.as_bytes())? else { return Ok(false) };
    let record = ProducerRecord::decode(&row)?;
    let known = record.answers.iter().any(|answer| answer.sequence == call.sequence);
    Ok(call.epoch < record.epoch
        || (call.epoch == record.epoch && (known || call.sequence < record.floor)))
}

/// Judges a call by its producer's row; changes nothing.
pub(crate) fn judge<K: Kv>(
    machine: &mut Machine<'_, K>,
    call: &Producer,
) -> Result<Verdict, Fault> {
    let Some(record) = machine.producer(&call.id)? else { return Ok(Verdict::New) };
    if call.epoch > record.epoch {
        return Ok(Verdict::New);
    }
    if call.epoch < record.epoch {
        return Ok(Verdict::Refused(
            Rejection::new(
                Reason::ProducerFenced,
                format!(
                    "producer {} has epoch {}, this call has {}; a newer instance took over, stop this one",
                    call.id, record.epoch, call.epoch
                ),
            )
            .with("epoch", record.epoch),
        ));
    }
    if let Ok(at) = record.answers.binary_search_by_key(&call.sequence, |a| a.sequence) {
        return Ok(record.answers.get(at).cloned().map_or(Verdict::New, Verdict::Answered));
    }
    if call.sequence < record.floor {
        return Ok(Verdict::Refused(
            Rejection::new(
                Reason::SequenceExpired,
                format!(
                    "the answer to sequence {} of producer {} is forgotten; read the topic to see whether it was done",
                    call.sequence, call.id
                ),
            )
            .with("floor", record.floor),
        ));
    }
    Ok(Verdict::New)
}

/// Notes the answer to a call that [`judge`] found new.
pub(crate) fn record<K: Kv>(
    machine: &mut Machine<'_, K>,
    call: &Producer,
    topic_id: u64,
    published: &Published,
) -> Result<(), Fault> {
    let now = machine.now().get();
    let record = machine.producer_mut(&call.id)?;
    if call.epoch > record.epoch {
        *record = ProducerRecord { epoch: call.epoch, ..ProducerRecord::default() };
    }
    let answer = Answer {
        sequence: call.sequence,
        topic_id,
        first_offset: published.first_offset.get(),
        first_position: published.first_position.get(),
        count: published.count,
        keyed: !published.key_versions.is_empty(),
        receipts: published
            .receipts
            .iter()
            .flat_map(|r| [r.offset.get(), r.position.get(), u64::from(r.duplicate)])
            .collect(),
    };
    let at = record.answers.partition_point(|a| a.sequence < call.sequence);
    record.answers.insert(at, answer);
    let newest = record.answers.last().map_or(0, |a| a.sequence);
    record.floor =
        record.floor.max(call.acknowledged_below).max((newest + 1).saturating_sub(PRODUCER_WINDOW));
    let floor = record.floor;
    let kept_from = record.answers.partition_point(|a| a.sequence < floor);
    record.answers.drain(..kept_from);
    record.used_at_ms = now;
    Ok(())
}

/// The first answer once more. Key versions come from the stored events, if they are still there.
pub(crate) fn repeat<K: Kv>(
    machine: &mut Machine<'_, K>,
    answer: Answer,
) -> Result<Published, Fault> {
    machine.close_batch();
    let receipts: Vec<Receipt> = answer
        .receipts
        .chunks_exact(3)
        .map(|r| Receipt { offset: Offset(r[0]), position: Position(r[1]), duplicate: r[2] == 1 })
        .collect();
    let mut key_versions = Vec::new();
    if answer.keyed {
        let offsets: Vec<Offset> = if receipts.is_empty() {
            (0..u64::from(answer.count)).map(|n| Offset(answer.first_offset + n)).collect()
        } else {
            receipts.iter().map(|r| r.offset).collect()
        };
        for offset in offsets {
            let stored = batch::stored_at(machine.overlay(), TopicId(answer.topic_id), offset)?;
            key_versions.push(match stored {
                Some(stored) => stored.head()?.version_at(offset),
                None => KeyVersion(0),
            });
        }
    }
    Ok(Published {
        first_offset: Offset(answer.first_offset),
        first_position: Position(answer.first_position),
        count: answer.count,
        duplicate: true,
        key_versions,
        receipts,
    })
}

/// The row of a producer.
#[must_use]
pub fn key(id: &str) -> Vec<u8> {
    id.as_bytes().to_vec()
}

/// Where rows of [`Table::Producers`] are.
pub const TABLE: Table = Table::Producers;
