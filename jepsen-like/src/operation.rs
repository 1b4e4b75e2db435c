//! Operations of clients: what was asked for, and how it ended.

use serde::{Deserialize, Serialize};

use crate::delivered::{Action, Lease, Letter};

/// How fresh a read has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Freshness {
    /// Sees what was acknowledged before it began.
    Linearizable,
    /// Whatever the node has.
    Stale,
    /// Sees everything up to this position, the event there included.
    AtLeast(u64),
}

/// A part of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Append this value to this key.
    Append(u64, u64),
    /// Read all values of this key.
    Read(u64),
}

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "f", rename_all = "snake_case")]
pub enum Op {
    /// Publish an event with this value to the log.
    Publish {
        /// Never published twice.
        value: u64,
    },
    /// Append to a key that must have this version.
    Append {
        /// The key's number.
        key: u64,
        /// The version that the client believes in.
        expect: u64,
        /// Never appended twice.
        value: u64,
    },
    /// Read the newest event of a key, linearizably.
    ReadKey {
        /// The key's number.
        key: u64,
        /// The slot of the node that was asked; 0: any.
        node: u8,
    },
    /// Read the log upwards.
    Read {
        /// The slot of the node that was asked; 0: any.
        node: u8,
        /// The first offset that is wanted.
        from: u64,
        /// The most events that are wanted; 0: all.
        limit: u64,
        /// How fresh.
        freshness: Freshness,
    },
    /// Follow the log; each part is an operation of its own.
    Tail {
        /// The offset that has to come next.
        from: u64,
    },
    /// Take events of a subscription.
    Take {
        /// Its name.
        subscription: String,
        /// Who takes them.
        consumer: u64,
        /// They came by a stream, which renews leases and may have had them for a while already.
        streamed: bool,
    },
    /// End deliveries of one lease.
    Settle {
        /// The subscription's name.
        subscription: String,
        /// Who had them.
        consumer: u64,
        /// The lease's id.
        lease: u64,
        /// How they end.
        action: Action,
        /// Which.
        values: Vec<u64>,
    },
    /// List a subscription's dead letters.
    Letters {
        /// Its name.
        subscription: String,
    },
    /// Register an instance.
    Register {
        /// Its number.
        instance: u64,
    },
    /// Renew an instance.
    Renew {
        /// Its number.
        instance: u64,
        /// Which registration of it.
        incarnation: u64,
    },
    /// Read keys and append to keys, all of it at one instant.
    Transact {
        /// In order; reads see what was appended before them in the same transaction.
        parts: Vec<Part>,
        /// Its appends are staged one by one, and committed.
        staged: bool,
    },
    /// Ask for instances of the fleet to call.
    Resolve {
        /// The slot of the node that was asked.
        node: u8,
    },
    /// Ask for instances of the pair to call, or of the fleet in its place.
    ResolvePair {
        /// The slot of the node that was asked.
        node: u8,
    },
}

/// What the hub answered to an operation that was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "a", rename_all = "snake_case")]
pub enum Answer {
    /// The event is at this place.
    Placed {
        /// In the log.
        offset: u64,
        /// In the hub.
        position: u64,
        /// Of its key.
        version: u64,
    },
    /// Refused, since the key has another version: an observation, too.
    Conflict {
        /// The version that it has.
        actual: u64,
    },
    /// The newest event of a key.
    Head {
        /// Its version; 0: there is none.
        version: u64,
        /// Its value; 0 when there is none.
        value: u64,
    },
    /// Values that follow each other without a gap.
    Events {
        /// The first one's offset.
        first: u64,
        /// In the order of offsets.
        values: Vec<u64>,
        /// There was nothing after them.
        at_end: bool,
    },
    /// Events that a consumer has now.
    Leased {
        /// Empty: nothing was ready.
        leases: Vec<Lease>,
    },
    /// What became of a settlement.
    Settled {
        /// The values that it was done to.
        done: Vec<u64>,
        /// Why it was not done to others; empty: there are none.
        refused: String,
    },
    /// Dead letters.
    Letters {
        /// In the order of their numbers.
        letters: Vec<Letter>,
    },
    /// The instance is registered.
    Registered {
        /// Tells it from earlier registrations.
        incarnation: u64,
    },
    /// The renewal was taken, or came too late.
    Renewed {
        /// It came too late.
        lost: bool,
    },
    /// All of it was done; what each read saw.
    Transacted {
        /// One a read, in order: the values of its key.
        reads: Vec<Vec<u64>>,
    },
    /// Whom to call.
    Resolved {
        /// Their numbers.
        instances: Vec<u64>,
        /// The node said that it does not know better.
        stale: bool,
    },
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "snake_case")]
pub enum End {
    /// Done.
    Ok(Answer),
    /// Certainly not done.
    Fail {
        /// The hub's reason.
        reason: String,
    },
    /// Nobody knows. A timeout is always this.
    Info {
        /// The hub's reason.
        reason: String,
    },
}
