//! Rows of staged transactions.

use bytes::Bytes;

use crate::machine::Fault;
use crate::machine::apply::Machine;
use crate::machine::kv::{Kv, Table};
use crate::machine::record::{Kind, decode_message, encode_message};
use crate::model::ids::{KeyVersion, Offset, Position, TransactionId, UnixMs};
use crate::model::outcome::{Outcome, Published, Receipt};
use crate::model::rejection::{Reason, Rejection};
use crate::model::transaction::{TransactionInfo, TransactionState};

/// A staged transaction as stored.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct TransactionRecord {
    #[prost(string, tag = "1")]
    pub(crate) label: String,
    #[prost(enumeration = "TransactionState", tag = "2")]
    pub(crate) state: i32,
    /// Unix milliseconds, as all of these.
    #[prost(uint64, tag = "3")]
    pub(crate) created_at_ms: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) expires_at_ms: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) ended_at_ms: u64,
    /// Rows in `Staged`.
    #[prost(uint32, tag = "6")]
    pub(crate) stages: u32,
    #[prost(uint32, tag = "7")]
    pub(crate) operations: u32,
    #[prost(uint64, tag = "8")]
    pub(crate) bytes: u64,
    /// Of a committed one.
    #[prost(message, repeated, tag = "9")]
    pub(crate) parts: Vec<CommittedPart>,
}

/// Where the events of one topic went.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct CommittedPart {
    #[prost(string, tag = "1")]
    pub(crate) topic: String,
    #[prost(message, required, tag = "2")]
    pub(crate) part: PartRecord,
}

/// Where the events of one part went.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct PartRecord {
    #[prost(uint64, tag = "1")]
    first_offset: u64,
    #[prost(uint64, tag = "2")]
    first_position: u64,
    #[prost(uint32, tag = "3")]
    count: u32,
    #[prost(uint64, repeated, tag = "4")]
    key_versions: Vec<u64>,
    /// Offset, position and whether it was there already (0 or 1) of each event.
    #[prost(uint64, repeated, tag = "5")]
    receipts: Vec<u64>,
}

impl PartRecord {
    pub(crate) fn of(published: &Published) -> Self {
        let receipts = published.receipts.iter();
        Self {
            first_offset: published.first_offset.get(),
            first_position: published.first_position.get(),
            count: published.count,
            key_versions: published.key_versions.iter().map(|version| version.get()).collect(),
            receipts: receipts
                .flat_map(|r| [r.offset.get(), r.position.get(), u64::from(r.duplicate)])
                .collect(),
        }
    }

    /// As a repetition.
    pub(crate) fn answer(self) -> Published {
        let receipts = self.receipts.chunks_exact(3).map(|r| Receipt {
            offset: Offset(r[0]),
            position: Position(r[1]),
            duplicate: r[2] == 1,
        });
        Published {
            receipts: receipts.collect(),
            first_offset: Offset(self.first_offset),
            first_position: Position(self.first_position),
            count: self.count,
            duplicate: self.count > 0,
            key_versions: self.key_versions.into_iter().map(KeyVersion).collect(),
        }
    }
}

impl TransactionRecord {
    pub(crate) fn decode(row: &[u8]) -> Result<Self, Fault> {
        decode_message(Kind::Transaction, row)
    }

    pub(crate) fn encode(&self) -> Bytes {
        encode_message(Kind::Transaction, self)
    }

    pub(crate) fn info(self, id: TransactionId) -> TransactionInfo {
        TransactionInfo {
            id,
            state: self.state(),
            label: self.label,
            created_at: UnixMs(self.created_at_ms),
            expires_at: UnixMs(self.expires_at_ms),
            ended_at: UnixMs(self.ended_at_ms),
            operations: self.operations,
            bytes: self.bytes,
            parts: self.parts.into_iter().map(|part| (part.topic, part.part.answer())).collect(),
        }
    }
}

/// The key of a row in `Transactions`.
pub(crate) fn row_key(id: TransactionId) -> Vec<u8> {
    id.to_key().to_vec()
}

/// The key of a row in `Staged`.
pub(crate) fn staged_key(id: TransactionId, number: u32) -> Vec<u8> {
    [&id.to_key()[..], &number.to_be_bytes()].concat()
}

pub(crate) fn get(kv: &impl Kv, id: TransactionId) -> Result<Option<TransactionRecord>, Fault> {
    let row = kv.get(Table::Transactions, &row_key(id))?;
    row.map(|row| TransactionRecord::decode(&row)).transpose()
}

pub(crate) fn put<K: Kv>(
    machine: &mut Machine<'_, K>,
    id: TransactionId,
    record: &TransactionRecord,
) {
    machine.overlay_mut().put(Table::Transactions, row_key(id), record.encode());
}

/// The transaction as it stands.
pub(crate) fn outcome(kv: &impl Kv, id: TransactionId) -> Result<Outcome, Fault> {
    Ok(match get(kv, id)? {
        Some(record) => Outcome::Transaction(Box::new(record.info(id))),
        None => Outcome::Rejected(not_found(id)),
    })
}

/// The refusal for a transaction that is not there.
pub(crate) fn not_found(id: TransactionId) -> Rejection {
    let text = format!(
        "transaction {id} does not exist, or ended more than a day ago; list them with: mhub tx ls"
    );
    Rejection::new(Reason::TransactionNotFound, text).with("transaction", id)
}

/// The transaction if it takes more and may be committed; else why not. One whose time is over has expired
/// even before a tick has found it.
pub(crate) fn open<K: Kv>(
    machine: &Machine<'_, K>,
    id: TransactionId,
) -> Result<Result<TransactionRecord, Rejection>, Fault> {
    let Some(record) = get(machine.overlay(), id)? else { return Ok(Err(not_found(id))) };
    let late = record.expires_at_ms <= machine.now().get();
    Ok(match record.state() {
        TransactionState::Open if !late => Ok(record),
        TransactionState::Open | TransactionState::Expired => {
            let text = format!(
                "transaction {id} expired, and nothing of it was done; begin another one, with a longer timeout if need be"
            );
            Err(Rejection::new(Reason::TransactionExpired, text).with("transaction", id))
        }
        state @ (TransactionState::Committed | TransactionState::Aborted) => {
            let state = state.as_str();
            let text = format!("transaction {id} is {state} already; begin another one");
            let refused = Rejection::new(Reason::TransactionEnded, text);
            Err(refused.with("transaction", id).with("state", state))
        }
    })
}
