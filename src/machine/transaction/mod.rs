//! Transactions: what belongs together is decided together.
//!
//! In one command (`transact.rs`), or staged: begun, added to, and committed or aborted by commands of
//! their own. What is staged is rows that no reader looks at; a commit joins them into the one command and
//! does it.

pub(crate) mod begin;
pub(crate) mod end;
mod merge;
pub mod query;
pub(crate) mod record;
pub(crate) mod stage;
pub(crate) mod transact;
