//! What the machine needs of a store: ordered tables of bytes.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::Fault;

/// The tables. Each is a column family of the state database. The order is the order of hashing;
/// names are persisted and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Counters of the machine: one row.
    Meta,
    /// Topic name → topic record.
    Topics,
    /// (topic id, first offset) → batch of events.
    Batches,
    /// First position of a batch → (topic id, first offset).
    Positions,
    /// (topic id, key) → version of the key.
    KeyHeads,
    /// (topic id, key, version) → offset.
    Keys,
    /// (topic id, source, id) → offset, where a topic asks for it.
    Ids,
    /// (topic id, recorded at, source, id) → nothing: what to forget of `Ids`.
    IdExpiries,
    /// Producer id → epoch and recent answers.
    Producers,
    /// Request id → first answer of a mutation.
    Requests,
    /// Node id → incarnation.
    Nodes,
    /// Applied log id and membership, written by the consensus layer in the same batch.
    Raft,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Meta,
        Self::Topics,
        Self::Batches,
        Self::Positions,
        Self::KeyHeads,
        Self::Keys,
        Self::Ids,
        Self::IdExpiries,
        Self::Producers,
        Self::Requests,
        Self::Nodes,
        Self::Raft,
    ];

    /// The persisted name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Topics => "topics",
            Self::Batches => "batches",
            Self::Positions => "positions",
            Self::KeyHeads => "key_heads",
            Self::Keys => "keys",
            Self::Ids => "ids",
            Self::IdExpiries => "id_expiries",
            Self::Producers => "producers",
            Self::Requests => "requests",
            Self::Nodes => "nodes",
            Self::Raft => "raft",
        }
    }
}

/// Which way to walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// From the smallest key.
    Ascending,
    /// From the largest key.
    Descending,
}

/// What a scan calls for each row.
pub type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, Fault> + 'v;

/// Reads from ordered tables.
pub trait Kv {
    /// The value of a key.
    ///
    /// # Errors
    /// When the store fails or its own checksums do.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Fault>;

    /// Visits the rows with `start <= key < end` until the visitor breaks.
    ///
    /// # Errors
    /// When the store fails, or the visitor does.
    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        order: Order,
        visit: &mut Visit<'_>,
    ) -> Result<(), Fault>;
}

/// One change to a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets a row.
    Put(Table, Vec<u8>, Bytes),
    /// Removes a row.
    Delete(Table, Vec<u8>),
    /// Removes the rows with `start <= key < end`. Few and large, never many and small. Applied
    /// before the puts and deletes of the same batch.
    DeleteRange(Table, Vec<u8>, Vec<u8>),
}
