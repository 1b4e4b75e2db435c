//! Transactions: what belongs together is decided together.

pub(crate) mod transact;
