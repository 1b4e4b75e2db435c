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
    /// Subscription name → settings.
    Subscriptions,
    /// Subscription id → name, pause, counters.
    SubscriptionStates,
    /// (subscription id, topic id) → where everything below is done.
    Progress,
    /// (subscription id, topic id, offset / 4096) → what is done and leased above that.
    Marks,
    /// (subscription id, lease id) → who has which events until when.
    Leases,
    /// (subscription id, consumer) → events in flight.
    ConsumerLoads,
    /// (subscription id, topic id, offset) → story of an event that failed or was redriven.
    Failures,
    /// (subscription id, fairness key, rank, topic id, offset) → nothing: `Failures` that are due.
    Ready,
    /// (due, kind, what) → nothing.
    Timers,
    /// (subscription id, number) → an event that ended for good.
    DeadLetters,
    /// (topic id, offset) → priority, times and fairness key of an event off the defaults.
    Specials,
    /// (topic id, fairness key, priority, ready at, first offset) → events: order of `Specials`.
    Scheduled,
    /// (topic id, fairness key, priority, deadline, offset) → when it is ready.
    Deadlines,
    /// Service name → limits.
    Quotas,
    /// (topic id, first offset) → how far back the events before are, of a batch with keys.
    Backs,
    /// (topic id, stripe, first offset) → events of one priority of a batch of several.
    Stripes,
    /// Service name → settings, counters, breaker.
    Services,
    /// (service, instance id) → what the instance says of itself, health, breaker.
    Instances,
    /// Number → service and instance that it was given to.
    RegistryNumbers,
    /// Revision → what changed in the registry.
    RegistryLog,
    /// Transaction id → how it stands.
    Transactions,
    /// (transaction id, number) → what was staged in it.
    Staged,
    /// (correlation id, position) → (topic id, offset).
    Correlations,
    /// (subscription id, topic id, offset, number) → nothing: `DeadLetters` by their event.
    DeadPlaces,
    /// (topic id, key) → what the events of the key amount to, up to a version.
    KeySnapshots,
    /// Subject → its settings, and how its versions stand.
    Subjects,
    /// (subject, version) → the schema.
    Schemas,
    /// (subscription id, topic id, offset) → how an event ended of which nothing else tells.
    Endings,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 40] = [
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
        Self::Subscriptions,
        Self::SubscriptionStates,
        Self::Progress,
        Self::Marks,
        Self::Leases,
        Self::ConsumerLoads,
        Self::Failures,
        Self::Ready,
        Self::Timers,
        Self::DeadLetters,
        Self::Specials,
        Self::Scheduled,
        Self::Deadlines,
        Self::Quotas,
        Self::Backs,
        Self::Stripes,
        Self::Services,
        Self::Instances,
        Self::RegistryNumbers,
        Self::RegistryLog,
        Self::Transactions,
        Self::Staged,
        Self::Correlations,
        Self::DeadPlaces,
        Self::KeySnapshots,
        Self::Subjects,
        Self::Schemas,
        Self::Endings,
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
            Self::Subscriptions => "subscriptions",
            Self::SubscriptionStates => "subscription_states",
            Self::Progress => "progress",
            Self::Marks => "marks",
            Self::Leases => "leases",
            Self::ConsumerLoads => "consumer_loads",
            Self::Failures => "failures",
            Self::Ready => "ready",
            Self::Timers => "timers",
            Self::DeadLetters => "dead_letters",
            Self::Specials => "specials",
            Self::Scheduled => "scheduled",
            Self::Deadlines => "deadlines",
            Self::Quotas => "quotas",
            Self::Backs => "backs",
            Self::Stripes => "stripes",
            Self::Services => "services",
            Self::Instances => "instances",
            Self::RegistryNumbers => "registry_numbers",
            Self::RegistryLog => "registry_log",
            Self::Transactions => "transactions",
            Self::Staged => "staged",
            Self::Correlations => "correlations",
            Self::DeadPlaces => "dead_places",
            Self::KeySnapshots => "key_snapshots",
            Self::Subjects => "subjects",
            Self::Schemas => "schemas",
            Self::Endings => "endings",
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

impl Order {
    /// The next of some rows, which are sorted by key.
    pub fn next<Rows: DoubleEndedIterator>(self, rows: &mut Rows) -> Option<Rows::Item> {
        match self {
            Self::Ascending => rows.next(),
            Self::Descending => rows.next_back(),
        }
    }
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
