//! The words of the hub as types. Pure: no I/O, no clock, no async.

pub mod ids;

pub mod event;
pub mod event_run;
pub mod expectation;
pub mod key_snapshot;
pub mod name;
pub mod topic;
pub mod trace;
pub mod transaction;

pub mod delivery;
pub mod filter;
pub mod pattern;
pub mod quota;
pub mod ranges;
pub mod schema;
pub mod schema_rule;
pub mod subscription;

pub mod command;
pub mod outcome;
pub mod registry;
pub mod rejection;

pub mod limits;
pub mod listed;
pub mod planted;
pub mod wire;
