//! Newtypes for every number that could be mistaken for another.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
            serde::Serialize, serde::Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The bare number.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The one after this.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }

            /// This many further on.
            #[must_use]
            pub const fn plus(self, count: u64) -> Self {
                Self(self.0 + count)
            }

            /// How far this lies beyond `earlier`; 0 when it does not.
            #[must_use]
            pub const fn since(self, earlier: Self) -> u64 {
                self.0.saturating_sub(earlier.0)
            }

            /// Big-endian bytes, which sort as the numbers do.
            #[must_use]
            pub const fn to_key(self) -> [u8; 8] {
                self.0.to_be_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<u64> for $name {
            fn from(value: u64) -> Self {
                Self(value)
            }
        }
    };
}

number! {
    /// An event's place in its topic: from 0, without gaps.
    Offset
}
number! {
    /// An event's place in the whole hub's order: from 0, grows with every event.
    Position
}
number! {
    /// How many events of a topic have a key: the first event of a key makes it 1.
    KeyVersion
}
number! {
    /// A server process. Chosen once, never used again after its removal.
    NodeId
}
number! {
    /// A staged transaction's number: never used again.
    TransactionId
}
number! {
    /// A topic's number inside the state machine; a topic that is created anew gets a new one.
    TopicId
}
number! {
    /// The index of an entry in the Raft log.
    LogIndex
}
number! {
    /// Milliseconds since the Unix epoch.
    UnixMs
}
number! {
    /// A subscription's number inside the state machine; one that is created anew gets a new one.
    SubscriptionId
}
number! {
    /// A lease's number within its subscription: from 1, never used again.
    LeaseId
}
number! {
    /// A Raft term: with the lease id, the fencing token of a lease.
    Term
}
number! {
    /// A dead letter's number within its subscription: from 1, in the order of dying.
    DeadNumber
}
